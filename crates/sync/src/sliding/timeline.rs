//! The timeline of a room in view.

use std::sync::Arc;

use ruma::events::room::member::MembershipState;
use samtal_model::SyncToken;
use samtal_room::{Room, Viewer};

use super::{Turn, board::InView, connection::Kind, request::Shape, room::Stretch};
use crate::{
    Sync, SyncError,
    filter::EventFilter,
    json::{self, Object},
    span::{Keep, Timeline},
    view,
};

impl Sync {
    /// The events that are new to the reader, the newest of them where there are more than they want.
    pub(super) async fn sliding_timeline(
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
        let mut viewer = self.sliding_viewer(turn, room).await?;
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

    async fn sliding_viewer(&self, turn: &Turn<'_>, room: &Arc<Room>) -> Result<Viewer, SyncError> {
        let viewer = self.engines.rooms.viewer(&turn.request.user_id, room).await?;
        Ok(viewer.on_device(turn.request.device_id.as_ref().map(|id| id.as_str())))
    }

    pub(super) async fn write_sliding_timeline(
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
        let mut viewer = self.sliding_viewer(turn, room).await?;
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
}
