//! Who is typing in which room. In memory: a restart forgets it, as a time-out would.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use parking_lot::Mutex;
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};
use samtal_kit::Clock;
use tokio::sync::{Notify, broadcast};

use crate::{
    EduChange,
    told::{Teller, Told},
};

/// Longest time that one notification counts.
const TIMEOUT_MS_MAX: u64 = 120_000;
/// Most users of one room that are kept.
const USERS_MAX: usize = 1_000;
/// How long a room with nobody typing is remembered, so that those who saw someone typing hear of the end.
const QUIET_MS: u64 = 10 * 60_000;

#[derive(Debug, Default)]
struct Rooms {
    serial: u64,
    rooms: HashMap<OwnedRoomId, Room>,
}

#[derive(Debug, Default)]
struct Room {
    /// User to the time when it ends.
    users: BTreeMap<OwnedUserId, u64>,
    serial: u64,
    changed_ms: u64,
}

/// Who is typing in the rooms of one tenant. Changes carry a serial number that grows, over restarts too.
#[derive(Debug)]
pub struct Typing {
    clock: Clock,
    rooms: Mutex<Rooms>,
    changes: broadcast::Sender<EduChange>,
    woken: Notify,
    teller: Teller,
}

impl Rooms {
    /// The next serial. It keeps up with the clock, so that those of several nodes can be compared, and with what they told.
    fn next(&mut self, now_ms: u64, told: u64) -> u64 {
        self.serial = (self.serial + 1).max(if told > 0 { told } else { now_ms });
        self.serial
    }
}

impl Typing {
    pub(crate) fn new(clock: Clock, changes: broadcast::Sender<EduChange>, teller: Teller) -> Self {
        let rooms = Rooms { serial: clock.now_ms(), rooms: HashMap::new() };
        Self { clock, rooms: Mutex::new(rooms), changes, woken: Notify::new(), teller }
    }

    /// The newest serial.
    pub fn serial(&self) -> u64 {
        self.rooms.lock().serial
    }

    /// `user_id` types in the room for the next `timeout`.
    pub fn start(&self, room_id: &RoomId, user_id: &UserId, timeout: Duration) {
        let ms = u64::try_from(timeout.as_millis()).unwrap_or(TIMEOUT_MS_MAX).clamp(1, TIMEOUT_MS_MAX);
        let serial = self.begin(room_id, user_id, ms, 0);
        self.tell(room_id, user_id, ms, serial);
    }

    /// `user_id` no longer types in the room.
    pub fn stop(&self, room_id: &RoomId, user_id: &UserId) {
        if let Some(serial) = self.end(room_id, user_id, 0) {
            self.tell(room_id, user_id, 0, serial);
        }
    }

    fn tell(&self, room_id: &RoomId, user_id: &UserId, ms: u64, serial: u64) {
        self.teller.tell(|| Told::Typing { room: room_id.to_owned(), user: user_id.to_owned(), ms, serial });
    }

    /// Another node of ours says so.
    pub(crate) fn told(&self, room_id: &RoomId, user_id: &UserId, ms: u64, serial: u64) {
        if ms > 0 {
            self.begin(room_id, user_id, ms.min(TIMEOUT_MS_MAX), serial);
        } else {
            self.end(room_id, user_id, serial);
        }
    }

    fn begin(&self, room_id: &RoomId, user_id: &UserId, ms: u64, told: u64) -> u64 {
        let now_ms = self.clock.now_ms();
        let mut rooms = self.rooms.lock();
        let room = rooms.rooms.entry(room_id.to_owned()).or_default();
        if room.users.len() >= USERS_MAX && !room.users.contains_key(user_id) {
            return rooms.serial;
        }
        let is_new = room.users.insert(user_id.to_owned(), now_ms + ms).is_none();
        if is_new {
            self.note(&mut rooms, room_id, now_ms, told);
        }
        self.woken.notify_one();
        rooms.serial
    }

