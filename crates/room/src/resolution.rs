//! State resolution over this tenant's events: from snapshots that disagree to one.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use ruma::{
    EventId, OwnedEventId,
    events::StateEventType,
    room_version_rules::{RoomVersionRules, StateResolutionVersion},
};
use samtal_event::Pdu;
use samtal_state::{
    Conflict, Lookup, Node, NodeId, Part, ResolveError, Sets, SnapshotId,
    auth_chain::{NotLoaded, Shared},
    auth_difference_of, conflicted_subgraph,
    tree::{Change, Disagreement, Holders},
};

use crate::{error::RoomError, graph::StoredEvent, ids::EventNid, store::Store};

/// Rounds of loading what a resolution asks for: each round loads at least one event, so this bounds a hostile room.
const ROUNDS_MAX: usize = 10_000;

/// Events in dispute that take more than a moment to resolve.
const MANY: usize = 64;

/// Events that are not committed yet, by id.
pub(crate) type Uncommitted = HashMap<OwnedEventId, Arc<StoredEvent>>;

/// The resolved state and the nodes to store with it.
pub(crate) struct Outcome {
    pub(crate) id: SnapshotId,
    pub(crate) nodes: Vec<(NodeId, Node)>,
}

/// Resolves snapshots of one room. Costs the size of what they disagree on.
pub(crate) async fn resolve(
    store: &Store,
    rules: &RoomVersionRules,
    snapshots: &[SnapshotId],
    uncommitted: &Uncommitted,
) -> Result<Outcome, RoomError> {
    let distinct: BTreeSet<SnapshotId> = snapshots.iter().copied().collect();
    let distinct: Vec<SnapshotId> = distinct.into_iter().collect();
    match distinct.as_slice() {
        [] => Ok(Outcome { id: SnapshotId::EMPTY, nodes: Vec::new() }),
        [one] => Ok(Outcome { id: *one, nodes: Vec::new() }),
        _ => Resolution::new(store, rules, uncommitted).run(&distinct).await,
    }
}

/// What snapshots disagree on.
struct Dispute {
    keys: BTreeSet<(Part, i64)>,
    /// Each event that is some snapshots' and not all's, and whose.
    events: BTreeMap<i64, Sets>,
    /// The events so that each key is there once at most in each round, and not in the last.
    rounds: Vec<Vec<EventNid>>,
}

impl Dispute {
    fn of(count: usize, disagreements: &[(Part, Disagreement)]) -> Self {
        let (mut keys, mut events, mut rounds) = (BTreeSet::new(), BTreeMap::new(), vec![Vec::new()]);
        for (part, disagreement) in disagreements {
            keys.insert((*part, disagreement.key));
            let holders = |holders: &Holders| holders.iter().map(|place| *place as usize).collect::<Vec<_>>();
            let mut values: Vec<(i64, Sets)> = Vec::with_capacity(disagreement.others.len() + 1);
            if let Some(usual) = disagreement.usual {
                let others = disagreement.others.iter().flat_map(|(_, other)| holders(other));
                values.push((usual, Sets::all_but(count, others)));
            }
            for (value, other) in &disagreement.others {
                let Some(value) = value else { continue };
                let mut sets = Sets::none(count);
                holders(other).into_iter().for_each(|index| sets.add(index));
                values.push((*value, sets));
            }
            for (round, (event, sets)) in values.into_iter().enumerate() {
                if round + 1 >= rounds.len() {
                    rounds.push(Vec::new());
                }
                if let Some(round) = rounds.get_mut(round) {
                    round.push(EventNid(event));
                }
                events.insert(event, sets);
            }
        }
        Self { keys, events, rounds }
    }
}

/// Works something out that may take long without keeping others from their turn.
fn aside<T>(conflict: &Conflict, work: impl FnOnce() -> T) -> T {
    let size = conflict.branches.iter().map(HashMap::len).sum::<usize>() + conflict.auth_difference.len();
    let has_threads = tokio::runtime::Handle::try_current()
        .is_ok_and(|handle| handle.runtime_flavor() == tokio::runtime::RuntimeFlavor::MultiThread);
    if size > MANY && has_threads { tokio::task::block_in_place(work) } else { work() }
}

