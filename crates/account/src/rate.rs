//! Rates of single users, where administrators have set others than everybody's.

use std::collections::HashMap;

use ruma::UserId;
use samtal_db::{Batch, Sql, params, sql};
use samtal_kit::Rate;

use crate::{AccountError, Accounts, user::user_id};

/// Most users with a rate of their own.
const USERS_MAX: i64 = 100_000;

const LIST: Sql = sql!("SELECT user_id, per_second, burst FROM account_rate ORDER BY user_id LIMIT $1");
const ONE: Sql = sql!("SELECT per_second, burst FROM account_rate WHERE user_id = $1");
const SET: Sql = sql!(
    "INSERT INTO account_rate (user_id, per_second, burst) VALUES ($1, $2, $3)
     ON CONFLICT (user_id) DO UPDATE SET per_second = excluded.per_second, burst = excluded.burst"
);
const CLEAR: Sql = sql!("DELETE FROM account_rate WHERE user_id = $1");

/// How often one user may send something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserRate {
    /// Messages a second; 0 for no limit at all.
    pub messages_per_second: u32,
    /// How many at once; 0 for no limit at all.
    pub burst_count: u32,
}

impl UserRate {
    fn new(messages_per_second: i64, burst_count: i64) -> Self {
        let number = |value: i64| u32::try_from(value.max(0)).unwrap_or(u32::MAX);
        Self { messages_per_second: number(messages_per_second), burst_count: number(burst_count) }
    }

    /// The rate; nothing when there is no limit.
    pub fn rate(self) -> Option<Rate> {
        (self.messages_per_second > 0 && self.burst_count > 0)
            .then(|| Rate::new(f64::from(self.messages_per_second), self.burst_count))
    }
}

impl Accounts {
    /// Reads all rates of single users, which are looked up in memory from then on.
    pub async fn load_rates(&self) -> Result<(), AccountError> {
        let rows = self.db.query(&LIST, params![USERS_MAX]).await?;
        let mut rates = HashMap::with_capacity(rows.len());
        for row in &rows {
            let rate = UserRate::new(row.int(1)?, row.int(2)?);
            rates.insert(user_id(row.text(0)?)?, rate);
        }
        *self.user_rates.write() = rates;
        Ok(())
    }

    /// A user's own rate, as it was last read.
    pub fn user_rate(&self, user: &UserId) -> Option<UserRate> {
        self.user_rates.read().get(user).copied()
    }

    /// A user's own rate, as it is stored.
    pub async fn stored_user_rate(&self, user: &UserId) -> Result<Option<UserRate>, AccountError> {
        let row = self.db.query_opt(&ONE, params![user.as_str()]).await?;
        row.map(|row| Ok(UserRate::new(row.int(0)?, row.int(1)?))).transpose()
    }

    /// Gives a user a rate of their own, or everybody's again.
    pub async fn set_user_rate(&self, user: &UserId, rate: Option<UserRate>) -> Result<(), AccountError> {
        let mut batch = Batch::new();
        match rate {
            Some(rate) => batch
                .exec(&SET, params![user.as_str(), i64::from(rate.messages_per_second), i64::from(rate.burst_count)]),
            None => batch.exec(&CLEAR, params![user.as_str()]),
        }
        self.db.commit(batch).await?;
        let mut rates = self.user_rates.write();
        match rate {
            Some(rate) => drop(rates.insert(user.to_owned(), rate)),
            None => drop(rates.remove(user)),
        }
        Ok(())
    }
}
