//! Registration tokens.

use http::Method;
use samtal_account::RegistrationToken;
use samtal_client_api::{Answer, ApiError, Json, RawArgs};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use crate::admin::Admin;

const ONE: &str = "/_synapse/admin/v1/registration_tokens/{token}";

pub(crate) fn routes() -> Admin {
    Admin::default()
        .on(Method::GET, &["/_synapse/admin/v1/registration_tokens"], list)
        .on(Method::POST, &["/_synapse/admin/v1/registration_tokens/new"], create)
        .on(Method::GET, &[ONE], one)
        .on(Method::PUT, &[ONE], change)
        .on(Method::DELETE, &[ONE], delete)
}

fn written(token: &RegistrationToken) -> Value {
    json!({
        "token": token.token,
        "uses_allowed": token.uses_allowed,
        "pending": 0,
        "completed": token.completed,
        "expiry_time": token.expires_ms,
    })
}

#[derive(Deserialize)]
struct Filter {
    valid: Option<bool>,
}

/// `GET /_synapse/admin/v1/registration_tokens`
async fn list(args: RawArgs) -> Answer<Json<Value>> {
    let filter: Filter = args.query()?;
    let now_ms = args.hs.clock.now_ms();
    let is_valid = |token: &RegistrationToken| {
        token.uses_allowed.is_none_or(|allowed| token.completed < allowed)
            && token.expires_ms.is_none_or(|expires_ms| now_ms < expires_ms)
    };
    let tokens = args.hs.accounts.registration_tokens().await?;
    let tokens: Vec<Value> =
        tokens.iter().filter(|token| filter.valid.is_none_or(|valid| is_valid(token) == valid)).map(written).collect();
    Ok(Json(json!({ "registration_tokens": tokens })))
}

async fn found(args: &RawArgs) -> Result<RegistrationToken, ApiError> {
    let name: String = args.path(0)?;
    let tokens = args.hs.accounts.registration_tokens().await?;
    let token = tokens.into_iter().find(|token| token.token == name);
    token.ok_or_else(|| ApiError::not_found("There is no such registration token"))
}

/// `GET /_synapse/admin/v1/registration_tokens/{token}`
async fn one(args: RawArgs) -> Answer<Json<Value>> {
    Ok(Json(written(&found(&args).await?)))
}

#[derive(Deserialize)]
struct Create {
    token: Option<String>,
    uses_allowed: Option<u64>,
    expiry_time: Option<u64>,
    length: Option<usize>,
}

/// `POST /_synapse/admin/v1/registration_tokens/new`
async fn create(args: RawArgs) -> Answer<Json<Value>> {
    let body: Create = args.json().await?;
    if body.expiry_time.is_some_and(|expires_ms| expires_ms < args.hs.clock.now_ms()) {
        return Err(ApiError::invalid_param("expiry_time lies in the past"));
    }
    let token = match (body.token, body.length) {
        (None, Some(length)) if (1..=64).contains(&length) => Some(args.hs.random.alphanumeric(length)),
        (None, Some(_)) => return Err(ApiError::invalid_param("length is 1 to 64")),
        (token, _) => token,
    };
    let made = args.hs.accounts.create_registration_token(token, body.uses_allowed, body.expiry_time).await?;
    Ok(Json(written(&made)))
}

/// What is to be changed: left out means as it is, `null` means without bound.
#[derive(Deserialize)]
struct Change {
    #[serde(default, deserialize_with = "some")]
    uses_allowed: Option<Option<u64>>,
    #[serde(default, deserialize_with = "some")]
    expiry_time: Option<Option<u64>>,
}

#[expect(clippy::option_option, reason = "left out and null are two things")]
fn some<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<u64>>, D::Error> {
    Option::<u64>::deserialize(deserializer).map(Some)
}

/// `PUT /_synapse/admin/v1/registration_tokens/{token}`
async fn change(args: RawArgs) -> Answer<Json<Value>> {
    let body: Change = args.json().await?;
    let mut token = found(&args).await?;
    token.uses_allowed = body.uses_allowed.unwrap_or(token.uses_allowed);
    token.expires_ms = body.expiry_time.unwrap_or(token.expires_ms);
    args.hs.accounts.update_registration_token(&token.token, token.uses_allowed, token.expires_ms).await?;
    Ok(Json(written(&token)))
}

/// `DELETE /_synapse/admin/v1/registration_tokens/{token}`
async fn delete(args: RawArgs) -> Answer<Json<Value>> {
    let token = found(&args).await?;
    args.hs.accounts.delete_registration_token(&token.token).await?;
    Ok(Json(json!({})))
}
