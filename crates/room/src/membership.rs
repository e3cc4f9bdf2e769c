//! Who is in which room: the part of current state that is asked for by user.

use std::{collections::HashMap, sync::Arc};

use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, ServerName, UserId,
    events::room::member::MembershipState,
};
use samtal_db::{Batch, Change, Row, Sql, Value, params, sql};
use samtal_event::Pdu;
use samtal_model::{ChangeKind, StreamPosition};

use crate::{
    error::RoomError,
    graph::{Graph, Room},
    ids::RoomNid,
};

/// A user's membership in a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomMembership {
    /// Which room.
    pub room_id: OwnedRoomId,
    /// What the user is there.
    pub membership: MembershipState,
    /// The member event that says so.
    pub event_id: OwnedEventId,
    /// Who sent it.
    pub sender: OwnedUserId,
    /// When it changed.
    pub position: StreamPosition,
    /// Whether the user has asked to forget the room.
    pub forgotten: bool,
}

/// A member of a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub user_id: OwnedUserId,
    /// What they are there.
    pub membership: MembershipState,
    /// The member event.
    pub event_id: OwnedEventId,
    /// When it changed.
    pub position: StreamPosition,
}

macro_rules! columns {
    () => {
        "r.room_id, m.membership, m.event_id, m.sender, m.position, m.forgotten"
    };
}

const OF_USER: Sql =
    sql!(concat!("SELECT ", columns!(), " FROM membership m JOIN room r ON r.nid = m.room WHERE m.user_id = $1"));
const OF_USER_SINCE: Sql = sql!(concat!(
    "SELECT ",
    columns!(),
    " FROM membership m JOIN room r ON r.nid = m.room
      WHERE m.user_id = $1 AND m.position > $2 AND m.position <= $3 ORDER BY m.position"
));
const LAST_POSITIONS: Sql = sql!(
    "SELECT r.room_id, (SELECT MAX(e.position) FROM event e WHERE e.room = m.room AND e.position IS NOT NULL)
     FROM membership m JOIN room r ON r.nid = m.room WHERE m.user_id = $1 AND m.membership = 'join'"
);
const OF_USER_IN: Sql = sql!(concat!(
    "SELECT ",
    columns!(),
    " FROM membership m JOIN room r ON r.nid = m.room WHERE m.user_id = $1 AND m.room = $2"
));
const MEMBERS: Sql =
    sql!("SELECT user_id, membership, event_id, position FROM membership WHERE room = $1 AND membership IN list($2)");
const LOCAL_MEMBERS: Sql =
    sql!("SELECT user_id FROM membership WHERE room = $1 AND membership = 'join' AND server = $2");
const COUNTS: Sql = sql!("SELECT joined, invited FROM room_count WHERE room = $1");
const SERVERS: Sql = sql!("SELECT server FROM room_server WHERE room = $1 AND (joined > 0 OR claimed = 1)");
const ROOMS_OF_SERVER: Sql = sql!(
    "SELECT r.room_id FROM room_server s JOIN room r ON r.nid = s.room
     WHERE s.server = $1 AND (s.joined > 0 OR s.claimed = 1)"
);
const PUT_OUT_SINCE: Sql = sql!(
    "SELECT r.room_id, m.event_id, m.position FROM membership m JOIN room r ON r.nid = m.room
     WHERE m.server = $1 AND m.position > $2 AND m.membership IN ('leave', 'ban')"
);
const SHARED: Sql = sql!(
    "SELECT r.room_id FROM membership a JOIN membership b ON b.room = a.room AND b.user_id = $1 AND b.membership = 'join'
     JOIN room r ON r.nid = a.room WHERE a.user_id = $2 AND a.membership = 'join'"
);
const NEIGHBORS: Sql = sql!(
    "SELECT DISTINCT b.user_id FROM membership a JOIN membership b ON b.room = a.room AND b.membership = 'join'
     WHERE a.user_id = $1 AND a.membership = 'join'"
);
const NEIGHBORS_SINCE: Sql = sql!(
    "SELECT DISTINCT b.user_id, b.membership FROM membership a JOIN membership b ON b.room = a.room AND b.position > $1
     WHERE a.user_id = $2 AND a.membership = 'join'"
);
const SHARING_WITH: Sql = sql!(
    "SELECT DISTINCT b.user_id FROM membership a JOIN membership b ON b.room = a.room AND b.membership = 'join'
     WHERE a.user_id = $1 AND a.membership = 'join' AND b.user_id IN list($2)"
);
const SERVERS_SINCE: Sql =
    sql!("SELECT server FROM room_server WHERE room = $1 AND joined > 0 AND claimed = 0 AND since > $2");
