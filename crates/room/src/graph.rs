//! Rooms and events as they are stored, and the way back.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use ruma::{
    EventId, OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, RoomVersionId, room_version_rules::RoomVersionRules,
};
use samtal_db::{Batch, Db, Row, Sql, Value, params, sql};
use samtal_event::Pdu;
use samtal_kit::Cache;
use samtal_model::StreamPosition;
use samtal_state::SnapshotId;

use crate::{
    at_hand::EventsAtHand,
    error::RoomError,
    ids::{EventNid, RoomNid},
    packed::{pack, unpack},
    txn::Txn,
};

/// A room as such: what never changes about it.
#[derive(Debug)]
pub struct Room {
    /// Its number here.
    pub nid: RoomNid,
    /// Its id.
    pub room_id: OwnedRoomId,
    /// Its version.
    pub version: RoomVersionId,
    /// The rules of its version.
    pub rules: &'static RoomVersionRules,
}

/// What befell an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub i64);

impl Flags {
    /// Refused by its own auth events or by the state before it: not shown, not built upon.
    pub const REJECTED: Self = Self(1);
    /// Refused by the current state when it came: not shown, takes part in state resolution.
    pub const SOFT_FAILED: Self = Self(2);
    /// Held, but not placed in the graph.
    pub const OUTLIER: Self = Self(4);
    /// Its text is the redacted one.
    pub const REDACTED: Self = Self(8);

    /// Whether all of `other` is set.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both together.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Without `other`.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// An event with what we know about it.
#[derive(Clone, Debug)]
pub struct StoredEvent {
    /// Its number here.
    pub nid: EventNid,
    /// Its room.
    pub room: RoomNid,
    /// Its place in the room's timeline; none for outliers and for what is not shown.
    pub position: Option<StreamPosition>,
    /// What befell it.
    pub flags: Flags,
    /// The state before it; none for outliers.
    pub before: Option<SnapshotId>,
    /// The redaction that was applied to it.
    pub redacted_by: Option<OwnedEventId>,
    /// Which transaction of which device made it: its [`Txn::name`].
    pub txn: Option<Box<str>>,
    /// The event itself (redacted, if it has been).
    pub pdu: Pdu,
}

impl StoredEvent {
    /// Whether clients may see it at all.
    pub fn is_visible(&self) -> bool {
        self.position.is_some() && !self.flags.has(Flags::REJECTED) && !self.flags.has(Flags::SOFT_FAILED)
    }

    /// Whether it has its place in the graph, but none in the timeline yet, though nothing forbids that it is shown.
    pub(crate) fn is_unseen(&self) -> bool {
        let hides = [Flags::REJECTED, Flags::SOFT_FAILED, Flags::OUTLIER].into_iter().any(|flag| self.flags.has(flag));
        self.position.is_none() && self.before.is_some() && !hides
    }

    /// Whether it came to the timeline as it happened. History that is read later has positions below zero.
    pub(crate) fn is_news(&self) -> bool {
        self.position.is_some_and(|position| position.0 > 0)
    }

