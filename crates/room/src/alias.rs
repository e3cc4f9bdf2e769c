//! Aliases of rooms on this server, and the rooms that are listed in its directory.

use ruma::{OwnedRoomAliasId, OwnedRoomId, OwnedUserId, RoomAliasId, RoomId, UserId};
use samtal_db::{Batch, Change, Sql, params, sql};
use samtal_model::ChangeKind;

use crate::{Rooms, error::RoomError};

const INSERT: Sql = sql!("INSERT INTO alias (alias, room_id, creator) VALUES ($1, $2, $3)");
const REMOVE: Sql = sql!("DELETE FROM alias WHERE alias = $1");
const MOVE: Sql = sql!("UPDATE alias SET room_id = $1 WHERE room_id = $2");
const GET: Sql = sql!("SELECT room_id, creator FROM alias WHERE alias = $1");
const OF_ROOM: Sql = sql!("SELECT alias FROM alias WHERE room_id = $1 ORDER BY alias");
const PUBLISHED: Sql = sql!(
    "SELECT r.room_id, COALESCE(c.joined, 0) FROM room r LEFT JOIN room_count c ON c.room = r.nid
     WHERE r.published <> 0 AND r.blocked = 0 ORDER BY 2 DESC, 1"
);
const IS_PUBLISHED: Sql = sql!("SELECT published FROM room WHERE room_id = $1");

/// Adds the row of an alias; a taken one is a conflict.
pub(crate) fn insert(batch: &mut Batch, alias: &RoomAliasId, room_id: &RoomId, creator: &UserId) {
    batch.expect(&INSERT, params![alias.as_str(), room_id.as_str(), creator.as_str()], 1);
    batch.log(Change::new(ChangeKind::Alias).room(room_id).user(creator).reference(alias));
}

/// An alias of this server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// The room it names.
    pub room_id: OwnedRoomId,
    /// Who made it.
    pub creator: OwnedUserId,
}

impl Rooms {
    /// The local alias, if it exists.
    pub async fn alias(&self, alias: &RoomAliasId) -> Result<Option<Alias>, RoomError> {
        let row = self.inner.store.db().query_opt(&GET, params![alias.as_str()]).await?;
        let Some(row) = row else { return Ok(None) };
        let damaged = |_| RoomError::Damaged("an alias names a bad room or user".into());
        Ok(Some(Alias {
            room_id: row.text(0)?.try_into().map_err(damaged)?,
            creator: row.text(1)?.try_into().map_err(damaged)?,
        }))
    }

    /// Makes a local alias; [`RoomError::AliasTaken`] when it exists.
    pub async fn add_alias(&self, alias: &RoomAliasId, room_id: &RoomId, creator: &UserId) -> Result<(), RoomError> {
        let mut batch = Batch::new();
        insert(&mut batch, alias, room_id, creator);
        match self.inner.store.db().commit(batch).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_conflict() => Err(RoomError::AliasTaken),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes a local alias.
    pub async fn remove_alias(&self, alias: &RoomAliasId) -> Result<(), RoomError> {
        let mut batch = Batch::new();
        batch.expect(&REMOVE, params![alias.as_str()], 1);
        batch.log(Change::new(ChangeKind::Alias).reference(alias));
        match self.inner.store.db().commit(batch).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_conflict() => Err(RoomError::UnknownAlias),
            Err(error) => Err(error.into()),
        }
    }

    /// Lets all local aliases of one room name another (room upgrades).
    pub async fn move_aliases(&self, from: &RoomId, to: &RoomId) -> Result<(), RoomError> {
        let mut batch = Batch::new();
        batch.exec(&MOVE, params![to.as_str(), from.as_str()]);
        batch.log(Change::new(ChangeKind::Alias).room(to));
        self.inner.store.db().commit(batch).await?;
        Ok(())
    }

    /// The local aliases of a room.
    pub async fn aliases(&self, room_id: &RoomId) -> Result<Vec<OwnedRoomAliasId>, RoomError> {
        let rows = self.inner.store.db().query(&OF_ROOM, params![room_id.as_str()]).await?;
        Ok(rows.iter().filter_map(|row| row.text(0).ok().and_then(|alias| alias.try_into().ok())).collect())
    }

    /// The rooms in this server's directory, those with most members first.
    pub async fn published(&self) -> Result<Vec<OwnedRoomId>, RoomError> {
        let rows = self.inner.store.db().scan(&PUBLISHED, vec![]).await?;
        Ok(rows.iter().filter_map(|row| row.text(0).ok().and_then(|id| id.try_into().ok())).collect())
    }

    /// Whether the room is in this server's directory.
    pub async fn is_published(&self, room_id: &RoomId) -> Result<bool, RoomError> {
        let row = self.inner.store.db().query_opt(&IS_PUBLISHED, params![room_id.as_str()]).await?;
        Ok(row.ok_or(RoomError::UnknownRoom)?.get(0)?)
    }
}
