//! Other servers: which there are and which do not answer.

use std::collections::BTreeMap;

use http::Method;
use ruma::OwnedServerName;
use samtal_client_api::{Answer, ApiError, Json, RawArgs};
use samtal_ops::Homeserver;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::admin::{Admin, Page};

pub(crate) fn routes() -> Admin {
    Admin::default()
        .on(Method::GET, &["/_synapse/admin/v1/federation/destinations"], list)
        .on(Method::GET, &["/_synapse/admin/v1/federation/destinations/{destination}"], one)
        .on(Method::GET, &["/_synapse/admin/v1/federation/destinations/{destination}/rooms"], rooms)
        .on(Method::POST, &["/_synapse/admin/v1/federation/destinations/{destination}/reset_connection"], reset)
}

#[derive(Deserialize)]
struct Filter {
    destination: Option<String>,
}

/// All servers that share a room with us, wait for something, or do not answer.
async fn destinations(hs: &Homeserver) -> Result<BTreeMap<OwnedServerName, Value>, ApiError> {
    let mut servers: BTreeMap<OwnedServerName, Value> = BTreeMap::new();
    for room in hs.rooms.room_list().await?.iter().filter(|room| room.joined > room.joined_local) {
        let room = hs.rooms.room(&room.room_id).await?;
        for server in hs.rooms.store().graph.servers(room.nid).await? {
            if server != hs.name && !servers.contains_key(&server) {
                servers.insert(server, Value::Null);
            }
        }
    }
    let failing = hs.remote.destinations().all_failing();
    for server in failing.keys().cloned().chain(hs.sender.waiting().into_keys()) {
        servers.entry(server).or_default();
    }
    for (server, written) in &mut servers {
        let failing = failing.get(server);
        *written = json!({
            "destination": server,
            "retry_last_ts": failing.map_or(0, |failing| failing.retry_at_ms.saturating_sub(failing.interval_ms)),
            "retry_interval": failing.map_or(0, |failing| failing.interval_ms),
            "failure_ts": failing.map(|failing| failing.since_ms),
            "last_successful_stream_ordering": hs.sender.position(),
        });
    }
    Ok(servers)
}

/// `GET /_synapse/admin/v1/federation/destinations`
async fn list(args: RawArgs) -> Answer<Json<Value>> {
    let (filter, page): (Filter, Page) = (args.query()?, args.query()?);
    let mut found = destinations(&args.hs).await?;
    if let Some(part) = &filter.destination {
        found.retain(|server, _| server.as_str().contains(part.as_str()));
    }
    let mut found: Vec<Value> = found.into_values().collect();
    if let Some(field @ ("retry_last_ts" | "retry_interval" | "failure_ts")) = page.order_by.as_deref() {
        found.sort_by_key(|server| server[field].as_u64());
    }
    if page.is_descending()? {
        found.reverse();
    }
    Ok(page.answer("destinations", found, Value::clone))
}

/// `GET /_synapse/admin/v1/federation/destinations/{destination}`
async fn one(args: RawArgs) -> Answer<Json<Value>> {
    let server: OwnedServerName = args.path(0)?;
    let found = destinations(&args.hs).await?.remove(&server);
    found.map(Json).ok_or_else(|| ApiError::not_found("Unknown destination"))
}

/// `GET /_synapse/admin/v1/federation/destinations/{destination}/rooms`
async fn rooms(args: RawArgs) -> Answer<Json<Value>> {
    let (server, page): (OwnedServerName, Page) = (args.path(0)?, args.query()?);
    let rooms = args.hs.rooms.store().graph.rooms_of_server(&server).await?;
    let position = args.hs.sender.position();
    Ok(page.answer("rooms", rooms, |room| json!({ "room_id": room, "stream_ordering": position })))
}

/// `POST /_synapse/admin/v1/federation/destinations/{destination}/reset_connection`: the server is tried at once.
async fn reset(args: RawArgs) -> Answer<Json<Value>> {
    let server: OwnedServerName = args.path(0)?;
    let destinations = args.hs.remote.destinations();
    if destinations.failing(&server).is_none() {
        return Err(ApiError::bad_request("The server is not left alone"));
    }
    destinations.is_there(&server).await?;
    Ok(Json(json!({})))
}
