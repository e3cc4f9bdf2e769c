//! The follower: reads the log, fills the lanes, and sends.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use http::{Request, header};
use parking_lot::Mutex;
use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, ServerName, UserId};
use samtal_account::Accounts;
use samtal_db::{Batch, Db, params};
use samtal_e2ee::E2ee;
use samtal_edu::{EduChange, Edus};
use samtal_kit::{Clock, Tasks};
use samtal_model::ChangeKind;
use samtal_policy::{Action, Direction, Policy, Question};
use samtal_remote::{Options, Remote, RemoteError};
use samtal_room::Rooms;
use tokio::sync::{Semaphore, broadcast::error::RecvError};

use crate::{
    SenderError,
    audience::{Audience, News},
    catch_up::{Amount, Missed},
    item::{Item, Placed},
    lane::Lane,
    schema,
    transaction::Transaction,
};

/// The follower's cursor.
const CURSOR: &str = "sender";
/// Transactions under way at once, to different destinations.
const AT_ONCE: usize = 128;
/// A transaction gets so long.
const TRANSACTION_TIME: Duration = Duration::from_secs(60);
/// How often those who did not answer are looked at, and how far all have come is stored.
const RETRY_EVERY: Duration = Duration::from_millis(500);
/// Presences that a newcomer's server is told.
const PRESENCES_MAX: usize = 100;
/// The pause after the database failed.
const TROUBLE: Duration = Duration::from_secs(1);

/// What the sender reads from and sends through.
#[derive(Clone, Debug)]
pub struct Engines {
    /// Our name.
    pub name: OwnedServerName,
    /// The database.
    pub db: Db,
    /// Events and who is in which room.
    pub rooms: Rooms,
    /// The devices of accounts, and what they are called.
    pub accounts: Arc<Accounts>,
    /// Whether other servers are told what people call their devices.
    pub device_names: bool,
    /// Devices' keys.
    pub e2ee: E2ee,
    /// Receipts, typing, presence.
    pub edus: Arc<Edus>,
    /// The way out.
    pub remote: Remote,
    /// What may go out.
    pub policy: Policy,
    /// The clock.
    pub clock: Clock,
    /// The group its tasks run in.
    pub tasks: Tasks,
}

/// Sends what our users do to the servers that must hear of it. Cheap to clone.
#[derive(Clone)]
pub struct Sender {
    inner: Arc<Inner>,
}

struct Inner {
    engines: Engines,
    /// By name, in order: whoever iterates starts tasks, and one seed is to be one history.
    lanes: Mutex<BTreeMap<OwnedServerName, Lane>>,
    at_once: Semaphore,
    /// All of the log up to here is in the lanes.
    dispatched: AtomicI64,
    /// Held by whoever makes or deletes rows.
    rows: tokio::sync::Mutex<()>,
    /// The follower's cursor as it is stored: after a crash the log is read again from here.
    saved: AtomicI64,
    transactions: AtomicU64,
    started_ms: u64,
    /// Where the log stood then: a clock may be set back.
    started_at: i64,
}

impl std::fmt::Debug for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sender({})", self.inner.engines.name)
    }
}

impl Sender {
    /// Not running yet.
    pub fn new(engines: Engines) -> Self {
        let started_ms = engines.clock.now_ms();
        let started_at = engines.db.position();
        Self {
            inner: Arc::new(Inner {
                engines,
                lanes: Mutex::default(),
                at_once: Semaphore::new(AT_ONCE),
                dispatched: AtomicI64::new(0),
                rows: tokio::sync::Mutex::default(),
                saved: AtomicI64::new(0),
                transactions: AtomicU64::new(0),
                started_ms,
                started_at,
            }),
        }
    }

    /// Starts its tasks: one follows the log, one typing and presence, one those who did not answer.
    pub async fn start(&self) -> Result<(), SenderError> {
        let after = self.restore().await?;
        let tasks = &self.inner.engines.tasks;
        tasks.spawn("sender", self.clone().follow(after));
        tasks.spawn("sender passing", self.clone().follow_passing());
        tasks.spawn("sender retry", self.clone().retry());
        Ok(())
    }

    /// Destinations for whom something waits, and since which position.
    pub fn waiting(&self) -> BTreeMap<OwnedServerName, i64> {
        let lanes = self.inner.lanes.lock();
        lanes
            .iter()
            .filter(|(_, lane)| lane.has_row || !lane.is_done())
            .map(|(name, lane)| (name.clone(), lane.after))
            .collect()
    }

    /// All of the log up to here is known to the lanes.
    pub fn position(&self) -> i64 {
        self.inner.dispatched.load(Ordering::SeqCst)
    }

