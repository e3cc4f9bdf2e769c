//! The forward extremities of a room: the events nothing refers to yet, and the states they end in.
//!
//! There is one, as a rule, and it stands in the row of the head. Whoever wants to harm a room makes thousands: then each is a
//! row of its own, only what changes is written, and what is worked out from all of them is worked out seldom.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use ruma::{EventId, OwnedEventId};
use samtal_db::{Batch, Sql, params, sql};
use samtal_event::Pdu;
use samtal_state::SnapshotId;

use crate::{
    Rooms,
    error::RoomError,
    graph::Room,
    ids::{EventNid, RoomNid},
    store::Store,
    writer::Work,
};

/// So many stand in the row of the head.
const LISTED_MAX: usize = 32;
/// What stands there instead if there are more.
const IN_ROWS: &str = "rows";
/// As [`IN_ROWS`], where the room's state has not been worked out from all of them.
const UNSETTLED: &str = "rows, unsettled";
/// Different states that are resolved anew after each event.
const STATES_FEW: usize = 32;
/// Where there are more: states that are resolved, at most, for each new one.
const STATES_EACH: usize = 8;

const ROWS: Sql = sql!("SELECT nid FROM forward_extremity WHERE room = $1 ORDER BY nid");
const ROW_INSERT: Sql =
    sql!("INSERT INTO forward_extremity (room, nid) VALUES ($1, $2) ON CONFLICT (room, nid) DO NOTHING");
const ROW_DELETE: Sql = sql!("DELETE FROM forward_extremity WHERE room = $1 AND nid = $2");
const ROWS_DELETE: Sql = sql!("DELETE FROM forward_extremity WHERE room = $1");
const UNSETTLED_INSERT: Sql = sql!("INSERT INTO unsettled_room (room) VALUES ($1) ON CONFLICT (room) DO NOTHING");
const UNSETTLED_DELETE: Sql = sql!("DELETE FROM unsettled_room WHERE room = $1");
const UNSETTLED_ROOMS: Sql = sql!("SELECT room FROM unsettled_room ORDER BY room");

/// An event nothing refers to yet.
#[derive(Clone, Debug)]
pub(crate) struct Extremity {
    pub(crate) pdu: Pdu,
    /// The state after it.
    pub(crate) after: SnapshotId,
}

/// All of a room's.
#[derive(Clone, Debug, Default)]
pub(crate) struct Extremities {
    /// Cheap to clone for those who may want to go back.
    all: Arc<All>,
    /// What the rows lack and have too much; all of them are written if they were none before.
    added: BTreeSet<EventNid>,
    removed: BTreeSet<EventNid>,
    in_rows: bool,
    /// New states since all were resolved last.
    unsettled: usize,
    /// Whether the database has noted it.
    was_unsettled: bool,
}

#[derive(Clone, Debug, Default)]
struct All {
    /// By number: roughly as they came.
    events: BTreeMap<EventNid, Extremity>,
    nids: HashMap<OwnedEventId, EventNid>,
    /// How many end in each state.
    states: BTreeMap<SnapshotId, usize>,
    bytes: usize,
}

impl Extremities {
    /// Those that the head's row tells of.
    pub(crate) async fn read(store: &Store, room: &Room, listed: &str) -> Result<Self, RoomError> {
        let mut all = All::default();
        for event in store.in_order(&nids(store, room, listed).await?).await? {
            let after = store.state_after(&event).await?;
            all.insert(event.nid, Extremity { pdu: event.pdu.clone(), after });
        }
        let unsettled = if listed == UNSETTLED { all.states.len() } else { 0 };
        let in_rows = listed == IN_ROWS || listed == UNSETTLED;
        Ok(Self { all: Arc::new(all), in_rows, unsettled, was_unsettled: unsettled > 0, ..Self::default() })
    }

    pub(crate) fn len(&self) -> usize {
        self.all.events.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.events.is_empty()
    }

    pub(crate) fn contains(&self, id: &EventId) -> bool {
        self.all.nids.contains_key(id)
    }

