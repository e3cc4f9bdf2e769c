//! The engine's handle, and why it refuses.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use samtal_db::{Batch, Committed, Db, DbError};
use samtal_kit::Clock;

/// A JSON object of a key, as its owner signed it.
pub type JsonObject = serde_json::Map<String, serde_json::Value>;

/// Attempts at a write whose ground moves.
const ATTEMPTS: usize = 8;

/// The end-to-end encryption engine of one tenant. Cheap to clone.
#[derive(Clone, Debug)]
pub struct E2ee {
    pub(crate) db: Db,
    pub(crate) clock: Clock,
    pub(crate) counters: Arc<Counters>,
}

/// What the operator may want to see.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) to_device_dropped: AtomicU64,
    pub(crate) to_device_sent: AtomicU64,
}

/// Why the engine refuses.
#[derive(Debug, thiserror::Error)]
pub enum E2eeError {
    /// The request contradicts itself or what is stored.
    #[error("{0}")]
    Invalid(String),
    /// Something in the request has not the form that it must have.
    #[error("{0}")]
    Malformed(String),
    /// Something larger, or more, than is kept.
    #[error("{0}")]
    TooLarge(String),
    /// A signature does not cover what it is said to.
    #[error("{0}")]
    Signature(String),
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// Keys for a backup version that is not the current one.
    #[error("the current backup version is {current}")]
    WrongVersion {
        /// The version that keys can be stored in.
        current: i64,
    },
    /// The database failed.
    #[error("storage failed")]
    Storage(#[from] DbError),
}

impl E2ee {
    /// An engine over this database, which must have been opened with [`SCHEMA`](crate::SCHEMA).
    pub fn new(db: Db, clock: Clock) -> Self {
        Self { db, clock, counters: Arc::default() }
    }

    /// To-device messages dropped since start because an inbox was full.
    pub fn to_device_dropped(&self) -> u64 {
        self.counters.to_device_dropped.load(Ordering::Relaxed)
    }

    /// Builds a batch from what is stored and commits it; once more when what it was built on has changed meanwhile.
    /// `build` answers nothing when there is nothing to write.
    pub(crate) async fn attempt<T, F>(&self, build: impl Fn() -> F) -> Result<(T, Option<Committed>), E2eeError>
    where
        F: Future<Output = Result<(T, Batch), E2eeError>>,
    {
        let mut last = DbError::Busy;
        for _ in 0..ATTEMPTS {
            let (answer, batch) = build().await?;
            if batch.is_empty() {
                return Ok((answer, None));
            }
            match self.db.commit(batch).await {
                Ok(committed) => return Ok((answer, Some(committed))),
                Err(error) if error.is_conflict() => last = error,
                Err(error) => return Err(error.into()),
            }
        }
        Err(last.into())
    }
}

/// Reads a stored JSON object; what cannot be read is an empty one (and said).
pub(crate) fn stored_object(text: &str) -> JsonObject {
    serde_json::from_str(text).unwrap_or_else(|error| {
        tracing::error!(%error, "a stored key is not a JSON object");
        JsonObject::new()
    })
}

pub(crate) fn printed(object: &JsonObject) -> String {
    serde_json::Value::Object(object.clone()).to_string()
}
