//! The follower: reads the log, and keeps index and directory in line with it.
//!
//! What it does is idempotent: it looks at how things are now, so that doing it twice changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId};
use samtal_db::{Batch, DbError, LoggedChange};
use samtal_model::{ChangeKind, StreamPosition};
use samtal_room::{EventNid, Room, StoredEvent};

use crate::{
    Search, SearchError,
    document::{edited, key, text},
    index::{self, Document, salt, sender_mark},
    query::tokens,
    search::CURSOR,
};

/// Changes are gathered so long before they are written, so that a busy server does not write for each message.
const GATHER: Duration = Duration::from_millis(250);
/// Changes that are gathered at most.
const GATHERED_MAX: usize = 500;
/// Documents that are written in one batch.
const BATCH_DOCUMENTS: usize = 100;
/// The cursor is saved at least every so many changes, though none of them mattered.
const CURSOR_EVERY: i64 = 1_000;
/// The pause after the database failed.
const TROUBLE: Duration = Duration::from_secs(1);
/// How often another node's progress is looked at, and whether it has gone.
const OTHER: Duration = Duration::from_millis(200);

/// What a stretch of the log asks to be looked at.
#[derive(Debug, Default)]
struct Work {
    events: BTreeSet<OwnedEventId>,
    redacted: BTreeSet<OwnedEventId>,
    backfilled: BTreeSet<OwnedRoomId>,
    purged: BTreeSet<OwnedRoomId>,
    rooms: BTreeSet<OwnedRoomId>,
    members: BTreeMap<OwnedRoomId, BTreeSet<OwnedUserId>>,
    users: BTreeSet<OwnedUserId>,
}

impl Work {
    fn of(changes: &[LoggedChange]) -> Self {
        let mut work = Self::default();
        for LoggedChange { change, .. } in changes {
            let room = change.room.as_deref().and_then(|room| RoomId::parse(room).ok());
            let user = change.user.as_deref().and_then(|user| UserId::parse(user).ok());
            let event = || change.reference.as_deref().and_then(|id| EventId::parse(id).ok());
            match (ChangeKind::from_code(change.kind), room, user) {
                (Some(ChangeKind::Event), ..) => work.events.extend(event()),
                (Some(ChangeKind::Redaction), ..) => work.redacted.extend(event()),
                // A single event has come into a gap; without one, history has grown at its old end.
                (Some(ChangeKind::Backfill), Some(room), _) => match event() {
                    Some(event) => {
                        work.events.insert(event);
                    }
                    None => {
                        work.backfilled.insert(room);
                    }
                },
                (Some(ChangeKind::Purge), Some(room), _) => {
                    work.purged.insert(room);
                }
                (Some(ChangeKind::State), Some(room), _) => {
                    work.rooms.insert(room);
                }
                (Some(ChangeKind::Membership), Some(room), Some(user)) => {
                    work.members.entry(room).or_default().insert(user);
                }
                (Some(ChangeKind::Profile | ChangeKind::Account), _, Some(user)) => {
                    work.users.insert(user);
                }
                _ => {}
            }
        }
        work
    }

    fn is_empty(&self) -> bool {
        self.events.is_empty()
            && self.redacted.is_empty()
            && self.backfilled.is_empty()
            && self.purged.is_empty()
            && self.rooms.is_empty()
            && self.members.is_empty()
            && self.users.is_empty()
    }
}

impl Search {
    /// Follows the log until the tenant's tasks are asked to stop. Of many nodes one does the work.
    pub async fn run(&self) {
        while !self.engines.tasks.is_stopping() {
            let followed = match self.engines.db.lease(CURSOR).await {
                Ok(Some(lease)) => tokio::select! {
                    () = lease.lost() => Ok(()),
                    followed = self.follow() => followed,
                },
                Ok(None) => self.follow_other().await,
                Err(error) => Err(error.into()),
            };
            match followed {
                Ok(()) => {}
                Err(SearchError::Storage(DbError::Closed)) => return,
                Err(error) => {
                    tracing::error!(%error, "search is behind");
                    self.pause(TROUBLE).await;
                }
            }
        }
    }

    async fn pause(&self, time: Duration) {
        tokio::select! {
            () = self.engines.tasks.stopping() => {}
            () = tokio::time::sleep(time) => {}
        }
    }

