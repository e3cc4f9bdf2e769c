//! Why there is no answer.

use samtal_account::AccountError;
use samtal_db::DbError;
use samtal_e2ee::E2eeError;
use samtal_push::PushError;
use samtal_room::RoomError;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The device's token was revoked, or the account touched, while the request waited.
    #[error("the session ended while the request waited")]
    Ended,
    /// The position is not one that this connection has been given, or is no longer known.
    #[error("the position is not known")]
    UnknownPosition,
    /// The request contradicts itself or asks for too much.
    #[error("{0}")]
    Invalid(String),
    /// The room engine failed.
    #[error("rooms: {0}")]
    Rooms(#[from] RoomError),
    /// The account engine failed.
    #[error("accounts: {0}")]
    Accounts(#[from] AccountError),
    /// The end-to-end encryption engine failed.
    #[error("encryption keys: {0}")]
    E2ee(#[from] E2eeError),
    /// Counts failed.
    #[error("counts: {0}")]
    Push(#[from] PushError),
    /// The database failed.
    #[error("storage: {0}")]
    Storage(#[from] DbError),
}
