//! The log of changed device lists: for syncs (who changed) and for other servers (what changed).

use ruma::{DeviceId, OwnedUserId, UserId};
use samtal_db::{Batch, Change, Row, Sql, Value, params, sql};
use samtal_model::ChangeKind;

use crate::{E2ee, E2eeError, JsonObject, engine::stored_object};

/// Changes kept of each user. Another server that missed more asks for the whole list.
const CHANGES_PER_USER: i64 = 20;

const CHANGE_INSERT: Sql =
    sql!("INSERT INTO device_list_change (position, user_id, device_id, viewer) VALUES ($1, $2, $3, $4)");
const CHANGE_PRUNE: Sql = sql!(
    "DELETE FROM device_list_change WHERE user_id = $1 AND viewer IS NULL AND position < COALESCE(
        (SELECT position FROM device_list_change WHERE user_id = $1 AND viewer IS NULL
         ORDER BY position DESC LIMIT 1 OFFSET $2), 0)"
);
const CHANGE_FORGET_VIEW: Sql = sql!("DELETE FROM device_list_change WHERE user_id = $1 AND viewer = $2");
const USERS_CHANGED: Sql = sql!(
    "SELECT DISTINCT user_id FROM device_list_change
     WHERE position > $1 AND position <= $2 AND (viewer IS NULL OR viewer = $3)"
);
const CHANGE_AT: Sql = sql!("SELECT user_id, device_id FROM device_list_change WHERE position = $1 AND viewer IS NULL");
/// Other servers know no number of changes of cross-signing keys.
const CHANGE_BEFORE: Sql = sql!(
    "SELECT MAX(position) FROM device_list_change
     WHERE user_id = $1 AND position < $2 AND viewer IS NULL AND device_id IS NOT NULL"
);
const CHANGE_LAST: Sql = sql!("SELECT MAX(position) FROM device_list_change WHERE user_id = $1 AND viewer IS NULL");
const DEVICE_KEY: Sql = sql!("SELECT keys_json FROM device_key WHERE user_id = $1 AND device_id = $2");

/// A change of a user's devices, as `m.device_list_update` and `m.signing_key_update` say it to other servers.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceUpdate {
    /// Whose.
    pub user: OwnedUserId,
    /// Which device; nothing when the cross-signing keys changed.
    pub device_id: Option<String>,
    /// The change's id, growing.
    pub stream_id: i64,
    /// The change before it, unless none is remembered.
    pub prev_id: Option<i64>,
    /// The device's keys with the owner's signatures, if it has any.
    pub keys: Option<JsonObject>,
}

/// Adds to the batch that the user's device list changed: `device` for one device, nothing for cross-signing keys. The
/// answer stands for the position of the change.
pub fn log_change(batch: &mut Batch, user: &UserId, device: Option<&DeviceId>) -> Value {
    let mut change = Change::new(ChangeKind::DeviceList).user(user);
    if let Some(device) = device {
        change = change.reference(device);
    }
    let position = batch.log(change);
    batch.exec(
        &CHANGE_INSERT,
        vec![position.clone(), user.as_str().into(), device.map(DeviceId::as_str).into(), Value::Null],
    );
    batch.exec(&CHANGE_PRUNE, params![user.as_str(), CHANGES_PER_USER]);
    position
}

/// As [`log_change`], for a change that only `viewer` sees: a signature of theirs on `user`'s master key.
pub(crate) fn log_view_change(batch: &mut Batch, user: &UserId, viewer: &UserId) -> Value {
    let position = batch.log(Change::new(ChangeKind::DeviceList).user(viewer));
    batch.exec(&CHANGE_FORGET_VIEW, params![user.as_str(), viewer.as_str()]);
    batch.exec(&CHANGE_INSERT, vec![position.clone(), user.as_str().into(), Value::Null, viewer.as_str().into()]);
    position
}

impl E2ee {
    /// Users whose devices or cross-signing keys changed after `since` and not after `until`, as far as `viewer` may see
    /// such changes at all. The caller keeps those who share a room with `viewer`, and `viewer` themself.
    ///
    /// For spans that end long ago users may be missing who changed again after `until`: they are in the next span.
    pub async fn users_changed(&self, viewer: &UserId, since: i64, until: i64) -> Result<Vec<OwnedUserId>, E2eeError> {
        if since >= until {
            return Ok(Vec::new());
        }
        let rows = self.db.query(&USERS_CHANGED, params![since, until, viewer.as_str()]).await?;
        Ok(rows.iter().filter_map(|row| user_id(row, 0)).collect())
    }

    /// What the change at this log position says to other servers; nothing for positions of other changes, for changes
    /// that only one user sees, and for changes too old to be remembered.
    pub async fn device_update(&self, position: i64) -> Result<Option<DeviceUpdate>, E2eeError> {
        let Some(row) = self.db.query_opt(&CHANGE_AT, params![position]).await? else { return Ok(None) };
        let Some(user) = user_id(&row, 0) else { return Ok(None) };
        let device_id = row.opt_text(1)?.map(ToOwned::to_owned);
        let before = self.db.query_opt(&CHANGE_BEFORE, params![user.as_str(), position]).await?;
        let prev_id = before.map(|row| row.opt_int(0)).transpose()?.flatten();
        let keys = match &device_id {
            None => None,
            Some(device) => match self.db.query_opt(&DEVICE_KEY, params![user.as_str(), device.as_str()]).await? {
                None => None,
                Some(row) => {
                    let mut keys = stored_object(row.text(0)?);
                    self.add_signatures(&user, device, &mut keys, None).await?;
                    Some(keys)
                }
            },
        };
        Ok(Some(DeviceUpdate { user, device_id, stream_id: position, prev_id, keys }))
    }

    /// Position of the user's last change that all may see; 0 when there was none. Other servers know it as `stream_id`.
    pub async fn device_list_position(&self, user: &UserId) -> Result<i64, E2eeError> {
        let row = self.db.query_opt(&CHANGE_LAST, params![user.as_str()]).await?;
        Ok(row.map(|row| row.opt_int(0)).transpose()?.flatten().unwrap_or(0))
    }
}

/// The column as a user id; rows that cannot be read are left out, as nobody can act on them.
pub(crate) fn user_id(row: &Row, column: usize) -> Option<OwnedUserId> {
    let text = row.text(column).ok()?;
    UserId::parse(text).inspect_err(|error| tracing::error!(%error, "a stored user id cannot be read")).ok()
}
