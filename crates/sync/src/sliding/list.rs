//! Which rooms a list holds: what filters ask, and what the answers are.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use ruma::{OwnedRoomId, OwnedUserId, UserId, events::room::member::MembershipState};
use samtal_kit::{self as kit, Cache};
use samtal_model::StreamPosition;
use samtal_room::RoomMembership;
use samtal_state::Part;

use crate::{
    Sync, SyncError,
    sliding::{
        connection::Kind,
        request::{Filters, List, SlidingRequest},
    },
};

/// What filters ask about a room.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    room_type: Option<String>,
    encrypted: bool,
    name: Option<String>,
}

type Order = Arc<HashMap<OwnedRoomId, i64>>;

/// Facts of rooms that were asked for lately, with the position at which they held.
#[derive(Debug)]
pub(crate) struct FactsMemory {
    facts: Cache<OwnedRoomId, (i64, Arc<Facts>)>,
    /// For each user, the newest event of each room as it was once, and up to where nothing was known then; the change log
    /// says what is newer.
    orders: Cache<OwnedUserId, (i64, Order)>,
}

impl FactsMemory {
    pub(crate) fn new(memory: &kit::Memory) -> Self {
        Self { facts: Cache::new(memory), orders: Cache::new(memory) }
    }
}

/// What the user says of their rooms by account data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Personal {
    /// Rooms that are direct chats.
    pub(crate) direct: HashSet<String>,
    tags: HashMap<String, HashSet<String>>,
}

impl Sync {
    /// Reads what the user says of their rooms; tags only where a filter asks for them.
    pub(crate) async fn personal(&self, request: &SlidingRequest, until: i64) -> Result<Personal, SyncError> {
        let accounts = &self.engines.accounts;
        let mut personal = Personal::default();
        if let Some(content) = accounts.account_data(&request.user_id, None, "m.direct").await? {
            let rooms: HashMap<String, serde_json::Value> = serde_json::from_str(content.get()).unwrap_or_default();
            let rooms = rooms.values().filter_map(serde_json::Value::as_array).flatten();
            personal.direct = rooms.filter_map(|room| room.as_str().map(ToOwned::to_owned)).collect();
        }
        let asks = |list: &List| list.filters.tags.is_some() || list.filters.not_tags.is_some();
        if request.lists.values().any(asks) {
            for data in accounts.room_account_data_changed(&request.user_id, 0, until).await? {
                if data.data_type == "m.tag"
                    && let Some(room_id) = data.room_id
                {
                    let content: serde_json::Value = serde_json::from_str(data.content.get()).unwrap_or_default();
                    let tags = content.get("tags").and_then(serde_json::Value::as_object);
                    let tags = tags.into_iter().flat_map(|tags| tags.keys().cloned()).collect();
                    personal.tags.insert(room_id, tags);
                }
            }
        }
        Ok(personal)
    }

    /// The position of each joined room's newest event, as it once was: what is newer the change log says.
    pub(crate) async fn order(&self, user_id: &OwnedUserId) -> Result<Order, SyncError> {
        let floor = self.active.floor();
        if let Some((at, order)) = self.facts.orders.get(user_id)
            && at == floor
        {
            return Ok(order);
        }
        let positions = self.store().graph.last_positions(user_id).await?;
        let order: Order = Arc::new(positions.into_iter().map(|(room_id, at)| (room_id, at.0)).collect());
        self.facts.orders.put(user_id.clone(), (floor, Arc::clone(&order)), 200 + 120 * order.len());
        Ok(order)
    }

    /// For each room what filters ask about it, where any filter asks: what is remembered and still true at once, the rest
    /// one by one.
    pub(crate) async fn facts_of(
        &self,
        request: &SlidingRequest,
        rooms: &[(&RoomMembership, Kind)],
    ) -> Result<Vec<Option<Arc<Facts>>>, SyncError> {
        if !request.lists.values().any(|list| list.filters.ask_for_facts()) {
            return Ok(vec![None; rooms.len()]);
        }
        let changed = self.active.last_changes(rooms.iter().map(|(membership, _)| &*membership.room_id));
        let mut facts: Vec<Option<Arc<Facts>>> = {
            let floor = self.active.floor();
            let known = |((membership, kind), changed): (&(&RoomMembership, Kind), Option<i64>)| {
                let (at, facts) = self.facts.facts.get(&membership.room_id)?;
                let is_true = *kind != Kind::Outside && at >= changed.unwrap_or(floor);
                is_true.then_some(facts)
            };
            rooms.iter().zip(changed).map(known).collect()
        };
        for ((membership, kind), facts) in rooms.iter().zip(&mut facts) {
            if facts.is_none() {
                *facts = Some(Box::pin(self.room_facts(&request.user_id, membership, *kind)).await?);
            }
        }
        Ok(facts)
    }

