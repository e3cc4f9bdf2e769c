//! From a user's wish to a signed event.

use std::collections::BTreeMap;

use ruma::{
    EventId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, ServerName, UserId,
    events::{StateEventType, TimelineEventType},
    room_version_rules::RoomVersionRules,
    signatures::{Ed25519KeyPair, KeyPair},
};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    hash::{content_hash, edge_hash, reference_hash},
    json::{self, JsonError, Numbers, Object, Value},
    limits::DEPTH_MAX,
    parse::{FormatError, Origin, ParsedPdu},
    pdu::{Pdu, StoredPduError},
    redact::write_event,
    rules::{edges_are_pairs, id_in_event, room_id_is_hash},
};

/// What a user wants to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// The event type.
    pub event_type: TimelineEventType,
    /// Present for state events.
    pub state_key: Option<String>,
    /// The event a redaction redacts; put where the room version wants it.
    pub redacts: Option<OwnedEventId>,
    /// Canonical JSON of an object.
    content: String,
    /// Top-level fields beyond the specification's, each canonical JSON.
    extra: BTreeMap<String, String>,
}

/// Why a wish cannot become an event.
#[derive(Debug, thiserror::Error)]
pub enum DraftError {
    /// The content is not an object, or not canonical JSON (floats, numbers out of range).
    #[error("content is not canonical JSON: {0}")]
    Content(#[from] JsonError),
    /// The content could not be written as JSON.
    #[error("content cannot be written as JSON")]
    Serialize(#[from] serde_json::Error),
}

impl Draft {
    /// A message-like event with content as the client sent it.
    ///
    /// # Errors
    /// When the content is not a canonical JSON object.
    pub fn message(event_type: impl Into<TimelineEventType>, content: &RawValue) -> Result<Self, DraftError> {
        Self::from_text(event_type.into(), None, content.get())
    }

    /// A state event with content as the client sent it.
    ///
    /// # Errors
    /// When the content is not a canonical JSON object.
    pub fn state(
        event_type: &StateEventType,
        state_key: impl Into<String>,
        content: &RawValue,
    ) -> Result<Self, DraftError> {
        let event_type = TimelineEventType::from(event_type.clone());
        Self::from_text(event_type, Some(state_key.into()), content.get())
    }

    /// A state event with content of ours.
    ///
    /// # Errors
    /// When the content does not become a canonical JSON object.
    pub fn state_of(
        event_type: &StateEventType,
        state_key: impl Into<String>,
        content: &impl Serialize,
    ) -> Result<Self, DraftError> {
        let event_type = TimelineEventType::from(event_type.clone());
        Self::from_text(event_type, Some(state_key.into()), &serde_json::to_string(content)?)
    }

    /// A message-like event with content of ours.
    ///
    /// # Errors
    /// When the content does not become a canonical JSON object.
    pub fn message_of(event_type: impl Into<TimelineEventType>, content: &impl Serialize) -> Result<Self, DraftError> {
        Self::from_text(event_type.into(), None, &serde_json::to_string(content)?)
    }

    /// An event with content as JSON text.
    ///
    /// # Errors
    /// When the content is not a canonical JSON object.
    pub fn from_text(
        event_type: TimelineEventType,
        state_key: Option<String>,
        content: &str,
    ) -> Result<Self, DraftError> {
        let content = json::parse_object(content, Numbers::Strict)?.to_canonical();
        Ok(Self { event_type, state_key, redacts: None, content, extra: BTreeMap::new() })
    }

    /// Set the event to redact.
    #[must_use]
    pub fn redacting(mut self, event_id: &EventId) -> Self {
        self.redacts = Some(event_id.to_owned());
        self
    }

    /// Add a top-level field, such as `msc4354_sticky`. The specification's own fields win.
    ///
    /// # Errors
    /// When the value is not canonical JSON.
    pub fn with_field(mut self, name: impl Into<String>, value: &str) -> Result<Self, DraftError> {
        let value = json::parse(value, Numbers::Strict)?.to_canonical();
        self.extra.insert(name.into(), value);
        Ok(self)
    }

    /// The content as canonical JSON.
    #[must_use]
    pub fn content(&self) -> &str {
        &self.content
    }

    /// The type as text.
    #[must_use]
    pub fn type_string(&self) -> String {
        self.event_type.to_string()
    }
}

/// An event placed in the graph, neither hashed nor signed.
///
/// As an [`Event`](ruma::state_res::Event) for the authorization rules use [`UnsignedPdu::preview`].
#[derive(Clone, Debug)]
pub struct UnsignedPdu {
    /// Canonical JSON without `hashes` and `signatures`.
    json: String,
    sender: OwnedUserId,
    room_id: Option<OwnedRoomId>,
}

/// A complete event of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedPdu(Pdu);

/// Why an event of ours cannot be completed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// Over a limit; the client is told `M_TOO_LARGE` or `M_INVALID_PARAM`.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The text does not parse; cannot happen for what [`build`] made.
    #[error(transparent)]
    Stored(#[from] StoredPduError),
}

/// Place a draft in the graph.
///
/// `room_id` is ignored for the create event of room version 12, whose hash is the room's ID; every
/// other event needs it. In room versions 1 and 2 the event's ID is of our choosing and set here;
/// from 3 it follows from the content.
#[must_use]
#[allow(clippy::too_many_arguments)] // They are the fields of an event; there is no smaller whole.
pub fn build(
    draft: &Draft,
    sender: &UserId,
    room_id: &RoomId,
    prev_events: &[&Pdu],
    auth_events: &[&Pdu],
    depth: i64,
    origin_server_ts_ms: i64,
    rules: &RoomVersionRules,
) -> UnsignedPdu {
    let content = json::parse_object(&draft.content, Numbers::Strict).unwrap_or_default();
    let event_type = draft.type_string();
    let mut event = Object::new();
    for (name, value) in &draft.extra {
        if let Ok(value) = json::parse(value, Numbers::Strict) {
            event.insert(name.as_str(), value);
        }
    }
    let mut content = content;
    if let Some(redacts) = &draft.redacts {
        if rules.redaction.content_field_redacts {
            content.insert("redacts", redacts.as_str());
        } else {
            event.insert("redacts", redacts.as_str());
        }
    }
    event.insert("auth_events", edge_list(auth_events, rules));
    event.insert("content", content);
    event.insert("depth", depth.clamp(0, DEPTH_MAX));
    event.insert("origin_server_ts", origin_server_ts_ms.max(0));
    event.insert("prev_events", edge_list(prev_events, rules));
    event.insert("sender", sender.as_str());
    let with_room = !(room_id_is_hash(rules) && event_type == "m.room.create");
    if with_room {
        event.insert("room_id", room_id.as_str());
    }
    if let Some(state_key) = &draft.state_key {
        event.insert("state_key", state_key.as_str());
    }
    event.insert("type", event_type.as_str());
    if id_in_event(rules) {
        // Unique, because it is drawn from all that makes the event; any opaque text would do.
        let local = edge_hash(reference_hash(&event, rules)).replace(['+', '/'], "x");
        event.insert("event_id", format!("${local}:{}", sender.server_name()));
    }
    UnsignedPdu {
        json: event.to_canonical(),
        sender: sender.to_owned(),
        room_id: with_room.then(|| room_id.to_owned()),
    }
}

fn edge_list<'a>(events: &[&Pdu], rules: &RoomVersionRules) -> Value<'a> {
    let edge = |pdu: &&Pdu| -> Value<'a> {
        let id = Value::from(pdu.event_id().to_string());
        if !edges_are_pairs(rules) {
            return id;
        }
        let mut hashes = Object::new();
        if let Ok(event) = json::parse_object(pdu.json(), Numbers::Lax) {
            hashes.insert("sha256", edge_hash(reference_hash(&event, rules)));
        }
        Value::Array(vec![id, Value::Object(hashes)])
    };
    Value::Array(events.iter().map(edge).collect())
}

impl UnsignedPdu {
    /// Completes the template another server made for a member event of a user of ours: what the handshake leaves to us is
    /// set (content, time, and the event ID in room versions 1 and 2), the place in the graph stays theirs.
    ///
    /// # Errors
    /// When the template is not an event of this room, sender and target, or the content is not canonical JSON.
    pub fn from_template(
        template: &str,
        sender: &UserId,
        room_id: &RoomId,
        content: &str,
        origin_server_ts_ms: i64,
        rules: &RoomVersionRules,
    ) -> Result<Self, FormatError> {
        let mut event = json::parse_object(template, Numbers::Strict)?;
        let content = json::parse_object(content, Numbers::Strict)?;
        for (name, expected) in [
            ("type", "m.room.member"),
            ("sender", sender.as_str()),
            ("state_key", sender.as_str()),
            ("room_id", room_id.as_str()),
        ] {
            if event.text(name) != Some(expected) {
                return Err(FormatError::Field(name));
            }
        }
        for name in ["unsigned", "signatures", "hashes", "event_id"] {
            event.remove(name);
        }
        event.insert("content", content);
        event.insert("origin", sender.server_name().as_str());
        event.insert("origin_server_ts", origin_server_ts_ms.max(0));
        if id_in_event(rules) {
            let local = edge_hash(reference_hash(&event, rules)).replace(['+', '/'], "x");
            event.insert("event_id", format!("${local}:{}", sender.server_name()));
        }
        Ok(Self { json: event.to_canonical(), sender: sender.to_owned(), room_id: Some(room_id.to_owned()) })
    }

