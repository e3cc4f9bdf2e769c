//! Smaller pictures, made when first asked for, or before where the operator wants it, in a few sizes only.

use std::time::Duration;

use futures_util::stream;
use samtal_db::{Batch, Sql, params, sql};
use tokio::sync::broadcast::error::RecvError;

use crate::{ByteStream, Entry, Media, MediaError, animation, picture};

/// Widths and heights that smaller pictures are made in; the smallest that is not smaller than what is asked for is given.
const PRESETS: &[(u32, u32)] = &[(32, 32), (96, 96), (320, 240), (640, 480), (800, 600), (1600, 1200)];
/// What is made ahead, where the operator wants it: what the specification recommends, and clients ask for.
const AHEAD: &[(u32, u32, Method)] = &[
    (32, 32, Method::Crop),
    (96, 96, Method::Crop),
    (320, 240, Method::Scale),
    (640, 480, Method::Scale),
    (800, 600, Method::Scale),
];
/// Largest file that is made smaller, in bytes: it is read whole.
const SOURCE_BYTES_MAX: u64 = 32 << 20;
/// Largest result, in bytes.
const RESULT_BYTES_MAX: u64 = 16 << 20;

const THUMBNAIL: Sql = sql!(
    "SELECT content_type, path, bytes, used_ms FROM media_thumbnail
     WHERE sha256 = $1 AND width = $2 AND height = $3 AND method = $4"
);
/// Nothing is inserted for a content that has gone meanwhile, or that has one already.
const THUMBNAIL_INSERT: Sql = sql!(
    "INSERT INTO media_thumbnail (sha256, width, height, method, content_type, path, bytes, used_ms)
     SELECT sha256, $1, $2, $3, $4, $5, $6, $7 FROM media_file WHERE sha256 = $8
     ON CONFLICT (sha256, width, height, method) DO NOTHING"
);
const USED: Sql =
    sql!("UPDATE media_thumbnail SET used_ms = $1 WHERE sha256 = $2 AND width = $3 AND height = $4 AND method = $5");
const ALL_BYTES: Sql = sql!("SELECT CAST(COALESCE(SUM(bytes), 0) AS BIGINT) FROM media_thumbnail");
const LONGEST_UNUSED: Sql =
    sql!("SELECT sha256, width, height, method, path, bytes FROM media_thumbnail ORDER BY used_ms LIMIT $1");
const DELETE: Sql =
    sql!("DELETE FROM media_thumbnail WHERE sha256 = $1 AND width = $2 AND height = $3 AND method = $4");
const UNUSED_INSERT: Sql = sql!("INSERT INTO media_unused (path, since_ms) VALUES ($1, 0)");
const UNUSED_DELETE: Sql = sql!("DELETE FROM media_unused WHERE path = $1");

/// That a picture is asked for is noted at most so often.
const USE_NOTED_MS: u64 = 24 * 3600 * 1000;
/// Smaller pictures that go at a time.
const TRIMMED_AT_ONCE: i64 = 200;

/// How a picture is made smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// All of it, its proportions kept.
    Scale,
    /// The middle of it, in the proportions asked for.
    Crop,
}

impl Method {
    fn as_str(self) -> &'static str {
        match self {
            Self::Scale => "scale",
            Self::Crop => "crop",
        }
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// How.
    pub method: Method,
    /// Whether a picture that moves may stay one.
    pub animated: bool,
}

impl Wanted {
    /// Under which name it is kept.
    fn name(&self) -> String {
        let moving = if self.animated { "-animated" } else { "" };
        format!("{}{moving}", self.method.as_str())
    }
}

/// What is given.
pub enum Thumbnail {
    /// The file itself: it is not larger than what is asked for.
    Original,
    /// A smaller picture.
    Smaller {
        /// Its media type.
        content_type: String,
        /// Its length in bytes.
        bytes: u64,
        /// The bytes.
        body: ByteStream,
    },
}

impl std::fmt::Debug for Thumbnail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Original => "Original",
            Self::Smaller { .. } => "Smaller",
        })
    }
}

