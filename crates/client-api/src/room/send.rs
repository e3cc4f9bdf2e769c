//! Sending messages.

use ruma::{api::client::message::send_message_event::v3, events::TimelineEventType};
use samtal_event::Draft;
use samtal_room::{LocalDraft, Txn};

use crate::{Answer, Args, Routes};

pub(super) fn routes() -> Routes {
    Routes::new().route(send)
}

/// `PUT /rooms/{roomId}/send/{eventType}/{txnId}`
async fn send(args: Args<v3::Request>) -> Answer<v3::Response> {
    super::limit(&args.hs, &args.who, "messages", |rates| rates.messages)?;
    let (hs, who, body) = (&args.hs, &args.who, args.body);
    let room = hs.rooms.room(&body.room_id).await?;
    let event_type = TimelineEventType::from(body.event_type);
    let draft = if event_type == TimelineEventType::RoomRedaction {
        super::redact::draft_from(hs, who, &room, body.body.json()).await?
    } else {
        Draft::message(event_type.clone(), body.body.json()).map_err(samtal_ops::OpError::from)?
    };
    let mut draft = LocalDraft::new(who.user_id.clone(), draft);
    draft.ts_ms = body.timestamp.filter(|_| who.service.is_some()).map(|ts| ts.get().into());
    let what = format!("send {event_type}");
    draft.txn = Some(Txn::name(&who.user_id, super::device(who), &room, &what, body.txn_id.as_str()));
    Ok(v3::Response::new(hs.rooms.send_one(&body.room_id, draft).await?))
}
