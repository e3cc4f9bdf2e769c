//! Read receipts and read markers.

use ruma::{
    EventId, RoomId,
    api::client::{
        read_marker::set_read_marker,
        receipt::create_receipt::{self, v3::ReceiptType},
    },
    events::receipt::ReceiptThread,
};
use samtal_edu::NewReceipt;
use samtal_ops::Homeserver;
use serde_json::{json, value::to_raw_value};

use crate::{Answer, ApiError, Args, Routes, UserPrincipal};

pub(crate) fn routes() -> Routes {
    Routes::new().route(receipt).route(markers)
}

/// `POST /rooms/{roomId}/receipt/{receiptType}/{eventId}`
async fn receipt(args: Args<create_receipt::v3::Request>) -> Answer<create_receipt::v3::Response> {
    let create_receipt::v3::Request { room_id, receipt_type, event_id, thread, .. } = args.body;
    let thread = thread_id(&thread)?;
    require_joined(&args.hs, &args.who, &room_id).await?;
    match receipt_type {
        ReceiptType::FullyRead if thread.is_some() => {
            return Err(ApiError::invalid_param("m.fully_read knows no threads"));
        }
        ReceiptType::FullyRead => fully_read(&args.hs, &args.who, &room_id, &event_id).await?,
        ReceiptType::Read => put(&args.hs, &args.who, &room_id, &event_id, "m.read", thread).await?,
        ReceiptType::ReadPrivate => put(&args.hs, &args.who, &room_id, &event_id, "m.read.private", thread).await?,
        _ => return Err(ApiError::invalid_param("There is no such type of receipt")),
    }
    Ok(create_receipt::v3::Response::new())
}

/// `POST /rooms/{roomId}/read_markers`
async fn markers(args: Args<set_read_marker::v3::Request>) -> Answer<set_read_marker::v3::Response> {
    let set_read_marker::v3::Request { room_id, fully_read: fully, read_receipt, private_read_receipt, .. } = args.body;
    require_joined(&args.hs, &args.who, &room_id).await?;
    for (event_id, kind) in [(read_receipt, "m.read"), (private_read_receipt, "m.read.private")] {
        if let Some(event_id) = event_id {
            put(&args.hs, &args.who, &room_id, &event_id, kind, None).await?;
        }
    }
    if let Some(event_id) = fully {
        fully_read(&args.hs, &args.who, &room_id, &event_id).await?;
    }
    Ok(set_read_marker::v3::Response::new())
}

pub(crate) async fn require_joined(hs: &Homeserver, who: &UserPrincipal, room_id: &RoomId) -> Result<(), ApiError> {
    match hs.rooms.store().graph.is_joined(&who.user_id, room_id).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(ApiError::forbidden("You are not in the room")),
        Err(error) => Err(ApiError::internal(error)),
    }
}

/// The thread of a receipt: a root's id or `main`; nothing for none.
fn thread_id(thread: &ReceiptThread) -> Result<Option<String>, ApiError> {
    match thread {
        ReceiptThread::Unthreaded => Ok(None),
        ReceiptThread::Main => Ok(Some("main".into())),
        ReceiptThread::Thread(root) => Ok(Some(root.to_string())),
        _ => Err(ApiError::invalid_param("thread_id is an event id or main")),
    }
}

/// The event's position in the room's timeline, if it has one.
async fn position(hs: &Homeserver, room_id: &RoomId, event_id: &EventId) -> Result<Option<i64>, ApiError> {
    let event = hs.rooms.store().graph.event(event_id).await.map_err(ApiError::internal)?;
    let event = event.filter(|event| event.pdu.room_id() == room_id);
    Ok(event.and_then(|event| event.position).map(|position| position.0))
}

/// Stores a receipt. One for an event that is not here, or is not shown, says nothing and is dropped.
async fn put(
    hs: &Homeserver,
    who: &UserPrincipal,
    room_id: &RoomId,
    event_id: &EventId,
    kind: &str,
    thread: Option<String>,
) -> Result<(), ApiError> {
    let Some(position) = position(hs, room_id, event_id).await? else { return Ok(()) };
    let receipt = NewReceipt {
        room_id: room_id.to_owned(),
        user_id: who.user_id.clone(),
        receipt_type: kind.to_owned(),
        thread,
        event_id: event_id.to_owned(),
        event_position: Some(position),
        ts_ms: None,
    };
    hs.edus.receipts.put(vec![receipt]).await?;
    hs.edus.presence.active(&who.user_id);
    Ok(())
}

/// Moves the marker of what has been read in full, never backwards.
async fn fully_read(
    hs: &Homeserver,
    who: &UserPrincipal,
    room_id: &RoomId,
    event_id: &EventId,
) -> Result<(), ApiError> {
    let before = hs.accounts.account_data(&who.user_id, Some(room_id), "m.fully_read").await?;
    let before = before.and_then(|content| serde_json::from_str::<serde_json::Value>(content.get()).ok());
    let before = before.and_then(|content| EventId::parse(content.get("event_id")?.as_str()?).ok());
    if let Some(before) = before
        && let Some(was) = position(hs, room_id, &before).await?
        && position(hs, room_id, event_id).await?.is_none_or(|is| is <= was)
    {
        return Ok(());
    }
    let content = to_raw_value(&json!({ "event_id": event_id })).map_err(ApiError::internal)?;
    hs.accounts.set_account_data(&who.user_id, Some(room_id), "m.fully_read", &content).await?;
    Ok(())
}
