//! Lists of users, for those who look after the server.

use ruma::{OwnedUserId, UserId};
use samtal_db::{Batch, Change, Row, Sql, params, sql};
use samtal_model::ChangeKind;

use crate::{
    AccountError, Accounts,
    user::{Kind, user_id},
};

/// Most users that one listing looks at.
const USERS_MAX: i64 = 200_000;

const LIST: Sql = sql!(
    "SELECT u.user_id, u.kind, u.admin, u.locked, u.suspended, u.deactivated, u.erased, u.service, u.created_ms,
        (SELECT p.value FROM account_profile p WHERE p.user_id = u.user_id AND p.field = 'displayname'),
        (SELECT p.value FROM account_profile p WHERE p.user_id = u.user_id AND p.field = 'avatar_url'),
        (SELECT MAX(d.seen_ms) FROM account_device d WHERE d.user_id = u.user_id)
     FROM account_user u ORDER BY u.user_id LIMIT $1"
);
const REACTIVATE: Sql = sql!(
    "UPDATE account_user SET deactivated = 0, erased = 0, password = $1, position = $2
     WHERE user_id = $3 AND deactivated = 1"
);
const REGISTRATION_UPDATE: Sql =
    sql!("UPDATE account_registration_token SET uses_allowed = $1, expires_ms = $2 WHERE token = $3");

/// A user in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedUser {
    /// The id.
    pub user_id: OwnedUserId,
    /// What they are.
    pub kind: Kind,
    /// Whether they administrate the server.
    pub admin: bool,
    /// May do nothing until unlocked.
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
    /// What they are called.
    pub display_name: Option<String>,
    /// Their picture.
    pub avatar_url: Option<String>,
    /// When one of their devices was last seen, in milliseconds since the epoch.
    pub seen_ms: Option<u64>,
}

impl ListedUser {
    fn from_row(row: &Row) -> Result<Self, AccountError> {
        let text = |json: Option<&str>| json.and_then(|json| serde_json::from_str(json).ok());
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
            display_name: text(row.opt_text(9)?),
            avatar_url: text(row.opt_text(10)?),
            seen_ms: row.get(11)?,
        })
    }
}

impl Accounts {
    /// All users with what a list shows of them, by id. For administrators: it reads every account.
    pub async fn user_list(&self) -> Result<Vec<ListedUser>, AccountError> {
        self.db.scan(&LIST, params![USERS_MAX]).await?.iter().map(ListedUser::from_row).collect()
    }

    /// Brings a deactivated user back, with a new password or without one. What was deleted stays deleted.
    pub async fn reactivate(&self, user: &UserId, password: Option<&str>) -> Result<(), AccountError> {
        let hash = match password {
            Some(password) => Some(self.hash_password(password).await?.expose().clone()),
            None => None,
        };
        let mut batch = Batch::new();
        let position = batch.log(Change::new(ChangeKind::Account).user(user));
        batch.expect(&REACTIVATE, params![hash, position, user.as_str()], 1);
        match self.db.commit(batch).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_conflict() => Err(AccountError::NotFound("deactivated user")),
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
        match self.db.commit(batch).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_conflict() => Err(AccountError::NotFound("registration token")),
            Err(error) => Err(error.into()),
        }
    }
}
