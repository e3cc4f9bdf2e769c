//! Who is listening, and what happened last in each room: kept in memory by one follower of the change log, derived from it
//! alone. Losing any of it costs time only.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use ruma::{OwnedDeviceId, OwnedRoomId, OwnedUserId, RoomId, UserId};
use samtal_db::LoggedChange;
use samtal_model::ChangeKind;
use samtal_room::{RoomError, RoomMembership, Store};
use tokio::sync::watch;

/// Positions of a room's last changes that are remembered.
const RECENT: usize = 8;
/// Last changes of all rooms together that are remembered in their order.
const RECENT_ROOMS: usize = 2_000;
/// Rooms of which it is remembered when they changed. When there are more, all are forgotten.
const MARKS_MAX: usize = 20_000;
/// Time without a sync after which a user is no longer listened for.
const IDLE_MS: u64 = 10 * 60_000;

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
    fn new(user_id: OwnedUserId, born: i64) -> Self {
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

    /// Whether one-time keys of the user were added or claimed after `position`.
    pub(crate) fn keys_changed(&self, position: i64) -> bool {
        self.state.lock().keys > position
    }

    /// Whether the device's token was revoked, or the account touched, after `position`.
    pub(crate) fn ended_since(&self, position: i64, device: Option<&OwnedDeviceId>) -> bool {
        let state = self.state.lock();
        state.ended.iter().any(|(at, ended)| *at > position && (ended.is_none() || ended.as_ref() == device))
    }
}

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
struct Marks {
    /// Positions of the last changes of timeline or state, ascending.
    recent: Vec<i64>,
    /// Whether `recent` has lost older ones.
    overflown: bool,
    receipt: i64,
}

impl Marks {
    fn note(&mut self, position: i64) {
        if self.recent.len() == RECENT {
            self.recent.remove(0);
            self.overflown = true;
        }
        self.recent.push(position);
    }
}

#[derive(Debug, Default)]
struct State {
    users: HashMap<OwnedUserId, Arc<Listener>>,
    rooms: HashMap<OwnedRoomId, HashMap<OwnedUserId, Arc<Listener>>>,
    marks: HashMap<OwnedRoomId, Marks>,
    /// Of what happened in rooms up to here nothing is known.
    floor: i64,
    /// Which rooms changed after `recent_floor`, in order.
    recent: VecDeque<(i64, OwnedRoomId)>,
    recent_floor: i64,
    /// Up to where changes have been taken in.
    applied: i64,
    /// The last change of anybody's devices or keys.
    device_list: i64,
}

/// All who listen, and what happened last in each room.
#[derive(Debug)]
pub(crate) struct Active {
    state: Mutex<State>,
    /// Changes up to here were there before we began to look.
    born: i64,
    done: watch::Sender<i64>,
}

impl Active {
    /// Knows nothing of what happened up to `floor`.
    pub(crate) fn new(floor: i64) -> Self {
        let state = State { applied: floor, device_list: floor, floor, recent_floor: floor, ..State::default() };
        Self { state: Mutex::new(state), born: floor, done: watch::channel(floor).0 }
    }

    /// The position up to which changes have been taken in.
    pub(crate) fn position(&self) -> i64 {
        *self.done.borrow()
    }

    /// Waits until changes up to `position` have been taken in.
    pub(crate) async fn reached(&self, position: i64) {
        let mut done = self.done.subscribe();
        // The sender lives as long as self, so this cannot fail.
        let _ = done.wait_for(|done| *done >= position).await;
    }

    /// The user's listener, and whether it must be told the user's rooms by [`Active::join`] and [`Active::ready`].
    pub(crate) fn listener(&self, user_id: &UserId, now_ms: u64) -> (Arc<Listener>, bool) {
        let mut state = self.state.lock();
        let listener = match state.users.get(user_id) {
            Some(listener) => Arc::clone(listener),
            None => {
                let listener = Arc::new(Listener::new(user_id.to_owned(), state.applied));
                state.users.insert(user_id.to_owned(), Arc::clone(&listener));
                listener
            }
        };
        listener.used_ms.store(now_ms, Ordering::Relaxed);
        let ready = listener.state.lock().ready;
        (listener, !ready)
    }

