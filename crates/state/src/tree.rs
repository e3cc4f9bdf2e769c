//! Room state as a persistent map.
//!
//! The state at an event is an immutable map from state key to event, both as numbers. It is kept
//! as a tree whose nodes are named by the hash of their bytes: equal parts of two states are one
//! node, a change writes only the path from a leaf to the root, and two states are compared by
//! walking only where names differ. The shape follows from the entries alone, never from the order
//! in which they came: equal maps have equal names.
//!
//! A [`Snapshot`] is two such maps: members (`m.room.member`) and all other state, so that the
//! latter can be listed without touching 100,000 members.
//!
//! Nothing here reads storage: a [`NodeSource`] gives the nodes that are loaded; where one is not,
//! the answer is [`Missing`] with all the nodes known to be needed. Load them and call again.

mod build;
mod compare;
mod disagree;
mod node;
mod read;
mod side;
mod snapshot;

pub use build::{Update, update};
pub use compare::{Difference, diff};
pub use disagree::{Disagreement, Holders, disagreements};
pub use node::{BadNode, Children, Node, NodeId};
pub use read::{entries, get, get_many, len};
pub use snapshot::{Change, Part, Snapshot, SnapshotId, SnapshotUpdate};

use std::collections::HashMap;

/// Nodes that have to be loaded first.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} tree nodes are not loaded", .0.len())]
pub struct Missing(pub Vec<NodeId>);

/// Gives the nodes that are at hand.
pub trait NodeSource {
    /// The node of this name, or nothing if it is not loaded. Never asked for [`NodeId::EMPTY`].
    fn node(&self, id: &NodeId) -> Option<Node>;
}

impl NodeSource for HashMap<NodeId, Node> {
    fn node(&self, id: &NodeId) -> Option<Node> {
        self.get(id).cloned()
    }
}

impl<S: NodeSource> NodeSource for &S {
    fn node(&self, id: &NodeId) -> Option<Node> {
        (**self).node(id)
    }
}

/// Most entries of a leaf; a subtree with more is split.
const LEAF_MAX: usize = 64;
/// Bits of the mixed key that choose the child on each level. Three keep both the bytes a change
/// writes and the memory of many snapshots small; the bench `tree` measures it.
const LEVEL_BITS: u32 = 3;
/// Children of an inner node.
const FANOUT: usize = 1 << LEVEL_BITS;

/// The child that holds `key`, `level` levels below the root.
fn slot(key: i64, level: u32) -> usize {
    // An invertible mix (splitmix64's), so that different keys part at some level.
    let mut mixed = key.cast_unsigned().wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^= mixed >> 31;
    let shifted = mixed.checked_shr(level * LEVEL_BITS).unwrap_or(0);
    usize::try_from(shifted).unwrap_or(usize::MAX) & (FANOUT - 1)
}

/// Collects what is missing while a walk goes on.
struct Walk<'a, S> {
    source: &'a S,
    missing: Vec<NodeId>,
}

impl<'a, S: NodeSource> Walk<'a, S> {
    fn new(source: &'a S) -> Self {
        Self { source, missing: Vec::new() }
    }

    /// The node, noted as missing if it is not loaded.
    fn node(&mut self, id: NodeId) -> Option<Node> {
        if id == NodeId::EMPTY {
            return Some(Node::empty());
        }
        let node = self.source.node(&id);
        if node.is_none() {
            self.missing.push(id);
        }
        node
    }

    fn end<T>(self, value: T) -> Result<T, Missing> {
        if self.missing.is_empty() { Ok(value) } else { Err(Missing(self.missing)) }
    }
}
