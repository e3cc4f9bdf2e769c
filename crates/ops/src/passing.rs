//! Passing messages (EDUs) of other servers. What is wrong with one is never said to its sender.

use std::{sync::Arc, time::Duration};

use ruma::{EventId, OwnedUserId, RoomId, ServerName, UserId, presence::PresenceState};
use samtal_db::Batch;
use samtal_e2ee::{
    JsonObject,
    remote_list::{RemoteDevice, RemoteUpdate, UpdateOutcome},
    to_device::Once,
};
use samtal_edu::NewReceipt;
use samtal_policy::Action;
use serde_json::{Map, Value, value::RawValue};

use crate::{Homeserver, OpError};

/// How long a user of another server types unless they say otherwise.
const TYPING: Duration = Duration::from_secs(30);
/// Entries of one passing message that are looked at.
const ENTRIES_MAX: usize = 1_000;
/// Longest id of a message to a device, in code points.
const MESSAGE_ID_MAX: usize = 32;

impl Homeserver {
    pub(crate) async fn take_in_edus(self: &Arc<Self>, origin: &ServerName, edus: &[Box<RawValue>]) {
        for raw in edus {
            let Ok(Value::Object(edu)) = serde_json::from_str(raw.get()) else { continue };
            let (Some(edu_type), Some(Value::Object(content))) =
                (edu.get("edu_type").and_then(Value::as_str), edu.get("content"))
            else {
                continue;
            };
            if let Err(error) = self.take_in_edu(origin, edu_type, content, raw).await {
                tracing::debug!(%origin, edu_type, %error, "a passing message is left out");
            }
        }
    }

    async fn take_in_edu(
        self: &Arc<Self>,
        origin: &ServerName,
        edu_type: &str,
        content: &Map<String, Value>,
        raw: &RawValue,
    ) -> Result<(), OpError> {
        // Those about rooms are asked about with what the room says.
        if !matches!(edu_type, "m.typing" | "m.receipt") && !self.may_pass_by(origin) {
            return Ok(());
        }
        match edu_type {
            "m.typing" => self.take_in_typing(origin, content).await,
            "m.receipt" => self.take_in_receipts(origin, content).await,
            "m.presence" => self.take_in_presence(origin, content).await,
            "m.device_list_update" => self.take_in_device(origin, content).await,
            "m.signing_key_update" | "org.matrix.signing_key_update" => {
                self.take_in_signing_keys(origin, content).await
            }
            "m.direct_to_device" => self.take_in_to_device(origin, raw).await,
            _ => Ok(()),
        }
    }

    /// Note 40: only users of the sender who are in the room, which must not keep the sender out.
    async fn may_pass(&self, origin: &ServerName, user: &UserId, room_id: &RoomId) -> Result<bool, OpError> {
        if user.server_name() != origin {
            return Ok(false);
        }
        let store = self.rooms.store();
        if !store.graph.is_joined(user, room_id).await? {
            // Who else is in the room may not be known yet: the servers are.
            let room = store.graph.room(room_id).await?.filter(|_| store.partial.is_partial(room_id));
            let Some(room) = room else { return Ok(false) };
            if !self.rooms.has_server(&room, origin).await? {
                return Ok(false);
            }
        }
        Ok(self.check_server(room_id, origin, Action::Edu).await.is_ok())
    }

    async fn take_in_typing(&self, origin: &ServerName, content: &Map<String, Value>) -> Result<(), OpError> {
        let (Some(room_id), Some(user)) = (room_of(content.get("room_id")), user_of(content.get("user_id"))) else {
            return Ok(());
        };
        if self.may_pass(origin, &user, &room_id).await? {
            if content.get("typing").and_then(Value::as_bool).unwrap_or(true) {
                self.edus.typing.start(&room_id, &user, TYPING);
            } else {
                self.edus.typing.stop(&room_id, &user);
            }
        }
        Ok(())
    }

    async fn take_in_receipts(&self, origin: &ServerName, content: &Map<String, Value>) -> Result<(), OpError> {
        let mut receipts = Vec::new();
        for (room, kinds) in content.iter().take(ENTRIES_MAX) {
            let (Ok(room_id), Some(users)) = (RoomId::parse(room), kinds.get("m.read").and_then(Value::as_object))
            else {
                continue;
            };
            for (user, receipt) in users.iter().take(ENTRIES_MAX) {
                let Some(user_id) = user_of(Some(&Value::from(user.as_str()))) else { continue };
                if !self.may_pass(origin, &user_id, &room_id).await? {
                    continue;
                }
                let events =
                    receipt.get("event_ids").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
                let Some(event_id) = events.rev().find_map(|id| EventId::parse(id).ok()) else { continue };
                let data = receipt.get("data");
                let event = self.rooms.store().graph.event(&event_id).await?;
                receipts.push(NewReceipt {
                    room_id: room_id.clone(),
                    user_id,
                    receipt_type: "m.read".into(),
                    thread: data.and_then(|data| data.get("thread_id")).and_then(Value::as_str).map(Into::into),
                    event_id,
                    event_position: event.and_then(|event| event.position).map(|position| position.0),
                    ts_ms: data.and_then(|data| data.get("ts")).and_then(Value::as_u64),
                });
            }
        }
        self.edus.receipts.put(receipts).await?;
        Ok(())
    }

