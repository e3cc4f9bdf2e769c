//! What a tenant remembers, in memory only, of what other servers are doing with it.

use std::{collections::HashSet, num::NonZeroUsize, sync::Arc};

use lru::LruCache;
use parking_lot::Mutex;
use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, ServerName};

use crate::transaction::Outcome;

/// Servers whose last transaction is remembered.
const ORIGINS: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
/// Rooms that are being joined or left at once.
const ROOMS: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// The last transaction of a server and what became of it.
pub(crate) type LastTransaction = Arc<tokio::sync::Mutex<Option<(String, Outcome)>>>;

/// What a tenant remembers, in memory only, of what other servers are doing with it.
pub(crate) struct Inbound {
    transactions: Mutex<LruCache<OwnedServerName, LastTransaction>>,
    rooms: Mutex<LruCache<OwnedRoomId, Arc<tokio::sync::Mutex<()>>>>,
    /// Users whose device lists are being asked for.
    pub(crate) resyncing: Mutex<HashSet<OwnedUserId>>,
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
            resyncing: Mutex::default(),
        }
    }
}

impl Inbound {
    /// The last transaction of a server; while it is locked the server's next one waits.
    pub(crate) fn transaction_of(&self, origin: &ServerName) -> LastTransaction {
        self.transactions.lock().get_or_insert(origin.to_owned(), LastTransaction::default).clone()
    }

    /// Held while this server enters the room, so that two of our users do not do it at once.
    pub(crate) fn entering(&self, room_id: &RoomId) -> Arc<tokio::sync::Mutex<()>> {
        self.rooms.lock().get_or_insert(room_id.to_owned(), Arc::default).clone()
    }
}
