//! Key backup: versions, and the encrypted room keys in them.

use std::collections::BTreeMap;

use ruma::UserId;
use samtal_db::{Batch, Row, Sql, Value, params, sql};
use serde_json::value::RawValue;

use crate::{E2ee, E2eeError};

/// Backup versions that a user may have at a time. Clients have one, and delete it when they make another.
pub const VERSIONS_MAX: i64 = 100;
/// Room keys that one backup may hold.
pub const SESSIONS_MAX: i64 = 1_000_000;
/// Largest room key, in bytes of its encrypted data.
const SESSION_BYTES_MAX: usize = 16_384;
/// Longest id of a room or session, in bytes (specification, "Common identifier format").
const ID_BYTES_MAX: usize = 255;
/// Largest public data of a version, in bytes.
const AUTH_DATA_BYTES_MAX: usize = 65_536;

const VERSION: Sql = sql!(
    "SELECT version, algorithm, auth_data, etag, sessions FROM key_backup
     WHERE user_id = $1 AND version = $2 AND deleted = 0"
);
const VERSION_CURRENT: Sql = sql!(
    "SELECT version, algorithm, auth_data, etag, sessions FROM key_backup
     WHERE user_id = $1 AND deleted = 0 ORDER BY version DESC LIMIT 1"
);
const VERSIONS_COUNT: Sql = sql!("SELECT COUNT(*) FROM key_backup WHERE user_id = $1 AND deleted = 0");
const VERSION_INSERT: Sql = sql!(
    "INSERT INTO key_backup (user_id, version, algorithm, auth_data, etag, sessions, deleted)
     VALUES ($1, (SELECT COALESCE(MAX(version), 0) + 1 FROM key_backup WHERE user_id = $1), $2, $3, 0, 0, 0)
     RETURNING version"
);
const VERSION_UPDATE: Sql =
    sql!("UPDATE key_backup SET auth_data = $1 WHERE user_id = $2 AND version = $3 AND deleted = 0");
const VERSION_DELETE: Sql =
    sql!("UPDATE key_backup SET deleted = 1, auth_data = '', sessions = 0 WHERE user_id = $1 AND version = $2");
const DELETED_FORGET: Sql = sql!(
    "DELETE FROM key_backup WHERE user_id = $1 AND deleted = 1
        AND version < (SELECT MAX(version) FROM key_backup WHERE user_id = $1)"
);
/// Fails (changes no row) when the version has been changed or deleted since its etag was read.
const VERSION_TOUCH: Sql = sql!(
    "UPDATE key_backup SET etag = etag + 1, sessions = sessions + $1
     WHERE user_id = $2 AND version = $3 AND deleted = 0 AND etag = $4"
);
const SESSION_SET: Sql = sql!(
    "INSERT INTO key_backup_session (user_id, version, room_id, session_id, first_message_index, forwarded_count,
        is_verified, session_data) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
     ON CONFLICT (user_id, version, room_id, session_id) DO UPDATE SET
        first_message_index = excluded.first_message_index, forwarded_count = excluded.forwarded_count,
        is_verified = excluded.is_verified, session_data = excluded.session_data"
);
const SESSIONS_RANKED: Sql = sql!(
    "SELECT session_id, first_message_index, forwarded_count, is_verified FROM key_backup_session
     WHERE user_id = $1 AND version = $2 AND room_id = $3 AND session_id IN list($4)"
);
const SESSIONS: Sql = sql!(
    "SELECT room_id, session_id, first_message_index, forwarded_count, is_verified, session_data
     FROM key_backup_session WHERE user_id = $1 AND version = $2"
);
const SESSIONS_OF_ROOM: Sql = sql!(
    "SELECT room_id, session_id, first_message_index, forwarded_count, is_verified, session_data
     FROM key_backup_session WHERE user_id = $1 AND version = $2 AND room_id = $3"
);
const SESSION: Sql = sql!(
    "SELECT room_id, session_id, first_message_index, forwarded_count, is_verified, session_data
     FROM key_backup_session WHERE user_id = $1 AND version = $2 AND room_id = $3 AND session_id = $4"
);
const SESSIONS_COUNT: Sql = sql!("SELECT COUNT(*) FROM key_backup_session WHERE user_id = $1 AND version = $2");
const SESSIONS_COUNT_OF_ROOM: Sql =
    sql!("SELECT COUNT(*) FROM key_backup_session WHERE user_id = $1 AND version = $2 AND room_id = $3");
