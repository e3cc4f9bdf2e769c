//! Who is there. In memory: after a restart everybody is off-line until they show themselves.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use parking_lot::Mutex;
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId, presence::PresenceState};
use samtal_kit::Clock;
use serde_json::{Value, json};
use tokio::sync::broadcast;

use crate::{
    EduChange,
    told::{Teller, Told},
};

/// How often those who have gone are looked for.
pub(crate) const SWEEP: Duration = Duration::from_secs(5);
/// Time without a sync after which a user is off-line.
const OFFLINE_MS: u64 = 30_000;
/// Time without activity after which a user is no longer "currently active".
const ACTIVE_MS: u64 = 5 * 60_000;
/// Time without news after which a user of another server is off-line (their server may be gone), and as long again until they
/// are forgotten.
const FORGET_MS: u64 = 24 * 3_600_000;
/// A sync tells of activity at most this often, so that a user who syncs all the time costs nothing.
const ACTIVITY_STEP_MS: u64 = 60_000;

/// What is known of one user.
#[derive(Clone, Debug, PartialEq)]
pub struct PresenceEntry {
    /// `online`, `unavailable` or `offline`.
    pub state: PresenceState,
    /// What they say about it.
    pub status_msg: Option<String>,
    /// When they last did something, in milliseconds since the epoch.
    pub last_active_ms: u64,
    /// Whether they did something in the last minutes.
    pub currently_active: bool,
    serial: u64,
    seen_ms: u64,
    /// The same, by this node.
    seen_here_ms: u64,
    /// Syncs that are waiting, and those of them that say `online`.
    syncing: u32,
    syncing_online: u32,
    /// When a device last said `online`, and which did by its sync.
    online_seen_ms: u64,
    online_device: Option<OwnedDeviceId>,
    local: bool,
}

impl PresenceEntry {
    /// That of a user of whom nothing is known: off-line.
    pub fn unknown() -> Self {
        Self {
            state: PresenceState::Offline,
            status_msg: None,
            last_active_ms: 0,
            currently_active: false,
            serial: 0,
            seen_ms: 0,
            seen_here_ms: 0,
            syncing: 0,
            syncing_online: 0,
            online_seen_ms: 0,
            online_device: None,
            local: false,
        }
    }

    fn seen(&mut self, now_ms: u64) {
        self.seen_ms = now_ms;
        self.seen_here_ms = now_ms;
    }

    /// Takes over what a device says. Whether it is news.
    fn says(&mut self, state: &PresenceState, now_ms: u64) -> bool {
        let online = *state == PresenceState::Online;
        let news = self.state != *state
            || online && (!self.currently_active || now_ms.saturating_sub(self.last_active_ms) > ACTIVITY_STEP_MS);
        if news {
            self.state = state.clone();
            self.currently_active = online;
            if online {
                self.last_active_ms = now_ms;
            }
        }
        news
    }

    /// Whether a device other than this is online, or was a moment ago: between two syncs none is.
    fn has_other_online_device(&self, device_id: Option<&DeviceId>, now_ms: u64) -> bool {
        self.online_device.as_deref() != device_id
            && self.online_device.is_some()
            && (self.syncing_online > 0 || now_ms.saturating_sub(self.online_seen_ms) < OFFLINE_MS)
    }

    /// The content of an `m.presence` event, or of one entry of the EDU without its user.
    pub fn content(&self, now_ms: u64) -> Value {
        let mut content = json!({ "presence": self.state.as_str(), "currently_active": self.currently_active });
        if self.last_active_ms > 0 {
            content["last_active_ago"] = json!(now_ms.saturating_sub(self.last_active_ms));
        }
        if let Some(message) = &self.status_msg {
            content["status_msg"] = json!(message);
        }
        content
    }
}

#[derive(Debug, Default)]
struct Users {
    serial: u64,
    users: HashMap<OwnedUserId, PresenceEntry>,
    by_serial: BTreeMap<u64, OwnedUserId>,
}

