//! The tables of this crate. They hold personal data: who read what, when.

use samtal_db::{
    Migration::{self, Both},
    Schema, Sql, sql,
};

const MIGRATIONS: &[Migration] = &[Both(
    // receipt: the newest receipt of a user in a room by type and thread (unthreaded: ''); bounded by members x threads read.
    // event_position: where the event stands in the log, for "never backwards".
    "CREATE TABLE receipt (
        room TEXT NOT NULL,
        who TEXT NOT NULL,
        type TEXT NOT NULL,
        thread TEXT NOT NULL,
        event_id TEXT NOT NULL,
        ts_ms BIGINT NOT NULL,
        event_position BIGINT NOT NULL,
        position BIGINT NOT NULL,
        PRIMARY KEY (room, who, type, thread)
     ) WITHOUT ROWID;
     CREATE INDEX receipt_room_position ON receipt (room, position);
     CREATE INDEX receipt_who_position ON receipt (who, position);",
)];

/// The tables of this crate.
pub const SCHEMA: Schema = Schema::new("edu", MIGRATIONS);

pub(crate) const RECEIPT_POSITION: Sql =
    sql!("SELECT event_position, event_id FROM receipt WHERE room = $1 AND who = $2 AND type = $3 AND thread = $4");
pub(crate) const RECEIPT_SET: Sql = sql!(
    "INSERT INTO receipt (room, who, type, thread, event_id, ts_ms, event_position, position)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
     ON CONFLICT (room, who, type, thread) DO UPDATE SET event_id = excluded.event_id, ts_ms = excluded.ts_ms,
        event_position = excluded.event_position, position = excluded.position
     WHERE excluded.event_position > receipt.event_position"
);
pub(crate) const RECEIPTS_OF_ROOM: Sql = sql!(
    "SELECT room, who, type, thread, event_id, ts_ms, event_position, position FROM receipt
     WHERE room = $1 AND position > $2 AND position <= $3 ORDER BY position DESC LIMIT $4"
);
pub(crate) const RECEIPTS_OF_USER_IN_ROOM: Sql = sql!(
    "SELECT room, who, type, thread, event_id, ts_ms, event_position, position FROM receipt
     WHERE room = $1 AND who = $2 ORDER BY position"
);
pub(crate) const RECEIPTS_OF_USER: Sql = sql!(
    "SELECT room, who, type, thread, event_id, ts_ms, event_position, position FROM receipt
     WHERE who = $1 AND position > $2 AND position <= $3 ORDER BY position"
);
pub(crate) const RECEIPTS_DELETE: Sql = sql!("DELETE FROM receipt WHERE room = $1");
