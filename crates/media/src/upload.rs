//! Uploads, at once or to an id that was reserved before.

use bytes::Bytes;
use futures_util::Stream;
use ruma::{ServerName, UserId};
use samtal_db::{Batch, Sql, params, sql};

use crate::{
    Media, MediaError,
    engine::{Inner, is_media_id},
    store::Written,
};

const MEDIA_INSERT: Sql = sql!(
    "INSERT INTO media (server, media_id, sha256, content_type, file_name, uploader, created_ms, accessed_ms, expires_ms,
        quarantined) VALUES ($1, $2, $3, $4, $5, $6, $7, $7, NULL, 0)"
);
/// Another request may have fetched the same file meanwhile.
const OWNERLESS_INSERT: Sql = sql!(
    "INSERT INTO media (server, media_id, sha256, content_type, file_name, uploader, created_ms, accessed_ms, expires_ms,
        quarantined) VALUES ($1, $2, $3, $4, $5, NULL, $6, $6, NULL, 0)
     ON CONFLICT (server, media_id) DO NOTHING"
);
const RESERVE: Sql = sql!(
    "INSERT INTO media (server, media_id, sha256, content_type, file_name, uploader, created_ms, accessed_ms, expires_ms,
        quarantined) VALUES ($1, $2, NULL, NULL, NULL, $3, $4, $4, $5, 0)"
);
const RESERVED: Sql = sql!("SELECT uploader, expires_ms, sha256 FROM media WHERE server = $1 AND media_id = $2");
const RESERVATIONS: Sql = sql!("SELECT COUNT(*) FROM media WHERE uploader = $1 AND sha256 IS NULL AND expires_ms > $2");
const FULFILL: Sql = sql!(
    "UPDATE media SET sha256 = $1, content_type = $2, file_name = $3, expires_ms = NULL
     WHERE server = $4 AND media_id = $5 AND sha256 IS NULL"
);
const USED_BYTES: Sql = sql!(
    "SELECT CAST(COALESCE(SUM(f.bytes), 0) AS BIGINT) FROM media m JOIN media_file f ON f.sha256 = m.sha256
     WHERE m.uploader = $1"
);

/// Adds a name whose file nobody here uploaded.
pub(crate) fn insert_ownerless(
    batch: &mut Batch,
    inner: &Inner,
    server: &ServerName,
    media_id: &str,
    written: &Written,
    about: About<'_>,
) {
    let (sha256, now_ms) = (written.sha256.as_slice(), inner.clock.now_ms());
    batch.exec(
        &OWNERLESS_INSERT,
        params![server.as_str(), media_id, sha256, about.content_type, about.file_name, now_ms],
    );
}

/// What the uploader says about a file.
#[derive(Clone, Copy, Debug, Default)]
pub struct About<'a> {
    /// Its media type.
    pub content_type: Option<&'a str>,
    /// Its name.
    pub file_name: Option<&'a str>,
}

/// Where an upload goes.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// To a new id.
    New,
    /// To an id that the user reserved.
    Reserved(&'a str),
}

/// An id that waits for its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The id.
    pub media_id: String,
    /// Until when, in ms since the epoch.
    pub expires_ms: u64,
}

impl Media {
    /// Reserves an id for a file that the user uploads later.
    pub async fn reserve(&self, user: &UserId) -> Result<Reservation, MediaError> {
        let inner = self.inner();
        let now_ms = inner.clock.now_ms();
        let row = inner.db.query_opt(&RESERVATIONS, params![user.as_str(), now_ms]).await?;
        if row.map_or(Ok(0), |row| row.get::<u64>(0))? >= inner.options.reservations_max {
            return Err(MediaError::TooManyReservations);
        }
        let media_id = inner.random.alphanumeric(24);
        let expires_ms = now_ms + u64::try_from(inner.options.reservation.as_millis()).unwrap_or(u64::MAX / 2);
        let mut batch = Batch::new();
        batch.exec(&RESERVE, params![inner.name.as_str(), media_id.as_str(), user.as_str(), now_ms, expires_ms]);
        inner.db.commit(batch).await?;
        Ok(Reservation { media_id, expires_ms })
    }

