//! One room as one connection gets it.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use ruma::{OwnedUserId, UserId, events::room::member::MembershipState};
use samtal_model::{StreamPosition, SyncToken};
use samtal_room::{EventNid, Room, StoredEvent};
use samtal_state::{Part, SnapshotId};

use crate::{
    Sync, SyncError,
    filter::EventFilter,
    json::{self, Object},
    sliding::{
        Turn,
        board::{InView, Shown},
        connection::{Kind, MEMBERS_MAX, Told},
        request::Shape,
        required::Required,
    },
    span::{Keep, MemberChanges, Timeline},
    state::member,
    summary::Summary,
    view,
};

/// Event types that move a room up in the list.
const BUMPS: &[&str] = &[
    "m.room.create",
    "m.room.message",
    "m.room.encrypted",
    "m.sticker",
    "m.call.invite",
    "m.poll.start",
    "org.matrix.msc3381.poll.start",
    "m.beacon_info",
    "org.matrix.msc3672.beacon_info",
];
/// Events that are looked at for the one that moves the room up.
const BUMP_LOOK_MAX: usize = 100;
/// The member event type.
const MEMBER: &str = "m.room.member";

/// A room that is worth telling.
pub(crate) struct Answered {
    /// Nothing where there is nothing to tell.
    pub(crate) json: Option<String>,
    pub(crate) told: Told,
}

/// From where to where a room is told.
struct Stretch {
    /// None for a reader who has nothing of the room.
    from: Option<SnapshotId>,
    end: SnapshotId,
    /// The position up to which the reader has everything, if they have any of it.
    since: Option<i64>,
    upto: i64,
}

fn sliding_place(turn: &Turn<'_>, object: &mut Object<'_>, shown: Shown<'_>) {
    object.text("membership", shown.membership.membership.as_str());
    let lists: Vec<&str> = shown.lists(turn.request).collect();
    if !lists.is_empty() {
        json::texts(object.key("lists"), &lists);
    }
}

impl Sync {
    /// A room that is in view. `told` is what the connection has of it.
    pub(crate) async fn sliding_room(
        &self,
        turn: &Turn<'_>,
        view: &InView<'_>,
        told: Option<&Told>,
    ) -> Result<Answered, SyncError> {
        let next = Told {
            upto: turn.until,
            kind: view.shown.kind,
            timeline_limit: view.timeline_limit.max(told.map_or(0, |told| told.timeline_limit)),
            required: Arc::clone(&view.required),
            members: told.map(|told| Arc::clone(&told.members)).unwrap_or_default(),
            is_dm: turn.personal.direct.contains(view.shown.membership.room_id.as_str()),
        };
        let (json, next) = match view.shown.kind {
            Kind::Outside => (self.sliding_outside(turn, view.shown, told).await?, next),
            Kind::Joined | Kind::Left => self.sliding_inside(turn, view, told, next).await?,
        };
        Ok(Answered { json, told: next })
    }

    async fn sliding_outside(
        &self,
        turn: &Turn<'_>,
        shown: Shown<'_>,
        told: Option<&Told>,
    ) -> Result<Option<String>, SyncError> {
        let membership = shown.membership;
        let is_dm = turn.personal.direct.contains(membership.room_id.as_str());
        let is_same = |told: &Told| told.kind == Kind::Outside && told.is_dm == is_dm;
        if told.is_some_and(|told| is_same(told) && told.upto >= membership.position.0) {
            return Ok(None);
        }
        let stripped = self.stripped(membership, &turn.request.user_id).await?;
        let mut out = String::new();
        let mut object = Object::new(&mut out);
        object.flag("initial", true);
        let (mut name, mut avatar) = (None, None);
        for event in &stripped {
            let event: serde_json::Value = serde_json::from_str(event.get()).unwrap_or_default();
            let text =
                |field: &str| event["content"][field].as_str().filter(|text| !text.is_empty()).map(ToOwned::to_owned);
            match event["type"].as_str() {
                Some("m.room.name") => name = text("name"),
                Some("m.room.avatar") => avatar = text("url"),
                _ => {}
            }
        }
        if let Some(name) = name {
            object.text("name", &name);
        }
        if let Some(avatar) = avatar {
            object.text("avatar", &avatar);
        }
        if is_dm {
            object.flag("is_dm", true);
        }
        let events: Vec<&str> = stripped.iter().map(|event| event.get()).collect();
        let section = match turn.request.shape {
            Shape::Deployed => "invite_state",
            Shape::Accepted => "stripped_state",
        };
        json::array(object.key(section), &events);
        if turn.request.shape == Shape::Accepted {
            sliding_place(turn, &mut object, shown);
        }
        object.number("bump_stamp", u64::try_from(membership.position.0).unwrap_or(0));
        object.end();
        Ok(Some(out))
    }

