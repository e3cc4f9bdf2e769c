//! Device lists of users elsewhere, as their servers tell them (specification, "Device Management").
//!
//! A list is either current up to a stream id, or stale: then whoever needs it asks that server for the whole.

use std::collections::BTreeMap;

use ruma::{DeviceId, OwnedUserId, UserId};
use samtal_db::{Batch, Sql, Value, params, sql};

use crate::{
    E2ee, E2eeError, JsonObject,
    cross_signing::{self, Usage},
    device_key::{DEVICE_KEY_DELETE, DEVICE_KEY_SET},
    device_list::{log_change, user_id},
    engine::printed,
};

/// Devices kept of one user elsewhere.
pub const DEVICES_MAX: usize = 1_000;
/// Largest keys of a device elsewhere, in bytes of JSON.
const KEYS_BYTES_MAX: usize = 65_536;

const LIST: Sql = sql!("SELECT stream_id, stale FROM remote_device_list WHERE user_id = $1");
const LIST_SET: Sql = sql!(
    "INSERT INTO remote_device_list (user_id, stream_id, stale) VALUES ($1, $2, 0)
     ON CONFLICT (user_id) DO UPDATE SET stream_id = excluded.stream_id, stale = 0"
);
const LIST_STALE: Sql = sql!("UPDATE remote_device_list SET stale = 1 WHERE user_id = $1 AND stale = 0");
const LIST_DELETE: Sql = sql!("DELETE FROM remote_device_list WHERE user_id = $1");
const LISTS_STALE: Sql =
    sql!("SELECT user_id FROM remote_device_list WHERE stale = 1 AND user_id > $1 ORDER BY user_id LIMIT $2");
const LISTS_CURRENT: Sql = sql!("SELECT user_id FROM remote_device_list WHERE stale = 0 AND user_id IN list($1)");
const DEVICES_DELETE: Sql = sql!("DELETE FROM device_key WHERE user_id = $1");
/// Refuses the batch when the list has moved on since it was read.
const LIST_IS: Sql =
    sql!("SELECT 1 FROM remote_device_list WHERE user_id = $1 AND stale = 0 AND COALESCE(stream_id, -1) = $2");

/// One device as another server tells it.
#[derive(Clone, Debug, PartialEq)]
pub struct RemoteDevice {
    /// Its id.
    pub device_id: String,
    /// Its name, where that server tells it.
    pub display_name: Option<String>,
    /// Its keys; without keys it is not kept.
    pub keys: Option<JsonObject>,
}

/// A whole list, as `/user/devices` answers it.
#[derive(Clone, Debug, Default)]
pub struct RemoteList {
    /// Up to which update it goes.
    pub stream_id: i64,
    /// The devices.
    pub devices: Vec<RemoteDevice>,
    /// The master key.
    pub master_key: Option<JsonObject>,
    /// The self-signing key.
    pub self_signing_key: Option<JsonObject>,
}

/// An `m.device_list_update`.
#[derive(Clone, Debug)]
pub struct RemoteUpdate {
    /// Its id.
    pub stream_id: i64,
    /// The updates it builds on.
    pub prev_id: Vec<i64>,
    /// Whether the device is gone.
    pub deleted: bool,
    /// The device.
    pub device: RemoteDevice,
}

/// What became of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateOutcome {
    /// It is stored.
    Stored,
    /// Updates are missing between what is held and this one: the whole list must be asked for.
    Resync,
    /// The user's list is not held here (nobody asked for it), or the update is old.
    Ignored,
}

