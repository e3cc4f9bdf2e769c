//! The specification's standard error response.

use std::borrow::Cow;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value};

/// An error answer: an HTTP status, an `errcode`, a text for people, and further fields (Client-Server API, "Standard error
/// response"; the other APIs use the same).
#[derive(Clone, Debug)]
pub struct ErrorAnswer(Box<Parts>);

#[derive(Clone, Debug)]
struct Parts {
    status: StatusCode,
    errcode: Option<Cow<'static, str>>,
    message: Cow<'static, str>,
    extra: Map<String, Value>,
    retry_after_ms: Option<u64>,
}

impl ErrorAnswer {
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

    /// 500 `M_UNKNOWN`; the cause goes to the log, not to who asked.
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        tracing::error!(%cause, "request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "M_UNKNOWN", "Internal server error")
    }

    /// 429 `M_LIMIT_EXCEEDED`, with the time to wait in milliseconds.
    pub fn limit_exceeded(retry_after_ms: u64) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "M_LIMIT_EXCEEDED", "Too many requests").retry_after(retry_after_ms)
    }

    /// With one more field in the body.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0.extra.insert(key.to_owned(), value.into());
        self
    }

    /// With the time to wait, in milliseconds: as the header `Retry-After`, and in the body for older clients.
    #[must_use]
    pub fn retry_after(mut self, ms: u64) -> Self {
        self.0.retry_after_ms = Some(ms);
        self.with("retry_after_ms", ms)
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

impl IntoResponse for ErrorAnswer {
    fn into_response(self) -> Response {
        let mut response = crate::json(self.0.status, &self.body());
        if let Some(retry_after_ms) = self.0.retry_after_ms {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(retry_after_ms.div_ceil(1000)));
        }
        response
    }
}

/// Defines an edge's own `ApiError`: an [`ErrorAnswer`] with a function for each error that is common, and those that are
/// named (`function => STATUS "M_ERRCODE";`).
#[macro_export]
macro_rules! api_error {
    ($(#[$doc:meta])* pub struct $type:ident { $($(#[$more:meta])* $name:ident => $status:ident $errcode:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $type($crate::ErrorAnswer);

        impl $type {
            /// An error with this status and `errcode`.
            pub fn new(
                status: $crate::reexport::StatusCode,
                errcode: impl Into<std::borrow::Cow<'static, str>>,
                message: impl Into<std::borrow::Cow<'static, str>>,
            ) -> Self {
                Self($crate::ErrorAnswer::new(status, errcode, message))
            }

            /// 500 `M_UNKNOWN`; the cause goes to the log, not to who asked.
            pub fn internal(cause: impl std::fmt::Display) -> Self {
                Self($crate::ErrorAnswer::internal(cause))
            }

            /// 429 `M_LIMIT_EXCEEDED`, with the time to wait in milliseconds.
            pub fn limit_exceeded(retry_after_ms: u64) -> Self {
                Self($crate::ErrorAnswer::limit_exceeded(retry_after_ms))
            }

            /// With one more field in the body.
            #[must_use]
            pub fn with(self, key: &str, value: impl Into<$crate::reexport::Value>) -> Self {
                Self(self.0.with(key, value))
            }
        }

        $crate::api_error! { @shorthands $type
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
            /// 413 `M_TOO_LARGE`.
            too_large => PAYLOAD_TOO_LARGE "M_TOO_LARGE";
            $($(#[$more])* $name => $status $errcode;)*
        }

        impl From<$crate::ErrorAnswer> for $type {
            fn from(answer: $crate::ErrorAnswer) -> Self {
                Self(answer)
            }
        }

        impl $crate::reexport::IntoResponse for $type {
            fn into_response(self) -> $crate::reexport::Response {
                self.0.into_response()
            }
        }
    };
    (@shorthands $type:ident $($(#[$doc:meta])* $name:ident => $status:ident $errcode:literal;)*) => {
        impl $type {$(
            $(#[$doc])*
            pub fn $name(message: impl Into<std::borrow::Cow<'static, str>>) -> Self {
                Self::new($crate::reexport::StatusCode::$status, $errcode, message)
            }
        )*}
    };
}
