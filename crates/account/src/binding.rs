//! Which identity servers have been told that an address is a user's, so that they can be told when it no longer is.

use ruma::UserId;
use samtal_db::{Batch, Sql, params, sql};

use crate::{AccountError, Accounts};

/// Most bindings that one user may have.
const BINDINGS_MAX: i64 = 100;

/// An address that an identity server gives out as a user's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// `email` or `msisdn`.
    pub medium: String,
    /// The address, as the identity server wrote it.
    pub address: String,
    /// The identity server's name.
    pub id_server: String,
}

const BINDINGS: Sql = sql!(
    "SELECT medium, address, id_server FROM account_binding WHERE user_id = $1 ORDER BY medium, address, id_server"
);
const BINDING_COUNT: Sql = sql!("SELECT COUNT(*) FROM account_binding WHERE user_id = $1");
const BINDING_SET: Sql = sql!(
    "INSERT INTO account_binding (user_id, medium, address, id_server) VALUES ($1, $2, $3, $4)
     ON CONFLICT (user_id, medium, address, id_server) DO NOTHING"
);
const BINDING_DELETE: Sql =
    sql!("DELETE FROM account_binding WHERE user_id = $1 AND medium = $2 AND address = $3 AND id_server = $4");

impl Accounts {
    /// What identity servers give out as the user's.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn bindings(&self, user: &UserId) -> Result<Vec<Binding>, AccountError> {
        let rows = self.db.query(&BINDINGS, params![user.as_str()]).await?;
        rows.iter()
            .map(|row| Ok(Binding { medium: row.get(0)?, address: row.get(1)?, id_server: row.get(2)? }))
            .collect()
    }

    /// Notes a binding. Beyond a hundred of one user they are not noted any more, and have to be taken back by naming the
    /// identity server.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn add_binding(&self, user: &UserId, binding: &Binding) -> Result<(), AccountError> {
        let count = self.db.query_opt(&BINDING_COUNT, params![user.as_str()]).await?;
        if count.map(|row| row.int(0)).transpose()?.unwrap_or_default() >= BINDINGS_MAX {
            return Ok(());
        }
        let Binding { medium, address, id_server } = binding;
        let mut batch = Batch::new();
        batch.exec(&BINDING_SET, params![user.as_str(), medium.as_str(), address.as_str(), id_server.as_str()]);
        self.db.commit(batch).await?;
        Ok(())
    }

    /// Forgets a binding.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn delete_binding(&self, user: &UserId, binding: &Binding) -> Result<(), AccountError> {
        let Binding { medium, address, id_server } = binding;
        let mut batch = Batch::new();
        batch.exec(&BINDING_DELETE, params![user.as_str(), medium.as_str(), address.as_str(), id_server.as_str()]);
        self.db.commit(batch).await?;
        Ok(())
    }
}
