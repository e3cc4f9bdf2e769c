//! Rooms: lists, details, members, state, messages.

use std::cmp::Ordering;

use http::Method;
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, RoomOrAliasId,
    events::{TimelineEventType, room::member::MembershipState},
};
use samtal_client_api::{Answer, ApiError, Json, RawArgs};
use samtal_event::Draft;
use samtal_model::{StreamPosition, SyncToken};
use samtal_ops::{Content, Homeserver, OpError};
use samtal_room::{Direction, Form, ListedRoom, LocalDraft, Room, StoredEvent};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use crate::admin::{Admin, Page, set_next};

pub(crate) fn routes() -> Admin {
    Admin::default()
        .on(Method::GET, &["/_synapse/admin/v1/rooms"], list)
        .on(Method::GET, &["/_synapse/admin/v1/rooms/{room_id}"], details)
        .on(Method::GET, &["/_synapse/admin/v1/rooms/{room_id}/members"], members)
        .on(Method::GET, &["/_synapse/admin/v1/rooms/{room_id}/state"], state)
        .on(Method::GET, &["/_synapse/admin/v1/rooms/{room_id}/messages"], messages)
        .on(Method::GET, &["/_synapse/admin/v1/rooms/{room_id}/forward_extremities"], extremities)
        .on(Method::DELETE, &["/_synapse/admin/v1/rooms/{room_id}/forward_extremities"], merge_extremities)
        .on(Method::GET, &["/_synapse/admin/v1/rooms/{room_id}/context/{event_id}"], context)
        .on(Method::GET, &["/_synapse/admin/v1/rooms/{room_id}/timestamp_to_event"], at_time)
        .on(Method::GET, &["/_synapse/admin/v1/rooms/{room_id}/hierarchy"], hierarchy)
        .on(Method::GET, &["/_synapse/admin/v1/fetch_event/{event_id}"], event)
        .on(Method::POST, &["/_synapse/admin/v1/join/{room}"], join)
        .on(Method::POST, &["/_synapse/admin/v1/rooms/{room_id}/make_room_admin"], make_room_admin)
}

#[derive(Deserialize)]
struct Filter {
    search_term: Option<String>,
    public_rooms: Option<bool>,
    empty_rooms: Option<bool>,
}

/// A room in the list, with what its state says.
struct Known {
    room: ListedRoom,
    written: Value,
}

/// `GET /_synapse/admin/v1/rooms`
async fn list(args: RawArgs) -> Answer<Json<Value>> {
    let (filter, page): (Filter, Page) = (args.query()?, args.query()?);
    let mut rooms = Vec::new();
    for room in args.hs.rooms.room_list().await? {
        if filter.public_rooms.is_some_and(|public| room.published != public)
            || filter.empty_rooms.is_some_and(|empty| (room.joined == 0) != empty)
        {
            continue;
        }
        let written = written(&args.hs, &room).await?;
        if filter.search_term.as_deref().is_none_or(|term| is_found(&room, &written, term)) {
            rooms.push(Known { room, written });
        }
    }
    sort(&mut rooms, &page)?;
    let total = rooms.len();
    let (rooms, next) = page.cut(rooms);
    let rooms: Vec<Value> = rooms.into_iter().map(|known| known.written).collect();
    let mut answer = json!({ "rooms": rooms, "offset": page.from, "total_rooms": total });
    if let Some(next) = next {
        answer["next_batch"] = next.into();
    }
    if page.from > 0 {
        answer["prev_batch"] = page.from.saturating_sub(page.limit.unwrap_or(100)).into();
    }
    Ok(Json(answer))
}

fn is_found(room: &ListedRoom, written: &Value, term: &str) -> bool {
    let term = term.to_lowercase();
    let says = |field: &str| written[field].as_str().is_some_and(|text| text.to_lowercase().contains(&term));
    room.room_id.as_str().to_lowercase() == term || says("name") || says("canonical_alias") || says("room_id")
}

