//! The handle.

use std::{collections::HashMap, sync::Arc};

use parking_lot::RwLock;
use ruma::{OwnedServerName, OwnedUserId, UserId};
use samtal_db::{Batch, Db};
use samtal_kit::{Cache, Clock, Random};

use crate::{
    AccountError, Options, Services, TokenHash, UserRate, nonce::Nonces, password::Hashing, session::Remembered,
};

/// All accounts of one tenant. Cheap to share behind an `Arc`.
#[derive(Debug)]
pub struct Accounts {
    pub(crate) name: OwnedServerName,
    pub(crate) db: Db,
    pub(crate) clock: Clock,
    pub(crate) random: Random,
    options: RwLock<Arc<Options>>,
    pub(crate) hashing: Hashing,
    pub(crate) nonces: Nonces,
    /// Sessions that were asked for lately.
    pub(crate) sessions: Cache<TokenHash, Remembered>,
    pub(crate) user_rates: RwLock<HashMap<OwnedUserId, UserRate>>,
    /// Application services, by their tokens and namespaces.
    pub services: Services,
}

impl Accounts {
    /// The accounts in `db`, which must have been opened with [`crate::SCHEMA`].
    pub fn new(name: OwnedServerName, db: Db, clock: Clock, random: Random, options: Options) -> Self {
        let sessions = Cache::new(db.memory());
        Self {
            name,
            db,
            clock,
            random,
            options: RwLock::new(Arc::new(options)),
            hashing: Hashing::default(),
            nonces: Nonces::default(),
            sessions,
            user_rates: RwLock::default(),
            services: Services::default(),
        }
    }

    /// What the operator decided.
    pub fn options(&self) -> Arc<Options> {
        Arc::clone(&self.options.read())
    }

    /// Replaces what the operator decided.
    pub fn set_options(&self, options: Options) {
        *self.options.write() = Arc::new(options);
    }

    /// Whether the user id belongs to this server, whether or not it exists.
    pub fn is_local(&self, user: &UserId) -> bool {
        user.server_name() == self.name
    }

    /// Commits a batch that expects one row: where it is not there, `what` is not found.
    pub(crate) async fn commit_on(&self, batch: Batch, what: &'static str) -> Result<(), AccountError> {
        match self.db.commit(batch).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_conflict() => Err(AccountError::NotFound(what)),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn now(&self) -> i64 {
        self.clock.signed_now_ms()
    }
}