    /// Stores a user's file under a name of this server. Its id.
    pub async fn upload<S, E>(
        &self,
        user: &UserId,
        target: Target<'_>,
        about: About<'_>,
        length: Option<u64>,
        body: S,
    ) -> Result<String, MediaError>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
        E: std::fmt::Display,
    {
        let inner = self.inner();
        if let Target::Reserved(media_id) = target {
            self.check_reserved(user, media_id).await?;
        }
        let bytes_max = inner.options.upload_bytes_max;
        if length.is_some_and(|length| length > bytes_max) {
            return Err(MediaError::TooLarge { bytes_max });
        }
        self.check_total(length.unwrap_or(0)).await?;
        let left = self.quota_left(user).await?;
        if length.unwrap_or(0) > left || left == 0 {
            return Err(MediaError::QuotaExceeded { bytes_max: left });
        }
        let (path, written) = match self.write_new(body, bytes_max.min(left)).await {
            Err(MediaError::TooLarge { bytes_max: reached }) if reached < bytes_max => {
                return Err(MediaError::QuotaExceeded { bytes_max: left });
            }
            other => other?,
        };
        let sha256 = written.sha256.as_slice();
        let mut batch = Batch::new();
        let media_id = match target {
            Target::New => {
                let media_id = inner.random.alphanumeric(24);
                let (name, id) = (inner.name.as_str(), media_id.as_str());
                let now_ms = inner.clock.now_ms();
                batch.exec(
                    &MEDIA_INSERT,
                    params![name, id, sha256, about.content_type, about.file_name, user.as_str(), now_ms],
                );
                media_id
            }
            Target::Reserved(media_id) => {
                let name = inner.name.as_str();
                batch.expect(&FULFILL, params![sha256, about.content_type, about.file_name, name, media_id], 1);
                media_id.to_owned()
            }
        };
        if let Err(error) = self.keep(&path, &written, batch).await {
            self.discard(&path).await;
            if let Target::Reserved(media_id) = target {
                // Two uploads to one id: the other was first.
                self.check_reserved(user, media_id).await?;
            }
            return Err(error);
        }
        // Nobody waiting is fine.
        let _ = inner.uploaded.send(media_id.clone());
        Ok(media_id)
    }

    async fn check_reserved(&self, user: &UserId, media_id: &str) -> Result<(), MediaError> {
        let inner = self.inner();
        let row = inner.db.query_opt(&RESERVED, params![inner.name.as_str(), media_id]).await?;
        let row = row.ok_or(MediaError::NotFound)?;
        if row.opt_text(0)? != Some(user.as_str()) {
            return Err(MediaError::NotYours);
        }
        if row.opt_blob(2)?.is_some() {
            return Err(MediaError::CannotOverwrite);
        }
        match row.get::<Option<u64>>(1)? {
            Some(expires_ms) if expires_ms > inner.clock.now_ms() => Ok(()),
            _ => Err(MediaError::NotFound),
        }
    }

    /// Refuses what would be more than is kept for all.
    async fn check_total(&self, length: u64) -> Result<(), MediaError> {
        let Some(bytes_max) = self.options().total_bytes_max else { return Ok(()) };
        let (_, bytes) = self.total().await?;
        if bytes.saturating_add(length) >= bytes_max {
            return Err(MediaError::ServerFull { bytes_max });
        }
        Ok(())
    }

    /// How many bytes the user may still upload.
    async fn quota_left(&self, user: &UserId) -> Result<u64, MediaError> {
        let Some(bytes_max) = self.options().user_bytes_max else { return Ok(u64::MAX) };
        Ok(bytes_max.saturating_sub(self.used_bytes(user).await?))
    }

    /// What a user has uploaded, in bytes.
    pub async fn used_bytes(&self, user: &UserId) -> Result<u64, MediaError> {
        let row = self.inner().db.query_opt(&USED_BYTES, params![user.as_str()]).await?;
        Ok(row.map_or(Ok(0), |row| row.get(0))?)
    }

    /// Keeps a copy of another server's file.
    pub async fn store_remote<S, E>(
        &self,
        server: &ServerName,
        media_id: &str,
        about: About<'_>,
        body: S,
    ) -> Result<(), MediaError>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
        E: std::fmt::Display,
    {
        if !is_media_id(media_id) {
            return Err(MediaError::NotFound);
        }
        self.check_total(0).await?;
        let inner = self.inner();
        let (path, written) = self.write_new(body, inner.options.remote_bytes_max).await?;
        let mut batch = Batch::new();
        insert_ownerless(&mut batch, inner, server, media_id, &written, about);
        if let Err(error) = self.keep(&path, &written, batch).await {
            self.discard(&path).await;
            return Err(error);
        }
        Ok(())
    }
}
