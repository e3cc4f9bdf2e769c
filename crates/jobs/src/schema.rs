//! The table and its queries.

use samtal_db::{Migration, Schema, Sql, sql};

/// The table of this crate. It may hold personal data: owners and bodies.
///
/// Growth: whoever schedules bounds the jobs that wait; those that ended are swept after a day.
pub const SCHEMA: Schema = Schema::new(
    "jobs",
    &[Migration::Both(
        "CREATE TABLE job (
        id TEXT PRIMARY KEY,
        kind TEXT NOT NULL,
        owner TEXT NOT NULL,
        once TEXT UNIQUE,
        state BIGINT NOT NULL,
        due_ms BIGINT,
        since_ms BIGINT NOT NULL,
        ended_ms BIGINT,
        body TEXT NOT NULL,
        outcome TEXT
     ) WITHOUT ROWID;
     CREATE INDEX job_due ON job (kind, state, due_ms);
     CREATE INDEX job_owner ON job (owner, kind);",
    )],
);

pub(crate) const INSERT: Sql = sql!(
    "INSERT INTO job (id, kind, owner, once, state, due_ms, since_ms, body) VALUES ($1, $2, $3, $4, 0, $5, $6, $7)"
);
pub(crate) const BY_ID: Sql = sql!(
    "SELECT id, kind, owner, state, due_ms, since_ms, ended_ms, body, outcome FROM job WHERE id = $1 AND kind = $2"
);
pub(crate) const ID_OF_ONCE: Sql = sql!("SELECT id FROM job WHERE once = $1");
pub(crate) const OF_OWNER: Sql = sql!(
    "SELECT id, kind, owner, state, due_ms, since_ms, ended_ms, body, outcome FROM job
     WHERE owner = $1 AND kind = $2 ORDER BY since_ms, id LIMIT $3"
);
pub(crate) const OF_KIND: Sql = sql!(
    "SELECT id, kind, owner, state, due_ms, since_ms, ended_ms, body, outcome FROM job
     WHERE kind = $1 ORDER BY since_ms, id LIMIT $2"
);
pub(crate) const DUE: Sql = sql!(
    "SELECT id, kind, owner, state, due_ms, since_ms, ended_ms, body, outcome FROM job
     WHERE kind = $1 AND state = 0 AND due_ms <= $2 ORDER BY due_ms, since_ms, id LIMIT $3"
);
pub(crate) const NEXT: Sql = sql!("SELECT MIN(due_ms) FROM job WHERE kind = $1 AND state = 0");
pub(crate) const WAITING: Sql = sql!("SELECT COUNT(*) FROM job WHERE owner = $1 AND kind = $2 AND state = 0");
pub(crate) const AGAIN: Sql = sql!("UPDATE job SET due_ms = $1, since_ms = $2 WHERE id = $3 AND state = 0");
pub(crate) const HASTEN: Sql = sql!("UPDATE job SET due_ms = $1 WHERE kind = $2 AND state = 0 AND due_ms > $1");
pub(crate) const END: Sql = sql!("UPDATE job SET state = $1, ended_ms = $2, outcome = $3 WHERE id = $4 AND state = 0");
pub(crate) const SWEEP: Sql = sql!("DELETE FROM job WHERE ended_ms < $1");
