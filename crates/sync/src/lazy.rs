//! Which members each device has been told of, so that lazy loading does not repeat itself.
//!
//! Forgetting costs only repetition. An entry counts only for a request that shows, by its token, that the answer which
//! held the member arrived: a lost answer hides nothing.

use std::{collections::HashMap, num::NonZeroUsize};

use lru::LruCache;
use parking_lot::Mutex;
use ruma::{OwnedDeviceId, OwnedEventId, OwnedRoomId, OwnedUserId};

/// Devices that are remembered.
const DEVICES: NonZeroUsize = NonZeroUsize::new(2_000).expect("not zero");
/// Members of one room that are remembered for a device.
const MEMBERS_MAX: usize = 1_000;
/// Rooms that are remembered for a device.
const ROOMS_MAX: usize = 2_000;

type Rooms = HashMap<OwnedRoomId, HashMap<OwnedUserId, Told>>;

#[derive(Clone, Debug)]
struct Told {
    event_id: OwnedEventId,
    /// `next_batch` of the answer.
    at: i64,
}

/// What lazy loading has told to whom.
#[derive(Debug)]
pub(crate) struct LazyMemory(Mutex<LruCache<(OwnedUserId, OwnedDeviceId), Rooms>>);

impl Default for LazyMemory {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(DEVICES)))
    }
}

impl LazyMemory {
    /// Forgets a device: it starts anew.
    pub(crate) fn forget(&self, device: &(OwnedUserId, OwnedDeviceId)) {
        self.0.lock().pop(device);
    }

    /// Whether the device, which has seen everything up to `since`, has this member event.
    pub(crate) fn has(
        &self,
        device: &(OwnedUserId, OwnedDeviceId),
        since: i64,
        room_id: &OwnedRoomId,
        member: &OwnedUserId,
        event_id: &OwnedEventId,
    ) -> bool {
        let mut devices = self.0.lock();
        let told = devices.get(device).and_then(|rooms| rooms.get(room_id)).and_then(|members| members.get(member));
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
        let mut devices = self.0.lock();
        let rooms = devices.get_or_insert_mut(device.clone(), Rooms::new);
        if rooms.len() >= ROOMS_MAX && !rooms.contains_key(room_id) {
            rooms.clear();
        }
        let room = rooms.entry(room_id.clone()).or_default();
        for (member, event_id) in members {
            if room.len() >= MEMBERS_MAX {
                room.clear();
            }
            match room.get_mut(&member) {
                Some(told) if told.event_id == event_id => told.at = told.at.min(at),
                _ => {
                    room.insert(member, Told { event_id, at });
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
    fn a_member_is_known_only_after_the_answer_that_held_it_arrived() {
        let memory = LazyMemory::default();
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
