//! Sending messages.

use http::{Method, StatusCode};
use ruma::{
    OwnedRoomId,
    api::{auth_scheme::AccessToken, client::message::send_message_event::v3},
    events::TimelineEventType,
};
use samtal_event::Draft;
use samtal_ops::Homeserver;
use samtal_room::{LocalDraft, Relation, Room, Txn};
use serde_json::{json, value::RawValue};

use super::{delayed, sticky};
use crate::{Answer, ApiError, Args, Json, RawArgs, Reply, Routes, UserPrincipal};

pub(super) fn routes() -> Routes {
    Routes::new().route(send).raw::<AccessToken, _, _, _>(
        Method::POST,
        &[
            "/_matrix/client/r0/rooms/{room_id}/send/{event_type}",
            "/_matrix/client/v3/rooms/{room_id}/send/{event_type}",
        ],
        send_once,
    )
}

/// `POST /rooms/{roomId}/send/{eventType}`: as scripts and older bridges send, without a transaction id. Not in the specification.
async fn send_once(args: RawArgs) -> Answer<impl Reply> {
    super::limit(&args.hs, &args.who, "messages", |rates| rates.messages)?;
    let (room_id, event_type): (OwnedRoomId, String) = (args.path(0)?, args.path(1)?);
    let content: Box<RawValue> = args.json().await?;
    let (hs, who) = (&args.hs, &args.who);
    let room = hs.rooms.room(&room_id).await?;
    let draft = if event_type == "m.room.redaction" {
        super::redact::draft_from(hs, who, &room, &content).await?
    } else {
        Draft::message(TimelineEventType::from(event_type), &content).map_err(samtal_ops::OpError::from)?
    };
    refuse_second_annotation(hs, who, &room, &draft).await?;
    let draft = LocalDraft::new(who.user_id.clone(), draft);
    Ok(Json(json!({ "event_id": hs.rooms.send_one(&room_id, draft).await? })))
}

/// `PUT /rooms/{roomId}/send/{eventType}/{txnId}`
async fn send(args: Args<v3::Request>) -> Answer<impl Reply> {
    super::limit(&args.hs, &args.who, "messages", |rates| rates.messages)?;
    let (hs, who, body) = (&args.hs, &args.who, args.body);
    if let Some(delay_ms) = delayed::delay_of(args.query.as_deref())? {
        let wish = delayed::Wish {
            room_id: body.room_id,
            event_type: body.event_type.to_string(),
            state_key: None,
            content: body.body.json(),
            delay_ms,
            sticky_ms: sticky::duration_of(args.query.as_deref())?,
            txn_id: Some(body.txn_id.as_str()),
        };
        return Ok(Json(json!({ "delay_id": delayed::put(hs, who, wish).await? })));
    }
    let room = hs.rooms.room(&body.room_id).await?;
    let event_type = TimelineEventType::from(body.event_type);
    let draft = if event_type == TimelineEventType::RoomRedaction {
        super::redact::draft_from(hs, who, &room, body.body.json()).await?
    } else {
        Draft::message(event_type.clone(), body.body.json()).map_err(samtal_ops::OpError::from)?
    };
    let draft = sticky::with_duration(draft, args.query.as_deref())?;
    let mut draft = LocalDraft::new(who.user_id.clone(), draft);
    draft.ts_ms = body.timestamp.filter(|_| who.service.is_some()).map(|ts| ts.get().into());
    let what = format!("send {event_type}");
    let txn = Txn::name(&who.user_id, super::device(who), &room, &what, body.txn_id.as_str());
    if let Err(refused) = refuse_second_annotation(&args.hs, who, &room, &draft.draft).await
        && hs.rooms.store().graph.event_of_txn(&txn).await?.is_none()
    {
        return Err(refused);
    }
    draft.txn = Some(txn);
    Ok(Json(json!({ "event_id": hs.rooms.send_one(&body.room_id, draft).await? })))
}

/// Nobody annotates an event twice with the same key (CS API, "Avoiding duplicate annotations").
async fn refuse_second_annotation(
    hs: &Homeserver,
    who: &UserPrincipal,
    room: &Room,
    draft: &Draft,
) -> Result<(), ApiError> {
    let Some(relation) = Relation::of_content(draft.content()) else { return Ok(()) };
    let Some(key) = relation.key.filter(|_| relation.rel_type == "m.annotation") else { return Ok(()) };
    if hs.rooms.has_annotated(room, &who.user_id, &relation.event_id, &key).await? {
        let text = "You have annotated this event with this key already";
        return Err(ApiError::new(StatusCode::BAD_REQUEST, "M_DUPLICATE_ANNOTATION", text));
    }
    Ok(())
}
