//! Errors as clients see them.

use http::StatusCode;
use samtal_account::AccountError;
use samtal_db::DbError;
use samtal_edge::ErrorAnswer;
use serde_json::{Map, Value};

samtal_edge::api_error! {
    /// An error as clients see it.
    pub struct ApiError {
        /// 400 `M_UNKNOWN`.
        bad_request => BAD_REQUEST "M_UNKNOWN";
        /// 401 `M_MISSING_TOKEN`.
        missing_token => UNAUTHORIZED "M_MISSING_TOKEN";
    }
}

impl ApiError {
    /// An answer without `errcode`: what asks for another stage of user-interactive authentication.
    pub fn bare(status: StatusCode, body: Map<String, Value>) -> Self {
        ErrorAnswer::bare(status, body).into()
    }

    /// 401 `M_UNKNOWN_TOKEN`. With `soft_logout` the client keeps its keys and may come back on the same device.
    pub fn unknown_token(soft_logout: bool) -> Self {
        let message = if soft_logout { "The access token has expired" } else { "The access token is not known" };
        Self::new(StatusCode::UNAUTHORIZED, "M_UNKNOWN_TOKEN", message).with("soft_logout", soft_logout)
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.0.status()
    }

    /// The `errcode`, or the empty text.
    pub fn errcode(&self) -> &str {
        self.0.errcode()
    }

    /// The body.
    pub fn body(&self) -> Map<String, Value> {
        self.0.body()
    }
}

impl From<DbError> for ApiError {
    fn from(error: DbError) -> Self {
        match error {
            DbError::Busy => {
                ErrorAnswer::new(StatusCode::SERVICE_UNAVAILABLE, "M_LIMIT_EXCEEDED", "The server is busy")
                    .retry_after(1_000)
                    .into()
            }
            DbError::Closed => Self::new(StatusCode::SERVICE_UNAVAILABLE, "M_UNKNOWN", "The server is shutting down"),
            DbError::Full => {
                tracing::error!("the disk is full");
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "M_UNKNOWN", "The server's disk is full")
            }
            DbError::Conflict(_) | DbError::Decode { .. } | DbError::Migration(_) | DbError::Engine(..) => {
                Self::internal(error)
            }
        }
    }
}

impl From<AccountError> for ApiError {
    fn from(error: AccountError) -> Self {
        match error {
            AccountError::UserInUse => {
                Self::new(StatusCode::BAD_REQUEST, "M_USER_IN_USE", "The user id is already taken")
            }
            AccountError::InvalidUsername(why) => {
                Self::new(StatusCode::BAD_REQUEST, "M_INVALID_USERNAME", format!("The user id is not valid: {why}"))
            }
            AccountError::Exclusive => {
                Self::new(StatusCode::BAD_REQUEST, "M_EXCLUSIVE", "The user id is reserved for an application service")
            }
            AccountError::WeakPassword(why) => Self::new(StatusCode::BAD_REQUEST, "M_WEAK_PASSWORD", why),
            AccountError::UnknownToken => Self::unknown_token(false),
            AccountError::ReusedToken => Self::unknown_token(false),
            AccountError::Locked => {
                Self::new(StatusCode::UNAUTHORIZED, "M_USER_LOCKED", "This account has been locked")
                    .with("soft_logout", true)
            }
            AccountError::ThreepidInUse => {
                Self::new(StatusCode::BAD_REQUEST, "M_THREEPID_IN_USE", "The address belongs to another account")
            }
            AccountError::ProfileTooLarge => {
                Self::new(StatusCode::BAD_REQUEST, "M_PROFILE_TOO_LARGE", "The profile would have more than 64 KiB")
            }
            AccountError::KeyTooLarge => {
                Self::new(StatusCode::BAD_REQUEST, "M_KEY_TOO_LARGE", "A profile field's name has at most 255 bytes")
            }
            AccountError::BadValue(why) => Self::bad_json(why),
            AccountError::NotFound(what) => Self::not_found(format!("{what} not found")),
            AccountError::TooLarge(why) => Self::too_large(why),
            AccountError::Invalid(why) => Self::invalid_param(why),
            AccountError::Storage(error) => error.into(),
            AccountError::Corrupt(..) | AccountError::Hashing(_) => Self::internal(error),
        }
    }
}
