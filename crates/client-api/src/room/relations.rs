//! What later events say about earlier ones, and threads.

use ruma::{
    EventId, RoomId, UInt,
    api::{
        Direction as Dir,
        client::{
            relations::{
                get_relating_events::v1 as any, get_relating_events_with_rel_type::v1 as by_type,
                get_relating_events_with_rel_type_and_event_type::v1 as by_both,
            },
            threads::get_threads::v1 as threads,
        },
    },
};
use samtal_model::StreamPosition;
use samtal_ops::Homeserver;
use samtal_room::{Direction, RelationFilter};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{Answer, ApiError, Args, Json, Routes, UserPrincipal};

const LIMIT: usize = 10;
const LIMIT_MAX: usize = 100;
/// How deep relations of relations are followed.
const RECURSION_DEPTH: u8 = 3;

pub(super) fn routes() -> Routes {
    Routes::new().route(all).route(of_type).route(of_both).route(list_threads)
}

/// A page of relations.
#[derive(Serialize)]
struct Relations {
    chunk: Vec<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_batch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recursion_depth: Option<u8>,
}

/// What all three endpoints ask.
struct Question<'a> {
    room_id: &'a RoomId,
    event_id: &'a EventId,
    filter: RelationFilter,
    from: Option<String>,
    to: Option<String>,
    dir: Dir,
    limit: Option<UInt>,
}

/// `GET /rooms/{roomId}/relations/{eventId}`
async fn all(args: Args<any::Request>) -> Answer<Json<Relations>> {
    let body = args.body;
    let filter = RelationFilter { rel_type: None, event_type: None, recurse: body.recurse };
    let (from, to, dir, limit) = (body.from, body.to, body.dir, body.limit);
    let question = Question { room_id: &body.room_id, event_id: &body.event_id, filter, from, to, dir, limit };
    relations(&args.hs, &args.who, question).await
}

/// `GET /rooms/{roomId}/relations/{eventId}/{relType}`
async fn of_type(args: Args<by_type::Request>) -> Answer<Json<Relations>> {
    let body = args.body;
    let filter = RelationFilter { rel_type: Some(body.rel_type.to_string()), event_type: None, recurse: body.recurse };
    let (from, to, dir, limit) = (body.from, body.to, body.dir, body.limit);
    let question = Question { room_id: &body.room_id, event_id: &body.event_id, filter, from, to, dir, limit };
    relations(&args.hs, &args.who, question).await
}

/// `GET /rooms/{roomId}/relations/{eventId}/{relType}/{eventType}`
async fn of_both(args: Args<by_both::Request>) -> Answer<Json<Relations>> {
    let body = args.body;
    let filter = RelationFilter {
        rel_type: Some(body.rel_type.to_string()),
        event_type: Some(body.event_type.to_string()),
        recurse: body.recurse,
    };
    let (from, to, dir, limit) = (body.from, body.to, body.dir, body.limit);
    let question = Question { room_id: &body.room_id, event_id: &body.event_id, filter, from, to, dir, limit };
    relations(&args.hs, &args.who, question).await
}

async fn relations(hs: &Homeserver, who: &UserPrincipal, question: Question<'_>) -> Answer<Json<Relations>> {
    let target = hs.rooms.visible_event(&who.user_id, question.room_id, question.event_id).await?;
    let room = hs.rooms.room(question.room_id).await?;
    let mut viewer =
        hs.rooms.viewer(&who.user_id, &room).await?.on_device(who.device_id.as_ref().map(|id| id.as_str()));
    let direction = match question.dir {
        Dir::Forward => Direction::Forward,
        Dir::Backward => Direction::Backward,
    };
    let from = match (question.from.as_deref(), direction) {
        (Some(from), _) => super::position(from)?,
        (None, Direction::Backward) => StreamPosition(i64::MAX),
        (None, Direction::Forward) => StreamPosition(i64::MIN),
    };
    let to = question.to.as_deref().map(super::position).transpose()?;
    let id = target.pdu.event_id();
    let chunk = hs.rooms.relations(&mut viewer, id, &question.filter, from, direction, size(question.limit)).await?;
    let (mut events, mut next) = (chunk.events, chunk.next);
    if let Some(to) = to {
        let before = events.len();
        events.retain(|event| match direction {
            Direction::Backward => event.position.is_some_and(|position| position > to),
            Direction::Forward => event.position.is_some_and(|position| position <= to),
        });
        next = next.filter(|_| events.len() == before);
    }
    let ignored = hs.accounts.ignored(&who.user_id).await?;
    events.retain(|event| !ignored.contains(event.pdu.sender()));
    Ok(Json(Relations {
        chunk: hs.rooms.client_events(&mut viewer, &events, super::form(who)).await?,
        next_batch: next.map(super::token),
        prev_batch: question.from,
        recursion_depth: question.filter.recurse.then_some(RECURSION_DEPTH),
    }))
}

/// `GET /rooms/{roomId}/threads`
async fn list_threads(args: Args<threads::Request>) -> Answer<threads::Response> {
    let (hs, who, body) = (&args.hs, &args.who, args.body);
    let room = hs.rooms.room(&body.room_id).await?;
    hs.rooms.readable_snapshot(&who.user_id, &room).await?;
    let mut viewer =
        hs.rooms.viewer(&who.user_id, &room).await?.on_device(who.device_id.as_ref().map(|id| id.as_str()));
    let participated = match body.include {
        threads::IncludeThreads::All => false,
        threads::IncludeThreads::Participated => true,
        _ => return Err(ApiError::invalid_param("include is all or participated")),
    };
    let from = body.from.as_deref().map(super::position).transpose()?.unwrap_or(StreamPosition(i64::MAX));
    let chunk = hs.rooms.threads(&mut viewer, participated, from, size(body.limit)).await?;
    let ignored = hs.accounts.ignored(&who.user_id).await?;
    let roots: Vec<_> = chunk.events.into_iter().filter(|root| !ignored.contains(root.pdu.sender())).collect();
    let written = hs.rooms.client_events(&mut viewer, &roots, super::form(who)).await?;
    let mut response = threads::Response::new(super::raws(written));
    response.next_batch = chunk.next.map(super::token);
    Ok(response)
}

fn size(limit: Option<UInt>) -> usize {
    let limit = limit.and_then(|limit| usize::try_from(u64::from(limit)).ok());
    limit.unwrap_or(LIMIT).clamp(1, LIMIT_MAX)
}
