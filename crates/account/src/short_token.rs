//! Tokens that are used once or soon: for logging in elsewhere, for OpenID, for registering.

use ruma::{OwnedUserId, UserId};
use samtal_db::{Batch, Row, Sql, params, sql};
use samtal_kit::secret::constant_time_eq;

use crate::{AccountError, Accounts, session::hash, user::user_id};

/// How long an OpenID token lasts, in seconds.
pub const OPENID_SECONDS: u64 = 3_600;

const LOGIN_INSERT: Sql = sql!("INSERT INTO account_login_token (hash, user_id, expires_ms) VALUES ($1, $2, $3)");
const LOGIN_TAKE: Sql = sql!("DELETE FROM account_login_token WHERE hash = $1 RETURNING user_id, expires_ms");
const LOGIN_SWEEP: Sql = sql!("DELETE FROM account_login_token WHERE expires_ms < $1");
const OPENID_INSERT: Sql = sql!("INSERT INTO account_openid (hash, user_id, expires_ms) VALUES ($1, $2, $3)");
const OPENID: Sql = sql!("SELECT user_id, expires_ms FROM account_openid WHERE hash = $1");
const OPENID_SWEEP: Sql = sql!("DELETE FROM account_openid WHERE expires_ms < $1");
const REGISTRATION: Sql =
    sql!("SELECT token, uses_allowed, completed, expires_ms FROM account_registration_token WHERE token = $1");
const REGISTRATION_LIST: Sql =
    sql!("SELECT token, uses_allowed, completed, expires_ms FROM account_registration_token ORDER BY token");
const REGISTRATION_INSERT: Sql = sql!(
    "INSERT INTO account_registration_token (token, uses_allowed, pending, completed, expires_ms)
     VALUES ($1, $2, 0, 0, $3)"
);
const REGISTRATION_UPDATE: Sql =
    sql!("UPDATE account_registration_token SET uses_allowed = $1, expires_ms = $2 WHERE token = $3");
const REGISTRATION_DELETE: Sql = sql!("DELETE FROM account_registration_token WHERE token = $1");
const REGISTRATION_USED: Sql = sql!(
    "UPDATE account_registration_token SET completed = completed + 1
     WHERE token = $1 AND (uses_allowed IS NULL OR completed < uses_allowed)"
);

/// Longest registration token (specification, "Registration with a token").
const TOKEN_CHARACTERS_MAX: usize = 64;

/// A token that lets its holder make an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistrationToken {
    /// The token.
    pub token: String,
    /// How many accounts may be made with it; nothing for any number.
    pub uses_allowed: Option<u64>,
    /// How many have been made.
    pub completed: u64,
    /// When it ends, in milliseconds since the epoch.
    pub expires_ms: Option<u64>,
}

impl RegistrationToken {
    fn from_row(row: &Row) -> Result<Self, AccountError> {
        Ok(Self { token: row.get(0)?, uses_allowed: row.get(1)?, completed: row.get(2)?, expires_ms: row.get(3)? })
    }
}

impl Accounts {
    /// A token with which the user can log in once, soon, on another device. And how long it lasts, in milliseconds.
    pub async fn create_login_token(&self, user: &UserId) -> Result<(String, u64), AccountError> {
        let token = self.random.alphanumeric(40);
        let lasts_ms = self.options().login_token_ms;
        let mut batch = Batch::new();
        batch.exec(&LOGIN_SWEEP, params![self.now()]);
        batch.expect(&LOGIN_INSERT, params![hash(&token), user.as_str(), self.clock.now_ms() + lasts_ms], 1);
        self.db.commit(batch).await?;
        Ok((token, lasts_ms))
    }

    /// Takes a login token: whose it was, if it was still good.
    pub async fn take_login_token(&self, token: &str) -> Result<Option<OwnedUserId>, AccountError> {
        let mut batch = Batch::new();
        let taken = batch.returning(&LOGIN_TAKE, params![hash(token)]);
        let done = self.db.commit(batch).await?;
        let Some(row) = done.rows.get(taken).and_then(|rows| rows.first()) else { return Ok(None) };
        if row.int(1)? <= self.now() {
            return Ok(None);
        }
        user_id(row.text(0)?).map(Some)
    }

