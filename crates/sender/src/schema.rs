//! The tables of this crate.

use ruma::ServerName;
use samtal_db::{Batch, Change, Migration::Both, Schema, Sql, sql};
use samtal_model::ChangeKind;
use serde_json::Value;

/// The tables of this crate. `outgoing` has no personal data and at most one row for each server; `outgoing_edu` holds messages to
/// devices until they are delivered.
pub const SCHEMA: Schema = Schema::new(
    "sender",
    &[Both(
        // outgoing: the change log after this position may not have been sent. No row: all has been.
        "CREATE TABLE outgoing (
            destination TEXT PRIMARY KEY,
            after BIGINT NOT NULL
         ) WITHOUT ROWID;
         CREATE TABLE outgoing_edu (
            destination TEXT NOT NULL,
            position BIGINT NOT NULL,
            edu TEXT NOT NULL,
            PRIMARY KEY (destination, position)
         ) WITHOUT ROWID;",
    )],
);

pub(crate) const OUTGOING_LEAST: Sql = sql!("SELECT MIN(after) FROM outgoing");
pub(crate) const OUTGOING: Sql = sql!("SELECT destination, after FROM outgoing");
/// When there was a row all before it had been sent: whoever makes one knows of nothing else that waits.
pub(crate) const OUTGOING_BEGIN: Sql = sql!(
    "INSERT INTO outgoing (destination, after) VALUES ($1, $2) ON CONFLICT (destination) DO UPDATE SET after = excluded.after"
);
pub(crate) const OUTGOING_ADVANCE: Sql = sql!("UPDATE outgoing SET after = $1 WHERE destination = $2 AND after < $1");
pub(crate) const OUTGOING_END: Sql = sql!("DELETE FROM outgoing WHERE destination = $1 AND after <= $2");
pub(crate) const EDU_INSERT: Sql = sql!("INSERT INTO outgoing_edu (destination, position, edu) VALUES ($1, $2, $3)");
pub(crate) const EDUS: Sql =
    sql!("SELECT position, edu FROM outgoing_edu WHERE destination = $1 ORDER BY position LIMIT $2");
pub(crate) const EDUS_DELETE: Sql = sql!("DELETE FROM outgoing_edu WHERE destination = $1 AND position IN list($2)");

/// Adds an EDU for another server to the batch: it goes out once the batch is durable, and stays until it is delivered.
pub fn queue_edu(batch: &mut Batch, destination: &ServerName, edu_type: &str, content: &Value) {
    let position = batch.log(Change::new(ChangeKind::OutgoingEdu).reference(destination));
    let edu = serde_json::json!({ "edu_type": edu_type, "content": content }).to_string();
    batch.exec(&EDU_INSERT, vec![destination.as_str().into(), position, edu.into()]);
}
