//! Account data and tags.

use http::{Method, StatusCode};
use ruma::{OwnedRoomId, OwnedUserId, api::auth_scheme::AccessToken};
use serde_json::{Map, Value, json, value::RawValue};

use crate::{Answer, ApiError, Json, RawArgs, Routes};

/// Longest name of a tag, in bytes.
const TAG_BYTES_MAX: usize = 255;

/// Most tags of one room.
const TAGS_MAX: usize = 100;

/// Types that have endpoints of their own.
const NOT_WRITABLE: &[&str] = &["m.fully_read", "m.push_rules"];

pub(crate) fn routes() -> Routes {
    const GLOBAL: &[&str] = &[
        "/_matrix/client/r0/user/{user_id}/account_data/{type}",
        "/_matrix/client/v3/user/{user_id}/account_data/{type}",
    ];
    const ROOM: &[&str] = &[
        "/_matrix/client/r0/user/{user_id}/rooms/{room_id}/account_data/{type}",
        "/_matrix/client/v3/user/{user_id}/rooms/{room_id}/account_data/{type}",
    ];
    const DELETE: &[&str] = &["/_matrix/client/unstable/org.matrix.msc3391/user/{user_id}/account_data/{type}"];
    const DELETE_ROOM: &[&str] =
        &["/_matrix/client/unstable/org.matrix.msc3391/user/{user_id}/rooms/{room_id}/account_data/{type}"];
    const TAGS: &[&str] = &[
        "/_matrix/client/r0/user/{user_id}/rooms/{room_id}/tags",
        "/_matrix/client/v3/user/{user_id}/rooms/{room_id}/tags",
    ];
    const TAG: &[&str] = &[
        "/_matrix/client/r0/user/{user_id}/rooms/{room_id}/tags/{tag}",
        "/_matrix/client/v3/user/{user_id}/rooms/{room_id}/tags/{tag}",
    ];
    Routes::new()
        .raw::<AccessToken, _, _, _>(Method::GET, GLOBAL, async |args| get(&args, None, argument(&args, 1)).await)
        .raw::<AccessToken, _, _, _>(Method::PUT, GLOBAL, put_global)
        .raw::<AccessToken, _, _, _>(Method::GET, ROOM, get_room)
        .raw::<AccessToken, _, _, _>(Method::PUT, ROOM, put_room)
        .raw::<AccessToken, _, _, _>(Method::DELETE, DELETE, async |args| delete(&args, None, argument(&args, 1)).await)
        .raw::<AccessToken, _, _, _>(Method::DELETE, DELETE_ROOM, delete_room)
        .raw::<AccessToken, _, _, _>(Method::GET, TAGS, tags)
        .raw::<AccessToken, _, _, _>(Method::PUT, TAG, put_tag)
        .raw::<AccessToken, _, _, _>(Method::DELETE, TAG, delete_tag)
}

fn argument(args: &RawArgs, index: usize) -> &str {
    args.path.get(index).map_or("", String::as_str)
}

/// The user in the path must be the one who asks.
fn owner(args: &RawArgs) -> Result<(), ApiError> {
    args.who.require_self(&args.path::<OwnedUserId>(0)?)
}

fn room_id(args: &RawArgs) -> Result<OwnedRoomId, ApiError> {
    let room = argument(args, 1);
    room.parse().map_err(|_| ApiError::invalid_param("There is no room id in the path"))
}

async fn get(args: &RawArgs, room: Option<&OwnedRoomId>, data_type: &str) -> Answer<Json<Box<RawValue>>> {
    owner(args)?;
    let content = args.hs.accounts.account_data(&args.who.user_id, room.map(|room| &**room), data_type).await?;
    content.map(Json).ok_or_else(|| ApiError::not_found("There is no such account data"))
}

async fn put(args: &RawArgs, room: Option<&OwnedRoomId>, data_type: &str) -> Answer<Json<Value>> {
    owner(args)?;
    let content: Box<RawValue> = args.json().await?;
    check_writable(data_type)?;
    args.hs.accounts.set_account_data(&args.who.user_id, room.map(|room| &**room), data_type, &content).await?;
    Ok(Json(json!({})))
}

