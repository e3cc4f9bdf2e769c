//! What the edges share: error answers, replies, and the table of endpoints that becomes a router.
//!
//! Each edge has an `ApiError` of its own, made by [`api_error!`], because each maps the engines' errors in its own way: what
//! a client is told in full, another server is told in a word.

mod endpoints;
mod error;
mod reply;

pub use endpoints::{Endpoints, with_errors, without_names};
pub use error::ErrorAnswer;
pub use reply::{Json, JsonText, Raw, Reply, json};

/// What [`api_error!`] writes into its caller.
#[doc(hidden)]
pub mod reexport {
    pub use axum::response::{IntoResponse, Response};
    pub use http::StatusCode;
    pub use serde_json::Value;
}
