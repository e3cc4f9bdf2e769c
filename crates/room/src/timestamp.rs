//! Events by date.

use std::sync::Arc;

use samtal_model::StreamPosition;

use crate::{Rooms, error::RoomError, graph::StoredEvent, reading::Direction, visibility::Viewer};

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
        let at = self.place_of(viewer, ts_ms).await?;
        let room = viewer.room().nid;
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
        for event in around {
            if viewer.can_see(&event).await? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// The place before the first event of that time or later, by halving: dates rise with positions, more or less.
    async fn place_of(&self, viewer: &Viewer, ts_ms: i64) -> Result<StreamPosition, RoomError> {
        let room = viewer.room();
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
