//! What a tenant remembers, in memory only, of what other servers are doing with it.

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use lru::LruCache;
use parking_lot::Mutex;
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, ServerName};
use samtal_kit::{Cache, Memory};

use crate::transaction::Outcome;

/// Rooms that are being joined or left at once.
const ROOMS: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// Users whose devices changed while it was not known in which rooms they are.
const UNPLACED: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// What the outcome of an event takes in memory beside its texts.
const OUTCOME_BYTES: usize = 64;

/// Events that are tried again later.
const LATE_EVENTS_MAX: usize = 256;

/// The last transaction of a server and what became of it.
pub(crate) type LastTransaction = Arc<tokio::sync::Mutex<Option<(String, Outcome)>>>;

/// What a tenant remembers, in memory only, of what other servers are doing with it.
pub(crate) struct Inbound {
    /// Let go of when memory is short: then a transaction that comes again is taken in again, which is no news.
    transactions: Cache<OwnedServerName, LastTransaction>,
    rooms: Mutex<LruCache<OwnedRoomId, Arc<tokio::sync::Mutex<()>>>>,
    /// Events that are tried again later: as many at once; of more, later events have to lead to them.
    pub(crate) late_events: tokio::sync::Semaphore,
    /// Users whose device lists are being asked for.
    pub(crate) resyncing: Mutex<HashMap<OwnedUserId, Resyncing>>,
    /// Joins through other servers that are under way.
    joining: AtomicUsize,
    /// Users whose devices changed while it was not known in which rooms they are: their server is in a room whose state is not
    /// whole. A restart forgets them; whoever then learns that they are in the room asks for their keys in any case.
    pub(crate) unplaced: Mutex<LruCache<OwnedUserId, ()>>,
}

/// A device list that is being asked for.
#[derive(Debug, Default)]
pub(crate) struct Resyncing {
    /// An update came meanwhile, which the answer may not hold.
    pub(crate) again: bool,
    /// Dropped when it is done.
    pub(crate) running: tokio::sync::watch::Sender<()>,
}

/// A join that is under way.
#[derive(Debug)]
pub(crate) struct Joining<'a>(&'a AtomicUsize);

impl Drop for Joining<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl std::fmt::Debug for Inbound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Inbound")
    }
}

impl Inbound {
    /// Nothing remembered; transactions share `memory` with the other caches.
    pub(crate) fn new(memory: &Memory) -> Self {
        Self {
            transactions: Cache::new(memory),
            rooms: Mutex::new(LruCache::new(ROOMS)),
            late_events: tokio::sync::Semaphore::new(LATE_EVENTS_MAX),
            resyncing: Mutex::default(),
            joining: AtomicUsize::new(0),
            unplaced: Mutex::new(LruCache::new(UNPLACED)),
        }
    }

    /// The last transaction of a server; while it is locked the server's next one waits.
    pub(crate) fn transaction_of(&self, origin: &ServerName) -> LastTransaction {
        self.transactions.get_or_put(&origin.to_owned(), || (LastTransaction::default(), origin.as_str().len()))
    }

    /// Says what is remembered of a server's last transaction now.
    pub(crate) fn remembered(&self, origin: &ServerName, id: &str, outcome: &Outcome) {
        let of_event = |(id, result): (&OwnedEventId, &Result<(), String>)| {
            OUTCOME_BYTES + id.as_str().len() + result.as_ref().err().map_or(0, String::len)
        };
        let bytes = origin.as_str().len() + id.len() + outcome.iter().map(of_event).sum::<usize>();
        self.transactions.resize(origin, bytes);
    }

    /// Notes that a join through another server is under way, until what is answered is dropped.
    pub(crate) fn joining(&self) -> Joining<'_> {
        self.joining.fetch_add(1, Ordering::SeqCst);
        Joining(&self.joining)
    }

    /// Whether a join through another server is under way: other servers may speak of a room already that is not ours yet.
    pub(crate) fn is_joining(&self) -> bool {
        self.joining.load(Ordering::SeqCst) > 0
    }

    /// Held while this server enters the room, so that two of our users do not do it at once.
    pub(crate) fn entering(&self, room_id: &RoomId) -> Arc<tokio::sync::Mutex<()>> {
        self.rooms.lock().get_or_insert(room_id.to_owned(), Arc::default).clone()
    }
}
