//! Where the bytes lie.

use std::{path::PathBuf, pin::Pin, sync::Arc};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use object_store::{
    ObjectStore, ObjectStoreExt, buffered::BufWriter, local::LocalFileSystem, memory::InMemory, path::Path,
};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use crate::{Cloud, MediaError, copies::Copies};

/// Bytes held in memory for each upload under way.
const BUFFER_BYTES: usize = 1 << 20;

/// A file's bytes as they come from the store.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes, std::io::Error>> + Send>>;

/// Where files are kept.
#[derive(Clone, Debug)]
pub enum Location {
    /// A directory, which is made if it is not there.
    Directory(PathBuf),
    /// A store that speaks HTTP.
    Cloud(Box<Cloud>),
    /// Memory, for tests.
    Memory,
}

/// A place for bytes that are written once, read and deleted.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    store: Arc<dyn ObjectStore>,
    directory: Option<PathBuf>,
    pub(crate) copies: Option<Copies>,
}

/// What was written.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) sha256: [u8; 32],
    pub(crate) bytes: u64,
}

impl Store {
    pub(crate) fn open(location: &Location) -> Result<Self, MediaError> {
        match location {
            Location::Memory => Ok(Self { store: Arc::new(InMemory::new()), directory: None, copies: None }),
            Location::Cloud(cloud) => {
                let copies = cloud.copies.as_ref();
                let copies = copies.map(|(directory, bytes_max)| Copies::open(directory, *bytes_max)).transpose()?;
                Ok(Self { store: cloud.open()?, directory: None, copies })
            }
            Location::Directory(directory) => {
                std::fs::create_dir_all(directory).map_err(MediaError::Files)?;
                let store = LocalFileSystem::new_with_prefix(directory)?;
                Ok(Self { store: Arc::new(store), directory: Some(directory.clone()), copies: None })
            }
        }
    }

    /// Writes a stream of at most `bytes_max` bytes. What a stream that fails or is too long has written is taken back.
    pub(crate) async fn write<S, E>(&self, path: &str, mut body: S, bytes_max: u64) -> Result<Written, MediaError>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
        E: std::fmt::Display,
    {
        let mut writer = BufWriter::with_capacity(Arc::clone(&self.store), Path::from(path), BUFFER_BYTES);
        let mut hash = Sha256::new();
        let mut bytes: u64 = 0;
        while let Some(chunk) = body.next().await {
            let refused = match chunk {
                Err(error) => MediaError::Broken(error.to_string()),
                Ok(chunk) => {
                    bytes += chunk.len() as u64;
                    if bytes > bytes_max {
                        MediaError::TooLarge { bytes_max }
                    } else {
                        hash.update(&chunk);
                        match writer.put(chunk).await {
                            Ok(()) => continue,
                            Err(error) => error.into(),
                        }
                    }
                }
            };
            let _ = writer.abort().await;
            return Err(refused);
        }
        writer.shutdown().await.map_err(MediaError::Files)?;
        self.make_durable(path).await?;
        Ok(Written { sha256: hash.finalize().into(), bytes })
    }

    /// What a cloud does by itself: the bytes and the name are on the disk afterwards.
    async fn make_durable(&self, path: &str) -> Result<(), MediaError> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let file = directory.join(path);
        tokio::task::spawn_blocking(move || {
            std::fs::File::open(&file)?.sync_all()?;
            file.parent().map_or(Ok(()), |parent| std::fs::File::open(parent)?.sync_all())
        })
        .await
        .map_err(|error| MediaError::Files(std::io::Error::other(error)))?
        .map_err(MediaError::Files)
    }

    /// The bytes of `range`, or all.
    pub(crate) async fn read(&self, path: &str, range: Option<std::ops::Range<u64>>) -> Result<ByteStream, MediaError> {
        if let Some(copies) = &self.copies
            && let Some(copy) = copies.read(path, range.clone()).await
        {
            return Ok(copy);
        }
        let is_whole = range.is_none();
        let options = object_store::GetOptions::new().with_range(range);
        let found = self.store.get_opts(&Path::from(path), options).await?;
        let length = found.meta.size;
        let body: ByteStream = Box::pin(found.into_stream().map(|chunk| chunk.map_err(std::io::Error::other)));
        Ok(match &self.copies {
            Some(copies) if is_whole => copies.keeping(path, length, body).await,
            _ => body,
        })
    }

    /// All bytes at once, for what is known to be small.
    pub(crate) async fn read_whole(&self, path: &str) -> Result<Bytes, MediaError> {
        Ok(self.store.get(&Path::from(path)).await?.bytes().await?)
    }

    /// Deletes what is there.
    pub(crate) async fn delete(&self, path: &str) -> Result<(), MediaError> {
        if let Some(copies) = &self.copies {
            copies.delete(path);
        }
        match self.store.delete(&Path::from(path)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