const SESSIONS_COUNT_ONE: Sql = sql!(
    "SELECT COUNT(*) FROM key_backup_session WHERE user_id = $1 AND version = $2 AND room_id = $3 AND session_id = $4"
);
const SESSIONS_DELETE: Sql = sql!("DELETE FROM key_backup_session WHERE user_id = $1 AND version = $2");
const SESSIONS_DELETE_OF_ROOM: Sql =
    sql!("DELETE FROM key_backup_session WHERE user_id = $1 AND version = $2 AND room_id = $3");
const SESSION_DELETE: Sql =
    sql!("DELETE FROM key_backup_session WHERE user_id = $1 AND version = $2 AND room_id = $3 AND session_id = $4");
const ALL_DELETE: Sql = sql!("DELETE FROM key_backup_session WHERE user_id = $1");
const VERSIONS_ALL_DELETE: Sql = sql!("DELETE FROM key_backup WHERE user_id = $1");

/// A backup version.
#[derive(Clone, Debug)]
pub struct Version {
    /// Its number: later versions have larger ones.
    pub version: i64,
    /// How its keys are encrypted.
    pub algorithm: String,
    /// What clients need to use it.
    pub auth_data: Box<RawValue>,
    /// Changes whenever its keys change.
    pub etag: i64,
    /// How many keys it holds.
    pub count: i64,
}

/// A room key in a backup.
#[derive(Clone, Debug)]
pub struct Session {
    /// The first message it can decrypt.
    pub first_message_index: i64,
    /// How often it was forwarded between devices.
    pub forwarded_count: i64,
    /// Whether the device that stored it had verified where it came from.
    pub is_verified: bool,
    /// The encrypted key.
    pub session_data: Box<RawValue>,
}

/// Room keys by room and session.
pub type Sessions = BTreeMap<String, BTreeMap<String, Session>>;

/// Which keys of a version are meant.
#[derive(Clone, Copy, Debug)]
pub enum Which<'a> {
    /// All.
    All,
    /// Those of a room.
    Room(&'a str),
    /// One session in a room.
    Session(&'a str, &'a str),
}

/// What a version holds after a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The new etag.
    pub etag: i64,
    /// The number of keys.
    pub count: i64,
}

/// How good a key is; larger is better.
type Rank = (bool, std::cmp::Reverse<i64>, std::cmp::Reverse<i64>);

impl Session {
    /// Verified before unverified, then from earlier on, then forwarded less often (specification, "Backup algorithm").
    fn rank(&self) -> Rank {
        rank(self.is_verified, self.first_message_index, self.forwarded_count)
    }
}

fn rank(is_verified: bool, first_message_index: i64, forwarded_count: i64) -> Rank {
    (is_verified, std::cmp::Reverse(first_message_index), std::cmp::Reverse(forwarded_count))
}

impl E2ee {
    /// Makes a new version, which becomes the current one. A user may have [`VERSIONS_MAX`] at a time.
    pub async fn backup_create(&self, user: &UserId, algorithm: &str, auth_data: &RawValue) -> Result<i64, E2eeError> {
        check_auth_data(auth_data)?;
        let (_, committed) = self
            .attempt(|| async {
                let held = self.db.query_opt(&VERSIONS_COUNT, params![user.as_str()]).await?;
                if held.map_or(Ok(0), |row| row.int(0))? >= VERSIONS_MAX {
                    return Err(E2eeError::TooLarge(format!(
                        "there may be {VERSIONS_MAX} backup versions: delete one"
                    )));
                }
                let mut batch = Batch::new();
                batch.returning(&VERSION_INSERT, params![user.as_str(), algorithm, auth_data.get()]);
                batch.exec(&DELETED_FORGET, params![user.as_str()]);
                Ok(((), batch))
            })
            .await?;
        let rows = committed.map(|committed| committed.rows).unwrap_or_default();
        let row = rows.first().and_then(|rows| rows.first());
        row.map_or(Err(gone()), |row| Ok(row.int(0)?))
    }

