//! Key backup.

use std::collections::BTreeMap;

use http::Method;
use ruma::api::auth_scheme::AccessToken;
use samtal_e2ee::backup::{Session, Sessions, Stored, Version, Which};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use crate::{Answer, ApiError, Json, RawArgs, Routes};

const VERSION: &[&str] = &[
    "/_matrix/client/v3/room_keys/version",
    "/_matrix/client/r0/room_keys/version",
    "/_matrix/client/unstable/room_keys/version",
];
const VERSION_ONE: &[&str] = &[
    "/_matrix/client/v3/room_keys/version/{version}",
    "/_matrix/client/r0/room_keys/version/{version}",
    "/_matrix/client/unstable/room_keys/version/{version}",
];
/// All keys, those of a room, one: the same handlers take all three.
const KEYS: &[&str] = &[
    "/_matrix/client/v3/room_keys/keys",
    "/_matrix/client/r0/room_keys/keys",
    "/_matrix/client/unstable/room_keys/keys",
    "/_matrix/client/v3/room_keys/keys/{room_id}",
    "/_matrix/client/r0/room_keys/keys/{room_id}",
    "/_matrix/client/unstable/room_keys/keys/{room_id}",
    "/_matrix/client/v3/room_keys/keys/{room_id}/{session_id}",
    "/_matrix/client/r0/room_keys/keys/{room_id}/{session_id}",
    "/_matrix/client/unstable/room_keys/keys/{room_id}/{session_id}",
];

pub(crate) fn routes() -> Routes {
    Routes::new()
        .raw::<AccessToken, _, _, _>(Method::POST, VERSION, version_create)
        .raw::<AccessToken, _, _, _>(Method::GET, VERSION, version)
        .raw::<AccessToken, _, _, _>(Method::GET, VERSION_ONE, version)
        .raw::<AccessToken, _, _, _>(Method::PUT, VERSION_ONE, version_update)
        .raw::<AccessToken, _, _, _>(Method::DELETE, VERSION_ONE, version_delete)
        .raw::<AccessToken, _, _, _>(Method::PUT, KEYS, keys_put)
        .raw::<AccessToken, _, _, _>(Method::GET, KEYS, keys_get)
        .raw::<AccessToken, _, _, _>(Method::DELETE, KEYS, keys_delete)
}

#[derive(Deserialize)]
struct VersionBody {
    algorithm: String,
    auth_data: Box<RawValue>,
    version: Option<String>,
}

/// `POST /room_keys/version`
async fn version_create(args: RawArgs) -> Answer<Json<Value>> {
    let body: VersionBody = args.json().await?;
    let version = args.hs.e2ee.backup_create(&args.who.user_id, &body.algorithm, &body.auth_data).await?;
    Ok(Json(json!({ "version": version.to_string() })))
}

/// `GET /room_keys/version`, `GET /room_keys/version/{version}`
async fn version(args: RawArgs) -> Answer<Json<Value>> {
    let named = args.path.first().map(|version| number(version)).transpose()?;
    let version = args.hs.e2ee.backup_version(&args.who.user_id, named).await?.ok_or_else(no_version)?;
    let Version { version, algorithm, auth_data, etag, count } = version;
    Ok(Json(json!({
        "version": version.to_string(),
        "algorithm": algorithm,
        "auth_data": auth_data,
        "etag": etag.to_string(),
        "count": count,
    })))
}

/// `PUT /room_keys/version/{version}`
async fn version_update(args: RawArgs) -> Answer<Json<Value>> {
    let body: VersionBody = args.json().await?;
    let named = args.path.first().map_or("", String::as_str);
    if body.version.as_deref().is_some_and(|version| version != named) {
        return Err(ApiError::invalid_param("The version in the body is not the one in the path"));
    }
    let version = number(named)?;
    args.hs.e2ee.backup_update(&args.who.user_id, version, &body.algorithm, &body.auth_data).await?;
    Ok(Json(json!({})))
}

/// `DELETE /room_keys/version/{version}`
async fn version_delete(args: RawArgs) -> Answer<Json<Value>> {
    let version = number(args.path.first().map_or("", String::as_str))?;
    args.hs.e2ee.backup_delete(&args.who.user_id, version).await?;
    Ok(Json(json!({})))
}

