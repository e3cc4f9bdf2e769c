//! What a user has not read and wants to be told of: counts, and notifications to push gateways.
//!
//! Modules in reading order: `verdict` (what a user's push rules say of an event) → `thread` (which thread an event is
//! in) → `counts` (how much is unread) → `history` (what there was to be told of) → `pusher` (who is to be told) →
//! `gateway` (the way there) → `notification` (what is said) → `mail` (letters for those who want mail) → `delivery` (the follower and its workers).
//!
//! Nothing is written when an event comes, but for users with pushers: counts are worked out from the timeline and the
//! user's receipts when someone asks, and remembered in memory.

mod counts;
mod delivery;
mod error;
mod gateway;
mod history;
mod mail;
mod notification;
mod pusher;
mod schema;
mod thread;
mod verdict;

pub use counts::{Count, Counts, Push};
pub use delivery::{Delivery, DeliveryEngines};
pub use error::PushError;
pub use gateway::{Gateway, GatewayError, HttpGateway, Notified};
pub use history::{History, Notification};
pub use mail::{Letter, MailError, MailRound, Mailed, Mailer};
pub use pusher::{Pusher, PusherKey, Pushers};
pub use schema::SCHEMA;
pub use verdict::Verdict;
