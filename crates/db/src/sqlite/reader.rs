//! Readers: connections that never wait for the writer, kept for the next one who asks.

use std::{
    path::PathBuf,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;
use rusqlite::Connection;
use samtal_kit::{Memory, memory::Holder};

use super::{
    connection,
    statement::rows,
    writer::{Writer, WriterThread},
};
use crate::{DbError, Row, Sql, Value, schema};

/// Reader connections that are kept when idle.
const READERS_KEPT: usize = 8;

/// The reader connections that nobody uses just now, and when the database was last used.
pub(super) struct Readers {
    pub(super) path: PathBuf,
    memory: Memory,
    idle: Mutex<Vec<Connection>>,
    used: AtomicU64,
    writer: Weak<Mutex<WriterThread>>,
}

impl Readers {
    pub(super) fn new(path: PathBuf, memory: &Memory, writer: Weak<Mutex<WriterThread>>) -> Self {
        let used = AtomicU64::new(memory.age());
        Self { path, memory: memory.clone(), idle: Mutex::default(), used, writer }
    }

    /// Notes that the database is in use.
    pub(super) fn touch(&self) {
        self.used.store(self.memory.age(), Relaxed);
    }

    fn take(&self) -> Result<Connection, DbError> {
        self.touch();
        let idle = self.idle.lock().pop();
        idle.map_or_else(|| connection::reading(&self.path), Ok)
    }

    fn keep(&self, reader: Connection) {
        let mut idle = self.idle.lock();
        if idle.len() < READERS_KEPT {
            idle.push(reader);
        }
    }

    /// Closes those that are idle.
    pub(super) fn close(&self) {
        drop(std::mem::take(&mut *self.idle.lock()));
    }

    pub(super) fn query(&self, sql: &Sql, params: &[Value]) -> Result<Vec<Row>, DbError> {
        let reader = self.take()?;
        let answer = rows(&reader, sql, params);
        self.keep(reader);
        answer
    }

    /// A transaction on a connection of its own.
    pub(super) fn begin(self: &Arc<Self>) -> Result<Reader, DbError> {
        let reader = self.take()?;
        reader.execute_batch("BEGIN")?;
        // A deferred transaction begins with its first read.
        rows(&reader, &schema::HEAD, &[])?;
        Ok(Reader { connection: Mutex::new(Some(reader)), readers: Arc::clone(self) })
    }
}

impl Holder for Readers {
    /// A database that nobody has used in a while has no connection and no thread.
    fn let_go(&self, age: u64) {
        if self.used.load(Relaxed) >= age {
            return;
        }
        self.close();
        if let Some(writer) = self.writer.upgrade() {
            writer.lock().sleep();
        }
    }
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
    readers: Arc<Readers>,
}

impl View {
    pub(crate) fn query(&self, sql: &Sql, params: &[Value]) -> Result<Vec<Row>, DbError> {
        match self {
            Self::Reader(reader) => {
                let connection = reader.connection.lock();
                rows(connection.as_ref().ok_or(DbError::Closed)?, sql, params)
            }
            Self::Inline(writer) => writer.lock().query(sql, params),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.lock().take()
            && connection.execute_batch("ROLLBACK").is_ok()
        {
            self.readers.keep(connection);
        }
    }
}