    /// The listener hears of these rooms.
    pub(crate) fn ready<'a>(&self, listener: &Arc<Listener>, rooms: impl IntoIterator<Item = &'a RoomId>) {
        let mut state = self.state.lock();
        for room_id in rooms {
            join(&mut state, listener, room_id);
        }
        listener.state.lock().ready = true;
    }

    /// Forgets listeners who have not synced for long.
    pub(crate) fn forget_idle(&self, now_ms: u64) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let idle: Vec<_> = state
            .users
            .values()
            .filter(|listener| {
                listener.tick.receiver_count() == 0
                    && now_ms.saturating_sub(listener.used_ms.load(Ordering::Relaxed)) > IDLE_MS
            })
            .cloned()
            .collect();
        for listener in idle {
            state.users.remove(&listener.user_id);
            for room_id in listener.state.lock().rooms.drain() {
                if let Some(room) = state.rooms.get_mut(&room_id) {
                    room.remove(&listener.user_id);
                    if room.is_empty() {
                        state.rooms.remove(&room_id);
                    }
                }
            }
        }
    }

    /// How many listen.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.state.lock().users.len()
    }

    /// Takes in changes, in order. Answers the users whose device lists changed: who shares a room with them must be woken
    /// with [`Active::wake_rooms`].
    pub(crate) fn apply(&self, changes: &[LoggedChange]) -> Vec<OwnedUserId> {
        let Some(last) = changes.last() else { return Vec::new() };
        let mut woken: HashMap<*const Listener, Arc<Listener>> = HashMap::new();
        let mut device_lists = Vec::new();
        {
            let mut guard = self.state.lock();
            let state = &mut *guard;
            for logged in changes {
                apply_one(state, logged, &mut woken, &mut device_lists);
            }
            state.applied = last.position.max(state.applied);
        }
        self.done.send_modify(|done| *done = last.position.max(*done));
        for listener in woken.into_values() {
            listener.wake();
        }
        device_lists
    }

    /// Wakes everyone who listens for one of these rooms.
    pub(crate) fn wake_rooms<'a>(&self, rooms: impl IntoIterator<Item = &'a RoomId>) {
        let mut woken: HashMap<*const Listener, Arc<Listener>> = HashMap::new();
        {
            let state = self.state.lock();
            for room_id in rooms {
                let listeners = state.rooms.get(room_id).into_iter().flat_map(HashMap::values);
                woken.extend(listeners.map(|listener| (Arc::as_ptr(listener), Arc::clone(listener))));
            }
        }
        for listener in woken.into_values() {
            listener.wake();
        }
    }

    /// For each of these rooms, what may have changed in it after `since`.
    pub(crate) fn changed<'a>(&self, rooms: impl IntoIterator<Item = &'a RoomId>, since: i64) -> Vec<Changed> {
        let state = self.state.lock();
        if since < state.floor {
            return rooms.into_iter().map(|_| Changed { events: true, receipts: true }).collect();
        }
        let changed = |room_id| {
            state.marks.get(room_id).map_or(Changed::default(), |marks| Changed {
                events: marks.recent.last().is_some_and(|last| *last > since),
                receipts: marks.receipt > since,
            })
        };
        rooms.into_iter().map(changed).collect()
    }

    /// The rooms in which anything may have changed after `since`; none when that is too long ago to say.
    pub(crate) fn changed_rooms(&self, since: i64) -> Option<HashSet<OwnedRoomId>> {
        let state = self.state.lock();
        if since < state.recent_floor {
            return None;
        }
        let newest_first = state.recent.iter().rev().take_while(|(at, _)| *at > since);
        Some(newest_first.map(|(_, room_id)| room_id.clone()).collect())
    }

    /// Of what happened in rooms up to here nothing is known. It may rise.
    pub(crate) fn floor(&self) -> i64 {
        self.state.lock().floor
    }

    /// Whether nobody's devices and keys have changed after `since`.
    pub(crate) fn device_lists_quiet(&self, since: i64) -> bool {
        since >= self.born && self.state.lock().device_list <= since
    }

    /// Wakes everyone.
    pub(crate) fn wake_all(&self) {
        let listeners: Vec<_> = self.state.lock().users.values().cloned().collect();
        for listener in listeners {
            listener.wake();
        }
    }

    /// For each of these rooms, the position of its last change of timeline or state that was taken in, if there was one.
    pub(crate) fn last_changes<'a>(&self, rooms: impl IntoIterator<Item = &'a RoomId>) -> Vec<Option<i64>> {
        let state = self.state.lock();
        rooms.into_iter().map(|room_id| state.marks.get(room_id)?.recent.last().copied()).collect()
    }

    /// A span with the same changes of the room as (`since`, `until`], the same for all who ask for these changes.
    pub(crate) fn same_span(&self, room_id: &RoomId, since: i64, until: i64) -> (i64, i64) {
        let state = self.state.lock();
        let Some(marks) = state.marks.get(room_id) else { return (since, until) };
        let before = marks.recent.iter().rev().find(|at| **at <= since);
        let known = since >= state.floor && !marks.overflown;
        let from = before.copied().or(known.then_some(state.floor)).unwrap_or(since);
        let to = marks.recent.iter().rev().find(|at| **at <= until && **at > since).copied().unwrap_or(until);
        (from, to)
    }
}

