//! Walks over auth events, from the newest downwards and never further than needed.
//!
//! Events are numbers here. **An event's number must be greater than those of its auth events**;
//! numbers given in the order in which events are stored have this property, because an event is
//! stored after its auth events.

use std::collections::{BTreeMap, BTreeSet};

/// The numbers of events whose auth events have to be loaded first.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("auth events of {} events are not loaded", .0.len())]
pub struct MissingEdges(pub Vec<i64>);

/// Finds the numbers of an event's auth events; nothing if they are not loaded.
pub trait AuthEdges {
    /// The auth events of this event.
    fn auth_events(&self, event: i64) -> Option<&[i64]>;
}

impl AuthEdges for std::collections::HashMap<i64, Vec<i64>> {
    fn auth_events(&self, event: i64) -> Option<&[i64]> {
        self.get(&event).map(Vec::as_slice)
    }
}

impl AuthEdges for BTreeMap<i64, Vec<i64>> {
    fn auth_events(&self, event: i64) -> Option<&[i64]> {
        self.get(&event).map(Vec::as_slice)
    }
}

/// Most state sets that can be compared at once.
pub const SETS_MAX: usize = 64;

/// The events which are in the auth chain of some of these sets, but not of all.
///
/// `sets` hold only the state events the sets disagree on. The events they share count as well:
/// what is in the auth chain of a shared state event is in every set's chain. `shared_above` is
/// asked (at most once) for the shared state events with a number greater than the one given;
/// others cannot matter. The cost is that of the difference, not of the room.
///
/// # Errors
/// When auth events are not loaded: load them and call again. More than [`SETS_MAX`] sets are
/// treated as [`SETS_MAX`]; the caller merges extremities long before.
pub fn auth_difference(
    sets: &[Vec<i64>],
    edges: &impl AuthEdges,
    shared_above: impl FnOnce(i64) -> Vec<i64>,
) -> Result<BTreeSet<i64>, MissingEdges> {
    let sets = &sets[..sets.len().min(SETS_MAX)];
    let all = if sets.len() == SETS_MAX { u64::MAX } else { (1 << sets.len()) - 1 };
    let mut difference = walk(sets, all, edges)?;
    let Some(&least) = difference.first() else { return Ok(difference) };
    for shared in reached_above(&shared_above(least), least, edges)? {
        difference.remove(&shared);
    }
    Ok(difference)
}

fn walk(
    sets: &[Vec<i64>],
    all: u64,
    edges: &impl AuthEdges,
) -> Result<BTreeSet<i64>, MissingEdges> {
    let mut missing = Vec::new();
    // What is reached but not yet looked at, greatest number first, and by which sets.
    let mut frontier: BTreeMap<i64, u64> = BTreeMap::new();
    let mut partial = 0_usize;
    let reach = |event: i64, by: u64, frontier: &mut BTreeMap<i64, u64>, partial: &mut usize| {
        let before = frontier.get(&event).copied();
        let after = before.unwrap_or(0) | by;
        frontier.insert(event, after);
        let counted = before.is_some_and(|before| before != all);
        match (counted, after != all) {
            (false, true) => *partial += 1,
            (true, false) => *partial -= 1,
            _ => {}
        }
    };
    for (index, set) in sets.iter().enumerate() {
        for event in set {
            match edges.auth_events(*event) {
                Some(auth) => {
                    for auth_event in auth {
                        reach(*auth_event, 1 << index, &mut frontier, &mut partial);
                    }
                }
                None => missing.push(*event),
            }
        }
    }
    let mut difference = BTreeSet::new();
    while partial > 0 {
        let Some((event, by)) = frontier.pop_last() else { break };
        if by != all {
            partial -= 1;
            difference.insert(event);
        }
        match edges.auth_events(event) {
            Some(auth) => {
                for auth_event in auth {
                    reach(*auth_event, by, &mut frontier, &mut partial);
                }
            }
            None => missing.push(event),
        }
    }
    if missing.is_empty() { Ok(difference) } else { Err(MissingEdges(missing)) }
}

/// What is in the auth chains of these events, down to the number `least`.
fn reached_above(
    from: &[i64],
    least: i64,
    edges: &impl AuthEdges,
) -> Result<BTreeSet<i64>, MissingEdges> {
    let mut missing = Vec::new();
    let mut reached = BTreeSet::new();
    let mut waiting: Vec<i64> = from.iter().copied().filter(|event| *event > least).collect();
    let mut looked_at: BTreeSet<i64> = waiting.iter().copied().collect();
    while let Some(event) = waiting.pop() {
        let Some(auth) = edges.auth_events(event) else {
            missing.push(event);
            continue;
        };
        for auth_event in auth.iter().copied().filter(|auth_event| *auth_event >= least) {
            reached.insert(auth_event);
            if auth_event > least && looked_at.insert(auth_event) {
                waiting.push(auth_event);
            }
        }
    }
    if missing.is_empty() { Ok(reached) } else { Err(MissingEdges(missing)) }
}

/// The conflicted state subgraph of state resolution v2.1: all events that lie on a path of auth
/// events from one conflicted event to another, the ends included.
///
/// # Errors
/// When auth events are not loaded: load them and call again.
pub fn conflicted_subgraph(
    conflicted: &BTreeSet<i64>,
    edges: &impl AuthEdges,
) -> Result<BTreeSet<i64>, MissingEdges> {
    let Some(&least) = conflicted.first() else { return Ok(BTreeSet::new()) };
    let from: Vec<i64> = conflicted.iter().copied().collect();
    let mut below = reached_above(&from, least, edges)?;
    below.extend(conflicted);
    // From the least upwards, what is below an event is decided before the event.
    let mut subgraph = BTreeSet::new();
    for event in below {
        let auth = if event == least { None } else { edges.auth_events(event) };
        let leads = auth.unwrap_or_default().iter().any(|auth_event| subgraph.contains(auth_event));
        if leads || conflicted.contains(&event) {
            subgraph.insert(event);
        }
    }
    Ok(subgraph)
}
