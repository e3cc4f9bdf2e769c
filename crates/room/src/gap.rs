//! History that is missing: where it is, and how it is put in place when it comes.
//!
//! An event may come before what it builds on. Each event that is named as a previous one and is not here is a *backward
//! extremity*, noted with the gap it belongs to. A gap lies right before the event of its position, which left [`ROOM`]
//! positions of the log free before itself; what is fetched later takes them, newest first. So whoever pages back finds it
//! where it belongs, and whoever has synced past the gap is not told of it as news. Gap 0 lies before all that is here, and
//! fills with negative positions; so does what a gap has no room for.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ruma::{EventId, OwnedEventId};
use samtal_db::{Change, Row, Sql, Value, params, sql};
use samtal_event::Pdu;
use samtal_model::{ChangeKind, StreamPosition};
use samtal_state::SnapshotId;

use crate::{
    Rooms,
    error::RoomError,
    graph::{Flags, Room, StoredEvent, insert_event, place_event},
    outlier::needed,
    relation,
    turn::Turn,
    writer::{Outcome, Work},
};

/// Events of a gap that are shown in its place; older ones are shown at the room's old end.
pub(crate) const ROOM: i64 = 1_000;

const ADD: Sql = sql!(
    "INSERT INTO backward_extremity (room, event_id, position) VALUES ($1, $2, $3) ON CONFLICT (room, event_id) DO NOTHING"
);
const REMOVE: Sql = sql!("DELETE FROM backward_extremity WHERE room = $1 AND event_id = $2");
const OF_EVENTS: Sql =
    sql!("SELECT event_id, position FROM backward_extremity WHERE room = $1 AND event_id IN list($2)");
const ALL: Sql =
    sql!("SELECT event_id FROM backward_extremity WHERE room = $1 ORDER BY position DESC, event_id LIMIT $2");
const OF_GAP: Sql =
    sql!("SELECT event_id FROM backward_extremity WHERE room = $1 AND position = $2 ORDER BY event_id LIMIT $3");
const NEWEST: Sql = sql!(
    "SELECT position FROM backward_extremity WHERE room = $1 AND position > 0 AND position <= $2
     ORDER BY position DESC LIMIT 1"
);
const LOWEST: Sql = sql!("SELECT MIN(position) FROM event WHERE room = $1 AND position >= $2 AND position < $3");

/// An event from before, or from within a gap of, what is here.
#[derive(Clone, Debug)]
pub struct OldEvent {
    /// The event; its form, hashes and signatures have been checked.
    pub pdu: Pdu,
    /// The state before it, all of it held; without it, that after its previous events counts.
    pub state: Option<Vec<OwnedEventId>>,
}

/// A gap within a timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The position of the event behind it.
    pub position: StreamPosition,
    /// What belongs into it has positions above this.
    pub floor: StreamPosition,
}

impl Rooms {
    /// Takes in history, oldest event first: each event goes before those that name it. Events that are here already are left
    /// out, and so are those that nothing here builds on, or whose auth events or state are not known. How many were new.
    pub async fn insert_history(&self, room: &Arc<Room>, events: Vec<OldEvent>) -> Result<usize, RoomError> {
        let mut prepared = Vec::with_capacity(events.len());
        for event in events {
            let before = match &event.state {
                Some(state) => Some(self.snapshot_of(room, state).await?),
                None => None,
            };
            prepared.push((event.pdu, before));
        }
        match self.submit(&room.room_id, Work::History(prepared)).await? {
            Outcome::Inserted(count) => Ok(count),
            _ => Ok(0),
        }
    }

    /// Events that are named as previous ones and are not here: where history may be fetched. Those of the newest gap first.
    pub async fn backward_extremities(&self, room: &Room, limit: usize) -> Result<Vec<OwnedEventId>, RoomError> {
        ids(&self.inner.store.db().query(&ALL, params![room.nid.0, limit]).await?)
    }

    /// Those of one gap; position 0 is the one before all that is here.
    pub async fn backward_extremities_of(
        &self,
        room: &Room,
        gap: StreamPosition,
        limit: usize,
    ) -> Result<Vec<OwnedEventId>, RoomError> {
        ids(&self.inner.store.db().query(&OF_GAP, params![room.nid.0, gap.0, limit]).await?)
    }

