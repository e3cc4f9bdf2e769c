//! State resolution: worked examples, and agreement with ruma fed with whole states.

use proptest::prelude::*;
use ruma::room_version_rules::RoomVersionRules;

use crate::world::{Loaded, State, World, draft};

const V1: &RoomVersionRules = &RoomVersionRules::V1;
const V10: &RoomVersionRules = &RoomVersionRules::V10;
const V12: &RoomVersionRules = &RoomVersionRules::V12;
/// The room versions that ruma resolves. They differ in who may redact, knock, join by somebody's leave, and in what is a level.
const JUDGED: [&RoomVersionRules; 11] = [
    &RoomVersionRules::V2,
    &RoomVersionRules::V3,
    &RoomVersionRules::V4,
    &RoomVersionRules::V5,
    &RoomVersionRules::V6,
    &RoomVersionRules::V7,
    &RoomVersionRules::V8,
    &RoomVersionRules::V9,
    V10,
    &RoomVersionRules::V11,
    V12,
];

#[track_caller]
fn check(rules: &'static RoomVersionRules, text: &str, heads: &[&str], expected: &str) {
    let world = World::of(rules, text);
    assert_eq!(world.outcome(heads), expected);
    let backwards: Vec<&str> = heads.iter().rev().copied().collect();
    assert_eq!(world.outcome(&backwards), expected, "the order of branches must not matter");
}

#[test]
fn a_ban_beats_a_concurrent_topic_of_the_banned() {
    for rules in [V10, V12] {
        check(
            rules,
            "ban   <- start : alice ban bob
             topic <- start : bob topic hello",
            &["ban", "topic"],
            "member bob = ban; topic = none",
        );
    }
}

#[test]
fn of_two_topics_the_later_wins() {
    for rules in [V10, V12] {
        check(
            rules,
            "early <- start : alice topic one @10
             late  <- start : bob topic two @20",
            &["early", "late"],
            "topic = late",
        );
    }
}

#[test]
fn note_25_a_demotion_beats_what_the_demoted_did_meanwhile() {
    for rules in [V10, V12] {
        check(
            rules,
            "demote <- start : alice levels alice=100 bob=0
             raise  <- start : bob levels alice=100 bob=50 carol=50
             name   <- raise : bob name ours",
            &["demote", "name"],
            "name = none; power_levels = demote",
        );
    }
}

#[test]
fn two_who_ban_each_other_are_settled_by_power() {
    check(
        V10,
        "levels2 <- start   : alice levels alice=100 bob=50 carol=40
         strong  <- levels2 : bob ban carol
         weak    <- levels2 : carol topic mine",
        &["strong", "weak"],
        "member carol = strong; topic = none",
    );
}

#[test]
fn who_leaves_and_joins_again_meanwhile_stays_joined() {
    for rules in [V10, V12] {
        check(
            rules,
            "leave  <- start : carol leave
             back   <- leave : carol join
             topic  <- start : bob topic x",
            &["back", "topic"],
            "member carol = back; topic = topic",
        );
    }
}

#[test]
fn a_closed_door_beats_a_concurrent_join() {
    for rules in [V10, V12] {
        check(
            rules,
            "close <- start : alice rule invite
             dave  <- start : dave join",
            &["close", "dave"],
            "join_rules = close; member dave = none",
        );
    }
}

#[test]
fn an_old_state_returned_by_a_laggard_does_not_undo_a_demotion() {
    // The laggard's branch starts before the demotion, and its event is newer.
    for rules in [V10, V12] {
        check(
            rules,
            "demote  <- start  : alice levels alice=100 bob=0
             after   <- demote : alice topic done
             laggard <- start  : bob kick carol @99999",
            &["after", "laggard"],
            "member carol = start; power_levels = demote; topic = after",
        );
    }
}

#[test]
fn three_branches_are_resolved_at_once() {
    check(
        V10,
        "a <- start : alice topic a @10
         b <- start : bob topic b @30
         c <- start : bob name c @20",
        &["a", "b", "c"],
        "name = c; topic = b",
    );
}

#[test]
fn note_25_in_room_version_1_the_deeper_event_wins_and_then_the_hash() {
    check(
        V1,
        "a   <- start : alice topic a
         m   <- start : bob message
         b   <- m     : bob topic b",
        &["a", "b"],
        "topic = b",
    );
}

#[test]
fn in_room_version_1_a_key_that_one_branch_lacks_is_no_conflict() {
    check(
        V1,
        "name <- start : alice name ours
         m    <- start : bob message",
        &["name", "m"],
        "name = name",
    );
}

#[test]
fn in_room_version_1_each_change_of_levels_has_to_be_allowed_by_the_one_before() {
    check(
        V1,
        "demote <- start  : alice levels alice=100 bob=0
         raise  <- start  : bob levels alice=100 bob=50 carol=40
         deep   <- raise  : bob message
         again  <- deep   : bob levels alice=100 bob=50 carol=39",
        &["demote", "again"],
        "power_levels = demote",
    );
}

