//! Events that must reach everybody while they are fresh (MSC4354): which there are, and until when.
//!
//! A sticky event that current state refuses is kept with position 0. Should its sender be let in after all while it is
//! fresh, it gets its place then.

use std::sync::Arc;

use ruma::{OwnedRoomId, RoomId, ServerName};
use samtal_db::{Batch, Sql, Value, params, sql};
use samtal_event::Pdu;
use samtal_kit::signed_ms;
use samtal_model::StreamPosition;
use serde::Deserialize;

use crate::{
    error::RoomError,
    graph::StoredEvent,
    ids::{EventNid, RoomNid},
    store::Store,
};

/// Longest time for which an event is sticky, in milliseconds: an hour.
pub const STICKY_MS_MAX: i64 = 3_600_000;
/// Most sticky events of one sender in a room; older ones are sticky no longer.
const OF_SENDER_MAX: i64 = 100;

const INSERT: Sql = sql!(
    "INSERT INTO sticky (room, nid, sender, position, expires_ms) VALUES ($1, $2, $3, $4, $5)
     ON CONFLICT (room, nid) DO UPDATE SET position = excluded.position"
);
const REMOVE: Sql = sql!("DELETE FROM sticky WHERE room = $1 AND nid = $2");
const EXPIRE: Sql = sql!("DELETE FROM sticky WHERE room = $1 AND expires_ms <= $2");
const TRIM: Sql = sql!(
    "DELETE FROM sticky WHERE room = $1 AND sender = $2 AND nid IN (
        SELECT nid FROM sticky WHERE room = $1 AND sender = $2 ORDER BY nid DESC LIMIT 1000 OFFSET $3)"
);
const FRESH: Sql = sql!(
    "SELECT nid, position, expires_ms FROM sticky
     WHERE room = $1 AND position > $2 AND position <= $3 AND expires_ms > $4 ORDER BY position LIMIT $5"
);
const REFUSED: Sql = sql!("SELECT nid FROM sticky WHERE room = $1 AND position = 0 AND expires_ms > $2 LIMIT $3");
const ROOMS: Sql = sql!(
    "SELECT DISTINCT room.room_id FROM sticky JOIN room ON room.nid = sticky.room
     WHERE sticky.position > $1 AND sticky.position <= $2 AND sticky.expires_ms > $3"
);

#[derive(Deserialize)]
struct Sticky {
    duration_ms: i64,
}

/// How long the event says that it is sticky, in milliseconds; nothing for one that is not.
pub fn sticky_ms(pdu: &Pdu) -> Option<i64> {
    let sticky: Sticky = serde_json::from_str(pdu.sticky_str()?).ok()?;
    (sticky.duration_ms >= 0).then_some(sticky.duration_ms.min(STICKY_MS_MAX))
}

/// For how long the event is sticky yet, in milliseconds, as far as can be told from itself.
pub fn sticky_left_ms(pdu: &Pdu, now_ms: u64) -> Option<i64> {
    let now = signed_ms(now_ms);
    let left = sticky_ms(pdu)?.saturating_add(pdu.origin_server_ts_ms().min(now)).saturating_sub(now);
    (left > 0).then_some(left)
}

/// A sticky event that has not expired.
#[derive(Clone, Debug)]
pub struct StickyEvent {
    /// The event.
    pub event: Arc<StoredEvent>,
    /// Since when it is in the room, as a position of the change log.
    pub position: StreamPosition,
    /// When it expires, in milliseconds since the epoch.
    pub expires_ms: i64,
}

/// Notes an event, if it is sticky and fresh; and forgets those that are no longer.
pub(crate) fn insert(batch: &mut Batch, room: RoomNid, nid: EventNid, pdu: &Pdu, position: Value, now_ms: u64) {
    let Some(left) = sticky_left_ms(pdu, now_ms) else { return };
    let now = signed_ms(now_ms);
    batch.exec(&EXPIRE, params![room.0, now]);
    batch.exec(&INSERT, params![room.0, nid.0, pdu.sender().as_str(), position, now.saturating_add(left)]);
    batch.exec(&TRIM, params![room.0, pdu.sender().as_str(), OF_SENDER_MAX]);
}

/// A redacted event is sticky no longer.
pub(crate) fn remove(batch: &mut Batch, room: RoomNid, pdu: &Pdu, nid: EventNid) {
    if pdu.sticky_str().is_some() {
        batch.exec(&REMOVE, params![room.0, nid.0]);
    }
}

impl Store {
    /// The fresh sticky events of a room with `after < position <= upto`, the oldest first, `limit` at most.
    pub async fn sticky_events(
        &self,
        room: RoomNid,
        after: i64,
        upto: i64,
        now_ms: u64,
        limit: usize,
    ) -> Result<Vec<StickyEvent>, RoomError> {
        let after = after.max(0);
        let rows = self.db().query(&FRESH, params![room.0, after, upto, now_ms, limit]).await?;
        let nids: Vec<EventNid> = rows.iter().map(|row| row.int(0).map(EventNid)).collect::<Result<_, _>>()?;
        // History may have been purged meanwhile.
        let events = self.graph.events_by_nid(&nids).await?;
        let mut found = Vec::with_capacity(rows.len());
        for row in &rows {
            if let Some(event) = events.get(&EventNid(row.int(0)?)) {
                let (position, expires_ms) = (StreamPosition(row.int(1)?), row.int(2)?);
                found.push(StickyEvent { event: Arc::clone(event), position, expires_ms });
            }
        }
        Ok(found)
    }

    /// Rooms with fresh sticky events with `after < position <= upto`.
    pub async fn rooms_with_sticky_events(
        &self,
        after: i64,
        upto: i64,
        now_ms: u64,
    ) -> Result<Vec<OwnedRoomId>, RoomError> {
        let rows = self.db().query(&ROOMS, params![after.max(0), upto, now_ms]).await?;
        Ok(rows.iter().filter_map(|row| OwnedRoomId::try_from(row.text(0).ok()?).ok()).collect())
    }

    /// The fresh sticky events of a server's users in a room, the oldest first: those that it gives to servers that come
    /// later.
    pub async fn sticky_events_of(
        &self,
        room_id: &RoomId,
        server: &ServerName,
        now_ms: u64,
        limit: usize,
    ) -> Result<Vec<StickyEvent>, RoomError> {
        let Some(room) = self.graph.room(room_id).await? else { return Ok(Vec::new()) };
        let mut found = self.sticky_events(room.nid, 0, i64::MAX, now_ms, limit).await?;
        found.retain(|sticky| sticky.event.pdu.sender().server_name() == server);
        Ok(found)
    }

    /// The fresh sticky events of a room that current state refused when they came.
    pub(crate) async fn refused_sticky_events(
        &self,
        room: RoomNid,
        now_ms: u64,
    ) -> Result<Vec<Arc<StoredEvent>>, RoomError> {
        let rows = self.db().query(&REFUSED, params![room.0, now_ms, OF_SENDER_MAX]).await?;
        let nids: Vec<EventNid> = rows.iter().map(|row| row.int(0).map(EventNid)).collect::<Result<_, _>>()?;
        let mut found: Vec<_> = self.graph.events_by_nid(&nids).await?.into_values().collect();
        found.sort_unstable_by_key(|event| event.nid);
        Ok(found)
    }
}
