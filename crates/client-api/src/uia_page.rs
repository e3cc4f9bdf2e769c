//! Web pages for stages of user-interactive authentication that a client does not know.

use http::{Method, StatusCode};
use ruma::api::auth_scheme::NoAccessToken;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    Answer, ApiError, Raw, RawArgs, Routes,
    page::{done, escape, page},
    uia,
};

/// Longest form, in bytes.
const FORM_BYTES_MAX: usize = 16 * 1024;

pub(crate) fn routes() -> Routes {
    const PATHS: &[&str] =
        &["/_matrix/client/r0/auth/{auth_type}/fallback/web", "/_matrix/client/v3/auth/{auth_type}/fallback/web"];
    Routes::new()
        .raw::<NoAccessToken, _, _, _>(Method::GET, PATHS, show)
        .merge(Routes::new().raw::<NoAccessToken, _, _, _>(Method::POST, PATHS, take).unlisted())
}

#[derive(Deserialize)]
struct Query {
    session: Option<String>,
}

#[derive(Deserialize)]
struct Form {
    session: String,
    token: Option<String>,
}

/// `GET /auth/{authType}/fallback/web`
async fn show(args: RawArgs<NoAccessToken>) -> Answer<Raw> {
    let session = args.query::<Query>()?.session;
    let session = session.ok_or_else(|| ApiError::missing_param("session is missing"))?;
    if args.hs.accounts.uia(&session).await?.is_none() {
        return Ok(page(StatusCode::BAD_REQUEST, "This link is no longer valid", "<p>Please begin again.</p>"));
    }
    form(&args, &session, "")
}

/// The form of a stage. `remark` is HTML that stands above it.
fn form(args: &RawArgs<NoAccessToken>, session: &str, remark: &str) -> Answer<Raw> {
    let (title, fields) = match args.path.first().map_or("", String::as_str) {
        uia::TERMS => {
            let options = args.hs.accounts.options();
            let terms = options.terms.as_ref().ok_or_else(|| ApiError::not_found("There are no terms here"))?;
            let (url, name) = (escape(&terms.url), escape(&terms.name));
            let link = format!("<p>Please read: <a href=\"{url}\">{name}</a></p><button>I agree</button>");
            ("Terms", link)
        }
        uia::REGISTRATION_TOKEN => {
            let field = "<label>Registration token <input name=\"token\" required autofocus></label>\
                         <button>Continue</button>";
            ("Registration token", field.to_owned())
        }
        uia::DUMMY => ("Please confirm", "<button>Continue</button>".to_owned()),
        _ => return Err(ApiError::not_found("There is no page for this stage")),
    };
    let session = escape(session);
    let body = format!(
        "{remark}<form method=\"post\"><input type=\"hidden\" name=\"session\" value=\"{session}\">{fields}</form>"
    );
    Ok(page(StatusCode::OK, title, &body))
}

/// The same page, sent back.
async fn take(args: RawArgs<NoAccessToken>) -> Answer<Raw> {
    let body = args.bytes(FORM_BYTES_MAX).await?;
    let sent: Form = serde_html_form::from_bytes(&body).map_err(|error| ApiError::bad_request(error.to_string()))?;
    let stage = args.path.first().map_or("", String::as_str);
    let value = match stage {
        uia::TERMS | uia::DUMMY => Value::Bool(true),
        uia::REGISTRATION_TOKEN => {
            let token = sent.token.unwrap_or_default();
            if !args.hs.accounts.registration_token_valid(&token).await? {
                return form(&args, &sent.session, "<p role=\"alert\">This token is not valid.</p>");
            }
            token.into()
        }
        _ => return Err(ApiError::not_found("There is no page for this stage")),
    };
    if uia::complete_by_page(&args.hs, &sent.session, stage, value).await? {
        Ok(done())
    } else {
        Ok(page(StatusCode::BAD_REQUEST, "This page is no longer valid", "<p>Please begin again.</p>"))
    }
}
