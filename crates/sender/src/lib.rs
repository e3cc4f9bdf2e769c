//! Outgoing federation: a follower of the change log with one durable cursor for each destination that has something waiting.
//!
//! The log is read once; each change is a few `item::Item`s for some servers (`audience.rs`). A destination that keeps up has a short
//! queue of positions in memory. One that does not answer, or whose queue is full, has nothing but its cursor: when it is back, the
//! log is read again for it alone (`catch_up.rs`), and of a room with very much news only the newest event goes out, from which the
//! other side fetches the rest. Passing messages to devices are rows of their own and are never dropped; typing and presence live in
//! memory only. Losing any wake-up costs time, never a message.
//!
//! Reading order: `schema.rs` → `item.rs` → `audience.rs` → `lane.rs` (a destination in memory) → `catch_up.rs` → `transaction.rs`
//! → `sender.rs` (the follower) → `delivery.rs` (working on a lane) → `passing.rs` (typing and presence).

mod audience;
mod catch_up;
mod delivery;
mod item;
mod lane;
mod passing;
mod schema;
mod sender;
mod transaction;
mod turn;

pub use schema::{SCHEMA, queue_edu};
pub use sender::{Engines, Sender};

use samtal_account::AccountError;
use samtal_db::DbError;
use samtal_e2ee::E2eeError;
use samtal_room::RoomError;

/// Why the follower had to stop for a moment.
#[derive(Debug, thiserror::Error)]
pub enum SenderError {
    /// The database.
    #[error("storage failed")]
    Storage(#[from] DbError),
    /// The rooms.
    #[error("reading rooms failed")]
    Room(#[from] RoomError),
    /// The devices.
    #[error("reading devices failed")]
    Account(#[from] AccountError),
    /// The keys.
    #[error("reading keys failed")]
    E2ee(#[from] E2eeError),
}
