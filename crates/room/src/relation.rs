//! What an event says about another: `m.relates_to`.

use ruma::EventId;
use samtal_db::{Batch, Sql, Value, params, sql};
use samtal_event::Pdu;
use serde::Deserialize;

use crate::ids::{EventNid, RoomNid};

const INSERT: Sql = sql!(
    "INSERT INTO relation (room, target, child, rel_type, event_type, sender, position, aggregation_key)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (room, target, child) DO NOTHING"
);
const REMOVE_CHILD: Sql = sql!("DELETE FROM relation WHERE child = $1");

#[derive(Deserialize)]
struct Content {
    #[serde(rename = "m.relates_to")]
    relates_to: Option<Relation>,
}

/// The relation that an event states.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Relation {
    /// `m.annotation`, `m.replace`, `m.thread`, `m.reference`, …
    pub rel_type: String,
    /// The event it is about.
    pub event_id: String,
    /// For annotations, what is aggregated by.
    pub key: Option<String>,
}

impl Relation {
    /// The relation in the content, if there is one with a type and a target.
    pub fn of(pdu: &Pdu) -> Option<Self> {
        Self::of_content(pdu.content_str())
    }

    /// The relation in a content, as JSON.
    pub fn of_content(content: &str) -> Option<Self> {
        if !content.contains("\"m.relates_to\"") {
            return None;
        }
        let relation = serde_json::from_str::<Content>(content).ok()?.relates_to?;
        let sane = relation.rel_type.len() <= 255 && EventId::parse(&relation.event_id).is_ok();
        sane.then_some(relation)
    }
}

/// Adds the row of the relation that a new event states.
pub(crate) fn insert(batch: &mut Batch, room: RoomNid, nid: EventNid, pdu: &Pdu, position: Value) {
    if pdu.is_state() {
        return;
    }
    if let Some(relation) = Relation::of(pdu) {
        batch.exec(
            &INSERT,
            params![
                room.0,
                relation.event_id,
                nid.0,
                relation.rel_type,
                pdu.type_str(),
                pdu.sender().as_str(),
                position,
                relation.key,
            ],
        );
    }
}

/// Adds that a redacted event relates to nothing any more.
pub(crate) fn remove(batch: &mut Batch, child: EventNid) {
    batch.exec(&REMOVE_CHILD, params![child.0]);
}
