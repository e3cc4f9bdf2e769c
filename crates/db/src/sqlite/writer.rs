//! The writer: one connection that commits batches in groups, on a thread of its own.

use std::{path::Path, sync::Arc, thread::JoinHandle};

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::{
    connection,
    statement::{execute, rows, run_step},
};
use crate::{
    Batch, Committed, DbError, LoggedChange, Row, Sql, Value,
    batch::{Step, Undo, call_hooks},
    db::Announcer,
    schema,
};

/// Batches that may wait for the writer.
const WAITING_MAX: usize = 4_096;
/// Batches in one commit.
const GROUP_MAX: usize = 512;

/// The thread that writes. When nothing has happened for a while it ends, and starts again with the next batch.
pub(super) enum WriterThread {
    Awake(mpsc::Sender<Waiting>, JoinHandle<()>),
    Asleep(Option<JoinHandle<()>>),
    Closed,
}

pub(super) struct Waiting {
    pub(super) batch: Batch,
    pub(super) answer: oneshot::Sender<Result<Committed, DbError>>,
}

impl WriterThread {
    /// Starts it over a connection that is open.
    pub(super) fn start(connection: Connection, announcer: Announcer) -> Result<Self, DbError> {
        let (sender, waiting) = mpsc::channel(WAITING_MAX);
        let thread = start_thread(move || run(Writer::over(connection, announcer), waiting))?;
        Ok(Self::Awake(sender, thread))
    }

    /// The way to the writer, which is woken if it sleeps.
    pub(super) fn wake(&mut self, path: &Path, announcer: &Announcer) -> Result<mpsc::Sender<Waiting>, DbError> {
        if let Self::Awake(sender, _) = &*self
            && !sender.is_closed()
        {
            return Ok(sender.clone());
        }
        let before = match std::mem::replace(self, Self::Asleep(None)) {
            // It could not open the database; perhaps it can now.
            Self::Awake(_, thread) => Some(thread),
            Self::Asleep(thread) => thread,
            Self::Closed => {
                *self = Self::Closed;
                return Err(DbError::Closed);
            }
        };
        let (sender, waiting) = mpsc::channel(WAITING_MAX);
        let (path, announcer) = (path.to_owned(), announcer.clone());
        // Where no thread can be had, the one before it is still there to be waited for.
        let before = Arc::new(Mutex::new(before));
        let awaited = Arc::clone(&before);
        let started = start_thread(move || {
            let before = awaited.lock().take();
            if let Some(before) = before {
                let _ = before.join();
            }
            run(connection::writing(&path).and_then(|connection| Writer::over(connection, announcer)), waiting);
        });
        match started {
            Ok(thread) => {
                *self = Self::Awake(sender.clone(), thread);
                Ok(sender)
            }
            Err(error) => {
                *self = Self::Asleep(before.lock().take());
                Err(error)
            }
        }
    }

    /// Lets it end when it has done what waits.
    pub(super) fn sleep(&mut self) {
        match std::mem::replace(self, Self::Asleep(None)) {
            // It ends by itself when nobody can send to it any more.
            Self::Awake(_, thread) => *self = Self::Asleep(Some(thread)),
            other => *self = other,
        }
    }

    /// Takes no more batches. What is left to do is done when the thread has ended.
    pub(super) fn close(&mut self) -> Option<JoinHandle<()>> {
        match std::mem::replace(self, Self::Closed) {
            Self::Awake(_, thread) => Some(thread),
            Self::Asleep(thread) => thread,
            Self::Closed => None,
        }
    }
}

fn start_thread(run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, DbError> {
    std::thread::Builder::new()
        .name("samtal-writer".into())
        .spawn(run)
        .map_err(|error| DbError::Engine(error.to_string(), None))
}

fn run(writer: Result<Writer, DbError>, waiting: mpsc::Receiver<Waiting>) {
    match writer {
        Ok(writer) => writer.run(waiting),
        Err(error) => tracing::error!(%error, "the database cannot be written to"),
    }
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
    pub(super) fn over(connection: Connection, announcer: Announcer) -> Result<Self, DbError> {
        let head = rows(&connection, &schema::HEAD, &[])?.first().map_or(Ok(0), |row| row.int(0))?;
        Ok(Self { connection, head, announcer })
    }

    pub(super) fn query(&self, sql: &Sql, params: &[Value]) -> Result<Vec<Row>, DbError> {
        rows(&self.connection, sql, params)
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
    pub(super) fn commit(&mut self, group: Vec<Waiting>) {
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
                    let _ = waiting.answer.send(Err(error.again()));
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
            let position = first_position + offset;
            run_step(&self.connection, &Step::logged(change, position), first_position)?;
            logged.push(LoggedChange { position, change: change.clone() });
        }
        self.head += batch.positions;
        let mut answer = Committed { first_position, last_position: self.head, rows: Vec::new() };
        for step in &batch.steps {
            if let Some(rows) = run_step(&self.connection, step, first_position)? {
                answer.rows.push(rows);
            }
        }
        Ok(answer)
    }
}
