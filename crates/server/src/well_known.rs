//! `/.well-known/matrix`: where clients and servers find a tenant, and whom to turn to.
//!
//! These are the operator's settings rather than an API's rules, so they are answered here.

use std::sync::Arc;

use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use http::StatusCode;
use samtal_config::Tenant;
use samtal_http::error_response;
use serde_json::{Map, Value, json};

pub(crate) fn for_clients() -> Router {
    Router::new().route("/.well-known/matrix/client", get(client)).route("/.well-known/matrix/support", get(support))
}

pub(crate) fn for_servers() -> Router {
    Router::new().route("/.well-known/matrix/server", get(server))
}

/// `GET /.well-known/matrix/client`
async fn client(Extension(tenant): Extension<Arc<Tenant>>) -> Response {
    let mut document = json!({"m.homeserver": {"base_url": tenant.public_base_url}});
    let foci: Vec<Value> = tenant
        .options
        .calls
        .livekit_service_urls
        .iter()
        .map(|url| json!({"type": "livekit", "livekit_service_url": url}))
        .collect();
    if !foci.is_empty() {
        // MSC4143, for clients that do not ask the endpoint yet.
        document["org.matrix.msc4143.rtc_foci"] = foci.into();
    }
    Json(document).into_response()
}

/// `GET /.well-known/matrix/server`
async fn server(Extension(tenant): Extension<Arc<Tenant>>) -> Response {
    match &tenant.federation_address {
        Some(address) => Json(json!({"m.server": address})).into_response(),
        None => not_published(),
    }
}

/// `GET /.well-known/matrix/support`
async fn support(Extension(tenant): Extension<Arc<Tenant>>) -> Response {
    let contact = &tenant.options.contact;
    let mut document = Map::new();
    let mut person = Map::new();
    if let Some(email) = &contact.email {
        person.insert("email_address".to_owned(), Value::String(email.clone()));
    }
    if let Some(id) = &contact.matrix_id {
        person.insert("matrix_id".to_owned(), Value::String(id.to_string()));
    }
    if !person.is_empty() {
        person.insert("role".to_owned(), Value::String("m.role.admin".to_owned()));
        document.insert("contacts".to_owned(), Value::Array(vec![Value::Object(person)]));
    }
    if let Some(page) = &contact.support_page {
        document.insert("support_page".to_owned(), Value::String(page.clone()));
    }
    if document.is_empty() { not_published() } else { Json(Value::Object(document)).into_response() }
}

fn not_published() -> Response {
    error_response(StatusCode::NOT_FOUND, "M_NOT_FOUND", "not published by this server")
}
