//! Events from other servers: the checks on receipt, and their place in the graph (SS API, "Checks performed on receipt of a
//! PDU").

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use ruma::{EventId, OwnedEventId};
use samtal_db::{Change, Value};
use samtal_event::Pdu;
use samtal_model::ChangeKind;
use samtal_state::{SnapshotId, authorize};

use crate::{
    Rooms,
    error::RoomError,
    graph::{Flags, Room, StoredEvent, insert_event, place_event},
    outlier::needed,
    relation,
    resolution::{self, Uncommitted},
    sticky,
    turn::Turn,
    writer::{Outcome, Work},
};

/// What became of a received event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ingested {
    /// It was here already.
    Duplicate,
    /// It is part of the room now.
    Accepted,
    /// Current state refuses it: stored, but not shown.
    SoftFailed(String),
    /// Its auth events or the state before it refuse it.
    Rejected(String),
}

/// Whether an event can be placed yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ingest {
    /// It has been handled.
    Done(Ingested),
    /// These previous events are not here: ingest them first, or say what the state before the event is.
    NeedPrev(Vec<OwnedEventId>),
    /// These auth events are not here: hold them first.
    NeedAuth(Vec<OwnedEventId>),
}

/// An event that is ready to be placed.
#[derive(Clone, Debug)]
pub(crate) struct Placement {
    pub(crate) pdu: Pdu,
    /// The state before it, where its previous events are not here.
    pub(crate) before: Option<SnapshotId>,
    /// Why policy will not show it (a policy server's refusal), if so.
    pub(crate) soft_fail: Option<String>,
    /// The transaction that made it, if it is a local user's.
    pub(crate) txn: Option<String>,
}

impl Rooms {
    /// Takes in an event whose form, hashes and signatures have been checked. `state` names the state before the event as
    /// another server told it (all of it must be held); without it the previous events must be here.
    pub async fn ingest(
        &self,
        room: &Arc<Room>,
        pdu: &Pdu,
        state: Option<&[OwnedEventId]>,
        soft_fail: Option<String>,
    ) -> Result<Ingest, RoomError> {
        let graph = &self.inner.store.graph;
        if let Some(known) = graph.event(pdu.event_id()).await?
            && !known.flags.has(Flags::OUTLIER)
        {
            return Ok(Ingest::Done(Ingested::Duplicate));
        }
        let missing = self.missing(&needed(pdu, room), |_| true).await?;
        if !missing.is_empty() {
            return Ok(Ingest::NeedAuth(missing));
        }
        let before = match state {
            Some(ids) => Some(self.snapshot_of(room, ids).await?),
            None => {
                // An event of another room is none that this one could build on: its state would come into this room.
                let is_placed = |event: &StoredEvent| event.room == room.nid && event.before.is_some();
                let missing = self.missing(pdu.prev_events(), is_placed).await?;
                if !missing.is_empty() {
                    return Ok(Ingest::NeedPrev(missing));
                }
                None
            }
        };
        let placement = Placement { pdu: pdu.clone(), before, soft_fail, txn: None };
        match self.submit(&room.room_id, Work::Remote(Box::new(placement))).await? {
            Outcome::Ingested(ingested) => Ok(Ingest::Done(ingested)),
            Outcome::Appended(_) | Outcome::Inserted(_) | Outcome::Done => Ok(Ingest::Done(Ingested::Accepted)),
        }
    }

    /// Takes in the first of these events, as many as build on what is here and on each other, in one write: what became of each.
    /// The one after them needs [`Rooms::ingest`].
    pub async fn ingest_run(&self, room: &Arc<Room>, pdus: &[Pdu]) -> Result<Vec<Ingested>, RoomError> {
        let named: Vec<OwnedEventId> = pdus
            .iter()
            .flat_map(|pdu| needed(pdu, room).into_iter().chain(pdu.prev_events().iter().cloned()))
            .collect();
        let here = self.inner.store.graph.events(&named).await?;
        let here: HashMap<&EventId, bool> =
            here.iter().map(|event| (event.pdu.event_id(), event.room == room.nid && event.before.is_some())).collect();
        let mut coming: HashSet<&EventId> = HashSet::new();
        for pdu in pdus {
            let is_held = |id: &OwnedEventId| here.contains_key(&**id) || coming.contains(&**id);
            let is_placed = |id: &OwnedEventId| here.get(&**id) == Some(&true) || coming.contains(&**id);
            if !needed(pdu, room).iter().all(is_held) || !pdu.prev_events().iter().all(is_placed) {
                break;
            }
            coming.insert(pdu.event_id());
        }
        let work = pdus.iter().take(coming.len()).map(|pdu| {
            Work::Remote(Box::new(Placement { pdu: pdu.clone(), before: None, soft_fail: None, txn: None }))
        });
        let mut done = Vec::with_capacity(coming.len());
        for outcome in self.submit_all(&room.room_id, work.collect()).await? {
            match outcome {
                Ok(Outcome::Ingested(ingested)) => done.push(ingested),
                // Whoever asks for it by itself hears why.
                _ => break,
            }
        }
        Ok(done)
    }

