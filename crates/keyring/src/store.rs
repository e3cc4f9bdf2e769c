//! What is remembered of other servers' keys, in the database.

use std::collections::BTreeSet;

use ruma::ServerName;
use samtal_db::{Batch, Db, DbError, params};

use crate::{
    document::{KeyDocument, key_ids},
    schema,
    validity::{KnownKey, KnownKeys},
};

/// Answers of one server that are kept: those that no newer ones make superfluous, and of these the newest.
pub(crate) const DOCUMENTS_PER_SERVER_MAX: usize = 8;

/// A document as a server gave it, and when.
#[derive(Clone, Debug)]
pub(crate) struct StoredDocument {
    pub(crate) text: String,
    pub(crate) fetched_ms: u64,
    pub(crate) valid_until_ms: u64,
    /// The keys that it names.
    pub(crate) key_ids: BTreeSet<String>,
}

impl StoredDocument {
    /// After half of its life a document is asked for again.
    pub(crate) fn is_fresh(&self, now_ms: u64) -> bool {
        now_ms < self.fetched_ms + self.valid_until_ms.saturating_sub(self.fetched_ms) / 2
    }
}

pub(crate) async fn keys(db: &Db, server: &ServerName) -> Result<KnownKeys, DbError> {
    let mut keys = KnownKeys::default();
    for row in db.query(&schema::SERVER_KEYS, params![server.as_str()]).await? {
        let Ok(public_key) = row.blob(1)?.try_into() else { continue };
        let expired_ms = row.opt_int(3)?.map(ms);
        keys.insert(row.text(0)?, KnownKey { public_key, valid_until_ms: ms(row.int(2)?), expired_ms });
    }
    Ok(keys)
}

/// The documents of a server, newest first.
pub(crate) async fn documents(db: &Db, server: &ServerName) -> Result<Vec<StoredDocument>, DbError> {
    let rows = db.query(&schema::DOCUMENTS, params![server.as_str()]).await?;
    rows.iter()
        .map(|row| {
            let text = row.text(0)?.to_owned();
            let (fetched_ms, valid_until_ms) = (ms(row.int(1)?), ms(row.int(2)?));
            Ok(StoredDocument { key_ids: key_ids(&text), text, fetched_ms, valid_until_ms })
        })
        .collect()
}

/// Keeps a document and its keys; `keys` is what they count for, `gone` are those that must make place.
pub(crate) async fn keep(
    db: &Db,
    document: &KeyDocument,
    keys: &KnownKeys,
    gone: &[String],
    now_ms: u64,
) -> Result<(), DbError> {
    let server = document.server.as_str();
    let mut batch = Batch::new();
    for (id, key) in keys.iter() {
        batch.exec(
            &schema::SERVER_KEY_SET,
            params![server, id, key.public_key.as_slice(), key.valid_until_ms, key.expired_ms],
        );
    }
    for id in gone {
        batch.exec(&schema::SERVER_KEY_DELETE, params![server, id]);
    }
    let mut named = key_ids(&document.text);
    let mut kept = 1;
    for older in documents(db, &document.server).await? {
        if older.key_ids.is_subset(&named) || kept == DOCUMENTS_PER_SERVER_MAX {
            batch.exec(&schema::DOCUMENT_DELETE, params![server, older.fetched_ms]);
        } else {
            named.extend(older.key_ids);
            kept += 1;
        }
    }
    batch.exec(&schema::DOCUMENT_SET, params![server, now_ms, document.valid_until_ms, document.text.as_str()]);
    db.commit(batch).await.map(|_| ())
}

fn ms(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
