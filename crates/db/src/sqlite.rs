//! SQLite: one writer thread that groups commits, readers that never wait for it.

use std::{
    path::{Path, PathBuf},
    rc::Rc,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
};

use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags, types::Value as SqliteValue, types::ValueRef, vtab::array};
use samtal_kit::{Memory, memory::Holder};
use tokio::sync::{mpsc, oneshot};

use crate::{
    Batch, Committed, DbError, LoggedChange, Row, Schema, Sql, Value,
    batch::{Expect, Step, call_hooks},
    db::Announcer,
    schema,
};

/// Batches that may wait for the writer.
const WAITING_MAX: usize = 4_096;
/// Batches in one commit.
const GROUP_MAX: usize = 512;
/// Reader connections that are kept when idle.
const READERS_KEPT: usize = 8;
const STATEMENTS_CACHED: usize = 256;
/// Pages the writer keeps in memory, in KiB: with SQLite's 2 MiB it writes and reads the same index pages again within one
/// group.
const WRITER_CACHE_KIB: i64 = 16 << 10;
/// Pages a reader keeps in memory, in KiB: they are good only until the next commit.
const READER_CACHE_KIB: i64 = 1 << 10;
/// Pages in the write-ahead log that start the next checkpoint (8 MB): a page that changes often is then copied to the file
/// half as often as with SQLite's 1,000.
const CHECKPOINT_PAGES: i64 = 2_000;

pub(crate) struct Sqlite {
    shared: Arc<Shared>,
    announcer: Announcer,
    writer: Arc<Mutex<WriterThread>>,
    /// In place of the thread: the caller's own, so that one seed is one history. Reads go through it too.
    inline: Option<Arc<Mutex<Writer>>>,
}

/// The reader connections that nobody uses just now, and when one was last used.
pub(crate) struct Shared {
    path: PathBuf,
    memory: Memory,
    idle: Mutex<Vec<Connection>>,
    used: AtomicU64,
    writer: Weak<Mutex<WriterThread>>,
}

/// The thread that writes. When nothing has happened for a while it ends, and starts again with the next batch.
enum WriterThread {
    Awake(mpsc::Sender<Waiting>, JoinHandle<()>),
    Asleep(Option<JoinHandle<()>>),
    Closed,
}

struct Waiting {
    batch: Batch,
    answer: oneshot::Sender<Result<Committed, DbError>>,
}

