//! How much is unread: per user, room and thread.
//!
//! Nothing is stored. What a user's rules say of the newest events of a room is worked out once, when it is first asked
//! for, and kept as a short list; receipts cut it from below. So an event to 10,000 members costs nothing until one of
//! them looks, and the answer holds for exactly the position that was asked for.

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroUsize,
    sync::Arc,
};

use lru::LruCache;
use parking_lot::Mutex;
use ruma::{
    EventId, OwnedUserId, UserId,
    push::{Action, FlattenedJson},
};
use samtal_account::Accounts;
use samtal_db::LoggedChange;
use samtal_edu::{Edus, Receipt};
use samtal_model::{ChangeKind, StreamPosition};
use samtal_room::{EventNid, Room, RoomMembership, RoomNid, Rooms, StoredEvent};
use samtal_state::SnapshotId;

use crate::{
    PushError, Verdict,
    thread::thread_of,
    verdict::{RoomContext, Rules, flatten, judge},
};

/// Events of a room that are looked at for one user: older ones do not count.
const LOOKED_AT_MAX: usize = 1_000;
/// Unread notifications of one room that are kept for one user, the newest.
const UNREAD_MAX: usize = 1_000;
/// Pairs of user and room that are remembered.
const TALLIES: NonZeroUsize = NonZeroUsize::new(50_000).expect("not zero");
/// Users whose rules are remembered.
const RULES: NonZeroUsize = NonZeroUsize::new(5_000).expect("not zero");
/// Events that are remembered in the form in which conditions look at them.
const FLATTENED: NonZeroUsize = NonZeroUsize::new(1_000).expect("not zero");
/// Stretches of rooms that are remembered: many members ask for the same at about the same time.
const STRETCHES: NonZeroUsize = NonZeroUsize::new(64).expect("not zero");
/// The thread id of what is in no thread.
const MAIN: &str = "main";

/// How many notifications are unread, and how many of them stand out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Notifications.
    pub notifications: u64,
    /// Those that are highlights.
    pub highlights: u64,
}

/// What a user has not read in a room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// In no thread.
    pub main: Count,
    /// By thread root; only threads with something unread.
    pub threads: BTreeMap<String, Count>,
}

impl Counts {
    /// All together, for clients that do not know threads.
    pub fn total(&self) -> Count {
        self.threads.values().fold(self.main, |sum, thread| Count {
            notifications: sum.notifications + thread.notifications,
            highlights: sum.highlights + thread.highlights,
        })
    }
}

#[derive(Debug)]
struct Unread {
    position: i64,
    thread: Option<Arc<str>>,
    highlight: bool,
}

/// What is known about one user in one room.
#[derive(Debug, Default)]
struct Tally {
    /// Up to where events have been looked at; 0 when none have been.
    upto: i64,
    /// Ascending.
    unread: Vec<Unread>,
    /// The user's own newest event by thread: sending is reading.
    own: HashMap<Option<Arc<str>>, i64>,
}

/// How far a user has read.
#[derive(Debug, Default)]
pub(crate) struct Read {
    unthreaded: i64,
    threads: HashMap<String, i64>,
}

impl Read {
    pub(crate) fn of(receipts: &[Receipt]) -> Self {
        let mut read = Self::default();
        for receipt in receipts.iter().filter(|receipt| receipt.is_read()) {
            let upto = match &receipt.thread {
                None => &mut read.unthreaded,
                Some(thread) => read.threads.entry(thread.clone()).or_default(),
            };
            *upto = receipt.event_position.max(*upto);
        }
        read
    }

    /// Whether an event at `position` of this thread has been read, as far as receipts say.
    pub(crate) fn has_read(&self, position: i64, thread: Option<&str>) -> bool {
        position <= self.unthreaded.max(self.threads.get(thread.unwrap_or(MAIN)).copied().unwrap_or(0))
    }

    fn has(&self, tally_own: &HashMap<Option<Arc<str>>, i64>, unread: &Unread) -> bool {
        let own = tally_own.get(&unread.thread).copied().unwrap_or(0);
        unread.position <= own || self.has_read(unread.position, unread.thread.as_deref())
    }
}

