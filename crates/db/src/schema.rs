//! Numbered, forward-only migrations.

use crate::{Sql, sql};

/// The tables of one crate. Migrations are only ever appended; each is one or more statements separated by `;`.
///
/// The text is SQLite's with BIGINT, TEXT and BLOB as the only types; for PostgreSQL, BLOB becomes BYTEA and
/// `WITHOUT ROWID` goes. On SQLite `BIGINT PRIMARY KEY` becomes `INTEGER PRIMARY KEY`, which is the row's own number: any
/// other spelling has an index beside the table.
#[derive(Clone, Copy, Debug)]
pub struct Schema {
    /// The owner crate's name.
    pub owner: &'static str,
    /// Migration n is at index n - 1.
    pub migrations: &'static [Migration],
}

/// One step of a schema.
#[derive(Clone, Copy, Debug)]
pub enum Migration {
    /// The same text on both engines.
    Both(&'static str),
    /// Where the engines differ (full-text search).
    Each {
        /// For SQLite.
        sqlite: &'static str,
        /// For PostgreSQL.
        postgres: &'static str,
    },
}

impl Schema {
    /// A schema whose migrations are the same text on both engines.
    pub const fn new(owner: &'static str, migrations: &'static [Migration]) -> Self {
        Self { owner, migrations }
    }
}

impl Migration {
    pub(crate) fn for_sqlite(&self) -> String {
        match self {
            Self::Both(text) => text.replace("BIGINT PRIMARY KEY", "INTEGER PRIMARY KEY"),
            Self::Each { sqlite, .. } => (*sqlite).to_owned(),
        }
    }

    pub(crate) fn for_postgres(&self) -> String {
        match self {
            Self::Both(text) => text.replace(" BLOB", " BYTEA").replace("WITHOUT ROWID", ""),
            Self::Each { postgres, .. } => (*postgres).to_owned(),
        }
    }
}

/// What `db` itself owns. `log_head` has one row; on PostgreSQL its row lock orders the commits of many nodes, so that
/// positions are given in commit order and a reader that sees one has seen all below it.
pub(crate) const OWN: Schema = Schema::new(
    "db",
    &[Migration::Both(
        "CREATE TABLE change_log (
        position BIGINT PRIMARY KEY,
        kind BIGINT NOT NULL,
        room TEXT,
        who TEXT,
        reference TEXT
     );
     CREATE TABLE log_head (id BIGINT PRIMARY KEY, position BIGINT NOT NULL);
     INSERT INTO log_head (id, position) VALUES (1, 0);
     CREATE TABLE cursor (name TEXT PRIMARY KEY, position BIGINT NOT NULL) WITHOUT ROWID;",
    )],
);

pub(crate) const MIGRATION_TABLE: &str =
    "CREATE TABLE IF NOT EXISTS migration (owner TEXT NOT NULL, number BIGINT NOT NULL, PRIMARY KEY (owner, number))";

pub(crate) const MIGRATION_LAST: Sql = sql!("SELECT COALESCE(MAX(number), 0) FROM migration WHERE owner = $1");
pub(crate) const MIGRATION_DONE: Sql = sql!("INSERT INTO migration (owner, number) VALUES ($1, $2)");

pub(crate) const CHANGE_INSERT: Sql =
    sql!("INSERT INTO change_log (position, kind, room, who, reference) VALUES ($1, $2, $3, $4, $5)");
pub(crate) const CHANGES_AFTER: Sql =
    sql!("SELECT position, kind, room, who, reference FROM change_log WHERE position > $1 ORDER BY position LIMIT $2");
pub(crate) const HEAD: Sql = sql!("SELECT position FROM log_head WHERE id = 1");
pub(crate) const HEAD_ADVANCE: Sql =
    sql!("UPDATE log_head SET position = position + $1 WHERE id = 1 RETURNING position");
pub(crate) const HEAD_SET: Sql = sql!("UPDATE log_head SET position = $1 WHERE id = 1");
pub(crate) const CURSOR: Sql = sql!("SELECT position FROM cursor WHERE name = $1");
pub(crate) const LOG_PRUNE: Sql = sql!("DELETE FROM change_log WHERE position <= $1");
pub(crate) const LOG_FIRST: Sql = sql!("SELECT MIN(position) FROM change_log");
pub(crate) const CURSOR_LEAST: Sql = sql!("SELECT MIN(position) FROM cursor");
