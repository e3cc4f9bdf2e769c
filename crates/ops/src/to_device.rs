//! Messages to devices, here and elsewhere.

use std::collections::BTreeMap;

use ruma::{OwnedServerName, OwnedUserId, UserId};
use samtal_db::Batch;
use samtal_e2ee::to_device::{Once, ToDevice};
use samtal_sender::queue_edu;
use serde_json::{json, value::RawValue};

use crate::{Homeserver, keys::KeysError};

/// Stands for all devices of a user.
const ALL: &str = "*";
/// Longest message id between servers, in code points.
const MESSAGE_ID_MAX: usize = 32;

/// For each user and device (or `*`) a content.
pub type Messages = BTreeMap<OwnedUserId, BTreeMap<String, Box<RawValue>>>;

impl Homeserver {
    /// Sends messages of a type from a user's device to devices, once for each transaction id. Devices that there are not
    /// are passed over.
    pub async fn send_to_device(
        &self,
        sender: &UserId,
        device: &str,
        event_type: &str,
        transaction_id: &str,
        messages: Messages,
    ) -> Result<(), KeysError> {
        let (here, elsewhere): (Messages, Messages) =
            messages.into_iter().partition(|(user, _)| self.accounts.is_local(user));
        let mut servers: BTreeMap<OwnedServerName, Messages> = BTreeMap::new();
        for (user, devices) in elsewhere {
            servers.entry(user.server_name().to_owned()).or_default().insert(user, devices);
        }
        let mut outgoing = Batch::new();
        for (server, messages) in servers {
            let content = json!({
                "sender": sender,
                "type": event_type,
                "message_id": self.random.alphanumeric(MESSAGE_ID_MAX),
                "messages": messages,
            });
            queue_edu(&mut outgoing, &server, "m.direct_to_device", &content);
        }
        let messages = self.addressed(here).await?;
        let id = format!("{event_type}/{transaction_id}");
        let once = Once::Transaction { user: sender, device, id: &id };
        self.e2ee.to_device_send(sender, event_type, &messages, once, outgoing).await?;
        Ok(())
    }

    /// One message for each device that there is.
    pub(crate) async fn addressed(&self, messages: Messages) -> Result<Vec<ToDevice>, KeysError> {
        let mut addressed = Vec::new();
        for (user, contents) in messages {
            let mut devices: Vec<String> =
                self.accounts.devices(&user).await?.into_iter().map(|device| device.device_id.to_string()).collect();
            devices.extend(self.e2ee.dehydrated(&user).await?.map(|device| device.device_id));
            for device in devices {
                if let Some(content) = contents.get(&device).or_else(|| contents.get(ALL)) {
                    addressed.push(ToDevice { user: user.clone(), device, content: content.clone() });
                }
            }
        }
        Ok(addressed)
    }
}
