//! The one handle that the crates above hold.

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::{
        Arc, Weak,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use samtal_kit::Memory;
use tokio::sync::{broadcast, watch};

use crate::{
    Batch, Changes, Committed, DbError, LoggedChange, Row, Schema, Sql, Value,
    changes::Readers,
    params,
    postgres::{self, Postgres},
    schema,
    sqlite::{self, Sqlite},
};

/// Groups of changes that a slow reader may fall behind before it reads from the table instead.
const LIVE_GROUPS: usize = 1_024;
/// Kinds of changes whose last position is remembered: numbers below this.
const KINDS_MAX: usize = 64;
/// Messages of other nodes that a slow reader may fall behind before it misses some.
const HEARD_MAX: usize = 1_024;
/// Leases of one node: each takes a place in the database's table of locks.
const LEASES_MAX: usize = 1_024;
/// How often the holder of a lease looks whether it is its own still.
const LEASE_LOOK: Duration = Duration::from_millis(500);
/// Changes deleted in one commit: other writers wait for it.
const PRUNED_AT_ONCE: i64 = 5_000;

/// Where the database is.
#[derive(Clone, Debug)]
pub enum Options {
    /// A SQLite file; it is created with its directory when it is not there.
    Sqlite {
        /// Path of the file.
        path: PathBuf,
    },
    /// A SQLite database in memory, run on the calling thread: for the simulator, where one seed is one history. Its
    /// snapshots are consistent as long as their holder does not wait in between.
    Memory,
    /// A schema in a PostgreSQL database; it is created when it is not there.
    Postgres {
        /// `postgres://user:password@host/database`, or a key-value connection string.
        url: String,
        /// Name of the schema: letters, digits and `_`.
        schema: String,
        /// Most connections that this process keeps.
        connections_max: usize,
    },
}

/// One tenant's database. Cheap to clone.
#[derive(Clone)]
pub struct Db(Arc<Inner>);

struct Inner {
    engine: Engine,
    announcer: Announcer,
    readers: Readers,
    leases: Arc<Mutex<HashSet<String>>>,
    memory: Memory,
}

enum Engine {
    Sqlite(Sqlite),
    Postgres(Postgres),
}

impl std::fmt::Debug for Db {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0.engine {
            Engine::Sqlite(_) => "Db(SQLite)",
            Engine::Postgres(_) => "Db(PostgreSQL)",
        })
    }
}

/// Tells readers of the change log what has been committed.
#[derive(Clone)]
pub(crate) struct Announcer {
    live: broadcast::Sender<Arc<[LoggedChange]>>,
    head: watch::Sender<i64>,
    /// By kind, the position of the last change that was announced.
    last: Arc<[AtomicI64; KINDS_MAX]>,
    /// What other nodes tell.
    heard: broadcast::Sender<Arc<str>>,
    /// Those who hear of changes before all readers.
    first: Arc<Mutex<Vec<Weak<dyn FirstToHear>>>>,
}

/// Keeps something at hand that changes of the log make old, whichever node made them.
pub trait FirstToHear: Send + Sync {
    /// These have been committed; readers of the log hear of them next. It must be quick.
    fn hear(&self, changes: &[LoggedChange]);
}

impl Announcer {
    pub(crate) fn announce(&self, changes: Vec<LoggedChange>) {
        let Some(last) = changes.last().map(|change| change.position) else { return };
        for logged in &changes {
            if let Some(last) = usize::try_from(logged.change.kind).ok().and_then(|kind| self.last.get(kind)) {
                last.fetch_max(logged.position, Ordering::SeqCst);
            }
        }
        let first: Vec<Arc<dyn FirstToHear>> = self.first.lock().iter().filter_map(Weak::upgrade).collect();
        first.iter().for_each(|first| first.hear(&changes));
        self.head.send_modify(|head| *head = last.max(*head));
        // Nobody listening is fine: readers start from the table.
        let _ = self.live.send(changes.into());
    }

    /// What another node told.
    pub(crate) fn hear(&self, what: &str) {
        let _ = self.heard.send(what.into());
    }

