//! The engine's handle, and why it refuses.

use std::sync::Arc;

use ruma::{OwnedServerName, ServerName};
use samtal_db::{Db, DbError};
use samtal_http::{Client, TlsError};
use samtal_kit::{Clock, Random};
use tokio::sync::{Semaphore, broadcast};

use crate::{Options, preview::Previews, store::Store};

/// Pictures made smaller at the same time: each takes memory for its pixels.
const PICTURES_AT_ONCE: usize = 2;
/// Uploads that a waiting download may miss before it looks itself.
const ANNOUNCED: usize = 64;

/// The files of one tenant. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Media(Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) name: OwnedServerName,
    pub(crate) db: Db,
    pub(crate) clock: Clock,
    pub(crate) random: Random,
    pub(crate) store: Store,
    pub(crate) options: Options,
    pub(crate) pictures: Semaphore,
    pub(crate) previews: Option<Previews>,
    /// Ids whose upload has just been finished.
    pub(crate) uploaded: broadcast::Sender<String>,
}

/// Why the engine refuses.
#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    /// There is no such file, or it is quarantined.
    #[error("there is no such file")]
    NotFound,
    /// The id is reserved, and its file has not come in time.
    #[error("the file has not been uploaded yet")]
    NotYetUploaded,
    /// The file is longer than allowed.
    #[error("a file may have {bytes_max} bytes")]
    TooLarge {
        /// The bound.
        bytes_max: u64,
    },
    /// The user has uploaded as much as one may.
    #[error("the user may keep {bytes_max} bytes")]
    QuotaExceeded {
        /// The bound.
        bytes_max: u64,
    },
    /// All users together have uploaded as much as they may.
    #[error("the server may keep {bytes_max} bytes")]
    ServerFull {
        /// The bound.
        bytes_max: u64,
    },
    /// A scanner has found something in the file.
    #[error("the file is not clean: {0}")]
    NotClean(String),
    /// The scanner could not look at the file.
    #[error("the file could not be scanned: {0}")]
    NotScanned(String),
    /// The place for files cannot be one.
    #[error("{0}")]
    Location(&'static str),
    /// Too many ids are reserved.
    #[error("the user has too many uploads under way")]
    TooManyReservations,
    /// The id has its file already.
    #[error("the id has its file already")]
    CannotOverwrite,
    /// The id is reserved by somebody else.
    #[error("the id is reserved by somebody else")]
    NotYours,
    /// The file is no picture that can be made smaller.
    #[error("the file is no picture that can be made smaller: {0}")]
    NoPicture(String),
    /// The picture is too large to be made smaller.
    #[error("the picture is too large to be made smaller")]
    PictureTooLarge,
    /// The body of the upload ended early.
    #[error("the upload broke off: {0}")]
    Broken(String),
    /// The certificates that previews trust cannot be read.
    #[error("a trusted certificate cannot be read")]
    Certificates(#[from] TlsError),
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] object_store::Error),
    /// The file system failed.
    #[error("the file system failed")]
    Files(#[source] std::io::Error),
    /// The database failed.
    #[error("storage failed")]
    Database(#[from] DbError),
}

impl Media {
    /// The files of `name`; the database must have been opened with [`SCHEMA`](crate::SCHEMA).
    pub fn open(
        name: OwnedServerName,
        db: Db,
        clock: Clock,
        random: Random,
        options: Options,
    ) -> Result<Self, MediaError> {
        let store = Store::open(&options.location)?;
        let previews = options.previews.as_ref().map(Client::new).transpose()?;
        let previews = previews.map(|client| Previews::new(client, db.memory()));
        let pictures = Semaphore::new(PICTURES_AT_ONCE);
        Ok(Self(Arc::new(Inner {
            name,
            db,
            clock,
            random,
            store,
            options,
            pictures,
            previews,
            uploaded: broadcast::channel(ANNOUNCED).0,
        })))
    }

    /// What the operator decided.
    pub fn options(&self) -> &Options {
        &self.0.options
    }

    /// Whether the server is this one.
    pub fn is_own(&self, server: &ServerName) -> bool {
        self.0.name == server
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.0
    }
}

/// Whether the text can be a media id: nothing in it means anything in a path.
pub fn is_media_id(text: &str) -> bool {
    (1..=255).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}
