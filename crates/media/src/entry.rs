//! Finding and reading files.

use std::time::Duration;

use ruma::{OwnedServerName, ServerName};
use samtal_db::{Batch, Row, Sql, params, sql};

use crate::{ByteStream, Media, MediaError, engine::is_media_id};

/// How often somebody who waits for an upload looks, should the news of it be lost.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Reading a file is noted at most so often.
const ACCESS_NOTED_MS: u64 = 24 * 3600 * 1000;

const MEDIA: Sql = sql!(
    "SELECT m.sha256, m.content_type, m.file_name, m.uploader, m.created_ms, m.accessed_ms, m.expires_ms, m.quarantined,
        f.path, f.bytes
     FROM media m LEFT JOIN media_file f ON f.sha256 = m.sha256 WHERE m.server = $1 AND m.media_id = $2"
);
const ACCESSED: Sql = sql!("UPDATE media SET accessed_ms = $1 WHERE server = $2 AND media_id = $3");

/// A file under one of its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The server in its name.
    pub server: OwnedServerName,
    /// The id in its name.
    pub media_id: String,
    /// Its content's hash.
    pub sha256: Vec<u8>,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its media type, as its uploader said.
    pub content_type: Option<String>,
    /// Its file name, as its uploader said.
    pub file_name: Option<String>,
    /// Who uploaded it; nobody for files of other servers.
    pub uploader: Option<String>,
    /// When it came here, in ms since the epoch.
    pub created_ms: u64,
    pub(crate) path: String,
    pub(crate) accessed_ms: u64,
}

/// What is known under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A file.
    File(Box<Entry>),
    /// A reserved id.
    Reserved,
    /// A file that may not be given out.
    Quarantined,
    /// Nothing.
    Nothing,
}

impl Media {
    /// What is here under this name, at this moment.
    pub async fn look(&self, server: &ServerName, media_id: &str) -> Result<Found, MediaError> {
        if !is_media_id(media_id) {
            return Ok(Found::Nothing);
        }
        let Some(row) = self.inner().db.query_opt(&MEDIA, params![server.as_str(), media_id]).await? else {
            return Ok(Found::Nothing);
        };
        self.found(server, media_id, &row)
    }

    fn found(&self, server: &ServerName, media_id: &str, row: &Row) -> Result<Found, MediaError> {
        if row.get::<bool>(7)? {
            return Ok(Found::Quarantined);
        }
        let (Some(sha256), Some(path)) = (row.opt_blob(0)?, row.opt_text(8)?) else {
            let waits = row.get::<Option<u64>>(6)?.is_some_and(|expires_ms| expires_ms > self.inner().clock.now_ms());
            return Ok(if waits { Found::Reserved } else { Found::Nothing });
        };
        Ok(Found::File(Box::new(Entry {
            server: server.to_owned(),
            media_id: media_id.to_owned(),
            sha256: sha256.to_owned(),
            bytes: row.get(9)?,
            content_type: row.get(1)?,
            file_name: row.get(2)?,
            uploader: row.get(3)?,
            created_ms: row.get(4)?,
            path: path.to_owned(),
            accessed_ms: row.get(5)?,
        })))
    }

    /// The file of this name. One whose id is only reserved is waited for; nothing when there is no such name.
    pub async fn find(&self, server: &ServerName, media_id: &str, wait: Duration) -> Result<Option<Entry>, MediaError> {
        let mut uploaded = self.inner().uploaded.subscribe();
        let arrived = async {
            loop {
                match self.look(server, media_id).await? {
                    Found::File(entry) => return Ok(Some(*entry)),
                    Found::Quarantined => return Err(MediaError::NotFound),
                    Found::Nothing => return Ok(None),
                    Found::Reserved => {}
                }
                let _ = tokio::time::timeout(LOOK_EVERY, async {
                    while uploaded.recv().await.is_ok_and(|id| id != media_id) {}
                })
                .await;
            }
        };
        match tokio::time::timeout(wait, arrived).await {
            Ok(answer) => answer,
            Err(_) => match self.look(server, media_id).await? {
                Found::File(entry) => Ok(Some(*entry)),
                Found::Reserved => Err(MediaError::NotYetUploaded),
                Found::Quarantined => Err(MediaError::NotFound),
                Found::Nothing => Ok(None),
            },
        }
    }

    /// A file's bytes, or those of a range.
    pub async fn read(&self, entry: &Entry, range: Option<std::ops::Range<u64>>) -> Result<ByteStream, MediaError> {
        self.note_access(entry).await?;
        self.inner().store.read(&entry.path, range).await
    }

    /// Remembers that the file is in use, so that it is not swept as an old copy.
    pub(crate) async fn note_access(&self, entry: &Entry) -> Result<(), MediaError> {
        let inner = self.inner();
        let now_ms = inner.clock.now_ms();
        if now_ms.saturating_sub(entry.accessed_ms) >= ACCESS_NOTED_MS {
            let mut batch = Batch::new();
            batch.exec(&ACCESSED, params![now_ms, entry.server.as_str(), entry.media_id.as_str()]);
            inner.db.commit(batch).await?;
        }
        Ok(())
    }
}
