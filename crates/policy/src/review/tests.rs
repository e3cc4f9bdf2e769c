//! What passes and what does not.

use ruma::server_name;
use serde_json::json;

use super::*;
use crate::StoredRule;

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
fn an_empty_allow_list_of_a_closed_tenant_is_nobody() {
    for direction in Direction::ALL {
        assert!(matches!(ask(Settings::only(&[]), server_name!("good.example"), direction), Decision::Deny(_)));
        assert_eq!(ask(Settings::only(&["*.example"]), server_name!("good.example"), direction), Decision::Allow);
    }
}

#[test]
fn what_is_switched_off_no_rule_switches_on() {
    let settings = Settings { enabled: false, ..Settings::only(&["*"]) };
    let decision = ask(settings, server_name!("a.example"), Direction::Outbound);
    assert_eq!(decision, Decision::Deny(Denial { rule: Rule::Off, reason: String::new() }));
}

#[test]
fn deny_beats_allow_and_directions_are_kept_apart() {
    let settings = Settings {
        deny: vec![ServerRule { direction: Some(Direction::Inbound), ..ServerRule::new("loud.example", "") }],
        ..Settings::only(&["*.example"])
    };
    let loud = server_name!("loud.example");
    assert!(matches!(ask(settings.clone(), loud, Direction::Inbound), Decision::Deny(_)));
    assert_eq!(ask(settings, loud, Direction::Outbound), Decision::Allow);
}

#[test]
fn a_rule_for_one_kind_is_for_that_kind_only() {
    let of_kind = |server, action| ServerRule { action: Some(action), ..ServerRule::new(server, "") };
    let policy = Policy::new(Settings { deny: vec![of_kind("a.example", Action::Media)], ..Settings::default() });
    let ask = |policy: &Policy, action| {
        policy.review(&Question::new(server_name!("a.example"), Direction::Inbound, action)) == Decision::Allow
    };
    assert!(ask(&policy, Action::Request) && ask(&policy, Action::Event) && !ask(&policy, Action::Media));
    let closed = Settings { allow: vec![of_kind("a.example", Action::Media)], ..Settings::only(&[]) };
    policy.replace(closed);
    assert!(ask(&policy, Action::Request), "or no media request would come through");
    assert!(ask(&policy, Action::Media) && !ask(&policy, Action::Event) && !ask(&policy, Action::Query));
}

#[test]
fn stored_rules_go_before_the_files() {
    let stored = |effect, server| StoredRule { effect, rule: ServerRule::new(server, ""), since_ms: 0 };
    let policy = Policy::new(Settings {
        deny: vec![ServerRule::new("once-bad.example", "")],
        ..Settings::only(&["partner.example"])
    });
    policy.replace_stored(Stored {
        rules: vec![stored(Effect::Deny, "partner.example"), stored(Effect::Allow, "once-bad.example")],
        default_inbound: Some(Unnamed::Open),
        ..Stored::default()
    });
    let ask = |server, direction| policy.review(&Question::new(server, direction, Action::Event)) == Decision::Allow;
    assert!(!ask(server_name!("partner.example"), Direction::Inbound));
    assert!(ask(server_name!("once-bad.example"), Direction::Inbound));
    assert!(ask(server_name!("other.example"), Direction::Inbound), "the stored default is open");
    assert!(!ask(server_name!("other.example"), Direction::Outbound), "the file's is closed");
    // A new file leaves what is stored.
    policy.replace(Settings::default());
    assert!(!ask(server_name!("partner.example"), Direction::Inbound));
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
    assert!(matches!(invite(RoomFacts { federate: Some(false), ..RoomFacts::default() }), Decision::Deny(_)));
}

#[test]
fn an_invitation_that_nobody_wants_is_refused_and_one_of_a_stranger_waits() {
    let policy = Policy::new(Settings {
        hold_unknown_invites: true,
        allow: vec![ServerRule::new("known.example", "")],
        ..Settings::default()
    });
    let question = Question::new(server_name!("known.example"), Direction::Inbound, Action::Invite);
    let denied = policy.review(&question.unwanted(true));
    assert_eq!(denied, Decision::Deny(Denial { rule: Rule::NotWanted, reason: String::new() }));
    assert_eq!(policy.review(&question), Decision::Allow);
    let stranger = Question::new(server_name!("stranger.example"), Direction::Inbound, Action::Invite);
    assert_eq!(policy.review(&stranger), Decision::Hold(Rule::UnknownInvite));
}

#[test]
fn a_change_applies_at_once_and_is_explained_and_answers_are_counted() {
    let policy = Policy::default();
    let server = server_name!("a.example");
    let question = Question::new(server, Direction::Inbound, Action::Query);
    assert_eq!(policy.review(&question), Decision::Allow);
    policy.replace(Settings::only(&[]));
    assert!(matches!(policy.review(&question), Decision::Deny(_)));
    let count =
        |outcome| policy.decided().iter().find(|decided| decided.outcome == outcome).map(|decided| decided.count);
    assert_eq!((count("allow"), count("deny"), count("hold")), (Some(1), Some(1), None));
    let explained = policy.explain(server, RoomFacts::default());
    assert_eq!(explained.len(), Direction::ALL.len() * Action::ALL.len());
    assert!(
        explained.iter().all(|line| line.outcome == "deny" && line.why.contains("closed by default (in the file)"))
    );
    assert_eq!(policy.decided().iter().map(|decided| decided.count).sum::<u64>(), 2, "explaining counts nothing");
}

#[test]
fn paths_say_what_requests_carry() {
    for (path, action) in [
        ("/_matrix/federation/v1/media/download/abc?timeout_ms=1", Some(Action::Media)),
        ("/_matrix/federation/v1/query/profile?user_id=x", Some(Action::Query)),
        ("/_matrix/federation/v1/publicRooms?limit=1", Some(Action::Query)),
        ("/_matrix/federation/v1/user/keys/claim", Some(Action::Query)),
        ("/_matrix/federation/v2/send_join/!r/$e", None),
        ("/_matrix/key/v2/server", None),
    ] {
        assert_eq!(Action::of_path(path), action, "{path}");
    }
}
