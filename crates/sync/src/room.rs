//! One room as one user gets it in `GET /v3/sync`.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use ruma::{OwnedDeviceId, OwnedUserId, UserId, events::room::member::MembershipState};
use samtal_account::AccountData;
use samtal_event::stripped_form;
use samtal_model::{StreamPosition, SyncToken};
use samtal_room::{Room, RoomError, RoomMembership, StoredEvent, Viewer};
use samtal_state::SnapshotId;
use serde_json::value::RawValue;
use tokio::sync::OnceCell;

use crate::{
    Sync, SyncError,
    filter::{Filter, select},
    json::{self, Object},
    room_json::{write_counts, write_section, write_state, write_summary, write_timeline},
    span::{Keep, MemberChanges, Span, Timeline},
    state::Gap,
    summary::Summary,
    v3::{StateAfter, SyncRequest},
    view::{self, Reader},
};

/// What holds for all rooms of one answer.
pub(crate) struct Round<'a> {
    pub(crate) request: &'a SyncRequest,
    pub(crate) reader: Reader<'a>,
    /// The token of the request; none for an answer from the beginning.
    pub(crate) since: Option<SyncToken>,
    pub(crate) until: i64,
    pub(crate) ignored: Arc<HashSet<OwnedUserId>>,
    /// Account data of rooms that changed.
    pub(crate) account_data: Vec<AccountData>,
    /// Rooms in which the user's own receipts moved.
    pub(crate) read: HashSet<ruma::OwnedRoomId>,
    /// When the newest event was made that the answer shows to the device that has sent it; 0 when there is none.
    pub(crate) echo_ms: AtomicI64,
    /// Rooms with sticky events, once somebody has asked.
    pub(crate) sticky: OnceCell<HashSet<ruma::OwnedRoomId>>,
}

impl Round<'_> {
    /// What the reader wants to see.
    pub(crate) fn filter(&self) -> &Filter {
        &self.request.filter
    }

    /// The position that the reader has seen everything up to; 0 for one who has seen nothing.
    pub(crate) fn after(&self) -> i64 {
        self.since.map_or(0, |since| since.position.0)
    }

    /// Whether the reader does not know of this membership yet.
    pub(crate) fn is_news(&self, membership: &RoomMembership) -> bool {
        self.since.is_none_or(|since| membership.position > since.position)
    }

    /// The device that reads, if there is one.
    pub(crate) fn device(&self) -> Option<(OwnedUserId, OwnedDeviceId)> {
        Some((self.request.user_id.clone(), self.request.device_id.clone()?))
    }
}

/// Sticky events of one room in an answer.
const STICKY_MAX: usize = 1_000;

/// A room under way to its reader.
pub(crate) struct Draft {
    pub(crate) timeline: Timeline,
    /// The timeline's events, written.
    pub(crate) events: Vec<Arc<str>>,
    pub(crate) gap: Gap,
    pub(crate) members: MemberChanges,
}

/// A joined room that is worth telling, and who came and went in it.
pub(crate) struct Joined {
    /// Nothing when there is nothing to tell but who came and went.
    pub(crate) json: Option<String>,
    pub(crate) members: MemberChanges,
}

