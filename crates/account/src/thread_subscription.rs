//! Which threads a user wants to be told of (MSC4306, MSC4308).
//!
//! A row stays when a user unsubscribes: it says since when they know what happened in the thread, so that a device which
//! slept meanwhile does not subscribe them again for the sake of something older.

use ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId, UserId};
use samtal_db::{Batch, Change, Row, Sql, params, sql};
use samtal_model::ChangeKind;

use crate::{AccountError, Accounts};

/// Most threads of one user that are remembered.
const THREADS_MAX: i64 = 20_000;

const THREAD: Sql = sql!(
    "SELECT room_id, root, automatic, position FROM account_thread WHERE user_id = $1 AND room_id = $2 AND root = $3"
);
const THREADS_BACK: Sql = sql!(
    "SELECT room_id, root, automatic, position FROM account_thread
     WHERE user_id = $1 AND position > $2 AND position <= $3 ORDER BY position DESC LIMIT $4"
);
const THREAD_COUNT: Sql = sql!("SELECT COUNT(*) FROM account_thread WHERE user_id = $1");
const THREAD_INSERT: Sql =
    sql!("INSERT INTO account_thread (user_id, room_id, root, automatic, position) VALUES ($1, $2, $3, $4, $5)");
const THREAD_UPDATE: Sql = sql!(
    "UPDATE account_thread SET automatic = $1, position = $2
     WHERE user_id = $3 AND room_id = $4 AND root = $5 AND position = $6"
);

/// How a user stands to a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThreadState {
    /// Subscribed by the user's own doing.
    Manual,
    /// Subscribed by a client, because the user was mentioned.
    Automatic,
    /// No longer subscribed.
    Unsubscribed,
}

impl ThreadState {
    /// Whether the user is subscribed.
    pub fn is_subscribed(self) -> bool {
        self != Self::Unsubscribed
    }

    /// As it is stored; nothing for what is not subscribed.
    fn code(self) -> Option<i64> {
        match self {
            Self::Manual => Some(0),
            Self::Automatic => Some(1),
            Self::Unsubscribed => None,
        }
    }
}

/// A thread that a user has subscribed to at some time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadSubscription {
    /// The room.
    pub room_id: OwnedRoomId,
    /// The thread's first event.
    pub root: OwnedEventId,
    /// How the user stands to it.
    pub state: ThreadState,
    /// When that last changed, as a position of the change log.
    pub position: i64,
}

impl ThreadSubscription {
    fn from_row(row: &Row) -> Result<Self, AccountError> {
        let corrupt = || AccountError::Corrupt("thread subscription", None);
        Ok(Self {
            room_id: row.text(0)?.try_into().map_err(|_| corrupt())?,
            root: row.text(1)?.try_into().map_err(|_| corrupt())?,
            state: match row.opt_int(2)? {
                None => ThreadState::Unsubscribed,
                Some(0) => ThreadState::Manual,
                Some(_) => ThreadState::Automatic,
            },
            position: row.int(3)?,
        })
    }
}

impl Accounts {
    /// How the user stands to a thread; nothing when they have never subscribed to it.
    pub async fn thread_subscription(
        &self,
        user: &UserId,
        room: &RoomId,
        root: &EventId,
    ) -> Result<Option<ThreadSubscription>, AccountError> {
        let row = self.db.query_opt(&THREAD, params![user.as_str(), room.as_str(), root.as_str()]).await?;
        row.as_ref().map(ThreadSubscription::from_row).transpose()
    }

    /// The threads to which the user's standing changed after `after` and up to `upto`, the latest first, `limit` at most.
    pub async fn thread_subscriptions(
        &self,
        user: &UserId,
        after: i64,
        upto: i64,
        limit: usize,
    ) -> Result<Vec<ThreadSubscription>, AccountError> {
        let rows = self.db.query(&THREADS_BACK, params![user.as_str(), after, upto, limit]).await?;
        rows.iter().map(ThreadSubscription::from_row).collect()
    }

    /// Subscribes the user to a thread. `cause` is the position of the event for whose sake a client does so by itself;
    /// says whether the user is subscribed now: not, when they unsubscribed after that event.
    pub async fn subscribe_thread(
        &self,
        user: &UserId,
        room: &RoomId,
        root: &EventId,
        cause: Option<i64>,
    ) -> Result<bool, AccountError> {
        let mut refused = false;
        self.edit_thread(user, room, root, |known| {
            refused = false;
            match (known, cause) {
                (Some(known), None) if known.state == ThreadState::Manual => None,
                (_, None) => Some(ThreadState::Manual),
                (Some(known), Some(_)) if known.state.is_subscribed() => None,
                (Some(known), Some(cause)) if cause <= known.position => {
                    refused = true;
                    None
                }
                (_, Some(_)) => Some(ThreadState::Automatic),
            }
        })
        .await?;
        Ok(!refused)
    }

    /// Ends the user's subscription to a thread, if there is one. It is remembered even if there is none: nothing that has
    /// happened up to now will subscribe the user.
    pub async fn unsubscribe_thread(&self, user: &UserId, room: &RoomId, root: &EventId) -> Result<(), AccountError> {
        self.edit_thread(user, room, root, |known| {
            let known = known.map(|known| known.state);
            (known != Some(ThreadState::Unsubscribed)).then_some(ThreadState::Unsubscribed)
        })
        .await
    }

    async fn edit_thread(
        &self,
        user: &UserId,
        room: &RoomId,
        root: &EventId,
        mut edit: impl FnMut(Option<&ThreadSubscription>) -> Option<ThreadState>,
    ) -> Result<(), AccountError> {
        let mut tries = 0;
        loop {
            let known = self.thread_subscription(user, room, root).await?;
            let Some(state) = edit(known.as_ref()) else { return Ok(()) };
            let mut batch = Batch::new();
            let change = Change::new(ChangeKind::ThreadSubscription).user(user).room(room).reference(root);
            let position = batch.log(change);
            let (user_id, room_id, root_id) = (user.as_str(), room.as_str(), root.as_str());
            match known {
                Some(known) => batch.expect(
                    &THREAD_UPDATE,
                    params![state.code(), position, user_id, room_id, root_id, known.position],
                    1,
                ),
                None => {
                    let count = self.db.query_opt(&THREAD_COUNT, params![user_id]).await?;
                    match count.map_or(Ok(0), |row| row.int(0))? {
                        0 => self.enable_thread_rules(user).await?,
                        count if count >= THREADS_MAX => {
                            return Err(AccountError::TooLarge("There are too many thread subscriptions"));
                        }
                        _ => {}
                    }
                    batch.expect(&THREAD_INSERT, params![user_id, room_id, root_id, state.code(), position], 1);
                }
            }
            match self.db.commit(batch).await {
                Ok(_) => return Ok(()),
                Err(error) if error.is_conflict() && tries < 10 => tries += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }
}
