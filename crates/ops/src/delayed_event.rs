//! Events that are sent later unless somebody takes them back (MSC4140): how calls notice that a device is gone.

use std::{sync::Arc, time::Duration};

use ruma::{
    OwnedRoomId, OwnedUserId, RoomId, UserId,
    events::{StateEventType, TimelineEventType},
};
use samtal_event::Draft;
use samtal_jobs::{Job, NewJob, State};
use samtal_kit::signed_ms;
use samtal_room::LocalDraft;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{Homeserver, OpError};

/// The jobs' kind.
const KIND: &str = "delayed_event";
/// Longest delay, in milliseconds: a day.
pub const DELAY_MS_MAX: u64 = 24 * 3_600_000;
/// Most events of one user that wait.
pub const SCHEDULED_MAX: i64 = 100;
/// Events sent in one go.
const DUE_MAX: usize = 100;
/// The pause after the database failed.
const TROUBLE: Duration = Duration::from_secs(1);

/// An event to be sent later.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct DelayedEvent {
    /// Where.
    pub room_id: OwnedRoomId,
    /// Its type.
    #[serde(rename = "type")]
    pub event_type: String,
    /// Its state key, for a state event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_key: Option<String>,
    /// Its content.
    pub content: Box<RawValue>,
    /// How long it waits, in milliseconds.
    pub delay: u64,
    /// For how long it is sticky once it is sent, in milliseconds (MSC4354).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticky_ms: Option<i64>,
    /// Where the log stood when it was scheduled.
    #[serde(default)]
    pub position: i64,
}

/// A delayed event with what has become of it.
#[derive(Clone, Debug)]
pub struct Scheduled {
    /// Its id, which also is the right to act on it.
    pub delay_id: String,
    /// Whose it is.
    pub owner: String,
    /// What is sent.
    pub event: DelayedEvent,
    /// Since when it waits, in milliseconds since the epoch.
    pub since_ms: i64,
    /// Where it stands.
    pub state: State,
    /// When it ended, in milliseconds since the epoch.
    pub ended_ms: Option<i64>,
    /// The event's id when it was sent; why not when it was not.
    pub outcome: Option<String>,
}

/// What can be done to a delayed event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DelayedAction {
    /// It is not sent.
    Cancel,
    /// It waits from the beginning again.
    Restart,
    /// It is sent at once.
    Send,
}

/// A draft that is sticky for `duration_ms` milliseconds (MSC4354).
pub fn sticky(draft: Draft, duration_ms: i64) -> Result<Draft, OpError> {
    let sticky = format!("{{\"duration_ms\":{duration_ms}}}");
    draft.with_field("msc4354_sticky", &sticky).map_err(OpError::from)
}

impl Scheduled {
    fn from_job(job: Job) -> Option<Self> {
        let event = serde_json::from_str(&job.body).ok()?;
        Some(Self {
            delay_id: job.id,
            owner: job.owner,
            event,
            since_ms: job.since_ms,
            state: job.state,
            ended_ms: job.ended_ms,
            outcome: job.outcome,
        })
    }
}

impl Homeserver {
    /// Schedules an event, whose content the caller has checked. `once` names the request, so that repeating it does nothing.
    pub async fn schedule_event(
        &self,
        owner: &UserId,
        mut event: DelayedEvent,
        once: Option<&str>,
    ) -> Result<String, OpError> {
        if !self.rooms.store().graph.is_joined(owner, &event.room_id).await? {
            return Err(OpError::Forbidden("you are not in the room".into()));
        }
        event.position = self.db.position();
        let now = self.clock.signed_now_ms();
        let due_ms = Some(now.saturating_add(signed_ms(event.delay)));
        let body = serde_json::to_string(&event).map_err(|error| OpError::BadContent(error.to_string()))?;
        let job = NewJob { kind: KIND, owner: owner.as_str(), once, due_ms, body: &body };
        Ok(self.jobs.schedule(job).await?)
    }

    /// How many delayed events of the user wait.
    pub async fn scheduled_count(&self, owner: &UserId) -> Result<i64, OpError> {
        Ok(self.jobs.waiting(KIND, owner.as_str()).await?)
    }

    /// The user's delayed events: those that wait and those that ended of late.
    pub async fn scheduled_events(&self, owner: &UserId) -> Result<Vec<Scheduled>, OpError> {
        let jobs = self.jobs.of_owner(KIND, owner.as_str()).await?;
        Ok(jobs.into_iter().filter_map(Scheduled::from_job).collect())
    }

    /// The delayed event with this id.
    pub async fn scheduled_event(&self, delay_id: &str) -> Result<Option<Scheduled>, OpError> {
        Ok(self.jobs.get(KIND, delay_id).await?.and_then(Scheduled::from_job))
    }

