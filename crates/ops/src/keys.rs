//! Keys of devices here and elsewhere: asking for them, claiming them, answering and hearing other servers about them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Method, Request, Uri, header};
use ruma::{
    OwnedServerName, OwnedUserId, ServerName, UserId, api::federation::device::get_devices,
    events::room::member::MembershipState,
};
use samtal_account::AccountError;
use samtal_db::DbError;
use samtal_e2ee::{
    E2eeError, JsonObject,
    device_key::KeysFound,
    one_time_key::{Claim, Claimed},
    remote_list::{RemoteDevice, RemoteList, RemoteUpdate, UpdateOutcome},
};
use samtal_model::ChangeKind;
use samtal_remote::{Options, RemoteError};
use samtal_room::RoomError;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::Homeserver;

/// Servers asked at the same time for one request.
const SERVERS_AT_ONCE: usize = 16;
/// Longest time for another server's answer, whatever the client wishes.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);
/// Lists of users elsewhere that one request may have fetched whole.
const LISTS_FETCHED_MAX: usize = 64;

/// Why keys could not be had or stored.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The engine says so.
    #[error(transparent)]
    E2ee(#[from] E2eeError),
    /// The accounts say so.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// The rooms say so.
    #[error(transparent)]
    Room(#[from] RoomError),
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] DbError),
}

/// Servers that could not be asked, with a message for each.
pub type Failures = BTreeMap<OwnedServerName, String>;

/// The users asked for, each with the devices that are meant; none means all.
pub type WantedKeys = BTreeMap<OwnedUserId, Vec<String>>;

#[derive(Deserialize)]
struct QueryAnswer {
    #[serde(default)]
    device_keys: BTreeMap<OwnedUserId, BTreeMap<String, JsonObject>>,
    #[serde(default)]
    master_keys: BTreeMap<OwnedUserId, JsonObject>,
    #[serde(default)]
    self_signing_keys: BTreeMap<OwnedUserId, JsonObject>,
}

#[derive(Deserialize)]
struct ClaimAnswer {
    #[serde(default)]
    one_time_keys: Claimed,
}

#[derive(Deserialize)]
struct DevicesAnswer {
    user_id: OwnedUserId,
    stream_id: i64,
    #[serde(default)]
    devices: Vec<DeviceAnswer>,
    master_key: Option<JsonObject>,
    self_signing_key: Option<JsonObject>,
}

#[derive(Deserialize)]
struct DeviceAnswer {
    device_id: String,
    device_display_name: Option<String>,
    keys: Option<JsonObject>,
}

/// The content of an `m.device_list_update`.
#[derive(Deserialize)]
struct DeviceListUpdate {
    user_id: OwnedUserId,
    device_id: String,
    device_display_name: Option<String>,
    stream_id: i64,
    #[serde(default)]
    prev_id: Vec<i64>,
    #[serde(default)]
    deleted: bool,
    keys: Option<JsonObject>,
}

/// The content of an `m.signing_key_update`.
#[derive(Deserialize)]
struct SigningKeyUpdate {
    user_id: OwnedUserId,
    master_key: Option<JsonObject>,
    self_signing_key: Option<JsonObject>,
}

impl Homeserver {
    /// The keys of these users, ours and others', as `viewer` may see them. Others' servers get `time` to answer.
    pub async fn query_keys(
        &self,
        viewer: &UserId,
        wanted: WantedKeys,
        time: Duration,
    ) -> Result<(KeysFound, Failures), KeysError> {
        let (here, elsewhere): (WantedKeys, WantedKeys) =
            wanted.into_iter().partition(|(user, _)| self.accounts.is_local(user));
        let mut found = self.e2ee.keys_query(&here, Some(viewer)).await?;
        self.name_devices(&mut found).await?;
        let mut failures = Failures::new();
        if !elsewhere.is_empty() {
            let elsewhere = self.held_keys(viewer, elsewhere, time, &mut found).await?;
            self.fetch_keys(elsewhere, time, &mut found, &mut failures).await;
        }
        Ok((found, failures))
    }

