//! Account data: what a user's clients keep here for each other, for all rooms or for one.
//!
//! An empty object is the same as nothing (MSC3391): it is told to those who sync from before, and not there otherwise.

use std::collections::HashSet;

use ruma::{OwnedUserId, RoomId, UserId};
use samtal_db::{Batch, Change, Row, Sql, params, sql};
use samtal_model::ChangeKind;
use serde_json::{Value, value::RawValue};

use crate::{AccountError, Accounts};

/// Longest content of one type, in bytes.
pub const DATA_BYTES_MAX: usize = 512 * 1024;

/// Longest name of a type, in bytes.
pub const DATA_TYPE_BYTES_MAX: usize = 255;

/// Most types that a user may have, in all rooms together.
pub(crate) const DATA_TYPES_MAX: i64 = 20_000;

/// The type of push rules.
pub const PUSH_RULES: &str = "m.push_rules";

/// The content of what has been deleted.
const DELETED: &str = "{}";

/// Stands for all rooms in the table.
const GLOBAL: &str = "";

/// One piece of account data.
#[derive(Clone, Debug)]
pub struct AccountData {
    /// The room; nothing for all.
    pub room_id: Option<String>,
    /// The type.
    pub data_type: String,
    /// The content: a JSON object.
    pub content: Box<RawValue>,
}

const DATA: Sql = sql!("SELECT content, position FROM account_data WHERE user_id = $1 AND room_id = $2 AND type = $3");
const DATA_CHANGED: Sql = sql!(
    "SELECT room_id, type, content FROM account_data
     WHERE user_id = $1 AND position > $2 AND position <= $3 AND room_id = ''
     ORDER BY position"
);
const ROOM_DATA_CHANGED: Sql = sql!(
    "SELECT room_id, type, content FROM account_data
     WHERE user_id = $1 AND position > $2 AND position <= $3 AND room_id <> ''
     ORDER BY position"
);
const ROOM_DATA: Sql =
    sql!("SELECT room_id, type, content FROM account_data WHERE user_id = $1 AND room_id = $2 ORDER BY type");
const DATA_DELETE: Sql = sql!(
    "UPDATE account_data SET content = '{}', position = $1
     WHERE user_id = $2 AND room_id = $3 AND type = $4 AND content <> '{}'"
);
const DATA_COUNT: Sql = sql!("SELECT COUNT(*) FROM account_data WHERE user_id = $1");
const DATA_SET: Sql = sql!(
    "INSERT INTO account_data (user_id, room_id, type, content, position) VALUES ($1, $2, $3, $4, $5)
     ON CONFLICT (user_id, room_id, type) DO UPDATE SET content = excluded.content, position = excluded.position"
);
const DATA_INSERT: Sql =
    sql!("INSERT INTO account_data (user_id, room_id, type, content, position) VALUES ($1, $2, $3, $4, $5)");
const DATA_UPDATE: Sql = sql!(
    "UPDATE account_data SET content = $1, position = $2
     WHERE user_id = $3 AND room_id = $4 AND type = $5 AND position = $6"
);

impl AccountData {
    fn from_row(row: &Row) -> Result<Self, AccountError> {
        let room: String = row.get(0)?;
        Ok(Self {
            room_id: Some(room).filter(|room| room != GLOBAL),
            data_type: row.get(1)?,
            content: raw(row.text(2)?)?,
        })
    }
}

fn raw(text: &str) -> Result<Box<RawValue>, AccountError> {
    RawValue::from_string(text.to_owned()).map_err(|error| AccountError::Corrupt("account data", Some(error)))
}

impl Accounts {
    /// The content of one type, for all rooms or for one. Push rules are there before anybody has set them.
    pub async fn account_data(
        &self,
        user: &UserId,
        room: Option<&RoomId>,
        data_type: &str,
    ) -> Result<Option<Box<RawValue>>, AccountError> {
        let row =
            self.db.query_opt(&DATA, params![user.as_str(), room.map_or(GLOBAL, RoomId::as_str), data_type]).await?;
        match row {
            Some(row) if row.text(0)? == DELETED => Ok(None),
            Some(row) => raw(row.text(0)?).map(Some),
            None if room.is_none() && data_type == PUSH_RULES => default_push_rules(user).map(Some),
            None => Ok(None),
        }
    }

    /// Sets the content of one type, for all rooms or for one.
    pub async fn set_account_data(
        &self,
        user: &UserId,
        room: Option<&RoomId>,
        data_type: &str,
        content: &RawValue,
    ) -> Result<(), AccountError> {
        if data_type.len() > DATA_TYPE_BYTES_MAX {
            return Err(AccountError::Invalid(format!("A type has at most {DATA_TYPE_BYTES_MAX} bytes")));
        }
        if content.get().len() > DATA_BYTES_MAX {
            return Err(AccountError::TooLarge("The account data is too large"));
        }
        let room_id = room.map_or(GLOBAL, RoomId::as_str);
        let is_empty = content.get().strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        if is_empty.is_some_and(|inner| inner.trim().is_empty()) {
            return self.delete_account_data(user, room, data_type).await;
        }
        if self.db.query_opt(&DATA, params![user.as_str(), room_id, data_type]).await?.is_none() {
            let count = self.db.query_opt(&DATA_COUNT, params![user.as_str()]).await?;
            if count.map_or(Ok(0), |row| row.int(0))? >= DATA_TYPES_MAX {
                return Err(AccountError::TooLarge("There is too much account data"));
            }
        }
        let mut batch = Batch::new();
        let position = batch.log(change(user, room, data_type));
        batch.exec(&DATA_SET, params![user.as_str(), room_id, data_type, content.get(), position]);
        self.db.commit(batch).await?;
        Ok(())
    }

