//! What is allowed and what is refused.

use proptest::prelude::*;
use ruma::{
    events::StateEventType,
    room_version_rules::{AuthorizationRules, RoomVersionRules},
};
use samtal_event::{Draft, Pdu};
use samtal_state::{
    AuthState,
    authorize::{auth_keys_of, auth_keys_of_draft, check_against, check_own_auth_events},
};
use serde_json::{Value, json};

use crate::world::{State, World, draft, user};

const V11: &RoomVersionRules = &RoomVersionRules::V11;
const V12: &RoomVersionRules = &RoomVersionRules::V12;

fn find(world: &World, state: &State, kind: &StateEventType, key: &str) -> Option<Pdu> {
    state.get(&(kind.clone(), key.to_owned())).map(|number| world.pdu(*number).clone())
}

/// Whether the words are allowed at `start`, asked in all ways there are.
#[track_caller]
fn allowed(rules: &'static RoomVersionRules, before: &str, sender: &str, words: &[&str]) -> bool {
    let mut world = World::of(rules, before);
    let last = i64::try_from(world.events.len()).unwrap() - 1;
    let wish = draft(sender, words, rules);
    let (pdu, state) = world.make(&[last], sender, &wish, None);
    let slow = check_against(&pdu, rules, |kind, key| find(&world, &state, kind, key)).is_ok();
    let own = check_own_auth_events(&pdu, rules, |id| world.by_id(id)).is_ok();
    let get = |kind: StateEventType| find(&world, &state, &kind, "");
    let auth = AuthState::new(
        get(StateEventType::RoomCreate).unwrap(),
        get(StateEventType::RoomPowerLevels),
        get(StateEventType::RoomJoinRules),
        rules,
    )
    .unwrap();
    let fast = auth.check(&pdu, rules, |kind, key| find(&world, &state, kind, key)).is_ok();
    assert_eq!((slow, own), (fast, fast));
    fast
}

#[test]
fn members_talk_and_strangers_do_not() {
    assert!(allowed(V11, "", "bob", &["message"]));
    assert!(!allowed(V11, "", "dave", &["message"]));
    assert!(!allowed(V11, "ban <- start : alice ban bob", "bob", &["message"]));
    assert!(!allowed(V11, "gone <- start : bob leave", "bob", &["message"]));
}

#[test]
fn state_needs_its_level() {
    assert!(allowed(V11, "", "bob", &["name", "x"]));
    assert!(!allowed(V11, "", "carol", &["name", "x"]));
    // The levels of `start` put topics at 0.
    assert!(allowed(V11, "", "carol", &["topic", "x"]));
}

#[test]
fn nobody_kicks_or_bans_an_equal() {
    assert!(allowed(V11, "", "bob", &["kick", "carol"]));
    assert!(!allowed(V11, "", "bob", &["ban", "alice"]));
    assert!(!allowed(V11, "", "carol", &["kick", "bob"]));
}

#[test]
fn note_18_levels_are_not_raised_above_ones_own_and_equals_are_not_lowered() {
    assert!(allowed(V11, "", "bob", &["levels", "alice=100", "bob=50", "carol=50"]));
    assert!(!allowed(V11, "", "bob", &["levels", "alice=100", "bob=50", "carol=51"]));
    assert!(!allowed(V11, "", "bob", &["levels", "alice=0", "bob=50"]));
    assert!(allowed(V11, "", "bob", &["levels", "alice=100", "bob=0"]));
    let both = "more <- start : alice levels alice=100 bob=100";
    assert!(!allowed(V11, both, "bob", &["levels", "alice=50", "bob=100"]));
}

#[test]
fn note_20_an_unban_needs_ban_and_kick() {
    let banned = "ban <- start : alice ban carol";
    assert!(allowed(V11, banned, "bob", &["unban", "carol"]));
    assert!(!allowed(V11, banned, "carol", &["join"]));
    assert!(!allowed(V11, banned, "bob", &["invite", "carol"]));
}

#[test]
fn note_24_knocking_needs_the_rule_for_it_and_room_version_7() {
    let knock = "rule2 <- start : alice rule knock";
    assert!(allowed(V11, knock, "dave", &["knock"]));
    assert!(!allowed(V11, "", "dave", &["knock"]));
    assert!(!allowed(V11, knock, "carol", &["knock"]));
    assert!(!allowed(&RoomVersionRules::V6, knock, "dave", &["knock"]));
}

#[test]
fn note_26_a_second_create_event_is_refused() {
    for rules in [V11, V12] {
        let mut world = World::new(rules);
        let wish = draft("alice", &["create"], rules);
        let (pdu, _) = world.make(&[world.number("start")], "alice", &wish, None);
        assert!(check_own_auth_events(&pdu, rules, |id| world.by_id(id)).is_err());
    }
}

#[test]
fn in_room_version_12_creators_cannot_be_given_a_level() {
    let mut world = World::new(V12);
    let content = json!({"users": {"@alice:domain": 100}});
    let wish = Draft::from_text("m.room.power_levels".into(), Some(String::new()), &content.to_string());
    let start = world.number("start");
    let (pdu, state) = world.make(&[start], "alice", &wish.unwrap(), None);
    assert!(check_against(&pdu, V12, |kind, key| find(&world, &state, kind, key)).is_err());
}

