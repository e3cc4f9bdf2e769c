//! The state of a room at one point: members, and all else.

use std::fmt;

use super::{
    Difference, Missing, Node, NodeId, NodeSource,
    build::update,
    compare::diff,
    disagree::{Disagreement, disagreements},
    node::Content,
    read::{entries, get, get_many, len},
};

/// The name of a room's state: equal states have equal names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId(NodeId);

impl SnapshotId {
    /// The state before a room's first event.
    pub const EMPTY: Self = Self(NodeId::EMPTY);

    /// From its bytes as stored; nothing if they are not 16.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        NodeId::from_slice(bytes).map(Self)
    }

    /// Its bytes, to store.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// Its bytes, to store.
    #[must_use]
    pub fn to_vec(self) -> Vec<u8> {
        self.0.to_vec()
    }

    /// The node that holds the names of the two trees; it is stored with the others.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.0
    }
}

impl fmt::Debug for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which of the two trees a state key is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// `m.room.member`.
    Members,
    /// All other state.
    Other,
}

impl Part {
    /// The tree that holds this event type.
    #[must_use]
    pub fn of(event_type: &str) -> Self {
        if event_type == "m.room.member" { Self::Members } else { Self::Other }
    }
}

/// Set (`Some`) or remove (`None`) the event of a state key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The tree the key is in.
    pub part: Part,
    /// The number of the state key.
    pub key: i64,
    /// The number of the event.
    pub event: Option<i64>,
}

/// The state of a room at one point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Snapshot {
    /// The tree of members.
    pub members: NodeId,
    /// The tree of all other state.
    pub other: NodeId,
}

/// A changed state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotUpdate {
    /// The new state.
    pub snapshot: Snapshot,
    /// Its name.
    pub id: SnapshotId,
    /// Nodes to store with it, that of the snapshot itself among them. Storing one that is there
    /// already must do nothing.
    pub nodes: Vec<(NodeId, Node)>,
}

impl Snapshot {
    /// The state before a room's first event.
    pub const EMPTY: Self = Self { members: NodeId::EMPTY, other: NodeId::EMPTY };

    /// The state of this name.
    ///
    /// # Errors
    /// When its node is not loaded.
    pub fn load(source: &impl NodeSource, id: SnapshotId) -> Result<Self, Missing> {
        if id == SnapshotId::EMPTY {
            return Ok(Self::EMPTY);
        }
        match source.node(&id.0).map(|node| node.content()) {
            Some(Content::Snapshot(members, other)) => Ok(Self { members, other }),
            _ => Err(Missing(vec![id.0])),
        }
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> SnapshotId {
        if *self == Self::EMPTY {
            return SnapshotId::EMPTY;
        }
        SnapshotId(Node::snapshot(self.members, self.other).id())
    }

    fn root(&self, part: Part) -> NodeId {
        match part {
            Part::Members => self.members,
            Part::Other => self.other,
        }
    }

    /// The event of a state key.
    ///
    /// # Errors
    /// When nodes are not loaded.
    pub fn get(&self, source: &impl NodeSource, part: Part, key: i64) -> Result<Option<i64>, Missing> {
        get(source, self.root(part), key)
    }

    /// The events of several state keys, in their order.
    ///
    /// # Errors
    /// When nodes are not loaded; all that are known to be needed are named.
    pub fn get_many(&self, source: &impl NodeSource, keys: &[(Part, i64)]) -> Result<Vec<Option<i64>>, Missing> {
        let of = |wanted: Part| {
            let keys = keys.iter().filter(|(part, _)| *part == wanted).map(|(_, key)| *key);
            get_many(source, self.root(wanted), &keys.collect::<Vec<_>>())
        };
        match (of(Part::Members), of(Part::Other)) {
            (Ok(members), Ok(other)) => {
                let (mut members, mut other) = (members.into_iter(), other.into_iter());
                let next = |(part, _): &(Part, i64)| match part {
                    Part::Members => members.next().flatten(),
                    Part::Other => other.next().flatten(),
                };
                Ok(keys.iter().map(next).collect())
            }
            (Err(Missing(mut one)), Err(Missing(other))) => {
                one.extend(other);
                Err(Missing(one))
            }
            (Err(missing), Ok(_)) | (Ok(_), Err(missing)) => Err(missing),
        }
    }

    /// All entries of one part, by rising key: `(state key, event)`.
    ///
    /// # Errors
    /// When nodes are not loaded.
    pub fn entries(&self, source: &impl NodeSource, part: Part) -> Result<Vec<(i64, i64)>, Missing> {
        entries(source, self.root(part))
    }

    /// Number of entries of one part.
    ///
    /// # Errors
    /// When the root is not loaded.
    pub fn len(&self, source: &impl NodeSource, part: Part) -> Result<usize, Missing> {
        len(source, self.root(part))
    }

    /// Whether there is no state at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::EMPTY
    }

    /// This state after changes. Of two changes to one key the last counts.
    ///
    /// # Errors
    /// When nodes are not loaded.
    pub fn update(&self, source: &impl NodeSource, changes: &[Change]) -> Result<SnapshotUpdate, Missing> {
        let of = |part: Part| {
            let own = changes.iter().filter(|change| change.part == part);
            let own: Vec<_> = own.map(|change| (change.key, change.event)).collect();
            update(source, self.root(part), &own)
        };
        // Both before giving up on either, so that all missing nodes are known.
        let (members, other) = match (of(Part::Members), of(Part::Other)) {
            (Ok(members), Ok(other)) => (members, other),
            (Err(Missing(mut one)), Err(Missing(other))) => {
                one.extend(other);
                return Err(Missing(one));
            }
            (Err(missing), Ok(_)) | (Ok(_), Err(missing)) => return Err(missing),
        };
        let snapshot = Self { members: members.root, other: other.root };
        let mut nodes = members.nodes;
        nodes.extend(other.nodes);
        if snapshot != *self && !snapshot.is_empty() {
            let node = Node::snapshot(snapshot.members, snapshot.other);
            nodes.push((node.id(), node));
        }
        Ok(SnapshotUpdate { snapshot, id: snapshot.id(), nodes })
    }

    /// What several states disagree on in one part.
    ///
    /// # Errors
    /// When nodes are not loaded.
    pub fn disagreements(source: &impl NodeSource, states: &[Self], part: Part) -> Result<Vec<Disagreement>, Missing> {
        let roots: Vec<NodeId> = states.iter().map(|state| state.root(part)).collect();
        disagreements(source, &roots)
    }

    /// The entries of one part that differ from this state to another.
    ///
    /// # Errors
    /// When nodes are not loaded.
    pub fn diff(&self, source: &impl NodeSource, after: &Self, part: Part) -> Result<Vec<Difference>, Missing> {
        diff(source, self.root(part), after.root(part))
    }
}
