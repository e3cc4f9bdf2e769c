//! One tenant as a value, and one function for each thing that spans engines.

mod account;
mod homeserver;
mod settings;

pub use homeserver::{Homeserver, OpenError};
pub use settings::{Federation, Settings};
