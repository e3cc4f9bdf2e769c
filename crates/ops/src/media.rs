//! Files of this server and, through it, of others.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http::StatusCode;
use ruma::{
    ServerName,
    api::federation::authenticated_media::{FileOrLocation, get_content},
    http_headers::ContentDisposition,
};
use samtal_media::{About, Entry, MediaError};
use samtal_remote::{Limits, NetworkError, Options, RemoteError};

use crate::Homeserver;

/// How long other servers get for a file, besides what the client waits for its upload.
const FETCH_TIME: Duration = Duration::from_secs(60);
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
        // Who comes second finds it here.
        let _turn = self.media.fetch_turn(server, media_id).await;
        if let Some(entry) = self.media.find(server, media_id, Duration::ZERO).await? {
            return Ok(entry);
        }
        let file = self.fetch_file(server, media_id, wait).await?;
        let about = About { content_type: file.content_type.as_deref(), file_name: file.file_name.as_deref() };
        let body = stream::iter([Ok::<_, std::io::Error>(file.file)]);
        match self.media.store_remote(server, media_id, about, body).await {
            Err(MediaError::TooLarge { .. }) => return Err(FileError::RemoteTooLarge),
            other => other?,
        }
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

    async fn fetch_file(&self, server: &ServerName, media_id: &str, wait: Duration) -> Result<Fetched, FileError> {
        // The two parts' headers and the boundaries come on top of the file.
        let bytes_max =
            usize::try_from(self.media.options().remote_bytes_max).unwrap_or(usize::MAX).saturating_add(8_192);
        let options = Options::default().time(FETCH_TIME + wait).body_bytes_max(bytes_max);
        let mut request = get_content::v1::Request::new(media_id.to_owned());
        request.timeout_ms = wait;
        match self.remote.send_with(server, request, options).await {
            Ok(answer) => match answer.content {
                FileOrLocation::File(content) => Ok(Fetched {
                    file: content.file.into(),
                    content_type: content.content_type,
                    file_name: content.content_disposition.and_then(|disposition| disposition.filename),
                }),
                FileOrLocation::Location(url) => self.fetch_url(&url, options.limits).await,
                _ => Err(FileError::Remote("an unknown kind of answer".to_owned())),
            },
            // Older servers know only the endpoint without authentication, and do not always say so well.
            Err(RemoteError::Status { status, errcode, .. })
                if status.is_client_error() && matches!(errcode.as_str(), "M_UNRECOGNIZED" | "M_UNKNOWN") =>
            {
                self.fetch_legacy(server, media_id, options).await
            }
            Err(error) => Err(told(error)),
        }
    }

    /// A file at an address that its server named, outside of federation.
    async fn fetch_url(&self, url: &str, limits: Limits) -> Result<Fetched, FileError> {
        let answer = self.remote.network().get(url, limits).await.map_err(|error| match error {
            NetworkError::TooLong(_) => FileError::RemoteTooLarge,
            other => FileError::Remote(other.to_string()),
        })?;
        content(answer)
    }

    async fn fetch_legacy(&self, server: &ServerName, media_id: &str, options: Options) -> Result<Fetched, FileError> {
        let path = format!("/_matrix/media/v3/download/{server}/{media_id}?allow_remote=false");
        let mut request = http::Request::new(Bytes::new());
        *request.uri_mut() = path.parse().map_err(|_| MediaError::NotFound)?;
        content(self.remote.send_raw(server, request, options).await.map_err(told)?)
    }
}

/// A file as another server gave it.
struct Fetched {
    file: Bytes,
    content_type: Option<String>,
    file_name: Option<String>,
}

/// What a plain download answers.
fn content(answer: http::Response<Bytes>) -> Result<Fetched, FileError> {
    if !answer.status().is_success() {
        return Err(FileError::Remote(format!("status {}", answer.status())));
    }
    let header = |name| answer.headers().get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
    let content_type = header(http::header::CONTENT_TYPE).map(ToOwned::to_owned);
    let disposition =
        header(http::header::CONTENT_DISPOSITION).and_then(|text| text.parse::<ContentDisposition>().ok());
    let file_name = disposition.and_then(|disposition| disposition.filename);
    Ok(Fetched { content_type, file_name, file: answer.into_body() })
}

fn told(error: RemoteError) -> FileError {
    match error {
        RemoteError::Status { status: StatusCode::NOT_FOUND, .. } => MediaError::NotFound.into(),
        RemoteError::Status { status, errcode, .. }
            if status == StatusCode::GATEWAY_TIMEOUT || errcode == "M_NOT_YET_UPLOADED" =>
        {
            MediaError::NotYetUploaded.into()
        }
        RemoteError::Malformed { reason, .. } if reason.starts_with("the answer is longer") => {
            FileError::RemoteTooLarge
        }
        other => FileError::Remote(other.to_string()),
    }
}
