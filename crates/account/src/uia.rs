//! Sessions of user-interactive authentication: what somebody wants to do, and what they have proven so far.

use std::collections::BTreeMap;

use ruma::{OwnedUserId, UserId};
use samtal_db::{Batch, Sql, params, sql};
use samtal_kit::signed_ms;
use serde_json::Value;

use crate::{AccountError, Accounts, user::user_id};

/// A session of user-interactive authentication.
#[derive(Clone, Debug)]
pub struct UiaSession {
    /// Its id.
    pub id: String,
    /// The endpoint that it is bound to.
    pub endpoint: String,
    /// The user that it is bound to.
    pub user_id: Option<OwnedUserId>,
    /// A hash of what the user wants to do there.
    pub intent: Vec<u8>,
    /// The first request's body without `auth`, as JSON text: clients may leave it out later.
    pub body: String,
    /// The stages that are done, with what came of them.
    pub completed: BTreeMap<String, Value>,
}

const UIA: Sql =
    sql!("SELECT endpoint, user_id, intent, body, completed FROM account_uia WHERE session = $1 AND created_ms > $2");
const UIA_INSERT: Sql = sql!(
    "INSERT INTO account_uia (session, endpoint, user_id, intent, body, completed, created_ms)
     VALUES ($1, $2, $3, $4, $5, $6, $7)"
);
const UIA_UPDATE: Sql = sql!("UPDATE account_uia SET intent = $1, body = $2, completed = $3 WHERE session = $4");
const UIA_SWEEP: Sql = sql!("DELETE FROM account_uia WHERE created_ms < $1");
const UIA_DELETE: Sql = sql!("DELETE FROM account_uia WHERE session = $1");

impl Accounts {
    /// Begins a session.
    pub async fn uia_begin(
        &self,
        endpoint: &str,
        user: Option<&UserId>,
        intent: Vec<u8>,
        body: String,
    ) -> Result<UiaSession, AccountError> {
        let id = self.random.alphanumeric(24);
        let mut batch = Batch::new();
        batch.exec(&UIA_SWEEP, params![self.uia_horizon()]);
        batch.expect(
            &UIA_INSERT,
            params![id.as_str(), endpoint, user.map(|user| user.as_str()), &intent, body.as_str(), "{}", self.now()],
            1,
        );
        self.db.commit(batch).await?;
        Ok(UiaSession {
            id,
            endpoint: endpoint.to_owned(),
            user_id: user.map(ToOwned::to_owned),
            intent,
            body,
            completed: BTreeMap::new(),
        })
    }

    /// The session, while it lasts.
    pub async fn uia(&self, id: &str) -> Result<Option<UiaSession>, AccountError> {
        if id.contains('\0') {
            return Ok(None);
        }
        let Some(row) = self.db.query_opt(&UIA, params![id, self.uia_horizon()]).await? else { return Ok(None) };
        Ok(Some(UiaSession {
            id: id.to_owned(),
            endpoint: row.get(0)?,
            user_id: row.opt_text(1)?.map(user_id).transpose()?,
            intent: row.get(2)?,
            body: row.get(3)?,
            completed: serde_json::from_str(row.text(4)?)
                .map_err(|error| AccountError::Corrupt("authentication session", Some(error)))?,
        }))
    }

    /// Keeps what has changed in the session.
    pub async fn uia_save(&self, session: &UiaSession) -> Result<(), AccountError> {
        let completed = serde_json::to_string(&session.completed)
            .map_err(|error| AccountError::Corrupt("authentication session", Some(error)))?;
        let mut batch = Batch::new();
        batch.exec(&UIA_UPDATE, params![&session.intent, session.body.as_str(), completed, session.id.as_str()]);
        self.db.commit(batch).await?;
        Ok(())
    }

    /// Ends the session.
    pub async fn uia_end(&self, id: &str) -> Result<(), AccountError> {
        let mut batch = Batch::new();
        batch.exec(&UIA_DELETE, params![id]);
        self.db.commit(batch).await?;
        Ok(())
    }

    fn uia_horizon(&self) -> i64 {
        self.now().saturating_sub(signed_ms(self.options().uia_ms))
    }
}