    /// Whoever had something waiting at the last end is behind now.
    async fn restore(&self) -> Result<i64, SenderError> {
        let db = &self.inner.engines.db;
        let mut after = db.cursor(CURSOR).await?;
        self.inner.saved.store(after, Ordering::SeqCst);
        if after == 0 {
            // The first start: what happened before there was a sender has nobody waiting for it.
            after = db.position();
        }
        let rows = db.query(&schema::OUTGOING, params![]).await?;
        let mut lanes = self.inner.lanes.lock();
        for row in rows {
            if let Ok(destination) = OwnedServerName::try_from(row.text(0)?) {
                lanes.insert(
                    destination,
                    Lane { is_behind: true, was_gone: true, has_row: true, after: row.int(1)?, ..Lane::default() },
                );
            }
        }
        self.inner.dispatched.store(after, Ordering::SeqCst);
        Ok(after)
    }

    async fn follow(self, after: i64) {
        let tasks = self.inner.engines.tasks.clone();
        let mut changes = self.inner.engines.db.changes(after);
        loop {
            let page = tokio::select! {
                biased;
                () = tasks.stopping() => return,
                page = changes.next() => page,
            };
            let page = match page {
                Ok(page) => page,
                Err(error) => {
                    tracing::error!(%error, "the log cannot be read");
                    tokio::time::sleep(TROUBLE).await;
                    continue;
                }
            };
            let Some(last) = page.last().map(|change| change.position) else { continue };
            while let Err(error) = self.dispatch(&page, last).await {
                tracing::error!(%error, "outgoing events wait");
                tokio::select! {
                    () = tasks.stopping() => return,
                    () = tokio::time::sleep(TROUBLE) => {}
                }
            }
        }
    }

    /// Puts a page of the log into the lanes. Doing it twice costs duplicates, which everybody tolerates.
    async fn dispatch(&self, page: &[samtal_db::LoggedChange], last: i64) -> Result<(), SenderError> {
        let engines = &self.inner.engines;
        let mut audience = Audience::new(engines);
        let mut waiting: BTreeMap<OwnedServerName, Vec<Placed>> = BTreeMap::new();
        for change in page {
            let news = audience.news(change).await?.into_iter().chain(audience.missed(change).await?);
            for News { item, servers } in news {
                let action = item.action();
                for server in servers.into_iter().filter(|server| self.may_hear(server, action)) {
                    waiting.entry(server).or_default().push(Placed { position: change.position, item: item.clone() });
                }
            }
        }
        for change in page {
            self.pass_presence_of_joiner(&mut audience, change).await?;
        }
        {
            // Where this ends before the next saving, the log is read again from the cursor.
            let mut lanes = self.inner.lanes.lock();
            for (name, items) in waiting {
                let lane = lanes.entry(name.clone()).or_default();
                if lane.is_done() {
                    lane.after = first(&items) - 1;
                }
                items.into_iter().for_each(|placed| lane.push(placed));
                self.wake(&name, lane);
            }
            self.inner.dispatched.store(last, Ordering::SeqCst);
        }
        if self.inner.saved.load(Ordering::SeqCst) == 0 {
            self.save().await?;
        }
        Ok(())
    }

    /// Makes durable how far the log has been read, and for whom something of it still waits. Not for each event: what is sent
    /// again after a crash is known there.
    async fn save(&self) -> Result<(), SenderError> {
        let _rows = self.inner.rows.lock().await;
        let (without_row, last) = {
            let lanes = self.inner.lanes.lock();
            let without_row: Vec<(OwnedServerName, i64)> = lanes
                .iter()
                .filter(|(_, lane)| !lane.has_row && !lane.is_done())
                .map(|(name, lane)| (name.clone(), lane.after))
                .collect();
            (without_row, self.position())
        };
        if without_row.is_empty() && last == self.inner.saved.load(Ordering::SeqCst) {
            return Ok(());
        }
        let mut batch = Batch::new();
        for (name, after) in &without_row {
            batch.exec(&schema::OUTGOING_BEGIN, params![name.as_str(), *after]);
        }
        batch.cursor(CURSOR, last);
        self.inner.engines.db.commit(batch).await?;
        self.inner.saved.store(last, Ordering::SeqCst);
        let gone: Vec<OwnedServerName> = {
            let mut lanes = self.inner.lanes.lock();
            without_row
                .into_iter()
                .map(|(name, _)| name)
                .filter(|name| lanes.get_mut(name).map(|lane| lane.has_row = true).is_none())
                .collect()
        };
        if !gone.is_empty() {
            // They were done meanwhile.
            let mut batch = Batch::new();
            for name in gone {
                batch.exec(&schema::OUTGOING_END, params![name.as_str(), i64::MAX]);
            }
            self.inner.engines.db.commit(batch).await?;
        }
        Ok(())
    }