    /// As they came.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Extremity> {
        self.all.events.values()
    }

    /// Adds one. Whether a state has come with it.
    pub(crate) fn insert(&mut self, nid: EventNid, pdu: Pdu, after: SnapshotId) -> bool {
        let is_new = !self.all.states.contains_key(&after);
        Arc::make_mut(&mut self.all).insert(nid, Extremity { pdu, after });
        self.removed.remove(&nid);
        self.added.insert(nid);
        is_new
    }

    /// Takes one out. Whether a state has gone with it.
    pub(crate) fn remove(&mut self, id: &EventId) -> bool {
        let Some(nid) = self.all.nids.get(id).copied() else { return false };
        let gone = Arc::make_mut(&mut self.all).remove(nid);
        self.added.remove(&nid);
        self.removed.insert(nid);
        gone.is_some_and(|gone| !self.all.states.contains_key(&gone.after))
    }

    /// Takes all out.
    pub(crate) fn clear(&mut self) {
        let ids: Vec<OwnedEventId> = self.all.nids.keys().cloned().collect();
        for id in ids {
            self.remove(&id);
        }
    }

    /// The states they end in, each once.
    pub(crate) fn states(&self) -> Vec<SnapshotId> {
        self.all.states.keys().copied().collect()
    }

    /// The state that all of them end in, if it is one.
    pub(crate) fn only_state(&self) -> Option<SnapshotId> {
        let (state, _) = self.all.states.first_key_value()?;
        (self.all.states.len() == 1).then_some(*state)
    }

    /// Those that the next event names: all of them, or the newest and the oldest if they are too many.
    pub(crate) fn to_name(&self, max: usize) -> Vec<&Extremity> {
        let newest = if self.len() <= max { max } else { max - max / 2 };
        let mut named: Vec<&Extremity> = self.iter().rev().take(newest).collect();
        if self.len() > max {
            named.extend(self.iter().take(max / 2));
        }
        named
    }

    /// Notes that the states have changed. Whether they are to be resolved before anything else happens.
    pub(crate) fn disturb(&mut self) -> bool {
        self.unsettled += 1;
        self.all.states.len() <= STATES_FEW
    }

    /// Whether the states have changed since they were resolved.
    pub(crate) fn is_unsettled(&self) -> bool {
        self.unsettled > 0
    }

    /// How many states are to be resolved, if that was left for later.
    pub(crate) fn unsettled_states(&self) -> Option<usize> {
        self.is_unsettled().then(|| self.all.states.len())
    }

    /// Whether so many have changed that resolving all of them costs little for each.
    pub(crate) fn is_due(&self) -> bool {
        self.unsettled > 0 && self.all.states.len() <= self.unsettled * STATES_EACH
    }

    /// Notes that the states have been resolved.
    pub(crate) fn settled(&mut self) {
        self.unsettled = 0;
    }

    /// About how many bytes they take.
    pub(crate) fn weight(&self) -> usize {
        self.all.bytes
    }

    /// Adds the rows that change, if they are in rows. What is to stand in the row of the head.
    pub(crate) fn write(&mut self, batch: &mut Batch, room: RoomNid) -> String {
        let (added, removed) = (std::mem::take(&mut self.added), std::mem::take(&mut self.removed));
        let is_unsettled = self.is_unsettled();
        match (std::mem::replace(&mut self.was_unsettled, is_unsettled), is_unsettled) {
            (false, true) => batch.exec(&UNSETTLED_INSERT, params![room.0]),
            (true, false) => batch.exec(&UNSETTLED_DELETE, params![room.0]),
            _ => {}
        }
        if self.len() <= LISTED_MAX {
            if std::mem::take(&mut self.in_rows) {
                batch.exec(&ROWS_DELETE, params![room.0]);
            }
            let ids: Vec<&str> = self.iter().map(|extremity| extremity.pdu.event_id().as_str()).collect();
            return serde_json::to_string(&ids).unwrap_or_else(|_| "[]".to_owned());
        }
        if std::mem::replace(&mut self.in_rows, true) {
            for nid in removed {
                batch.exec(&ROW_DELETE, params![room.0, nid.0]);
            }
            for nid in added {
                batch.exec(&ROW_INSERT, params![room.0, nid.0]);
            }
        } else {
            for nid in self.all.events.keys() {
                batch.exec(&ROW_INSERT, params![room.0, nid.0]);
            }
        }
        if self.was_unsettled { UNSETTLED.to_owned() } else { IN_ROWS.to_owned() }
    }
}

impl All {
    fn insert(&mut self, nid: EventNid, extremity: Extremity) {
        self.remove(nid);
        self.bytes += weight(&extremity);
        *self.states.entry(extremity.after).or_default() += 1;
        self.nids.insert(extremity.pdu.event_id().to_owned(), nid);
        self.events.insert(nid, extremity);
    }

    fn remove(&mut self, nid: EventNid) -> Option<Extremity> {
        let gone = self.events.remove(&nid)?;
        self.bytes = self.bytes.saturating_sub(weight(&gone));
        self.nids.remove(gone.pdu.event_id());
        if let Some(count) = self.states.get_mut(&gone.after) {
            *count -= 1;
            if *count == 0 {
                self.states.remove(&gone.after);
            }
        }
        Some(gone)
    }
}

fn weight(extremity: &Extremity) -> usize {
    extremity.pdu.weight() + 300
}

impl Rooms {
    /// Works out the state of rooms with very many forward extremities that was left for later when the process ended.
    pub async fn settle_all(&self) {
        let settled = async {
            for row in self.inner.store.db().query(&UNSETTLED_ROOMS, params![]).await? {
                let room = self.inner.store.graph.room_by_nid(RoomNid(row.int(0)?)).await?;
                self.submit(&room.room_id, Work::Settle).await?;
            }
            Ok::<_, RoomError>(())
        };
        if let Err(error) = settled.await {
            // The next event of such a room does it, too.
            tracing::warn!(%error, "rooms with many forward extremities are not settled yet");
        }
    }
}

async fn nids(store: &Store, room: &Room, listed: &str) -> Result<Vec<EventNid>, RoomError> {
    if listed == IN_ROWS || listed == UNSETTLED {
        let rows = store.db().scan(&ROWS, params![room.nid.0]).await?;
        return rows.iter().map(|row| Ok(EventNid(row.int(0)?))).collect();
    }
    let ids: Vec<OwnedEventId> = serde_json::from_str(listed)
        .map_err(|_| RoomError::Damaged(format!("the head of {} has bad forward extremities", room.room_id)))?;
    Ok(store.graph.events(&ids).await?.iter().map(|event| event.nid).collect())
}

/// The ids of those that the head's row tells of, as they came.
pub(crate) async fn ids(store: &Store, room: &Room, listed: &str) -> Result<Vec<OwnedEventId>, RoomError> {
    let mut nids = nids(store, room, listed).await?;
    nids.sort_unstable();
    Ok(store.in_order(&nids).await?.iter().map(|event| event.pdu.event_id().to_owned()).collect())
}
