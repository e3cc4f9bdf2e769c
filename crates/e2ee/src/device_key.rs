//! Identity keys of devices, and what `/keys/query` answers for users whose keys are held here.

use std::collections::BTreeMap;

use ruma::{DeviceId, OwnedUserId, UserId};
use samtal_db::{Batch, Row, Sql, Value, params, sql};
use serde_json::json;

use crate::{
    E2ee, E2eeError, JsonObject,
    cross_signing::Usage,
    device_list::{log_change, user_id},
    engine::{printed, stored_object},
    one_time_key::{self, KeyUpload},
    signature,
    signed::bare,
};

const DEVICE_KEY: Sql = sql!("SELECT keys_json FROM device_key WHERE user_id = $1 AND device_id = $2");
const DEVICE_KEYS_OF_USERS: Sql =
    sql!("SELECT user_id, device_id, keys_json, display_name FROM device_key WHERE user_id IN list($1)");
const DEVICES_WITH_KEYS: Sql = sql!("SELECT device_id FROM device_key WHERE user_id = $1 ORDER BY device_id");
pub(crate) const DEVICE_KEY_SET: Sql = sql!(
    "INSERT INTO device_key (user_id, device_id, keys_json, display_name, position) VALUES ($1, $2, $3, $4, $5)
     ON CONFLICT (user_id, device_id) DO UPDATE SET keys_json = excluded.keys_json,
        display_name = excluded.display_name, position = excluded.position"
);
pub(crate) const DEVICE_KEY_DELETE: Sql = sql!("DELETE FROM device_key WHERE user_id = $1 AND device_id = $2");

/// Keys of several users, as far as the viewer may see their signatures.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KeysFound {
    /// Device keys by user and device id. Users who were asked for and have none are here with nothing.
    pub device_keys: BTreeMap<OwnedUserId, BTreeMap<String, JsonObject>>,
    /// Master keys.
    pub master_keys: BTreeMap<OwnedUserId, JsonObject>,
    /// Self-signing keys.
    pub self_signing_keys: BTreeMap<OwnedUserId, JsonObject>,
    /// User-signing keys: only the viewer's own.
    pub user_signing_keys: BTreeMap<OwnedUserId, JsonObject>,
}

impl E2ee {
    /// Stores what a device uploads: its identity keys, one-time keys, fallback keys. All of it or nothing. Repeating an
    /// upload changes nothing.
    pub async fn keys_upload(&self, user: &UserId, device: &DeviceId, upload: &KeyUpload) -> Result<(), E2eeError> {
        upload.check(user, device)?;
        self.attempt(|| async {
            let mut batch = Batch::new();
            let replaced = match &upload.device_keys {
                Some(keys) => self.device_keys_put(&mut batch, user, device, keys).await?,
                None => false,
            };
            self.one_time_keys_put(&mut batch, user, device, upload, replaced).await?;
            Ok(((), batch))
        })
        .await?;
        Ok(())
    }

    /// Whether the identity keys replaced others, so that the one-time keys there are belong to nobody.
    pub(crate) async fn device_keys_put(
        &self,
        batch: &mut Batch,
        user: &UserId,
        device: &DeviceId,
        keys: &JsonObject,
    ) -> Result<bool, E2eeError> {
        let mut keys = keys.clone();
        keys.remove("unsigned");
        let stored = self.device_keys(user, device).await?;
        if stored.as_ref() == Some(&keys) {
            return Ok(false);
        }
        let resigned = stored.as_ref().is_some_and(|stored| bare(stored) == bare(&keys));
        let replaced = stored.is_some_and(|stored| stored.get("keys") != keys.get("keys"));
        let position = log_change(batch, user, Some(device));
        batch.exec(
            &DEVICE_KEY_SET,
            vec![user.as_str().into(), device.as_str().into(), printed(&keys).into(), Value::Null, position],
        );
        if !resigned {
            signature::forget(batch, user, device.as_str());
        }
        Ok(replaced)
    }

    /// The identity keys of one device as they were uploaded, if it has any.
    pub async fn device_keys(&self, user: &UserId, device: &DeviceId) -> Result<Option<JsonObject>, E2eeError> {
        let row = self.db.query_opt(&DEVICE_KEY, params![user.as_str(), device.as_str()]).await?;
        Ok(row.map(|row| row.text(0).map(stored_object)).transpose()?)
    }

    /// The ids of a user's devices that have identity keys.
    pub async fn devices_with_keys(&self, user: &UserId) -> Result<Vec<String>, E2eeError> {
        let rows = self.db.query(&DEVICES_WITH_KEYS, params![user.as_str()]).await?;
        rows.iter().map(|row| Ok(row.text(0)?.to_owned())).collect()
    }

    /// The keys of these users, each with the devices asked for (none means all), as `viewer` may see them; `None` stands
    /// for another server, which sees only what owners signed.
    pub async fn keys_query(
        &self,
        users: &BTreeMap<OwnedUserId, Vec<String>>,
        viewer: Option<&UserId>,
    ) -> Result<KeysFound, E2eeError> {
        let ids: Vec<String> = users.keys().map(ToString::to_string).collect();
        let mut found = KeysFound::default();
        if ids.is_empty() {
            return Ok(found);
        }
        let signatures = self.signatures_on(&ids, viewer).await?;
        let shown = |owner: &UserId, key_id: &str, object: &mut JsonObject| {
            signature::show(object, owner, viewer, signatures.of(owner, key_id));
        };
        found.device_keys = users.keys().map(|user| (user.clone(), BTreeMap::new())).collect();
        for row in self.db.query(&DEVICE_KEYS_OF_USERS, params![ids.clone()]).await? {
            let (Some(owner), device) = (user_id(&row, 0), row.text(1)?) else { continue };
            if !users
                .get(&owner)
                .is_some_and(|wanted| wanted.is_empty() || wanted.iter().any(|wanted| wanted == device))
            {
                continue;
            }
            let mut keys = device_object(&row)?;
            shown(&owner, device, &mut keys);
            found.device_keys.entry(owner).or_default().insert(device.to_owned(), keys);
        }
        for (owner, usage, public_key, mut object) in self.cross_signing_keys_of(&ids).await? {
            shown(&owner, &public_key, &mut object);
            match usage {
                Usage::Master => found.master_keys.insert(owner, object),
                Usage::SelfSigning => found.self_signing_keys.insert(owner, object),
                Usage::UserSigning if viewer == Some(&*owner) => found.user_signing_keys.insert(owner, object),
                Usage::UserSigning => None,
            };
        }
        Ok(found)
    }

    /// Adds to the batch that these devices are gone, with their keys, messages and signatures. The account engine's
    /// deletion belongs in the same batch.
    pub fn devices_delete<'a>(
        &self,
        batch: &mut Batch,
        user: &UserId,
        devices: impl IntoIterator<Item = &'a DeviceId>,
    ) {
        for device in devices {
            batch.exec(&DEVICE_KEY_DELETE, params![user.as_str(), device.as_str()]);
            one_time_key::delete_all(batch, user, device);
            signature::forget(batch, user, device.as_str());
            crate::to_device::delete_all(batch, user, device);
            log_change(batch, user, Some(device));
        }
    }
}

/// A stored device with the display name that its own server gave it.
fn device_object(row: &Row) -> Result<JsonObject, E2eeError> {
    let mut keys = stored_object(row.text(2)?);
    if let Some(name) = row.opt_text(3)? {
        keys.insert("unsigned".to_owned(), json!({ "device_display_name": name }));
    }
    Ok(keys)
}