impl Sync {
    /// A room that the user is in. `known`: they were in it already when the token was given.
    pub(crate) async fn joined_room(
        &self,
        round: &Round<'_>,
        membership: &RoomMembership,
        known: bool,
        events_changed: bool,
        receipts_changed: bool,
    ) -> Result<Joined, SyncError> {
        let room = self.engines.rooms.room(&membership.room_id).await?;
        let everything = !known || round.request.full_state;
        let draft = if everything || events_changed {
            Some(self.draft(round, &room, membership, known, round.until).await?)
        } else {
            None
        };
        let state = match &draft {
            Some(draft) => self.state_events(round, &room, draft, everything).await?,
            None => Vec::new(),
        };
        let ephemeral = self.ephemeral(round, &room, known, receipts_changed).await?;
        let account_data = self.room_account_data(round, &room, known).await?;
        let members = draft.as_ref().map(|draft| draft.members.clone()).unwrap_or_default();
        let quiet = draft.as_ref().is_none_or(|draft| draft.events.is_empty() && !draft.timeline.limited);
        let counts_moved = !quiet || round.read.contains(&room.room_id);
        let sticky = match &draft {
            Some(draft) => self.sticky(round, &room, draft, known).await?,
            None => Vec::new(),
        };
        let is_quiet = !counts_moved && sticky.is_empty() && state.is_empty() && ephemeral.is_empty();
        if known && !everything && is_quiet && account_data.is_empty() {
            return Ok(Joined { json: None, members });
        }
        let counts =
            self.engines.push.counts(&round.request.user_id, &room, membership, StreamPosition(round.until)).await?;
        let summary = match &draft {
            Some(draft) if everything || draft.members.any => {
                Some(Summary::read(self.store(), &room, draft.gap.end, &round.request.user_id).await?)
            }
            _ => None,
        };
        let mut out = String::new();
        let mut object = Object::new(&mut out);
        if let Some(summary) = summary {
            object.object("summary", |inner| write_summary(inner, &summary));
        }
        write_state(&mut object, round.request.state_after, &state);
        write_timeline(&mut object, draft.as_ref(), round);
        write_section(&mut object, "ephemeral", &ephemeral);
        write_section(&mut object, "account_data", &account_data);
        if !sticky.is_empty() {
            write_section(&mut object, "msc4354_sticky", &sticky);
        }
        write_counts(&mut object, &counts, round.filter().unread_threads);
        object.end();
        Ok(Joined { json: Some(out), members })
    }

    /// A room that the user has left, or was thrown out of. `known`: they were in it when the token was given.
    pub(crate) async fn left_room(
        &self,
        round: &Round<'_>,
        membership: &RoomMembership,
        known: bool,
    ) -> Result<Option<String>, SyncError> {
        let room = self.engines.rooms.room(&membership.room_id).await?;
        let user_id = &round.request.user_id;
        let end = membership.position.0.min(round.until);
        let was_there = known || self.engines.rooms.joined_until(user_id, &room).await?.is_some();
        let mut out = String::new();
        let mut object = Object::new(&mut out);
        if was_there {
            let draft = self.draft(round, &room, membership, known, end).await?;
            let state = self.state_events(round, &room, &draft, !known).await?;
            write_state(&mut object, round.request.state_after, &state);
            write_timeline(&mut object, Some(&draft), round);
            let account_data = self.room_account_data(round, &room, known).await?;
            write_section(&mut object, "account_data", &account_data);
        } else {
            // Who only was invited sees no more than that it ended.
            let Some(event) = self.store().graph.event(&membership.event_id).await? else { return Ok(None) };
            let shown = self.write_event(round, &event, Some(&membership.membership), None).await?;
            write_state::<&str>(&mut object, round.request.state_after, &[]);
            object.object("timeline", |inner| {
                json::array(inner.key("events"), &[&shown]);
                inner.flag("limited", false);
                inner.text("prev_batch", &SyncToken::at(membership.position).to_string());
            });
        }
        object.end();
        Ok(Some(out))
    }

    /// A room that the user is invited to (`invite_state`) or has knocked on (`knock_state`).
    pub(crate) async fn outside_room(
        &self,
        membership: &RoomMembership,
        user_id: &UserId,
        section: &str,
    ) -> Result<String, SyncError> {
        let events = self.stripped(membership, user_id).await?;
        let mut out = String::new();
        let mut object = Object::new(&mut out);
        let texts: Vec<&str> = events.iter().map(|event| event.get()).collect();
        let inner = object.key(section);
        inner.push_str("{\"events\":");
        json::array(inner, &texts);
        inner.push('}');
        object.end();
        Ok(out)
    }

