//! Answers.

use axum::{body::Body, response::Response};
use bytes::BytesMut;
use http::{HeaderValue, StatusCode, header};
use ruma::api::{OutgoingResponse, OutgoingResponseExt};
use serde::Serialize;

use crate::ErrorAnswer;

/// Something that can be sent as an answer: one of ruma's responses, a [`Json`], a [`JsonText`] or a [`Raw`].
pub trait Reply {
    /// The HTTP response.
    fn into_http(self) -> Response;
}

/// Any JSON value, with status 200.
#[derive(Clone, Debug)]
pub struct Json<T>(pub T);

/// A JSON text as it is, with status 200.
#[derive(Clone, Debug)]
pub struct JsonText(pub String);

/// Any HTTP response: streams, files, other statuses.
#[derive(Debug)]
pub struct Raw(pub Response);

impl<R: OutgoingResponse> Reply for R {
    fn into_http(self) -> Response {
        match self.try_into_http_response::<BytesMut>() {
            Ok(response) => response.map(|body| Body::from(body.freeze())),
            Err(error) => axum::response::IntoResponse::into_response(ErrorAnswer::internal(error)),
        }
    }
}

impl<T: Serialize> Reply for Json<T> {
    fn into_http(self) -> Response {
        json(StatusCode::OK, &self.0)
    }
}

impl Reply for JsonText {
    fn into_http(self) -> Response {
        json_body(StatusCode::OK, self.0.into())
    }
}

impl Reply for Raw {
    fn into_http(self) -> Response {
        self.0
    }
}

/// A JSON response with any status.
pub fn json<T: Serialize>(status: StatusCode, body: &T) -> Response {
    match serde_json::to_vec(body) {
        Ok(body) => json_body(status, body.into()),
        Err(error) => {
            tracing::error!(%error, "an answer cannot be written as JSON");
            let body = br#"{"errcode":"M_UNKNOWN","error":"Internal server error"}"#;
            json_body(StatusCode::INTERNAL_SERVER_ERROR, body.as_slice().into())
        }
    }
}

fn json_body(status: StatusCode, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