    async fn missing(
        &self,
        ids: &[OwnedEventId],
        counts: impl Fn(&StoredEvent) -> bool,
    ) -> Result<Vec<OwnedEventId>, RoomError> {
        let found = self.inner.store.graph.events(ids).await?;
        let found: BTreeSet<&EventId> =
            found.iter().filter(|event| counts(event)).map(|event| event.pdu.event_id()).collect();
        Ok(ids.iter().filter(|id| !found.contains(&***id)).cloned().collect())
    }

    /// The snapshot of these state events of the room, as far as they are held and not rejected. Whoever tells of a state may name what
    /// is held of another room; power levels from there would be power here.
    pub(crate) async fn snapshot_of(&self, room: &Room, ids: &[OwnedEventId]) -> Result<SnapshotId, RoomError> {
        let store = &self.inner.store;
        let mut changes = Vec::with_capacity(ids.len());
        for event in store.graph.events(ids).await? {
            if event.room == room.nid && event.pdu.is_state() && !event.pdu.is_rejected() {
                changes.push(store.change_of(event.nid, &event.pdu));
            }
        }
        self.changed_snapshot(SnapshotId::EMPTY, &changes).await
    }

    /// A snapshot with changes, made durable.
    pub(crate) async fn changed_snapshot(
        &self,
        of: SnapshotId,
        changes: &[samtal_state::tree::Change],
    ) -> Result<SnapshotId, RoomError> {
        if changes.is_empty() {
            return Ok(of);
        }
        let store = &self.inner.store;
        let changed = store.snapshots.change(of, changes).await?;
        let mut batch = samtal_db::Batch::new();
        crate::snapshot::insert_nodes(&mut batch, changed.nodes);
        store.db().commit(batch).await?;
        Ok(changed.id)
    }

    /// What several states come to together: those that other servers told (all held), and those after events that are here.
    pub async fn merge_states(
        &self,
        room: &Room,
        told: &[Vec<OwnedEventId>],
        known: &[OwnedEventId],
    ) -> Result<Vec<OwnedEventId>, RoomError> {
        let store = &self.inner.store;
        let mut snapshots = Vec::with_capacity(told.len() + known.len());
        for ids in told {
            snapshots.push(self.snapshot_of(room, ids).await?);
        }
        for event in store.graph.events(known).await? {
            snapshots.push(store.state_after(&event).await?);
        }
        let outcome = resolution::resolve(store, room.rules, &snapshots, &Uncommitted::default()).await?;
        let mut batch = samtal_db::Batch::new();
        crate::snapshot::insert_nodes(&mut batch, outcome.nodes);
        store.db().commit(batch).await?;
        Ok(store.state(outcome.id).await?.iter().map(|event| event.pdu.event_id().to_owned()).collect())
    }
}