impl Users {
    /// The user's entry, changed by `change`, if that answers that it is news. The new serial is not below `at_least`.
    fn change(
        &mut self,
        user_id: &UserId,
        local: bool,
        at_least: u64,
        change: impl FnOnce(&mut PresenceEntry) -> bool,
    ) -> Option<&PresenceEntry> {
        let new = || PresenceEntry { local, ..PresenceEntry::unknown() };
        let entry = self.users.entry(user_id.to_owned()).or_insert_with(new);
        if !change(entry) {
            return None;
        }
        self.serial = (self.serial + 1).max(at_least);
        self.by_serial.remove(&entry.serial);
        entry.serial = self.serial;
        self.by_serial.insert(self.serial, user_id.to_owned());
        Some(entry)
    }
}

/// The presence of the users that one tenant knows of. Changes carry a serial number that grows, over restarts too.
#[derive(Debug)]
pub struct Presence {
    clock: Clock,
    enabled: bool,
    users: Mutex<Users>,
    changes: broadcast::Sender<EduChange>,
    teller: Teller,
}

impl Presence {
    pub(crate) fn new(clock: Clock, changes: broadcast::Sender<EduChange>, teller: Teller, enabled: bool) -> Self {
        let users = Users { serial: clock.now_ms(), ..Users::default() };
        Self { clock, enabled, users: Mutex::new(users), changes, teller }
    }

    /// Whether the tenant offers presence.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// The newest serial.
    pub fn serial(&self) -> u64 {
        self.users.lock().serial
    }

    /// A user of ours says how they are.
    pub fn set(&self, user_id: &UserId, state: PresenceState, status_msg: Option<String>) {
        let now_ms = self.clock.now_ms();
        self.apply(user_id, true, |entry| {
            entry.last_active_ms = now_ms;
            entry.seen(now_ms);
            entry.currently_active = state == PresenceState::Online;
            if entry.currently_active {
                entry.online_seen_ms = now_ms;
            }
            entry.state = state;
            entry.status_msg = status_msg;
            true
        });
    }

    /// A user of ours begins to sync by a device, as `state`; `offline` says nothing. To be ended with [`Presence::sync_ended`].
    ///
    /// Of several devices the one that is online counts. Else two of them, one idle, would take turns, and the news of each turn
    /// end the sync of the other.
    pub fn sync_began(&self, user_id: &UserId, device_id: Option<&DeviceId>, state: &PresenceState) {
        if *state == PresenceState::Offline {
            return;
        }
        let now_ms = self.clock.now_ms();
        self.apply(user_id, true, |entry| {
            entry.syncing += 1;
            entry.seen(now_ms);
            let online = *state == PresenceState::Online;
            if online {
                entry.syncing_online += 1;
                entry.online_seen_ms = now_ms;
                if entry.online_device.as_deref() != device_id {
                    entry.online_device = device_id.map(ToOwned::to_owned);
                }
            } else if entry.state == PresenceState::Online && entry.has_other_online_device(device_id, now_ms) {
                return false;
            }
            entry.says(state, now_ms)
        });
    }

    /// Ends what [`Presence::sync_began`] began, with the same `state`.
    pub fn sync_ended(&self, user_id: &UserId, state: &PresenceState) {
        if *state == PresenceState::Offline {
            return;
        }
        let now_ms = self.clock.now_ms();
        if let Some(entry) = self.users.lock().users.get_mut(user_id) {
            entry.syncing = entry.syncing.saturating_sub(1);
            entry.seen(now_ms);
            if *state == PresenceState::Online {
                entry.syncing_online = entry.syncing_online.saturating_sub(1);
                entry.online_seen_ms = now_ms;
            }
        }
    }

    /// A user of ours did something: sent a message, typed, read.
    pub fn active(&self, user_id: &UserId) {
        let now_ms = self.clock.now_ms();
        self.apply(user_id, true, |entry| {
            entry.seen(now_ms);
            entry.online_seen_ms = now_ms;
            entry.says(&PresenceState::Online, now_ms)
        });
    }

    /// Another server says how a user of its own is.
    pub fn remote(
        &self,
        user_id: &UserId,
        state: PresenceState,
        status_msg: Option<String>,
        last_active_ago_ms: u64,
        currently_active: bool,
    ) {
        let now_ms = self.clock.now_ms();
        self.apply(user_id, false, |entry| {
            entry.seen_ms = now_ms;
            entry.last_active_ms = now_ms.saturating_sub(last_active_ago_ms);
            let news =
                entry.state != state || entry.status_msg != status_msg || entry.currently_active != currently_active;
            entry.state = state;
            entry.status_msg = status_msg;
            entry.currently_active = currently_active;
            news
        });
    }

