//! One turn of a room: events are appended to its head, and all of it becomes one write batch.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
};

use ruma::{
    EventId, OwnedEventId, OwnedServerName, OwnedUserId, ServerName, UserId,
    events::{StateEventType, room::member::MembershipState},
    room_version_rules::RoomVersionRules,
};
use samtal_db::{Batch, Change, Committed, Sql, Value, params, sql};
use samtal_event::{Draft, Pdu, UnsignedPdu, build, redact, sign_and_hash};
use samtal_keyring::OwnKeys;
use samtal_kit::signed_ms;
use samtal_model::{ChangeKind, StreamPosition};
use samtal_state::{AuthState, Node, NodeId, SnapshotId, authorize};

use crate::{
    error::RoomError,
    graph::{Flags, StoredEvent, insert_event, place_event, redact_event},
    head::Head,
    ids::EventNid,
    ingest::{Ingested, Placement},
    membership::{MembershipWriter, membership_of},
    policy_server::{PolicyServer, is_exempt},
    relation,
    snapshot::insert_nodes,
    sticky,
    store::Store,
};

/// Most events that a new event names as previous ones.
const PREV_EVENTS_MAX: usize = 20;

const PENDING_REDACTION_INSERT: Sql = sql!(
    "INSERT INTO pending_redaction (room, target, redaction) VALUES ($1, $2, $3)
     ON CONFLICT (room, target, redaction) DO NOTHING"
);
const PENDING_REDACTIONS: Sql = sql!("SELECT redaction FROM pending_redaction WHERE room = $1 AND target = $2");

/// What a local user wants to send.
#[derive(Clone, Debug)]
pub struct LocalDraft {
    /// Who.
    pub sender: OwnedUserId,
    /// What.
    pub draft: Draft,
    /// When, if the sender may say so (application services); milliseconds since the epoch.
    pub ts_ms: Option<u64>,
    /// The transaction that makes it, unique in this tenant; see [`crate::Txn`].
    pub txn: Option<String>,
    /// The event itself, where the room's policy server has signed it already: set by the engine only.
    pub recommended: Option<Pdu>,
}

impl LocalDraft {
    /// A draft sent now, without transaction.
    pub fn new(sender: impl Into<OwnedUserId>, draft: Draft) -> Self {
        Self { sender: sender.into(), draft, ts_ms: None, txn: None, recommended: None }
    }
}

/// An event that a turn has appended, or found to be there already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Its id.
    pub event_id: OwnedEventId,
    /// Whether this call made it.
    pub is_new: bool,
}

/// Who signs for this tenant, and what time it is.
#[derive(Clone)]
pub(crate) struct Author {
    pub(crate) name: OwnedServerName,
    pub(crate) keys: Arc<OwnKeys>,
    pub(crate) now_ms: u64,
}

/// An event of this turn that waits for its commit.
#[derive(Clone)]
struct Pending {
    event: StoredEvent,
    /// Stands for its position in the timeline, if it gets one.
    position: Option<Value>,
}

/// What an event of ours stands on.
pub(crate) struct Ground {
    prev_events: Vec<Pdu>,
    /// The state there.
    before: SnapshotId,
    /// What that allows.
    auth: Arc<AuthState>,
    /// The state events there that authorization asks for.
    auth_events: Vec<Pdu>,
}

impl Ground {
    fn lookup(&self) -> impl Fn(&StateEventType, &str) -> Option<Pdu> {
        |event_type, state_key| {
            let event_type = event_type.to_string();
            self.auth_events.iter().find(|pdu| pdu.is_state_of(&event_type, state_key)).cloned()
        }
    }

    /// Whether the state there allows an event.
    pub(crate) fn check(&self, pdu: &Pdu, rules: &RoomVersionRules) -> Result<(), samtal_state::Refused> {
        self.auth.check(pdu, rules, self.lookup())
    }
}

