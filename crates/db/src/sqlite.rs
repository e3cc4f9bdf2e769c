//! SQLite: one writer thread that groups commits, readers that never wait for it.
//!
//! Modules in reading order: [`statement`] → [`connection`] → [`writer`] → [`reader`].

mod connection;
mod reader;
mod statement;
mod writer;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use samtal_kit::{Memory, memory::Holder};
use tokio::sync::oneshot;

pub(crate) use self::reader::View;
use self::{
    reader::Readers,
    writer::{Waiting, Writer, WriterThread},
};
use crate::{Batch, Committed, DbError, Row, Schema, Sql, Value, db::Announcer};

pub(crate) struct Sqlite {
    readers: Arc<Readers>,
    announcer: Announcer,
    writer: Arc<Mutex<WriterThread>>,
    /// In place of the thread: the caller's own, so that one seed is one history. Reads go through it too.
    inline: Option<Arc<Mutex<Writer>>>,
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
        let mut connection = connection::writing(path)?;
        connection::migrate(&mut connection, schemas)?;
        let writer = Arc::new(Mutex::new(WriterThread::start(connection, announcer.clone())?));
        let readers = Arc::new(Readers::new(path.to_owned(), memory, Arc::downgrade(&writer)));
        let holder: Arc<dyn Holder> = Arc::clone(&readers) as Arc<dyn Holder>;
        memory.register(Arc::downgrade(&holder));
        Ok(Self { readers, announcer, writer, inline: None })
    }

    /// A database without files and threads, gone with the last handle.
    pub(crate) fn open_in_memory(schemas: &[Schema], announcer: Announcer, memory: &Memory) -> Result<Self, DbError> {
        let mut connection = connection::existing(Path::new(":memory:"))?;
        connection::migrate(&mut connection, schemas)?;
        let inline = Writer::over(connection, announcer.clone())?;
        Ok(Self {
            readers: Arc::new(Readers::new(PathBuf::new(), memory, Weak::new())),
            announcer,
            writer: Arc::new(Mutex::new(WriterThread::Closed)),
            inline: Some(Arc::new(Mutex::new(inline))),
        })
    }

    pub(crate) async fn commit(&self, batch: Batch) -> Result<Committed, DbError> {
        let (answer, mut answered) = oneshot::channel();
        if let Some(inline) = &self.inline {
            inline.lock().commit(vec![Waiting { batch, answer }]);
            return answered.try_recv().map_err(|_| DbError::Closed)?;
        }
        self.readers.touch();
        let writer = self.writer.lock().wake(&self.readers.path, &self.announcer)?;
        writer.send(Waiting { batch, answer }).await.map_err(|_| DbError::Closed)?;
        answered.await.map_err(|_| DbError::Closed)?
    }

    pub(crate) fn query(&self, sql: &Sql, params: &[Value]) -> Result<Vec<Row>, DbError> {
        match &self.inline {
            Some(inline) => inline.lock().query(sql, params),
            None => self.readers.query(sql, params),
        }
    }

    pub(crate) fn snapshot(&self) -> Result<View, DbError> {
        Ok(match &self.inline {
            Some(inline) => View::Inline(Arc::clone(inline)),
            None => View::Reader(self.readers.begin()?),
        })
    }

    pub(crate) fn backup(&self, to: &Path) -> Result<(), DbError> {
        // Not one of the readers: SQLite holds writing the copy for writing, which they may not.
        let connection = connection::existing(&self.readers.path)?;
        connection.execute("VACUUM INTO ?1", [to.to_string_lossy()])?;
        Ok(())
    }

    /// Lets the writer finish what waits, then closes its connection.
    pub(crate) async fn close(&self) {
        let thread = self.writer.lock().close();
        if let Some(thread) = thread {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
        self.readers.close();
    }

    /// Whether it runs on the calling thread.
    pub(crate) fn is_inline(&self) -> bool {
        self.inline.is_some()
    }
}
