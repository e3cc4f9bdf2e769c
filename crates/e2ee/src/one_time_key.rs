//! One-time keys, each given once, in upload order; and the fallback keys that are given when none is left.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{DeviceId, OwnedUserId, UserId};
use samtal_db::{Batch, Change, Sql, Value, params, sql};
use samtal_model::ChangeKind;

use crate::{E2ee, E2eeError, JsonObject};

/// One-time keys that one device may hold here. Clients keep 50 to 100.
pub const ONE_TIME_KEYS_MAX: u64 = 16_384;
/// Algorithms for which one device may have a fallback key. Clients use one.
pub const FALLBACK_ALGORITHMS_MAX: usize = 16;
/// Longest name of a key, in bytes.
const KEY_NAME_BYTES_MAX: usize = 255;
/// Largest one-time key, in bytes of JSON; one with a signature takes about 200.
const KEY_BYTES_MAX: usize = 4_096;
/// How long a claimed key's name is remembered, so that repeating its upload does not bring it back.
const CLAIMED_REMEMBERED_MS: u64 = 7 * 24 * 3600 * 1000;
/// The algorithm whose count is always told, 0 too.
const USUAL_ALGORITHM: &str = "signed_curve25519";

const KEYS_NAMED: Sql = sql!(
    "SELECT algorithm, key_id, key_json, claimed_ms FROM one_time_key
     WHERE user_id = $1 AND device_id = $2 AND key_id IN list($3)"
);
const KEY_INSERT: Sql = sql!(
    "INSERT INTO one_time_key (user_id, device_id, algorithm, key_id, key_json, position, place, claimed_ms)
     VALUES ($1, $2, $3, $4, $5, $6, $7, 0)"
);
const KEYS_DELETE: Sql = sql!("DELETE FROM one_time_key WHERE user_id = $1 AND device_id = $2");
const CLAIMED_FORGET: Sql =
    sql!("DELETE FROM one_time_key WHERE user_id = $1 AND device_id = $2 AND claimed_ms > 0 AND claimed_ms < $3");
const KEYS_COUNT: Sql = sql!(
    "SELECT algorithm, COUNT(*) FROM one_time_key WHERE user_id = $1 AND device_id = $2 AND claimed_ms = 0
     GROUP BY algorithm"
);
/// Takes the oldest key that is left. One statement: no two claims can take the same.
const KEY_CLAIM: Sql = sql!(
    "UPDATE one_time_key SET claimed_ms = $1
     WHERE user_id = $2 AND device_id = $3 AND algorithm = $4 AND key_id =
        (SELECT key_id FROM one_time_key
         WHERE user_id = $2 AND device_id = $3 AND algorithm = $4 AND claimed_ms = 0
         ORDER BY position, place LIMIT 1)
     RETURNING key_id, key_json"
);
/// Stands before [`KEY_CLAIM`] in a batch: answers only when that will find nothing.
const FALLBACK_CLAIM: Sql = sql!(
    "UPDATE fallback_key SET used = 1
     WHERE user_id = $1 AND device_id = $2 AND algorithm = $3 AND NOT EXISTS
        (SELECT 1 FROM one_time_key
         WHERE user_id = $1 AND device_id = $2 AND algorithm = $3 AND claimed_ms = 0)
     RETURNING key_id, key_json"
);
const FALLBACK_SET: Sql = sql!(
    "INSERT INTO fallback_key (user_id, device_id, algorithm, key_id, key_json, used) VALUES ($1, $2, $3, $4, $5, 0)
     ON CONFLICT (user_id, device_id, algorithm) DO UPDATE SET key_id = excluded.key_id, key_json = excluded.key_json,
        used = CASE WHEN fallback_key.key_id = excluded.key_id AND fallback_key.key_json = excluded.key_json
                    THEN fallback_key.used ELSE 0 END"
);
const FALLBACKS: Sql = sql!("SELECT algorithm FROM fallback_key WHERE user_id = $1 AND device_id = $2");
const FALLBACKS_DELETE: Sql = sql!("DELETE FROM fallback_key WHERE user_id = $1 AND device_id = $2");
const FALLBACKS_UNUSED: Sql =
    sql!("SELECT algorithm FROM fallback_key WHERE user_id = $1 AND device_id = $2 AND used = 0 ORDER BY algorithm");
const ANY_KEY: Sql = sql!(
    "SELECT 1 FROM one_time_key WHERE user_id = $1 AND device_id = $2 AND algorithm = $3 AND claimed_ms = 0
     UNION ALL SELECT 1 FROM fallback_key WHERE user_id = $1 AND device_id = $2 AND algorithm = $3 LIMIT 1"
);

