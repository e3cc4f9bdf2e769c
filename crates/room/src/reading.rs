//! What clients read: timelines, state, single events, and their form for one reader.

use std::sync::Arc;

use ruma::{EventId, OwnedEventId, OwnedUserId, RoomId, UserId, events::room::member::MembershipState};
use samtal_event::{Unsigned, client_form, stripped_form};
use samtal_model::StreamPosition;
use samtal_state::{Part, SnapshotId};
use serde_json::value::RawValue;

use crate::{
    Rooms,
    bundle::Bundles,
    error::RoomError,
    graph::{Room, StoredEvent},
    head::HeadInfo,
    visibility::Viewer,
};

/// Which way to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Newest first.
    Backward,
    /// Oldest first.
    Forward,
}

/// Part of a room's timeline.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// The events that the reader may see, in the order of reading.
    pub events: Vec<Arc<StoredEvent>>,
    /// Where to go on; none when there is no more on this server.
    pub next: Option<StreamPosition>,
}

/// How events are written for a reader.
#[derive(Clone, Copy, Debug, Default)]
pub struct Form<'a> {
    /// The reader's device, which sees its own transaction ids.
    pub device_id: Option<&'a str>,
    /// Whether the event names its room.
    pub with_room_id: bool,
    /// Whether aggregations of later events are bundled.
    pub with_bundles: bool,
    /// Whether neither what an event replaced is told nor what the reader was then: for each event, that is two looks at the
    /// state before it.
    pub without_past: bool,
}

/// Events looked at in one go beyond what is asked for, since some may be hidden from the reader.
const EXTRA: usize = 10;
/// Rounds of looking further back when all was hidden.
const ROUNDS_MAX: usize = 20;

impl Rooms {
    /// Where the room stands now.
    pub async fn head(&self, room: &Room) -> Result<HeadInfo, RoomError> {
        self.inner.store.head(room).await?.ok_or(RoomError::UnknownRoom)
    }

    /// The events of the room nothing refers to yet, as they came. There may be thousands.
    pub async fn extremities(&self, room: &Room) -> Result<Vec<OwnedEventId>, RoomError> {
        self.inner.store.extremities(room).await
    }

    /// The current state event of this type and key.
    pub async fn current_state(
        &self,
        room_id: &RoomId,
        event_type: &str,
        state_key: &str,
    ) -> Result<Option<Arc<StoredEvent>>, RoomError> {
        let room = self.room(room_id).await?;
        let Some(head) = self.inner.store.head(&room).await? else { return Ok(None) };
        self.inner.store.state_event(head.snapshot, event_type, state_key).await
    }

    /// All of the current state but the members.
    pub async fn current_state_but_members(&self, room_id: &RoomId) -> Result<Vec<Arc<StoredEvent>>, RoomError> {
        let room = self.room(room_id).await?;
        let head = self.head(&room).await?;
        self.inner.store.state_part(head.snapshot, Part::Other).await
    }

    /// The state a user may read now: the current one for members, that of their leaving for those who left, the
    /// current one for anybody where the history is world readable. Also says whether it is the current one.
    pub async fn readable_snapshot(&self, user: &UserId, room: &Room) -> Result<(SnapshotId, bool), RoomError> {
        let store = &self.inner.store;
        let head = store.head(room).await?;
        let membership = store.graph.membership(user, &room.room_id).await?;
        if let Some(found) = &membership
            && let Some(head) = &head
            && found.membership == MembershipState::Join
        {
            return Ok((head.snapshot, true));
        }
        if let Some(head) = &head {
            let visibility = store.state_event(head.snapshot, "m.room.history_visibility", "").await?;
            let visibility = visibility.map(|event| crate::visibility::visibility_of(&event.pdu));
            if visibility == Some(ruma::events::room::history_visibility::HistoryVisibility::WorldReadable) {
                return Ok((head.snapshot, true));
            }
        }
        let forbidden = || RoomError::Forbidden("you are not in the room".into());
        let found = membership.filter(|found| !found.forgotten).ok_or_else(forbidden)?;
        // SPEC: a banned user is told of the ban by sync, and reads no more; the conformance suites hold servers to that.
        if found.membership != MembershipState::Leave {
            return Err(forbidden());
        }
        self.joined_until(user, room).await?.ok_or_else(forbidden)?;
        let left = store.graph.event(&found.event_id).await?.ok_or_else(forbidden)?;
        Ok((store.state_after(&left).await?, false))
    }

    /// At most `limit` events that the reader may see, from `from` on towards `to` (both stand between events: right
    /// behind the event of that position).
    pub async fn timeline(
        &self,
        viewer: &mut Viewer,
        from: StreamPosition,
        to: Option<StreamPosition>,
        direction: Direction,
        limit: usize,
    ) -> Result<Chunk, RoomError> {
        let mut at = from;
        let mut events = Vec::new();
        for _ in 0..ROUNDS_MAX {
            let wanted = limit - events.len() + EXTRA;
            let found = self.span(viewer.room(), at, to, direction, wanted).await?;
            let is_last = found.len() < wanted;
            for event in found {
                if events.len() == limit {
                    return Ok(Chunk { events, next: Some(at) });
                }
                let position = event.position.unwrap_or_default();
                at = match direction {
                    Direction::Backward => StreamPosition(position.0 - 1),
                    Direction::Forward => position,
                };
                if viewer.can_see(&event).await? {
                    events.push(event);
                }
            }
            if is_last {
                return Ok(Chunk { events, next: None });
            }
        }
        Ok(Chunk { events, next: Some(at) })
    }

