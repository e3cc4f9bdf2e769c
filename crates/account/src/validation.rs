//! Showing that a mail address is one's own: a link is sent to it.

use samtal_db::{Batch, Sql, params, sql};
use samtal_kit::secret::constant_time_eq;

use crate::{AccountError, Accounts};

/// How long a link in a mail is good, and how long what it proved.
const VALIDATION_MS: i64 = 24 * 3_600_000;

/// Longest mail address, in bytes.
const ADDRESS_BYTES_MAX: usize = 500;

/// What an address is shown for. What was shown for one purpose is not good for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To register with it.
    Register,
    /// To get a new password.
    Password,
    /// To add it to one's account.
    Add,
}

impl Purpose {
    fn code(self) -> i64 {
        match self {
            Self::Register => 0,
            Self::Password => 1,
            Self::Add => 2,
        }
    }
}

/// A validation that has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begun {
    /// Its id.
    pub sid: String,
    /// What the link in the mail must hold; nothing when the mail has been sent already.
    pub token: Option<String>,
}

const VALIDATION: Sql = sql!(
    "SELECT sid, token, attempt FROM account_validation
     WHERE address = $1 AND secret = $2 AND purpose = $3 AND created_ms > $4"
);
const VALIDATION_INSERT: Sql = sql!(
    "INSERT INTO account_validation (sid, address, secret, purpose, token, attempt, next_link, created_ms)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"
);
const VALIDATION_ATTEMPT: Sql = sql!("UPDATE account_validation SET attempt = $1, next_link = $2 WHERE sid = $3");
const VALIDATION_SWEEP: Sql = sql!("DELETE FROM account_validation WHERE created_ms <= $1");
const VALIDATION_BY_SID: Sql =
    sql!("SELECT secret, token, next_link FROM account_validation WHERE sid = $1 AND created_ms > $2");
const PURPOSE: Sql = sql!("SELECT purpose FROM account_validation WHERE sid = $1");
const VALIDATED: Sql = sql!("UPDATE account_validation SET validated_ms = $1 WHERE sid = $2");
const ADDRESS: Sql = sql!(
    "SELECT address FROM account_validation
     WHERE sid = $1 AND secret = $2 AND purpose = $3 AND validated_ms > $4"
);

/// Checks a secret that a client chose for a validation.
pub fn check_client_secret(secret: &str) -> Result<(), AccountError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".=_-".contains(&byte);
    if (1..=255).contains(&secret.len()) && secret.bytes().all(allowed) {
        Ok(())
    } else {
        Err(AccountError::Invalid("client_secret has 1 to 255 of the characters 0-9 a-z A-Z . = _ -".to_owned()))
    }
}

/// A mail address as it is kept: in lower case.
pub fn mail_address(text: &str) -> Result<String, AccountError> {
    let address = text.trim().to_lowercase();
    let well_formed = address.len() <= ADDRESS_BYTES_MAX
        && address
            .split_once('@')
            .is_some_and(|(user, host)| !user.is_empty() && !host.is_empty() && !host.contains('@'))
        && !address.contains(|letter: char| letter.is_whitespace() || letter.is_control());
    if well_formed { Ok(address) } else { Err(AccountError::Invalid("This is not a mail address".to_owned())) }
}

impl Accounts {
    /// Begins to validate an address; or goes on, when the client asks again. A mail is sent again only for a larger
    /// `attempt`.
    pub async fn begin_validation(
        &self,
        address: &str,
        secret: &str,
        attempt: i64,
        purpose: Purpose,
        next_link: Option<&str>,
    ) -> Result<Begun, AccountError> {
        let horizon = self.now() - VALIDATION_MS;
        let mut batch = Batch::new();
        let known = self.db.query_opt(&VALIDATION, params![address, secret, purpose.code(), horizon]).await?;
        let begun = match known {
            Some(row) => {
                let sid: String = row.get(0)?;
                if row.int(2)? >= attempt {
                    return Ok(Begun { sid, token: None });
                }
                batch.exec(&VALIDATION_ATTEMPT, params![attempt, next_link, sid.as_str()]);
                Begun { sid, token: Some(row.get(1)?) }
            }
            None => {
                let (sid, token) = (self.random.alphanumeric(16), self.random.alphanumeric(32));
                batch.exec(&VALIDATION_SWEEP, params![horizon]);
                batch.expect(
                    &VALIDATION_INSERT,
                    params![
                        sid.as_str(),
                        address,
                        secret,
                        purpose.code(),
                        token.as_str(),
                        attempt,
                        next_link,
                        self.now()
                    ],
                    1,
                );
                Begun { sid, token: Some(token) }
            }
        };
        self.db.commit(batch).await?;
        Ok(begun)
    }

    /// What the validation was begun for.
    pub async fn validation_purpose(&self, sid: &str) -> Result<Option<Purpose>, AccountError> {
        if sid.contains('\0') {
            return Ok(None);
        }
        let Some(row) = self.db.query_opt(&PURPOSE, params![sid]).await? else { return Ok(None) };
        let code = row.int(0)?;
        Ok([Purpose::Register, Purpose::Password, Purpose::Add].into_iter().find(|purpose| purpose.code() == code))
    }

    /// Somebody has followed the link in the mail. Answers where they want to go from here; nothing is known of a link that
    /// was not sent, or long ago.
    pub async fn validate(&self, sid: &str, secret: &str, token: &str) -> Result<Option<Option<String>>, AccountError> {
        if sid.contains('\0') {
            return Ok(None);
        }
        let row = self.db.query_opt(&VALIDATION_BY_SID, params![sid, self.now() - VALIDATION_MS]).await?;
        let Some(row) = row else { return Ok(None) };
        let same = |column: usize, shown: &str| {
            row.text(column).map(|kept| constant_time_eq(kept.as_bytes(), shown.as_bytes()))
        };
        if !same(0, secret)? || !same(1, token)? {
            return Ok(None);
        }
        let mut batch = Batch::new();
        batch.exec(&VALIDATED, params![self.now(), sid]);
        self.db.commit(batch).await?;
        Ok(Some(row.get(2)?))
    }

    /// The address that has been shown to belong to whoever knows the secret.
    pub async fn validated_address(
        &self,
        sid: &str,
        secret: &str,
        purpose: Purpose,
    ) -> Result<Option<String>, AccountError> {
        if sid.contains('\0') || secret.contains('\0') {
            return Ok(None);
        }
        let since = self.now() - VALIDATION_MS;
        let row = self.db.query_opt(&ADDRESS, params![sid, secret, purpose.code(), since]).await?;
        row.map(|row| row.get(0)).transpose().map_err(Into::into)
    }
}
