//! Events that come as news though the room as it is here builds on them already.
//!
//! What we hold of a room's state from before we came has no place in the graph. If such an event comes later, because something
//! new names it as a previous event or because somebody likes to send it, nothing here tells by the graph alone that it is old:
//! what lies between is not here. Taken for news, it would end a branch of its own, with the state of long ago, and resolution
//! would undo what has been built on since: most of all the create event, before which there is no state at all.

use std::collections::HashSet;

use ruma::{EventId, OwnedEventId};
use samtal_event::Pdu;

use crate::{
    error::RoomError,
    graph::{StoredEvent, place_event},
    ids::EventNid,
    turn::Turn,
};

/// Auth events looked at to find out about one event.
const LOOKED_AT_MAX: usize = 1_000;

impl Turn<'_> {
    /// Whether this is a create event, and the room has another.
    pub(crate) async fn is_second_create(&mut self, pdu: &Pdu) -> Result<bool, RoomError> {
        if pdu.type_str() != "m.room.create" {
            return Ok(false);
        }
        let create = self.head.state(self.store, "m.room.create", "").await?;
        Ok(create.is_some_and(|create| create.event_id() != pdu.event_id()))
    }

    /// Whether an event that is held is part of the current state, or among the auth events of what is: then all that is new here
    /// builds on it. Not if the graph tells where it belongs: to history, or after what came while we were in the room.
    pub(crate) async fn is_below_head(&mut self, pdu: &Pdu, nid: EventNid) -> Result<bool, RoomError> {
        let Some(state_key) = pdu.state_key() else { return Ok(false) };
        if self.gap_of(pdu.event_id()).await?.is_some() || self.follows_news(pdu).await? {
            return Ok(false);
        }
        let sender = pdu.sender().to_string();
        let keys = [
            (pdu.type_str(), state_key),
            ("m.room.create", ""),
            ("m.room.power_levels", ""),
            ("m.room.join_rules", ""),
            ("m.room.member", &sender),
        ];
        let mut open: Vec<OwnedEventId> = Vec::new();
        for (event_type, state_key) in keys {
            if let Some(current) = self.head.state(self.store, event_type, state_key).await? {
                open.push(current.event_id().to_owned());
            }
        }
        let mut seen: HashSet<OwnedEventId> = HashSet::new();
        while let Some(id) = open.pop() {
            if *id == *pdu.event_id() {
                return Ok(true);
            }
            if seen.len() >= LOOKED_AT_MAX || !seen.insert(id.clone()) {
                continue;
            }
            // The numbers of auth events are less than those of the events that name them.
            if let Some(event) = self.find(&id).await?.filter(|event| event.nid > nid) {
                open.extend(event.pdu.auth_events().iter().cloned());
            }
        }
        Ok(false)
    }

    /// Whether all that an event follows came as news.
    async fn follows_news(&self, pdu: &Pdu) -> Result<bool, RoomError> {
        for id in pdu.prev_events() {
            if !self.is_news(id).await? {
                return Ok(false);
            }
        }
        Ok(!pdu.prev_events().is_empty())
    }

    /// Gives such an event its place in the graph, so that others may name it. Nobody is told; in the timeline it comes when the
    /// history down to it does.
    pub(crate) async fn place_below(&mut self, held: &StoredEvent, placed: StoredEvent) -> Result<(), RoomError> {
        let id: &EventId = held.pdu.event_id();
        let lacking = self.lacking(&held.pdu).await?;
        place_event(&mut self.batch, &placed, samtal_db::Value::Null, held.flags);
        self.rewrite(held.nid, id);
        self.log_placed(id);
        self.note_lacking(&lacking, &0.into());
        self.expect_later(placed, None);
        Ok(())
    }
}
