//! A room's state.

use http::Method;
use ruma::{
    OwnedEventId, OwnedRoomId, RoomId, UserId,
    api::{
        auth_scheme::AccessToken,
        client::state::{
            get_state_event_for_key::v3::{self as get_one, StateEventFormat},
            send_state_event::v3 as put,
        },
    },
    events::StateEventType,
};
use samtal_event::Draft;
use samtal_ops::{Content, Homeserver, OpError};
use samtal_room::{LocalDraft, Room};
use serde_json::{Value, json, value::RawValue};

use super::{delayed, sticky};
use crate::{Answer, ApiError, Args, Json, RawArgs, Reply, Routes};

const KEYLESS: [&str; 4] = [
    "/_matrix/client/r0/rooms/{room_id}/state/{event_type}",
    "/_matrix/client/r0/rooms/{room_id}/state/{event_type}/",
    "/_matrix/client/v3/rooms/{room_id}/state/{event_type}",
    "/_matrix/client/v3/rooms/{room_id}/state/{event_type}/",
];

pub(super) fn routes() -> Routes {
    Routes::new()
        .raw::<AccessToken, _, _, _>(
            Method::GET,
            &["/_matrix/client/r0/rooms/{room_id}/state", "/_matrix/client/v3/rooms/{room_id}/state"],
            all,
        )
        .route(one)
        .route_at(&KEYLESS, one)
        .route(set)
        .route_at(&KEYLESS, set)
}

/// `GET /rooms/{roomId}/state`
async fn all(args: RawArgs) -> Answer<Json<Vec<Box<RawValue>>>> {
    let (hs, user) = (&args.hs, &args.who.user_id);
    let room = hs.rooms.room(&args.path::<OwnedRoomId>(0)?).await?;
    // Who may not read it need not wait for it.
    hs.rooms.readable_snapshot(user, &room).await?;
    hs.rooms.until_whole(&room.room_id).await?;
    let (snapshot, _) = hs.rooms.readable_snapshot(user, &room).await?;
    let events = hs.rooms.store().state(snapshot).await?;
    let mut viewer = hs.rooms.viewer(user, &room).await?;
    let form = super::state_form(&args.who, events.len());
    Ok(Json(hs.rooms.client_events(&mut viewer, &events, form).await?))
}

/// `GET /rooms/{roomId}/state/{eventType}/{stateKey}`
async fn one(args: Args<get_one::Request>) -> Answer<get_one::Response> {
    let (hs, user, body) = (&args.hs, &args.who.user_id, args.body);
    let room = hs.rooms.room(&body.room_id).await?;
    let (snapshot, _) = hs.rooms.readable_snapshot(user, &room).await?;
    let event_type = body.event_type.to_string();
    let mut event = hs.rooms.store().state_event(snapshot, &event_type, &body.state_key).await?;
    if event.is_none() && event_type == "m.room.member" && hs.rooms.store().partial.is_partial(&room.room_id) {
        hs.rooms.until_whole(&room.room_id).await?;
        let (snapshot, _) = hs.rooms.readable_snapshot(user, &room).await?;
        event = hs.rooms.store().state_event(snapshot, &event_type, &body.state_key).await?;
    }
    let event = event.ok_or_else(|| ApiError::not_found("The room has no such state"))?;
    let json = match body.format {
        StateEventFormat::Event => hs.rooms.client_event(&event, user, super::form(&args.who)).await?,
        _ => event.pdu.content().to_owned(),
    };
    Ok(get_one::Response::new(json))
}

