//! Which thread an event is in (CS API, "Server behavior" of read receipts).

use ruma::EventId;
use samtal_room::{Relation, RoomError, Store, StoredEvent};

/// How many relations are followed from an event to the thread it is in.
const HOPS_MAX: usize = 3;

/// The root of the event's thread; nothing for the main timeline.
pub(crate) async fn thread_of(store: &Store, event: &StoredEvent) -> Result<Option<String>, RoomError> {
    let Some(mut relation) = Relation::of(&event.pdu).filter(|_| !event.pdu.is_state()) else { return Ok(None) };
    for _ in 0..HOPS_MAX {
        if relation.rel_type == "m.thread" {
            return Ok(Some(relation.event_id));
        }
        let Ok(target) = EventId::parse(&relation.event_id) else { return Ok(None) };
        let Some(target) = store.graph.event(&target).await?.filter(|target| target.room == event.room) else {
            return Ok(None);
        };
        match Relation::of(&target.pdu) {
            Some(next) => relation = next,
            None => return Ok(None),
        }
    }
    Ok(None)
}