    /// Adds the display names of our users' devices.
    async fn name_devices(&self, found: &mut KeysFound) -> Result<(), KeysError> {
        for (user, devices) in &mut found.device_keys {
            if devices.is_empty() {
                continue;
            }
            for device in self.accounts.devices(user).await? {
                if let (Some(name), Some(keys)) = (device.display_name, devices.get_mut(device.device_id.as_str())) {
                    keys.insert("unsigned".to_owned(), json!({ "device_display_name": name }));
                }
            }
        }
        Ok(())
    }

    /// Adds the keys of users elsewhere whose lists are held, after fetching those that should be held as a room is shared
    /// with them. What is left must be asked for.
    async fn held_keys(
        &self,
        viewer: &UserId,
        mut wanted: WantedKeys,
        time: Duration,
        found: &mut KeysFound,
    ) -> Result<WantedKeys, KeysError> {
        let users: Vec<OwnedUserId> = wanted.keys().cloned().collect();
        // Only of users with whom a room is shared do their servers tell us changes.
        let sharing = self.rooms.store().graph.sharing_rooms_with(viewer, &users).await?;
        let mut held = self.e2ee.remote_current(&sharing).await?;
        let missing: Vec<OwnedUserId> = sharing.into_iter().filter(|user| !held.contains(user)).collect();
        let fetching = missing.into_iter().take(LISTS_FETCHED_MAX).map(|user| async move {
            let fetched = self.fetch_device_list(&user, time).await;
            fetched.is_ok().then_some(user)
        });
        let fetched: Vec<_> = stream::iter(fetching).buffer_unordered(SERVERS_AT_ONCE).collect().await;
        held.extend(fetched.into_iter().flatten());
        let held: WantedKeys =
            held.into_iter().filter_map(|user| wanted.remove(&user).map(|devices| (user, devices))).collect();
        let more = self.e2ee.keys_query(&held, Some(viewer)).await?;
        found.device_keys.extend(more.device_keys);
        found.master_keys.extend(more.master_keys);
        found.self_signing_keys.extend(more.self_signing_keys);
        Ok(wanted)
    }

    /// Asks each server for its users' keys. They are not kept: nobody here shares a room with these users.
    async fn fetch_keys(&self, wanted: WantedKeys, time: Duration, found: &mut KeysFound, failures: &mut Failures) {
        let mut servers: BTreeMap<OwnedServerName, WantedKeys> = BTreeMap::new();
        for (user, devices) in wanted {
            servers.entry(user.server_name().to_owned()).or_default().insert(user, devices);
        }
        let asking = servers.into_iter().map(|(server, wanted)| async move {
            let body = json!({ "device_keys": wanted });
            let request = post("/_matrix/federation/v1/user/keys/query", &body);
            let answer: Result<QueryAnswer, _> = self.ask(&server, request, time).await;
            (server, wanted, answer)
        });
        let answers: Vec<_> = stream::iter(asking).buffer_unordered(SERVERS_AT_ONCE).collect().await;
        for (server, wanted, answer) in answers {
            match answer {
                Ok(answer) => {
                    let asked = |user: &OwnedUserId| wanted.contains_key(user);
                    let of_user = |(user, mut devices): (OwnedUserId, BTreeMap<String, JsonObject>)| {
                        devices.retain(|device, keys| names(keys, "user_id", user.as_str()) && names(keys, "device_id", device));
                        (user, devices)
                    };
                    found.device_keys.extend(answer.device_keys.into_iter().filter(|(user, _)| asked(user)).map(of_user));
                    let own = |(user, key): &(OwnedUserId, JsonObject)| asked(user) && names(key, "user_id", user.as_str());
                    found.master_keys.extend(answer.master_keys.into_iter().filter(own));
                    found.self_signing_keys.extend(answer.self_signing_keys.into_iter().filter(own));
                }
                Err(error) => {
                    failures.insert(server, error.to_string());
                }
            }
        }
    }

    /// Fetches the whole device list of a user elsewhere and follows it from now on.
    pub async fn fetch_device_list(&self, user: &UserId, time: Duration) -> Result<(), FetchError> {
        let server = user.server_name();
        let request = samtal_remote::into_http(get_devices::v1::Request::new(user.to_owned()))?;
        let answer: DevicesAnswer = self.ask(server, request, time).await?;
        if answer.user_id != user {
            return Err(FetchError::OtherUser);
        }
        let device = |device: DeviceAnswer| RemoteDevice {
            device_id: device.device_id,
            display_name: device.device_display_name,
            keys: device.keys,
        };
        let list = RemoteList {
            stream_id: answer.stream_id,
            devices: answer.devices.into_iter().map(device).collect(),
            master_key: answer.master_key,
            self_signing_key: answer.self_signing_key,
        };
        Ok(self.e2ee.remote_list_set(user, &list).await?)
    }

