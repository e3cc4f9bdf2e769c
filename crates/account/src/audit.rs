//! What administrators have done: kept so that somebody can look it up.

use samtal_db::{Batch, Row, Sql, params, sql};

use crate::{AccountError, Accounts};

/// Entries that are kept, the newest.
const KEPT: i64 = 200_000;
/// Entries of one page.
const PAGE_MAX: usize = 1_000;

const INSERT: Sql = sql!(
    "INSERT INTO account_audit (id, at_ms, actor, action, subject, outcome)
     SELECT COALESCE(MAX(id), 0) + 1, $1, $2, $3, $4, $5 FROM account_audit"
);
const SWEEP: Sql = sql!("DELETE FROM account_audit WHERE id <= (SELECT COALESCE(MAX(id), 0) FROM account_audit) - $1");
const LIST: Sql = sql!(
    "SELECT id, at_ms, actor, action, subject, outcome FROM account_audit WHERE id < $1 ORDER BY id DESC LIMIT $2"
);

/// Something that an administrator has done or tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audited {
    /// Its number.
    pub id: i64,
    /// When, in milliseconds since the epoch.
    pub at_ms: i64,
    /// Who.
    pub actor: String,
    /// What: the method and the path's form.
    pub action: String,
    /// To whom or what.
    pub subject: String,
    /// What came of it: the answer's status.
    pub outcome: String,
}

impl Audited {
    fn from_row(row: &Row) -> Result<Self, AccountError> {
        Ok(Self {
            id: row.int(0)?,
            at_ms: row.int(1)?,
            actor: row.get(2)?,
            action: row.get(3)?,
            subject: row.get(4)?,
            outcome: row.get(5)?,
        })
    }
}

impl Accounts {
    /// Keeps what an administrator has done. It holds no passwords, tokens or contents: the caller names ids only.
    pub async fn audit(&self, actor: &str, action: &str, subject: &str, outcome: &str) -> Result<(), AccountError> {
        let mut tries = 0;
        loop {
            let mut batch = Batch::new();
            batch.expect(&INSERT, params![self.now(), actor, action, subject, outcome], 1);
            batch.exec(&SWEEP, params![KEPT]);
            match self.db.commit(batch).await {
                Ok(_) => return Ok(()),
                // Another node has taken the number.
                Err(error) if error.is_conflict() && tries < 5 => tries += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// What was done, the newest first, from before the entry `before`.
    pub async fn audited(&self, before: i64, limit: usize) -> Result<Vec<Audited>, AccountError> {
        let rows = self.db.query(&LIST, params![before, limit.min(PAGE_MAX)]).await?;
        rows.iter().map(Audited::from_row).collect()
    }
}
