//! The account itself: who am I, password, deactivation, addresses elsewhere, OpenID.

use std::time::Duration;

use http::Method;
use ruma::{
    api::{
        auth_scheme::AccessToken,
        client::account::{ThirdPartyIdRemovalStatus, change_password, deactivate, request_openid_token, whoami},
    },
    authentication::TokenType,
};
use serde_json::{Value, json};

use crate::{Answer, ApiError, Args, Json, RawArgs, Routes, uia};

pub(crate) fn routes() -> Routes {
    Routes::new()
        .route(who_am_i)
        .route(set_password)
        .route(end_account)
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

/// `POST /account/password`
async fn set_password(args: Args<change_password::v3::Request>) -> Answer<change_password::v3::Response> {
    let Args { body, who, hs, json, uri_path, .. } = args;
    let who = who.ok_or_else(|| ApiError::missing_token("An access token is needed"))?;
    hs.accounts.check_password_strength(&body.new_password)?;
    let proven = uia::confirm(&hs, &who, &uri_path, &json, b"").await?;
    hs.accounts.set_password(&who.user_id, &body.new_password).await?;
    if body.logout_devices {
        let devices = hs.accounts.devices(&who.user_id).await?;
        let others = devices.iter().map(|device| &*device.device_id).filter(|id| Some(*id) != who.device_id.as_deref());
        hs.delete_devices(&who.user_id, others).await?;
    }
    proven.finish(&hs).await?;
    Ok(change_password::v3::Response::new())
}

/// `POST /account/deactivate`
async fn end_account(args: Args<deactivate::v3::Request>) -> Answer<deactivate::v3::Response> {
    let Args { body, who, hs, json, uri_path, .. } = args;
    let who = who.ok_or_else(|| ApiError::missing_token("An access token is needed"))?;
    let proven = uia::confirm(&hs, &who, &uri_path, &json, b"").await?;
    hs.deactivate(&who.user_id, body.erase).await?;
    proven.finish(&hs).await?;
    // No identity server is known here, so there is nothing to unbind.
    Ok(deactivate::v3::Response::new(ThirdPartyIdRemovalStatus::Success))
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