    /// Who sends it.
    #[must_use]
    pub fn sender(&self) -> &UserId {
        &self.sender
    }

    /// The room; none for a create event of room version 12.
    #[must_use]
    pub fn room_id(&self) -> Option<&RoomId> {
        self.room_id.as_deref()
    }

    /// The text so far: the template that `make_join` and its kin answer with.
    #[must_use]
    pub fn json(&self) -> &str {
        &self.json
    }

    /// The event with hashes but without a signature, to ask the authorization rules before signing.
    /// Its ID is the final one from room version 3 on (signatures are not part of the hash).
    ///
    /// # Errors
    /// When it is over a limit.
    pub fn preview(&self, rules: &RoomVersionRules) -> Result<Pdu, SignError> {
        let mut event = json::parse_object(&self.json, Numbers::Strict).map_err(FormatError::from)?;
        hash(&mut event);
        event.object_mut("signatures");
        Ok(ParsedPdu::from_object(&event, rules, Origin::Live)?.pdu)
    }
}

fn hash(event: &mut Object<'_>) {
    let hash = content_hash(event);
    if let Some(hashes) = event.object_mut("hashes") {
        hashes.insert("sha256", hash);
    }
}

fn sign(event: &mut Object<'_>, server: &ServerName, key: &Ed25519KeyPair, rules: &RoomVersionRules) {
    let mut text = String::new();
    write_event(event, Some(&rules.redaction), &["signatures", "unsigned"], &mut text);
    let signature = key.sign(text.as_bytes());
    let of_server = event.object_mut("signatures").and_then(|signatures| signatures.object_mut(server.as_str()));
    if let Some(of_server) = of_server {
        of_server.insert(signature.id(), signature.base64());
    }
}

/// Hash and sign an event of ours, check its limits, and name it.
///
/// # Errors
/// When it is over a limit.
pub fn sign_and_hash(
    unsigned: &UnsignedPdu,
    server: &ServerName,
    key: &Ed25519KeyPair,
    rules: &RoomVersionRules,
) -> Result<SignedPdu, SignError> {
    let mut event = json::parse_object(&unsigned.json, Numbers::Strict).map_err(FormatError::from)?;
    hash(&mut event);
    sign(&mut event, server, key, rules);
    Ok(SignedPdu(ParsedPdu::from_object(&event, rules, Origin::Live)?.pdu))
}

/// Add our signature to an event somebody else made (an invite to our user, a restricted join we
/// vouch for).
///
/// # Errors
/// When the event becomes too large by it.
pub fn cosign(
    pdu: &Pdu,
    server: &ServerName,
    key: &Ed25519KeyPair,
    rules: &RoomVersionRules,
) -> Result<Pdu, SignError> {
    let mut event = json::parse_object(pdu.json(), Numbers::Lax).map_err(FormatError::from)?;
    sign(&mut event, server, key, rules);
    Ok(ParsedPdu::from_object(&event, rules, Origin::History)?.pdu.with_rejected(pdu.is_rejected()))
}

/// The same event with a signature that somebody else made, beside those it has.
///
/// # Errors
/// When it is over a limit with it.
pub fn with_signature(
    pdu: &Pdu,
    server: &ServerName,
    key_id: &str,
    signature: &str,
    rules: &RoomVersionRules,
) -> Result<Pdu, SignError> {
    let mut event = json::parse_object(pdu.json(), Numbers::Lax).map_err(FormatError::from)?;
    let of_server = event.object_mut("signatures").and_then(|signatures| signatures.object_mut(server.as_str()));
    if let Some(of_server) = of_server {
        of_server.insert(key_id.to_owned(), signature.to_owned());
    }
    Ok(ParsedPdu::from_object(&event, rules, Origin::History)?.pdu.with_rejected(pdu.is_rejected()))
}

impl SignedPdu {
    /// The event.
    #[must_use]
    pub fn pdu(&self) -> &Pdu {
        &self.0
    }

    /// The event.
    #[must_use]
    pub fn into_pdu(self) -> Pdu {
        self.0
    }
}
