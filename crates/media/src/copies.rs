//! Copies of what was read from a store far away: so many bytes of them on this machine's disk, the longest unused go first.
//!
//! They are made anew after a start. A copy goes when the file is deleted here; when another node deleted it,
//! [`crate::Media::clean`] finds out.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use futures_util::StreamExt;
use lru::LruCache;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

use crate::{ByteStream, MediaError};

/// Bytes read from the disk at a time.
const CHUNK: usize = 64 * 1024;

/// Copies, by their places in the store.
#[derive(Clone, Debug)]
pub(crate) struct Copies(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    directory: PathBuf,
    bytes_max: u64,
    number: AtomicU64,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    /// The file's name and length.
    files: LruCache<String, (PathBuf, u64)>,
    bytes: u64,
}

impl Copies {
    /// Copies in this directory, which is emptied.
    pub(crate) fn open(directory: &Path, bytes_max: u64) -> Result<Self, MediaError> {
        match std::fs::remove_dir_all(directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(MediaError::Files(error)),
            _ => {}
        }
        std::fs::create_dir_all(directory).map_err(MediaError::Files)?;
        let known = Mutex::new(Known { files: LruCache::unbounded(), bytes: 0 });
        let directory = directory.to_owned();
        Ok(Self(Arc::new(Inner { directory, bytes_max, number: AtomicU64::new(0), known })))
    }

    /// The copy of this place, if there is one.
    pub(crate) async fn read(&self, place: &str, range: Option<std::ops::Range<u64>>) -> Option<ByteStream> {
        let (file, length) = self.0.known.lock().files.get(place).cloned()?;
        let range = range.unwrap_or(0..length);
        let mut file = tokio::fs::File::open(file).await.ok()?;
        file.seek(std::io::SeekFrom::Start(range.start)).await.ok()?;
        let file = file.take(range.end.saturating_sub(range.start));
        Some(Box::pin(futures_util::stream::try_unfold(file, |mut file| async move {
            let mut chunk = vec![0; CHUNK];
            let length = file.read(&mut chunk).await?;
            chunk.truncate(length);
            Ok((length > 0).then(|| (Bytes::from(chunk), file)))
        })))
    }

    /// The same bytes, of which a copy is made on the way. Only a whole one counts.
    pub(crate) async fn keeping(&self, place: &str, length: u64, body: ByteStream) -> ByteStream {
        if length > self.0.bytes_max / 4 {
            return body;
        }
        let number = self.0.number.fetch_add(1, Ordering::Relaxed);
        let path = self.0.directory.join(number.to_string());
        let Ok(file) = tokio::fs::File::create(&path).await else { return body };
        let state =
            Keeping { copies: self.clone(), place: place.to_owned(), path, file, length, written: 0, done: false };
        Box::pin(futures_util::stream::unfold((body, Some(state)), |(mut body, mut state)| async move {
            let chunk = body.next().await;
            match (&chunk, state.as_mut()) {
                (Some(Ok(chunk)), Some(keeping)) => {
                    if keeping.file.write_all(chunk).await.is_ok() {
                        keeping.written += chunk.len() as u64;
                        if keeping.written == keeping.length {
                            keeping.finish().await;
                        }
                    } else {
                        state = None;
                    }
                }
                (Some(Err(_)), _) => state = None,
                _ => {}
            }
            chunk.map(|chunk| (chunk, (body, state)))
        }))
    }

    fn put(&self, place: String, path: PathBuf, bytes: u64) {
        let mut gone = Vec::new();
        {
            let mut known = self.0.known.lock();
            known.bytes += bytes;
            if let Some((_, (path, bytes))) = known.files.push(place, (path, bytes)) {
                known.bytes -= bytes;
                gone.push(path);
            }
            while known.bytes > self.0.bytes_max {
                let Some((_, (path, bytes))) = known.files.pop_lru() else { break };
                known.bytes -= bytes;
                gone.push(path);
            }
        }
        gone.into_iter().for_each(remove);
    }

    /// Removes the copy of this place.
    pub(crate) fn delete(&self, place: &str) {
        let gone = {
            let mut known = self.0.known.lock();
            let gone = known.files.pop(place);
            known.bytes -= gone.as_ref().map_or(0, |(_, bytes)| *bytes);
            gone
        };
        if let Some((path, _)) = gone {
            remove(path);
        }
    }

    /// The places of which there are copies.
    pub(crate) fn places(&self) -> Vec<String> {
        self.0.known.lock().files.iter().map(|(place, _)| place.clone()).collect()
    }
}

/// Who still reads the file keeps it.
fn remove(path: PathBuf) {
    if let Err(error) = std::fs::remove_file(&path) {
        tracing::warn!(%error, "the copy of a file could not be removed");
    }
}

/// A copy under way.
struct Keeping {
    copies: Copies,
    place: String,
    path: PathBuf,
    file: tokio::fs::File,
    length: u64,
    written: u64,
    done: bool,
}

impl Keeping {
    async fn finish(&mut self) {
        if self.file.flush().await.is_ok() && !self.done {
            self.done = true;
            self.copies.put(self.place.clone(), self.path.clone(), self.length);
        }
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        if !self.done {
            remove(self.path.clone());
        }
    }
}
