//! Mail addresses of accounts, and which identity servers give addresses out. No text messages are sent.

use http::{HeaderValue, Method, StatusCode, header};
use ruma::api::auth_scheme::{AccessToken, AccessTokenOptional, NoAccessToken};
use samtal_account::{Purpose, check_client_secret, mail_address};
use samtal_ops::Proof;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Answer, ApiError, Json, Raw, RawArgs, Routes, Scheme,
    page::{escape, page},
    uia,
};

/// Where the links in mails lead.
const LINK: &str = "/_samtal/client/mail";

pub(crate) fn routes() -> Routes {
    const LIST: &[&str] = &["/_matrix/client/r0/account/3pid", "/_matrix/client/v3/account/3pid"];
    Routes::new()
        .raw::<AccessToken, _, _, _>(Method::GET, LIST, list)
        .raw::<AccessToken, _, _, _>(Method::POST, LIST, add_without_proof)
        .raw::<AccessToken, _, _, _>(
            Method::POST,
            &["/_matrix/client/r0/account/3pid/add", "/_matrix/client/v3/account/3pid/add"],
            add,
        )
        .raw::<AccessToken, _, _, _>(
            Method::POST,
            &["/_matrix/client/r0/account/3pid/delete", "/_matrix/client/v3/account/3pid/delete"],
            delete,
        )
        .raw::<AccessToken, _, _, _>(
            Method::POST,
            &[
                "/_matrix/client/r0/account/3pid/bind",
                "/_matrix/client/v3/account/3pid/bind",
                "/_matrix/client/unstable/account/3pid/bind",
            ],
            bind,
        )
        .raw::<AccessToken, _, _, _>(
            Method::POST,
            &[
                "/_matrix/client/r0/account/3pid/unbind",
                "/_matrix/client/v3/account/3pid/unbind",
                "/_matrix/client/unstable/account/3pid/unbind",
            ],
            unbind,
        )
        .raw::<AccessTokenOptional, _, _, _>(
            Method::POST,
            &[
                "/_matrix/client/r0/account/3pid/email/requestToken",
                "/_matrix/client/v3/account/3pid/email/requestToken",
            ],
            async |args| request_token(args, Purpose::Add).await,
        )
        .raw::<NoAccessToken, _, _, _>(
            Method::POST,
            &["/_matrix/client/r0/register/email/requestToken", "/_matrix/client/v3/register/email/requestToken"],
            async |args| request_token(args, Purpose::Register).await,
        )
        .raw::<NoAccessToken, _, _, _>(
            Method::POST,
            &[
                "/_matrix/client/r0/account/password/email/requestToken",
                "/_matrix/client/v3/account/password/email/requestToken",
            ],
            async |args| request_token(args, Purpose::Password).await,
        )
        .merge(
            Routes::new()
                .raw::<NoAccessToken, _, _, _>(Method::GET, &[LINK], followed)
                .raw::<NoAccessToken, _, _, _>(Method::POST, &[LINK], confirmed)
                .unlisted(),
        )
}

/// `GET /account/3pid`
async fn list(args: RawArgs) -> Answer<Json<Value>> {
    let threepids = args.hs.accounts.threepids(&args.who.user_id).await?;
    let threepids: Vec<Value> = threepids
        .into_iter()
        .map(|known| {
            json!({
                "medium": known.medium,
                "address": known.address,
                "validated_at": known.validated_ms,
                "added_at": known.added_ms,
            })
        })
        .collect();
    Ok(Json(json!({ "threepids": threepids })))
}

#[derive(Deserialize)]
struct RequestToken {
    client_secret: String,
    email: String,
    send_attempt: i64,
    next_link: Option<String>,
}

