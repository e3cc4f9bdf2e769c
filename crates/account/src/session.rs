//! Access and refresh tokens: who speaks.
//!
//! Refreshing forgives a lost answer: a refresh token stays good until its successor, or the access token that came with
//! it, has been used. One that is used after that has been stolen or copied: all tokens of the device end.

use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};
use samtal_db::{Batch, Row, Sql, params, sql};
use samtal_kit::signed_ms;
use samtal_model::ChangeKind;
use sha2::{Digest, Sha256};

use crate::{
    AccountError, Accounts,
    device::check_text,
    user::{Kind, user_id},
};

/// What is stored of a token.
pub type TokenHash = [u8; 32];

/// How long it may take until the device list shows that a device was seen.
const SEEN_MS: i64 = 5 * 60_000;

/// How long a session is remembered without asking the database: other nodes end tokens that were refreshed without a word.
const REMEMBERED_MS: i64 = 30_000;

/// How long spent refresh tokens are remembered, to notice that one comes back.
const SPENT_MS: i64 = 7 * 24 * 3_600_000;

/// Who holds an access token.
#[derive(Clone, Debug)]
pub struct Session {
    /// The user.
    pub user_id: OwnedUserId,
    /// The device.
    pub device_id: OwnedDeviceId,
    /// The token's hash.
    pub token: TokenHash,
    /// What the user is.
    pub kind: Kind,
    /// Whether they administrate the server.
    pub admin: bool,
    /// May do nothing until unlocked.
    pub locked: bool,
    /// May read and leave, not speak.
    pub suspended: bool,
}

/// A session as it was when the change log stood at `position`.
#[derive(Clone, Debug)]
pub(crate) struct Remembered {
    session: Session,
    position: i64,
    at_ms: i64,
    until_ms: i64,
}

/// Why a token opens nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lapse {
    /// It never did, or its session has ended: the client forgets what it knows.
    Unknown,
    /// It has expired: the client may come back with a refresh token or log in again on the same device.
    Expired,
}

/// The client at the other end, as the request shows it.
#[derive(Clone, Debug, Default)]
pub struct Client {
    /// Its address.
    pub ip: Option<String>,
    /// What it calls itself.
    pub agent: Option<String>,
}

/// A session to be made.
#[derive(Clone, Debug, Default)]
pub struct NewSession {
    /// The device; a new one when there is none.
    pub device_id: Option<OwnedDeviceId>,
    /// The name of a new device.
    pub display_name: Option<String>,
    /// Whether the client can refresh its token.
    pub refresh: bool,
    /// When the access token expires though it cannot be refreshed, in milliseconds from now.
    pub valid_for_ms: Option<u64>,
}

/// Tokens just made. This is the only moment at which they can be read.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The user.
    pub user_id: OwnedUserId,
    /// The device.
    pub device_id: OwnedDeviceId,
    /// The access token.
    pub access_token: String,
    /// The refresh token, for clients that asked for one.
    pub refresh_token: Option<String>,
    /// How long the access token lasts, in milliseconds.
    pub expires_in_ms: Option<u64>,
}

const SESSION: Sql = sql!(
    "SELECT t.user_id, t.device_id, t.expires_ms, t.fresh, u.kind, u.admin, u.locked, u.suspended, u.deactivated, d.seen_ms
     FROM account_access t
     JOIN account_user u ON u.user_id = t.user_id
     JOIN account_device d ON d.user_id = t.user_id AND d.device_id = t.device_id
     WHERE t.hash = $1"
);
const ACCESS_INSERT: Sql =
    sql!("INSERT INTO account_access (hash, user_id, device_id, expires_ms, fresh) VALUES ($1, $2, $3, $4, $5)");
const ACCESS_DELETE: Sql = sql!("DELETE FROM account_access WHERE hash = $1");
const ACCESS_USED: Sql = sql!("UPDATE account_access SET fresh = 0 WHERE hash = $1");
const REFRESH: Sql = sql!(
    "SELECT r.user_id, r.device_id, r.access, r.next, r.spent_ms, u.locked, u.deactivated FROM account_refresh r
     JOIN account_user u ON u.user_id = r.user_id
     WHERE r.hash = $1"
);
const REFRESH_OF_ACCESS: Sql = sql!("SELECT hash FROM account_refresh WHERE access = $1");
const REFRESH_BEFORE: Sql = sql!(
    "SELECT hash, access FROM account_refresh WHERE user_id = $1 AND device_id = $2 AND next = $3 AND spent_ms IS NULL"
);
const REFRESH_ACCESS: Sql = sql!("SELECT access FROM account_refresh WHERE hash = $1");
const REFRESH_INSERT: Sql =
    sql!("INSERT INTO account_refresh (hash, user_id, device_id, access, created_ms) VALUES ($1, $2, $3, $4, $5)");
