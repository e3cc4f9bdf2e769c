//! What can go wrong with a room.

use ruma::RoomVersionId;
use samtal_db::DbError;
use samtal_event::{SignError, StoredPduError};

use crate::policy_server::NotRecommended;

/// Why something could not be read or done in a room.
#[derive(Debug, thiserror::Error)]
pub enum RoomError {
    /// No such room here.
    #[error("the room is not known here")]
    UnknownRoom,
    /// No such event here, or not one the asker may see.
    #[error("the event is not known here")]
    UnknownEvent,
    /// The asker is not in the room, or was not when it mattered.
    #[error("{0}")]
    Forbidden(String),
    /// The authorization rules refuse the event.
    #[error("not allowed: {0}")]
    Refused(String),
    /// The event has a form no event may have.
    #[error("bad event: {0}")]
    BadEvent(String),
    /// The event is over a size limit.
    #[error("the event is too large: {0}")]
    TooLarge(String),
    /// A version that cannot be made here.
    #[error("room version {0} is not supported")]
    UnsupportedVersion(RoomVersionId),
    /// The alias is taken.
    #[error("the alias is already in use")]
    AliasTaken,
    /// The alias does not exist or belongs to another server.
    #[error("the alias is not known here")]
    UnknownAlias,
    /// A restricted room that this server cannot let the user into; a resident server may.
    #[error("this server cannot authorize the join")]
    CannotAuthorizeJoin,
    /// The operator has blocked the room.
    #[error("the room is blocked on this server")]
    Blocked,
    /// The room's policy server has not signed the event.
    #[error("the room's policy server does not recommend the event: {}", .0.message)]
    NotRecommended(NotRecommended),
    /// The room uses a policy server, which has not been asked. Never leaves this crate.
    #[error("the room's policy server has not been asked")]
    NotAsked,
    /// Too many wait for the same room.
    #[error("the room is busy")]
    Busy,
    /// What is stored does not parse.
    #[error("stored data is damaged: {0}")]
    Damaged(String),
    /// The database failed.
    #[error("storage failed")]
    Storage(#[source] DbError),
}

impl From<DbError> for RoomError {
    fn from(error: DbError) -> Self {
        match error {
            DbError::Busy => Self::Busy,
            other => Self::Storage(other),
        }
    }
}

impl From<StoredPduError> for RoomError {
    fn from(error: StoredPduError) -> Self {
        Self::Damaged(error.to_string())
    }
}

impl From<SignError> for RoomError {
    fn from(error: SignError) -> Self {
        Self::TooLarge(error.to_string())
    }
}