    /// The transaction id, if `device_id` of the sender made the event.
    pub fn transaction_id_for(&self, device_id: &str) -> Option<&str> {
        Txn::id_for(self.txn.as_deref()?, self.pdu.sender(), device_id)
    }
}

macro_rules! event_columns {
    () => {
        "nid, room, position, flags, before, redacted_by, txn, event_id, packed"
    };
}

const ROOM_BY_ID: Sql = sql!("SELECT nid, room_id, version FROM room WHERE room_id = $1");
const ROOM_BY_NID: Sql = sql!("SELECT nid, room_id, version FROM room WHERE nid = $1");
const ROOM_INSERT: Sql = sql!("INSERT INTO room (nid, room_id, version) VALUES ($1, $2, $3)");
const EVENT_BY_ID: Sql = sql!(concat!("SELECT ", event_columns!(), " FROM event WHERE event_id = $1"));
const EVENTS_BY_NID: Sql = sql!(concat!("SELECT ", event_columns!(), " FROM event WHERE nid IN list($1)"));
const EVENTS_BY_ID: Sql = sql!(concat!("SELECT ", event_columns!(), " FROM event WHERE event_id IN list($1)"));
const EVENTS_OF_ROOM: Sql = sql!(concat!("SELECT ", event_columns!(), " FROM event WHERE room = $1 ORDER BY nid"));
const IDS_KNOWN: Sql = sql!("SELECT event_id FROM event WHERE event_id IN list($1)");
const EVENT_BY_TXN: Sql = sql!("SELECT event_id FROM event WHERE txn = $1");
const TIMELINE_BACK: Sql = sql!(concat!(
    "SELECT ",
    event_columns!(),
    " FROM event WHERE room = $1 AND position <= $2 AND position > $3 ORDER BY position DESC LIMIT $4"
));
const TIMELINE_FORWARD: Sql = sql!(concat!(
    "SELECT ",
    event_columns!(),
    " FROM event WHERE room = $1 AND position > $2 AND position <= $3 ORDER BY position LIMIT $4"
));
const EVENT_INSERT: Sql = sql!(
    "INSERT INTO event (nid, event_id, room, position, flags, before, txn, packed) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"
);
const EVENT_PLACE: Sql = sql!("UPDATE event SET position = $1, flags = $2, before = $3 WHERE nid = $4 AND flags = $5");
const EVENT_REDACT: Sql = sql!("UPDATE event SET packed = $1, redacted_by = $2, flags = $3 WHERE nid = $4");

/// Reads and writes events.
#[derive(Debug)]
pub struct Graph {
    db: Db,
    at_hand: EventsAtHand,
    pub(crate) servers: Cache<RoomNid, (i64, Arc<[OwnedServerName]>)>,
}

impl Graph {
    /// Over the tenant's database.
    pub fn new(db: Db) -> Self {
        Self { servers: Cache::new(db.memory()), at_hand: EventsAtHand::new(&db), db }
    }

    /// The database.
    pub fn db(&self) -> &Db {
        &self.db
    }

    /// The room, if it is known here.
    pub async fn room(&self, room_id: &RoomId) -> Result<Option<Arc<Room>>, RoomError> {
        if let Some(room) = self.at_hand.room(room_id) {
            return Ok(Some(room));
        }
        let since = self.at_hand.since();
        let row = self.db.query_opt(&ROOM_BY_ID, params![room_id.as_str()]).await?;
        row.map(|row| self.keep_room(&row, since)).transpose()
    }

    /// The room with this number.
    pub async fn room_by_nid(&self, nid: RoomNid) -> Result<Arc<Room>, RoomError> {
        if let Some(room) = self.at_hand.room_by_nid(nid) {
            return Ok(room);
        }
        let since = self.at_hand.since();
        let row = self.db.query_opt(&ROOM_BY_NID, params![nid.0]).await?.ok_or(RoomError::UnknownRoom)?;
        self.keep_room(&row, since)
    }

    fn keep_room(&self, row: &Row, since: u64) -> Result<Arc<Room>, RoomError> {
        let room_id = OwnedRoomId::try_from(row.text(1)?).map_err(|error| RoomError::Damaged(error.to_string()))?;
        let version = RoomVersionId::try_from(row.text(2)?).map_err(|error| RoomError::Damaged(error.to_string()))?;
        let room = Arc::new(make_room(RoomNid(row.int(0)?), room_id, version)?);
        self.at_hand.keep_room(&room, since);
        Ok(room)
    }

    /// Forgets what is cached about a room that has been deleted.
    pub(crate) fn drop_room(&self, room: &Room) {
        self.at_hand.drop_room(room);
    }

    /// Forgets what is cached about events that have been deleted or taken out of the timeline.
    pub(crate) fn forget_events(&self, events: &[(EventNid, OwnedEventId)]) {
        self.at_hand.forget(events);
    }

    /// The event, wherever it is.
    pub async fn event(&self, event_id: &EventId) -> Result<Option<Arc<StoredEvent>>, RoomError> {
        if let Some(event) = self.at_hand.event_of(event_id) {
            return Ok(Some(event));
        }
        let since = self.at_hand.since();
        match self.db.query_opt(&EVENT_BY_ID, params![event_id.as_str()]).await? {
            Some(row) => self.keep(&row, since).await.map(Some),
            None => Ok(None),
        }
    }

