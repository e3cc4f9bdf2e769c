//! Errors as clients see them.

use std::borrow::Cow;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use samtal_account::AccountError;
use samtal_db::DbError;
use serde_json::{Map, Value};

/// An error answer: an HTTP status, an `errcode`, a text for people, and further fields.
#[derive(Clone, Debug)]
pub struct ApiError(Box<Parts>);

#[derive(Clone, Debug)]
struct Parts {
    status: StatusCode,
    errcode: Option<Cow<'static, str>>,
    message: Cow<'static, str>,
    extra: Map<String, Value>,
    retry_after_ms: Option<u64>,
}

macro_rules! shorthands {
    ($($(#[$doc:meta])* $name:ident => $status:ident $errcode:literal;)*) => {$(
        $(#[$doc])*
        pub fn $name(message: impl Into<Cow<'static, str>>) -> Self {
            Self::new(StatusCode::$status, $errcode, message)
        }
    )*};
}

impl ApiError {
    /// An error with this status and `errcode`.
    pub fn new(
        status: StatusCode,
        errcode: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self(Box::new(Parts {
            status,
            errcode: Some(errcode.into()),
            message: message.into(),
            extra: Map::new(),
            retry_after_ms: None,
        }))
    }

    /// An answer without `errcode`: what asks for another stage of user-interactive authentication.
    pub fn bare(status: StatusCode, body: Map<String, Value>) -> Self {
        Self(Box::new(Parts { status, errcode: None, message: "".into(), extra: body, retry_after_ms: None }))
    }

    shorthands! {
        /// 403 `M_FORBIDDEN`.
        forbidden => FORBIDDEN "M_FORBIDDEN";
        /// 404 `M_NOT_FOUND`.
        not_found => NOT_FOUND "M_NOT_FOUND";
        /// 404 `M_UNRECOGNIZED`: no such endpoint.
        unrecognized => NOT_FOUND "M_UNRECOGNIZED";
        /// 400 `M_BAD_JSON`: JSON of the wrong shape.
        bad_json => BAD_REQUEST "M_BAD_JSON";
        /// 400 `M_NOT_JSON`: not JSON.
        not_json => BAD_REQUEST "M_NOT_JSON";
        /// 400 `M_MISSING_PARAM`.
        missing_param => BAD_REQUEST "M_MISSING_PARAM";
        /// 400 `M_INVALID_PARAM`.
        invalid_param => BAD_REQUEST "M_INVALID_PARAM";
        /// 400 `M_UNKNOWN`.
        bad_request => BAD_REQUEST "M_UNKNOWN";
        /// 413 `M_TOO_LARGE`.
        too_large => PAYLOAD_TOO_LARGE "M_TOO_LARGE";
        /// 401 `M_MISSING_TOKEN`.
        missing_token => UNAUTHORIZED "M_MISSING_TOKEN";
    }

    /// 401 `M_UNKNOWN_TOKEN`. With `soft_logout` the client keeps its keys and may come back on the same device.
    pub fn unknown_token(soft_logout: bool) -> Self {
        let message = if soft_logout { "The access token has expired" } else { "The access token is not known" };
        Self::new(StatusCode::UNAUTHORIZED, "M_UNKNOWN_TOKEN", message).with("soft_logout", soft_logout)
    }

    /// 429 `M_LIMIT_EXCEEDED`, with `Retry-After` and, for older clients, `retry_after_ms`.
    pub fn limit_exceeded(retry_after_ms: u64) -> Self {
        let mut error = Self::new(StatusCode::TOO_MANY_REQUESTS, "M_LIMIT_EXCEEDED", "Too many requests");
        error.0.retry_after_ms = Some(retry_after_ms);
        error.with("retry_after_ms", retry_after_ms)
    }

    /// 500 `M_UNKNOWN`; the cause goes to the log, not to the client.
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        tracing::error!(%cause, "request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "M_UNKNOWN", "Internal server error")
    }

    /// With one more field in the body.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0.extra.insert(key.to_owned(), value.into());
        self
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// The `errcode`, or the empty text.
    pub fn errcode(&self) -> &str {
        self.0.errcode.as_deref().unwrap_or_default()
    }

    /// The body.
    pub fn body(&self) -> Map<String, Value> {
        let mut body = self.0.extra.clone();
        if let Some(errcode) = &self.0.errcode {
            body.insert("errcode".to_owned(), errcode.as_ref().into());
            body.insert("error".to_owned(), self.0.message.as_ref().into());
        }
        body
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = crate::reply::json(self.0.status, &self.body());
        if let Some(retry_after_ms) = self.0.retry_after_ms {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(retry_after_ms.div_ceil(1000)));
        }
        response
    }
}

impl From<DbError> for ApiError {
    fn from(error: DbError) -> Self {
        match error {
            DbError::Busy => {
                let mut busy = Self::new(StatusCode::SERVICE_UNAVAILABLE, "M_LIMIT_EXCEEDED", "The server is busy");
                busy.0.retry_after_ms = Some(1_000);
                busy.with("retry_after_ms", 1_000)
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
