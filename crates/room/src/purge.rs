//! Deleting: a whole room, or its old history.

use std::collections::HashSet;

use ruma::{EventId, OwnedEventId, RoomId};
use samtal_db::{Batch, Change, Row, Sql, params, sql};
use samtal_model::{ChangeKind, StreamPosition};

use crate::{
    Rooms,
    error::RoomError,
    graph::{Flags, Room},
    ids::EventNid,
};

/// Events looked at, or deleted, in one step.
const STEP: usize = 500;
/// Events behind the gap that are searched for references into it.
const SEARCHED_MAX: usize = 2_000;

const IS_UNENTERED: Sql =
    sql!("SELECT 1 FROM room r WHERE r.nid = $1 AND NOT EXISTS (SELECT 1 FROM room_head h WHERE h.room = r.nid)");
/// Events of a room, but those by which a user of ours is invited to it or knocks.
const UNENTERED: Sql = sql!(
    "SELECT nid, event_id FROM event WHERE room = $1
     AND event_id NOT IN (SELECT m.event_id FROM membership m WHERE m.room = $1)"
);
const UNENTERED_DELETE: Sql = sql!(
    "DELETE FROM event WHERE room = $1
     AND event_id NOT IN (SELECT m.event_id FROM membership m WHERE m.room = $1)"
);
const ROOM_DELETE: Sql =
    sql!("DELETE FROM room WHERE nid = $1 AND NOT EXISTS (SELECT 1 FROM membership m WHERE m.room = $1)");
const EVENTS: Sql = sql!("SELECT nid, event_id FROM event WHERE room = $1");
const OF_ROOM: [Sql; 16] = [
    sql!("DELETE FROM relation WHERE room = $1"),
    sql!("DELETE FROM event WHERE room = $1"),
    sql!("DELETE FROM backward_extremity WHERE room = $1"),
    sql!("DELETE FROM forward_extremity WHERE room = $1"),
    sql!("DELETE FROM unsettled_room WHERE room = $1"),
    sql!("DELETE FROM room_state_log WHERE room = $1"),
    sql!("DELETE FROM membership WHERE room = $1"),
    sql!("DELETE FROM room_server WHERE room = $1"),
    sql!("DELETE FROM room_count WHERE room = $1"),
    sql!("DELETE FROM pending_redaction WHERE room = $1"),
    sql!("DELETE FROM room_head WHERE room = $1"),
    sql!("DELETE FROM room_partial WHERE room = $1"),
    sql!("DELETE FROM partial_event WHERE room = $1"),
    sql!("DELETE FROM sticky WHERE room = $1"),
    // The row of the room itself stays: the change log and a block name it.
    sql!("UPDATE room SET published = 0 WHERE nid = $1"),
    sql!("DELETE FROM invite_state WHERE room_id IN (SELECT room_id FROM room WHERE nid = $1)"),
];
const ALIASES: Sql = sql!("DELETE FROM alias WHERE room_id = $1");
const EVENT_DELETE: Sql = sql!("DELETE FROM event WHERE nid IN list($1)");
const EVENT_UNPLACE: Sql = sql!("UPDATE event SET position = NULL, before = NULL, flags = $1 WHERE nid = $2");
const RELATION_DELETE: Sql = sql!("DELETE FROM relation WHERE child IN list($1)");
const BACKWARD_CLEAR: Sql = sql!("DELETE FROM backward_extremity WHERE room = $1 AND position < $2");
const BACKWARD_ADD: Sql =
    sql!("INSERT INTO backward_extremity (room, event_id) VALUES ($1, $2) ON CONFLICT (room, event_id) DO NOTHING");
const STATE_LOG_TRIM: Sql = sql!(
    "DELETE FROM room_state_log WHERE room = $1 AND position < COALESCE(
        (SELECT MAX(position) FROM room_state_log WHERE room = $1 AND position < $2), $2)"
);

impl Rooms {
    /// Deletes all that is kept of a room. Put its members out before: nobody is told anything.
    pub async fn purge(&self, room_id: &RoomId) -> Result<(), RoomError> {
        let room = self.room(room_id).await?;
        let store = &self.inner.store;
        let rows = store.db().scan(&EVENTS, params![room.nid.0]).await?;
        let mut batch = Batch::new();
        for sql in &OF_ROOM {
            batch.exec(sql, params![room.nid.0]);
        }
        batch.exec(&ALIASES, params![room_id.as_str()]);
        batch.log(Change::new(ChangeKind::Purge).room(room_id));
        if store.partial.get(room_id).is_some() {
            batch.log(Change::new(ChangeKind::Partial).room(room_id));
        }
        store.db().commit(batch).await?;
        if store.partial.get(room_id).is_some() {
            store.partial.read(store.db()).await?;
        }
        self.inner.queues.remove(room_id);
        let gone: Result<Vec<_>, RoomError> = rows.iter().map(named).collect();
        store.graph.forget_events(&gone?);
        store.graph.drop_room(&room);
        Ok(())
    }