impl E2ee {
    /// Takes an update for a user of the server that sent it (which the caller has checked). Of a list that is not held
    /// clients hear when it is here, or cannot be had.
    pub async fn remote_update(&self, user: &UserId, update: &RemoteUpdate) -> Result<UpdateOutcome, E2eeError> {
        let (outcome, _) = self
            .attempt(|| async {
                let mut batch = Batch::new();
                let Some((stream_id, stale)) = self.remote_list_state(user).await? else {
                    return Ok((UpdateOutcome::Ignored, batch));
                };
                if stale {
                    return Ok((UpdateOutcome::Resync, batch));
                }
                if stream_id.is_some_and(|held| update.stream_id <= held) {
                    return Ok((UpdateOutcome::Ignored, batch));
                }
                let device = <&DeviceId>::from(update.device.device_id.as_str());
                // An empty list means "ask for all" too: Synapse relies on it.
                if update.prev_id.is_empty()
                    || stream_id.is_none()
                    || !update.prev_id.iter().all(|id| Some(*id) <= stream_id)
                {
                    // Clients hear of it when the list is here, or cannot be had: else they would ask twice.
                    batch.exec(&LIST_STALE, params![user.as_str()]);
                    return Ok((UpdateOutcome::Resync, batch));
                }
                batch.require(&LIST_IS, params![user.as_str(), stream_id.unwrap_or(-1)]);
                let position = log_change(&mut batch, user, Some(device));
                if update.deleted {
                    batch.exec(&DEVICE_KEY_DELETE, params![user.as_str(), device.as_str()]);
                } else {
                    device_put(&mut batch, user, &update.device, position);
                }
                batch.exec(&LIST_SET, params![user.as_str(), update.stream_id]);
                Ok((UpdateOutcome::Stored, batch))
            })
            .await?;
        Ok(outcome)
    }

    /// Replaces what is held of a user elsewhere by what their server answered; from now on the list is followed. It counts
    /// as a change when it differs from what was held before.
    pub async fn remote_list_set(&self, user: &UserId, list: &RemoteList) -> Result<(), E2eeError> {
        if list.devices.len() > DEVICES_MAX {
            return Err(E2eeError::TooLarge(format!("{} devices of one user", list.devices.len())));
        }
        if let Some((Some(held), false)) = self.remote_list_state(user).await?
            && held > list.stream_id
        {
            // An update has overtaken the answer.
            return Ok(());
        }
        let mut batch = Batch::new();
        let position = match self.remote_differs(user, list).await? {
            true => log_change(&mut batch, user, None),
            false => self.db.position().into(),
        };
        batch.exec(&DEVICES_DELETE, params![user.as_str()]);
        for device in &list.devices {
            device_put(&mut batch, user, device, position.clone());
        }
        let none = JsonObject::new();
        for (usage, key) in [(Usage::Master, &list.master_key), (Usage::SelfSigning, &list.self_signing_key)] {
            let key = key.as_ref().filter(|key| owned_by(key, user)).unwrap_or(&none);
            cross_signing::put(&mut batch, user, usage, key, position.clone());
        }
        batch.exec(&LIST_SET, params![user.as_str(), list.stream_id]);
        self.db.commit(batch).await?;
        Ok(())
    }

    /// Whether a list that is held differs from this one. Where none is held, clients may have had an answer before: all
    /// that they could not have seen then is news.
    async fn remote_differs(&self, user: &UserId, list: &RemoteList) -> Result<bool, E2eeError> {
        if self.remote_list_state(user).await?.is_none() {
            return Ok(list.master_key.is_some() || list.devices.iter().any(|device| fitting(user, device).is_some()));
        }
        let mut held = self.keys_query(&BTreeMap::from([(user.to_owned(), Vec::new())]), None).await?;
        let mut devices = BTreeMap::new();
        for device in &list.devices {
            if let Some(keys) = fitting(user, device) {
                let mut keys = keys.clone();
                keys.remove("unsigned");
                if let Some(name) = &device.display_name {
                    keys.insert("unsigned".to_owned(), serde_json::json!({ "device_display_name": name }));
                }
                devices.insert(device.device_id.clone(), keys);
            }
        }
        Ok(held.device_keys.remove(user).unwrap_or_default() != devices
            || held.master_keys.remove(user).as_ref() != list.master_key.as_ref().filter(|key| owned_by(key, user))
            || held.self_signing_keys.remove(user).as_ref()
                != list.self_signing_key.as_ref().filter(|key| owned_by(key, user)))
    }

