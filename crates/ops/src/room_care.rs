//! Looking after rooms: putting everybody out, deleting rooms and old history; and the tasks of the administration, which
//! survive a restart.

use std::{sync::Arc, time::Duration};

use ruma::{
    OwnedEventId, OwnedRoomAliasId, OwnedRoomId, OwnedUserId, RoomId, UserId,
    api::client::room::create_room::v3::RoomPreset,
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
};
use samtal_event::Draft;
use samtal_jobs::{Job, NewJob, State};
use samtal_model::StreamPosition;
use samtal_room::LocalDraft;
use serde::{Deserialize, Serialize};
use serde_json::{Map, json, value::RawValue};

use crate::{
    CreateRoom, Homeserver, OpError,
    member::Content,
    moderation::{Invites, Redaction},
};

/// The jobs' kind.
const KIND: &str = "room_care";
/// The pause after the database failed.
const TROUBLE: Duration = Duration::from_secs(1);

/// A new room for those who are put out of an old one.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Refuge {
    /// Who makes it and speaks in it.
    pub creator: OwnedUserId,
    /// Its name.
    pub name: Option<String>,
    /// The first message.
    pub message: Option<String>,
}

/// A task of the administration.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", tag = "task")]
pub enum RoomTask {
    /// Put everybody of ours out of a room.
    Delete {
        /// Which.
        room_id: OwnedRoomId,
        /// Who wants it.
        by: OwnedUserId,
        /// Whether nobody may come back.
        block: bool,
        /// Whether all that is kept of it is deleted.
        purge: bool,
        /// Where its members are brought.
        refuge: Option<Refuge>,
        /// Whether it is deleted even if somebody could not be put out.
        #[serde(default)]
        force: bool,
    },
    /// Delete what was said in a room before a position of its timeline.
    PurgeHistory {
        /// Which.
        room_id: OwnedRoomId,
        /// Events from here on stay.
        before: i64,
        /// Whether events of this server go too.
        own_too: bool,
    },
    /// Redact what a user wrote.
    RedactUser(Redaction),
    /// Refuse invites that wait.
    RefuseInvites {
        /// Which.
        which: Invites,
        /// Who wants it.
        by: OwnedUserId,
    },
}

/// What became of a room's members.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct ShutDown {
    /// Who was put out.
    pub kicked_users: Vec<OwnedUserId>,
    /// Who could not be put out.
    pub failed_to_kick_users: Vec<OwnedUserId>,
    /// Aliases that went to the new room, or went.
    pub local_aliases: Vec<OwnedRoomAliasId>,
    /// The new room.
    pub new_room_id: Option<OwnedRoomId>,
}

/// A task with where it stands.
#[derive(Clone, Debug)]
pub struct TaskStatus {
    /// Its id.
    pub id: String,
    /// What it does.
    pub task: RoomTask,
    /// Where it stands.
    pub state: State,
    /// What came of it: JSON when it was done, a text when it failed.
    pub outcome: Option<String>,
    /// When it began, in milliseconds since the epoch.
    pub since_ms: i64,
}

impl TaskStatus {
    fn from_job(job: Job) -> Option<Self> {
        let task = serde_json::from_str(&job.body).ok()?;
        Some(Self { task, id: job.id, state: job.state, outcome: job.outcome, since_ms: job.since_ms })
    }
}

impl RoomTask {
    /// What it is about: a room or a user.
    pub fn subject(&self) -> &str {
        match self {
            Self::Delete { room_id, .. } | Self::PurgeHistory { room_id, .. } => room_id.as_str(),
            Self::RedactUser(wish) => wish.user.as_str(),
            Self::RefuseInvites { by, .. } => by.as_str(),
        }
    }

    /// What it does, as tools call it.
    pub fn action(&self) -> &'static str {
        match self {
            Self::Delete { .. } => "shutdown_and_purge_room",
            Self::PurgeHistory { .. } => "purge_history",
            Self::RedactUser(_) => "redact_all_events",
            Self::RefuseInvites { .. } => "refuse_invites",
        }
    }
}