/// What has been loaded so far.
struct Resolution<'a> {
    store: &'a Store,
    rules: &'a RoomVersionRules,
    uncommitted: &'a Uncommitted,
    uncommitted_nids: HashMap<EventNid, Arc<StoredEvent>>,
    by_id: HashMap<OwnedEventId, Arc<StoredEvent>>,
    by_nid: HashMap<EventNid, Arc<StoredEvent>>,
    absent: HashSet<OwnedEventId>,
    edges: BTreeMap<i64, Vec<i64>>,
}

impl<'a> Resolution<'a> {
    fn new(store: &'a Store, rules: &'a RoomVersionRules, uncommitted: &'a Uncommitted) -> Self {
        let uncommitted_nids = uncommitted.values().map(|event| (event.nid, Arc::clone(event))).collect();
        Self {
            store,
            rules,
            uncommitted,
            uncommitted_nids,
            by_id: HashMap::new(),
            by_nid: HashMap::new(),
            absent: HashSet::new(),
            edges: BTreeMap::new(),
        }
    }

    async fn run(mut self, snapshots: &[SnapshotId]) -> Result<Outcome, RoomError> {
        let base = snapshots.first().copied().unwrap_or(SnapshotId::EMPTY);
        let dispute = Dispute::of(snapshots.len(), &self.store.snapshots.disagreements(snapshots).await?);
        let all: Vec<EventNid> = dispute.events.keys().copied().map(EventNid).collect();
        self.load_nids(&all).await?;
        let conflict = Conflict {
            branches: dispute.rounds.iter().map(|round| self.branch(round)).collect(),
            auth_difference: self.auth_difference(base, &dispute).await?,
            subgraph: self.subgraph(&all).await?,
        };
        let resolved = self.resolve(&conflict, base).await?;
        let mut changes = Vec::with_capacity(dispute.keys.len());
        let mut decided: HashSet<i64> = HashSet::new();
        for ((event_type, state_key), event_id) in resolved.state {
            let event_type = event_type.to_string();
            let (part, key) = self.store.key(&event_type, &state_key);
            let event = self.by_id.get(&event_id).map(|event| event.nid.0);
            changes.push(Change { part, key, event });
            decided.insert(key);
        }
        let gone = dispute.keys.iter().filter(|(_, key)| !decided.contains(key));
        changes.extend(gone.map(|(part, key)| Change { part: *part, key: *key, event: None }));
        let changed = self.store.snapshots.change(base, &changes).await?;
        Ok(Outcome { id: changed.id, nodes: changed.nodes })
    }

    fn branch(&self, set: &[EventNid]) -> HashMap<(StateEventType, String), OwnedEventId> {
        let entry = |nid: &EventNid| {
            let pdu = &self.by_nid.get(nid)?.pdu;
            let key = (StateEventType::from(pdu.type_str()), pdu.state_key()?.to_owned());
            Some((key, pdu.event_id().to_owned()))
        };
        set.iter().filter_map(entry).collect()
    }

    async fn auth_difference(
        &mut self,
        base: SnapshotId,
        dispute: &Dispute,
    ) -> Result<BTreeSet<OwnedEventId>, RoomError> {
        let mut answers: Vec<(Shared, Vec<i64>)> = Vec::new();
        for _ in 0..ROUNDS_MAX {
            let answer = auth_difference_of(&dispute.events, &self.edges, |question| {
                answers.iter().find(|(asked, _)| asked == question).map(|(_, events)| events.clone())
            });
            match answer {
                Err(NotLoaded::Edges(missing)) => self.load_edges(&missing).await?,
                Err(NotLoaded::Shared(question)) => {
                    let events = self.shared(base, &dispute.keys, &question).await?;
                    answers.push((question, events));
                }
                Ok(difference) => return self.ids(difference).await,
            }
        }
        Err(RoomError::Refused("the room's auth chains are too large to compare".into()))
    }