const REFRESH_DELETE: Sql = sql!("DELETE FROM account_refresh WHERE hash = $1");
const REFRESH_NEXT: Sql =
    sql!("UPDATE account_refresh SET next = $1 WHERE hash = $2 AND spent_ms IS NULL AND COALESCE(next, hash) = $3");
const REFRESH_SPENT: Sql = sql!("UPDATE account_refresh SET spent_ms = $1 WHERE hash = $2");
const REFRESH_SWEEP: Sql = sql!("DELETE FROM account_refresh WHERE user_id = $1 AND device_id = $2 AND spent_ms < $3");

/// How a token is stored.
pub(crate) fn hash(token: &str) -> TokenHash {
    Sha256::digest(token.as_bytes()).into()
}

fn stored_hash(row: &Row, column: usize) -> Result<TokenHash, AccountError> {
    row.blob(column)?.try_into().map_err(|_| AccountError::Corrupt("token hash", None))
}

impl Accounts {
    /// Who holds the token. Notes that the device was seen, and that a token made by refreshing has arrived.
    pub async fn session(&self, token: &str, client: &Client) -> Result<Result<Session, Lapse>, AccountError> {
        let (hash, now) = (hash(token), self.now());
        if let Some(session) = self.remembered(&hash, now) {
            return Ok(Ok(session));
        }
        let position = self.db.position();
        let Some(row) = self.db.query_opt(&SESSION, params![hash]).await? else { return Ok(Err(Lapse::Unknown)) };
        if row.get(8)? {
            return Ok(Err(Lapse::Unknown));
        }
        if row.opt_int(2)?.is_some_and(|expires_ms| expires_ms <= now) {
            return Ok(Err(Lapse::Expired));
        }
        let session = Session {
            user_id: user_id(row.text(0)?)?,
            device_id: row.text(1)?.into(),
            token: hash,
            kind: Kind::from_code(row.int(4)?),
            admin: row.get(5)?,
            locked: row.get(6)?,
            suspended: row.get(7)?,
        };
        let is_fresh: bool = row.get(3)?;
        let seen_ms = row.opt_int(9)?;
        if is_fresh || seen_ms.is_none_or(|seen_ms| now - seen_ms > SEEN_MS || seen_ms > now) {
            self.note(&session, is_fresh, client).await?;
        } else {
            let expires_ms = row.opt_int(2)?.unwrap_or(i64::MAX);
            let remembered = Remembered {
                session: session.clone(),
                position,
                until_ms: expires_ms.min(now + REMEMBERED_MS),
                at_ms: now,
            };
            self.sessions.put(hash, remembered, 400);
        }
        Ok(Ok(session))
    }

    /// The session as it was read a moment ago, if nobody's token or account has changed since.
    fn remembered(&self, hash: &TokenHash, now: i64) -> Option<Session> {
        let found = self.sessions.get(hash)?;
        let changed = self.db.last_change_of(ChangeKind::Logout).max(self.db.last_change_of(ChangeKind::Account));
        (changed <= found.position && (found.at_ms..found.until_ms).contains(&now)).then_some(found.session)
    }

    async fn note(&self, session: &Session, is_fresh: bool, client: &Client) -> Result<(), AccountError> {
        let mut batch = Batch::new();
        self.device_seen(&mut batch, &session.user_id, &session.device_id, client);
        if is_fresh {
            batch.exec(&ACCESS_USED, params![session.token]);
            if let Some(row) = self.db.query_opt(&REFRESH_OF_ACCESS, params![session.token]).await? {
                let arrived = stored_hash(&row, 0)?;
                self.spend_before(&mut batch, &session.user_id, &session.device_id, arrived).await?;
            }
        }
        self.db.commit(batch).await?;
        Ok(())
    }

    /// The successor has arrived: the refresh token before it, and its access token, end.
    async fn spend_before(
        &self,
        batch: &mut Batch,
        user: &UserId,
        device: &DeviceId,
        arrived: TokenHash,
    ) -> Result<(), AccountError> {
        for row in self.db.query(&REFRESH_BEFORE, params![user.as_str(), device.as_str(), arrived]).await? {
            batch.exec(&ACCESS_DELETE, params![row.blob(1)?]);
            self.sessions.remove(&stored_hash(&row, 1)?);
            batch.exec(&REFRESH_SPENT, params![self.now(), row.blob(0)?]);
        }
        Ok(())
    }

