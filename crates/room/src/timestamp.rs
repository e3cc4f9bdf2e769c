//! Events by date.

use std::sync::Arc;

use samtal_model::StreamPosition;

use crate::{
    Rooms,
    error::RoomError,
    graph::{Room, StoredEvent},
    reading::Direction,
    visibility::Viewer,
};

/// Events looked at around the place where the date should be, since dates do not always rise with positions.
const NEIGHBORHOOD: usize = 50;
/// Halvings of a span of positions: more than there are bits.
const STEPS_MAX: usize = 70;

impl Rooms {
    /// The event that is closest to a time and not before it (forward) or not after it (backward), of those the reader
    /// may see.
    pub async fn visible_event_near(
        &self,
        viewer: &mut Viewer,
        ts_ms: i64,
        direction: Direction,
    ) -> Result<Option<Arc<StoredEvent>>, RoomError> {
        for event in self.events_around(&Arc::clone(viewer.room()), ts_ms, direction).await? {
            if viewer.can_see(&event).await? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// As [`Rooms::visible_event_near`], whoever may see it.
    pub async fn event_near_time(
        &self,
        room: &Room,
        ts_ms: i64,
        direction: Direction,
    ) -> Result<Option<Arc<StoredEvent>>, RoomError> {
        let around = self.events_around(room, ts_ms, direction).await?;
        Ok(around.into_iter().find(|event| event.is_visible()))
    }

    /// Events about that time in the wanted direction, the closest first.
    async fn events_around(
        &self,
        room: &Room,
        ts_ms: i64,
        direction: Direction,
    ) -> Result<Vec<Arc<StoredEvent>>, RoomError> {
        let at = self.place_of(room, ts_ms).await?;
        let room = room.nid;
        let graph = &self.inner.store.graph;
        let mut around = graph.timeline_back(room, at, StreamPosition(i64::MIN), NEIGHBORHOOD).await?;
        around.extend(graph.timeline_forward(room, at, StreamPosition(i64::MAX), NEIGHBORHOOD).await?);
        around.retain(|event| match direction {
            Direction::Forward => event.pdu.origin_server_ts_ms() >= ts_ms,
            Direction::Backward => event.pdu.origin_server_ts_ms() <= ts_ms,
        });
        // Of several at one time, the first in the direction of reading.
        around.sort_by_key(|event| {
            let position = event.position.map_or(0, |position| position.0);
            let along = if direction == Direction::Forward { position } else { -position };
            ((event.pdu.origin_server_ts_ms() - ts_ms).abs(), along)
        });
        Ok(around)
    }

    /// The place before the first event of that time or later, by halving: dates rise with positions, more or less.
    async fn place_of(&self, room: &Room, ts_ms: i64) -> Result<StreamPosition, RoomError> {
        let graph = &self.inner.store.graph;
        let mut low = self.head(room).await?.oldest.0.min(0) - 1;
        let mut high = self.now().0;
        for _ in 0..STEPS_MAX {
            if low >= high {
                break;
            }
            let middle = low + (high - low) / 2;
            let next = graph.timeline_forward(room.nid, StreamPosition(middle), StreamPosition(high), 1).await?;
            match next.first() {
                Some(event) if event.pdu.origin_server_ts_ms() < ts_ms => {
                    low = event.position.map_or(middle + 1, |position| position.0);
                }
                _ => high = middle,
            }
        }
        Ok(StreamPosition(low))
    }
}
