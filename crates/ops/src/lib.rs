//! One tenant as a value, and one function for each thing that spans engines.

mod account;
mod create_room;
mod error;
mod glob;
mod hierarchy;
mod homeserver;
mod invite;
mod join;
pub mod keys;
mod leave;
mod member;
mod profile;
mod room_alias;
mod settings;
mod summary;
pub mod to_device;
mod upgrade;

pub use create_room::{CreateRoom, InitialState};
pub use error::OpError;
pub use homeserver::{Homeserver, OpenError};
pub use member::{Content, allowed_rooms, join_rule};
pub use settings::{Federation, Settings};