    /// Stripped state of a room that the user is invited to or has knocked on, their own member event among it.
    pub(crate) async fn stripped(
        &self,
        membership: &RoomMembership,
        user_id: &UserId,
    ) -> Result<Vec<Box<RawValue>>, SyncError> {
        let graph = &self.store().graph;
        let mut events = match graph.invite_state(user_id, &membership.room_id).await? {
            Some(text) => serde_json::from_str::<Vec<Box<RawValue>>>(&text).unwrap_or_default(),
            None => {
                let room = self.engines.rooms.room(&membership.room_id).await?;
                match self.engines.rooms.stripped_state(&room, user_id).await {
                    // The invite has been taken back meanwhile, and nothing else is known of the room.
                    Err(RoomError::UnknownRoom) => Vec::new(),
                    events => events?,
                }
            }
        };
        #[derive(serde::Deserialize)]
        struct Key {
            #[serde(rename = "type")]
            event_type: String,
            state_key: String,
        }
        let own = |event: &RawValue| {
            serde_json::from_str::<Key>(event.get())
                .is_ok_and(|key| key.event_type == "m.room.member" && key.state_key == user_id.as_str())
        };
        if !events.iter().any(|event| own(event))
            && let Some(event) = graph.event(&membership.event_id).await?
        {
            events.push(stripped_form(&event.pdu));
        }
        Ok(events)
    }

    /// Timeline and state of a room up to `end`.
    async fn draft(
        &self,
        round: &Round<'_>,
        room: &Arc<Room>,
        membership: &RoomMembership,
        known: bool,
        end: i64,
    ) -> Result<Draft, SyncError> {
        let filter = round.filter();
        let after = if known { round.after() } else { i64::MIN };
        let all_the_time = known && membership.position.0 <= round.after();
        let wants_timeline = filter.timeline.passes_room(room.room_id.as_str()) && !filter.timeline.passes_none();
        let limit = if wants_timeline { filter.timeline_limit() } else { 0 };
        if all_the_time && filter.timeline.passes_all() && round.ignored.is_empty() && limit > 0 {
            let (from, to) = self.active.same_span(&room.room_id, after, end);
            let span = self.spans.get(self.store(), room, from, to, limit).await?;
            return self.draft_of_span(round, room, &span, known).await;
        }
        let mut viewer = self
            .engines
            .rooms
            .viewer(&round.request.user_id, room)
            .await?
            .on_device(round.request.device_id.as_ref().map(|id| id.as_str()));
        let filtered = !filter.timeline.passes_all() || !round.ignored.is_empty() || !all_the_time;
        let end_state = self.store().state_at(room.nid, StreamPosition(end)).await?;
        let is_joined = membership.membership == MembershipState::Join;
        let keep = filtered.then(|| Keep {
            filter: &filter.timeline,
            ignored: &round.ignored,
            viewer: (!all_the_time).then_some(&mut viewer),
            current: is_joined.then_some(end_state),
        });
        let mut timeline = Timeline::read(self.store(), room.nid, after, end, limit, keep).await?;
        // Who has just come in may find older events by `/messages`.
        timeline.limited |= is_joined && !known && round.since.is_some();
        let from = match known && !round.request.full_state {
            true => Some(self.store().state_at(room.nid, StreamPosition(after)).await?),
            false => None,
        };
        let end = end_state;
        let gap = self.gap(round, from, &timeline, end);
        let members = match from {
            Some(from) => MemberChanges::read(self.store(), &self.store().snapshots.diff(from, end).await?).await?,
            None => MemberChanges { any: true, ..MemberChanges::default() },
        };
        let events = self.write_events(round, &mut viewer, &timeline, all_the_time, None, known).await?;
        Ok(Draft { timeline, events, gap, members })
    }