const USERS_OF: Sql = sql!("SELECT user_id FROM membership WHERE room = $1 AND local = 1 AND server = $2");
const SHARES_WITH_SERVER: Sql = sql!(
    "SELECT 1 FROM membership m JOIN room_server s ON s.room = m.room
     WHERE m.user_id = $1 AND m.membership = 'join' AND s.server = $2 AND (s.joined > 0 OR s.claimed = 1) LIMIT 1"
);
const NEIGHBOR_SERVERS: Sql = sql!(
    "SELECT DISTINCT s.server FROM membership a JOIN room_server s ON s.room = a.room AND (s.joined > 0 OR s.claimed = 1)
     WHERE a.user_id = $1 AND a.membership = 'join'"
);
const SET: Sql = sql!(
    "INSERT INTO membership (user_id, room, membership, event_id, sender, position, server, local)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
     ON CONFLICT (user_id, room) DO UPDATE SET membership = excluded.membership, event_id = excluded.event_id,
        sender = excluded.sender, position = excluded.position, local = excluded.local, forgotten = 0"
);
const REMOVE: Sql = sql!("DELETE FROM membership WHERE user_id = $1 AND room = $2");
const FORGET: Sql = sql!("UPDATE membership SET forgotten = 1 WHERE user_id = $1 AND room = $2");
const COUNT_ADD: Sql = sql!(
    "INSERT INTO room_count (room, joined, invited) VALUES ($1, $2, $3)
     ON CONFLICT (room) DO UPDATE SET joined = room_count.joined + excluded.joined,
        invited = room_count.invited + excluded.invited"
);
const SERVER_ADD: Sql = sql!(
    "INSERT INTO room_server (room, server, joined, since) VALUES ($1, $2, $3, $4)
     ON CONFLICT (room, server) DO UPDATE SET joined = room_server.joined + excluded.joined,
        since = CASE WHEN room_server.joined > 0 OR room_server.claimed = 1 THEN room_server.since
            ELSE excluded.since END"
);
const INVITE_STATE: Sql = sql!("SELECT state FROM invite_state WHERE user_id = $1 AND room_id = $2");
const INVITE_STATE_SET: Sql = sql!(
    "INSERT INTO invite_state (user_id, room_id, state) VALUES ($1, $2, $3)
     ON CONFLICT (user_id, room_id) DO UPDATE SET state = excluded.state"
);
const INVITE_STATE_REMOVE: Sql = sql!("DELETE FROM invite_state WHERE user_id = $1 AND room_id = $2");

fn damaged(error: impl std::fmt::Display) -> RoomError {
    RoomError::Damaged(error.to_string())
}

impl RoomMembership {
    fn from_row(row: &Row) -> Result<Self, RoomError> {
        Ok(Self {
            room_id: row.text(0)?.try_into().map_err(damaged)?,
            membership: row.text(1)?.into(),
            event_id: row.text(2)?.try_into().map_err(damaged)?,
            sender: row.text(3)?.try_into().map_err(damaged)?,
            position: StreamPosition(row.int(4)?),
            forgotten: row.get(5)?,
        })
    }
}

impl Graph {
    /// All memberships of a user, also in rooms that were left or forgotten.
    pub async fn memberships(&self, user: &UserId) -> Result<Vec<RoomMembership>, RoomError> {
        let rows = self.db().query(&OF_USER, params![user.as_str()]).await?;
        rows.iter().map(RoomMembership::from_row).collect()
    }

    /// Of each room that the user is joined to, the position of its newest timeline event.
    pub async fn last_positions(&self, user: &UserId) -> Result<Vec<(OwnedRoomId, StreamPosition)>, RoomError> {
        let rows = self.db().scan(&LAST_POSITIONS, params![user.as_str()]).await?;
        rows.iter()
            .map(|row| Ok((row.text(0)?.try_into().map_err(damaged)?, StreamPosition(row.opt_int(1)?.unwrap_or(0)))))
            .collect()
    }

