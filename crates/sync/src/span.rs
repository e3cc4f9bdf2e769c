//! What happened in a room from one position to another: read once, shared by all who wait for it.

use std::{
    collections::HashSet,
    sync::{Arc, OnceLock},
};

use ruma::{OwnedUserId, UserId, events::room::member::MembershipState};
use samtal_kit::{Cache, Memory};
use samtal_model::StreamPosition;
use samtal_room::{
    EventNid, Flags, Room, RoomError, RoomNid, StateDifference, Store, StoredEvent, Viewer, membership_of,
};
use samtal_state::{Part, SnapshotId};
use tokio::sync::OnceCell;

use crate::{filter::EventFilter, view};

/// Events that are looked at for one answer, when a filter lets few of them through.
const LOOKED_AT_MAX: usize = 1_000;
/// Events that are read at once when a filter may drop some.
const CHUNK: usize = 100;

/// The newest events of a span.
#[derive(Debug)]
pub(crate) struct Timeline {
    /// Oldest first.
    pub(crate) events: Vec<Arc<StoredEvent>>,
    /// Whether the span has older events.
    pub(crate) limited: bool,
    /// Where `/messages` goes on, backwards.
    pub(crate) prev: StreamPosition,
}

/// Which events of a timeline one reader gets.
pub(crate) struct Keep<'a> {
    pub(crate) filter: &'a EventFilter,
    pub(crate) ignored: &'a HashSet<OwnedUserId>,
    /// Who judges what is visible; none where all of it is.
    pub(crate) viewer: Option<&'a mut Viewer>,
    /// State whose events the reader may see wherever they stand, since it is the room's state now.
    pub(crate) current: Option<SnapshotId>,
}

impl Keep<'_> {
    async fn keeps(&mut self, store: &Store, event: &StoredEvent) -> Result<bool, RoomError> {
        let pdu = &event.pdu;
        if !pdu.is_state() && self.ignored.contains(pdu.sender()) || !self.filter.passes_event(store, event).await? {
            return Ok(false);
        }
        let Some(viewer) = &mut self.viewer else { return Ok(true) };
        if viewer.can_see(event).await? {
            return Ok(true);
        }
        let (Some(current), Some(state_key)) = (self.current, pdu.state_key()) else { return Ok(false) };
        let (part, key) = store.key(pdu.type_str(), state_key);
        Ok(store.snapshots.get(current, part, key).await? == Some(event.nid))
    }
}

impl Timeline {
    /// The newest `limit` events with `after < position <= upto`; of them those that `keep` keeps, if it is there.
    pub(crate) async fn read(
        store: &Store,
        room: RoomNid,
        after: i64,
        upto: i64,
        limit: usize,
        mut keep: Option<Keep<'_>>,
    ) -> Result<Self, RoomError> {
        let mut timeline = Self { events: Vec::new(), limited: false, prev: StreamPosition(upto) };
        let mut looked_at = 0;
        let mut next = upto;
        loop {
            let wanted = limit + 1 - timeline.events.len();
            let wanted = if keep.is_some() { wanted.max(CHUNK) } else { wanted };
            let chunk = store.graph.timeline_back(room, StreamPosition(next), StreamPosition(after), wanted).await?;
            for event in &chunk {
                let Some(position) = event.position else { continue };
                let kept = match &mut keep {
                    Some(keep) => event.is_visible() && keep.keeps(store, event).await?,
                    None => event.is_visible(),
                };
                if kept && timeline.events.len() == limit {
                    timeline.limited = true;
                    break;
                }
                if kept {
                    timeline.events.push(Arc::clone(event));
                }
                next = position.0 - 1;
                if event.is_visible() && is_behind_a_gap(store, event).await? {
                    timeline.limited = true;
                    break;
                }
            }
            looked_at += chunk.len();
            if timeline.limited || chunk.len() < wanted {
                break;
            }
            if looked_at >= LOOKED_AT_MAX {
                timeline.limited = true;
                break;
            }
        }
        if timeline.limited || !timeline.events.is_empty() {
            timeline.prev = StreamPosition(next);
        }
        timeline.events.reverse();
        Ok(timeline)
    }

    /// The state before the first event; of an empty timeline, the state at its end.
    pub(crate) fn start(&self, end: SnapshotId) -> SnapshotId {
        self.events.first().and_then(|event| event.before).unwrap_or(end)
    }
}

/// Whether events are missing just before this one: what another server said meanwhile has not been fetched. Clients are
/// to ask for it by `/messages`.
async fn is_behind_a_gap(store: &Store, event: &StoredEvent) -> Result<bool, RoomError> {
    for event_id in event.pdu.prev_events() {
        match store.graph.event(event_id).await? {
            Some(previous) if !previous.flags.has(Flags::OUTLIER) => {}
            _ => return Ok(true),
        }
    }
    Ok(false)
}