impl Turn<'_> {
    /// Places a received event.
    pub(crate) async fn append_remote(&mut self, placement: &Placement) -> Result<Ingested, RoomError> {
        let pdu = &placement.pdu;
        let known = self.find(pdu.event_id()).await?;
        if known.as_ref().is_some_and(|known| !known.flags.has(Flags::OUTLIER)) {
            return Ok(Ingested::Duplicate);
        }
        if self.is_second_create(pdu).await? {
            return Ok(Ingested::Rejected("a room has one create event".into()));
        }
        let before = self.before(placement).await?;
        let refused = self.refused(pdu, before).await?;
        let (flags, outcome) = match refused {
            Some((flags, outcome)) => (flags, outcome),
            None => match &placement.soft_fail {
                Some(reason) => (Flags::SOFT_FAILED, Ingested::SoftFailed(reason.clone())),
                None if self.redacts_elsewhere(pdu).await? => {
                    let reason = "it redacts an event of another room".to_owned();
                    (Flags::SOFT_FAILED, Ingested::SoftFailed(reason))
                }
                None => (Flags::default(), Ingested::Accepted),
            },
        };
        let nid = match &known {
            Some(known) => known.nid,
            None => {
                let auth = self.store.graph.events(pdu.auth_events()).await?;
                self.number(&auth.iter().map(|event| event.pdu.clone()).collect::<Vec<_>>()).await?
            }
        };
        let event = StoredEvent {
            nid,
            room: self.head.room.nid,
            position: None,
            flags,
            before: Some(before),
            redacted_by: None,
            txn: placement.txn.as_deref().map(Into::into),
            pdu: pdu.clone().with_rejected(flags.has(Flags::REJECTED)),
        };
        // What was redacted while it was only held stays so.
        let event = match known.as_ref().filter(|known| known.flags.has(Flags::REDACTED)) {
            Some(known) => StoredEvent {
                flags: flags.with(Flags::REDACTED),
                redacted_by: known.redacted_by.clone(),
                pdu: known.pdu.clone().with_rejected(flags.has(Flags::REJECTED)),
                ..event
            },
            None => event,
        };
        // Current state says nothing about what it was built on.
        if let Some(held) = &known
            && !flags.has(Flags::REJECTED)
            && placement.soft_fail.is_none()
            && self.is_below_head(pdu, nid).await?
        {
            let flags = event.flags.without(Flags::SOFT_FAILED);
            self.place_below(held, StoredEvent { flags, ..event }).await?;
            return Ok(Ingested::Accepted);
        }
        let accepted = outcome == Ingested::Accepted;
        let lacking = if flags.has(Flags::REJECTED) { Vec::new() } else { self.lacking(pdu).await? };
        if !lacking.is_empty() {
            self.leave_room();
        }
        let position = if accepted { self.log_event(pdu) } else { Value::Null };
        match known {
            Some(known) => {
                place_event(&mut self.batch, &event, position.clone(), known.flags);
                self.rewrite(nid, pdu.event_id());
                if !accepted {
                    self.log_placed(pdu.event_id());
                }
            }
            None => insert_event(&mut self.batch, &event, position.clone(), placement.txn.as_deref()),
        }
        self.expect_later(event.clone(), accepted.then(|| position.clone()));
        self.note_partial_event(nid);
        let named_in = self.no_longer_lacking(pdu.event_id()).await?;
        if !lacking.is_empty() {
            let gap = match (named_in, accepted) {
                (Some(gap), _) => gap.into(),
                (None, true) => position.clone(),
                // Nobody is shown the event, but what was before it is somewhere, too.
                (None, false) => self.batch.log(Change::new(ChangeKind::Backfill).room(&self.head.room.room_id)),
            };
            self.note_lacking(&lacking, &gap);
        }
        if !flags.has(Flags::REJECTED) && !accepted {
            if placement.soft_fail.is_none() {
                sticky::insert(&mut self.batch, self.head.room.nid, nid, pdu, Value::Int(0), self.author.now_ms);
            }
            // Soft-failed events take part in resolution through those that build on them, not by themselves.
            return Ok(outcome);
        }
        if accepted {
            relation::insert(&mut self.batch, self.head.room.nid, nid, pdu, position.clone());
            sticky::insert(&mut self.batch, self.head.room.nid, nid, pdu, position.clone(), self.author.now_ms);
            if self.advance(&event, named_in.is_some()).await? && self.head.extremities.disturb() {
                self.settle(Some(position)).await?;
            }
            if pdu.type_str() == "m.room.redaction" && pdu.redacts().is_some() {
                self.apply_redaction(pdu).await?;
            }
            for redaction in self.waiting_redactions(pdu.event_id()).await? {
                self.apply_redaction(&redaction).await?;
            }
        }
        Ok(outcome)
    }

    /// Whether a redaction is of an event in another room: it will never apply, and clients are not told of it (RV3,
    /// "Handling redactions").
    async fn redacts_elsewhere(&self, pdu: &Pdu) -> Result<bool, RoomError> {
        if pdu.type_str() != "m.room.redaction" || self.head.room.rules.authorization.special_case_room_redaction {
            return Ok(false);
        }
        let Some(target) = pdu.redacts() else { return Ok(false) };
        let target = self.store.graph.event(target).await?;
        Ok(target.is_some_and(|target| target.room != self.head.room.nid))
    }

    /// The state before an event: given, or resolved from that after its previous events.
    async fn before(&mut self, placement: &Placement) -> Result<SnapshotId, RoomError> {
        if let Some(before) = placement.before {
            return Ok(before);
        }
        let mut after = Vec::new();
        for id in placement.pdu.prev_events() {
            let event = self.find(id).await?.filter(|event| event.room == self.head.room.nid);
            let event = event.ok_or(RoomError::UnknownEvent)?;
            after.push(self.after(&event).await?);
        }
        self.resolve(&after).await
    }

    pub(crate) async fn after(&mut self, event: &StoredEvent) -> Result<SnapshotId, RoomError> {
        let before = event.before.ok_or(RoomError::UnknownEvent)?;
        if event.pdu.state_key().is_none() || event.pdu.is_rejected() {
            return Ok(before);
        }
        let changed = self.store.snapshots.change(before, &[self.store.change_of(event.nid, &event.pdu)]).await?;
        self.add_nodes(changed.nodes);
        Ok(changed.id)
    }

    pub(crate) async fn resolve(&mut self, snapshots: &[SnapshotId]) -> Result<SnapshotId, RoomError> {
        if let [only] = snapshots {
            return Ok(*only);
        }
        let uncommitted: Uncommitted = self.uncommitted();
        let outcome = resolution::resolve(self.store, self.head.room.rules, snapshots, &uncommitted).await?;
        self.add_nodes(outcome.nodes);
        Ok(outcome.id)
    }

    /// The three authorization checks.
    async fn refused(&mut self, pdu: &Pdu, before: SnapshotId) -> Result<Option<(Flags, Ingested)>, RoomError> {
        if let Some(rejection) = self.rejection(pdu, before).await? {
            return Ok(Some(rejection));
        }
        let Some(auth) = self.head.auth.clone() else { return Ok(None) };
        if before == self.head.snapshot || self.head.partial {
            return Ok(None);
        }
        let rules = self.head.room.rules;
        let keys = authorize::auth_keys_of(pdu, rules).unwrap_or_default();
        self.head.load(self.store, &keys).await?;
        match auth.check(pdu, rules, |event_type, state_key| self.head.loaded(event_type, state_key)) {
            Ok(()) => Ok(None),
            Err(refused) => Ok(Some((Flags::SOFT_FAILED, Ingested::SoftFailed(refused.reason)))),
        }
    }

    /// The two that reject an event: by its own auth events, and by the state before it. Where that is not whole, its own auth
    /// events say what members it does not have.
    pub(crate) async fn rejection(
        &mut self,
        pdu: &Pdu,
        before: SnapshotId,
    ) -> Result<Option<(Flags, Ingested)>, RoomError> {
        if pdu.is_rejected() {
            return Ok(Some((Flags::REJECTED, Ingested::Rejected("the event has a form that is not taken".into()))));
        }
        let rules = self.head.room.rules;
        let rejected = |refused: samtal_state::Refused| Ok(Some((Flags::REJECTED, Ingested::Rejected(refused.reason))));
        let mut auth: HashMap<OwnedEventId, Pdu> = HashMap::new();
        for id in needed(pdu, &self.head.room) {
            if let Some(event) = self.find(&id).await? {
                auth.insert(id, event.pdu.clone());
            }
        }
        if let Err(refused) = authorize::check_own_auth_events(pdu, rules, |id| auth.get(id).cloned()) {
            return rejected(refused);
        }
        let keys = match authorize::auth_keys_of(pdu, rules) {
            Ok(mut keys) => {
                keys.push((ruma::events::StateEventType::RoomCreate, String::new()));
                keys
            }
            Err(refused) => return rejected(refused),
        };
        let mut state: HashMap<(String, String), Pdu> = HashMap::new();
        for (event_type, state_key) in &keys {
            let event_type = event_type.to_string();
            let (part, key) = self.store.key(&event_type, state_key);
            if let Some(nid) = self.store.snapshots.get(before, part, key).await? {
                state.insert((event_type, state_key.clone()), self.find_nid(nid).await?.pdu.clone());
            } else if self.head.partial && event_type == "m.room.member" {
                let told = auth.values().find(|told| told.is_state_of("m.room.member", state_key));
                if let Some(told) = told.filter(|told| !told.is_rejected()) {
                    state.insert((event_type, state_key.clone()), told.clone());
                }
            }
        }
        let lookup = |event_type: &ruma::events::StateEventType, state_key: &str| {
            state.get(&(event_type.to_string(), state_key.to_owned())).cloned()
        };
        if let Err(refused) = authorize::check_against(pdu, rules, lookup) {
            return rejected(refused);
        }
        Ok(None)
    }
}
