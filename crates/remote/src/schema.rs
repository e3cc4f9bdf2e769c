//! The tables of this crate. None holds personal data.

use samtal_db::{Migration::Both, Schema, Sql, sql};

/// The tables of this crate.
pub const SCHEMA: Schema = Schema::new(
    "remote",
    &[Both(
        // Only servers that do not answer have a row, and of these FAILING_MAX at most.
        "CREATE TABLE destination (
            server TEXT PRIMARY KEY,
            failing_since_ms BIGINT NOT NULL,
            retry_at_ms BIGINT NOT NULL,
            interval_ms BIGINT NOT NULL
         ) WITHOUT ROWID;",
    )],
);

pub(crate) const DESTINATIONS: Sql = sql!("SELECT server, failing_since_ms, retry_at_ms, interval_ms FROM destination");
pub(crate) const DESTINATION_SET: Sql = sql!(
    "INSERT INTO destination (server, failing_since_ms, retry_at_ms, interval_ms) VALUES ($1, $2, $3, $4)
     ON CONFLICT (server) DO UPDATE SET retry_at_ms = excluded.retry_at_ms, interval_ms = excluded.interval_ms"
);
pub(crate) const DESTINATION_DELETE: Sql = sql!("DELETE FROM destination WHERE server = $1");
