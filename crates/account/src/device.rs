//! Devices.

use ruma::{DeviceId, OwnedDeviceId, UserId};
use samtal_db::{Batch, Change, Row, Sql, params, sql};
use samtal_model::ChangeKind;

use crate::{AccountError, Accounts};

/// Longest device id and name, in bytes.
pub const DEVICE_TEXT_BYTES_MAX: usize = 512;

/// A device of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its id.
    pub device_id: OwnedDeviceId,
    /// What its owner calls it.
    pub display_name: Option<String>,
    /// When it was last seen, in milliseconds since the epoch, to within some minutes.
    pub seen_ms: Option<u64>,
    /// From where.
    pub seen_ip: Option<String>,
    /// What its client calls itself.
    pub seen_agent: Option<String>,
}

const DEVICE: Sql = sql!(
    "SELECT device_id, display_name, seen_ms, seen_ip, seen_agent FROM account_device
     WHERE user_id = $1 AND device_id = $2"
);
const DEVICE_LIST: Sql = sql!(
    "SELECT device_id, display_name, seen_ms, seen_ip, seen_agent FROM account_device
     WHERE user_id = $1 ORDER BY device_id"
);
const DEVICE_RENAME: Sql = sql!("UPDATE account_device SET display_name = $1 WHERE user_id = $2 AND device_id = $3");
const DEVICE_INSERT: Sql = sql!(
    "INSERT INTO account_device (user_id, device_id, display_name, created_ms) VALUES ($1, $2, $3, $4)
     ON CONFLICT (user_id, device_id) DO NOTHING"
);
const DEVICE_DELETE: Sql = sql!("DELETE FROM account_device WHERE user_id = $1 AND device_id = $2");
const ACCESS_DELETE: Sql = sql!("DELETE FROM account_access WHERE user_id = $1 AND device_id = $2");
const REFRESH_DELETE: Sql = sql!("DELETE FROM account_refresh WHERE user_id = $1 AND device_id = $2");
const DEVICE_SEEN: Sql =
    sql!("UPDATE account_device SET seen_ms = $1, seen_ip = $2, seen_agent = $3 WHERE user_id = $4 AND device_id = $5");

impl Device {
    fn from_row(row: &Row) -> Result<Self, AccountError> {
        Ok(Self {
            device_id: row.text(0)?.into(),
            display_name: row.get(1)?,
            seen_ms: row.get(2)?,
            seen_ip: row.get(3)?,
            seen_agent: row.get(4)?,
        })
    }
}

impl Accounts {
    /// A device of the user.
    pub async fn device(&self, user: &UserId, device: &DeviceId) -> Result<Option<Device>, AccountError> {
        let row = self.db.query_opt(&DEVICE, params![user.as_str(), device.as_str()]).await?;
        row.as_ref().map(Device::from_row).transpose()
    }

    /// All devices of the user, by id.
    pub async fn devices(&self, user: &UserId) -> Result<Vec<Device>, AccountError> {
        self.db.query(&DEVICE_LIST, params![user.as_str()]).await?.iter().map(Device::from_row).collect()
    }

    /// The write by which a device gets another name. A conflict means that there is no such device.
    pub fn device_rename(
        &self,
        user: &UserId,
        device: &DeviceId,
        display_name: Option<&str>,
    ) -> Result<Batch, AccountError> {
        check_text(display_name.unwrap_or_default())?;
        let mut batch = Batch::new();
        batch.expect(&DEVICE_RENAME, params![display_name, user.as_str(), device.as_str()], 1);
        Ok(batch)
    }

    /// Makes a device without a session, as application services do. Whether it is new.
    pub async fn create_device(
        &self,
        user: &UserId,
        device: &DeviceId,
        display_name: Option<&str>,
    ) -> Result<bool, AccountError> {
        check_text(device.as_str())?;
        check_text(display_name.unwrap_or_default())?;
        let is_new = self.device(user, device).await?.is_none();
        let mut batch = Batch::new();
        self.device_insert(&mut batch, user, device, display_name);
        self.db.commit(batch).await?;
        Ok(is_new)
    }

    /// The write by which devices and their sessions go. What other engines keep of them goes in the same batch: see
    /// `samtal_ops`.
    pub fn device_removal<'a>(&self, user: &UserId, devices: impl IntoIterator<Item = &'a DeviceId>) -> Batch {
        let mut batch = Batch::new();
        for device in devices {
            for sql in [&ACCESS_DELETE, &REFRESH_DELETE, &DEVICE_DELETE] {
                batch.exec(sql, params![user.as_str(), device.as_str()]);
            }
            batch.log(Change::new(ChangeKind::Logout).user(user).reference(device));
            // What the user's clients settled for this device's notifications goes with it (MSC3890).
            for prefix in ["m", "org.matrix.msc3890"] {
                let data_type = format!("{prefix}.local_notification_settings.{device}");
                self.data_delete(&mut batch, user, None, &data_type);
            }
        }
        batch
    }

    /// The write by which a device's tokens go, while the device stays.
    pub(crate) fn device_end_session(&self, batch: &mut Batch, user: &UserId, device: &DeviceId) {
        for sql in [&ACCESS_DELETE, &REFRESH_DELETE] {
            batch.exec(sql, params![user.as_str(), device.as_str()]);
        }
        batch.log(Change::new(ChangeKind::Logout).user(user).reference(device));
    }

    pub(crate) fn device_insert(
        &self,
        batch: &mut Batch,
        user: &UserId,
        device: &DeviceId,
        display_name: Option<&str>,
    ) {
        batch.exec(&DEVICE_INSERT, params![user.as_str(), device.as_str(), display_name, self.now()]);
    }

    pub(crate) fn device_seen(&self, batch: &mut Batch, user: &UserId, device: &DeviceId, client: &crate::Client) {
        batch.exec(
            &DEVICE_SEEN,
            params![self.now(), client.ip.as_deref(), client.agent.as_deref(), user.as_str(), device.as_str()],
        );
    }
}

/// Checks a device id or name that a client chose.
pub(crate) fn check_text(text: &str) -> Result<(), AccountError> {
    if text.len() > DEVICE_TEXT_BYTES_MAX {
        return Err(AccountError::Invalid(format!("More than {DEVICE_TEXT_BYTES_MAX} bytes")));
    }
    if text.contains('\0') {
        return Err(AccountError::Invalid("A NUL character".to_owned()));
    }
    Ok(())
}