impl Homeserver {
    /// Begins a task in the background. Its id.
    pub async fn begin_room_task(&self, task: &RoomTask) -> Result<String, OpError> {
        let body = serde_json::to_string(task).map_err(|error| OpError::Invalid(error.to_string()))?;
        let due_ms = Some(self.clock.signed_now_ms());
        let owner = task.subject();
        Ok(self.jobs.schedule(NewJob { kind: KIND, owner, once: None, due_ms, body: &body }).await?)
    }

    /// The task with this id.
    pub async fn room_task(&self, id: &str) -> Result<Option<TaskStatus>, OpError> {
        Ok(self.jobs.get(KIND, id).await?.and_then(TaskStatus::from_job))
    }

    /// All tasks, the oldest first: those under way and those that ended of late.
    pub async fn care_tasks(&self) -> Result<Vec<TaskStatus>, OpError> {
        Ok(self.jobs.of_kind(KIND).await?.into_iter().filter_map(TaskStatus::from_job).collect())
    }

    /// The tasks on a room: those under way and those that ended of late.
    pub async fn room_tasks(&self, room_id: &RoomId) -> Result<Vec<TaskStatus>, OpError> {
        let jobs = self.jobs.of_owner(KIND, room_id.as_str()).await?;
        Ok(jobs.into_iter().filter_map(TaskStatus::from_job).collect())
    }

    /// Does the tasks that were begun, for as long as the tenant runs.
    pub(crate) async fn follow_room_tasks(self: Arc<Self>) {
        loop {
            let step = async {
                let due = self.jobs.due(KIND, 1).await?;
                if due.is_empty() {
                    self.jobs.wait(KIND).await?;
                }
                for job in due {
                    let id = job.id.clone();
                    let (state, outcome) = match TaskStatus::from_job(job) {
                        None => (State::Failed, "unreadable".to_owned()),
                        Some(status) => match self.do_room_task(&status.task).await {
                            Ok(outcome) => (State::Done, outcome),
                            // It goes on once the database does.
                            Err(error @ OpError::Storage(_)) => return Err(error),
                            Err(error) => (State::Failed, error.to_string()),
                        },
                    };
                    self.jobs.end(&id, state, Some(&outcome)).await?;
                }
                Ok::<_, OpError>(())
            };
            let step = tokio::select! {
                biased;
                () = self.tasks.stopping() => return,
                step = step => step,
            };
            if let Err(error) = step {
                tracing::error!(error = &error as &dyn std::error::Error, "tasks on rooms wait");
                tokio::select! {
                    biased;
                    () = self.tasks.stopping() => return,
                    () = tokio::time::sleep(TROUBLE) => {}
                }
            }
        }
    }

    /// Does a task at once. What came of it, as JSON.
    pub async fn do_room_task(&self, task: &RoomTask) -> Result<String, OpError> {
        match task {
            RoomTask::RedactUser(wish) => written(&self.redact_user(wish).await?),
            RoomTask::RefuseInvites { which, .. } => written(&self.refuse_invites(which).await?),
            RoomTask::Delete { room_id, by, block, purge, refuge, force } => {
                let done = self.shut_down_room(by, room_id, *block, refuge.as_ref()).await?;
                // Somebody who could not be put out would be left in a room that is not there.
                if *purge && (*force || done.failed_to_kick_users.is_empty()) {
                    self.purge_room(room_id).await?;
                }
                written(&done)
            }
            RoomTask::PurgeHistory { room_id, before, own_too } => {
                let room = self.rooms.room(room_id).await?;
                let gone = self.rooms.purge_history(&room, StreamPosition(*before), *own_too).await?;
                Ok(json!({ "events": gone }).to_string())
            }
        }
    }

