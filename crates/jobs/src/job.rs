//! A job.

use samtal_db::{DbError, Row};

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It waits for its time, or is being done.
    Waiting,
    /// It was done.
    Done,
    /// It could not be done.
    Failed,
    /// It was taken back.
    Cancelled,
}

impl State {
    pub(crate) fn code(self) -> i64 {
        match self {
            Self::Waiting => 0,
            Self::Done => 1,
            Self::Failed => 2,
            Self::Cancelled => 3,
        }
    }

    fn from_code(code: i64) -> Self {
        match code {
            0 => Self::Waiting,
            1 => Self::Done,
            2 => Self::Failed,
            _ => Self::Cancelled,
        }
    }
}

/// A job as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its id: a secret where knowing it lets anybody act on it.
    pub id: String,
    /// What kind of thing is to be done.
    pub kind: String,
    /// For whom.
    pub owner: String,
    /// Where it stands.
    pub state: State,
    /// When it is due, in milliseconds since the epoch; nothing for a task that was begun at once.
    pub due_ms: Option<i64>,
    /// When it was scheduled, or last put off, in milliseconds since the epoch.
    pub since_ms: i64,
    /// When it ended, in milliseconds since the epoch.
    pub ended_ms: Option<i64>,
    /// What its kind needs to do it.
    pub body: String,
    /// What came of it.
    pub outcome: Option<String>,
}

/// A job to be stored.
#[derive(Clone, Debug)]
pub struct NewJob<'a> {
    /// What kind of thing is to be done.
    pub kind: &'a str,
    /// For whom.
    pub owner: &'a str,
    /// What makes scheduling it twice schedule it once, among jobs of its kind.
    pub once: Option<&'a str>,
    /// When it is due, in milliseconds since the epoch.
    pub due_ms: Option<i64>,
    /// What its kind needs to do it.
    pub body: &'a str,
}

impl Job {
    pub(crate) fn from_row(row: &Row) -> Result<Self, DbError> {
        Ok(Self {
            id: row.text(0)?.to_owned(),
            kind: row.text(1)?.to_owned(),
            owner: row.text(2)?.to_owned(),
            state: State::from_code(row.int(3)?),
            due_ms: row.opt_int(4)?,
            since_ms: row.int(5)?,
            ended_ms: row.opt_int(6)?,
            body: row.text(7)?.to_owned(),
            outcome: row.opt_text(8)?.map(ToOwned::to_owned),
        })
    }
}
