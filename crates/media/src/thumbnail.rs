//! Smaller pictures, made when first asked for, in a few sizes only.

use futures_util::stream;
use samtal_db::{Batch, Sql, params, sql};

use crate::{ByteStream, Entry, Media, MediaError, picture};

/// Widths and heights that smaller pictures are made in; the smallest that is not smaller than what is asked for is given.
const PRESETS: &[(u32, u32)] = &[(32, 32), (96, 96), (320, 240), (640, 480), (800, 600), (1600, 1200)];
/// Largest file that is made smaller, in bytes: it is read whole.
const SOURCE_BYTES_MAX: u64 = 32 << 20;
/// Largest result, in bytes.
const RESULT_BYTES_MAX: u64 = 16 << 20;

const THUMBNAIL: Sql = sql!(
    "SELECT content_type, path, bytes FROM media_thumbnail
     WHERE sha256 = $1 AND width = $2 AND height = $3 AND method = $4"
);
/// Nothing is inserted for a content that has gone meanwhile, or that has one already.
const THUMBNAIL_INSERT: Sql = sql!(
    "INSERT INTO media_thumbnail (sha256, width, height, method, content_type, path, bytes)
     SELECT sha256, $1, $2, $3, $4, $5, $6 FROM media_file WHERE sha256 = $7
     ON CONFLICT (sha256, width, height, method) DO NOTHING"
);
const UNUSED_DELETE: Sql = sql!("DELETE FROM media_unused WHERE path = $1");

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
    /// A smaller picture of the file, of at least the size asked for where the file has that size.
    pub async fn thumbnail(&self, entry: &Entry, wanted: Wanted) -> Result<Thumbnail, MediaError> {
        let fits = |(width, height): &&(u32, u32)| *width >= wanted.width && *height >= wanted.height;
        let Some(&(width, height)) = PRESETS.iter().find(fits) else { return Ok(Thumbnail::Original) };
        self.note_access(entry).await?;
        if let Some(made) = self.made(entry, width, height, wanted.method).await? {
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
            let (pixels_max, method) = (inner.options.pixels_max, wanted.method);
            tokio::task::spawn_blocking(move || picture::smaller(&source, (width, height), method, pixels_max))
                .await
                .map_err(|error| MediaError::NoPicture(error.to_string()))??
        };
        let Some(smaller) = smaller else { return Ok(Thumbnail::Original) };
        let body = stream::iter([Ok::<_, std::io::Error>(bytes::Bytes::from(smaller.bytes))]);
        let (path, written) = self.write_new(body, RESULT_BYTES_MAX).await?;
        let mut batch = Batch::new();
        let (sha256, method) = (entry.sha256.as_slice(), wanted.method.as_str());
        batch.expect(
            &THUMBNAIL_INSERT,
            params![width, height, method, smaller.content_type, path.as_str(), written.bytes, sha256],
            1,
        );
        batch.exec(&UNUSED_DELETE, params![path.as_str()]);
        match inner.db.commit(batch).await {
            Ok(_) => {}
            Err(error) if error.is_conflict() => self.discard(&path).await,
            Err(error) => return Err(error.into()),
        }
        self.made(entry, width, height, wanted.method).await?.ok_or(MediaError::NotFound)
    }

    async fn made(
        &self,
        entry: &Entry,
        width: u32,
        height: u32,
        method: Method,
    ) -> Result<Option<Thumbnail>, MediaError> {
        let inner = self.inner();
        let key = params![entry.sha256.as_slice(), width, height, method.as_str()];
        let Some(row) = inner.db.query_opt(&THUMBNAIL, key).await? else { return Ok(None) };
        let body = inner.store.read(row.text(1)?, None).await?;
        Ok(Some(Thumbnail::Smaller { content_type: row.text(0)?.to_owned(), bytes: row.get(2)?, body }))
    }
}
