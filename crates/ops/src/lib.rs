//! One tenant as a value, and one function for each thing that spans engines.

mod account;
mod create_room;
pub mod delayed_event;
mod error;
mod gap;
mod glob;
mod handshake;
mod hierarchy;
mod homeserver;
mod inbound;
mod invite;
mod invite_remote;
mod join;
pub mod keys;
pub mod media;
mod leave;
mod member;
mod passing;
mod profile;
mod receive;
mod remote_device;
mod resident;
mod room_alias;
mod settings;
mod summary;
pub mod to_device;
mod transaction;
mod upgrade;

pub use create_room::{CreateRoom, InitialState};
pub use error::OpError;
pub use homeserver::{Homeserver, OpenError};
pub use invite_remote::IncomingInvite;
pub use member::{Content, allowed_rooms, join_rule};
pub use resident::{JoinAnswer, ResidentError, Template};
pub use settings::{Federation, Settings, Turn};
pub use transaction::{Outcome, Transaction};
