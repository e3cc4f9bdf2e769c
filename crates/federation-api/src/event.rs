//! Single events, auth chains, and the state at an event.

use std::sync::Arc;

use ruma::{
    EventId, RoomId,
    api::federation::{
        authorization::get_event_authorization::v1 as event_auth,
        event::{get_event::v1 as get_event, get_room_state::v1 as state, get_room_state_ids::v1 as state_ids},
    },
};
use samtal_event::Pdu;
use samtal_ops::Homeserver;
use samtal_policy::Action;
use samtal_room::{Flags, Room, StoredEvent};
use serde_json::json;

use crate::{
    ApiError, ServerPrincipal,
    args::Args,
    membership::write_list,
    routes::{Answer, JsonText, Routes},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes
        .route::<get_event::Request, _, _, _>(event)
        .route::<event_auth::Request, _, _, _>(auth_chain)
        .route::<state::Request, _, _, _>(room_state)
        .route::<state_ids::Request, _, _, _>(room_state_ids)
}

/// The room, if the asker is in it.
pub(crate) async fn room_of_member(
    hs: &Homeserver,
    who: &ServerPrincipal,
    room_id: &RoomId,
) -> Result<Arc<Room>, ApiError> {
    let room = hs.room_for(&who.server, room_id, Action::Room).await?;
    if hs.rooms.has_server(&room, &who.server).await? {
        Ok(room)
    } else {
        Err(ApiError::forbidden("Your server is not in the room"))
    }
}

async fn event_of(hs: &Homeserver, room: &Room, event_id: &EventId) -> Result<Arc<StoredEvent>, ApiError> {
    let event = hs.rooms.event(event_id).await?;
    if event.room == room.nid { Ok(event) } else { Err(ApiError::not_found("The event is not of this room")) }
}

/// `GET /_matrix/federation/v1/event/{eventId}`
async fn event(args: Args<get_event::Request>) -> Answer<JsonText> {
    let hs = &args.hs;
    let event = hs.rooms.event(&args.request.event_id).await?;
    let room = hs.rooms.store().graph.room_by_nid(event.room).await?;
    let room = room_of_member(hs, &args.who, &room.room_id).await?;
    if event.flags.has(Flags::REJECTED) {
        return Err(ApiError::not_found("The event is not known here"));
    }
    let served = hs.rooms.for_server(&room, &args.who.server, vec![event]).await?;
    let mut pdus = String::new();
    write_list(&mut pdus, &served);
    let origin = json!(hs.name);
    Ok(JsonText(format!(r#"{{"origin":{origin},"origin_server_ts":{},"pdus":{pdus}}}"#, hs.clock.now_ms())))
}

/// `GET /_matrix/federation/v1/event_auth/{roomId}/{eventId}`
async fn auth_chain(args: Args<event_auth::Request>) -> Answer<JsonText> {
    let room = room_of_member(&args.hs, &args.who, &args.request.room_id).await?;
    let event = event_of(&args.hs, &room, &args.request.event_id).await?;
    let chain = args.hs.rooms.auth_chain(&[event.pdu.event_id().to_owned()]).await?;
    let mut body = String::from(r#"{"auth_chain":"#);
    write_list(&mut body, chain.iter().map(|event| &event.pdu));
    body.push('}');
    Ok(JsonText(body))
}

/// `GET /_matrix/federation/v1/state/{roomId}`
async fn room_state(args: Args<state::Request>) -> Answer<JsonText> {
    let (state, chain) = state_at(&args.hs, &args.who, &args.request.room_id, &args.request.event_id).await?;
    let mut body = String::from(r#"{"pdus":"#);
    write_list(&mut body, &state);
    body.push_str(r#","auth_chain":"#);
    write_list(&mut body, &chain);
    body.push('}');
    Ok(JsonText(body))
}

/// `GET /_matrix/federation/v1/state_ids/{roomId}`
async fn room_state_ids(args: Args<state_ids::Request>) -> Answer<state_ids::Response> {
    let (state, chain) = state_at(&args.hs, &args.who, &args.request.room_id, &args.request.event_id).await?;
    let ids = |events: &[Pdu]| events.iter().map(|pdu| pdu.event_id().to_owned()).collect();
    Ok(state_ids::Response::new(ids(&chain), ids(&state)))
}

async fn state_at(
    hs: &Homeserver,
    who: &ServerPrincipal,
    room_id: &RoomId,
    event_id: &EventId,
) -> Result<(Vec<Pdu>, Vec<Pdu>), ApiError> {
    let room = room_of_member(hs, who, room_id).await?;
    hs.check_whole(room_id)?;
    let event = event_of(hs, &room, event_id).await?;
    if event.flags.has(Flags::REJECTED) {
        return Err(ApiError::not_found("The event is not part of the room"));
    }
    let (state, chain) = hs.rooms.state_before(&event).await?;
    let pdus = |events: Vec<Arc<StoredEvent>>| events.iter().map(|event| event.pdu.clone()).collect();
    Ok((pdus(state), pdus(chain)))
}
