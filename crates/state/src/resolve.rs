//! State resolution: one state from branches that disagree.
//!
//! Versions 2 and 2.1 are ruma's, version 1 is in `v1`. All are fed only what the branches
//! disagree on, and look up the rest of the state key by key; the outcome is a set of changes to
//! the state that the branches share, not a whole state.

mod v1;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap},
};

use ruma::{
    EventId, OwnedEventId,
    events::StateEventType,
    room_version_rules::{RoomVersionRules, StateResolutionVersion},
    state_res::{self, StateMap, utils::event_id_set::EventIdSet},
};
use samtal_event::Pdu;

use crate::authorize::{StateKey, auth_keys_of, create_event_id};

/// The answer to a look-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup<T> {
    /// Here it is.
    Found(T),
    /// There is none, as far as we will ever know.
    Absent,
    /// It has to be loaded first.
    NotLoaded,
}

impl<T> Lookup<T> {
    fn found(self) -> Option<T> {
        match self {
            Self::Found(value) => Some(value),
            Self::Absent | Self::NotLoaded => None,
        }
    }
}

/// What the branches disagree on.
#[derive(Clone, Debug, Default)]
pub struct Conflict {
    /// For each branch its events of the state keys on which not all branches have the same event.
    /// A branch without an event for such a key has no entry.
    pub branches: Vec<StateMap<OwnedEventId>>,
    /// The events in the auth chains of some branches but not of all
    /// ([`auth_difference`](crate::auth_difference)); not needed by version 1.
    pub auth_difference: BTreeSet<OwnedEventId>,
    /// The conflicted state subgraph ([`conflicted_subgraph`](crate::conflicted_subgraph)); only
    /// needed by version 2.1.
    pub subgraph: BTreeSet<OwnedEventId>,
}

/// The outcome: what to change in the state the branches share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    /// The event for each state key. Conflicted keys that are not here have no event.
    pub state: BTreeMap<StateKey, OwnedEventId>,
}

/// Why there is no outcome (yet).
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// These events have to be loaded first; then call again.
    #[error("{} events are not loaded", .0.len())]
    EventsNotLoaded(Vec<OwnedEventId>),
    /// The shared state of these keys has to be looked up first; then call again.
    #[error("{} state keys are not loaded", .0.len())]
    StateNotLoaded(Vec<StateKey>),
    /// An event has a form that the algorithm cannot live with.
    #[error("state resolution failed: {0}")]
    Malformed(#[source] state_res::Error),
}

/// Resolve a conflict.
///
/// `shared` looks up the state on which all branches agree; it is never asked for a conflicted key.
/// `fetch` finds events. It is asked for the events of the conflict, their auth events, and the
/// power levels events before them: loading all power levels events of the room beforehand saves
/// calls. Answer [`Lookup::Absent`] only for events that cannot be had.
///
/// # Errors
/// When something has to be loaded first, or an event is malformed.
pub fn resolve(
    conflict: &Conflict,
    rules: &RoomVersionRules,
    shared: impl Fn(&StateEventType, &str) -> Lookup<OwnedEventId>,
    fetch: impl Fn(&EventId) -> Lookup<Pdu>,
) -> Result<Resolved, ResolveError> {
    let task = Task { conflict, rules, shared: &shared, fetch: &fetch };
    task.load_events()?;
    match rules.state_res {
        StateResolutionVersion::V2(v2) => task.resolve_v2(&v2),
        _ => v1::resolve(&task),
    }
}

type Shared<'a> = &'a dyn Fn(&StateEventType, &str) -> Lookup<OwnedEventId>;
type Fetch<'a> = &'a dyn Fn(&EventId) -> Lookup<Pdu>;

/// What resolution works on.
struct Task<'a> {
    conflict: &'a Conflict,
    rules: &'a RoomVersionRules,
    shared: Shared<'a>,
    fetch: Fetch<'a>,
}

