//! What passes and what does not.

use ruma::server_name;
use serde_json::json;

use super::*;

fn ask(settings: Settings, server: &ServerName, direction: Direction) -> Decision {
    Policy::new(settings).review(&Question::new(server, direction, Action::Request))
}

#[test]
fn an_open_tenant_talks_to_anybody_but_the_denied() {
    let settings = Settings { deny: vec![ServerRule::new("*.evil.example", "spam")], ..Settings::default() };
    assert_eq!(ask(settings.clone(), server_name!("good.example"), Direction::Inbound), Decision::Allow);
    let Decision::Deny(denial) = ask(settings, server_name!("a.evil.example:8448"), Direction::Inbound) else {
        panic!("it should be denied");
    };
    assert_eq!(denial.rule, Rule::Denied("*.evil.example".to_owned()));
    assert_eq!(denial.reason, "spam");
}

#[test]
fn an_empty_allow_list_is_nobody() {
    let settings = Settings { allow: Some(vec![]), ..Settings::default() };
    assert!(matches!(ask(settings, server_name!("good.example"), Direction::Outbound), Decision::Deny(_)));
}

#[test]
fn deny_beats_allow_and_directions_are_kept_apart() {
    let settings = Settings {
        allow: Some(vec![ServerRule::new("*.example", "partners")]),
        deny: vec![ServerRule { direction: Some(Direction::Inbound), ..ServerRule::new("loud.example", "") }],
        ..Settings::default()
    };
    let loud = server_name!("loud.example");
    assert!(matches!(ask(settings.clone(), loud, Direction::Inbound), Decision::Deny(_)));
    assert_eq!(ask(settings, loud, Direction::Outbound), Decision::Allow);
}

#[test]
fn an_acl_binds_what_others_do_and_not_what_we_send() {
    let acl = Acl::from_content(&json!({ "allow": ["*"], "deny": ["evil.example"] }));
    let room = RoomFacts { acl: Some(&acl), ..RoomFacts::default() };
    let policy = Policy::default();
    let question = |direction| Question::new(server_name!("evil.example"), direction, Action::Event).room(room);
    assert!(matches!(policy.review(&question(Direction::Inbound)), Decision::Deny(_)));
    assert_eq!(policy.review(&question(Direction::Outbound)), Decision::Allow);
}

#[test]
fn unencrypted_rooms_and_foreign_types_are_refused_only_when_known() {
    let settings = Settings { encrypted_only: true, room_types: Some(vec![String::new()]), ..Settings::default() };
    let policy = Policy::new(settings);
    let invite =
        |room| policy.review(&Question::new(server_name!("a.example"), Direction::Inbound, Action::Invite).room(room));
    assert_eq!(invite(RoomFacts::default()), Decision::Allow);
    assert!(matches!(invite(RoomFacts { encrypted: Some(false), ..RoomFacts::default() }), Decision::Deny(_)));
    assert!(matches!(invite(RoomFacts { room_type: Some("m.space"), ..RoomFacts::default() }), Decision::Deny(_)));
}

#[test]
fn a_change_applies_at_once_and_refusals_are_counted_and_explained() {
    let policy = Policy::default();
    let server = server_name!("a.example");
    let question = Question::new(server, Direction::Inbound, Action::Request);
    assert_eq!(policy.review(&question), Decision::Allow);
    policy.replace(Settings { default: Unnamed::Closed, ..Settings::default() });
    assert!(matches!(policy.review(&question), Decision::Deny(_)));
    assert_eq!(policy.counts().denied_by_server.get(server), Some(&1));
    let lines = policy.explain(server);
    assert!(lines.iter().any(|line| line.contains("closed by default")), "{lines:?}");
    assert!(lines.iter().any(|line| line == "refused so far: 1"), "{lines:?}");
}

#[test]
fn settings_survive_their_stored_form() {
    let settings = Settings {
        allow: Some(vec![ServerRule::new("*.gov.example", "contract")]),
        encrypted_only: true,
        ..Settings::default()
    };
    assert_eq!(Settings::from_json(&settings.to_json().unwrap()).unwrap(), settings);
    assert!(Settings::from_json(r#"{"alow":[]}"#).is_err());
}