/// One step of a generated room: who does what after which events.
type Step = (u8, u8, u8, u16, Option<u16>, i64);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    some_steps(4..40)
}

fn some_steps(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Step>> {
    let step = (0..16_u8, 0..5_u8, 0..5_u8, any::<u16>(), prop::option::weighted(0.3, any::<u16>()), 0..50_i64);
    prop::collection::vec(step, count)
}

const RULES: [&str; 6] = ["public", "invite", "public", "knock", "restricted", "knock_restricted"];
const NAMES: [&str; 5] = ["alice", "bob", "carol", "dave", "erin"];

/// Play the steps; those the rules refuse do not happen.
fn generate(rules: &'static RoomVersionRules, steps: &[Step]) -> World {
    let mut world = World::new(rules);
    for (action, sender, target, one, other, at) in steps {
        let (sender, target) = (NAMES[usize::from(*sender)], NAMES[usize::from(*target)]);
        let level = format!("bob={}", at % 4 * 25);
        let other_level = format!("{target}={}", at % 3 * 25);
        let text = at.to_string();
        let words: Vec<&str> = match action {
            0 => vec!["join"],
            1 => vec!["leave"],
            2 => vec!["invite", target],
            3 => vec!["kick", target],
            4 => vec!["ban", target],
            5 | 6 => vec!["topic", &text],
            7 => vec!["name", &text],
            8 => vec!["rule", RULES[usize::try_from(*at).unwrap() % RULES.len()]],
            9 => vec!["message"],
            12 if rules.authorization.restricted_join_rule => vec!["join", "via", target],
            13 if rules.authorization.knocking => vec!["knock"],
            // Those who have the say take it from each other.
            14 => vec!["levels", "alice=50", "bob=100"],
            15 => vec!["levels", "alice=50", "bob=50", &other_level],
            _ if target == "alice" || target == "bob" => vec!["levels", "alice=100", &level],
            _ => vec!["levels", "alice=100", &level, &other_level],
        };
        // Branch off one of the last events, so that branches have some length.
        let last = world.events.len();
        let pick = |choice: u16| i64::try_from(last - 1 - usize::from(choice) % last.min(8)).unwrap();
        let mut prev = vec![pick(*one)];
        prev.extend(other.map(pick).filter(|number| *number != prev[0]));
        let draft = draft(sender, &words, rules);
        // Small times, so that there are ties.
        let _ = world.add(&prev, sender, &draft, Some(*at));
    }
    world
}

/// The states at the last events, up to three of them different.
fn branches(world: &World) -> Vec<State> {
    let mut states: Vec<State> = Vec::new();
    for state in world.after.iter().rev() {
        if states.len() < 3 && !states.contains(state) {
            states.push(state.clone());
        }
    }
    states
}

/// Several hundred rooms in a usual run; `PROPTEST_CASES` asks for more.
fn cases() -> ProptestConfig {
    let default = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { default.cases } else { 300 };
    ProptestConfig { cases, ..default }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn the_conflict_alone_gives_what_whole_states_give(steps in steps(), version in 0..JUDGED.len()) {
        let world = generate(JUDGED[version], &steps);
        let states = branches(&world);
        for count in 2..=states.len() {
            prop_assert_eq!(world.resolve(&states[..count]), world.judge(&states[..count]));
        }
    }

    #[test]
    fn the_order_of_branches_does_not_matter(steps in steps(), version in 0..3_usize) {
        let world = generate([V1, V10, V12][version], &steps);
        let mut states = branches(&world);
        let one = world.resolve(&states);
        states.reverse();
        prop_assert_eq!(world.resolve(&states), one);
    }

    #[test]
    fn loading_what_is_asked_for_comes_to_the_same(steps in steps(), version in 0..3_usize) {
        let world = generate([V1, V10, V12][version], &steps);
        let states = branches(&world);
        prop_assert_eq!(
            world.resolve_loading(&states, &mut Loaded::none()),
            world.resolve(&states)
        );
    }

    #[test]
    fn the_walks_find_what_whole_chains_tell(steps in steps()) {
        let world = generate(V10, &steps);
        let states = branches(&world);
        crate::walks::check(&world, &states);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases().cases / 20, ..cases() })]

    #[test]
    fn so_do_a_hundred_branches(steps in some_steps(100..180), version in 0..JUDGED.len()) {
        let world = generate(JUDGED[version], &steps);
        let mut states: Vec<State> = Vec::new();
        for state in &world.after {
            if !states.contains(state) {
                states.push(state.clone());
            }
        }
        prop_assert_eq!(world.resolve(&states), world.judge(&states));
        crate::walks::check(&world, &states);
    }
}
