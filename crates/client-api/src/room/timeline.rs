//! A room's history: pages of it, the surroundings of an event, single events, events by date.

use std::{collections::HashSet, sync::Arc};

use http::Method;
use ruma::{
    OwnedRoomId, OwnedUserId, UInt, UserId,
    api::{
        Direction as Dir,
        auth_scheme::AccessToken,
        client::{
            context::get_context::v3 as context,
            filter::RoomEventFilter,
            message::get_message_events::v3 as messages,
            room::{get_event_by_timestamp::v1 as by_date, get_room_event::v3 as event},
        },
    },
};
use samtal_model::StreamPosition;
use samtal_ops::Homeserver;
use samtal_room::{Direction, RoomError, Store, StoredEvent, Viewer};
use samtal_state::{Part, SnapshotId};
use samtal_sync::{RelationFilter, filter::EventFilter};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{Answer, ApiError, Args, RawArgs, Routes, UserPrincipal};

/// Most events of one page.
const LIMIT_MAX: usize = 1_000;
/// Events looked at in one go when some of them will not pass the filter.
const FILTERED_PAGE: usize = 100;
/// How often the next page is looked at when nothing passed the filter.
const FILTERED_PAGES_MAX: usize = 20;

/// Events of one page when the client does not say.
const LIMIT: usize = 10;
/// How often other servers are asked for one page.
const BACKFILLS_MAX: usize = 6;
/// Events asked of other servers at a time.
const BACKFILL_MAX: u32 = 100;

pub(super) fn routes() -> Routes {
    Routes::new()
        .raw::<AccessToken, _, _, _>(
            Method::GET,
            &["/_matrix/client/r0/rooms/{room_id}/messages", "/_matrix/client/v3/rooms/{room_id}/messages"],
            page,
        )
        .route(around)
        .route(single)
        .route(near)
}

/// What one reader wants to see of a timeline.
struct Wanted {
    filter: EventFilter,
    ignored: HashSet<OwnedUserId>,
}

impl Wanted {
    /// `definition` is the filter as it came; `filter` what ruma read of it.
    async fn new(
        hs: &Homeserver,
        user: &UserId,
        filter: &RoomEventFilter,
        definition: Option<&str>,
    ) -> Result<Self, ApiError> {
        let relations: RelationFilter = match definition {
            None | Some("") => RelationFilter::default(),
            Some(definition) => serde_json::from_str(definition).map_err(|error| crate::args::json_error(&error))?,
        };
        let filter = EventFilter::of_room(filter).with_relations(relations);
        Ok(Self { filter, ignored: hs.accounts.ignored(user).await? })
    }

    fn passes_all(&self) -> bool {
        self.filter.passes_all() && self.ignored.is_empty()
    }

    async fn passes(&self, store: &Store, event: &StoredEvent) -> Result<bool, RoomError> {
        let pdu = &event.pdu;
        Ok((pdu.is_state() || !self.ignored.contains(pdu.sender())) && self.filter.passes_event(store, event).await?)
    }
}

/// Some of a timeline, and where to go on.
struct Page {
    events: Vec<Arc<StoredEvent>>,
    next: Option<StreamPosition>,
}

/// Reads until there are `limit` events that pass, or no more.
async fn read(
    hs: &Homeserver,
    viewer: &mut Viewer,
    wanted: &Wanted,
    (from, to): (StreamPosition, Option<StreamPosition>),
    direction: Direction,
    limit: usize,
) -> Result<Page, ApiError> {
    let mut page = Page { events: Vec::new(), next: Some(from) };
    let mut at = from;
    for _ in 0..FILTERED_PAGES_MAX {
        let missing = limit - page.events.len();
        let size = if wanted.passes_all() { missing } else { missing.max(FILTERED_PAGE) };
        let chunk = hs.rooms.timeline(viewer, at, to, direction, size).await?;
        page.next = chunk.next;
        for event in chunk.events {
            if page.events.len() == limit {
                page.next = page.events.last().map(|last| behind(last, direction));
                return Ok(page);
            }
            if wanted.passes(hs.rooms.store(), &event).await? {
                page.events.push(event);
            }
        }
        match page.next {
            Some(next) if page.events.len() < limit => at = next,
            _ => break,
        }
    }
    Ok(page)
}