    /// A version, or the current one.
    pub async fn backup_version(&self, user: &UserId, version: Option<i64>) -> Result<Option<Version>, E2eeError> {
        let row = match version {
            Some(version) => self.db.query_opt(&VERSION, params![user.as_str(), version]).await?,
            None => self.db.query_opt(&VERSION_CURRENT, params![user.as_str()]).await?,
        };
        row.map(|row| {
            Ok(Version {
                version: row.int(0)?,
                algorithm: row.text(1)?.to_owned(),
                auth_data: raw(&row, 2)?,
                etag: row.int(3)?,
                count: row.int(4)?,
            })
        })
        .transpose()
    }

    /// Replaces a version's public data. The algorithm must stay.
    pub async fn backup_update(
        &self,
        user: &UserId,
        version: i64,
        algorithm: &str,
        auth_data: &RawValue,
    ) -> Result<(), E2eeError> {
        check_auth_data(auth_data)?;
        let stored = self.backup_version(user, Some(version)).await?.ok_or_else(gone)?;
        if stored.algorithm != algorithm {
            return Err(E2eeError::Invalid("the algorithm of a backup version cannot change".to_owned()));
        }
        let mut batch = Batch::new();
        batch.exec(&VERSION_UPDATE, params![auth_data.get(), user.as_str(), version]);
        self.db.commit(batch).await?;
        Ok(())
    }

    /// Deletes a version and its keys. Deleting a deleted one is fine; one that never was is not there.
    pub async fn backup_delete(&self, user: &UserId, version: i64) -> Result<(), E2eeError> {
        self.backup_version(user, Some(version)).await?.ok_or_else(gone)?;
        let mut batch = Batch::new();
        batch.exec(&VERSION_DELETE, params![user.as_str(), version]);
        batch.exec(&SESSIONS_DELETE, params![user.as_str(), version]);
        batch.exec(&DELETED_FORGET, params![user.as_str()]);
        self.db.commit(batch).await?;
        Ok(())
    }

    /// Stores keys in the current version, which must be `version`. A stored key stays unless the new one is better.
    pub async fn backup_put(&self, user: &UserId, version: i64, keys: &Sessions) -> Result<Stored, E2eeError> {
        for id in keys.keys().chain(keys.values().flat_map(BTreeMap::keys)) {
            check_id(id)?;
        }
        for session in keys.values().flat_map(BTreeMap::values) {
            if session.session_data.get().len() > SESSION_BYTES_MAX {
                return Err(E2eeError::TooLarge(format!("a room key may have {SESSION_BYTES_MAX} bytes")));
            }
        }
        let (stored, _) = self
            .attempt(|| async {
                let current = self.backup_version(user, None).await?.ok_or_else(gone)?;
                if current.version != version {
                    return Err(E2eeError::WrongVersion { current: current.version });
                }
                let mut batch = Batch::new();
                let (mut written, mut added) = (0, 0);
                for (room, sessions) in keys {
                    let ranks = self.ranks(user, version, room, sessions).await?;
                    for (id, session) in sessions {
                        let before = ranks.get(id);
                        if before.is_some_and(|before| *before >= session.rank()) {
                            continue;
                        }
                        written += 1;
                        added += i64::from(before.is_none());
                        batch.exec(&SESSION_SET, row_of(user, version, room, id, session));
                    }
                }
                if written == 0 {
                    return Ok((Stored { etag: current.etag, count: current.count }, Batch::new()));
                }
                if current.count + added > SESSIONS_MAX {
                    return Err(E2eeError::TooLarge(format!("a backup may hold {SESSIONS_MAX} room keys")));
                }
                batch.expect(&VERSION_TOUCH, params![added, user.as_str(), version, current.etag], 1);
                Ok((Stored { etag: current.etag + 1, count: current.count + added }, batch))
            })
            .await?;
        Ok(stored)
    }

    async fn ranks(
        &self,
        user: &UserId,
        version: i64,
        room: &str,
        sessions: &BTreeMap<String, Session>,
    ) -> Result<BTreeMap<String, Rank>, E2eeError> {
        let ids: Vec<String> = sessions.keys().cloned().collect();
        let rows = self.db.query(&SESSIONS_RANKED, params![user.as_str(), version, room, ids]).await?;
        rows.iter().map(|row| Ok((row.text(0)?.to_owned(), rank(row.get(3)?, row.int(1)?, row.int(2)?)))).collect()
    }

