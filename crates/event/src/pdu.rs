//! A checked event, as every other crate holds it.

use std::{borrow::Cow, fmt, ops::Range, sync::Arc};

use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UInt, UserId,
    events::{StateEventType, TimelineEventType},
    room_version_rules::RoomVersionRules,
    state_res::Event,
};
use serde::{
    Deserialize,
    de::{self, DeserializeOwned, IgnoredAny, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::{
    json::JsonError,
    limits::DEPTH_MAX,
    rules::{id_in_event, room_id_is_hash},
};

/// An event that went through all checks of format and signature: immutable, and cheap to clone.
///
/// Holds the text servers exchange (canonical JSON with `hashes` and `signatures`, without
/// `unsigned`) once, and the fields the engines ask for. Content is read from the text when asked.
#[derive(Clone)]
pub struct Pdu {
    inner: Arc<Inner>,
    rejected: bool,
}

struct Inner {
    event_id: OwnedEventId,
    room_id: OwnedRoomId,
    /// Whether `room_id` stands in the text (not so for create events from room version 12).
    room_id_in_text: bool,
    sender: OwnedUserId,
    event_type: TimelineEventType,
    state_key: Option<Box<str>>,
    origin_server_ts: MilliSecondsSinceUnixEpoch,
    depth: i64,
    prev_events: Box<[OwnedEventId]>,
    auth_events: Box<[OwnedEventId]>,
    redacts: Option<OwnedEventId>,
    json: Box<str>,
    type_text: Box<str>,
    content: Range<u32>,
    sticky: Range<u32>,
}

/// A stored text that is not an event: the store is damaged, or the text is not from us.
#[derive(Debug, thiserror::Error)]
pub enum StoredPduError {
    /// Not JSON of the right shape.
    #[error("stored event does not parse")]
    Json(#[from] serde_json::Error),
    /// Not JSON as our own reader sees it.
    #[error("stored event is not JSON")]
    Canonical(#[from] JsonError),
    /// A field is missing or has a form it cannot have.
    #[error("stored event has a missing or bad {0}")]
    Field(&'static str),
}

#[derive(Deserialize)]
struct Text<'a> {
    #[serde(borrow)]
    auth_events: Edges<'a>,
    #[serde(borrow)]
    content: &'a RawValue,
    #[serde(borrow)]
    depth: &'a RawValue,
    #[serde(borrow)]
    origin_server_ts: &'a RawValue,
    #[serde(borrow)]
    prev_events: Edges<'a>,
    #[serde(borrow, default)]
    redacts: Option<&'a RawValue>,
    #[serde(borrow, default)]
    room_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    sender: Cow<'a, str>,
    #[serde(borrow, default)]
    state_key: Option<Cow<'a, str>>,
    #[serde(rename = "type", borrow)]
    event_type: Cow<'a, str>,
    #[serde(borrow, default)]
    msc4354_sticky: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct RedactsContent {
    redacts: OwnedEventId,
}

/// References to events, in either form: `id` or `[id, {"sha256": …}]`.
struct Edges<'a>(Vec<Cow<'a, str>>);

struct Edge<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Edges<'a> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let edges = Vec::<Edge<'a>>::deserialize(deserializer)?;
        Ok(Self(edges.into_iter().map(|edge| edge.0).collect()))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Edge<'a> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EdgeVisitor;
        impl<'de> Visitor<'de> for EdgeVisitor {
            type Value = Cow<'de, str>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an event ID or a pair of event ID and hashes")
            }
            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(text))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Cow::Owned(text.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let id: Edge<'de> = seq.next_element()?.ok_or_else(|| de::Error::invalid_length(0, &self))?;
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(id.0)
            }
        }
        deserializer.deserialize_any(EdgeVisitor).map(Edge)
    }
}

impl Edges<'_> {
    fn ids(&self, field: &'static str) -> Result<Box<[OwnedEventId]>, StoredPduError> {
        let id = |text: &Cow<'_, str>| OwnedEventId::try_from(text.as_ref()).map_err(|_| StoredPduError::Field(field));
        self.0.iter().map(id).collect()
    }
}

/// A number that may be larger than an event's should: what is too large saturates, fractions go.
fn saturating(raw: &RawValue, field: &'static str) -> Result<i64, StoredPduError> {
    let text = raw.get();
    if let Ok(number) = text.parse::<i64>() {
        return Ok(number.clamp(0, DEPTH_MAX));
    }
    let number: f64 = text.parse().map_err(|_| StoredPduError::Field(field))?;
    #[allow(clippy::cast_possible_truncation)]
    Ok((number as i64).clamp(0, DEPTH_MAX))
}

