//! Profiles: what a user says of themselves.

use std::collections::BTreeMap;

use ruma::UserId;
use samtal_db::{Batch, Change, Sql, params, sql};
use samtal_model::ChangeKind;
use serde_json::Value;

use crate::{AccountError, Accounts};

/// Longest profile, in bytes of canonical JSON.
pub const PROFILE_BYTES_MAX: usize = 64 * 1024;

/// Longest name of a profile field, in bytes.
pub const FIELD_NAME_BYTES_MAX: usize = 255;

/// Longest display name and avatar URL, in bytes; they are repeated in every room.
pub const SHORT_FIELD_BYTES_MAX: usize = 1000;

const PROFILE: Sql = sql!("SELECT field, value FROM account_profile WHERE user_id = $1");
const FIELD_SET: Sql = sql!(
    "INSERT INTO account_profile (user_id, field, value, position) VALUES ($1, $2, $3, $4)
     ON CONFLICT (user_id, field) DO UPDATE SET value = excluded.value, position = excluded.position"
);
const FIELD_DELETE: Sql = sql!("DELETE FROM account_profile WHERE user_id = $1 AND field = $2");

impl Accounts {
    /// The profile of a user of ours: field names and values.
    pub async fn profile(&self, user: &UserId) -> Result<BTreeMap<String, Value>, AccountError> {
        self.db
            .query(&PROFILE, params![user.as_str()])
            .await?
            .iter()
            .map(|row| Ok((row.get(0)?, value(row.text(1)?)?)))
            .collect()
    }

    /// Sets a field, or removes it when there is no value. Whether something changed. Rooms learn of it by
    /// `samtal_ops::Homeserver::update_profile`.
    pub async fn set_profile_field(
        &self,
        user: &UserId,
        field: &str,
        value: Option<&Value>,
    ) -> Result<bool, AccountError> {
        check(field, value)?;
        let mut profile = self.profile(user).await?;
        if profile.get(field) == value {
            return Ok(false);
        }
        let mut batch = Batch::new();
        match value {
            Some(value) => {
                profile.insert(field.to_owned(), value.clone());
                let bytes = serde_json::to_string(&profile)
                    .map_err(|error| AccountError::Corrupt("profile", Some(error)))?
                    .len();
                if bytes > PROFILE_BYTES_MAX {
                    return Err(AccountError::ProfileTooLarge);
                }
                self.profile_write(&mut batch, user, field, value);
            }
            None => {
                batch.log(Change::new(ChangeKind::Profile).user(user).reference(field));
                batch.exec(&FIELD_DELETE, params![user.as_str(), field]);
            }
        }
        self.db.commit(batch).await?;
        Ok(true)
    }

    pub(crate) fn profile_write(&self, batch: &mut Batch, user: &UserId, field: &str, value: &Value) {
        let position = batch.log(Change::new(ChangeKind::Profile).user(user).reference(field));
        batch.exec(&FIELD_SET, params![user.as_str(), field, value.to_string(), position]);
    }
}

fn value(text: &str) -> Result<Value, AccountError> {
    serde_json::from_str(text).map_err(|error| AccountError::Corrupt("profile", Some(error)))
}

/// Checks the field's name against the grammar of namespaced identifiers, and the two old fields' values.
fn check(field: &str, value: Option<&Value>) -> Result<(), AccountError> {
    if field.len() > FIELD_NAME_BYTES_MAX {
        return Err(AccountError::KeyTooLarge);
    }
    let grammatical = field.starts_with(|first: char| first.is_ascii_lowercase())
        && field.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte));
    if !grammatical {
        return Err(AccountError::Invalid(
            "A profile field's name begins with a-z and holds a-z, 0-9 and -_. only".to_owned(),
        ));
    }
    if let (true, Some(value)) = (matches!(field, "displayname" | "avatar_url"), value) {
        let Value::String(text) = value else {
            return Err(AccountError::BadValue(format!("{field} must be a string")));
        };
        if text.len() > SHORT_FIELD_BYTES_MAX {
            return Err(AccountError::Invalid(format!("{field} has more than {SHORT_FIELD_BYTES_MAX} bytes")));
        }
    }
    Ok(())
}
