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

/// The events which are in the auth chain of some of these sets, but not of all; a set's chain
/// counts its own events. Without the events of `sets` themselves, which take part anyway.
///
/// `sets` hold only the state events the sets disagree on. The state they share matters too: what
/// a shared state event or its auth chain contains is in every set's chain. `shared` is asked about
/// the shared state near the conflict, and only if that leaves a difference about more. The cost is
/// that of the difference, not of the room.
///
/// # Errors
/// When something is not loaded (`shared` gave `None`): load it and call again.
pub fn auth_difference(
    sets: &[Vec<i64>],
    edges: &impl AuthEdges,
    shared: impl Fn(&Shared) -> Option<Vec<i64>>,
) -> Result<BTreeSet<i64>, NotLoaded> {
    let mut conflicted: BTreeMap<i64, Sets> = BTreeMap::new();
    for (index, set) in sets.iter().enumerate() {
        for event in set {
            conflicted.entry(*event).or_insert_with(|| Sets::none(sets.len())).add(index);
        }
    }
    auth_difference_of(&conflicted, edges, shared)
}

/// As [`auth_difference`], told for each event in which sets it is: where there are many sets, an event may be in most of
/// them.
///
/// # Errors
/// When something is not loaded: load it and call again.
pub fn auth_difference_of(
    conflicted: &BTreeMap<i64, Sets>,
    edges: &impl AuthEdges,
    shared: impl Fn(&Shared) -> Option<Vec<i64>>,
) -> Result<BTreeSet<i64>, NotLoaded> {
    let ask = |question: Shared| shared(&question).ok_or(NotLoaded::Shared(question));
    let near = near(conflicted, edges)?;
    if near.is_empty() {
        return Ok(near);
    }
    let mut difference = walk(conflicted, &ask(Shared::Alike(near))?, edges)?;
    difference.retain(|event| !conflicted.contains_key(event));
    if let Some(&least) = difference.first() {
        let events = ask(Shared::From(least))?;
        for reached in reached_from(&events, least, edges)?.iter().chain(&events) {
            difference.remove(reached);
        }
    }
    Ok(difference)
}

/// Some of a number of state sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sets {
    /// One bit for each; none once all are set.
    bits: Vec<u64>,
    lacking: usize,
}

impl Sets {
    /// None of this many.
    #[must_use]
    pub fn none(count: usize) -> Self {
        Self { bits: vec![0; count.div_ceil(64)], lacking: count }
    }

    /// All of however many.
    #[must_use]
    pub fn all() -> Self {
        Self { bits: Vec::new(), lacking: 0 }
    }

    /// Adds the set of this index.
    pub fn add(&mut self, index: usize) {
        if let Some(word) = self.bits.get_mut(index / 64)
            && *word & (1 << (index % 64)) == 0
        {
            *word |= 1 << (index % 64);
            self.lacking = self.lacking.saturating_sub(1);
        }
        self.tidy();
    }

    /// All of this many but those of these indices.
    #[must_use]
    pub fn all_but(count: usize, lacking: impl IntoIterator<Item = usize>) -> Self {
        let mut bits = vec![u64::MAX; count.div_ceil(64)];
        if let Some(last) = bits.last_mut()
            && !count.is_multiple_of(64)
        {
            *last = (1 << (count % 64)) - 1;
        }
        let mut sets = Self { bits, lacking: 0 };
        for index in lacking {
            if let Some(word) = sets.bits.get_mut(index / 64)
                && *word & (1 << (index % 64)) != 0
            {
                *word &= !(1 << (index % 64));
                sets.lacking += 1;
            }
        }
        sets.tidy();
        sets
    }

    fn extend(&mut self, more: &Self) {
        if more.is_all() {
            *self = Self::all();
            return;
        }
        for (word, more) in self.bits.iter_mut().zip(&more.bits) {
            let new = more & !*word;
            *word |= new;
            self.lacking = self.lacking.saturating_sub(usize::try_from(new.count_ones()).unwrap_or(0));
        }
        self.tidy();
    }

    fn tidy(&mut self) {
        if self.lacking == 0 {
            self.bits = Vec::new();
        }
    }

    fn is_all(&self) -> bool {
        self.lacking == 0
    }
}

/// The events of the sets and their auth events.
fn near(conflicted: &BTreeMap<i64, Sets>, edges: &impl AuthEdges) -> Result<BTreeSet<i64>, NotLoaded> {
    let mut near = BTreeSet::new();
    let mut missing = Vec::new();
    for event in conflicted.keys() {
        near.insert(*event);
        match edges.auth_events(*event) {
            Some(auth) => near.extend(auth),
            None => missing.push(*event),
        }
    }
    if missing.is_empty() { Ok(near) } else { Err(NotLoaded::Edges(missing)) }
}

/// What is reached but not yet looked at, and by which sets.
#[derive(Default)]
struct Frontier {
    events: BTreeMap<i64, Sets>,
    /// How many of them not all sets reach.
    partial: usize,
}

impl Frontier {
    fn reach(&mut self, event: i64, by: &Sets) {
        match self.events.get_mut(&event) {
            Some(before) if before.is_all() => {}
            Some(before) => {
                before.extend(by);
                self.partial -= usize::from(before.is_all());
            }
            None => {
                self.partial += usize::from(!by.is_all());
                self.events.insert(event, by.clone());
            }
        }
    }
}

/// What is reached by some sets and not by all, given that all reach `shared`.
fn walk(conflicted: &BTreeMap<i64, Sets>, shared: &[i64], edges: &impl AuthEdges) -> Result<BTreeSet<i64>, NotLoaded> {
    let mut missing = Vec::new();
    let mut frontier = Frontier::default();
    for event in shared {
        frontier.reach(*event, &Sets::all());
    }
    for (event, by) in conflicted {
        frontier.reach(*event, by);
    }
    let mut difference = BTreeSet::new();
    while frontier.partial > 0 {
        // The greatest number first: whatever may reach an event has been looked at before it.
        let Some((event, by)) = frontier.events.pop_last() else { break };
        if !by.is_all() {
            frontier.partial -= 1;
            difference.insert(event);
        }
        match edges.auth_events(event) {
            Some(auth) => {
                for auth_event in auth {
                    frontier.reach(*auth_event, &by);
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
