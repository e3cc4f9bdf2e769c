//! Telling gateways: a follower of the change log notes what each pusher must be told, one worker for each pusher with
//! something to tell hands it over, in order, again until it is taken.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use ruma::{EventId, OwnedUserId, RoomId, UserId};
use samtal_account::{Accounts, InviteVerdict};
use samtal_db::{Batch, DbError, LoggedChange, params};
use samtal_kit::{Random, Tasks};
use samtal_model::ChangeKind;
use samtal_room::{Room, Rooms, StoredEvent};

use crate::{
    Gateway, MailRound, Push, PushError, Pusher, PusherKey, Pushers,
    gateway::GatewayError,
    mail::{LetterError, Letters},
    notification::{badge_body, event_body},
    schema,
};

/// The follower's cursor.
const CURSOR: &str = "push";
/// What waits for one pusher at most: the newest.
const PENDING_MAX: i64 = 100;
/// What one worker reads at once.
const READ_MAX: i64 = 20;
/// Changes that may pass without anything to note before the cursor is stored.
const CURSOR_STEP: i64 = 2_000;
/// The pause after a first failure, which doubles with each further one.
const PAUSE_FIRST_MS: u64 = 1_000;
/// The longest pause.
const PAUSE_MAX_MS: u64 = 60 * 60_000;
/// Up to so many pushers, each one's membership is asked for rather than the room's members.
const FEW: usize = 50;

/// What delivery needs.
#[derive(Clone)]
pub struct DeliveryEngines {
    /// Counts and verdicts.
    pub push: Arc<Push>,
    /// Pushers.
    pub pushers: Pushers,
    /// Rooms.
    pub rooms: Rooms,
    /// Accounts.
    pub accounts: Arc<Accounts>,
    /// The way to gateways.
    pub gateway: Arc<dyn Gateway>,
    /// How people are told by mail, if they are.
    pub mail: Option<MailRound>,
    /// For the spread of pauses.
    pub random: Random,
    /// The tenant's tasks.
    pub tasks: Tasks,
}

impl std::fmt::Debug for DeliveryEngines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DeliveryEngines")
    }
}

/// Tells gateways of one tenant's events.
#[derive(Debug)]
pub struct Delivery {
    engines: DeliveryEngines,
    by_user: Mutex<HashMap<OwnedUserId, Vec<Pusher>>>,
    running: Mutex<HashSet<PusherKey>>,
}

/// What is to be told of one change.
struct Note {
    user_id: OwnedUserId,
    position: i64,
    room: String,
    /// Empty for a badge.
    event_id: String,
}

impl Delivery {
    /// Over these engines.
    pub fn new(engines: DeliveryEngines) -> Arc<Self> {
        Arc::new(Self { engines, by_user: Mutex::default(), running: Mutex::default() })
    }

