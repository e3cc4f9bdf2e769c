//! SQLite: one writer thread that groups commits, readers that never wait for it.

use std::{
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
};

use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags, types::Value as SqliteValue, types::ValueRef, vtab::array};
use tokio::sync::{mpsc, oneshot};

use crate::{
    Batch, Committed, DbError, LoggedChange, Row, Schema, Sql, Value,
    batch::{Expect, Step},
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
/// Pages in the write-ahead log that start the next checkpoint (8 MB): a page that changes often is then copied to the file
/// half as often as with SQLite's 1,000.
const CHECKPOINT_PAGES: i64 = 2_000;

pub(crate) struct Sqlite {
    path: PathBuf,
    readers: Arc<Mutex<Vec<Connection>>>,
    writer: Mutex<Option<mpsc::Sender<Waiting>>>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
    /// In place of the thread: the caller's own, so that one seed is one history. Reads go through it too.
    inline: Option<Arc<Mutex<Writer>>>,
}

struct Waiting {
    batch: Batch,
    answer: oneshot::Sender<Result<Committed, DbError>>,
}

impl Sqlite {
    pub(crate) fn open(path: &Path, schemas: &[Schema], announcer: Announcer) -> Result<Self, DbError> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(|error| DbError::Engine(error.to_string(), None))?;
        }
        let mut connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // An acknowledged write survives the loss of power; grouping makes that cheap.
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
        connection.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
        // Savepoints and statements that may fail half-way note what they change: in memory, not in a file.
        connection.pragma_update(None, "temp_store", "MEMORY")?;
        migrate(&mut connection, schemas)?;
        let head = rows(&connection, &schema::HEAD, &[])?.first().map_or(Ok(0), |row| row.int(0))?;
        let (sender, waiting) = mpsc::channel(WAITING_MAX);
        let thread = std::thread::Builder::new()
            .name("samtal-writer".into())
            .spawn(move || Writer { connection, head, announcer }.run(waiting))
            .map_err(|error| DbError::Engine(error.to_string(), None))?;
        Ok(Self {
            path: path.to_owned(),
            readers: Arc::default(),
            writer: Mutex::new(Some(sender)),
            thread: Mutex::new(Some(thread)),
            inline: None,
        })
    }

    /// A database without files and threads, gone with the last handle.
    pub(crate) fn open_in_memory(schemas: &[Schema], announcer: Announcer) -> Result<Self, DbError> {
        let mut connection = connect(Path::new(":memory:"), OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        migrate(&mut connection, schemas)?;
        Ok(Self {
            path: PathBuf::new(),
            readers: Arc::default(),
            writer: Mutex::default(),
            thread: Mutex::default(),
            inline: Some(Arc::new(Mutex::new(Writer { connection, head: 0, announcer }))),
        })
    }

    pub(crate) async fn commit(&self, batch: Batch) -> Result<Committed, DbError> {
        if let Some(inline) = &self.inline {
            let (answer, mut answered) = oneshot::channel();
            inline.lock().commit(vec![Waiting { batch, answer }]);
            return answered.try_recv().map_err(|_| DbError::Closed)?;
        }
        let writer = self.writer.lock().clone().ok_or(DbError::Closed)?;
        let (answer, answered) = oneshot::channel();
        writer.send(Waiting { batch, answer }).await.map_err(|_| DbError::Closed)?;
        answered.await.map_err(|_| DbError::Closed)?
    }

    pub(crate) fn query(&self, sql: &Sql, params: &[Value]) -> Result<Vec<Row>, DbError> {
        if let Some(inline) = &self.inline {
            return rows(&inline.lock().connection, sql, params);
        }
        let reader = self.reader()?;
        let answer = rows(&reader, sql, params);
        keep(&self.readers, reader);
        answer
    }

    pub(crate) fn snapshot(&self) -> Result<View, DbError> {
        if let Some(inline) = &self.inline {
            return Ok(View::Inline(Arc::clone(inline)));
        }
        let reader = self.reader()?;
        reader.execute_batch("BEGIN")?;
        // A deferred transaction begins with its first read.
        rows(&reader, &schema::HEAD, &[])?;
        Ok(View::Reader(Reader { connection: Mutex::new(Some(reader)), readers: Arc::clone(&self.readers) }))
    }

    pub(crate) fn backup(&self, to: &Path) -> Result<(), DbError> {
        // Not one of the readers: SQLite holds writing the copy for writing, which they may not.
        let connection = connect(&self.path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        connection.execute("VACUUM INTO ?1", [to.to_string_lossy()])?;
        Ok(())
    }

    /// Lets the writer finish what waits, then closes its connection.
    pub(crate) async fn close(&self) {
        self.writer.lock().take();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
        self.readers.lock().clear();
    }

    /// Whether it runs on the calling thread.
    pub(crate) fn is_inline(&self) -> bool {
        self.inline.is_some()
    }

    fn reader(&self) -> Result<Connection, DbError> {
        if let Some(reader) = self.readers.lock().pop() {
            return Ok(reader);
        }
        let reader = connect(&self.path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        reader.pragma_update(None, "query_only", true)?;
        Ok(reader)
    }
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

fn keep(readers: &Mutex<Vec<Connection>>, reader: Connection) {
    let mut readers = readers.lock();
    if readers.len() < READERS_KEPT {
        readers.push(reader);
    }
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
    readers: Arc<Mutex<Vec<Connection>>>,
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
            keep(&self.readers, connection);
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
        for change in &batch.changes {
            self.head += 1;
            let params = [
                Value::Int(self.head),
                Value::Int(change.kind),
                change.room.clone().into(),
                change.user.clone().into(),
                change.reference.clone().into(),
            ];
            execute(&self.connection, &schema::CHANGE_INSERT, &params)?;
            logged.push(LoggedChange { position: self.head, change: change.clone() });
        }
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
