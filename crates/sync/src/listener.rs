//! One who listens: what the node keeps at hand of a user who syncs, and what wakes them.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use ruma::{OwnedDeviceId, OwnedRoomId, OwnedUserId, RoomId, events::room::member::MembershipState};
use samtal_room::{RoomError, RoomMembership, Store};
use tokio::sync::watch;

/// Revoked tokens of a user that are remembered, for syncs that still wait with them.
const ENDED_MAX: usize = 64;
/// Memberships that are gone through to find out whether two users share a room: more are left to the database.
const COMPARED_MAX: usize = 500;

/// A user who syncs.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) user_id: OwnedUserId,
    tick: watch::Sender<u64>,
    used_ms: AtomicU64,
    state: Mutex<ListenerState>,
}

#[derive(Debug, Default)]
struct ListenerState {
    rooms: HashSet<OwnedRoomId>,
    ready: bool,
    memberships: Option<Arc<Memberships>>,
    /// Counts the times that `memberships` was dropped.
    generation: u64,
    /// The last change of one-time keys.
    keys: i64,
    /// Changes up to here were there before we began to look.
    born: i64,
    /// The last change that names the user, but for events in rooms.
    own: i64,
    /// What was read for the user, with the position at which it held.
    ignored: Option<(i64, Arc<HashSet<OwnedUserId>>)>,
    /// For each device, as `ignored`.
    key_counts: HashMap<OwnedDeviceId, (i64, KeyCounts)>,
    /// For each device, up to where its messages have been acknowledged.
    acknowledged: HashMap<OwnedDeviceId, i64>,
    /// Devices whose token was revoked lately; all devices: `None`.
    ended: Vec<(i64, Option<OwnedDeviceId>)>,
}

/// All memberships of a user.
#[derive(Debug)]
pub(crate) struct Memberships {
    all: Vec<RoomMembership>,
    by_room: HashMap<OwnedRoomId, usize>,
    newest: i64,
}

impl Memberships {
    fn new(all: Vec<RoomMembership>) -> Self {
        let by_room = all.iter().enumerate().map(|(index, found)| (found.room_id.clone(), index)).collect();
        let newest = all.iter().map(|found| found.position.0).max().unwrap_or(0);
        Self { all, by_room, newest }
    }

    /// The position of the newest of them.
    pub(crate) fn newest(&self) -> i64 {
        self.newest
    }

    /// Where the membership in a room stands among all of them.
    pub(crate) fn place(&self, room_id: &RoomId) -> Option<usize> {
        self.by_room.get(room_id).copied()
    }

    /// Whether the two are joined to a same room; none when that is too much to look at.
    fn share_room(&self, other: &Self) -> Option<bool> {
        let (few, many) = if self.all.len() <= other.all.len() { (self, other) } else { (other, self) };
        let is_joined = |found: &RoomMembership| found.membership == MembershipState::Join;
        let there =
            |room_id: &RoomId| many.by_room.get(room_id).and_then(|at| many.all.get(*at)).is_some_and(is_joined);
        let mut joined = few.all.iter().filter(|found| is_joined(found));
        (few.all.len() <= COMPARED_MAX).then(|| joined.any(|found| there(&found.room_id)))
    }

    /// Those in `rooms`, and those that are newer than `since`, each once.
    pub(crate) fn of<'a>(&self, rooms: impl IntoIterator<Item = &'a RoomId>, since: i64) -> Vec<&RoomMembership> {
        let mut chosen: Vec<usize> =
            rooms.into_iter().filter_map(|room_id| self.by_room.get(room_id).copied()).collect();
        if self.newest > since {
            let newer = self.all.iter().enumerate().filter(|(_, found)| found.position.0 > since);
            chosen.extend(newer.map(|(index, _)| index));
        }
        chosen.sort_unstable();
        chosen.dedup();
        chosen.into_iter().filter_map(|index| self.all.get(index)).collect()
    }
}

impl std::ops::Deref for Memberships {
    type Target = [RoomMembership];

    fn deref(&self) -> &[RoomMembership] {
        &self.all
    }
}

