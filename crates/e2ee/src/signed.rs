//! Keys and signatures inside JSON objects.

use ruma::{SigningKeyAlgorithm, serde::Base64, signatures::verify_canonical_json_bytes};
use samtal_event::json::{Numbers, parse_object};

use crate::{JsonObject, engine::printed};

/// The bytes that a signature of this object covers: canonical JSON without `signatures` and `unsigned`.
fn signed_bytes(object: &JsonObject) -> Option<String> {
    let text = printed(object);
    let mut object = parse_object(&text, Numbers::Lax).ok()?;
    object.remove("signatures");
    object.remove("unsigned");
    Some(object.to_canonical())
}

/// Whether the Ed25519 `signature` by `public_key` (both base64) covers the object.
pub(crate) fn covers(object: &JsonObject, public_key: &str, signature: &str) -> bool {
    let decoded = |text: &str| Base64::<ruma::serde::base64::Standard>::parse(text).ok().map(Base64::into_inner);
    let (Some(public_key), Some(signature)) = (decoded(public_key), decoded(signature)) else { return false };
    signed_bytes(object).is_some_and(|bytes| {
        verify_canonical_json_bytes(&SigningKeyAlgorithm::Ed25519, &public_key, &signature, bytes.as_bytes()).is_ok()
    })
}

/// The signatures on the object by `signer`: key id and signature.
pub(crate) fn signatures_by<'a>(object: &'a JsonObject, signer: &str) -> impl Iterator<Item = (&'a str, &'a str)> {
    object
        .get("signatures")
        .and_then(|signatures| signatures.get(signer))
        .and_then(|by| by.as_object())
        .into_iter()
        .flatten()
        .filter_map(|(key, signature)| Some((key.as_str(), signature.as_str()?)))
}

/// The object without what is not signed.
pub(crate) fn bare(object: &JsonObject) -> JsonObject {
    let mut object = object.clone();
    object.remove("signatures");
    object.remove("unsigned");
    object
}

/// The public key of a device with this id, from its keys.
pub(crate) fn device_ed25519<'a>(keys: &'a JsonObject, device_id: &str) -> Option<&'a str> {
    keys.get("keys")?.get(format!("ed25519:{device_id}"))?.as_str()
}