    /// Keys of a version, which must exist.
    pub async fn backup_get(&self, user: &UserId, version: i64, which: Which<'_>) -> Result<Sessions, E2eeError> {
        self.backup_version(user, Some(version)).await?.ok_or_else(gone)?;
        let rows = match which {
            Which::All => self.db.scan(&SESSIONS, params![user.as_str(), version]).await?,
            Which::Room(room) => self.db.scan(&SESSIONS_OF_ROOM, params![user.as_str(), version, room]).await?,
            Which::Session(room, session) => {
                self.db.query(&SESSION, params![user.as_str(), version, room, session]).await?
            }
        };
        let mut keys = Sessions::new();
        for row in &rows {
            let session = Session {
                first_message_index: row.int(2)?,
                forwarded_count: row.int(3)?,
                is_verified: row.get(4)?,
                session_data: raw(row, 5)?,
            };
            keys.entry(row.text(0)?.to_owned()).or_default().insert(row.text(1)?.to_owned(), session);
        }
        Ok(keys)
    }

    /// Deletes keys of a version, which must exist.
    pub async fn backup_remove(&self, user: &UserId, version: i64, which: Which<'_>) -> Result<Stored, E2eeError> {
        let (count, delete, params) = match which {
            Which::All => (&SESSIONS_COUNT, &SESSIONS_DELETE, params![user.as_str(), version]),
            Which::Room(room) => {
                (&SESSIONS_COUNT_OF_ROOM, &SESSIONS_DELETE_OF_ROOM, params![user.as_str(), version, room])
            }
            Which::Session(room, session) => {
                (&SESSIONS_COUNT_ONE, &SESSION_DELETE, params![user.as_str(), version, room, session])
            }
        };
        let (stored, _) = self
            .attempt(|| async {
                let before = self.backup_version(user, Some(version)).await?.ok_or_else(gone)?;
                let gone = self.db.query_opt(count, params.clone()).await?.map_or(Ok(0), |row| row.int(0))?;
                let mut batch = Batch::new();
                if gone == 0 {
                    return Ok((Stored { etag: before.etag, count: before.count }, batch));
                }
                batch.exec(delete, params.clone());
                batch.expect(&VERSION_TOUCH, params![-gone, user.as_str(), version, before.etag], 1);
                Ok((Stored { etag: before.etag + 1, count: before.count - gone }, batch))
            })
            .await?;
        Ok(stored)
    }

    /// Adds to the batch the deletion of all backups of a user.
    pub(crate) fn backups_delete(&self, batch: &mut Batch, user: &UserId) {
        batch.exec(&ALL_DELETE, params![user.as_str()]);
        batch.exec(&VERSIONS_ALL_DELETE, params![user.as_str()]);
    }
}

fn row_of(user: &UserId, version: i64, room: &str, id: &str, session: &Session) -> Vec<Value> {
    params![
        user.as_str(),
        version,
        room,
        id,
        session.first_message_index,
        session.forwarded_count,
        session.is_verified,
        session.session_data.get(),
    ]
}

fn raw(row: &Row, column: usize) -> Result<Box<RawValue>, E2eeError> {
    RawValue::from_string(row.text(column)?.to_owned())
        .map_err(|_| E2eeError::NotFound("the stored backup cannot be read".to_owned()))
}

fn check_auth_data(auth_data: &RawValue) -> Result<(), E2eeError> {
    if auth_data.get().len() > AUTH_DATA_BYTES_MAX {
        return Err(E2eeError::TooLarge(format!("auth_data may have {AUTH_DATA_BYTES_MAX} bytes")));
    }
    Ok(())
}

/// The id of a room or session, which is a part of the key's own: PostgreSQL keeps no NUL, and two would become one there.
fn check_id(id: &str) -> Result<(), E2eeError> {
    if id.contains('\0') {
        return Err(E2eeError::Invalid("the id of a room or session holds a NUL character".to_owned()));
    }
    if id.len() > ID_BYTES_MAX {
        return Err(E2eeError::TooLarge(format!("the id of a room or session may have {ID_BYTES_MAX} bytes")));
    }
    Ok(())
}

fn gone() -> E2eeError {
    E2eeError::NotFound("no such backup version".to_owned())
}
