//! Reading the change log as it grows.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicI64, Ordering},
};

use parking_lot::Mutex;
use tokio::sync::broadcast::{Receiver, Sender, error::RecvError};

use crate::{Change, Db, DbError, Row};

/// How many changes a reader that fell behind takes at a time.
const CATCH_UP: i64 = 1_000;

/// A row of the change log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedChange {
    /// Its position.
    pub position: i64,
    /// What it says.
    pub change: Change,
}

impl LoggedChange {
    pub(crate) fn from_row(row: &Row) -> Result<Self, DbError> {
        Ok(Self {
            position: row.int(0)?,
            change: Change {
                kind: row.int(1)?,
                room: row.opt_text(2)?.map(Into::into),
                user: row.opt_text(3)?.map(Into::into),
                reference: row.opt_text(4)?.map(Into::into),
            },
        })
    }
}

/// How far each reader in this process has come, so that nothing is deleted before it is read.
#[derive(Clone, Default)]
pub(crate) struct Readers(Arc<Mutex<Vec<Weak<AtomicI64>>>>);

impl Readers {
    fn add(&self, after: i64) -> Arc<AtomicI64> {
        let place = Arc::new(AtomicI64::new(after));
        let mut readers = self.0.lock();
        readers.retain(|reader| reader.strong_count() > 0);
        readers.push(Arc::downgrade(&place));
        place
    }

    /// Where the last of them stands.
    pub(crate) fn least(&self) -> Option<i64> {
        self.0.lock().iter().filter_map(Weak::upgrade).map(|place| place.load(Ordering::SeqCst)).min()
    }
}

/// A reader of the change log from some position on: gap-free and in order. Losing wake-ups only costs a read.
#[derive(Debug)]
pub struct Changes {
    db: Db,
    live: Receiver<Arc<[LoggedChange]>>,
    after: i64,
    /// `after`, for those who delete.
    place: Arc<AtomicI64>,
    behind: bool,
}

impl Changes {
    pub(crate) fn new(db: Db, live: &Sender<Arc<[LoggedChange]>>, readers: &Readers, after: i64) -> Self {
        let live = live.subscribe();
        Self { db, live, after, place: readers.add(after), behind: true }
    }

    fn passed(&mut self, last: i64) {
        self.after = last;
        self.place.store(last, Ordering::SeqCst);
    }

    /// The position that has been read up to.
    pub fn position(&self) -> i64 {
        self.after
    }

    /// The next changes, at least one. Waits for them. Cancelling it loses nothing.
    pub async fn next(&mut self) -> Result<Arc<[LoggedChange]>, DbError> {
        loop {
            if self.behind {
                let changes = self.db.changes_after(self.after, CATCH_UP).await?;
                match changes.last() {
                    Some(last) => {
                        self.passed(last.position);
                        return Ok(changes.into());
                    }
                    None => self.behind = false,
                }
            }
            match self.live.recv().await {
                Ok(changes) => {
                    let first = changes.first().map_or(0, |change| change.position);
                    let last = changes.last().map_or(0, |change| change.position);
                    if last <= self.after {
                        continue;
                    }
                    if first == self.after + 1 {
                        self.passed(last);
                        return Ok(changes);
                    }
                    self.behind = true;
                }
                Err(RecvError::Lagged(_)) => self.behind = true,
                Err(RecvError::Closed) => return Err(DbError::Closed),
            }
        }
    }
}
