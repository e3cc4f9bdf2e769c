//! Events that were read or written lately, kept at hand for as long as they are true.
//!
//! The row of an event may change: one that is held gets its place, another is redacted, or judged anew, or deleted. Whoever changes a
//! row says so in the change log, of which every node that shares the database hears before its readers do, and lets go of what
//! it has. Whoever has read a row before it changed, and comes to keep it only then, does not: see [`EventsAtHand::since`].

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use ruma::{EventId, OwnedEventId, OwnedRoomId};
use samtal_db::{Db, FirstToHear, LoggedChange};
use samtal_kit::Cache;
use samtal_model::{ChangeKind, StreamPosition};

use crate::{
    graph::{Flags, Room, StoredEvent},
    ids::{EventNid, RoomNid},
};

/// The last changes that are remembered: of a reader that was slower than these nothing is kept.
const CHANGED_MAX: usize = 256;

/// Events, and the rooms they are of. Clones are the same.
#[derive(Clone)]
pub(crate) struct EventsAtHand(Arc<Held>);

struct Held {
    events: Cache<EventNid, Arc<StoredEvent>>,
    /// Whoever is not here is not there either, so that each event can be found by what the log calls it.
    nids: Cache<OwnedEventId, EventNid>,
    rooms: Cache<OwnedRoomId, Arc<Room>>,
    rooms_by_nid: Cache<RoomNid, Arc<Room>>,
    /// How many changes there have been.
    count: AtomicU64,
    /// The last of them; none stands for all events.
    changed: Mutex<VecDeque<Option<OwnedEventId>>>,
}

impl std::fmt::Debug for EventsAtHand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EventsAtHand({})", self.0.events.len())
    }
}

impl EventsAtHand {
    /// Nothing yet; from now on it hears what is written.
    pub(crate) fn new(db: &Db) -> Self {
        let held = Arc::new(Held {
            events: Cache::new(db.memory()),
            nids: Cache::new(db.memory()),
            rooms: Cache::new(db.memory()),
            rooms_by_nid: Cache::new(db.memory()),
            count: AtomicU64::new(0),
            changed: Mutex::default(),
        });
        let first: Arc<dyn FirstToHear> = Arc::clone(&held) as Arc<dyn FirstToHear>;
        db.tell_first(Arc::downgrade(&first));
        Self(held)
    }

    /// To be asked before a row is read that is to be kept.
    pub(crate) fn since(&self) -> u64 {
        self.0.count.load(Ordering::SeqCst)
    }

    /// The event with this number.
    pub(crate) fn event(&self, nid: EventNid) -> Option<Arc<StoredEvent>> {
        let event = self.0.events.get(&nid)?;
        if self.0.nids.get(event.pdu.event_id()).is_none() {
            self.0.events.remove(&nid);
            return None;
        }
        Some(event)
    }

    /// The event with this id.
    pub(crate) fn event_of(&self, id: &EventId) -> Option<Arc<StoredEvent>> {
        self.event(self.0.nids.get(id)?)
    }

    /// Whether there is an event with this id: known even where the event itself is not at hand.
    pub(crate) fn knows(&self, id: &EventId) -> bool {
        self.0.nids.get(id).is_some()
    }

    /// Keeps an event whose row was read after [`Self::since`] had said `since`, unless it has changed in between.
    pub(crate) fn keep(&self, event: StoredEvent, since: u64) -> Arc<StoredEvent> {
        let event = self.remember(event);
        if self.0.has_changed(event.pdu.event_id(), since) {
            self.0.events.remove(&event.nid);
        }
        event
    }

    /// Keeps an event as it has been written.
    pub(crate) fn remember(&self, event: StoredEvent) -> Arc<StoredEvent> {
        let event = Arc::new(event);
        self.0.events.put(event.nid, Arc::clone(&event), event.pdu.weight() + 200);
        self.0.nids.put(event.pdu.event_id().to_owned(), event.nid, 120);
        event
    }

    /// Forgets an event whose row changes.
    pub(crate) fn drop_event(&self, nid: EventNid, id: &EventId) {
        self.0.note_changed(Some(id));
        self.0.events.remove(&nid);
    }

    /// Forgets events that have been deleted.
    pub(crate) fn forget(&self, events: &[(EventNid, OwnedEventId)]) {
        for (nid, id) in events {
            self.0.note_changed(Some(id));
            self.0.nids.remove(id);
            self.0.events.remove(nid);
        }
    }

