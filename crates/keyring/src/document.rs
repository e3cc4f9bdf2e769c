//! A server's published keys, as it signs them: [Publishing keys, Matrix 1.19](https://spec.matrix.org/v1.19/server-server-api/#publishing-keys).

use std::collections::BTreeSet;

use ruma::{OwnedServerName, ServerName};
use samtal_event::json::{JsonError, Numbers, Object, Value, parse_object};

use crate::{
    signed::{base64, bytes_of, verifies},
    validity::{KnownKey, KnownKeys},
};

/// Most keys of one server that are read, current and old together.
pub const KEYS_PER_SERVER_MAX: usize = 100;
/// Longest key id, in bytes: longer ones are passed over.
const KEY_ID_BYTES_MAX: usize = 255;
/// Longest document, in bytes.
pub const DOCUMENT_BYTES_MAX: usize = 64 * 1024;
/// Longest time a document is trusted, whatever it says: seven days (room version 5, and the API's own rule).
pub const TRUST_MS_MAX: u64 = 7 * 24 * 3600 * 1000;

/// A document of published keys whose own signature has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyDocument {
    /// Whose keys.
    pub server: OwnedServerName,
    /// What it says about its own validity, in ms since the epoch.
    pub valid_until_ms: u64,
    /// The keys.
    pub keys: KnownKeys,
    /// The canonical text, with all signatures it came with.
    pub text: String,
}

