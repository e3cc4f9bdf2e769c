//! Rooms that were entered with a part of their state (MSC3706): which they are, until the rest has arrived.
//!
//! The row of such a room is made by the write batch that enters it, so that whoever fetches the rest finds it after any crash.
//! It stays for a while after the state is whole: readers that do not load members lazily must be told of the room anew.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use parking_lot::RwLock;
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, ServerName, UserId, events::room::member::MembershipState,
};
use samtal_db::{Batch, Change, Db, Row, Sql, Value, params, sql};
use samtal_event::{Origin, ParsedPdu, Pdu};
use samtal_model::ChangeKind;
use samtal_state::SnapshotId;
use tokio::sync::watch;

use crate::{
    Rooms,
    error::RoomError,
    graph::{Flags, Room, StoredEvent},
    ids::{EventNid, RoomNid},
    join::Adoption,
    membership::membership_of,
    relation,
    turn::Turn,
};

/// Servers that are believed to be in a room on another server's word.
const CLAIMED_MAX: usize = 20_000;
/// Changes of the log after which nobody is told of a room anew any more.
const REMEMBERED: i64 = 1_000_000;

const ALL: Sql = sql!("SELECT room, room_id, join_event, through, completed FROM room_partial");
const BEGIN: Sql = sql!(
    "INSERT INTO room_partial (room, room_id, join_event, through) VALUES ($1, $2, $3, $4)
     ON CONFLICT (room) DO UPDATE SET join_event = excluded.join_event, through = excluded.through, completed = NULL"
);
const COMPLETE: Sql = sql!("UPDATE room_partial SET completed = $1 WHERE room = $2");
const END: Sql = sql!("DELETE FROM room_partial WHERE room = $1");
const SWEEP: Sql = sql!("DELETE FROM room_partial WHERE completed < $1");
const CLAIM: Sql = sql!(
    "INSERT INTO room_server (room, server, joined, claimed) VALUES ($1, $2, 0, 1)
     ON CONFLICT (room, server) DO UPDATE SET claimed = 1"
);
const UNCLAIM: Sql = sql!("UPDATE room_server SET claimed = 0 WHERE room = $1 AND claimed = 1");
const CLAIMED: Sql = sql!("SELECT server FROM room_server WHERE room = $1 AND claimed = 1");
const EVENT_ADD: Sql = sql!("INSERT INTO partial_event (room, nid) VALUES ($1, $2) ON CONFLICT (room, nid) DO NOTHING");
const EVENTS: Sql = sql!("SELECT nid FROM partial_event WHERE room = $1");
const EVENTS_END: Sql = sql!("DELETE FROM partial_event WHERE room = $1");

/// What is known beside the part of the state with which a room is entered.
#[derive(Clone, Debug)]
pub struct PartialEntry {
    /// The server that let us in.
    pub through: OwnedServerName,
    /// The servers that it says are in the room.
    pub servers: Vec<OwnedServerName>,
}

/// A room whose state is, or was until lately, not whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartialRoom {
    /// Its number here.
    pub nid: RoomNid,
    /// Its id.
    pub room_id: OwnedRoomId,
    /// The event by which we entered.
    pub join_event: OwnedEventId,
    /// The server that let us in.
    pub through: OwnedServerName,
    /// The position at which its state became whole; none while it is not.
    pub completed: Option<i64>,
}

impl PartialRoom {
    fn from_row(row: &Row) -> Result<Self, RoomError> {
        Ok(Self {
            nid: RoomNid(row.int(0)?),
            room_id: row.text(1)?.try_into().map_err(damaged)?,
            join_event: row.text(2)?.try_into().map_err(damaged)?,
            through: row.text(3)?.try_into().map_err(damaged)?,
            completed: row.opt_int(4)?,
        })
    }
}

/// All such rooms, in memory: asked for by every sync. Whoever reads the change log reads it again on a
/// [`ChangeKind::Partial`], before what follows.
#[derive(Debug)]
pub struct PartialRooms {
    rooms: RwLock<Arc<BTreeMap<OwnedRoomId, PartialRoom>>>,
    changed: watch::Sender<()>,
}

impl PartialRooms {
    pub(crate) async fn open(db: &Db) -> Result<Self, RoomError> {
        let rooms = Self { rooms: RwLock::default(), changed: watch::Sender::new(()) };
        rooms.read(db).await?;
        Ok(rooms)
    }

