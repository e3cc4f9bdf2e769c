//! Logging in, refreshing, logging out.

use std::time::Duration;

use http::StatusCode;
use ruma::{
    OwnedUserId, UserId,
    api::{
        auth_scheme::AppserviceTokenOptional,
        client::session::{get_login_token, logout, logout_all, refresh_token},
    },
};
use samtal_account::{Issued, NewSession};
use samtal_ops::Homeserver;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Answer, ApiError, Args, Json, RawArgs, Routes, uia};

pub(crate) fn routes() -> Routes {
    let paths = &["/_matrix/client/r0/login", "/_matrix/client/v3/login"];
    Routes::new()
        .raw::<ruma::api::auth_scheme::NoAccessToken, _, _, _>(http::Method::GET, paths, login_types)
        .raw::<AppserviceTokenOptional, _, _, _>(http::Method::POST, paths, login)
        .route(create_login_token)
        .route(refresh)
        // Published under this name while the specification's first stable version had it.
        .route_at(&["/_matrix/client/v1/refresh"], refresh)
        .route(log_out)
        .route(log_out_all)
}

/// `GET /login`
async fn login_types(args: RawArgs<ruma::api::auth_scheme::NoAccessToken>) -> Answer<Json<Value>> {
    let mut flows = vec![json!({ "type": "m.login.token", "get_login_token": true })];
    if args.hs.accounts.options().password_login {
        flows.insert(0, json!({ "type": "m.login.password" }));
    }
    flows.push(json!({ "type": "m.login.application_service" }));
    Ok(Json(json!({ "flows": flows })))
}

/// The body of `POST /login`, with the names that clients before the first stable version use.
#[derive(Deserialize)]
struct Login {
    #[serde(rename = "type")]
    login_type: String,
    identifier: Option<Identifier>,
    user: Option<String>,
    medium: Option<String>,
    address: Option<String>,
    password: Option<String>,
    token: Option<String>,
    device_id: Option<String>,
    initial_device_display_name: Option<String>,
    #[serde(default)]
    refresh_token: bool,
}

#[derive(Deserialize)]
struct Identifier {
    #[serde(rename = "type")]
    kind: String,
    user: Option<String>,
    medium: Option<String>,
    address: Option<String>,
}

/// `POST /login`
async fn login(args: RawArgs<AppserviceTokenOptional>) -> Answer<Json<Value>> {
    let body: Login = args.json().await?;
    let hs = &args.hs;
    if let Some(rates) = hs.accounts.options().rates
        && args.who.is_none()
    {
        let address = args.client.ip.as_deref().unwrap_or_default();
        hs.limiter.take("login", address, rates.login).map_err(ApiError::limit_exceeded)?;
    }
    let user_id = match body.login_type.as_str() {
        "m.login.password" if hs.accounts.options().password_login => by_password(hs, &body).await?,
        "m.login.token" => by_token(hs, &body).await?,
        "m.login.application_service" => by_service(&args, &body)?,
        _ => return Err(ApiError::bad_request("This login type is not supported")),
    };
    may_log_in(hs, &user_id).await?;
    let session = NewSession {
        device_id: body.device_id.map(Into::into),
        display_name: body.initial_device_display_name,
        refresh: body.refresh_token,
        valid_for_ms: None,
    };
    let is_new = match &session.device_id {
        Some(device) => hs.accounts.device(&user_id, device).await?.is_none(),
        None => true,
    };
    let issued = hs.accounts.log_in(&user_id, session, &args.client).await?;
    if is_new {
        hs.device_appeared(&user_id, &issued.device_id).await?;
    }
    Ok(Json(issued_json(hs, &issued)))
}

/// What a client gets that has logged in or registered.
pub(crate) fn issued_json(hs: &Homeserver, issued: &Issued) -> Value {
    let mut body = json!({
        "user_id": issued.user_id,
        "device_id": issued.device_id,
        "access_token": issued.access_token,
        // Deprecated for long, and still read by old clients.
        "home_server": hs.name,
    });
    if let Some(refresh_token) = &issued.refresh_token {
        body["refresh_token"] = refresh_token.as_str().into();
    }
    if let Some(expires_in_ms) = issued.expires_in_ms {
        body["expires_in_ms"] = expires_in_ms.into();
    }
    if let Some(base_url) = hs.settings.public_base_url.as_ref().filter(|_| hs.settings.tell_base_url) {
        body["well_known"] = json!({ "m.homeserver": { "base_url": base_url } });
    }
    body
}

/// The user id of ours that somebody means who writes an id or a local part.
pub(crate) fn local_user_id(hs: &Homeserver, user: &str) -> Option<OwnedUserId> {
    let user_id = match user.starts_with('@') {
        true => UserId::parse(user),
        false => UserId::parse(format!("@{user}:{}", hs.name)),
    };
    user_id.ok().filter(|user_id| hs.accounts.is_local(user_id) && !user_id.as_str().contains('\0'))
}

/// Counts an attempt to prove something against the account.
pub(crate) fn limit_attempts(hs: &Homeserver, account: &str) -> Result<(), ApiError> {
    let Some(rates) = hs.accounts.options().rates else { return Ok(()) };
    hs.limiter.take("login", account, rates.login).map_err(ApiError::limit_exceeded)
}

