//! Application services: bridges and bots with names of their own. Each that has an address follows the change log at its own
//! cursor and is told what concerns it, in order, until it has it; and it can be asked.
//!
//! Reading order: `registration.rs` (who it is) → `schema.rs` → `interest.rs` (what concerns it) → `ask.rs` (the way to it, and
//! questions) → `transaction.rs` (from changes to a body) → `delivery.rs` (the follower) → `room_list.rs` → `appservices.rs` (the
//! handle). It leaves out: who may act as whom, and whose names are reserved, which `samtal-account` and the edges know.

mod appservices;
mod ask;
mod delivery;
mod interest;
mod registration;
mod room_list;
mod schema;
mod transaction;

pub use appservices::{AppserviceError, Appservices, Engines, Options};
pub use ask::{Lookup, Pong};
pub use delivery::{Backoff, DeliveryError};
pub use registration::{Names, Namespaces, Registration, RegistrationError, Service};
pub use schema::SCHEMA;