/// `POST …/email/requestToken`
async fn request_token<A: Scheme>(args: RawArgs<A>, purpose: Purpose) -> Answer<Json<Value>> {
    let hs = &args.hs;
    if hs.settings.mail.is_none() {
        return Err(ApiError::new(StatusCode::FORBIDDEN, "M_THREEPID_DENIED", "This server sends no mail"));
    }
    let body: RequestToken = args.json().await?;
    check_client_secret(&body.client_secret)?;
    let address = mail_address(&body.email)?;
    let next_link =
        body.next_link.as_deref().filter(|link| link.starts_with("https://") || link.starts_with("http://"));
    if let Some(rates) = hs.accounts.options().rates {
        let from = args.client.ip.as_deref().unwrap_or_default();
        for who in [from, &address] {
            hs.limiter.take("mail", who, rates.registration).map_err(ApiError::limit_exceeded)?;
        }
    }
    let owner = hs.accounts.threepid_user("email", &address).await?;
    match (purpose, owner) {
        (Purpose::Password, None) => {
            let why = "The address belongs to no account here";
            return Err(ApiError::new(StatusCode::BAD_REQUEST, "M_THREEPID_NOT_FOUND", why));
        }
        (Purpose::Register | Purpose::Add, Some(_)) => {
            return Err(samtal_account::AccountError::ThreepidInUse.into());
        }
        _ => {}
    }
    let begun =
        hs.accounts.begin_validation(&address, &body.client_secret, body.send_attempt, purpose, next_link).await?;
    if let Some(token) = &begun.token {
        let base = hs.settings.public_base_url.as_deref().unwrap_or_default();
        let (sid, secret) = (&begun.sid, &body.client_secret);
        let link = format!("{base}{LINK}?sid={sid}&client_secret={secret}&token={token}");
        let (subject, text) = letter(hs.name.as_str(), purpose, &link);
        hs.send_mail(&address, &subject, text).await.map_err(ApiError::internal)?;
    }
    Ok(Json(json!({ "sid": begun.sid })))
}

fn letter(server: &str, purpose: Purpose, link: &str) -> (String, String) {
    let (subject, why) = match purpose {
        Purpose::Register => ("Confirm your address", "to register with this address"),
        Purpose::Password => ("Set a new password", "to set a new password"),
        Purpose::Add => ("Confirm your address", "to add this address to your account"),
    };
    let text = format!(
        "Somebody, we hope you, wants {why} at {server}.\r\n\r\nIf it is you, follow this link:\r\n\r\n{link}\r\n\r\n\
         If it is not you, do nothing.\r\n"
    );
    (format!("{subject} ({server})"), text)
}

#[derive(Deserialize)]
struct Link {
    sid: String,
    client_secret: String,
    token: String,
}

/// The link in a mail has been followed. For a new password this is not enough, as programs that look into mails follow
/// links too: a button must be pressed.
async fn followed(args: RawArgs<NoAccessToken>) -> Answer<Raw> {
    let link: Link = args.query()?;
    if args.hs.accounts.validation_purpose(&link.sid).await? == Some(Purpose::Password) {
        let fields = [("sid", &link.sid), ("client_secret", &link.client_secret), ("token", &link.token)]
            .map(|(name, value)| format!("<input type=\"hidden\" name=\"{name}\" value=\"{}\">", escape(value)))
            .concat();
        let body = format!(
            "<p>Do you want to set a new password?</p><form method=\"post\" action=\"{LINK}\">{fields}\
             <button>Yes</button></form>"
        );
        return Ok(page(StatusCode::OK, "A new password", &body));
    }
    validate(&args, &link).await
}

/// The button has been pressed.
async fn confirmed(args: RawArgs<NoAccessToken>) -> Answer<Raw> {
    let body = args.bytes(16 * 1024).await?;
    let link: Link = serde_html_form::from_bytes(&body).map_err(|error| ApiError::bad_request(error.to_string()))?;
    validate(&args, &link).await
}