    /// Acts on a delayed event that still waits. Knowing its id is enough.
    pub async fn act_on_scheduled(&self, delay_id: &str, action: DelayedAction) -> Result<(), OpError> {
        let missing = || OpError::NotFound("there is no such delayed event".into());
        let found = self.scheduled_event(delay_id).await?.filter(|found| found.state == State::Waiting);
        let found = found.ok_or_else(missing)?;
        let was_waiting = match action {
            DelayedAction::Cancel => self.jobs.end(delay_id, State::Cancelled, None).await?,
            DelayedAction::Restart => {
                let now = self.clock.signed_now_ms();
                let delay = signed_ms(found.event.delay);
                self.jobs.put_off(delay_id, now.saturating_add(delay)).await?
            }
            DelayedAction::Send => {
                self.send_scheduled(found).await?;
                true
            }
        };
        if was_waiting { Ok(()) } else { Err(missing()) }
    }

    /// Sends what is due, for as long as the tenant runs.
    pub(crate) async fn follow_delayed_events(self: Arc<Self>) {
        loop {
            let step = async {
                let due = self.jobs.due(KIND, DUE_MAX).await?;
                if due.is_empty() {
                    self.jobs.wait(KIND).await?;
                }
                for job in due {
                    let id = job.id.clone();
                    match Scheduled::from_job(job) {
                        // Its failure is stored with it.
                        Some(found) => drop(self.send_scheduled(found).await),
                        None => drop(self.jobs.end(&id, State::Failed, Some("unreadable")).await?),
                    }
                }
                Ok::<_, OpError>(())
            };
            let step = tokio::select! {
                biased;
                () = self.tasks.stopping() => return,
                step = step => step,
            };
            if let Err(error) = step {
                tracing::error!(error = &error as &dyn std::error::Error, "delayed events wait");
                tokio::select! {
                    biased;
                    () = self.tasks.stopping() => return,
                    () = tokio::time::sleep(TROUBLE) => {}
                }
            }
        }
    }

    /// Sends one and stores what came of it. Doing it again after a crash sends nothing twice.
    async fn send_scheduled(&self, found: Scheduled) -> Result<(), OpError> {
        let sent = self.send_delayed(&found).await;
        let (state, outcome) = match &sent {
            Ok(Some(event_id)) => (State::Done, Some(event_id.clone())),
            Ok(None) => (State::Cancelled, None),
            // A full queue or a database that fails: it stays due.
            Err(OpError::Storage(_) | OpError::Room(samtal_room::RoomError::Busy)) => return sent.map(|_| ()),
            Err(error) => (State::Failed, Some(error.to_string())),
        };
        self.jobs.end(&found.delay_id, state, outcome.as_deref()).await?;
        sent.map(|_| ())
    }

    /// The sent event's id; nothing when somebody else has set the state in the meantime.
    async fn send_delayed(&self, found: &Scheduled) -> Result<Option<String>, OpError> {
        let event = &found.event;
        let owner = OwnedUserId::try_from(found.owner.as_str()).map_err(|error| OpError::Invalid(error.to_string()))?;
        let draft = match &event.state_key {
            None if event.event_type == "m.room.redaction" => {
                return Err(OpError::Invalid("redactions cannot be delayed".into()));
            }
            None => Draft::message(TimelineEventType::from(event.event_type.as_str()), &event.content)?,
            Some(key) => {
                if self.overtaken(&event.room_id, &owner, event, key).await? {
                    return Ok(None);
                }
                if event.event_type == "m.room.member" {
                    let target = UserId::parse(key).map_err(|error| OpError::Invalid(error.to_string()))?;
                    let content = serde_json::from_str(event.content.get());
                    let content = content.map_err(|error| OpError::BadContent(error.to_string()))?;
                    return Ok(Some(self.set_member(&owner, &target, &event.room_id, content).await?.to_string()));
                }
                Draft::state(&StateEventType::from(event.event_type.as_str()), key.clone(), &event.content)?
            }
        };
        let draft = match event.sticky_ms {
            Some(duration_ms) => sticky(draft, duration_ms)?,
            None => draft,
        };
        let mut draft = LocalDraft::new(owner, draft);
        draft.txn = Some(format!("{}||delayed|{}", found.owner, found.delay_id));
        Ok(Some(self.rooms.send_one(&event.room_id, draft).await?.to_string()))
    }

    /// Whether somebody else has set the state since the event was scheduled.
    async fn overtaken(
        &self,
        room_id: &RoomId,
        owner: &UserId,
        event: &DelayedEvent,
        state_key: &str,
    ) -> Result<bool, OpError> {
        let now = self.rooms.current_state(room_id, &event.event_type, state_key).await?;
        Ok(now.is_some_and(|now| {
            now.pdu.sender() != owner && now.position.is_some_and(|position| position.0 > event.position)
        }))
    }
}
