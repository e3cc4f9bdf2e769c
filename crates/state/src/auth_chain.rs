//! Walks over auth events, from the newest downwards and never further than needed.
//!
//! Events are numbers here. **An event's number must be greater than those of its auth events**;
//! numbers given in the order in which events are stored have this property, because an event is
//! stored after its auth events.

use std::collections::{BTreeMap, BTreeSet};

/// What has to be loaded first; then call again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotLoaded {
    /// The auth events of these events.
    #[error("auth events of {} events are not loaded", .0.len())]
    Edges(Vec<i64>),
    /// The answer to this question.
    #[error("shared state is not loaded")]
    Shared(Shared),
}

/// A question about the state on which all sets agree; the answer is a list of its events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shared {
    /// The events of the shared state that have the same state keys as these events, and the
    /// room's power levels and join rules if they are shared. Answers nearly every case. More
    /// events of the shared state than that do no harm.
    Alike(BTreeSet<i64>),
    /// All events of the shared state whose number is not less than this. Asked only when the
    /// former did not decide.
    From(i64),
}

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

/// The events which are in the auth chain of some of these sets, but not of all; a set's chain
/// counts its own events. Without the events of `sets` themselves, which take part anyway.
///
/// `sets` hold only the state events the sets disagree on. The state they share matters too: what
/// a shared state event or its auth chain contains is in every set's chain. `shared` is asked about
/// the shared state near the conflict, and only if that leaves a difference about more. The cost is
/// that of the difference, not of the room.
///
/// # Errors
/// When something is not loaded (`shared` gave `None`): load it and call again. More than
/// [`SETS_MAX`] sets are treated as [`SETS_MAX`]; the caller merges extremities long before.
pub fn auth_difference(
    sets: &[Vec<i64>],
    edges: &impl AuthEdges,
    shared: impl Fn(&Shared) -> Option<Vec<i64>>,
) -> Result<BTreeSet<i64>, NotLoaded> {
    let sets = &sets[..sets.len().min(SETS_MAX)];
    let ask = |question: Shared| shared(&question).ok_or(NotLoaded::Shared(question));
    let near = near(sets, edges)?;
    if near.is_empty() {
        return Ok(near);
    }
    let mut difference = walk(sets, &ask(Shared::Alike(near))?, edges)?;
    for event in sets.iter().flatten() {
        difference.remove(event);
    }
    if let Some(&least) = difference.first() {
        let events = ask(Shared::From(least))?;
        for reached in reached_from(&events, least, edges)?.iter().chain(&events) {
            difference.remove(reached);
        }
    }
    Ok(difference)
}

/// The events of the sets and their auth events.
fn near(sets: &[Vec<i64>], edges: &impl AuthEdges) -> Result<BTreeSet<i64>, NotLoaded> {
    let mut near = BTreeSet::new();
    let mut missing = Vec::new();
    for event in sets.iter().flatten() {
        near.insert(*event);
        match edges.auth_events(*event) {
            Some(auth) => near.extend(auth),
            None => missing.push(*event),
        }
    }
    if missing.is_empty() { Ok(near) } else { Err(NotLoaded::Edges(missing)) }
}

/// What is reached by some sets and not by all, given that all reach `shared`.
fn walk(sets: &[Vec<i64>], shared: &[i64], edges: &impl AuthEdges) -> Result<BTreeSet<i64>, NotLoaded> {
    let all = if sets.len() >= SETS_MAX { u64::MAX } else { (1 << sets.len()) - 1 };
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
            reach(*event, 1 << index, &mut frontier, &mut partial);
        }
    }
    for event in shared {
        reach(*event, all, &mut frontier, &mut partial);
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
    if missing.is_empty() { Ok(difference) } else { Err(NotLoaded::Edges(missing)) }
}

/// What is in the auth chains of these events, from the number `least` upwards.
fn reached_from(from: &[i64], least: i64, edges: &impl AuthEdges) -> Result<BTreeSet<i64>, NotLoaded> {
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
    if missing.is_empty() { Ok(reached) } else { Err(NotLoaded::Edges(missing)) }
}

/// The conflicted state subgraph of state resolution v2.1: all events that lie on a path of auth
/// events from one conflicted event to another, the ends included.
///
/// # Errors
/// When auth events are not loaded: load them and call again.
pub fn conflicted_subgraph(conflicted: &BTreeSet<i64>, edges: &impl AuthEdges) -> Result<BTreeSet<i64>, NotLoaded> {
    let Some(&least) = conflicted.first() else { return Ok(BTreeSet::new()) };
    let from: Vec<i64> = conflicted.iter().copied().collect();
    let mut below = reached_from(&from, least, edges)?;
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
