//! Read receipts: how far each user has read in each room and thread.

use std::collections::BTreeMap;

use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId};
use samtal_db::{Batch, Change, Db, DbError, Row, params};
use samtal_kit::Clock;
use samtal_model::ChangeKind;
use serde_json::{Value, json};

use crate::schema;

/// Most receipts of others that the first answer for a room shows, the newest.
const INITIAL_MAX: i64 = 500;
/// Longest thread id that is kept, in bytes.
const THREAD_BYTES_MAX: usize = 255;

/// A receipt as someone sends it.
#[derive(Clone, Debug)]
pub struct NewReceipt {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Who read.
    pub user_id: OwnedUserId,
    /// `m.read`, `m.read.private` or another type.
    pub receipt_type: String,
    /// The thread's root, `main`, or nothing for an unthreaded receipt.
    pub thread: Option<String>,
    /// Up to which event.
    pub event_id: OwnedEventId,
    /// The event's position in the log, or nothing when we do not hold it: it counts as the newest then.
    pub event_position: Option<i64>,
    /// When, in milliseconds since the epoch; nothing for now.
    pub ts_ms: Option<u64>,
}

/// A stored receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Who read.
    pub user_id: OwnedUserId,
    /// `m.read`, `m.read.private` or another type.
    pub receipt_type: String,
    /// The thread's root, `main`, or nothing for an unthreaded receipt.
    pub thread: Option<String>,
    /// Up to which event.
    pub event_id: OwnedEventId,
    /// When, in milliseconds since the epoch.
    pub ts_ms: i64,
    /// The event's position in the log.
    pub event_position: i64,
    /// The position of the last change of this receipt.
    pub position: i64,
}

impl Receipt {
    /// Whether only its user may see it.
    pub fn is_private(&self) -> bool {
        self.receipt_type == "m.read.private"
    }

    /// Whether it says how far its user has read (`m.read` or `m.read.private`).
    pub fn is_read(&self) -> bool {
        self.receipt_type == "m.read" || self.is_private()
    }

    fn from_row(row: &Row) -> Result<Option<Self>, DbError> {
        let ids = (RoomId::parse(row.text(0)?), UserId::parse(row.text(1)?), EventId::parse(row.text(4)?));
        let (Ok(room_id), Ok(user_id), Ok(event_id)) = ids else { return Ok(None) };
        Ok(Some(Self {
            room_id,
            user_id,
            receipt_type: row.text(2)?.to_owned(),
            thread: Some(row.text(3)?).filter(|thread| !thread.is_empty()).map(ToOwned::to_owned),
            event_id,
            ts_ms: row.int(5)?,
            event_position: row.int(6)?,
            position: row.int(7)?,
        }))
    }
}

/// The stored receipts of one tenant.
#[derive(Clone, Debug)]
pub struct Receipts {
    db: Db,
    clock: Clock,
}

impl Receipts {
    pub(crate) fn new(db: Db, clock: Clock) -> Self {
        Self { db, clock }
    }

    /// Stores those of `receipts` that go forward in their room's timeline. Returns how many there were.
    ///
    /// One that would go backwards is dropped silently, as the specification wants.
    pub async fn put(&self, receipts: Vec<NewReceipt>) -> Result<usize, DbError> {
        let mut batch = Batch::new();
        let mut moved = 0;
        for receipt in receipts {
            let thread = receipt.thread.as_deref().unwrap_or_default();
            if thread.len() > THREAD_BYTES_MAX {
                continue;
            }
            let (room, who, kind) = (receipt.room_id.as_str(), receipt.user_id.as_str(), receipt.receipt_type.as_str());
            let before = self.db.query_opt(&schema::RECEIPT_POSITION, params![room, who, kind, thread]).await?;
            let event_position = receipt.event_position.unwrap_or_else(|| self.db.position());
            if let Some(before) = before
                && (before.int(0)? >= event_position || before.text(1)? == receipt.event_id.as_str())
            {
                continue;
            }
            let mut change = Change::new(ChangeKind::Receipt).room(room).user(who);
            if !thread.is_empty() {
                change = change.reference(thread);
            }
            let position = batch.log(change);
            let ts_ms = receipt.ts_ms.unwrap_or_else(|| self.clock.now_ms());
            let mut values = params![room, who, kind, thread, receipt.event_id.as_str(), ts_ms, event_position];
            values.push(position);
            batch.exec(&schema::RECEIPT_SET, values);
            moved += 1;
        }
        if moved > 0 {
            self.db.commit(batch).await?;
        }
        Ok(moved)
    }

    /// Receipts of a room that changed after `since` and not after `until`, oldest change first. From the start
    /// (`since` 0) only the newest 500.
    pub async fn changed(&self, room_id: &RoomId, since: i64, until: i64) -> Result<Vec<Receipt>, DbError> {
        let limit = if since == 0 { INITIAL_MAX } else { i64::MAX };
        let rows = self.db.query(&schema::RECEIPTS_OF_ROOM, params![room_id.as_str(), since, until, limit]).await?;
        rows.iter().rev().filter_map(|row| Receipt::from_row(row).transpose()).collect()
    }

