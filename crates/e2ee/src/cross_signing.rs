//! Cross-signing keys: a user's master, self-signing and user-signing key.

use ruma::{OwnedUserId, UserId};
use samtal_db::{Batch, Sql, Value, params, sql};

use crate::{
    E2ee, E2eeError, JsonObject,
    device_list::{log_change, log_view_change, user_id},
    engine::{printed, stored_object},
    signature,
    signed::{covers, signatures_by},
};

const KEYS_OF_USERS: Sql =
    sql!("SELECT user_id, key_usage, public_key, key_json FROM cross_signing_key WHERE user_id IN list($1)");
const KEY_SET: Sql = sql!(
    "INSERT INTO cross_signing_key (user_id, key_usage, public_key, key_json, position) VALUES ($1, $2, $3, $4, $5)
     ON CONFLICT (user_id, key_usage) DO UPDATE SET public_key = excluded.public_key, key_json = excluded.key_json,
        position = excluded.position"
);
const KEY_DELETE: Sql = sql!("DELETE FROM cross_signing_key WHERE user_id = $1 AND key_usage = $2");

/// What a cross-signing key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Usage {
    /// Stands for the user.
    Master,
    /// Signs the user's own devices.
    SelfSigning,
    /// Signs other users' master keys.
    UserSigning,
}

impl Usage {
    const ALL: [Self; 3] = [Self::Master, Self::SelfSigning, Self::UserSigning];

    /// The word in the key's `usage` list.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::SelfSigning => "self_signing",
            Self::UserSigning => "user_signing",
        }
    }

    fn stored(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|usage| usage.as_str() == text)
    }
}

/// A user's upload of cross-signing keys. What is not in it stays as it is.
#[derive(Clone, Debug, Default)]
pub struct CrossSigningUpload {
    /// The master key.
    pub master_key: Option<JsonObject>,
    /// The self-signing key, signed by the master key.
    pub self_signing_key: Option<JsonObject>,
    /// The user-signing key, signed by the master key.
    pub user_signing_key: Option<JsonObject>,
}

/// What an upload would do; whether the user must prove who they are depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrossSigningEffect {
    /// Everything in it is stored already.
    Nothing,
    /// The user has no master key yet.
    First,
    /// Keys that others may have verified are replaced.
    Replace,
}

/// A user's cross-signing keys as stored.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CrossSigningKeys {
    /// The master key.
    pub master: Option<JsonObject>,
    /// The self-signing key.
    pub self_signing: Option<JsonObject>,
    /// The user-signing key.
    pub user_signing: Option<JsonObject>,
}

impl CrossSigningKeys {
    fn get(&self, usage: Usage) -> Option<&JsonObject> {
        match usage {
            Usage::Master => self.master.as_ref(),
            Usage::SelfSigning => self.self_signing.as_ref(),
            Usage::UserSigning => self.user_signing.as_ref(),
        }
    }
}

impl CrossSigningUpload {
    fn parts(&self) -> impl Iterator<Item = (Usage, &JsonObject)> {
        [
            (Usage::Master, &self.master_key),
            (Usage::SelfSigning, &self.self_signing_key),
            (Usage::UserSigning, &self.user_signing_key),
        ]
        .into_iter()
        .filter_map(|(usage, key)| Some((usage, key.as_ref()?)))
    }
}

/// The one public key of a cross-signing key: name (`ed25519:…`) and base64.
pub(crate) fn public_key(object: &JsonObject) -> Option<(&str, &str)> {
    let mut keys = object.get("keys")?.as_object()?.iter();
    let (name, value) = keys.next()?;
    let value = value.as_str()?;
    (keys.next().is_none() && name.strip_prefix("ed25519:") == Some(value)).then_some((name, value))
}

impl E2ee {
    /// What the upload would do.
    pub async fn cross_signing_effect(
        &self,
        user: &UserId,
        upload: &CrossSigningUpload,
    ) -> Result<CrossSigningEffect, E2eeError> {
        let stored = self.cross_signing_keys(user).await?;
        if stored.master.is_none() {
            return Ok(CrossSigningEffect::First);
        }
        let same = upload
            .parts()
            .all(|(usage, key)| stored.get(usage).is_some_and(|stored| public_key(stored) == public_key(key)));
        Ok(if same { CrossSigningEffect::Nothing } else { CrossSigningEffect::Replace })
    }