    /// The events with these ids that are here, in no order.
    pub async fn events(&self, ids: &[OwnedEventId]) -> Result<Vec<Arc<StoredEvent>>, RoomError> {
        let mut found = Vec::with_capacity(ids.len());
        let mut missing = Vec::new();
        for id in ids {
            match self.at_hand.event_of(id) {
                Some(event) => found.push(event),
                None => missing.push(id.to_string()),
            }
        }
        let since = self.at_hand.since();
        for chunk in missing.chunks(500) {
            for row in self.db.query(&EVENTS_BY_ID, params![chunk.to_vec()]).await? {
                found.push(self.keep(&row, since).await?);
            }
        }
        Ok(found)
    }

    /// Which of these ids are those of events that are here.
    pub async fn known(&self, ids: &[OwnedEventId]) -> Result<HashSet<OwnedEventId>, RoomError> {
        let mut known = HashSet::with_capacity(ids.len());
        let mut missing = Vec::new();
        for id in ids {
            if self.at_hand.knows(id) {
                known.insert(id.clone());
            } else {
                missing.push(id.to_string());
            }
        }
        for chunk in missing.chunks(500) {
            for row in self.db.query(&IDS_KNOWN, params![chunk.to_vec()]).await? {
                known.insert(row.text(0)?.try_into().map_err(|_| RoomError::Damaged("bad event id".into()))?);
            }
        }
        Ok(known)
    }

    /// The events with these numbers, by number.
    pub async fn events_by_nid(&self, nids: &[EventNid]) -> Result<HashMap<EventNid, Arc<StoredEvent>>, RoomError> {
        let mut found = HashMap::with_capacity(nids.len());
        let mut missing = Vec::new();
        for nid in nids {
            match self.at_hand.event(*nid) {
                Some(event) => {
                    found.insert(*nid, event);
                }
                None => missing.push(nid.0),
            }
        }
        let since = self.at_hand.since();
        for chunk in missing.chunks(500) {
            for row in self.db.query(&EVENTS_BY_NID, params![chunk.to_vec()]).await? {
                let event = self.keep(&row, since).await?;
                found.insert(event.nid, event);
            }
        }
        Ok(found)
    }

    /// The event with this number; it must be there.
    pub async fn event_by_nid(&self, nid: EventNid) -> Result<Arc<StoredEvent>, RoomError> {
        if let Some(event) = self.at_hand.event(nid) {
            return Ok(event);
        }
        let mut found = self.events_by_nid(&[nid]).await?;
        found.remove(&nid).ok_or_else(|| RoomError::Damaged(format!("event number {} is not there", nid.0)))
    }

    /// The event that this transaction made.
    pub async fn event_of_txn(&self, txn: &str) -> Result<Option<OwnedEventId>, RoomError> {
        let Some(row) = self.db.query_opt(&EVENT_BY_TXN, params![txn]).await? else { return Ok(None) };
        OwnedEventId::try_from(row.text(0)?).map(Some).map_err(|error| RoomError::Damaged(error.to_string()))
    }

    /// At most `limit` timeline events with `from >= position > to`, newest first.
    pub async fn timeline_back(
        &self,
        room: RoomNid,
        from: StreamPosition,
        to: StreamPosition,
        limit: usize,
    ) -> Result<Vec<Arc<StoredEvent>>, RoomError> {
        let since = self.at_hand.since();
        let rows = self.db.query(&TIMELINE_BACK, params![room.0, from.0, to.0, limit]).await?;
        self.keep_all(&rows, since).await
    }

    /// At most `limit` timeline events with `from < position <= to`, oldest first.
    pub async fn timeline_forward(
        &self,
        room: RoomNid,
        from: StreamPosition,
        to: StreamPosition,
        limit: usize,
    ) -> Result<Vec<Arc<StoredEvent>>, RoomError> {
        let since = self.at_hand.since();
        let rows = self.db.query(&TIMELINE_FORWARD, params![room.0, from.0, to.0, limit]).await?;
        self.keep_all(&rows, since).await
    }

