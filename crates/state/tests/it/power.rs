//! Power levels by room version.

use ruma::{events::room::power_levels::UserPowerLevel, room_version_rules::RoomVersionRules};
use samtal_event::{Draft, Pdu};
use samtal_state::PowerLevels;
use serde_json::{Value, json};

use crate::world::{World, user};

fn levels(rules: &'static RoomVersionRules, content: Option<Value>) -> Result<PowerLevels, String> {
    let mut world = World::new(rules);
    let create: Pdu = world.pdu(world.number("create")).clone();
    let event = content.map(|content| {
        let draft = Draft::from_text("m.room.power_levels".into(), Some(String::new()), &content.to_string());
        let start = world.number("start");
        world.make(&[start], "alice", &draft.unwrap(), None).0
    });
    PowerLevels::new(&create, event.as_ref(), rules).map_err(|refused| refused.reason)
}

fn int(level: i32) -> UserPowerLevel {
    UserPowerLevel::Int(level.into())
}

#[test]
fn note_17_without_an_event_the_creator_has_100_and_others_0() {
    let power = levels(&RoomVersionRules::V11, None).unwrap();
    assert_eq!(power.user_level(&user("alice")), int(100));
    assert_eq!(power.user_level(&user("bob")), int(0));
    assert_eq!(power.event_level(&"m.room.name".into(), true), 50);
    assert_eq!(power.event_level(&"m.room.message".into(), false), 0);
    assert!(power.can_invite(&user("bob")));
    assert!(!power.can_kick(&user("bob"), &user("carol")));
}

#[test]
fn with_an_event_the_creator_is_as_others_before_room_version_12() {
    let power = levels(&RoomVersionRules::V11, Some(json!({}))).unwrap();
    assert_eq!(power.user_level(&user("alice")), int(0));
    assert_eq!(power.event_level(&"m.room.name".into(), true), 50);
}

#[test]
fn creators_are_above_all_numbers_from_room_version_12() {
    let users = json!({"users": {"@bob:domain": 9_007_199_254_740_991_i64}});
    let power = levels(&RoomVersionRules::V12, Some(users)).unwrap();
    assert_eq!(power.user_level(&user("alice")), UserPowerLevel::Infinite);
    assert!(power.can_kick(&user("alice"), &user("bob")));
    assert!(!power.can_kick(&user("bob"), &user("alice")));
    assert!(!power.can_kick(&user("alice"), &user("alice")));
}

#[test]
fn note_19_numbers_may_be_text_up_to_room_version_9() {
    let text = json!({"users": {"@bob:domain": " +050 "}, "ban": "7"});
    let power = levels(&RoomVersionRules::V9, Some(text.clone())).unwrap();
    assert_eq!(power.user_level(&user("bob")), int(50));
    assert!(levels(&RoomVersionRules::V10, Some(text)).is_err());
}

#[test]
fn note_07_a_redaction_takes_effect_with_the_level_or_from_the_same_server() {
    let power = levels(&RoomVersionRules::V11, Some(json!({"users": {"@bob:domain": 50}}))).unwrap();
    let stranger = ruma::user_id!("@x:elsewhere");
    assert!(power.can_redact(&user("bob"), stranger));
    assert!(!power.can_redact(&user("carol"), stranger));
    assert!(power.can_redact(&user("carol"), &user("bob")));
    assert!(power.can_notify(&user("bob"), "room") && !power.can_notify(&user("carol"), "room"));
}
