//! Which places in the store belong to what.

use bytes::Bytes;
use futures_util::Stream;
use samtal_db::{Batch, DbError, Row, Sql, params, sql};

use crate::{Media, MediaError, store::Written};

const UNUSED_INSERT: Sql = sql!("INSERT INTO media_unused (path, since_ms) VALUES ($1, $2)");
const UNUSED_DELETE: Sql = sql!("DELETE FROM media_unused WHERE path = $1");
const UNUSED_BEFORE: Sql = sql!("SELECT path FROM media_unused WHERE since_ms < $1 LIMIT $2");
const FILE: Sql = sql!("SELECT path, bytes FROM media_file WHERE sha256 = $1");
const FILE_IS: Sql = sql!("SELECT 1 FROM media_file WHERE sha256 = $1 AND path = $2");
const FILE_INSERT: Sql = sql!("INSERT INTO media_file (sha256, path, bytes) VALUES ($1, $2, $3)");
/// The three take what belongs to a content that has no name any more.
const FILE_UNUSED: Sql = sql!(
    "INSERT INTO media_unused (path, since_ms) SELECT path, 0 FROM media_file
     WHERE sha256 = $1 AND NOT EXISTS (SELECT 1 FROM media WHERE sha256 = $1)"
);
const THUMBNAILS_UNUSED: Sql = sql!(
    "INSERT INTO media_unused (path, since_ms) SELECT path, 0 FROM media_thumbnail
     WHERE sha256 = $1 AND NOT EXISTS (SELECT 1 FROM media WHERE sha256 = $1)"
);
const THUMBNAILS_DELETE: Sql =
    sql!("DELETE FROM media_thumbnail WHERE sha256 = $1 AND NOT EXISTS (SELECT 1 FROM media WHERE sha256 = $1)");
const FILE_DELETE: Sql =
    sql!("DELETE FROM media_file WHERE sha256 = $1 AND NOT EXISTS (SELECT 1 FROM media WHERE sha256 = $1)");

/// Attempts at a write whose ground moves.
const ATTEMPTS: usize = 8;
/// Whatever has been under way for so long has been left by a crash.
const WRITING_MS_MAX: u64 = 6 * 3600 * 1000;
/// Places swept at a time.
const SWEPT_AT_ONCE: i64 = 500;

impl Media {
    /// Writes a file to a new place, known to the ledger as unused.
    pub(crate) async fn write_new<S, E>(&self, body: S, bytes_max: u64) -> Result<(String, Written), MediaError>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
        E: std::fmt::Display,
    {
        let inner = self.inner();
        let name = inner.random.alphanumeric(32);
        // Two letters of directory keep directories small.
        let path = format!("{}/{name}", name.get(..2).unwrap_or("__"));
        let mut batch = Batch::new();
        batch.exec(&UNUSED_INSERT, params![path.as_str(), inner.clock.now_ms()]);
        inner.db.commit(batch).await?;
        match inner.store.write(&path, body, bytes_max).await {
            Ok(written) => Ok((path, written)),
            Err(error) => {
                self.discard(&path).await;
                Err(error)
            }
        }
    }

    /// Takes back a place that will not be used. What fails here the sweep does later.
    pub(crate) async fn discard(&self, path: &str) {
        let inner = self.inner();
        let result = async {
            inner.store.delete(path).await?;
            let mut batch = Batch::new();
            batch.exec(&UNUSED_DELETE, params![path]);
            inner.db.commit(batch).await?;
            Ok::<_, MediaError>(())
        };
        if let Err(error) = result.await {
            tracing::warn!(%error, "a file could not be taken back now; it is swept later");
        }
    }

    /// Commits `batch` together with the content's row: an earlier copy of the same content is used where there is one, and
    /// the new one taken back.
    pub(crate) async fn keep(&self, path: &str, written: &Written, batch: Batch) -> Result<(), MediaError> {
        let inner = self.inner();
        if let Some(scanner) = &inner.options.scanner {
            // Quarantined contents are known to be what they are; all others are looked at each time they come.
            scanner.look(inner.store.read(path, None).await?).await?;
        }
        let sha256 = written.sha256.as_slice();
        let mut last = DbError::Busy;
        for _ in 0..ATTEMPTS {
            let known = inner.db.query_opt(&FILE, params![sha256]).await?;
            let known = known.map(|row| row.text(0).map(ToOwned::to_owned)).transpose()?;
            let mut attempt = Batch::new();
            match &known {
                Some(other) => attempt.require(&FILE_IS, params![sha256, other.as_str()]),
                None => {
                    attempt.exec(&FILE_INSERT, params![sha256, path, written.bytes]);
                    // Gone when the upload took so long that it was swept.
                    attempt.expect(&UNUSED_DELETE, params![path], 1);
                }
            }
            attempt.append(batch.clone());
            match inner.db.commit(attempt).await {
                Ok(_) => {
                    if known.is_some() {
                        self.discard(path).await;
                    }
                    return Ok(());
                }
                Err(error) if error.is_conflict() => last = error,
                Err(error) => return Err(error.into()),
            }
        }
        Err(last.into())
    }

    /// Adds to a batch that removes a name: its content goes too when that was the last.
    pub(crate) fn release(batch: &mut Batch, sha256: &[u8]) {
        batch.exec(&FILE_UNUSED, params![sha256]);
        batch.exec(&THUMBNAILS_UNUSED, params![sha256]);
        batch.exec(&THUMBNAILS_DELETE, params![sha256]);
        batch.exec(&FILE_DELETE, params![sha256]);
    }

    /// Deletes from the store what belongs to nothing. How many files went.
    pub async fn sweep(&self) -> Result<usize, MediaError> {
        let inner = self.inner();
        let before = inner.clock.now_ms().saturating_sub(WRITING_MS_MAX).max(1);
        let mut swept = 0;
        loop {
            let rows = inner.db.query(&UNUSED_BEFORE, params![before, SWEPT_AT_ONCE]).await?;
            let paths: Vec<String> =
                rows.iter().map(|row: &Row| row.text(0).map(ToOwned::to_owned)).collect::<Result<_, _>>()?;
            if paths.is_empty() {
                return Ok(swept);
            }
            let mut batch = Batch::new();
            for path in &paths {
                inner.store.delete(path).await?;
                batch.exec(&UNUSED_DELETE, params![path]);
                swept += 1;
            }
            inner.db.commit(batch).await?;
        }
    }
}