    /// Reads them again.
    pub async fn read(&self, db: &Db) -> Result<(), RoomError> {
        let rows = db.query(&ALL, params![]).await?;
        let rooms: Result<Vec<PartialRoom>, RoomError> = rows.iter().map(PartialRoom::from_row).collect();
        *self.rooms.write() = Arc::new(rooms?.into_iter().map(|room| (room.room_id.clone(), room)).collect());
        self.changed.send_replace(());
        Ok(())
    }

    /// What is known of this room; nothing of most.
    pub fn get(&self, room_id: &RoomId) -> Option<PartialRoom> {
        self.rooms.read().get(room_id).cloned()
    }

    /// Whether the room's state is not whole.
    pub fn is_partial(&self, room_id: &RoomId) -> bool {
        self.rooms.read().get(room_id).is_some_and(|room| room.completed.is_none())
    }

    /// The rooms whose state is not whole.
    pub fn unfinished(&self) -> Vec<PartialRoom> {
        self.rooms.read().values().filter(|room| room.completed.is_none()).cloned().collect()
    }

    /// The rooms whose state has become whole after `since`.
    pub fn completed_since(&self, since: i64) -> Vec<OwnedRoomId> {
        let rooms = self.rooms.read();
        let completed = rooms.values().filter(|room| room.completed.is_some_and(|at| at > since));
        completed.map(|room| room.room_id.clone()).collect()
    }

    /// Hears when one comes or goes.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Waits until the room's state is whole. At once for most rooms.
    pub async fn until_whole(&self, room_id: &RoomId) {
        let mut changed = self.changed.subscribe();
        while self.is_partial(room_id) {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }
}

impl Rooms {
    /// Waits until the room's state is whole; an error when this server stops before.
    pub async fn until_whole(&self, room_id: &RoomId) -> Result<(), RoomError> {
        tokio::select! {
            () = self.inner.store.partial.until_whole(room_id) => Ok(()),
            () = self.inner.tasks.stopping() => Err(RoomError::Busy),
        }
    }

    /// Gives up waiting for the rest of a room's state: nobody of ours is in the room any more.
    pub async fn give_up_partial(&self, room_id: &RoomId) -> Result<(), RoomError> {
        let room = self.room(room_id).await?;
        let mut batch = Batch::new();
        end(&mut batch, &room);
        self.inner.store.db().commit(batch).await?;
        self.inner.store.partial.read(self.inner.store.db()).await
    }
}

/// Adds that the room's state is, or need not become, whole, without anybody being told of it.
pub(crate) fn end(batch: &mut Batch, room: &Room) {
    batch.exec(&END, params![room.nid.0]);
    batch.exec(&EVENTS_END, params![room.nid.0]);
    batch.log(Change::new(ChangeKind::Partial).room(&room.room_id));
}

impl Turn<'_> {
    /// Notes that the room is entered with a part of its state, or (none) with all of it.
    pub(crate) fn note_entry(&mut self, join: &Pdu, partial: Option<&PartialEntry>) {
        let room = Arc::clone(&self.head.room);
        self.batch.exec(&EVENTS_END, params![room.nid.0]);
        self.batch.exec(&UNCLAIM, params![room.nid.0]);
        self.head.partial = partial.is_some();
        match partial {
            Some(PartialEntry { through, servers }) => {
                let begin = params![room.nid.0, room.room_id.as_str(), join.event_id().as_str(), through.as_str()];
                self.batch.exec(&BEGIN, begin);
                let own: &ServerName = &self.author.name;
                let named = servers.iter().take(CLAIMED_MAX).chain([through]);
                for server in named.filter(|server| *server != own) {
                    self.batch.exec(&CLAIM, params![room.nid.0, server.as_str()]);
                }
            }
            None => self.batch.exec(&END, params![room.nid.0]),
        }
        self.batch.log(Change::new(ChangeKind::Partial).room(&room.room_id));
        self.partial_changed = true;
    }

    /// Notes, while the room's state is not whole, that the one before this event has to be looked at again.
    pub(crate) fn note_partial_event(&mut self, nid: EventNid) {
        if self.head.partial {
            self.batch.exec(&EVENT_ADD, params![self.head.room.nid.0, nid.0]);
        }
    }

