//! Why counts or notifications cannot be had.

use samtal_account::AccountError;
use samtal_db::DbError;
use samtal_room::RoomError;

/// Why counts or notifications cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The user has as many pushers as are kept.
    #[error("there are too many pushers")]
    TooMany,
    /// The room engine failed.
    #[error("rooms: {0}")]
    Rooms(#[from] RoomError),
    /// The account engine failed.
    #[error("accounts: {0}")]
    Accounts(#[from] AccountError),
    /// The database failed.
    #[error("storage: {0}")]
    Storage(#[from] DbError),
}