    /// Takes an `m.signing_key_update` for a user of the server that sent it.
    pub async fn remote_signing_keys(
        &self,
        user: &UserId,
        master_key: Option<&JsonObject>,
        self_signing_key: Option<&JsonObject>,
    ) -> Result<(), E2eeError> {
        let mut batch = Batch::new();
        let position = log_change(&mut batch, user, None);
        for (usage, key) in [(Usage::Master, master_key), (Usage::SelfSigning, self_signing_key)] {
            if let Some(key) = key.filter(|key| owned_by(key, user)) {
                cross_signing::put(&mut batch, user, usage, key, position.clone());
            }
        }
        self.db.commit(batch).await?;
        Ok(())
    }

    /// Stream id and whether the list is stale; nothing when it is not held.
    async fn remote_list_state(&self, user: &UserId) -> Result<Option<(Option<i64>, bool)>, E2eeError> {
        let row = self.db.query_opt(&LIST, params![user.as_str()]).await?;
        row.map(|row| Ok((row.opt_int(0)?, row.get(1)?))).transpose()
    }

    /// Whether the list of a user elsewhere is held, current or stale.
    pub async fn remote_is_held(&self, user: &UserId) -> Result<bool, E2eeError> {
        Ok(self.remote_list_state(user).await?.is_some())
    }

    /// Those of these users elsewhere whose lists are held and current.
    pub async fn remote_current(&self, users: &[OwnedUserId]) -> Result<Vec<OwnedUserId>, E2eeError> {
        let ids: Vec<String> = users.iter().map(ToString::to_string).collect();
        let rows = self.db.query(&LISTS_CURRENT, params![ids]).await?;
        Ok(rows.iter().filter_map(|row| user_id(row, 0)).collect())
    }

    /// Marks a user's list as one that must be asked for anew.
    pub async fn remote_mark_stale(&self, user: &UserId) -> Result<(), E2eeError> {
        let mut batch = Batch::new();
        batch.exec(&LIST_STALE, params![user.as_str()]);
        log_change(&mut batch, user, None);
        self.db.commit(batch).await?;
        Ok(())
    }

    /// Users elsewhere whose lists must be asked for, in order, after `after`.
    pub async fn remote_stale(&self, after: Option<&UserId>, limit: i64) -> Result<Vec<OwnedUserId>, E2eeError> {
        let rows = self.db.query(&LISTS_STALE, params![after.map_or("", UserId::as_str), limit]).await?;
        Ok(rows.iter().filter_map(|row| user_id(row, 0)).collect())
    }

    /// Forgets what is held of a user elsewhere, with whom nobody here shares a room any more.
    pub async fn remote_forget(&self, user: &UserId) -> Result<(), E2eeError> {
        let mut batch = Batch::new();
        batch.exec(&LIST_DELETE, params![user.as_str()]);
        batch.exec(&DEVICES_DELETE, params![user.as_str()]);
        self.cross_signing_delete(&mut batch, user);
        self.db.commit(batch).await?;
        Ok(())
    }
}

/// Adds a device, or nothing when it has no keys or its keys name another.
fn device_put(batch: &mut Batch, user: &UserId, device: &RemoteDevice, position: Value) {
    let id = device.device_id.as_str();
    let Some(keys) = fitting(user, device) else {
        batch.exec(&DEVICE_KEY_DELETE, params![user.as_str(), id]);
        return;
    };
    let mut keys = keys.clone();
    keys.remove("unsigned");
    let keys = printed(&keys);
    if keys.len() <= KEYS_BYTES_MAX {
        let mut row = params![user.as_str(), id, keys, device.display_name.as_deref()];
        row.push(position);
        batch.exec(&DEVICE_KEY_SET, row);
    }
}

/// The device's keys, if they name it and its owner.
fn fitting<'a>(user: &UserId, device: &'a RemoteDevice) -> Option<&'a JsonObject> {
    // Keys that do not say whose they are are as good as their server's word; clients check what they sign.
    let says = |keys: &JsonObject, field: &str, expected: &str| {
        keys.get(field).is_none_or(|value| value.as_str() == Some(expected))
    };
    let names_it =
        |keys: &&JsonObject| says(keys, "user_id", user.as_str()) && says(keys, "device_id", device.device_id.as_str());
    device.keys.as_ref().filter(names_it)
}

fn owned_by(key: &JsonObject, user: &UserId) -> bool {
    key.get("user_id").and_then(|value| value.as_str()) == Some(user.as_str())
}