    async fn sliding_inside(
        &self,
        turn: &Turn<'_>,
        view: &InView<'_>,
        told: Option<&Told>,
        mut next: Told,
    ) -> Result<(Option<String>, Told), SyncError> {
        let membership = view.shown.membership;
        let room = self.engines.rooms.room(&membership.room_id).await?;
        let upto = if view.shown.kind == Kind::Left { membership.position.0.min(turn.until) } else { turn.until };
        let known = told.filter(|told| told.kind == Kind::Joined || told.kind == view.shown.kind);
        let end = self.store().state_at(room.nid, StreamPosition(upto)).await?;
        let since = known.map(|known| known.upto);
        let from = match since {
            Some(since) => Some(self.store().state_at(room.nid, StreamPosition(since)).await?),
            None => None,
        };
        let stretch = Stretch { from, end, since, upto };
        let expanded = known.is_some_and(|known| view.timeline_limit > known.timeline_limit);
        let timeline = self.sliding_timeline(turn, view, &room, &stretch, expanded).await?;
        let members = match from {
            Some(from) => MemberChanges::read(self.store(), &self.store().snapshots.diff(from, end).await?).await?,
            None => MemberChanges { any: true, ..MemberChanges::default() },
        };
        let state = self.sliding_state(turn, &room, known, &mut next, &stretch, &timeline).await?;
        let read = turn.read.contains(&room.room_id);
        let left = view.shown.kind == Kind::Left && known.is_none_or(|known| known.kind != Kind::Left);
        let gone = self.sliding_gone(turn, known, &stretch).await?;
        let same_dm = known.is_some_and(|known| known.is_dm == next.is_dm);
        let nothing_new = timeline.events.is_empty() && !timeline.limited && state.is_empty() && gone.is_empty();
        if same_dm && nothing_new && !members.any && !read && !left {
            return Ok((None, next));
        }
        let mut out = String::new();
        let mut object = Object::new(&mut out);
        let initial = known.is_none();
        if initial {
            object.flag("initial", true);
        }
        self.sliding_names(turn, &mut object, &room, &stretch, &members).await?;
        if next.is_dm || !initial && !same_dm {
            object.flag("is_dm", next.is_dm);
        }
        if !state.is_empty() || !gone.is_empty() {
            let mut written = gone;
            for event in &state {
                written.push(view::render_state(event, turn.reader.now_ms));
            }
            json::array(object.key("required_state"), &written);
        }
        self.write_sliding_timeline(turn, &mut object, &room, &timeline, &stretch, expanded).await?;
        if view.shown.kind == Kind::Joined && turn.request.shape == Shape::Deployed {
            let until = StreamPosition(turn.until);
            let counts = self.engines.push.counts(&turn.request.user_id, &room, membership, until).await?.total();
            object.number("notification_count", counts.notifications);
            object.number("highlight_count", counts.highlights);
        }
        if turn.request.shape == Shape::Accepted {
            sliding_place(turn, &mut object, view.shown);
        }
        let bump = match view.shown.kind {
            Kind::Left => membership.position.0,
            Kind::Joined | Kind::Outside => self.bump(&room, upto).await?,
        };
        object.number("bump_stamp", u64::try_from(bump).unwrap_or(0));
        object.end();
        Ok((Some(out), next))
    }