/// Where `part`, which borrows from `whole`, stands in it.
fn range_of(whole: &str, part: &str) -> Range<u32> {
    let from = (part.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize);
    let place = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
    place(from)..place(from + part.len())
}

impl Pdu {
    /// Read an event from the store (or any other place which holds our own canonical text).
    ///
    /// `event_id` is the name it is stored under; it is not computed again. Cheap: one pass over
    /// the text, no tree.
    ///
    /// # Errors
    /// When the text is not an event.
    pub fn from_stored(
        event_id: OwnedEventId,
        json: impl Into<Box<str>>,
        rules: &RoomVersionRules,
    ) -> Result<Self, StoredPduError> {
        let json: Box<str> = json.into();
        let text: Text<'_> = serde_json::from_str(&json)?;
        let room_id = match &text.room_id {
            Some(id) => OwnedRoomId::try_from(id.as_ref()),
            None if room_id_is_hash(rules) && text.event_type == "m.room.create" => {
                let hash = event_id.as_str().get(1..).unwrap_or_default();
                OwnedRoomId::try_from(format!("!{hash}"))
            }
            None => return Err(StoredPduError::Field("room_id")),
        }
        .map_err(|_| StoredPduError::Field("room_id"))?;
        let event_type = TimelineEventType::from(text.event_type.as_ref());
        let redacts = if event_type != TimelineEventType::RoomRedaction {
            None
        } else if rules.redaction.content_field_redacts {
            serde_json::from_str::<RedactsContent>(text.content.get()).ok().map(|content| content.redacts)
        } else {
            text.redacts.and_then(|raw| serde_json::from_str(raw.get()).ok())
        };
        let ts = saturating(text.origin_server_ts, "origin_server_ts")?;
        let ts = u64::try_from(ts).ok().and_then(|ts| UInt::try_from(ts).ok());
        let inner = Inner {
            room_id,
            room_id_in_text: text.room_id.is_some(),
            sender: OwnedUserId::try_from(text.sender.as_ref()).map_err(|_| StoredPduError::Field("sender"))?,
            event_type,
            state_key: text.state_key.as_deref().map(Into::into),
            origin_server_ts: MilliSecondsSinceUnixEpoch(ts.ok_or(StoredPduError::Field("origin_server_ts"))?),
            depth: saturating(text.depth, "depth")?,
            prev_events: text.prev_events.ids("prev_events")?,
            auth_events: text.auth_events.ids("auth_events")?,
            redacts,
            type_text: text.event_type.as_ref().into(),
            content: range_of(&json, text.content.get()),
            sticky: text.msc4354_sticky.map_or(0..0, |raw| range_of(&json, raw.get())),
            event_id,
            json,
        };
        debug_assert!(!id_in_event(rules) || inner.json.contains("\"event_id\""));
        Ok(Self { inner: Arc::new(inner), rejected: false })
    }

    /// The event's ID.
    #[must_use]
    pub fn event_id(&self) -> &EventId {
        &self.inner.event_id
    }

    /// The room, also for create events that do not carry it (room version 12).
    #[must_use]
    pub fn room_id(&self) -> &RoomId {
        &self.inner.room_id
    }

    /// Who sent it.
    #[must_use]
    pub fn sender(&self) -> &UserId {
        &self.inner.sender
    }

    /// The event type.
    #[must_use]
    pub fn event_type(&self) -> &TimelineEventType {
        &self.inner.event_type
    }

    /// The event type as text.
    #[must_use]
    pub fn type_str(&self) -> &str {
        &self.inner.type_text
    }

    /// The state key; present exactly for state events.
    #[must_use]
    pub fn state_key(&self) -> Option<&str> {
        self.inner.state_key.as_deref()
    }

    /// Whether it is a state event.
    #[must_use]
    pub fn is_state(&self) -> bool {
        self.inner.state_key.is_some()
    }

    /// Whether it is the state event of this type and state key.
    #[must_use]
    pub fn is_state_of(&self, event_type: &str, state_key: &str) -> bool {
        self.type_str() == event_type && self.state_key() == Some(state_key)
    }

    /// Type and state key of a state event.
    #[must_use]
    pub fn state_pair(&self) -> Option<(StateEventType, &str)> {
        Some((StateEventType::from(self.type_str()), self.state_key()?))
    }

    /// The content as it stands in the text.
    #[must_use]
    pub fn content_str(&self) -> &str {
        self.part(&self.inner.content)
    }

    /// The content as raw JSON. Scans it once more; prefer [`Self::content_str`] to pass it on.
    #[must_use]
    pub fn content(&self) -> &RawValue {
        serde_json::from_str(self.content_str()).unwrap_or(RawValue::NULL)
    }

