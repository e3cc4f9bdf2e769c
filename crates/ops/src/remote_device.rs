//! Devices of users elsewhere: their lists, their keys, their one-time keys.

use std::{
    collections::{BTreeMap, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream};
use ruma::{
    OwnedServerName, OwnedUserId, RoomId, UserId,
    api::federation::{
        device::get_devices::v1 as get_devices,
        keys::{claim_keys::v1 as claim_keys, get_keys::v1 as get_keys},
    },
    events::room::member::MembershipState,
};
use samtal_db::Change;
use samtal_e2ee::{
    JsonObject,
    device_key::KeysFound,
    one_time_key::{Claim, Claimed},
    remote_list::{RemoteDevice, RemoteList},
};
use samtal_model::ChangeKind;
use samtal_remote::Options;

use crate::{Homeserver, OpError, inbound::Resyncing};

/// Users whose lists are asked for at once.
const AT_ONCE: usize = 8;
/// Largest answer about devices, in bytes.
const DEVICES_BYTES_MAX: usize = 32 << 20;

impl Homeserver {
    /// Asks for a user's whole device list in the background, once at a time; once more when there was a reason meanwhile.
    pub(crate) fn resync_soon(self: &Arc<Self>, user: OwnedUserId) {
        match self.inbound.resyncing.lock().entry(user.clone()) {
            Entry::Occupied(mut running) => {
                running.get_mut().again = true;
                return;
            }
            Entry::Vacant(free) => free.insert(Resyncing::default()),
        };
        let hs = Arc::clone(self);
        self.tasks.spawn("device list", async move {
            loop {
                if let Err(error) = hs.resync(&user, Options::background()).await {
                    tracing::info!(%user, %error, "a device list was not given");
                    if let Err(error) = hs.e2ee.remote_mark_stale(&user).await {
                        tracing::warn!(%error, "a device list could not be marked");
                    }
                    hs.inbound.resyncing.lock().remove(&user);
                    return;
                }
                let mut resyncing = hs.inbound.resyncing.lock();
                match resyncing.get_mut(&user).filter(|running| running.again) {
                    Some(running) => running.again = false,
                    None => {
                        resyncing.remove(&user);
                        return;
                    }
                }
            }
        });
    }

    /// Asks for a user's whole device list, or waits for it where it is being asked for already.
    async fn resync_once(&self, user: &UserId, time: Duration) -> Result<(), OpError> {
        let running = self.inbound.resyncing.lock().get(user).map(|running| running.running.subscribe());
        if let Some(mut running) = running {
            // Nothing is ever sent: it ends when the sender goes.
            let _ = tokio::time::timeout(time, running.changed()).await;
            if !self.e2ee.remote_current(&[user.to_owned()]).await?.is_empty() {
                return Ok(());
            }
        }
        self.resync(user, Options::default().time(time)).await
    }

    /// Asks for a user's whole device list and follows it from then on.
    pub(crate) async fn resync(&self, user: &UserId, options: Options) -> Result<(), OpError> {
        let request = get_devices::Request::new(user.to_owned());
        let answer =
            self.remote.send_with(user.server_name(), request, options.body_bytes_max(DEVICES_BYTES_MAX)).await?;
        if answer.user_id != user {
            return Err(OpError::BadRemote("the device list is somebody else's".into()));
        }
        let list = RemoteList {
            stream_id: i64::try_from(u64::from(answer.stream_id)).unwrap_or(0),
            devices: answer
                .devices
                .into_iter()
                .map(|device| RemoteDevice {
                    device_id: device.device_id.to_string(),
                    display_name: device.device_display_name,
                    keys: serde_json::from_str(device.keys.json().get()).ok(),
                })
                .collect(),
            master_key: answer.master_key.and_then(|key| serde_json::from_str(key.json().get()).ok()),
            self_signing_key: answer.self_signing_key.and_then(|key| serde_json::from_str(key.json().get()).ok()),
        };
        self.e2ee.remote_list_set(user, &list).await?;
        Ok(())
    }

    /// The keys of users elsewhere, for a user of ours. Lists of those who share a room are held and followed; of others they are asked
    /// for each time. The second value names servers that did not answer.
    pub async fn remote_keys(
        &self,
        wanted: &BTreeMap<OwnedUserId, Vec<String>>,
        viewer: Option<&UserId>,
        time: Duration,
    ) -> Result<(KeysFound, Vec<OwnedServerName>), OpError> {
        let users: Vec<OwnedUserId> = wanted.keys().filter(|user| !self.is_local(user)).cloned().collect();
        let strangers = self.not_held(&users, time).await?;
        let held: BTreeMap<OwnedUserId, Vec<String>> = wanted
            .iter()
            .filter(|(user, _)| {
                users.contains(user) && !strangers.get(user.server_name()).is_some_and(|users| users.contains(user))
            })
            .map(|(user, devices)| (user.clone(), devices.clone()))
            .collect();
        let mut found = self.e2ee.keys_query(&held, viewer).await?;
        let failed = self.ask_for_keys(&mut found, strangers, wanted, time).await;
        Ok((found, failed))
    }

    /// Those of the users whose device lists are not held, by server, after asking for the lists of those who share a room.
    async fn not_held(
        &self,
        users: &[OwnedUserId],
        time: Duration,
    ) -> Result<BTreeMap<OwnedServerName, Vec<OwnedUserId>>, OpError> {
        let current = self.e2ee.remote_current(users).await?;
        let mut strangers: BTreeMap<OwnedServerName, Vec<OwnedUserId>> = BTreeMap::new();
        let mut followed = Vec::new();
        for user in users.iter().filter(|user| !current.contains(user)) {
            if self.shares_a_room(user).await? {
                followed.push(user.clone());
            } else {
                strangers.entry(user.server_name().to_owned()).or_default().push(user.clone());
            }
        }
        let answers: Vec<_> = stream::iter(followed)
            .map(|user| async move {
                let answer = self.resync_once(&user, time).await;
                (user, answer)
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        for (user, answer) in answers {
            if let Err(error) = answer {
                tracing::info!(%user, %error, "a device list was not given");
                // Servers older than device lists, or with another mind about them, still answer for keys.
                strangers.entry(user.server_name().to_owned()).or_default().push(user);
            }
        }
        Ok(strangers)
    }

    /// Adds what servers answer for users whose lists are not held. The servers that did not answer.
    async fn ask_for_keys(
        &self,
        found: &mut KeysFound,
        strangers: BTreeMap<OwnedServerName, Vec<OwnedUserId>>,
        wanted: &BTreeMap<OwnedUserId, Vec<String>>,
        time: Duration,
    ) -> Vec<OwnedServerName> {
        let asked: Vec<_> = stream::iter(strangers)
            .map(|(server, users)| async move {
                let device_keys = users
                    .iter()
                    .map(|user| {
                        (user.clone(), wanted.get(user).into_iter().flatten().map(|id| id.as_str().into()).collect())
                    })
                    .collect();
                let options = Options::default().time(time).body_bytes_max(DEVICES_BYTES_MAX);
                let answer = self.remote.send_with(&server, get_keys::Request::new(device_keys), options).await;
                (server, answer)
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        let mut failed = Vec::new();
        for (server, answer) in asked {
            match answer {
                Ok(answer) => add_keys(found, &server, answer),
                Err(error) => {
                    tracing::info!(%server, %error, "keys were not given");
                    failed.push(server);
                }
            }
        }
        failed
    }

    /// Claims one-time keys of devices elsewhere. The second value names servers that did not answer.
    pub async fn remote_claim(
        &self,
        claims: &[Claim],
        time: Duration,
    ) -> Result<(Claimed, Vec<OwnedServerName>), OpError> {
        let mut by_server: BTreeMap<OwnedServerName, claim_keys::OneTimeKeyClaims> = BTreeMap::new();
        for claim in claims.iter().filter(|claim| !self.is_local(&claim.user)) {
            let of_server = by_server.entry(claim.user.server_name().to_owned()).or_default();
            of_server
                .entry(claim.user.clone())
                .or_default()
                .insert(claim.device.as_str().into(), claim.algorithm.as_str().into());
        }
        let asked: Vec<_> = stream::iter(by_server)
            .map(|(server, wanted)| async move {
                let options = Options::default().time(time);
                let answer = self.remote.send_with(&server, claim_keys::Request::new(wanted.clone()), options).await;
                (server, wanted, answer)
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        let (mut claimed, mut failed) = (Claimed::new(), Vec::new());
        for (server, wanted, answer) in asked {
            match answer {
                Ok(answer) => {
                    for (user, devices) in answer.one_time_keys {
                        for (device, keys) in devices {
                            if !wanted.get(&user).is_some_and(|devices| devices.contains_key(&device)) {
                                continue;
                            }
                            let keys = keys.into_iter().filter_map(|(id, key)| {
                                Some((id.to_string(), serde_json::from_str(key.json().get()).ok()?))
                            });
                            claimed.entry(user.clone()).or_default().insert(device.to_string(), keys.collect());
                        }
                    }
                }
                Err(error) => {
                    tracing::info!(%server, %error, "one-time keys were not given");
                    failed.push(server);
                }
            }
        }
        Ok((claimed, failed))
    }

    /// Whether a user elsewhere is in a room with any of us.
    pub(crate) async fn shares_a_room(&self, user: &UserId) -> Result<bool, OpError> {
        Ok(self.rooms.store().graph.shares_with_server(user, &self.name).await?)
    }

    /// Forgets the device lists of those with whom nobody of us is in a room any more, and tells of those who turn out to be in one
    /// with us: follows the log.
    pub(crate) async fn forget_lists(self: Arc<Self>) {
        let tasks = self.tasks.clone();
        let mut changes = self.db.changes(self.db.position());
        loop {
            let page = tokio::select! {
                biased;
                () = tasks.stopping() => return,
                page = changes.next() => page,
            };
            let Ok(page) = page else { return };
            for logged in page.iter() {
                if let Err(error) = self.forget_lists_after(&logged.change).await {
                    tracing::warn!(%error, "a device list is kept that nobody needs");
                }
            }
        }
    }

    async fn forget_lists_after(&self, change: &Change) -> Result<(), OpError> {
        if ChangeKind::from_code(change.kind) == Some(ChangeKind::Partial) {
            return self.place_devices().await;
        }
        let is_end = matches!(change.reference.as_deref(), Some("leave" | "ban"));
        if ChangeKind::from_code(change.kind) != Some(ChangeKind::Membership) || !is_end {
            return Ok(());
        }
        let (Some(Ok(user)), Some(Ok(room_id))) =
            (change.user.as_deref().map(UserId::parse), change.room.as_deref().map(RoomId::parse))
        else {
            return Ok(());
        };
        let mut apart = vec![user.clone()];
        if self.is_local(&user) {
            let Some(room) = self.rooms.store().graph.room(&room_id).await? else { return Ok(()) };
            if self.rooms.has_server(&room, &self.name).await? {
                return Ok(());
            }
            apart = self
                .rooms
                .store()
                .graph
                .members(room.nid, &[MembershipState::Join])
                .await?
                .into_iter()
                .map(|member| member.user_id)
                .collect();
        }
        apart.retain(|user| !self.is_local(user));
        for user in self.e2ee.remote_current(&apart).await? {
            if !self.shares_a_room(&user).await? {
                self.e2ee.remote_forget(&user).await?;
            }
        }
        Ok(())
    }
}

/// Takes what a server says about its own users, and nothing else.
fn add_keys(found: &mut KeysFound, server: &OwnedServerName, answer: get_keys::Response) {
    let object = |text: &str| serde_json::from_str::<JsonObject>(text).ok();
    let says = |keys: &JsonObject, field: &str, expected: &str| {
        keys.get(field).is_none_or(|value| value.as_str() == Some(expected))
    };
    let owned = |user: &UserId, keys: &JsonObject| user.server_name() == server && says(keys, "user_id", user.as_str());
    for (user, devices) in answer.device_keys {
        let mut kept = BTreeMap::new();
        for (device, keys) in devices {
            if let Some(keys) = object(keys.json().get()).filter(|keys| owned(&user, keys))
                && says(&keys, "device_id", device.as_str())
            {
                kept.insert(device.to_string(), keys);
            }
        }
        if user.server_name() == server {
            found.device_keys.insert(user, kept);
        }
    }
    for (user, key) in answer.master_keys {
        if let Some(key) = object(key.json().get()).filter(|key| owned(&user, key)) {
            found.master_keys.insert(user, key);
        }
    }
    for (user, key) in answer.self_signing_keys {
        if let Some(key) = object(key.json().get()).filter(|key| owned(&user, key)) {
            found.self_signing_keys.insert(user, key);
        }
    }
}
