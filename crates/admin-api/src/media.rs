//! Files: what users have uploaded and rooms show; deleting, quarantining, protecting.

use std::collections::HashSet;

use http::Method;
use ruma::{MxcUri, OwnedRoomId, OwnedServerName};
use samtal_client_api::{Answer, ApiError, Json, RawArgs};
use samtal_media::{ListedFile, MediaError};
use samtal_model::StreamPosition;
use samtal_ops::Homeserver;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::admin::{Admin, Page, local_user, local_user_id};

/// Most uploads of one user that are listed.
const UPLOADS_MAX: u32 = 10_000;
/// Events of a room that are searched for files, the newest.
const EVENTS_MAX: usize = 200_000;
/// Events read in one go.
const PAGE: usize = 500;
/// The end of 1970 in milliseconds: an earlier time was given in seconds.
const MILLISECONDS_MIN: u64 = 30_000_000_000;

pub(crate) fn routes() -> Admin {
    Admin::default()
        .on(Method::GET, &["/_synapse/admin/v1/users/{user_id}/media"], of_user)
        .on(Method::DELETE, &["/_synapse/admin/v1/users/{user_id}/media"], delete_of_user)
        .on(Method::GET, &["/_synapse/admin/v1/media/{server_name}/{media_id}"], one)
        .on(Method::DELETE, &["/_synapse/admin/v1/media/{server_name}/{media_id}"], delete)
        .on(
            Method::POST,
            &["/_synapse/admin/v1/media/delete", "/_synapse/admin/v1/media/{server_name}/delete"],
            delete_unread,
        )
        .on(Method::POST, &["/_synapse/admin/v1/purge_media_cache"], delete_copies)
        .on(Method::POST, &["/_synapse/admin/v1/media/quarantine/{server_name}/{media_id}"], quarantine)
        .on(Method::POST, &["/_synapse/admin/v1/media/unquarantine/{server_name}/{media_id}"], unquarantine)
        .on(Method::POST, &["/_synapse/admin/v1/media/protect/{media_id}"], protect)
        .on(Method::POST, &["/_synapse/admin/v1/media/unprotect/{media_id}"], unprotect)
        .on(Method::POST, &["/_synapse/admin/v1/user/{user_id}/media/quarantine"], quarantine_of_user)
        .on(Method::GET, &["/_synapse/admin/v1/room/{room_id}/media"], of_room)
        .on(
            Method::POST,
            &["/_synapse/admin/v1/room/{room_id}/media/quarantine", "/_synapse/admin/v1/quarantine_media/{room_id}"],
            quarantine_of_room,
        )
}

fn failed(error: MediaError) -> ApiError {
    ApiError::internal(error)
}

/// Who has quarantined a file is not kept; tools ask whether it is.
fn quarantined_by(file: &ListedFile) -> Option<&'static str> {
    file.quarantined.then_some("an administrator")
}

fn listed(file: &ListedFile) -> Value {
    json!({
        "media_id": file.media_id,
        "media_type": file.content_type,
        "media_length": file.bytes,
        "upload_name": file.file_name,
        "created_ts": file.created_ms,
        "last_access_ts": file.accessed_ms,
        "quarantined_by": quarantined_by(file),
        "safe_from_quarantine": file.protected,
    })
}

/// `GET /_synapse/admin/v1/users/{userId}/media`
async fn of_user(args: RawArgs) -> Answer<Json<Value>> {
    let page: Page = args.query()?;
    let user = local_user(&args, 0).await?;
    let mut found = args.hs.media.list_of_user(&user.user_id, UPLOADS_MAX).await.map_err(failed)?;
    match page.order_by.as_deref() {
        // Without a wish the newest come first.
        None => found.reverse(),
        Some("created_ts") => {}
        Some("media_id") => found.sort_by(|one, other| one.media_id.cmp(&other.media_id)),
        Some("media_type") => found.sort_by(|one, other| one.content_type.cmp(&other.content_type)),
        Some("upload_name") => found.sort_by(|one, other| one.file_name.cmp(&other.file_name)),
        Some("media_length") => found.sort_by_key(|file| file.bytes),
        Some("last_access_ts") => found.sort_by_key(|file| file.accessed_ms),
        Some("quarantined_by") => found.sort_by_key(|file| file.quarantined),
        Some("safe_from_quarantine") => found.sort_by_key(|file| file.protected),
        Some(_) => return Err(ApiError::invalid_param("order_by names no field of the list")),
    }
    if page.is_descending()? {
        found.reverse();
    }
    Ok(page.answer("media", found, listed))
}

