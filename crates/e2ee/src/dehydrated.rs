//! Dehydrated devices (MSC3814): a device that receives room keys while none of the user's is logged in.

use ruma::{DeviceId, UserId};
use samtal_db::{Batch, Sql, params, sql};
use serde_json::value::RawValue;

use crate::{E2ee, E2eeError, one_time_key::KeyUpload};

/// Largest dehydrated device, in bytes of its encrypted data.
const DEVICE_DATA_BYTES_MAX: usize = 65_536;

const DEVICE: Sql = sql!("SELECT device_id, display_name, device_data FROM dehydrated_device WHERE user_id = $1");
const DEVICE_SET: Sql = sql!(
    "INSERT INTO dehydrated_device (user_id, device_id, display_name, device_data) VALUES ($1, $2, $3, $4)
     ON CONFLICT (user_id) DO UPDATE SET device_id = excluded.device_id, display_name = excluded.display_name,
        device_data = excluded.device_data"
);
const DEVICE_DELETE: Sql = sql!("DELETE FROM dehydrated_device WHERE user_id = $1");
const KEYS_OF_DEHYDRATED_DELETE: Sql = sql!(
    "DELETE FROM device_key WHERE user_id = $1
        AND device_id IN (SELECT device_id FROM dehydrated_device WHERE user_id = $1)"
);

/// A user's dehydrated device.
#[derive(Clone, Debug)]
pub struct Dehydrated {
    /// Its id.
    pub device_id: String,
    /// Its name.
    pub display_name: Option<String>,
    /// The device, encrypted by the client.
    pub device_data: Box<RawValue>,
}

impl E2ee {
    /// The user's dehydrated device, if there is one.
    pub async fn dehydrated(&self, user: &UserId) -> Result<Option<Dehydrated>, E2eeError> {
        let Some(row) = self.db.query_opt(&DEVICE, params![user.as_str()]).await? else { return Ok(None) };
        let device_data = RawValue::from_string(row.text(2)?.to_owned())
            .map_err(|_| E2eeError::NotFound("the stored device cannot be read".to_owned()))?;
        Ok(Some(Dehydrated {
            device_id: row.text(0)?.to_owned(),
            display_name: row.opt_text(1)?.map(ToOwned::to_owned),
            device_data,
        }))
    }

    /// Stores a dehydrated device with its keys in place of the one before. The caller has seen to it that the id is of
    /// no other device.
    pub async fn dehydrate(&self, user: &UserId, device: &Dehydrated, upload: &KeyUpload) -> Result<(), E2eeError> {
        let id = <&DeviceId>::from(device.device_id.as_str());
        upload.check(user, id)?;
        if device.device_data.get().len() > DEVICE_DATA_BYTES_MAX {
            return Err(E2eeError::TooLarge(format!("device_data may have {DEVICE_DATA_BYTES_MAX} bytes")));
        }
        self.attempt(|| async {
            let mut batch = Batch::new();
            if let Some(before) = self.dehydrated(user).await?
                && before.device_id != device.device_id
            {
                self.devices_delete(&mut batch, user, [before.device_id.as_str().into()]);
            }
            if let Some(keys) = &upload.device_keys {
                self.device_keys_put(&mut batch, user, id, keys).await?;
            }
            self.one_time_keys_put(&mut batch, user, id, upload, true).await?;
            let (name, data) = (device.display_name.as_deref(), device.device_data.get());
            batch.exec(&DEVICE_SET, params![user.as_str(), id.as_str(), name, data]);
            Ok(((), batch))
        })
        .await?;
        Ok(())
    }

    /// Adds to the batch that the user is gone, with cross-signing keys, backups and the dehydrated device. Devices are
    /// deleted with [`E2ee::devices_delete`].
    pub fn user_delete(&self, batch: &mut Batch, user: &UserId) {
        self.cross_signing_delete(batch, user);
        self.backups_delete(batch, user);
        batch.exec(&KEYS_OF_DEHYDRATED_DELETE, params![user.as_str()]);
        batch.exec(&DEVICE_DELETE, params![user.as_str()]);
    }

    /// Deletes the dehydrated device with its keys and messages. Its id, if there was one.
    pub async fn dehydrated_delete(&self, user: &UserId) -> Result<Option<String>, E2eeError> {
        let Some(device) = self.dehydrated(user).await? else { return Ok(None) };
        let mut batch = Batch::new();
        self.devices_delete(&mut batch, user, [device.device_id.as_str().into()]);
        batch.exec(&DEVICE_DELETE, params![user.as_str()]);
        self.db.commit(batch).await?;
        Ok(Some(device.device_id))
    }
}