    /// Deletes one type, for all rooms or for one, if it is there.
    pub async fn delete_account_data(
        &self,
        user: &UserId,
        room: Option<&RoomId>,
        data_type: &str,
    ) -> Result<(), AccountError> {
        let room_id = room.map_or(GLOBAL, RoomId::as_str);
        let Some(row) = self.db.query_opt(&DATA, params![user.as_str(), room_id, data_type]).await? else {
            return Ok(());
        };
        if row.text(0)? == DELETED {
            return Ok(());
        }
        let mut batch = Batch::new();
        self.data_delete(&mut batch, user, room, data_type);
        self.db.commit(batch).await?;
        Ok(())
    }

    /// The write by which one type is deleted.
    pub(crate) fn data_delete(&self, batch: &mut Batch, user: &UserId, room: Option<&RoomId>, data_type: &str) {
        let room_id = room.map_or(GLOBAL, RoomId::as_str);
        let position = batch.log(change(user, room, data_type));
        batch.exec(&DATA_DELETE, params![position, user.as_str(), room_id, data_type]);
    }

    /// Reads, changes and writes one type; again when another write came between. `edit` gets `None` where there was
    /// nothing, and answers nothing when nothing is to be written.
    pub async fn edit_account_data<T>(
        &self,
        user: &UserId,
        room: Option<&RoomId>,
        data_type: &str,
        mut edit: impl FnMut(Option<Value>) -> Result<(Option<Value>, T), AccountError>,
    ) -> Result<T, AccountError> {
        let room_id = room.map_or(GLOBAL, RoomId::as_str);
        let mut tries = 0;
        loop {
            let row = self.db.query_opt(&DATA, params![user.as_str(), room_id, data_type]).await?;
            let before = row.as_ref().map(|row| {
                serde_json::from_str(row.text(0)?).map_err(|error| AccountError::Corrupt("account data", Some(error)))
            });
            let (after, answer) = edit(before.transpose()?)?;
            let Some(after) = after else { return Ok(answer) };
            let after = after.to_string();
            if after.len() > DATA_BYTES_MAX {
                return Err(AccountError::TooLarge("The account data is too large"));
            }
            let mut batch = Batch::new();
            let position = batch.log(change(user, room, data_type));
            match row {
                Some(row) => {
                    let seen = row.int(1)?;
                    batch.expect(&DATA_UPDATE, params![after, position, user.as_str(), room_id, data_type, seen], 1);
                }
                None => batch.expect(&DATA_INSERT, params![user.as_str(), room_id, data_type, after, position], 1),
            }
            match self.db.commit(batch).await {
                Ok(_) => return Ok(answer),
                Err(error) if error.is_conflict() && tries < 10 => tries += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Account data for all rooms that changed after `since` and up to `until`, in order. From the beginning on, the
    /// default push rules are among them.
    pub async fn account_data_changed(
        &self,
        user: &UserId,
        since: i64,
        until: i64,
    ) -> Result<Vec<AccountData>, AccountError> {
        let mut changed: Vec<AccountData> = self
            .db
            .query(&DATA_CHANGED, params![user.as_str(), since, until])
            .await?
            .iter()
            .map(AccountData::from_row)
            .collect::<Result<_, _>>()?;
        if since <= 0 {
            changed.retain(|data| data.content.get() != DELETED);
        }
        if since <= 0 && !changed.iter().any(|data| data.data_type == PUSH_RULES) {
            changed.push(AccountData {
                room_id: None,
                data_type: PUSH_RULES.to_owned(),
                content: default_push_rules(user)?,
            });
        }
        Ok(changed)
    }

    /// Account data for single rooms that changed after `since` and up to `until`, in order.
    pub async fn room_account_data_changed(
        &self,
        user: &UserId,
        since: i64,
        until: i64,
    ) -> Result<Vec<AccountData>, AccountError> {
        self.db
            .query(&ROOM_DATA_CHANGED, params![user.as_str(), since, until])
            .await?
            .iter()
            .map(AccountData::from_row)
            .collect()
    }

    /// All account data for one room.
    pub async fn room_account_data(&self, user: &UserId, room: &RoomId) -> Result<Vec<AccountData>, AccountError> {
        let rows = self.db.query(&ROOM_DATA, params![user.as_str(), room.as_str()]).await?;
        let mut data: Vec<AccountData> = rows.iter().map(AccountData::from_row).collect::<Result<_, _>>()?;
        data.retain(|data| data.content.get() != DELETED);
        Ok(data)
    }

    /// Those whom the user does not want to hear.
    pub async fn ignored(&self, user: &UserId) -> Result<HashSet<OwnedUserId>, AccountError> {
        let Some(content) = self.account_data(user, None, "m.ignored_user_list").await? else {
            return Ok(HashSet::new());
        };
        // A client may have written anything here.
        let content: Value = serde_json::from_str(content.get()).unwrap_or_default();
        let Some(ignored) = content.get("ignored_users").and_then(Value::as_object) else { return Ok(HashSet::new()) };
        Ok(ignored.keys().filter_map(|user| UserId::parse(user.as_str()).ok()).collect())
    }
}

fn change(user: &UserId, room: Option<&RoomId>, data_type: &str) -> Change {
    match room {
        Some(room) => Change::new(ChangeKind::RoomAccountData).user(user).room(room).reference(data_type),
        None => Change::new(ChangeKind::AccountData).user(user).reference(data_type),
    }
}

fn default_push_rules(user: &UserId) -> Result<Box<RawValue>, AccountError> {
    serde_json::value::to_raw_value(&serde_json::json!({ "global": crate::push_rules::server_default(user) }))
        .map_err(|error| AccountError::Corrupt("push rules", Some(error)))
}
