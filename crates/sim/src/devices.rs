//! Messages to devices, lists of devices, and what is said in passing.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ruma::{OwnedDeviceId, OwnedEventId, OwnedRoomId, UserId, device_id};
use samtal_e2ee::one_time_key::KeyUpload;
use samtal_edu::NewReceipt;
use samtal_room::RoomError;
use serde_json::{json, value::to_raw_value};

use crate::world::{Node, World};

/// The type of messages that are counted.
const COUNTED: &str = "org.example.counted";
/// More than anybody is sent.
const MESSAGES_MAX: i64 = 10_000;
/// What is said in passing comes within this time, in fair weather.
const PASSING: Duration = Duration::from_secs(10);
/// How long a list of devices is waited for.
const ASKING: Duration = Duration::from_secs(10);

/// How many messages have been sent, by the nodes from which and to which.
pub(crate) type Sent = BTreeMap<(usize, usize), u64>;

impl Node {
    /// Gives the node's user the device that is written to.
    pub(crate) async fn begin_device(&self) {
        self.add_device("DEVICE0").await;
    }

    async fn add_device(&self, name: &str) {
        let device = OwnedDeviceId::from(name);
        self.hs.accounts.create_device(&self.user, &device, None).await.expect("a device can be made");
        let keys = json!({ "user_id": self.user, "device_id": device, "algorithms": [], "keys": {}, "signatures": {} });
        let keys = serde_json::from_value(keys).expect("keys are an object");
        let upload = KeyUpload { device_keys: Some(keys), ..KeyUpload::default() };
        self.hs.e2ee.keys_upload(&self.user, &device, &upload).await.expect("keys can be uploaded");
    }

    /// The node's user has read all of the room: up to the event that is answered.
    async fn read_all(&self, room_id: &OwnedRoomId) -> Result<Option<OwnedEventId>, RoomError> {
        let room = self.hs.rooms.room(room_id).await?;
        let Some(event_id) = self.hs.rooms.extremities(&room).await?.pop() else { return Ok(None) };
        let stored = self.hs.rooms.event(&event_id).await?;
        let receipt = NewReceipt {
            room_id: room_id.clone(),
            user_id: self.user.clone(),
            receipt_type: "m.read".into(),
            thread: None,
            event_id: event_id.clone(),
            event_position: stored.position.map(|position| position.0),
            ts_ms: None,
        };
        self.hs.edus.receipts.put(vec![receipt]).await.map_err(RoomError::Storage)?;
        Ok(Some(event_id))
    }

    /// The devices of a user, as this node tells its own.
    async fn devices_of(&self, user: &UserId) -> BTreeSet<String> {
        let wanted = BTreeMap::from([(user.to_owned(), Vec::new())]);
        let Ok((found, _)) = self.hs.remote_keys(&wanted, Some(&self.user), ASKING).await else {
            return BTreeSet::new();
        };
        found.device_keys.get(user).map(|devices| devices.keys().cloned().collect()).unwrap_or_default()
    }

    /// The counted messages that have come from a user, in the order in which they came.
    async fn counted_from(&self, user: &UserId) -> Vec<u64> {
        let all = self.hs.e2ee.to_device_after(&self.user, device_id!("DEVICE0"), 0, i64::MAX, MESSAGES_MAX).await;
        let events = all.unwrap_or_default().into_iter().filter_map(|message| {
            let event: serde_json::Value = serde_json::from_str(message.event.get()).ok()?;
            (event["type"] == COUNTED && event["sender"] == user.as_str()).then(|| event["content"]["n"].as_u64())?
        });
        events.collect()
    }
}

impl World {
    /// A user writes to a device elsewhere, or gets another device.
    pub(crate) async fn use_devices(&mut self) {
        let (from, to) = (self.pick(self.nodes.len()), self.pick(self.nodes.len()));
        if from == to {
            let name = format!("DEVICE{}", self.random.below(1_000));
            self.nodes[from].add_device(&name).await;
            return;
        }
        for _ in 0..=self.random.below(3) {
            let number = self.sent.entry((from, to)).or_default();
            let content = to_raw_value(&json!({ "n": *number })).expect("a number is JSON");
            let messages =
                BTreeMap::from([(self.nodes[to].user.clone(), BTreeMap::from([("DEVICE0".to_owned(), content)]))]);
            let (hs, user, txn) = (&self.nodes[from].hs, &self.nodes[from].user, format!("{from}-{to}-{number}"));
            let sent = hs.send_to_device(user, "DEVICE0", COUNTED, &txn, messages.clone()).await;
            if sent.is_ok() {
                // Clients that did not hear the answer ask again.
                if self.random.below(4) == 0 {
                    let _ = hs.send_to_device(user, "DEVICE0", COUNTED, &txn, messages).await;
                }
                *number += 1;
            }
        }
    }

    /// Whether each message to a device has come once and in order, and who share a room know each other's devices.
    pub(crate) async fn devices_agree(&self) -> Result<(), String> {
        for (from, here) in self.nodes.iter().enumerate() {
            for (to, there) in self.nodes.iter().enumerate().filter(|(to, _)| *to != from) {
                let sent: Vec<u64> = (0..self.sent.get(&(from, to)).copied().unwrap_or(0)).collect();
                let came = there.counted_from(&here.user).await;
                if came != sent {
                    return Err(format!("node {to} has of {} messages of node {from} these: {came:?}", sent.len()));
                }
                if self.room_of_both(here, there).await.is_some() {
                    let own = here.hs.e2ee.devices_with_keys(&here.user).await.unwrap_or_default();
                    let (own, known) = (own.into_iter().collect(), there.devices_of(&here.user).await);
                    if known != own {
                        let waits = here.hs.sender.waiting();
                        return Err(format!(
                            "node {to} knows of node {from} the devices {known:?}, not {own:?}; for these something waits: {waits:?}"
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    /// A room in which both have both.
    async fn room_of_both(&self, here: &Node, there: &Node) -> Option<OwnedRoomId> {
        for room in &self.rooms {
            if here.see_each_other(there, room).await {
                return Some(room.clone());
            }
        }
        None
    }

    /// Whether those who share a room see each other type, and what they have read. For a world that agrees, in fair weather.
    pub(crate) async fn hear_in_passing(&self) -> Result<(), String> {
        for room_id in &self.rooms {
            for (from, here) in self.nodes.iter().enumerate() {
                let mut others = Vec::new();
                for (to, there) in self.nodes.iter().enumerate().filter(|(to, _)| *to != from) {
                    if here.see_each_other(there, room_id).await {
                        others.push((to, there));
                    }
                }
                if others.is_empty() {
                    continue;
                }
                here.hs.edus.typing.start(room_id, &here.user, 2 * PASSING);
                let event_id = here.read_all(room_id).await.map_err(|error| error.to_string())?;
                self.pass(PASSING).await;
                for (to, there) in &others {
                    if !there.hs.edus.typing.users(room_id).contains(&here.user) {
                        return Err(format!("node {to} does not see the user of node {from} type"));
                    }
                    let read = there.hs.edus.receipts.of_user_in_room(&here.user, room_id).await;
                    if !read.unwrap_or_default().iter().any(|receipt| Some(&receipt.event_id) == event_id.as_ref()) {
                        return Err(format!("node {to} does not know that node {from} has read {event_id:?}"));
                    }
                }
                here.hs.edus.typing.stop(room_id, &here.user);
                self.pass(PASSING).await;
                for (to, there) in &others {
                    if there.hs.edus.typing.users(room_id).contains(&here.user) {
                        return Err(format!("node {to} sees the user of node {from} type still"));
                    }
                }
            }
        }
        Ok(())
    }
}