    async fn take_in_presence(&self, origin: &ServerName, content: &Map<String, Value>) -> Result<(), OpError> {
        if !self.edus.presence.is_enabled() {
            return Ok(());
        }
        for entry in content.get("push").and_then(Value::as_array).into_iter().flatten().take(ENTRIES_MAX) {
            let Some(user) = user_of(entry.get("user_id")).filter(|user| user.server_name() == origin) else {
                continue;
            };
            // Nobody here is shown a stranger, so strangers are not remembered, however many there are.
            // While a room is being entered, or its members are not all known, it may be one of them.
            let is_known = self.edus.presence.get(&user).is_some()
                || self.inbound.is_joining()
                || !self.rooms.store().partial.unfinished().is_empty();
            if !is_known && !self.shares_a_room(&user).await? {
                continue;
            }
            let state = PresenceState::from(entry.get("presence").and_then(Value::as_str).unwrap_or("offline"));
            let message =
                entry.get("status_msg").and_then(Value::as_str).map(|text| text.chars().take(1_000).collect());
            let ago_ms = entry.get("last_active_ago").and_then(Value::as_u64).unwrap_or(0);
            let active = entry.get("currently_active").and_then(Value::as_bool).unwrap_or(false);
            self.edus.presence.remote(&user, state, message, ago_ms, active);
        }
        Ok(())
    }

    async fn take_in_device(
        self: &Arc<Self>,
        origin: &ServerName,
        content: &Map<String, Value>,
    ) -> Result<(), OpError> {
        let Some(user) = user_of(content.get("user_id")).filter(|user| user.server_name() == origin) else {
            return Ok(());
        };
        let Some(device_id) = content.get("device_id").and_then(Value::as_str) else { return Ok(()) };
        let update = RemoteUpdate {
            stream_id: content.get("stream_id").and_then(Value::as_i64).unwrap_or(0),
            prev_id: content
                .get("prev_id")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(Value::as_i64)
                .collect(),
            deleted: content.get("deleted").and_then(Value::as_bool).unwrap_or(false),
            device: RemoteDevice {
                device_id: device_id.to_owned(),
                display_name: content.get("device_display_name").and_then(Value::as_str).map(ToOwned::to_owned),
                keys: object_of(content.get("keys")),
            },
        };
        let must_ask = match self.e2ee.remote_update(&user, &update).await? {
            UpdateOutcome::Resync => true,
            // Of those who share rooms with us the list is held from the first word on.
            UpdateOutcome::Ignored if !self.e2ee.remote_current(std::slice::from_ref(&user)).await?.is_empty() => false,
            UpdateOutcome::Ignored => {
                // Noted before the look at the rooms: the last of them may become whole meanwhile.
                if self.may_be_in_partial_room(origin).await? {
                    self.inbound.unplaced.lock().put(user.clone(), ());
                }
                let shares = self.shares_a_room(&user).await?;
                if shares {
                    self.inbound.unplaced.lock().pop(&user);
                }
                shares
            }
            UpdateOutcome::Stored => false,
        };
        if must_ask {
            self.resync_soon(user);
        }
        Ok(())
    }

    /// Whether this server is in a room of which not all members are known.
    async fn may_be_in_partial_room(&self, server: &ServerName) -> Result<bool, OpError> {
        for partial in self.rooms.store().partial.unfinished() {
            let room = self.rooms.room(&partial.room_id).await?;
            if self.rooms.has_server(&room, server).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Tells of devices that changed while it was not known in which rooms their users are, once it is.
    pub(crate) async fn place_devices(&self) -> Result<(), OpError> {
        let unplaced: Vec<OwnedUserId> = self.inbound.unplaced.lock().iter().map(|(user, ())| user.clone()).collect();
        for user in unplaced {
            if self.shares_a_room(&user).await? {
                self.e2ee.remote_mark_stale(&user).await?;
            } else if self.may_be_in_partial_room(user.server_name()).await? {
                continue;
            }
            self.inbound.unplaced.lock().pop(&user);
        }
        Ok(())
    }

    async fn take_in_signing_keys(&self, origin: &ServerName, content: &Map<String, Value>) -> Result<(), OpError> {
        let Some(user) = user_of(content.get("user_id")).filter(|user| user.server_name() == origin) else {
            return Ok(());
        };
        let (master, self_signing) = (object_of(content.get("master_key")), object_of(content.get("self_signing_key")));
        self.e2ee.remote_signing_keys(&user, master.as_ref(), self_signing.as_ref()).await?;
        Ok(())
    }

    async fn take_in_to_device(&self, origin: &ServerName, raw: &RawValue) -> Result<(), OpError> {
        #[derive(serde::Deserialize)]
        struct Edu {
            content: Content,
        }
        #[derive(serde::Deserialize)]
        struct Content {
            sender: OwnedUserId,
            #[serde(rename = "type")]
            event_type: String,
            message_id: String,
            messages: crate::to_device::Messages,
        }
        let Ok(Edu { content }) = serde_json::from_str(raw.get()) else { return Ok(()) };
        if content.sender.server_name() != origin || content.message_id.chars().count() > MESSAGE_ID_MAX {
            return Ok(());
        }
        let ours = content.messages.into_iter().filter(|(user, _)| self.is_local(user)).collect();
        let messages = self.addressed(ours).await.map_err(|error| OpError::BadRemote(error.to_string()))?;
        if !messages.is_empty() {
            let once = Once::Message { origin: origin.as_str(), id: &content.message_id };
            self.e2ee.to_device_send(&content.sender, &content.event_type, &messages, once, Batch::new()).await?;
        }
        Ok(())
    }
}

fn user_of(value: Option<&Value>) -> Option<OwnedUserId> {
    UserId::parse(value?.as_str()?).ok()
}

fn room_of(value: Option<&Value>) -> Option<ruma::OwnedRoomId> {
    RoomId::parse(value?.as_str()?).ok()
}

fn object_of(value: Option<&Value>) -> Option<JsonObject> {
    value?.as_object().cloned()
}
