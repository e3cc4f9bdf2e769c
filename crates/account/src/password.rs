//! Passwords: argon2id, computed off the worker threads, few at a time.

use std::sync::Arc;

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use ruma::UserId;
use samtal_db::{Batch, Sql, params, sql};
use samtal_kit::Secret;
use tokio::sync::Semaphore;

use crate::{AccountError, Accounts, PasswordCost};

/// Hashes that are computed at once: each takes a core and some megabytes.
const AT_ONCE: usize = 2;

/// Longest password, in bytes; longer ones would let anybody keep the hash function busy.
const PASSWORD_BYTES_MAX: usize = 4096;

const PASSWORD: Sql = sql!("SELECT password FROM account_user WHERE user_id = $1 AND deactivated = 0");
const PASSWORD_SET: Sql = sql!("UPDATE account_user SET password = $1 WHERE user_id = $2 AND deactivated = 0");

/// Where passwords are hashed.
#[derive(Clone, Debug)]
pub(crate) struct Hashing(Arc<Semaphore>);

impl Default for Hashing {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

fn argon2(cost: PasswordCost) -> Result<Argon2<'static>, AccountError> {
    let params = Params::new(cost.memory_kib.max(8), cost.passes.max(1), 1, None)
        .map_err(|error| AccountError::Hashing(error.to_string()))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

impl Accounts {
    /// Checks what a user wants as a password.
    pub fn check_password_strength(&self, password: &str) -> Result<(), AccountError> {
        let length_min = self.options().password_length_min;
        if password.chars().count() < length_min {
            return Err(AccountError::WeakPassword(format!("The password must have at least {length_min} characters")));
        }
        if password.len() > PASSWORD_BYTES_MAX {
            return Err(AccountError::WeakPassword("The password is too long".to_owned()));
        }
        Ok(())
    }

    /// The password's hash, as it is stored.
    pub(crate) async fn hash_password(&self, password: &str) -> Result<Secret<String>, AccountError> {
        let cost = self.options().password_cost;
        let salt: [u8; 16] = self.random.bytes();
        let password = Secret::new(password.to_owned());
        self.hashing(move || {
            let hash = argon2(cost)?
                .hash_password_with_salt(password.expose().as_bytes(), &salt)
                .map_err(|error| AccountError::Hashing(error.to_string()))?;
            Ok(Secret::new(hash.to_string()))
        })
        .await
    }

    /// Whether it is the user's password. Takes as long when there is no such user.
    pub async fn password_matches(&self, user: &UserId, password: &str) -> Result<bool, AccountError> {
        if password.len() > PASSWORD_BYTES_MAX {
            return Ok(false);
        }
        let stored = match self.db.query_opt(&PASSWORD, params![user.as_str()]).await? {
            Some(row) => row.get::<Option<String>>(0)?,
            None => None,
        };
        let Some(stored) = stored else {
            self.hash_password(password).await?;
            return Ok(false);
        };
        let password = Secret::new(password.to_owned());
        self.hashing(move || {
            let stored = PasswordHash::new(&stored).map_err(|error| AccountError::Hashing(error.to_string()))?;
            Ok(Argon2::default().verify_password(password.expose().as_bytes(), &stored).is_ok())
        })
        .await
    }

    /// Sets the user's password; sessions go on.
    pub async fn set_password(&self, user: &UserId, password: &str) -> Result<(), AccountError> {
        self.check_password_strength(password)?;
        let hash = self.hash_password(password).await?;
        let mut batch = Batch::new();
        batch.expect(&PASSWORD_SET, params![hash.expose(), user.as_str()], 1);
        self.commit_on(batch, "user").await
    }

    async fn hashing<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, AccountError> + Send + 'static,
    ) -> Result<T, AccountError> {
        let _turn = self.hashing.0.acquire().await.map_err(|error| AccountError::Hashing(error.to_string()))?;
        tokio::task::spawn_blocking(work).await.map_err(|error| AccountError::Hashing(error.to_string()))?
    }
}
