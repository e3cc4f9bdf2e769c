//! What the server does for end-to-end encryption: device keys, one-time and fallback keys, cross-signing, signatures,
//! who must hear of changed device lists, to-device messages, key backup, dehydrated devices.
//!
//! It knows devices only by the keys they uploaded; which devices exist is the account engine's. It has no network: what
//! other servers say comes in through [`remote_list`], and what they must hear goes out through [`E2ee::device_update`].

#![forbid(unsafe_code)]

mod engine;
mod schema;
mod signed;

pub mod backup;
pub mod cross_signing;
pub mod dehydrated;
pub mod device_key;
pub mod device_list;
pub mod one_time_key;
pub mod remote_list;
mod restore;
pub mod signature;
pub mod to_device;

pub use engine::{E2ee, E2eeError, JsonObject};
pub use schema::SCHEMA;