    /// Logs a user in: on the device named, whose earlier tokens end, or on a new one.
    pub async fn log_in(&self, user: &UserId, new: NewSession, client: &Client) -> Result<Issued, AccountError> {
        check_text(new.device_id.as_ref().map_or("", |device| device.as_str()))?;
        check_text(new.display_name.as_deref().unwrap_or_default())?;
        let mut batch = Batch::new();
        if let Some(device) = &new.device_id {
            if device.as_str().is_empty() {
                return Err(AccountError::Invalid("The device id is empty".to_owned()));
            }
            if self.device(user, device).await?.is_some() {
                self.device_end_session(&mut batch, user, device);
            }
        }
        let issued = self.session_write(&mut batch, user, new, client);
        self.db.commit(batch).await?;
        Ok(issued)
    }

    pub(crate) fn session_write(&self, batch: &mut Batch, user: &UserId, new: NewSession, client: &Client) -> Issued {
        let device_id =
            new.device_id.unwrap_or_else(|| self.random.alphanumeric(10).to_ascii_uppercase().as_str().into());
        self.device_insert(batch, user, &device_id, new.display_name.as_deref());
        self.device_seen(batch, user, &device_id, client);
        self.issue(batch, user, device_id, new.refresh, new.valid_for_ms, false)
    }

    fn issue(
        &self,
        batch: &mut Batch,
        user: &UserId,
        device_id: OwnedDeviceId,
        refresh: bool,
        valid_for_ms: Option<u64>,
        is_fresh: bool,
    ) -> Issued {
        let access_token = format!("sam_{}", self.random.alphanumeric(40));
        let expires_in_ms = if refresh { Some(self.options().access_token_ms) } else { valid_for_ms };
        let expires_ms = expires_in_ms.map(|ms| self.now().saturating_add(signed_ms(ms)));
        batch.expect(
            &ACCESS_INSERT,
            params![hash(&access_token), user.as_str(), device_id.as_str(), expires_ms, is_fresh],
            1,
        );
        let refresh_token = refresh.then(|| format!("sar_{}", self.random.alphanumeric(40)));
        if let Some(token) = &refresh_token {
            batch.expect(
                &REFRESH_INSERT,
                params![hash(token), user.as_str(), device_id.as_str(), hash(&access_token), self.now()],
                1,
            );
        }
        Issued { user_id: user.to_owned(), device_id, access_token, refresh_token, expires_in_ms }
    }

    /// New tokens for a refresh token.
    pub async fn refresh(&self, token: &str) -> Result<Issued, AccountError> {
        let token = hash(token);
        let Some(row) = self.db.query_opt(&REFRESH, params![token]).await? else {
            return Err(AccountError::UnknownToken);
        };
        if row.get(6)? {
            return Err(AccountError::UnknownToken);
        }
        if row.get(5)? {
            return Err(AccountError::Locked);
        }
        let user = user_id(row.text(0)?)?;
        let device: OwnedDeviceId = row.text(1)?.into();
        let mut batch = Batch::new();
        if row.opt_int(4)?.is_some() {
            tracing::warn!(%user, %device, "a spent refresh token came back: the session ends");
            self.device_end_session(&mut batch, &user, &device);
            self.db.commit(batch).await?;
            return Err(AccountError::ReusedToken);
        }
        self.spend_before(&mut batch, &user, &device, token).await?;
        let lost: Option<Vec<u8>> = row.get(3)?;
        if let Some(lost) = &lost {
            // Its answer has not arrived: what it gave is withdrawn.
            if let Some(row) = self.db.query_opt(&REFRESH_ACCESS, params![lost]).await? {
                batch.exec(&ACCESS_DELETE, params![row.blob(0)?]);
                self.sessions.remove(&stored_hash(&row, 0)?);
            }
            batch.exec(&REFRESH_DELETE, params![lost]);
        }
        let issued = self.issue(&mut batch, &user, device.clone(), true, None, true);
        let next = issued.refresh_token.as_deref().map(hash);
        let expected = lost.unwrap_or_else(|| token.to_vec());
        batch.expect(&REFRESH_NEXT, params![next, token, expected], 1);
        batch.exec(&REFRESH_SWEEP, params![user.as_str(), device.as_str(), self.now() - SPENT_MS]);
        self.db.commit(batch).await?;
        Ok(issued)
    }
}
