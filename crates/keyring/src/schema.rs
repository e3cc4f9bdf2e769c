//! The tables of this crate. None holds personal data.

use samtal_db::{
    Migration::{self, Both},
    Schema, Sql, sql,
};

const MIGRATIONS: &[Migration] = &[
    Both(
        // signing_key: our own; grows by one row a rotation.
        // server_key: others' keys, one row a key ever seen in use; bounded by KEYS_PER_SERVER_MAX a server.
        // server_key_document: the answers of each server, as they came, for those who ask us as notary.
        "CREATE TABLE signing_key (
        key_id TEXT PRIMARY KEY,
        seed BLOB NOT NULL,
        created_ms BIGINT NOT NULL,
        expired_ms BIGINT
     );
     CREATE TABLE server_key (
        server TEXT NOT NULL,
        key_id TEXT NOT NULL,
        public_key BLOB NOT NULL,
        valid_until_ms BIGINT NOT NULL,
        expired_ms BIGINT,
        PRIMARY KEY (server, key_id)
     ) WITHOUT ROWID;
     CREATE TABLE server_key_document (
        server TEXT PRIMARY KEY,
        document TEXT NOT NULL,
        fetched_ms BIGINT NOT NULL,
        valid_until_ms BIGINT NOT NULL
     );",
    ),
    Both(
        // One row for each key: a server that forgets a key must not make us forget the document that had it.
        "DROP TABLE server_key_document;
     CREATE TABLE server_key_document (
        server TEXT NOT NULL,
        key_id TEXT NOT NULL,
        document TEXT NOT NULL,
        fetched_ms BIGINT NOT NULL,
        valid_until_ms BIGINT NOT NULL,
        PRIMARY KEY (server, key_id)
     ) WITHOUT ROWID;",
    ),
    Both(
        // Once, however many keys are in it: a server may name a hundred. Bounded by DOCUMENTS_PER_SERVER_MAX.
        "CREATE TABLE server_document (
        server TEXT NOT NULL,
        fetched_ms BIGINT NOT NULL,
        valid_until_ms BIGINT NOT NULL,
        document TEXT NOT NULL,
        PRIMARY KEY (server, fetched_ms)
     );
     INSERT INTO server_document (server, fetched_ms, valid_until_ms, document)
        SELECT server, fetched_ms, MAX(valid_until_ms), MAX(document) FROM server_key_document
        GROUP BY server, fetched_ms;
     DROP TABLE server_key_document;",
    ),
];

/// The tables of this crate.
pub const SCHEMA: Schema = Schema::new("keyring", MIGRATIONS);

pub(crate) const SIGNING_KEYS: Sql =
    sql!("SELECT key_id, seed, created_ms, expired_ms FROM signing_key ORDER BY created_ms, key_id");
pub(crate) const SIGNING_KEY_INSERT: Sql =
    sql!("INSERT INTO signing_key (key_id, seed, created_ms, expired_ms) VALUES ($1, $2, $3, NULL)");
pub(crate) const SIGNING_KEYS_EXPIRE: Sql = sql!("UPDATE signing_key SET expired_ms = $1 WHERE expired_ms IS NULL");
pub(crate) const SIGNING_KEY_ANY: Sql = sql!("SELECT 1 FROM signing_key LIMIT 1");

pub(crate) const SERVER_KEYS: Sql =
    sql!("SELECT key_id, public_key, valid_until_ms, expired_ms FROM server_key WHERE server = $1");
pub(crate) const SERVER_KEY_SET: Sql = sql!(
    "INSERT INTO server_key (server, key_id, public_key, valid_until_ms, expired_ms) VALUES ($1, $2, $3, $4, $5)
     ON CONFLICT (server, key_id) DO UPDATE SET public_key = excluded.public_key,
        valid_until_ms = excluded.valid_until_ms, expired_ms = excluded.expired_ms"
);
pub(crate) const SERVER_KEY_DELETE: Sql = sql!("DELETE FROM server_key WHERE server = $1 AND key_id = $2");
pub(crate) const DOCUMENTS: Sql =
    sql!("SELECT document, fetched_ms, valid_until_ms FROM server_document WHERE server = $1 ORDER BY fetched_ms DESC");
pub(crate) const DOCUMENT_SET: Sql = sql!(
    "INSERT INTO server_document (server, fetched_ms, valid_until_ms, document) VALUES ($1, $2, $3, $4)
     ON CONFLICT (server, fetched_ms) DO UPDATE SET document = excluded.document, valid_until_ms = excluded.valid_until_ms"
);
pub(crate) const DOCUMENT_DELETE: Sql = sql!("DELETE FROM server_document WHERE server = $1 AND fetched_ms = $2");
