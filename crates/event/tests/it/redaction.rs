//! What survives a redaction, version by version.

use ruma::{canonical_json::redact as ruma_redact, room_version_rules::RoomVersionRules};
use samtal_event::{ParsedPdu, prune_content, redact};
use serde_json::{Value, json};

use crate::{VERSIONS, as_ruma, create_and_message};

fn pruned(event_type: &str, content: Value, rules: &RoomVersionRules) -> Value {
    let text = prune_content(event_type, &content.to_string(), rules).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn note_06_what_survives_follows_the_room_version() {
    let v = |number: usize| VERSIONS[number - 1];
    let levels = json!({"ban":1,"events":{},"events_default":1,"invite":1,"kick":1,"notifications":{},"redact":1,"state_default":1,"users":{},"users_default":1});
    let mut kept = levels.clone();
    kept.as_object_mut().unwrap().remove("notifications");
    assert_eq!(pruned("m.room.power_levels", levels.clone(), v(11)), kept);
    kept.as_object_mut().unwrap().remove("invite");
    assert_eq!(pruned("m.room.power_levels", levels, v(10)), kept);

    let create = json!({"creator":"@a:b","m.federate":false,"room_version":"1"});
    assert_eq!(pruned("m.room.create", create.clone(), v(10)), json!({"creator":"@a:b"}));
    assert_eq!(pruned("m.room.create", create.clone(), v(11)), create);

    let rules = json!({"join_rule":"restricted","allow":[],"x":1});
    assert_eq!(pruned("m.room.join_rules", rules.clone(), v(7)), json!({"join_rule":"restricted"}));
    assert_eq!(pruned("m.room.join_rules", rules, v(8)), json!({"join_rule":"restricted","allow":[]}));

    let member = json!({"membership":"join","displayname":"A","join_authorised_via_users_server":"@a:b","third_party_invite":{"display_name":"x","signed":{"token":"t"}}});
    assert_eq!(pruned("m.room.member", member.clone(), v(8)), json!({"membership":"join"}));
    assert_eq!(
        pruned("m.room.member", member.clone(), v(9)),
        json!({"membership":"join","join_authorised_via_users_server":"@a:b"})
    );
    assert_eq!(
        pruned("m.room.member", member, v(11)),
        json!({"membership":"join","join_authorised_via_users_server":"@a:b","third_party_invite":{"signed":{"token":"t"}}})
    );

    let aliases = json!({"aliases":["#a:b"]});
    assert_eq!(pruned("m.room.aliases", aliases.clone(), v(5)), aliases);
    assert_eq!(pruned("m.room.aliases", aliases, v(6)), json!({}));

    let redaction = json!({"redacts":"$a","reason":"r"});
    assert_eq!(pruned("m.room.redaction", redaction.clone(), v(10)), json!({}));
    assert_eq!(pruned("m.room.redaction", redaction, v(11)), json!({"redacts":"$a"}));

    let visibility = json!({"history_visibility":"shared","x":1});
    assert_eq!(pruned("m.room.history_visibility", visibility, v(12)), json!({"history_visibility":"shared"}));
    assert_eq!(pruned("m.room.message", json!({"body":"x"}), v(12)), json!({}));
    assert_eq!(pruned("m.room.name", json!({"name":"x"}), v(1)), json!({}));
}

#[test]
fn a_redacted_event_keeps_its_name_and_is_what_ruma_makes_of_it() {
    for rules in VERSIONS {
        for pdu in <[_; 2]>::from(create_and_message(rules)) {
            let ours = redact(&pdu, rules).unwrap();
            let theirs = ruma_redact(as_ruma(&pdu), &rules.redaction, None).unwrap();
            assert_eq!(as_ruma(&ours), theirs);
            assert_eq!(ours.event_id(), pdu.event_id());
            // Sent to another server, it is named the same there.
            let read = ParsedPdu::from_bytes(ours.json().as_bytes(), rules).unwrap();
            assert_eq!(read.event_id(), pdu.event_id());
            assert_eq!(redact(&ours, rules).unwrap(), ours);
        }
    }
}

#[test]
fn a_third_party_invite_that_is_no_object_does_not_survive() {
    let content = json!({"membership":"invite","third_party_invite":"x"});
    let kept = pruned("m.room.member", content, &RoomVersionRules::V11);
    assert_eq!(kept, json!({"membership":"invite"}));
    let content = json!({"membership":"invite","third_party_invite":{"display_name":"x"}});
    let kept = pruned("m.room.member", content, &RoomVersionRules::V11);
    assert_eq!(kept, json!({"membership":"invite","third_party_invite":{}}));
}
