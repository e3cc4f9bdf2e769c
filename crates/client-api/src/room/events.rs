//! The event stream of old clients, and of those who look into a room from outside (`GET /events`).

use std::{sync::Arc, time::Duration};

use http::Method;
use ruma::{OwnedEventId, OwnedRoomId, api::auth_scheme::AccessToken, presence::PresenceState};
use samtal_model::{StreamPosition, SyncToken};
use samtal_ops::Homeserver;
use samtal_room::{Direction, Room};
use samtal_sync::{StateAfter, SyncRequest};
use serde::Deserialize;
use serde_json::{Value, json};

use super::initial_sync::with_user_id;
use crate::{Answer, ApiError, Json, RawArgs, Routes, UserPrincipal};

/// Longest wait.
const WAIT_MS_MAX: u64 = 120_000;
const EVENTS_MAX: usize = 100;
/// Everything but to-device messages, which this stream cannot acknowledge.
const FILTER: &str = r#"{"room":{"timeline":{"limit":100}}}"#;

pub(super) fn routes() -> Routes {
    Routes::new()
        .raw::<AccessToken, _, _, _>(Method::GET, &["/_matrix/client/r0/events", "/_matrix/client/v3/events"], stream)
        .raw::<AccessToken, _, _, _>(
            Method::GET,
            &["/_matrix/client/r0/events/{event_id}", "/_matrix/client/v3/events/{event_id}"],
            single,
        )
}

#[derive(Deserialize)]
struct Query {
    from: Option<String>,
    timeout: Option<u64>,
    limit: Option<usize>,
    room_id: Option<OwnedRoomId>,
}

/// `GET /events`
async fn stream(args: RawArgs) -> Answer<Json<Value>> {
    let (hs, who) = (&args.hs, &args.who);
    let query: Query = args.query()?;
    let wait = Duration::from_millis(query.timeout.unwrap_or(0).min(WAIT_MS_MAX));
    let from: Option<SyncToken> = match query.from.as_deref() {
        None | Some("" | "END") => None,
        Some(from) => Some(from.parse().map_err(|_| ApiError::invalid_param("The token is not one of this server"))?),
    };
    match query.room_id {
        Some(room_id) => {
            let room = hs.rooms.room(&room_id).await?;
            hs.rooms.readable_snapshot(&who.user_id, &room).await?;
            let limit = query.limit.unwrap_or(EVENTS_MAX).clamp(1, EVENTS_MAX);
            peek(hs, who, &room, from, wait, limit).await
        }
        None if who.is_guest => Err(ApiError::new(
            http::StatusCode::BAD_REQUEST,
            "M_MISSING_PARAM",
            "Guests look into one room: name it with room_id",
        )),
        None => Box::pin(all(hs, who, from, wait)).await,
    }
}

/// What is new in all rooms of the user: what `/sync` tells, in one list.
async fn all(
    hs: &Arc<Homeserver>,
    who: &UserPrincipal,
    from: Option<SyncToken>,
    timeout: Duration,
) -> Answer<Json<Value>> {
    let now = SyncToken {
        typing: hs.edus.typing.serial(),
        presence: hs.edus.presence.serial(),
        ..SyncToken::at(hs.rooms.now())
    };
    let since = from.unwrap_or(now);
    let request = SyncRequest {
        user_id: who.user_id.clone(),
        device_id: None,
        filter: hs.sync.filter(&who.user_id, Some(FILTER)).await?,
        since: Some(since),
        full_state: false,
        state_after: StateAfter::No,
        timeout,
        set_presence: PresenceState::Online,
    };
    let body = hs.sync.sync(&request).await?;
    let body: Value = serde_json::from_str(&body).map_err(ApiError::internal)?;
    let mut chunk = Vec::new();
    for kind in ["join", "leave"] {
        for (room_id, room) in entries(&body, &["rooms", kind]) {
            for part in ["timeline", "ephemeral", "account_data"] {
                let events = room.get(part).and_then(|part| part.get("events")).and_then(Value::as_array);
                chunk.extend(events.into_iter().flatten().map(|event| in_room(event, room_id)));
            }
        }
    }
    for (room_id, _) in entries(&body, &["rooms", "invite"]) {
        let Ok(room_id) = OwnedRoomId::try_from(room_id.as_str()) else { continue };
        let Some(found) = hs.rooms.store().graph.membership(&who.user_id, &room_id).await? else { continue };
        if let Some(event) = hs.rooms.store().graph.event(&found.event_id).await? {
            chunk.push(with_user_id(&hs.rooms.client_event(&event, &who.user_id, super::form(who)).await?));
        }
    }
    let presence = body.get("presence").and_then(|part| part.get("events")).and_then(Value::as_array);
    chunk.extend(presence.into_iter().flatten().map(with_sender_in_content));
    let data = body.get("account_data").and_then(|part| part.get("events")).and_then(Value::as_array);
    chunk.extend(data.into_iter().flatten().cloned());
    let end = body.get("next_batch").cloned().unwrap_or_default();
    Ok(Json(json!({ "start": since.to_string(), "end": end, "chunk": chunk })))
}

