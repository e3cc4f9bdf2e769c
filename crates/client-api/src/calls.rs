//! Calls: TURN credentials, and where group calls meet.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use http::Method;
use ruma::api::auth_scheme::AccessToken;
use serde_json::{Value, json};
use sha1::Sha1;

use crate::{Answer, ApiError, Json, RawArgs, Routes};

pub(crate) fn routes() -> Routes {
    Routes::new()
        .raw::<AccessToken, _, _, _>(
            Method::GET,
            &["/_matrix/client/r0/voip/turnServer", "/_matrix/client/v3/voip/turnServer"],
            turn_server,
        )
        .raw::<AccessToken, _, _, _>(
            Method::GET,
            &["/_matrix/client/unstable/org.matrix.msc4143/rtc/transports"],
            transports,
        )
}

/// `GET …/rtc/transports` (MSC4143). A server that has none says that it does not know the endpoint: clients then look elsewhere.
async fn transports(args: RawArgs) -> Answer<Json<Value>> {
    let urls = &args.hs.settings.livekit_service_urls;
    if urls.is_empty() {
        return Err(ApiError::unrecognized("This server has no transports for calls"));
    }
    let transports: Vec<Value> =
        urls.iter().map(|url| json!({ "type": "livekit", "livekit_service_url": url })).collect();
    Ok(Json(json!({ "rtc_transports": transports })))
}

/// `GET /voip/turnServer`: credentials that the TURN server checks by the secret it shares with us (the REST API for access to TURN
/// services). `{}` when there is no TURN server.
async fn turn_server(args: RawArgs) -> Answer<Json<Value>> {
    let Some(turn) = &args.hs.settings.turn else { return Ok(Json(json!({}))) };
    if args.who.is_guest {
        return Err(ApiError::forbidden("Guests get no TURN server"));
    }
    let lasts_s = turn.lifetime_ms / 1_000;
    let username = format!("{}:{}", args.hs.clock.now_ms() / 1_000 + lasts_s, args.who.user_id);
    let mut mac = Hmac::<Sha1>::new_from_slice(turn.secret.expose().as_bytes()).map_err(ApiError::internal)?;
    mac.update(username.as_bytes());
    let password = BASE64_STANDARD.encode(mac.finalize().into_bytes());
    Ok(Json(json!({ "username": username, "password": password, "uris": turn.uris, "ttl": lasts_s })))
}