    /// Answers a question about the state that all snapshots share.
    async fn shared(
        &mut self,
        base: SnapshotId,
        conflicted: &BTreeSet<(Part, i64)>,
        question: &Shared,
    ) -> Result<Vec<i64>, RoomError> {
        match question {
            Shared::Alike(events) => {
                let nids: Vec<EventNid> = events.iter().copied().map(EventNid).collect();
                self.load_nids(&nids).await?;
                let mut wanted: BTreeSet<(Part, i64)> =
                    ["m.room.power_levels", "m.room.join_rules"].map(|kind| self.store.key(kind, "")).into();
                for event in nids.iter().filter_map(|nid| self.by_nid.get(nid)) {
                    if let Some(state_key) = event.pdu.state_key() {
                        wanted.insert(self.store.key(event.pdu.type_str(), state_key));
                    }
                }
                let wanted: Vec<(Part, i64)> = wanted.difference(conflicted).copied().collect();
                let found = self.store.snapshots.get_many(base, &wanted).await?;
                Ok(found.into_iter().flatten().map(|nid| nid.0).collect())
            }
            Shared::From(least) => {
                let mut found = Vec::new();
                for part in [Part::Other, Part::Members] {
                    let entries = self.store.snapshots.entries(base, part).await?;
                    let shared =
                        entries.into_iter().filter(|(key, nid)| nid.0 >= *least && !conflicted.contains(&(part, *key)));
                    found.extend(shared.map(|(_, nid)| nid.0));
                }
                Ok(found)
            }
        }
    }

    async fn subgraph(&mut self, all: &[EventNid]) -> Result<BTreeSet<OwnedEventId>, RoomError> {
        match &self.rules.state_res {
            StateResolutionVersion::V2(rules) if rules.consider_conflicted_state_subgraph => {}
            _ => return Ok(BTreeSet::new()),
        }
        let conflicted: BTreeSet<i64> = all.iter().map(|nid| nid.0).collect();
        for _ in 0..ROUNDS_MAX {
            match conflicted_subgraph(&conflicted, &self.edges) {
                Ok(subgraph) => return self.ids(subgraph).await,
                Err(NotLoaded::Edges(missing)) => self.load_edges(&missing).await?,
                Err(NotLoaded::Shared(_)) => break,
            }
        }
        Err(RoomError::Refused("the room's auth chains are too large to compare".into()))
    }

    async fn resolve(&mut self, conflict: &Conflict, base: SnapshotId) -> Result<samtal_state::Resolved, RoomError> {
        let mut shared: HashMap<(String, String), Option<OwnedEventId>> = HashMap::new();
        for _ in 0..ROUNDS_MAX {
            let state = |event_type: &StateEventType, state_key: &str| match shared
                .get(&(event_type.to_string(), state_key.to_owned()))
            {
                Some(Some(id)) => Lookup::Found(id.clone()),
                Some(None) => Lookup::Absent,
                None => Lookup::NotLoaded,
            };
            let fetch = |id: &EventId| self.lookup(id);
            match aside(conflict, || samtal_state::resolve(conflict, self.rules, state, fetch)) {
                Ok(resolved) => return Ok(resolved),
                Err(ResolveError::EventsNotLoaded(ids)) => self.load_with_levels(ids).await?,
                Err(ResolveError::StateNotLoaded(keys)) => {
                    let keys: Vec<(String, String)> =
                        keys.into_iter().map(|(event_type, state_key)| (event_type.to_string(), state_key)).collect();
                    let places: Vec<(Part, i64)> =
                        keys.iter().map(|(event_type, state_key)| self.store.key(event_type, state_key)).collect();
                    let nids = self.store.snapshots.get_many(base, &places).await?;
                    self.load_nids(&nids.iter().flatten().copied().collect::<Vec<_>>()).await?;
                    for ((event_type, state_key), nid) in keys.into_iter().zip(nids) {
                        let id = nid.and_then(|nid| self.by_nid.get(&nid));
                        shared.insert((event_type, state_key), id.map(|event| event.pdu.event_id().to_owned()));
                    }
                }
                Err(ResolveError::Malformed(error)) => return Err(RoomError::Refused(error.to_string())),
            }
        }
        Err(RoomError::Refused("state resolution asks for too much".into()))
    }

