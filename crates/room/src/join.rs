//! Beginning to take part in a room of other servers, and history from before.

use std::sync::Arc;

use ruma::OwnedEventId;
use samtal_event::Pdu;
use samtal_state::SnapshotId;

use crate::{
    Rooms,
    error::RoomError,
    graph::{Flags, Room, StoredEvent, insert_event, place_event},
    relation,
    turn::Turn,
    writer::Work,
};

/// The event by which we enter a room, and the state before it.
#[derive(Clone, Debug)]
pub(crate) struct Adoption {
    pub(crate) pdu: Pdu,
    pub(crate) before: SnapshotId,
    pub(crate) partial: bool,
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
    /// Enters a room by an event (our user's join) that another server has accepted. All of `state` must be held.
    pub async fn adopt(
        &self,
        room: &Arc<Room>,
        pdu: Pdu,
        state: &[OwnedEventId],
        partial: bool,
    ) -> Result<(), RoomError> {
        let before = self.snapshot_of(state).await?;
        let adoption = Adoption { pdu, before, partial };
        self.submit(&room.room_id, Work::Adopt(Box::new(adoption))).await.map(|_| ())
    }

    /// Puts the whole state in place of a partial one, once it has arrived.
    pub async fn complete(&self, room: &Arc<Room>, join: Pdu, state: &[OwnedEventId]) -> Result<(), RoomError> {
        let before = self.snapshot_of(state).await?;
        let adoption = Adoption { pdu: join, before, partial: false };
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
        self.head.partial = adoption.partial;
        self.settle(Some(position)).await
    }

    /// Lays the whole state under what has happened since the partial join.
    pub(crate) async fn complete(&mut self, adoption: &Adoption) -> Result<(), RoomError> {
        let join = self.find(adoption.pdu.event_id()).await?.ok_or(RoomError::UnknownEvent)?;
        let partial = join.before.ok_or(RoomError::UnknownEvent)?;
        // What the partial state lacked is added to the current one; what has changed since stays as it is.
        let lacking = self.store.snapshots.diff(partial, adoption.before).await?;
        let mut changes = Vec::new();
        for difference in lacking {
            let now = self.store.snapshots.get(self.head.snapshot, difference.part, difference.key).await?;
            if now == difference.before {
                changes.push(samtal_state::tree::Change {
                    part: difference.part,
                    key: difference.key,
                    event: difference.after.map(|nid| nid.0),
                });
            }
        }
        let changed = self.store.snapshots.change(self.head.snapshot, &changes).await?;
        self.add_nodes(changed.nodes);
        let mut whole = (*join).clone();
        whole.before = Some(adoption.before);
        self.rebase(&whole);
        self.head.partial = false;
        self.move_state(changed.id, None).await
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