fn sort(rooms: &mut [Known], page: &Page) -> Result<(), ApiError> {
    fn text(field: &str, one: &Known, other: &Known) -> Ordering {
        let of = |known: &Known| known.written[field].as_str().map(str::to_lowercase);
        // Rooms without one come last.
        let (one, other) = (of(one), of(other));
        one.is_none().cmp(&other.is_none()).then(one.cmp(&other))
    }
    let field = page.order_by.as_deref().unwrap_or("name");
    // What is counted is sorted from the most down, as the tools expect.
    match field {
        "name" | "alphabetical" => rooms.sort_by(|one, other| text("name", one, other)),
        "canonical_alias" | "creator" | "encryption" | "join_rules" | "guest_access" | "history_visibility"
        | "version" => {
            rooms.sort_by(|one, other| text(field, one, other));
        }
        "joined_members" | "size" => rooms.sort_by_key(|known| std::cmp::Reverse(known.room.joined)),
        "joined_local_members" => rooms.sort_by_key(|known| std::cmp::Reverse(known.room.joined_local)),
        "state_events" => rooms.sort_by_key(|known| std::cmp::Reverse(known.room.state_changes)),
        "public" => rooms.sort_by_key(|known| known.room.published),
        "federatable" => rooms.sort_by_key(|known| known.written["federatable"].as_bool()),
        _ => return Err(ApiError::invalid_param("order_by names no field of the list")),
    }
    if page.is_descending()? {
        rooms.reverse();
    }
    Ok(())
}

async fn content(hs: &Homeserver, room: &RoomId, event_type: &str) -> Result<Content, ApiError> {
    Ok(hs.state_content(room, event_type).await?.unwrap_or_default())
}

async fn written(hs: &Homeserver, room: &ListedRoom) -> Result<Value, ApiError> {
    let id = &room.room_id;
    let create = hs.rooms.current_state(id, "m.room.create", "").await?;
    let create_content: Content =
        create.as_ref().and_then(|event| serde_json::from_str(event.pdu.content_str()).ok()).unwrap_or_default();
    let field = async |event_type: &str, field: &str| {
        Ok::<_, ApiError>(content(hs, id, event_type).await?.get(field).cloned().unwrap_or_default())
    };
    Ok(json!({
        "room_id": id,
        "name": field("m.room.name", "name").await?,
        "canonical_alias": field("m.room.canonical_alias", "alias").await?,
        "joined_members": room.joined,
        "joined_local_members": room.joined_local,
        "version": room.version,
        "creator": create.map(|event| event.pdu.sender().to_owned()),
        "encryption": field("m.room.encryption", "algorithm").await?,
        "federatable": create_content.get("m.federate").and_then(Value::as_bool).unwrap_or(true),
        "public": room.published,
        "join_rules": field("m.room.join_rules", "join_rule").await?,
        "guest_access": field("m.room.guest_access", "guest_access").await?,
        "history_visibility": field("m.room.history_visibility", "history_visibility").await?,
        "state_events": room.state_changes,
        "room_type": create_content.get("type"),
    }))
}

async fn known(args: &RawArgs) -> Result<std::sync::Arc<Room>, ApiError> {
    let room_id: OwnedRoomId = args.path(0)?;
    let room = args.hs.rooms.store().graph.room(&room_id).await?;
    room.ok_or_else(|| ApiError::not_found("Room not found"))
}

/// `GET /_synapse/admin/v1/rooms/{roomId}`
async fn details(args: RawArgs) -> Answer<Json<Value>> {
    let (hs, room) = (&args.hs, known(&args).await?);
    let id = &room.room_id;
    let local = hs.rooms.store().graph.joined_of(room.nid, &hs.name).await?;
    let (joined, _) = hs.rooms.store().graph.counts(room.nid).await?;
    let mut devices = 0;
    for user in &local {
        devices += hs.accounts.devices(user).await?.len();
    }
    let state_events = match hs.rooms.store().head(&room).await? {
        Some(head) => hs.rooms.store().state(head.snapshot).await?.len(),
        None => return Err(ApiError::not_found("Room not found")),
    };
    let listed = ListedRoom {
        room_id: id.clone(),
        version: room.version.clone(),
        published: hs.rooms.is_published(id).await?,
        joined: i64::try_from(joined).unwrap_or(i64::MAX),
        joined_local: i64::try_from(local.len()).unwrap_or(i64::MAX),
        state_changes: i64::try_from(state_events).unwrap_or(i64::MAX),
    };
    let mut answer = written(hs, &listed).await?;
    let tombstone = hs.state_content(id, "m.room.tombstone").await?;
    answer["avatar"] = content(hs, id, "m.room.avatar").await?.get("url").cloned().unwrap_or_default();
    answer["topic"] = content(hs, id, "m.room.topic").await?.get("topic").cloned().unwrap_or_default();
    answer["joined_local_devices"] = devices.into();
    answer["forgotten"] = false.into();
    answer["tombstoned"] = tombstone.is_some().into();
    answer["replacement_room"] =
        tombstone.and_then(|content| content.get("replacement_room").cloned()).unwrap_or_default();
    Ok(Json(answer))
}

