//! What is done in all rooms of a user, however many: telling them of a changed profile, leaving them. Stored jobs: what a crash
//! breaks off goes on when the tenant is opened again.
//!
//! Whoever begins a task also does it, at once; the job is there for the case that they cannot finish. Doing one twice changes nothing.

use std::{sync::Arc, time::Duration};

use ruma::{OwnedUserId, UserId};
use samtal_jobs::{NewJob, State};
use samtal_kit::signed_ms;
use serde::{Deserialize, Serialize};

use crate::{Homeserver, OpError};

/// The jobs' kind.
const KIND: &str = "member_task";
/// How long whoever has begun a task has before another takes it up, in milliseconds.
const OWN_TIME_MS: u64 = 15 * 60_000;
/// Tasks taken up in one go.
const DUE_MAX: usize = 20;
/// The pause after the database failed.
const TROUBLE: Duration = Duration::from_secs(1);

/// A task in all rooms of a user.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "task")]
pub enum MemberTask {
    /// Make their member events say what their profile says.
    TellRooms {
        /// Who.
        user: OwnedUserId,
    },
    /// Leave everything, since the account is gone.
    LeaveEverything {
        /// Who.
        user: OwnedUserId,
    },
}

impl MemberTask {
    fn user(&self) -> &UserId {
        match self {
            Self::TellRooms { user } | Self::LeaveEverything { user } => user,
        }
    }
}

impl Homeserver {
    /// Stores a task that the caller is about to do.
    pub async fn store_member_task(&self, task: &MemberTask) -> Result<String, OpError> {
        let body = serde_json::to_string(task).map_err(|error| OpError::Invalid(error.to_string()))?;
        let due_ms = Some(signed_ms(self.clock.now_ms().saturating_add(OWN_TIME_MS)));
        let owner = task.user().as_str();
        Ok(self.jobs.schedule(NewJob { kind: KIND, owner, once: None, due_ms, body: &body }).await?)
    }

    /// Does a stored task and notes that it is done.
    pub(crate) async fn finish_member_task(self: Arc<Self>, id: String, task: MemberTask) -> Result<(), OpError> {
        let done = self.do_member_task(task).await;
        let (state, outcome) = match &done {
            // A database that fails: the job stays, for later.
            Err(OpError::Storage(_)) => return done,
            Err(error) => (State::Failed, Some(error.to_string())),
            Ok(()) => (State::Done, None),
        };
        self.jobs.end(&id, state, outcome.as_deref()).await?;
        done
    }

    async fn do_member_task(self: &Arc<Self>, task: MemberTask) -> Result<(), OpError> {
        match task {
            MemberTask::TellRooms { user } => self.tell_rooms(user).await,
            MemberTask::LeaveEverything { user } => {
                // A task can be older than the decision it was stored for.
                match self.accounts.user(&user).await? {
                    Some(known) if !known.deactivated => Ok(()),
                    _ => self.leave_everything(user).await,
                }
            }
        }
    }

    /// Takes up what others, or this process in an earlier life, have left; for as long as the tenant runs.
    pub(crate) async fn follow_member_tasks(self: Arc<Self>) {
        let mut first = true;
        loop {
            let step = async {
                if first && !self.db.is_postgres() {
                    // Nobody else could be at them.
                    self.jobs.hasten(KIND).await?;
                }
                first = false;
                let due = self.jobs.due(KIND, DUE_MAX).await?;
                if due.is_empty() {
                    self.jobs.wait(KIND).await?;
                }
                for job in due {
                    match serde_json::from_str(&job.body) {
                        Ok(task) => Arc::clone(&self).finish_member_task(job.id, task).await?,
                        Err(_) => drop(self.jobs.end(&job.id, State::Failed, Some("unreadable")).await?),
                    }
                }
                Ok::<_, OpError>(())
            };
            let step = tokio::select! {
                () = self.tasks.stopping() => return,
                step = step => step,
            };
            if let Err(error) = step {
                tracing::error!(error = &error as &dyn std::error::Error, "tasks in users' rooms wait");
                tokio::select! {
                    () = self.tasks.stopping() => return,
                    () = tokio::time::sleep(TROUBLE) => {}
                }
            }
        }
    }
}
