//! Fetching files of other servers: each once for all who ask, to its end although they may leave, streamed to the store.
//!
//! Nobody is given a byte before the whole file is here: only then is its length known, has the scanner seen it, and has
//! its server been found to tell the truth.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Response, StatusCode, header};
use parking_lot::Mutex;
use ruma::{
    OwnedServerName, ServerName, api::federation::authenticated_media::get_content, http_headers::ContentDisposition,
};
use samtal_kit::Tasks;
use samtal_media::{About, Media, MediaError};
use samtal_remote::{
    Body, NetworkError, Options, Remote, RemoteError, into_http,
    multipart::{self, Part},
};
use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};

use crate::media::FileError;

/// Until the last byte of a file, besides what its server may wait for the upload. Who sends slower than the network's
/// pace is given up before.
const FETCH_TIME: Duration = Duration::from_secs(600);
/// Files fetched at the same time: each takes a few megabytes on its way to the store.
const FETCHES_AT_ONCE: usize = 32;
/// Of these from one server, so that a slow one does not take all places.
const OF_SERVER: usize = 4;
/// What servers are told apart by: two that share a place share its number too.
const SERVERS: usize = 256;
/// Files that are fetched or wait for their turn.
const WAITING_MAX: usize = 1_024;
/// Longest media type and file name that are kept, in bytes.
const NAME_BYTES_MAX: usize = 1_024;
/// What an answer may have besides the file: the parts' headers and the boundaries.
const AROUND_BYTES: usize = 128 * 1024;

type Name = (OwnedServerName, String);
/// What came of a fetch, once that is known.
type Outcome = Option<Result<(), Arc<FileError>>>;

/// The files that are being fetched. Cheap to clone.
#[derive(Clone)]
pub(crate) struct RemoteFiles(Arc<Inner>);

struct Inner {
    media: Media,
    remote: Remote,
    tasks: Tasks,
    running: Mutex<HashMap<Name, watch::Receiver<Outcome>>>,
    all: Semaphore,
    of_server: Vec<Semaphore>,
}

impl std::fmt::Debug for RemoteFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RemoteFiles({})", self.0.running.lock().len())
    }
}

impl RemoteFiles {
    pub(crate) fn new(media: Media, remote: Remote, tasks: Tasks) -> Self {
        Self(Arc::new(Inner {
            media,
            remote,
            tasks,
            running: Mutex::default(),
            all: Semaphore::new(FETCHES_AT_ONCE),
            of_server: (0..SERVERS).map(|_| Semaphore::new(OF_SERVER)).collect(),
        }))
    }

    /// Has the file in the store. It is fetched to its end even if nobody waits any more.
    pub(crate) async fn fetch(&self, server: &ServerName, media_id: &str, wait: Duration) -> Result<(), FileError> {
        let name = (server.to_owned(), media_id.to_owned());
        let until = Instant::now() + wait;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let (mut outcome, is_ours) = self.join_or_start(&name, left)?;
            let ended = outcome.wait_for(Option::is_some).await.ok().and_then(|ended| ended.clone());
            match ended.unwrap_or_else(|| Err(Arc::new(FileError::Remote("the server is stopping".to_owned())))) {
                Ok(()) => return Ok(()),
                // Whoever began would wait for the upload less long than we.
                Err(error)
                    if !is_ours
                        && Instant::now() < until
                        && matches!(*error, FileError::Media(MediaError::NotYetUploaded)) => {}
                Err(error) => return Err(error.again()),
            }
        }
    }

    /// The fetch of this file that is under way, or a new one. Whether it is new.
    fn join_or_start(&self, name: &Name, wait: Duration) -> Result<(watch::Receiver<Outcome>, bool), FileError> {
        let mut running = self.0.running.lock();
        let full = running.len() >= WAITING_MAX;
        match running.entry(name.clone()) {
            Entry::Occupied(fetch) => Ok((fetch.get().clone(), false)),
            Entry::Vacant(_) if full => Err(FileError::Remote("too many files are being fetched".to_owned())),
            Entry::Vacant(place) => {
                let (told, outcome) = watch::channel(None);
                place.insert(outcome.clone());
                let fetch = Fetch { files: self.clone(), name: name.clone(), told, ended: None };
                self.0.tasks.spawn("remote_file", fetch.run(wait));
                Ok((outcome, true))
            }
        }
    }
}

/// A fetch under way. However it ends, it is off the list then, and only then its end is told.
struct Fetch {
    files: RemoteFiles,
    name: Name,
    told: watch::Sender<Outcome>,
    ended: Outcome,
}

impl Drop for Fetch {
    fn drop(&mut self) {
        self.files.0.running.lock().remove(&self.name);
        self.told.send_replace(self.ended.take());
    }
}

impl Fetch {
    async fn run(mut self, wait: Duration) {
        let inner = Arc::clone(&self.files.0);
        tokio::select! {
            fetched = inner.fetch(&self.name.0, &self.name.1, wait) => self.ended = Some(fetched.map_err(Arc::new)),
            () = inner.tasks.stopping() => {}
        }
    }
}

