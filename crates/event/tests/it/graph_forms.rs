//! How events name their room and the events before them, version by version.

use ruma::room_version_rules::RoomVersionRules;
use samtal_event::{Draft, ParsedPdu, Pdu, build, sign_and_hash};
use serde_json::Value;

use crate::{VERSIONS, create_and_message, domain, key};

fn json(pdu: &Pdu) -> Value {
    serde_json::from_str(pdu.json()).unwrap()
}

#[test]
fn room_versions_1_and_2_carry_ids_and_name_events_with_their_hashes() {
    for rules in [&RoomVersionRules::V1, &RoomVersionRules::V2] {
        let (create, message) = create_and_message(rules);
        assert_eq!(json(&message)["event_id"], message.event_id().as_str());
        let edge = &json(&message)["prev_events"][0];
        assert_eq!(edge[0], create.event_id().as_str());
        assert_eq!(edge[1]["sha256"].as_str().unwrap().len(), 43);
        assert_eq!(message.prev_events(), [create.event_id()]);
        assert_ne!(message.event_id(), create.event_id());
    }
}

#[test]
fn later_room_versions_carry_no_id_and_name_events_by_it() {
    for rules in &VERSIONS[2..] {
        let (create, message) = create_and_message(rules);
        assert_eq!(json(&message)["event_id"], Value::Null);
        assert_eq!(json(&message)["prev_events"][0], create.event_id().as_str());
        assert_eq!(message.auth_events(), [create.event_id()]);
    }
}

#[test]
fn note_26_from_room_version_12_the_room_is_named_after_its_create_event() {
    let rules = &RoomVersionRules::V12;
    let (create, message) = create_and_message(rules);
    assert_eq!(json(&create)["room_id"], Value::Null);
    assert_eq!(create.room_id().as_str()[1..], create.event_id().as_str()[1..]);
    assert_eq!(json(&message)["room_id"], create.room_id().as_str());
    // One that names a room all the same is no event.
    let mut forged = json(&create);
    forged["room_id"] = "!other:domain".into();
    assert!(ParsedPdu::from_bytes(forged.to_string().as_bytes(), rules).is_err());
}

#[test]
fn edges_of_the_other_form_are_refused() {
    let (_, old) = create_and_message(&RoomVersionRules::V2);
    let (_, new) = create_and_message(&RoomVersionRules::V10);
    assert!(ParsedPdu::from_bytes(old.json().as_bytes(), &RoomVersionRules::V10).is_err());
    let mut new = json(&new);
    new["event_id"] = "$x:domain".into();
    assert!(ParsedPdu::from_bytes(new.to_string().as_bytes(), &RoomVersionRules::V2).is_err());
}

#[test]
fn note_09_an_event_id_inside_an_event_of_a_later_version_is_just_another_field() {
    let rules = &RoomVersionRules::V10;
    let (_, message) = create_and_message(rules);
    let mut other = json(&message);
    other["event_id"] = message.event_id().as_str().into();
    let read = ParsedPdu::from_bytes(other.to_string().as_bytes(), rules).unwrap();
    assert_ne!(read.event_id(), message.event_id());
}

#[test]
fn a_redactions_target_stands_where_the_room_version_wants_it() {
    let target = ruma::event_id!("$target");
    for rules in VERSIONS {
        let (create, _) = create_and_message(rules);
        let draft = Draft::from_text("m.room.redaction".into(), None, "{}").unwrap();
        let pdu = build(&draft.redacting(target), create.sender(), create.room_id(), &[&create], &[], 2, 5, rules);
        let pdu = sign_and_hash(&pdu, domain(), &key(), rules).unwrap().into_pdu();
        let in_content = rules.redaction.content_field_redacts;
        assert_eq!(json(&pdu)["redacts"].is_string(), !in_content);
        assert_eq!(json(&pdu)["content"]["redacts"].is_string(), in_content);
        assert_eq!(pdu.redacts(), Some(target));
    }
}

#[test]
fn the_preview_before_signing_has_the_final_name() {
    let rules = &RoomVersionRules::V11;
    let (create, _) = create_and_message(rules);
    let draft = Draft::from_text("m.room.message".into(), None, "{}").unwrap();
    let unsigned = build(&draft, create.sender(), create.room_id(), &[&create], &[&create], 2, 5, rules);
    let preview = unsigned.preview(rules).unwrap();
    let signed = sign_and_hash(&unsigned, domain(), &key(), rules).unwrap();
    assert_eq!(preview.event_id(), signed.pdu().event_id());
}