/// Why a document is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyDocumentError {
    /// Too long.
    #[error("the key document is too long")]
    TooLong,
    /// Not JSON.
    #[error("the key document cannot be read")]
    Json(#[from] JsonError),
    /// A field is missing or has the wrong type.
    #[error("the key document lacks a usable {0}")]
    Field(&'static str),
    /// It is about another server.
    #[error("the key document is about {0}")]
    OtherServer(String),
    /// No key in it has signed it, or one did so wrongly.
    #[error("the key document is not signed by its own keys")]
    Signature,
}

impl KeyDocument {
    /// Reads a document and checks that the server's own keys signed it.
    ///
    /// `server` is the one that must be meant, if the caller knows.
    pub fn parse(text: &str, server: Option<&ServerName>) -> Result<Self, KeyDocumentError> {
        if text.len() > DOCUMENT_BYTES_MAX {
            return Err(KeyDocumentError::TooLong);
        }
        let mut object = parse_object(text, Numbers::Lax)?;
        let canonical = object.to_canonical();
        let name = object.text("server_name").ok_or(KeyDocumentError::Field("server_name"))?;
        let name = OwnedServerName::try_from(name).map_err(|_| KeyDocumentError::Field("server_name"))?;
        if server.is_some_and(|server| server != name) {
            return Err(KeyDocumentError::OtherServer(name.to_string()));
        }
        let valid_until_ms = ms(&object, "valid_until_ts").ok_or(KeyDocumentError::Field("valid_until_ts"))?;

        let mut current = Vec::new();
        for (id, entry) in entries(&object, "verify_keys").take(KEYS_PER_SERVER_MAX) {
            current.extend(public_key(entry).map(|public_key| (id.to_owned(), public_key)));
        }
        let mut keys = KnownKeys::default();
        for (id, entry) in entries(&object, "old_verify_keys").take(KEYS_PER_SERVER_MAX - current.len()) {
            if let (Some(public_key), Some(expired_ms)) = (public_key(entry), ms(entry, "expired_ts")) {
                keys.insert(id, KnownKey { public_key, valid_until_ms: 0, expired_ms: Some(expired_ms) });
            }
        }
        for (id, public_key) in &current {
            keys.insert(id, KnownKey { public_key: *public_key, valid_until_ms, expired_ms: None });
        }
        let signatures: Vec<(String, Vec<u8>)> = object
            .get("signatures")
            .and_then(Value::as_object)
            .and_then(|all| all.get(name.as_str()))
            .and_then(Value::as_object)
            .into_iter()
            .flat_map(Object::iter)
            .filter_map(|(id, signature)| Some((id.to_owned(), base64(signature.as_str()?)?)))
            .collect();
        let bytes = bytes_of(&mut object);
        let mut signed = false;
        for (id, public_key) in &current {
            if let Some((_, signature)) = signatures.iter().find(|(by, _)| by == id) {
                if !verifies(public_key, signature, bytes.as_bytes()) {
                    return Err(KeyDocumentError::Signature);
                }
                signed = true;
            }
        }
        if !signed {
            return Err(KeyDocumentError::Signature);
        }
        Ok(Self { server: name, valid_until_ms, keys, text: canonical })
    }

    /// The keys as they count for us, who got them now: trusted for seven days at most.
    pub fn keys_at(&self, now_ms: u64) -> KnownKeys {
        let mut keys = self.keys.clone();
        keys.cap_validity(now_ms.saturating_add(TRUST_MS_MAX));
        keys
    }
}

fn entries<'o, 'a>(object: &'o Object<'a>, name: &str) -> impl Iterator<Item = (&'o str, &'o Object<'a>)> {
    object
        .get(name)
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(Object::iter)
        .filter(|(id, _)| id.starts_with("ed25519:") && id.len() <= KEY_ID_BYTES_MAX)
        .filter_map(|(id, entry)| Some((id, entry.as_object()?)))
}

/// The ids of the keys that a document names, current and old; none of what is no document.
pub(crate) fn key_ids(text: &str) -> BTreeSet<String> {
    let Ok(object) = parse_object(text, Numbers::Lax) else { return BTreeSet::new() };
    let named = entries(&object, "verify_keys").chain(entries(&object, "old_verify_keys"));
    named.map(|(id, _)| id.to_owned()).collect()
}

fn public_key(entry: &Object<'_>) -> Option<[u8; 32]> {
    base64(entry.text("key")?)?.try_into().ok()
}

fn ms(object: &Object<'_>, name: &str) -> Option<u64> {
    u64::try_from(object.get(name)?.as_int()?).ok()
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;
    use crate::own::{OwnKey, OwnKeys};

    fn document() -> String {
        let old = OwnKey::from_seed("ed25519:old", [1; 32], 0, Some(500)).unwrap();
        let new = OwnKey::from_seed("ed25519:new", [2; 32], 500, None).unwrap();
        OwnKeys::new(vec![old, new]).unwrap().document(server_name!("a.example"), 10_000)
    }

    #[test]
    fn what_we_publish_we_read_back() {
        let read = KeyDocument::parse(&document(), Some(server_name!("a.example"))).unwrap();
        assert_eq!(read.valid_until_ms, 10_000);
        assert_eq!(read.keys.iter().count(), 2);
        assert_eq!(read.keys.get("ed25519:old").unwrap().expired_ms, Some(500));
        assert_eq!(KeyDocument::parse(&read.text, None).unwrap(), read);
    }

    #[test]
    fn note_31_trust_ends_after_seven_days_whatever_the_document_says() {
        let key = OwnKey::from_seed("ed25519:k", [2; 32], 0, None).unwrap();
        let text = OwnKeys::new(vec![key]).unwrap().document(server_name!("a.example"), 9_007_199_254_740_991);
        let keys = KeyDocument::parse(&text, None).unwrap().keys_at(1_000);
        assert_eq!(keys.get("ed25519:k").unwrap().valid_until_ms, 1_000 + TRUST_MS_MAX);
    }

    #[test]
    fn a_document_that_does_not_sign_itself_is_refused() {
        let text = document();
        let other = Some(server_name!("b.example"));
        assert_eq!(KeyDocument::parse(&text, other), Err(KeyDocumentError::OtherServer("a.example".to_owned())));
        assert_eq!(KeyDocument::parse(&text.replace("10000", "10001"), None), Err(KeyDocumentError::Signature));
        assert_eq!(KeyDocument::parse(&text.replace("signatures", "sig"), None), Err(KeyDocumentError::Signature));
        assert_eq!(KeyDocument::parse("{}", None), Err(KeyDocumentError::Field("server_name")));
        assert!(matches!(KeyDocument::parse("[", None), Err(KeyDocumentError::Json(_))));
    }

    proptest::proptest! {
        #[test]
        fn a_damaged_document_is_refused_or_unchanged(at in 0_usize..600, byte in 32_u8..127) {
            let whole = document();
            let mut damaged = whole.clone().into_bytes();
            let at = at % damaged.len();
            damaged[at] = byte;
            let damaged = String::from_utf8(damaged).unwrap();
            if let Ok(read) = KeyDocument::parse(&damaged, None) {
                proptest::prop_assert_eq!(read.keys, KeyDocument::parse(&whole, None).unwrap().keys);
            }
        }
    }
}
