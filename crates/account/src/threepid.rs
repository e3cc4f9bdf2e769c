//! Addresses elsewhere (mail, telephone) that are known to be a user's.

use ruma::{OwnedUserId, UserId};
use samtal_db::{Batch, Sql, params, sql};

use crate::{AccountError, Accounts, user::user_id};

/// An address elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Threepid {
    /// `email` or `msisdn`.
    pub medium: String,
    /// The address, in its canonical form.
    pub address: String,
    /// When it was shown to be the user's, in milliseconds since the epoch.
    pub validated_ms: u64,
    /// When it was added.
    pub added_ms: u64,
}

const THREEPID_LIST: Sql = sql!(
    "SELECT medium, address, validated_ms, added_ms FROM account_threepid WHERE user_id = $1 ORDER BY added_ms, address"
);
const THREEPID_OWNER: Sql = sql!("SELECT user_id FROM account_threepid WHERE medium = $1 AND address = $2");
const THREEPID_SET: Sql =
    sql!("INSERT INTO account_threepid (medium, address, user_id, validated_ms, added_ms) VALUES ($1, $2, $3, $4, $5)");
const THREEPID_DELETE: Sql = sql!("DELETE FROM account_threepid WHERE medium = $1 AND address = $2 AND user_id = $3");

impl Accounts {
    /// The user's addresses elsewhere.
    pub async fn threepids(&self, user: &UserId) -> Result<Vec<Threepid>, AccountError> {
        self.db
            .query(&THREEPID_LIST, params![user.as_str()])
            .await?
            .iter()
            .map(|row| {
                Ok(Threepid {
                    medium: row.get(0)?,
                    address: row.get(1)?,
                    validated_ms: row.get(2)?,
                    added_ms: row.get(3)?,
                })
            })
            .collect()
    }

    /// Whose address it is.
    pub async fn threepid_user(&self, medium: &str, address: &str) -> Result<Option<OwnedUserId>, AccountError> {
        let row = self.db.query_opt(&THREEPID_OWNER, params![medium, address]).await?;
        row.map(|row| user_id(row.text(0)?)).transpose()
    }

    /// Notes an address that has been shown to be the user's.
    pub async fn add_threepid(&self, user: &UserId, medium: &str, address: &str) -> Result<(), AccountError> {
        let mut batch = Batch::new();
        self.threepid_write(&mut batch, user, medium, address);
        match self.db.commit(batch).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_conflict() => Err(AccountError::ThreepidInUse),
            Err(error) => Err(error.into()),
        }
    }

    /// The write by which an address becomes a user's; it conflicts when it is another's.
    pub(crate) fn threepid_write(&self, batch: &mut Batch, user: &UserId, medium: &str, address: &str) {
        let now = self.now();
        batch.expect(&THREEPID_SET, params![medium, address, user.as_str(), now, now], 1);
    }

    /// Forgets one of the user's addresses.
    pub async fn delete_threepid(&self, user: &UserId, medium: &str, address: &str) -> Result<(), AccountError> {
        let mut batch = Batch::new();
        batch.exec(&THREEPID_DELETE, params![medium, address, user.as_str()]);
        self.db.commit(batch).await?;
        Ok(())
    }
}
