//! One room as one connection gets it.

use std::sync::Arc;

use samtal_model::StreamPosition;
use samtal_room::Room;
use samtal_state::SnapshotId;

use super::{
    Turn,
    board::{InView, Shown},
    connection::{Kind, Told},
    request::Shape,
    state::Telling,
};
use crate::{
    Sync, SyncError,
    json::{self, Object},
    span::MemberChanges,
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
/// A room that is worth telling.
pub(crate) struct Answered {
    /// Nothing where there is nothing to tell.
    pub(crate) json: Option<String>,
    pub(crate) told: Told,
}

/// From where to where a room is told.
pub(super) struct Stretch {
    /// None for a reader who has nothing of the room.
    pub(super) from: Option<SnapshotId>,
    pub(super) end: SnapshotId,
    /// The position up to which the reader has everything, if they have any of it.
    pub(super) since: Option<i64>,
    pub(super) upto: i64,
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
            beside: told.map(|told| told.beside).unwrap_or_default(),
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
        let telling = Telling { turn, room: &room, known, stretch: &stretch, timeline: &timeline };
        let state = self.sliding_state(&telling, &mut next).await?;
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

    /// The position of the newest event that moves a room up in the list.
    async fn bump(&self, room: &Room, upto: i64) -> Result<i64, SyncError> {
        let from = StreamPosition(upto);
        let newest = self.store().graph.timeline_back(room.nid, from, StreamPosition(0), BUMP_LOOK_MAX).await?;
        let bump = newest.iter().find(|event| event.is_visible() && BUMPS.contains(&event.pdu.type_str()));
        let bump = bump.or(newest.last()).and_then(|event| event.position);
        Ok(bump.map_or(0, |position| position.0))
    }
}
