//! What a client wants to see, compiled so that a filter with a thousand entries costs no more than one with two.

use std::{collections::HashSet, sync::Arc};

use ruma::{
    OwnedUserId, UserId,
    api::client::filter::{
        EventFormat, Filter as PlainDefinition, FilterDefinition, LazyLoadOptions, RoomEventFilter, UrlFilter,
    },
};
use samtal_kit::{Cache, Memory};
use samtal_room::{RoomError, Store, StoredEvent};
use serde::Deserialize;

use crate::relations::RelationFilter;

/// Events of a room's timeline in an answer when the client names no limit.
const TIMELINE_LIMIT: usize = 10;
/// Most events of a room's timeline in an answer, whatever the client asks for.
const TIMELINE_LIMIT_MAX: usize = 100;

/// A set of names, some with `*` in them.
#[derive(Debug, Default)]
struct Names {
    exact: HashSet<String>,
    patterns: Vec<String>,
}

impl Names {
    fn new<T: AsRef<str>>(names: &[T]) -> Self {
        let (patterns, exact): (Vec<_>, Vec<_>) =
            names.iter().map(|name| name.as_ref().to_owned()).partition(|name| name.contains('*'));
        Self { exact: exact.into_iter().collect(), patterns }
    }

    fn has(&self, name: &str) -> bool {
        self.exact.contains(name) || self.patterns.iter().any(|pattern| matches(pattern, name))
    }

    fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.patterns.is_empty()
    }
}

/// Whether `name` is as `pattern`, in which `*` stands for any text.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    rest.is_empty()
}

/// Which events of one section are wanted.
#[derive(Debug, Default)]
pub struct EventFilter {
    types: Option<Names>,
    not_types: Names,
    senders: Option<Names>,
    not_senders: Names,
    rooms: Option<Names>,
    not_rooms: Names,
    contains_url: Option<bool>,
    limit: Option<usize>,
    relations: RelationFilter,
}

impl EventFilter {
    /// What a client wants to see of a room.
    pub fn of_room(definition: &RoomEventFilter) -> Self {
        Self {
            types: definition.types.as_deref().map(Names::new),
            not_types: Names::new(&definition.not_types),
            senders: definition.senders.as_deref().map(Names::new),
            not_senders: Names::new(&definition.not_senders),
            rooms: definition.rooms.as_deref().map(Names::new),
            not_rooms: Names::new(&definition.not_rooms),
            contains_url: definition.url_filter.as_ref().map(|url| matches!(url, UrlFilter::EventsWithUrl)),
            limit: definition.limit.and_then(|limit| usize::try_from(limit).ok()),
            relations: RelationFilter::default(),
        }
    }

    /// The same for the relations that the definition names, too.
    pub fn with_relations(self, relations: RelationFilter) -> Self {
        Self { relations, ..self }
    }

    fn of_other(definition: &PlainDefinition) -> Self {
        Self {
            types: definition.types.as_deref().map(Names::new),
            not_types: Names::new(&definition.not_types),
            senders: definition.senders.as_deref().map(Names::new),
            not_senders: Names::new(&definition.not_senders),
            limit: definition.limit.and_then(|limit| usize::try_from(limit).ok()),
            ..Self::default()
        }
    }

    /// Whether every event passes.
    pub fn passes_all(&self) -> bool {
        self.types.is_none()
            && self.not_types.is_empty()
            && self.senders.is_none()
            && self.not_senders.is_empty()
            && self.rooms.is_none()
            && self.not_rooms.is_empty()
            && self.contains_url.is_none()
            && self.relations.passes_all()
    }

    /// Whether nothing can pass.
    pub(crate) fn passes_none(&self) -> bool {
        let none = |names: &Option<Names>| names.as_ref().is_some_and(Names::is_empty);
        none(&self.types) || none(&self.senders) || none(&self.rooms) || self.limit == Some(0)
    }

    /// Whether the section is wanted for this room.
    pub fn passes_room(&self, room_id: &str) -> bool {
        self.rooms.as_ref().is_none_or(|rooms| rooms.has(room_id)) && !self.not_rooms.has(room_id)
    }

    /// Whether events of this type are wanted.
    pub(crate) fn passes_type(&self, event_type: &str) -> bool {
        self.types.as_ref().is_none_or(|types| types.has(event_type)) && !self.not_types.has(event_type)
    }

    /// Whether events of this sender are wanted.
    pub(crate) fn passes_sender(&self, sender: &str) -> bool {
        self.senders.as_ref().is_none_or(|senders| senders.has(sender)) && !self.not_senders.has(sender)
    }

