//! One turn of a room: events are appended to its head, and all of it becomes one write batch.

use std::{collections::HashMap, sync::Arc};

use ruma::{EventId, OwnedEventId, OwnedServerName, ServerName, UserId, events::room::member::MembershipState};
use samtal_db::{Batch, Change, Committed, Value};
use samtal_event::Pdu;
use samtal_keyring::OwnKeys;
use samtal_model::{ChangeKind, StreamPosition};
use samtal_state::{Node, NodeId, SnapshotId, authorize};

use crate::{
    error::RoomError,
    graph::{Flags, StoredEvent, insert_event, place_event},
    head::Head,
    ids::EventNid,
    membership::{MembershipWriter, membership_of},
    relation,
    snapshot::insert_nodes,
    sticky,
    store::Store,
};

/// Who signs for this tenant, and what time it is.
#[derive(Clone)]
pub(crate) struct Author {
    pub(crate) name: OwnedServerName,
    pub(crate) keys: Arc<OwnKeys>,
    pub(crate) now_ms: u64,
}

/// An event of this turn that waits for its commit.
#[derive(Clone)]
pub(crate) struct Pending {
    pub(crate) event: StoredEvent,
    /// Stands for its position in the timeline, if it gets one.
    position: Option<Value>,
}

/// A turn under way. Jobs are tried one after the other; a refused job leaves no trace.
pub(crate) struct Turn<'a> {
    pub(crate) store: &'a Store,
    pub(crate) author: Author,
    pub(crate) head: Head,
    pub(crate) batch: Batch,
    is_new_room: bool,
    nodes: Vec<(NodeId, Node)>,
    pub(crate) pending: Vec<Pending>,
    pub(crate) txns: HashMap<String, OwnedEventId>,
    /// Whether a commit of the same was refused. Only then transactions are looked for that were made before: hardly any was,
    /// and one that was makes the commit a conflict.
    pub(crate) retried: bool,
    rewritten: Vec<(EventNid, OwnedEventId)>,
    numbers: (i64, i64),
    /// Whether the room's state becomes partial or whole.
    pub(crate) partial_changed: bool,
}

/// Where a turn stood before a job.
pub(crate) struct Mark {
    head: Head,
    batch: Batch,
    nodes: usize,
    pending: Vec<Pending>,
    rewritten: usize,
}

impl<'a> Turn<'a> {
    pub(crate) fn new(store: &'a Store, author: Author, head: Head) -> Self {
        let is_new_room = head.turn == 0;
        Self {
            store,
            author,
            head,
            batch: Batch::new(),
            is_new_room,
            nodes: Vec::new(),
            pending: Vec::new(),
            txns: HashMap::new(),
            retried: false,
            rewritten: Vec::new(),
            numbers: (0, 0),
            partial_changed: false,
        }
    }

    /// Whether nothing has been appended.
    pub(crate) fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// How much the turn would write: whoever fails without having added to it has left nothing behind.
    pub(crate) fn written(&self) -> usize {
        self.batch.len()
    }

    /// Remembers where the turn stands, for jobs of several events: all or nothing.
    pub(crate) fn mark(&self) -> Mark {
        Mark {
            head: self.head.clone(),
            batch: self.batch.clone(),
            nodes: self.nodes.len(),
            pending: self.pending.clone(),
            rewritten: self.rewritten.len(),
        }
    }

    /// Goes back to where the turn stood.
    pub(crate) fn back_to(&mut self, mark: Mark) {
        self.head = mark.head;
        self.batch = mark.batch;
        self.nodes.truncate(mark.nodes);
        self.pending = mark.pending;
        self.rewritten.truncate(mark.rewritten);
        let left: Vec<&EventId> = self.pending.iter().map(|pending| pending.event.pdu.event_id()).collect();
        self.txns.retain(|_, event_id| left.contains(&&**event_id));
    }

    pub(crate) async fn number(&mut self, auth_events: &[Pdu]) -> Result<EventNid, RoomError> {
        let mut floor = 0;
        for pdu in auth_events {
            if let Some(nid) = self.nid_of(pdu.event_id()).await? {
                floor = floor.max(nid.0);
            }
        }
        if self.numbers.0 >= self.numbers.1 || self.numbers.0 <= floor {
            let first = self.store.event_numbers.take(self.store.db(), 32, floor).await?;
            self.numbers = (first, first + 32);
        }
        self.numbers.0 += 1;
        Ok(EventNid(self.numbers.0 - 1))
    }

    /// The event, committed or not.
    pub(crate) async fn find(&self, id: &EventId) -> Result<Option<Arc<StoredEvent>>, RoomError> {
        match self.pending.iter().rev().find(|pending| pending.event.pdu.event_id() == id) {
            Some(pending) => Ok(Some(Arc::new(pending.event.clone()))),
            None => self.store.graph.event(id).await,
        }
    }

    /// The event with this number, committed or not.
    pub(crate) async fn find_nid(&self, nid: EventNid) -> Result<Arc<StoredEvent>, RoomError> {
        match self.pending.iter().rev().find(|pending| pending.event.nid == nid) {
            Some(pending) => Ok(Arc::new(pending.event.clone())),
            None => self.store.graph.event_by_nid(nid).await,
        }
    }