    async fn sliding_timeline(
        &self,
        turn: &Turn<'_>,
        view: &InView<'_>,
        room: &Arc<Room>,
        stretch: &Stretch,
        expanded: bool,
    ) -> Result<Timeline, SyncError> {
        let after = stretch.since.filter(|_| !expanded);
        let membership = view.shown.membership;
        let limit = view.timeline_limit;
        let all_the_time = view.shown.kind == Kind::Joined && after.is_some_and(|after| membership.position.0 <= after);
        if let Some(after) = after
            && all_the_time
            && turn.ignored.is_empty()
            && limit > 0
        {
            let (from, to) = self.active.same_span(&room.room_id, after, stretch.upto);
            let span = self.spans.get(self.store(), room, from, to, limit).await?;
            let Timeline { events, limited, prev } = &span.timeline;
            return Ok(Timeline { events: events.clone(), limited: *limited, prev: *prev });
        }
        let mut viewer = self
            .engines
            .rooms
            .viewer(&turn.request.user_id, room)
            .await?
            .on_device(turn.request.device_id.as_ref().map(|id| id.as_str()));
        let any = EventFilter::default();
        let keep = Keep {
            filter: &any,
            ignored: &turn.ignored,
            viewer: (!all_the_time).then_some(&mut viewer),
            current: (view.shown.kind == Kind::Joined).then_some(stretch.end),
        };
        let after = after.unwrap_or(i64::MIN);
        Ok(Timeline::read(self.store(), room.nid, after, stretch.upto, limit, Some(keep)).await?)
    }

    /// The state events that are wanted and new to the reader.
    async fn sliding_state(
        &self,
        turn: &Turn<'_>,
        room: &Room,
        known: Option<&Told>,
        next: &mut Told,
        stretch: &Stretch,
        timeline: &Timeline,
    ) -> Result<Vec<Arc<StoredEvent>>, SyncError> {
        let store = self.store();
        let required = Arc::clone(&next.required);
        let mut chosen: Vec<Arc<StoredEvent>> = Vec::new();
        let mut here: HashSet<EventNid> = HashSet::new();
        let mut add = |event: Arc<StoredEvent>| {
            if here.insert(event.nid) {
                chosen.push(event);
            }
        };
        if let (Some(from), Some(known)) = (stretch.from, known) {
            let shown: HashSet<&str> = timeline.events.iter().map(|event| event.pdu.sender().as_str()).collect();
            for event in store.state_delta(from, stretch.end).await? {
                let (event_type, key) = (event.pdu.type_str(), event.pdu.state_key().unwrap_or_default());
                let lazily = event_type == MEMBER
                    && required.is_lazy()
                    && (!timeline.limited || shown.contains(key) || known.members.iter().any(|member| member == key));
                if required.wants(event_type, key) || lazily {
                    add(event);
                }
            }
            if *known.required != *required {
                for event in self.all_required(&required, stretch.end).await? {
                    let (event_type, key) = (event.pdu.type_str(), event.pdu.state_key().unwrap_or_default());
                    if !known.required.wants(event_type, key) {
                        add(event);
                    }
                }
            }
        } else {
            for event in self.all_required(&required, stretch.end).await? {
                add(event);
            }
        }
        if required.is_lazy() {
            let mut members: HashSet<OwnedUserId> = (*next.members).clone();
            if known.is_none() || members.len() > MEMBERS_MAX {
                members.clear();
            }
            let mut needed: BTreeSet<OwnedUserId> =
                timeline.events.iter().map(|event| event.pdu.sender().to_owned()).collect();
            // Whose membership the timeline shows is told of, too.
            let shown = timeline.events.iter().filter(|event| event.pdu.type_str() == MEMBER);
            needed.extend(shown.filter_map(|event| UserId::parse(event.pdu.state_key()?).ok()));
            if known.is_none() {
                let summary = Summary::read(store, room, stretch.end, &turn.request.user_id).await?;
                needed.extend(summary.heroes.into_iter().flatten());
            }
            for user_id in needed {
                if !members.contains(&user_id) && !required.wants_member(&user_id) {
                    if let Some(event) = member(store, stretch.end, &user_id).await? {
                        add(event);
                    }
                    members.insert(user_id);
                }
            }
            if members.len() != next.members.len() || known.is_none() {
                next.members = Arc::new(members);
            }
        }
        Ok(chosen)
    }