/// Reads back, and has fetched what is missing on the way: in the gaps that the page comes to, and before all that is here. Where
/// nobody has it, the page goes on behind the gap.
async fn read_back(
    hs: &Arc<Homeserver>,
    who: &UserPrincipal,
    viewer: &mut Viewer,
    wanted: &Wanted,
    (from, to): (StreamPosition, Option<StreamPosition>),
    limit: usize,
) -> Result<Page, ApiError> {
    let room = Arc::clone(viewer.room());
    let mut gap = hs.rooms.gap_before(&room, from).await?;
    let mut fetches = 0;
    loop {
        gap = gap.filter(|gap| to.is_none_or(|to| gap.floor > to));
        let until = gap.map(|gap| gap.floor).or(to);
        let page = read(hs, viewer, wanted, (from, until), Direction::Backward, limit).await?;
        if page.next.is_some() || page.events.len() >= limit {
            return Ok(page);
        }
        let missing = u32::try_from(limit - page.events.len()).unwrap_or(u32::MAX).clamp(20, BACKFILL_MAX);
        let place = gap.map_or(StreamPosition(0), |gap| gap.position);
        // What is older than all that is here has positions below 0.
        let is_asked_for = gap.is_some() || to.is_none_or(|to| to.0 < 0);
        let is_filled =
            is_asked_for && fetches < BACKFILLS_MAX && hs.backfill_gap(&room, place, missing).await.unwrap_or(false);
        fetches += 1;
        match gap {
            None if !is_filled => return Ok(page),
            None => {}
            Some(known) => {
                // The same again, as long as something of it comes; else the next one before it.
                let from = StreamPosition(known.floor.0 + i64::from(is_filled));
                gap = hs.rooms.gap_before(&room, from).await?;
            }
        }
        if is_filled {
            let device_id = who.device_id.as_ref().map(|id| id.as_str());
            *viewer = hs.rooms.viewer(&who.user_id, &room).await?.on_device(device_id);
        }
    }
}

/// The place right behind an event in the direction of reading.
fn behind(event: &StoredEvent, direction: Direction) -> StreamPosition {
    let position = event.position.unwrap_or_default();
    match direction {
        Direction::Backward => StreamPosition(position.0 - 1),
        Direction::Forward => position,
    }
}

fn direction(dir: Dir) -> Direction {
    match dir {
        Dir::Forward => Direction::Forward,
        Dir::Backward => Direction::Backward,
    }
}

fn size(limit: UInt) -> usize {
    usize::try_from(u64::from(limit)).unwrap_or(LIMIT_MAX).min(LIMIT_MAX)
}

#[derive(Deserialize)]
struct PageQuery {
    from: Option<String>,
    to: Option<String>,
    dir: Option<Way>,
    limit: Option<UInt>,
    filter: Option<String>,
}

/// The filter of a query as it came.
#[derive(Default, Deserialize)]
struct FilterQuery {
    filter: Option<String>,
}

#[derive(Clone, Copy, Deserialize)]
enum Way {
    #[serde(rename = "b")]
    Backward,
    #[serde(rename = "f")]
    Forward,
}