    /// Claims one key for each of these, here and elsewhere.
    pub async fn claim_keys(&self, claims: Vec<Claim>, time: Duration) -> Result<(Claimed, Failures), KeysError> {
        let (here, elsewhere): (Vec<Claim>, Vec<Claim>) =
            claims.into_iter().partition(|claim| self.accounts.is_local(&claim.user));
        let mut claimed = self.e2ee.keys_claim(&here).await?;
        let mut servers: BTreeMap<OwnedServerName, BTreeMap<OwnedUserId, BTreeMap<String, String>>> = BTreeMap::new();
        for claim in elsewhere {
            let of_server = servers.entry(claim.user.server_name().to_owned()).or_default();
            of_server.entry(claim.user).or_default().insert(claim.device, claim.algorithm);
        }
        let asking = servers.into_iter().map(|(server, wanted)| async move {
            let body = json!({ "one_time_keys": wanted });
            let request = post("/_matrix/federation/v1/user/keys/claim", &body);
            let answer: Result<ClaimAnswer, _> = self.ask(&server, request, time).await;
            (server, wanted, answer)
        });
        let answers: Vec<_> = stream::iter(asking).buffer_unordered(SERVERS_AT_ONCE).collect().await;
        let mut failures = Failures::new();
        for (server, wanted, answer) in answers {
            match answer {
                Ok(answer) => {
                    for (user, mut devices) in answer.one_time_keys {
                        let Some(asked) = wanted.get(&user) else { continue };
                        devices.retain(|device, _| asked.contains_key(device));
                        claimed.insert(user, devices);
                    }
                }
                Err(error) => {
                    failures.insert(server, error.to_string());
                }
            }
        }
        Ok((claimed, failures))
    }

    /// The answer to another server that asks for our users' keys: without user-signing keys and display names.
    pub async fn keys_for_server(&self, wanted: WantedKeys) -> Result<KeysFound, KeysError> {
        let ours = wanted.into_iter().filter(|(user, _)| self.accounts.is_local(user)).collect();
        Ok(self.e2ee.keys_query(&ours, None).await?)
    }

    /// The answer to another server that claims keys of our users.
    pub async fn claim_for_server(&self, claims: Vec<Claim>) -> Result<Claimed, KeysError> {
        let ours: Vec<Claim> = claims.into_iter().filter(|claim| self.accounts.is_local(&claim.user)).collect();
        Ok(self.e2ee.keys_claim(&ours).await?)
    }

    /// The whole device list of a user of ours for another server, as `GET /user/devices` answers it; nothing when there
    /// is no such user.
    pub async fn devices_for_server(&self, user: &UserId) -> Result<Option<Value>, KeysError> {
        if !self.accounts.is_local(user) || self.accounts.user(user).await?.is_none() {
            return Ok(None);
        }
        // Before the keys: an update that comes meanwhile is then told again rather than missed.
        let stream_id = self.e2ee.device_list_position(user).await?;
        let mut found = self.e2ee.keys_query(&BTreeMap::from([(user.to_owned(), Vec::new())]), None).await?;
        let devices = found.device_keys.remove(user).unwrap_or_default();
        let devices: Vec<Value> =
            devices.into_iter().map(|(device_id, keys)| json!({ "device_id": device_id, "keys": keys })).collect();
        let mut answer = json!({ "user_id": user, "stream_id": stream_id, "devices": devices });
        for (name, keys) in [("master_key", found.master_keys), ("self_signing_key", found.self_signing_keys)] {
            if let Some(key) = keys.into_values().next() {
                answer[name] = key.into();
            }
        }
        Ok(Some(answer))
    }