impl Media {
    /// Makes the usual smaller pictures of what is uploaded from now on, before anybody asks for them. Never ends.
    ///
    /// If pictures come faster than they can be made smaller some are left out: theirs are made when asked for.
    pub fn thumbnails_ahead(&self) -> impl Future<Output = ()> + Send + 'static {
        let (media, mut uploaded) = (self.clone(), self.inner().uploaded.subscribe());
        async move {
            loop {
                match uploaded.recv().await {
                    Ok(media_id) => match media.make_ahead(&media_id).await {
                        Ok(()) => {}
                        // Whoever asks for one is told the same.
                        Err(MediaError::NoPicture(_) | MediaError::PictureTooLarge | MediaError::NotFound) => {}
                        Err(error) => tracing::warn!(%error, "the smaller pictures of a file could not be made ahead"),
                    },
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                }
            }
        }
    }

    async fn make_ahead(&self, media_id: &str) -> Result<(), MediaError> {
        let entry = self.find(&self.inner().name, media_id, Duration::ZERO).await?;
        let is_picture = |entry: &Entry| entry.content_type.as_ref().is_some_and(|kind| kind.starts_with("image/"));
        let Some(entry) = entry.filter(is_picture) else { return Ok(()) };
        for &(width, height, method) in AHEAD {
            self.thumbnail(&entry, Wanted { width, height, method, animated: false }).await?;
        }
        Ok(())
    }

    /// A smaller picture of the file, of at least the size asked for where the file has that size.
    pub async fn thumbnail(&self, entry: &Entry, wanted: Wanted) -> Result<Thumbnail, MediaError> {
        let fits = |(width, height): &&(u32, u32)| *width >= wanted.width && *height >= wanted.height;
        let Some(&(width, height)) = PRESETS.iter().find(fits) else { return Ok(Thumbnail::Original) };
        self.note_access(entry).await?;
        let name = wanted.name();
        if let Some(made) = self.made(entry, (width, height), &name).await? {
            return Ok(made);
        }
        if entry.bytes > SOURCE_BYTES_MAX {
            return Err(MediaError::PictureTooLarge);
        }
        let inner = self.inner();
        let smaller = {
            // Never closed.
            let _turn = inner.pictures.acquire().await;
            let source = inner.store.read_whole(&entry.path).await?;
            let pixels_max = inner.options.pixels_max;
            let make = move || {
                let size = (width, height);
                let moving = match wanted.animated {
                    true => animation::smaller(&source, size, wanted.method, pixels_max),
                    false => None,
                };
                moving.map_or_else(|| picture::smaller(&source, size, wanted.method, pixels_max), |made| Ok(Some(made)))
            };
            tokio::task::spawn_blocking(make).await.map_err(|error| MediaError::NoPicture(error.to_string()))??
        };
        let Some(smaller) = smaller else { return Ok(Thumbnail::Original) };
        let body = stream::iter([Ok::<_, std::io::Error>(bytes::Bytes::from(smaller.bytes))]);
        let (path, written) = self.write_new(body, RESULT_BYTES_MAX).await?;
        let mut batch = Batch::new();
        let (sha256, now_ms) = (entry.sha256.as_slice(), inner.clock.now_ms());
        let (content_type, path_text) = (smaller.content_type, path.as_str());
        batch.expect(
            &THUMBNAIL_INSERT,
            params![width, height, name.as_str(), content_type, path_text, written.bytes, now_ms, sha256],
            1,
        );
        batch.exec(&UNUSED_DELETE, params![path.as_str()]);
        match inner.db.commit(batch).await {
            Ok(_) => {}
            Err(error) if error.is_conflict() => self.discard(&path).await,
            Err(error) => return Err(error.into()),
        }
        self.made(entry, (width, height), &name).await?.ok_or(MediaError::NotFound)
    }

    async fn made(
        &self,
        entry: &Entry,
        (width, height): (u32, u32),
        name: &str,
    ) -> Result<Option<Thumbnail>, MediaError> {
        let inner = self.inner();
        let sha256 = entry.sha256.as_slice();
        let Some(row) = inner.db.query_opt(&THUMBNAIL, params![sha256, width, height, name]).await? else {
            return Ok(None);
        };
        let now_ms = inner.clock.now_ms();
        if now_ms.saturating_sub(row.get(3)?) >= USE_NOTED_MS {
            let mut batch = Batch::new();
            batch.exec(&USED, params![now_ms, sha256, width, height, name]);
            inner.db.commit(batch).await?;
        }
        let body = inner.store.read(row.text(1)?, None).await?;
        Ok(Some(Thumbnail::Smaller { content_type: row.text(0)?.to_owned(), bytes: row.get(2)?, body }))
    }

    /// Deletes the smaller pictures that nobody has asked for in the longest time, until all together are as small as they
    /// are to be. How many went.
    pub(crate) async fn trim_thumbnails(&self) -> Result<usize, MediaError> {
        let inner = self.inner();
        let row = inner.db.query_opt(&ALL_BYTES, params![]).await?;
        let mut bytes: u64 = row.map_or(Ok(0), |row| row.get(0))?;
        let mut trimmed = 0;
        while bytes > inner.options.thumbnail_bytes_max {
            let rows = inner.db.query(&LONGEST_UNUSED, params![TRIMMED_AT_ONCE]).await?;
            if rows.is_empty() {
                break;
            }
            let mut batch = Batch::new();
            for row in &rows {
                if bytes <= inner.options.thumbnail_bytes_max {
                    break;
                }
                batch.exec(&DELETE, params![row.blob(0)?, row.int(1)?, row.int(2)?, row.text(3)?]);
                batch.exec(&UNUSED_INSERT, params![row.text(4)?]);
                bytes = bytes.saturating_sub(row.get(5)?);
                trimmed += 1;
            }
            inner.db.commit(batch).await?;
        }
        Ok(trimmed)
    }
}
