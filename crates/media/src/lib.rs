//! Uploaded files and those of other servers: kept once whatever their number of names, streamed in both directions,
//! made smaller on demand, and deleted everywhere at once.
//!
//! The database is the ledger: a file in the store is known to it before its first byte is written, so a crash leaves
//! nothing behind that [`Media::sweep`] does not find. It has no network but [`preview`]'s; fetching other servers' files
//! is a use case above.

#![forbid(unsafe_code)]

mod animation;
mod cleaning;
mod cloud;
mod copies;
pub mod disposition;
mod engine;
mod icap;
mod ledger;
mod oembed;
mod options;
mod page;
mod picture;
pub mod scan;
mod schema;
mod store;

pub mod entry;
pub mod listing;
pub mod preview;
pub mod thumbnail;
pub mod upload;

pub use cloud::Cloud;
pub use engine::{Media, MediaError, is_media_id};
pub use entry::{Entry, Found};
pub use listing::{ListedFile, UserFiles};
pub use options::Options;
pub use schema::SCHEMA;
pub use store::{ByteStream, Location};
pub use thumbnail::{Method, Thumbnail, Wanted};
pub use upload::{About, Reservation, Target};