    /// Where the log stands when the database is opened.
    pub(crate) fn start_at(&self, position: i64) {
        self.head.send_modify(|head| *head = position.max(*head));
    }

    pub(crate) fn head(&self) -> i64 {
        *self.head.borrow()
    }
}

impl Db {
    /// As [`Db::open_within`], with memory of its own.
    pub async fn open(options: &Options, schemas: &[Schema]) -> Result<Self, DbError> {
        Self::open_within(options, schemas, &Memory::default()).await
    }

    /// Opens the database, runs the migrations that are new, and reads where the change log stands. What is kept at hand of
    /// it, here and by the engines above, shares `memory` with whatever else does. A SQLite database that is not used is closed when
    /// the memory is swept, and opened again when it is.
    pub async fn open_within(options: &Options, schemas: &[Schema], memory: &Memory) -> Result<Self, DbError> {
        let last = Arc::new(std::array::from_fn(|_| AtomicI64::new(0)));
        let (live, heard) = (broadcast::channel(LIVE_GROUPS).0, broadcast::channel(HEARD_MAX).0);
        let announcer = Announcer { live, head: watch::channel(0).0, last, heard, first: Arc::default() };
        let schemas: Vec<Schema> = std::iter::once(schema::OWN).chain(schemas.iter().copied()).collect();
        let engine = match options {
            Options::Sqlite { path } => Engine::Sqlite(Sqlite::open(path, &schemas, announcer.clone(), memory)?),
            Options::Memory => Engine::Sqlite(Sqlite::open_in_memory(&schemas, announcer.clone(), memory)?),
            Options::Postgres { url, schema, connections_max } => {
                Engine::Postgres(Postgres::open(url, schema, *connections_max, &schemas, announcer.clone()).await?)
            }
        };
        let (readers, memory) = (Readers::default(), memory.clone());
        let db = Self(Arc::new(Inner { engine, announcer, readers, leases: Arc::default(), memory }));
        let head = db.query_opt(&schema::HEAD, vec![]).await?.map_or(Ok(0), |row| row.int(0))?;
        db.0.announcer.start_at(head);
        Ok(db)
    }

    /// The memory that caches of what is in the database share.
    pub fn memory(&self) -> &Memory {
        &self.0.memory
    }

    /// Makes the batch durable, or refuses all of it. Waits until it is on disk. Safe to cancel: the batch is then either
    /// kept whole or not at all.
    pub async fn commit(&self, batch: Batch) -> Result<Committed, DbError> {
        match &self.0.engine {
            Engine::Sqlite(engine) => engine.commit(batch).await,
            Engine::Postgres(engine) => engine.commit(batch).await,
        }
    }

    /// The rows of one statement. On SQLite it runs on the calling thread: for statements that touch few rows.
    pub async fn query(&self, sql: &Sql, params: Vec<Value>) -> Result<Vec<Row>, DbError> {
        match &self.0.engine {
            Engine::Sqlite(engine) => engine.query(sql, &params),
            Engine::Postgres(engine) => engine.query(sql, &params).await,
        }
    }

    /// The first row of one statement, if there is one.
    pub async fn query_opt(&self, sql: &Sql, params: Vec<Value>) -> Result<Option<Row>, DbError> {
        Ok(self.query(sql, params).await?.into_iter().next())
    }

    /// As [`Db::query`], for statements that may touch many rows: they do not hold up a worker thread.
    pub async fn scan(&self, sql: &'static Sql, params: Vec<Value>) -> Result<Vec<Row>, DbError> {
        if let Engine::Postgres(engine) = &self.0.engine {
            return engine.query(sql, &params).await;
        }
        if let Engine::Sqlite(engine) = &self.0.engine
            && engine.is_inline()
        {
            return engine.query(sql, &params);
        }
        let db = self.clone();
        tokio::task::spawn_blocking(move || match &db.0.engine {
            Engine::Sqlite(engine) => engine.query(sql, &params),
            Engine::Postgres(_) => Err(DbError::Closed),
        })
        .await
        .map_err(|error| DbError::Engine(error.to_string(), None))?
    }

