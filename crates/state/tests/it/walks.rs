//! Walks over auth events: exact, and no longer than needed.

use std::{cell::RefCell, collections::BTreeSet};

use ruma::room_version_rules::RoomVersionRules;
use samtal_state::{AuthEdges, NotLoaded, Shared, auth_difference, conflicted_subgraph};

use crate::world::{State, World, split};

/// Compares with what whole auth chains tell.
pub(crate) fn check(world: &World, states: &[State]) {
    let (shared, branches) = split(states);
    let sets: Vec<Vec<i64>> = branches.iter().map(|branch| branch.values().copied().collect()).collect();
    let conflicted: BTreeSet<i64> = sets.iter().flatten().copied().collect();
    let from = |question: &Shared| {
        Some(match question {
            Shared::Alike(_) => Vec::new(),
            Shared::From(least) => shared.values().copied().filter(|n| n >= least).collect(),
        })
    };
    let found = auth_difference(&sets, &world.edges, from).unwrap();
    let whole = world.whole_difference(states);
    let expected: BTreeSet<i64> = whole.difference(&conflicted).copied().collect();
    assert_eq!(found, expected);
    let found = conflicted_subgraph(&conflicted, &world.edges).unwrap();
    assert_eq!(found, world.whole_subgraph(&conflicted));
}

/// Counts how many events are looked at.
struct Counting<'a>(&'a World, RefCell<BTreeSet<i64>>);

impl AuthEdges for Counting<'_> {
    fn auth_events(&self, event: i64) -> Option<&[i64]> {
        self.1.borrow_mut().insert(event);
        self.0.edges.auth_events(event)
    }
}

#[test]
fn a_fresh_conflict_in_a_long_room_looks_at_few_events() {
    let mut world = World::new(&RoomVersionRules::V10);
    let mut last = "start".to_owned();
    for round in 0..100 {
        let (levels, rule) = (format!("l{round}"), format!("r{round}"));
        world.play(&format!(
            "{levels} <- {last}   : alice levels alice=100 bob={}
             {rule}   <- {levels} : alice rule {}",
            50 + round % 2,
            if round % 2 == 0 { "invite" } else { "public" },
        ));
        last = rule;
    }
    world.play(&format!(
        "ban   <- {last} : alice ban bob
         topic <- {last} : carol topic x"
    ));
    let states = [world.state_after(world.number("ban")).clone(), world.state_after(world.number("topic")).clone()];
    let (shared, branches) = split(&states);
    let sets: Vec<Vec<i64>> = branches.iter().map(|branch| branch.values().copied().collect()).collect();
    let counting = Counting(&world, RefCell::default());
    let difference = auth_difference(&sets, &counting, |question| {
        assert!(matches!(question, Shared::Alike(_)), "asked for more than the keys concerned");
        Some(shared.values().copied().collect())
    });
    assert_eq!(difference, Ok(BTreeSet::new()));
    assert!(counting.1.borrow().len() < 20, "{:?}", counting.1.borrow().len());
}

#[test]
fn what_is_missing_is_named_at_once() {
    let edges = std::collections::BTreeMap::from([(9, vec![4, 5]), (8, vec![5, 6])]);
    let sets = [vec![9], vec![8]];
    let found = auth_difference(&[vec![9, 7], vec![8, 3]], &edges, |_| None);
    assert_eq!(found, Err(NotLoaded::Edges(vec![3, 7])));
    let found = auth_difference(&sets, &edges, |_| None);
    let near = BTreeSet::from([4, 5, 6, 8, 9]);
    assert_eq!(found, Err(NotLoaded::Shared(Shared::Alike(near))));
    let found = auth_difference(&sets, &edges, |_| Some(Vec::new()));
    assert_eq!(found, Err(NotLoaded::Edges(vec![6, 5, 4])));
    // Known to be shared, they need not be looked at.
    let found = auth_difference(&sets, &edges, |_| Some(vec![4, 5, 6]));
    assert_eq!(found, Ok(BTreeSet::new()));
}
