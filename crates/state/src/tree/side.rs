//! What stands in one place of a tree, for walks through several trees at once whose leaves are not equally deep.

use super::{FANOUT, NodeId, NodeSource, Walk, node::Content, slot};

/// What is in one place of a tree: a subtree, or the part of a leaf that would be in it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) enum Side {
    Stored(NodeId),
    Entries(Vec<(i64, i64)>),
}

/// A place, read.
pub(super) enum Opened {
    Inner([NodeId; FANOUT]),
    Entries(Vec<(i64, i64)>),
}

/// Reads a place; `None` when its node is not loaded, which the walk then knows.
pub(super) fn open<S: NodeSource>(walk: &mut Walk<'_, S>, side: Side) -> Option<Opened> {
    match side {
        Side::Entries(entries) => Some(Opened::Entries(entries)),
        Side::Stored(id) => match walk.node(id)?.content() {
            Content::Leaf(entries) => Some(Opened::Entries(entries)),
            Content::Inner(inner) => Some(Opened::Inner(inner.children)),
            Content::Snapshot(..) => None,
        },
    }
}

/// The places below.
pub(super) fn sides(opened: Opened, level: u32) -> [Side; FANOUT] {
    match opened {
        Opened::Inner(children) => children.map(Side::Stored),
        Opened::Entries(entries) => {
            let mut parts: [Vec<(i64, i64)>; FANOUT] = Default::default();
            for entry in entries {
                parts[slot(entry.0, level)].push(entry);
            }
            parts.map(|part| if part.is_empty() { Side::Stored(NodeId::EMPTY) } else { Side::Entries(part) })
        }
    }
}
