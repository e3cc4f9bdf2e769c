//! Errors as other servers see them.

use std::borrow::Cow;

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value};

/// An error answer: an HTTP status, an `errcode`, a text for people, and further fields.
#[derive(Clone, Debug)]
pub struct ApiError(Box<Parts>);

#[derive(Clone, Debug)]
struct Parts {
    status: StatusCode,
    errcode: Cow<'static, str>,
    message: Cow<'static, str>,
    extra: Map<String, Value>,
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
    pub fn new(status: StatusCode, errcode: impl Into<Cow<'static, str>>, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Parts { status, errcode: errcode.into(), message: message.into(), extra: Map::new() }))
    }

    shorthands! {
        /// 401 `M_UNAUTHORIZED`: the request is not signed as it must be.
        unauthorized => UNAUTHORIZED "M_UNAUTHORIZED";
        /// 401 `M_UNKNOWN_TOKEN`.
        unknown_token => UNAUTHORIZED "M_UNKNOWN_TOKEN";
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
        /// 400 `M_UNABLE_TO_AUTHORISE_JOIN`: we cannot tell whether the conditions hold.
        unable_to_authorise_join => BAD_REQUEST "M_UNABLE_TO_AUTHORISE_JOIN";
        /// 400 `M_UNABLE_TO_GRANT_JOIN`: the conditions hold, but nobody here may invite.
        unable_to_grant_join => BAD_REQUEST "M_UNABLE_TO_GRANT_JOIN";
        /// 413 `M_TOO_LARGE`.
        too_large => PAYLOAD_TOO_LARGE "M_TOO_LARGE";
        /// 429 `M_LIMIT_EXCEEDED`.
        limit_exceeded => TOO_MANY_REQUESTS "M_LIMIT_EXCEEDED";
        /// 503 `M_UNKNOWN`: come again.
        unavailable => SERVICE_UNAVAILABLE "M_UNKNOWN";
    }

    /// 400 `M_INCOMPATIBLE_ROOM_VERSION`.
    pub fn incompatible_room_version(version: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "M_INCOMPATIBLE_ROOM_VERSION", "The room has a version that was not offered")
            .with("room_version", version)
    }

    /// 500 `M_UNKNOWN`; the cause goes to the log, not to the other server.
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
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut body = self.0.extra;
        body.insert("errcode".to_owned(), self.0.errcode.as_ref().into());
        body.insert("error".to_owned(), self.0.message.as_ref().into());
        let mut response = Response::new(Body::from(Value::Object(body).to_string()));
        *response.status_mut() = self.0.status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

impl From<samtal_keyring::KeyError> for ApiError {
    fn from(error: samtal_keyring::KeyError) -> Self {
        Self::internal(error)
    }
}