    /// Whether an event with this content is wanted, as far as its `url` goes.
    pub(crate) fn passes_content(&self, content: &str) -> bool {
        #[derive(serde::Deserialize)]
        struct Url<'a> {
            #[serde(borrow)]
            url: Option<&'a serde_json::value::RawValue>,
        }
        self.contains_url.is_none_or(|wanted| {
            let has = serde_json::from_str::<Url<'_>>(content).is_ok_and(|content| content.url.is_some());
            has == wanted
        })
    }

    /// Whether an event is wanted, as far as it can be seen from itself.
    pub fn passes(&self, event_type: &str, sender: &str, content: &str) -> bool {
        self.passes_type(event_type)
            && self.passes_sender(sender)
            && self.passes_content(content)
            && self.relations.passes_content(content)
    }

    /// Whether an event is wanted, also by what others say of it.
    pub async fn passes_event(&self, store: &Store, event: &StoredEvent) -> Result<bool, RoomError> {
        let pdu = &event.pdu;
        Ok(self.passes(pdu.type_str(), pdu.sender().as_str(), pdu.content_str())
            && self.relations.passes_children(store, event).await?)
    }
}

/// How much of a room's members a client wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Members {
    /// All.
    #[default]
    All,
    /// Those whose events are shown, once.
    Lazy,
    /// Those whose events are shown, each time.
    LazyRedundant,
}

/// What a client wants to see.
#[derive(Debug, Default)]
pub struct Filter {
    /// Timeline events.
    pub timeline: EventFilter,
    /// State events.
    pub state: EventFilter,
    /// Typing and receipts.
    pub ephemeral: EventFilter,
    /// Account data of rooms.
    pub room_account_data: EventFilter,
    /// Account data of the user.
    pub account_data: EventFilter,
    /// Presence.
    pub presence: EventFilter,
    /// How many member events.
    pub members: Members,
    /// Whether rooms that the user has left are shown from the start.
    pub include_leave: bool,
    /// Whether counts are told per thread.
    pub unread_threads: bool,
    /// Whether events come as servers exchange them.
    pub federation_format: bool,
    /// The only members of events that are wanted, as paths.
    pub event_fields: Option<Vec<Vec<String>>>,
    rooms: EventFilter,
}

/// Those parts of a definition that ruma leaves out.
#[derive(Default, Deserialize)]
struct Beside {
    #[serde(default)]
    room: BesideRoom,
}

#[derive(Default, Deserialize)]
struct BesideRoom {
    #[serde(default)]
    timeline: RelationFilter,
}

impl Filter {
    /// Reads a definition.
    pub fn parse(definition: &str) -> Result<Self, serde_json::Error> {
        let mut filter = Self::new(&serde_json::from_str(definition)?);
        let beside: Beside = serde_json::from_str(definition)?;
        filter.timeline.relations = beside.room.timeline;
        Ok(filter)
    }

    fn new(definition: &FilterDefinition) -> Self {
        let room = &definition.room;
        let lazy = [&room.state.lazy_load_options, &room.timeline.lazy_load_options];
        let members = lazy.into_iter().find_map(|options| match options {
            LazyLoadOptions::Enabled { include_redundant_members: true } => Some(Members::LazyRedundant),
            LazyLoadOptions::Enabled { .. } => Some(Members::Lazy),
            LazyLoadOptions::Disabled => None,
        });
        Self {
            timeline: EventFilter::of_room(&room.timeline),
            state: EventFilter::of_room(&room.state),
            ephemeral: EventFilter::of_room(&room.ephemeral),
            room_account_data: EventFilter::of_room(&room.account_data),
            account_data: EventFilter::of_other(&definition.account_data),
            presence: EventFilter::of_other(&definition.presence),
            members: members.unwrap_or_default(),
            include_leave: room.include_leave,
            unread_threads: room.timeline.unread_thread_notifications,
            federation_format: definition.event_format == EventFormat::Federation,
            event_fields: definition
                .event_fields
                .as_ref()
                .map(|fields| fields.iter().map(|field| path(field)).collect()),
            rooms: EventFilter {
                rooms: room.rooms.as_deref().map(Names::new),
                not_rooms: Names::new(&room.not_rooms),
                ..EventFilter::default()
            },
        }
    }

    /// Whether anything of this room is wanted.
    pub fn passes_room(&self, room_id: &str) -> bool {
        self.rooms.passes_room(room_id)
    }

    /// How many timeline events of a room to show at most.
    pub fn timeline_limit(&self) -> usize {
        self.timeline.limit.unwrap_or(TIMELINE_LIMIT).min(TIMELINE_LIMIT_MAX)
    }