    async fn span(
        &self,
        room: &Room,
        from: StreamPosition,
        to: Option<StreamPosition>,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Arc<StoredEvent>>, RoomError> {
        let graph = &self.inner.store.graph;
        match direction {
            Direction::Backward => {
                graph.timeline_back(room.nid, from, to.unwrap_or(StreamPosition(i64::MIN)), limit).await
            }
            Direction::Forward => {
                graph.timeline_forward(room.nid, from, to.unwrap_or(StreamPosition(i64::MAX)), limit).await
            }
        }
    }

    /// The event, if the reader may see it; [`RoomError::UnknownEvent`] otherwise.
    pub async fn visible_event(
        &self,
        user: &UserId,
        room_id: &RoomId,
        id: &EventId,
    ) -> Result<Arc<StoredEvent>, RoomError> {
        let room = self.room(room_id).await.map_err(|_| RoomError::UnknownEvent)?;
        let event = self.event(id).await?;
        let mut viewer = self.viewer(user, &room).await?;
        if event.room == room.nid && viewer.can_see(&event).await? { Ok(event) } else { Err(RoomError::UnknownEvent) }
    }

    /// Events in the form in which this reader sees them.
    pub async fn client_events(
        &self,
        viewer: &mut Viewer,
        events: &[Arc<StoredEvent>],
        form: Form<'_>,
    ) -> Result<Vec<Box<RawValue>>, RoomError> {
        let bundles = if form.with_bundles { self.bundles(viewer, events).await? } else { Bundles::default() };
        let mut written = Vec::with_capacity(events.len());
        for event in events {
            let membership = match form.without_past {
                true => None,
                false => Some(viewer.membership_at(event).await?),
            };
            let relations = bundles.of(event);
            written.push(self.write(event, viewer.user(), form, membership.as_ref(), relations).await?);
        }
        Ok(written)
    }

    /// An event as this reader sees it, without what depends on their place in the room.
    pub async fn client_event(
        &self,
        event: &StoredEvent,
        user: &UserId,
        form: Form<'_>,
    ) -> Result<Box<RawValue>, RoomError> {
        self.write(event, user, form, None, None).await
    }

    async fn write(
        &self,
        event: &StoredEvent,
        user: &UserId,
        form: Form<'_>,
        membership: Option<&MembershipState>,
        relations: Option<&str>,
    ) -> Result<Box<RawValue>, RoomError> {
        let store = &self.inner.store;
        let room = store.graph.room_by_nid(event.room).await?;
        let shown = store.erasures.shown(event, &room, membership);
        let pdu = &*shown;
        let mut unsigned = Unsigned { relations_json: relations, ..Unsigned::default() };
        let age = self.inner.clock.signed_now_ms() - pdu.origin_server_ts_ms();
        unsigned.age_ms = Some(age.max(0));
        unsigned.membership = membership.map(MembershipState::as_str);
        if let Some(device_id) = form.device_id
            && pdu.sender() == user
        {
            unsigned.transaction_id = event.transaction_id_for(device_id);
        }
        let because = match &event.redacted_by {
            Some(id) => store.graph.event(id).await?,
            None => None,
        };
        let because = because.map(|because| {
            client_form(&because.pdu, Some(pdu.room_id()).filter(|_| form.with_room_id), &Unsigned::default())
        });
        unsigned.redacted_because_json = because.as_ref().map(|json| json.get());
        // Older clients look for the id alone.
        let by = event.redacted_by.as_ref().map(|id| serde_json::Value::from(id.as_str()).to_string());
        let extra = by.as_deref().map(|by| [("redacted_by", by)]);
        unsigned.extra = extra.as_ref().map_or(&[], |extra| extra.as_slice());
        let replaced = match (pdu.state_key(), event.before) {
            (Some(state_key), Some(before)) if !form.without_past => {
                store.state_event(before, pdu.type_str(), state_key).await?
            }
            _ => None,
        };
        if let Some(replaced) = &replaced {
            unsigned.prev_content_json = Some(replaced.pdu.content_str());
            unsigned.prev_sender = Some(replaced.pdu.sender());
            unsigned.replaces_state = Some(replaced.pdu.event_id());
        }
        Ok(client_form(pdu, Some(pdu.room_id()).filter(|_| form.with_room_id), &unsigned))
    }

    /// The state that lets an invited or knocking user recognize the room (CS API, "Stripped state").
    pub async fn stripped_state(&self, room: &Room, for_user: &UserId) -> Result<Vec<Box<RawValue>>, RoomError> {
        let events = self.stripped_events(room, for_user).await?;
        Ok(events.iter().map(|event| stripped_form(&event.pdu)).collect())
    }

    /// The events of [`Rooms::stripped_state`].
    pub async fn stripped_events(&self, room: &Room, for_user: &UserId) -> Result<Vec<Arc<StoredEvent>>, RoomError> {
        const TYPES: [&str; 8] = [
            "m.room.create",
            "m.room.join_rules",
            "m.room.canonical_alias",
            "m.room.avatar",
            "m.room.name",
            "m.room.encryption",
            "m.room.topic",
            "m.room.tombstone",
        ];
        let store = &self.inner.store;
        let head = self.head(room).await?;
        let mut events = Vec::with_capacity(TYPES.len() + 2);
        for event_type in TYPES {
            events.extend(store.state_event(head.snapshot, event_type, "").await?);
        }
        if let Some(member) = store.state_event(head.snapshot, "m.room.member", for_user.as_str()).await? {
            let sender: OwnedUserId = member.pdu.sender().to_owned();
            if sender != for_user {
                events.extend(store.state_event(head.snapshot, "m.room.member", sender.as_str()).await?);
            }
            events.push(member);
        }
        Ok(events)
    }

    /// The timeline position right behind everything that is there now.
    pub fn now(&self) -> StreamPosition {
        StreamPosition(self.inner.store.db().position())
    }
}
