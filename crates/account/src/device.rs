//! Devices.

use ruma::{DeviceId, OwnedDeviceId, UserId};
use samtal_db::{Row, Sql, params, sql};

use crate::{AccountError, Accounts};

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
}
