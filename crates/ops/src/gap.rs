//! Taking in an event together with what it builds on: asking for what is missing, within limits.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use ruma::{
    EventId, OwnedEventId, ServerName, UInt,
    api::federation::{
        authorization::get_event_authorization::v1 as event_auth,
        event::{
            get_event::v1 as get_event, get_missing_events::v1 as missing_events, get_room_state::v1 as get_state,
            get_room_state_ids::v1 as state_ids,
        },
    },
};
use samtal_event::{Origin as Source, Pdu};
use samtal_model::StreamPosition;
use samtal_remote::{Options, RemoteError, into_http};
use samtal_room::{Ingest, Ingested, OldEvent, Room, in_graph_order};
use serde_json::value::RawValue;

use crate::{Homeserver, OpError};

/// Events asked for to close a gap.
const GAP_EVENTS: u32 = 20;
/// Forward extremities that are named when missing events are asked for.
const EARLIEST_MAX: usize = 50;
/// Backward extremities from which history is asked for at once.
const EXTREMITIES_MAX: usize = 20;
/// States asked for on the way of one piece of history.
const STATES_MAX: usize = 10;
/// States asked for on the way of one event.
const JUMPS_MAX: usize = 3;
/// Missing previous events of one event whose state is asked for.
const MISSING_MAX: usize = 5;
/// Attempts at one event.
const ATTEMPTS: usize = 6;
/// Events asked for one by one; if more are missing the whole state is.
const SINGLE_MAX: usize = 30;
/// Rounds of looking for auth events of auth events.
const AUTH_ROUNDS: usize = 10;
/// Events asked for one by one at the same time.
const AT_ONCE: usize = 8;
/// Events of a state that are checked and stored together.
const STATE_CHUNK: usize = 1_000;
/// A question gets so long.
const QUESTION_TIME: Duration = Duration::from_secs(15);
/// The ids of a state get so long.
const IDS_TIME: Duration = Duration::from_secs(25);
/// A whole state gets so long, and may be so large.
pub(crate) const STATE_TIME: Duration = Duration::from_secs(120);
/// Largest state that is read, in bytes.
pub(crate) const STATE_BYTES_MAX: usize = 256 << 20;

/// `GET /state` as it came: a large room's is not copied.
#[derive(serde::Deserialize)]
struct BigState<'a> {
    #[serde(borrow)]
    pdus: Vec<&'a RawValue>,
    #[serde(borrow)]
    auth_chain: Vec<&'a RawValue>,
}

impl Homeserver {
    /// Takes in an event whose signatures have been checked. What it builds on is asked of `origin`.
    pub(crate) async fn take_in(&self, origin: &ServerName, room: &Arc<Room>, pdu: &Pdu) -> Result<Ingested, OpError> {
        let (pdu, soft_fail) = self.reviewed(room, pdu).await?;
        let pdu = &pdu;
        let mut has_answered = None;
        for _ in 0..ATTEMPTS {
            match (self.rooms.ingest(room, pdu, None, soft_fail.clone()).await?, has_answered) {
                (Ingest::Done(done), _) => {
                    self.was_taken_in(room, pdu, &done).await?;
                    return Ok(done);
                }
                // The auth events that are missing mostly are among the previous events that are.
                (Ingest::NeedAuth(_), None) if !self.unknown(pdu.prev_events()).await?.is_empty() => {
                    has_answered = Some(self.fill_gap(origin, room, pdu).await?);
                }
                (Ingest::NeedAuth(ids), _) => self.fetch_auth(origin, room, pdu, &ids).await?,
                (Ingest::NeedPrev(_), None) => has_answered = Some(self.fill_gap(origin, room, pdu).await?),
                // Whoever sends an event must be able to show what it builds on.
                (Ingest::NeedPrev(_), Some(true)) => {
                    return Err(OpError::BadRemote("previous events of the event were not given".into()));
                }
                // A server that knows no such question may still know the state.
                (Ingest::NeedPrev(missing), Some(false)) => return self.jump(origin, room, pdu, &missing).await,
            }
        }
        Err(OpError::BadRemote("what the event builds on could not be had".into()))
    }

