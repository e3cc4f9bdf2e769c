//! Who may see which event: history visibility, decided in one place (CS API, "Room History Visibility").

use std::{collections::HashMap, sync::Arc};

use ruma::{
    OwnedUserId, UserId,
    events::room::{history_visibility::HistoryVisibility, member::MembershipState},
};
use samtal_model::StreamPosition;
use samtal_state::SnapshotId;

use crate::{
    Rooms,
    error::RoomError,
    graph::{Room, StoredEvent},
    membership::membership_of,
};

/// How many membership changes are followed back to find out when a user was last joined.
const WALK_MAX: usize = 50;

/// Judges events of one room for one user. Remembers what it found for each state, so that a run of messages costs one
/// look at the state.
#[derive(Debug)]
pub struct Viewer {
    rooms: Rooms,
    room: Arc<Room>,
    user: OwnedUserId,
    /// The device that they look from, which sees its own transaction ids.
    device_id: Option<String>,
    /// Up to where the user was joined at some later point: what `shared` asks for.
    joined_until: Option<StreamPosition>,
    known: HashMap<SnapshotId, (HistoryVisibility, MembershipState)>,
}

impl Rooms {
    /// Someone who looks at a room.
    pub async fn viewer(&self, user: &UserId, room: &Arc<Room>) -> Result<Viewer, RoomError> {
        let joined_until = self.joined_until(user, room).await?;
        Ok(Viewer {
            rooms: self.clone(),
            room: Arc::clone(room),
            user: user.to_owned(),
            device_id: None,
            joined_until,
            known: HashMap::new(),
        })
    }

    /// The position of the change that ended the user's last stay in the room; the end of time while they are in it.
    pub async fn joined_until(&self, user: &UserId, room: &Room) -> Result<Option<StreamPosition>, RoomError> {
        let store = &self.inner.store;
        let Some(now) = store.graph.membership(user, &room.room_id).await? else { return Ok(None) };
        if now.membership == MembershipState::Join {
            return Ok(Some(StreamPosition(i64::MAX)));
        }
        let mut event = store.graph.event(&now.event_id).await?;
        for _ in 0..WALK_MAX {
            let Some(current) = event else { return Ok(None) };
            let Some(before) = current.before else { return Ok(None) };
            let previous = store.state_event(before, "m.room.member", user.as_str()).await?;
            let Some(previous) = previous else { return Ok(None) };
            if membership_of(&previous.pdu) == Some(MembershipState::Join) {
                return Ok(current.position);
            }
            event = Some(previous);
        }
        Ok(None)
    }
}

impl Viewer {
    /// The same from this device, which sees its own transaction ids.
    #[must_use]
    pub fn on_device(mut self, device_id: Option<&str>) -> Self {
        self.device_id = device_id.map(ToOwned::to_owned);
        self
    }

    /// The transaction id of an event, if the device made it.
    pub fn transaction_id<'a>(&self, event: &'a StoredEvent) -> Option<&'a str> {
        let device_id = self.device_id.as_deref()?;
        if event.pdu.sender() == self.user { event.transaction_id_for(device_id) } else { None }
    }

    /// Whose eyes these are.
    pub fn user(&self) -> &UserId {
        &self.user
    }

    /// The room.
    pub fn room(&self) -> &Arc<Room> {
        &self.room
    }

    /// Whether the user is joined now.
    pub fn is_joined(&self) -> bool {
        self.joined_until == Some(StreamPosition(i64::MAX))
    }

    async fn at(&mut self, snapshot: SnapshotId) -> Result<(HistoryVisibility, MembershipState), RoomError> {
        if let Some(known) = self.known.get(&snapshot) {
            return Ok(known.clone());
        }
        let store = &self.rooms.inner.store;
        let keys = [store.key("m.room.history_visibility", ""), store.key("m.room.member", self.user.as_str())];
        let found = store.snapshots.get_many(snapshot, &keys).await?;
        let mut visibility = HistoryVisibility::Shared;
        let mut membership = MembershipState::Leave;
        if let Some(nid) = found.first().copied().flatten() {
            let event = store.graph.event_by_nid(nid).await?;
            visibility = visibility_of(&event.pdu);
        }
        if let Some(nid) = found.get(1).copied().flatten() {
            let event = store.graph.event_by_nid(nid).await?;
            membership = membership_of(&event.pdu).unwrap_or(MembershipState::Leave);
        }
        self.known.insert(snapshot, (visibility.clone(), membership.clone()));
        Ok((visibility, membership))
    }

    /// The user's membership at an event: after it, if it is their own member event (MSC4115 reads so).
    pub async fn membership_at(&mut self, event: &StoredEvent) -> Result<MembershipState, RoomError> {
        if event.pdu.is_state_of("m.room.member", self.user.as_str()) {
            return Ok(membership_of(&event.pdu).unwrap_or(MembershipState::Leave));
        }
        match event.before {
            Some(before) => Ok(self.at(before).await?.1),
            None => Ok(MembershipState::Leave),
        }
    }

    /// Whether the user may see the event.
    pub async fn can_see(&mut self, event: &StoredEvent) -> Result<bool, RoomError> {
        if !event.is_visible() {
            return Ok(false);
        }
        let Some(before) = event.before else { return Ok(self.is_joined()) };
        let (visibility, membership) = self.at(before).await?;
        if self.allows(&visibility, &membership, event) {
            return Ok(true);
        }
        // For the visibility itself and the user's own membership, what holds after the event counts as well.
        let own = event.pdu.is_state_of("m.room.member", self.user.as_str());
        if own {
            let after = membership_of(&event.pdu).unwrap_or(MembershipState::Leave);
            return Ok(self.allows(&visibility, &after, event));
        }
        if event.pdu.is_state_of("m.room.history_visibility", "") {
            return Ok(self.allows(&visibility_of(&event.pdu), &membership, event));
        }
        Ok(false)
    }

    fn allows(&self, visibility: &HistoryVisibility, membership: &MembershipState, event: &StoredEvent) -> bool {
        use MembershipState::{Invite, Join};
        let joined_later = self.joined_until.is_some_and(|until| event.position.is_some_and(|at| at < until));
        match visibility {
            HistoryVisibility::WorldReadable => true,
            HistoryVisibility::Invited => matches!(membership, Invite | Join),
            HistoryVisibility::Joined => *membership == Join,
            _ => *membership == Join || joined_later,
        }
    }

    /// Those of `events` that the user may see.
    pub async fn filter(&mut self, events: Vec<Arc<StoredEvent>>) -> Result<Vec<Arc<StoredEvent>>, RoomError> {
        let mut seen = Vec::with_capacity(events.len());
        for event in events {
            if self.can_see(&event).await? {
                seen.push(event);
            }
        }
        Ok(seen)
    }
}

/// The visibility that an event sets; unknown words count as `shared`.
pub(crate) fn visibility_of(pdu: &samtal_event::Pdu) -> HistoryVisibility {
    let text: Option<String> = pdu.content_field("history_visibility");
    match text.map(|text| HistoryVisibility::from(text.as_str())) {
        Some(
            known @ (HistoryVisibility::Invited
            | HistoryVisibility::Joined
            | HistoryVisibility::Shared
            | HistoryVisibility::WorldReadable),
        ) => known,
        _ => HistoryVisibility::Shared,
    }
}
