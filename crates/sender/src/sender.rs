//! The follower: reads the log, fills the lanes, and keeps how far it came.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use ruma::{OwnedServerName, ServerName};
use samtal_account::Accounts;
use samtal_db::{Batch, Db, params};
use samtal_e2ee::E2ee;
use samtal_edu::Edus;
use samtal_kit::{Clock, Tasks};
use samtal_policy::{Action, Direction, Policy, Question};
use samtal_remote::Remote;
use samtal_room::Rooms;
use tokio::sync::Semaphore;

use crate::{
    SenderError,
    audience::{Audience, News},
    item::Placed,
    lane::{Lane, Lanes},
    schema,
};

/// The follower's cursor.
pub(crate) const CURSOR: &str = "sender";
/// Transactions under way at once, to different destinations.
const AT_ONCE: usize = 128;
/// Besides these, to such as did not answer the last time.
const RETRIED_AT_ONCE: usize = 64;
/// How often those who did not answer are looked at, and how far all have come is stored.
const RETRY_EVERY: Duration = Duration::from_millis(500);
/// The pause after the database failed.
pub(crate) const TROUBLE: Duration = Duration::from_secs(1);

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
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) engines: Engines,
    pub(crate) lanes: Mutex<Lanes>,
    /// Tasks that were started to work on lanes.
    pub(crate) workers: AtomicU64,
    pub(crate) at_once: Semaphore,
    /// The same for those who did not answer the last time: whoever makes up servers that never answer delays only such.
    pub(crate) retried_at_once: Semaphore,
    /// All of the log up to here is in the lanes.
    pub(crate) dispatched: AtomicI64,
    /// Held by whoever makes or deletes rows.
    pub(crate) rows: tokio::sync::Mutex<()>,
    /// The follower's cursor as it is stored: after a crash the log is read again from here.
    pub(crate) saved: AtomicI64,
    pub(crate) transactions: AtomicU64,
    pub(crate) started_ms: u64,
    /// Where the log stood then: a clock may be set back.
    pub(crate) started_at: i64,
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
                workers: AtomicU64::new(0),
                at_once: Semaphore::new(AT_ONCE),
                retried_at_once: Semaphore::new(RETRIED_AT_ONCE),
                dispatched: AtomicI64::new(0),
                rows: tokio::sync::Mutex::default(),
                saved: AtomicI64::new(0),
                transactions: AtomicU64::new(0),
                started_ms,
                started_at,
            }),
        }
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
    pub(crate) async fn restore(&self) -> Result<i64, SenderError> {
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

    pub(crate) async fn follow(self, after: i64) {
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

    pub(crate) fn may_hear(&self, server: &ServerName, action: Action) -> bool {
        self.inner.engines.policy.review(&Question::new(server, Direction::Outbound, action)).permit().is_ok()
    }

    /// Starts work on a lane unless somebody works on it, or its destination is left alone for now.
    pub(crate) fn wake(&self, destination: &ServerName, lane: &mut Lane) {
        if lane.worker.is_some() || lane.is_empty() {
            return;
        }
        if self.inner.engines.remote.destinations().wait_until(destination).is_some() {
            lane.let_go();
            return;
        }
        let worker = self.inner.workers.fetch_add(1, Ordering::Relaxed);
        lane.worker = Some(worker);
        self.inner.engines.tasks.spawn("transactions", self.clone().work(destination.to_owned(), worker));
    }

    /// Tries again those who are behind, when their time has come or they have shown up.
    pub(crate) async fn retry(self) {
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
}

fn first(items: &[Placed]) -> i64 {
    items.first().map_or(0, |placed| placed.position)
}
