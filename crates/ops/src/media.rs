//! Files of this server and, through it, of others.

use std::{sync::Arc, time::Duration};

use ruma::ServerName;
use samtal_media::{Entry, MediaError};

use crate::Homeserver;

/// How often expired files are looked for.
const CLEAN_EVERY: Duration = Duration::from_secs(3_600);
/// Longest wait for a file that is not uploaded yet.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The engine says so.
    #[error(transparent)]
    Media(#[from] MediaError),
    /// Its server has a file that is longer than we fetch.
    #[error("the file is longer than this server fetches")]
    RemoteTooLarge,
    /// Its server could not be asked, or did not answer well.
    #[error("the file's server did not give it: {0}")]
    Remote(String),
    /// We could not keep it.
    #[error("{0}")]
    Failed(String),
}

/// How far to go for a file.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// How long to wait for one that is not uploaded yet.
    pub wait: Duration,
    /// Whether to ask its server.
    pub remote: bool,
}

impl Homeserver {
    /// The file of this name. Another server's is fetched and kept when it is not here.
    pub async fn file(&self, server: &ServerName, media_id: &str, effort: Effort) -> Result<Entry, FileError> {
        let wait = effort.wait.min(WAIT_MAX);
        if let Some(entry) = self.media.find(server, media_id, wait).await? {
            return Ok(entry);
        }
        if self.media.is_own(server) || !effort.remote || !samtal_media::is_media_id(media_id) {
            return Err(MediaError::NotFound.into());
        }
        self.remote_files.fetch(server, media_id, wait).await?;
        self.media.find(server, media_id, Duration::ZERO).await?.ok_or(FileError::Media(MediaError::NotFound))
    }

    /// Deletes now and then what has expired and what a crash has left. Ends with the tenant.
    pub(crate) async fn clean_files(self: Arc<Self>) {
        loop {
            match self.media.clean().await {
                Ok(0) => {}
                Ok(files) => tracing::info!(files, "files that nobody needs were deleted"),
                Err(error) => tracing::warn!(%error, "files that nobody needs could not be deleted"),
            }
            tokio::select! {
                () = self.tasks.stopping() => return,
                () = tokio::time::sleep(CLEAN_EVERY) => {}
            }
        }
    }
}