fn join(state: &mut State, listener: &Arc<Listener>, room_id: &RoomId) {
    if listener.state.lock().rooms.insert(room_id.to_owned()) {
        state.rooms.entry(room_id.to_owned()).or_default().insert(listener.user_id.clone(), Arc::clone(listener));
    }
}

fn leave(state: &mut State, listener: &Arc<Listener>, room_id: &RoomId) {
    if listener.state.lock().rooms.remove(room_id)
        && let Some(room) = state.rooms.get_mut(room_id)
    {
        room.remove(&listener.user_id);
        if room.is_empty() {
            state.rooms.remove(room_id);
        }
    }
}

fn apply_one(
    state: &mut State,
    logged: &LoggedChange,
    woken: &mut HashMap<*const Listener, Arc<Listener>>,
    device_lists: &mut Vec<OwnedUserId>,
) {
    let change = &logged.change;
    let Some(kind) = ChangeKind::from_code(change.kind) else { return };
    let room_id = change.room.as_deref().and_then(|room| <&RoomId>::try_from(room).ok());
    let user_id = change.user.as_deref().and_then(|user| <&UserId>::try_from(user).ok());
    let mut wake = |listener: &Arc<Listener>| {
        woken.entry(Arc::as_ptr(listener)).or_insert_with(|| Arc::clone(listener));
    };
    let mut wake_room = |state: &State| {
        for listener in room_id.and_then(|room_id| state.rooms.get(room_id)).into_iter().flat_map(HashMap::values) {
            wake(listener);
        }
    };
    if !matches!(kind, ChangeKind::Event | ChangeKind::Membership)
        && let Some(listener) = user_id.and_then(|user_id| state.users.get(user_id))
    {
        listener.state.lock().own = logged.position;
    }
    match kind {
        ChangeKind::Event | ChangeKind::State | ChangeKind::Partial => {
            if let Some(room_id) = room_id {
                mark(state, room_id, logged.position).note(logged.position);
            }
            wake_room(state);
        }
        ChangeKind::Membership => {
            let Some(room_id) = room_id else { return };
            mark(state, room_id, logged.position).note(logged.position);
            wake_room(state);
            if let Some(listener) = user_id.and_then(|user_id| state.users.get(user_id)).cloned() {
                wake(&listener);
                drop_memberships(&listener);
                if change.reference.as_deref() == Some("join") {
                    join(state, &listener, room_id);
                } else {
                    leave(state, &listener, room_id);
                }
            }
        }
        ChangeKind::Receipt => {
            if let Some(room_id) = room_id {
                mark(state, room_id, logged.position).receipt = logged.position;
            }
            wake_room(state);
        }
        ChangeKind::DeviceList => {
            state.device_list = logged.position;
            if let Some(user_id) = user_id {
                if let Some(listener) = state.users.get(user_id) {
                    wake(listener);
                }
                device_lists.push(user_id.to_owned());
            }
        }
        ChangeKind::Logout | ChangeKind::Account => {
            if let Some(listener) = user_id.and_then(|user_id| state.users.get(user_id)) {
                let device =
                    (kind == ChangeKind::Logout).then(|| change.reference.as_deref().map(Into::into)).flatten();
                let mut own = listener.state.lock();
                if own.ended.len() >= 64 {
                    own.ended.remove(0);
                }
                own.ended.push((logged.position, device));
                drop(own);
                wake(listener);
            }
        }
        ChangeKind::OneTimeKeys => {
            if let Some(listener) = user_id.and_then(|user_id| state.users.get(user_id)) {
                listener.state.lock().keys = logged.position;
                wake(listener);
            }
        }
        ChangeKind::Forget => {
            if let Some(listener) = user_id.and_then(|user_id| state.users.get(user_id)) {
                drop_memberships(listener);
                wake(listener);
            }
        }
        ChangeKind::AccountData
        | ChangeKind::RoomAccountData
        | ChangeKind::ToDevice
        | ChangeKind::ThreadSubscription => {
            if let Some(listener) = user_id.and_then(|user_id| state.users.get(user_id)) {
                wake(listener);
            }
        }
        ChangeKind::Profile
        | ChangeKind::Pusher
        | ChangeKind::Presence
        | ChangeKind::Setting
        | ChangeKind::Redaction
        | ChangeKind::Alias
        | ChangeKind::OutgoingEdu
        | ChangeKind::Backfill
        | ChangeKind::Relay
        | ChangeKind::Purge => {}
    }
}