/// `GET /_synapse/admin/v1/rooms/{roomId}/members`
async fn members(args: RawArgs) -> Answer<Json<Value>> {
    let room = known(&args).await?;
    let members = args.hs.rooms.store().graph.members(room.nid, &[MembershipState::Join]).await?;
    let members: Vec<OwnedUserId> = members.into_iter().map(|member| member.user_id).collect();
    Ok(Json(json!({ "members": members, "total": members.len() })))
}

async fn for_admin(args: &RawArgs, events: &[std::sync::Arc<StoredEvent>]) -> Result<Vec<Box<RawValue>>, ApiError> {
    let form = Form { with_room_id: true, ..Form::default() };
    let mut written = Vec::with_capacity(events.len());
    for event in events {
        written.push(args.hs.rooms.client_event(event, &args.who.user_id, form).await?);
    }
    Ok(written)
}

/// `GET /_synapse/admin/v1/rooms/{roomId}/state`
async fn state(args: RawArgs) -> Answer<Json<Value>> {
    let room = known(&args).await?;
    let head = args.hs.rooms.head(&room).await?;
    let events = args.hs.rooms.store().state(head.snapshot).await?;
    Ok(Json(json!({ "state": for_admin(&args, &events).await? })))
}

#[derive(Deserialize)]
struct Messages {
    from: Option<String>,
    to: Option<String>,
    dir: Option<String>,
    limit: Option<usize>,
}

/// `GET /_synapse/admin/v1/rooms/{roomId}/messages`: the timeline, whoever may see it.
async fn messages(args: RawArgs) -> Answer<Json<Value>> {
    let (room, query) = (known(&args).await?, args.query::<Messages>()?);
    let position = |token: &str| {
        let token: Result<SyncToken, _> = token.parse();
        token.map(|token| token.position.0).map_err(|_| ApiError::invalid_param("This is no token of this server"))
    };
    let forward = query.dir.as_deref() == Some("f");
    let from = match &query.from {
        Some(token) => position(token)?,
        None if forward => i64::MIN,
        None => args.hs.db.position(),
    };
    let to = query.to.as_deref().map(position).transpose()?;
    let limit = query.limit.unwrap_or(10).min(1_000);
    let graph = &args.hs.rooms.store().graph;
    let events = if forward {
        graph.timeline_forward(room.nid, StreamPosition(from), StreamPosition(to.unwrap_or(i64::MAX)), limit).await?
    } else {
        graph.timeline_back(room.nid, StreamPosition(from), StreamPosition(to.unwrap_or(i64::MIN)), limit).await?
    };
    let mut answer = json!({
        "chunk": for_admin(&args, &events).await?,
        "start": SyncToken::at(StreamPosition(from)).to_string(),
        "state": [],
    });
    if let Some(last) = events.last().and_then(|event| event.position).filter(|_| events.len() == limit) {
        let next = if forward { last } else { StreamPosition(last.0 - 1) };
        answer["end"] = SyncToken::at(next).to_string().into();
    }
    Ok(Json(answer))
}

/// `GET /_synapse/admin/v1/rooms/{roomIdOrAlias}/forward_extremities`
async fn extremities(args: RawArgs) -> Answer<Json<Value>> {
    let room = args.hs.rooms.room(&named(&args).await?).await?;
    let extremities = args.hs.rooms.extremities(&room).await?;
    let mut results = Vec::with_capacity(extremities.len());
    for id in &extremities {
        let event = args.hs.rooms.store().graph.event(id).await?;
        results.push(json!({
            "event_id": id,
            "depth": event.as_ref().map(|event| event.pdu.depth()),
            "received_ts": event.as_ref().map(|event| event.pdu.origin_server_ts_ms()),
        }));
    }
    Ok(Json(json!({ "count": results.len(), "results": results })))
}

