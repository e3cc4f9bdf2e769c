//! How much is unread: per user, room and thread.
//!
//! Nothing is stored. What a user's rules say of the newest events of a room is worked out once, when it is first asked
//! for, and kept as a short list; receipts cut it from below. So an event to 10,000 members costs nothing until one of
//! them looks, and the answer holds for exactly the position that was asked for.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use parking_lot::Mutex;
use ruma::{EventId, OwnedUserId, UserId, push::Action};
use samtal_account::{Accounts, PushRules};
use samtal_db::LoggedChange;
use samtal_edu::{Edus, Receipt};
use samtal_kit::Cache;
use samtal_model::{ChangeKind, StreamPosition};
use samtal_room::{EventNid, Room, RoomMembership, RoomNid, Rooms, StoredEvent};
use samtal_state::SnapshotId;
use tokio::sync::OnceCell;

use crate::{
    PushError, Verdict,
    thread::thread_of,
    verdict::{Looked, NameAt, RoomContext, Rules, judge, unchanged},
};

/// Events of a room that are looked at for one user: older ones do not count.
const LOOKED_AT_MAX: usize = 1_000;
/// Unread notifications of one room that are kept for one user, the newest.
const UNREAD_MAX: usize = 1_000;
/// Users whose last receipt is remembered.
const READERS_MAX: usize = 50_000;
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
    /// How far they have read, with the position at which it was looked up.
    read: Option<(i64, Arc<Read>)>,
    name: NameAt,
}

impl Tally {
    fn weight(&self) -> usize {
        400 + self.unread.len() * 32 + self.own.len() * 64
    }
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

type StretchCell = Arc<OnceCell<Arc<Stretch>>>;

/// Counts of one tenant.
#[derive(Debug)]
pub struct Push {
    pub(crate) rooms: Rooms,
    accounts: Arc<Accounts>,
    pub(crate) edus: Arc<Edus>,
    tallies: Cache<(OwnedUserId, RoomNid), TallyCell>,
    /// Nothing for those who have changed none.
    rules: Cache<OwnedUserId, Option<Arc<Rules>>>,
    looked: Cache<EventNid, Arc<Looked>>,
    stretches: Cache<(RoomNid, i64, i64), StretchCell>,
    receipts: Mutex<LastReceipts>,
}

/// When who moved a receipt of theirs last, as far as changes have been taken in.
#[derive(Debug)]
struct LastReceipts {
    applied: i64,
    /// Nothing is known of those that were moved up to here.
    floor: i64,
    moved: HashMap<OwnedUserId, i64>,
}

impl Push {
    /// Over these engines.
    pub fn new(rooms: Rooms, accounts: Arc<Accounts>, edus: Arc<Edus>) -> Self {
        let memory = rooms.store().db().memory().clone();
        let now = rooms.store().db().position();
        Self {
            rooms,
            accounts,
            edus,
            tallies: Cache::new(&memory),
            rules: Cache::new(&memory),
            looked: Cache::new(&memory),
            stretches: Cache::new(&memory),
            receipts: Mutex::new(LastReceipts { applied: now, floor: now, moved: HashMap::new() }),
        }
    }

    /// Takes in changes of the log: forgets rules that have changed, and notes who has read something.
    pub fn apply(&self, changes: &[LoggedChange]) {
        let Some(last) = changes.last() else { return };
        let mut receipts = self.receipts.lock();
        for logged in changes {
            let change = &logged.change;
            let user = change.user.as_deref().and_then(|user| <&UserId>::try_from(user).ok());
            let (Some(user), Some(kind)) = (user, ChangeKind::from_code(change.kind)) else { continue };
            if kind == ChangeKind::AccountData && change.reference.as_deref() == Some("m.push_rules") {
                self.rules.remove(user);
            }
            if kind == ChangeKind::Receipt && user.server_name() == self.rooms.server_name() {
                if receipts.moved.len() >= READERS_MAX {
                    receipts.moved = HashMap::new();
                    receipts.floor = logged.position;
                }
                receipts.moved.insert(user.to_owned(), logged.position);
            }
        }
        receipts.applied = last.position;
    }

