//! A transaction of another server: events to take in, and passing messages.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{StreamExt, future::BoxFuture, stream};
use ruma::{
    EventId, OwnedEventId, OwnedRoomId, OwnedServerName, ServerName, UserId, events::room::member::MembershipState,
};
use samtal_event::{ParsedPdu, Pdu, peek};
use samtal_policy::Action;
use samtal_room::{Room, RoomMembership, membership_of};
use serde_json::value::RawValue;

use crate::{Homeserver, OpError};

/// Rooms of one transaction that are worked on at once.
const ROOMS_AT_ONCE: usize = 8;

/// When an event is tried again whose previous events or state could not be had.
const LATE_PAUSES: [Duration; 4] =
    [Duration::from_secs(5), Duration::from_secs(60), Duration::from_secs(600), Duration::from_secs(3_600)];

/// So long events of a room that is being joined wait.
const ENTERING_TIME: Duration = Duration::from_secs(20);

/// What became of the events of a transaction: nothing to say, or why one was refused.
pub type Outcome = BTreeMap<OwnedEventId, Result<(), String>>;

/// A transaction as it came.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// Who sent it.
    pub origin: OwnedServerName,
    /// Its id, unique among those of its sender.
    pub id: String,
    /// Events.
    pub pdus: Vec<Box<RawValue>>,
    /// Passing messages.
    pub edus: Vec<Box<RawValue>>,
}

impl Homeserver {
    /// Takes in a transaction. One of each server at a time; the last one repeated has the same answer. It goes on to the end even if
    /// whoever waits for it goes away.
    ///
    /// # Errors
    /// This server could not take all of it in now (a full disk, a database that is gone). The sender keeps the transaction and comes
    /// again; what was taken in then is here already.
    pub async fn ingest_transaction(self: &Arc<Self>, transaction: Transaction) -> Result<Outcome, OpError> {
        let hs = Arc::clone(self);
        let task = self.tasks.spawn("transaction", async move {
            let last = hs.inbound.transaction_of(&transaction.origin);
            let mut last = last.lock().await;
            if let Some((id, outcome)) = &*last
                && *id == transaction.id
            {
                return Ok(outcome.clone());
            }
            let outcome = hs.take_in_events(&transaction).await?;
            hs.take_in_edus(&transaction.origin, &transaction.edus).await;
            hs.inbound.remembered(&transaction.origin, &transaction.id, &outcome);
            *last = Some((transaction.id, outcome.clone()));
            Ok(outcome)
        });
        task.await.map_err(|_| OpError::BadRequest("the transaction was interrupted".into()))?
    }