    fn may_hear(&self, server: &ServerName, action: Action) -> bool {
        self.inner.engines.policy.review(&Question::new(server, Direction::Outbound, action)).permit().is_ok()
    }

    /// Starts work on a lane unless somebody works on it, or its destination is left alone for now.
    fn wake(&self, destination: &ServerName, lane: &mut Lane) {
        if lane.is_running || lane.is_empty() {
            return;
        }
        if self.inner.engines.remote.destinations().wait_until(destination).is_some() {
            lane.let_go();
            return;
        }
        lane.is_running = true;
        self.inner.engines.tasks.spawn("transactions", self.clone().work(destination.to_owned()));
    }

    async fn work(self, destination: OwnedServerName) {
        let tasks = self.inner.engines.tasks.clone();
        loop {
            let step = async {
                // The semaphore is never closed.
                let _permit = self.inner.at_once.acquire().await;
                self.step(&destination).await
            };
            let step = tokio::select! {
                biased;
                () = tasks.stopping() => return,
                step = step => step,
            };
            let go_on = match step {
                Ok(go_on) => go_on,
                Err(error) => {
                    tracing::error!(%destination, %error, "sending waits");
                    tokio::time::sleep(TROUBLE).await;
                    false
                }
            };
            if !go_on {
                let mut lanes = self.inner.lanes.lock();
                if let Some(lane) = lanes.get_mut(&destination) {
                    lane.is_running = false;
                    if lane.is_empty() && !lane.has_row {
                        lanes.remove(&destination);
                    }
                }
                return;
            }
        }
    }

    /// One transaction, or one reading of the log. Whether there may be more to do.
    async fn step(&self, destination: &ServerName) -> Result<bool, SenderError> {
        let (behind_after, items, typing, presence) = {
            let mut lanes = self.inner.lanes.lock();
            let Some(lane) = lanes.get_mut(destination) else { return Ok(false) };
            if lane.is_behind {
                (Some(lane.after), Vec::new(), BTreeMap::new(), BTreeSet::new())
            } else {
                let count = Transaction::fitting(lane.queue.iter()).min(lane.queue.len());
                let items: Vec<Placed> = lane.queue.iter().take(count).cloned().collect();
                (None, items, std::mem::take(&mut lane.typing), std::mem::take(&mut lane.presence))
            }
        };
        if let Some(after) = behind_after {
            return self.catch_up(destination, after).await;
        }
        if items.is_empty() && typing.is_empty() && presence.is_empty() {
            return self.finish(destination).await;
        }
        let mut transaction = Transaction::build(&self.inner.engines, destination, &items).await?;
        transaction.typing(typing);
        transaction.presence(&self.inner.engines, presence);
        if !self.send(destination, &transaction).await? {
            self.give_up(destination);
            return Ok(false);
        }
        let after = {
            let mut lanes = self.inner.lanes.lock();
            let Some(lane) = lanes.get_mut(destination) else { return Ok(false) };
            lane.after = items.last().map_or(lane.after, |placed| placed.position.max(lane.after));
            if !lane.is_behind {
                lane.queue.drain(..items.len().min(lane.queue.len()));
                if transaction.more_stored {
                    lane.queue.push_front(Placed { position: lane.after, item: Item::Edu });
                }
            }
            lane.after
        };
        self.delivered(destination, &transaction, after).await?;
        Ok(true)
    }

    /// Reads the log for a destination that is behind and sends what it missed. Whether that worked.
    async fn catch_up(&self, destination: &ServerName, after: i64) -> Result<bool, SenderError> {
        if self.inner.engines.remote.destinations().wait_until(destination).is_some() {
            return Ok(false);
        }
        let was_gone = self.inner.lanes.lock().get(destination).is_some_and(|lane| lane.was_gone);
        let amount = if was_gone { Amount::Newest } else { Amount::Page };
        let (missed, until) = Missed::read(&self.inner.engines, destination, after, self.position(), amount).await?;
        let mut items = missed.into_items(until);
        // The rules may have changed since.
        for action in [Action::Event, Action::Edu] {
            if items.iter().any(|placed| placed.item.action() == action) && !self.may_hear(destination, action) {
                items.retain(|placed| placed.item.action() != action);
            }
        }
        tracing::debug!(%destination, after, until, items = items.len(), "catching up");
        while !items.is_empty() {
            let count = Transaction::fitting(items.iter()).min(items.len());
            let part: Vec<Placed> = items.iter().take(count).cloned().collect();
            let transaction = Transaction::build(&self.inner.engines, destination, &part).await?;
            if !self.send(destination, &transaction).await? {
                return Ok(false);
            }
            self.delivered(destination, &transaction, after).await?;
            items.drain(..count);
            if transaction.more_stored {
                items.insert(0, Placed { position: until, item: Item::Edu });
            }
        }
        {
            let mut lanes = self.inner.lanes.lock();
            if let Some(lane) = lanes.get_mut(destination) {
                lane.after = until;
                lane.was_gone = false;
                // What was dispatched meanwhile is not in the queue, so the log has to be read once more.
                lane.is_behind = self.position() > until;
            }
        }
        self.delivered(destination, &Transaction::default(), until).await?;
        Ok(true)
    }