    /// A view on which several reads see one and the same moment. Hold it briefly.
    pub async fn snapshot(&self) -> Result<Snapshot, DbError> {
        Ok(Snapshot(match &self.0.engine {
            Engine::Sqlite(engine) => SnapshotEngine::Sqlite(engine.snapshot()?),
            Engine::Postgres(engine) => SnapshotEngine::Postgres(engine.snapshot().await?),
        }))
    }

    /// The position up to which the change log can be read on this node, as far as this node has heard.
    pub fn position(&self) -> i64 {
        self.0.announcer.head()
    }

    /// The position of the last change of this kind that this node has heard of; 0 when there was none since the database was
    /// opened. What was read when [`Db::position`] had reached it holds still, as far as changes of this kind go.
    pub fn last_change_of(&self, kind: impl Into<i64>) -> i64 {
        let kind = usize::try_from(kind.into()).ok();
        kind.and_then(|kind| self.0.announcer.last.get(kind)).map_or(i64::MAX, |last| last.load(Ordering::SeqCst))
    }

    /// As [`Db::position`], and asks the database where other nodes may have written.
    pub async fn refresh(&self) -> Result<i64, DbError> {
        if let Engine::Postgres(engine) = &self.0.engine {
            engine.catch_up().await?;
        }
        Ok(self.position())
    }

    /// Waits until the change log has reached `position`.
    pub async fn reached(&self, position: i64) -> Result<(), DbError> {
        let mut head = self.0.announcer.head.subscribe();
        head.wait_for(|head| *head >= position).await.map_err(|_| DbError::Closed)?;
        Ok(())
    }

    /// A reader of all changes after `position`.
    pub fn changes(&self, after: i64) -> Changes {
        Changes::new(self.clone(), &self.0.announcer.live, &self.0.readers, after)
    }

    /// Has somebody hear of changes, this node's and others', before [`Db::position`] comes to them and readers are woken.
    pub fn tell_first(&self, who: Weak<dyn FirstToHear>) {
        let mut first = self.0.announcer.first.lock();
        first.retain(|who| who.strong_count() > 0);
        first.push(who);
    }

    /// At most `limit` changes after `position`, in order.
    pub async fn changes_after(&self, position: i64, limit: i64) -> Result<Vec<LoggedChange>, DbError> {
        let rows = self.query(&schema::CHANGES_AFTER, params![position, limit]).await?;
        rows.iter().map(LoggedChange::from_row).collect()
    }

    /// The saved position of the named cursor; 0 when there is none. It is moved with [`Batch::cursor`].
    pub async fn cursor(&self, name: &str) -> Result<i64, DbError> {
        self.query_opt(&schema::CURSOR, params![name]).await?.map_or(Ok(0), |row| row.int(0))
    }

    /// Deletes old changes: those that every cursor and every reader in this process has passed, and that are neither after
    /// `needed_after` nor among the newest `keep` (readers on other nodes must stay within these). Few at a time; says
    /// whether there are more.
    pub async fn prune_log(&self, keep: i64, needed_after: i64) -> Result<bool, DbError> {
        let least = self.query_opt(&schema::CURSOR_LEAST, vec![]).await?;
        let cursors = least.map(|row| row.opt_int(0)).transpose()?.flatten();
        let first = self.query_opt(&schema::LOG_FIRST, vec![]).await?.map(|row| row.opt_int(0)).transpose()?.flatten();
        let Some(first) = first else { return Ok(false) };
        let newest = (self.position() - keep).min(needed_after);
        let passed = [cursors, self.0.readers.least()].into_iter().flatten().fold(newest, i64::min);
        if passed < first {
            return Ok(false);
        }
        let until = passed.min(first + PRUNED_AT_ONCE);
        let mut batch = Batch::new();
        batch.exec(&schema::LOG_PRUNE, params![until]);
        self.commit(batch).await?;
        Ok(until < passed)
    }

