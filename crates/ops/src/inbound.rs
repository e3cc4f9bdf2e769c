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
use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, ServerName};

use crate::transaction::Outcome;

/// Servers whose last transaction is remembered.
const ORIGINS: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
/// Rooms that are being joined or left at once.
const ROOMS: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// Users whose devices changed while it was not known in which rooms they are.
const UNPLACED: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// Events that are tried again later.
const LATE_EVENTS_MAX: usize = 256;

/// The last transaction of a server and what became of it.
pub(crate) type LastTransaction = Arc<tokio::sync::Mutex<Option<(String, Outcome)>>>;

/// What a tenant remembers, in memory only, of what other servers are doing with it.
pub(crate) struct Inbound {
    transactions: Mutex<LruCache<OwnedServerName, LastTransaction>>,
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

impl Default for Inbound {
    fn default() -> Self {
        Self {
            transactions: Mutex::new(LruCache::new(ORIGINS)),
            rooms: Mutex::new(LruCache::new(ROOMS)),
            late_events: tokio::sync::Semaphore::new(LATE_EVENTS_MAX),
            resyncing: Mutex::default(),
            joining: AtomicUsize::new(0),
            unplaced: Mutex::new(LruCache::new(UNPLACED)),
        }
    }
}

impl Inbound {
    /// The last transaction of a server; while it is locked the server's next one waits.
    pub(crate) fn transaction_of(&self, origin: &ServerName) -> LastTransaction {
        self.transactions.lock().get_or_insert(origin.to_owned(), LastTransaction::default).clone()
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