    /// Removes a lane for which nothing waits. Whether there was something after all.
    async fn finish(&self, destination: &ServerName) -> Result<bool, SenderError> {
        let _rows = self.inner.rows.lock().await;
        let lane = {
            let mut lanes = self.inner.lanes.lock();
            match lanes.get(destination) {
                Some(lane) if lane.is_empty() => lanes.remove(destination),
                _ => return Ok(true),
            }
        };
        if let Some(lane) = lane.filter(|lane| lane.has_row) {
            let mut batch = Batch::new();
            batch.exec(&schema::OUTGOING_END, params![destination.as_str(), lane.after]);
            self.inner.engines.db.commit(batch).await?;
        }
        Ok(false)
    }

    /// Notes what has been delivered.
    async fn delivered(
        &self,
        destination: &ServerName,
        transaction: &Transaction,
        after: i64,
    ) -> Result<(), SenderError> {
        let has_row = self.inner.lanes.lock().get(destination).is_some_and(|lane| lane.has_row);
        let mut batch = Batch::new();
        if has_row {
            batch.exec(&schema::OUTGOING_ADVANCE, params![after, destination.as_str()]);
        }
        if !transaction.stored.is_empty() {
            batch.exec(&schema::EDUS_DELETE, params![destination.as_str(), transaction.stored.clone()]);
        }
        if !batch.is_empty() {
            self.inner.engines.db.commit(batch).await?;
        }
        Ok(())
    }

    fn give_up(&self, destination: &ServerName) {
        if let Some(lane) = self.inner.lanes.lock().get_mut(destination) {
            lane.let_go();
        }
    }

    /// Sends one transaction. Whether it arrived.
    async fn send(&self, destination: &ServerName, transaction: &Transaction) -> Result<bool, SenderError> {
        if transaction.is_empty() {
            return Ok(true);
        }
        let engines = &self.inner.engines;
        let number = self.inner.transactions.fetch_add(1, Ordering::Relaxed);
        let path = format!("/_matrix/federation/v1/send/{}-{}-{number}", self.inner.started_ms, self.inner.started_at);
        let body = transaction.body(&engines.name, engines.clock.now_ms());
        let request = Request::put(path).header(header::CONTENT_TYPE, "application/json").body(body.into());
        let Ok(request) = request else { return Ok(true) };
        match engines.remote.send_raw(destination, request, Options::background().time(TRANSACTION_TIME)).await {
            Ok(_) => Ok(true),
            Err(RemoteError::Storage(error)) => Err(error.into()),
            Err(RemoteError::BackingOff { .. }) => Ok(false),
            // Nothing that could be done later would make it go through; the policy may change, but then for what comes then.
            Err(error @ (RemoteError::Refused(_) | RemoteError::Request(_))) => {
                tracing::info!(%destination, %error, "a transaction is dropped");
                Ok(true)
            }
            Err(error) => {
                tracing::debug!(%destination, %error, "a transaction did not arrive");
                if error.status().is_some() || matches!(error, RemoteError::Malformed { .. }) {
                    engines.remote.destinations().is_gone(destination).await?;
                }
                Ok(false)
            }
        }
    }

    /// Tries again those who are behind, when their time has come or they have shown up.
    async fn retry(self) {
        let engines = &self.inner.engines;
        let mut came_back = engines.remote.destinations().came_back();
        loop {
            let back = tokio::select! {
                biased;
                () = engines.tasks.stopping() => None,
                back = came_back.recv() => back.ok(),
                () = tokio::time::sleep(RETRY_EVERY) => None,
            };
            if back.is_none()
                && let Err(error) = self.save().await
            {
                tracing::error!(%error, "how far outgoing events have come cannot be stored");
            }
            if engines.tasks.is_stopping() {
                return;
            }
            let mut lanes = self.inner.lanes.lock();
            match back {
                Some(destination) => {
                    if let Some(lane) = lanes.get_mut(&destination) {
                        self.wake(&destination, lane);
                    }
                }
                None => {
                    for (destination, lane) in lanes.iter_mut() {
                        self.wake(destination, lane);
                    }
                }
            }
        }
    }

