//! Events that are held without a place in the graph: auth events, state of rooms we join, invites from outside.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId, RoomVersionId, UserId};
use samtal_db::{Batch, Sql, Value, params, sql};
use samtal_event::Pdu;
use samtal_state::authorize;

use crate::{
    Rooms,
    error::RoomError,
    graph::{Flags, Room, StoredEvent, insert_event, insert_room, make_room},
    ids::{EventNid, RoomNid},
    membership,
};

/// Events stored in one write batch.
const BATCH_MAX: usize = 500;
/// How often a batch is tried again when another task stores the same events.
const TRIES: usize = 5;

const ROOM_IS: Sql = sql!("SELECT 1 FROM room WHERE nid = $1");

/// What became of events that were to be held.
#[derive(Clone, Debug, Default)]
pub struct Held {
    /// Those that cannot be judged, since auth events of theirs are not here.
    pub unjudged: Vec<OwnedEventId>,
    /// Those that their own auth events refuse; they are stored as rejected.
    pub rejected: Vec<OwnedEventId>,
}

impl Rooms {
    /// The room, made known if it is not yet: its id and version come from another server.
    pub async fn ensure_room(&self, room_id: &RoomId, version: &RoomVersionId) -> Result<Arc<Room>, RoomError> {
        let store = &self.inner.store;
        for _ in 0..TRIES {
            if let Some(room) = store.graph.room(room_id).await? {
                return if room.version == *version {
                    Ok(room)
                } else {
                    Err(RoomError::BadEvent(format!("the room has version {}, not {version}", room.version)))
                };
            }
            let nid = RoomNid(store.room_numbers.take(store.db(), 1, 0).await?);
            let room = make_room(nid, OwnedRoomId::from(room_id), version.clone())?;
            let mut batch = Batch::new();
            insert_room(&mut batch, &room);
            match store.db().commit(batch).await {
                Err(error) if !error.is_conflict() => return Err(error.into()),
                _ => {}
            }
        }
        Err(RoomError::Busy)
    }

    /// Holds events whose signatures have been checked. Their auth events must be among them or here already; the order
    /// does not matter. Events that are here already are left as they are.
    pub async fn hold(&self, room: &Arc<Room>, events: Vec<Pdu>) -> Result<Held, RoomError> {
        let mut held = Held::default();
        let ids: Vec<OwnedEventId> = events.iter().map(|pdu| pdu.event_id().to_owned()).collect();
        let known = self.inner.store.graph.known(&ids).await?;
        let mut unknown: BTreeMap<OwnedEventId, Pdu> = BTreeMap::new();
        for pdu in events {
            if pdu.room_id() == room.room_id && !known.contains(pdu.event_id()) {
                unknown.insert(pdu.event_id().to_owned(), pdu);
            }
        }
        let ordered = auth_order(&unknown);
        for chunk in ordered.chunks(BATCH_MAX) {
            let chunk: Vec<Pdu> = chunk.iter().filter_map(|id| unknown.get(id).cloned()).collect();
            self.hold_chunk(room, &chunk, &mut held).await?;
        }
        Ok(held)
    }