    /// Stores the keys, after checking that the master key, new or stored, signed the other two. Who may do so is the
    /// caller's question; see [`E2ee::cross_signing_effect`].
    pub async fn cross_signing_upload(&self, user: &UserId, upload: &CrossSigningUpload) -> Result<(), E2eeError> {
        self.attempt(|| async {
            let stored = self.cross_signing_keys(user).await?;
            let master = upload.master_key.as_ref().or(stored.master.as_ref());
            for (usage, key) in upload.parts() {
                check(user, usage, key, master)?;
            }
            let mut batch = Batch::new();
            let mut changed: Vec<_> = upload.parts().filter(|(usage, key)| stored.get(*usage) != Some(key)).collect();
            changed.sort_by_key(|(usage, _)| *usage);
            if changed.is_empty() {
                return Ok(((), batch));
            }
            // Nobody else sees the user-signing key.
            let position = match changed.iter().all(|(usage, _)| *usage == Usage::UserSigning) {
                true => log_view_change(&mut batch, user, user),
                false => log_change(&mut batch, user, None),
            };
            for (usage, key) in changed {
                put(&mut batch, user, usage, key, position.clone());
                let old = stored.get(usage).and_then(public_key);
                if let Some((_, old)) = old
                    && public_key(key).map(|(_, public)| public) != Some(old)
                {
                    signature::forget(&mut batch, user, old);
                }
            }
            Ok(((), batch))
        })
        .await?;
        Ok(())
    }

    /// A user's cross-signing keys, with no more than the signatures they were uploaded with.
    pub async fn cross_signing_keys(&self, user: &UserId) -> Result<CrossSigningKeys, E2eeError> {
        let mut keys = CrossSigningKeys::default();
        for (_, usage, _, object) in self.cross_signing_keys_of(&[user.to_string()]).await? {
            match usage {
                Usage::Master => keys.master = Some(object),
                Usage::SelfSigning => keys.self_signing = Some(object),
                Usage::UserSigning => keys.user_signing = Some(object),
            }
        }
        Ok(keys)
    }

    /// Owner, usage, public key and object of each key of these users.
    pub(crate) async fn cross_signing_keys_of(
        &self,
        users: &[String],
    ) -> Result<Vec<(OwnedUserId, Usage, String, JsonObject)>, E2eeError> {
        let mut keys = Vec::new();
        for row in self.db.query(&KEYS_OF_USERS, params![users.to_vec()]).await? {
            if let (Some(owner), Some(usage)) = (user_id(&row, 0), Usage::stored(row.text(1)?)) {
                keys.push((owner, usage, row.text(2)?.to_owned(), stored_object(row.text(3)?)));
            }
        }
        Ok(keys)
    }

    /// Adds to the batch the deletion of all cross-signing keys of a user.
    pub(crate) fn cross_signing_delete(&self, batch: &mut Batch, user: &UserId) {
        for usage in Usage::ALL {
            batch.exec(&KEY_DELETE, params![user.as_str(), usage.as_str()]);
        }
        log_change(batch, user, None);
    }
}

/// Adds one key, or its deletion when the object has no public key.
pub(crate) fn put(batch: &mut Batch, user: &UserId, usage: Usage, key: &JsonObject, position: Value) {
    let Some((_, public)) = public_key(key) else {
        batch.exec(&KEY_DELETE, params![user.as_str(), usage.as_str()]);
        return;
    };
    let mut row = params![user.as_str(), usage.as_str(), public, printed(key)];
    row.push(position);
    batch.exec(&KEY_SET, row);
}

/// Whether the key is of this user, for this usage, and signed as it must be.
fn check(user: &UserId, usage: Usage, key: &JsonObject, master: Option<&JsonObject>) -> Result<(), E2eeError> {
    let word = usage.as_str();
    if key.get("user_id").and_then(|value| value.as_str()) != Some(user.as_str()) {
        return Err(E2eeError::Invalid(format!("the {word} key names another user")));
    }
    let listed = |list: &serde_json::Value| list.as_array().is_some_and(|list| list.iter().any(|item| item == word));
    if !key.get("usage").is_some_and(listed) {
        return Err(E2eeError::Invalid(format!("the {word} key is not for this usage")));
    }
    if public_key(key).is_none() {
        return Err(E2eeError::Invalid(format!("the {word} key must have one ed25519 key named after itself")));
    }
    if usage == Usage::Master {
        return Ok(());
    }
    let Some((master_name, master_public)) = master.and_then(public_key) else {
        return Err(E2eeError::Invalid(format!("there is no master key to sign the {word} key")));
    };
    let mut by_master = signatures_by(key, user.as_str()).filter(|(name, _)| *name == master_name);
    if by_master.any(|(_, signature)| covers(key, master_public, signature)) {
        Ok(())
    } else {
        Err(E2eeError::Signature(format!("the master key did not sign the {word} key")))
    }
}
