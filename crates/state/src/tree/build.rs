//! Changing a tree: a new root, and the nodes that are new.

use super::{
    FANOUT, LEAF_MAX, Missing, Node, NodeId, NodeSource, Walk,
    node::{Content, Inner},
    read::{collect, count},
    slot,
};

/// The outcome of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// The new tree.
    pub root: NodeId,
    /// Nodes that were not part of the old tree and have to be stored with it. One of them may be
    /// stored already, by another tree that has the same part.
    pub nodes: Vec<(NodeId, Node)>,
}

/// Set (`Some`) and remove (`None`) keys. Of two changes to one key the last counts.
///
/// # Errors
/// When nodes are not loaded.
pub fn update(source: &impl NodeSource, root: NodeId, changes: &[(i64, Option<i64>)]) -> Result<Update, Missing> {
    if changes.is_empty() {
        return Ok(Update { root, nodes: Vec::new() });
    }
    // A stable sort, then the last of each key.
    let mut sorted = changes.to_vec();
    sorted.sort_by_key(|(key, _)| *key);
    sorted.reverse();
    sorted.dedup_by_key(|(key, _)| *key);
    sorted.reverse();

    let mut builder = Builder { walk: Walk::new(source), nodes: Vec::new() };
    let subtree = builder.change(root, 0, &sorted);
    let root = builder.store(subtree, root);
    let nodes = builder.nodes;
    builder.walk.end(Update { root, nodes })
}

/// A subtree that is not stored yet, or that has not changed.
enum Subtree {
    /// At most [`LEAF_MAX`] entries, by rising key.
    Few(Vec<(i64, i64)>),
    /// More than that, in children that are stored already.
    Many(Inner),
}

impl Subtree {
    fn count(&self) -> usize {
        match self {
            Self::Few(entries) => entries.len(),
            Self::Many(inner) => inner.total,
        }
    }
}

struct Builder<'a, S> {
    walk: Walk<'a, S>,
    nodes: Vec<(NodeId, Node)>,
}

impl<S: NodeSource> Builder<'_, S> {
    /// Store a subtree; `before` is what stood in its place.
    fn store(&mut self, subtree: Subtree, before: NodeId) -> NodeId {
        let node = match subtree {
            Subtree::Few(entries) if entries.is_empty() => return NodeId::EMPTY,
            Subtree::Few(entries) => Node::leaf(&entries),
            Subtree::Many(inner) => Node::inner(&inner),
        };
        let id = node.id();
        if id != before {
            self.nodes.push((id, node));
        }
        id
    }

    /// The subtree in `id`'s place after `changes` (by rising key, each key once).
    fn change(&mut self, id: NodeId, level: u32, changes: &[(i64, Option<i64>)]) -> Subtree {
        match self.walk.node(id).map(|node| node.content()) {
            Some(Content::Leaf(entries)) => self.plant(merge(&entries, changes), level),
            Some(Content::Inner(inner)) => self.change_inner(inner, level, changes),
            Some(Content::Snapshot(..)) | None => Subtree::Few(Vec::new()),
        }
    }

    fn change_inner(&mut self, mut inner: Inner, level: u32, changes: &[(i64, Option<i64>)]) -> Subtree {
        let parts = split(changes, level, |(key, _)| *key);
        let mut changed: [Option<Subtree>; FANOUT] = Default::default();
        for (index, part) in parts.iter().enumerate().filter(|(_, part)| !part.is_empty()) {
            let child = inner.children[index];
            let before = if child == NodeId::EMPTY { 0 } else { self.walk.node(child).map_or(0, |node| count(&node)) };
            let subtree = self.change(child, level + 1, part);
            inner.total = (inner.total + subtree.count()).saturating_sub(before);
            changed[index] = Some(subtree);
        }
        if !self.walk.missing.is_empty() {
            // Nothing that follows will be used, but walk on: the caller should hear of all.
            return Subtree::Few(Vec::new());
        }
        if inner.total > LEAF_MAX {
            for (index, subtree) in changed.into_iter().enumerate() {
                if let Some(subtree) = subtree {
                    inner.children[index] = self.store(subtree, inner.children[index]);
                }
            }
            return Subtree::Many(inner);
        }
        // So few are left that they fit in one leaf, hence in one leaf they must be.
        let mut entries = Vec::with_capacity(inner.total);
        for (index, subtree) in changed.into_iter().enumerate() {
            match subtree {
                Some(Subtree::Few(few)) => entries.extend(few),
                Some(Subtree::Many(many)) => {
                    for child in many.children {
                        collect(&mut self.walk, child, &mut entries);
                    }
                }
                None => collect(&mut self.walk, inner.children[index], &mut entries),
            }
        }
        entries.sort_unstable();
        Subtree::Few(entries)
    }

    /// A subtree of these entries (by rising key).
    fn plant(&mut self, entries: Vec<(i64, i64)>, level: u32) -> Subtree {
        if entries.len() <= LEAF_MAX {
            return Subtree::Few(entries);
        }
        let mut children = [NodeId::EMPTY; FANOUT];
        let parts = split(&entries, level, |(key, _)| *key);
        for (child, part) in children.iter_mut().zip(parts) {
            let subtree = self.plant(part, level + 1);
            *child = self.store(subtree, NodeId::EMPTY);
        }
        Subtree::Many(Inner { children, total: entries.len() })
    }
}

/// Share out by slot; the order within each part stays.
fn split<T: Copy>(items: &[T], level: u32, key: impl Fn(&T) -> i64) -> [Vec<T>; FANOUT] {
    let mut parts: [Vec<T>; FANOUT] = Default::default();
    for item in items {
        parts[slot(key(item), level)].push(*item);
    }
    parts
}

/// Entries after changes, both by rising key.
fn merge(entries: &[(i64, i64)], changes: &[(i64, Option<i64>)]) -> Vec<(i64, i64)> {
    let mut merged = Vec::with_capacity(entries.len() + changes.len());
    let mut entries = entries.iter().copied().peekable();
    for (key, value) in changes {
        while let Some(entry) = entries.next_if(|entry| entry.0 < *key) {
            merged.push(entry);
        }
        entries.next_if(|entry| entry.0 == *key);
        merged.extend(value.map(|value| (*key, value)));
    }
    merged.extend(entries);
    merged
}