/// What every answer says about the keys of a device.
#[derive(Clone, Debug)]
pub(crate) struct KeyCounts {
    /// One-time keys that are left, by algorithm.
    pub(crate) one_time: Arc<[(String, u64)]>,
    /// Algorithms of which there is a fallback key that nobody was given yet.
    pub(crate) unused_fallback: Arc<[String]>,
}

impl Listener {
    /// Nothing is known of what happened up to `born`.
    pub(crate) fn new(user_id: OwnedUserId, born: i64) -> Self {
        let state = Mutex::new(ListenerState { born, own: born, keys: born, ..ListenerState::default() });
        Self { user_id, tick: watch::channel(0).0, used_ms: AtomicU64::new(0), state }
    }

    /// Whether nothing that names the user has changed after `position`, but for events in rooms: account data, receipts of
    /// theirs, devices, keys and messages to them need not be asked for then.
    pub(crate) fn is_quiet_since(&self, position: i64) -> bool {
        let state = self.state.lock();
        position >= state.born && state.own <= position
    }

    /// What was kept of the users that this one ignores, if it still holds.
    pub(crate) fn ignored(&self) -> Option<Arc<HashSet<OwnedUserId>>> {
        let state = self.state.lock();
        state.ignored.as_ref().filter(|(at, _)| state.own <= *at).map(|(_, ignored)| Arc::clone(ignored))
    }

    /// Keeps whom the user ignores, read when the log stood at `at` or later.
    pub(crate) fn keep_ignored(&self, at: i64, ignored: &Arc<HashSet<OwnedUserId>>) {
        self.state.lock().ignored = Some((at, Arc::clone(ignored)));
    }

    /// What was kept of a device's keys, if it still holds.
    pub(crate) fn key_counts(&self, device: &OwnedDeviceId) -> Option<KeyCounts> {
        let state = self.state.lock();
        state.key_counts.get(device).filter(|(at, _)| state.keys <= *at).map(|(_, counts)| counts.clone())
    }

    /// Keeps what is there of a device's keys, read when the log stood at `at` or later.
    pub(crate) fn keep_key_counts(&self, device: &OwnedDeviceId, at: i64, counts: &KeyCounts) {
        self.state.lock().key_counts.insert(device.clone(), (at, counts.clone()));
    }

    /// Whether a device may have messages up to `position` that are still to be deleted.
    pub(crate) fn must_acknowledge(&self, device: &OwnedDeviceId, position: i64) -> bool {
        let state = self.state.lock();
        state.acknowledged.get(device).is_none_or(|upto| state.own > *upto && position > *upto)
    }

    /// Notes that the device's messages up to `position` have been deleted.
    pub(crate) fn acknowledged(&self, device: &OwnedDeviceId, position: i64) {
        self.state.lock().acknowledged.insert(device.clone(), position);
    }

    /// Hears of everything that may concern the user from now on.
    pub(crate) fn listen(&self) -> watch::Receiver<u64> {
        self.tick.subscribe()
    }

    /// Wakes those who wait.
    pub(crate) fn wake(&self) {
        self.tick.send_modify(|tick| *tick += 1);
    }

    /// All memberships of the user, from memory when they are there.
    pub(crate) async fn memberships(&self, store: &Store) -> Result<Arc<Memberships>, RoomError> {
        let generation = {
            let state = self.state.lock();
            if let Some(memberships) = &state.memberships {
                return Ok(Arc::clone(memberships));
            }
            state.generation
        };
        let memberships = Arc::new(Memberships::new(store.graph.memberships(&self.user_id).await?));
        let mut state = self.state.lock();
        if state.generation == generation {
            state.memberships = Some(Arc::clone(&memberships));
        }
        Ok(memberships)
    }

    /// Whether the user shares a room with the one whose memberships these are, if it can be told from what is at hand.
    pub(crate) fn shares_room(&self, others: &Memberships) -> Option<bool> {
        let own = self.state.lock().memberships.clone()?;
        own.share_room(others)
    }

    /// Whether one-time keys of the user were added or claimed after `position`.
    pub(crate) fn keys_changed(&self, position: i64) -> bool {
        self.state.lock().keys > position
    }

