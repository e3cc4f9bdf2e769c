//! Application services while the server runs: `/_samtal/admin/v1/appservices`.

use http::{Method, StatusCode};
use samtal_appservice::{AppserviceError, Pong, Registration, Service};
use samtal_client_api::{Answer, ApiError, Json, RawArgs};
use samtal_ops::Homeserver;
use serde_json::{Value, json};

use crate::{
    admin::Admin,
    openapi::{About, Form, NOTHING, field, optional},
};

const ALL: &str = "/_samtal/admin/v1/appservices";
const ONE: &str = "/_samtal/admin/v1/appservices/{id}";

const NAMES: Form = Form::List(&Form::Object(&[
    field!("exclusive", Form::Flag, "Whether nobody else may have such names"),
    field!("regex", Form::Text, "The names, as a regular expression"),
]));

const SERVICE: Form = Form::Object(&[
    field!("id", Form::Text, "Its id"),
    field!("sender", Form::Text, "The user as whom it speaks for itself"),
    field!("rate_limited", Form::Flag, "Whether its users' rates are limited"),
    field!(
        "namespaces",
        Form::Object(&[
            field!("users", NAMES, "Users that it looks after"),
            field!("aliases", NAMES, "Aliases that it looks after"),
            field!("rooms", NAMES, "Rooms that it looks after"),
        ]),
        "What it looks after",
    ),
    field!("configured", Form::Flag, "Whether it stands in the configuration, and cannot be changed here"),
]);

pub(crate) fn routes() -> Admin {
    Admin::default()
        .own(
            Method::GET,
            ALL,
            const {
                About::new(
                    "Application services",
                    "All bridges and bots",
                    Form::Object(&[field!("appservices", Form::List(&SERVICE), "The application services")]),
                )
            },
            list,
        )
        .own(
            Method::GET,
            ONE,
            About::new("Application services", "One bridge or bot, without its tokens", SERVICE),
            one,
        )
        .own(
            Method::PUT,
            ONE,
            const {
                About::new(
                    "Application services",
                    "Adds a bridge or bot, or replaces it, while the server runs",
                    SERVICE,
                )
                .body(Form::Free)
            },
            put,
        )
        .own(Method::DELETE, ONE, About::new("Application services", "Removes a bridge or bot", NOTHING), delete)
        .own(
            Method::POST,
            "/_samtal/admin/v1/appservices/{id}/ping",
            const {
                About::new(
                    "Application services",
                    "Asks a bridge or bot whether it is there",
                    Form::Object(&[
                        field!("reachable", Form::Flag, "Whether it answers"),
                        optional!("duration_ms", Form::Number, "How long it took"),
                        optional!("status", Form::Number, "The HTTP status, where it answered with an error"),
                        optional!("error", Form::Text, "Why it does not answer"),
                    ]),
                )
            },
            ping,
        )
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
