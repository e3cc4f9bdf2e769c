//! Reading a tree.

use super::{Missing, Node, NodeId, NodeSource, Walk, node::Content, slot};

/// The value of a key, or nothing if the map has none.
///
/// # Errors
/// When a node on the path is not loaded.
pub fn get(source: &impl NodeSource, root: NodeId, key: i64) -> Result<Option<i64>, Missing> {
    let mut id = root;
    for level in 0.. {
        if id == NodeId::EMPTY {
            return Ok(None);
        }
        let node = source.node(&id).ok_or_else(|| Missing(vec![id]))?;
        match node.inner_child(slot(key, level)) {
            Some(child) => id = child,
            None => return Ok(node.leaf_get(key)),
        }
    }
    Ok(None)
}

/// The values of several keys, in their order. What is missing is told for all of them at once.
///
/// # Errors
/// When nodes are not loaded.
pub fn get_many(source: &impl NodeSource, root: NodeId, keys: &[i64]) -> Result<Vec<Option<i64>>, Missing> {
    let mut missing = Vec::new();
    let mut values = Vec::with_capacity(keys.len());
    for key in keys {
        match get(source, root, *key) {
            Ok(value) => values.push(value),
            Err(Missing(ids)) => missing.extend(ids),
        }
    }
    if missing.is_empty() {
        return Ok(values);
    }
    missing.sort_unstable();
    missing.dedup();
    Err(Missing(missing))
}

/// All entries, by rising key.
///
/// # Errors
/// When nodes are not loaded.
pub fn entries(source: &impl NodeSource, root: NodeId) -> Result<Vec<(i64, i64)>, Missing> {
    let mut walk = Walk::new(source);
    let mut all = Vec::new();
    collect(&mut walk, root, &mut all);
    all.sort_unstable();
    walk.end(all)
}

/// Number of entries.
///
/// # Errors
/// When the root is not loaded.
pub fn len(source: &impl NodeSource, root: NodeId) -> Result<usize, Missing> {
    let mut walk = Walk::new(source);
    let count = walk.node(root).map_or(0, |node| count(&node));
    walk.end(count)
}

pub(super) fn count(node: &Node) -> usize {
    match node.content() {
        Content::Leaf(entries) => entries.len(),
        Content::Inner(inner) => inner.total,
        Content::Snapshot(..) => 0,
    }
}

/// Gather all entries below a node, in no order.
pub(super) fn collect<S: NodeSource>(walk: &mut Walk<'_, S>, id: NodeId, out: &mut Vec<(i64, i64)>) {
    if id == NodeId::EMPTY {
        return;
    }
    match walk.node(id).map(|node| node.content()) {
        Some(Content::Leaf(entries)) => out.extend(entries),
        Some(Content::Inner(inner)) => {
            for child in inner.children {
                collect(walk, child, out);
            }
        }
        Some(Content::Snapshot(..)) | None => {}
    }
}
