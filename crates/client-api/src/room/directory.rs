//! The public list of rooms.

use http::Method;
use ruma::{
    OwnedServerName, RoomId,
    api::{
        auth_scheme::{AccessTokenOptional, AppserviceToken},
        client::{
            appservice::set_room_visibility::v3 as set_of_network,
            directory::{
                get_public_rooms::v3 as list, get_public_rooms_filtered::v3 as search, get_room_visibility::v3 as get,
                set_room_visibility::v3 as set,
            },
            room::Visibility,
        },
    },
    directory::{Filter, RoomNetwork},
};
use samtal_ops::Homeserver;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Answer, ApiError, Args, Json, RawArgs, Routes, UserPrincipal};

pub(super) fn routes() -> Routes {
    Routes::new()
        .raw::<AccessTokenOptional, _, _, _>(
            Method::GET,
            &["/_matrix/client/r0/publicRooms", "/_matrix/client/v3/publicRooms"],
            list_all,
        )
        .route(list_some)
        .route(visibility)
        .route(set_visibility)
        .raw::<AppserviceToken, _, _, _>(
            Method::DELETE,
            &["/_matrix/client/v3/directory/list/appservice/{network_id}/{room_id}"],
            hide_in_network,
        )
        .route(set_in_network)
}

/// Which part of which server's list is asked for.
#[derive(Deserialize)]
struct Page {
    limit: Option<ruma::UInt>,
    since: Option<String>,
    server: Option<OwnedServerName>,
}

/// `GET /publicRooms`
async fn list_all(args: RawArgs<AccessTokenOptional>) -> Answer<Json<Value>> {
    if args.who.is_none() && !args.hs.settings.directory.without_login {
        return Err(ApiError::missing_token("The list is shown to those who have logged in"));
    }
    let page: Page = args.query()?;
    rooms(&args.hs, page.server, &RoomNetwork::Matrix, &Filter::new(), page.limit, page.since.as_deref()).await
}

/// `POST /publicRooms`
async fn list_some(args: Args<search::Request>) -> Answer<Json<Value>> {
    let body = args.body;
    rooms(&args.hs, body.server, &body.room_network, &body.filter, body.limit, body.since.as_deref()).await
}

async fn rooms(
    hs: &Homeserver,
    server: Option<OwnedServerName>,
    network: &RoomNetwork,
    filter: &Filter,
    limit: Option<ruma::UInt>,
    since: Option<&str>,
) -> Result<Json<Value>, ApiError> {
    let limit = limit.filter(|limit| *limit > ruma::UInt::MIN);
    let page = match server {
        Some(server) if server != hs.name => hs.public_rooms_of(&server, filter, limit, since).await?,
        _ => hs.public_rooms_in(network, filter, limit, since).await?,
    };
    written(&page).map(Json)
}

/// A page with all join rules in it: ruma leaves `public` out, and clients look for it.
fn written(page: &list::Response) -> Result<Value, ApiError> {
    let mut chunk = serde_json::to_value(&page.chunk).map_err(ApiError::internal)?;
    for room in chunk.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        room.entry("join_rule").or_insert_with(|| "public".into());
    }
    let mut answer = json!({ "chunk": chunk });
    if let Some(next) = &page.next_batch {
        answer["next_batch"] = json!(next);
    }
    if let Some(prev) = &page.prev_batch {
        answer["prev_batch"] = json!(prev);
    }
    if let Some(total) = page.total_room_count_estimate {
        answer["total_room_count_estimate"] = json!(total);
    }
    Ok(answer)
}

/// `GET /directory/list/room/{roomId}`
async fn visibility(args: Args<get::Request>) -> Answer<get::Response> {
    let room_id = &args.body.room_id;
    if args.hs.rooms.store().graph.room(room_id).await?.is_none() {
        return Err(ApiError::not_found("Room not found"));
    }
    let visibility = if args.hs.rooms.is_published(room_id).await? { Visibility::Public } else { Visibility::Private };
    Ok(get::Response::new(visibility))
}

/// `PUT /directory/list/room/{roomId}`
async fn set_visibility(args: Args<set::Request>) -> Answer<set::Response> {
    let room_id = &args.body.room_id;
    check(&args.hs, &args.who, room_id).await?;
    let listed = super::public(&args.body.visibility)?;
    if listed && !args.hs.may_publish(&args.who.user_id).await? {
        return Err(ApiError::forbidden("You may not list rooms in the public directory"));
    }
    args.hs.rooms.set_published(room_id, listed).await?;
    Ok(set::Response::new())
}

/// Whoever may name a room may list it.
async fn check(hs: &Homeserver, who: &UserPrincipal, room_id: &RoomId) -> Result<(), ApiError> {
    if hs.rooms.store().graph.room(room_id).await?.is_none() {
        return Err(ApiError::not_found("Room not found"));
    }
    if who.is_admin || hs.may_set_canonical_alias(&who.user_id, room_id).await? {
        Ok(())
    } else {
        Err(ApiError::forbidden("Your power level in the room does not let you list it"))
    }
}

/// `PUT /directory/list/appservice/{networkId}/{roomId}`
async fn set_in_network(args: Args<set_of_network::Request>) -> Answer<set_of_network::Response> {
    let (body, listed) = (&args.body, super::public(&args.body.visibility)?);
    set_listed(&args.hs, &args.who.id, &body.network_id, &body.room_id, listed).await?;
    Ok(set_of_network::Response::new())
}

/// `DELETE /directory/list/appservice/{networkId}/{roomId}`
async fn hide_in_network(args: RawArgs<AppserviceToken>) -> Answer<Json<Value>> {
    let (network, room_id) = (args.path::<String>(0)?, args.path::<ruma::OwnedRoomId>(1)?);
    set_listed(&args.hs, &args.who.id, &network, &room_id, false).await?;
    Ok(Json(json!({})))
}

async fn set_listed(
    hs: &Homeserver,
    service: &str,
    network: &str,
    room_id: &RoomId,
    listed: bool,
) -> Result<(), ApiError> {
    if hs.rooms.store().graph.room(room_id).await?.is_none() {
        return Err(ApiError::not_found("Room not found"));
    }
    Ok(hs.appservices.list_room(service, network, room_id, listed).await?)
}