type TallyCell = Arc<tokio::sync::Mutex<Tally>>;

/// Events of a room after one position up to another, and the room as it was then: the same for all members.
#[derive(Debug)]
struct Stretch {
    /// Newest first.
    events: Vec<Arc<StoredEvent>>,
    context: RoomContext,
}

/// Counts of one tenant.
#[derive(Debug)]
pub struct Push {
    pub(crate) rooms: Rooms,
    accounts: Arc<Accounts>,
    pub(crate) edus: Arc<Edus>,
    tallies: Mutex<LruCache<(OwnedUserId, RoomNid), TallyCell>>,
    rules: Mutex<LruCache<OwnedUserId, Arc<Rules>>>,
    flattened: Mutex<LruCache<EventNid, Arc<FlattenedJson>>>,
    stretches: Mutex<LruCache<(RoomNid, i64, i64), Arc<Stretch>>>,
}

impl Push {
    /// Over these engines.
    pub fn new(rooms: Rooms, accounts: Arc<Accounts>, edus: Arc<Edus>) -> Self {
        Self {
            rooms,
            accounts,
            edus,
            tallies: Mutex::new(LruCache::new(TALLIES)),
            rules: Mutex::new(LruCache::new(RULES)),
            flattened: Mutex::new(LruCache::new(FLATTENED)),
            stretches: Mutex::new(LruCache::new(STRETCHES)),
        }
    }

    /// Takes in changes of the log: forgets rules that have changed.
    pub fn apply(&self, changes: &[LoggedChange]) {
        let account_data = ChangeKind::AccountData.code();
        for logged in changes.iter().filter(|logged| logged.change.kind == account_data) {
            if logged.change.reference.as_deref() == Some("m.push_rules")
                && let Some(user) = &logged.change.user
                && let Ok(user) = <&UserId>::try_from(&**user)
            {
                self.rules.lock().pop(user);
            }
        }
    }

    /// The user's push rules.
    async fn rules(&self, user_id: &UserId) -> Result<Arc<Rules>, PushError> {
        if let Some(rules) = self.rules.lock().get(user_id) {
            return Ok(Arc::clone(rules));
        }
        let rules = Arc::new(Rules::new(&self.accounts.push_rules_of(user_id).await?));
        self.rules.lock().put(user_id.to_owned(), Arc::clone(&rules));
        Ok(rules)
    }

    /// What the user's rules say of an event of someone else.
    pub async fn verdict(&self, user_id: &UserId, room: &Room, event: &StoredEvent) -> Result<Verdict, PushError> {
        Ok(Verdict::of(&self.actions(user_id, room, event).await?))
    }

    /// What is to be done, by the user's rules, about an event of someone else.
    pub async fn actions(&self, user_id: &UserId, room: &Room, event: &StoredEvent) -> Result<Vec<Action>, PushError> {
        let store = self.rooms.store();
        let state = match event.position {
            Some(position) => store.state_at(room.nid, position).await?,
            None => event.before.unwrap_or(SnapshotId::EMPTY),
        };
        let context = RoomContext::read(store, room, state).await?.of(store, room, user_id).await?;
        let rules = self.rules(user_id).await?;
        let subscribed = self.subscribed(user_id, room, event, &rules).await?;
        Ok(judge(&rules, &self.flattened(event), &context, subscribed).await.to_vec())
    }

    /// Whether the user has subscribed to the event's thread, as far as it matters to the rules; nothing for what is in none.
    async fn subscribed(
        &self,
        user_id: &UserId,
        room: &Room,
        event: &StoredEvent,
        rules: &Rules,
    ) -> Result<Option<bool>, PushError> {
        if !rules.look_at_threads() {
            return Ok(None);
        }
        let Some(root) = thread_of(self.rooms.store(), event).await? else { return Ok(None) };
        let Ok(root) = EventId::parse(root) else { return Ok(None) };
        let subscription = self.accounts.thread_subscription(user_id, &room.room_id, &root).await?;
        Ok(Some(subscription.is_some_and(|subscription| subscription.state.is_subscribed())))
    }

