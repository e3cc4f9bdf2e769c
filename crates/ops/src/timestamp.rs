//! Events by date, also from before our history begins.

use std::sync::Arc;

use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, UInt, UserId,
    api::{Direction as Dir, federation::event::get_event_by_timestamp::v1 as near},
};
use samtal_room::{Direction, Room};

use crate::{Homeserver, OpError};

/// Servers that are asked.
const SERVERS_MAX: usize = 3;
/// How often history is asked for until the event is here.
const BACKFILLS_MAX: usize = 5;
/// Events asked for at a time.
const BACKFILL: u32 = 100;

impl Homeserver {
    /// The event that is closest to a time and not before it (forward) or not after it (backward), and its date. Where our
    /// history begins later than that, other servers are asked, and their history is fetched up to the event.
    pub async fn event_near(
        &self,
        user: &UserId,
        room: &Arc<Room>,
        ts_ms: i64,
        direction: Direction,
    ) -> Result<Option<(OwnedEventId, MilliSecondsSinceUnixEpoch)>, OpError> {
        let found = self.visible_near(user, room, ts_ms, direction).await?;
        let is_covered = match direction {
            Direction::Backward => found.is_some(),
            // Something older is here: what comes after it is, too.
            Direction::Forward => self.visible_near(user, room, ts_ms, Direction::Backward).await?.is_some(),
        };
        if is_covered || self.rooms.backward_extremities(room, 1).await?.is_empty() {
            return Ok(found);
        }
        let Some(elsewhere) = self.event_near_elsewhere(room, ts_ms, direction).await? else { return Ok(found) };
        let is_closer = |ts: MilliSecondsSinceUnixEpoch| {
            found.as_ref().is_none_or(|(_, known)| match direction {
                Direction::Forward => ts < *known,
                Direction::Backward => ts > *known,
            })
        };
        if !is_closer(elsewhere.1) {
            return Ok(found);
        }
        for _ in 0..BACKFILLS_MAX {
            if self.rooms.has_event(room, &elsewhere.0).await? || !self.backfill(room, BACKFILL).await.unwrap_or(false)
            {
                break;
            }
        }
        if self.rooms.has_event(room, &elsewhere.0).await? {
            return self.visible_near(user, room, ts_ms, direction).await;
        }
        Ok(Some(elsewhere))
    }

    async fn visible_near(
        &self,
        user: &UserId,
        room: &Arc<Room>,
        ts_ms: i64,
        direction: Direction,
    ) -> Result<Option<(OwnedEventId, MilliSecondsSinceUnixEpoch)>, OpError> {
        let mut viewer = self.rooms.viewer(user, room).await?;
        let found = self.rooms.visible_event_near(&mut viewer, ts_ms, direction).await?;
        Ok(found.map(|event| (event.pdu.event_id().to_owned(), event.pdu.origin_server_ts())))
    }

    async fn event_near_elsewhere(
        &self,
        room: &Room,
        ts_ms: i64,
        direction: Direction,
    ) -> Result<Option<(OwnedEventId, MilliSecondsSinceUnixEpoch)>, OpError> {
        let ts = MilliSecondsSinceUnixEpoch(UInt::new_saturating(u64::try_from(ts_ms).unwrap_or(0)));
        let dir = match direction {
            Direction::Forward => Dir::Forward,
            Direction::Backward => Dir::Backward,
        };
        let mut servers = self.rooms.store().graph.servers(room.nid).await?;
        servers.retain(|server| *server != self.name);
        for server in servers.into_iter().take(SERVERS_MAX) {
            match self.remote.send(&server, near::Request::new(room.room_id.clone(), ts, dir)).await {
                Ok(answer) => return Ok(Some((answer.event_id, answer.origin_server_ts))),
                Err(error) => tracing::info!(room = %room.room_id, %server, %error, "no event was named"),
            }
        }
        Ok(None)
    }
}