    /// The first gap within the timeline that somebody comes to who reads back from `from`.
    pub async fn gap_before(&self, room: &Room, from: StreamPosition) -> Result<Option<Gap>, RoomError> {
        let upto = from.0.saturating_add(ROOM);
        let row = self.inner.store.db().query_opt(&NEWEST, params![room.nid.0, upto]).await?;
        let Some(row) = row else { return Ok(None) };
        let position = row.int(0)?;
        Ok(Some(Gap { position: StreamPosition(position), floor: StreamPosition(position - ROOM - 1) }))
    }

    /// Of events that another server has told together, those that something here builds on, and the others: news.
    pub async fn split_history(&self, room: &Room, events: Vec<Pdu>) -> Result<(Vec<Pdu>, Vec<Pdu>), RoomError> {
        let named: Vec<String> = events.iter().map(|pdu| pdu.event_id().to_string()).collect();
        let rows = self.inner.store.db().query(&OF_EVENTS, params![room.nid.0, named]).await?;
        let mut old: BTreeSet<OwnedEventId> = BTreeSet::new();
        let mut open = ids(&rows)?;
        while let Some(id) = open.pop() {
            if let Some(pdu) = events.iter().find(|pdu| pdu.event_id() == id)
                && old.insert(id)
            {
                open.extend(pdu.prev_events().iter().cloned());
            }
        }
        Ok(events.into_iter().partition(|pdu| old.contains(pdu.event_id())))
    }
}

/// Events in an order in which each comes after those of them that it names as previous ones; else by depth and id.
pub fn in_graph_order(mut events: Vec<Pdu>) -> Vec<Pdu> {
    events.sort_by(|a, b| (a.depth(), a.event_id()).cmp(&(b.depth(), b.event_id())));
    events.dedup_by(|a, b| a.event_id() == b.event_id());
    let mut waiting: BTreeSet<OwnedEventId> = events.iter().map(|pdu| pdu.event_id().to_owned()).collect();
    let mut ordered = Vec::with_capacity(events.len());
    // Depths that are true need one round; cycles, which hashes rule out since room version 3, end it.
    while !events.is_empty() {
        let before = ordered.len();
        let mut rest = Vec::new();
        for pdu in events {
            if pdu.prev_events().iter().any(|id| waiting.contains(id)) {
                rest.push(pdu);
            } else {
                waiting.remove(pdu.event_id());
                ordered.push(pdu);
            }
        }
        if ordered.len() == before {
            ordered.append(&mut rest);
        }
        events = rest;
    }
    ordered
}

fn ids(rows: &[Row]) -> Result<Vec<OwnedEventId>, RoomError> {
    Ok(rows.iter().filter_map(|row| row.text(0).ok().and_then(|id| OwnedEventId::try_from(id).ok())).collect())
}

