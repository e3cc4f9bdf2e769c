//! Of several nodes on one database one sends to other servers: its turn lasts until it is gone.

use std::time::Duration;

use futures_util::{FutureExt as _, future::BoxFuture};
use samtal_db::{Lease, params};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{Sender, SenderError, schema, sender::CURSOR};

/// How often a node looks whether the one that sends is gone.
const OTHER: Duration = Duration::from_secs(2);

/// A turn of this node.
struct Held {
    lease: Lease,
    over: CancellationToken,
    /// Stores how far sending came, at the end too.
    saving: JoinHandle<Option<()>>,
}

impl Sender {
    /// Starts sending, on this node or when it is its turn; another node goes on where this one stood.
    pub async fn start(&self) -> Result<(), SenderError> {
        let first = self.take_turn().await?;
        self.inner.engines.tasks.spawn("sender turns", self.clone().take_turns(first));
        Ok(())
    }

    /// The log after this position is still to be sent to somebody, by whichever node sends.
    pub async fn needed_after(&self) -> Result<i64, SenderError> {
        let row = self.inner.engines.db.query_opt(&schema::OUTGOING_LEAST, params![]).await?;
        let stored = row.map(|row| row.opt_int(0)).transpose()?.flatten();
        Ok(self.waiting().into_values().chain(stored).min().unwrap_or(i64::MAX))
    }

    async fn take_turn(&self) -> Result<Option<Held>, SenderError> {
        let Some(lease) = self.inner.engines.db.lease(CURSOR).await? else { return Ok(None) };
        let after = self.restore().await?;
        let (tasks, over) = (&self.inner.engines.tasks, CancellationToken::new());
        let until_over = |task: BoxFuture<'static, ()>| {
            let over = over.clone();
            async move { over.run_until_cancelled(task).await }
        };
        // One follows the log, one typing and presence, one those who did not answer.
        tasks.spawn("sender", until_over(self.clone().follow(after).boxed()));
        tasks.spawn("sender passing", until_over(self.clone().follow_passing().boxed()));
        let saving = tasks.spawn("sender retry", until_over(self.clone().retry().boxed()));
        Ok(Some(Held { lease, over, saving }))
    }

    async fn take_turns(self, mut turn: Option<Held>) {
        let tasks = self.inner.engines.tasks.clone();
        loop {
            if let Some(held) = turn.take() {
                tokio::select! {
                    () = tasks.stopping() => {
                        // The next node begins where this one has stored that it stands.
                        let _ = held.saving.await;
                        return;
                    }
                    () = held.lease.lost() => tracing::warn!("another node may send to other servers now"),
                }
                held.over.cancel();
                self.inner.lanes.lock().clear();
            }
            tokio::select! {
                () = tasks.stopping() => return,
                () = tokio::time::sleep(OTHER) => {}
            }
            turn = self.take_turn().await.unwrap_or_else(|error| {
                tracing::warn!(%error, "whether this node sends to other servers cannot be decided");
                None
            });
        }
    }
}
