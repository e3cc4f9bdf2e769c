//! What can go wrong with accounts.

use samtal_db::DbError;

/// Why an account operation was refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// The user id is taken.
    #[error("the user id is taken")]
    UserInUse,
    /// The localpart is not one that new accounts may have.
    #[error("the user id is not valid: {0}")]
    InvalidUsername(&'static str),
    /// The localpart belongs to an application service.
    #[error("the user id is reserved for an application service")]
    Exclusive,
    /// Too short, or otherwise refused.
    #[error("the password is too weak: {0}")]
    WeakPassword(String),
    /// The token is not known.
    #[error("the token is not known")]
    UnknownToken,
    /// The refresh token was used before and its successor has been used: the session is ended.
    #[error("the refresh token has been used before")]
    ReusedToken,
    /// The account is locked.
    #[error("the account is locked")]
    Locked,
    /// The address belongs to another account.
    #[error("the address belongs to another account")]
    ThreepidInUse,
    /// A profile would have more than 64 KiB.
    #[error("the profile is too large")]
    ProfileTooLarge,
    /// A profile field's name has more than 255 bytes.
    #[error("the profile field's name is too long")]
    KeyTooLarge,
    /// A value of the wrong kind.
    #[error("{0}")]
    BadValue(String),
    /// The user or device is not there.
    #[error("{0} not found")]
    NotFound(&'static str),
    /// A value exceeds a limit.
    #[error("{0}")]
    TooLarge(&'static str),
    /// Not allowed as it is.
    #[error("{0}")]
    Invalid(String),
    /// The change log moved meanwhile, and trying again did not help, or the database failed.
    #[error("storage failed")]
    Storage(#[from] DbError),
    /// A stored value cannot be read.
    #[error("stored {0} cannot be read")]
    Corrupt(&'static str, #[source] Option<serde_json::Error>),
    /// The hashing of a password failed.
    #[error("hashing failed: {0}")]
    Hashing(String),
}
