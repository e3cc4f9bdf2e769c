//! From items to the body of a transaction: [Transactions, Matrix 1.19](https://spec.matrix.org/v1.19/server-server-api/#transactions).

use std::collections::BTreeMap;

use ruma::{DeviceId, OwnedRoomId, OwnedUserId, RoomId, ServerName, UserId};
use samtal_db::params;
use samtal_e2ee::{JsonObject, device_list::DeviceUpdate};
use samtal_edu::Receipt;
use serde_json::{Map, Value, json};

use crate::{
    SenderError,
    item::{Item, Placed},
    schema,
    sender::Engines,
};

/// Most PDUs of a transaction.
pub(crate) const PDUS_MAX: usize = 50;
/// Sticky events of a room that are looked at for those of ours.
const STICKY_LOOK_MAX: usize = 1_000;
/// Most EDUs of a transaction.
pub(crate) const EDUS_MAX: usize = 100;
/// Stored EDUs in one transaction: room is left for the others.
const STORED_EDUS_MAX: i64 = 60;
/// Receipts of one user in one room that are told after a time without contact.
const RECEIPTS_MAX: usize = 10;
/// Devices of one user that are told when they come to share a room.
const DEVICES_MAX: usize = 20;

/// A transaction under way.
#[derive(Debug, Default)]
pub(crate) struct Transaction {
    pdus: Vec<String>,
    edus: Vec<String>,
    /// Positions of the stored EDUs in it.
    pub(crate) stored: Vec<i64>,
    /// More stored EDUs wait than fitted.
    pub(crate) more_stored: bool,
}

impl Transaction {
    /// Whether there is nothing to send.
    pub(crate) fn is_empty(&self) -> bool {
        self.pdus.is_empty() && self.edus.is_empty()
    }