/// `DELETE /_synapse/admin/v1/users/{userId}/media`
async fn delete_of_user(args: RawArgs) -> Answer<Json<Value>> {
    let page: Page = args.query()?;
    let user = local_user_id(&args, 0)?;
    let (found, _) = page.cut(args.hs.media.list_of_user(&user, UPLOADS_MAX).await.map_err(failed)?);
    let mut deleted = Vec::new();
    for file in found {
        if args.hs.media.delete(&file.server, &file.media_id).await.map_err(failed)? {
            deleted.push(file.media_id);
        }
    }
    Ok(Json(json!({ "deleted_media": deleted, "total": deleted.len() })))
}

/// `GET /_synapse/admin/v1/media/{serverName}/{mediaId}`
async fn one(args: RawArgs) -> Answer<Json<Value>> {
    let (server, media_id): (OwnedServerName, String) = (args.path(0)?, args.path(1)?);
    let file = args.hs.media.listed(&server, &media_id).await.map_err(failed)?;
    let file = file.ok_or_else(|| ApiError::not_found("Unknown media"))?;
    let own = args.hs.media.is_own(&server);
    let mut written = listed(&file);
    written["media_origin"] = if own { Value::Null } else { server.as_str().into() };
    written["user_id"] = file.uploader.as_deref().into();
    written["sha256"] =
        file.sha256.map(|hash| hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>()).into();
    Ok(Json(json!({ "media_info": written })))
}

/// `DELETE /_synapse/admin/v1/media/{serverName}/{mediaId}`
async fn delete(args: RawArgs) -> Answer<Json<Value>> {
    let (server, media_id): (OwnedServerName, String) = (args.path(0)?, args.path(1)?);
    if !args.hs.media.delete(&server, &media_id).await.map_err(failed)? {
        return Err(ApiError::not_found("Unknown media"));
    }
    Ok(Json(json!({ "deleted_media": [media_id], "total": 1 })))
}

#[derive(Deserialize)]
struct Unread {
    before_ts: u64,
    #[serde(default)]
    size_gt: u64,
    #[serde(default = "yes")]
    keep_profiles: bool,
}

fn yes() -> bool {
    true
}

fn in_milliseconds(ts: u64) -> Result<u64, ApiError> {
    if ts < MILLISECONDS_MIN {
        return Err(ApiError::invalid_param("before_ts is in milliseconds, and lies in 1970"));
    }
    Ok(ts)
}

/// `POST /_synapse/admin/v1/media/delete`: files of ours that nobody has read for long.
async fn delete_unread(args: RawArgs) -> Answer<Json<Value>> {
    let query: Unread = args.query()?;
    let before = in_milliseconds(query.before_ts)?;
    if let Some(server) = args.path.first()
        && *server != args.hs.name
    {
        return Err(ApiError::bad_request("Only files of this server can be deleted so"));
    }
    let keep = if query.keep_profiles { pictures(&args.hs).await? } else { HashSet::new() };
    let deleted = args.hs.media.delete_unread(before, query.size_gt, &keep).await.map_err(failed)?;
    Ok(Json(json!({ "deleted_media": deleted, "total": deleted.len() })))
}

/// The ids of our files that are pictures of users or rooms.
async fn pictures(hs: &Homeserver) -> Result<HashSet<String>, ApiError> {
    let mut urls: Vec<String> = hs.accounts.user_list().await?.into_iter().filter_map(|user| user.avatar_url).collect();
    for room in hs.rooms.room_list().await? {
        let content = hs.state_content(&room.room_id, "m.room.avatar").await?.unwrap_or_default();
        urls.extend(content.get("url").and_then(Value::as_str).map(ToOwned::to_owned));
        let room = hs.rooms.room(&room.room_id).await?;
        for user in hs.rooms.store().graph.joined_of(room.nid, &hs.name).await? {
            let member = hs.member_event_content(&room.room_id, &user).await?.unwrap_or_default();
            urls.extend(member.get("avatar_url").and_then(Value::as_str).map(ToOwned::to_owned));
        }
    }
    let own = |url: String| {
        let (server, media_id) = <&MxcUri>::from(url.as_str()).parts().ok()?;
        hs.media.is_own(server).then(|| media_id.to_owned())
    };
    Ok(urls.into_iter().filter_map(own).collect())
}

#[derive(Deserialize)]
struct Before {
    before_ts: u64,
}

/// `POST /_synapse/admin/v1/purge_media_cache`: copies of other servers' files.
async fn delete_copies(args: RawArgs) -> Answer<Json<Value>> {
    let query: Before = args.query()?;
    let deleted = args.hs.media.delete_copies(in_milliseconds(query.before_ts)?).await.map_err(failed)?;
    Ok(Json(json!({ "deleted": deleted })))
}