    /// Whether the device's token was revoked, or the account touched, after `position`.
    pub(crate) fn ended_since(&self, position: i64, device: Option<&OwnedDeviceId>) -> bool {
        let state = self.state.lock();
        state.ended.iter().any(|(at, ended)| *at > position && (ended.is_none() || ended.as_ref() == device))
    }

    // What the follower of the change log notes, below; it takes the lock of all listeners before this one's.

    /// Notes a change that names the user.
    pub(crate) fn note_own(&self, position: i64) {
        self.state.lock().own = position;
    }

    /// Notes a change of the user's one-time keys.
    pub(crate) fn note_keys(&self, position: i64) {
        self.state.lock().keys = position;
    }

    /// Notes that a device's token was revoked; all devices': `None`.
    pub(crate) fn note_end(&self, position: i64, device: Option<OwnedDeviceId>) {
        let mut state = self.state.lock();
        if state.ended.len() >= ENDED_MAX {
            state.ended.remove(0);
        }
        state.ended.push((position, device));
    }

    /// Notes that the memberships are others now than those that were read.
    pub(crate) fn drop_memberships(&self) {
        let mut state = self.state.lock();
        state.memberships = None;
        state.generation += 1;
    }

    /// Whether the room is new to the listener.
    pub(crate) fn enter(&self, room_id: &RoomId) -> bool {
        self.state.lock().rooms.insert(room_id.to_owned())
    }

    /// Whether the listener was in the room.
    pub(crate) fn leave(&self, room_id: &RoomId) -> bool {
        self.state.lock().rooms.remove(room_id)
    }

    /// The rooms, which it leaves.
    pub(crate) fn leave_all(&self) -> HashSet<OwnedRoomId> {
        std::mem::take(&mut self.state.lock().rooms)
    }

    /// Whether it has been told the user's rooms.
    pub(crate) fn is_ready(&self) -> bool {
        self.state.lock().ready
    }

    /// Notes that it has been told the user's rooms.
    pub(crate) fn set_ready(&self) {
        self.state.lock().ready = true;
    }

    /// Notes a sync.
    pub(crate) fn used(&self, now_ms: u64) {
        self.used_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Whether nobody waits, and nobody has asked for `idle_ms`.
    pub(crate) fn is_idle(&self, now_ms: u64, idle_ms: u64) -> bool {
        self.tick.receiver_count() == 0 && now_ms.saturating_sub(self.used_ms.load(Ordering::Relaxed)) > idle_ms
    }
}

#[cfg(test)]
mod tests {
    use ruma::{event_id, room_id, user_id};
    use samtal_model::StreamPosition;

    use super::*;

    fn memberships(rooms: impl IntoIterator<Item = (OwnedRoomId, MembershipState)>) -> Memberships {
        let membership = |(room_id, membership)| RoomMembership {
            room_id,
            membership,
            event_id: event_id!("$e").to_owned(),
            sender: user_id!("@u:a").to_owned(),
            position: StreamPosition(1),
            forgotten: false,
        };
        Memberships::new(rooms.into_iter().map(membership).collect())
    }

    #[test]
    fn two_share_a_room_where_both_are_joined() {
        let (one, two) = (room_id!("!one:a").to_owned(), room_id!("!two:a").to_owned());
        let both = memberships([(one.clone(), MembershipState::Join), (two.clone(), MembershipState::Join)]);
        let first = memberships([(one.clone(), MembershipState::Join), (two, MembershipState::Leave)]);
        let gone = memberships([(one.clone(), MembershipState::Leave)]);
        let asked = memberships([(one, MembershipState::Invite)]);
        assert_eq!(both.share_room(&first), Some(true));
        assert_eq!(first.share_room(&gone), Some(false));
        assert_eq!(asked.share_room(&both), Some(false));
        let many = || {
            let rooms = (0..=COMPARED_MAX).map(|n| OwnedRoomId::try_from(format!("!{n}:a")).unwrap());
            memberships(rooms.map(|room_id| (room_id, MembershipState::Join)))
        };
        assert_eq!(many().share_room(&both), Some(false), "the smaller one is gone through");
        assert_eq!(many().share_room(&many()), None);
    }
}