    /// State that was wanted and is no more, as stubs without content. The deployed shape has no way to say it.
    async fn sliding_gone(
        &self,
        turn: &Turn<'_>,
        known: Option<&Told>,
        stretch: &Stretch,
    ) -> Result<Vec<String>, SyncError> {
        let (Shape::Accepted, Some(from), Some(known)) = (turn.request.shape, stretch.from, known) else {
            return Ok(Vec::new());
        };
        let mut stubs = Vec::new();
        for difference in self.store().snapshots.diff(from, stretch.end).await? {
            let (Some(before), None) = (difference.before, difference.after) else { continue };
            let event = self.store().graph.event_by_nid(before).await?;
            let (event_type, key) = (event.pdu.type_str(), event.pdu.state_key().unwrap_or_default());
            if known.required.wants(event_type, key) {
                let mut stub = String::new();
                let mut object = Object::new(&mut stub);
                object.text("type", event_type);
                object.text("state_key", key);
                object.end();
                stubs.push(stub);
            }
        }
        Ok(stubs)
    }

    async fn all_required(&self, required: &Required, state: SnapshotId) -> Result<Vec<Arc<StoredEvent>>, SyncError> {
        let store = self.store();
        let mut events = Vec::new();
        if required.has_patterns() {
            let all = store.state_part(state, Part::Other).await?;
            events.extend(
                all.into_iter()
                    .filter(|event| required.wants(event.pdu.type_str(), event.pdu.state_key().unwrap_or_default())),
            );
        } else {
            for (event_type, key) in required.exact() {
                if event_type != MEMBER && required.wants(event_type, key) {
                    events.extend(store.state_event(state, event_type, key).await?);
                }
            }
        }
        if required.wants_all_members() {
            events.extend(store.state_part(state, Part::Members).await?);
        } else {
            for (event_type, key) in required.exact() {
                if event_type == MEMBER {
                    events.extend(store.state_event(state, MEMBER, key).await?);
                }
            }
        }
        Ok(events)
    }

    /// Name, avatar, heroes and counts: all of them at first, later what changed.
    async fn sliding_names(
        &self,
        turn: &Turn<'_>,
        object: &mut Object<'_>,
        room: &Room,
        stretch: &Stretch,
        members: &MemberChanges,
    ) -> Result<(), SyncError> {
        let store = self.store();
        let name = self.state_text(stretch.end, "m.room.name", "name").await?;
        let before = match stretch.from {
            Some(from) => Some(self.state_text(from, "m.room.name", "name").await?),
            None => None,
        };
        let name_changed = before.as_ref() != Some(&name);
        if name_changed {
            match &name {
                Some(name) => object.text("name", name),
                None if before.is_some() => object.raw("name", "null"),
                None => {}
            }
        }
        let avatar = self.state_text(stretch.end, "m.room.avatar", "url").await?;
        let before = match stretch.from {
            Some(from) => Some(self.state_text(from, "m.room.avatar", "url").await?),
            None => None,
        };
        if before.as_ref() != Some(&avatar) {
            match &avatar {
                Some(avatar) => object.text("avatar", avatar),
                None if before.is_some() => object.raw("avatar", "null"),
                None => {}
            }
        }
        if !members.any && !name_changed {
            return Ok(());
        }
        let summary = Summary::read(store, room, stretch.end, &turn.request.user_id).await?;
        if let Some(heroes) = summary.heroes.filter(|_| name.is_none()) {
            let mut written = Vec::with_capacity(heroes.len());
            for hero in heroes {
                let event = member(store, stretch.end, &hero).await?;
                let field = |field: &str| event.as_ref().and_then(|event| event.pdu.content_field::<String>(field));
                let mut json = String::new();
                let mut inner = Object::new(&mut json);
                inner.text("user_id", hero.as_str());
                for name in ["displayname", "avatar_url"] {
                    if let Some(text) = field(name) {
                        inner.text(name, &text);
                    }
                }
                inner.end();
                written.push(json);
            }
            json::array(object.key("heroes"), &written);
        }
        object.number("joined_count", summary.joined);
        object.number("invited_count", summary.invited);
        Ok(())
    }