async fn validate(args: &RawArgs<NoAccessToken>, link: &Link) -> Answer<Raw> {
    Ok(match args.hs.accounts.validate(&link.sid, &link.client_secret, &link.token).await? {
        None => page(StatusCode::BAD_REQUEST, "This link is no longer valid", "<p>Please ask for a new mail.</p>"),
        Some(None) => page(StatusCode::OK, "Thank you", "<p>You may go on where you began.</p>"),
        Some(Some(next)) => {
            let mut answer = page(StatusCode::FOUND, "Thank you", "");
            if let Ok(next) = HeaderValue::try_from(next) {
                answer.0.headers_mut().insert(header::LOCATION, next);
            }
            answer
        }
    })
}

#[derive(Deserialize)]
struct Credentials {
    sid: String,
    client_secret: String,
}

async fn add_validated(args: &RawArgs, credentials: &Credentials) -> Result<(), ApiError> {
    let Credentials { sid, client_secret } = credentials;
    let address = args.hs.accounts.validated_address(sid, client_secret, Purpose::Add).await?;
    let address = address.ok_or_else(|| {
        let why = "The link in the mail has not been followed";
        ApiError::new(StatusCode::BAD_REQUEST, "M_THREEPID_AUTH_FAILED", why)
    })?;
    Ok(args.hs.accounts.add_threepid(&args.who.user_id, "email", &address).await?)
}

/// `POST /account/3pid/add`
async fn add(args: RawArgs) -> Answer<Json<Value>> {
    let json = args.json_bytes().await?;
    let credentials: Credentials = serde_json::from_slice(&json).map_err(|error| crate::args::json_error(&error))?;
    let proven = uia::confirm(&args.hs, &args.who, args.parts.uri.path(), &json, b"").await?;
    add_validated(&args, &credentials).await?;
    proven.finish(&args.hs).await?;
    Ok(Json(json!({})))
}

#[derive(Deserialize)]
struct AddWithoutProof {
    #[serde(alias = "threePidCreds")]
    three_pid_creds: Credentials,
}

/// `POST /account/3pid`, deprecated: it asks for no password.
async fn add_without_proof(args: RawArgs) -> Answer<Json<Value>> {
    let body: AddWithoutProof = args.json().await?;
    add_validated(&args, &body.three_pid_creds).await?;
    Ok(Json(json!({})))
}

#[derive(Deserialize)]
struct Bind {
    id_server: String,
    id_access_token: String,
    sid: String,
    client_secret: String,
}

/// `POST /account/3pid/bind`
async fn bind(args: RawArgs) -> Answer<Json<Value>> {
    let Bind { id_server, id_access_token, sid, client_secret } = args.json().await?;
    check_client_secret(&client_secret)?;
    let proof = Proof { id_server, id_access_token, sid, client_secret };
    args.hs.bind_address(&args.who.user_id, &proof).await?;
    Ok(Json(json!({})))
}

/// `POST /account/3pid/unbind`
async fn unbind(args: RawArgs) -> Answer<Json<Value>> {
    let body: Delete = args.json().await?;
    let unbound = unbound(&args, &body).await?;
    Ok(Json(json!({ "id_server_unbind_result": unbound })))
}

/// What the specification calls whether identity servers have forgotten an address.
async fn unbound(args: &RawArgs, body: &Delete) -> Result<&'static str, ApiError> {
    let Delete { medium, address, id_server } = body;
    let done = args.hs.unbind_address(&args.who.user_id, medium, address, id_server.as_deref()).await?;
    Ok(if done { "success" } else { "no-support" })
}

#[derive(Deserialize)]
struct Delete {
    medium: String,
    address: String,
    id_server: Option<String>,
}

/// `POST /account/3pid/delete`
async fn delete(args: RawArgs) -> Answer<Json<Value>> {
    let body: Delete = args.json().await?;
    let address = if body.medium == "email" { mail_address(&body.address)? } else { body.address.clone() };
    if body.medium.contains('\0') || address.contains('\0') {
        return Err(ApiError::invalid_param("A NUL character"));
    }
    args.hs.accounts.delete_threepid(&args.who.user_id, &body.medium, &address).await?;
    let unbound = unbound(&args, &body).await?;
    Ok(Json(json!({ "id_server_unbind_result": unbound })))
}
