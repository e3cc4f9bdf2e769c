//! Numbers that stand for events, rooms and state keys inside one tenant.

use samtal_db::{Batch, Db, DbError, Sql, params, sql};
use tokio::sync::Mutex;

use crate::error::RoomError;

/// The number of an event in this tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventNid(pub i64);

/// The number of a room in this tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoomNid(pub i64);

/// Numbers taken from the database at a time.
const BLOCK: i64 = 1_000;

const TAKE: Sql = sql!(
    "INSERT INTO number_block (name, next) VALUES ($1, $2)
     ON CONFLICT (name) DO UPDATE SET next = number_block.next + excluded.next RETURNING next"
);
const SECRET: Sql = sql!("SELECT secret FROM room_secret WHERE id = 1");
const SECRET_INSERT: Sql = sql!("INSERT INTO room_secret (id, secret) VALUES (1, $1) ON CONFLICT (id) DO NOTHING");

/// Gives out numbers that no other node gives: a block is taken from the database at a time, and what is left of it when
/// the process ends is never used.
#[derive(Debug)]
pub(crate) struct Numbers {
    name: &'static str,
    block: Mutex<(i64, i64)>,
}

impl Numbers {
    /// Numbers of one kind.
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, block: Mutex::new((0, 0)) }
    }

    /// The first of `count` numbers in a row, all of them above `floor`: an event's number must be above those of its
    /// auth events, which another node may have stored.
    pub(crate) async fn take(&self, db: &Db, count: usize, floor: i64) -> Result<i64, DbError> {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let mut block = self.block.lock().await;
        if block.1 - block.0 < count || block.0 <= floor {
            let wanted = count.max(BLOCK);
            let mut batch = Batch::new();
            batch.returning(&TAKE, params![self.name, wanted]);
            let done = db.commit(batch).await?;
            let next = done.rows.first().and_then(|rows| rows.first()).map_or(Ok(wanted), |row| row.int(0))?;
            *block = (next - wanted + 1, next + 1);
        }
        let first = block.0;
        block.0 += count;
        Ok(first)
    }
}

/// Turns (type, state key) into the number under which snapshots file it: a keyed hash, so that it needs no table, is the
/// same on every node of the tenant, and nobody outside can make two keys meet.
#[derive(Clone)]
pub struct StateKeys {
    secret: [u8; 32],
}

impl std::fmt::Debug for StateKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StateKeys")
    }
}

impl StateKeys {
    /// Reads the tenant's secret, or makes it.
    pub async fn open(db: &Db, random: &samtal_kit::Random) -> Result<Self, RoomError> {
        if db.query_opt(&SECRET, vec![]).await?.is_none() {
            let mut batch = Batch::new();
            batch.exec(&SECRET_INSERT, params![random.bytes::<32>()]);
            db.commit(batch).await?;
        }
        let row = db.query_opt(&SECRET, vec![]).await?.ok_or_else(|| RoomError::Damaged("no room secret".into()))?;
        let secret =
            row.blob(0)?.try_into().map_err(|_| RoomError::Damaged("room secret has a wrong length".into()))?;
        Ok(Self { secret })
    }

    /// The number of a state key: 0 to 2^63 - 1.
    pub fn nid(&self, event_type: &str, state_key: &str) -> i64 {
        let mut hasher = blake3::Hasher::new_keyed(&self.secret);
        hasher.update(event_type.as_bytes()).update(&[0]).update(state_key.as_bytes());
        let mut bytes = [0; 8];
        hasher.finalize_xof().fill(&mut bytes);
        i64::from_le_bytes(bytes) & i64::MAX
    }
}