    /// A text in the content of a state event without key; the empty text counts as none.
    async fn state_text(&self, state: SnapshotId, event_type: &str, field: &str) -> Result<Option<String>, SyncError> {
        let event = self.store().state_event(state, event_type, "").await?;
        let text = event.and_then(|event| event.pdu.content_field::<String>(field));
        Ok(text.filter(|text| !text.is_empty()))
    }

    async fn write_sliding_timeline(
        &self,
        turn: &Turn<'_>,
        object: &mut Object<'_>,
        room: &Arc<Room>,
        timeline: &Timeline,
        stretch: &Stretch,
        expanded: bool,
    ) -> Result<(), SyncError> {
        let live_after = stretch.since.or(turn.from.map(|from| from.position.0)).unwrap_or(i64::MAX);
        let live = timeline.events.iter().filter(|event| event.position.is_some_and(|at| at.0 > live_after)).count();
        let mut viewer = self
            .engines
            .rooms
            .viewer(&turn.request.user_id, room)
            .await?
            .on_device(turn.request.device_id.as_ref().map(|id| id.as_str()));
        let bundles = match timeline.limited || stretch.since.is_none() || expanded {
            true => Some(self.engines.rooms.bundles(&mut viewer, &timeline.events).await?),
            false => None,
        };
        let mut written = Vec::with_capacity(timeline.events.len());
        for event in &timeline.events {
            let membership: MembershipState = viewer.membership_at(event).await?;
            let relations = bundles.as_ref().and_then(|bundles| bundles.of(event));
            let transaction_id = turn.reader.transaction_id(event);
            let now_ms = turn.reader.now_ms;
            if event.pdu.sticky_str().is_some() {
                turn.shown.lock().insert(event.nid);
            }
            written
                .push(view::render(self.store(), event, now_ms, Some(&membership), transaction_id, relations).await?);
        }
        json::array(object.key("timeline"), &written);
        object.flag("limited", timeline.limited);
        object.text("prev_batch", &SyncToken::at(timeline.prev).to_string());
        object.number("num_live", live as u64);
        if expanded {
            let name = match turn.request.shape {
                Shape::Deployed => "unstable_expanded_timeline",
                Shape::Accepted => "expanded_timeline",
            };
            object.flag(name, true);
        }
        Ok(())
    }

    /// The position of the newest event that moves a room up in the list.
    async fn bump(&self, room: &Room, upto: i64) -> Result<i64, SyncError> {
        let from = StreamPosition(upto);
        let newest = self.store().graph.timeline_back(room.nid, from, StreamPosition(0), BUMP_LOOK_MAX).await?;
        let bump = newest.iter().find(|event| event.is_visible() && BUMPS.contains(&event.pdu.type_str()));
        let bump = bump.or(newest.last()).and_then(|event| event.position);
        Ok(bump.map_or(0, |position| position.0))
    }
}