    /// Follows typing and presence, which are in memory only.
    async fn follow_passing(self) {
        let engines = &self.inner.engines;
        let mut changes = engines.edus.subscribe();
        let mut typing: HashMap<OwnedRoomId, BTreeSet<OwnedUserId>> = HashMap::new();
        loop {
            let change = tokio::select! {
                biased;
                () = engines.tasks.stopping() => return,
                change = changes.recv() => change,
            };
            let passed = match change {
                Ok(EduChange::Typing(room)) => self.pass_typing(&room, &mut typing).await,
                Ok(EduChange::Presence(user)) => self.pass_presence(&user).await,
                Err(RecvError::Lagged(_)) => continue,
                Err(RecvError::Closed) => return,
            };
            if let Err(error) = passed {
                tracing::warn!(%error, "typing or presence was not passed on");
            }
        }
    }

    async fn pass_typing(
        &self,
        room: &RoomId,
        sent: &mut HashMap<OwnedRoomId, BTreeSet<OwnedUserId>>,
    ) -> Result<(), SenderError> {
        let engines = &self.inner.engines;
        let ours = |user: &OwnedUserId| user.server_name() == engines.name;
        let now: BTreeSet<OwnedUserId> = engines.edus.typing.users(room).into_iter().filter(ours).collect();
        let before = sent.remove(room).unwrap_or_default();
        let news: Vec<_> = now
            .difference(&before)
            .map(|user| (user, true))
            .chain(before.difference(&now).map(|user| (user, false)))
            .collect();
        if !news.is_empty() {
            let servers = Audience::new(engines).servers(room).await?.clone();
            self.pass(servers, |lane| {
                for (user, is_typing) in &news {
                    lane.push_typing(room.to_owned(), (*user).clone(), *is_typing);
                }
            });
        }
        if !now.is_empty() {
            sent.insert(room.to_owned(), now);
        }
        Ok(())
    }

    async fn pass_presence(&self, user: &UserId) -> Result<(), SenderError> {
        let engines = &self.inner.engines;
        if user.server_name() == engines.name {
            let servers = engines.rooms.store().graph.servers_sharing_rooms(user).await?.into_iter().collect();
            self.pass(servers, |lane| lane.push_presence(user.to_owned()));
        }
        Ok(())
    }

    /// Whoever meets sees each other: a user of ours tells the room's servers, and a newcomer's server hears of ours.
    async fn pass_presence_of_joiner(
        &self,
        audience: &mut Audience<'_>,
        logged: &samtal_db::LoggedChange,
    ) -> Result<(), SenderError> {
        let (engines, change) = (&self.inner.engines, &logged.change);
        let is_join = change.kind == ChangeKind::Membership.code() && change.reference.as_deref() == Some("join");
        if !is_join || !engines.edus.presence.is_enabled() {
            return Ok(());
        }
        let (Some(Ok(room_id)), Some(Ok(user))) =
            (change.room.as_deref().map(RoomId::parse), change.user.as_deref().map(UserId::parse))
        else {
            return Ok(());
        };
        if user.server_name() == engines.name {
            let servers = audience.servers(&room_id).await?.clone();
            self.pass(servers, |lane| lane.push_presence(user.clone()));
        } else if let Some(room) = engines.rooms.store().graph.room(&room_id).await? {
            let mut ours = engines.rooms.store().graph.joined_of(room.nid, &engines.name).await?;
            ours.truncate(PRESENCES_MAX);
            self.pass(BTreeSet::from([user.server_name().to_owned()]), |lane| {
                ours.iter().for_each(|user| lane.push_presence(user.clone()))
            });
        }
        Ok(())
    }

    fn pass(&self, mut servers: BTreeSet<OwnedServerName>, push: impl Fn(&mut Lane)) {
        servers.remove(&self.inner.engines.name);
        let mut lanes = self.inner.lanes.lock();
        for server in servers.into_iter().filter(|server| self.may_hear(server, Action::Edu)) {
            let lane = lanes.entry(server.clone()).or_default();
            push(lane);
            self.wake(&server, lane);
            if lane.is_empty() && !lane.is_running && !lane.has_row {
                lanes.remove(&server);
            }
        }
    }
}

fn first(items: &[Placed]) -> i64 {
    items.first().map_or(0, |placed| placed.position)
}
