//! `GET /`: for people who open the address in a browser.

use std::sync::Arc;

use axum::response::{Html, IntoResponse as _, Response};
use axum::routing::get;
use axum::{Extension, Router};
use http::{HeaderValue, header};
use samtal_config::Tenant;

pub(crate) fn router() -> Router {
    Router::new().route("/", get(page))
}

/// Says what this is, and what to tell a client. Server names and base URLs hold nothing that HTML would take for itself,
/// but only the former are checked for it.
async fn page(Extension(tenant): Extension<Arc<Tenant>>) -> Response {
    let name = escaped(tenant.name.as_str());
    let address = match tenant.is_base_url_given {
        true => {
            format!("its address is <code>{}</code>, should the client ask for it", escaped(&tenant.public_base_url))
        }
        false => "if the client does not find it, give it the address of this page".to_owned(),
    };
    let mut response = Html(format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{name}</title>\n\
         <h1>{name}</h1>\n<p>This is a Matrix homeserver (Samtal). It has no pages of its own: use it with a \
         <a href=\"https://matrix.org/ecosystem/clients/\">Matrix client</a>.\n\
         <p>There, choose <code>{name}</code> as your homeserver; {address}.\n"
    ))
    .into_response();
    let policy = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'; base-uri 'none'");
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    response
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