impl Inner {
    async fn fetch(&self, server: &ServerName, media_id: &str, wait: Duration) -> Result<(), FileError> {
        let mut hash = DefaultHasher::new();
        server.hash(&mut hash);
        let place = usize::try_from(hash.finish() % SERVERS as u64).unwrap_or(0);
        // The semaphores are never closed.
        let _one = match self.of_server.get(place) {
            Some(places) => places.acquire().await.ok(),
            None => None,
        };
        let _any = self.all.acquire().await.ok();
        // It may have come between looking and asking.
        if self.media.find(server, media_id, Duration::ZERO).await?.is_some() {
            return Ok(());
        }
        let RemoteFile { content_type, file_name, body } = self.open(server, media_id, wait).await?;
        let short = |text: &String| text.len() <= NAME_BYTES_MAX;
        let (content_type, file_name) = (content_type.filter(short), file_name.filter(short));
        let about = About { content_type: content_type.as_deref(), file_name: file_name.as_deref() };
        match self.media.store_remote(server, media_id, about, body).await {
            Err(MediaError::TooLarge { .. }) => Err(FileError::RemoteTooLarge),
            Err(MediaError::Broken(why)) => Err(FileError::Remote(why)),
            other => Ok(other?),
        }
    }

    /// The file as its server gives it.
    async fn open(&self, server: &ServerName, media_id: &str, wait: Duration) -> Result<RemoteFile, FileError> {
        let file_bytes_max = usize::try_from(self.media.options().remote_bytes_max).unwrap_or(usize::MAX);
        let bytes_max = file_bytes_max.saturating_add(AROUND_BYTES);
        let options = Options::default().time(FETCH_TIME + wait).body_bytes_max(bytes_max);
        let mut request = get_content::v1::Request::new(media_id.to_owned());
        request.timeout_ms = wait;
        let request = into_http(request).map_err(told)?;
        match self.remote.open_raw(server, request, options).await {
            Ok(answer) => {
                let content_type = text(&answer, header::CONTENT_TYPE).unwrap_or_default();
                match multipart::read(&content_type, answer.into_body()).await.map_err(broken)? {
                    Part::File { content_type, disposition, body } => {
                        Ok(RemoteFile { content_type, file_name: file_name(disposition.as_deref()), body })
                    }
                    Part::Location(url) => {
                        let answer = self.remote.network().open_url(&url, options.limits).await;
                        plain(answer.map_err(broken)?)
                    }
                }
            }
            // Older servers know only the endpoint without authentication, and do not always say so well.
            Err(RemoteError::Status { status, errcode, .. })
                if status.is_client_error() && matches!(errcode.as_str(), "M_UNRECOGNIZED" | "M_UNKNOWN") =>
            {
                let path = format!("/_matrix/media/v3/download/{server}/{media_id}?allow_remote=false");
                let mut request = http::Request::new(Bytes::new());
                *request.uri_mut() = path.parse().map_err(|_| MediaError::NotFound)?;
                plain(self.remote.open_raw(server, request, options).await.map_err(told)?)
            }
            Err(error) => Err(told(error)),
        }
    }
}

/// A file as another server gives it.
struct RemoteFile {
    content_type: Option<String>,
    file_name: Option<String>,
    body: Body,
}

/// What a plain download answers.
fn plain(answer: Response<Body>) -> Result<RemoteFile, FileError> {
    if !answer.status().is_success() {
        return Err(FileError::Remote(format!("status {}", answer.status())));
    }
    let content_type = text(&answer, header::CONTENT_TYPE);
    let file_name = file_name(text(&answer, header::CONTENT_DISPOSITION).as_deref());
    Ok(RemoteFile { content_type, file_name, body: answer.into_body() })
}

fn text(answer: &Response<Body>, name: header::HeaderName) -> Option<String> {
    answer.headers().get(name)?.to_str().ok().map(ToOwned::to_owned)
}

fn file_name(disposition: Option<&str>) -> Option<String> {
    disposition?.parse::<ContentDisposition>().ok()?.filename
}

fn broken(error: NetworkError) -> FileError {
    match error {
        NetworkError::TooLong(_) => FileError::RemoteTooLarge,
        other => FileError::Remote(other.to_string()),
    }
}

fn told(error: RemoteError) -> FileError {
    match error {
        RemoteError::Status { status: StatusCode::NOT_FOUND, .. } => MediaError::NotFound.into(),
        RemoteError::Status { status, errcode, .. }
            if status == StatusCode::GATEWAY_TIMEOUT || errcode == "M_NOT_YET_UPLOADED" =>
        {
            MediaError::NotYetUploaded.into()
        }
        RemoteError::Malformed { reason, .. } if reason.starts_with("the answer is longer than") => {
            FileError::RemoteTooLarge
        }
        other => FileError::Remote(other.to_string()),
    }
}

impl FileError {
    /// The same error for one more who asked.
    fn again(&self) -> Self {
        match self {
            Self::Media(MediaError::NotFound) => MediaError::NotFound.into(),
            Self::Media(MediaError::NotYetUploaded) => MediaError::NotYetUploaded.into(),
            Self::Media(MediaError::ServerFull { bytes_max }) => {
                MediaError::ServerFull { bytes_max: *bytes_max }.into()
            }
            Self::Media(MediaError::NotClean(why)) => MediaError::NotClean(why.clone()).into(),
            Self::Media(MediaError::NotScanned(why)) => MediaError::NotScanned(why.clone()).into(),
            Self::RemoteTooLarge => Self::RemoteTooLarge,
            Self::Media(other) => Self::Failed(other.to_string()),
            Self::Remote(why) => Self::Remote(why.clone()),
            Self::Failed(why) => Self::Failed(why.clone()),
        }
    }
}
