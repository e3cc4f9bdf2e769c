//! Which members each device has been told of, so that lazy loading does not repeat itself.
//!
//! Forgetting costs only repetition. An entry counts only for a request that shows, by its token, that the answer which
//! held the member arrived: a lost answer hides nothing.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use ruma::{EventId, OwnedDeviceId, OwnedEventId, OwnedRoomId, OwnedUserId};
use samtal_kit::{Cache, Memory};

/// Members of one room that are remembered for a device.
const MEMBERS_MAX: usize = 1_000;
/// Rooms that are remembered for a device.
const ROOMS_MAX: usize = 2_000;

/// What a remembered member weighs.
const MEMBER_BYTES: usize = 250;

/// What one device has been told.
#[derive(Debug, Default)]
struct Device {
    rooms: HashMap<OwnedRoomId, HashMap<OwnedUserId, Told>>,
    members: usize,
    /// What was told by answers that have not been shown to have arrived, and when.
    on_the_way: Vec<(i64, OwnedRoomId, OwnedUserId)>,
}

#[derive(Clone, Debug)]
struct Told {
    event_id: OwnedEventId,
    /// `next_batch` of the answer.
    at: i64,
}

/// What lazy loading has told to whom.
#[derive(Debug)]
pub(crate) struct LazyMemory(Cache<(OwnedUserId, OwnedDeviceId), Arc<Mutex<Device>>>);

impl LazyMemory {
    pub(crate) fn new(memory: &Memory) -> Self {
        Self(Cache::new(memory))
    }

    /// Forgets a device: it starts anew.
    pub(crate) fn forget(&self, device: &(OwnedUserId, OwnedDeviceId)) {
        self.0.remove(device);
    }

    /// The device has come as far as `since`: what it was told after that has not arrived.
    pub(crate) fn rewind(&self, device: &(OwnedUserId, OwnedDeviceId), since: i64) {
        if let Some(device) = self.0.get(device) {
            device.lock().rewind(since);
        }
    }

    /// Whether the device, which has seen everything up to `since`, has this member event.
    pub(crate) fn has(
        &self,
        device: &(OwnedUserId, OwnedDeviceId),
        since: i64,
        room_id: &OwnedRoomId,
        member: &OwnedUserId,
        event_id: &EventId,
    ) -> bool {
        let Some(device) = self.0.get(device) else { return false };
        let device = device.lock();
        let told = device.rooms.get(room_id).and_then(|members| members.get(member));
        told.is_some_and(|told| told.event_id == *event_id && told.at <= since)
    }

    /// The device gets these member events in an answer whose token is `at`.
    pub(crate) fn tell(
        &self,
        device: &(OwnedUserId, OwnedDeviceId),
        at: i64,
        room_id: &OwnedRoomId,
        members: impl IntoIterator<Item = (OwnedUserId, OwnedEventId)>,
    ) {
        let mut members = members.into_iter().peekable();
        if members.peek().is_none() {
            return;
        }
        let cell = self.0.get_or_put(device, || (Arc::default(), MEMBER_BYTES));
        let count = {
            let mut told = cell.lock();
            told.tell(at, room_id, members);
            told.members
        };
        self.0.resize(device, MEMBER_BYTES * (count + 1));
    }
}

impl Device {
    fn rewind(&mut self, since: i64) {
        for (at, room_id, member) in std::mem::take(&mut self.on_the_way) {
            if let Some(room) = self.rooms.get_mut(&room_id).filter(|_| at > since)
                && room.get(&member).is_some_and(|told| told.at > since)
                && room.remove(&member).is_some()
            {
                self.members -= 1;
            }
        }
    }

    fn tell(&mut self, at: i64, room_id: &OwnedRoomId, members: impl IntoIterator<Item = (OwnedUserId, OwnedEventId)>) {
        if self.rooms.len() >= ROOMS_MAX && !self.rooms.contains_key(room_id) {
            *self = Self::default();
        }
        let room = self.rooms.entry(room_id.clone()).or_default();
        for (member, event_id) in members {
            if room.len() >= MEMBERS_MAX {
                self.members -= room.len();
                room.clear();
            }
            self.on_the_way.push((at, room_id.clone(), member.clone()));
            match room.get_mut(&member) {
                Some(told) if told.event_id == event_id => told.at = told.at.min(at),
                _ => {
                    let before = room.insert(member, Told { event_id, at });
                    self.members += usize::from(before.is_none());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ruma::{event_id, owned_device_id, owned_room_id, owned_user_id};

    use super::*;

    #[test]
    fn a_member_that_only_a_lost_answer_held_is_told_again_later_too() {
        let memory = LazyMemory::new(&Memory::default());
        let device = (owned_user_id!("@u:a"), owned_device_id!("D"));
        let (room, member, event) = (owned_room_id!("!r:a"), owned_user_id!("@m:a"), event_id!("$1"));
        memory.tell(&device, 10, &room, [(member.clone(), event.to_owned())]);
        memory.rewind(&device, 9);
        assert!(!memory.has(&device, 12, &room, &member, event), "the next answer did not hold it");
        memory.tell(&device, 14, &room, [(member.clone(), event.to_owned())]);
        memory.rewind(&device, 14);
        memory.rewind(&device, 9);
        assert!(memory.has(&device, 14, &room, &member, event), "it has arrived");
    }

    #[test]
    fn a_member_is_known_only_after_the_answer_that_held_it_arrived() {
        let memory = LazyMemory::new(&Memory::default());
        let device = (owned_user_id!("@u:a"), owned_device_id!("D"));
        let (room, member) = (owned_room_id!("!r:a"), owned_user_id!("@m:a"));
        let (first, second) = (event_id!("$1").to_owned(), event_id!("$2").to_owned());
        memory.tell(&device, 10, &room, [(member.clone(), first.clone())]);
        assert!(!memory.has(&device, 9, &room, &member, &first), "the answer was lost and is asked for again");
        assert!(memory.has(&device, 10, &room, &member, &first));
        assert!(!memory.has(&device, 10, &room, &member, &second), "a change is never hidden");
        memory.forget(&device);
        assert!(!memory.has(&device, 10, &room, &member, &first));
    }
}
