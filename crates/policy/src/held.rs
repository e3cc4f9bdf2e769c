//! Invitations that wait until an operator has decided.
//!
//! Such an invitation has been signed for its sender, but its target is told nothing of it. What is kept here is what lets it through
//! later as if it came then.

use ruma::{RoomId, UserId};
use samtal_db::{Batch, Db, DbError, Row, Sql, params, sql};
use serde::{Deserialize, Serialize};

/// Invitations that are held at most; of more, each is refused.
pub const HELD_MAX: usize = 1_000;
/// Of one server.
pub const HELD_OF_SERVER_MAX: usize = 50;
/// Longest text of one with what it shows of the room, in bytes.
pub const HELD_BYTES_MAX: usize = 256 * 1024;

const COUNT: Sql = sql!("SELECT COUNT(*), COALESCE(SUM(CASE WHEN server = $1 THEN 1 ELSE 0 END), 0) FROM held_invite");
const PUT: Sql = sql!(
    "INSERT INTO held_invite (room_id, target, sender, server, version, event, stripped, since_ms)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
     ON CONFLICT (room_id, target) DO UPDATE SET sender = excluded.sender, server = excluded.server,
        version = excluded.version, event = excluded.event, stripped = excluded.stripped, since_ms = excluded.since_ms"
);
const ALL: Sql = sql!(
    "SELECT room_id, target, sender, server, version, '', '', since_ms FROM held_invite
     ORDER BY since_ms, room_id, target"
);
const TEXTS: Sql = sql!("SELECT event, stripped FROM held_invite WHERE room_id = $1 AND target = $2");
const IS_HELD: Sql = sql!("SELECT 1 FROM held_invite WHERE room_id = $1 AND target = $2 AND sender = $3");
const DELETE: Sql = sql!("DELETE FROM held_invite WHERE room_id = $1 AND target = $2");
const DELETE_OF: Sql = sql!("DELETE FROM held_invite WHERE room_id = $1 AND target = $2 AND sender = $3");

/// An invitation that waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HeldInvite {
    /// To which room.
    pub room_id: String,
    /// Who is invited.
    #[serde(rename = "user_id")]
    pub target: String,
    /// Who invites.
    pub sender: String,
    /// Their server.
    pub server: String,
    /// The room's version.
    pub version: String,
    /// The invitation, signed by both servers; empty in a list.
    #[serde(skip)]
    pub event: String,
    /// What its target may see of the room: a JSON list; empty in a list of invitations.
    #[serde(skip)]
    pub stripped: String,
    /// Since when, in ms since the epoch.
    pub since_ms: i64,
}

impl HeldInvite {
    fn from_row(row: &Row) -> Result<Self, DbError> {
        Ok(Self {
            room_id: row.text(0)?.to_owned(),
            target: row.text(1)?.to_owned(),
            sender: row.text(2)?.to_owned(),
            server: row.text(3)?.to_owned(),
            version: row.text(4)?.to_owned(),
            event: row.text(5)?.to_owned(),
            stripped: row.text(6)?.to_owned(),
            since_ms: row.int(7)?,
        })
    }
}

/// Which of them are meant: those for which all holds that is said here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhichHeld {
    /// From this server.
    pub server: Option<String>,
    /// To this room.
    pub room_id: Option<String>,
    /// Of this user.
    #[serde(rename = "user_id")]
    pub target: Option<String>,
}

impl WhichHeld {
    /// Whether it says nothing, which means all.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn holds(&self, invite: &HeldInvite) -> bool {
        let is = |wanted: &Option<String>, has: &String| wanted.as_ref().is_none_or(|wanted| wanted == has);
        is(&self.server, &invite.server) && is(&self.room_id, &invite.room_id) && is(&self.target, &invite.target)
    }
}

/// The invitations of one tenant that wait. Cheap to clone.
#[derive(Clone, Debug)]
pub struct HeldInvites {
    db: Db,
}

impl HeldInvites {
    /// Those of this tenant.
    pub fn new(db: Db) -> Self {
        Self { db }
    }

    /// Keeps one, in place of an earlier one to the same user and room. Whether there was room for it.
    pub async fn put(&self, invite: &HeldInvite) -> Result<bool, DbError> {
        if invite.event.len() + invite.stripped.len() > HELD_BYTES_MAX {
            return Ok(false);
        }
        let count = self.db.query_opt(&COUNT, params![invite.server.as_str()]).await?;
        let (all, of_server) = count.map_or(Ok((0, 0)), |row| Ok::<_, DbError>((row.int(0)?, row.int(1)?)))?;
        let is_below = |count: i64, most: usize| usize::try_from(count).is_ok_and(|count| count < most);
        if !is_below(all, HELD_MAX) || !is_below(of_server, HELD_OF_SERVER_MAX) {
            return Ok(false);
        }
        let mut batch = Batch::new();
        batch.exec(
            &PUT,
            params![
                invite.room_id.as_str(),
                invite.target.as_str(),
                invite.sender.as_str(),
                invite.server.as_str(),
                invite.version.as_str(),
                invite.event.as_str(),
                invite.stripped.as_str(),
                invite.since_ms
            ],
        );
        self.db.commit(batch).await?;
        Ok(true)
    }

    /// Those that wait, the oldest first, without their texts: [`HeldInvites::with_texts`].
    pub async fn list(&self, which: &WhichHeld) -> Result<Vec<HeldInvite>, DbError> {
        let rows = self.db.scan(&ALL, params![]).await?;
        let mut all: Vec<HeldInvite> = rows.iter().map(HeldInvite::from_row).collect::<Result<_, _>>()?;
        all.retain(|invite| which.holds(invite));
        Ok(all)
    }

    /// One with its texts, if it still waits.
    pub async fn with_texts(&self, invite: &HeldInvite) -> Result<Option<HeldInvite>, DbError> {
        let row = self.db.query_opt(&TEXTS, params![invite.room_id.as_str(), invite.target.as_str()]).await?;
        let whole = |row: Row| {
            let (event, stripped) = (row.text(0)?.to_owned(), row.text(1)?.to_owned());
            Ok(HeldInvite { event, stripped, ..invite.clone() })
        };
        row.map(whole).transpose()
    }

    /// Forgets one that has been decided on.
    pub async fn remove(&self, room_id: &str, target: &str) -> Result<(), DbError> {
        let mut batch = Batch::new();
        batch.exec(&DELETE, params![room_id, target]);
        self.db.commit(batch).await.map(|_| ())
    }

    /// Forgets one that its sender has taken back. Whether there was one.
    pub async fn taken_back(&self, room_id: &RoomId, target: &UserId, sender: &UserId) -> Result<bool, DbError> {
        let key = || params![room_id.as_str(), target.as_str(), sender.as_str()];
        if self.db.query_opt(&IS_HELD, key()).await?.is_none() {
            return Ok(false);
        }
        let mut batch = Batch::new();
        batch.exec(&DELETE_OF, key());
        self.db.commit(batch).await.map(|_| true)
    }
}