    /// The rooms of those of the filters' spaces that the user is in: what others hold is not theirs to see.
    pub(crate) async fn rooms_of_spaces(
        &self,
        user_id: &UserId,
        filters: &Filters,
    ) -> Result<Option<HashSet<String>>, SyncError> {
        let Some(spaces) = &filters.spaces else { return Ok(None) };
        let mut children = HashSet::new();
        for space in spaces {
            if !self.store().graph.is_joined(user_id, space).await? {
                continue;
            }
            let Some(room) = self.store().graph.room(space).await? else { continue };
            let state = self.store().state_at(room.nid, StreamPosition(i64::MAX)).await?;
            for event in self.store().state_part(state, Part::Other).await? {
                let has_via = || event.pdu.content_field::<Vec<String>>("via").is_some_and(|via| !via.is_empty());
                if event.pdu.type_str() == "m.space.child" && has_via() {
                    children.extend(event.pdu.state_key().map(ToOwned::to_owned));
                }
            }
        }
        Ok(Some(children))
    }

    /// What filters ask about a room; of a room that the user is not in, what its stripped state says.
    async fn room_facts(
        &self,
        user_id: &UserId,
        membership: &RoomMembership,
        kind: Kind,
    ) -> Result<Arc<Facts>, SyncError> {
        let room_id = &membership.room_id;
        if kind == Kind::Outside
            && let Some(stripped) = self.store().graph.invite_state(user_id, room_id).await?
        {
            return Ok(Arc::new(stripped_facts(&stripped)));
        }
        let at = self.active.position();
        let room = self.engines.rooms.room(room_id).await?;
        let state = self.store().state_at(room.nid, StreamPosition(at)).await?;
        let store = self.store();
        let create = store.state_event(state, "m.room.create", "").await?;
        let name = store.state_event(state, "m.room.name", "").await?;
        let facts = Arc::new(Facts {
            room_type: create.and_then(|create| create.pdu.content_field("type")),
            encrypted: store.state_event(state, "m.room.encryption", "").await?.is_some(),
            name: name.and_then(|name| name.pdu.content_field("name")),
        });
        self.facts.facts.put(room_id.clone(), (at, Arc::clone(&facts)), 250);
        Ok(facts)
    }
}

impl Filters {
    fn ask_for_facts(&self) -> bool {
        self.is_encrypted.is_some()
            || self.room_types.is_some()
            || self.not_room_types.as_ref().is_some_and(|types| !types.is_empty())
            || self.room_name_like.is_some()
    }

    /// Whether the list holds the room. `spaces` are the rooms of the spaces that the filters name, if they name any.
    pub(crate) fn hold(
        &self,
        membership: &RoomMembership,
        facts: Option<&Facts>,
        personal: &Personal,
        spaces: Option<&HashSet<String>>,
    ) -> bool {
        let room_id = membership.room_id.as_str();
        let is_invite = membership.membership == MembershipState::Invite;
        let tagged = |wanted: &Vec<String>| {
            personal.tags.get(room_id).is_some_and(|tags| wanted.iter().any(|tag| tags.contains(tag)))
        };
        let by_user = self.is_dm.is_none_or(|wanted| wanted == personal.direct.contains(room_id))
            && self.is_invite.is_none_or(|wanted| wanted == is_invite)
            && spaces.is_none_or(|spaces| spaces.contains(room_id))
            && self.tags.as_ref().is_none_or(tagged)
            && !self.not_tags.as_ref().is_some_and(tagged);
        by_user && facts.is_none_or(|facts| self.hold_for(facts))
    }

    fn hold_for(&self, facts: &Facts) -> bool {
        let like = self.room_name_like.as_ref().map(|like| like.to_lowercase());
        let is_like =
            |like: &String| facts.name.as_ref().is_some_and(|name| name.to_lowercase().contains(like.as_str()));
        self.is_encrypted.is_none_or(|wanted| wanted == facts.encrypted)
            && self.room_types.as_ref().is_none_or(|types| types.contains(&facts.room_type))
            && self.not_room_types.as_ref().is_none_or(|types| !types.contains(&facts.room_type))
            && like.as_ref().is_none_or(is_like)
    }
}

/// Facts from the stripped state of a room that this server is not in.
fn stripped_facts(stripped: &str) -> Facts {
    let events: Vec<serde_json::Value> = serde_json::from_str(stripped).unwrap_or_default();
    let content = |event_type: &str| {
        events
            .iter()
            .find(|event| event["type"] == event_type && event["state_key"] == "")
            .map(|event| &event["content"])
    };
    let text = |event_type: &str, field: &str| Some(content(event_type)?.get(field)?.as_str()?.to_owned());
    Facts {
        room_type: text("m.room.create", "type"),
        encrypted: content("m.room.encryption").is_some(),
        name: text("m.room.name", "name"),
    }
}