    /// How many items from the front of a queue fit into one transaction.
    pub(crate) fn fitting<'a>(items: impl Iterator<Item = &'a Placed>) -> usize {
        let (mut pdus, mut edus) = (0, 0);
        items
            .take_while(|placed| {
                match &placed.item {
                    Item::Event { .. } => pdus += 1,
                    Item::Sticky { .. } => pdus += PDUS_MAX,
                    Item::Devices { .. } | Item::Missed { .. } => edus += DEVICES_MAX,
                    Item::Edu => {}
                    Item::DeviceList { .. } | Item::Receipt { .. } => edus += 1,
                }
                // 60 stored EDUs, 2 for presence and typing of a few, and 20 of the devices of one user stay below 100.
                pdus <= PDUS_MAX && edus <= 36
            })
            .count()
            .max(1)
    }

    /// Builds the transaction of these items.
    pub(crate) async fn build(
        engines: &Engines,
        destination: &ServerName,
        items: &[Placed],
    ) -> Result<Self, SenderError> {
        let mut transaction = Self::default();
        let mut receipts = ReceiptEdus::default();
        for placed in items {
            match &placed.item {
                Item::Event { event_id, .. } => {
                    if let Some(event) = engines.rooms.store().graph.event(event_id).await? {
                        transaction.pdus.push(event.pdu.json().to_owned());
                    }
                }
                Item::Sticky { room } => {
                    let store = engines.rooms.store();
                    let own =
                        store.sticky_events_of(room, &engines.name, engines.clock.now_ms(), STICKY_LOOK_MAX).await?;
                    let newest = own.len().saturating_sub(PDUS_MAX);
                    let own = own.iter().skip(newest);
                    transaction.pdus.extend(own.map(|sticky| sticky.event.pdu.json().to_owned()));
                }
                Item::DeviceList { user } => transaction.device_list(engines, user, placed.position).await?,
                // The last change: whoever lacks those before asks for the whole.
                Item::Missed { user } => {
                    let position = engines.e2ee.device_list_position(user).await?;
                    transaction.device_list(engines, user, position).await?;
                }
                Item::Devices { user } => transaction.devices(engines, user).await?,
                Item::Receipt { room, user } => {
                    let all = engines.edus.receipts.of_user_in_room(user, room).await?;
                    for receipt in to_tell(all, placed.position) {
                        receipts.add(room, user, &receipt);
                    }
                }
                Item::Edu => transaction.stored(engines, destination).await?,
            }
        }
        for receipts in receipts.0 {
            let content: Map<String, Value> =
                receipts.into_iter().map(|(room, users)| (room.to_string(), json!({ "m.read": users }))).collect();
            transaction.edu("m.receipt", &content.into());
        }
        Ok(transaction)
    }

    /// Adds who types and who has stopped.
    pub(crate) fn typing(&mut self, typing: BTreeMap<(OwnedRoomId, OwnedUserId), bool>) {
        for ((room_id, user_id), typing) in typing {
            if self.edus.len() < EDUS_MAX {
                self.edu("m.typing", &json!({ "room_id": room_id, "user_id": user_id, "typing": typing }));
            }
        }
    }

    /// Adds presences, as one EDU.
    pub(crate) fn presence(&mut self, engines: &Engines, users: impl IntoIterator<Item = OwnedUserId>) {
        let presence = &engines.edus.presence;
        let push: Vec<Value> = users
            .into_iter()
            .filter_map(|user| {
                let mut content = presence.get(&user)?.content(presence.now_ms());
                content["user_id"] = json!(user);
                Some(content)
            })
            .collect();
        if !push.is_empty() && self.edus.len() < EDUS_MAX {
            self.edu("m.presence", &json!({ "push": push }));
        }
    }

    /// The body.
    pub(crate) fn body(&self, origin: &ServerName, now_ms: u64) -> String {
        let origin = Value::from(origin.as_str());
        let (pdus, edus) = (self.pdus.join(","), self.edus.join(","));
        format!(r#"{{"origin":{origin},"origin_server_ts":{now_ms},"pdus":[{pdus}],"edus":[{edus}]}}"#)
    }

    fn edu(&mut self, edu_type: &str, content: &Value) {
        self.edus.push(json!({ "edu_type": edu_type, "content": content }).to_string());
    }

    async fn stored(&mut self, engines: &Engines, destination: &ServerName) -> Result<(), SenderError> {
        if !self.stored.is_empty() {
            return Ok(());
        }
        let rows = engines.db.query(&schema::EDUS, params![destination.as_str(), STORED_EDUS_MAX + 1]).await?;
        for row in &rows {
            if self.stored.len() as i64 == STORED_EDUS_MAX {
                self.more_stored = true;
                break;
            }
            self.stored.push(row.int(0)?);
            self.edus.push(row.text(1)?.to_owned());
        }
        Ok(())
    }

    async fn device_list(&mut self, engines: &Engines, user: &UserId, position: i64) -> Result<(), SenderError> {
        match engines.e2ee.device_update(position).await? {
            Some(update) if update.user == user => self.device_update(engines, update).await,
            // A change that is forgotten, or collapsed with others: the whole is told.
            _ => self.devices(engines, user).await,
        }
    }

    async fn device_update(&mut self, engines: &Engines, update: DeviceUpdate) -> Result<(), SenderError> {
        let Some(device_id) = update.device_id else {
            let keys = engines.e2ee.cross_signing_keys(&update.user).await?;
            let mut content = json!({ "user_id": update.user });
            if let Some(master) = keys.master {
                content["master_key"] = master.into();
            }
            if let Some(self_signing) = keys.self_signing {
                content["self_signing_key"] = self_signing.into();
            }
            self.edu("m.signing_key_update", &content);
            return Ok(());
        };
        let mut content = json!({
            "user_id": update.user,
            "device_id": device_id,
            "stream_id": update.stream_id,
            "prev_id": update.prev_id.into_iter().collect::<Vec<_>>(),
        });
        let device = engines.accounts.device(&update.user, device_id.as_str().into()).await?;
        if device.is_none() && update.keys.is_none() {
            content["deleted"] = true.into();
        }
        describe(engines, &mut content, device.and_then(|device| device.display_name), update.keys);
        self.edu("m.device_list_update", &content);
        Ok(())
    }

    /// Tells a user's devices to a server that may not have heard of them: without `prev_id`, it asks for the whole list.
    async fn devices(&mut self, engines: &Engines, user: &UserId) -> Result<(), SenderError> {
        let stream_id = engines.e2ee.device_list_position(user).await?;
        let devices = engines.e2ee.devices_with_keys(user).await?;
        if devices.is_empty()
            && let Some(last) = engines.e2ee.device_update(stream_id).await?
        {
            // The last of them went.
            return self.device_update(engines, DeviceUpdate { prev_id: None, ..last }).await;
        }
        for device_id in devices.into_iter().take(DEVICES_MAX) {
            let device = <&DeviceId>::from(device_id.as_str());
            let keys = engines.e2ee.device_keys(user, device).await?;
            let name = engines.accounts.device(user, device).await?.and_then(|device| device.display_name);
            let mut content = json!({ "user_id": user, "device_id": device_id, "stream_id": stream_id, "prev_id": [] });
            describe(engines, &mut content, name, keys);
            self.edu("m.device_list_update", &content);
        }
        Ok(())
    }
}