    /// Reads committed events in one go, so that [`Turn::find_nid`] finds them at hand.
    pub(crate) async fn preload(&self, nids: &[EventNid]) -> Result<(), RoomError> {
        let pending: Vec<EventNid> = self.pending.iter().map(|pending| pending.event.nid).collect();
        let wanted: Vec<EventNid> = nids.iter().copied().filter(|nid| !pending.contains(nid)).collect();
        self.store.graph.events_by_nid(&wanted).await.map(|_| ())
    }

    /// The events of this turn, for state resolution.
    pub(crate) fn uncommitted(&self) -> HashMap<OwnedEventId, Arc<StoredEvent>> {
        let entry = |pending: &Pending| (pending.event.pdu.event_id().to_owned(), Arc::new(pending.event.clone()));
        self.pending.iter().map(entry).collect()
    }

    pub(crate) fn add_nodes(&mut self, nodes: Vec<(NodeId, Node)>) {
        self.nodes.extend(nodes);
    }

    /// Notes an event that this turn stores, with what stands for its position.
    pub(crate) fn expect_later(&mut self, event: StoredEvent, position: Option<Value>) {
        self.pending.push(Pending { event, position });
    }

    /// Notes an event that this turn stores at a position of its own.
    pub(crate) fn expect_at(&mut self, event: StoredEvent, position: StreamPosition) {
        self.pending.push(Pending { event: StoredEvent { position: Some(position), ..event }, position: None });
    }

    /// Whether an event came to the timeline as news, or does so by this turn.
    pub(crate) async fn is_news(&self, id: &EventId) -> Result<bool, RoomError> {
        match self.pending.iter().rev().find(|pending| pending.event.pdu.event_id() == id) {
            Some(pending) if pending.position.is_some() => Ok(true),
            Some(pending) => Ok(pending.event.is_news()),
            None => Ok(self.store.graph.event(id).await?.is_some_and(|event| event.is_news())),
        }
    }

    /// The lowest position at which this turn has put an event of its own, with `from <= position < to`.
    pub(crate) fn lowest_placed(&self, from: i64, to: i64) -> Option<i64> {
        let placed = self.pending.iter().filter_map(|pending| Some(pending.event.position?.0));
        placed.filter(|position| (from..to).contains(position)).min()
    }

    /// Notes that the row of an event changes, so that no reader keeps the old form.
    pub(crate) fn rewrite(&mut self, nid: EventNid, id: &EventId) {
        self.rewritten.push((nid, id.to_owned()));
    }

    /// Says in the log that a stored event has got its place, for the tenant's other nodes. What else is logged of an event says it too.
    pub(crate) fn log_placed(&mut self, id: &EventId) {
        self.batch.log(Change::new(ChangeKind::Placed).room(&self.head.room.room_id).reference(id));
    }

    async fn nid_of(&self, event_id: &EventId) -> Result<Option<EventNid>, RoomError> {
        if let Some(pending) = self.pending.iter().rev().find(|pending| pending.event.pdu.event_id() == event_id) {
            return Ok(Some(pending.event.nid));
        }
        Ok(self.store.graph.event(event_id).await?.map(|event| event.nid))
    }

    /// Puts an allowed event on top of the head: its row, and all that follows from it.
    pub(crate) async fn place(
        &mut self,
        nid: EventNid,
        pdu: Pdu,
        before: SnapshotId,
        txn: Option<&str>,
    ) -> Result<(), RoomError> {
        let position = self.log_event(&pdu);
        let event = StoredEvent {
            nid,
            room: self.head.room.nid,
            position: None,
            flags: Flags::default(),
            before: Some(before),
            redacted_by: None,
            txn: txn.map(Into::into),
            pdu: pdu.clone(),
        };
        insert_event(&mut self.batch, &event, position.clone(), txn);
        self.note_partial_event(nid);
        relation::insert(&mut self.batch, self.head.room.nid, nid, &pdu, position.clone());
        sticky::insert(&mut self.batch, self.head.room.nid, nid, &pdu, position.clone(), self.author.now_ms);
        let has_changed = self.advance(&event, false).await?;
        if let Some(txn) = txn {
            self.txns.insert(txn.to_owned(), pdu.event_id().to_owned());
        }
        self.pending.push(Pending { event, position: Some(position.clone()) });
        let stands_on_all = before == self.head.snapshot;
        if let Some(after) = self.head.extremities.only_state().filter(|_| stands_on_all) {
            self.head.extremities.settled();
            if pdu.is_state() {
                self.become_state(&pdu, after, position).await?;
            }
        } else if has_changed && self.head.extremities.disturb() {
            self.settle(Some(position)).await?;
        }
        if pdu.redacts().is_some() && pdu.type_str() == "m.room.redaction" {
            self.apply_redaction(&pdu).await?;
        }
        Ok(())
    }

