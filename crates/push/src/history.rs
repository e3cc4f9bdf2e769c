//! What there was to be told of, newest first: `GET /notifications`.

use std::sync::Arc;

use ruma::{OwnedRoomId, UserId, events::room::member::MembershipState, push::Action};
use samtal_model::StreamPosition;
use samtal_room::StoredEvent;

use crate::{Push, PushError, Verdict, counts::Read, thread::thread_of};

/// The most recently active rooms that are looked at.
const ROOMS_MAX: usize = 100;
/// Events of one room that are looked at for one page.
const EVENTS_MAX: usize = 100;

/// An event that the user was to be told of.
#[derive(Clone, Debug)]
pub struct Notification {
    /// The room.
    pub room_id: OwnedRoomId,
    /// The event.
    pub event: Arc<StoredEvent>,
    /// What the user's rules say of it.
    pub actions: Vec<Action>,
    /// Whether the user has read it.
    pub read: bool,
}

/// A page of what there was to be told of.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Newest first.
    pub notifications: Vec<Notification>,
    /// Where the next page begins.
    pub next: Option<StreamPosition>,
}

impl Push {
    /// At most `limit` notifications of events before `from`, by today's rules. Looks at the newest events of the most
    /// recently active rooms only.
    pub async fn history(
        &self,
        user_id: &UserId,
        from: Option<StreamPosition>,
        limit: usize,
        only_highlights: bool,
    ) -> Result<History, PushError> {
        let store = self.rooms.store();
        let upto = StreamPosition(from.map_or(i64::MAX, |from| from.0 - 1));
        let mut active = store.graph.last_positions(user_id).await?;
        active.sort_unstable_by_key(|(_, position)| std::cmp::Reverse(*position));
        let mut found = Vec::new();
        let mut is_all = active.len() <= ROOMS_MAX;
        for (room_id, _) in active.into_iter().take(ROOMS_MAX) {
            let (Some(room), Some(membership)) =
                (store.graph.room(&room_id).await?, store.graph.membership(user_id, &room_id).await?)
            else {
                continue;
            };
            if membership.membership != MembershipState::Join {
                continue;
            }
            let receipts = self.edus.receipts.of_user_in_room(user_id, &room_id).await?;
            let read = Read::of(&receipts);
            let mut viewer = self.rooms.viewer(user_id, &room).await?;
            let events = store.graph.timeline_back(room.nid, upto, StreamPosition(0), EVENTS_MAX).await?;
            is_all &= events.len() < EVENTS_MAX;
            for event in events {
                if event.pdu.sender() == user_id || !viewer.can_see(&event).await? {
                    continue;
                }
                let actions = self.actions(user_id, &room, &event).await?;
                let verdict = Verdict::of(&actions);
                if !verdict.notify || only_highlights && !verdict.highlight {
                    continue;
                }
                let position = event.position.map_or(0, |position| position.0);
                let thread = thread_of(store, &event).await?;
                let read = read.has_read(position, thread.as_deref());
                found.push((position, Notification { room_id: room_id.clone(), event, actions, read }));
            }
        }
        found.sort_unstable_by_key(|(position, _)| std::cmp::Reverse(*position));
        let more = found.len() > limit || !is_all && !found.is_empty();
        found.truncate(limit);
        let next = found.last().filter(|_| more).map(|(position, _)| StreamPosition(*position));
        Ok(History { notifications: found.into_iter().map(|(_, notification)| notification).collect(), next })
    }
}
