//! The newest point of a room, from which local events grow.

use std::{collections::HashMap, sync::Arc};

use ruma::{OwnedEventId, events::StateEventType};
use samtal_db::{Batch, Sql, Value, params, sql};
use samtal_event::Pdu;
use samtal_model::StreamPosition;
use samtal_state::{AuthState, Snapshot, SnapshotId};

use crate::{
    error::RoomError,
    extremities::{self, Extremities},
    graph::Room,
    store::Store,
};

/// State events kept at hand with a head: beyond that they are looked up again.
const LOOKUPS_MAX: usize = 1_024;

const HEAD: Sql = sql!("SELECT turn, snapshot, extremities, depth, oldest, partial FROM room_head WHERE room = $1");
const HEAD_INSERT: Sql = sql!(
    "INSERT INTO room_head (room, turn, snapshot, extremities, depth, oldest, partial) VALUES ($1, $2, $3, $4, $5, $6, $7)"
);
const HEAD_UPDATE: Sql = sql!(
    "UPDATE room_head SET turn = $1, snapshot = $2, extremities = $3, depth = $4, oldest = $5, partial = $6
     WHERE room = $7 AND turn = $8"
);
const STATE_LOG: Sql = sql!("INSERT INTO room_state_log (room, position, snapshot) VALUES ($1, $2, $3)");

/// A state key as text.
pub(crate) type Key = (String, String);

/// The newest point of a room: complete for every decision about the next event, but for the few state events that
/// [`Head::load`] brings in beforehand.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) room: Arc<Room>,
    /// Counts commits; the row in the database must still have this number when the next is made.
    pub(crate) turn: i64,
    pub(crate) snapshot: SnapshotId,
    /// The events nothing refers to yet.
    pub(crate) extremities: Extremities,
    pub(crate) depth: i64,
    /// The lowest position in the timeline that has been given out: 0 before any backfill.
    pub(crate) oldest: i64,
    /// Whether the state is not complete yet.
    pub(crate) partial: bool,
    /// None before the create event.
    pub(crate) auth: Option<Arc<AuthState>>,
    lookups: HashMap<Key, Option<Pdu>>,
    /// About how many bytes `lookups` holds.
    lookup_bytes: usize,
}

impl Head {
    /// The head of a room that has no event yet.
    pub(crate) fn new(room: Arc<Room>) -> Self {
        Self {
            room,
            turn: 0,
            snapshot: Snapshot::EMPTY.id(),
            extremities: Extremities::default(),
            depth: 0,
            oldest: 0,
            partial: false,
            auth: None,
            lookups: HashMap::new(),
            lookup_bytes: 0,
        }
    }

    /// Reads the head; none when we never had one (rooms known from an invite only).
    pub(crate) async fn read(store: &Store, room: Arc<Room>) -> Result<Option<Self>, RoomError> {
        let Some(row) = store.db().query_opt(&HEAD, params![room.nid.0]).await? else { return Ok(None) };
        // Events that other nodes have written up to here must not be taken for what they were before.
        store.db().refresh().await?;
        let damaged = |what: &str| RoomError::Damaged(format!("the head of {} has {what}", room.room_id));
        let snapshot = SnapshotId::from_slice(row.blob(1)?).ok_or_else(|| damaged("a bad snapshot"))?;
        let extremities = Extremities::read(store, &room, row.text(2)?).await?;
        let (turn, depth, oldest, partial) = (row.int(0)?, row.int(3)?, row.int(4)?, row.get(5)?);
        let empty = Self::new(room);
        let mut head = Self { turn, snapshot, extremities, depth, oldest, partial, ..empty };
        head.refresh_auth(store).await?;
        Ok(Some(head))
    }

    /// Reads anew what authorization asks for again and again.
    pub(crate) async fn refresh_auth(&mut self, store: &Store) -> Result<(), RoomError> {
        let Some(create) = self.state(store, "m.room.create", "").await? else {
            self.auth = None;
            return Ok(());
        };
        let power_levels = self.state(store, "m.room.power_levels", "").await?;
        let join_rules = self.state(store, "m.room.join_rules", "").await?;
        let auth = AuthState::new(create, power_levels, join_rules, self.room.rules)
            .map_err(|refused| RoomError::Damaged(refused.reason))?;
        self.auth = Some(Arc::new(auth));
        Ok(())
    }

    /// The current state event of this type and key.
    pub(crate) async fn state(
        &mut self,
        store: &Store,
        event_type: &str,
        state_key: &str,
    ) -> Result<Option<Pdu>, RoomError> {
        let key = (event_type.to_owned(), state_key.to_owned());
        if let Some(found) = self.lookups.get(&key) {
            return Ok(found.clone());
        }
        let found = store.state_event(self.snapshot, event_type, state_key).await?;
        let found = found.map(|event| event.pdu.clone());
        self.look_up(key, found.clone());
        Ok(found)
    }

