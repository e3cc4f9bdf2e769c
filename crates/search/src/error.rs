//! Why nothing can be found.

use samtal_account::AccountError;
use samtal_db::DbError;
use samtal_room::RoomError;

/// Why nothing can be found.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// The token for the next page is not one of ours.
    #[error("not a token of this search")]
    BadToken,
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

impl SearchError {
    /// Whether the same may go well later.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Storage(_)
                | Self::Rooms(RoomError::Storage(_) | RoomError::Busy)
                | Self::Accounts(AccountError::Storage(_))
        )
    }
}