/// `GET /rooms/{roomId}/messages`
async fn page(args: RawArgs) -> Answer<messages::Response> {
    let (hs, who) = (&args.hs, &args.who);
    let room_id: OwnedRoomId = args.path(0)?;
    let query: PageQuery = args.query()?;
    let filter: RoomEventFilter = match query.filter.as_deref() {
        None | Some("") => RoomEventFilter::default(),
        Some(filter) => serde_json::from_str(filter).map_err(|error| crate::args::json_error(&error))?,
    };
    let room = hs.rooms.room(&room_id).await?;
    let (_, is_current) = hs.rooms.readable_snapshot(&who.user_id, &room).await?;
    let mut viewer =
        hs.rooms.viewer(&who.user_id, &room).await?.on_device(who.device_id.as_ref().map(|id| id.as_str()));
    // Whether one may read comes first: clients that forget `dir` learn that they are not in the room.
    let direction = match query.dir.ok_or_else(|| ApiError::missing_param("dir is missing: b or f"))? {
        Way::Backward => Direction::Backward,
        Way::Forward => Direction::Forward,
    };
    let from = match (query.from.as_deref().filter(|from| !from.is_empty()), direction) {
        (Some(from), _) => super::position(from)?,
        (None, Direction::Backward) => hs.rooms.now(),
        (None, Direction::Forward) => StreamPosition(i64::MIN),
    };
    let to = query.to.as_deref().map(super::position).transpose()?;
    let mut response = messages::Response::default();
    response.start = query.from.unwrap_or_else(|| super::token(from));
    // Nothing after their leaving is for those who left.
    let start = match hs.rooms.joined_until(&who.user_id, &room).await? {
        Some(until) if !is_current && direction == Direction::Backward => from.min(until),
        _ => from,
    };
    let wanted = Wanted::new(hs, &who.user_id, &filter, query.filter.as_deref()).await?;
    if !wanted.filter.passes_room(room.room_id.as_str()) {
        return Ok(response);
    }
    let limit = query.limit.map_or(LIMIT, size).max(1);
    let page = match direction {
        Direction::Forward => read(hs, &mut viewer, &wanted, (start, to), direction, limit).await?,
        Direction::Backward => read_back(hs, who, &mut viewer, &wanted, (start, to), limit).await?,
    };
    // A page with events is never called the last: the next, empty one is.
    let end = page.next.or_else(|| page.events.last().map(|last| behind(last, direction)));
    response.end = end.map(super::token);
    if let Some(first) = page.events.first() {
        let snapshot = hs.rooms.store().state_after(first).await?;
        let state = lazy_state(hs, who, &mut viewer, &filter, snapshot, &page.events).await?;
        response.state = super::raws(state.unwrap_or_default());
    }
    response.chunk = super::raws(hs.rooms.client_events(&mut viewer, &page.events, super::form(who)).await?);
    Ok(response)
}

/// With lazy loading, the member events of those who sent `events`.
async fn lazy_state(
    hs: &Homeserver,
    who: &UserPrincipal,
    viewer: &mut Viewer,
    filter: &RoomEventFilter,
    snapshot: SnapshotId,
    events: &[Arc<StoredEvent>],
) -> Result<Option<Vec<Box<RawValue>>>, ApiError> {
    if filter.lazy_load_options.is_disabled() {
        return Ok(None);
    }
    let senders: HashSet<&UserId> = events.iter().map(|event| event.pdu.sender()).collect();
    let mut members = Vec::with_capacity(senders.len());
    for sender in senders {
        members.extend(hs.rooms.store().state_event(snapshot, "m.room.member", sender.as_str()).await?);
    }
    members.sort_unstable_by_key(|member| member.nid);
    let form = samtal_room::Form { with_bundles: false, ..super::form(who) };
    Ok(Some(hs.rooms.client_events(viewer, &members, form).await?))
}