/// A room from one position to another.
#[derive(Debug)]
pub(crate) struct Span {
    pub(crate) timeline: Timeline,
    /// The state at the beginning.
    pub(crate) from: SnapshotId,
    /// The state at the end.
    pub(crate) end: SnapshotId,
    /// Who has become a member, and who has ceased to be one.
    pub(crate) members: MemberChanges,
    /// For each event of the timeline, how members who have been there all the time see it.
    rendered: Vec<OnceLock<Arc<str>>>,
}

/// Changes of who is joined.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemberChanges {
    /// Joined at the end, but not at the beginning.
    pub(crate) joined: Vec<OwnedUserId>,
    /// Invited at the end, but neither invited nor joined at the beginning.
    pub(crate) invited: Vec<OwnedUserId>,
    /// Joined at the beginning, but not at the end.
    pub(crate) left: Vec<OwnedUserId>,
    /// Whether any membership or profile changed.
    pub(crate) any: bool,
}

impl MemberChanges {
    /// What changed from one state to another.
    pub(crate) async fn read(store: &Store, differences: &[StateDifference]) -> Result<Self, RoomError> {
        let mut changes = Self::default();
        for difference in differences.iter().filter(|difference| difference.part == Part::Members) {
            changes.any = true;
            let (before, user_before) = member(store, difference.before).await?;
            let (after, user_after) = member(store, difference.after).await?;
            let Some(user_id) = user_after.or(user_before) else { continue };
            match (before == Some(MembershipState::Join), after == Some(MembershipState::Join)) {
                (false, true) => changes.joined.push(user_id),
                (true, false) => changes.left.push(user_id),
                (false, false) if after == Some(MembershipState::Invite) && before != after => {
                    changes.invited.push(user_id)
                }
                _ => {}
            }
        }
        Ok(changes)
    }
}

async fn member(
    store: &Store,
    nid: Option<EventNid>,
) -> Result<(Option<MembershipState>, Option<OwnedUserId>), RoomError> {
    let Some(nid) = nid else { return Ok((None, None)) };
    let event = store.graph.event_by_nid(nid).await?;
    let user_id = event.pdu.state_key().and_then(|key| UserId::parse(key).ok());
    Ok((membership_of(&event.pdu), user_id))
}

impl Span {
    /// Reads it.
    pub(crate) async fn read(
        store: &Store,
        room: &Room,
        after: i64,
        upto: i64,
        limit: usize,
    ) -> Result<Self, RoomError> {
        let timeline = Timeline::read(store, room.nid, after, upto, limit, None).await?;
        let from = store.state_at(room.nid, StreamPosition(after)).await?;
        let end = store.state_at(room.nid, StreamPosition(upto)).await?;
        let members = MemberChanges::read(store, &store.snapshots.diff(from, end).await?).await?;
        let rendered = timeline.events.iter().map(|_| OnceLock::new()).collect();
        Ok(Self { timeline, from, end, members, rendered })
    }

    /// About how many bytes it holds, with its events as they will be written.
    fn weight(&self) -> usize {
        let event = |event: &Arc<StoredEvent>| 300 + event.pdu.weight() + event.pdu.json().len();
        400 + self.timeline.events.iter().map(event).sum::<usize>() + self.members.joined.len() * 100
    }

    /// The event at `index` of the timeline as a member sees it who has been there all the time.
    pub(crate) async fn rendered(&self, store: &Store, index: usize, now_ms: u64) -> Result<Arc<str>, RoomError> {
        let (Some(event), Some(slot)) = (self.timeline.events.get(index), self.rendered.get(index)) else {
            return Ok(Arc::from("{}"));
        };
        if let Some(rendered) = slot.get() {
            return Ok(Arc::clone(rendered));
        }
        let rendered = view::render(store, event, now_ms, Some(&MembershipState::Join), None, None).await?;
        Ok(Arc::clone(slot.get_or_init(|| rendered.into())))
    }
}

type Key = (RoomNid, i64, i64, usize);

/// Spans that someone has asked for lately.
#[derive(Debug)]
pub(crate) struct Spans(Cache<Key, Arc<OnceCell<Arc<Span>>>>);

impl Spans {
    pub(crate) fn new(memory: &Memory) -> Self {
        Self(Cache::new(memory))
    }

    /// The span; all who ask for the same at once wait for one reading.
    pub(crate) async fn get(
        &self,
        store: &Store,
        room: &Room,
        after: i64,
        upto: i64,
        limit: usize,
    ) -> Result<Arc<Span>, RoomError> {
        let key = (room.nid, after, upto, limit);
        let cell = self.0.get_or_put(&key, || (Arc::default(), 400));
        if let Some(span) = cell.get() {
            return Ok(Arc::clone(span));
        }
        let read = || async { Span::read(store, room, after, upto, limit).await.map(Arc::new) };
        let span = cell.get_or_try_init(read).await.cloned()?;
        self.0.resize(&key, span.weight());
        Ok(span)
    }
}