/// `DELETE /_synapse/admin/v1/rooms/{roomIdOrAlias}/forward_extremities`: brings them together, by events that say nothing.
async fn merge_extremities(args: RawArgs) -> Answer<Json<Value>> {
    let (hs, room) = (&args.hs, args.hs.rooms.room(&named(&args).await?).await?);
    let before = hs.rooms.extremities(&room).await?.len();
    let mut now = before;
    if now > 1 {
        let levels = hs.power_levels(&room).await?;
        let ours = hs.rooms.store().graph.joined_of(room.nid, &hs.name).await?;
        let dummy = TimelineEventType::from("org.matrix.dummy_event");
        let sender = ours.into_iter().find(|user| levels.can_send(user, &dummy, false));
        let sender = sender.ok_or_else(|| ApiError::bad_request("Nobody of this server may send anything there"))?;
        while now > 1 {
            let draft = Draft::message_of(dummy.clone(), &Content::new()).map_err(OpError::from)?;
            hs.rooms.send_one(&room.room_id, LocalDraft::new(sender.clone(), draft)).await?;
            let left = hs.rooms.extremities(&room).await?.len();
            if left >= now {
                break;
            }
            now = left;
        }
    }
    Ok(Json(json!({ "deleted": before - now })))
}

#[derive(Deserialize)]
struct Around {
    limit: Option<usize>,
}

/// `GET /_synapse/admin/v1/rooms/{roomId}/context/{eventId}`: what stands around an event, whoever may see it.
async fn context(args: RawArgs) -> Answer<Json<Value>> {
    let (room, id, query) = (known(&args).await?, args.path::<OwnedEventId>(1)?, args.query::<Around>()?);
    let graph = &args.hs.rooms.store().graph;
    let event = graph.event(&id).await?.filter(|event| event.room == room.nid);
    let event = event.ok_or_else(|| ApiError::not_found("Event not found"))?;
    let at = event.position.ok_or_else(|| ApiError::not_found("The event is not in the room's timeline"))?;
    let limit = query.limit.unwrap_or(10).min(1_000);
    let (half, first) = (limit / 2, StreamPosition(i64::MIN));
    let before = graph.timeline_back(room.nid, StreamPosition(at.0 - 1), first, limit - half).await?;
    let after = graph.timeline_forward(room.nid, at, StreamPosition(i64::MAX), half).await?;
    let last = after.last().and_then(|event| event.position).unwrap_or(at);
    let state = args.hs.rooms.store().state(args.hs.rooms.store().state_at(room.nid, last).await?).await?;
    let start = before.last().and_then(|event| event.position).unwrap_or(at);
    Ok(Json(json!({
        "event": for_admin(&args, std::slice::from_ref(&event)).await?.first(),
        "events_before": for_admin(&args, &before).await?,
        "events_after": for_admin(&args, &after).await?,
        "state": for_admin(&args, &state).await?,
        "start": SyncToken::at(StreamPosition(start.0 - 1)).to_string(),
        "end": SyncToken::at(last).to_string(),
    })))
}

#[derive(Deserialize)]
struct At {
    ts: i64,
    dir: Option<String>,
}

/// `GET /_synapse/admin/v1/rooms/{roomId}/timestamp_to_event`
async fn at_time(args: RawArgs) -> Answer<Json<Value>> {
    let (room, query) = (known(&args).await?, args.query::<At>()?);
    let direction = match query.dir.as_deref() {
        None | Some("f") => Direction::Forward,
        Some("b") => Direction::Backward,
        Some(_) => return Err(ApiError::invalid_param("dir is f or b")),
    };
    let event = args.hs.rooms.event_near_time(&room, query.ts, direction).await?;
    let event = event.ok_or_else(|| ApiError::not_found("There is no event in this direction"))?;
    Ok(Json(json!({ "event_id": event.pdu.event_id(), "origin_server_ts": event.pdu.origin_server_ts_ms() })))
}

