//! What happened last in each room, as far as memory goes.

use std::collections::{HashMap, HashSet, VecDeque};

use ruma::{OwnedRoomId, RoomId};

/// Positions of a room's last changes that are remembered.
const RECENT: usize = 8;
/// Last changes of all rooms together that are remembered in their order.
const RECENT_ROOMS: usize = 2_000;
/// Rooms of which it is remembered when they changed. When there are more, all are forgotten.
pub(crate) const ROOMS_MAX: usize = 20_000;

/// What may have changed in a room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changed {
    /// Timeline or state.
    pub(crate) events: bool,
    /// Receipts.
    pub(crate) receipts: bool,
}

/// What happened last in a room.
#[derive(Clone, Debug, Default)]
struct Room {
    /// Positions of the last changes of timeline or state, ascending.
    recent: Vec<i64>,
    /// Whether `recent` has lost older ones.
    overflown: bool,
    receipt: i64,
}

impl Room {
    fn note(&mut self, position: i64) {
        if self.recent.len() == RECENT {
            self.recent.remove(0);
            self.overflown = true;
        }
        self.recent.push(position);
    }
}

/// What happened last in each room.
#[derive(Debug)]
pub(crate) struct Marks {
    rooms: HashMap<OwnedRoomId, Room>,
    /// Of what happened in rooms up to here nothing is known.
    floor: i64,
    /// Which rooms changed after `recent_floor`, in order.
    recent: VecDeque<(i64, OwnedRoomId)>,
    recent_floor: i64,
}

impl Marks {
    /// Knows nothing of what happened up to `floor`.
    pub(crate) fn new(floor: i64) -> Self {
        Self { rooms: HashMap::new(), floor, recent: VecDeque::new(), recent_floor: floor }
    }

    /// Notes a change of a room's timeline or state.
    pub(crate) fn note_event(&mut self, room_id: &RoomId, position: i64) {
        self.room(room_id, position).note(position);
    }

    /// Notes a receipt in a room.
    pub(crate) fn note_receipt(&mut self, room_id: &RoomId, position: i64) {
        self.room(room_id, position).receipt = position;
    }

    fn room(&mut self, room_id: &RoomId, position: i64) -> &mut Room {
        if self.recent.len() == RECENT_ROOMS
            && let Some((oldest, _)) = self.recent.pop_front()
        {
            self.recent_floor = oldest;
        }
        self.recent.push_back((position, room_id.to_owned()));
        if self.rooms.len() == ROOMS_MAX && !self.rooms.contains_key(room_id) {
            self.rooms = HashMap::new();
            self.floor = position - 1;
        }
        self.rooms.entry(room_id.to_owned()).or_default()
    }

    /// For each of these rooms, what may have changed in it after `since`.
    pub(crate) fn changed<'a>(&self, rooms: impl IntoIterator<Item = &'a RoomId>, since: i64) -> Vec<Changed> {
        if since < self.floor {
            return rooms.into_iter().map(|_| Changed { events: true, receipts: true }).collect();
        }
        let changed = |room_id| {
            self.rooms.get(room_id).map_or(Changed::default(), |marks| Changed {
                events: marks.recent.last().is_some_and(|last| *last > since),
                receipts: marks.receipt > since,
            })
        };
        rooms.into_iter().map(changed).collect()
    }

    /// The rooms in which anything may have changed after `since`; none when that is too long ago to say.
    pub(crate) fn changed_rooms(&self, since: i64) -> Option<HashSet<OwnedRoomId>> {
        if since < self.recent_floor {
            return None;
        }
        let newest_first = self.recent.iter().rev().take_while(|(at, _)| *at > since);
        Some(newest_first.map(|(_, room_id)| room_id.clone()).collect())
    }

    /// Of what happened in rooms up to here nothing is known. It may rise.
    pub(crate) fn floor(&self) -> i64 {
        self.floor
    }

    /// For each of these rooms, the position of its last change of timeline or state that was taken in, if there was one.
    pub(crate) fn last_changes<'a>(&self, rooms: impl IntoIterator<Item = &'a RoomId>) -> Vec<Option<i64>> {
        rooms.into_iter().map(|room_id| self.rooms.get(room_id)?.recent.last().copied()).collect()
    }

    /// A span with the same changes of the room as (`since`, `until`], the same for all who ask for these changes.
    pub(crate) fn same_span(&self, room_id: &RoomId, since: i64, until: i64) -> (i64, i64) {
        let Some(marks) = self.rooms.get(room_id) else { return (since, until) };
        let before = marks.recent.iter().rev().find(|at| **at <= since);
        let known = since >= self.floor && !marks.overflown;
        let from = before.copied().or(known.then_some(self.floor)).unwrap_or(since);
        let to = marks.recent.iter().rev().find(|at| **at <= until && **at > since).copied().unwrap_or(until);
        (from, to)
    }
}