fn entries<'a>(body: &'a Value, path: &[&str]) -> impl Iterator<Item = (&'a String, &'a Value)> {
    let found = path.iter().try_fold(body, |value, name| value.get(name)).and_then(Value::as_object);
    found.into_iter().flatten()
}

fn in_room(event: &Value, room_id: &str) -> Value {
    let mut event = event.clone();
    if let Some(fields) = event.as_object_mut() {
        fields.insert("room_id".into(), room_id.into());
        if let Some(sender) = fields.get("sender").cloned() {
            fields.insert("user_id".into(), sender);
        }
    }
    event
}

fn with_sender_in_content(event: &Value) -> Value {
    let mut event = event.clone();
    let sender = event.get("sender").cloned().unwrap_or_default();
    if let Some(content) = event.get_mut("content").and_then(Value::as_object_mut) {
        content.insert("user_id".into(), sender);
    }
    event
}

/// What is new in one room that the user looks into, and with its members; waits for something.
async fn peek(
    hs: &Arc<Homeserver>,
    who: &UserPrincipal,
    room: &Arc<Room>,
    from: Option<SyncToken>,
    wait: Duration,
    limit: usize,
) -> Answer<Json<Value>> {
    let mut changes = hs.db.changes(hs.db.position());
    let mut passing = hs.edus.subscribe();
    let presence = &hs.edus.presence;
    let now =
        || SyncToken { typing: hs.edus.typing.serial(), presence: presence.serial(), ..SyncToken::at(hs.rooms.now()) };
    let from = from.unwrap_or_else(now);
    let waiting = tokio::time::sleep(wait);
    tokio::pin!(waiting);
    loop {
        let mut viewer =
            hs.rooms.viewer(&who.user_id, room).await?.on_device(who.device_id.as_ref().map(|id| id.as_str()));
        let (until, typing_until, presence_until) = (hs.rooms.now(), hs.edus.typing.serial(), presence.serial());
        let chunk = hs.rooms.timeline(&mut viewer, from.position, Some(until), Direction::Forward, limit).await?;
        let mut events: Vec<Value> = Vec::new();
        for event in hs.rooms.client_events(&mut viewer, &chunk.events, super::form(who)).await? {
            events.push(with_user_id(&event));
        }
        for (user, entry) in presence.changed(from.presence, presence_until) {
            if hs.rooms.store().graph.is_joined(&user, &room.room_id).await? {
                let mut event = json!({ "type": "m.presence", "sender": user });
                if let Some(fields) = event.as_object_mut() {
                    fields.insert("content".into(), entry.content(presence.now_ms()));
                }
                events.push(with_sender_in_content(&event));
            }
        }
        let read = hs.edus.receipts.changed(&room.room_id, from.position.0, until.0).await?;
        if let Some(content) = samtal_edu::receipt::content(&read, &who.user_id) {
            events.push(json!({ "type": "m.receipt", "room_id": room.room_id, "content": content }));
        }
        if let Some(users) = hs.edus.typing.changed(&room.room_id, from.typing) {
            let content = json!({ "user_ids": users });
            events.push(json!({ "type": "m.typing", "room_id": room.room_id, "content": content }));
        }
        if !events.is_empty() || waiting.is_elapsed() {
            let end: StreamPosition = chunk.next.unwrap_or(until);
            let end = SyncToken { typing: typing_until, presence: presence_until, ..SyncToken::at(end) };
            return Ok(Json(json!({ "start": from.to_string(), "end": end.to_string(), "chunk": events })));
        }
        tokio::select! {
            () = &mut waiting => {}
            () = hs.tasks.stopping() => waiting.as_mut().reset(tokio::time::Instant::now()),
            _ = changes.next() => {}
            _ = passing.recv() => {}
        }
    }
}

/// `GET /events/{eventId}`
async fn single(args: RawArgs) -> Answer<Json<Value>> {
    let (hs, who) = (&args.hs, &args.who);
    let event = hs.rooms.event(&args.path::<OwnedEventId>(0)?).await?;
    let room_id = event.pdu.room_id();
    let event = hs.rooms.visible_event(&who.user_id, room_id, event.pdu.event_id()).await?;
    Ok(Json(with_user_id(&hs.rooms.client_event(&event, &who.user_id, super::form(who)).await?)))
}