    /// Read the content as `T`.
    ///
    /// # Errors
    /// When it has another shape; content is not checked before.
    pub fn content_as<'a, T: Deserialize<'a>>(&'a self) -> serde_json::Result<T> {
        serde_json::from_str(self.content_str())
    }

    /// Read one key of the content, or nothing when it is absent or has another shape.
    #[must_use]
    pub fn content_field<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        let fields: std::collections::HashMap<Cow<'_, str>, &RawValue> = self.content_as().ok()?;
        serde_json::from_str(fields.get(key)?.get()).ok()
    }

    /// When the sending server says it was made.
    #[must_use]
    pub fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        self.inner.origin_server_ts
    }

    /// The same in milliseconds, as stored.
    #[must_use]
    pub fn origin_server_ts_ms(&self) -> i64 {
        i64::from(self.inner.origin_server_ts.get())
    }

    /// Depth in the graph, 0 to [`DEPTH_MAX`].
    #[must_use]
    pub fn depth(&self) -> i64 {
        self.inner.depth
    }

    /// The events it follows.
    #[must_use]
    pub fn prev_events(&self) -> &[OwnedEventId] {
        &self.inner.prev_events
    }

    /// The events that allow it.
    #[must_use]
    pub fn auth_events(&self) -> &[OwnedEventId] {
        &self.inner.auth_events
    }

    /// The event it redacts: from `content` since room version 11, else the top-level field.
    #[must_use]
    pub fn redacts(&self) -> Option<&EventId> {
        self.inner.redacts.as_deref()
    }

    /// MSC4354 `msc4354_sticky` as raw JSON, if the event carries it.
    #[must_use]
    pub fn sticky_str(&self) -> Option<&str> {
        Some(self.part(&self.inner.sticky)).filter(|text| !text.is_empty())
    }

    /// The text servers exchange: canonical JSON with hashes and signatures, without `unsigned`.
    #[must_use]
    pub fn json(&self) -> &str {
        &self.inner.json
    }

    /// The same as raw JSON, for federation answers.
    #[must_use]
    pub fn to_raw(&self) -> Box<RawValue> {
        RawValue::from_string(self.inner.json.to_string()).unwrap_or_else(|_| RawValue::NULL.to_owned())
    }

    /// Whether it failed the checks on receipt.
    #[must_use]
    pub fn is_rejected(&self) -> bool {
        self.rejected
    }

    /// The same event with the mark of rejection set or cleared.
    #[must_use]
    pub fn with_rejected(mut self, rejected: bool) -> Self {
        self.rejected = rejected;
        self
    }

    /// About how many bytes it takes in memory, for caches.
    #[must_use]
    pub fn weight(&self) -> usize {
        let edges = self.inner.prev_events.len() + self.inner.auth_events.len();
        self.inner.json.len() + edges * 64 + 400
    }

    fn part(&self, range: &Range<u32>) -> &str {
        let range = range.start as usize..range.end as usize;
        self.inner.json.get(range).unwrap_or_default()
    }
}

impl fmt::Debug for Pdu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pdu")
            .field("event_id", &self.inner.event_id)
            .field("type", &self.inner.type_text)
            .field("state_key", &self.inner.state_key)
            .field("sender", &self.inner.sender)
            .finish_non_exhaustive()
    }
}

/// Equal when it is the same event with the same text (a redacted copy is not equal).
impl PartialEq for Pdu {
    fn eq(&self, other: &Self) -> bool {
        self.inner.event_id == other.inner.event_id && self.inner.json == other.inner.json
    }
}

impl Eq for Pdu {}

impl Event for Pdu {
    type Id = OwnedEventId;

    fn event_id(&self) -> &OwnedEventId {
        &self.inner.event_id
    }
    fn room_id(&self) -> Option<&RoomId> {
        self.inner.room_id_in_text.then_some(&*self.inner.room_id)
    }
    fn sender(&self) -> &UserId {
        &self.inner.sender
    }
    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        self.inner.origin_server_ts
    }
    fn event_type(&self) -> &TimelineEventType {
        &self.inner.event_type
    }
    fn content(&self) -> &RawValue {
        Pdu::content(self)
    }
    fn state_key(&self) -> Option<&str> {
        Pdu::state_key(self)
    }
    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.inner.prev_events.iter())
    }
    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.inner.auth_events.iter())
    }
    fn redacts(&self) -> Option<&OwnedEventId> {
        self.inner.redacts.as_ref()
    }
    fn rejected(&self) -> bool {
        self.rejected
    }
}
