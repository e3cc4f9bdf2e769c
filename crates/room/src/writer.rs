//! The queue of each room: what waits is appended in turns, one write batch a turn.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId, events::room::member::MembershipState};
use samtal_event::Pdu;
use samtal_state::SnapshotId;
use tokio::sync::oneshot;

use crate::{
    Rooms,
    error::RoomError,
    graph::Room,
    head::Head,
    ingest::{Ingested, Placement},
    join::Adoption,
    local::{Appended, LocalDraft},
    turn::Turn,
};

/// Jobs that may wait for one room.
const WAITING_MAX: usize = 4_096;
/// What a queue weighs without the head of its room.
const QUEUE_BYTES: usize = 400;
/// Jobs of one turn.
const TURN_MAX: usize = 64;
/// How often a turn is tried again when other nodes were faster.
const TRIES: usize = 8;
/// How long a room is left alone before the state of its forward extremities is worked out, if they end in very many states: for each
/// of those states, and at most.
const SETTLE_EACH: Duration = Duration::from_millis(1);
const SETTLE_MAX: Duration = Duration::from_secs(10);

/// What must hold at the head for a job to be tried.
#[derive(Clone, Debug)]
pub struct Expected {
    /// Whose membership.
    pub user: OwnedUserId,
    /// It must be one of these (`Leave` stands for no membership too).
    pub memberships: Vec<MembershipState>,
    /// What the asker is told otherwise.
    pub otherwise: String,
}

/// What is to be done at the head of a room.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    /// Events of local users: all or none.
    Local { drafts: Vec<LocalDraft>, expected: Option<Expected> },
    /// An event from elsewhere that is ready to be placed.
    Remote(Box<Placement>),
    /// The state from which we begin to take part in the room.
    Adopt(Box<Adoption>),
    /// State that has arrived later, in place of the partial one.
    Complete(Box<Adoption>),
    /// The state that many forward extremities come to, which was left for later.
    Settle,
    /// Older history with the state before each event, oldest first.
    History(Vec<(Pdu, Option<SnapshotId>)>),
}

/// What became of it.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Appended(Vec<Appended>),
    Ingested(Ingested),
    Inserted(usize),
    Done,
}

struct Job {
    work: Work,
    answer: oneshot::Sender<Result<Outcome, RoomError>>,
}

/// One room's queue. Whoever puts the first job in starts the task that works it off.
#[derive(Default)]
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    /// The head as the last turn left it; only the running task touches it.
    head: tokio::sync::Mutex<Option<Head>>,
    /// A task waits until the room has been quiet.
    settles_later: AtomicBool,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    is_running: bool,
}

/// Held by the task that works a queue off. If that ends before its time (aborted, or by a panic), whoever waits hears of it, and the
/// next job starts another.
struct Running(Option<Arc<Queue>>);

impl Drop for Running {
    fn drop(&mut self) {
        let Some(queue) = &self.0 else { return };
        let mut waiting = queue.waiting.lock();
        waiting.is_running = false;
        // Dropped only when the lock is free again: their answers wake others.
        let jobs = std::mem::take(&mut waiting.jobs);
        drop(waiting);
        drop(jobs);
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Queue")
    }
}

impl Rooms {
    /// Sends events of local users: all of them or none, in this order.
    pub async fn send(&self, room_id: &RoomId, drafts: Vec<LocalDraft>) -> Result<Vec<Appended>, RoomError> {
        self.send_if(room_id, drafts, None).await
    }

    /// As [`Rooms::send`], if a membership is as expected when their turn comes.
    pub async fn send_if(
        &self,
        room_id: &RoomId,
        drafts: Vec<LocalDraft>,
        expected: Option<Expected>,
    ) -> Result<Vec<Appended>, RoomError> {
        let again = self.inner.policy_source.get().map(|_| (drafts.clone(), expected.clone()));
        let outcome = match (self.submit(room_id, Work::Local { drafts, expected }).await, again) {
            (Err(RoomError::NotAsked), Some((drafts, expected))) => {
                return self.send_recommended(room_id, drafts, expected).await;
            }
            (outcome, _) => outcome?,
        };
        match outcome {
            Outcome::Appended(appended) => Ok(appended),
            Outcome::Ingested(_) | Outcome::Inserted(_) | Outcome::Done => Ok(Vec::new()),
        }
    }

