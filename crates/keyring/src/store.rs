//! What is remembered of other servers' keys, in the database.

use ruma::ServerName;
use samtal_db::{Batch, Db, DbError, params};

use crate::{
    document::KeyDocument,
    schema,
    validity::{KnownKey, KnownKeys},
};

/// The last document a server gave that has a key, and when.
#[derive(Clone, Debug)]
pub(crate) struct StoredDocument {
    pub(crate) key_id: String,
    pub(crate) text: String,
    pub(crate) fetched_ms: u64,
    pub(crate) valid_until_ms: u64,
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

/// The documents of a server, newest first, one for each key.
pub(crate) async fn documents(db: &Db, server: &ServerName) -> Result<Vec<StoredDocument>, DbError> {
    let rows = db.query(&schema::DOCUMENTS, params![server.as_str()]).await?;
    rows.iter()
        .map(|row| {
            Ok(StoredDocument {
                key_id: row.text(0)?.to_owned(),
                text: row.text(1)?.to_owned(),
                fetched_ms: ms(row.int(2)?),
                valid_until_ms: ms(row.int(3)?),
            })
        })
        .collect()
}

/// Keeps a document and its keys; `keys` is what they count for.
pub(crate) async fn keep(db: &Db, document: &KeyDocument, keys: &KnownKeys, now_ms: u64) -> Result<(), DbError> {
    let server = document.server.as_str();
    let mut batch = Batch::new();
    for (id, key) in keys.iter() {
        batch.exec(
            &schema::SERVER_KEY_SET,
            params![server, id, key.public_key.as_slice(), key.valid_until_ms, key.expired_ms],
        );
        let values = params![server, id, document.text.as_str(), now_ms, document.valid_until_ms];
        batch.exec(&schema::DOCUMENT_SET, values);
    }
    db.commit(batch).await.map(|_| ())
}

fn ms(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