async fn set(args: &RawArgs, quarantined: bool) -> Answer<Json<Value>> {
    let (server, media_id): (OwnedServerName, String) = (args.path(0)?, args.path(1)?);
    if args.hs.media.listed(&server, &media_id).await.map_err(failed)?.is_none() {
        return Err(ApiError::not_found("Unknown media"));
    }
    args.hs.media.quarantine(&server, &media_id, quarantined).await.map_err(failed)?;
    Ok(Json(json!({})))
}

/// `POST /_synapse/admin/v1/media/quarantine/{serverName}/{mediaId}`: what is protected stays as it is.
async fn quarantine(args: RawArgs) -> Answer<Json<Value>> {
    set(&args, true).await
}

/// `POST /_synapse/admin/v1/media/unquarantine/{serverName}/{mediaId}`
async fn unquarantine(args: RawArgs) -> Answer<Json<Value>> {
    set(&args, false).await
}

async fn set_protected(args: &RawArgs, protected: bool) -> Answer<Json<Value>> {
    if !args.hs.media.protect(&args.path::<String>(0)?, protected).await.map_err(failed)? {
        return Err(ApiError::not_found("Unknown media"));
    }
    Ok(Json(json!({})))
}

/// `POST /_synapse/admin/v1/media/protect/{mediaId}`
async fn protect(args: RawArgs) -> Answer<Json<Value>> {
    set_protected(&args, true).await
}

/// `POST /_synapse/admin/v1/media/unprotect/{mediaId}`
async fn unprotect(args: RawArgs) -> Answer<Json<Value>> {
    set_protected(&args, false).await
}

/// `POST /_synapse/admin/v1/user/{userId}/media/quarantine`
async fn quarantine_of_user(args: RawArgs) -> Answer<Json<Value>> {
    let user = local_user_id(&args, 0)?;
    let mut count = 0;
    for file in args.hs.media.list_of_user(&user, UPLOADS_MAX).await.map_err(failed)? {
        count += usize::from(args.hs.media.quarantine(&file.server, &file.media_id, true).await.map_err(failed)?);
    }
    Ok(Json(json!({ "num_quarantined": count })))
}

/// What a room's readable events show: files of ours and of others. What is encrypted nobody here can know.
async fn shown_in(args: &RawArgs) -> Result<(Vec<String>, Vec<String>), ApiError> {
    let (hs, room_id): (_, OwnedRoomId) = (&args.hs, args.path(0)?);
    let room = hs.rooms.store().graph.room(&room_id).await?.ok_or_else(|| ApiError::not_found("Room not found"))?;
    let (mut upto, mut seen) = (StreamPosition(hs.db.position()), 0);
    let (mut own, mut others, mut known) = (Vec::new(), Vec::new(), HashSet::new());
    while seen < EVENTS_MAX {
        let page = hs.rooms.store().graph.timeline_back(room.nid, upto, StreamPosition(i64::MIN), PAGE).await?;
        let Some(last) = page.last().and_then(|event| event.position) else { break };
        for event in &page {
            let content: Value = serde_json::from_str(event.pdu.content_str()).unwrap_or_default();
            let places = [
                &content["url"],
                &content["avatar_url"],
                &content["file"]["url"],
                &content["info"]["thumbnail_url"],
                &content["info"]["thumbnail_file"]["url"],
            ];
            for url in places.into_iter().filter_map(Value::as_str) {
                if let Ok((server, _)) = <&MxcUri>::from(url).parts()
                    && known.insert(url.to_owned())
                {
                    let list = if hs.media.is_own(server) { &mut own } else { &mut others };
                    list.push(url.to_owned());
                }
            }
        }
        seen += page.len();
        upto = StreamPosition(last.0 - 1);
    }
    Ok((own, others))
}

/// `GET /_synapse/admin/v1/room/{roomId}/media`
async fn of_room(args: RawArgs) -> Answer<Json<Value>> {
    let (own, others) = shown_in(&args).await?;
    Ok(Json(json!({ "local": own, "remote": others, "total": own.len() })))
}

/// `POST /_synapse/admin/v1/room/{roomId}/media/quarantine`
async fn quarantine_of_room(args: RawArgs) -> Answer<Json<Value>> {
    let (own, others) = shown_in(&args).await?;
    let mut count = 0;
    for url in own.iter().chain(&others) {
        if let Ok((server, media_id)) = <&MxcUri>::from(url.as_str()).parts() {
            count += usize::from(args.hs.media.quarantine(server, media_id, true).await.map_err(failed)?);
        }
    }
    Ok(Json(json!({ "num_quarantined": count })))
}
