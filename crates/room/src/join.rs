//! Beginning to take part in a room of other servers, and history from before.

use std::sync::Arc;

use ruma::OwnedEventId;
use samtal_event::Pdu;
use samtal_state::SnapshotId;

use crate::{
    Rooms,
    error::RoomError,
    graph::{Flags, Room, StoredEvent, insert_event, place_event},
    ingest::Ingested,
    partial::PartialEntry,
    relation,
    turn::Turn,
    writer::Work,
};

/// The event by which we enter a room, and the state before it.
#[derive(Clone, Debug)]
pub(crate) struct Adoption {
    pub(crate) pdu: Pdu,
    pub(crate) before: SnapshotId,
    /// Set when `before` is a part of the state only.
    pub(crate) partial: Option<PartialEntry>,
}

/// An event from before what is here.
#[derive(Clone, Debug)]
pub struct OldEvent {
    /// The event; its form, hashes and signatures have been checked.
    pub pdu: Pdu,
    /// The state before it, all of it held; without it, that after its previous events counts.
    pub state: Option<Vec<OwnedEventId>>,
}

impl Rooms {
    /// Enters a room by an event (our user's join) that another server has accepted, and that the state before it must allow. All of
    /// `state` must be held. `partial`: it is a part of the state only, to be [completed](Rooms::complete).
    pub async fn adopt(
        &self,
        room: &Arc<Room>,
        pdu: Pdu,
        state: &[OwnedEventId],
        partial: Option<PartialEntry>,
    ) -> Result<(), RoomError> {
        let mut before = self.snapshot_of(state).await?;
        if partial.is_some() {
            before = self.with_own_members(room, before).await?;
        }
        let adoption = Adoption { pdu, before, partial };
        self.submit(&room.room_id, Work::Adopt(Box::new(adoption))).await.map(|_| ())
    }

    /// What users of ours were in the room when we left it, where a part of the state does not say it.
    async fn with_own_members(&self, room: &Arc<Room>, before: SnapshotId) -> Result<SnapshotId, RoomError> {
        let store = &self.inner.store;
        let Some(head) = store.head(room).await? else { return Ok(before) };
        let mut changes = Vec::new();
        for user in store.graph.users_of(room.nid, self.server_name()).await? {
            if store.state_event_id(before, "m.room.member", user.as_str()).await?.is_none()
                && let Some(event) = store.state_event(head.snapshot, "m.room.member", user.as_str()).await?
            {
                changes.push(store.change_of(event.nid, &event.pdu));
            }
        }
        self.changed_snapshot(before, &changes).await
    }

    /// Puts the whole state in place of a partial one, once it has arrived. Nothing happens to a room whose state is whole.
    pub async fn complete(&self, room: &Arc<Room>, join: Pdu, state: &[OwnedEventId]) -> Result<(), RoomError> {
        let before = self.snapshot_of(state).await?;
        if self.inner.store.state_event_id(before, "m.room.create", "").await?.is_none() {
            return Err(RoomError::BadEvent("the state has no create event".into()));
        }
        let adoption = Adoption { pdu: join, before, partial: None };
        self.submit(&room.room_id, Work::Complete(Box::new(adoption))).await.map(|_| ())
    }

    /// Takes in history, oldest event first, behind the oldest that is here. Events that are here already are left out.
    pub async fn prepend(&self, room: &Arc<Room>, events: Vec<OldEvent>) -> Result<(), RoomError> {
        let mut prepared = Vec::with_capacity(events.len());
        for event in events {
            let before = match &event.state {
                Some(state) => Some(self.snapshot_of(state).await?),
                None => None,
            };
            prepared.push((event.pdu, before));
        }
        self.submit(&room.room_id, Work::Prepend(prepared)).await.map(|_| ())
    }
}

