//! From foreign bytes to a well-formed event. Format and limits are checked here and only here.

use std::borrow::Cow;

use ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId, UserId, room_version_rules::RoomVersionRules};
use serde::Deserialize;

use crate::{
    hash::event_id,
    json::{self, JsonError, Numbers, Object, Value},
    limits::{AUTH_EVENTS_MAX, ID_BYTES_MAX, PDU_BYTES_MAX, PREV_EVENTS_MAX},
    pdu::{Pdu, StoredPduError},
    rules::{edges_are_pairs, id_in_event, room_id_is_hash},
};

/// Where an event comes from, which decides which limits hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Sent to us now, or fetched as a single event: all limits.
    Live,
    /// Old history or state we asked for: old events may exceed the number of edges.
    History,
}

/// Why bytes are not an event of the room version; the event is dropped.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// Not JSON, or not canonical where it has to be.
    #[error("bad JSON: {0}")]
    Json(#[from] JsonError),
    /// Larger than [`PDU_BYTES_MAX`].
    #[error("event is larger than {PDU_BYTES_MAX} bytes")]
    TooLarge,
    /// A field is missing or has the wrong shape.
    #[error("missing or malformed {0}")]
    Field(&'static str),
    /// A field is longer than [`ID_BYTES_MAX`].
    #[error("{0} is too long")]
    TooLong(&'static str),
    /// Too many `prev_events` or `auth_events`.
    #[error("too many {0}")]
    TooMany(&'static str),
    /// Our own reader and the stored form disagree.
    #[error("malformed event")]
    Stored(#[from] StoredPduError),
}

/// A well-formed event whose signatures nobody has checked yet.
#[derive(Clone, Debug)]
pub struct ParsedPdu {
    pub(crate) pdu: Pdu,
    over_long: bool,
}

/// The little one has to know of foreign bytes before the room version is known.
#[derive(Debug, Deserialize)]
pub struct Peek<'a> {
    /// The room, absent in create events of room version 12.
    #[serde(default)]
    pub room_id: Option<OwnedRoomId>,
    /// The event type.
    #[serde(rename = "type", borrow, default)]
    pub event_type: Cow<'a, str>,
    /// Who claims to have sent it.
    #[serde(borrow, default)]
    pub sender: Cow<'a, str>,
    /// Only meaningful in room versions 1 and 2.
    #[serde(default)]
    pub event_id: Option<OwnedEventId>,
}

/// Look at foreign bytes, to learn which room's rules to read them with.
#[must_use]
pub fn peek(bytes: &[u8]) -> Option<Peek<'_>> {
    // serde would take an array for a struct too.
    let is_object = bytes.trim_ascii_start().first() == Some(&b'{');
    serde_json::from_slice(bytes).ok().filter(|_| is_object)
}

/// Which numbers the room version allows.
pub(crate) fn numbers_of(rules: &RoomVersionRules) -> Numbers {
    if rules.authorization.strict_canonical_json { Numbers::Strict } else { Numbers::Lax }
}

impl ParsedPdu {
    /// Read an event that was sent to us now.
    ///
    /// # Errors
    /// When it is malformed or over a limit: it is dropped.
    pub fn from_bytes(bytes: &[u8], rules: &RoomVersionRules) -> Result<Self, FormatError> {
        Self::from_bytes_of(bytes, rules, Origin::Live)
    }

    /// Read an event; `unsigned` is taken off before anything is measured.
    ///
    /// # Errors
    /// When it is malformed or over a limit: it is dropped.
    pub fn from_bytes_of(bytes: &[u8], rules: &RoomVersionRules, origin: Origin) -> Result<Self, FormatError> {
        let text = std::str::from_utf8(bytes).map_err(|_| JsonError::Utf8)?;
        let mut event = json::parse_object(text, numbers_of(rules))?;
        event.remove("unsigned");
        Self::from_object(&event, rules, origin)
    }

    /// Check an event that is already in pieces.
    pub(crate) fn from_object(
        event: &Object<'_>,
        rules: &RoomVersionRules,
        origin: Origin,
    ) -> Result<Self, FormatError> {
        let canonical = event.to_canonical();
        if canonical.len() > PDU_BYTES_MAX {
            return Err(FormatError::TooLarge);
        }
        let over_long = check_format(event, rules, origin)?;
        let event_id = event_id(event, rules)?;
        let pdu = Pdu::from_stored(event_id, canonical, rules)?;
        Ok(Self { pdu, over_long })
    }

    /// The event's ID: computed from room version 3, a claim before.
    #[must_use]
    pub fn event_id(&self) -> &EventId {
        self.pdu.event_id()
    }

    /// The room it says it belongs to.
    #[must_use]
    pub fn room_id(&self) -> &RoomId {
        self.pdu.room_id()
    }

    /// Who it says sent it.
    #[must_use]
    pub fn sender(&self) -> &UserId {
        self.pdu.sender()
    }

    /// The event, unverified: for looking at only.
    #[must_use]
    pub fn unverified(&self) -> &Pdu {
        &self.pdu
    }

    /// Whether an identifier is over the limit in bytes but not in code points. Other servers once
    /// let such events into old rooms, so they must be kept, as rejected, for the graph to hold.
    #[must_use]
    pub fn must_be_rejected(&self) -> bool {
        self.over_long
    }
}

/// Checks fields; says whether one is over-long in the way old rooms tolerate.
fn check_format(event: &Object<'_>, rules: &RoomVersionRules, origin: Origin) -> Result<bool, FormatError> {
    // Servers counted code points until room version 11 made bytes explicit.
    let bytes_only = rules.redaction.content_field_redacts;
    let mut over_long = false;
    let mut field = |name: &'static str, required: bool| match event.get(name) {
        None if required => Err(FormatError::Field(name)),
        None => Ok(()),
        Some(Value::String(text)) if text.len() <= ID_BYTES_MAX => Ok(()),
        Some(Value::String(text)) if !bytes_only && text.chars().count() <= ID_BYTES_MAX => {
            over_long = true;
            Ok(())
        }
        Some(Value::String(_)) => Err(FormatError::TooLong(name)),
        Some(_) => Err(FormatError::Field(name)),
    };
    field("type", true)?;
    field("sender", true)?;
    field("state_key", false)?;
    field("event_id", id_in_event(rules))?;
    let create_without_room = room_id_is_hash(rules) && event.text("type") == Some("m.room.create");
    if create_without_room && event.get("room_id").is_some() {
        return Err(FormatError::Field("room_id"));
    }
    field("room_id", !create_without_room)?;

    edges(event, "prev_events", PREV_EVENTS_MAX, rules, origin)?;
    edges(event, "auth_events", AUTH_EVENTS_MAX, rules, origin)?;
    if !matches!(event.get("content"), Some(Value::Object(_))) {
        return Err(FormatError::Field("content"));
    }
    for name in ["hashes", "signatures"] {
        if !matches!(event.get(name), Some(Value::Object(_))) {
            return Err(FormatError::Field(name));
        }
    }
    for name in ["depth", "origin_server_ts"] {
        match event.get(name) {
            // Before room version 6 anything that is a number has to be lived with.
            Some(Value::Number(_)) if numbers_of(rules) == Numbers::Lax => {}
            Some(value) if value.as_int().is_some_and(|number| number >= 0) => {}
            _ => return Err(FormatError::Field(name)),
        }
    }
    Ok(over_long)
}

fn edges(
    event: &Object<'_>,
    name: &'static str,
    most: usize,
    rules: &RoomVersionRules,
    origin: Origin,
) -> Result<(), FormatError> {
    let items = event.get(name).and_then(Value::as_array).ok_or(FormatError::Field(name))?;
    if origin == Origin::Live && items.len() > most {
        return Err(FormatError::TooMany(name));
    }
    for item in items {
        let good = match item {
            Value::String(_) => !edges_are_pairs(rules),
            Value::Array(pair) => edges_are_pairs(rules) && matches!(pair.first(), Some(Value::String(_))),
            _ => false,
        };
        if !good {
            return Err(FormatError::Field(name));
        }
    }
    Ok(())
}
