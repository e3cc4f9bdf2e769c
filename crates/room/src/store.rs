//! Events and snapshots together: state as events.

use std::sync::{Arc, atomic::AtomicBool};

use ruma::OwnedEventId;
use samtal_db::Db;
use samtal_state::{Part, SnapshotId};

use crate::{
    erasure::Erasures,
    error::RoomError,
    graph::{Graph, StoredEvent},
    ids::{EventNid, Numbers, RoomNid, StateKeys},
    partial::PartialRooms,
    snapshot::Snapshots,
};
use samtal_db::{Sql, params, sql};
use samtal_model::StreamPosition;

const STATE_AT: Sql =
    sql!("SELECT snapshot FROM room_state_log WHERE room = $1 AND position <= $2 ORDER BY position DESC LIMIT 1");

const CHILDREN: Sql = sql!("SELECT DISTINCT rel_type, sender FROM relation WHERE room = $1 AND target = $2");

/// What all parts of the room engine read from.
#[derive(Debug)]
pub struct Store {
    /// Rooms, events and memberships.
    pub graph: Graph,
    /// Snapshots.
    pub snapshots: Snapshots,
    /// Numbers of state keys.
    pub keys: StateKeys,
    /// Rooms whose state is not whole.
    pub partial: PartialRooms,
    /// Whose words are shown only to those who heard them.
    pub erasures: Erasures,
    pub(crate) event_numbers: Numbers,
    pub(crate) room_numbers: Numbers,
    /// Whether policy servers can be asked.
    pub(crate) has_policy_source: AtomicBool,
}

impl Store {
    /// Over the tenant's database.
    pub async fn open(db: Db, random: &samtal_kit::Random) -> Result<Self, RoomError> {
        Ok(Self {
            keys: StateKeys::open(&db, random).await?,
            partial: PartialRooms::open(&db).await?,
            erasures: Erasures::default(),
            snapshots: Snapshots::new(db.clone()),
            graph: Graph::new(db),
            event_numbers: Numbers::new("event"),
            room_numbers: Numbers::new("room"),
            has_policy_source: AtomicBool::new(false),
        })
    }

    /// The database.
    pub fn db(&self) -> &Db {
        self.graph.db()
    }

    /// Where a snapshot files this state key.
    pub fn key(&self, event_type: &str, state_key: &str) -> (Part, i64) {
        (Part::of(event_type), self.keys.nid(event_type, state_key))
    }

    /// The type and the sender of every relation to an event.
    pub async fn children(&self, event: &StoredEvent) -> Result<Vec<(String, String)>, RoomError> {
        let rows = self.db().query(&CHILDREN, params![event.room.0, event.pdu.event_id().as_str()]).await?;
        rows.iter().map(|row| Ok((row.get(0)?, row.get(1)?))).collect()
    }

    /// The state event of this type and key in a snapshot.
    pub async fn state_event(
        &self,
        snapshot: SnapshotId,
        event_type: &str,
        state_key: &str,
    ) -> Result<Option<Arc<StoredEvent>>, RoomError> {
        let (part, key) = self.key(event_type, state_key);
        match self.snapshots.get(snapshot, part, key).await? {
            Some(nid) => self.graph.event_by_nid(nid).await.map(Some),
            None => Ok(None),
        }
    }

    /// The id of the state event of this type and key in a snapshot.
    pub(crate) async fn state_event_id(
        &self,
        snapshot: SnapshotId,
        event_type: &str,
        state_key: &str,
    ) -> Result<Option<OwnedEventId>, RoomError> {
        let event = self.state_event(snapshot, event_type, state_key).await?;
        Ok(event.map(|event| event.pdu.event_id().to_owned()))
    }

    /// All state events of one part of a snapshot: a room's members may be many.
    pub async fn state_part(&self, snapshot: SnapshotId, part: Part) -> Result<Vec<Arc<StoredEvent>>, RoomError> {
        let nids = self.snapshots.list(snapshot, part).await?;
        self.in_order(&nids).await
    }

    /// All state events of a snapshot.
    pub async fn state(&self, snapshot: SnapshotId) -> Result<Vec<Arc<StoredEvent>>, RoomError> {
        let mut events = self.state_part(snapshot, Part::Other).await?;
        events.extend(self.state_part(snapshot, Part::Members).await?);
        Ok(events)
    }

    /// The state events that a snapshot has and an earlier one has not, or has otherwise.
    pub async fn state_delta(&self, from: SnapshotId, to: SnapshotId) -> Result<Vec<Arc<StoredEvent>>, RoomError> {
        let differences = self.snapshots.diff(from, to).await?;
        let nids: Vec<EventNid> = differences.iter().filter_map(|difference| difference.after).collect();
        self.in_order(&nids).await
    }

    /// The room's current state as it was when the change log stood at `position`.
    pub async fn state_at(&self, room: RoomNid, position: StreamPosition) -> Result<SnapshotId, RoomError> {
        let row = self.db().query_opt(&STATE_AT, params![room.0, position.0]).await?;
        let Some(row) = row else { return Ok(SnapshotId::EMPTY) };
        SnapshotId::from_slice(row.blob(0)?).ok_or_else(|| RoomError::Damaged("bad snapshot id".into()))
    }

    /// The state after an event that is placed in the graph.
    pub async fn state_after(&self, event: &StoredEvent) -> Result<SnapshotId, RoomError> {
        let before = event.before.ok_or(RoomError::UnknownEvent)?;
        if event.pdu.state_key().is_none() || event.pdu.is_rejected() {
            return Ok(before);
        }
        Ok(self.snapshots.change(before, &[self.change_of(event.nid, &event.pdu)]).await?.id)
    }

    /// The entry that a state event makes in a snapshot.
    pub(crate) fn change_of(&self, nid: EventNid, pdu: &samtal_event::Pdu) -> samtal_state::tree::Change {
        let (part, key) = self.key(pdu.type_str(), pdu.state_key().unwrap_or_default());
        samtal_state::tree::Change { part, key, event: Some(nid.0) }
    }

    /// The events with these numbers, in their order; a number may come twice.
    pub async fn in_order(&self, nids: &[EventNid]) -> Result<Vec<Arc<StoredEvent>>, RoomError> {
        let found = self.graph.events_by_nid(nids).await?;
        nids.iter()
            .map(|nid| {
                found
                    .get(nid)
                    .cloned()
                    .ok_or_else(|| RoomError::Damaged(format!("event number {} is not there", nid.0)))
            })
            .collect()
    }
}
