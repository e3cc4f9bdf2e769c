//! The specification's size limits, in one place.

/// Largest PDU: bytes of its canonical form with signatures, without `unsigned` (CS API, size limits).
pub const PDU_BYTES_MAX: usize = 65_536;
/// Longest `type`, `state_key`, user, room and event ID, in bytes.
pub const ID_BYTES_MAX: usize = 255;
/// Most `prev_events` of a PDU.
pub const PREV_EVENTS_MAX: usize = 20;
/// Most `auth_events` of a PDU.
pub const AUTH_EVENTS_MAX: usize = 10;
/// Greatest `depth`; what would be greater saturates here.
pub const DEPTH_MAX: i64 = 9_007_199_254_740_991;
/// Deepest nesting of arrays and objects we read.
pub const JSON_NESTING_MAX: usize = 128;
