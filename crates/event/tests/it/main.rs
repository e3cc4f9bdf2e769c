//! What other servers and clients would notice of how events are read, hashed, signed and written.

#![allow(clippy::unwrap_used)]

mod canonical_json;
mod client_form;
mod graph_forms;
mod redaction;
mod vectors;
mod wire;

use std::collections::BTreeMap;

use ruma::{
    CanonicalJsonObject, RoomVersionId, ServerName,
    room_version_rules::RoomVersionRules,
    serde::Base64,
    signatures::{Ed25519KeyPair, PublicKeyMap},
    user_id,
};
use samtal_event::{Draft, Pdu, build, rules_of, sign_and_hash};

/// The key pair of the specification's test vectors.
pub(crate) fn key() -> Ed25519KeyPair {
    key_of("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1")
}

/// A key pair from a seed in base64.
pub(crate) fn key_of(seed: &str) -> Ed25519KeyPair {
    let seed: Base64 = Base64::parse(seed).unwrap();
    // A PKCS#8 document of an Ed25519 key is this head and the seed.
    let head = [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
    let document = [head.as_slice(), seed.as_bytes()].concat();
    Ed25519KeyPair::from_der(&document, "1".to_owned()).unwrap()
}

/// The public half of [`key`] as the key of this server.
pub(crate) fn keys_of(server: &str) -> PublicKeyMap {
    let public = Base64::new(key().public_key().to_vec());
    BTreeMap::from([(server.to_owned(), BTreeMap::from([("ed25519:1".to_owned(), public)]))])
}

pub(crate) fn domain() -> &'static ServerName {
    <&ServerName>::try_from("domain").unwrap()
}

pub(crate) const VERSIONS: [&RoomVersionRules; 12] = [
    &RoomVersionRules::V1,
    &RoomVersionRules::V2,
    &RoomVersionRules::V3,
    &RoomVersionRules::V4,
    &RoomVersionRules::V5,
    &RoomVersionRules::V6,
    &RoomVersionRules::V7,
    &RoomVersionRules::V8,
    &RoomVersionRules::V9,
    &RoomVersionRules::V10,
    &RoomVersionRules::V11,
    &RoomVersionRules::V12,
];

/// A create event and a message after it, signed by `domain`.
pub(crate) fn create_and_message(rules: &RoomVersionRules) -> (Pdu, Pdu) {
    let user = user_id!("@u:domain");
    let room = "!r:domain".try_into().unwrap();
    let create = Draft::from_text("m.room.create".into(), Some(String::new()), r#"{"creator":"@u:domain"}"#);
    let create = build(&create.unwrap(), user, room, &[], &[], 1, 1000, rules);
    let create = sign_and_hash(&create, domain(), &key(), rules).unwrap().into_pdu();
    let message = Draft::from_text("m.room.message".into(), None, r#"{"body":"hi"}"#).unwrap();
    let named: &[&Pdu] = &[&create];
    let message = build(&message, user, create.room_id(), named, named, 2, 2000, rules);
    let message = sign_and_hash(&message, domain(), &key(), rules).unwrap().into_pdu();
    (create, message)
}

/// An event as ruma's canonical JSON, to compare with what ruma computes.
pub(crate) fn as_ruma(pdu: &Pdu) -> CanonicalJsonObject {
    serde_json::from_str(pdu.json()).unwrap()
}

#[test]
fn every_stable_room_version_has_rules() {
    for number in 1..=12 {
        let version = RoomVersionId::try_from(number.to_string()).unwrap();
        let (ours, rumas) = (rules_of(&version).unwrap(), version.rules().unwrap());
        assert_eq!(format!("{ours:?}"), format!("{rumas:?}"));
    }
    assert!(rules_of(&RoomVersionId::try_from("13").unwrap()).is_none());
}
