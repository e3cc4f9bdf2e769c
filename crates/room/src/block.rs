//! Rooms that the operator has closed on this server: nobody of ours gets in.

use ruma::{RoomId, UserId};
use samtal_db::{Batch, Sql, params, sql};

use crate::{Rooms, error::RoomError};

const IS_BLOCKED: Sql = sql!("SELECT 1 FROM room_block WHERE room_id = $1");
const BLOCKED_BY: Sql = sql!("SELECT blocked_by FROM room_block WHERE room_id = $1");
const BLOCK: Sql = sql!(
    "INSERT INTO room_block (room_id, blocked_by, blocked_ms) VALUES ($1, $2, $3) ON CONFLICT (room_id) DO NOTHING"
);
const UNBLOCK: Sql = sql!("DELETE FROM room_block WHERE room_id = $1");
const MARK: Sql = sql!("UPDATE room SET blocked = $1 WHERE room_id = $2");

impl Rooms {
    /// Whether the operator has blocked the room. Also rooms that are not known here can be.
    pub async fn is_blocked(&self, room_id: &RoomId) -> Result<bool, RoomError> {
        Ok(self.inner.store.db().query_opt(&IS_BLOCKED, params![room_id.as_str()]).await?.is_some())
    }

    /// Who has blocked the room; nothing if nobody has.
    pub async fn blocked_by(&self, room_id: &RoomId) -> Result<Option<String>, RoomError> {
        let row = self.inner.store.db().query_opt(&BLOCKED_BY, params![room_id.as_str()]).await?;
        row.map_or(Ok(None), |row| Ok(Some(row.get(0)?)))
    }

    /// Blocks a room, or opens it again. Members stay in it until they are put out.
    pub async fn set_blocked(&self, room_id: &RoomId, blocked: bool, by: &UserId) -> Result<(), RoomError> {
        let mut batch = Batch::new();
        if blocked {
            let now = self.inner.clock.signed_now_ms();
            batch.exec(&BLOCK, params![room_id.as_str(), by.as_str(), now]);
        } else {
            batch.exec(&UNBLOCK, params![room_id.as_str()]);
        }
        batch.exec(&MARK, params![blocked, room_id.as_str()]);
        self.inner.store.db().commit(batch).await?;
        Ok(())
    }
}
