//! The account itself: who am I, password, deactivation, OpenID.

use std::time::Duration;

use http::{Method, StatusCode};
use ruma::{
    api::{
        auth_scheme::{AccessToken, AccessTokenOptional},
        client::account::{request_openid_token, whoami},
    },
    authentication::TokenType,
};
use samtal_account::Purpose;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Answer, ApiError, Args, Json, RawArgs, Routes,
    uia::{self, Demand},
};

pub(crate) fn routes() -> Routes {
    Routes::new()
        .route(who_am_i)
        .raw::<AccessTokenOptional, _, _, _>(
            Method::POST,
            &["/_matrix/client/r0/account/password", "/_matrix/client/v3/account/password"],
            set_password,
        )
        .raw::<AccessToken, _, _, _>(
            Method::POST,
            &["/_matrix/client/r0/account/deactivate", "/_matrix/client/v3/account/deactivate"],
            end_account,
        )
        .route(openid_token)
}

/// `GET /account/whoami`
async fn who_am_i(args: Args<whoami::v3::Request>) -> Answer<whoami::v3::Response> {
    let mut response = whoami::v3::Response::new(args.who.user_id, args.who.is_guest);
    response.device_id = args.who.device_id;
    Ok(response)
}

#[derive(Deserialize)]
struct NewPassword {
    new_password: String,
    #[serde(default = "yes")]
    logout_devices: bool,
}

fn yes() -> bool {
    true
}

/// `POST /account/password`. Who has no token may show instead that a mail address of the account is theirs.
async fn set_password(args: RawArgs<AccessTokenOptional>) -> Answer<Json<Value>> {
    if args.who.is_none() && args.hs.settings.mail.is_none() {
        return Err(ApiError::missing_token("An access token is needed"));
    }
    let json = args.json_bytes().await?;
    let body: NewPassword = serde_json::from_slice(&json).map_err(|error| crate::args::json_error(&error))?;
    let RawArgs { who, hs, parts, .. } = args;
    hs.accounts.check_password_strength(&body.new_password)?;
    let path = parts.uri.path();
    let (user, device, proven) = match who {
        Some(who) => {
            let proven = uia::confirm(&hs, &who, path, &json, b"").await?;
            (who.user_id, who.device_id, proven)
        }
        None => {
            let flows = vec![vec![uia::EMAIL]];
            let demand = Demand { hs: &hs, path, user: None, flows, intent: b"", purpose: Purpose::Password };
            let proven = demand.check(&json).await?;
            let address = proven.completed.get(uia::EMAIL).and_then(Value::as_str).unwrap_or_default();
            let user = hs.accounts.threepid_user("email", address).await?;
            let unknown = || ApiError::new(StatusCode::NOT_FOUND, "M_NOT_FOUND", "The address is nobody's");
            (user.ok_or_else(unknown)?, None, proven)
        }
    };
    hs.accounts.set_password(&user, &body.new_password).await?;
    if body.logout_devices {
        let devices = hs.accounts.devices(&user).await?;
        let others = devices.iter().map(|known| &*known.device_id).filter(|id| Some(*id) != device.as_deref());
        hs.delete_devices(&user, others).await?;
    }
    proven.finish(&hs).await?;
    Ok(Json(json!({})))
}

#[derive(Deserialize)]
struct Deactivation {
    #[serde(default)]
    erase: bool,
}

/// `POST /account/deactivate`
async fn end_account(args: RawArgs) -> Answer<Json<Value>> {
    let json = args.json_bytes().await?;
    let body: Deactivation = serde_json::from_slice(&json).map_err(|error| crate::args::json_error(&error))?;
    let RawArgs { who, hs, parts, .. } = args;
    let proven = uia::confirm(&hs, &who, parts.uri.path(), &json, b"").await?;
    hs.deactivate(&who.user_id, body.erase).await?;
    proven.finish(&hs).await?;
    let unbound = hs.unbind_everything(&who.user_id).await?;
    Ok(Json(json!({ "id_server_unbind_result": if unbound { "success" } else { "no-support" } })))
}

/// `POST /user/{userId}/openid/request_token`
async fn openid_token(args: Args<request_openid_token::v3::Request>) -> Answer<request_openid_token::v3::Response> {
    args.who.require_self(&args.body.user_id)?;
    let token = args.hs.accounts.create_openid_token(&args.who.user_id).await?;
    let lasts = Duration::from_secs(samtal_account::OPENID_SECONDS);
    Ok(request_openid_token::v3::Response::new(token, TokenType::Bearer, args.hs.name.clone(), lasts))
}