    /// Brings in state events that the next check will ask [`Head::loaded`] for.
    pub(crate) async fn load(
        &mut self,
        store: &Store,
        keys: &[(StateEventType, String)],
    ) -> Result<Vec<Pdu>, RoomError> {
        let mut found = Vec::with_capacity(keys.len());
        for (event_type, state_key) in keys {
            found.extend(self.state(store, &event_type.to_string(), state_key).await?);
        }
        Ok(found)
    }

    /// A state event that has been brought in.
    pub(crate) fn loaded(&self, event_type: &StateEventType, state_key: &str) -> Option<Pdu> {
        self.lookups.get(&(event_type.to_string(), state_key.to_owned())).cloned().flatten()
    }

    /// Notes a state event that has become current in this turn.
    pub(crate) fn set(&mut self, pdu: &Pdu) {
        if let Some(state_key) = pdu.state_key() {
            self.look_up((pdu.type_str().to_owned(), state_key.to_owned()), Some(pdu.clone()));
        }
    }

    /// Notes a state event that is no longer current.
    pub(crate) fn unset(&mut self, pdu: &Pdu) {
        if let Some(state_key) = pdu.state_key() {
            self.look_up((pdu.type_str().to_owned(), state_key.to_owned()), None);
        }
    }

    /// Replaces the text of a current state event that has been looked up. Says whether it was.
    pub(crate) fn replace(&mut self, redacted: &Pdu) -> bool {
        let Some(state_key) = redacted.state_key() else { return false };
        let held = self.lookups.get_mut(&(redacted.type_str().to_owned(), state_key.to_owned()));
        match held {
            Some(Some(pdu)) if pdu.event_id() == redacted.event_id() => {
                self.lookup_bytes = (self.lookup_bytes + redacted.weight()).saturating_sub(pdu.weight());
                *pdu = redacted.clone();
                true
            }
            _ => false,
        }
    }

    /// Between turns: keeps the memory of a head bounded.
    pub(crate) fn trim(&mut self) {
        if self.lookups.len() > LOOKUPS_MAX {
            self.lookups = HashMap::new();
            self.lookup_bytes = 0;
        }
    }

    fn look_up(&mut self, key: Key, found: Option<Pdu>) {
        let bytes = |found: &Option<Pdu>| found.as_ref().map_or(0, Pdu::weight);
        let key_bytes = 100 + key.0.len() + key.1.len();
        self.lookup_bytes += bytes(&found);
        match self.lookups.insert(key, found) {
            Some(before) => self.lookup_bytes -= bytes(&before),
            None => self.lookup_bytes += key_bytes,
        }
    }

    /// About how many bytes it holds.
    pub(crate) fn weight(&self) -> usize {
        1_000 + self.lookup_bytes + self.extremities.weight()
    }

    /// Adds the row of a first head.
    pub(crate) fn insert(&mut self, batch: &mut Batch) {
        let extremities = self.extremities.write(batch, self.room.nid);
        batch.expect(
            &HEAD_INSERT,
            params![
                self.room.nid.0,
                self.turn,
                self.snapshot.to_vec(),
                extremities,
                self.depth,
                self.oldest,
                self.partial
            ],
            1,
        );
    }

    /// Adds the change from turn to turn; refused when another node was faster.
    pub(crate) fn update(&mut self, batch: &mut Batch) {
        let before = self.turn;
        self.turn += 1;
        let extremities = self.extremities.write(batch, self.room.nid);
        batch.expect(
            &HEAD_UPDATE,
            params![
                self.turn,
                self.snapshot.to_vec(),
                extremities,
                self.depth,
                self.oldest,
                self.partial,
                self.room.nid.0,
                before
            ],
            1,
        );
    }

    /// Adds that the state is `snapshot` from `position` on.
    pub(crate) fn log_state(&self, batch: &mut Batch, position: Value) {
        batch.exec(&STATE_LOG, params![self.room.nid.0, position, self.snapshot.to_vec()]);
    }
}

/// Where a room stands, for readers.
#[derive(Clone, Debug)]
pub struct HeadInfo {
    /// Current state.
    pub snapshot: SnapshotId,
    /// Depth of the deepest event.
    pub depth: i64,
    /// The lowest position of the timeline.
    pub oldest: StreamPosition,
    /// Whether the state is not complete yet.
    pub partial: bool,
}

impl Store {
    /// Where the room stands now; none when it is known from an invite only.
    pub async fn head(&self, room: &Room) -> Result<Option<HeadInfo>, RoomError> {
        let Some(row) = self.db().query_opt(&HEAD, params![room.nid.0]).await? else { return Ok(None) };
        Ok(Some(HeadInfo {
            snapshot: SnapshotId::from_slice(row.blob(1)?)
                .ok_or_else(|| RoomError::Damaged("bad snapshot id".into()))?,
            depth: row.int(3)?,
            oldest: StreamPosition(row.int(4)?),
            partial: row.get(5)?,
        }))
    }

    /// The events nothing refers to yet, as they came. There may be thousands.
    pub async fn extremities(&self, room: &Room) -> Result<Vec<OwnedEventId>, RoomError> {
        match self.db().query_opt(&HEAD, params![room.nid.0]).await? {
            Some(row) => extremities::ids(self, room, row.text(2)?).await,
            None => Ok(Vec::new()),
        }
    }
}
