//! What can go wrong with the database.

/// Why a read or a commit failed.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// An expectation or a uniqueness rule of the batch did not hold; nothing of the batch is kept. Read anew and decide.
    #[error("the database changed meanwhile: {0}")]
    Conflict(String),
    /// A column did not hold what the reader expected.
    #[error("column {column} holds {found}, expected {expected}")]
    Decode {
        /// Index of the column in the row.
        column: usize,
        /// What the reader asked for.
        expected: &'static str,
        /// What was there.
        found: &'static str,
    },
    /// No room is left on the disk; nothing of the batch is kept.
    #[error("the disk is full")]
    Full,
    /// Too many writes wait already.
    #[error("the database is busy")]
    Busy,
    /// The database has been closed.
    #[error("the database is closed")]
    Closed,
    /// A schema of a newer version, or a migration that failed.
    #[error("migration failed: {0}")]
    Migration(String),
    /// The engine failed.
    #[error("the database engine failed: {0}")]
    Engine(String, #[source] Option<Box<dyn std::error::Error + Send + Sync>>),
}

impl DbError {
    /// Whether reading anew and trying again may help.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict(_))
    }

    /// Whether it says nothing of what was read or written, only that it could not be done now: the same may work later.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Full | Self::Busy | Self::Closed => true,
            Self::Engine(_, Some(source)) => is_connection_lost(&**source),
            Self::Conflict(_) | Self::Decode { .. } | Self::Migration(_) | Self::Engine(_, None) => false,
        }
    }

    /// The error once more, for another batch of the group that it refused.
    pub(crate) fn again(&self) -> Self {
        match self {
            Self::Conflict(what) => Self::Conflict(what.clone()),
            Self::Full => Self::Full,
            Self::Busy => Self::Busy,
            Self::Closed => Self::Closed,
            lost if lost.is_passing() => Self::Closed,
            other => Self::Engine(other.to_string(), None),
        }
    }
}

/// Whether the way to PostgreSQL broke.
fn is_connection_lost(error: &(dyn std::error::Error + 'static)) -> bool {
    let Some(error) = error.downcast_ref::<tokio_postgres::Error>() else { return false };
    error.is_closed() || std::error::Error::source(error).is_some_and(|source| source.is::<std::io::Error>())
}

impl From<rusqlite::Error> for DbError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode;
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full,
            Some(ErrorCode::ConstraintViolation) => Self::Conflict(error.to_string()),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy,
            _ => Self::Engine(error.to_string(), Some(Box::new(error))),
        }
    }
}

impl From<tokio_postgres::Error> for DbError {
    fn from(error: tokio_postgres::Error) -> Self {
        use tokio_postgres::error::SqlState;
        let text = error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string);
        match error.code() {
            Some(code) if *code == SqlState::DISK_FULL => Self::Full,
            Some(code)
                if *code == SqlState::UNIQUE_VIOLATION
                    || *code == SqlState::CHECK_VIOLATION
                    || *code == SqlState::NOT_NULL_VIOLATION
                    || *code == SqlState::T_R_SERIALIZATION_FAILURE
                    || *code == SqlState::T_R_DEADLOCK_DETECTED =>
            {
                Self::Conflict(text)
            }
            _ => Self::Engine(text, Some(Box::new(error))),
        }
    }
}

impl From<deadpool_postgres::PoolError> for DbError {
    fn from(error: deadpool_postgres::PoolError) -> Self {
        match error {
            deadpool_postgres::PoolError::Timeout(_) => Self::Busy,
            deadpool_postgres::PoolError::Closed => Self::Closed,
            deadpool_postgres::PoolError::Backend(error) => error.into(),
            other => Self::Engine(other.to_string(), Some(Box::new(other))),
        }
    }
}
