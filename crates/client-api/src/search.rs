//! Finding messages (CS API, "Server Side Search").

use std::{collections::BTreeMap, sync::Arc};

use ruma::{
    OwnedEventId, OwnedRoomId, OwnedUserId,
    api::client::search::search_events::v3::{self, Criteria, EventContext, GroupingKey, OrderBy, SearchKeys},
};
use samtal_model::StreamPosition;
use samtal_ops::Homeserver;
use samtal_room::{Direction, Form, StoredEvent, Viewer};
use samtal_search::{Found, Group, GroupBy, Hit, Key, Order, SearchError, Wish};
use samtal_sync::{RelationFilter, filter::EventFilter};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{Answer, ApiError, Args, Json, Routes, UserPrincipal, room as rooms};

/// Results of a page when the client names no limit.
const LIMIT: usize = 10;
/// Most results of a page.
const LIMIT_MAX: usize = 100;
/// Most events before, and most after a result.
const CONTEXT_MAX: usize = 50;
/// Longest search term, in bytes.
const TERM_BYTES_MAX: usize = 1_024;

pub(crate) fn routes() -> Routes {
    Routes::new().route(search)
}

// ruma leaves out what is empty; clients expect the list of results to be there.
#[derive(Serialize)]
struct Body {
    search_categories: Categories,
}

#[derive(Serialize)]
struct Categories {
    #[serde(skip_serializing_if = "Option::is_none")]
    room_events: Option<RoomEvents>,
}

#[derive(Serialize)]
struct RoomEvents {
    count: usize,
    highlights: Vec<String>,
    results: Vec<SearchResult>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    groups: Option<Groups>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<BTreeMap<OwnedRoomId, Vec<Box<RawValue>>>>,
}

#[derive(Serialize)]
struct SearchResult {
    rank: f64,
    result: Box<RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
}

#[derive(Serialize)]
struct Context {
    events_before: Vec<Box<RawValue>>,
    events_after: Vec<Box<RawValue>>,
    start: String,
    end: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile_info: Option<BTreeMap<OwnedUserId, Profile>>,
}

#[derive(Default, Serialize)]
struct Profile {
    #[serde(skip_serializing_if = "Option::is_none")]
    displayname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    avatar_url: Option<String>,
}

#[derive(Serialize)]
struct Groups {
    #[serde(skip_serializing_if = "Option::is_none")]
    room_id: Option<BTreeMap<OwnedRoomId, GroupBody>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sender: Option<BTreeMap<OwnedUserId, GroupBody>>,
}

#[derive(Serialize)]
struct GroupBody {
    order: u64,
    results: Vec<OwnedEventId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<String>,
}

/// Whether the client asks for the surroundings of results at all.
#[derive(Deserialize)]
struct Asked {
    search_categories: AskedCategories,
}

#[derive(Deserialize)]
struct AskedCategories {
    room_events: AskedRoomEvents,
}

#[derive(Deserialize)]
struct AskedRoomEvents {
    event_context: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    filter: RelationFilter,
}

/// `POST /search`
async fn search(args: Args<v3::Request>) -> Answer<Json<Body>> {
    let (hs, who) = (&args.hs, &args.who);
    let Some(criteria) = args.body.search_categories.room_events else {
        return Ok(Json(Body { search_categories: Categories { room_events: None } }));
    };
    let asked = serde_json::from_slice::<Asked>(&args.json);
    let asked = asked.ok().map(|asked| asked.search_categories.room_events);
    let with_context = asked.as_ref().is_some_and(|asked| asked.event_context.is_some());
    let relations = asked.map(|asked| asked.filter).unwrap_or_default();
    let wish = wish(&criteria, relations, args.body.next_batch)?;
    let mut found = hs.search.events(&who.user_id, &wish).await?;
    let mut results = Vec::with_capacity(found.hits.len());
    for Hit { event, rank } in std::mem::take(&mut found.hits) {
        let Some(viewer) = found.viewers.get_mut(&event.room) else { continue };
        let context =
            if with_context { Some(context(hs, who, viewer, &event, &criteria.event_context).await?) } else { None };
        let written = hs.rooms.client_events(viewer, std::slice::from_ref(&event), rooms::form(who)).await?;
        results.extend(written.into_iter().map(|result| SearchResult { rank, result, context: None }));
        if let Some(last) = results.last_mut() {
            last.context = context;
        }
    }
    let state = match criteria.include_state {
        Some(true) => Some(state(hs, who, &mut found, &results).await?),
        _ => None,
    };
    let groups = (found.by_room.is_some() || found.by_sender.is_some())
        .then(|| Groups { room_id: found.by_room.map(groups), sender: found.by_sender.map(groups) });
    let room_events =
        RoomEvents { count: found.count, highlights: found.highlights, results, next_batch: found.next, groups, state };
    Ok(Json(Body { search_categories: Categories { room_events: Some(room_events) } }))
}