    /// Sends one event of a local user.
    pub async fn send_one(&self, room_id: &RoomId, draft: LocalDraft) -> Result<OwnedEventId, RoomError> {
        let appended = self.send(room_id, vec![draft]).await?;
        appended.into_iter().next().map(|appended| appended.event_id).ok_or(RoomError::Busy)
    }

    /// Queues work for a room and waits until it is durable. Once queued it is done even if the caller goes away.
    pub(crate) async fn submit(&self, room_id: &RoomId, work: Work) -> Result<Outcome, RoomError> {
        self.submit_all(room_id, vec![work]).await?.pop().unwrap_or(Err(RoomError::Busy))
    }

    /// As [`Self::submit`], of several: they follow each other, as a rule in one write.
    pub(crate) async fn submit_all(
        &self,
        room_id: &RoomId,
        work: Vec<Work>,
    ) -> Result<Vec<Result<Outcome, RoomError>>, RoomError> {
        let room = self.inner.store.graph.room(room_id).await?.ok_or(RoomError::UnknownRoom)?;
        let queue = self.queue(&room.room_id);
        let mut answers = Vec::with_capacity(work.len());
        {
            let mut waiting = queue.waiting.lock();
            if waiting.jobs.len() + work.len() > WAITING_MAX {
                return Err(RoomError::Busy);
            }
            for work in work {
                let (answer, answered) = oneshot::channel();
                waiting.jobs.push_back(Job { work, answer });
                answers.push(answered);
            }
            if !waiting.is_running && !waiting.jobs.is_empty() {
                waiting.is_running = true;
                let rooms = self.clone();
                self.inner.tasks.spawn("room", rooms.work_off(room, Arc::clone(&queue)));
            }
        }
        let mut outcomes = Vec::with_capacity(answers.len());
        for answered in answers {
            outcomes.push(answered.await.unwrap_or(Err(RoomError::Busy)));
        }
        Ok(outcomes)
    }

    fn queue(&self, room_id: &OwnedRoomId) -> Arc<Queue> {
        self.inner.queues.get_or_put(room_id, || (Arc::default(), QUEUE_BYTES))
    }

    async fn work_off(self, room: Arc<Room>, queue: Arc<Queue>) {
        let mut running = Running(Some(Arc::clone(&queue)));
        let mut held = queue.head.lock().await;
        loop {
            let jobs: Vec<Job> = {
                let mut waiting = queue.waiting.lock();
                if waiting.jobs.is_empty() {
                    waiting.is_running = false;
                    running.0 = None;
                    drop(waiting);
                    let head_bytes = held.as_ref().map_or(0, Head::weight);
                    self.inner.queues.resize(&room.room_id, QUEUE_BYTES + head_bytes);
                    if let Some(states) = held.as_ref().and_then(|head| head.extremities.unsettled_states()) {
                        self.settle_later(room, Arc::clone(&queue), states);
                    }
                    return;
                }
                let count = waiting.jobs.len().min(TURN_MAX);
                waiting.jobs.drain(..count).collect()
            };
            // Many nodes may write to the room: what this one remembers is only a guess, checked at commit.
            let head = held.take();
            match self.turn(&room, head, &jobs).await {
                Ok((head, outcomes)) => {
                    *held = head;
                    for (job, outcome) in jobs.into_iter().zip(outcomes) {
                        let _ = job.answer.send(outcome);
                    }
                }
                Err(error) => {
                    tracing::error!(room = %room.room_id, %error, "a turn failed");
                    for job in jobs {
                        let _ = job.answer.send(Err(again(&error)));
                    }
                }
            }
        }
    }

