//! Redacting events.

use http::Method;
use ruma::{
    EventId, OwnedEventId, OwnedRoomId,
    api::{auth_scheme::AccessToken, client::redact::redact_event::v3},
    events::TimelineEventType,
};
use samtal_event::Draft;
use samtal_ops::{Content, Homeserver, OpError};
use samtal_room::{LocalDraft, Room, Txn};
use serde_json::{Value, json, value::RawValue};

use crate::{Answer, ApiError, Args, Json, RawArgs, Routes, UserPrincipal};

pub(super) fn routes() -> Routes {
    Routes::new().route(redact).raw::<AccessToken, _, _, _>(
        Method::POST,
        &[
            "/_matrix/client/r0/rooms/{room_id}/redact/{event_id}",
            "/_matrix/client/v3/rooms/{room_id}/redact/{event_id}",
        ],
        redact_once,
    )
}

/// `POST /rooms/{roomId}/redact/{eventId}`: as scripts and older bridges do, without a transaction id. Not in the specification.
async fn redact_once(args: RawArgs) -> Answer<Json<Value>> {
    super::limit(&args.hs, &args.who, "messages", |rates| rates.messages)?;
    let (room_id, target): (OwnedRoomId, OwnedEventId) = (args.path(0)?, args.path(1)?);
    let content: Content = args.json().await?;
    let (hs, who) = (&args.hs, &args.who);
    let room = hs.rooms.room(&room_id).await?;
    let reason = content.into_iter().filter(|(name, _)| name == "reason").collect();
    let draft = draft(hs, who, &room, &target, &reason).await?;
    let draft = LocalDraft::new(who.user_id.clone(), draft);
    Ok(Json(json!({ "event_id": hs.rooms.send_one(&room_id, draft).await? })))
}

/// `PUT /rooms/{roomId}/redact/{eventId}/{txnId}`
async fn redact(args: Args<v3::Request>) -> Answer<v3::Response> {
    super::limit(&args.hs, &args.who, "messages", |rates| rates.messages)?;
    let (hs, who, body) = (&args.hs, &args.who, args.body);
    let room = hs.rooms.room(&body.room_id).await?;
    let what = format!("redact {}", body.event_id);
    let txn = Txn::name(&who.user_id, super::device(who), &room, &what, body.txn_id.as_str());
    let content: Content = body.reason.into_iter().map(|reason| ("reason".to_owned(), reason.into())).collect();
    let draft = draft(hs, who, &room, &body.event_id, &content).await?;
    let mut draft = LocalDraft::new(who.user_id.clone(), draft);
    draft.txn = Some(txn);
    Ok(v3::Response::new(hs.rooms.send_one(&body.room_id, draft).await?))
}

/// The draft of a redaction whose content names its target, as `/send` has it in every room version.
pub(super) async fn draft_from(
    hs: &Homeserver,
    who: &UserPrincipal,
    room: &Room,
    content: &RawValue,
) -> Result<Draft, ApiError> {
    let mut content: Content =
        serde_json::from_str(content.get()).map_err(|error| ApiError::bad_json(error.to_string()))?;
    let target = match content.remove("redacts") {
        Some(Value::String(id)) => {
            OwnedEventId::try_from(id).map_err(|_| ApiError::bad_json("redacts is no event id"))?
        }
        Some(_) => return Err(ApiError::bad_json("redacts is not a string")),
        None => return Err(ApiError::missing_param("redacts is missing")),
    };
    draft(hs, who, room, &target, &content).await
}

async fn draft(
    hs: &Homeserver,
    who: &UserPrincipal,
    room: &Room,
    target: &EventId,
    content: &Content,
) -> Result<Draft, ApiError> {
    if !hs.rooms.store().graph.is_joined(&who.user_id, &room.room_id).await? {
        return Err(ApiError::forbidden("You are not in the room"));
    }
    let event = hs.rooms.store().graph.event(target).await?;
    match &event {
        Some(event) if event.room != room.nid => return Err(ApiError::bad_request("The event is in another room")),
        Some(event) if event.pdu.sender() == who.user_id => {}
        // From room version 3 on the authorization rules do not ask this.
        _ => {
            if !hs.power_levels(room).await?.can_redact_others(&who.user_id) {
                return Err(ApiError::forbidden("Your power level does not let you redact the events of others"));
            }
        }
    }
    let draft = Draft::message_of(TimelineEventType::RoomRedaction, content).map_err(OpError::from)?;
    Ok(draft.redacting(target))
}
