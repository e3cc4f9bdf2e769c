//! Files: what users have uploaded; deleting and quarantining.

use http::Method;
use ruma::OwnedServerName;
use samtal_client_api::{Answer, ApiError, Json, RawArgs};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::admin::{Admin, Page, local_user, local_user_id, set_next};

/// Most uploads of one user that are listed.
const UPLOADS_MAX: u32 = 10_000;

pub(crate) fn routes() -> Admin {
    Admin::default()
        .on(Method::GET, &["/_synapse/admin/v1/users/{user_id}/media"], of_user)
        .on(Method::DELETE, &["/_synapse/admin/v1/users/{user_id}/media"], delete_of_user)
        .on(Method::DELETE, &["/_synapse/admin/v1/media/{server_name}/{media_id}"], delete)
        .on(Method::POST, &["/_synapse/admin/v1/media/quarantine/{server_name}/{media_id}"], quarantine)
        .on(Method::POST, &["/_synapse/admin/v1/media/unquarantine/{server_name}/{media_id}"], unquarantine)
        .on(Method::POST, &["/_synapse/admin/v1/user/{user_id}/media/quarantine"], quarantine_of_user)
}

async fn uploads(args: &RawArgs, user: &ruma::UserId) -> Result<Vec<(OwnedServerName, String)>, ApiError> {
    args.hs.media.of_user(user, 0, UPLOADS_MAX).await.map_err(ApiError::internal)
}

/// `GET /_synapse/admin/v1/users/{userId}/media`
async fn of_user(args: RawArgs) -> Answer<Json<Value>> {
    let page: Page = args.query()?;
    let user = local_user(&args, 0).await?;
    let found = uploads(&args, &user.user_id).await?;
    let total = found.len();
    let (found, next) = page.cut(found);
    let media: Vec<Value> = found.iter().map(|(_, media_id)| json!({ "media_id": media_id })).collect();
    let mut answer = json!({ "media": media, "total": total });
    set_next(&mut answer, "next_token", next);
    Ok(Json(answer))
}

/// `DELETE /_synapse/admin/v1/users/{userId}/media`
async fn delete_of_user(args: RawArgs) -> Answer<Json<Value>> {
    let page: Page = args.query()?;
    let user = local_user_id(&args, 0)?;
    let (found, _) = page.cut(uploads(&args, &user).await?);
    let mut deleted = Vec::new();
    for (server, media_id) in found {
        if args.hs.media.delete(&server, &media_id).await.map_err(ApiError::internal)? {
            deleted.push(media_id);
        }
    }
    Ok(Json(json!({ "deleted_media": deleted, "total": deleted.len() })))
}

/// `DELETE /_synapse/admin/v1/media/{serverName}/{mediaId}`
async fn delete(args: RawArgs) -> Answer<Json<Value>> {
    let (server, media_id): (OwnedServerName, String) = (args.path(0)?, args.path(1)?);
    if !args.hs.media.delete(&server, &media_id).await.map_err(ApiError::internal)? {
        return Err(ApiError::not_found("Unknown media"));
    }
    Ok(Json(json!({ "deleted_media": [media_id], "total": 1 })))
}

async fn set(args: &RawArgs, quarantined: bool) -> Answer<Json<Value>> {
    let (server, media_id): (OwnedServerName, String) = (args.path(0)?, args.path(1)?);
    if !args.hs.media.quarantine(&server, &media_id, quarantined).await.map_err(ApiError::internal)? {
        return Err(ApiError::not_found("Unknown media"));
    }
    Ok(Json(json!({})))
}

/// `POST /_synapse/admin/v1/media/quarantine/{serverName}/{mediaId}`
async fn quarantine(args: RawArgs) -> Answer<Json<Value>> {
    set(&args, true).await
}

/// `POST /_synapse/admin/v1/media/unquarantine/{serverName}/{mediaId}`
async fn unquarantine(args: RawArgs) -> Answer<Json<Value>> {
    set(&args, false).await
}

#[derive(Deserialize)]
struct Nothing {}

/// `POST /_synapse/admin/v1/user/{userId}/media/quarantine`
async fn quarantine_of_user(args: RawArgs) -> Answer<Json<Value>> {
    let Nothing {} = args.json().await?;
    let user = local_user_id(&args, 0)?;
    let mut count = 0;
    for (server, media_id) in uploads(&args, &user).await? {
        count += usize::from(args.hs.media.quarantine(&server, &media_id, true).await.map_err(ApiError::internal)?);
    }
    Ok(Json(json!({ "num_quarantined": count })))
}
