//! Canonical bytes of signed JSON objects, and Ed25519 over them.

use ruma::{
    SigningKeyAlgorithm,
    serde::Base64,
    signatures::{Ed25519KeyPair, KeyPair, verify_canonical_json_bytes},
};
use samtal_event::json::{JsonError, Numbers, Object, parse_object};

/// The bytes a signature of this object covers: canonical JSON without `signatures` and `unsigned`.
///
/// Numbers keep the digits they were written with, as old servers sign such.
pub fn signed_bytes(text: &str) -> Result<String, JsonError> {
    let mut object = parse_object(text, Numbers::Lax)?;
    Ok(bytes_of(&mut object))
}

/// As [`signed_bytes`], of an object already read. Takes `signatures` and `unsigned` out of it.
pub(crate) fn bytes_of(object: &mut Object<'_>) -> String {
    object.remove("signatures");
    object.remove("unsigned");
    object.to_canonical()
}

/// Signs the object and returns the signature in unpadded base64.
pub fn sign(text: &str, key: &Ed25519KeyPair) -> Result<String, JsonError> {
    Ok(key.sign(signed_bytes(text)?.as_bytes()).base64())
}

/// Whether `signature` by `public_key` (32 bytes) covers exactly these bytes.
pub(crate) fn verifies(public_key: &[u8], signature: &[u8], bytes: &[u8]) -> bool {
    verify_canonical_json_bytes(&SigningKeyAlgorithm::Ed25519, public_key, signature, bytes).is_ok()
}

/// Reads base64 with or without padding.
pub fn base64(text: &str) -> Option<Vec<u8>> {
    let bytes: Base64 = Base64::parse(text).ok()?;
    Some(bytes.into_inner())
}
