//! Events as clients see them, written straight from the stored text.

use ruma::{EventId, RoomId, UserId};
use serde_json::value::RawValue;

use crate::{json::write_string, pdu::Pdu};

/// What a server says about an event beside the event itself. Texts named `…_json` are JSON.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unsigned<'a> {
    /// Milliseconds since the event was made, by our clock.
    pub age_ms: Option<i64>,
    /// The client's transaction ID; only for the device that sent the event.
    pub transaction_id: Option<&'a str>,
    /// The reader's membership at the event.
    pub membership: Option<&'a str>,
    /// The content of the state event this one replaced.
    pub prev_content_json: Option<&'a str>,
    /// Who sent the state event this one replaced.
    pub prev_sender: Option<&'a UserId>,
    /// The state event this one replaced.
    pub replaces_state: Option<&'a EventId>,
    /// The redaction, in client form, if this is the redacted copy.
    pub redacted_because_json: Option<&'a str>,
    /// Bundled aggregations: the object under `m.relations`.
    pub relations_json: Option<&'a str>,
    /// Further members, such as `("msc4354_sticky_duration_ttl_ms", "5000")`.
    pub extra: &'a [(&'a str, &'a str)],
}

impl Unsigned<'_> {
    fn is_empty(&self) -> bool {
        self.age_ms.is_none()
            && self.transaction_id.is_none()
            && self.membership.is_none()
            && self.prev_content_json.is_none()
            && self.prev_sender.is_none()
            && self.replaces_state.is_none()
            && self.redacted_because_json.is_none()
            && self.relations_json.is_none()
            && self.extra.is_empty()
    }

    fn write(&self, out: &mut String) {
        out.push('{');
        let from = out.len();
        let mut raw = |key: &str, json: Option<&str>| {
            if let Some(json) = json {
                if out.len() > from {
                    out.push(',');
                }
                write_string(key, out);
                out.push(':');
                out.push_str(json);
            }
        };
        let quoted = |text: &str| {
            let mut json = String::with_capacity(text.len() + 2);
            write_string(text, &mut json);
            json
        };
        raw("age", self.age_ms.map(|age| age.to_string()).as_deref());
        raw("membership", self.membership.map(quoted).as_deref());
        raw("m.relations", self.relations_json);
        raw("prev_content", self.prev_content_json);
        raw("prev_sender", self.prev_sender.map(|user| quoted(user.as_str())).as_deref());
        raw("redacted_because", self.redacted_because_json);
        raw("replaces_state", self.replaces_state.map(|id| quoted(id.as_str())).as_deref());
        raw("transaction_id", self.transaction_id.map(quoted).as_deref());
        for (key, json) in self.extra {
            raw(key, Some(json));
        }
        out.push('}');
    }
}

/// Append the event in client form. `room_id` is given where the endpoint has it in the event
/// (`/messages`, `/event`, …) and left out where the room is known from around it (`/sync`).
///
/// The content goes through byte for byte. What a redaction redacts stands at the top level and in
/// the content, whatever the room version.
pub fn write_client(pdu: &Pdu, room_id: Option<&RoomId>, unsigned: &Unsigned<'_>, out: &mut String) {
    out.reserve(pdu.content_str().len() + 256);
    out.push_str("{\"content\":");
    match pdu.redacts() {
        Some(redacts) => write_redaction_content(pdu.content_str(), redacts, out),
        None => out.push_str(pdu.content_str()),
    }
    out.push_str(",\"event_id\":");
    write_string(pdu.event_id().as_str(), out);
    if let Some(sticky) = pdu.sticky_str() {
        out.push_str(",\"msc4354_sticky\":");
        out.push_str(sticky);
    }
    out.push_str(",\"origin_server_ts\":");
    out.push_str(&pdu.origin_server_ts_ms().to_string());
    if let Some(redacts) = pdu.redacts() {
        out.push_str(",\"redacts\":");
        write_string(redacts.as_str(), out);
    }
    if let Some(room_id) = room_id {
        out.push_str(",\"room_id\":");
        write_string(room_id.as_str(), out);
    }
    out.push_str(",\"sender\":");
    write_string(pdu.sender().as_str(), out);
    if let Some(state_key) = pdu.state_key() {
        out.push_str(",\"state_key\":");
        write_string(state_key, out);
    }
    out.push_str(",\"type\":");
    write_string(pdu.type_str(), out);
    if !unsigned.is_empty() {
        out.push_str(",\"unsigned\":");
        unsigned.write(out);
    }
    out.push('}');
}

fn write_redaction_content(content: &str, redacts: &EventId, out: &mut String) {
    use crate::json::{Numbers, parse_object};
    match parse_object(content, Numbers::Lax) {
        Ok(mut object) => {
            object.insert("redacts", redacts.as_str());
            object.write(out);
        }
        Err(_) => out.push_str(content),
    }
}

/// The event in client form.
#[must_use]
pub fn client_form(pdu: &Pdu, room_id: Option<&RoomId>, unsigned: &Unsigned<'_>) -> Box<RawValue> {
    let mut out = String::new();
    write_client(pdu, room_id, unsigned, &mut out);
    RawValue::from_string(out).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// The event as stripped state: content, sender, state key and type only. Of the create event also when it was sent
/// (MSC4311): a room's age helps to judge an invite.
#[must_use]
pub fn stripped_form(pdu: &Pdu) -> Box<RawValue> {
    let mut out = String::new();
    out.push_str("{\"content\":");
    out.push_str(pdu.content_str());
    if pdu.is_state_of("m.room.create", "") {
        out.push_str(",\"origin_server_ts\":");
        out.push_str(&pdu.origin_server_ts_ms().to_string());
    }
    out.push_str(",\"sender\":");
    write_string(pdu.sender().as_str(), &mut out);
    out.push_str(",\"state_key\":");
    write_string(pdu.state_key().unwrap_or_default(), &mut out);
    out.push_str(",\"type\":");
    write_string(pdu.type_str(), &mut out);
    out.push('}');
    RawValue::from_string(out).unwrap_or_else(|_| RawValue::NULL.to_owned())
}
