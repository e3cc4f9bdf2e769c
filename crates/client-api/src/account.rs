//! The account itself: who am I, password, deactivation, addresses elsewhere, OpenID.

use std::time::Duration;

use http::Method;
use ruma::{
    api::{
        auth_scheme::AccessToken,
        client::account::{request_openid_token, whoami},
    },
    authentication::TokenType,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Answer, Args, Json, RawArgs, Routes, uia};

pub(crate) fn routes() -> Routes {
    Routes::new()
        .route(who_am_i)
        .raw::<AccessToken, _, _, _>(
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
        .raw::<AccessToken, _, _, _>(
            Method::GET,
            &["/_matrix/client/r0/account/3pid", "/_matrix/client/v3/account/3pid"],
            threepids,
        )
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

/// `POST /account/password`
async fn set_password(args: RawArgs) -> Answer<Json<Value>> {
    let json = args.json_bytes().await?;
    let body: NewPassword = serde_json::from_slice(&json).map_err(|error| crate::args::json_error(&error))?;
    let RawArgs { who, hs, parts, .. } = args;
    hs.accounts.check_password_strength(&body.new_password)?;
    let proven = uia::confirm(&hs, &who, parts.uri.path(), &json, b"").await?;
    hs.accounts.set_password(&who.user_id, &body.new_password).await?;
    if body.logout_devices {
        let devices = hs.accounts.devices(&who.user_id).await?;
        let others = devices.iter().map(|device| &*device.device_id).filter(|id| Some(*id) != who.device_id.as_deref());
        hs.delete_devices(&who.user_id, others).await?;
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
    // No identity server is known here, so there is nothing to unbind.
    Ok(Json(json!({ "id_server_unbind_result": "success" })))
}

/// `GET /account/3pid`
async fn threepids(args: RawArgs) -> Answer<Json<Value>> {
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

/// `POST /user/{userId}/openid/request_token`
async fn openid_token(args: Args<request_openid_token::v3::Request>) -> Answer<request_openid_token::v3::Response> {
    args.who.require_self(&args.body.user_id)?;
    let token = args.hs.accounts.create_openid_token(&args.who.user_id).await?;
    let lasts = Duration::from_secs(samtal_account::OPENID_SECONDS);
    Ok(request_openid_token::v3::Response::new(token, TokenType::Bearer, args.hs.name.clone(), lasts))
}
