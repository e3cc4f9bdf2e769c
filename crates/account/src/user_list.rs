//! Lists of users, and bringing one back, for those who look after the server.

use ruma::UserId;
use samtal_db::{Batch, Change, Row, Sql, params, sql};
use samtal_model::ChangeKind;

use crate::{AccountError, Accounts, User};

/// Most users that one listing looks at.
const USERS_MAX: i64 = 200_000;

const LIST: Sql = sql!(
    // As a `User` is read, and then what the list adds.
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

/// A user in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedUser {
    /// The user.
    pub user: User,
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
            user: User::from_row(row)?,
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
        self.commit_on(batch, "deactivated user").await
    }
}