    /// The memberships of a user that changed in `since < position <= until`, oldest change first. Of each room only its
    /// last change is there.
    pub async fn memberships_changed(
        &self,
        user: &UserId,
        since: StreamPosition,
        until: StreamPosition,
    ) -> Result<Vec<RoomMembership>, RoomError> {
        let rows = self.db().query(&OF_USER_SINCE, params![user.as_str(), since.0, until.0]).await?;
        rows.iter().map(RoomMembership::from_row).collect()
    }

    /// A user's membership in a room, if they ever had one.
    pub async fn membership(&self, user: &UserId, room_id: &RoomId) -> Result<Option<RoomMembership>, RoomError> {
        let Some(room) = self.room(room_id).await? else { return Ok(None) };
        let row = self.db().query_opt(&OF_USER_IN, params![user.as_str(), room.nid.0]).await?;
        row.as_ref().map(RoomMembership::from_row).transpose()
    }

    /// Whether the user is joined now.
    pub async fn is_joined(&self, user: &UserId, room_id: &RoomId) -> Result<bool, RoomError> {
        Ok(self.membership(user, room_id).await?.is_some_and(|found| found.membership == MembershipState::Join))
    }

    /// The members of a room with one of these memberships.
    pub async fn members(&self, room: RoomNid, of: &[MembershipState]) -> Result<Vec<Member>, RoomError> {
        let of: Vec<String> = of.iter().map(ToString::to_string).collect();
        let rows = self.db().scan(&MEMBERS, params![room.0, of]).await?;
        let member = |row: &Row| {
            Ok(Member {
                user_id: row.text(0)?.try_into().map_err(damaged)?,
                membership: row.text(1)?.into(),
                event_id: row.text(2)?.try_into().map_err(damaged)?,
                position: StreamPosition(row.int(3)?),
            })
        };
        rows.iter().map(member).collect()
    }

    /// The joined members of a room that are users of `server`.
    pub async fn joined_of(&self, room: RoomNid, server: &ServerName) -> Result<Vec<OwnedUserId>, RoomError> {
        let rows = self.db().query(&LOCAL_MEMBERS, params![room.0, server.as_str()]).await?;
        users(&rows)
    }

    /// How many are joined and how many invited.
    pub async fn counts(&self, room: RoomNid) -> Result<(u64, u64), RoomError> {
        let row = self.db().query_opt(&COUNTS, params![room.0]).await?;
        let count = |value: i64| u64::try_from(value).unwrap_or(0);
        row.map_or(Ok((0, 0)), |row| Ok((count(row.int(0)?), count(row.int(1)?))))
    }

    /// The servers with joined users in the room, ours too.
    pub async fn servers(&self, room: RoomNid) -> Result<Vec<OwnedServerName>, RoomError> {
        let position = self.db().position();
        let changed = [ChangeKind::Membership, ChangeKind::State, ChangeKind::Purge, ChangeKind::Partial];
        let changed = changed.into_iter().map(|kind| self.db().last_change_of(kind)).max().unwrap_or(i64::MAX);
        if let Some((at, servers)) = self.servers.get(&room)
            && changed <= at
        {
            return Ok(servers.to_vec());
        }
        let rows = self.db().query(&SERVERS, params![room.0]).await?;
        let servers: Arc<[OwnedServerName]> =
            rows.iter().map(|row| row.text(0)?.try_into().map_err(damaged)).collect::<Result<_, RoomError>>()?;
        self.servers.put(room, (position, Arc::clone(&servers)), 100 + 60 * servers.len());
        Ok(servers.to_vec())
    }

    /// Of rooms that nobody of `server` is in any more, the events by which users of it were put out, or left, after `position`.
    pub async fn put_out_since(
        &self,
        server: &ServerName,
        position: StreamPosition,
    ) -> Result<Vec<(OwnedRoomId, OwnedEventId, StreamPosition)>, RoomError> {
        let rows = self.db().scan(&PUT_OUT_SINCE, params![server.as_str(), position.0]).await?;
        let entry = |row: &Row| {
            let (room, event) = (row.text(0)?.try_into().map_err(damaged)?, row.text(1)?.try_into().map_err(damaged)?);
            Ok((room, event, StreamPosition(row.int(2)?)))
        };
        rows.iter().map(entry).collect()
    }