    /// Deletes what a join left behind of which nothing came: events of a room that was never entered, and the room, unless a
    /// user of ours is invited to it or knocks. Nobody may be entering it meanwhile.
    pub async fn purge_unentered(&self, room: &Room) -> Result<(), RoomError> {
        let store = &self.inner.store;
        if store.head(room).await?.is_some() {
            return Ok(());
        }
        let rows = store.db().scan(&UNENTERED, params![room.nid.0]).await?;
        let mut batch = Batch::new();
        batch.require(&IS_UNENTERED, params![room.nid.0]);
        batch.exec(&UNENTERED_DELETE, params![room.nid.0]);
        batch.exec(&ROOM_DELETE, params![room.nid.0]);
        batch.log(Change::new(ChangeKind::Purge).room(&room.room_id));
        store.db().commit(batch).await?;
        let gone: Result<Vec<_>, RoomError> = rows.iter().map(named).collect();
        store.graph.forget_events(&gone?);
        store.graph.drop_room(room);
        Ok(())
    }

    /// Takes a room's events before `before` out of its timeline and deletes them. What the room's state was built from is kept,
    /// where nobody sees it; so are, unless `own_too`, events of this server, for nobody else may have them. History that other
    /// servers have can be fetched again from them. How many events went.
    pub async fn purge_history(&self, room: &Room, before: StreamPosition, own_too: bool) -> Result<usize, RoomError> {
        let newest: HashSet<OwnedEventId> = self.inner.store.extremities(room).await?.into_iter().collect();
        let graph = &self.inner.store.graph;
        let (mut gone, mut kept_references) = (HashSet::new(), Vec::new());
        let mut batches: Vec<Vec<Going>> = Vec::new();
        let mut at = StreamPosition(i64::MIN);
        loop {
            let page = graph.timeline_forward(room.nid, at, StreamPosition(before.0 - 1), STEP).await?;
            let Some(last) = page.last().and_then(|event| event.position) else { break };
            at = last;
            let mut going = Vec::new();
            for event in page {
                let id: OwnedEventId = event.pdu.event_id().to_owned();
                if newest.contains(&id) {
                    kept_references.extend(event.pdu.prev_events().iter().cloned());
                    continue;
                }
                let is_own = event.pdu.sender().server_name() == self.server_name();
                let is_kept = event.pdu.state_key().is_some() || (is_own && !own_too);
                gone.insert(id.clone());
                going.push(Going { nid: event.nid, id, flags: event.flags, is_kept });
            }
            batches.push(going);
        }
        let mut at = StreamPosition(before.0 - 1);
        for _ in 0..SEARCHED_MAX / STEP {
            let page = graph.timeline_forward(room.nid, at, StreamPosition(i64::MAX), STEP).await?;
            let Some(last) = page.last().and_then(|event| event.position) else { break };
            at = last;
            kept_references.extend(page.iter().flat_map(|event| event.pdu.prev_events().iter().cloned()));
        }
        if gone.is_empty() {
            return Ok(0);
        }
        // First the way back to what will be missing, so that a crash leaves no gap that nobody knows of.
        let mut batch = Batch::new();
        batch.exec(&BACKWARD_CLEAR, params![room.nid.0, before.0]);
        for id in kept_references.iter().filter(|id| gone.contains(*id)) {
            batch.exec(&BACKWARD_ADD, params![room.nid.0, id.as_str()]);
        }
        batch.exec(&STATE_LOG_TRIM, params![room.nid.0, before.0]);
        self.inner.store.db().commit(batch).await?;
        for going in batches {
            self.purge_events(&going).await?;
        }
        let mut batch = Batch::new();
        batch.log(Change::new(ChangeKind::Purge).room(&room.room_id));
        self.inner.store.db().commit(batch).await?;
        Ok(gone.len())
    }

    async fn purge_events(&self, going: &[Going]) -> Result<(), RoomError> {
        let mut batch = Batch::new();
        let all: Vec<i64> = going.iter().map(|event| event.nid.0).collect();
        let deleted: Vec<i64> = going.iter().filter(|event| !event.is_kept).map(|event| event.nid.0).collect();
        batch.exec(&RELATION_DELETE, params![all]);
        batch.exec(&EVENT_DELETE, params![deleted]);
        for event in going.iter().filter(|event| event.is_kept) {
            batch.exec(&EVENT_UNPLACE, params![event.flags.with(Flags::OUTLIER).0, event.nid.0]);
        }
        self.inner.store.db().commit(batch).await?;
        let names: Vec<_> = going.iter().map(|event| (event.nid, event.id.clone())).collect();
        self.inner.store.graph.forget_events(&names);
        Ok(())
    }
}

/// An event on its way out.
struct Going {
    nid: EventNid,
    id: OwnedEventId,
    flags: Flags,
    /// Whether it only leaves the timeline.
    is_kept: bool,
}

fn named(row: &Row) -> Result<(EventNid, OwnedEventId), RoomError> {
    let id = <&EventId>::try_from(row.text(1)?).map_err(|error| RoomError::Damaged(error.to_string()))?;
    Ok((EventNid(row.int(0)?), id.to_owned()))
}