#[derive(Deserialize)]
struct Query {
    version: String,
}

#[derive(Deserialize)]
struct KeyBody {
    first_message_index: u32,
    forwarded_count: u32,
    is_verified: bool,
    session_data: Box<RawValue>,
}

#[derive(Deserialize)]
struct RoomBody {
    sessions: BTreeMap<String, KeyBody>,
}

#[derive(Deserialize)]
struct AllBody {
    rooms: BTreeMap<String, RoomBody>,
}

impl From<KeyBody> for Session {
    fn from(body: KeyBody) -> Self {
        Self {
            first_message_index: body.first_message_index.into(),
            forwarded_count: body.forwarded_count.into(),
            is_verified: body.is_verified,
            session_data: body.session_data,
        }
    }
}

fn room(body: RoomBody) -> BTreeMap<String, Session> {
    body.sessions.into_iter().map(|(id, key)| (id, key.into())).collect()
}

/// `PUT /room_keys/keys`, with a room and a session or without
async fn keys_put(args: RawArgs) -> Answer<Json<Value>> {
    let version = number(&args.query::<Query>()?.version)?;
    let keys: Sessions = match which(&args.path) {
        Which::All => {
            let body: AllBody = args.json().await?;
            body.rooms.into_iter().map(|(id, body)| (id, room(body))).collect()
        }
        Which::Room(id) => Sessions::from([(id.to_owned(), room(args.json().await?))]),
        Which::Session(id, session) => {
            let key: KeyBody = args.json().await?;
            Sessions::from([(id.to_owned(), BTreeMap::from([(session.to_owned(), key.into())]))])
        }
    };
    Ok(stored(args.hs.e2ee.backup_put(&args.who.user_id, version, &keys).await?))
}

/// `GET /room_keys/keys`, with a room and a session or without
async fn keys_get(args: RawArgs) -> Answer<Json<Value>> {
    let version = number(&args.query::<Query>()?.version)?;
    let which = which(&args.path);
    let mut keys = args.hs.e2ee.backup_get(&args.who.user_id, version, which).await?;
    Ok(Json(match which {
        Which::All => {
            let rooms: BTreeMap<String, Value> = keys.into_iter().map(|(id, keys)| (id, sessions(keys))).collect();
            json!({ "rooms": rooms })
        }
        Which::Room(id) => sessions(keys.remove(id).unwrap_or_default()),
        Which::Session(id, session) => {
            let key = keys.remove(id).and_then(|mut keys| keys.remove(session));
            key.map(shown).ok_or_else(|| ApiError::not_found("There is no such key in the backup"))?
        }
    }))
}

/// `DELETE /room_keys/keys`, with a room and a session or without
async fn keys_delete(args: RawArgs) -> Answer<Json<Value>> {
    let version = number(&args.query::<Query>()?.version)?;
    Ok(stored(args.hs.e2ee.backup_remove(&args.who.user_id, version, which(&args.path)).await?))
}

fn which(path: &[String]) -> Which<'_> {
    match path {
        [room, session, ..] => Which::Session(room, session),
        [room] => Which::Room(room),
        [] => Which::All,
    }
}

fn sessions(keys: BTreeMap<String, Session>) -> Value {
    let sessions: BTreeMap<String, Value> = keys.into_iter().map(|(id, key)| (id, shown(key))).collect();
    json!({ "sessions": sessions })
}

fn shown(key: Session) -> Value {
    json!({
        "first_message_index": key.first_message_index,
        "forwarded_count": key.forwarded_count,
        "is_verified": key.is_verified,
        "session_data": key.session_data,
    })
}

fn stored(stored: Stored) -> Json<Value> {
    Json(json!({ "etag": stored.etag.to_string(), "count": stored.count }))
}

/// Versions are numbers; what is none is no version that there is.
fn number(version: &str) -> Result<i64, ApiError> {
    version.parse().map_err(|_| no_version())
}

fn no_version() -> ApiError {
    ApiError::not_found("There is no such backup version")
}
