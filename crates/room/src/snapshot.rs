//! Room state at a point: the trees of `samtal-state` over this tenant's database.

use std::collections::HashMap;

use samtal_db::{Batch, Db, Sql, params, sql};
use samtal_kit::Cache;
use samtal_state::{Missing, Node, NodeId, NodeSource, Part, Snapshot, SnapshotId, tree};

use crate::{error::RoomError, ids::EventNid};

const NODES: Sql = sql!("SELECT hash, bytes FROM state_node WHERE hash IN list($1)");
const NODE_INSERT: Sql = sql!("INSERT INTO state_node (hash, bytes) VALUES ($1, $2) ON CONFLICT (hash) DO NOTHING");

/// Reads snapshots, and makes new ones.
#[derive(Debug)]
pub struct Snapshots {
    db: Db,
    nodes: Cache<NodeId, Node>,
}

struct Loaded<'a> {
    snapshots: &'a Snapshots,
    /// What this walk had to load, so that it comes to an end whatever the cache has room for.
    own: HashMap<NodeId, Node>,
}

impl NodeSource for Loaded<'_> {
    fn node(&self, id: &NodeId) -> Option<Node> {
        self.own.get(id).cloned().or_else(|| self.snapshots.nodes.get(id))
    }
}

/// A state key that differs between two snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateDifference {
    /// Which tree it is in.
    pub part: Part,
    /// The number of the state key.
    pub key: i64,
    /// The event in the first snapshot.
    pub before: Option<EventNid>,
    /// The event in the second.
    pub after: Option<EventNid>,
}

/// A new snapshot with the nodes that must be stored before anything refers to it.
#[derive(Debug)]
pub struct Changed {
    /// Its name.
    pub id: SnapshotId,
    /// What to store.
    pub nodes: Vec<(NodeId, Node)>,
}

impl Snapshots {
    /// Over the tenant's database.
    pub fn new(db: Db) -> Self {
        let nodes = Cache::new(db.memory());
        Self { db, nodes }
    }

    /// Runs a pure walk, loading what it misses, until it has all it needs.
    async fn walk<T>(&self, walk: impl Fn(&Loaded<'_>) -> Result<T, Missing> + Send) -> Result<T, RoomError> {
        let mut loaded = Loaded { snapshots: self, own: HashMap::new() };
        loop {
            match walk(&loaded) {
                Ok(answer) => return Ok(answer),
                Err(Missing(ids)) => loaded.own.extend(self.load(&ids).await?),
            }
        }
    }

    async fn load(&self, ids: &[NodeId]) -> Result<Vec<(NodeId, Node)>, RoomError> {
        let mut loaded = Vec::with_capacity(ids.len());
        for chunk in ids.chunks(500) {
            let hashes: Vec<Vec<u8>> = chunk.iter().map(|id| id.to_vec()).collect();
            let rows = self.db.query(&NODES, params![hashes]).await?;
            if rows.is_empty() {
                return Err(RoomError::Damaged("a state node is not there".into()));
            }
            for row in rows {
                let id = NodeId::from_slice(row.blob(0)?);
                let node = Node::from_bytes(row.blob(1)?);
                let (Some(id), Ok(node)) = (id, node) else {
                    return Err(RoomError::Damaged("a state node does not parse".into()));
                };
                self.keep(id, node.clone());
                loaded.push((id, node));
            }
        }
        Ok(loaded)
    }

    fn keep(&self, id: NodeId, node: Node) {
        let weight = node.bytes().len() + 64;
        self.nodes.put(id, node, weight);
    }

    async fn snapshot(&self, id: SnapshotId) -> Result<Snapshot, RoomError> {
        self.walk(|source| Snapshot::load(source, id)).await
    }

    /// The event of a state key.
    pub async fn get(&self, id: SnapshotId, part: Part, key: i64) -> Result<Option<EventNid>, RoomError> {
        let found = self.walk(|source| Snapshot::load(source, id)?.get(source, part, key)).await?;
        Ok(found.map(EventNid))
    }

    /// The events of several state keys, in their order.
    pub async fn get_many(&self, id: SnapshotId, keys: &[(Part, i64)]) -> Result<Vec<Option<EventNid>>, RoomError> {
        let found = self.walk(|source| Snapshot::load(source, id)?.get_many(source, keys)).await?;
        Ok(found.into_iter().map(|nid| nid.map(EventNid)).collect())
    }

    /// All events of one part.
    pub async fn list(&self, id: SnapshotId, part: Part) -> Result<Vec<EventNid>, RoomError> {
        let found = self.walk(|source| Snapshot::load(source, id)?.entries(source, part)).await?;
        Ok(found.into_iter().map(|(_, nid)| EventNid(nid)).collect())
    }

    /// All entries of one part: (state key, event).
    pub async fn entries(&self, id: SnapshotId, part: Part) -> Result<Vec<(i64, EventNid)>, RoomError> {
        let found = self.walk(|source| Snapshot::load(source, id)?.entries(source, part)).await?;
        Ok(found.into_iter().map(|(key, nid)| (key, EventNid(nid))).collect())
    }

    /// What differs from one snapshot to another. Costs the size of the difference, not of the room.
    pub async fn diff(&self, from: SnapshotId, to: SnapshotId) -> Result<Vec<StateDifference>, RoomError> {
        if from == to {
            return Ok(Vec::new());
        }
        let (from, to) = (self.snapshot(from).await?, self.snapshot(to).await?);
        let mut differences = Vec::new();
        for part in [Part::Other, Part::Members] {
            let found = self.walk(|source| from.diff(source, &to, part)).await?;
            differences.extend(found.into_iter().map(|difference| StateDifference {
                part,
                key: difference.key,
                before: difference.before.map(EventNid),
                after: difference.after.map(EventNid),
            }));
        }
        Ok(differences)
    }

    /// What any number of snapshots disagree on, with the part that each key is in. Snapshots count by their place in the slice.
    pub(crate) async fn disagreements(&self, ids: &[SnapshotId]) -> Result<Vec<(Part, tree::Disagreement)>, RoomError> {
        let load = |source: &Loaded<'_>| {
            let mut missing = Vec::new();
            let mut states = Vec::with_capacity(ids.len());
            for id in ids {
                match Snapshot::load(source, *id) {
                    Ok(state) => states.push(state),
                    Err(Missing(nodes)) => missing.extend(nodes),
                }
            }
            if missing.is_empty() { Ok(states) } else { Err(Missing(missing)) }
        };
        let states = self.walk(load).await?;
        let mut disagreements = Vec::new();
        for part in [Part::Other, Part::Members] {
            let found = self.walk(|source| Snapshot::disagreements(source, &states, part)).await?;
            disagreements.extend(found.into_iter().map(|disagreement| (part, disagreement)));
        }
        Ok(disagreements)
    }

    /// The snapshot after changes. Its nodes are at hand at once, but must be stored in the batch that first refers to it.
    pub async fn change(&self, id: SnapshotId, changes: &[tree::Change]) -> Result<Changed, RoomError> {
        let update = self.walk(|source| Snapshot::load(source, id)?.update(source, changes)).await?;
        for (id, node) in &update.nodes {
            self.keep(*id, node.clone());
        }
        Ok(Changed { id: update.id, nodes: update.nodes })
    }
}

/// Adds the rows of new nodes.
pub(crate) fn insert_nodes(batch: &mut Batch, nodes: Vec<(NodeId, Node)>) {
    for (id, node) in nodes {
        batch.exec(&NODE_INSERT, params![id.to_vec(), node.bytes()]);
    }
}