    async fn draft_of_span(
        &self,
        round: &Round<'_>,
        room: &Arc<Room>,
        span: &Span,
        known: bool,
    ) -> Result<Draft, SyncError> {
        let timeline =
            Timeline { events: span.timeline.events.clone(), limited: span.timeline.limited, prev: span.timeline.prev };
        let from = (!round.request.full_state).then_some(span.from);
        let gap = self.gap(round, from, &timeline, span.end);
        let events = if timeline.limited || !round.filter().plain_events() {
            let mut viewer = self
                .engines
                .rooms
                .viewer(&round.request.user_id, room)
                .await?
                .on_device(round.request.device_id.as_ref().map(|id| id.as_str()));
            self.write_events(round, &mut viewer, &timeline, true, Some(span), known).await?
        } else {
            let mut events = Vec::with_capacity(timeline.events.len());
            for (index, event) in timeline.events.iter().enumerate() {
                events.push(match round.reader.transaction_id(event) {
                    Some(_) => self.write_event(round, event, Some(&MembershipState::Join), None).await?.into(),
                    None => span.rendered(self.store(), index, round.reader.now_ms).await?,
                });
            }
            events
        };
        Ok(Draft { timeline, events, gap, members: span.members.clone() })
    }

    fn gap(&self, round: &Round<'_>, from: Option<SnapshotId>, timeline: &Timeline, end: SnapshotId) -> Gap {
        let to_the_end = round.request.state_after != StateAfter::No;
        Gap { from, start: timeline.start(end), end, to_the_end }
    }

    /// The timeline's events, written one by one for this reader. Aggregations are bundled where the timeline has a gap.
    async fn write_events(
        &self,
        round: &Round<'_>,
        viewer: &mut Viewer,
        timeline: &Timeline,
        all_the_time: bool,
        span: Option<&Span>,
        known: bool,
    ) -> Result<Vec<Arc<str>>, SyncError> {
        let bundles = match timeline.limited || !known {
            true => Some(self.engines.rooms.bundles(viewer, &timeline.events).await?),
            false => None,
        };
        let mut written = Vec::with_capacity(timeline.events.len());
        for (index, event) in timeline.events.iter().enumerate() {
            let relations = bundles.as_ref().and_then(|bundles| bundles.of(event));
            let plain =
                relations.is_none() && round.reader.transaction_id(event).is_none() && round.filter().plain_events();
            if let Some(span) = span
                && plain
            {
                written.push(span.rendered(self.store(), index, round.reader.now_ms).await?);
                continue;
            }
            let membership = if all_the_time { MembershipState::Join } else { viewer.membership_at(event).await? };
            written.push(self.write_event(round, event, Some(&membership), relations).await?.into());
        }
        Ok(written)
    }

    /// An event, written for this reader.
    pub(crate) async fn write_event(
        &self,
        round: &Round<'_>,
        event: &StoredEvent,
        membership: Option<&MembershipState>,
        relations: Option<&str>,
    ) -> Result<String, SyncError> {
        let filter = round.filter();
        if filter.federation_format {
            return Ok(chosen_fields(filter, federation_form(event)));
        }
        let transaction_id = round.reader.transaction_id(event);
        if transaction_id.is_some() {
            round.echo_ms.fetch_max(event.pdu.origin_server_ts_ms(), Ordering::Relaxed);
        }
        let json =
            view::render(self.store(), event, round.reader.now_ms, membership, transaction_id, relations).await?;
        Ok(chosen_fields(filter, json))
    }

    /// Fresh sticky events that the timeline does not show (MSC4354), whatever the reader may see of the history. A
    /// timeline with all that happened shows them all.
    async fn sticky(
        &self,
        round: &Round<'_>,
        room: &Room,
        draft: &Draft,
        known: bool,
    ) -> Result<Vec<String>, SyncError> {
        if known && !draft.timeline.limited && round.filter().timeline.passes_all() {
            return Ok(Vec::new());
        }
        let (store, now_ms) = (self.store(), round.reader.now_ms);
        // Who newly is in the room hears all of them.
        let since = if known { round.after() } else { 0 };
        let rooms = round.sticky.get_or_try_init(async || {
            let rooms = store.rooms_with_sticky_events(0, round.until, now_ms).await?;
            Ok::<_, SyncError>(rooms.into_iter().collect())
        });
        if !rooms.await?.contains(&room.room_id) {
            return Ok(Vec::new());
        }
        let shown: HashSet<_> = draft.timeline.events.iter().map(|event| event.nid).collect();
        let mut written = Vec::new();
        for sticky in store.sticky_events(room.nid, since, round.until, now_ms, STICKY_MAX).await? {
            let event = &sticky.event;
            if !shown.contains(&event.nid) && !round.ignored.contains(event.pdu.sender()) {
                written.push(view::render(store, event, now_ms, None, None, None).await?);
            }
        }
        Ok(written)
    }

