//! Our own signing keys: one in use, and those before it.

use std::{fmt, sync::Arc};

use ruma::{ServerName, serde::Base64, signatures::Ed25519KeyPair};
use samtal_event::json::{JsonError, Numbers, Object, Value, parse_object};
use samtal_kit::signed_ms;

use crate::signed;

/// An Ed25519 private key in PKCS #8 begins with this (RFC 8410); the 32 bytes of the seed follow.
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// A signing key of ours.
#[derive(Clone)]
pub struct OwnKey {
    id: String,
    pair: Arc<Ed25519KeyPair>,
    /// Since when, in ms since the epoch.
    pub created_ms: u64,
    /// Until when, for one that is no longer in use.
    pub expired_ms: Option<u64>,
}

impl fmt::Debug for OwnKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnKey({})", self.id)
    }
}

impl OwnKey {
    /// The key made of a 32-byte seed. The id is `ed25519:` and a name; nothing for another id.
    pub fn from_seed(id: &str, seed: [u8; 32], created_ms: u64, expired_ms: Option<u64>) -> Option<Self> {
        let name = id.strip_prefix("ed25519:").filter(|name| !name.is_empty())?;
        let pair = Ed25519KeyPair::from_der(&[PKCS8_PREFIX.as_slice(), &seed].concat(), name.to_owned()).ok()?;
        Some(Self { id: id.to_owned(), pair: Arc::new(pair), created_ms, expired_ms })
    }

    /// `ed25519:name`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The pair, to sign with.
    pub fn pair(&self) -> &Ed25519KeyPair {
        &self.pair
    }

    /// The public half.
    pub fn public_key(&self) -> [u8; 32] {
        self.pair.public_key()
    }
}

/// All our keys; there is always one in use.
#[derive(Clone, Debug)]
pub struct OwnKeys {
    current: OwnKey,
    old: Vec<OwnKey>,
}

impl OwnKeys {
    /// The newest key that has not expired is the one in use; nothing if there is none.
    pub fn new(keys: Vec<OwnKey>) -> Option<Self> {
        let (mut current, old): (Vec<_>, Vec<_>) = keys.into_iter().partition(|key| key.expired_ms.is_none());
        current.sort_by_key(|key| key.created_ms);
        Some(Self { current: current.pop()?, old })
    }

    /// The key in use.
    pub fn current(&self) -> &OwnKey {
        &self.current
    }

    /// All keys, the one in use first.
    pub fn iter(&self) -> impl Iterator<Item = &OwnKey> {
        std::iter::once(&self.current).chain(&self.old)
    }

    /// What we publish at `/_matrix/key/v2/server`, signed.
    pub fn document(&self, server: &ServerName, valid_until_ms: u64) -> String {
        let mut current = Object::new();
        current.insert("key", Value::from(encoded(&self.current)));
        let mut verify_keys = Object::new();
        verify_keys.insert(self.current.id().to_owned(), current);
        let mut old_verify_keys = Object::new();
        for key in &self.old {
            let mut entry = Object::new();
            entry.insert("key", Value::from(encoded(key)));
            entry.insert("expired_ts", Value::from(int(key.expired_ms.unwrap_or(0))));
            old_verify_keys.insert(key.id().to_owned(), entry);
        }
        let mut document = Object::new();
        document.insert("server_name", Value::from(server.as_str()));
        document.insert("valid_until_ts", Value::from(int(valid_until_ms)));
        document.insert("verify_keys", verify_keys);
        document.insert("old_verify_keys", old_verify_keys);
        self.add_signature(server, &mut document);
        document.to_canonical()
    }

    /// Signs any JSON object, next to the signatures it has.
    pub(crate) fn sign_object(&self, server: &ServerName, text: &str) -> Result<String, JsonError> {
        let mut object = parse_object(text, Numbers::Lax)?;
        self.add_signature(server, &mut object);
        Ok(object.to_canonical())
    }

    fn add_signature(&self, server: &ServerName, object: &mut Object<'_>) {
        use ruma::signatures::KeyPair;
        let bytes = signed::bytes_of(&mut object.clone());
        let signature = self.current.pair.sign(bytes.as_bytes()).base64();
        if object.get("signatures").is_none_or(|signatures| signatures.as_object().is_none()) {
            object.insert("signatures", Object::new());
        }
        if let Some(ours) = object.object_mut("signatures").and_then(|all| all.object_mut(server.as_str())) {
            ours.insert(self.current.id().to_owned(), Value::from(signature));
        }
    }
}

fn encoded(key: &OwnKey) -> String {
    let base64: Base64 = Base64::new(key.public_key().to_vec());
    base64.encode()
}

fn int(ms: u64) -> i64 {
    signed_ms(ms).min(samtal_event::json::INT_MAX)
}