    /// Rooms beside each other, the events of each in their order.
    async fn take_in_events(self: &Arc<Self>, transaction: &Transaction) -> Result<Outcome, OpError> {
        let mut rooms: BTreeMap<OwnedRoomId, Vec<&RawValue>> = BTreeMap::new();
        for raw in &transaction.pdus {
            match peek(raw.get().as_bytes()).and_then(|peek| peek.room_id) {
                Some(room_id) => rooms.entry(room_id).or_default().push(raw),
                None => tracing::info!(origin = %transaction.origin, "an event without a room is left out"),
            }
        }
        let work: Vec<BoxFuture<'_, Result<Outcome, OpError>>> = rooms
            .into_iter()
            .map(|(room_id, events)| -> BoxFuture<'_, Result<Outcome, OpError>> {
                Box::pin(async move {
                    self.take_in_room(&transaction.origin, &room_id, events).await.or_else(|error| {
                        tracing::info!(origin = %transaction.origin, room = %room_id, %error, "events of a room are left out");
                        if error.is_passing() { Err(error) } else { Ok(Outcome::new()) }
                    })
                })
            })
            .collect();
        let outcomes: Vec<Result<Outcome, OpError>> =
            stream::iter(work).buffer_unordered(ROOMS_AT_ONCE).collect().await;
        outcomes.into_iter().try_fold(Outcome::new(), |mut all, outcome| {
            all.extend(outcome?);
            Ok(all)
        })
    }

    async fn take_in_room(
        self: &Arc<Self>,
        origin: &ServerName,
        room_id: &OwnedRoomId,
        raw: Vec<&RawValue>,
    ) -> Result<Outcome, OpError> {
        let mut outcome = Outcome::new();
        let Some(room) = self.rooms.store().graph.room(room_id).await? else {
            tracing::debug!(%origin, room = %room_id, "events of a room that is not known are left out");
            return Ok(outcome);
        };
        let mut parsed = Vec::with_capacity(raw.len());
        for event in raw {
            match ParsedPdu::from_bytes(event.get().as_bytes(), room.rules) {
                Ok(pdu) if pdu.unverified().type_str() == "m.room.create" => {
                    outcome.insert(pdu.event_id().to_owned(), Err("a room has one create event".into()));
                }
                Ok(pdu) => parsed.push(pdu),
                Err(error) => tracing::info!(%origin, room = %room_id, %error, "an event is left out"),
            }
        }
        let refusal = self.check_server(room_id, origin, Action::Event).await.err();
        let is_resident = self.is_or_becomes_resident(&room).await?;
        let ids: Vec<OwnedEventId> = parsed.iter().map(|pdu| pdu.event_id().to_owned()).collect();
        if let Some(refusal) = refusal {
            outcome.extend(ids.into_iter().map(|id| (id, Err(refusal.to_string()))));
            return Ok(outcome);
        }
        let mut believed = Vec::with_capacity(ids.len());
        for (id, checked) in ids.into_iter().zip(self.verified(room.rules, parsed).await?) {
            match checked {
                Ok(pdu) => believed.push(pdu),
                Err(refusal) => {
                    outcome.insert(id, Err(refusal));
                }
            }
        }
        // What a policy server has to see goes one by one.
        let is_run = is_resident && self.rooms.policy_server(room_id).await?.is_none();
        let mut rest = believed.as_slice();
        while let Some((first, after)) = rest.split_first() {
            if is_run {
                // What builds on each other is one write.
                let done = self.rooms.ingest_run(&room, rest).await?;
                for (pdu, ingested) in rest.iter().zip(&done) {
                    self.was_taken_in(&room, pdu, ingested).await?;
                    outcome.insert(pdu.event_id().to_owned(), Ok(()));
                }
                if !done.is_empty() {
                    rest = rest.get(done.len()..).unwrap_or_default();
                    continue;
                }
            }
            let id = first.event_id().to_owned();
            let taken = match is_resident {
                true => self.take_in_event(origin, &room, &id, first).await?,
                false => self.take_in_outside(origin, &room, first).await,
            };
            outcome.insert(id, taken);
            rest = after;
        }
        Ok(outcome)
    }

    /// Whether we are in the room. Others may speak to us before we have read the answer that lets us in: that is waited for.
    async fn is_or_becomes_resident(&self, room: &Room) -> Result<bool, OpError> {
        if self.is_resident(room).await? {
            return Ok(true);
        }
        let entering = self.inbound.entering(&room.room_id);
        drop(tokio::time::timeout(ENTERING_TIME, entering.lock()).await);
        self.is_resident(room).await
    }

    async fn take_in_event(
        self: &Arc<Self>,
        origin: &ServerName,
        room: &Arc<Room>,
        id: &EventId,
        pdu: &Pdu,
    ) -> Result<Result<(), String>, OpError> {
        match Box::pin(self.take_in(origin, room, pdu)).await {
            Ok(_) => Ok(Ok(())),
            Err(error) if error.is_passing() => Err(error),
            // What it builds on cannot be had: nothing its sender could do about it by sending it again.
            Err(error @ (OpError::BadRemote(_) | OpError::Remote(_))) => {
                tracing::info!(event = %id, %error, "an event has to wait for what it builds on");
                let room = Arc::clone(room);
                self.tasks.spawn("late event", Arc::clone(self).take_in_later(origin.to_owned(), room, pdu.clone()));
                Ok(Ok(()))
            }
            Err(error) => {
                tracing::info!(event = %id, %error, "an event was not taken in");
                Ok(Err(error.to_string()))
            }
        }
    }

    /// Tries an event again whose sender holds it to be delivered. Mostly a later event leads to it; but who is put out of a room
    /// gets no later one.
    async fn take_in_later(self: Arc<Self>, origin: OwnedServerName, room: Arc<Room>, pdu: Pdu) {
        let Ok(_permit) = self.inbound.late_events.try_acquire() else { return };
        for pause in LATE_PAUSES {
            tokio::select! {
                biased;
                () = self.tasks.stopping() => return,
                () = tokio::time::sleep(pause) => {}
            }
            match Box::pin(self.take_in(&origin, &room, &pdu)).await {
                Ok(_) => return,
                Err(error) => tracing::info!(event = %pdu.event_id(), %error, "an event still has to wait"),
            }
        }
        tracing::info!(event = %pdu.event_id(), "an event is left out");
    }

    /// An event of a room that we are not in: only the end of an invite or knock of a user of ours matters.
    async fn take_in_outside(&self, origin: &ServerName, room: &Arc<Room>, pdu: &Pdu) -> Result<(), String> {
        let user = pdu.state_key().and_then(|user| <&UserId>::try_from(user).ok()).filter(|user| self.is_local(user));
        let Some(user) = user else { return Err("this server is not in the room".into()) };
        let ends = matches!(membership_of(pdu), Some(MembershipState::Leave | MembershipState::Ban));
        if !ends || pdu.sender().server_name() != origin {
            return Err("this server is not in the room".into());
        }
        let before =
            self.rooms.store().graph.membership(user, &room.room_id).await.map_err(|error| error.to_string())?;
        if before.is_none() {
            let held = self.held_invites().taken_back(&room.room_id, user, pdu.sender()).await;
            if held.map_err(|error| error.to_string())? {
                return Ok(());
            }
        }
        // Without the room's state only whoever invited can be seen to have the right to take it back.
        let may_end = |member: &RoomMembership| match member.membership {
            MembershipState::Invite => member.sender == pdu.sender(),
            MembershipState::Knock => true,
            _ => false,
        };
        if !before.as_ref().is_some_and(may_end) {
            return Err("this server is not in the room".into());
        }
        self.rooms.note_outside(room, user, pdu, None).await.map_err(|error| error.to_string())
    }
}
