//! What a user has not read and wants to be told of.
//!
//! Modules in reading order: [`verdict`] (what a user's push rules say of an event) → [`thread`] (which thread an event is
//! in) → [`counts`] (how much is unread). Nothing is written when an event comes: counts are worked out from the timeline
//! and the user's receipts when someone asks, and remembered in memory.

mod counts;
mod error;
mod thread;
mod verdict;

pub use counts::{Count, Counts, Push};
pub use error::PushError;
pub use verdict::Verdict;
