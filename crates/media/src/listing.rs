//! What those who look after the server see of files, and which of them they keep or let go.

use std::collections::HashSet;

use ruma::{OwnedServerName, ServerName, UserId};
use samtal_db::{Batch, Row, Sql, params, sql};

use crate::{Media, MediaError};

/// Files looked at in one step.
const AT_ONCE: i64 = 500;

const ONE: Sql = sql!(
    "SELECT m.server, m.media_id, m.content_type, m.file_name, m.uploader, m.created_ms, m.accessed_ms, m.quarantined,
        m.protected, f.bytes, m.sha256
     FROM media m LEFT JOIN media_file f ON f.sha256 = m.sha256 WHERE m.server = $1 AND m.media_id = $2"
);
const OF_USER: Sql = sql!(
    "SELECT m.server, m.media_id, m.content_type, m.file_name, m.uploader, m.created_ms, m.accessed_ms, m.quarantined,
        m.protected, f.bytes, m.sha256
     FROM media m JOIN media_file f ON f.sha256 = m.sha256 WHERE m.uploader = $1 ORDER BY m.created_ms, m.media_id LIMIT $2"
);
const OWN_OLD: Sql = sql!(
    "SELECT m.media_id FROM media m JOIN media_file f ON f.sha256 = m.sha256
     WHERE m.server = $1 AND m.accessed_ms < $2 AND f.bytes > $3 AND m.quarantined = 0 AND m.protected = 0
        AND m.media_id > $4 ORDER BY m.media_id LIMIT $5"
);
const REMOTE_OLD: Sql = sql!(
    "SELECT m.server, m.media_id FROM media m
     WHERE m.server <> $1 AND m.accessed_ms < $2 AND m.quarantined = 0 LIMIT $3"
);
const PROTECT: Sql = sql!("UPDATE media SET protected = $1 WHERE server = $2 AND media_id = $3");
const BY_USER: Sql = sql!(
    "SELECT m.uploader, COUNT(*), CAST(SUM(f.bytes) AS BIGINT) FROM media m JOIN media_file f ON f.sha256 = m.sha256
     WHERE m.uploader IS NOT NULL AND m.created_ms >= $1 AND m.created_ms <= $2 GROUP BY m.uploader"
);

/// A file as those who look after the server see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedFile {
    /// The server in its name.
    pub server: OwnedServerName,
    /// The id in its name.
    pub media_id: String,
    /// Its media type, as its uploader said.
    pub content_type: Option<String>,
    /// Its file name, as its uploader said.
    pub file_name: Option<String>,
    /// Who uploaded it; nobody for files of other servers.
    pub uploader: Option<String>,
    /// When it came here, in ms since the epoch.
    pub created_ms: u64,
    /// When it was last read, in ms since the epoch; noted once a day.
    pub accessed_ms: u64,
    /// Whether it is not given out.
    pub quarantined: bool,
    /// Whether quarantine and clearing pass it by.
    pub protected: bool,
    /// Its length in bytes; nothing as long as its id is only reserved.
    pub bytes: Option<u64>,
    /// Its content's hash.
    pub sha256: Option<Vec<u8>>,
}

/// What one user has uploaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserFiles {
    /// Who.
    pub user: String,
    /// How many files.
    pub count: u64,
    /// How much, in bytes.
    pub bytes: u64,
}

impl ListedFile {
    fn from_row(row: &Row) -> Result<Self, MediaError> {
        Ok(Self {
            server: ServerName::parse(row.text(0)?).map_err(|_| MediaError::NotFound)?,
            media_id: row.get(1)?,
            content_type: row.get(2)?,
            file_name: row.get(3)?,
            uploader: row.get(4)?,
            created_ms: row.get(5)?,
            accessed_ms: row.get(6)?,
            quarantined: row.get(7)?,
            protected: row.get(8)?,
            bytes: row.get(9)?,
            sha256: row.opt_blob(10)?.map(ToOwned::to_owned),
        })
    }
}

impl Media {
    /// What is known of a file, given out or not.
    pub async fn listed(&self, server: &ServerName, media_id: &str) -> Result<Option<ListedFile>, MediaError> {
        let row = self.inner().db.query_opt(&ONE, params![server.as_str(), media_id]).await?;
        row.as_ref().map(ListedFile::from_row).transpose()
    }

    /// A user's uploads, the oldest first, at most `limit`.
    pub async fn list_of_user(&self, user: &UserId, limit: u32) -> Result<Vec<ListedFile>, MediaError> {
        let rows = self.inner().db.query(&OF_USER, params![user.as_str(), limit]).await?;
        rows.iter().map(ListedFile::from_row).collect()
    }

    /// How much each user has uploaded between two times, in ms since the epoch. For administrators: it reads every file's row.
    pub async fn totals_by_user(&self, from_ms: i64, until_ms: i64) -> Result<Vec<UserFiles>, MediaError> {
        let rows = self.inner().db.scan(&BY_USER, params![from_ms, until_ms]).await?;
        rows.iter().map(|row| Ok(UserFiles { user: row.get(0)?, count: row.get(1)?, bytes: row.get(2)? })).collect()
    }

    /// Has quarantine and clearing pass a file of ours by, or no longer. Whether there is one.
    pub async fn protect(&self, media_id: &str, protected: bool) -> Result<bool, MediaError> {
        let inner = self.inner();
        let mut batch = Batch::new();
        batch.expect(&PROTECT, params![protected, inner.name.as_str(), media_id], 1);
        match inner.db.commit(batch).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_conflict() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes files of ours that were last read before `before_ms` and are longer than `larger_than` bytes, but those in
    /// `keep`, the protected and the quarantined. Their ids.
    pub async fn delete_unread(
        &self,
        before_ms: u64,
        larger_than: u64,
        keep: &HashSet<String>,
    ) -> Result<Vec<String>, MediaError> {
        let inner = self.inner();
        let (mut deleted, mut after) = (Vec::new(), String::new());
        loop {
            let wanted = params![inner.name.as_str(), before_ms, larger_than, after.as_str(), AT_ONCE];
            let rows = inner.db.query(&OWN_OLD, wanted).await?;
            let Some(last) = rows.last() else { return Ok(deleted) };
            last.text(0)?.clone_into(&mut after);
            for row in &rows {
                let media_id = row.text(0)?;
                if !keep.contains(media_id) && self.delete(&inner.name, media_id).await? {
                    deleted.push(media_id.to_owned());
                }
            }
        }
    }

    /// Deletes copies of other servers' files that were last read before `before_ms`. How many.
    pub async fn delete_copies(&self, before_ms: u64) -> Result<usize, MediaError> {
        let inner = self.inner();
        let mut deleted = 0;
        loop {
            let rows = inner.db.query(&REMOTE_OLD, params![inner.name.as_str(), before_ms, AT_ONCE]).await?;
            if rows.is_empty() {
                return Ok(deleted);
            }
            for row in &rows {
                let server = ServerName::parse(row.text(0)?).map_err(|_| MediaError::NotFound)?;
                deleted += usize::from(self.delete(&server, row.text(1)?).await?);
            }
        }
    }
}
