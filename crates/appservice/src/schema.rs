//! The tables and their queries.

use samtal_db::{Migration, Schema, Sql, sql};

/// The tables of this crate. `appservice_transaction` holds events, so personal data, until they are delivered.
///
/// Growth: one transaction for each service; rooms listed by services are theirs to take away.
pub const SCHEMA: Schema = Schema::new(
    "appservice",
    &[Migration::Both(
        "CREATE TABLE appservice_transaction (
        service TEXT PRIMARY KEY,
        txn_id BIGINT NOT NULL,
        body TEXT
     ) WITHOUT ROWID;
     CREATE TABLE appservice_room (
        room_id TEXT NOT NULL,
        service TEXT NOT NULL,
        network TEXT NOT NULL,
        PRIMARY KEY (room_id, service, network)
     ) WITHOUT ROWID;
     CREATE TABLE appservice_registration (
        service TEXT PRIMARY KEY,
        registration_json TEXT NOT NULL
     ) WITHOUT ROWID;",
    )],
);

/// The last transaction of a service; without a body when it has been delivered.
pub(crate) const TRANSACTION: Sql = sql!("SELECT txn_id, body FROM appservice_transaction WHERE service = $1");
pub(crate) const TRANSACTION_SET: Sql = sql!(
    "INSERT INTO appservice_transaction (service, txn_id, body) VALUES ($1, $2, $3)
     ON CONFLICT (service) DO UPDATE SET txn_id = excluded.txn_id, body = excluded.body"
);
pub(crate) const TRANSACTION_DONE: Sql = sql!("UPDATE appservice_transaction SET body = NULL WHERE service = $1");
pub(crate) const TRANSACTION_DROP: Sql = sql!("DELETE FROM appservice_transaction WHERE service = $1");
pub(crate) const ROOM_LIST: Sql = sql!(
    "INSERT INTO appservice_room (room_id, service, network) VALUES ($1, $2, $3)
     ON CONFLICT (room_id, service, network) DO NOTHING"
);
pub(crate) const ROOM_UNLIST: Sql =
    sql!("DELETE FROM appservice_room WHERE room_id = $1 AND service = $2 AND network = $3");
pub(crate) const ROOMS_OF: Sql =
    sql!("SELECT room_id FROM appservice_room WHERE service = $1 AND network = $2 ORDER BY room_id");
pub(crate) const ROOMS_ALL: Sql = sql!("SELECT DISTINCT room_id FROM appservice_room ORDER BY room_id");
pub(crate) const REGISTRATIONS: Sql =
    sql!("SELECT service, registration_json FROM appservice_registration ORDER BY service");
pub(crate) const REGISTRATION_SET: Sql = sql!(
    "INSERT INTO appservice_registration (service, registration_json) VALUES ($1, $2)
     ON CONFLICT (service) DO UPDATE SET registration_json = excluded.registration_json"
);
pub(crate) const REGISTRATION_DROP: Sql = sql!("DELETE FROM appservice_registration WHERE service = $1");