    fn lookup(&self, id: &EventId) -> Lookup<Pdu> {
        match self.by_id.get(id) {
            Some(event) => Lookup::Found(event.pdu.clone()),
            None if self.absent.contains(id) => Lookup::Absent,
            None => Lookup::NotLoaded,
        }
    }

    fn keep(&mut self, event: Arc<StoredEvent>) {
        self.by_id.insert(event.pdu.event_id().to_owned(), Arc::clone(&event));
        self.by_nid.insert(event.nid, event);
    }

    async fn load_nids(&mut self, nids: &[EventNid]) -> Result<(), RoomError> {
        let mut wanted = Vec::new();
        for nid in nids {
            match self.uncommitted_nids.get(nid).cloned() {
                Some(event) => self.keep(event),
                None if self.by_nid.contains_key(nid) => {}
                None => wanted.push(*nid),
            }
        }
        for event in self.store.in_order(&wanted).await? {
            self.keep(event);
        }
        Ok(())
    }

    async fn load_ids(&mut self, ids: &[OwnedEventId]) -> Result<(), RoomError> {
        let mut wanted = Vec::new();
        for id in ids {
            match self.uncommitted.get(id).cloned() {
                Some(event) => self.keep(event),
                None => wanted.push(id.clone()),
            }
        }
        for event in self.store.graph.events(&wanted).await? {
            self.keep(event);
        }
        for id in wanted {
            if !self.by_id.contains_key(&id) {
                self.absent.insert(id);
            }
        }
        Ok(())
    }

    /// Loads events, and behind each power levels event the one before it, and so on: all of them will be asked for, one by one.
    async fn load_with_levels(&mut self, ids: Vec<OwnedEventId>) -> Result<(), RoomError> {
        let mut open = ids;
        for _ in 0..ROUNDS_MAX {
            if open.is_empty() {
                break;
            }
            self.load_ids(&open).await?;
            let levels = open.iter().filter_map(|id| self.by_id.get(id));
            let levels = levels.filter(|event| event.pdu.is_state_of("m.room.power_levels", ""));
            let next: BTreeSet<OwnedEventId> = levels.flat_map(|event| event.pdu.auth_events().to_vec()).collect();
            open = next.into_iter().filter(|id| !self.by_id.contains_key(id) && !self.absent.contains(id)).collect();
        }
        Ok(())
    }

    async fn load_edges(&mut self, missing: &[i64]) -> Result<(), RoomError> {
        let nids: Vec<EventNid> = missing.iter().map(|nid| EventNid(*nid)).collect();
        self.load_nids(&nids).await?;
        let auth: Vec<OwnedEventId> = nids
            .iter()
            .filter_map(|nid| self.by_nid.get(nid))
            .flat_map(|event| event.pdu.auth_events().to_vec())
            .filter(|id| !self.by_id.contains_key(id))
            .collect();
        self.load_ids(&auth).await?;
        for nid in nids {
            let event = self.by_nid.get(&nid);
            let auth = event.map(|event| event.pdu.auth_events().to_vec()).unwrap_or_default();
            // A number not below the event's own would break the walk's order; such an edge cannot be real.
            let auth = auth.iter().filter_map(|id| self.by_id.get(id)).map(|event| event.nid.0);
            self.edges.insert(nid.0, auth.filter(|auth| *auth < nid.0).collect());
        }
        Ok(())
    }

    async fn ids(&mut self, nids: BTreeSet<i64>) -> Result<BTreeSet<OwnedEventId>, RoomError> {
        let nids: Vec<EventNid> = nids.into_iter().map(EventNid).collect();
        self.load_nids(&nids).await?;
        let id = |nid: &EventNid| Some(self.by_nid.get(nid)?.pdu.event_id().to_owned());
        Ok(nids.iter().filter_map(id).collect())
    }
}