impl Turn<'_> {
    /// Makes the event and the state before it the room's head.
    pub(crate) async fn adopt(&mut self, adoption: &Adoption) -> Result<(), RoomError> {
        let pdu = &adoption.pdu;
        let known = self.find(pdu.event_id()).await?;
        if known.as_ref().is_some_and(|known| !known.flags.has(Flags::OUTLIER)) {
            return Ok(());
        }
        if let Some((_, Ingested::Rejected(reason))) = self.rejection(pdu, adoption.before).await? {
            return Err(RoomError::Refused(reason));
        }
        let nid = match &known {
            Some(known) => known.nid,
            None => {
                let auth = self.store.graph.events(pdu.auth_events()).await?;
                self.number(&auth.iter().map(|event| event.pdu.clone()).collect::<Vec<_>>()).await?
            }
        };
        let position = self.log_event(pdu);
        let event = StoredEvent {
            nid,
            room: self.head.room.nid,
            position: None,
            flags: Flags::default(),
            before: Some(adoption.before),
            redacted_by: None,
            txn: None,
            pdu: pdu.clone(),
        };
        match known {
            Some(_) => {
                place_event(&mut self.batch, &event, position.clone());
                self.rewrite(nid);
            }
            None => insert_event(&mut self.batch, &event, position.clone(), None),
        }
        self.expect_later(event, Some(position.clone()));
        for id in pdu.prev_events() {
            if self.find(id).await?.is_none_or(|prev| prev.before.is_none()) {
                self.note_backward(id);
            }
        }
        self.head.extremities = vec![pdu.clone()];
        self.head.depth = pdu.depth();
        self.note_entry(pdu, adoption.partial.as_ref());
        self.settle(Some(position)).await
    }

    /// Puts old events behind the oldest.
    pub(crate) async fn prepend(&mut self, events: &[(Pdu, Option<SnapshotId>)]) -> Result<(), RoomError> {
        let mut fresh = Vec::new();
        for (pdu, before) in events {
            let known = self.find(pdu.event_id()).await?;
            if known.as_ref().is_none_or(|known| known.flags.has(Flags::OUTLIER) && !known.pdu.is_rejected()) {
                fresh.push((pdu, *before, known));
            }
        }
        let first = self.head.oldest - i64::try_from(fresh.len()).unwrap_or(0);
        for (position, (pdu, before, known)) in (first..).zip(fresh) {
            let before = match before {
                Some(before) => Some(before),
                None => self.state_of_prev(pdu).await?,
            };
            let nid = match &known {
                Some(known) => known.nid,
                None => {
                    let auth = self.store.graph.events(pdu.auth_events()).await?;
                    self.number(&auth.iter().map(|event| event.pdu.clone()).collect::<Vec<_>>()).await?
                }
            };
            let room = self.head.room.nid;
            let flags = Flags::default();
            let pdu = pdu.clone();
            let event = StoredEvent { nid, room, position: None, flags, before, redacted_by: None, txn: None, pdu };
            match known {
                Some(_) => {
                    place_event(&mut self.batch, &event, position.into());
                    self.rewrite(nid);
                }
                None => insert_event(&mut self.batch, &event, position.into(), None),
            }
            relation::insert(&mut self.batch, room, nid, &event.pdu, position.into());
            self.clear_backward(event.pdu.event_id());
            for id in event.pdu.prev_events() {
                if self.find(id).await?.is_none_or(|prev| prev.flags.has(Flags::OUTLIER)) {
                    self.note_backward(id);
                }
            }
            let pdu = event.pdu.clone();
            self.expect_at(event, samtal_model::StreamPosition(position));
            for redaction in self.waiting_redactions(pdu.event_id()).await? {
                self.apply_redaction(&redaction).await?;
            }
            if pdu.type_str() == "m.room.redaction" && pdu.redacts().is_some() {
                self.apply_redaction(&pdu).await?;
            }
        }
        self.head.oldest = first.min(self.head.oldest);
        self.batch.log(samtal_db::Change::new(samtal_model::ChangeKind::Backfill).room(&self.head.room.room_id));
        Ok(())
    }

    /// The state after the previous events, if all of them have one.
    async fn state_of_prev(&mut self, pdu: &Pdu) -> Result<Option<SnapshotId>, RoomError> {
        let mut after = Vec::new();
        for id in pdu.prev_events() {
            let Some(event) = self.find(id).await? else { return Ok(None) };
            if event.before.is_none() {
                return Ok(None);
            }
            after.push(self.store.state_after(&event).await?);
        }
        if after.is_empty() {
            return Ok((pdu.type_str() == "m.room.create").then_some(SnapshotId::EMPTY));
        }
        self.resolve(&after).await.map(Some)
    }
}
