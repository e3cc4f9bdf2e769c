//! Events from outside: limits, signatures, hashes.

use ruma::room_version_rules::RoomVersionRules;
use samtal_event::{
    FormatError, Origin, PDU_BYTES_MAX, ParsedPdu, Pdu, Verified, VerifyError, cosign, has_valid_signature, peek,
    required_signatures, verify,
};
use serde_json::{Value, json};

use crate::{VERSIONS, create_and_message, domain, key, key_of, keys_of};

const V11: &RoomVersionRules = &RoomVersionRules::V11;

fn message() -> Value {
    serde_json::from_str(create_and_message(V11).1.json()).unwrap()
}

fn read(event: &Value, rules: &RoomVersionRules) -> Result<ParsedPdu, FormatError> {
    ParsedPdu::from_bytes(event.to_string().as_bytes(), rules)
}

#[test]
fn an_event_is_the_same_after_a_round_trip() {
    for rules in VERSIONS {
        for pdu in <[_; 2]>::from(create_and_message(rules)) {
            let parsed = ParsedPdu::from_bytes(pdu.json().as_bytes(), rules).unwrap();
            let verified = verify(&parsed, &keys_of("domain"), rules).unwrap();
            assert!(matches!(verified, Verified::All(_)));
            assert_eq!(verified.into_pdu(), pdu);
            let stored = Pdu::from_stored(pdu.event_id().to_owned(), pdu.json(), rules).unwrap();
            assert_eq!(stored.room_id(), pdu.room_id());
            assert_eq!(stored, pdu);
        }
    }
}

#[test]
fn note_10_what_stood_at_the_top_of_old_events_is_not_missed() {
    let event = message();
    for name in ["origin", "prev_state", "membership"] {
        assert!(event.get(name).is_none(), "ours have no {name}");
    }
    for rules in VERSIONS {
        let event: Value = serde_json::from_str(create_and_message(rules).1.json()).unwrap();
        assert!(read(&event, rules).is_ok());
        let mut old = event.clone();
        old["origin"] = "domain".into();
        old["prev_state"] = json!([]);
        old["membership"] = "join".into();
        assert!(read(&old, rules).is_ok());
    }
}

#[test]
fn note_02_foreign_unsigned_is_taken_off_and_not_measured() {
    let mut event = message();
    event["unsigned"] = json!({"age": 1, "junk": "x".repeat(100_000)});
    let parsed = read(&event, V11).unwrap();
    assert!(!parsed.unverified().json().contains("unsigned"));
}

#[test]
fn note_02_an_event_may_have_65536_bytes_and_no_more() {
    let mut event = message();
    event["content"]["body"] = "".into();
    let rest = event.to_string().len();
    event["content"]["body"] = "x".repeat(PDU_BYTES_MAX - rest).into();
    assert!(read(&event, V11).is_ok());
    event["content"]["body"] = "x".repeat(PDU_BYTES_MAX - rest + 1).into();
    assert!(matches!(read(&event, V11), Err(FormatError::TooLarge)));
}

#[test]
fn note_02_types_and_state_keys_may_have_255_bytes() {
    for name in ["type", "state_key"] {
        let mut event = message();
        event[name] = "x".repeat(255).into();
        assert!(read(&event, V11).is_ok());
        event[name] = "x".repeat(256).into();
        assert!(matches!(read(&event, V11), Err(FormatError::TooLong(_))));
        assert!(matches!(read(&event, &RoomVersionRules::V10), Err(FormatError::TooLong(_))));
    }
}

#[test]
fn note_02_in_old_rooms_what_is_too_long_only_in_bytes_is_kept_to_be_rejected() {
    let mut event = message();
    event["state_key"] = "é".repeat(200).into();
    assert!(matches!(read(&event, V11), Err(FormatError::TooLong("state_key"))));
    assert!(read(&event, &RoomVersionRules::V10).unwrap().must_be_rejected());
    event["state_key"] = "é".repeat(100).into();
    assert!(!read(&event, &RoomVersionRules::V10).unwrap().must_be_rejected());
}

#[test]
fn note_08_live_events_may_name_20_and_10_others_and_history_more() {
    for (name, most) in [("prev_events", 20), ("auth_events", 10)] {
        let mut event = message();
        event[name] = (0..most).map(|n| format!("${n}")).collect();
        assert!(read(&event, V11).is_ok());
        event[name] = (0..=most).map(|n| format!("${n}")).collect();
        assert!(matches!(read(&event, V11), Err(FormatError::TooMany(_))));
        let bytes = event.to_string();
        assert!(ParsedPdu::from_bytes_of(bytes.as_bytes(), V11, Origin::History).is_ok());
    }
}

#[test]
fn malformed_fields_are_refused() {
    let bad = [
        ("type", json!(1)),
        ("sender", json!("nobody")),
        ("sender", Value::Null),
        ("room_id", json!("room")),
        ("state_key", json!(1)),
        ("content", json!([])),
        ("depth", json!("1")),
        ("depth", json!(-1)),
        ("origin_server_ts", json!("now")),
        ("prev_events", json!({})),
        ("prev_events", json!([1])),
        ("auth_events", Value::Null),
        ("hashes", json!([])),
        ("signatures", Value::Null),
    ];
    for (name, value) in bad {
        let mut event = message();
        event[name] = value.clone();
        assert!(read(&event, V11).is_err(), "{name} = {value}");
    }
    // Not needed on receipt.
    for name in ["origin", "prev_state", "membership"] {
        assert!(message().get(name).is_none());
    }
}