    /// All receipts of one user in a room.
    pub async fn of_user_in_room(&self, user_id: &UserId, room_id: &RoomId) -> Result<Vec<Receipt>, DbError> {
        let rows =
            self.db.query(&schema::RECEIPTS_OF_USER_IN_ROOM, params![room_id.as_str(), user_id.as_str()]).await?;
        rows.iter().filter_map(|row| Receipt::from_row(row).transpose()).collect()
    }

    /// Receipts of one user, in all rooms, that changed after `since` and not after `until`.
    pub async fn of_user(&self, user_id: &UserId, since: i64, until: i64) -> Result<Vec<Receipt>, DbError> {
        let rows = self.db.query(&schema::RECEIPTS_OF_USER, params![user_id.as_str(), since, until]).await?;
        rows.iter().filter_map(|row| Receipt::from_row(row).transpose()).collect()
    }

    /// Adds the deletion of a room's receipts to a batch.
    pub fn delete_room(batch: &mut Batch, room_id: &RoomId) {
        batch.exec(&schema::RECEIPTS_DELETE, params![room_id.as_str()]);
    }
}

/// The content of an `m.receipt` event that shows these receipts to `viewer`, or nothing when none is for them.
///
/// Of a threaded and an unthreaded receipt of one user for one event the unthreaded is shown (MSC4102).
pub fn content(receipts: &[Receipt], viewer: &UserId) -> Option<Value> {
    let visible = receipts.iter().filter(|receipt| !receipt.is_private() || receipt.user_id == viewer);
    let mut shown: BTreeMap<(&EventId, &str, &UserId), &Receipt> = BTreeMap::new();
    for receipt in visible {
        let key = (&*receipt.event_id, &*receipt.receipt_type, &*receipt.user_id);
        let slot = shown.entry(key).or_insert(receipt);
        if receipt.thread.is_none() {
            *slot = receipt;
        }
    }
    if shown.is_empty() {
        return None;
    }
    let mut content = json!({});
    for ((event_id, kind, user_id), receipt) in shown {
        let mut data = json!({ "ts": receipt.ts_ms });
        if let Some(thread) = &receipt.thread {
            data["thread_id"] = json!(thread);
        }
        content[event_id.as_str()][kind][user_id.as_str()] = data;
    }
    Some(content)
}

#[cfg(test)]
mod tests {
    use ruma::{event_id, room_id, user_id};
    use samtal_db::testing::each_engine;

    use super::*;

    fn receipt(event: &EventId, position: i64, kind: &str, thread: Option<&str>) -> NewReceipt {
        NewReceipt {
            room_id: room_id!("!r:a").to_owned(),
            user_id: user_id!("@u:a").to_owned(),
            receipt_type: kind.into(),
            thread: thread.map(Into::into),
            event_id: event.to_owned(),
            event_position: Some(position),
            ts_ms: Some(5),
        }
    }

    #[tokio::test]
    async fn a_receipt_never_goes_backwards() {
        each_engine(&[crate::SCHEMA], |db| async move {
            let receipts = Receipts::new(db.clone(), Clock::manual(0));
            assert_eq!(receipts.put(vec![receipt(event_id!("$2"), 20, "m.read", None)]).await.unwrap(), 1);
            assert_eq!(receipts.put(vec![receipt(event_id!("$1"), 10, "m.read", None)]).await.unwrap(), 0);
            assert_eq!(receipts.put(vec![receipt(event_id!("$1"), 10, "m.read", Some("main"))]).await.unwrap(), 1);
            let now = db.position();
            let all = receipts.changed(room_id!("!r:a"), 0, now).await.unwrap();
            assert_eq!(all.iter().map(|receipt| receipt.event_id.as_str()).collect::<Vec<_>>(), ["$2", "$1"]);
            assert_eq!(receipts.changed(room_id!("!r:a"), now, now).await.unwrap(), []);
            assert_eq!(receipts.of_user(user_id!("@u:a"), 0, now).await.unwrap().len(), 2);
        })
        .await;
    }

    #[tokio::test]
    async fn note_56_a_private_receipt_is_shown_to_its_user_only_and_the_unthreaded_one_wins() {
        each_engine(&[crate::SCHEMA], |db| async move {
            let receipts = Receipts::new(db.clone(), Clock::manual(0));
            receipts
                .put(vec![
                    receipt(event_id!("$1"), 10, "m.read", None),
                    receipt(event_id!("$1"), 10, "m.read", Some("$t")),
                    receipt(event_id!("$1"), 10, "m.read.private", None),
                ])
                .await
                .unwrap();
            let all = receipts.of_user_in_room(user_id!("@u:a"), room_id!("!r:a")).await.unwrap();
            assert_eq!(
                content(&all, user_id!("@v:a")).unwrap(),
                json!({ "$1": { "m.read": { "@u:a": { "ts": 5 } } } })
            );
            assert!(content(&all, user_id!("@u:a")).unwrap()["$1"].get("m.read.private").is_some());
        })
        .await;
    }
}
