//! Users.

use ruma::{OwnedUserId, UserId};
use samtal_db::{Batch, Change, Row, Sql, params, sql};
use samtal_model::ChangeKind;

use crate::{AccountError, Accounts};

/// What a user is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A person or a bot with an account.
    Normal,
    /// Somebody without an account who looks in.
    Guest,
    /// A user of an application service.
    Service,
}

impl Kind {
    pub(crate) fn code(self) -> i64 {
        match self {
            Self::Normal => 0,
            Self::Guest => 1,
            Self::Service => 2,
        }
    }

    pub(crate) fn from_code(code: i64) -> Self {
        match code {
            1 => Self::Guest,
            2 => Self::Service,
            _ => Self::Normal,
        }
    }
}

/// A user of this server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The id.
    pub user_id: OwnedUserId,
    /// What they are.
    pub kind: Kind,
    /// Whether they administrate the server.
    pub admin: bool,
    /// May do nothing until unlocked; sessions remain.
    pub locked: bool,
    /// May read and leave, not speak.
    pub suspended: bool,
    /// Gone for good.
    pub deactivated: bool,
    /// Gone, and asked to be forgotten.
    pub erased: bool,
    /// The application service that made them.
    pub service: Option<String>,
    /// When they came, in milliseconds since the epoch.
    pub created_ms: u64,
}

/// What can be switched about a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// Administrates the server.
    Admin,
    /// May do nothing until unlocked.
    Locked,
    /// May read and leave, not speak.
    Suspended,
}

const USER: Sql = sql!(
    "SELECT user_id, kind, admin, locked, suspended, deactivated, erased, service, created_ms
     FROM account_user WHERE user_id = $1"
);
const USER_LIST: Sql = sql!(
    "SELECT user_id, kind, admin, locked, suspended, deactivated, erased, service, created_ms
     FROM account_user WHERE user_id > $1 ORDER BY user_id LIMIT $2"
);
const ADMIN_LIST: Sql = sql!("SELECT user_id FROM account_user WHERE admin = 1 AND deactivated = 0 ORDER BY user_id");
const ERASED_LIST: Sql = sql!("SELECT user_id FROM account_user WHERE erased = 1");
const ADMIN_SET: Sql = sql!("UPDATE account_user SET admin = $1, position = $2 WHERE user_id = $3 AND deactivated = 0");
const LOCKED_SET: Sql =
    sql!("UPDATE account_user SET locked = $1, position = $2 WHERE user_id = $3 AND deactivated = 0");
const SUSPENDED_SET: Sql =
    sql!("UPDATE account_user SET suspended = $1, position = $2 WHERE user_id = $3 AND deactivated = 0");
const USER_DEACTIVATE: Sql = sql!(
    "UPDATE account_user SET deactivated = 1, erased = $1, password = NULL, admin = 0, position = $2
     WHERE user_id = $3 AND deactivated = 0"
);
const PROFILE_CLEAR: Sql = sql!("DELETE FROM account_profile WHERE user_id = $1");
const DATA_CLEAR: Sql = sql!("DELETE FROM account_data WHERE user_id = $1");
const FILTER_CLEAR: Sql = sql!("DELETE FROM account_filter WHERE user_id = $1");
const THREEPID_CLEAR: Sql = sql!("DELETE FROM account_threepid WHERE user_id = $1");
const LOGIN_TOKEN_CLEAR: Sql = sql!("DELETE FROM account_login_token WHERE user_id = $1");
const OPENID_CLEAR: Sql = sql!("DELETE FROM account_openid WHERE user_id = $1");

impl User {
    pub(crate) fn from_row(row: &Row) -> Result<Self, AccountError> {
        Ok(Self {
            user_id: user_id(row.text(0)?)?,
            kind: Kind::from_code(row.int(1)?),
            admin: row.get(2)?,
            locked: row.get(3)?,
            suspended: row.get(4)?,
            deactivated: row.get(5)?,
            erased: row.get(6)?,
            service: row.get(7)?,
            created_ms: row.get(8)?,
        })
    }
}

/// A stored user id.
pub(crate) fn user_id(text: &str) -> Result<OwnedUserId, AccountError> {
    UserId::parse(text).map_err(|_| AccountError::Corrupt("user id", None))
}

impl Accounts {
    /// The user, if this server has it.
    pub async fn user(&self, user: &UserId) -> Result<Option<User>, AccountError> {
        self.db.query_opt(&USER, params![user.as_str()]).await?.as_ref().map(User::from_row).transpose()
    }

    /// At most `limit` users behind `after`, by id.
    pub async fn users(&self, after: &str, limit: usize) -> Result<Vec<User>, AccountError> {
        self.db.query(&USER_LIST, params![after, limit]).await?.iter().map(User::from_row).collect()
    }

    /// Those who administrate the server.
    pub async fn admins(&self) -> Result<Vec<OwnedUserId>, AccountError> {
        self.db.query(&ADMIN_LIST, params![]).await?.iter().map(|row| user_id(row.text(0)?)).collect()
    }

    /// Those who have gone and asked to be forgotten.
    pub async fn erased(&self) -> Result<Vec<OwnedUserId>, AccountError> {
        self.db.query(&ERASED_LIST, params![]).await?.iter().map(|row| user_id(row.text(0)?)).collect()
    }

    /// Switches something about a user on or off.
    pub async fn switch(&self, user: &UserId, switch: Switch, on: bool) -> Result<(), AccountError> {
        let sql = match switch {
            Switch::Admin => &ADMIN_SET,
            Switch::Locked => &LOCKED_SET,
            Switch::Suspended => &SUSPENDED_SET,
        };
        let mut batch = Batch::new();
        let position = batch.log(Change::new(ChangeKind::Account).user(user));
        batch.expect(sql, params![on, position, user.as_str()], 1);
        self.commit_on(batch, "user").await
    }

    /// The write by which a user goes for good: sessions, password, profile, private data. Their rooms and keys are other
    /// engines'; `erase` asks that what they wrote be hidden from those who come later. A conflict means that there is no
    /// such user any more.
    pub async fn deactivation(&self, user: &UserId, erase: bool) -> Result<Batch, AccountError> {
        let devices = self.devices(user).await?;
        let mut batch = self.device_removal(user, devices.iter().map(|device| &*device.device_id));
        let position = batch.log(Change::new(ChangeKind::Account).user(user));
        batch.expect(&USER_DEACTIVATE, params![erase, position, user.as_str()], 1);
        batch.log(Change::new(ChangeKind::Profile).user(user));
        for sql in [&PROFILE_CLEAR, &DATA_CLEAR, &FILTER_CLEAR, &THREEPID_CLEAR, &LOGIN_TOKEN_CLEAR, &OPENID_CLEAR] {
            batch.exec(sql, params![user.as_str()]);
        }
        Ok(batch)
    }
}
