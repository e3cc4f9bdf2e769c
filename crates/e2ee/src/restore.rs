//! After a backup was put back: keys that may have been given out since then are given out no more.

use samtal_db::{Batch, Sql, params, sql};

use crate::{E2ee, E2eeError};

const UNCLAIMED: Sql = sql!("SELECT COUNT(*) FROM one_time_key WHERE claimed_ms = 0");
const FORGET: Sql = sql!("DELETE FROM one_time_key WHERE claimed_ms = 0");

impl E2ee {
    /// Deletes all one-time keys that could still be claimed. A backup does not know which of them were claimed after it was
    /// made; one given out twice makes a message that nobody can read. Clients see that none are left, and upload others.
    /// How many they were.
    pub async fn forget_one_time_keys(&self) -> Result<i64, E2eeError> {
        let count = self.db.query_opt(&UNCLAIMED, params![]).await?.map_or(Ok(0), |row| row.int(0))?;
        let mut batch = Batch::new();
        batch.exec(&FORGET, params![]);
        self.db.commit(batch).await?;
        Ok(count)
    }
}