    /// The rooms in which `server` has joined users.
    pub async fn rooms_of_server(&self, server: &ServerName) -> Result<Vec<OwnedRoomId>, RoomError> {
        let rows = self.db().query(&ROOMS_OF_SERVER, params![server.as_str()]).await?;
        rooms(&rows)
    }

    /// The rooms in which both are joined.
    pub async fn shared_rooms(&self, one: &UserId, other: &UserId) -> Result<Vec<OwnedRoomId>, RoomError> {
        let rows = self.db().query(&SHARED, params![one.as_str(), other.as_str()]).await?;
        rooms(&rows)
    }

    /// Everyone who is joined to a room that the user is joined to, the user too.
    pub async fn users_sharing_rooms(&self, user: &UserId) -> Result<Vec<OwnedUserId>, RoomError> {
        let rows = self.db().scan(&NEIGHBORS, params![user.as_str()]).await?;
        users(&rows)
    }

    /// Whoever's membership changed after `since` in a room that the user is joined to, and what it is now.
    pub async fn company_changed(
        &self,
        user: &UserId,
        since: StreamPosition,
    ) -> Result<Vec<(OwnedUserId, MembershipState)>, RoomError> {
        let rows = self.db().scan(&NEIGHBORS_SINCE, params![since.0, user.as_str()]).await?;
        rows.iter().map(|row| Ok((row.text(0)?.try_into().map_err(damaged)?, row.text(1)?.into()))).collect()
    }

    /// Which of `others` are joined to a room that the user is joined to.
    pub async fn sharing_rooms_with(
        &self,
        user: &UserId,
        others: &[OwnedUserId],
    ) -> Result<Vec<OwnedUserId>, RoomError> {
        let others: Vec<String> = others.iter().map(ToString::to_string).collect();
        let rows = self.db().query(&SHARING_WITH, params![user.as_str(), others]).await?;
        users(&rows)
    }

    /// Users of ours who are, or were, anything in the room.
    pub(crate) async fn users_of(&self, room: RoomNid, ours: &ServerName) -> Result<Vec<OwnedUserId>, RoomError> {
        let rows = self.db().query(&USERS_OF, params![room.0, ours.as_str()]).await?;
        users(&rows)
    }

    /// The servers that came into a room with their first user after `position`.
    pub async fn servers_joined_since(&self, room: RoomNid, position: i64) -> Result<Vec<OwnedServerName>, RoomError> {
        let rows = self.db().query(&SERVERS_SINCE, params![room.0, position]).await?;
        rows.iter().map(|row| row.text(0)?.try_into().map_err(damaged)).collect()
    }

    /// Whether the user is in a room with anybody of this server.
    pub async fn shares_with_server(&self, user: &UserId, server: &ServerName) -> Result<bool, RoomError> {
        Ok(self.db().query_opt(&SHARES_WITH_SERVER, params![user.as_str(), server.as_str()]).await?.is_some())
    }

    /// The servers with users in any room that the user is joined to.
    pub async fn servers_sharing_rooms(&self, user: &UserId) -> Result<Vec<OwnedServerName>, RoomError> {
        let rows = self.db().query(&NEIGHBOR_SERVERS, params![user.as_str()]).await?;
        rows.iter().map(|row| row.text(0)?.try_into().map_err(damaged)).collect()
    }

    /// The stripped state that came with an invite or knock of a room we are not in: JSON objects as text.
    pub async fn invite_state(&self, user: &UserId, room_id: &RoomId) -> Result<Option<String>, RoomError> {
        let row = self.db().query_opt(&INVITE_STATE, params![user.as_str(), room_id.as_str()]).await?;
        Ok(row.map(|row| row.get(0)).transpose()?)
    }
}

fn users(rows: &[Row]) -> Result<Vec<OwnedUserId>, RoomError> {
    rows.iter().map(|row| row.text(0)?.try_into().map_err(damaged)).collect()
}

fn rooms(rows: &[Row]) -> Result<Vec<OwnedRoomId>, RoomError> {
    rows.iter().map(|row| row.text(0)?.try_into().map_err(damaged)).collect()
}

/// The membership that a member event states.
pub fn membership_of(pdu: &Pdu) -> Option<MembershipState> {
    pdu.content_field::<String>("membership").map(|text| MembershipState::from(text.as_str()))
}