    /// A token by which others can ask who the user is; it lasts [`OPENID_SECONDS`].
    pub async fn create_openid_token(&self, user: &UserId) -> Result<String, AccountError> {
        let token = self.random.alphanumeric(40);
        let mut batch = Batch::new();
        batch.exec(&OPENID_SWEEP, params![self.now()]);
        batch.expect(
            &OPENID_INSERT,
            params![hash(&token), user.as_str(), self.clock.now_ms() + OPENID_SECONDS * 1000],
            1,
        );
        self.db.commit(batch).await?;
        Ok(token)
    }

    /// Whose OpenID token it is.
    pub async fn openid_user(&self, token: &str) -> Result<Option<OwnedUserId>, AccountError> {
        let Some(row) = self.db.query_opt(&OPENID, params![hash(token)]).await? else { return Ok(None) };
        if row.int(1)? <= self.now() {
            return Ok(None);
        }
        user_id(row.text(0)?).map(Some)
    }

    /// Whether an account may be made with this registration token now.
    pub async fn registration_token_valid(&self, token: &str) -> Result<bool, AccountError> {
        if self.registration_token_configured(token) {
            return Ok(true);
        }
        if token.contains('\0') {
            return Ok(false);
        }
        let Some(row) = self.db.query_opt(&REGISTRATION, params![token]).await? else { return Ok(false) };
        let token = RegistrationToken::from_row(&row)?;
        Ok(token.uses_allowed.is_none_or(|allowed| token.completed < allowed)
            && token.expires_ms.is_none_or(|expires_ms| expires_ms > self.clock.now_ms()))
    }

    fn registration_token_configured(&self, token: &str) -> bool {
        self.options()
            .registration_tokens
            .iter()
            .any(|known| constant_time_eq(known.expose().as_bytes(), token.as_bytes()))
    }

    /// Counts a use; the batch conflicts when there is none left.
    pub(crate) fn registration_token_used(&self, batch: &mut Batch, token: &str) {
        if !self.registration_token_configured(token) {
            batch.expect(&REGISTRATION_USED, params![token], 1);
        }
    }

    /// All registration tokens that are kept in the database.
    pub async fn registration_tokens(&self) -> Result<Vec<RegistrationToken>, AccountError> {
        self.db.query(&REGISTRATION_LIST, params![]).await?.iter().map(RegistrationToken::from_row).collect()
    }

    /// Makes a registration token: this text or a random one.
    pub async fn create_registration_token(
        &self,
        token: Option<String>,
        uses_allowed: Option<u64>,
        expires_ms: Option<u64>,
    ) -> Result<RegistrationToken, AccountError> {
        let token = token.unwrap_or_else(|| self.random.alphanumeric(16));
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._~-".contains(&byte);
        if token.is_empty() || token.len() > TOKEN_CHARACTERS_MAX || !token.bytes().all(allowed) {
            return Err(AccountError::Invalid("A token has 1 to 64 of the characters A-Z a-z 0-9 . _ ~ -".to_owned()));
        }
        let mut batch = Batch::new();
        batch.expect(&REGISTRATION_INSERT, params![token.as_str(), uses_allowed, expires_ms], 1);
        match self.db.commit(batch).await {
            Ok(_) => Ok(RegistrationToken { token, uses_allowed, completed: 0, expires_ms }),
            Err(error) if error.is_conflict() => Err(AccountError::Invalid("There is such a token already".to_owned())),
            Err(error) => Err(error.into()),
        }
    }

    /// Changes how often and until when a registration token may be used.
    pub async fn update_registration_token(
        &self,
        token: &str,
        uses_allowed: Option<u64>,
        expires_ms: Option<u64>,
    ) -> Result<(), AccountError> {
        let mut batch = Batch::new();
        batch.expect(&REGISTRATION_UPDATE, params![uses_allowed, expires_ms, token], 1);
        self.commit_on(batch, "registration token").await
    }

    /// Removes a registration token.
    pub async fn delete_registration_token(&self, token: &str) -> Result<(), AccountError> {
        let mut batch = Batch::new();
        batch.exec(&REGISTRATION_DELETE, params![token]);
        self.db.commit(batch).await?;
        Ok(())
    }
}