    /// Follows the change log until the tenant stops. Only one node does so at a time.
    pub async fn run(self: Arc<Self>) {
        let tasks = self.engines.tasks.clone();
        loop {
            let followed = tokio::select! {
                biased;
                () = tasks.stopping() => return,
                followed = self.follow() => followed,
            };
            if let Err(error) = followed {
                if matches!(error, PushError::Storage(DbError::Closed)) {
                    return;
                }
                tracing::error!(%error, "notifications are not noted; it is tried again");
            }
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    }

    async fn follow(self: &Arc<Self>) -> Result<(), PushError> {
        let db = &self.engines.pushers.db;
        let Some(lease) = db.lease(CURSOR).await? else { return Ok(()) };
        tokio::select! {
            () = lease.lost() => Ok(()),
            followed = self.follow_alone() => followed,
        }
    }

    async fn follow_alone(self: &Arc<Self>) -> Result<(), PushError> {
        let db = &self.engines.pushers.db;
        self.read_pushers().await?;
        for row in db.query(&schema::PENDING_KEYS, vec![]).await? {
            if let Ok(user_id) = UserId::parse(row.text(0)?) {
                self.start(PusherKey { user_id, app_id: row.get(1)?, pushkey: row.get(2)? });
            }
        }
        let stored = db.cursor(CURSOR).await?;
        // Nobody is told of what happened before there was anything to tell it.
        let mut stored = if stored == 0 { db.position() } else { stored };
        let mut changes = db.changes(stored);
        loop {
            let changes = changes.next().await?;
            let Some(last) = changes.last() else { continue };
            let notes = self.notes(&changes).await?;
            if notes.is_empty() && last.position - stored < CURSOR_STEP {
                continue;
            }
            self.keep(&notes, last.position).await?;
            stored = last.position;
        }
    }

    async fn read_pushers(&self) -> Result<(), PushError> {
        let mut by_user: HashMap<OwnedUserId, Vec<Pusher>> = HashMap::new();
        for pusher in self.engines.pushers.all().await? {
            by_user.entry(pusher.key.user_id.clone()).or_default().push(pusher);
        }
        *self.by_user.lock() = by_user;
        Ok(())
    }

    /// What is to be told of these changes.
    async fn notes(&self, changes: &[LoggedChange]) -> Result<Vec<Note>, PushError> {
        let mut notes = Vec::new();
        for logged in changes {
            let change = &logged.change;
            let user_id = change.user.as_deref().and_then(|user| <&UserId>::try_from(user).ok());
            match ChangeKind::from_code(change.kind) {
                Some(ChangeKind::Pusher) => {
                    if let Some(user_id) = user_id {
                        let pushers = self.engines.pushers.of_user(user_id).await?;
                        let mut by_user = self.by_user.lock();
                        if pushers.is_empty() {
                            by_user.remove(user_id);
                        } else {
                            by_user.insert(user_id.to_owned(), pushers);
                        }
                    }
                }
                Some(ChangeKind::Logout) => {
                    if let Some(user_id) = user_id.filter(|user_id| self.has_pushers(user_id)) {
                        let device = change.reference.as_deref().map(Into::into);
                        self.engines.pushers.delete_of_device(user_id, device).await?;
                    }
                }
                Some(ChangeKind::Event) => self.note_event(logged, &mut notes).await?,
                Some(ChangeKind::Membership) => self.note_invite(logged, &mut notes).await?,
                Some(ChangeKind::Receipt) => {
                    if let Some(user_id) = user_id.filter(|user_id| self.has_pushers(user_id)) {
                        let room = change.room.as_deref().unwrap_or_default();
                        notes.push(note(user_id, logged.position, room, ""));
                    }
                }
                _ => {}
            }
        }
        Ok(notes)
    }

    fn has_pushers(&self, user_id: &UserId) -> bool {
        self.by_user.lock().contains_key(user_id)
    }

    async fn note_event(&self, logged: &LoggedChange, notes: &mut Vec<Note>) -> Result<(), PushError> {
        let users: Vec<OwnedUserId> = self.by_user.lock().keys().cloned().collect();
        if users.is_empty() {
            return Ok(());
        }
        let change = &logged.change;
        let (Some(room), Some(event_id)) = (change.room.as_deref(), change.reference.as_deref()) else { return Ok(()) };
        let (Ok(room_id), Ok(event_id)) = (<&RoomId>::try_from(room), <&EventId>::try_from(event_id)) else {
            return Ok(());
        };
        let graph = &self.engines.rooms.store().graph;
        let Some(room) = graph.room(room_id).await? else { return Ok(()) };
        let mut members = Vec::new();
        if users.len() <= FEW {
            for user_id in users {
                if graph.is_joined(&user_id, room_id).await? {
                    members.push(user_id);
                }
            }
        } else {
            let with_pushers: HashSet<OwnedUserId> = users.into_iter().collect();
            members = graph.joined_of(room.nid, self.engines.rooms.server_name()).await?;
            members.retain(|member| with_pushers.contains(member));
        }
        if members.is_empty() {
            return Ok(());
        }
        let Some(event) = graph.event(event_id).await?.filter(|event| event.is_visible()) else { return Ok(()) };
        for user_id in members {
            if self.is_to_be_told(&user_id, &room, &event).await? {
                notes.push(note(&user_id, logged.position, room_id.as_str(), event_id.as_str()));
            }
        }
        Ok(())
    }

    async fn note_invite(&self, logged: &LoggedChange, notes: &mut Vec<Note>) -> Result<(), PushError> {
        let change = &logged.change;
        let (Some("invite"), Some(user), Some(room)) = (change.reference.as_deref(), &change.user, &change.room) else {
            return Ok(());
        };
        let (Ok(user_id), Ok(room_id)) = (<&UserId>::try_from(&**user), <&RoomId>::try_from(&**room)) else {
            return Ok(());
        };
        if !self.has_pushers(user_id) {
            return Ok(());
        }
        let graph = &self.engines.rooms.store().graph;
        let (Some(room), Some(membership)) = (graph.room(room_id).await?, graph.membership(user_id, room_id).await?)
        else {
            return Ok(());
        };
        let Some(event) = graph.event(&membership.event_id).await? else { return Ok(()) };
        let invites = self.engines.accounts.invite_filter(user_id).await?;
        if invites.verdict(event.pdu.sender()) == InviteVerdict::Allow
            && self.is_to_be_told(user_id, &room, &event).await?
        {
            notes.push(note(user_id, logged.position, room_id.as_str(), membership.event_id.as_str()));
        }
        Ok(())
    }

    async fn is_to_be_told(&self, user_id: &UserId, room: &Room, event: &StoredEvent) -> Result<bool, PushError> {
        Ok(event.pdu.sender() != user_id
            && self.engines.push.verdict(user_id, room, event).await?.notify
            && !self.engines.accounts.ignored(user_id).await?.contains(event.pdu.sender()))
    }

    /// Stores what is to be told, with the cursor, and wakes the workers.
    async fn keep(self: &Arc<Self>, notes: &[Note], position: i64) -> Result<(), PushError> {
        let mut batch = Batch::new();
        let mut keys = HashSet::new();
        let has_mail = self.engines.mail.is_some();
        for note in notes {
            let pushers = self.by_user.lock().get(&note.user_id).cloned().unwrap_or_default();
            // A badge is nothing to write a letter about.
            for pusher in
                pushers.into_iter().filter(|pusher| !pusher.is_mail() || (has_mail && !note.event_id.is_empty()))
            {
                let key = pusher.key;
                let user = key.user_id.as_str();
                batch.exec(
                    &schema::PENDING_INSERT,
                    params![user, &key.app_id, &key.pushkey, note.position, &note.room, &note.event_id],
                );
                keys.insert(key);
            }
        }
        for key in &keys {
            batch.exec(&schema::PENDING_TRIM, params![key.user_id.as_str(), &key.app_id, &key.pushkey, PENDING_MAX]);
        }
        batch.cursor(CURSOR, position);
        self.engines.pushers.db.commit(batch).await?;
        for key in keys {
            self.start(key);
        }
        Ok(())
    }

    /// Starts the pusher's worker, unless it runs.
    fn start(self: &Arc<Self>, key: PusherKey) {
        if !self.running.lock().insert(key.clone()) {
            return;
        }
        let this = Arc::clone(self);
        self.engines.tasks.spawn("pusher", async move {
            let tasks = this.engines.tasks.clone();
            tokio::select! {
                biased;
                () = tasks.stopping() => {}
                () = this.work_off(&key) => {}
            }
        });
    }

    /// Works until nothing waits, also not what came while the worker was about to end.
    async fn work_off(&self, key: &PusherKey) {
        loop {
            self.work(key).await;
            self.running.lock().remove(key);
            let mut wanted = params![key.user_id.as_str(), &key.app_id, &key.pushkey];
            wanted.push(1_i64.into());
            let waits = self.engines.pushers.db.query_opt(&schema::PENDING, wanted).await;
            if !matches!(waits, Ok(Some(_))) || !self.running.lock().insert(key.clone()) {
                return;
            }
        }
    }

    async fn work(&self, key: &PusherKey) {
        let mut failures = 0;
        loop {
            match self.hand_over(key).await {
                Ok(true) => failures = 0,
                Ok(false) => return,
                Err(error) => {
                    failures += 1;
                    tracing::info!(error = &error as &dyn std::error::Error, failures, "a notification was not taken");
                    let pause_ms = (PAUSE_FIRST_MS << failures.min(12)).min(PAUSE_MAX_MS);
                    let jitter_ms = self.engines.random.below(pause_ms / 4 + 1);
                    tokio::time::sleep(Duration::from_millis(pause_ms / 2 + jitter_ms)).await;
                }
            }
        }
    }

    /// Hands over what waits; says whether there was anything.
    async fn hand_over(&self, key: &PusherKey) -> Result<bool, DeliveryError> {
        let db = &self.engines.pushers.db;
        let values = params![key.user_id.as_str(), &key.app_id, &key.pushkey];
        let mut wanted = values.clone();
        wanted.push(READ_MAX.into());
        let rows = db.query(&schema::PENDING, wanted).await.map_err(PushError::from)?;
        if rows.is_empty() {
            return Ok(false);
        }
        let pushers = self.engines.pushers.of_user(&key.user_id).await?;
        let Some(pusher) = pushers.into_iter().find(|pusher| pusher.key == *key) else {
            self.engines.pushers.delete(key).await?;
            return Ok(false);
        };
        if pusher.is_mail() {
            let Some(round) = &self.engines.mail else {
                // There is no mail server any more: nobody writes letters about what was unread when there was one.
                let mut batch = Batch::new();
                batch.exec(&schema::PENDING_DELETE, values);
                db.commit(batch).await.map_err(PushError::from)?;
                return Ok(false);
            };
            return Ok(Letters { engines: &self.engines, round }.hand_over(&pusher).await?);
        }
        let read = |error: DbError| DeliveryError::Push(error.into());
        for (index, row) in rows.iter().enumerate() {
            let (position, event_id) = (row.int(0).map_err(read)?, row.text(2).map_err(read)?);
            // Of badges in a row only the last is worth telling.
            let next_is_badge = rows.get(index + 1).is_some_and(|next| next.text(2).is_ok_and(str::is_empty));
            let rejected = match event_id.is_empty() {
                true if next_is_badge => Vec::new(),
                true => self.tell_badge(&pusher).await?,
                false => self.tell_event(&pusher, event_id).await?,
            };
            if rejected.contains(&key.pushkey) {
                self.engines.pushers.delete(key).await?;
                return Ok(false);
            }
            let mut batch = Batch::new();
            let mut done = values.clone();
            done.push(position.into());
            batch.exec(&schema::PENDING_DONE, done);
            db.commit(batch).await.map_err(PushError::from)?;
        }
        Ok(true)
    }

    async fn tell_badge(&self, pusher: &Pusher) -> Result<Vec<String>, DeliveryError> {
        let Some(url) = pusher.url() else { return Ok(vec![pusher.key.pushkey.clone()]) };
        let unread = self.engines.push.badge(&pusher.key.user_id).await?;
        Ok(self.engines.gateway.notify(url, &badge_body(pusher, unread)).await?)
    }

    async fn tell_event(&self, pusher: &Pusher, event_id: &str) -> Result<Vec<String>, DeliveryError> {
        let Some(url) = pusher.url() else { return Ok(vec![pusher.key.pushkey.clone()]) };
        let Ok(event_id) = <&EventId>::try_from(event_id) else { return Ok(Vec::new()) };
        let store = self.engines.rooms.store();
        let event = store.graph.event(event_id).await.map_err(PushError::from)?;
        let Some(event) = event.filter(|event| event.redacted_by.is_none()) else { return Ok(Vec::new()) };
        let room = store.graph.room_by_nid(event.room).await.map_err(PushError::from)?;
        let user_id = &pusher.key.user_id;
        let actions = self.engines.push.actions(user_id, &room, &event).await?;
        let unread = self.engines.push.badge(user_id).await?;
        let body = event_body(store, &room, &event, pusher, &actions, unread).await.map_err(PushError::from)?;
        Ok(self.engines.gateway.notify(url, &body).await?)
    }
}

fn note(user_id: &UserId, position: i64, room: &str, event_id: &str) -> Note {
    Note { user_id: user_id.to_owned(), position, room: room.to_owned(), event_id: event_id.to_owned() }
}

/// Why something was not handed over.
#[derive(Debug, thiserror::Error)]
enum DeliveryError {
    #[error(transparent)]
    Push(#[from] PushError),
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    #[error(transparent)]
    Letter(#[from] LetterError),
}