    /// Whether events can be shown as they are made for everyone: no other form, no chosen fields.
    pub(crate) fn plain_events(&self) -> bool {
        !self.federation_format && self.event_fields.is_none()
    }
}

/// Longest definition that is remembered, in bytes.
const REMEMBERED_BYTES_MAX: usize = 16_384;

/// Filters that were asked for lately, by user and by id or definition.
#[derive(Debug)]
pub(crate) struct Filters(Cache<(OwnedUserId, String), Arc<Filter>>);

impl Filters {
    pub(crate) fn new(memory: &Memory) -> Self {
        Self(Cache::new(memory))
    }

    pub(crate) fn get(&self, user_id: &UserId, named: &str) -> Option<Arc<Filter>> {
        self.0.get(&(user_id.to_owned(), named.to_owned()))
    }

    pub(crate) fn put(&self, user_id: &UserId, named: &str, filter: Filter) -> Arc<Filter> {
        let filter = Arc::new(filter);
        if named.len() <= REMEMBERED_BYTES_MAX {
            let bytes = 1_500 + 4 * named.len();
            self.0.put((user_id.to_owned(), named.to_owned()), Arc::clone(&filter), bytes);
        }
        filter
    }
}

/// The parts of a dot-separated path; `\.` is a dot and `\\` a backslash in a part.
fn path(field: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut letters = field.chars();
    while let Some(letter) = letters.next() {
        match (letter, parts.last_mut()) {
            ('.', _) => parts.push(String::new()),
            ('\\', Some(part)) => part.extend(letters.next()),
            (letter, Some(part)) => part.push(letter),
            (_, None) => {}
        }
    }
    parts
}

/// Only the members of `event` at `fields`.
pub fn select(event: &serde_json::Value, fields: &[Vec<String>]) -> serde_json::Value {
    use serde_json::{Map, Value};
    let mut chosen = Map::new();
    for field in fields {
        let mut from = Some(event);
        for part in field {
            from = from.and_then(|value| value.get(part));
        }
        let (Some(value), Some((last, parents))) = (from, field.split_last()) else { continue };
        let mut into = Some(&mut chosen);
        for parent in parents {
            into = into.and_then(|map| {
                map.entry(parent.as_str()).or_insert_with(|| Value::Object(Map::new())).as_object_mut()
            });
        }
        if let Some(map) = into {
            map.insert(last.clone(), value.clone());
        }
    }
    Value::Object(chosen)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn filter(definition: serde_json::Value) -> Filter {
        Filter::parse(&definition.to_string()).unwrap()
    }

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, name, expected) in [
            ("m.room.*", "m.room.message", true),
            ("m.room.*", "m.roommessage", false),
            ("*", "", true),
            ("*message", "m.room.message", true),
            ("m.*.mess*e", "m.room.message", true),
            ("m.*room.*room", "m.room", false),
            ("m.*", "x.m.room", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn what_is_excluded_beats_what_is_wanted() {
        let filter = filter(json!({ "room": { "timeline": {
            "types": ["m.room.*"], "not_types": ["m.room.member"], "not_senders": ["@bad:a"], "contains_url": true,
        } } }));
        assert!(filter.timeline.passes("m.room.message", "@u:a", r#"{"url":"mxc://a/b"}"#));
        assert!(!filter.timeline.passes("m.room.message", "@u:a", "{}"));
        assert!(!filter.timeline.passes("m.room.member", "@u:a", r#"{"url":""}"#));
        assert!(!filter.timeline.passes("m.room.message", "@bad:a", r#"{"url":""}"#));
        assert!(!filter.timeline.passes("m.reaction", "@u:a", r#"{"url":""}"#));
    }

    #[test]
    fn a_filter_with_a_thousand_entries_still_tells_them_apart() {
        let types: Vec<_> = (0..1_000).map(|n| format!("t{n}")).collect();
        let filter = filter(json!({ "room": { "timeline": { "types": types, "limit": 1_000 } } }));
        assert!(filter.timeline.passes_type("t999"));
        assert!(!filter.timeline.passes_type("t1000"));
        assert_eq!(filter.timeline_limit(), TIMELINE_LIMIT_MAX);
    }

    #[test]
    fn chosen_fields_keep_their_place_and_escaped_dots_are_part_of_a_name() {
        let event = json!({ "type": "t", "content": { "body": "b", "m.relates_to": { "x": 1 } }, "sender": "s" });
        let fields = ["type", "content.body", r"content.m\.relates_to.x", "absent.y"].map(path);
        assert_eq!(
            select(&event, &fields),
            json!({ "type": "t", "content": { "body": "b", "m.relates_to": { "x": 1 } } })
        );
    }
}
