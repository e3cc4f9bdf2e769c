//! What of an event can be searched.

use samtal_event::Pdu;
use samtal_room::{Relation, StoredEvent};
use serde::Deserialize;

/// Where in an event a text stands (CS API, "Server Side Search": `keys`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// `content.body` of a message.
    Body,
    /// `content.name` of a room's name.
    Name,
    /// `content.topic` of a room's topic.
    Topic,
}

impl Key {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Body, Self::Name, Self::Topic];

    pub(crate) const fn code(self) -> i64 {
        match self {
            Self::Body => 0,
            Self::Name => 1,
            Self::Topic => 2,
        }
    }
}

#[derive(Deserialize)]
struct Message {
    body: Option<String>,
    #[serde(rename = "m.new_content")]
    new: Option<New>,
    #[serde(rename = "m.relates_to")]
    relates_to: Option<RelatesTo>,
}

#[derive(Deserialize)]
struct New {
    body: Option<String>,
}

#[derive(Deserialize)]
struct RelatesTo {
    #[serde(rename = "m.in_reply_to")]
    reply: Option<serde::de::IgnoredAny>,
}

/// Where the event's text stands, if it has one that is searched. Edits have none: they change that of another event.
pub(crate) fn key(pdu: &Pdu) -> Option<Key> {
    match (pdu.type_str(), pdu.state_key()) {
        ("m.room.message", None) if edited(pdu).is_none() => Some(Key::Body),
        ("m.room.name", Some("")) => Some(Key::Name),
        ("m.room.topic", Some("")) => Some(Key::Topic),
        _ => None,
    }
}

/// The event that a message is an edit of.
pub(crate) fn edited(pdu: &Pdu) -> Option<String> {
    if pdu.type_str() != "m.room.message" || pdu.is_state() {
        return None;
    }
    Relation::of(pdu).filter(|relation| relation.rel_type == "m.replace").map(|relation| relation.event_id)
}

/// The event's text, as its newest edit has it.
pub(crate) fn text(event: &StoredEvent, edit: Option<&StoredEvent>) -> Option<String> {
    match key(&event.pdu)? {
        Key::Name => event.pdu.content_field("name"),
        Key::Topic => event.pdu.content_field("topic"),
        Key::Body => match edit {
            Some(edit) => edit.pdu.content_as::<Message>().ok()?.new?.body,
            None => {
                let message: Message = event.pdu.content_as().ok()?;
                let body = message.body?;
                Some(match message.relates_to.and_then(|relation| relation.reply) {
                    Some(_) => without_quote(&body).to_owned(),
                    None => body,
                })
            }
        },
    }
    .filter(|text: &String| !text.is_empty())
}

/// Replies of older clients begin with what they reply to: lines with `> `, then an empty one.
fn without_quote(body: &str) -> &str {
    let mut rest = body;
    while rest.starts_with("> ") {
        match rest.split_once('\n') {
            Some((_, after)) => rest = after,
            None => return body,
        }
    }
    rest.strip_prefix('\n').unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_reply_quotes_is_not_its_own_text() {
        assert_eq!(without_quote("> <@a:b> hello\n> there\n\nyes"), "yes");
        assert_eq!(without_quote("no quote"), "no quote");
        assert_eq!(without_quote("> only"), "> only");
    }
}