    /// Typing and receipts.
    async fn ephemeral(
        &self,
        round: &Round<'_>,
        room: &Room,
        known: bool,
        receipts_changed: bool,
    ) -> Result<Vec<String>, SyncError> {
        let filter = &round.filter().ephemeral;
        if filter.passes_none() || !filter.passes_room(room.room_id.as_str()) {
            return Ok(Vec::new());
        }
        let edus = &self.engines.edus;
        let mut events = Vec::new();
        if filter.passes_type("m.typing") {
            let typing = match round.since.filter(|_| known) {
                Some(since) => edus.typing.changed(&room.room_id, since.typing),
                // Also that somebody has just stopped: another session of the device may have seen them type.
                None => edus.typing.changed(&room.room_id, 0),
            };
            if let Some(users) = typing {
                events.push(typing_event(&users, &round.ignored));
            }
        }
        if filter.passes_type("m.receipt") && (receipts_changed || !known) {
            let after = if known { round.after() } else { 0 };
            let receipts = edus.receipts.changed(&room.room_id, after, round.until).await?;
            if let Some(content) = samtal_edu::receipt::content(&receipts, &round.request.user_id) {
                events.push(json::event("m.receipt", &content.to_string()));
            }
        }
        Ok(events)
    }

    async fn room_account_data(&self, round: &Round<'_>, room: &Room, known: bool) -> Result<Vec<String>, SyncError> {
        let filter = &round.filter().room_account_data;
        if filter.passes_none() || !filter.passes_room(room.room_id.as_str()) {
            return Ok(Vec::new());
        }
        let all;
        let data: Vec<&AccountData> = if known {
            let here = |data: &&AccountData| data.room_id.as_deref() == Some(room.room_id.as_str());
            round.account_data.iter().filter(here).collect()
        } else {
            all = self.engines.accounts.room_account_data(&round.request.user_id, &room.room_id).await?;
            all.iter().collect()
        };
        Ok(data
            .into_iter()
            .filter(|data| filter.passes(&data.data_type, round.request.user_id.as_str(), data.content.get()))
            .map(|data| json::event(&data.data_type, data.content.get()))
            .collect())
    }
}

/// The event as servers exchange it, with its id, which newer room versions leave out.
fn federation_form(event: &StoredEvent) -> String {
    let Ok(mut json) = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(event.pdu.json()) else {
        return event.pdu.json().to_owned();
    };
    json.insert("event_id".to_owned(), event.pdu.event_id().as_str().into());
    json.entry("room_id").or_insert_with(|| event.pdu.room_id().as_str().into());
    serde_json::Value::Object(json).to_string()
}

fn chosen_fields(filter: &Filter, json: String) -> String {
    let Some(fields) = &filter.event_fields else { return json };
    match serde_json::from_str(&json) {
        Ok(event) => select(&event, fields).to_string(),
        Err(_) => json,
    }
}

/// The `m.typing` event, which names no room.
pub(crate) fn typing_event(users: &[OwnedUserId], ignored: &HashSet<OwnedUserId>) -> String {
    let mut content = String::from("{\"user_ids\":");
    json::texts(&mut content, users.iter().filter(|user| !ignored.contains(*user)));
    content.push('}');
    json::event("m.typing", &content)
}