    fn apply(&self, user_id: &UserId, local: bool, change: impl FnOnce(&mut PresenceEntry) -> bool) {
        if !self.enabled {
            return;
        }
        let mut users = self.users.lock();
        let Some(entry) = users.change(user_id, local, self.clock.now_ms(), change) else { return };
        self.teller.tell(|| Told::Presence {
            user: user_id.to_owned(),
            state: entry.state.clone(),
            status_msg: entry.status_msg.clone(),
            last_active_ms: entry.last_active_ms,
            currently_active: entry.currently_active,
            local,
            serial: entry.serial,
        });
        let _ = self.changes.send(EduChange::Presence(user_id.to_owned()));
    }

    /// Another node of ours says how a user is.
    pub(crate) fn told(&self, user_id: &UserId, local: bool, serial: u64, change: impl FnOnce(&mut PresenceEntry)) {
        if self.enabled {
            let now_ms = self.clock.now_ms();
            self.users.lock().change(user_id, local, serial, |entry| {
                entry.seen_ms = now_ms;
                change(entry);
                if entry.state == PresenceState::Online {
                    entry.online_seen_ms = now_ms;
                }
                true
            });
            let _ = self.changes.send(EduChange::Presence(user_id.to_owned()));
        }
    }

    /// Users of ours who are at another node.
    pub(crate) fn seen_elsewhere(&self, users: &[OwnedUserId]) {
        let now_ms = self.clock.now_ms();
        let mut known = self.users.lock();
        for user_id in users {
            if let Some(entry) = known.users.get_mut(user_id) {
                entry.seen_ms = now_ms;
            }
        }
    }

    /// Users of ours who were at this node within this time.
    pub(crate) fn seen_here(&self, within: Duration) -> Vec<OwnedUserId> {
        let since_ms = self.clock.now_ms().saturating_sub(u64::try_from(within.as_millis()).unwrap_or(u64::MAX));
        let is_here = |entry: &PresenceEntry| entry.local && (entry.syncing > 0 || entry.seen_here_ms >= since_ms);
        let users = self.users.lock();
        users.users.iter().filter(|(_, entry)| is_here(entry)).map(|(user_id, _)| user_id.clone()).collect()
    }

    /// What is known of a user.
    pub fn get(&self, user_id: &UserId) -> Option<PresenceEntry> {
        self.users.lock().users.get(user_id).cloned()
    }

    /// Now, in milliseconds since the epoch: for [`PresenceEntry::content`].
    pub fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// Users whose presence changed after `since` and not after `until`, in order.
    pub fn changed(&self, since: u64, until: u64) -> Vec<(OwnedUserId, PresenceEntry)> {
        if since >= until {
            return Vec::new();
        }
        let users = self.users.lock();
        let changed = users.by_serial.range(since + 1..=until);
        changed.filter_map(|(_, user_id)| Some((user_id.clone(), users.users.get(user_id)?.clone()))).collect()
    }

    /// Finds those who have gone or are idle.
    pub fn sweep(&self) {
        let now_ms = self.clock.now_ms();
        let mut guard = self.users.lock();
        let users = &mut *guard;
        let gone = |entry: &PresenceEntry| {
            let quiet_ms = now_ms.saturating_sub(entry.seen_ms);
            entry.state != PresenceState::Offline
                && match entry.local {
                    true => entry.syncing == 0 && quiet_ms > OFFLINE_MS,
                    false => quiet_ms >= FORGET_MS,
                }
        };
        let idle = |entry: &PresenceEntry| {
            entry.local && entry.currently_active && now_ms.saturating_sub(entry.last_active_ms) > ACTIVE_MS
        };
        let due: Vec<_> = users
            .users
            .iter()
            .filter(|(_, entry)| gone(entry) || idle(entry))
            .map(|(user_id, _)| user_id.clone())
            .collect();
        for user_id in due {
            users.change(&user_id, true, now_ms, |entry| {
                entry.currently_active = false;
                if gone(entry) {
                    entry.state = PresenceState::Offline;
                    if !entry.local {
                        entry.seen_ms = now_ms;
                    }
                }
                true
            });
            let _ = self.changes.send(EduChange::Presence(user_id));
        }
        let Users { users, by_serial, .. } = users;
        users.retain(|_, entry| {
            let keep = entry.local
                || entry.state != PresenceState::Offline
                || now_ms.saturating_sub(entry.seen_ms) < FORGET_MS;
            if !keep {
                by_serial.remove(&entry.serial);
            }
            keep
        });
    }
}