    /// Puts the whole state before the join in place of the part with which the room was entered, works out anew what was
    /// before each event since, and judges those events again.
    pub(crate) async fn complete(&mut self, adoption: &Adoption) -> Result<(), RoomError> {
        if !self.head.partial {
            return Ok(());
        }
        let room = Arc::clone(&self.head.room);
        let join = self.find(adoption.pdu.event_id()).await?.ok_or(RoomError::UnknownEvent)?;
        let mut whole = (*join).clone();
        whole.before = Some(adoption.before);
        self.rebase(whole, join.flags, None);
        let mut missed = self.servers_added(join.before, adoption.before).await?;
        for event in self.partial_events(&join).await? {
            if self.look_again(&event).await? {
                missed.extend(server_of_member(&event.pdu));
            }
        }
        self.note_missed(missed).await?;
        self.head.partial = false;
        // Events are judged by what the state says now.
        self.batch.exec(&EVENTS_END, params![room.nid.0]);
        self.drop_rejected_extremities().await?;
        self.settle(None).await?;
        self.batch.exec(&UNCLAIM, params![room.nid.0]);
        let position = self.batch.log(Change::new(ChangeKind::Partial).room(&room.room_id));
        self.batch.exec(&COMPLETE, vec![position, room.nid.0.into()]);
        self.batch.exec(&SWEEP, params![self.store.db().position() - REMEMBERED]);
        self.partial_changed = true;
        Ok(())
    }

    /// The events that came while the state was not whole, each after those it names as previous ones.
    async fn partial_events(&self, join: &StoredEvent) -> Result<Vec<Arc<StoredEvent>>, RoomError> {
        let rows = self.store.db().scan(&EVENTS, params![self.head.room.nid.0]).await?;
        let mut nids = Vec::with_capacity(rows.len());
        for row in &rows {
            nids.push(EventNid(row.int(0)?));
        }
        nids.retain(|nid| *nid != join.nid);
        let events = self.store.in_order(&nids).await?;
        // In the order of their ids, so that it is the same on every run.
        let here: BTreeMap<OwnedEventId, Arc<StoredEvent>> =
            events.iter().map(|event| (event.pdu.event_id().to_owned(), Arc::clone(event))).collect();
        let mut after: HashMap<&OwnedEventId, Vec<&OwnedEventId>> = HashMap::new();
        let mut waiting: HashMap<&OwnedEventId, usize> = HashMap::new();
        let mut ready: Vec<&OwnedEventId> = Vec::new();
        for (id, event) in &here {
            let named: Vec<&OwnedEventId> =
                event.pdu.prev_events().iter().filter(|prev| here.contains_key(*prev)).collect();
            if named.is_empty() {
                ready.push(id);
            } else {
                waiting.insert(id, named.len());
            }
            for prev in named {
                after.entry(prev).or_default().push(id);
            }
        }
        let mut ordered = Vec::with_capacity(events.len());
        while let Some(id) = ready.pop() {
            ordered.extend(here.get(id).cloned());
            for next in after.remove(id).unwrap_or_default() {
                if let Some(count) = waiting.get_mut(next) {
                    *count -= 1;
                    if *count == 0 {
                        ready.push(next);
                    }
                }
            }
        }
        Ok(ordered)
    }

    /// The servers of those whom the whole state before our join has in the room, and the part of it did not.
    async fn servers_added(
        &mut self,
        part: Option<SnapshotId>,
        whole: SnapshotId,
    ) -> Result<BTreeSet<OwnedServerName>, RoomError> {
        let Some(part) = part else { return Ok(BTreeSet::new()) };
        let differences = self.store.snapshots.diff(part, whole).await?;
        let added: Vec<EventNid> = differences.iter().filter_map(|difference| difference.after).collect();
        self.preload(&added).await?;
        let mut servers = BTreeSet::new();
        for nid in added {
            let event = self.find_nid(nid).await?;
            if membership_of(&event.pdu) == Some(MembershipState::Join) {
                servers.extend(server_of_member(&event.pdu));
            }
        }
        Ok(servers)
    }

