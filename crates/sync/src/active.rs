//! Who is listening, and what happened last in each room: kept in memory by one follower of the change log, derived from it
//! alone. Losing any of it costs time only.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use parking_lot::Mutex;
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};
use samtal_db::LoggedChange;
use samtal_model::ChangeKind;
use tokio::sync::watch;

use crate::{
    listener::Listener,
    marks::{Changed, Marks},
};

/// Time without a sync after which a user is no longer listened for.
const IDLE_MS: u64 = 10 * 60_000;

#[derive(Debug)]
struct State {
    users: HashMap<OwnedUserId, Arc<Listener>>,
    rooms: HashMap<OwnedRoomId, HashMap<OwnedUserId, Arc<Listener>>>,
    marks: Marks,
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
        let state = State {
            users: HashMap::new(),
            rooms: HashMap::new(),
            marks: Marks::new(floor),
            applied: floor,
            device_list: floor,
        };
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
        listener.used(now_ms);
        let is_new = !listener.is_ready();
        (listener, is_new)
    }

    /// The listeners of these users, of those who have one.
    pub(crate) fn listeners(
        &self,
        users: impl IntoIterator<Item = OwnedUserId>,
    ) -> Vec<(OwnedUserId, Option<Arc<Listener>>)> {
        let state = self.state.lock();
        let listener = |user_id| (state.users.get(&user_id).cloned(), user_id);
        users.into_iter().map(listener).map(|(listener, user_id)| (user_id, listener)).collect()
    }

    /// The listener hears of these rooms.
    pub(crate) fn ready<'a>(&self, listener: &Arc<Listener>, rooms: impl IntoIterator<Item = &'a RoomId>) {
        let mut state = self.state.lock();
        for room_id in rooms {
            join(&mut state, listener, room_id);
        }
        listener.set_ready();
    }

    /// Forgets listeners who have not synced for long.
    pub(crate) fn forget_idle(&self, now_ms: u64) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let idle: Vec<_> = state.users.values().filter(|listener| listener.is_idle(now_ms, IDLE_MS)).cloned().collect();
        for listener in idle {
            state.users.remove(&listener.user_id);
            for room_id in listener.leave_all() {
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
        self.state.lock().marks.changed(rooms, since)
    }

    /// The rooms in which anything may have changed after `since`; none when that is too long ago to say.
    pub(crate) fn changed_rooms(&self, since: i64) -> Option<HashSet<OwnedRoomId>> {
        self.state.lock().marks.changed_rooms(since)
    }

    /// Of what happened in rooms up to here nothing is known. It may rise.
    pub(crate) fn floor(&self) -> i64 {
        self.state.lock().marks.floor()
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
        self.state.lock().marks.last_changes(rooms)
    }

    /// A span with the same changes of the room as (`since`, `until`], the same for all who ask for these changes.
    pub(crate) fn same_span(&self, room_id: &RoomId, since: i64, until: i64) -> (i64, i64) {
        self.state.lock().marks.same_span(room_id, since, until)
    }
}

fn join(state: &mut State, listener: &Arc<Listener>, room_id: &RoomId) {
    if listener.enter(room_id) {
        state.rooms.entry(room_id.to_owned()).or_default().insert(listener.user_id.clone(), Arc::clone(listener));
    }
}

fn leave(state: &mut State, listener: &Arc<Listener>, room_id: &RoomId) {
    if listener.leave(room_id)
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
    // The listener of the user whom it is about, if they listen.
    let own = user_id.and_then(|user_id| state.users.get(user_id)).cloned();
    let mut wake = |listener: &Arc<Listener>| {
        woken.entry(Arc::as_ptr(listener)).or_insert_with(|| Arc::clone(listener));
    };
    let mut wake_room = |state: &State| {
        for listener in room_id.and_then(|room_id| state.rooms.get(room_id)).into_iter().flat_map(HashMap::values) {
            wake(listener);
        }
    };
    if let Some(own) = &own
        && !matches!(kind, ChangeKind::Event | ChangeKind::Membership)
    {
        own.note_own(logged.position);
    }
    match kind {
        ChangeKind::Event | ChangeKind::State | ChangeKind::Partial => {
            if let Some(room_id) = room_id {
                state.marks.note_event(room_id, logged.position);
            }
            wake_room(state);
        }
        ChangeKind::Membership => {
            let Some(room_id) = room_id else { return };
            state.marks.note_event(room_id, logged.position);
            wake_room(state);
            if let Some(own) = own {
                wake(&own);
                own.drop_memberships();
                if change.reference.as_deref() == Some("join") {
                    join(state, &own, room_id);
                } else {
                    leave(state, &own, room_id);
                }
            }
        }
        ChangeKind::Receipt => {
            if let Some(room_id) = room_id {
                state.marks.note_receipt(room_id, logged.position);
            }
            wake_room(state);
        }
        ChangeKind::DeviceList => {
            state.device_list = logged.position;
            own.iter().for_each(wake);
            device_lists.extend(user_id.map(ToOwned::to_owned));
        }
        ChangeKind::Logout | ChangeKind::Account => {
            if let Some(own) = own {
                // All devices of an account that is no more; one that has logged out.
                let device = change.reference.as_deref().filter(|_| kind == ChangeKind::Logout);
                own.note_end(logged.position, device.map(Into::into));
                wake(&own);
            }
        }
        ChangeKind::OneTimeKeys => {
            if let Some(own) = own {
                own.note_keys(logged.position);
                wake(&own);
            }
        }
        ChangeKind::Forget => {
            if let Some(own) = own {
                own.drop_memberships();
                wake(&own);
            }
        }
        ChangeKind::AccountData
        | ChangeKind::RoomAccountData
        | ChangeKind::ToDevice
        | ChangeKind::ThreadSubscription => own.iter().for_each(wake),
        ChangeKind::Profile
        | ChangeKind::Pusher
        | ChangeKind::Presence
        | ChangeKind::Setting
        | ChangeKind::Redaction
        | ChangeKind::Alias
        | ChangeKind::OutgoingEdu
        | ChangeKind::Backfill
        | ChangeKind::Relay
        | ChangeKind::Missed
        | ChangeKind::Placed
        | ChangeKind::Purge => {}
    }
}

#[cfg(test)]
mod tests {
    use ruma::{owned_device_id, room_id, user_id};
    use samtal_db::Change;

    use super::*;
    use crate::marks::ROOMS_MAX;

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
        for position in 0..i64::try_from(ROOMS_MAX).unwrap() {
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