    async fn follow_other(&self) -> Result<(), SearchError> {
        self.reached(self.engines.db.cursor(CURSOR).await?);
        self.pause(OTHER).await;
        Ok(())
    }

    fn reached(&self, position: i64) {
        self.followed.send_modify(|followed| *followed = position.max(*followed));
    }

    async fn follow(&self) -> Result<(), SearchError> {
        let mut saved = self.engines.db.cursor(CURSOR).await?;
        self.reached(saved);
        let mut changes = self.engines.db.changes(saved);
        loop {
            let mut gathered: Vec<LoggedChange> = tokio::select! {
                biased;
                () = self.engines.tasks.stopping() => return Ok(()),
                more = changes.next() => more?.to_vec(),
            };
            let full = tokio::time::sleep(GATHER);
            tokio::pin!(full);
            while gathered.len() < GATHERED_MAX {
                tokio::select! {
                    biased;
                    more = changes.next() => gathered.extend(more?.iter().cloned()),
                    () = &mut full => break,
                    () = self.hurry.notified() => break,
                    () = self.engines.tasks.stopping() => return Ok(()),
                }
            }
            let Some(last) = gathered.last().map(|logged| logged.position) else { continue };
            let is_idle = Work::of(&gathered).is_empty();
            if !is_idle {
                self.take(&gathered).await?;
            }
            if !is_idle || last - saved >= CURSOR_EVERY {
                let mut batch = Batch::new();
                batch.cursor(CURSOR, last);
                self.engines.db.commit(batch).await?;
                saved = last;
            }
            self.reached(last);
        }
    }

    /// Works on a stretch of the log. What cannot be read is left out: the index must not stand still for it.
    async fn take(&self, changes: &[LoggedChange]) -> Result<(), SearchError> {
        match self.work(Work::of(changes)).await {
            Err(error) if !error.may_pass() => {}
            done => return done,
        }
        for logged in changes {
            match self.work(Work::of(std::slice::from_ref(logged))).await {
                Err(error) if !error.may_pass() => {
                    tracing::error!(%error, position = logged.position, "a change cannot be found by search");
                }
                done => done?,
            }
        }
        Ok(())
    }

    async fn work(&self, work: Work) -> Result<(), SearchError> {
        let graph = &self.engines.rooms.store().graph;
        let ids: Vec<OwnedEventId> = work.events.into_iter().collect();
        let events = graph.events(&ids).await?;
        let mut rooms = work.rooms;
        for event in &events {
            if event.pdu.is_state_of("m.room.join_rules", "") || event.pdu.is_state_of("m.room.history_visibility", "")
            {
                rooms.insert(event.pdu.room_id().to_owned());
            }
        }
        self.index(&events).await?;
        if !work.redacted.is_empty() {
            let ids: Vec<OwnedEventId> = work.redacted.into_iter().collect();
            self.unindex(&graph.events(&ids).await?).await?;
        }
        for room_id in work.backfilled {
            if let Some(room) = graph.room(&room_id).await? {
                self.index_backwards(&room).await?;
            }
        }
        for room_id in work.purged {
            if let Some(room) = graph.room(&room_id).await? {
                self.sweep(&room).await?;
                rooms.insert(room_id);
            }
        }
        for (room_id, users) in work.members {
            let Some(room) = graph.room(&room_id).await? else { continue };
            rooms.remove(&room_id);
            self.update_room(&room).await?;
            let users: Vec<OwnedUserId> = users.into_iter().collect();
            self.update_members(&room, &users).await?;
        }
        for room_id in rooms {
            if let Some(room) = graph.room(&room_id).await? {
                self.update_room(&room).await?;
            }
        }
        for user in work.users {
            if user.server_name() == self.engines.name {
                self.update_local(&user).await?;
            }
        }
        Ok(())
    }