    pub(crate) fn log_event(&mut self, pdu: &Pdu) -> Value {
        self.batch.log(
            Change::new(ChangeKind::Event).room(&self.head.room.room_id).user(pdu.sender()).reference(pdu.event_id()),
        )
    }

    /// Makes a state event current.
    async fn become_state(&mut self, pdu: &Pdu, snapshot: SnapshotId, position: Value) -> Result<(), RoomError> {
        if pdu.type_str() == "m.room.member" {
            self.note_member(pdu).await?;
        }
        self.head.snapshot = snapshot;
        self.head.set(pdu);
        self.head.log_state(&mut self.batch, position);
        if is_auth_state(pdu) {
            // The lookups hold all of them, this event included: nothing uncommitted is read from the store.
            self.head.refresh_auth(self.store).await?;
        }
        if pdu.type_str() == "m.room.member" {
            self.reconsider_sticky().await?;
        }
        Ok(())
    }

    /// Who comes in, or is in after all, may have sent sticky events that were refused: those that are fresh yet get their
    /// place (MSC4354).
    pub(crate) async fn reconsider_sticky(&mut self) -> Result<(), RoomError> {
        let room = self.head.room.nid;
        let refused = self.store.refused_sticky_events(room, self.author.now_ms).await?;
        for event in refused.into_iter().filter(|event| !event.pdu.is_state()) {
            let Some(auth) = self.head.auth.clone() else { return Ok(()) };
            let rules = self.head.room.rules;
            let keys = authorize::auth_keys_of(&event.pdu, rules).unwrap_or_default();
            self.head.load(self.store, &keys).await?;
            let loaded = |event_type: &_, state_key: &_| self.head.loaded(event_type, state_key);
            if auth.check(&event.pdu, rules, loaded).is_err() {
                continue;
            }
            let position = self.log_event(&event.pdu);
            let placed = StoredEvent { flags: Flags::default(), ..(*event).clone() };
            place_event(&mut self.batch, &placed, position.clone(), event.flags);
            relation::insert(&mut self.batch, room, event.nid, &event.pdu, position.clone());
            sticky::insert(&mut self.batch, room, event.nid, &event.pdu, position.clone(), self.author.now_ms);
            self.rewrite(event.nid, event.pdu.event_id());
            self.expect_later(placed, Some(position));
        }
        Ok(())
    }

    async fn note_member(&mut self, pdu: &Pdu) -> Result<(), RoomError> {
        let state_key = pdu.state_key().unwrap_or_default().to_owned();
        let before = self.head.state(self.store, "m.room.member", &state_key).await?;
        let before = before.as_ref().and_then(membership_of);
        let local = <&UserId>::try_from(state_key.as_str()).is_ok_and(|user| user.server_name() == self.author.name);
        let mut writer = MembershipWriter::default();
        writer.set(&mut self.batch, &self.head.room, pdu, before.as_ref(), local);
        writer.finish(&mut self.batch, self.head.room.nid);
        Ok(())
    }

    /// Makes all of the turn durable. The events are readable when this returns.
    pub(crate) async fn commit(mut self) -> Result<(Head, Committed), RoomError> {
        let mut nodes = std::mem::take(&mut self.nodes);
        nodes.sort_unstable_by_key(|(id, _)| *id);
        nodes.dedup_by_key(|(id, _)| *id);
        insert_nodes(&mut self.batch, nodes);
        if self.is_new_room {
            self.head.turn = 1;
            self.head.insert(&mut self.batch);
        } else {
            self.head.update(&mut self.batch);
        }
        // Who hears of the events looks for them at once.
        let events = std::mem::take(&mut self.pending).into_iter().map(|pending| (pending.event, pending.position));
        let events: Vec<_> = events.collect();
        let (rewritten, at_hand) = (std::mem::take(&mut self.rewritten), self.store.graph.at_hand());
        self.batch.before_announcing(move |committed| {
            for (nid, id) in &rewritten {
                at_hand.drop_event(*nid, id);
            }
            for (event, position) in &events {
                let given = position.as_ref().map(|position| StreamPosition(committed.position_of(position)));
                at_hand.remember(StoredEvent { position: given.or(event.position), ..event.clone() });
            }
        });
        let committed = self.store.db().commit(self.batch).await?;
        if self.partial_changed {
            self.store.partial.read(self.store.db()).await?;
        }
        self.head.trim();
        Ok((self.head, committed))
    }

    /// A user's current membership.
    pub(crate) async fn membership(&mut self, user: &UserId) -> Result<Option<MembershipState>, RoomError> {
        let member = self.head.state(self.store, "m.room.member", user.as_str()).await?;
        Ok(member.as_ref().and_then(membership_of))
    }

    /// Whether the user is of this tenant.
    pub(crate) fn is_local(&self, server: &ServerName) -> bool {
        server == self.author.name
    }
}

pub(crate) fn is_auth_state(pdu: &Pdu) -> bool {
    pdu.state_key() == Some("")
        && matches!(pdu.type_str(), "m.room.create" | "m.room.power_levels" | "m.room.join_rules")
}