fn wish(criteria: &Criteria, relations: RelationFilter, from: Option<String>) -> Result<Wish, ApiError> {
    if criteria.search_term.len() > TERM_BYTES_MAX {
        return Err(ApiError::invalid_param(format!("A search term has at most {TERM_BYTES_MAX} bytes")));
    }
    let keys = criteria.keys.iter().flatten().map(|key| match key {
        SearchKeys::ContentBody => Ok(Key::Body),
        SearchKeys::ContentName => Ok(Key::Name),
        SearchKeys::ContentTopic => Ok(Key::Topic),
        other => Err(ApiError::invalid_param(format!("{other} cannot be searched"))),
    });
    let order = match criteria.order_by.as_ref().unwrap_or(&OrderBy::Rank) {
        OrderBy::Rank => Order::Rank,
        OrderBy::Recent => Order::Recent,
        other => return Err(ApiError::invalid_param(format!("Results cannot be ordered by {other}"))),
    };
    let groups = criteria.groupings.group_by.iter().filter_map(|group| group.key.as_ref()).map(|key| match key {
        GroupingKey::RoomId => Ok(GroupBy::Room),
        GroupingKey::Sender => Ok(GroupBy::Sender),
        other => Err(ApiError::invalid_param(format!("Results cannot be grouped by {other}"))),
    });
    let limit = criteria.filter.limit.and_then(|limit| usize::try_from(u64::from(limit)).ok());
    // Rooms are looked up apart: with a room its predecessors are wanted too.
    let mut filter = criteria.filter.clone();
    let rooms = filter.rooms.take();
    Ok(Wish {
        term: criteria.search_term.clone(),
        keys: keys.collect::<Result<_, _>>()?,
        filter: EventFilter::of_room(&filter).with_relations(relations),
        rooms,
        senders: criteria.filter.senders.clone(),
        order,
        groups: groups.collect::<Result<_, _>>()?,
        limit: limit.unwrap_or(LIMIT).clamp(1, LIMIT_MAX),
        from: from.filter(|from| !from.is_empty()),
    })
}

/// What stands around a result.
async fn context(
    hs: &Homeserver,
    who: &UserPrincipal,
    viewer: &mut Viewer,
    event: &Arc<StoredEvent>,
    wanted: &EventContext,
) -> Result<Context, ApiError> {
    let size = |limit: ruma::UInt| usize::try_from(u64::from(limit)).unwrap_or(CONTEXT_MAX).min(CONTEXT_MAX);
    let position = event.position.unwrap_or_default();
    let (earlier, later) = (StreamPosition(position.0 - 1), position);
    let place = |event: &Arc<StoredEvent>| event.position.unwrap_or_default();
    let before = hs.rooms.timeline(viewer, earlier, None, Direction::Backward, size(wanted.before_limit)).await?;
    let after = hs.rooms.timeline(viewer, later, None, Direction::Forward, size(wanted.after_limit)).await?;
    let start = before.events.last().map_or(earlier, |first| StreamPosition(place(first).0 - 1));
    let end = after.events.last().map_or(later, place);
    let profile_info = if wanted.include_profile {
        let shown = before.events.iter().chain([event]).chain(&after.events);
        Some(profiles(hs, shown).await?)
    } else {
        None
    };
    Ok(Context {
        events_before: hs.rooms.client_events(viewer, &before.events, rooms::form(who)).await?,
        events_after: hs.rooms.client_events(viewer, &after.events, rooms::form(who)).await?,
        start: rooms::token(start),
        end: rooms::token(end),
        profile_info,
    })
}

/// What the senders of events called themselves then.
async fn profiles(
    hs: &Homeserver,
    events: impl Iterator<Item = &Arc<StoredEvent>>,
) -> Result<BTreeMap<OwnedUserId, Profile>, ApiError> {
    let mut profiles = BTreeMap::new();
    for event in events {
        let sender = event.pdu.sender();
        if profiles.contains_key(sender) {
            continue;
        }
        let member = match event.before {
            Some(before) => hs.rooms.store().state_event(before, "m.room.member", sender.as_str()).await?,
            None => None,
        };
        let profile = member.map_or_else(Profile::default, |member| Profile {
            displayname: member.pdu.content_field("displayname"),
            avatar_url: member.pdu.content_field("avatar_url"),
        });
        profiles.insert(sender.to_owned(), profile);
    }
    Ok(profiles)
}

/// The state of the rooms of the results, as far as the asker may read it.
async fn state(
    hs: &Homeserver,
    who: &UserPrincipal,
    found: &mut Found,
    results: &[SearchResult],
) -> Result<BTreeMap<OwnedRoomId, Vec<Box<RawValue>>>, ApiError> {
    #[derive(Deserialize)]
    struct InRoom {
        room_id: OwnedRoomId,
    }
    let mut wanted: Vec<OwnedRoomId> = results
        .iter()
        .filter_map(|result| serde_json::from_str::<InRoom>(result.result.get()).ok())
        .map(|event| event.room_id)
        .collect();
    wanted.sort_unstable();
    wanted.dedup();
    let mut state = BTreeMap::new();
    for viewer in found.viewers.values_mut().filter(|viewer| wanted.contains(&viewer.room().room_id)) {
        let room = Arc::clone(viewer.room());
        let Ok((snapshot, _)) = hs.rooms.readable_snapshot(&who.user_id, &room).await else { continue };
        let events = hs.rooms.store().state(snapshot).await?;
        let form = Form { with_bundles: false, ..rooms::form(who) };
        state.insert(room.room_id.clone(), hs.rooms.client_events(viewer, &events, form).await?);
    }
    Ok(state)
}

fn groups<K: Ord>(groups: BTreeMap<K, Group>) -> BTreeMap<K, GroupBody> {
    let body = |group: Group| GroupBody { order: group.order, results: group.results, next_batch: group.next };
    groups.into_iter().map(|(key, group)| (key, body(group))).collect()
}

impl From<SearchError> for ApiError {
    fn from(error: SearchError) -> Self {
        match error {
            SearchError::BadToken => Self::invalid_param("next_batch is not a token of this server"),
            SearchError::Rooms(error) => error.into(),
            SearchError::Accounts(error) => error.into(),
            SearchError::Storage(error) => error.into(),
        }
    }
}
