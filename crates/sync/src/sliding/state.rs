//! The state of a room in view: what is wanted of it and new to the reader, and what is gone.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use ruma::{OwnedUserId, UserId};
use samtal_room::{EventNid, Room, StoredEvent};
use samtal_state::{Part, SnapshotId};

use super::{
    Turn,
    connection::{MEMBERS_MAX, Told},
    request::Shape,
    required::Required,
    room::Stretch,
};
use crate::{Sync, SyncError, json::Object, span::Timeline, state::member, summary::Summary};

/// The member event type.
const MEMBER: &str = "m.room.member";

/// A room whose state is told.
pub(super) struct Telling<'a> {
    pub(super) turn: &'a Turn<'a>,
    pub(super) room: &'a Room,
    /// What the reader has of it.
    pub(super) known: Option<&'a Told>,
    pub(super) stretch: &'a Stretch,
    pub(super) timeline: &'a Timeline,
}

impl Sync {
    /// The state events that are wanted and new to the reader.
    pub(super) async fn sliding_state(
        &self,
        telling: &Telling<'_>,
        next: &mut Told,
    ) -> Result<Vec<Arc<StoredEvent>>, SyncError> {
        let Telling { known, stretch, timeline, .. } = *telling;
        let store = self.store();
        let required = Arc::clone(&next.required);
        let mut chosen: Vec<Arc<StoredEvent>> = Vec::new();
        let mut here: HashSet<EventNid> = HashSet::new();
        let mut add = |event: Arc<StoredEvent>| {
            if here.insert(event.nid) {
                chosen.push(event);
            }
        };
        if let (Some(from), Some(known)) = (stretch.from, known) {
            let shown: HashSet<&str> = timeline.events.iter().map(|event| event.pdu.sender().as_str()).collect();
            for event in store.state_delta(from, stretch.end).await? {
                let (event_type, key) = (event.pdu.type_str(), event.pdu.state_key().unwrap_or_default());
                let lazily = event_type == MEMBER
                    && required.is_lazy()
                    && (!timeline.limited || shown.contains(key) || known.members.iter().any(|member| member == key));
                if required.wants(event_type, key) || lazily {
                    add(event);
                }
            }
            if *known.required != *required {
                for event in self.all_required(&required, stretch.end).await? {
                    let (event_type, key) = (event.pdu.type_str(), event.pdu.state_key().unwrap_or_default());
                    if !known.required.wants(event_type, key) {
                        add(event);
                    }
                }
            }
        } else {
            for event in self.all_required(&required, stretch.end).await? {
                add(event);
            }
        }
        if required.is_lazy() {
            for event in self.sliding_members(telling, next).await? {
                add(event);
            }
        }
        Ok(chosen)
    }

    /// The membership events of those whom the reader does not know yet and needs for the timeline.
    async fn sliding_members(
        &self,
        telling: &Telling<'_>,
        next: &mut Told,
    ) -> Result<Vec<Arc<StoredEvent>>, SyncError> {
        let Telling { turn, room, known, stretch, timeline } = *telling;
        let store = self.store();
        let mut members: HashSet<OwnedUserId> = (*next.members).clone();
        if known.is_none() || members.len() > MEMBERS_MAX {
            members.clear();
        }
        let mut needed: BTreeSet<OwnedUserId> =
            timeline.events.iter().map(|event| event.pdu.sender().to_owned()).collect();
        // Whose membership the timeline shows is told of, too.
        let shown = timeline.events.iter().filter(|event| event.pdu.type_str() == MEMBER);
        needed.extend(shown.filter_map(|event| UserId::parse(event.pdu.state_key()?).ok()));
        if known.is_none() {
            let summary = Summary::read(store, room, stretch.end, &turn.request.user_id).await?;
            needed.extend(summary.heroes.into_iter().flatten());
        }
        let mut events = Vec::new();
        for user_id in needed {
            if !members.contains(&user_id) && !next.required.wants_member(&user_id) {
                events.extend(member(store, stretch.end, &user_id).await?);
                members.insert(user_id);
            }
        }
        if members.len() != next.members.len() || known.is_none() {
            next.members = Arc::new(members);
        }
        Ok(events)
    }

    /// State that was wanted and is no more: type and state key, without content. The deployed shape has no way to say it.
    pub(super) async fn sliding_gone(
        &self,
        turn: &Turn<'_>,
        known: Option<&Told>,
        stretch: &Stretch,
    ) -> Result<Vec<String>, SyncError> {
        let (Shape::Accepted, Some(from), Some(known)) = (turn.request.shape, stretch.from, known) else {
            return Ok(Vec::new());
        };
        let mut gone = Vec::new();
        for difference in self.store().snapshots.diff(from, stretch.end).await? {
            let (Some(before), None) = (difference.before, difference.after) else { continue };
            let event = self.store().graph.event_by_nid(before).await?;
            let (event_type, key) = (event.pdu.type_str(), event.pdu.state_key().unwrap_or_default());
            if known.required.wants(event_type, key) {
                let mut json = String::new();
                let mut object = Object::new(&mut json);
                object.text("type", event_type);
                object.text("state_key", key);
                object.end();
                gone.push(json);
            }
        }
        Ok(gone)
    }

    /// All that is wanted of a state.
    async fn all_required(&self, required: &Required, state: SnapshotId) -> Result<Vec<Arc<StoredEvent>>, SyncError> {
        let store = self.store();
        let mut events = Vec::new();
        if required.has_patterns() {
            let all = store.state_part(state, Part::Other).await?;
            events.extend(
                all.into_iter()
                    .filter(|event| required.wants(event.pdu.type_str(), event.pdu.state_key().unwrap_or_default())),
            );
        } else {
            for (event_type, key) in required.exact() {
                if event_type != MEMBER && required.wants(event_type, key) {
                    events.extend(store.state_event(state, event_type, key).await?);
                }
            }
        }
        if required.wants_all_members() {
            events.extend(store.state_part(state, Part::Members).await?);
        } else {
            for (event_type, key) in required.exact() {
                if event_type == MEMBER {
                    events.extend(store.state_event(state, MEMBER, key).await?);
                }
            }
        }
        Ok(events)
    }
}
