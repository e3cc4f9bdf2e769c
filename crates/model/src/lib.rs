//! Nouns of our own, where ruma has none: positions, kinds of change. No logic.

mod change;
mod position;
mod token;

pub use change::ChangeKind;
pub use position::StreamPosition;
pub use token::{InvalidToken, SyncToken};
