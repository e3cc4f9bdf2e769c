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
    fn code(self) -> i64 {
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

const USER: Sql = sql!(
    "SELECT user_id, kind, admin, locked, suspended, deactivated, erased, service, created_ms
     FROM account_user WHERE user_id = $1"
);

const USER_LIST: Sql = sql!(
    "SELECT user_id, kind, admin, locked, suspended, deactivated, erased, service, created_ms
     FROM account_user WHERE user_id > $1 ORDER BY user_id LIMIT $2"
);

const USER_INSERT: Sql = sql!(
    "INSERT INTO account_user (user_id, kind, password, admin, locked, suspended, deactivated, erased, service, created_ms,
        position)
     VALUES ($1, $2, $3, $4, 0, 0, 0, 0, $5, $6, $7)"
);

impl User {
    fn from_row(row: &Row) -> Result<Self, AccountError> {
        Ok(Self {
            user_id: UserId::parse(row.text(0)?).map_err(|_| AccountError::Corrupt("user id", None))?.to_owned(),
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

/// A user to be made.
#[derive(Clone, Debug)]
pub(crate) struct UserDraft<'a> {
    pub(crate) user_id: &'a UserId,
    pub(crate) kind: Kind,
    pub(crate) password_hash: Option<String>,
    pub(crate) admin: bool,
    pub(crate) service: Option<&'a str>,
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

    pub(crate) fn user_insert(&self, batch: &mut Batch, draft: &UserDraft<'_>) {
        let position = batch.log(Change::new(ChangeKind::Account).user(draft.user_id));
        batch.expect(
            &USER_INSERT,
            params![
                draft.user_id.as_str(),
                draft.kind.code(),
                draft.password_hash.clone(),
                draft.admin,
                draft.service,
                self.now(),
                position
            ],
            1,
        );
    }
}
