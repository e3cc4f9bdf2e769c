//! Events as clients get them.

use ruma::{event_id, room_version_rules::RoomVersionRules, user_id};
use samtal_event::{Draft, Pdu, Unsigned, build, client_form, sign_and_hash, stripped_form};
use serde_json::{Value, json};

use crate::{VERSIONS, create_and_message, domain, key};

fn form(pdu: &Pdu, unsigned: &Unsigned<'_>) -> Value {
    serde_json::from_str(client_form(pdu, Some(pdu.room_id()), unsigned).get()).unwrap()
}

fn sent(draft: &Draft, rules: &RoomVersionRules) -> Pdu {
    let (create, _) = create_and_message(rules);
    let pdu = build(draft, create.sender(), create.room_id(), &[&create], &[&create], 2, 5, rules);
    sign_and_hash(&pdu, domain(), &key(), rules).unwrap().into_pdu()
}

#[test]
fn a_client_sees_the_event_and_nothing_of_the_graph() {
    let (_, message) = create_and_message(&RoomVersionRules::V10);
    let expected = json!({
        "content": {"body": "hi"},
        "event_id": message.event_id(),
        "origin_server_ts": 2000,
        "room_id": "!r:domain",
        "sender": "@u:domain",
        "type": "m.room.message",
    });
    assert_eq!(form(&message, &Unsigned::default()), expected);
    let without_room = client_form(&message, None, &Unsigned::default());
    assert!(!without_room.get().contains("room_id"));
}

#[test]
fn the_create_event_of_room_version_12_has_its_room_for_clients() {
    let (create, _) = create_and_message(&RoomVersionRules::V12);
    let form = form(&create, &Unsigned::default());
    assert_eq!(form["room_id"], create.room_id().as_str());
    assert_eq!(form["state_key"], "");
}

#[test]
fn a_redactions_target_stands_in_both_places_in_every_version() {
    for rules in VERSIONS {
        let draft = Draft::from_text("m.room.redaction".into(), None, r#"{"reason":"r"}"#).unwrap();
        let form = form(&sent(&draft.redacting(event_id!("$t")), rules), &Unsigned::default());
        assert_eq!(form["redacts"], "$t");
        assert_eq!(form["content"], json!({"reason": "r", "redacts": "$t"}));
    }
}

#[test]
fn only_redactions_redact_and_only_from_the_place_of_their_room_version() {
    for rules in VERSIONS {
        let draft = Draft::from_text("m.room.message".into(), None, r#"{"redacts":"$c"}"#).unwrap();
        let form_of = |draft: &Draft| form(&sent(draft, rules), &Unsigned::default());
        assert_eq!(form_of(&draft.clone().with_field("redacts", "\"$t\"").unwrap())["redacts"], Value::Null);
        let draft = Draft::from_text("m.room.redaction".into(), None, draft.content()).unwrap();
        let expected = if rules.redaction.content_field_redacts { "$c" } else { "$t" };
        assert_eq!(form_of(&draft.with_field("redacts", "\"$t\"").unwrap())["redacts"], expected);
    }
}

#[test]
fn everything_the_server_knows_stands_under_unsigned() {
    let (_, message) = create_and_message(&RoomVersionRules::V11);
    let unsigned = Unsigned {
        age_ms: Some(12),
        transaction_id: Some("t\"1"),
        membership: Some("join"),
        prev_content_json: Some(r#"{"a":1}"#),
        prev_sender: Some(user_id!("@p:domain")),
        replaces_state: Some(event_id!("$r")),
        redacted_because_json: Some("{}"),
        relations_json: Some(r#"{"m.thread":{}}"#),
        extra: &[("msc4354_sticky_duration_ttl_ms", "5")],
    };
    let expected = json!({
        "age": 12,
        "transaction_id": "t\"1",
        "membership": "join",
        "prev_content": {"a": 1},
        "prev_sender": "@p:domain",
        "replaces_state": "$r",
        "redacted_because": {},
        "m.relations": {"m.thread": {}},
        "msc4354_sticky_duration_ttl_ms": 5,
    });
    assert_eq!(form(&message, &unsigned)["unsigned"], expected);
}

#[test]
fn stickiness_goes_through_and_specified_fields_cannot_be_overridden() {
    let draft = Draft::from_text("m.x".into(), None, "{}").unwrap();
    let draft = draft.with_field("msc4354_sticky", r#"{"duration_ms":1000}"#).unwrap();
    let draft = draft.with_field("sender", r#""@evil:domain""#).unwrap();
    let pdu = sent(&draft, &RoomVersionRules::V11);
    assert_eq!(pdu.sticky_str(), Some(r#"{"duration_ms":1000}"#));
    assert_eq!(pdu.sender(), "@u:domain");
    assert_eq!(form(&pdu, &Unsigned::default())["msc4354_sticky"]["duration_ms"], 1000);
}

#[test]
fn stripped_state_has_four_fields_and_the_room_its_age() {
    let (create, _) = create_and_message(&RoomVersionRules::V10);
    let mut stripped: Value = serde_json::from_str(stripped_form(&create).get()).unwrap();
    assert!(stripped.as_object_mut().unwrap().remove("origin_server_ts").unwrap().is_u64(), "{stripped}");
    assert_eq!(
        stripped,
        json!({"content": {"creator": "@u:domain"}, "sender": "@u:domain", "state_key": "", "type": "m.room.create"})
    );
    let name =
        sent(&Draft::from_text("m.room.name".into(), Some(String::new()), "{}").unwrap(), &RoomVersionRules::V10);
    let stripped: Value = serde_json::from_str(stripped_form(&name).get()).unwrap();
    assert_eq!(stripped.as_object().unwrap().len(), 4, "{stripped}");
}

#[test]
fn a_draft_takes_canonical_content_only() {
    for bad in ["[]", "1", r#"{"a":1.5}"#, r#"{"a":9007199254740992}"#, "{"] {
        assert!(Draft::from_text("m.x".into(), None, bad).is_err(), "{bad}");
    }
    let draft = Draft::from_text("m.x".into(), None, r#"{"b":1, "a":2}"#).unwrap();
    assert_eq!(draft.content(), r#"{"a":2,"b":1}"#);
}
