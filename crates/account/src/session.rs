//! Access tokens: who speaks.

use ruma::{OwnedDeviceId, OwnedUserId, UserId};
use samtal_db::{Batch, Sql, params, sql};
use sha2::{Digest, Sha256};

use crate::{AccountError, Accounts, user::Kind};

/// What is stored of a token.
pub type TokenHash = [u8; 32];

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

/// How a token is stored.
pub(crate) fn hash(token: &str) -> TokenHash {
    Sha256::digest(token.as_bytes()).into()
}

impl Accounts {
    /// Who holds the token.
    pub async fn session(&self, token: &str) -> Result<Result<Session, Lapse>, AccountError> {
        let hash = hash(token);
        let Some(row) = self.db.query_opt(&SESSION, params![hash]).await? else { return Ok(Err(Lapse::Unknown)) };
        if row.get(8)? {
            return Ok(Err(Lapse::Unknown));
        }
        if row.opt_int(2)?.is_some_and(|expires_ms| expires_ms <= self.now()) {
            return Ok(Err(Lapse::Expired));
        }
        Ok(Ok(Session {
            user_id: UserId::parse(row.text(0)?).map_err(|_| AccountError::Corrupt("user id", None))?.to_owned(),
            device_id: row.text(1)?.into(),
            token: hash,
            kind: Kind::from_code(row.int(4)?),
            admin: row.get(5)?,
            locked: row.get(6)?,
            suspended: row.get(7)?,
        }))
    }
}
