//! Which state events an answer must hold so that its reader ends with the right state.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use ruma::{OwnedUserId, UserId};
use samtal_room::{EventNid, RoomError, Store, StoredEvent};
use samtal_state::{Part, SnapshotId};

use crate::span::Timeline;

/// Where the reader stands, and where it is to get.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gap {
    /// The state that the reader has; none for a reader who has nothing.
    pub(crate) from: Option<SnapshotId>,
    /// The state before the first event of the timeline.
    pub(crate) start: SnapshotId,
    /// The state at the end of the timeline.
    pub(crate) end: SnapshotId,
    /// Whether the reader takes no state from the timeline (`state_after`).
    pub(crate) to_the_end: bool,
}

impl Gap {
    /// The state to which members must be told: that at the end, or that before the timeline.
    pub(crate) fn target(&self) -> SnapshotId {
        if self.to_the_end { self.end } else { self.start }
    }

    /// The state events to tell. `members` says whether all members are told to a reader who has nothing.
    ///
    /// To a reader who takes state from the timeline: for each key the event before the timeline, if the timeline brings
    /// the event at its end; the event at its end otherwise (state resolution changed it, or a filter hides it).
    pub(crate) async fn events(
        &self,
        store: &Store,
        timeline: &Timeline,
        all_members: bool,
    ) -> Result<Vec<Arc<StoredEvent>>, RoomError> {
        let Some(from) = self.from else {
            return self.everything(store, timeline, all_members).await;
        };
        if from == self.end && from == self.start {
            return Ok(Vec::new());
        }
        let to_end = store.snapshots.diff(from, self.end).await?;
        if self.to_the_end {
            let nids: Vec<EventNid> = to_end.iter().filter_map(|difference| difference.after).collect();
            return store.in_order(&nids).await;
        }
        let told: HashSet<EventNid> = timeline.events.iter().map(|event| event.nid).collect();
        let mut chosen = HashMap::new();
        for difference in store.snapshots.diff(from, self.start).await? {
            if let Some(after) = difference.after {
                chosen.insert((difference.part, difference.key), after);
            }
        }
        for difference in to_end {
            if let Some(after) = difference.after
                && !told.contains(&after)
            {
                chosen.insert((difference.part, difference.key), after);
            }
        }
        let mut nids: Vec<EventNid> = chosen.into_values().filter(|nid| !told.contains(nid)).collect();
        nids.sort_unstable();
        store.in_order(&nids).await
    }

    async fn everything(
        &self,
        store: &Store,
        timeline: &Timeline,
        all_members: bool,
    ) -> Result<Vec<Arc<StoredEvent>>, RoomError> {
        let target = self.target();
        let mut events = store.state_part(target, Part::Other).await?;
        if all_members {
            events.extend(store.state_part(target, Part::Members).await?);
        }
        if !self.to_the_end && self.start != self.end {
            let told: HashSet<EventNid> = timeline.events.iter().map(|event| event.nid).collect();
            let changed = store.snapshots.diff(self.start, self.end).await?;
            let missing: Vec<EventNid> = changed
                .iter()
                .filter(|difference| all_members || difference.part == Part::Other)
                .filter_map(|difference| difference.after)
                .filter(|nid| !told.contains(nid))
                .collect();
            for event in store.in_order(&missing).await? {
                let same = |other: &Arc<StoredEvent>| {
                    other.pdu.type_str() == event.pdu.type_str() && other.pdu.state_key() == event.pdu.state_key()
                };
                events.retain(|other| !same(other));
                events.push(event);
            }
        }
        Ok(events)
    }

    /// The member events of these users.
    pub(crate) async fn members(
        &self,
        store: &Store,
        users: &BTreeSet<OwnedUserId>,
    ) -> Result<Vec<(OwnedUserId, Arc<StoredEvent>)>, RoomError> {
        let mut found = Vec::with_capacity(users.len());
        for user_id in users {
            if let Some(event) = member(store, self.target(), user_id).await? {
                found.push((user_id.clone(), event));
            }
        }
        Ok(found)
    }
}

/// The member event of a user in a snapshot.
pub(crate) async fn member(
    store: &Store,
    snapshot: SnapshotId,
    user_id: &UserId,
) -> Result<Option<Arc<StoredEvent>>, RoomError> {
    store.state_event(snapshot, "m.room.member", user_id.as_str()).await
}