/// What a device uploads. Keys are named `algorithm:id`; a key is a string or an object.
#[derive(Clone, Debug, Default)]
pub struct KeyUpload {
    /// Its identity keys.
    pub device_keys: Option<JsonObject>,
    /// One-time keys, in the order in which they shall be given out.
    pub one_time_keys: Vec<(String, serde_json::Value)>,
    /// Fallback keys, one an algorithm.
    pub fallback_keys: Vec<(String, serde_json::Value)>,
}

/// A key that is wanted of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Whose.
    pub user: OwnedUserId,
    /// Of which device.
    pub device: String,
    /// For which algorithm.
    pub algorithm: String,
}

/// Claimed keys: user, device, `algorithm:id`, key. Devices without any are not in it.
pub type Claimed = BTreeMap<OwnedUserId, BTreeMap<String, BTreeMap<String, serde_json::Value>>>;

impl KeyUpload {
    /// Looks at what can be judged without what is stored.
    pub(crate) fn check(&self, user: &UserId, device: &DeviceId) -> Result<(), E2eeError> {
        if let Some(keys) = &self.device_keys {
            let says = |field: &str| keys.get(field).and_then(|value| value.as_str());
            if says("user_id") != Some(user.as_str()) || says("device_id") != Some(device.as_str()) {
                return Err(E2eeError::Invalid("device_keys name another user or device".to_owned()));
            }
            let is_object = |field: &str| keys.get(field).is_some_and(serde_json::Value::is_object);
            if !is_object("keys")
                || !is_object("signatures")
                || !keys.get("algorithms").is_some_and(serde_json::Value::is_array)
            {
                return Err(E2eeError::Malformed("device_keys need algorithms, keys and signatures".to_owned()));
            }
        }
        for (name, key) in self.one_time_keys.iter().chain(&self.fallback_keys) {
            split(name)?;
            if !(key.is_string() || key.is_object()) {
                return Err(E2eeError::Invalid(format!("key {name} is neither a string nor an object")));
            }
            if key.to_string().len() > KEY_BYTES_MAX {
                return Err(E2eeError::TooLarge(format!("key {name} has more than {KEY_BYTES_MAX} bytes")));
            }
        }
        Ok(())
    }
}

/// Algorithm and id of `algorithm:id`.
fn split(name: &str) -> Result<(&str, &str), E2eeError> {
    match name.split_once(':') {
        Some((algorithm, id))
            if !algorithm.is_empty() && !id.is_empty() && name.len() <= KEY_NAME_BYTES_MAX && !name.contains('\0') =>
        {
            Ok((algorithm, id))
        }
        _ => Err(E2eeError::Invalid(format!("{name:?} is not the name of a key: algorithm:id, up to 255 bytes"))),
    }
}

/// Adds the deletion of all one-time and fallback keys of a device.
pub(crate) fn delete_all(batch: &mut Batch, user: &UserId, device: &DeviceId) {
    batch.exec(&KEYS_DELETE, params![user.as_str(), device.as_str()]);
    batch.exec(&FALLBACKS_DELETE, params![user.as_str(), device.as_str()]);
}

impl E2ee {
    /// Adds the upload's one-time and fallback keys to the batch. `replaced`: the device has new identity keys, those it
    /// had before are of no use.
    pub(crate) async fn one_time_keys_put(
        &self,
        batch: &mut Batch,
        user: &UserId,
        device: &DeviceId,
        upload: &KeyUpload,
        replaced: bool,
    ) -> Result<(), E2eeError> {
        let fresh =
            if replaced { upload.one_time_keys.iter().collect() } else { self.fresh(user, device, upload).await? };
        if !fresh.is_empty() && !replaced {
            let held: u64 = self.one_time_key_counts(user, device).await?.values().sum();
            if held + fresh.len() as u64 > ONE_TIME_KEYS_MAX {
                return Err(E2eeError::TooLarge(format!("a device may hold {ONE_TIME_KEYS_MAX} one-time keys")));
            }
        }
        if fresh.is_empty() && upload.fallback_keys.is_empty() && !replaced {
            return Ok(());
        }
        self.check_fallback_algorithms(user, device, upload, replaced).await?;
        let position = batch.log(Change::new(ChangeKind::OneTimeKeys).user(user).reference(device));
        if replaced {
            delete_all(batch, user, device);
        }
        let (user, device) = (user.as_str(), device.as_str());
        let forget_before = self.clock.now_ms().saturating_sub(CLAIMED_REMEMBERED_MS);
        batch.exec(&CLAIMED_FORGET, params![user, device, forget_before]);
        for (place, (name, key)) in fresh.into_iter().enumerate() {
            let (algorithm, id) = split(name)?;
            let mut row = params![user, device, algorithm, id, key.to_string()];
            row.extend([position.clone(), place.into()]);
            batch.exec(&KEY_INSERT, row);
        }
        for (name, key) in &upload.fallback_keys {
            let (algorithm, id) = split(name)?;
            batch.exec(&FALLBACK_SET, params![user, device, algorithm, id, key.to_string()]);
        }
        Ok(())
    }