#[test]
fn the_create_event_is_named_until_room_version_11_and_never_after() {
    let create = (StateEventType::RoomCreate, String::new());
    for (rules, named) in [(V11, true), (V12, false)] {
        let wish = draft("bob", &["message"], rules);
        let keys = auth_keys_of_draft(&wish, &user("bob"), rules).unwrap();
        assert_eq!(keys.contains(&create), named);
        assert_eq!(keys.len(), 2 + usize::from(named));
    }
}

#[test]
fn note_12_members_name_target_rules_invite_and_voucher() {
    let keys = |content: Value, rules| {
        let wish = Draft::from_text("m.room.member".into(), Some("@t:domain".to_owned()), &content.to_string());
        let keys = auth_keys_of_draft(&wish.unwrap(), &user("s"), rules).unwrap();
        let name = |(kind, key): (StateEventType, String)| format!("{kind} {key}").replace("m.room.", "");
        let mut keys: Vec<String> = keys.into_iter().map(name).collect();
        keys.sort();
        keys.join(", ")
    };
    assert_eq!(
        keys(json!({"membership": "join", "join_authorised_via_users_server": "@v:domain"}), V12),
        "join_rules , member @s:domain, member @t:domain, member @v:domain, power_levels "
    );
    assert_eq!(keys(json!({"membership": "leave"}), V12), "member @s:domain, member @t:domain, power_levels ");
    assert_eq!(
        keys(json!({"membership": "invite", "third_party_invite": {"signed": {"token": "tok"}}}), V12),
        "join_rules , member @s:domain, member @t:domain, power_levels , third_party_invite tok"
    );
    assert_eq!(
        keys(json!({"membership": "join", "join_authorised_via_users_server": "@v:domain"}), &RoomVersionRules::V7),
        "create , join_rules , member @s:domain, member @t:domain, power_levels "
    );
}

#[test]
fn note_12_superfluous_rejected_and_unknown_auth_events_are_refused() {
    let mut world = World::new(V11);
    let start = world.number("start");
    let (pdu, _) = world.make(&[start], "bob", &draft("bob", &["message"], V11), None);
    assert!(check_own_auth_events(&pdu, V11, |id| world.by_id(id)).is_ok());
    assert!(check_own_auth_events(&pdu, V11, |_| None).is_err());
    let rejected = |id: &ruma::EventId| world.by_id(id).map(|pdu| pdu.with_rejected(true));
    assert!(check_own_auth_events(&pdu, V11, rejected).is_err());

    let mut event: Value = serde_json::from_str(pdu.json()).unwrap();
    let rule = world.pdu(world.number("rule")).event_id().to_string();
    event["auth_events"].as_array_mut().unwrap().push(rule.into());
    let read = samtal_event::ParsedPdu::from_bytes(event.to_string().as_bytes(), V11).unwrap();
    assert!(check_own_auth_events(read.unverified(), V11, |id| world.by_id(id)).is_err());
}

#[test]
fn a_room_that_is_not_federated_has_only_its_own_server() {
    let rules: &AuthorizationRules = &V11.authorization;
    assert!(rules.use_room_create_sender);
    let mut world = World::new(V11);
    let start = world.number("start");
    let (pdu, state) = world.make(&[start], "bob", &draft("bob", &["message"], V11), None);
    let create = find(&world, &state, &StateEventType::RoomCreate, "").unwrap();
    let mut closed: Value = serde_json::from_str(create.json()).unwrap();
    closed["content"]["m.federate"] = false.into();
    closed["sender"] = "@alice:elsewhere".into();
    closed["room_id"] = "!r:elsewhere".into();
    let closed = samtal_event::ParsedPdu::from_bytes(closed.to_string().as_bytes(), V11).unwrap();
    let auth = AuthState::new(closed.unverified().clone(), None, None, V11).unwrap();
    assert!(auth.check(&pdu, V11, |kind, key| find(&world, &state, kind, key)).is_err());
}

proptest! {
    #[test]
    fn the_short_way_and_all_rules_agree(
        event_type in prop::sample::select(vec![
            "m.room.message", "m.room.topic", "m.room.redaction", "m.room.aliases", "m.x", "m.room.name",
            "m.room.join_rules", "m.room.encrypted",
        ]),
        state_key in prop::option::of(prop::sample::select(vec!["", "@bob:domain", "@x:domain", "domain", "x"])),
        sender in prop::sample::select(vec!["alice", "bob", "carol", "dave"]),
        version in 1..=12_usize,
    ) {
        let version = ruma::RoomVersionId::try_from(version.to_string()).unwrap();
        let rules = samtal_event::rules_of(&version).unwrap();
        let mut world = World::new(rules);
        let wish = Draft::from_text(event_type.into(), state_key.map(ToOwned::to_owned), "{}").unwrap();
        let start = world.number("start");
        let (pdu, state) = world.make(&[start], sender, &wish, None);
        let get = |kind: StateEventType| find(&world, &state, &kind, "");
        let auth = AuthState::new(
            get(StateEventType::RoomCreate).unwrap(),
            get(StateEventType::RoomPowerLevels),
            get(StateEventType::RoomJoinRules),
            rules,
        ).unwrap();
        let short = auth.check(&pdu, rules, |kind, key| find(&world, &state, kind, key));
        let all = check_against(&pdu, rules, |kind, key| find(&world, &state, kind, key));
        prop_assert_eq!(short.is_ok(), all.is_ok(), "{:?} {:?}", short, all);
        prop_assert!(auth_keys_of(&pdu, rules).is_ok());
    }
}
