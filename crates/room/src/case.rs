//! Cases: what users have reported to those who run the server.

use ruma::{EventId, RoomId, UserId};
use samtal_db::{Batch, Row, Sql, params, sql};

use crate::{Rooms, error::RoomError};

/// Longest reason that is kept, in bytes.
const REASON_BYTES_MAX: usize = 4_096;
/// Most open cases of one reporter; further reports are taken and dropped.
const OPEN_MAX: i64 = 1_000;

const INSERT: Sql = sql!(
    "INSERT INTO room_case (id, reporter, room_id, event_id, user_id, reason, reported_ms, closed)
     SELECT COALESCE(MAX(id), 0) + 1, $1, $2, $3, $4, $5, $6, 0 FROM room_case"
);
const OPEN_COUNT: Sql = sql!("SELECT COUNT(*) FROM room_case WHERE reporter = $1 AND closed = 0");
const LIST: Sql = sql!(
    "SELECT id, reporter, room_id, event_id, user_id, reason, reported_ms, closed, assignee, note, closed_by, closed_ms
     FROM room_case WHERE id < $1 ORDER BY id DESC LIMIT $2"
);
const CLOSE: Sql =
    sql!("UPDATE room_case SET closed = 1, closed_by = $1, closed_ms = $2, note = COALESCE($3, note) WHERE id = $4");
const REOPEN: Sql = sql!("UPDATE room_case SET closed = 0, closed_by = NULL, closed_ms = NULL WHERE id = $1");
const ASSIGN: Sql = sql!("UPDATE room_case SET assignee = $1 WHERE id = $2");

/// What somebody reports.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report<'a> {
    /// The room it is about, or in which the event stands.
    pub room_id: Option<&'a RoomId>,
    /// The event it is about.
    pub event_id: Option<&'a EventId>,
    /// The user it is about.
    pub user_id: Option<&'a UserId>,
    /// Why, in the reporter's words.
    pub reason: &'a str,
}

/// A report as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Its number.
    pub id: i64,
    /// Who reported.
    pub reporter: String,
    /// The room.
    pub room_id: Option<String>,
    /// The event.
    pub event_id: Option<String>,
    /// The user.
    pub user_id: Option<String>,
    /// Why.
    pub reason: String,
    /// When, in milliseconds since the epoch.
    pub reported_ms: i64,
    /// Whether somebody has dealt with it.
    pub closed: bool,
    /// Who deals with it.
    pub assignee: Option<String>,
    /// What came of it.
    pub note: Option<String>,
    /// Who has dealt with it.
    pub closed_by: Option<String>,
    /// When, in milliseconds since the epoch.
    pub closed_ms: Option<i64>,
}

/// What somebody does with a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaseStep<'a> {
    /// Has somebody, or nobody, deal with it.
    Assign(Option<&'a str>),
    /// Ends it.
    Close {
        /// Who ends it.
        by: &'a str,
        /// What came of it; at most 4,096 bytes are kept.
        note: Option<&'a str>,
    },
    /// Takes it up again.
    Reopen,
}

impl Case {
    fn from_row(row: &Row) -> Result<Self, RoomError> {
        Ok(Self {
            id: row.int(0)?,
            reporter: row.get(1)?,
            room_id: row.get(2)?,
            event_id: row.get(3)?,
            user_id: row.get(4)?,
            reason: row.get(5)?,
            reported_ms: row.int(6)?,
            closed: row.get(7)?,
            assignee: row.get(8)?,
            note: row.get(9)?,
            closed_by: row.get(10)?,
            closed_ms: row.get(11)?,
        })
    }
}

impl Rooms {
    /// Keeps a report.
    pub async fn open_case(&self, reporter: &UserId, report: Report<'_>) -> Result<(), RoomError> {
        let db = self.inner.store.db();
        let open = db.query_opt(&OPEN_COUNT, params![reporter.as_str()]).await?;
        if open.map_or(Ok(0), |row| row.int(0))? >= OPEN_MAX {
            return Ok(());
        }
        let reason = shortened(report.reason);
        let now = self.inner.clock.signed_now_ms();
        let mut batch = Batch::new();
        batch.expect(
            &INSERT,
            params![
                reporter.as_str(),
                report.room_id.map(RoomId::as_str),
                report.event_id.map(EventId::as_str),
                report.user_id.map(UserId::as_str),
                reason,
                now,
            ],
            1,
        );
        db.commit(batch).await?;
        Ok(())
    }

    /// Cases with a number below `before`, newest first.
    pub async fn cases(&self, before: i64, limit: usize) -> Result<Vec<Case>, RoomError> {
        let rows = self.inner.store.db().query(&LIST, params![before, limit]).await?;
        rows.iter().map(Case::from_row).collect()
    }

    /// The case with this number.
    pub async fn case(&self, id: i64) -> Result<Option<Case>, RoomError> {
        let cases = self.cases(id.saturating_add(1), 1).await?;
        Ok(cases.into_iter().find(|case| case.id == id))
    }

    /// Takes a step in a case. Whether there is such a case.
    pub async fn work_case(&self, id: i64, step: CaseStep<'_>) -> Result<bool, RoomError> {
        let mut batch = Batch::new();
        match step {
            CaseStep::Assign(assignee) => batch.expect(&ASSIGN, params![assignee, id], 1),
            CaseStep::Close { by, note } => {
                let now = self.inner.clock.signed_now_ms();
                batch.expect(&CLOSE, params![by, now, note.map(shortened), id], 1);
            }
            CaseStep::Reopen => batch.expect(&REOPEN, params![id], 1),
        }
        match self.inner.store.db().commit(batch).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_conflict() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// At most [`REASON_BYTES_MAX`] bytes of a text.
fn shortened(text: &str) -> &str {
    let end = (0..=REASON_BYTES_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or(0)).unwrap_or_default()
}