    /// Takes an `m.device_list_update` of `origin`. Updates of users that are not its own are ignored. Users whose list
    /// must be fetched whole are fetched in the background.
    pub async fn receive_device_list_update(self: &Arc<Self>, origin: &ServerName, content: &Value) -> Result<(), KeysError> {
        let Ok(update) = DeviceListUpdate::deserialize(content) else { return Ok(()) };
        if update.user_id.server_name() != origin {
            return Ok(());
        }
        let user = update.user_id;
        let update = RemoteUpdate {
            stream_id: update.stream_id,
            prev_id: update.prev_id,
            deleted: update.deleted,
            device: RemoteDevice {
                device_id: update.device_id,
                display_name: update.device_display_name,
                keys: update.keys,
            },
        };
        // Servers tell what concerns rooms that are shared; what nobody here could see is not worth a row.
        if !self.is_company(&user).await? {
            return Ok(());
        }
        if self.e2ee.remote_update(&user, &update).await? == UpdateOutcome::Resync {
            let hs = Arc::clone(self);
            self.tasks.spawn("device list", async move {
                if let Err(error) = hs.fetch_device_list(&user, ANSWER_TIME_MAX).await {
                    tracing::debug!(%error, "a device list could not be fetched; it is tried again when it is needed");
                }
            });
        }
        Ok(())
    }

    /// Takes an `m.signing_key_update` of `origin`.
    pub async fn receive_signing_key_update(&self, origin: &ServerName, content: &Value) -> Result<(), KeysError> {
        let Ok(update) = SigningKeyUpdate::deserialize(content) else { return Ok(()) };
        let user = update.user_id;
        if user.server_name() != origin || !self.is_company(&user).await? {
            return Ok(());
        }
        let (master, own) = (update.master_key.as_ref(), update.self_signing_key.as_ref());
        Ok(self.e2ee.remote_signing_keys(&user, master, own).await?)
    }

    /// Whether a user elsewhere is in a room with one of ours.
    async fn is_company(&self, user: &UserId) -> Result<bool, KeysError> {
        let memberships = self.rooms.store().graph.memberships(user).await?;
        Ok(memberships.iter().any(|room| room.membership == MembershipState::Join))
    }

    /// Asks another server, and reads its answer as JSON.
    async fn ask<T: DeserializeOwned>(
        &self,
        server: &ServerName,
        request: Request<Bytes>,
        time: Duration,
    ) -> Result<T, FetchError> {
        let options = Options::default().time(time.min(ANSWER_TIME_MAX));
        let answer = self.remote.send_raw(server, request, options).await?;
        Ok(serde_json::from_slice(answer.body())?)
    }

    /// Forgets the device lists of users elsewhere who leave the last room that they share with ours: their servers tell
    /// no further changes. Ends with the tenant.
    pub(crate) async fn follow_company(self: Arc<Self>) {
        let mut changes = self.db.changes(self.db.position());
        loop {
            let changes = tokio::select! {
                () = self.tasks.stopping() => return,
                changes = changes.next() => changes,
            };
            let Ok(changes) = changes else { return };
            for logged in changes.iter() {
                let change = &logged.change;
                if change.kind != ChangeKind::Membership.code() || change.reference.as_deref() == Some("join") {
                    continue;
                }
                let Some(user) = change.user.as_deref().and_then(|user| UserId::parse(user).ok()) else { continue };
                if self.accounts.is_local(&user) {
                    continue;
                }
                if let Err(error) = self.forget_unless_company(&user).await {
                    tracing::warn!(%error, "could not forget the device list of a user who left");
                }
            }
        }
    }

    async fn forget_unless_company(&self, user: &UserId) -> Result<(), KeysError> {
        if self.e2ee.remote_is_held(user).await? && !self.is_company(user).await? {
            self.e2ee.remote_forget(user).await?;
        }
        Ok(())
    }
}

/// A request with a JSON body.
fn post(path: &'static str, body: &Value) -> Request<Bytes> {
    let mut request = Request::new(Bytes::from(body.to_string()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from_static(path);
    request.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    request
}

/// Why another server's keys could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// It could not be asked, or refused.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// Its answer makes no sense.
    #[error("the answer cannot be read: {0}")]
    Malformed(#[from] serde_json::Error),
    /// It answered for somebody else.
    #[error("the answer is about another user")]
    OtherUser,
    /// What it sent could not be kept.
    #[error(transparent)]
    E2ee(#[from] E2eeError),
}

fn names(keys: &JsonObject, field: &str, value: &str) -> bool {
    keys.get(field).and_then(Value::as_str) == Some(value)
}