    async fn check_fallback_algorithms(
        &self,
        user: &UserId,
        device: &DeviceId,
        upload: &KeyUpload,
        replaced: bool,
    ) -> Result<(), E2eeError> {
        let mut algorithms = BTreeSet::new();
        for (name, _) in &upload.fallback_keys {
            algorithms.insert(split(name)?.0.to_owned());
        }
        if !algorithms.is_empty() && !replaced {
            for row in self.db.query(&FALLBACKS, params![user.as_str(), device.as_str()]).await? {
                algorithms.insert(row.get(0)?);
            }
        }
        if algorithms.len() > FALLBACK_ALGORITHMS_MAX {
            let why = format!("a device may have fallback keys for {FALLBACK_ALGORITHMS_MAX} algorithms");
            return Err(E2eeError::TooLarge(why));
        }
        Ok(())
    }

    /// The keys of the upload that are not stored yet. A stored one under the same name must be the same key.
    async fn fresh<'a>(
        &self,
        user: &UserId,
        device: &DeviceId,
        upload: &'a KeyUpload,
    ) -> Result<Vec<&'a (String, serde_json::Value)>, E2eeError> {
        if upload.one_time_keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut ids = Vec::with_capacity(upload.one_time_keys.len());
        for (name, _) in &upload.one_time_keys {
            ids.push(split(name)?.1.to_owned());
        }
        let rows = self.db.query(&KEYS_NAMED, params![user.as_str(), device.as_str(), ids]).await?;
        let mut stored = BTreeMap::new();
        for row in &rows {
            stored.insert(format!("{}:{}", row.text(0)?, row.text(1)?), row.text(2)?);
        }
        let mut fresh = Vec::new();
        for entry @ (name, key) in &upload.one_time_keys {
            match stored.get(name.as_str()) {
                None => fresh.push(entry),
                Some(same) if serde_json::from_str(same).ok().as_ref() == Some(key) => {}
                Some(_) => return Err(E2eeError::Invalid(format!("there is another one-time key {name} already"))),
            }
        }
        Ok(fresh)
    }

    /// Takes one key for each claim: the oldest one-time key, else the fallback key. Each one-time key is given once ever.
    pub async fn keys_claim(&self, claims: &[Claim]) -> Result<Claimed, E2eeError> {
        let mut batch = Batch::new();
        let now_ms = self.clock.now_ms().max(1);
        let mut taken = Vec::new();
        for claim in claims {
            let of = || params![claim.user.as_str(), claim.device.as_str(), claim.algorithm.as_str()];
            if self.db.query_opt(&ANY_KEY, of()).await?.is_none() {
                continue;
            }
            batch.log(Change::new(ChangeKind::OneTimeKeys).user(&claim.user).reference(&claim.device));
            batch.returning(&FALLBACK_CLAIM, of());
            let mut key = vec![Value::from(now_ms)];
            key.extend(of());
            batch.returning(&KEY_CLAIM, key);
            taken.push(claim);
        }
        let mut claimed = Claimed::new();
        if taken.is_empty() {
            return Ok(claimed);
        }
        let committed = self.db.commit(batch).await?;
        for (claim, rows) in taken.into_iter().zip(committed.rows.chunks(2)) {
            if let Some(row) = rows.iter().flatten().last() {
                let key = serde_json::from_str(row.text(1)?).unwrap_or(serde_json::Value::Null);
                let of_user = claimed.entry(claim.user.clone()).or_default();
                of_user
                    .entry(claim.device.clone())
                    .or_default()
                    .insert(format!("{}:{}", claim.algorithm, row.text(0)?), key);
            }
        }
        Ok(claimed)
    }

    /// How many one-time keys a device has left, by algorithm. The usual algorithm is always there, with 0 too.
    pub async fn one_time_key_counts(
        &self,
        user: &UserId,
        device: &DeviceId,
    ) -> Result<BTreeMap<String, u64>, E2eeError> {
        let mut counts = BTreeMap::from([(USUAL_ALGORITHM.to_owned(), 0)]);
        for row in self.db.query(&KEYS_COUNT, params![user.as_str(), device.as_str()]).await? {
            counts.insert(row.text(0)?.to_owned(), row.get(1)?);
        }
        Ok(counts)
    }

    /// The algorithms for which a device has a fallback key that has not been given out.
    pub async fn unused_fallback_types(&self, user: &UserId, device: &DeviceId) -> Result<Vec<String>, E2eeError> {
        let rows = self.db.query(&FALLBACKS_UNUSED, params![user.as_str(), device.as_str()]).await?;
        rows.iter().map(|row| Ok(row.text(0)?.to_owned())).collect()
    }
}
