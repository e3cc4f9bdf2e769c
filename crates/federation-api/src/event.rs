//! Single events, auth chains, and the state at an event.

use std::{sync::Arc, time::Duration};

use ruma::{
    EventId, OwnedEventId, RoomId,
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

/// So long is waited for all of a room's state.
const WHOLE_TIME: Duration = Duration::from_secs(20);

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

/// The room, if the asker is in it, or was when these events were sent: whoever was put out may learn how that came.
pub(crate) async fn room_of_witness(
    hs: &Homeserver,
    who: &ServerPrincipal,
    room_id: &RoomId,
    events: &[OwnedEventId],
) -> Result<Arc<Room>, ApiError> {
    let room = hs.room_for(&who.server, room_id, Action::Room).await?;
    if hs.rooms.has_server(&room, &who.server).await? || hs.rooms.had_server(&room, &who.server, events).await? {
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
    let room = room_of_witness(hs, &args.who, &room.room_id, std::slice::from_ref(&args.request.event_id)).await?;
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
    let asked = std::slice::from_ref(&args.request.event_id);
    let room = room_of_witness(&args.hs, &args.who, &args.request.room_id, asked).await?;
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
    event_id: &OwnedEventId,
) -> Result<(Vec<Pdu>, Vec<Pdu>), ApiError> {
    let room = room_of_witness(hs, who, room_id, std::slice::from_ref(event_id)).await?;
    // Of a room that we have just come into the state may still be on its way.
    if tokio::time::timeout(WHOLE_TIME, hs.rooms.until_whole(room_id)).await.is_err() {
        hs.check_whole(room_id)?;
    }
    let event = event_of(hs, &room, event_id).await?;
    if event.flags.has(Flags::REJECTED) {
        return Err(ApiError::not_found("The event is not part of the room"));
    }
    let (state, chain) = hs.rooms.state_before(&event).await?;
    let pdus = |events: Vec<Arc<StoredEvent>>| events.iter().map(|event| event.pdu.clone()).collect();
    Ok((pdus(state), pdus(chain)))
}