fn drop_memberships(listener: &Listener) {
    let mut state = listener.state.lock();
    state.memberships = None;
    state.generation += 1;
}

fn mark<'a>(state: &'a mut State, room_id: &RoomId, position: i64) -> &'a mut Marks {
    if state.recent.len() == RECENT_ROOMS
        && let Some((oldest, _)) = state.recent.pop_front()
    {
        state.recent_floor = oldest;
    }
    state.recent.push_back((position, room_id.to_owned()));
    if state.marks.len() == MARKS_MAX && !state.marks.contains_key(room_id) {
        state.marks = HashMap::new();
        state.floor = position - 1;
    }
    if !state.marks.contains_key(room_id) {
        state.marks.insert(room_id.to_owned(), Marks::default());
    }
    state.marks.get_mut(room_id).expect("it has just been put there")
}

#[cfg(test)]
mod tests {
    use ruma::{owned_device_id, room_id, user_id};
    use samtal_db::Change;

    use super::*;

    fn logged(position: i64, change: Change) -> LoggedChange {
        LoggedChange { position, change }
    }

    fn event(position: i64) -> LoggedChange {
        logged(position, Change::new(ChangeKind::Event).room("!r:a").user("@x:a"))
    }

    #[test]
    fn only_those_whom_a_change_concerns_are_woken() {
        let active = Active::new(10);
        let (inside, new) = active.listener(user_id!("@in:a"), 0);
        assert!(new);
        active.ready(&inside, [room_id!("!r:a")]);
        let (outside, _) = active.listener(user_id!("@out:a"), 0);
        active.ready(&outside, []);
        let (mut heard_inside, mut heard_outside) = (inside.listen(), outside.listen());
        active.apply(&[event(11)]);
        assert!(heard_inside.has_changed().unwrap());
        assert!(!heard_outside.has_changed().unwrap());
        heard_inside.mark_unchanged();
        let leave = Change::new(ChangeKind::Membership).room("!r:a").user("@in:a").reference("ban");
        let join = Change::new(ChangeKind::Membership).room("!r:a").user("@out:a").reference("join");
        active.apply(&[logged(12, leave), logged(13, join)]);
        assert!(heard_inside.has_changed().unwrap(), "a ban is told to whom it meets");
        assert!(heard_outside.has_changed().unwrap());
        heard_inside.mark_unchanged();
        heard_outside.mark_unchanged();
        active.apply(&[event(14)]);
        assert!(!heard_inside.has_changed().unwrap());
        assert!(heard_outside.has_changed().unwrap());
        assert_eq!(active.position(), 14);
    }