    /// Notes servers that were in the room without our knowing: they have missed what only the room's servers hear.
    async fn note_missed(&mut self, mut servers: BTreeSet<OwnedServerName>) -> Result<(), RoomError> {
        for row in &self.store.db().scan(&CLAIMED, params![self.head.room.nid.0]).await? {
            servers.remove(<&ServerName>::try_from(row.text(0)?).map_err(damaged)?);
        }
        servers.remove(&self.author.name);
        for server in servers {
            self.batch.log(Change::new(ChangeKind::Missed).room(&self.head.room.room_id).reference(server.as_str()));
        }
        Ok(())
    }

    /// Works out the state before an event again, and judges it by that. Whether it was judged otherwise before.
    async fn look_again(&mut self, event: &StoredEvent) -> Result<bool, RoomError> {
        let (mut event, known) = (event.clone(), event.flags);
        let mut after = Vec::with_capacity(event.pdu.prev_events().len());
        for id in event.pdu.prev_events() {
            match self.find(id).await? {
                Some(prev) if prev.before.is_some() => after.push(self.after(&prev).await?),
                // Another server told the state before it: that was a whole one.
                _ => return Ok(false),
            }
        }
        let before = self.resolve(&after).await?;
        event.before = Some(before);
        let was_rejected = event.flags.has(Flags::REJECTED);
        let pdu = event.pdu.clone().with_rejected(false);
        let is_rejected =
            (was_rejected && has_refused_form(&pdu, &self.head.room)) || self.rejection(&pdu, before).await?.is_some();
        let mut position = None;
        if is_rejected {
            event.flags = event.flags.with(Flags::REJECTED);
            event.position = None;
            relation::remove(&mut self.batch, event.nid);
        } else if was_rejected {
            event.flags = event.flags.without(Flags::REJECTED);
            let logged = self.log_event(&pdu);
            relation::insert(&mut self.batch, event.room, event.nid, &pdu, logged.clone());
            position = Some(logged);
        }
        event.pdu = pdu.with_rejected(is_rejected);
        self.rebase(event, known, position);
        Ok(is_rejected != was_rejected)
    }

    /// Nothing is built on an event that turned out to be refused; and the states after the others are not what they were.
    async fn drop_rejected_extremities(&mut self) -> Result<(), RoomError> {
        let mut kept: BTreeMap<EventNid, Arc<StoredEvent>> = BTreeMap::new();
        let mut open: Vec<OwnedEventId> =
            self.head.extremities.iter().map(|extremity| extremity.pdu.event_id().to_owned()).rev().collect();
        let mut seen: HashSet<OwnedEventId> = HashSet::new();
        while let Some(id) = open.pop() {
            if !seen.insert(id.clone()) {
                continue;
            }
            let Some(event) = self.find(&id).await? else { continue };
            if event.pdu.is_rejected() {
                open.extend(event.pdu.prev_events().iter().cloned());
            } else if event.before.is_some() {
                kept.insert(event.nid, event);
            }
        }
        if kept.is_empty() {
            return Ok(());
        }
        self.head.extremities.clear();
        for event in kept.into_values() {
            let after = self.after(&event).await?;
            self.head.extremities.insert(event.nid, event.pdu.clone(), after);
        }
        Ok(())
    }

    /// Gives an event that is placed already another state before it, other flags, and (if it gets one now) a position.
    fn rebase(&mut self, event: StoredEvent, known: Flags, position: Option<Value>) {
        let placed = position.clone().unwrap_or_else(|| event.position.map(|position| position.0).into());
        crate::graph::place_event(&mut self.batch, &event, placed, known);
        self.rewrite(event.nid, event.pdu.event_id());
        if position.is_none() {
            self.log_placed(event.pdu.event_id());
        }
        self.expect_later(event, position);
    }
}

fn damaged(error: ruma::IdParseError) -> RoomError {
    RoomError::Damaged(error.to_string())
}

/// The server of whom a member event is about.
fn server_of_member(pdu: &Pdu) -> Option<OwnedServerName> {
    let user = pdu.state_key().filter(|_| pdu.type_str() == "m.room.member")?;
    <&UserId>::try_from(user).ok().map(|user| user.server_name().to_owned())
}

/// Whether an event was refused for what it is, whatever the state says.
fn has_refused_form(pdu: &Pdu, room: &Room) -> bool {
    ParsedPdu::from_bytes_of(pdu.json().as_bytes(), room.rules, Origin::History)
        .map_or(true, |parsed| parsed.must_be_rejected())
}