    /// Tells the other nodes of the tenant something that is kept nowhere: who is not there does not hear of it. At most
    /// [`TOLD_BYTES_MAX`](crate::TOLD_BYTES_MAX). On SQLite there are no others.
    pub async fn tell(&self, what: &str) -> Result<(), DbError> {
        match &self.0.engine {
            Engine::Sqlite(_) => Ok(()),
            Engine::Postgres(engine) => engine.tell(what).await,
        }
    }

    /// What other nodes [tell](Db::tell) from now on.
    pub fn heard(&self) -> broadcast::Receiver<Arc<str>> {
        self.0.announcer.heard.subscribe()
    }

    /// Work that must have one owner among all nodes: held until the lease is dropped. Nothing when another holds it. On
    /// PostgreSQL all leases of a node are held by one connection.
    ///
    /// # Errors
    /// [`DbError::Busy`] if this node holds more than a thousand.
    pub async fn lease(&self, name: &str) -> Result<Option<Lease>, DbError> {
        {
            let mut leases = self.0.leases.lock();
            if leases.len() >= LEASES_MAX {
                return Err(DbError::Busy);
            }
            if !leases.insert(name.to_owned()) {
                return Ok(None);
            }
        }
        let mut lease = Lease { name: name.to_owned(), leases: Arc::clone(&self.0.leases), held: None };
        if let Engine::Postgres(engine) = &self.0.engine {
            match engine.advisory_lock(name).await? {
                Some(held) => lease.held = Some(held),
                None => return Ok(None),
            }
        }
        Ok(Some(lease))
    }

    /// Whether the engine is PostgreSQL.
    pub fn is_postgres(&self) -> bool {
        matches!(self.0.engine, Engine::Postgres(_))
    }

    /// Writes a consistent copy of a SQLite database to `path`, while it is in use.
    pub async fn backup(&self, path: PathBuf) -> Result<(), DbError> {
        let db = self.clone();
        tokio::task::spawn_blocking(move || match &db.0.engine {
            Engine::Sqlite(engine) => engine.backup(&path),
            Engine::Postgres(_) => {
                Err(DbError::Engine("PostgreSQL databases are backed up with PostgreSQL's own tools".into(), None))
            }
        })
        .await
        .map_err(|error| DbError::Engine(error.to_string(), None))?
    }

    /// Waits for the commits under way and refuses further ones.
    pub async fn close(&self) {
        match &self.0.engine {
            Engine::Sqlite(engine) => engine.close().await,
            Engine::Postgres(engine) => engine.close(Duration::from_secs(5)).await,
        }
    }
}

/// A consistent view; see [`Db::snapshot`].
pub struct Snapshot(SnapshotEngine);

enum SnapshotEngine {
    Sqlite(sqlite::View),
    Postgres(postgres::View),
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Snapshot")
    }
}

impl Snapshot {
    /// The rows of one statement.
    pub async fn query(&self, sql: &Sql, params: Vec<Value>) -> Result<Vec<Row>, DbError> {
        match &self.0 {
            SnapshotEngine::Sqlite(view) => view.query(sql, &params),
            SnapshotEngine::Postgres(view) => view.query(sql, &params).await,
        }
    }

    /// The first row of one statement, if there is one.
    pub async fn query_opt(&self, sql: &Sql, params: Vec<Value>) -> Result<Option<Row>, DbError> {
        Ok(self.query(sql, params).await?.into_iter().next())
    }
}

/// Sole ownership of some work; see [`Db::lease`].
pub struct Lease {
    name: String,
    leases: Arc<Mutex<HashSet<String>>>,
    held: Option<postgres::AdvisoryLock>,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lease({})", self.name)
    }
}

impl Lease {
    /// Ready once it is no longer held: the connection that held it is gone, and another node may have it.
    pub async fn lost(&self) {
        let Some(held) = &self.held else { return std::future::pending().await };
        while held.is_held() {
            tokio::time::sleep(LEASE_LOOK).await;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.leases.lock().remove(&self.name);
    }
}