impl Task<'_> {
    fn event(&self, id: &EventId) -> Option<Pdu> {
        (self.fetch)(id).found()
    }

    /// Every event that takes part: conflicted, in the auth difference, in the subgraph.
    fn taking_part(&self) -> BTreeSet<&EventId> {
        let conflicted = self.conflict.branches.iter().flat_map(HashMap::values);
        let more = self.conflict.auth_difference.iter().chain(&self.conflict.subgraph);
        conflicted.chain(more).map(|id| &**id).collect()
    }

    fn conflicted_keys(&self) -> BTreeSet<&StateKey> {
        self.conflict.branches.iter().flat_map(HashMap::keys).collect()
    }

    /// Find out which events will be asked for and are not loaded.
    fn load_events(&self) -> Result<(), ResolveError> {
        let mut missing = BTreeSet::new();
        let mut note = |id: &EventId| match (self.fetch)(id) {
            Lookup::Found(pdu) => Some(pdu),
            Lookup::Absent => None,
            Lookup::NotLoaded => {
                missing.insert(id.to_owned());
                None
            }
        };
        let mut seen_levels: BTreeSet<OwnedEventId> = BTreeSet::new();
        for id in self.taking_part() {
            // The event, its auth events, and from there from power levels to power levels.
            let Some(event) = note(id) else { continue };
            if self.rules.authorization.room_create_event_id_as_room_id {
                create_event_id(&event).and_then(|id| note(&id));
            }
            let mut waiting = vec![event];
            while let Some(event) = waiting.pop() {
                let auth_events: Vec<_> = event.auth_events().iter().filter_map(|id| note(id)).collect();
                waiting.extend(auth_events.into_iter().filter(|event| {
                    event.is_state_of("m.room.power_levels", "") && seen_levels.insert(event.event_id().to_owned())
                }));
            }
        }
        if missing.is_empty() { Ok(()) } else { Err(ResolveError::EventsNotLoaded(missing.into_iter().collect())) }
    }

    /// The shared state that matters: of the keys authorization asks for, and of the keys of the
    /// events that take part, for shared state always wins.
    fn shared_state(&self) -> Result<StateMap<OwnedEventId>, ResolveError> {
        let conflicted = self.conflicted_keys();
        let mut wanted: BTreeSet<StateKey> = BTreeSet::new();
        for event in self.taking_part().into_iter().filter_map(|id| self.event(id)) {
            wanted.extend(auth_keys_of(&event, self.rules).unwrap_or_default());
            wanted.extend(event.state_pair().map(|(kind, key)| (kind, key.to_owned())));
        }
        wanted.insert((StateEventType::RoomCreate, String::new()));
        // The mainline starts from the power levels, whoever asks for them.
        wanted.insert((StateEventType::RoomPowerLevels, String::new()));
        let mut state = StateMap::new();
        let (mut keys, mut events) = (Vec::new(), Vec::new());
        for key in wanted.into_iter().filter(|key| !conflicted.contains(key)) {
            match (self.shared)(&key.0, &key.1) {
                Lookup::Found(id) => {
                    if (self.fetch)(&id) == Lookup::NotLoaded {
                        events.push(id.clone());
                    }
                    state.insert(key, id);
                }
                Lookup::Absent => {}
                Lookup::NotLoaded => keys.push(key),
            }
        }
        if !keys.is_empty() {
            return Err(ResolveError::StateNotLoaded(keys));
        }
        if !events.is_empty() {
            return Err(ResolveError::EventsNotLoaded(events));
        }
        Ok(state)
    }

    fn resolve_v2(&self, v2: &ruma::room_version_rules::StateResolutionV2Rules) -> Result<Resolved, ResolveError> {
        let shared = self.shared_state()?;
        // ruma takes whole states. Of many branches two say the same: all that is shared, and one event of each conflicted
        // key that the other lacks. The other events of those keys take part beside the auth difference, as they would.
        let mut chosen = shared.clone();
        let mut beside: EventIdSet<OwnedEventId> = self.conflict.auth_difference.iter().cloned().collect();
        for (key, id) in self.conflict.branches.iter().flatten() {
            let first = chosen.entry(key.clone()).or_insert_with(|| id.clone());
            if first != id {
                beside.insert(id.clone());
            }
        }
        let branches = [chosen, shared.clone()];
        // It takes the difference of full auth chains. A chain with the difference and an empty one have the same.
        let chains = vec![beside, EventIdSet::new()];
        let not_loaded = RefCell::new(BTreeSet::new());
        let fetch = |id: &EventId| match (self.fetch)(id) {
            Lookup::Found(pdu) => Some(pdu),
            Lookup::Absent => None,
            Lookup::NotLoaded => {
                not_loaded.borrow_mut().insert(id.to_owned());
                None
            }
        };
        let outcome = state_res::resolve(&self.rules.authorization, v2, &branches, chains, fetch, |_| {
            Some(self.conflict.subgraph.iter().cloned().collect())
        });
        let not_loaded = not_loaded.into_inner();
        if !not_loaded.is_empty() {
            return Err(ResolveError::EventsNotLoaded(not_loaded.into_iter().collect()));
        }
        let state = outcome.map_err(ResolveError::Malformed)?;
        let state = state.into_iter().filter(|(key, _)| !shared.contains_key(key)).collect();
        Ok(Resolved { state })
    }
}
