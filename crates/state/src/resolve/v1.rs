//! State resolution of room version 1 (RV1, "State resolution").
//!
//! Such rooms are readable only; we create none. A state key that some branches lack is no
//! conflict here, unlike in version 2: the one event the others have stands.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ruma::{OwnedEventId, events::StateEventType};
use samtal_event::Pdu;
use sha1::{Digest, Sha1};

use super::{ResolveError, Resolved, Task};
use crate::authorize::{StateKey, auth_keys_of, check_against};

type Candidates = BTreeMap<StateKey, Vec<Pdu>>;

pub(super) fn resolve(task: &Task<'_>) -> Result<Resolved, ResolveError> {
    let shared = task.shared_state()?;
    let mut ids: BTreeMap<&StateKey, BTreeSet<&OwnedEventId>> = BTreeMap::new();
    for (key, id) in task.conflict.branches.iter().flatten() {
        ids.entry(key).or_default().insert(id);
    }
    let mut resolved = Resolved::default();
    let mut candidates = Candidates::new();
    for (key, ids) in ids {
        let mut events: Vec<Pdu> = ids.iter().filter_map(|id| task.event(id)).collect();
        events.sort_by_cached_key(order);
        match (events.len(), ids.first()) {
            (0, _) | (_, None) => {}
            (_, Some(only)) if ids.len() == 1 => {
                resolved.state.insert(key.clone(), (*only).clone());
            }
            _ => {
                candidates.insert(key.clone(), events);
            }
        }
    }
    let mut known: HashMap<StateKey, Pdu> = HashMap::new();
    for (key, id) in shared.iter().chain(&resolved.state) {
        known.extend(task.event(id).map(|event| (key.clone(), event)));
    }
    let stages: [&dyn Fn(&StateKey) -> bool; 3] = [
        &|key| key.0 == StateEventType::RoomPowerLevels && key.1.is_empty(),
        &|key| key.0 == StateEventType::RoomJoinRules,
        &|key| key.0 == StateEventType::RoomMember,
    ];
    for stage in stages {
        let mut chosen = Vec::new();
        let keys: Vec<StateKey> = candidates.keys().filter(|key| stage(key)).cloned().collect();
        for key in keys {
            let events = candidates.remove(&key).unwrap_or_default();
            if let Some(event) = choose_auth_event(task, &key, events, &known) {
                chosen.push((key, event));
            }
        }
        for (key, event) in chosen {
            resolved.state.insert(key.clone(), event.event_id().to_owned());
            known.insert(key, event);
        }
    }
    for (key, events) in candidates {
        // From the deepest downwards the first that is allowed; if none is, the least deep.
        let allowed = events.iter().rev().find(|event| is_allowed(task, event, &known));
        if let Some(event) = allowed.or(events.first()) {
            resolved.state.insert(key, event.event_id().to_owned());
        }
    }
    Ok(resolved)
}

/// Least deep first; among equals the greater SHA-1 of the event ID first.
fn order(event: &Pdu) -> (i64, std::cmp::Reverse<Vec<u8>>) {
    (event.depth(), std::cmp::Reverse(Sha1::digest(event.event_id().as_bytes()).to_vec()))
}

/// Each next event has to be allowed by the one before it; the last of that chain is chosen.
fn choose_auth_event(task: &Task<'_>, key: &StateKey, events: Vec<Pdu>, known: &HashMap<StateKey, Pdu>) -> Option<Pdu> {
    // Only what the candidates would name counts as state here.
    let keys: BTreeSet<StateKey> =
        events.iter().flat_map(|event| auth_keys_of(event, task.rules).unwrap_or_default()).collect();
    let mut state: HashMap<StateKey, Pdu> =
        keys.into_iter().filter_map(|key| known.get(&key).cloned().map(|event| (key, event))).collect();
    let mut events = events.into_iter();
    let mut chosen = events.next()?;
    for event in events {
        state.insert(key.clone(), chosen.clone());
        if !is_allowed(task, &event, &state) {
            break;
        }
        chosen = event;
    }
    Some(chosen)
}

fn is_allowed(task: &Task<'_>, event: &Pdu, state: &HashMap<StateKey, Pdu>) -> bool {
    check_against(event, task.rules, |kind, key| state.get(&(kind.clone(), key.to_owned())).cloned()).is_ok()
}