    /// Deletes all that is kept of a room that nobody of ours is in.
    pub async fn purge_room(&self, room_id: &RoomId) -> Result<(), OpError> {
        if self.rooms.store().graph.room(room_id).await?.is_none() {
            return Ok(());
        }
        self.rooms.purge(room_id).await?;
        let mut batch = samtal_db::Batch::new();
        samtal_edu::Receipts::delete_room(&mut batch, room_id);
        self.db.commit(batch).await?;
        Ok(())
    }

    /// Puts all users of ours out of a room, and into another if there is to be one.
    pub async fn shut_down_room(
        &self,
        by: &UserId,
        room_id: &RoomId,
        block: bool,
        refuge: Option<&Refuge>,
    ) -> Result<ShutDown, OpError> {
        if block {
            self.rooms.set_blocked(room_id, true, by).await?;
        }
        let mut done = ShutDown::default();
        let Some(room) = self.rooms.store().graph.room(room_id).await? else { return Ok(done) };
        if let Some(refuge) = refuge {
            done.new_room_id = Some(self.make_refuge(refuge).await?);
        }
        use MembershipState::{Invite, Join, Knock};
        let members = self.rooms.store().graph.members(room.nid, &[Join, Invite, Knock]).await?;
        for member in members.into_iter().filter(|member| self.is_local(&member.user_id)) {
            let user = member.user_id;
            match self.part(&user, room_id, Map::new()).await {
                Ok(()) => {
                    if let Some(new_room) = &done.new_room_id
                        && member.membership == Join
                        && refuge.is_some_and(|refuge| refuge.creator != user)
                        && let Err(error) = self.join(&user, new_room, &[], Content::new()).await
                    {
                        tracing::warn!(%error, "somebody could not be brought into the new room");
                    }
                    // The room leaves their list, too.
                    drop(self.rooms.forget(&user, room_id).await);
                    done.kicked_users.push(user);
                }
                Err(error) => {
                    tracing::warn!(%error, "somebody could not be put out of a room");
                    done.failed_to_kick_users.push(user);
                }
            }
        }
        done.local_aliases = self.rooms.aliases(room_id).await?;
        match &done.new_room_id {
            Some(new_room) => self.rooms.move_aliases(room_id, new_room).await?,
            None => {
                for alias in &done.local_aliases {
                    self.rooms.remove_alias(alias).await?;
                }
            }
        }
        self.rooms.set_published(room_id, false).await?;
        Ok(done)
    }

    /// Sends a state event for a user of ours, as the authorization rules let them.
    pub(crate) async fn send_state(
        &self,
        sender: &UserId,
        room_id: &RoomId,
        event_type: &StateEventType,
        state_key: &str,
        content: &RawValue,
    ) -> Result<OwnedEventId, OpError> {
        let draft = Draft::state(event_type, state_key.to_owned(), content)?;
        Ok(self.rooms.send_one(room_id, LocalDraft::new(sender, draft)).await?)
    }

    async fn make_refuge(&self, refuge: &Refuge) -> Result<OwnedRoomId, OpError> {
        let mut wish = CreateRoom::new(refuge.creator.clone());
        wish.preset = Some(RoomPreset::PublicChat);
        wish.name = Some(refuge.name.clone().unwrap_or_else(|| "Content violation notification".to_owned()));
        wish.power_levels.insert("users_default".into(), (-10).into());
        let room_id = self.create_room(wish).await?;
        let message = refuge.message.as_deref().unwrap_or(
            "A room that you were in has been closed by this server's administrators, since it broke the server's rules.",
        );
        let content = json!({ "msgtype": "m.text", "body": message });
        let content =
            serde_json::value::to_raw_value(&content).map_err(|error| OpError::BadContent(error.to_string()))?;
        let draft = Draft::message(TimelineEventType::RoomMessage, &content)?;
        self.rooms.send_one(&room_id, LocalDraft::new(refuge.creator.clone(), draft)).await?;
        Ok(room_id)
    }
}

fn written(outcome: &impl Serialize) -> Result<String, OpError> {
    serde_json::to_string(outcome).map_err(|error| OpError::Invalid(error.to_string()))
}