impl Sqlite {
    pub(crate) fn open(
        path: &Path,
        schemas: &[Schema],
        announcer: Announcer,
        memory: &Memory,
    ) -> Result<Self, DbError> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(|error| DbError::Engine(error.to_string(), None))?;
        }
        let mut connection = writing_connection(path)?;
        migrate(&mut connection, schemas)?;
        let (sender, waiting) = mpsc::channel(WAITING_MAX);
        let told = announcer.clone();
        let thread = start_thread(move || match Writer::over(connection, told) {
            Ok(writer) => writer.run(waiting),
            Err(error) => tracing::error!(%error, "the database cannot be written to"),
        })?;
        let writer = Arc::new(Mutex::new(WriterThread::Awake(sender, thread)));
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            memory: memory.clone(),
            idle: Mutex::default(),
            used: AtomicU64::new(memory.age()),
            writer: Arc::downgrade(&writer),
        });
        let holder: Arc<dyn Holder> = Arc::clone(&shared) as Arc<dyn Holder>;
        memory.register(Arc::downgrade(&holder));
        Ok(Self { shared, announcer, writer, inline: None })
    }

    /// A database without files and threads, gone with the last handle.
    pub(crate) fn open_in_memory(schemas: &[Schema], announcer: Announcer, memory: &Memory) -> Result<Self, DbError> {
        let mut connection = connect(Path::new(":memory:"), OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        migrate(&mut connection, schemas)?;
        let shared = Shared {
            path: PathBuf::new(),
            memory: memory.clone(),
            idle: Mutex::default(),
            used: AtomicU64::new(0),
            writer: Weak::new(),
        };
        let inline = Writer { connection, head: 0, announcer: announcer.clone() };
        Ok(Self {
            shared: Arc::new(shared),
            announcer,
            writer: Arc::new(Mutex::new(WriterThread::Closed)),
            inline: Some(Arc::new(Mutex::new(inline))),
        })
    }

    pub(crate) async fn commit(&self, batch: Batch) -> Result<Committed, DbError> {
        if let Some(inline) = &self.inline {
            let (answer, mut answered) = oneshot::channel();
            inline.lock().commit(vec![Waiting { batch, answer }]);
            return answered.try_recv().map_err(|_| DbError::Closed)?;
        }
        let writer = self.awake()?;
        let (answer, answered) = oneshot::channel();
        writer.send(Waiting { batch, answer }).await.map_err(|_| DbError::Closed)?;
        answered.await.map_err(|_| DbError::Closed)?
    }

    /// The way to the writer, which is woken if it sleeps.
    fn awake(&self) -> Result<mpsc::Sender<Waiting>, DbError> {
        self.shared.touch();
        let mut writer = self.writer.lock();
        if let WriterThread::Awake(sender, _) = &*writer
            && !sender.is_closed()
        {
            return Ok(sender.clone());
        }
        let before = match std::mem::replace(&mut *writer, WriterThread::Asleep(None)) {
            // It could not open the database; perhaps it can now.
            WriterThread::Awake(_, thread) => Some(thread),
            WriterThread::Asleep(thread) => thread,
            WriterThread::Closed => {
                *writer = WriterThread::Closed;
                return Err(DbError::Closed);
            }
        };
        let (sender, waiting) = mpsc::channel(WAITING_MAX);
        let (path, announcer) = (self.shared.path.clone(), self.announcer.clone());
        let thread = start_thread(move || {
            if let Some(before) = before {
                let _ = before.join();
            }
            match writing_connection(&path).and_then(|connection| Writer::over(connection, announcer)) {
                Ok(writer) => writer.run(waiting),
                Err(error) => tracing::error!(%error, "the database cannot be opened again"),
            }
        })?;
        *writer = WriterThread::Awake(sender.clone(), thread);
        Ok(sender)
    }

    pub(crate) fn query(&self, sql: &Sql, params: &[Value]) -> Result<Vec<Row>, DbError> {
        if let Some(inline) = &self.inline {
            return rows(&inline.lock().connection, sql, params);
        }
        let reader = self.shared.reader()?;
        let answer = rows(&reader, sql, params);
        self.shared.keep(reader);
        answer
    }

    pub(crate) fn snapshot(&self) -> Result<View, DbError> {
        if let Some(inline) = &self.inline {
            return Ok(View::Inline(Arc::clone(inline)));
        }
        let reader = self.shared.reader()?;
        reader.execute_batch("BEGIN")?;
        // A deferred transaction begins with its first read.
        rows(&reader, &schema::HEAD, &[])?;
        Ok(View::Reader(Reader { connection: Mutex::new(Some(reader)), shared: Arc::clone(&self.shared) }))
    }

    pub(crate) fn backup(&self, to: &Path) -> Result<(), DbError> {
        // Not one of the readers: SQLite holds writing the copy for writing, which they may not.
        let connection = connect(&self.shared.path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        connection.execute("VACUUM INTO ?1", [to.to_string_lossy()])?;
        Ok(())
    }

    /// Lets the writer finish what waits, then closes its connection.
    pub(crate) async fn close(&self) {
        let writer = std::mem::replace(&mut *self.writer.lock(), WriterThread::Closed);
        let thread = match writer {
            WriterThread::Awake(sender, thread) => {
                drop(sender);
                Some(thread)
            }
            WriterThread::Asleep(thread) => thread,
            WriterThread::Closed => None,
        };
        if let Some(thread) = thread {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
        self.shared.idle.lock().clear();
    }

    /// Whether it runs on the calling thread.
    pub(crate) fn is_inline(&self) -> bool {
        self.inline.is_some()
    }
}

impl Shared {
    fn touch(&self) {
        self.used.store(self.memory.age(), Relaxed);
    }

    fn reader(&self) -> Result<Connection, DbError> {
        self.touch();
        if let Some(reader) = self.idle.lock().pop() {
            return Ok(reader);
        }
        let reader = connect(&self.path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        reader.pragma_update(None, "query_only", true)?;
        reader.pragma_update(None, "cache_size", -READER_CACHE_KIB)?;
        Ok(reader)
    }

    fn keep(&self, reader: Connection) {
        let mut idle = self.idle.lock();
        if idle.len() < READERS_KEPT {
            idle.push(reader);
        }
    }
}

impl Holder for Shared {
    /// A database that nobody has used in a while has no connection and no thread.
    fn let_go(&self, age: u64) {
        if self.used.load(Relaxed) >= age {
            return;
        }
        drop(std::mem::take(&mut *self.idle.lock()));
        if let Some(writer) = self.writer.upgrade() {
            let mut writer = writer.lock();
            if let WriterThread::Awake(..) = &*writer
                && let WriterThread::Awake(sender, thread) = std::mem::replace(&mut *writer, WriterThread::Asleep(None))
            {
                // It ends by itself when nobody can send to it any more.
                drop(sender);
                *writer = WriterThread::Asleep(Some(thread));
            }
        }
    }
}

fn start_thread(run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, DbError> {
    std::thread::Builder::new()
        .name("samtal-writer".into())
        .spawn(run)
        .map_err(|error| DbError::Engine(error.to_string(), None))
}

fn writing_connection(path: &Path) -> Result<Connection, DbError> {
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // An acknowledged write survives the loss of power; grouping makes that cheap.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    connection.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
    // Savepoints and statements that may fail half-way note what they change: in memory, not in a file.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(connection)
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, DbError> {
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(std::time::Duration::from_secs(10))?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_CACHED);
    // Else SQLite looks at the values of `LIMIT` and the like, and plans a statement anew whenever they are bound.
    connection.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    array::load_module(&connection)?;
    Ok(connection)
}

fn migrate(connection: &mut Connection, schemas: &[Schema]) -> Result<(), DbError> {
    let failed = |owner: &str, error: &dyn std::fmt::Display| DbError::Migration(format!("{owner}: {error}"));
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    transaction.execute_batch(schema::MIGRATION_TABLE)?;
    for schema in schemas {
        let done = rows(&transaction, &schema::MIGRATION_LAST, &[schema.owner.into()])?;
        let done = usize::try_from(done.first().map_or(Ok(0), |row| row.int(0))?).unwrap_or(0);
        if done > schema.migrations.len() {
            return Err(failed(schema.owner, &"the database was written by a newer version"));
        }
        for (index, migration) in schema.migrations.iter().enumerate().skip(done) {
            transaction.execute_batch(&migration.for_sqlite()).map_err(|error| failed(schema.owner, &error))?;
            execute(&transaction, &schema::MIGRATION_DONE, &[schema.owner.into(), (index + 1).into()])?;
        }
    }
    Ok(transaction.commit()?)
}

/// A consistent view.
pub(crate) enum View {
    /// A reader in a transaction.
    Reader(Reader),
    /// The one connection of a database in memory: consistent as long as its caller does not wait in between.
    Inline(Arc<Mutex<Writer>>),
}

/// A reader's open transaction.
pub(crate) struct Reader {
    connection: Mutex<Option<Connection>>,
    shared: Arc<Shared>,
}

impl View {
    pub(crate) fn query(&self, sql: &Sql, params: &[Value]) -> Result<Vec<Row>, DbError> {
        match self {
            Self::Reader(reader) => {
                let connection = reader.connection.lock();
                rows(connection.as_ref().ok_or(DbError::Closed)?, sql, params)
            }
            Self::Inline(writer) => rows(&writer.lock().connection, sql, params),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.lock().take()
            && connection.execute_batch("ROLLBACK").is_ok()
        {
            self.shared.keep(connection);
        }
    }
}

/// What a refused batch takes with it.
#[derive(Clone, Copy)]
enum Undo {
    /// The whole transaction.
    Group,
    /// Only itself: it runs in a savepoint.
    Batch,
}

/// The answer to each batch of a transaction, and what they added to the log.
type Done = (Vec<Result<Committed, DbError>>, Vec<LoggedChange>);

/// Owns the only connection that writes.
pub(crate) struct Writer {
    connection: Connection,
    head: i64,
    announcer: Announcer,
}

impl Writer {
    fn over(connection: Connection, announcer: Announcer) -> Result<Self, DbError> {
        let head = rows(&connection, &schema::HEAD, &[])?.first().map_or(Ok(0), |row| row.int(0))?;
        Ok(Self { connection, head, announcer })
    }

    fn run(mut self, mut waiting: mpsc::Receiver<Waiting>) {
        while let Some(first) = waiting.blocking_recv() {
            let mut group = vec![first];
            while group.len() < GROUP_MAX
                && let Ok(next) = waiting.try_recv()
            {
                group.push(next);
            }
            self.commit(group);
        }
        let _ = self.connection.execute_batch("PRAGMA optimize");
    }

    /// Commits batches together, tells readers, then answers. A refused batch takes none of the others with it.
    fn commit(&mut self, group: Vec<Waiting>) {
        // Savepoints cost as much as the rest, and refusals are rare: only a group with one in it runs again with them.
        let mut done = self.run_group(&group, Undo::Group);
        if done.is_err() && group.len() > 1 {
            done = self.run_group(&group, Undo::Batch);
        }
        match done {
            Ok((results, logged)) => {
                call_hooks(group.iter().map(|waiting| &waiting.batch).zip(&results));
                self.announcer.announce(logged);
                for (waiting, result) in group.into_iter().zip(results) {
                    let _ = waiting.answer.send(result);
                }
            }
            Err(error) => {
                if !error.is_conflict() {
                    tracing::error!(%error, "a commit failed; its {} batches are refused", group.len());
                }
                for waiting in group {
                    let _ = waiting.answer.send(Err(same(&error)));
                }
            }
        }
    }

    /// One transaction: all of it or nothing.
    fn run_group(&mut self, group: &[Waiting], undo: Undo) -> Result<Done, DbError> {
        let before = self.head;
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        let done = self.run_batches(group, undo).and_then(|done| {
            if self.head != before {
                execute(&self.connection, &schema::HEAD_SET, &[self.head.into()])?;
            }
            self.connection.execute_batch("COMMIT")?;
            Ok(done)
        });
        if done.is_err() {
            if !self.connection.is_autocommit() {
                let _ = self.connection.execute_batch("ROLLBACK");
            }
            self.head = before;
        }
        done
    }

    fn run_batches(&mut self, group: &[Waiting], undo: Undo) -> Result<Done, DbError> {
        let mut results = Vec::with_capacity(group.len());
        let mut logged = Vec::new();
        for waiting in group {
            let logged_before = logged.len();
            let result = match undo {
                Undo::Group => Ok(self.run_steps(&waiting.batch, &mut logged)?),
                Undo::Batch => self.run_guarded(&waiting.batch, &mut logged),
            };
            if result.is_err() {
                logged.truncate(logged_before);
            }
            if self.connection.is_autocommit() {
                // The engine gave up the whole transaction (a full disk): all batches of the group go with it.
                return Err(result.err().unwrap_or(DbError::Full));
            }
            results.push(result);
        }
        Ok((results, logged))
    }

    fn run_guarded(&mut self, batch: &Batch, logged: &mut Vec<LoggedChange>) -> Result<Committed, DbError> {
        let before = self.head;
        self.connection.prepare_cached("SAVEPOINT batch")?.raw_execute()?;
        let result = self.run_steps(batch, logged);
        if result.is_err() {
            self.head = before;
            if !self.connection.is_autocommit() {
                self.connection.execute_batch("ROLLBACK TO batch")?;
            }
        }
        if !self.connection.is_autocommit() {
            self.connection.prepare_cached("RELEASE batch")?.raw_execute()?;
        }
        result
    }

    fn run_steps(&mut self, batch: &Batch, logged: &mut Vec<LoggedChange>) -> Result<Committed, DbError> {
        let first_position = self.head + 1;
        for (offset, change) in &batch.changes {
            let position = first_position + i64::try_from(*offset).unwrap_or(0);
            let params = [
                Value::Int(position),
                Value::Int(change.kind),
                change.room.clone().into(),
                change.user.clone().into(),
                change.reference.clone().into(),
            ];
            execute(&self.connection, &schema::CHANGE_INSERT, &params)?;
            logged.push(LoggedChange { position, change: change.clone() });
        }
        self.head += i64::try_from(batch.positions).unwrap_or(0);
        let mut answer = Committed { first_position, last_position: self.head, rows: Vec::new() };
        for step in &batch.steps {
            if let Some(rows) = run_step(&self.connection, step, first_position)? {
                answer.rows.push(rows);
            }
        }
        Ok(answer)
    }
}

fn run_step(connection: &Connection, step: &Step, first_position: i64) -> Result<Option<Vec<Row>>, DbError> {
    let refused = |what: &str| Err(DbError::Conflict(format!("{}: {what}", step.sql.name())));
    let mut statement = connection.prepare_cached(&step.sql.for_sqlite())?;
    bind(&mut statement, &step.params, first_position)?;
    match step.expect {
        Expect::Any => {
            if statement.column_count() > 0 {
                collect(&mut statement)?;
            } else {
                statement.raw_execute()?;
            }
        }
        Expect::Changed(expected) => {
            let changed = statement.raw_execute()? as u64;
            if changed != expected {
                return refused(&format!("{changed} rows changed, expected {expected}"));
            }
        }
        Expect::Returning => return collect(&mut statement).map(Some),
        Expect::Some if collect(&mut statement)?.is_empty() => return refused("no row"),
        Expect::None if !collect(&mut statement)?.is_empty() => return refused("a row"),
        Expect::Some | Expect::None => {}
    }
    Ok(None)
}

fn rows(connection: &Connection, sql: &Sql, params: &[Value]) -> Result<Vec<Row>, DbError> {
    let mut statement = connection.prepare_cached(&sql.for_sqlite())?;
    bind(&mut statement, params, 0)?;
    collect(&mut statement)
}

fn execute(connection: &Connection, sql: &Sql, params: &[Value]) -> Result<usize, DbError> {
    let mut statement = connection.prepare_cached(&sql.for_sqlite())?;
    bind(&mut statement, params, 0)?;
    Ok(statement.raw_execute()?)
}

fn bind(statement: &mut rusqlite::Statement<'_>, params: &[Value], first_position: i64) -> Result<(), DbError> {
    for (index, value) in params.iter().enumerate() {
        let index = index + 1;
        match value {
            Value::Null => statement.raw_bind_parameter(index, rusqlite::types::Null)?,
            Value::Int(int) => statement.raw_bind_parameter(index, int)?,
            Value::Text(text) => statement.raw_bind_parameter(index, &**text)?,
            Value::Blob(bytes) => statement.raw_bind_parameter(index, &**bytes)?,
            Value::Ints(list) => statement.raw_bind_parameter(index, array_of(list, |int| (*int).into()))?,
            Value::Texts(list) => statement.raw_bind_parameter(index, array_of(list, |text| text.clone().into()))?,
            Value::Blobs(list) => statement.raw_bind_parameter(index, array_of(list, |bytes| bytes.clone().into()))?,
            Value::Position(offset) => {
                statement.raw_bind_parameter(index, first_position + i64::try_from(*offset).unwrap_or(0))?;
            }
        }
    }
    Ok(())
}

fn array_of<T>(list: &[T], value: impl Fn(&T) -> SqliteValue) -> Rc<Vec<SqliteValue>> {
    Rc::new(list.iter().map(value).collect())
}

fn collect(statement: &mut rusqlite::Statement<'_>) -> Result<Vec<Row>, DbError> {
    let columns = statement.column_count();
    let mut rows = statement.raw_query();
    let mut answer = Vec::new();
    while let Some(row) = rows.next()? {
        let mut values = Vec::with_capacity(columns);
        for column in 0..columns {
            values.push(match row.get_ref(column)? {
                ValueRef::Null => Value::Null,
                ValueRef::Integer(int) => Value::Int(int),
                ValueRef::Real(_) => Value::Null,
                ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into()),
                ValueRef::Blob(bytes) => Value::Blob(bytes.into()),
            });
        }
        answer.push(Row(values));
    }
    Ok(answer)
}

/// The error once more, for another batch of the same group.
fn same(error: &DbError) -> DbError {
    match error {
        DbError::Conflict(what) => DbError::Conflict(what.clone()),
        DbError::Full => DbError::Full,
        DbError::Busy => DbError::Busy,
        DbError::Closed => DbError::Closed,
        other => DbError::Engine(other.to_string(), None),
    }
}