    async fn hold_chunk(&self, room: &Arc<Room>, chunk: &[Pdu], held: &mut Held) -> Result<(), RoomError> {
        let store = &self.inner.store;
        for _ in 0..TRIES {
            let auth: Vec<OwnedEventId> = chunk.iter().flat_map(|pdu| needed(pdu, room)).collect();
            let mut at_hand: HashMap<OwnedEventId, (Pdu, EventNid)> = HashMap::new();
            for event in store.graph.events(&auth).await? {
                at_hand.insert(event.pdu.event_id().to_owned(), (event.pdu.clone(), event.nid));
            }
            let mut judged = Held::default();
            let since = store.graph.at_hand().since();
            let mut batch = Batch::new();
            // A join that came to nothing may have taken the room away.
            batch.require(&ROOM_IS, params![room.nid.0]);
            let floor = at_hand.values().map(|(_, nid)| nid.0).max().unwrap_or(0);
            let first = store.event_numbers.take(store.db(), chunk.len(), floor).await?;
            let mut stored = Vec::with_capacity(chunk.len());
            for (number, pdu) in (first..).zip(chunk) {
                if store.graph.event(pdu.event_id()).await?.is_some() {
                    continue;
                }
                if needed(pdu, room).iter().any(|id| !at_hand.contains_key(id)) {
                    judged.unjudged.push(pdu.event_id().to_owned());
                    continue;
                }
                let fetch = |id: &EventId| at_hand.get(id).map(|(pdu, _)| pdu.clone());
                let mut flags = Flags::OUTLIER;
                if let Err(refused) = authorize::check_own_auth_events(pdu, room.rules, fetch) {
                    tracing::debug!(event = %pdu.event_id(), %refused, "an event is rejected");
                    flags = flags.with(Flags::REJECTED);
                    judged.rejected.push(pdu.event_id().to_owned());
                }
                let pdu = pdu.clone().with_rejected(flags.has(Flags::REJECTED));
                let event = outlier(room.nid, EventNid(number), pdu.clone(), flags);
                insert_event(&mut batch, &event, Value::Null, None);
                at_hand.insert(pdu.event_id().to_owned(), (pdu, EventNid(number)));
                stored.push(event);
            }
            match store.db().commit(batch).await {
                Ok(_) => {
                    for event in stored {
                        store.graph.at_hand().keep(event, since);
                    }
                    held.unjudged.extend(judged.unjudged);
                    held.rejected.extend(judged.rejected);
                    return Ok(());
                }
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(RoomError::Busy)
    }

    /// Notes an invite, knock, or leave of our user in a room that this server is not in. `stripped` is the state that came
    /// with it, as a JSON list.
    pub async fn note_outside(
        &self,
        room: &Arc<Room>,
        user: &UserId,
        pdu: &Pdu,
        stripped: Option<&str>,
    ) -> Result<(), RoomError> {
        let store = &self.inner.store;
        let since = store.graph.at_hand().since();
        let mut batch = Batch::new();
        // A join that came to nothing may have taken the room away.
        batch.require(&ROOM_IS, params![room.nid.0]);
        let mut stored = None;
        if store.graph.event(pdu.event_id()).await?.is_none() {
            let number = EventNid(store.event_numbers.take(store.db(), 1, 0).await?);
            let event = outlier(room.nid, number, pdu.clone(), Flags::OUTLIER);
            insert_event(&mut batch, &event, Value::Null, None);
            stored = Some(event);
        }
        membership::set_outside(&mut batch, room, user, pdu, stripped);
        store.db().commit(batch).await?;
        if let Some(event) = stored {
            store.graph.at_hand().keep(event, since);
        }
        Ok(())
    }
}

/// The events that an event's first check needs: its auth events, and from room version 12 the create event.
pub(crate) fn needed(pdu: &Pdu, room: &Room) -> Vec<OwnedEventId> {
    let mut ids = pdu.auth_events().to_vec();
    if room.rules.authorization.room_create_event_id_as_room_id && pdu.type_str() != "m.room.create" {
        ids.extend(authorize::create_event_id(pdu));
    }
    ids
}

fn outlier(room: RoomNid, nid: EventNid, pdu: Pdu, flags: Flags) -> StoredEvent {
    StoredEvent { nid, room, position: None, flags, before: None, redacted_by: None, txn: None, pdu }
}

/// Auth events before the events that name them. Cycles cannot be (ids are hashes) but in room versions 1 and 2, where the
/// events of a cycle are left out.
fn auth_order(events: &BTreeMap<OwnedEventId, Pdu>) -> Vec<OwnedEventId> {
    let mut waiting: HashMap<&EventId, usize> = HashMap::new();
    let mut dependents: HashMap<&EventId, Vec<&EventId>> = HashMap::new();
    let mut ready: Vec<&EventId> = Vec::new();
    for (id, pdu) in events {
        let named: BTreeSet<&OwnedEventId> =
            pdu.auth_events().iter().filter(|auth| events.contains_key(*auth)).collect();
        if named.is_empty() {
            ready.push(id);
        } else {
            waiting.insert(id, named.len());
        }
        for auth in named {
            dependents.entry(auth).or_default().push(id);
        }
    }
    let mut ordered = Vec::with_capacity(events.len());
    // Create events first: version 12 does not name them.
    ready.sort_by_key(|id| events.get(*id).is_some_and(|pdu| pdu.type_str() == "m.room.create"));
    while let Some(id) = ready.pop() {
        ordered.push(id.to_owned());
        for dependent in dependents.remove(id).unwrap_or_default() {
            if let Some(count) = waiting.get_mut(dependent) {
                *count -= 1;
                if *count == 0 {
                    ready.push(dependent);
                }
            }
        }
    }
    ordered
}
