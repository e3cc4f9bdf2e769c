//! Small web pages: they work without scripts, load nothing from elsewhere, and cannot be framed.

use axum::{body::Body, response::Response};
use http::{HeaderValue, StatusCode, header};

use crate::Raw;

const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'self'";

/// The same, for the page that tells the client which opened it that all is done.
const POLICY_WITH_SCRIPT: &str =
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; frame-ancestors 'self'";

const STYLE: &str = "body{font:1.1rem/1.5 system-ui,sans-serif;max-width:34rem;margin:3rem auto;padding:0 1rem}\
    button{font:inherit;padding:.5rem 1rem}input{font:inherit;padding:.4rem}label{display:block;margin:1rem 0}";

/// A page with this title; `body` is HTML.
pub(crate) fn page(status: StatusCode, title: &str, body: &str) -> Raw {
    answer(status, title, body, POLICY)
}

/// The page at the end of an authentication: it tells the client that opened it, the two ways that clients know.
pub(crate) fn done() -> Raw {
    let script = "<script>if(window.onAuthDone){window.onAuthDone()}\
        else if(window.opener&&window.opener.postMessage){window.opener.postMessage('authDone','*')}</script>";
    let body = format!("<p>You may close this page.</p>{script}");
    answer(StatusCode::OK, "Thank you", &body, POLICY_WITH_SCRIPT)
}

fn answer(status: StatusCode, title: &str, body: &str, policy: &'static str) -> Raw {
    let title = escape(title);
    let page = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>{title}</title><style>{STYLE}</style></head>\
         <body><main><h1>{title}</h1>{body}</main></body></html>"
    );
    let mut response = Response::new(Body::from(page));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Raw(response)
}

/// Text as it may stand in HTML, in attributes too.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}