/// `PUT /rooms/{roomId}/state/{eventType}/{stateKey}`
async fn set(args: Args<put::Request>) -> Answer<impl Reply> {
    super::limit(&args.hs, &args.who, "messages", |rates| rates.messages)?;
    let (hs, who, body) = (&args.hs, &args.who, args.body);
    if let Some(delay_ms) = delayed::delay_of(args.query.as_deref())? {
        let wish = delayed::Wish {
            room_id: body.room_id,
            event_type: body.event_type.to_string(),
            state_key: Some(body.state_key),
            content: body.body.json(),
            delay_ms,
            sticky_ms: sticky::duration_of(args.query.as_deref())?,
            txn_id: None,
        };
        return Ok(Json(json!({ "delay_id": delayed::put(hs, who, wish).await? })));
    }
    let room = hs.rooms.room(&body.room_id).await?;
    let content = body.body.json();
    check(hs, &room, &body.event_type, content).await?;
    if body.event_type == StateEventType::RoomMember {
        let event_id = set_member(hs, &who.user_id, &body.room_id, &body.state_key, content).await?;
        return Ok(Json(json!({ "event_id": event_id })));
    }
    let draft = Draft::state(&body.event_type, body.state_key, content).map_err(OpError::from)?;
    let draft = sticky::with_duration(draft, args.query.as_deref())?;
    let mut draft = LocalDraft::new(who.user_id.clone(), draft);
    draft.ts_ms = body.timestamp.filter(|_| who.service.is_some()).map(|ts| ts.get().into());
    let event_id = hs.rooms.send_one(&body.room_id, draft).await?;
    if body.event_type == StateEventType::RoomGuestAccess {
        hs.remove_guests(&body.room_id).await?;
    }
    Ok(Json(json!({ "event_id": event_id })))
}

async fn set_member(
    hs: &Homeserver,
    sender: &UserId,
    room_id: &RoomId,
    state_key: &str,
    content: &RawValue,
) -> Result<OwnedEventId, ApiError> {
    let target = UserId::parse(state_key).map_err(|_| ApiError::invalid_param("The state key is not a user id"))?;
    Ok(hs.set_member(sender, &target, room_id, object(content)?).await?)
}

/// What clients may not set, though the authorization rules would let it pass.
pub(super) async fn check(
    hs: &Homeserver,
    room: &Room,
    event_type: &StateEventType,
    content: &RawValue,
) -> Result<(), ApiError> {
    match event_type {
        StateEventType::RoomCreate => Err(ApiError::bad_request("A room has one create event")),
        StateEventType::RoomCanonicalAlias => Ok(hs.check_canonical_alias(&room.room_id, &object(content)?).await?),
        StateEventType::RoomPowerLevels => {
            let content = object(content)?;
            check_levels(&content)?;
            check_creators(hs, room, &content).await
        }
        StateEventType::RoomServerAcl => check_acl(hs, &object(content)?),
        _ => Ok(()),
    }
}

/// Levels are integers, whatever old room versions let others send.
fn check_levels(content: &Content) -> Result<(), ApiError> {
    const LEVELS: [&str; 7] = ["ban", "events_default", "invite", "kick", "redact", "state_default", "users_default"];
    let wrong = || ApiError::bad_json("Power levels are integers");
    for (name, value) in content {
        if LEVELS.contains(&name.as_str()) && !value.is_i64() {
            return Err(wrong());
        }
        if matches!(name.as_str(), "users" | "events" | "notifications") {
            let levels = value.as_object().ok_or_else(wrong)?;
            if !levels.values().all(Value::is_i64) {
                return Err(wrong());
            }
        }
    }
    Ok(())
}

/// From room version 12 on creators stand above all levels, and may not be given one.
async fn check_creators(hs: &Homeserver, room: &Room, content: &Content) -> Result<(), ApiError> {
    let Some(users) = content.get("users").and_then(Value::as_object) else { return Ok(()) };
    if !room.rules.authorization.explicitly_privilege_room_creators {
        return Ok(());
    }
    let Some(create) = hs.rooms.current_state(&room.room_id, "m.room.create", "").await? else { return Ok(()) };
    let more: Vec<String> = create.pdu.content_field("additional_creators").unwrap_or_default();
    if users.contains_key(create.pdu.sender().as_str()) || more.iter().any(|creator| users.contains_key(creator)) {
        return Err(ApiError::bad_request("The creators of a room have no power level"));
    }
    Ok(())
}

/// A list that keeps this server out would take the room from the one who sends it.
fn check_acl(hs: &Homeserver, content: &Content) -> Result<(), ApiError> {
    let acl = samtal_policy::Acl::from_content(&Value::Object(content.clone()));
    if acl.permits_with_port(&hs.name) {
        Ok(())
    } else {
        Err(ApiError::bad_request("The list would keep this server out of the room"))
    }
}

fn object(content: &RawValue) -> Result<Content, ApiError> {
    serde_json::from_str(content.get()).map_err(|error| ApiError::bad_json(error.to_string()))
}