    /// What follows from an event that was taken in.
    pub(crate) async fn was_taken_in(&self, room: &Room, pdu: &Pdu, ingested: &Ingested) -> Result<(), OpError> {
        match ingested {
            Ingested::Accepted if pdu.is_state_of("m.room.guest_access", "") => {
                Box::pin(self.remove_guests(&room.room_id)).await?;
            }
            Ingested::Accepted | Ingested::Duplicate => {}
            Ingested::SoftFailed(reason) => {
                tracing::info!(event = %pdu.event_id(), %reason, "an event is soft-failed");
            }
            Ingested::Rejected(reason) => tracing::info!(event = %pdu.event_id(), %reason, "an event is rejected"),
        }
        Ok(())
    }

    /// Asks for the events between what we have and this one, and takes them in. Whether the other server answered.
    async fn fill_gap(&self, origin: &ServerName, room: &Arc<Room>, pdu: &Pdu) -> Result<bool, OpError> {
        // Where there are very many, the newest say where we stand.
        let mut newest = self.rooms.extremities(room).await?;
        newest.drain(..newest.len().saturating_sub(EARLIEST_MAX));
        let mut request = missing_events::Request::new(room.room_id.clone(), newest, vec![pdu.event_id().to_owned()]);
        request.limit = GAP_EVENTS.into();
        let answer = match self.remote.send_with(origin, request, Options::default().time(QUESTION_TIME)).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::info!(room = %room.room_id, %origin, %error, "missing events were not given");
                // Who answers, though nothing that can be read, knows the question.
                return Ok(matches!(error, RemoteError::Malformed { .. }));
            }
        };
        let mut events = self.received(room, &answer.events, Source::Live).await?;
        events.truncate(GAP_EVENTS as usize);
        events.retain(|event| event.event_id() != pdu.event_id());
        // What something here builds on already is no news, however it came: it has its place before that.
        let (old, events) = self.rooms.split_history(room, in_graph_order(events)).await?;
        let is_needed =
            |id: &EventId| events.iter().chain([pdu]).any(|event| event.prev_events().iter().any(|prev| prev == id));
        if old.iter().any(|event| is_needed(event.event_id())) {
            self.take_history(origin, room, old).await?;
        }
        let mut jumps = 0;
        for event in &events {
            let (event, soft_fail) = self.reviewed(room, event).await?;
            let event = &event;
            for _ in 0..ATTEMPTS {
                match self.rooms.ingest(room, event, None, soft_fail.clone()).await? {
                    Ingest::Done(_) => break,
                    Ingest::NeedAuth(ids) => {
                        // The state at a gap brings auth events with it, so it is asked for first.
                        let missing = self.unknown(event.prev_events()).await?;
                        let had = if missing.is_empty() || jumps >= JUMPS_MAX {
                            self.fetch_auth(origin, room, event, &ids).await
                        } else {
                            jumps += 1;
                            self.jump(origin, room, event, &missing).await.map(|_| ())
                        };
                        if let Err(error) = had {
                            tracing::info!(event = %event.event_id(), %error, "a missing event is left out");
                            break;
                        }
                    }
                    Ingest::NeedPrev(missing) => {
                        jumps += 1;
                        if jumps > JUMPS_MAX {
                            break;
                        }
                        if let Err(error) = self.jump(origin, room, event, &missing).await {
                            tracing::info!(event = %event.event_id(), %error, "a missing event is left out");
                        }
                        break;
                    }
                }
            }
        }
        Ok(true)
    }

    /// Leaves a gap: takes in an event with the state that `origin` says was before it.
    async fn jump(
        &self,
        origin: &ServerName,
        room: &Arc<Room>,
        pdu: &Pdu,
        missing: &[OwnedEventId],
    ) -> Result<Ingested, OpError> {
        let state = match self.state_at_missing(origin, room, pdu, missing).await {
            Ok(state) => state,
            // It may have a gap there itself.
            Err(_) => self.fetch_state(origin, room, &pdu.event_id().to_owned(), false).await?,
        };
        let (pdu, soft_fail) = self.reviewed(room, pdu).await?;
        let pdu = &pdu;
        for _ in 0..ATTEMPTS {
            match self.rooms.ingest(room, pdu, Some(&state), soft_fail.clone()).await? {
                Ingest::Done(done) => return Ok(done),
                Ingest::NeedAuth(ids) => self.fetch_auth(origin, room, pdu, &ids).await?,
                Ingest::NeedPrev(_) => break,
            }
        }
        Err(OpError::BadRemote("what the event builds on could not be had".into()))
    }

    /// What the states after the missing previous events, and after those that are here, come to together.
    async fn state_at_missing(
        &self,
        origin: &ServerName,
        room: &Arc<Room>,
        pdu: &Pdu,
        missing: &[OwnedEventId],
    ) -> Result<Vec<OwnedEventId>, OpError> {
        let mut told = Vec::new();
        if missing.len() > MISSING_MAX {
            return Err(OpError::BadRemote("too many previous events are missing".into()));
        }
        for id in missing {
            told.push(self.fetch_state(origin, room, id, true).await?);
        }
        let known: Vec<OwnedEventId> = pdu.prev_events().iter().filter(|id| !missing.contains(id)).cloned().collect();
        Ok(self.rooms.merge_states(room, &told, &known).await?)
    }

    /// The state before an event (or after it, `with_itself`), all of it held.
    pub(crate) async fn fetch_state(
        &self,
        origin: &ServerName,
        room: &Arc<Room>,
        at: &OwnedEventId,
        with_itself: bool,
    ) -> Result<Vec<OwnedEventId>, OpError> {
        let options = Options::default().time(STATE_TIME).body_bytes_max(STATE_BYTES_MAX);
        let request = state_ids::Request::new(at.clone(), room.room_id.clone());
        let ids = self.remote.send_with(origin, request, options.time(IDS_TIME)).await?;
        let mut wanted = ids.pdu_ids.clone();
        wanted.extend(ids.auth_chain_ids);
        if with_itself {
            wanted.push(at.clone());
        }
        let missing = self.unknown(&wanted).await?;
        if missing.len() > SINGLE_MAX {
            let request = get_state::Request::new(at.clone(), room.room_id.clone());
            let answer = self.remote.send_raw(origin, into_http(request)?, options).await?.into_body();
            let state: BigState<'_> =
                serde_json::from_slice(&answer).map_err(|error| OpError::BadRemote(error.to_string()))?;
            let texts: Vec<&str> = state.auth_chain.iter().chain(&state.pdus).map(|event| event.get()).collect();
            self.hold_texts(room, &texts).await?;
        }
        let is_answered = self.fetch_and_hold(origin, room, wanted).await?;
        let mut state = ids.pdu_ids;
        // What is not an event is left out of the state for good. What the network swallowed must not be.
        if !is_answered && !self.unknown(&state).await?.is_empty() {
            return Err(OpError::BadRemote("some of the state did not arrive".into()));
        }
        if with_itself
            && let Some(itself) = self.rooms.store().graph.event(at).await?
            && itself.pdu.is_state()
            && !itself.pdu.is_rejected()
        {
            let key = |pdu: &Pdu| (pdu.type_str().to_owned(), pdu.state_key().map(ToOwned::to_owned));
            let replaced = key(&itself.pdu);
            let held = self.rooms.store().graph.events(&state).await?;
            let gone: HashSet<OwnedEventId> = held
                .iter()
                .filter(|event| key(&event.pdu) == replaced)
                .map(|event| event.pdu.event_id().to_owned())
                .collect();
            state.retain(|id| !gone.contains(id));
            state.push(at.clone());
        }
        Ok(state)
    }

    /// Checks and holds events of a room's state as they came, however many, some at a time: while signatures of the next are
    /// checked those before are stored. Those whose auth events are missing, or that cannot be believed, are left out.
    pub(crate) async fn hold_texts(&self, room: &Arc<Room>, texts: &[&str]) -> Result<(), OpError> {
        let mut chunks = texts.chunks(STATE_CHUNK);
        let mut waiting = self.received_texts(room, chunks.next().unwrap_or_default(), Source::History).await?;
        loop {
            let next = chunks.next();
            let store = self.rooms.hold(room, waiting.clone());
            let check = async {
                match next {
                    Some(chunk) => self.received_texts(room, chunk, Source::History).await,
                    None => Ok(Vec::new()),
                }
            };
            let (held, checked) = futures_util::join!(store, check);
            let unjudged: HashSet<OwnedEventId> = held?.unjudged.into_iter().collect();
            waiting.retain(|pdu| unjudged.contains(pdu.event_id()));
            if next.is_none() {
                break;
            }
            waiting.extend(checked?);
        }
        if !waiting.is_empty() {
            tracing::info!(room = %room.room_id, count = waiting.len(), "state events whose auth events are missing are left out");
        }
        Ok(())
    }

    /// Has the auth events of an event held.
    pub(crate) async fn fetch_auth(
        &self,
        origin: &ServerName,
        room: &Arc<Room>,
        pdu: &Pdu,
        missing: &[OwnedEventId],
    ) -> Result<(), OpError> {
        let request = event_auth::Request::new(room.room_id.clone(), pdu.event_id().to_owned());
        match self
            .remote
            .send_with(origin, request, Options::default().time(QUESTION_TIME).body_bytes_max(64 << 20))
            .await
        {
            Ok(answer) => {
                let events = self.received(room, &answer.auth_chain, Source::History).await?;
                self.rooms.hold(room, events).await?;
            }
            Err(error) => tracing::info!(event = %pdu.event_id(), %origin, %error, "no auth chain was given"),
        }
        self.fetch_and_hold(origin, room, missing.to_vec()).await?;
        if self.unknown(missing).await?.is_empty() {
            Ok(())
        } else {
            Err(OpError::BadRemote("auth events of the event could not be had".into()))
        }
    }

    /// Asks one by one for those of these events that are not here, and for the auth events they need. Whether each question was
    /// answered, if only with a refusal.
    async fn fetch_and_hold(
        &self,
        origin: &ServerName,
        room: &Arc<Room>,
        wanted: Vec<OwnedEventId>,
    ) -> Result<bool, OpError> {
        let mut asked: HashSet<OwnedEventId> = HashSet::new();
        let mut waiting: Vec<Pdu> = Vec::new();
        let mut open = wanted;
        let mut is_answered = true;
        for _ in 0..AUTH_ROUNDS {
            open = self.unknown(&open).await?;
            open.retain(|id| !asked.contains(id));
            if open.is_empty() {
                return Ok(is_answered);
            }
            let later = open.split_off(open.len().min(SINGLE_MAX * 4));
            asked.extend(open.iter().cloned());
            let answers: Vec<Result<Box<RawValue>, bool>> = stream::iter(open)
                .map(|id| async move {
                    let request = get_event::Request::new(id.clone());
                    match self.remote.send_with(origin, request, Options::default().time(QUESTION_TIME)).await {
                        Ok(answer) => Ok(answer.pdu),
                        Err(error) => {
                            tracing::info!(event = %id, %origin, %error, "an event was not given");
                            Err(error.status().is_some())
                        }
                    }
                })
                .buffer_unordered(AT_ONCE)
                .collect()
                .await;
            is_answered &= !answers.iter().any(|answer| matches!(answer, Err(false)));
            let raw: Vec<Box<RawValue>> = answers.into_iter().flatten().collect();
            waiting.extend(self.received(room, &raw, Source::History).await?);
            let held = self.rooms.hold(room, waiting.clone()).await?;
            waiting.retain(|pdu| held.unjudged.iter().any(|id| id == pdu.event_id()));
            open = later;
            open.extend(waiting.iter().flat_map(|pdu| pdu.auth_events().to_vec()));
        }
        Ok(false)
    }

    /// Those of these events that are not here at all.
    pub(crate) async fn unknown(&self, ids: &[OwnedEventId]) -> Result<Vec<OwnedEventId>, OpError> {
        let known = self.rooms.store().graph.known(ids).await?;
        Ok(ids.iter().filter(|id| !known.contains(*id)).cloned().collect())
    }

    /// Asks other servers of the room for history that is not here, and takes it in. Whether there was any.
    pub async fn backfill(&self, room: &Arc<Room>, limit: u32) -> Result<bool, OpError> {
        let from = self.rooms.backward_extremities(room, EXTREMITIES_MAX).await?;
        self.backfill_from(room, from, limit).await
    }

    /// As [`Self::backfill`], for one gap: the one before the event of this position, or (0) before all that is here.
    pub async fn backfill_gap(&self, room: &Arc<Room>, gap: StreamPosition, limit: u32) -> Result<bool, OpError> {
        let from = self.rooms.backward_extremities_of(room, gap, EXTREMITIES_MAX).await?;
        self.backfill_from(room, from, limit).await
    }

    async fn backfill_from(&self, room: &Arc<Room>, from: Vec<OwnedEventId>, limit: u32) -> Result<bool, OpError> {
        use ruma::api::federation::backfill::get_backfill::v1 as backfill;
        if from.is_empty() {
            return Ok(false);
        }
        let mut servers = self.rooms.store().graph.servers(room.nid).await?;
        servers.retain(|server| *server != self.name);
        for server in servers.into_iter().take(5) {
            let request = backfill::Request::new(room.room_id.clone(), from.clone(), UInt::from(limit));
            let options = Options { urgency: samtal_remote::Urgency::Background, ..Options::default() };
            let answer = match self
                .remote
                .send_with(&server, request, options.time(QUESTION_TIME).body_bytes_max(64 << 20))
                .await
            {
                Ok(answer) => answer,
                Err(error) => {
                    tracing::info!(room = %room.room_id, %server, %error, "no history was given");
                    continue;
                }
            };
            let events = self.received(room, &answer.pdus, Source::History).await?;
            // A server that has only what we have is no reason not to ask the next.
            if self.take_history(&server, room, events).await? > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes in events that something here builds on. The states from which those of the others follow, and the auth events,
    /// are asked of `server`. How many were new.
    async fn take_history(&self, server: &ServerName, room: &Arc<Room>, events: Vec<Pdu>) -> Result<usize, OpError> {
        let mut fresh = Vec::with_capacity(events.len());
        for event in in_graph_order(events) {
            if !self.rooms.has_event(room, event.event_id()).await? {
                fresh.push(event);
            }
        }
        if fresh.is_empty() {
            return Ok(0);
        }
        let auth: Vec<OwnedEventId> = fresh.iter().flat_map(|pdu| pdu.auth_events().to_vec()).collect();
        self.fetch_and_hold(server, room, auth).await?;
        let mut here: HashSet<OwnedEventId> = HashSet::new();
        let mut old = Vec::with_capacity(fresh.len());
        let mut asked = 0;
        for pdu in fresh {
            let mut follows = true;
            for prev in pdu.prev_events() {
                follows = follows && (here.contains(prev) || self.rooms.has_state(room, prev).await?);
            }
            let mut state = None;
            if !follows && asked < STATES_MAX {
                asked += 1;
                match self.fetch_state(server, room, &pdu.event_id().to_owned(), false).await {
                    Ok(told) => state = Some(told),
                    Err(error) => {
                        tracing::info!(event = %pdu.event_id(), %server, %error, "history comes without its state")
                    }
                }
            }
            if follows || state.is_some() {
                here.insert(pdu.event_id().to_owned());
                old.push(OldEvent { pdu, state });
            }
        }
        Ok(self.rooms.insert_history(room, old).await?)
    }
}