/// `DELETE /user/{userId}/account_data/{type}` (MSC3391)
async fn delete(args: &RawArgs, room: Option<&OwnedRoomId>, data_type: &str) -> Answer<Json<Value>> {
    owner(args)?;
    check_writable(data_type)?;
    args.hs.accounts.delete_account_data(&args.who.user_id, room.map(|room| &**room), data_type).await?;
    Ok(Json(json!({})))
}

/// `DELETE /user/{userId}/rooms/{roomId}/account_data/{type}` (MSC3391)
async fn delete_room(args: RawArgs) -> Answer<Json<Value>> {
    let room = room_id(&args)?;
    delete(&args, Some(&room), argument(&args, 2)).await
}

fn check_writable(data_type: &str) -> Result<(), ApiError> {
    if NOT_WRITABLE.contains(&data_type) {
        return Err(ApiError::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "M_BAD_JSON",
            "This type is set by endpoints of its own",
        ));
    }
    Ok(())
}

/// `PUT /user/{userId}/account_data/{type}`
async fn put_global(args: RawArgs) -> Answer<Json<Value>> {
    let data_type = argument(&args, 1).to_owned();
    put(&args, None, &data_type).await
}

/// `GET /user/{userId}/rooms/{roomId}/account_data/{type}`
async fn get_room(args: RawArgs) -> Answer<Json<Box<RawValue>>> {
    let room = room_id(&args)?;
    get(&args, Some(&room), argument(&args, 2)).await
}

/// `PUT /user/{userId}/rooms/{roomId}/account_data/{type}`
async fn put_room(args: RawArgs) -> Answer<Json<Value>> {
    let room = room_id(&args)?;
    let data_type = argument(&args, 2).to_owned();
    put(&args, Some(&room), &data_type).await
}

/// `GET /user/{userId}/rooms/{roomId}/tags`
async fn tags(args: RawArgs) -> Answer<Json<Value>> {
    owner(&args)?;
    let room = room_id(&args)?;
    let content = args.hs.accounts.account_data(&args.who.user_id, Some(&room), "m.tag").await?;
    let content = content.and_then(|content| serde_json::from_str(content.get()).ok());
    Ok(Json(json!({ "tags": tag_map(content) })))
}

fn tag_map(content: Option<Value>) -> Map<String, Value> {
    match content.and_then(|mut content| content.get_mut("tags").map(Value::take)) {
        Some(Value::Object(tags)) => tags,
        _ => Map::new(),
    }
}

/// `PUT /user/{userId}/rooms/{roomId}/tags/{tag}`
async fn put_tag(args: RawArgs) -> Answer<Json<Value>> {
    owner(&args)?;
    let room = room_id(&args)?;
    let info: Map<String, Value> = args.json().await?;
    if info.get("order").is_some_and(|order| !order.is_number() && !order.is_null()) {
        return Err(ApiError::bad_json("order must be a number"));
    }
    let tag = argument(&args, 2).to_owned();
    if tag.is_empty() || tag.len() > TAG_BYTES_MAX {
        return Err(ApiError::invalid_param("A tag has 1 to 255 bytes"));
    }
    let full = args
        .hs
        .accounts
        .edit_account_data(&args.who.user_id, Some(&room), "m.tag", |content| {
            let mut tags = tag_map(content);
            if tags.len() >= TAGS_MAX && !tags.contains_key(&tag) {
                return Ok((None, true));
            }
            tags.insert(tag.clone(), Value::Object(info.clone()));
            Ok((Some(json!({ "tags": tags })), false))
        })
        .await?;
    if full { Err(ApiError::too_large("The room has too many tags")) } else { Ok(Json(json!({}))) }
}

/// `DELETE /user/{userId}/rooms/{roomId}/tags/{tag}`
async fn delete_tag(args: RawArgs) -> Answer<Json<Value>> {
    owner(&args)?;
    let room = room_id(&args)?;
    let tag = argument(&args, 2);
    args.hs
        .accounts
        .edit_account_data(&args.who.user_id, Some(&room), "m.tag", |content| {
            let mut tags = tag_map(content);
            let removed = tags.remove(tag).is_some();
            Ok((removed.then(|| json!({ "tags": tags })), ()))
        })
        .await?;
    Ok(Json(json!({})))
}
