//! Application services while the server runs: `/_samtal/admin/v1/appservices`.

use http::{Method, StatusCode};
use samtal_appservice::{AppserviceError, Pong, Registration, Service};
use samtal_client_api::{Answer, ApiError, Json, RawArgs};
use samtal_ops::Homeserver;
use serde_json::{Value, json};

use crate::admin::Admin;

const ALL: &str = "/_samtal/admin/v1/appservices";
const ONE: &str = "/_samtal/admin/v1/appservices/{id}";

pub(crate) fn routes() -> Admin {
    Admin::default()
        .on(Method::GET, &[ALL], list)
        .on(Method::GET, &[ONE], one)
        .on(Method::PUT, &[ONE], put)
        .on(Method::DELETE, &[ONE], delete)
        .on(Method::POST, &["/_samtal/admin/v1/appservices/{id}/ping"], ping)
}

/// What is shown of one: never its tokens.
fn written(hs: &Homeserver, service: &Service) -> Value {
    let patterns = |names: &[samtal_account::Namespace]| -> Vec<Value> {
        names.iter().map(|names| json!({ "exclusive": names.exclusive, "regex": names.regex.as_str() })).collect()
    };
    json!({
        "id": service.id(),
        "sender": service.sender(),
        "rate_limited": service.account.rate_limited,
        "namespaces": {
            "users": patterns(&service.account.users),
            "aliases": patterns(&service.account.aliases),
            "rooms": patterns(&service.account.rooms),
        },
        "configured": hs.appservices.is_configured(service.id()),
    })
}

/// `GET /_samtal/admin/v1/appservices`
async fn list(args: RawArgs) -> Answer<Json<Value>> {
    let services = args.hs.appservices.services();
    let services: Vec<Value> = services.iter().map(|service| written(&args.hs, service)).collect();
    Ok(Json(json!({ "appservices": services })))
}

fn found(args: &RawArgs) -> Result<std::sync::Arc<Service>, ApiError> {
    let id: String = args.path(0)?;
    args.hs.appservices.service(&id).ok_or_else(|| ApiError::not_found("There is no such application service"))
}

/// `GET /_samtal/admin/v1/appservices/{id}`
async fn one(args: RawArgs) -> Answer<Json<Value>> {
    Ok(Json(written(&args.hs, &*found(&args)?)))
}

fn refused(error: AppserviceError) -> ApiError {
    match error {
        AppserviceError::Registration(why) => ApiError::bad_json(why.to_string()),
        AppserviceError::Twice(_) | AppserviceError::Configured(_) => {
            ApiError::new(StatusCode::CONFLICT, "M_UNKNOWN", error.to_string())
        }
        AppserviceError::Account(error) => error.into(),
        AppserviceError::Storage(error) => error.into(),
        AppserviceError::Tls(_) => ApiError::internal(error),
    }
}

/// `PUT /_samtal/admin/v1/appservices/{id}`: the body is a registration, as a file has it but in JSON.
async fn put(args: RawArgs) -> Answer<Json<Value>> {
    let registration: Registration = args.json().await?;
    if registration.id != args.path::<String>(0)? {
        return Err(ApiError::invalid_param("The registration has another id than the path"));
    }
    args.hs.appservices.add(registration).await.map_err(refused)?;
    Ok(Json(written(&args.hs, &*found(&args)?)))
}

/// `DELETE /_samtal/admin/v1/appservices/{id}`
async fn delete(args: RawArgs) -> Answer<Json<Value>> {
    let service = found(&args)?;
    args.hs.appservices.remove(service.id()).await.map_err(refused)?;
    Ok(Json(json!({})))
}

/// `POST /_samtal/admin/v1/appservices/{id}/ping`
async fn ping(args: RawArgs) -> Answer<Json<Value>> {
    let service = found(&args)?;
    Ok(Json(match args.hs.appservices.ping(service.id(), None).await {
        Pong::Ok(ms) => json!({ "reachable": true, "duration_ms": ms }),
        Pong::Status(status, _) => json!({ "reachable": true, "status": status.as_u16() }),
        Pong::Failed(why) => json!({ "reachable": false, "error": why }),
        Pong::TimedOut => json!({ "reachable": false, "error": "no answer in time" }),
        Pong::NoAddress => json!({ "reachable": false, "error": "it has no address" }),
    }))
}
