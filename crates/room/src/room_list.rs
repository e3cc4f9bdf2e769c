//! All rooms, for those who look after the server.

use ruma::{OwnedRoomId, OwnedUserId, RoomVersionId};
use samtal_db::{Sql, params, sql};

use crate::{Rooms, error::RoomError};

/// Most rooms that one listing gives.
const ROOMS_MAX: i64 = 100_000;
/// Most waiting invites that one listing gives.
const INVITES_MAX: i64 = 100_000;

const LIST: Sql = sql!(
    "SELECT r.room_id, r.version, r.published, c.joined,
        (SELECT COUNT(*) FROM membership m WHERE m.room = r.nid AND m.membership = 'join' AND m.local = 1),
        (SELECT COUNT(*) FROM room_state_log s WHERE s.room = r.nid)
     FROM room r JOIN room_head h ON h.room = r.nid LEFT JOIN room_count c ON c.room = r.nid
     ORDER BY r.room_id LIMIT $1"
);

const INVITES: Sql = sql!(
    "SELECT m.user_id, r.room_id, m.sender FROM membership m JOIN room r ON r.nid = m.room
     WHERE m.membership = 'invite' AND m.local = 1 ORDER BY m.user_id, r.room_id LIMIT $1"
);

/// What the events take as they are stored, without indexes.
const LARGEST: Sql = sql!(
    "SELECT r.room_id, CAST(SUM(LENGTH(e.packed)) AS BIGINT) AS bytes FROM event e JOIN room r ON r.nid = e.room
     GROUP BY r.room_id ORDER BY bytes DESC, r.room_id LIMIT $1"
);

/// An invite that one of our users has neither taken nor refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingInvite {
    /// Who is invited.
    pub user_id: OwnedUserId,
    /// Where to.
    pub room_id: OwnedRoomId,
    /// By whom.
    pub sender: OwnedUserId,
}

/// A room in the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedRoom {
    /// Its id.
    pub room_id: OwnedRoomId,
    /// Its version.
    pub version: RoomVersionId,
    /// Whether it is in the public directory.
    pub published: bool,
    /// Its joined members.
    pub joined: i64,
    /// Its joined members of this server.
    pub joined_local: i64,
    /// How often its state has changed.
    pub state_changes: i64,
}

impl Rooms {
    /// All rooms that this server is or was in, by id. For administrators: it reads every room.
    pub async fn room_list(&self) -> Result<Vec<ListedRoom>, RoomError> {
        let rows = self.inner.store.db().scan(&LIST, params![ROOMS_MAX]).await?;
        let mut rooms = Vec::with_capacity(rows.len());
        for row in &rows {
            let damaged = |what: &str| RoomError::Damaged(format!("a room has a bad {what}"));
            rooms.push(ListedRoom {
                room_id: row.text(0)?.try_into().map_err(|_| damaged("id"))?,
                version: row.text(1)?.try_into().map_err(|_| damaged("version"))?,
                published: row.get(2)?,
                joined: row.opt_int(3)?.unwrap_or(0),
                joined_local: row.int(4)?,
                state_changes: row.int(5)?,
            });
        }
        Ok(rooms)
    }

    /// The rooms whose events take the most, and how many bytes. For administrators: it reads every event's size.
    pub async fn largest_rooms(&self, count: usize) -> Result<Vec<(OwnedRoomId, u64)>, RoomError> {
        let rows = self.inner.store.db().scan(&LARGEST, params![count]).await?;
        let mut rooms = Vec::with_capacity(rows.len());
        for row in &rows {
            let room_id = row.text(0)?.try_into().map_err(|_| RoomError::Damaged("a room has a bad id".into()))?;
            rooms.push((room_id, row.get(1)?));
        }
        Ok(rooms)
    }

    /// Invites of our users that wait, by user. For administrators: it reads every membership.
    pub async fn pending_invites(&self) -> Result<Vec<PendingInvite>, RoomError> {
        let rows = self.inner.store.db().scan(&INVITES, params![INVITES_MAX]).await?;
        let mut invites = Vec::with_capacity(rows.len());
        for row in &rows {
            let damaged = |what: &str| RoomError::Damaged(format!("an invite has a bad {what}"));
            invites.push(PendingInvite {
                user_id: row.text(0)?.try_into().map_err(|_| damaged("user"))?,
                room_id: row.text(1)?.try_into().map_err(|_| damaged("room"))?,
                sender: row.text(2)?.try_into().map_err(|_| damaged("sender"))?,
            });
        }
        Ok(invites)
    }
}
