//! Signatures on keys: uploading them, and who sees which.

use std::collections::BTreeMap;

use ruma::{OwnedUserId, UserId};
use samtal_db::{Batch, Sql, params, sql};
use serde_json::{Value, json};

use crate::{
    E2ee, E2eeError, JsonObject,
    cross_signing::{CrossSigningKeys, public_key},
    device_list::{log_change, log_view_change, user_id},
    signed::{bare, covers, device_ed25519, signatures_by},
};

const SIGNATURE_SET: Sql = sql!(
    "INSERT INTO key_signature (user_id, key_id, signer_id, signer_key, signature) VALUES ($1, $2, $3, $4, $5)
     ON CONFLICT (user_id, key_id, signer_id, signer_key) DO UPDATE SET signature = excluded.signature"
);
const SIGNATURES_OF_USERS: Sql = sql!(
    "SELECT user_id, key_id, signer_id, signer_key, signature FROM key_signature
     WHERE user_id IN list($1) AND (signer_id = user_id OR signer_id = $2)"
);
const SIGNATURES_OF_KEY: Sql = sql!(
    "SELECT user_id, key_id, signer_id, signer_key, signature FROM key_signature
     WHERE user_id = $1 AND key_id = $2 AND (signer_id = user_id OR signer_id = $3)"
);
const SIGNATURES_FORGET: Sql = sql!("DELETE FROM key_signature WHERE user_id = $1 AND key_id = $2");

/// Why one of the uploaded signatures was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureFailure {
    /// There is no such device or cross-signing key.
    UnknownKey,
    /// The signed object is not the stored one.
    OtherObject,
    /// There is no signature by a key that may sign it, or it does not cover the object.
    BadSignature,
}

/// Objects with new signatures: whose, device id or public key, object.
pub type SignatureUpload = BTreeMap<OwnedUserId, BTreeMap<String, Value>>;
/// What was not taken, and why.
pub type SignatureFailures = BTreeMap<OwnedUserId, BTreeMap<String, SignatureFailure>>;

/// A signature that was accepted.
struct Accepted<'a> {
    signer_key: &'a str,
    signature: &'a str,
}

impl E2ee {
    /// Stores `signer`'s signatures: by the self-signing key on own devices, by own devices on the own master key, by the
    /// user-signing key on others' master keys. Each object is judged by itself.
    pub async fn signatures_upload(
        &self,
        signer: &UserId,
        upload: &SignatureUpload,
    ) -> Result<SignatureFailures, E2eeError> {
        let mut failures = SignatureFailures::new();
        let mut batch = Batch::new();
        let own = self.cross_signing_keys(signer).await?;
        for (owner, objects) in upload {
            let mut seen_by_signer = false;
            for (key_id, object) in objects {
                let accepted = match object.as_object() {
                    None => Err(SignatureFailure::OtherObject),
                    Some(object) if owner == signer => self.on_own(signer, &own, key_id, object).await?,
                    Some(object) => self.on_others(signer, &own, owner, key_id, object).await?,
                };
                match accepted {
                    Ok(signatures) => {
                        for Accepted { signer_key, signature } in signatures {
                            let row = params![owner.as_str(), key_id, signer.as_str(), signer_key, signature];
                            batch.exec(&SIGNATURE_SET, row);
                        }
                        if owner != signer {
                            seen_by_signer = true;
                        } else if own.master.as_ref().and_then(public_key).is_some_and(|(_, key)| key == key_id) {
                            log_change(&mut batch, owner, None);
                        } else {
                            log_change(&mut batch, owner, Some(key_id.as_str().into()));
                        }
                    }
                    Err(failure) => {
                        failures.entry(owner.clone()).or_default().insert(key_id.clone(), failure);
                    }
                }
            }
            if seen_by_signer {
                log_view_change(&mut batch, owner, signer);
            }
        }
        if !batch.is_empty() {
            self.db.commit(batch).await?;
        }
        Ok(failures)
    }

