//! Profiles.

use http::Method;
use ruma::{
    OwnedUserId,
    api::auth_scheme::{AccessToken, AccessTokenOptional},
};
use serde_json::{Map, Value, json};

use crate::{Answer, ApiError, Json, RawArgs, Routes};

pub(crate) fn routes() -> Routes {
    const PROFILE: &[&str] = &["/_matrix/client/r0/profile/{user_id}", "/_matrix/client/v3/profile/{user_id}"];
    const FIELD: &[&str] = &[
        "/_matrix/client/r0/profile/{user_id}/{key_name}",
        "/_matrix/client/v3/profile/{user_id}/{key_name}",
        "/_matrix/client/unstable/uk.tcpip.msc4133/profile/{user_id}/{key_name}",
    ];
    Routes::new()
        .raw::<AccessTokenOptional, _, _, _>(Method::GET, PROFILE, profile)
        .raw::<AccessTokenOptional, _, _, _>(Method::GET, FIELD, field)
        .raw::<AccessToken, _, _, _>(Method::PUT, FIELD, put)
        .raw::<AccessToken, _, _, _>(Method::DELETE, FIELD, delete)
}

/// `GET /profile/{userId}`
async fn profile(args: RawArgs<AccessTokenOptional>) -> Answer<Json<Value>> {
    let user: OwnedUserId = args.path(0)?;
    let profile = args.hs.profile(&user).await?.ok_or_else(|| ApiError::not_found("There is no such profile"))?;
    Ok(Json(json!(profile)))
}

/// `GET /profile/{userId}/{keyName}`
async fn field(args: RawArgs<AccessTokenOptional>) -> Answer<Json<Value>> {
    let user: OwnedUserId = args.path(0)?;
    let name = args.path.get(1).map_or("", String::as_str);
    let profile = args.hs.profile(&user).await?.ok_or_else(|| ApiError::not_found("There is no such profile"))?;
    match profile.get(name) {
        Some(value) => Ok(Json(json!({ name: value }))),
        // SPEC: the two oldest fields are answered with an empty object, as clients from before custom fields know it.
        None if matches!(name, "displayname" | "avatar_url") => Ok(Json(json!({}))),
        None => Err(ApiError::not_found("The profile has no such field")),
    }
}

/// Whose profile may be changed: one's own; administrators may change others'.
fn subject(args: &RawArgs) -> Result<OwnedUserId, ApiError> {
    let user: OwnedUserId = args.path(0)?;
    if !args.who.is_admin {
        args.who.require_self(&user)?;
    }
    if args.hs.accounts.is_local(&user) { Ok(user) } else { Err(ApiError::forbidden("This user is another server's")) }
}

/// `PUT /profile/{userId}/{keyName}`
async fn put(args: RawArgs) -> Answer<Json<Value>> {
    let user = subject(&args)?;
    let mut body: Map<String, Value> = args.json().await?;
    let name = args.path.get(1).cloned().unwrap_or_default();
    let Some(value) = body.remove(&name) else {
        return Err(ApiError::missing_param(format!("{name} is missing")));
    };
    // Clients of old set an empty or null picture or name to have none.
    let unset = matches!(name.as_str(), "avatar_url" | "displayname")
        && (value.is_null() || value.as_str().is_some_and(str::is_empty));
    args.hs.update_profile(&user, &name, (!unset).then_some(&value)).await?;
    Ok(Json(json!({})))
}

/// `DELETE /profile/{userId}/{keyName}`
async fn delete(args: RawArgs) -> Answer<Json<Value>> {
    let user = subject(&args)?;
    let name = args.path.get(1).map_or("", String::as_str);
    args.hs.update_profile(&user, name, None).await?;
    Ok(Json(json!({})))
}