    /// How far the user has read in the room, as the log stood at `until`.
    async fn read(
        &self,
        user_id: &UserId,
        room: &Room,
        tally: &mut Tally,
        until: StreamPosition,
    ) -> Result<Arc<Read>, PushError> {
        let applied = {
            let receipts = self.receipts.lock();
            let moved = receipts.moved.get(user_id).copied().unwrap_or(receipts.floor);
            if receipts.applied >= until.0
                && let Some((at, read)) = &tally.read
                && moved <= *at
            {
                return Ok(Arc::clone(read));
            }
            receipts.applied
        };
        let receipts = self.edus.receipts.of_user_in_room(user_id, &room.room_id).await?;
        let read = Arc::new(Read::of(&receipts));
        tally.read = Some((applied, Arc::clone(&read)));
        Ok(read)
    }

    /// The user's push rules; nothing for one who has changed none.
    async fn rules(&self, user_id: &UserId) -> Result<Option<Arc<Rules>>, PushError> {
        if let Some(rules) = self.rules.get(user_id) {
            return Ok(rules);
        }
        let applied = self.receipts.lock().applied;
        let rules = self.accounts.push_rules_of(user_id).await?;
        let changed = (rules != PushRules::unchanged(user_id)).then(|| Arc::new(Rules::new(&rules)));
        let bytes = if changed.is_some() { 16_000 } else { 64 };
        // What was read before a change must not be kept after it.
        if self.receipts.lock().applied == applied {
            self.rules.put(user_id.to_owned(), changed.clone(), bytes);
        }
        Ok(changed)
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
        let rules = self.rules(user_id).await?.unwrap_or_else(|| Arc::new(Rules::unchanged(user_id)));
        let subscribed = self.subscribed(user_id, room, event, &rules).await?;
        Ok(judge(&rules, &self.looked(event).flattened, &context, subscribed).await.to_vec())
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
        let key = (user_id.to_owned(), room.nid);
        let cell = self.tallies.get_or_put(&key, || (TallyCell::default(), Tally::default().weight()));
        let mut tally = cell.lock().await;
        let read = self.read(user_id, room, &mut tally, until).await?;
        let joined = membership.position.0;
        let from = tally.upto.max(read.unthreaded).max(joined);
        if until.0 > from {
            self.look(user_id, room, &mut tally, from, until.0).await?;
            self.tallies.resize(&key, tally.weight());
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
        let mut rules = None;
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
            let looked = self.looked(event);
            let rules = match &rules {
                Some(rules) => rules,
                None => rules.insert(self.rules(user_id).await?),
            };
            let verdict = match rules {
                None => {
                    let name = &mut tally.name;
                    unchanged(store, room, event, &looked, &stretch.context, user_id, name).await?
                }
                Some(rules) => {
                    let context = stretch.context.of(store, room, user_id).await?;
                    let subscribed = self.subscribed(user_id, room, event, rules).await?;
                    Verdict::of(judge(rules, &looked.flattened, &context, subscribed).await)
                }
            };
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

    /// What came after `from`, up to `until`. All members who wait want the same at once: it is read for one of them.
    async fn stretch(&self, room: &Room, from: i64, until: i64) -> Result<Arc<Stretch>, PushError> {
        let key = (room.nid, from, until);
        let cell = self.stretches.get_or_put(&key, || (Arc::default(), 2_000));
        if let Some(stretch) = cell.get() {
            return Ok(Arc::clone(stretch));
        }
        let read = || async {
            let store = self.rooms.store();
            let upto = StreamPosition(until);
            let events = store.graph.timeline_back(room.nid, upto, StreamPosition(from), LOOKED_AT_MAX).await?;
            let state = store.state_at(room.nid, upto).await?;
            let context = RoomContext::read(store, room, state).await?;
            Ok::<_, PushError>(Arc::new(Stretch { events, context }))
        };
        let stretch = cell.get_or_try_init(read).await?;
        // Long ones are read by those who were away: each of them another.
        if stretch.events.len() > 10 {
            self.stretches.remove(&key);
        }
        Ok(Arc::clone(stretch))
    }

    fn looked(&self, event: &StoredEvent) -> Arc<Looked> {
        if let Some(looked) = self.looked.get(&event.nid) {
            return looked;
        }
        let looked = Arc::new(Looked::new(event));
        self.looked.put(event.nid, Arc::clone(&looked), 1_500 + 2 * event.pdu.json().len());
        looked
    }
}