    /// What the user, who is joined by `membership`, has not read in the room as the log stood at `until`.
    pub async fn counts(
        &self,
        user_id: &UserId,
        room: &Room,
        membership: &RoomMembership,
        until: StreamPosition,
    ) -> Result<Counts, PushError> {
        let receipts = self.edus.receipts.of_user_in_room(user_id, &room.room_id).await?;
        let read = Read::of(&receipts);
        let cell = {
            let key = (user_id.to_owned(), room.nid);
            Arc::clone(self.tallies.lock().get_or_insert(key, TallyCell::default))
        };
        let mut tally = cell.lock().await;
        let joined = membership.position.0;
        let from = tally.upto.max(read.unthreaded).max(joined);
        if until.0 > from {
            self.look(user_id, room, &mut tally, from, until.0).await?;
        }
        let Tally { unread, own, .. } = &mut *tally;
        unread.retain(|unread| unread.position > joined && !read.has(own, unread));
        let mut counts = Counts::default();
        for unread in unread.iter().filter(|unread| unread.position <= until.0) {
            let count = match &unread.thread {
                None => &mut counts.main,
                Some(thread) => counts.threads.entry(thread.to_string()).or_default(),
            };
            count.notifications += 1;
            count.highlights += u64::from(unread.highlight);
        }
        Ok(counts)
    }

    /// Adds to the tally what came after `from` and up to `until`.
    async fn look(
        &self,
        user_id: &UserId,
        room: &Room,
        tally: &mut Tally,
        from: i64,
        until: i64,
    ) -> Result<(), PushError> {
        let store = self.rooms.store();
        let stretch = self.stretch(room, from, until).await?;
        let mut known = None;
        for event in stretch.events.iter().rev() {
            let Some(position) = event.position.map(|position| position.0) else { continue };
            if !event.is_visible() {
                continue;
            }
            if event.pdu.sender() == user_id {
                let thread = thread_of(store, event).await?.map(Arc::from);
                tally.own.insert(thread, position);
                continue;
            }
            let (rules, context) = match &known {
                Some(known) => known,
                None => {
                    let context = stretch.context.of(store, room, user_id).await?;
                    known.insert((self.rules(user_id).await?, context))
                }
            };
            let subscribed = self.subscribed(user_id, room, event, rules).await?;
            let verdict = Verdict::of(judge(rules, &self.flattened(event), context, subscribed).await);
            if verdict.notify {
                let thread = thread_of(store, event).await?.map(Arc::from);
                tally.unread.push(Unread { position, thread, highlight: verdict.highlight });
            }
        }
        if tally.unread.len() > UNREAD_MAX {
            let beyond = tally.unread.len() - UNREAD_MAX;
            tally.unread.drain(..beyond);
        }
        tally.upto = until;
        Ok(())
    }

    async fn stretch(&self, room: &Room, from: i64, until: i64) -> Result<Arc<Stretch>, PushError> {
        let key = (room.nid, from, until);
        if let Some(stretch) = self.stretches.lock().get(&key) {
            return Ok(Arc::clone(stretch));
        }
        let store = self.rooms.store();
        let upto = StreamPosition(until);
        let events = store.graph.timeline_back(room.nid, upto, StreamPosition(from), LOOKED_AT_MAX).await?;
        let state = store.state_at(room.nid, upto).await?;
        let stretch = Arc::new(Stretch { events, context: RoomContext::read(store, room, state).await? });
        // Long ones are read by those who were away: each of them another.
        if stretch.events.len() <= 10 {
            self.stretches.lock().put(key, Arc::clone(&stretch));
        }
        Ok(stretch)
    }

    fn flattened(&self, event: &StoredEvent) -> Arc<FlattenedJson> {
        if let Some(flattened) = self.flattened.lock().get(&event.nid) {
            return Arc::clone(flattened);
        }
        let flattened = Arc::new(flatten(event));
        self.flattened.lock().put(event.nid, Arc::clone(&flattened));
        flattened
    }
}
