//! Application services: pings, and lookups on the networks that they bridge to.

use http::{Method, StatusCode};
use ruma::api::auth_scheme::{AccessToken, AppserviceToken};
use samtal_appservice::{Lookup, Pong};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Answer, ApiError, Json, RawArgs, Routes};

pub(crate) fn routes() -> Routes {
    Routes::new()
        .raw::<AppserviceToken, _, _, _>(
            Method::POST,
            &[
                "/_matrix/client/v1/appservice/{appservice_id}/ping",
                "/_matrix/client/unstable/fi.mau.msc2659/appservice/{appservice_id}/ping",
            ],
            ping,
        )
        .raw::<AccessToken, _, _, _>(
            Method::GET,
            &["/_matrix/client/r0/thirdparty/protocols", "/_matrix/client/v3/thirdparty/protocols"],
            protocols,
        )
        .raw::<AccessToken, _, _, _>(
            Method::GET,
            &["/_matrix/client/r0/thirdparty/protocol/{protocol}", "/_matrix/client/v3/thirdparty/protocol/{protocol}"],
            protocol,
        )
        .raw::<AccessToken, _, _, _>(
            Method::GET,
            &["/_matrix/client/r0/thirdparty/user/{protocol}", "/_matrix/client/v3/thirdparty/user/{protocol}"],
            async |args| look_up(Lookup::User, args).await,
        )
        .raw::<AccessToken, _, _, _>(
            Method::GET,
            &["/_matrix/client/r0/thirdparty/location/{protocol}", "/_matrix/client/v3/thirdparty/location/{protocol}"],
            async |args| look_up(Lookup::Location, args).await,
        )
        .raw::<AccessToken, _, _, _>(
            Method::GET,
            &["/_matrix/client/r0/thirdparty/user", "/_matrix/client/v3/thirdparty/user"],
            async |args| look_up_ours(Lookup::User, "userid", args).await,
        )
        .raw::<AccessToken, _, _, _>(
            Method::GET,
            &["/_matrix/client/r0/thirdparty/location", "/_matrix/client/v3/thirdparty/location"],
            async |args| look_up_ours(Lookup::Location, "alias", args).await,
        )
}

#[derive(Deserialize)]
struct Ping {
    transaction_id: Option<String>,
}

/// `POST /v1/appservice/{appserviceId}/ping`
async fn ping(args: RawArgs<AppserviceToken>) -> Answer<Json<Value>> {
    let id: String = args.path(0)?;
    if args.who.id != id {
        return Err(ApiError::forbidden("The token is another application service's"));
    }
    let body: Ping = args.json().await?;
    match args.hs.appservices.ping(&id, body.transaction_id.as_deref()).await {
        Pong::Ok(ms) => Ok(Json(json!({ "duration_ms": ms }))),
        Pong::NoAddress => {
            Err(ApiError::new(StatusCode::BAD_REQUEST, "M_URL_NOT_SET", "The application service has no address"))
        }
        Pong::Status(status, body) => {
            let what = format!("The application service answered with status {}", status.as_u16());
            let error = ApiError::new(StatusCode::BAD_GATEWAY, "M_BAD_STATUS", what);
            Err(error.with("status", status.as_u16()).with("body", body))
        }
        Pong::TimedOut => Err(ApiError::new(
            StatusCode::GATEWAY_TIMEOUT,
            "M_CONNECTION_TIMEOUT",
            "The application service did not answer in time",
        )),
        Pong::Failed(why) => Err(ApiError::new(StatusCode::BAD_GATEWAY, "M_CONNECTION_FAILED", why)),
    }
}

/// `GET /thirdparty/protocols`
async fn protocols(args: RawArgs) -> Answer<Json<Value>> {
    Ok(Json(Value::Object(args.hs.appservices.protocols(None).await)))
}

/// `GET /thirdparty/protocol/{protocol}`
async fn protocol(args: RawArgs) -> Answer<Json<Value>> {
    let protocol: String = args.path(0)?;
    let mut found = args.hs.appservices.protocols(Some(&protocol)).await;
    found.remove(&protocol).map(Json).ok_or_else(|| ApiError::not_found("No application service knows this protocol"))
}

/// The request's query without what is between the client and us.
fn fields(args: &RawArgs) -> Result<Vec<(String, String)>, ApiError> {
    let mut fields: Vec<(String, String)> = args.query()?;
    fields.retain(|(name, _)| !matches!(name.as_str(), "access_token" | "user_id" | "device_id"));
    Ok(fields)
}

fn query(fields: &[(String, String)]) -> Result<String, ApiError> {
    serde_html_form::to_string(fields).map_err(ApiError::internal)
}

/// `GET /thirdparty/user/{protocol}` and `GET /thirdparty/location/{protocol}`
async fn look_up(what: Lookup, args: RawArgs) -> Answer<Json<Value>> {
    let protocol: String = args.path(0)?;
    let query = query(&fields(&args)?)?;
    Ok(Json(args.hs.appservices.look_up(what, &protocol, &query).await.into()))
}

/// `GET /thirdparty/user` and `GET /thirdparty/location`
async fn look_up_ours(what: Lookup, key: &str, args: RawArgs) -> Answer<Json<Value>> {
    let mut fields = fields(&args)?;
    fields.retain(|(name, _)| name == key);
    if fields.is_empty() {
        return Err(ApiError::missing_param(format!("{key} is missing")));
    }
    let found = args.hs.appservices.look_up_ours(what, &query(&fields)?).await;
    Ok(Json(found.into()))
}