/// `GET /rooms/{roomId}/context/{eventId}`
async fn around(args: Args<context::Request>) -> Answer<context::Response> {
    let (hs, who, body) = (&args.hs, &args.who, args.body);
    let room = hs.rooms.room(&body.room_id).await?;
    hs.rooms.readable_snapshot(&who.user_id, &room).await?;
    let event = hs.rooms.visible_event(&who.user_id, &body.room_id, &body.event_id).await?;
    let mut viewer =
        hs.rooms.viewer(&who.user_id, &room).await?.on_device(who.device_id.as_ref().map(|id| id.as_str()));
    let named: FilterQuery = serde_html_form::from_str(args.query.as_deref().unwrap_or_default()).unwrap_or_default();
    let wanted = Wanted::new(hs, &who.user_id, &body.filter, named.filter.as_deref()).await?;
    let limit = size(body.limit);
    let position = event.position.unwrap_or_default();
    let (earlier, later) = (StreamPosition(position.0 - 1), position);
    let before = read(hs, &mut viewer, &wanted, (earlier, None), Direction::Backward, limit / 2).await?;
    let after = read(hs, &mut viewer, &wanted, (later, None), Direction::Forward, limit - limit / 2).await?;
    let start =
        before.next.unwrap_or_else(|| before.events.last().map_or(earlier, |first| behind(first, Direction::Backward)));
    let end = after.next.unwrap_or_else(|| after.events.last().map_or(later, |last| behind(last, Direction::Forward)));
    let last = after.events.last().unwrap_or(&event);
    let snapshot = hs.rooms.store().state_after(last).await?;
    let mut shown = before.events.clone();
    shown.push(Arc::clone(&event));
    shown.extend(after.events.iter().cloned());
    let form = super::form(who);
    let members = lazy_state(hs, who, &mut viewer, &body.filter, snapshot, &shown).await?;
    let plain = samtal_room::Form { with_bundles: false, ..form };
    let state = match members {
        Some(members) => {
            let others = hs.rooms.store().state_part(snapshot, Part::Other).await?;
            let mut state = hs.rooms.client_events(&mut viewer, &others, plain).await?;
            state.extend(members);
            state
        }
        None => {
            let all = hs.rooms.store().state(snapshot).await?;
            hs.rooms.client_events(&mut viewer, &all, plain).await?
        }
    };
    let mut response = context::Response::new();
    response.start = Some(super::token(start));
    response.end = Some(super::token(end));
    response.events_before = super::raws(hs.rooms.client_events(&mut viewer, &before.events, form).await?);
    response.event = super::raws(hs.rooms.client_events(&mut viewer, std::slice::from_ref(&event), form).await?).pop();
    response.events_after = super::raws(hs.rooms.client_events(&mut viewer, &after.events, form).await?);
    response.state = super::raws(state);
    Ok(response)
}

/// `GET /rooms/{roomId}/event/{eventId}`
async fn single(args: Args<event::Request>) -> Answer<event::Response> {
    let (hs, who, body) = (&args.hs, &args.who, args.body);
    let event = hs.rooms.visible_event(&who.user_id, &body.room_id, &body.event_id).await?;
    let room = hs.rooms.room(&body.room_id).await?;
    let mut viewer =
        hs.rooms.viewer(&who.user_id, &room).await?.on_device(who.device_id.as_ref().map(|id| id.as_str()));
    let written = hs.rooms.client_events(&mut viewer, std::slice::from_ref(&event), super::form(who)).await?;
    let written = super::raws(written).pop().ok_or_else(|| ApiError::not_found("Event not found"))?;
    Ok(event::Response::new(written))
}

/// `GET /rooms/{roomId}/timestamp_to_event`
async fn near(args: Args<by_date::Request>) -> Answer<by_date::Response> {
    let (hs, user, body) = (&args.hs, &args.who.user_id, args.body);
    let room = hs.rooms.room(&body.room_id).await?;
    hs.rooms.readable_snapshot(user, &room).await?;
    let found = hs.event_near(user, &room, i64::from(body.ts.get()), direction(body.dir)).await?;
    let (event_id, ts) = found.ok_or_else(|| ApiError::not_found("There is no event at that time"))?;
    Ok(by_date::Response::new(event_id, ts))
}