    /// Every event of a room, wherever it is, in the order of their numbers: for tests and inspection of small rooms.
    pub async fn all_of_room(&self, room: &Room) -> Result<Vec<Arc<StoredEvent>>, RoomError> {
        let since = self.at_hand.since();
        let rows = self.db.query(&EVENTS_OF_ROOM, params![room.nid.0]).await?;
        self.keep_all(&rows, since).await
    }

    /// Events from rows of a query that selects this crate's event columns; `since`: see [`EventsAtHand::since`].
    async fn keep_all(&self, rows: &[Row], since: u64) -> Result<Vec<Arc<StoredEvent>>, RoomError> {
        let mut events = Vec::with_capacity(rows.len());
        for row in rows {
            events.push(self.keep(row, since).await?);
        }
        Ok(events)
    }

    async fn keep(&self, row: &Row, since: u64) -> Result<Arc<StoredEvent>, RoomError> {
        let nid = EventNid(row.int(0)?);
        if let Some(event) = self.at_hand.event(nid) {
            return Ok(event);
        }
        let room = Box::pin(self.room_by_nid(RoomNid(row.int(1)?))).await?;
        let event_id = OwnedEventId::try_from(row.text(7)?).map_err(|error| RoomError::Damaged(error.to_string()))?;
        let flags = Flags(row.int(3)?);
        let event = StoredEvent {
            nid,
            room: room.nid,
            position: row.opt_int(2)?.map(StreamPosition),
            flags,
            before: row.opt_blob(4)?.map(snapshot_id).transpose()?,
            redacted_by: row.opt_text(5)?.and_then(|id| OwnedEventId::try_from(id).ok()),
            txn: row.opt_text(6)?.map(Into::into),
            pdu: Pdu::from_stored(event_id, unpack(row.blob(8)?, &room.room_id)?, room.rules)?
                .with_rejected(flags.has(Flags::REJECTED)),
        };
        Ok(self.at_hand.keep(event, since))
    }

    /// What keeps events at hand, for those who write them.
    pub(crate) fn at_hand(&self) -> EventsAtHand {
        self.at_hand.clone()
    }
}

/// A room from its parts.
pub(crate) fn make_room(nid: RoomNid, room_id: OwnedRoomId, version: RoomVersionId) -> Result<Room, RoomError> {
    let rules = samtal_event::rules_of(&version).ok_or_else(|| RoomError::UnsupportedVersion(version.clone()))?;
    Ok(Room { nid, room_id, version, rules })
}

fn snapshot_id(bytes: &[u8]) -> Result<SnapshotId, RoomError> {
    SnapshotId::from_slice(bytes).ok_or_else(|| RoomError::Damaged("a snapshot id has a wrong length".into()))
}

pub(crate) fn insert_room(batch: &mut Batch, room: &Room) {
    batch.expect(&ROOM_INSERT, params![room.nid.0, room.room_id.as_str(), room.version.as_str()], 1);
}

/// Adds the row of a new event. `position` is a number, a log position of the batch, or NULL.
pub(crate) fn insert_event(batch: &mut Batch, event: &StoredEvent, position: Value, txn: Option<&str>) {
    batch.expect(
        &EVENT_INSERT,
        params![
            event.nid.0,
            event.pdu.event_id().as_str(),
            event.room.0,
            position,
            event.flags.0,
            event.before.map(SnapshotId::to_vec),
            txn,
            pack(event.pdu.json(), event.pdu.room_id()),
        ],
        1,
    );
}

/// Gives an event that is stored already its place in the graph, or another one. Refused when its flags are not `known` any more.
pub(crate) fn place_event(batch: &mut Batch, event: &StoredEvent, position: Value, known: Flags) {
    let before = event.before.map(SnapshotId::to_vec);
    batch.expect(&EVENT_PLACE, params![position, event.flags.0, before, event.nid.0, known.0], 1);
}

/// Replaces an event's text by the redacted one.
pub(crate) fn redact_event(batch: &mut Batch, event: &StoredEvent, redacted: &Pdu, by: &EventId) {
    let flags = event.flags.with(Flags::REDACTED);
    batch.expect(
        &EVENT_REDACT,
        params![pack(redacted.json(), redacted.room_id()), by.as_str(), flags.0, event.nid.0],
        1,
    );
}
