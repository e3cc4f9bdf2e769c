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
        let mut before = self.snapshot_of(room, state).await?;
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
        let before = self.snapshot_of(room, state).await?;
        if self.inner.store.state_event_id(before, "m.room.create", "").await?.is_none() {
            return Err(RoomError::BadEvent("the state has no create event".into()));
        }
        let adoption = Adoption { pdu: join, before, partial: None };
        self.submit(&room.room_id, Work::Complete(Box::new(adoption))).await.map(|_| ())
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
        // Of a part of the state the event's own auth events fill what is lacking: whoever let the user in, above all.
        let was_partial = std::mem::replace(&mut self.head.partial, adoption.partial.is_some());
        let rejection = self.rejection(pdu, adoption.before).await;
        self.head.partial = was_partial;
        if let Some((_, Ingested::Rejected(reason))) = rejection? {
            return Err(RoomError::Refused(reason));
        }
        let nid = match &known {
            Some(known) => known.nid,
            None => {
                let auth = self.store.graph.events(pdu.auth_events()).await?;
                self.number(&auth.iter().map(|event| event.pdu.clone()).collect::<Vec<_>>()).await?
            }
        };
        let lacking = self.lacking(pdu).await?;
        // What we missed between leaving and coming back belongs before the event; to a room that is new, before everything.
        let is_back = !self.head.extremities.is_empty();
        if is_back && !lacking.is_empty() {
            self.leave_room();
        }
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
            Some(known) => {
                place_event(&mut self.batch, &event, position.clone(), known.flags);
                self.rewrite(nid, pdu.event_id());
            }
            None => insert_event(&mut self.batch, &event, position.clone(), None),
        }
        self.expect_later(event.clone(), Some(position.clone()));
        self.note_lacking(&lacking, &if is_back { position.clone() } else { 0.into() });
        self.head.extremities.clear();
        self.advance(&event, false).await?;
        self.head.depth = pdu.depth();
        self.note_entry(pdu, adoption.partial.as_ref());
        self.settle(Some(position)).await
    }
}
