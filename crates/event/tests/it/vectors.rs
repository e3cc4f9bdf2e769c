//! The specification's cryptographic test vectors, and agreement with ruma on every version.

use ruma::{
    room_version_rules::RoomVersionRules,
    signatures::{self, KeyPair},
};
use samtal_event::{
    ParsedPdu, Verified, content_hash,
    json::{Numbers, parse_object},
    reference_hash, verify,
};

use crate::{VERSIONS, as_ruma, create_and_message, key, keys_of};

const MINIMAL: &str = r#"{"auth_events":[],"content":{},"depth":3,"hashes":{"sha256":"5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos"},"origin":"domain","origin_server_ts":1000000,"prev_events":[],"room_id":"!x:domain","sender":"@a:domain","signatures":{"domain":{"ed25519:1":"KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg"}},"type":"X","unsigned":{"age_ts":1000000}}"#;

const WITH_BODY: &str = r#"{"content":{"body":"Here is the message content"},"event_id":"$0:domain","origin":"domain","origin_server_ts":1000000,"type":"m.room.message","room_id":"!r:domain","sender":"@u:domain","signatures":{},"unsigned":{"age_ts":1000000}}"#;

#[test]
fn json_is_signed_as_the_specification_says() {
    for (text, signature) in [
        ("{}", "K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ"),
        (
            r#"{"one":1,"two":"Two"}"#,
            "KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw",
        ),
    ] {
        let canonical = parse_object(text, Numbers::Strict).unwrap().to_canonical();
        assert_eq!(key().sign(canonical.as_bytes()).base64(), signature);
    }
}

#[test]
fn note_03_content_hashes_are_the_specifications() {
    for (text, hash) in [
        (MINIMAL, "5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos"),
        (WITH_BODY, "onLKD1bGljeBWQhWZ1kaP9SorVmRQNdN5aM2JYU2n/g"),
    ] {
        assert_eq!(content_hash(&parse_object(text, Numbers::Strict).unwrap()), hash);
    }
}

#[test]
fn the_minimal_events_signature_verifies() {
    let rules = &RoomVersionRules::V5;
    let parsed = ParsedPdu::from_bytes(MINIMAL.as_bytes(), rules).unwrap();
    assert!(matches!(verify(&parsed, &keys_of("domain"), rules), Ok(Verified::All(_))));
}

#[test]
fn every_room_version_hashes_and_signs_as_ruma_does() {
    for rules in VERSIONS {
        for pdu in <[_; 2]>::from(create_and_message(rules)) {
            let theirs = as_ruma(&pdu);
            let ours = parse_object(pdu.json(), Numbers::Strict).unwrap();
            let expected = signatures::content_hash(&theirs).unwrap().encode();
            assert_eq!(content_hash(&ours), expected);
            let expected = signatures::reference_hash(&theirs, rules).unwrap();
            if rules.event_format.require_event_id {
                assert!(pdu.event_id().as_str().ends_with(":domain"));
                assert_eq!(reference_hash(&ours, rules).len(), 32);
            } else {
                assert_eq!(pdu.event_id().as_str(), format!("${expected}"));
            }
            let verified = signatures::verify_event(&keys_of("domain"), &theirs, rules);
            assert_eq!(verified.unwrap(), signatures::Verified::All);
        }
    }
}

#[test]
fn note_03_known_events_have_known_ids() {
    // Room version 3 uses the standard alphabet, 4 and later the URL-safe one.
    let event = parse_object(MINIMAL, Numbers::Strict).unwrap();
    let id = |rules| samtal_event::event_id(&event, rules).unwrap().to_string();
    let three = id(&RoomVersionRules::V3);
    assert_eq!(three.replace('+', "-").replace('/', "_"), id(&RoomVersionRules::V4));
    assert_eq!(id(&RoomVersionRules::V4), id(&RoomVersionRules::V10));
    // `origin` counts until room version 10 and not afterwards.
    assert_ne!(id(&RoomVersionRules::V10), id(&RoomVersionRules::V11));
    assert_eq!(id(&RoomVersionRules::V11), id(&RoomVersionRules::V12));
}
