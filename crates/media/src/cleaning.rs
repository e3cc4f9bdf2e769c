//! What operators and time do to files: deletion, quarantine, expiry.

use ruma::{OwnedServerName, ServerName, UserId};
use samtal_db::{Batch, Row, Sql, params, sql};

use crate::{Media, MediaError};

const SHA256: Sql = sql!("SELECT sha256, protected FROM media WHERE server = $1 AND media_id = $2");
const DELETE: Sql = sql!("DELETE FROM media WHERE server = $1 AND media_id = $2");
const QUARANTINE: Sql = sql!("UPDATE media SET quarantined = $1 WHERE server = $2 AND media_id = $3");
/// Every name of the same content.
const QUARANTINE_CONTENT: Sql = sql!("UPDATE media SET quarantined = $1 WHERE sha256 = $2");
const OF_USER: Sql =
    sql!("SELECT server, media_id FROM media WHERE uploader = $1 AND created_ms >= $2 ORDER BY created_ms LIMIT $3");
const REMOTE_OLD: Sql = sql!(
    "SELECT server, media_id FROM media
     WHERE (server <> $1 OR uploader IS NULL) AND accessed_ms < $2 AND quarantined = 0 LIMIT $3"
);
const RESERVATIONS_FORGET: Sql = sql!("DELETE FROM media WHERE sha256 IS NULL AND expires_ms < $1 AND quarantined = 0");
const TOTAL: Sql = sql!("SELECT COUNT(*), CAST(COALESCE(SUM(bytes), 0) AS BIGINT) FROM media_file");

const FILES_AT: Sql = sql!("SELECT path FROM media_file WHERE path IN list($1)");
const THUMBNAILS_AT: Sql = sql!("SELECT path FROM media_thumbnail WHERE path IN list($1)");

/// Files looked at in one step.
const AT_ONCE: i64 = 200;

impl Media {
    /// Deletes a file under this name; its bytes and all smaller pictures of it go too, unless it has another name. Whether
    /// there was one.
    pub async fn delete(&self, server: &ServerName, media_id: &str) -> Result<bool, MediaError> {
        let inner = self.inner();
        let name = params![server.as_str(), media_id];
        let Some(row) = inner.db.query_opt(&SHA256, name.clone()).await? else { return Ok(false) };
        let mut batch = Batch::new();
        batch.exec(&DELETE, name);
        if let Some(sha256) = row.opt_blob(0)? {
            Self::release(&mut batch, sha256);
        }
        inner.db.commit(batch).await?;
        self.sweep().await?;
        Ok(true)
    }

    /// Deletes all that a user has uploaded. How many files it were.
    pub async fn delete_of_user(&self, user: &UserId) -> Result<usize, MediaError> {
        let mut deleted = 0;
        loop {
            let rows = self.inner().db.query(&OF_USER, params![user.as_str(), 0, AT_ONCE]).await?;
            if rows.is_empty() {
                return Ok(deleted);
            }
            for row in &rows {
                let (server, media_id) = name(row)?;
                deleted += usize::from(self.delete(&server, &media_id).await?);
            }
        }
    }

    /// Names of a user's uploads since `since_ms`, oldest first, at most `limit`.
    pub async fn of_user(
        &self,
        user: &UserId,
        since_ms: u64,
        limit: u32,
    ) -> Result<Vec<(OwnedServerName, String)>, MediaError> {
        let rows = self.inner().db.query(&OF_USER, params![user.as_str(), since_ms, limit]).await?;
        rows.iter().map(name).collect()
    }

    /// Gives a file no longer out, under any of its names, or gives it out again. Whether there is one; a protected one
    /// stays as it is.
    pub async fn quarantine(&self, server: &ServerName, media_id: &str, quarantined: bool) -> Result<bool, MediaError> {
        let inner = self.inner();
        let row = inner.db.query_opt(&SHA256, params![server.as_str(), media_id]).await?;
        let Some(row) = row else { return Ok(false) };
        if quarantined && row.get::<bool>(1)? {
            return Ok(false);
        }
        let mut batch = Batch::new();
        match row.opt_blob(0)? {
            Some(sha256) => batch.exec(&QUARANTINE_CONTENT, params![quarantined, sha256]),
            None => batch.exec(&QUARANTINE, params![quarantined, server.as_str(), media_id]),
        }
        inner.db.commit(batch).await?;
        Ok(true)
    }

    /// Deletes copies of other servers' files and pictures of previews that nobody has asked for in a long time, reservations that ran out, and what
    /// a crash has left. How many files went.
    pub async fn clean(&self) -> Result<usize, MediaError> {
        let inner = self.inner();
        let now_ms = inner.clock.now_ms();
        let kept_ms = u64::try_from(inner.options.remote_kept.as_millis()).unwrap_or(u64::MAX);
        let before = now_ms.saturating_sub(kept_ms);
        loop {
            let rows = inner.db.query(&REMOTE_OLD, params![inner.name.as_str(), before, AT_ONCE]).await?;
            if rows.is_empty() {
                break;
            }
            for row in &rows {
                let (server, media_id) = name(row)?;
                self.delete(&server, &media_id).await?;
            }
        }
        let mut batch = Batch::new();
        batch.exec(&RESERVATIONS_FORGET, params![now_ms]);
        inner.db.commit(batch).await?;
        self.trim_thumbnails().await?;
        self.forget_copies().await?;
        self.sweep().await
    }

    /// Removes copies of what other nodes have deleted from the store.
    async fn forget_copies(&self) -> Result<(), MediaError> {
        let inner = self.inner();
        let Some(copies) = &inner.store.copies else { return Ok(()) };
        for places in copies.places().chunks(500) {
            let mut known = std::collections::HashSet::new();
            for sql in [&FILES_AT, &THUMBNAILS_AT] {
                for row in inner.db.query(sql, params![places.to_vec()]).await? {
                    known.insert(row.text(0)?.to_owned());
                }
            }
            places.iter().filter(|place| !known.contains(*place)).for_each(|place| copies.delete(place));
        }
        Ok(())
    }

    /// Number of contents, and their size in bytes (without smaller pictures).
    pub async fn total(&self) -> Result<(u64, u64), MediaError> {
        let row = self.inner().db.query_opt(&TOTAL, params![]).await?;
        row.map_or(Ok((0, 0)), |row| Ok((row.get(0)?, row.get(1)?)))
    }
}

fn name(row: &Row) -> Result<(OwnedServerName, String), MediaError> {
    let server = ServerName::parse(row.text(0)?).map_err(|_| MediaError::NotFound)?;
    Ok((server, row.text(1)?.to_owned()))
}