#[test]
fn note_01_a_float_drops_an_event_from_room_version_6_and_counts_digit_by_digit_before() {
    let mut event = message();
    event["content"]["level"] = json!(1.5);
    assert!(read(&event, V11).is_err());
    assert!(read(&event, &RoomVersionRules::V5).is_ok());
    let text = event.to_string();
    let other = text.replace("1.5", "1.50");
    let id = |text: &str| {
        let text = text.replace("m.room.message", "m.room.create").replace("level", "creator");
        let parsed = ParsedPdu::from_bytes(text.as_bytes(), &RoomVersionRules::V5).unwrap();
        parsed.event_id().to_owned()
    };
    assert_ne!(id(&text), id(&other));
}

#[test]
fn note_08_a_huge_depth_saturates_in_old_rooms() {
    let text = message().to_string().replace("\"depth\":2", "\"depth\":9223372036854775807");
    let parsed = ParsedPdu::from_bytes(text.as_bytes(), &RoomVersionRules::V5).unwrap();
    assert_eq!(parsed.unverified().depth(), samtal_event::DEPTH_MAX);
    assert!(ParsedPdu::from_bytes(text.as_bytes(), V11).is_err());
}

#[test]
fn note_04_changed_content_leaves_the_redacted_copy() {
    let mut event = message();
    event["content"]["body"] = "forged".into();
    let parsed = read(&event, V11).unwrap();
    let Ok(Verified::ContentHashMismatch(pdu)) = verify(&parsed, &keys_of("domain"), V11) else {
        panic!("not redacted");
    };
    assert_eq!(pdu.content_str(), "{}");
    assert_eq!(pdu.event_id(), parsed.event_id());
}

#[test]
fn a_changed_protected_field_a_missing_key_or_signature_drops_the_event() {
    let keys = keys_of("domain");
    let mut event = message();
    event["depth"] = 7.into();
    let forged = read(&event, V11).unwrap();
    assert!(matches!(verify(&forged, &keys, V11), Err(VerifyError::BadSignature(_))));

    let parsed = read(&message(), V11).unwrap();
    assert!(matches!(verify(&parsed, &keys_of("other"), V11), Err(VerifyError::Unsigned(_))));

    let mut event = message();
    event["signatures"] = json!({});
    let unsigned = read(&event, V11).unwrap();
    assert!(matches!(verify(&unsigned, &keys, V11), Err(VerifyError::Unsigned(_))));
}

#[test]
fn note_05_signatures_with_unknown_keys_are_skipped_but_all_known_must_be_right() {
    let keys = keys_of("domain");
    let mut event = message();
    let good = event["signatures"]["domain"]["ed25519:1"].clone();
    event["signatures"]["domain"]["ed25519:unknown"] = "AAAA".into();
    event["signatures"]["elsewhere"] = json!({"ed25519:1": "AAAA"});
    assert!(verify(&read(&event, V11).unwrap(), &keys, V11).is_ok());

    let mut keys = keys;
    let second = key_of("AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA");
    let second = ruma::serde::Base64::new(second.public_key().to_vec());
    keys.get_mut("domain").unwrap().insert("ed25519:2".to_owned(), second);
    event["signatures"]["domain"]["ed25519:2"] = good;
    let parsed = read(&event, V11).unwrap();
    assert!(matches!(verify(&parsed, &keys, V11), Err(VerifyError::BadSignature(_))));
}

fn servers(event: &Value, rules: &RoomVersionRules) -> Vec<String> {
    let required = required_signatures(&read(event, rules).unwrap(), rules).unwrap();
    required.into_iter().map(|required| required.server.to_string()).collect()
}

#[test]
fn note_05_the_right_servers_must_have_signed() {
    let mut join = message();
    join["type"] = "m.room.member".into();
    join["state_key"] = "@u:domain".into();
    join["content"] = json!({"membership": "join", "join_authorised_via_users_server": "@x:vouching"});
    assert_eq!(servers(&join, V11), ["domain", "vouching"]);
    assert_eq!(servers(&join, &RoomVersionRules::V7), ["domain"]);

    let mut invite = join.clone();
    invite["content"] = json!({"membership": "invite", "third_party_invite": {"signed": {}}});
    assert!(servers(&invite, V11).is_empty());
    invite["content"] = json!({"membership": "invite"});
    assert_eq!(servers(&invite, V11), ["domain"]);

    let (_, old) = create_and_message(&RoomVersionRules::V2);
    let mut old: Value = serde_json::from_str(old.json()).unwrap();
    old["event_id"] = "$x:elsewhere".into();
    assert_eq!(servers(&old, &RoomVersionRules::V2), ["domain", "elsewhere"]);
}

#[test]
fn the_keys_to_fetch_are_named() {
    let required = required_signatures(&read(&message(), V11).unwrap(), V11).unwrap();
    assert_eq!(required[0].key_ids, ["ed25519:1"]);
}

#[test]
fn our_signature_can_be_added_to_anothers_event() {
    let parsed = read(&message(), V11).unwrap();
    let ours = <&ruma::ServerName>::try_from("ours").unwrap();
    let pdu = cosign(parsed.unverified(), ours, &key(), V11).unwrap();
    assert_eq!(pdu.event_id(), parsed.event_id());
    assert!(has_valid_signature(&pdu, ours, &keys_of("ours"), V11));
    assert!(has_valid_signature(&pdu, domain(), &keys_of("domain"), V11));
    assert!(!has_valid_signature(parsed.unverified(), ours, &keys_of("ours"), V11));
}

#[test]
fn a_peek_tells_the_room_before_the_version_is_known() {
    let text = message().to_string();
    let peeked = peek(text.as_bytes()).unwrap();
    assert_eq!(peeked.room_id.unwrap(), "!r:domain");
    assert_eq!(peeked.event_type, "m.room.message");
    assert!(peek(b"[]").is_none());
}