    pub(crate) fn room(&self, id: &ruma::RoomId) -> Option<Arc<Room>> {
        self.0.rooms.get(id)
    }

    pub(crate) fn room_by_nid(&self, nid: RoomNid) -> Option<Arc<Room>> {
        self.0.rooms_by_nid.get(&nid)
    }

    /// Keeps a room whose row was read after [`Self::since`] had said `since`, unless rooms have been deleted in between.
    pub(crate) fn keep_room(&self, room: &Arc<Room>, since: u64) {
        self.0.rooms.put(room.room_id.clone(), Arc::clone(room), 256);
        self.0.rooms_by_nid.put(room.nid, Arc::clone(room), 64);
        if self.0.has_changed_all(since) {
            self.drop_room(room);
        }
    }

    /// Forgets a room that has been deleted.
    pub(crate) fn drop_room(&self, room: &Room) {
        self.0.rooms.remove(&*room.room_id);
        self.0.rooms_by_nid.remove(&room.nid);
    }
}

impl Held {
    fn note_changed(&self, id: Option<&EventId>) {
        let mut changed = self.changed.lock();
        if changed.len() == CHANGED_MAX {
            changed.pop_front();
        }
        changed.push_back(id.map(ToOwned::to_owned));
        self.count.fetch_add(1, Ordering::SeqCst);
    }

    /// Whether any of the changes since is one of these; if they are too many, it may be.
    fn any_changed(&self, since: u64, is_one: impl Fn(Option<&OwnedEventId>) -> bool) -> bool {
        if self.count.load(Ordering::SeqCst) == since {
            return false;
        }
        let changed = self.changed.lock();
        let news = usize::try_from(self.count.load(Ordering::SeqCst) - since).unwrap_or(usize::MAX);
        news > changed.len() || changed.iter().rev().take(news).any(|id| is_one(id.as_ref()))
    }

    fn has_changed(&self, id: &EventId, since: u64) -> bool {
        self.any_changed(since, |changed| changed.is_none_or(|changed| changed == id))
    }

    fn has_changed_all(&self, since: u64) -> bool {
        self.any_changed(since, |changed| changed.is_none())
    }

    /// The event of this id is as `is_true` says, or is not kept any longer.
    fn check(&self, id: &str, is_true: impl Fn(&StoredEvent) -> bool) {
        let Ok(id) = <&EventId>::try_from(id) else { return };
        let held = self.nids.get(id).and_then(|nid| self.events.get(&nid));
        if held.as_ref().is_some_and(|event| is_true(event)) {
            return;
        }
        self.note_changed(Some(id));
        if let Some(event) = held {
            self.events.remove(&event.nid);
        }
    }

    fn forget_room(&self, room_id: &str) {
        self.note_changed(None);
        if let Some(room) = <&ruma::RoomId>::try_from(room_id).ok().and_then(|id| self.rooms.get(id)) {
            self.rooms.remove(&*room.room_id);
            self.rooms_by_nid.remove(&room.nid);
        }
        let gone = Mutex::new(Vec::new());
        self.events.retain(|_, event| {
            let stays = event.pdu.room_id() != room_id;
            if !stays {
                gone.lock().push(event.pdu.event_id().to_owned());
            }
            stays
        });
        for id in gone.into_inner() {
            self.nids.remove(&id);
        }
    }
}

impl FirstToHear for Held {
    fn hear(&self, changes: &[LoggedChange]) {
        for LoggedChange { position, change } in changes {
            // What this node has written itself is at hand as it is now.
            match (ChangeKind::from_code(change.kind), change.reference.as_deref(), change.room.as_deref()) {
                (Some(ChangeKind::Event), Some(id), _) => {
                    self.check(id, |event| event.position == Some(StreamPosition(*position)));
                }
                (Some(ChangeKind::Redaction), Some(id), _) => self.check(id, |event| event.flags.has(Flags::REDACTED)),
                (Some(ChangeKind::Backfill), Some(id), _) => self.check(id, |event| event.position.is_some()),
                (Some(ChangeKind::Placed), Some(id), _) => self.check(id, |_| false),
                (Some(ChangeKind::Purge), _, Some(room)) => self.forget_room(room),
                _ => {}
            }
        }
    }
}