#[derive(Deserialize)]
struct Walk {
    from: Option<usize>,
    limit: Option<usize>,
    max_depth: Option<usize>,
}

/// `GET /_synapse/admin/v1/rooms/{roomId}/hierarchy`: a space and what is in it, as far as this server is in the rooms.
async fn hierarchy(args: RawArgs) -> Answer<Json<Value>> {
    let (room, query) = (known(&args).await?, args.query::<Walk>()?);
    let (skip, limit) = (query.from.unwrap_or(0), query.limit.unwrap_or(50).clamp(1, 100));
    let mut rooms = args.hs.own_hierarchy(&room.room_id, query.max_depth, skip.saturating_add(limit + 1)).await?;
    let end = skip.saturating_add(limit);
    let more = rooms.len() > end;
    rooms.truncate(end);
    let rooms = rooms.split_off(skip.min(rooms.len()));
    let mut answer = json!({ "rooms": rooms });
    set_next(&mut answer, "next_batch", more.then_some(end));
    Ok(Json(answer))
}

/// `GET /_synapse/admin/v1/fetch_event/{eventId}`
async fn event(args: RawArgs) -> Answer<Json<Value>> {
    let id: OwnedEventId = args.path(0)?;
    let event = args.hs.rooms.store().graph.event(&id).await?;
    let event = event.ok_or_else(|| ApiError::not_found("Event not found"))?;
    let written = for_admin(&args, &[event]).await?;
    Ok(Json(json!({ "event": written.first() })))
}

#[derive(Deserialize)]
struct Join {
    user_id: OwnedUserId,
}

/// `POST /_synapse/admin/v1/join/{roomIdOrAlias}`: lets a user of ours join, by the administrator's invite where one is needed.
async fn join(args: RawArgs) -> Answer<Json<Value>> {
    let body: Join = args.json().await?;
    let (hs, user) = (&args.hs, &body.user_id);
    if !hs.accounts.is_local(user) {
        return Err(ApiError::bad_request("This user is another server's"));
    }
    if hs.accounts.user(user).await?.is_none_or(|user| user.deactivated) {
        return Err(ApiError::not_found("User not found"));
    }
    let named = RoomOrAliasId::parse(args.path.first().map_or("", String::as_str))
        .map_err(|_| ApiError::invalid_param("The path holds no room id or alias"))?;
    let (room_id, via) = match OwnedRoomId::try_from(named) {
        Ok(room_id) => (room_id, Vec::new()),
        Err(alias) => hs.resolve_alias(&alias).await?,
    };
    let open = hs.state_content(&room_id, "m.room.join_rules").await;
    let open = open.ok().flatten().is_some_and(|rules| samtal_ops::join_rule(Some(&rules)) == "public");
    if !open && hs.rooms.store().graph.is_joined(&args.who.user_id, &room_id).await? {
        hs.invite(&args.who.user_id, user, &room_id, Content::new()).await?;
    }
    hs.join(user, &room_id, &via, Content::new()).await?;
    Ok(Json(json!({ "room_id": room_id })))
}

#[derive(Deserialize)]
struct MakeAdmin {
    user_id: Option<OwnedUserId>,
}

/// The room that the path names by its id or an alias of ours.
async fn named(args: &RawArgs) -> Result<OwnedRoomId, ApiError> {
    let named = RoomOrAliasId::parse(args.path.first().map_or("", String::as_str))
        .map_err(|_| ApiError::invalid_param("The path holds no room id or alias"))?;
    match OwnedRoomId::try_from(named) {
        Ok(room_id) => Ok(room_id),
        Err(alias) => Ok(args.hs.resolve_alias(&alias).await?.0),
    }
}

/// `POST /_synapse/admin/v1/rooms/{roomIdOrAlias}/make_room_admin`: gives a user the highest level that a user of ours can give.
async fn make_room_admin(args: RawArgs) -> Answer<Json<Value>> {
    let body: MakeAdmin = args.json().await?;
    let target = body.user_id.unwrap_or_else(|| args.who.user_id.clone());
    args.hs.make_room_admin(&named(&args).await?, &target).await?;
    Ok(Json(json!({})))
}