/// A turn under way. Jobs are tried one after the other; a refused job leaves no trace.
pub(crate) struct Turn<'a> {
    pub(crate) store: &'a Store,
    pub(crate) author: Author,
    pub(crate) head: Head,
    pub(crate) batch: Batch,
    is_new_room: bool,
    nodes: Vec<(NodeId, Node)>,
    pending: Vec<Pending>,
    txns: HashMap<String, OwnedEventId>,
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

    /// Appends an event of a local user, or finds the one that the same transaction or the same state made before.
    pub(crate) async fn append_local(&mut self, local: &LocalDraft) -> Result<Appended, RoomError> {
        if local.draft.type_string() == "m.room.create" {
            // The rules that depend on state do not say it of an event without a state key.
            return Err(RoomError::Refused("a room has one create event".into()));
        }
        if self.retried
            && let Some(event_id) = self.already_sent(local).await?
        {
            return Ok(Appended { event_id, is_new: false });
        }
        if let Some(event_id) = local.txn.as_ref().and_then(|txn| self.txns.get(txn)) {
            return Ok(Appended { event_id: event_id.clone(), is_new: false });
        }
        match self.append_new(local).await {
            // What was allowed once may be refused now.
            Err(error) => match self.already_sent(local).await? {
                Some(event_id) => Ok(Appended { event_id, is_new: false }),
                None => Err(error),
            },
            appended => appended,
        }
    }

    async fn append_new(&mut self, local: &LocalDraft) -> Result<Appended, RoomError> {
        if let Some(event_id) = self.already_state(local).await? {
            return Ok(Appended { event_id, is_new: false });
        }
        if let Some(pdu) = &local.recommended {
            return self.append_recommended(pdu, local.txn.clone()).await;
        }
        if self.needs_recommendation(&local.draft).await? {
            return Err(RoomError::NotAsked);
        }
        let rules = self.head.room.rules;
        let refused = |refused: samtal_state::Refused| RoomError::Refused(refused.reason);
        let keys = authorize::auth_keys_of_draft(&local.draft, &local.sender, rules).map_err(refused)?;
        let ground = self.ground(&keys).await?;
        let ts_ms = local.ts_ms.unwrap_or(self.author.now_ms);
        let unsigned = self.build(&local.draft, &local.sender, &ground, ts_ms);
        let signed = sign_and_hash(&unsigned, &self.author.name, self.author.keys.current().pair(), rules)?;
        let pdu = ground.auth.authorize_own(signed, rules, ground.lookup()).map_err(refused)?.into_pdu();
        if ground.before != self.head.snapshot {
            let auth = self.head.auth.clone().ok_or(RoomError::UnknownRoom)?;
            self.head.load(self.store, &keys).await?;
            auth.check(&pdu, rules, |kind, key| self.head.loaded(kind, key)).map_err(refused)?;
        }
        let nid = self.number(&ground.auth_events).await?;
        self.place(nid, pdu.clone(), ground.before, local.txn.as_deref()).await?;
        Ok(Appended { event_id: pdu.event_id().to_owned(), is_new: true })
    }

    /// What the next event of ours stands on, with the state events of these keys. It is the head's whole state, unless more
    /// events are there that nothing refers to than one event may name.
    pub(crate) async fn ground(&mut self, keys: &[(StateEventType, String)]) -> Result<Ground, RoomError> {
        let named = self.head.extremities.to_name(PREV_EVENTS_MAX);
        let prev_events = named.iter().map(|extremity| extremity.pdu.clone()).collect();
        if named.len() == self.head.extremities.len() {
            let auth = self.head.auth.clone().ok_or(RoomError::UnknownRoom)?;
            let auth_events = self.head.load(self.store, keys).await?;
            return Ok(Ground { prev_events, before: self.head.snapshot, auth, auth_events });
        }
        let states: Vec<SnapshotId> = named.iter().map(|extremity| extremity.after).collect();
        let before = self.resolve(&states).await?;
        let auth_events = self.state_of(before, keys).await?;
        let always = ["m.room.create", "m.room.power_levels", "m.room.join_rules"];
        let always = self.state_of(before, &always.map(|kind| (kind.into(), String::new()))).await?;
        let find = |kind: &str| always.iter().find(|pdu| pdu.is_state_of(kind, "")).cloned();
        let create = find("m.room.create").ok_or(RoomError::UnknownRoom)?;
        let auth = AuthState::new(create, find("m.room.power_levels"), find("m.room.join_rules"), self.head.room.rules)
            .map_err(|refused| RoomError::Damaged(refused.reason))?;
        Ok(Ground { prev_events, before, auth: Arc::new(auth), auth_events })
    }

    async fn state_of(&self, at: SnapshotId, keys: &[(StateEventType, String)]) -> Result<Vec<Pdu>, RoomError> {
        let mut found = Vec::with_capacity(keys.len());
        for (event_type, state_key) in keys {
            let (part, key) = self.store.key(&event_type.to_string(), state_key);
            if let Some(nid) = self.store.snapshots.get(at, part, key).await? {
                found.push(self.find_nid(nid).await?.pdu.clone());
            }
        }
        Ok(found)
    }

    /// An event that stands there.
    pub(crate) fn build(&self, draft: &Draft, sender: &UserId, ground: &Ground, ts_ms: u64) -> UnsignedPdu {
        build(
            draft,
            sender,
            &self.head.room.room_id,
            &ground.prev_events.iter().collect::<Vec<_>>(),
            &ground.auth_events.iter().collect::<Vec<_>>(),
            self.head.depth + 1,
            signed_ms(ts_ms),
            self.head.room.rules,
        )
    }

    /// Whether the room's policy server has to sign the event first.
    async fn needs_recommendation(&mut self, draft: &Draft) -> Result<bool, RoomError> {
        if !self.store.has_policy_source.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let Some(policy) = self.head.state(self.store, "m.room.policy", "").await? else { return Ok(false) };
        if is_exempt(&draft.type_string(), draft.state_key.as_deref()) {
            return Ok(false);
        }
        let Some(server) = PolicyServer::from_content(policy.content_str()) else { return Ok(false) };
        Ok(!self.store.graph.joined_of(self.head.room.nid, &server.via).await?.is_empty())
    }

    /// Appends an event of a local user that was made before, and signed by the policy server since. The room may have gone on.
    async fn append_recommended(&mut self, pdu: &Pdu, txn: Option<String>) -> Result<Appended, RoomError> {
        let placement = Placement { pdu: pdu.clone(), before: None, soft_fail: None, txn };
        match self.append_remote(&placement).await? {
            Ingested::Accepted => Ok(Appended { event_id: pdu.event_id().to_owned(), is_new: true }),
            Ingested::Duplicate => Ok(Appended { event_id: pdu.event_id().to_owned(), is_new: false }),
            Ingested::SoftFailed(reason) | Ingested::Rejected(reason) => Err(RoomError::Refused(reason)),
        }
    }

    async fn already_sent(&self, local: &LocalDraft) -> Result<Option<OwnedEventId>, RoomError> {
        let Some(txn) = &local.txn else { return Ok(None) };
        match self.txns.get(txn) {
            Some(event_id) => Ok(Some(event_id.clone())),
            None => self.store.graph.event_of_txn(txn).await,
        }
    }

    /// State that is already so is not sent again.
    async fn already_state(&mut self, local: &LocalDraft) -> Result<Option<OwnedEventId>, RoomError> {
        let Some(state_key) = local.draft.state_key.as_deref() else { return Ok(None) };
        let current = self.head.state(self.store, &local.draft.type_string(), state_key).await?;
        let same = current
            .filter(|current| current.sender() == local.sender && current.content_str() == local.draft.content());
        Ok(same.map(|current| current.event_id().to_owned()))
    }

    /// Appends a room's create event, which has been built already since the room's id may come from it.
    pub(crate) async fn append_create(&mut self, pdu: Pdu) -> Result<(), RoomError> {
        let refused = |refused: samtal_state::Refused| RoomError::Refused(refused.reason);
        let rules = self.head.room.rules;
        authorize::check_own_auth_events(&pdu, rules, |_| None).map_err(refused)?;
        self.head.auth = Some(Arc::new(AuthState::new(pdu.clone(), None, None, rules).map_err(refused)?));
        let nid = self.number(&[]).await?;
        self.place(nid, pdu, self.head.snapshot, None).await
    }

    /// Puts an allowed event on top of the head: its row, and all that follows from it.
    async fn place(&mut self, nid: EventNid, pdu: Pdu, before: SnapshotId, txn: Option<&str>) -> Result<(), RoomError> {
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

    /// Applies a redaction whose target is here, or notes it for when the target comes.
    pub(crate) async fn apply_redaction(&mut self, redaction: &Pdu) -> Result<(), RoomError> {
        let Some(target_id) = redaction.redacts() else { return Ok(()) };
        let pending = self.pending.iter().position(|pending| pending.event.pdu.event_id() == target_id);
        let target = match pending.and_then(|index| self.pending.get(index)) {
            Some(pending) => pending.event.clone(),
            None => match self.store.graph.event(target_id).await? {
                Some(target) => (*target).clone(),
                None => {
                    let params = params![self.head.room.nid.0, target_id.as_str(), redaction.event_id().as_str()];
                    self.batch.exec(&PENDING_REDACTION_INSERT, params);
                    return Ok(());
                }
            },
        };
        if !self.may_redact(redaction, &target) {
            return Ok(());
        }
        self.redact(&target, redaction, pending).await
    }

    /// Room versions 1 and 2 decide this by their authorization rules; later ones here (RV3, "Handling redactions").
    fn may_redact(&self, redaction: &Pdu, target: &StoredEvent) -> bool {
        let rules = self.head.room.rules;
        target.room == self.head.room.nid
            && target.redacted_by.is_none()
            && target.pdu.type_str() != "m.room.create"
            && (rules.authorization.special_case_room_redaction
                || self
                    .head
                    .auth
                    .as_ref()
                    .is_some_and(|auth| auth.power().can_redact(redaction.sender(), target.pdu.sender())))
    }

    async fn redact(&mut self, target: &StoredEvent, redaction: &Pdu, pending: Option<usize>) -> Result<(), RoomError> {
        let redacted = redact(&target.pdu, self.head.room.rules)?;
        redact_event(&mut self.batch, target, &redacted, redaction.event_id());
        relation::remove(&mut self.batch, target.nid);
        sticky::remove(&mut self.batch, target.room, &target.pdu, target.nid);
        self.batch.log(
            Change::new(ChangeKind::Redaction)
                .room(&self.head.room.room_id)
                .user(redaction.sender())
                .reference(target.pdu.event_id()),
        );
        if let Some(pending) = pending.and_then(|index| self.pending.get_mut(index)) {
            pending.event.pdu = redacted.clone();
            pending.event.flags = pending.event.flags.with(Flags::REDACTED);
            pending.event.redacted_by = Some(redaction.event_id().to_owned());
        }
        self.rewrite(target.nid, target.pdu.event_id());
        if self.head.replace(&redacted) && is_auth_state(&redacted) {
            self.head.refresh_auth(self.store).await?;
        }
        Ok(())
    }

    /// Redactions that came before their target.
    pub(crate) async fn waiting_redactions(&self, target: &EventId) -> Result<Vec<Pdu>, RoomError> {
        let rows = self.store.db().query(&PENDING_REDACTIONS, params![self.head.room.nid.0, target.as_str()]).await?;
        let ids: Vec<OwnedEventId> =
            rows.iter().filter_map(|row| row.text(0).ok().and_then(|id| OwnedEventId::try_from(id).ok())).collect();
        Ok(self.store.graph.events(&ids).await?.iter().map(|event| event.pdu.clone()).collect())
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