async fn by_password(hs: &Homeserver, body: &Login) -> Result<OwnedUserId, ApiError> {
    let password = body.password.as_deref().ok_or_else(|| ApiError::missing_param("password is missing"))?;
    let wrong = || ApiError::forbidden("The user name or the password is wrong");
    let named = named_user(hs, body).await?.ok_or_else(wrong)?;
    limit_attempts(hs, named.as_str())?;
    // Names are kept in lower case; older accounts may have others, so the name as written goes first.
    for candidate in [named.as_str().to_owned(), named.as_str().to_lowercase()] {
        let Ok(user_id) = UserId::parse(candidate) else { continue };
        if hs.accounts.user(&user_id).await?.is_some() {
            let matches = hs.accounts.password_matches(&user_id, password).await?;
            return if matches { Ok(user_id) } else { Err(refused(hs, &user_id).await?) };
        }
    }
    // As long as for somebody who exists.
    hs.accounts.password_matches(&named, password).await?;
    Err(wrong())
}

async fn refused(hs: &Homeserver, user: &UserId) -> Result<ApiError, ApiError> {
    let deactivated = hs.accounts.user(user).await?.is_some_and(|user| user.deactivated);
    Ok(if deactivated {
        ApiError::new(StatusCode::FORBIDDEN, "M_USER_DEACTIVATED", "This account has been deactivated")
    } else {
        ApiError::forbidden("The user name or the password is wrong")
    })
}

async fn named_user(hs: &Homeserver, body: &Login) -> Result<Option<OwnedUserId>, ApiError> {
    let by_address = async |medium: &Option<String>, address: &Option<String>| match (medium, address) {
        (Some(medium), Some(address)) => {
            let address = if medium == "email" { address.to_lowercase() } else { address.clone() };
            Ok(hs.accounts.threepid_user(medium, &address).await?)
        }
        _ => Err(ApiError::missing_param("medium or address is missing")),
    };
    match &body.identifier {
        Some(identifier) => match identifier.kind.as_str() {
            "m.id.user" => {
                let user = identifier.user.as_deref().ok_or_else(|| ApiError::missing_param("user is missing"))?;
                Ok(local_user_id(hs, user))
            }
            "m.id.thirdparty" => by_address(&identifier.medium, &identifier.address).await,
            _ => Err(ApiError::bad_request("This kind of identifier is not supported")),
        },
        None => match &body.user {
            Some(user) => Ok(local_user_id(hs, user)),
            None if body.medium.is_some() => by_address(&body.medium, &body.address).await,
            None => Err(ApiError::missing_param("identifier is missing")),
        },
    }
}

async fn by_token(hs: &Homeserver, body: &Login) -> Result<OwnedUserId, ApiError> {
    let token = body.token.as_deref().ok_or_else(|| ApiError::missing_param("token is missing"))?;
    hs.accounts.take_login_token(token).await?.ok_or_else(|| ApiError::forbidden("The login token is not valid"))
}

fn by_service(args: &RawArgs<AppserviceTokenOptional>, body: &Login) -> Result<OwnedUserId, ApiError> {
    let Some(service) = &args.who else {
        return Err(if args.parts.headers.contains_key(http::header::AUTHORIZATION) {
            ApiError::forbidden("This is not an application service's token")
        } else {
            ApiError::missing_token("An application service's token is needed")
        });
    };
    let named = body.identifier.as_ref().and_then(|identifier| identifier.user.as_deref()).or(body.user.as_deref());
    let named = named.ok_or_else(|| ApiError::missing_param("identifier is missing"))?;
    let user_id = local_user_id(&args.hs, named).ok_or_else(|| ApiError::forbidden("There is no such user here"))?;
    if service.owns_user(&user_id) {
        Ok(user_id)
    } else {
        Err(ApiError::new(
            StatusCode::BAD_REQUEST,
            "M_EXCLUSIVE",
            "The user is not in the application service's namespace",
        ))
    }
}

async fn may_log_in(hs: &Homeserver, user: &UserId) -> Result<(), ApiError> {
    let Some(user) = hs.accounts.user(user).await? else {
        return Err(ApiError::forbidden("There is no such user here"));
    };
    if user.deactivated {
        return Err(ApiError::new(StatusCode::FORBIDDEN, "M_USER_DEACTIVATED", "This account has been deactivated"));
    }
    if user.locked {
        return Err(ApiError::new(StatusCode::UNAUTHORIZED, "M_USER_LOCKED", "This account has been locked")
            .with("soft_logout", true));
    }
    Ok(())
}

/// `POST /login/get_token`
async fn create_login_token(args: Args<get_login_token::v1::Request>) -> Answer<get_login_token::v1::Response> {
    let Args { who, hs, json, uri_path, .. } = args;
    let proven = uia::confirm(&hs, &who, &uri_path, &json, b"").await?;
    let (token, lasts_ms) = hs.accounts.create_login_token(&who.user_id).await?;
    proven.finish(&hs).await?;
    Ok(get_login_token::v1::Response::new(Duration::from_millis(lasts_ms), token))
}

/// `POST /refresh`
async fn refresh(args: Args<refresh_token::v3::Request>) -> Answer<refresh_token::v3::Response> {
    let issued = args.hs.accounts.refresh(&args.body.refresh_token).await?;
    let mut response = refresh_token::v3::Response::new(issued.access_token);
    response.refresh_token = issued.refresh_token;
    response.expires_in_ms = issued.expires_in_ms.map(Duration::from_millis);
    Ok(response)
}

/// `POST /logout`
async fn log_out(args: Args<logout::v3::Request>) -> Answer<logout::v3::Response> {
    if let Some(device) = &args.who.device_id {
        args.hs.delete_devices(&args.who.user_id, [&**device]).await?;
    }
    Ok(logout::v3::Response::new())
}

/// `POST /logout/all`
async fn log_out_all(args: Args<logout_all::v3::Request>) -> Answer<logout_all::v3::Response> {
    let devices = args.hs.accounts.devices(&args.who.user_id).await?;
    args.hs.delete_devices(&args.who.user_id, devices.iter().map(|device| &*device.device_id)).await?;
    Ok(logout_all::v3::Response::new())
}