    async fn on_own<'a>(
        &self,
        signer: &UserId,
        own: &CrossSigningKeys,
        key_id: &str,
        object: &'a JsonObject,
    ) -> Result<Result<Vec<Accepted<'a>>, SignatureFailure>, E2eeError> {
        if let Some(keys) = self.device_keys(signer, key_id.into()).await? {
            let self_signing = own.self_signing.as_ref().and_then(public_key);
            return Ok(accept(signer, &keys, object, |name| {
                self_signing.filter(|(signing, _)| *signing == name).map(|(_, public)| public.to_owned())
            }));
        }
        let Some(master) = own.master.as_ref().filter(|key| public_key(key).is_some_and(|(_, key)| key == key_id))
        else {
            return Ok(Err(SignatureFailure::UnknownKey));
        };
        let mut devices = BTreeMap::new();
        for (name, _) in signatures_by(object, signer.as_str()) {
            let Some(device) = name.strip_prefix("ed25519:") else { continue };
            if let Some(keys) = self.device_keys(signer, device.into()).await?
                && let Some(public) = device_ed25519(&keys, device)
            {
                devices.insert(name, public.to_owned());
            }
        }
        Ok(accept(signer, master, object, |name| devices.get(name).cloned()))
    }

    async fn on_others<'a>(
        &self,
        signer: &UserId,
        own: &CrossSigningKeys,
        owner: &UserId,
        key_id: &str,
        object: &'a JsonObject,
    ) -> Result<Result<Vec<Accepted<'a>>, SignatureFailure>, E2eeError> {
        let theirs = self.cross_signing_keys(owner).await?;
        let Some(master) = theirs.master.filter(|key| public_key(key).is_some_and(|(_, key)| key == key_id)) else {
            return Ok(Err(SignatureFailure::UnknownKey));
        };
        let user_signing = own.user_signing.as_ref().and_then(public_key);
        Ok(accept(signer, &master, object, |name| {
            user_signing.filter(|(signing, _)| *signing == name).map(|(_, public)| public.to_owned())
        }))
    }

    /// The signatures on keys of these users that `viewer` may see.
    pub(crate) async fn signatures_on(
        &self,
        users: &[String],
        viewer: Option<&UserId>,
    ) -> Result<Signatures, E2eeError> {
        let viewer = viewer.map_or("", UserId::as_str);
        let mut signatures = Signatures::default();
        for row in self.db.query(&SIGNATURES_OF_USERS, params![users.to_vec(), viewer]).await? {
            if let Some(owner) = user_id(&row, 0) {
                let one = (row.text(2)?.to_owned(), row.text(3)?.to_owned(), row.text(4)?.to_owned());
                signatures.0.entry((owner, row.text(1)?.to_owned())).or_default().push(one);
            }
        }
        Ok(signatures)
    }

    /// Adds to one key the signatures on it that `viewer` may see.
    pub(crate) async fn add_signatures(
        &self,
        owner: &UserId,
        key_id: &str,
        object: &mut JsonObject,
        viewer: Option<&UserId>,
    ) -> Result<(), E2eeError> {
        let viewer_id = viewer.map_or("", UserId::as_str);
        let mut found = Vec::new();
        for row in self.db.query(&SIGNATURES_OF_KEY, params![owner.as_str(), key_id, viewer_id]).await? {
            found.push((row.text(2)?.to_owned(), row.text(3)?.to_owned(), row.text(4)?.to_owned()));
        }
        show(object, owner, viewer, &found);
        Ok(())
    }
}

/// A signer, the signer's key, the signature.
type Signed = (String, String, String);

/// Signatures by owner and key.
#[derive(Debug, Default)]
pub(crate) struct Signatures(BTreeMap<(OwnedUserId, String), Vec<Signed>>);

impl Signatures {
    pub(crate) fn of(&self, owner: &UserId, key_id: &str) -> &[Signed] {
        self.0.get(&(owner.to_owned(), key_id.to_owned())).map_or(&[], Vec::as_slice)
    }
}

/// The signatures by `signer` with a key that `public_key` knows. All of these must be good, and one must be there.
fn accept<'a>(
    signer: &UserId,
    stored: &JsonObject,
    object: &'a JsonObject,
    public_key: impl Fn(&str) -> Option<String>,
) -> Result<Vec<Accepted<'a>>, SignatureFailure> {
    if bare(stored) != bare(object) {
        return Err(SignatureFailure::OtherObject);
    }
    let mut accepted = Vec::new();
    for (signer_key, signature) in signatures_by(object, signer.as_str()) {
        let Some(public) = public_key(signer_key) else { continue };
        if !covers(object, &public, signature) {
            return Err(SignatureFailure::BadSignature);
        }
        accepted.push(Accepted { signer_key, signature });
    }
    if accepted.is_empty() { Err(SignatureFailure::BadSignature) } else { Ok(accepted) }
}

/// Leaves on the object the signatures of its owner and of the viewer, and adds those of `more`.
pub(crate) fn show(
    object: &mut JsonObject,
    owner: &UserId,
    viewer: Option<&UserId>,
    more: &[(String, String, String)],
) {
    if let Some(Value::Object(signatures)) = object.get_mut("signatures") {
        signatures
            .retain(|signer, _| signer == owner.as_str() || viewer.is_some_and(|viewer| signer == viewer.as_str()));
    }
    if more.is_empty() {
        return;
    }
    let signatures = object.entry("signatures").or_insert_with(|| json!({}));
    let Value::Object(signatures) = signatures else { return };
    for (signer, key, signature) in more {
        if let Value::Object(by) = signatures.entry(signer.as_str()).or_insert_with(|| json!({})) {
            by.insert(key.clone(), Value::String(signature.clone()));
        }
    }
}

/// Adds to the batch that nothing has signed this key.
pub(crate) fn forget(batch: &mut Batch, user: &UserId, key_id: &str) {
    batch.exec(&SIGNATURES_FORGET, params![user.as_str(), key_id]);
}