impl Turn<'_> {
    /// The previous events of this one that are not here.
    pub(crate) async fn lacking(&self, pdu: &Pdu) -> Result<Vec<OwnedEventId>, RoomError> {
        let mut lacking = Vec::new();
        for id in pdu.prev_events() {
            if self.find(id).await?.is_none_or(|prev| prev.before.is_none()) {
                lacking.push(id.clone());
            }
        }
        Ok(lacking)
    }

    /// Leaves positions free before the event that is logged next.
    pub(crate) fn leave_room(&mut self) {
        self.batch.skip(ROOM);
    }

    /// Notes backward extremities of the gap before `position`.
    pub(crate) fn note_lacking(&mut self, lacking: &[OwnedEventId], position: &Value) {
        for id in lacking {
            self.batch.exec(&ADD, params![self.head.room.nid.0, id.as_str(), position.clone()]);
        }
    }

    /// An event is here now: it is no backward extremity any more. In which gap it was one, if it was.
    pub(crate) async fn no_longer_lacking(&mut self, id: &EventId) -> Result<Option<i64>, RoomError> {
        let gap = self.gap_of(id).await?;
        self.batch.exec(&REMOVE, params![self.head.room.nid.0, id.as_str()]);
        Ok(gap)
    }

    /// In which gap an event is missing, if one that is here names it.
    pub(crate) async fn gap_of(&self, id: &EventId) -> Result<Option<i64>, RoomError> {
        let params = params![self.head.room.nid.0, vec![id.to_string()]];
        let row = self.store.db().query_opt(&OF_EVENTS, params).await?;
        Ok(row.map(|row| row.int(1)).transpose()?)
    }

    /// Puts old events in their places. How many were new.
    pub(crate) async fn insert_history(&mut self, events: &[(Pdu, Option<SnapshotId>)]) -> Result<usize, RoomError> {
        let gaps = self.gaps_of(events).await?;
        let mut free: BTreeMap<i64, i64> = BTreeMap::new();
        let mut positions: BTreeMap<&EventId, i64> = BTreeMap::new();
        for (pdu, _) in events.iter().rev() {
            if let Some(gap) = gaps.get(pdu.event_id()) {
                positions.insert(pdu.event_id(), self.next_free(*gap, &mut free).await?);
            }
        }
        let (mut count, mut at_old_end, mut settles) = (0, false, false);
        for (pdu, told) in events {
            let (Some(gap), Some(position)) = (gaps.get(pdu.event_id()), positions.get(pdu.event_id())) else {
                continue;
            };
            let Some(event) = self.judged(pdu, *told).await? else { continue };
            count += 1;
            let is_shown = !event.flags.has(Flags::REJECTED);
            self.insert_old(event, is_shown.then_some(*position), *gap).await?;
            if is_shown {
                at_old_end |= *position < 0;
                if *position > 0 {
                    let change = Change::new(ChangeKind::Backfill).room(&self.head.room.room_id);
                    self.batch.log(change.reference(pdu.event_id()));
                }
                settles |= self.builds_on_extremity(pdu);
            }
        }
        if at_old_end {
            self.batch.log(Change::new(ChangeKind::Backfill).room(&self.head.room.room_id));
        }
        if settles {
            self.settle(None).await?;
        }
        Ok(count)
    }

    /// To which gap each of these events belongs that is not here: that of what names it, the oldest of several.
    async fn gaps_of(
        &mut self,
        events: &[(Pdu, Option<SnapshotId>)],
    ) -> Result<BTreeMap<OwnedEventId, i64>, RoomError> {
        let named: Vec<String> = events.iter().map(|(pdu, _)| pdu.event_id().to_string()).collect();
        let rows = self.store.db().query(&OF_EVENTS, params![self.head.room.nid.0, named]).await?;
        let mut belongs: BTreeMap<OwnedEventId, i64> = BTreeMap::new();
        for row in &rows {
            if let Ok(id) = OwnedEventId::try_from(row.text(0)?) {
                belongs.insert(id, row.int(1)?);
            }
        }
        let mut gaps = BTreeMap::new();
        for (pdu, _) in events.iter().rev() {
            let Some(gap) = belongs.get(pdu.event_id()).copied() else { continue };
            for prev in pdu.prev_events() {
                belongs.entry(prev.clone()).and_modify(|known| *known = gap.min(*known)).or_insert(gap);
            }
            match self.find(pdu.event_id()).await? {
                Some(known) if !known.flags.has(Flags::OUTLIER) && !known.is_unseen() => {
                    self.no_longer_lacking(pdu.event_id()).await?;
                }
                _ => {
                    gaps.insert(pdu.event_id().to_owned(), gap);
                }
            }
        }
        Ok(gaps)
    }

    /// The highest position of a gap that is free still; of the old end, once the gap is full.
    async fn next_free(&mut self, gap: i64, free: &mut BTreeMap<i64, i64>) -> Result<i64, RoomError> {
        if gap > 0 {
            let next = match free.get(&gap) {
                Some(next) => *next,
                None => {
                    let row =
                        self.store.db().query_opt(&LOWEST, params![self.head.room.nid.0, gap - ROOM, gap]).await?;
                    let stored = row.map(|row| row.opt_int(0)).transpose()?.flatten().unwrap_or(gap);
                    self.lowest_placed(gap - ROOM, gap).unwrap_or(gap).min(stored) - 1
                }
            };
            free.insert(gap, next - 1);
            if next >= gap - ROOM {
                return Ok(next);
            }
        }
        self.head.oldest = self.head.oldest.min(0) - 1;
        Ok(self.head.oldest)
    }

    /// The event as it is to be stored; none when it cannot be judged, since what it builds on is not known.
    async fn judged(&mut self, pdu: &Pdu, told: Option<SnapshotId>) -> Result<Option<StoredEvent>, RoomError> {
        for id in needed(pdu, &self.head.room) {
            if self.find(&id).await?.is_none() {
                return Ok(None);
            }
        }
        let before = match told {
            Some(before) => before,
            None => match self.state_of_prev(pdu).await? {
                Some(before) => before,
                None => return Ok(None),
            },
        };
        let known = self.find(pdu.event_id()).await?;
        let (nid, flags, pdu) = match known {
            Some(known) => (known.nid, known.flags.without(Flags::OUTLIER), known.pdu.clone()),
            None => {
                let auth = self.store.graph.events(pdu.auth_events()).await?;
                let auth: Vec<Pdu> = auth.iter().map(|event| event.pdu.clone()).collect();
                (self.number(&auth).await?, Flags::default(), pdu.clone())
            }
        };
        let is_rejected = self.rejection(&pdu, before).await?.is_some();
        let flags = if is_rejected { flags.with(Flags::REJECTED) } else { flags };
        let room = self.head.room.nid;
        let pdu = pdu.with_rejected(is_rejected);
        Ok(Some(StoredEvent {
            nid,
            room,
            position: None,
            flags,
            before: Some(before),
            redacted_by: None,
            txn: None,
            pdu,
        }))
    }

    async fn insert_old(&mut self, event: StoredEvent, position: Option<i64>, gap: i64) -> Result<(), RoomError> {
        let (nid, pdu) = (event.nid, event.pdu.clone());
        match self.find(pdu.event_id()).await? {
            Some(known) => {
                place_event(&mut self.batch, &event, position.into(), known.flags);
                self.rewrite(nid, pdu.event_id());
                self.log_placed(pdu.event_id());
            }
            None => insert_event(&mut self.batch, &event, position.into(), None),
        }
        self.no_longer_lacking(pdu.event_id()).await?;
        let Some(position) = position else {
            self.expect_later(event, None);
            return Ok(());
        };
        relation::insert(&mut self.batch, event.room, nid, &pdu, position.into());
        let lacking = self.lacking(&pdu).await?;
        // What a gap has no room for goes on at the old end.
        let gap = if position < 0 { 0 } else { gap };
        self.note_lacking(&lacking, &gap.into());
        self.expect_at(event, StreamPosition(position));
        for redaction in self.waiting_redactions(pdu.event_id()).await? {
            self.apply_redaction(&redaction).await?;
        }
        if pdu.type_str() == "m.room.redaction" && pdu.redacts().is_some() {
            self.apply_redaction(&pdu).await?;
        }
        Ok(())
    }

    /// Takes what an old event names from the forward extremities: something newer that is here builds on it. Whether there was any.
    fn builds_on_extremity(&mut self, pdu: &Pdu) -> bool {
        let named: BTreeSet<&OwnedEventId> =
            pdu.prev_events().iter().filter(|id| self.head.extremities.contains(id)).collect();
        let changes = !named.is_empty() && named.len() < self.head.extremities.len();
        if changes {
            for id in named {
                self.head.extremities.remove(id);
            }
        }
        changes
    }

    /// The state after the previous events, if all of them have one.
    async fn state_of_prev(&mut self, pdu: &Pdu) -> Result<Option<SnapshotId>, RoomError> {
        let mut after = Vec::new();
        for id in pdu.prev_events() {
            let Some(event) = self.find(id).await? else { return Ok(None) };
            if event.before.is_none() {
                return Ok(None);
            }
            after.push(self.after(&event).await?);
        }
        if after.is_empty() {
            return Ok((pdu.type_str() == "m.room.create").then_some(SnapshotId::EMPTY));
        }
        self.resolve(&after).await.map(Some)
    }
}