    #[test]
    fn all_who_wait_for_the_same_changes_ask_for_the_same_span() {
        let active = Active::new(10);
        let room = room_id!("!r:a");
        active.apply(&[event(12), event(20)]);
        assert_eq!(active.same_span(room, 13, 25), (12, 20));
        assert_eq!(active.same_span(room, 19, 20), (12, 20));
        assert_eq!(active.same_span(room, 11, 13), (10, 12));
        assert_eq!(active.same_span(room, 5, 30), (5, 20), "what happened before the start is not known");
        let events =
            |since| active.changed([room, room_id!("!other:a")], since).iter().map(|it| it.events).collect::<Vec<_>>();
        assert_eq!((events(13), events(20), events(5)), (vec![true, false], vec![false, false], vec![true, true]));
        for position in 30..50 {
            active.apply(&[event(position)]);
        }
        assert_eq!(active.same_span(room, 25, 49), (25, 49), "too much happened meanwhile");
    }

    #[test]
    fn what_changed_lately_is_known_by_room() {
        let active = Active::new(10);
        active.apply(&[event(11), logged(12, Change::new(ChangeKind::Receipt).room("!b:a").user("@x:a"))]);
        let rooms = |since| active.changed_rooms(since).map(|rooms| rooms.len());
        assert_eq!((rooms(9), rooms(10), rooms(11), rooms(12)), (None, Some(2), Some(1), Some(0)));
        for position in 0..i64::try_from(MARKS_MAX).unwrap() {
            active.apply(&[logged(20 + position, Change::new(ChangeKind::Event).room(format!("!r{position}:a")))]);
        }
        assert_eq!(rooms(12), None, "too long ago");
        assert!(active.floor() > 12, "rooms that are remembered are bounded");
        assert!(active.changed([room_id!("!r:a")], 15)[0].events, "what is not known may have changed");
    }

    #[test]
    fn a_revoked_token_ends_the_waiting_of_its_device_only() {
        let active = Active::new(0);
        let (listener, _) = active.listener(user_id!("@u:a"), 0);
        let logout = Change::new(ChangeKind::Logout).user("@u:a").reference("ONE");
        active.apply(&[logged(5, logout)]);
        assert!(listener.ended_since(4, Some(&owned_device_id!("ONE"))));
        assert!(!listener.ended_since(5, Some(&owned_device_id!("ONE"))));
        assert!(!listener.ended_since(4, Some(&owned_device_id!("TWO"))));
    }

    #[test]
    fn who_has_not_synced_for_long_is_forgotten() {
        let active = Active::new(0);
        let (listener, _) = active.listener(user_id!("@u:a"), 0);
        active.ready(&listener, [room_id!("!r:a")]);
        let waiting = listener.listen();
        active.forget_idle(IDLE_MS + 1);
        assert_eq!(active.len(), 1, "it still waits");
        drop(waiting);
        active.forget_idle(IDLE_MS + 1);
        assert_eq!(active.len(), 0);
        assert!(active.state.lock().rooms.is_empty());
    }
}