    /// A room whose state was left for later is worked out when it has been quiet, and for no more than a part of the time.
    fn settle_later(&self, room: Arc<Room>, queue: Arc<Queue>, states: usize) {
        if queue.settles_later.swap(true, Ordering::SeqCst) {
            return;
        }
        let pause = SETTLE_EACH.saturating_mul(states.try_into().unwrap_or(u32::MAX)).min(SETTLE_MAX);
        let (rooms, stop) = (self.clone(), self.inner.tasks.token());
        self.inner.tasks.spawn("settle", async move {
            let is_time = stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some();
            queue.settles_later.store(false, Ordering::SeqCst);
            if is_time {
                // Who comes later finds it noted.
                let _ = rooms.submit(&room.room_id, Work::Settle).await;
            }
        });
    }

    async fn turn(
        &self,
        room: &Arc<Room>,
        mut head: Option<Head>,
        jobs: &[Job],
    ) -> Result<(Option<Head>, Vec<Result<Outcome, RoomError>>), RoomError> {
        let store = &self.inner.store;
        // A job that fails half-way is rare: marks to go back to are set only when one has.
        let mut is_careful = false;
        for tried in 0..TRIES {
            let current = match head.take() {
                Some(head) => head,
                None => Head::read(store, Arc::clone(room)).await?.unwrap_or_else(|| Head::new(Arc::clone(room))),
            };
            let mut turn = Turn::new(store, self.author(), current);
            turn.retried = tried > 0;
            let mut outcomes = Vec::with_capacity(jobs.len());
            let mut is_broken = false;
            for job in jobs {
                let mark = is_careful.then(|| turn.mark());
                let written = turn.written();
                let outcome = self.attempt(&mut turn, &job.work).await;
                let has_failed = outcome.is_err() && turn.written() != written;
                outcomes.push(outcome);
                match mark {
                    Some(mark) if has_failed => turn.back_to(mark),
                    None if has_failed => {
                        is_broken = true;
                        break;
                    }
                    _ => {}
                }
            }
            if is_broken {
                is_careful = true;
                continue;
            }
            turn.settle_if_due().await?;
            if turn.is_empty() {
                return Ok(((turn.head.turn > 0).then_some(turn.head), outcomes));
            }
            match turn.commit().await {
                Ok((head, _)) => return Ok((Some(head), outcomes)),
                Err(RoomError::Storage(error)) if error.is_conflict() => {
                    tracing::debug!(room = %room.room_id, %error, "another node was faster");
                }
                Err(error) => return Err(error),
            }
        }
        Err(RoomError::Busy)
    }

    async fn attempt(&self, turn: &mut Turn<'_>, work: &Work) -> Result<Outcome, RoomError> {
        match work {
            Work::Local { drafts, expected } => {
                if turn.head.auth.is_none() {
                    return Err(RoomError::UnknownRoom);
                }
                if let Some(expected) = expected {
                    expect(turn, expected).await?;
                }
                let mut appended = Vec::with_capacity(drafts.len());
                for draft in drafts {
                    appended.push(turn.append_local(draft).await?);
                }
                Ok(Outcome::Appended(appended))
            }
            Work::Remote(placement) => turn.append_remote(placement).await.map(Outcome::Ingested),
            Work::Adopt(adoption) => turn.adopt(adoption).await.map(|()| Outcome::Done),
            Work::Settle => turn.settle_if_unsettled().await.map(|()| Outcome::Done),
            Work::Complete(adoption) => turn.complete(adoption).await.map(|()| Outcome::Done),
            Work::History(events) => turn.insert_history(events).await.map(Outcome::Inserted),
        }
    }
}

async fn expect(turn: &mut Turn<'_>, expected: &Expected) -> Result<(), RoomError> {
    let user: &UserId = &expected.user;
    let membership = turn.membership(user).await?.unwrap_or(MembershipState::Leave);
    if expected.memberships.contains(&membership) {
        Ok(())
    } else {
        Err(RoomError::Forbidden(expected.otherwise.clone()))
    }
}

/// The error once more, for another job of the same turn.
fn again(error: &RoomError) -> RoomError {
    match error {
        RoomError::Storage(samtal_db::DbError::Full) => RoomError::Storage(samtal_db::DbError::Full),
        RoomError::Storage(passing) if passing.is_passing() => RoomError::Busy,
        RoomError::Storage(other) => RoomError::Damaged(other.to_string()),
        RoomError::Damaged(what) => RoomError::Damaged(what.clone()),
        _ => RoomError::Busy,
    }
}