/// The memberships that a batch changes, collected so that counts are written once.
#[derive(Debug, Default)]
pub(crate) struct MembershipWriter {
    joined: i64,
    invited: i64,
    servers: HashMap<OwnedServerName, i64>,
    /// The last change.
    position: Option<Value>,
}

impl MembershipWriter {
    /// Adds the rows for a member event that has become current. `before` is what the user was until now.
    pub(crate) fn set(
        &mut self,
        batch: &mut Batch,
        room: &Arc<Room>,
        pdu: &Pdu,
        before: Option<&MembershipState>,
        local: bool,
    ) {
        let Some(user) = pdu.state_key().and_then(|key| <&UserId>::try_from(key).ok()) else { return };
        let Some(after) = membership_of(pdu) else { return };
        let position =
            batch.log(Change::new(ChangeKind::Membership).room(&room.room_id).user(user).reference(after.as_str()));
        self.position = Some(position.clone());
        write_membership(batch, room.nid, user, &after, pdu, position, local);
        self.count(before, -1, user.server_name());
        self.count(Some(&after), 1, user.server_name());
        if local && !matches!(after, MembershipState::Invite | MembershipState::Knock) {
            batch.exec(&INVITE_STATE_REMOVE, params![user.as_str(), room.room_id.as_str()]);
        }
    }

    /// Adds the rows for a membership that is no longer part of current state.
    pub(crate) fn unset(&mut self, batch: &mut Batch, room: &Room, user: &UserId, before: &MembershipState) {
        batch.log(Change::new(ChangeKind::Membership).room(&room.room_id).user(user).reference("leave"));
        batch.exec(&REMOVE, params![user.as_str(), room.nid.0]);
        self.count(Some(before), -1, user.server_name());
    }

    fn count(&mut self, membership: Option<&MembershipState>, by: i64, server: &ServerName) {
        match membership {
            Some(MembershipState::Join) => {
                self.joined += by;
                *self.servers.entry(server.to_owned()).or_default() += by;
            }
            Some(MembershipState::Invite) => self.invited += by,
            _ => {}
        }
    }

    /// Adds what has been counted.
    pub(crate) fn finish(self, batch: &mut Batch, room: RoomNid) {
        if self.joined != 0 || self.invited != 0 {
            batch.exec(&COUNT_ADD, params![room.0, self.joined, self.invited]);
        }
        let position = self.position.unwrap_or_else(|| 0.into());
        for (server, joined) in self.servers {
            if joined != 0 {
                let values = vec![room.0.into(), server.as_str().into(), joined.into(), position.clone()];
                batch.exec(&SERVER_ADD, values);
            }
        }
    }
}

fn write_membership(
    batch: &mut Batch,
    room: RoomNid,
    user: &UserId,
    membership: &MembershipState,
    pdu: &Pdu,
    position: Value,
    local: bool,
) {
    batch.exec(
        &SET,
        params![
            user.as_str(),
            room.0,
            membership.as_str(),
            pdu.event_id().as_str(),
            pdu.sender().as_str(),
            position,
            user.server_name().as_str(),
            local,
        ],
    );
}

/// Adds the rows for an invite, knock or leave of our user in a room that this server is not in.
pub(crate) fn set_outside(batch: &mut Batch, room: &Room, user: &UserId, pdu: &Pdu, stripped: Option<&str>) {
    let Some(membership) = membership_of(pdu) else { return };
    let position =
        batch.log(Change::new(ChangeKind::Membership).room(&room.room_id).user(user).reference(membership.as_str()));
    write_membership(batch, room.nid, user, &membership, pdu, position, true);
    match stripped {
        Some(state) => batch.exec(&INVITE_STATE_SET, params![user.as_str(), room.room_id.as_str(), state]),
        None => batch.exec(&INVITE_STATE_REMOVE, params![user.as_str(), room.room_id.as_str()]),
    }
}

/// Adds that the user has forgotten the room.
pub(crate) fn forget(batch: &mut Batch, room: &Room, user: &UserId) {
    batch.log(Change::new(ChangeKind::Forget).room(&room.room_id).user(user));
    batch.exec(&FORGET, params![user.as_str(), room.nid.0]);
}