/// Those of a user's receipts in a room that a change is about: the one that was changed then, or after a time without
/// contact the newest. The unthreaded one comes first, so that it counts wherever only one can be shown (MSC4102).
fn to_tell(mut receipts: Vec<Receipt>, position: i64) -> Vec<Receipt> {
    receipts.retain(|receipt| receipt.receipt_type == "m.read");
    if receipts.iter().any(|receipt| receipt.position == position) {
        receipts.retain(|receipt| receipt.position == position);
    }
    receipts.sort_by_key(|receipt| (receipt.thread.is_some(), -receipt.position));
    receipts.truncate(RECEIPTS_MAX);
    receipts
}

/// Receipts by room and user. One EDU has room for one of each user in each room.
#[derive(Debug, Default)]
struct ReceiptEdus(Vec<BTreeMap<OwnedRoomId, Map<String, Value>>>);

impl ReceiptEdus {
    fn add(&mut self, room: &RoomId, user: &UserId, receipt: &Receipt) {
        let mut data = json!({ "ts": receipt.ts_ms });
        if let Some(thread) = &receipt.thread {
            data["thread_id"] = json!(thread);
        }
        let entry = json!({ "event_ids": [receipt.event_id], "data": data });
        let is_free = |edu: &BTreeMap<OwnedRoomId, Map<String, Value>>| {
            edu.get(room).is_none_or(|users| !users.contains_key(user.as_str()))
        };
        let at = self.0.iter().position(is_free).unwrap_or(self.0.len());
        if at == self.0.len() {
            self.0.push(BTreeMap::new());
        }
        if let Some(edu) = self.0.get_mut(at) {
            edu.entry(room.to_owned()).or_default().insert(user.to_string(), entry);
        }
    }
}

/// Adds what there is to say of a device.
fn describe(engines: &Engines, content: &mut Value, name: Option<String>, keys: Option<JsonObject>) {
    if let Some(keys) = keys {
        content["keys"] = keys.into();
    }
    if let Some(name) = name.filter(|_| engines.device_names) {
        content["device_display_name"] = name.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn note_33_a_transaction_holds_fifty_events_at_most() {
        let event = |n: i64| Placed {
            position: n,
            item: Item::Event { room: "!r:a".try_into().unwrap(), event_id: format!("$e{n}").try_into().unwrap() },
        };
        let items: Vec<Placed> = (0..70).map(event).collect();
        assert_eq!(Transaction::fitting(items.iter()), PDUS_MAX);
        let receipt = Placed {
            position: 0,
            item: Item::Receipt { room: "!r:a".try_into().unwrap(), user: "@u:a".try_into().unwrap() },
        };
        let items = vec![receipt; 200];
        assert!(Transaction::fitting(items.iter()) <= EDUS_MAX);
    }

    #[test]
    fn a_transaction_is_json() {
        let mut transaction = Transaction::default();
        transaction.pdus.push(r#"{"a":1}"#.to_owned());
        transaction.typing(BTreeMap::from([(("!r:a".try_into().unwrap(), "@u:a".try_into().unwrap()), true)]));
        let body: Value = serde_json::from_str(&transaction.body(ruma::server_name!("us.example"), 7)).unwrap();
        assert_eq!(body["pdus"][0]["a"], 1);
        assert_eq!(body["edus"][0]["edu_type"], "m.typing");
        assert_eq!((&body["origin"], &body["origin_server_ts"]), (&json!("us.example"), &json!(7)));
    }
}
