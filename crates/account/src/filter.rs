//! Filters that clients keep here to name them in `/sync`.

use ruma::UserId;
use samtal_db::{Batch, Sql, params, sql};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::{AccountError, Accounts};

/// Most filters that a user may have.
pub const FILTERS_MAX: i64 = 1_000;

/// Longest filter, in bytes.
pub const FILTER_BYTES_MAX: usize = 256 * 1024;

const FILTER: Sql = sql!("SELECT content FROM account_filter WHERE user_id = $1 AND filter_id = $2");
const FILTER_COUNT: Sql = sql!("SELECT COUNT(*) FROM account_filter WHERE user_id = $1");
const FILTER_INSERT: Sql = sql!(
    "INSERT INTO account_filter (user_id, filter_id, content) VALUES ($1, $2, $3)
     ON CONFLICT (user_id, filter_id) DO NOTHING"
);

impl Accounts {
    /// Keeps a filter and answers its id. The same filter has the same id.
    pub async fn create_filter(&self, user: &UserId, filter: &RawValue) -> Result<String, AccountError> {
        if filter.get().len() > FILTER_BYTES_MAX {
            return Err(AccountError::TooLarge("The filter is too large"));
        }
        let digest = Sha256::digest(filter.get().as_bytes());
        let id: String = digest.iter().take(10).map(|byte| format!("{byte:02x}")).collect();
        if self.filter(user, &id).await?.is_some() {
            return Ok(id);
        }
        let count = self.db.query_opt(&FILTER_COUNT, params![user.as_str()]).await?;
        if count.map_or(Ok(0), |row| row.int(0))? >= FILTERS_MAX {
            return Err(AccountError::TooLarge("There are too many filters"));
        }
        let mut batch = Batch::new();
        batch.exec(&FILTER_INSERT, params![user.as_str(), id.as_str(), filter.get()]);
        self.db.commit(batch).await?;
        Ok(id)
    }

    /// The filter with this id.
    pub async fn filter(&self, user: &UserId, id: &str) -> Result<Option<Box<RawValue>>, AccountError> {
        let Some(row) = self.db.query_opt(&FILTER, params![user.as_str(), id]).await? else { return Ok(None) };
        RawValue::from_string(row.get(0)?).map(Some).map_err(|error| AccountError::Corrupt("filter", Some(error)))
    }
}
