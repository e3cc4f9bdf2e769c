//! Why a use case has no good answer.

use ruma::OwnedRoomId;
use samtal_account::AccountError;
use samtal_db::DbError;
use samtal_e2ee::E2eeError;
use samtal_event::DraftError;
use samtal_remote::RemoteError;
use samtal_room::RoomError;

/// Why something that spans engines was not done. One variant for each different answer of the edges.
#[derive(Debug, thiserror::Error)]
pub enum OpError {
    /// The room engine says so.
    #[error(transparent)]
    Room(#[from] RoomError),
    /// The accounts say so.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// Another server says so, or could not be asked.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// What is asked for is not there.
    #[error("{0}")]
    NotFound(String),
    /// The asker may not do it.
    #[error("{0}")]
    Forbidden(String),
    /// A parameter has a value that cannot be.
    #[error("{0}")]
    Invalid(String),
    /// A content has a wrong form.
    #[error("{0}")]
    BadContent(String),
    /// The asker's request makes no sense now.
    #[error("{0}")]
    BadRequest(String),
    /// A new room's state would not hold together.
    #[error("{0}")]
    InvalidRoomState(String),
    /// An alias does not name the room that it should.
    #[error("{0}")]
    BadAlias(String),
    /// The alias is taken by another room.
    #[error("the alias is already in use")]
    RoomInUse,
    /// The name is reserved for an application service.
    #[error("the name is reserved for an application service")]
    Exclusive,
    /// The invited user does not want invites like this.
    #[error("the user does not accept this invite")]
    InviteBlocked,
    /// What the server has to say cannot be refused.
    #[error("an invite to a room of server notices cannot be refused")]
    NoticeRoom,
    /// Guests do not get in.
    #[error("guests may not join this room")]
    GuestsForbidden,
    /// A restricted join that no server could be found to allow.
    #[error("no server could authorize the join of {0}")]
    CannotAuthorizeJoin(OwnedRoomId),
    /// What another server sent is not what it should be.
    #[error("{0}")]
    BadRemote(String),
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] DbError),
}

impl OpError {
    /// Whether this server could not do it now, whatever was asked: whoever asks again may have it done.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Storage(error) | Self::Room(RoomError::Storage(error)) => error.is_passing(),
            Self::Room(RoomError::Busy) => true,
            _ => false,
        }
    }
}

impl From<DraftError> for OpError {
    fn from(error: DraftError) -> Self {
        Self::BadContent(error.to_string())
    }
}

/// What other servers say about devices is looked at by the engine of keys.
impl From<E2eeError> for OpError {
    fn from(error: E2eeError) -> Self {
        match error {
            E2eeError::Storage(error) => Self::Storage(error),
            other => Self::BadRemote(other.to_string()),
        }
    }
}
