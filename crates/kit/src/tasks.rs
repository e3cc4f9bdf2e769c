//! Background tasks in groups that end in order.

use std::{future::Future, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

/// A group of tasks that is awaited at shutdown: softly first (they are asked to finish), then hard (they are dropped).
/// Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    handles: Arc<Mutex<Vec<tokio::task::AbortHandle>>>,
}

/// Handles that are added, at least, before those of ended tasks are dropped: each holds on to the memory that its task had.
const ENDED_MAX: usize = 32;

impl Tasks {
    /// An empty group.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a task named `name`. It should watch [`Tasks::stopping`] when it runs for long.
    pub fn spawn<F>(&self, name: &'static str, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        #[expect(clippy::disallowed_methods, reason = "the one place that starts tasks")]
        let handle = tokio::spawn(self.tracker.track_future(task.instrument(tracing::debug_span!("task", name))));
        let mut handles = self.handles.lock();
        if handles.len() == handles.capacity() {
            handles.retain(|handle| !handle.is_finished());
            let more = handles.len().max(ENDED_MAX);
            handles.shrink_to_fit();
            handles.reserve_exact(more);
        }
        handles.push(handle.abort_handle());
        handle
    }

    /// Ready once the group has been asked to finish.
    pub async fn stopping(&self) {
        self.stop.cancelled().await;
    }

    /// Whether the group has been asked to finish.
    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// A token that is cancelled when the group is asked to finish.
    pub fn token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Asks all tasks to finish, waits for `soft`, then drops those that still run. Returns how many were dropped.
    pub async fn shut_down(&self, soft: Duration) -> usize {
        self.stop.cancel();
        self.tracker.close();
        if tokio::time::timeout(soft, self.tracker.wait()).await.is_ok() {
            return 0;
        }
        let left = self.tracker.len();
        for handle in self.handles.lock().drain(..) {
            handle.abort();
        }
        self.tracker.wait().await;
        left
    }
}