#[cfg(test)]
mod tests {
    use ruma::{device_id, user_id};

    use super::*;

    #[test]
    fn who_no_longer_syncs_goes_offline_and_who_waits_in_a_sync_does_not() {
        let clock = Clock::manual(1_000_000);
        let presence = Presence::new(clock.clone(), broadcast::channel(8).0, Teller::default(), true);
        let user = user_id!("@u:a");
        let start = presence.serial();
        presence.sync_began(user, None, &PresenceState::Online);
        clock.advance(Duration::from_secs(60));
        presence.sweep();
        assert_eq!(presence.get(user).unwrap().state, PresenceState::Online);
        presence.sync_ended(user, &PresenceState::Online);
        let before = presence.serial();
        clock.advance(Duration::from_secs(31));
        presence.sweep();
        let changed = presence.changed(before, presence.serial());
        assert_eq!(changed.len(), 1);
        assert_eq!(changed[0].1.state, PresenceState::Offline);
        assert_eq!(presence.changed(start, presence.serial()).len(), 1, "only the newest state of a user is told");
    }

    #[test]
    fn devices_that_say_different_things_do_not_contradict_each_other_for_ever() {
        let clock = Clock::manual(1_000_000);
        let presence = Presence::new(clock.clone(), broadcast::channel(8).0, Teller::default(), true);
        let user = user_id!("@u:a");
        let (laptop, phone) = (Some(device_id!("LAPTOP")), Some(device_id!("PHONE")));
        presence.sync_began(user, laptop, &PresenceState::Online);
        let before = presence.serial();
        for _ in 0..5 {
            presence.sync_began(user, phone, &PresenceState::Unavailable);
            presence.sync_ended(user, &PresenceState::Online);
            presence.sync_began(user, laptop, &PresenceState::Online);
            presence.sync_ended(user, &PresenceState::Unavailable);
        }
        assert_eq!(presence.serial(), before, "nothing is news");
        assert_eq!(presence.get(user).unwrap().state, PresenceState::Online);
        presence.sync_ended(user, &PresenceState::Online);
        clock.advance(Duration::from_secs(30));
        presence.sync_began(user, phone, &PresenceState::Unavailable);
        assert_eq!(presence.get(user).unwrap().state, PresenceState::Unavailable, "the device that was online is gone");
        presence.sync_began(user, laptop, &PresenceState::Online);
        assert_eq!(presence.get(user).unwrap().state, PresenceState::Online);
        presence.sync_began(user, laptop, &PresenceState::Unavailable);
        assert_eq!(presence.get(user).unwrap().state, PresenceState::Unavailable, "a device may go idle at once");
        presence.sync_began(user, laptop, &PresenceState::Online);
        presence.set(user, PresenceState::Unavailable, None);
        assert_eq!(presence.get(user).unwrap().state, PresenceState::Unavailable, "what the user says counts at once");
    }

    #[test]
    fn users_of_a_server_that_is_gone_do_not_stay_online() {
        let clock = Clock::manual(1_000_000);
        let presence = Presence::new(clock.clone(), broadcast::channel(8).0, Teller::default(), true);
        let user = user_id!("@u:gone");
        presence.remote(user, PresenceState::Online, None, 0, true);
        let before = presence.serial();
        clock.advance(Duration::from_millis(FORGET_MS));
        presence.sweep();
        let changed = presence.changed(before, presence.serial());
        assert_eq!(changed.iter().map(|(_, entry)| &entry.state).collect::<Vec<_>>(), [&PresenceState::Offline]);
        clock.advance(Duration::from_millis(FORGET_MS));
        presence.sweep();
        assert_eq!(presence.get(user), None);
    }

    #[test]
    fn a_sync_that_says_offline_changes_nothing() {
        let presence = Presence::new(Clock::manual(5), broadcast::channel(8).0, Teller::default(), true);
        presence.sync_began(user_id!("@u:a"), None, &PresenceState::Offline);
        assert_eq!(presence.get(user_id!("@u:a")), None);
    }
}
