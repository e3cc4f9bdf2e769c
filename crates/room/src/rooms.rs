//! The engine as the crates above hold it.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};

use ruma::{EventId, OwnedRoomId, OwnedServerName, RoomId, ServerName, UserId};
use samtal_db::Db;
use samtal_keyring::OwnKeys;
use samtal_kit::{Cache, Clock, Random, Tasks};

use crate::{
    error::RoomError,
    graph::{Room, StoredEvent},
    policy_server::PolicySource,
    store::Store,
    turn::Author,
    writer::Queue,
};

/// Gives the keys of this tenant as they are now.
pub type SigningKeys = Arc<dyn Fn() -> Arc<OwnKeys> + Send + Sync>;

/// What the engine is opened with.
#[derive(Clone)]
pub struct Options {
    /// The tenant's server name.
    pub name: OwnedServerName,
    /// The keys that sign.
    pub signing_keys: SigningKeys,
    /// The clock.
    pub clock: Clock,
    /// Randomness.
    pub random: Random,
    /// The group that the turns of rooms run in.
    pub tasks: Tasks,
}

/// All rooms of a tenant. Cheap to clone.
#[derive(Clone)]
pub struct Rooms {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) name: OwnedServerName,
    pub(crate) store: Store,
    pub(crate) signing_keys: SigningKeys,
    pub(crate) clock: Clock,
    pub(crate) random: Random,
    pub(crate) tasks: Tasks,
    /// Rooms whose head is kept at hand.
    pub(crate) queues: Cache<OwnedRoomId, Arc<Queue>>,
    /// When the newest room was made, by the time in its create event.
    created_ms: AtomicU64,
    /// Who asks policy servers.
    pub(crate) policy_source: OnceLock<Arc<dyn PolicySource>>,
}

impl std::fmt::Debug for Rooms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rooms({})", self.inner.name)
    }
}

impl Rooms {
    /// Over the tenant's database.
    pub async fn open(db: Db, options: Options) -> Result<Self, RoomError> {
        let Options { name, signing_keys, clock, random, tasks } = options;
        let queues = Cache::new(db.memory());
        let store = Store::open(db, &random).await?;
        Ok(Self {
            inner: Arc::new(Inner {
                name,
                store,
                signing_keys,
                clock,
                random,
                tasks,
                queues,
                created_ms: AtomicU64::new(0),
                policy_source: OnceLock::new(),
            }),
        })
    }

    /// The tenant's server name.
    pub fn server_name(&self) -> &ServerName {
        &self.inner.name
    }

    /// Events, snapshots and memberships, to read.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// The room, or [`RoomError::UnknownRoom`].
    pub async fn room(&self, room_id: &RoomId) -> Result<Arc<Room>, RoomError> {
        self.inner.store.graph.room(room_id).await?.ok_or(RoomError::UnknownRoom)
    }

    /// The event, or [`RoomError::UnknownEvent`], whoever may see it.
    pub async fn event(&self, event_id: &EventId) -> Result<Arc<StoredEvent>, RoomError> {
        self.inner.store.graph.event(event_id).await?.ok_or(RoomError::UnknownEvent)
    }

    pub(crate) fn author(&self) -> Author {
        Author { name: self.inner.name.clone(), keys: (self.inner.signing_keys)(), now_ms: self.inner.clock.now_ms() }
    }

    /// A time for a new room's create event that no other has: where the room's id is that event's hash, two rooms that one
    /// user makes in the same millisecond would else be one.
    pub(crate) fn creation_ms(&self, now_ms: u64) -> u64 {
        // A clock that has jumped far back is followed.
        let later = |last: u64| if last >= now_ms && last - now_ms < 10_000 { last + 1 } else { now_ms };
        let last = self.inner.created_ms.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(later(last)));
        later(last.unwrap_or(0))
    }

    /// Lets a user forget a room that they are not in (CS API, "Leaving rooms").
    pub async fn forget(&self, user: &UserId, room_id: &RoomId) -> Result<(), RoomError> {
        use ruma::events::room::member::MembershipState::{Ban, Leave};
        let room = self.room(room_id).await?;
        match self.inner.store.graph.membership(user, room_id).await? {
            Some(found) if matches!(found.membership, Leave | Ban) => {
                let mut batch = samtal_db::Batch::new();
                crate::membership::forget(&mut batch, &room, user);
                self.inner.store.db().commit(batch).await?;
                Ok(())
            }
            Some(_) => Err(RoomError::BadEvent("leave the room before forgetting it".into())),
            None => Err(RoomError::Forbidden("you have never been in that room".into())),
        }
    }
}