    /// Puts the texts of these events into the index, and those that they edit.
    async fn index(&self, events: &[Arc<StoredEvent>]) -> Result<(), SearchError> {
        let graph = &self.engines.rooms.store().graph;
        let mut wanted: BTreeMap<EventNid, Arc<StoredEvent>> = BTreeMap::new();
        for event in events.iter().filter(|event| event.is_visible()) {
            let edited = edited(&event.pdu).and_then(|id| EventId::parse(id).ok());
            match edited {
                Some(id) => {
                    let original = graph.event(&id).await?.filter(|original| original.room == event.room);
                    wanted.extend(original.map(|original| (original.nid, original)));
                }
                None => {
                    wanted.insert(event.nid, Arc::clone(event));
                }
            }
        }
        let wanted: Vec<Arc<StoredEvent>> = wanted
            .into_values()
            .filter(|event| event.is_visible() && event.redacted_by.is_none() && key(&event.pdu).is_some())
            .collect();
        for events in wanted.chunks(BATCH_DOCUMENTS) {
            let edits = self.engines.rooms.newest_edits(events).await?;
            let documents: Vec<Document> = events
                .iter()
                .filter_map(|event| self.document(event, edits.get(event.pdu.event_id()).map(|edit| &**edit)))
                .collect();
            let mut batch = Batch::new();
            index::put(&self.engines.db, &mut batch, &documents).await?;
            self.engines.db.commit(batch).await?;
        }
        Ok(())
    }

    fn document(&self, event: &StoredEvent, edit: Option<&StoredEvent>) -> Option<Document> {
        let mut tokens = tokens(&self.languages, &text(event, edit)?);
        tokens.insert(sender_mark(event.pdu.sender().as_str()));
        let now = self.engines.clock.signed_now_ms();
        Some(Document {
            nid: event.nid,
            room: event.room,
            key: key(&event.pdu)?,
            edit: edit.map(|edit| edit.nid),
            // Nobody puts their message before those of others by a clock that is ahead.
            sent_ms: event.pdu.origin_server_ts_ms().clamp(0, now),
            salt: salt(event.pdu.event_id().as_str()),
            tokens,
        })
    }

    /// Takes the texts of redacted events out. What they had edited gets the text it had before.
    async fn unindex(&self, events: &[Arc<StoredEvent>]) -> Result<(), SearchError> {
        let nids: Vec<i64> = events.iter().map(|event| event.nid.0).collect();
        let mut batch = Batch::new();
        let edited = index::remove(&self.engines.db, &mut batch, &nids).await?;
        self.engines.db.commit(batch).await?;
        let graph = &self.engines.rooms.store().graph;
        let edited: Vec<Arc<StoredEvent>> = graph.events_by_nid(&edited).await?.into_values().collect();
        self.index(&edited).await
    }

    /// Takes out the texts of a room's events that are no longer there.
    async fn sweep(&self, room: &Room) -> Result<(), SearchError> {
        let graph = &self.engines.rooms.store().graph;
        let mut after = i64::MIN;
        loop {
            let page = index::of_room(&self.engines.db, room.nid, after, BATCH_DOCUMENTS).await?;
            let Some(last) = page.last() else { break };
            after = last.id;
            let nids: Vec<EventNid> = page.iter().map(|document| document.nid).collect();
            let there = graph.events_by_nid(&nids).await?;
            let is_gone = |nid: &&EventNid| there.get(nid).is_none_or(|event| !event.is_visible());
            let gone: Vec<i64> = nids.iter().filter(is_gone).map(|nid| nid.0).collect();
            let mut batch = Batch::new();
            index::remove(&self.engines.db, &mut batch, &gone).await?;
            self.engines.db.commit(batch).await?;
        }
        // History that comes in again is indexed again.
        let mut batch = Batch::new();
        index::forget_oldest(&mut batch, room.nid);
        self.engines.db.commit(batch).await?;
        Ok(())
    }

    /// Puts history into the index that came in behind what was there.
    async fn index_backwards(&self, room: &Room) -> Result<(), SearchError> {
        let graph = &self.engines.rooms.store().graph;
        loop {
            let from = index::oldest(&self.engines.db, room.nid).await? - 1;
            let page =
                graph.timeline_back(room.nid, StreamPosition(from), StreamPosition(i64::MIN), BATCH_DOCUMENTS).await?;
            let Some(oldest) = page.last().and_then(|event| event.position) else { return Ok(()) };
            self.index(&page).await?;
            let mut batch = Batch::new();
            index::set_oldest(&mut batch, room.nid, oldest.0);
            self.engines.db.commit(batch).await?;
        }
    }
}
