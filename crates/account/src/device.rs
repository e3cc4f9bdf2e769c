//! Devices.

use ruma::OwnedDeviceId;

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
}