    fn end(&self, room_id: &RoomId, user_id: &UserId, told: u64) -> Option<u64> {
        let now_ms = self.clock.now_ms();
        let mut rooms = self.rooms.lock();
        rooms.rooms.get_mut(room_id)?.users.remove(user_id)?;
        self.note(&mut rooms, room_id, now_ms, told);
        Some(rooms.serial)
    }

    fn note(&self, rooms: &mut Rooms, room_id: &RoomId, now_ms: u64, told: u64) {
        let serial = rooms.next(now_ms, told);
        if let Some(room) = rooms.rooms.get_mut(room_id) {
            room.serial = serial;
            room.changed_ms = now_ms;
        }
        let _ = self.changes.send(EduChange::Typing(room_id.to_owned()));
    }

    /// Who types in the room.
    pub fn users(&self, room_id: &RoomId) -> Vec<OwnedUserId> {
        self.rooms.lock().rooms.get(room_id).map(|room| room.users.keys().cloned().collect()).unwrap_or_default()
    }

    /// The whole list of who types in the room if it changed after `since`.
    pub fn changed(&self, room_id: &RoomId, since: u64) -> Option<Vec<OwnedUserId>> {
        let rooms = self.rooms.lock();
        let room = rooms.rooms.get(room_id).filter(|room| room.serial > since)?;
        Some(room.users.keys().cloned().collect())
    }

    /// The rooms whose list changed after `since`.
    pub fn rooms_changed(&self, since: u64) -> Vec<OwnedRoomId> {
        let rooms = self.rooms.lock();
        if rooms.serial <= since {
            return Vec::new();
        }
        rooms.rooms.iter().filter(|(_, room)| room.serial > since).map(|(room_id, _)| room_id.clone()).collect()
    }

    /// Ends what has timed out and forgets rooms that have long been quiet.
    pub(crate) fn expire(&self) {
        let now_ms = self.clock.now_ms();
        let mut rooms = self.rooms.lock();
        let Rooms { serial, rooms } = &mut *rooms;
        rooms.retain(|room_id, room| {
            let before = room.users.len();
            room.users.retain(|_, ends_ms| *ends_ms > now_ms);
            if room.users.len() < before {
                *serial = (*serial + 1).max(now_ms);
                room.serial = *serial;
                room.changed_ms = now_ms;
                let _ = self.changes.send(EduChange::Typing(room_id.clone()));
            }
            !room.users.is_empty() || now_ms.saturating_sub(room.changed_ms) < QUIET_MS
        });
    }

    /// Ready when someone has begun to type: the next deadline may have moved.
    pub(crate) async fn woken(&self) {
        self.woken.notified().await;
    }

    pub(crate) fn next_deadline_in(&self) -> Duration {
        let now_ms = self.clock.now_ms();
        let rooms = self.rooms.lock();
        let next = rooms.rooms.values().flat_map(|room| room.users.values()).min();
        next.map_or(Duration::MAX, |ends_ms| Duration::from_millis(ends_ms.saturating_sub(now_ms).max(1)))
    }
}

#[cfg(test)]
mod tests {
    use ruma::{room_id, user_id};

    use super::*;

    #[test]
    fn the_last_one_to_stop_leaves_an_empty_list_to_tell() {
        let clock = Clock::manual(1_000);
        let typing = Typing::new(clock.clone(), broadcast::channel(8).0, Teller::default());
        let (room, user) = (room_id!("!r:a"), user_id!("@u:a"));
        let before = typing.serial();
        typing.start(room, user, Duration::from_secs(5));
        assert_eq!(typing.changed(room, before), Some(vec![user.to_owned()]));
        assert_eq!(typing.rooms_changed(before), [room.to_owned()]);
        assert_eq!(typing.changed(room_id!("!other:a"), before), None);
        let between = typing.serial();
        typing.start(room, user, Duration::from_secs(5));
        assert_eq!(typing.serial(), between, "going on is no change");
        clock.advance(Duration::from_secs(6));
        typing.expire();
        assert_eq!(typing.changed(room, between), Some(vec![]));
        assert_eq!(typing.changed(room, typing.serial()), None);
    }
}
