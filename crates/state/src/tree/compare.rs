//! What differs between two trees, at the cost of the difference.

use super::{
    Missing, NodeId, NodeSource, Walk,
    read::collect,
    side::{Opened, Side, open, sides},
};

/// One key whose value differs: added (no `before`), removed (no `after`) or changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// The key.
    pub key: i64,
    /// Its value in the first map.
    pub before: Option<i64>,
    /// Its value in the second map.
    pub after: Option<i64>,
}

/// The keys whose values differ, by rising key. Equal subtrees are never read.
///
/// # Errors
/// When nodes are not loaded.
pub fn diff(source: &impl NodeSource, before: NodeId, after: NodeId) -> Result<Vec<Difference>, Missing> {
    let mut walk = Walk::new(source);
    let mut differences = Vec::new();
    compare(&mut walk, Side::Stored(before), Side::Stored(after), 0, &mut differences);
    differences.sort_unstable();
    walk.end(differences)
}

fn compare<S: NodeSource>(walk: &mut Walk<'_, S>, before: Side, after: Side, level: u32, out: &mut Vec<Difference>) {
    match (&before, &after) {
        (Side::Stored(one), Side::Stored(other)) if one == other => return,
        // Only one side has anything: no need to go slot by slot.
        (Side::Stored(NodeId::EMPTY), _) => return list(walk, after, false, out),
        (_, Side::Stored(NodeId::EMPTY)) => return list(walk, before, true, out),
        _ => {}
    }
    // Open both before giving up on either, so that all missing nodes are known.
    let (before, after) = (open(walk, before), open(walk, after));
    match (before, after) {
        (Some(Opened::Entries(before)), Some(Opened::Entries(after))) => {
            merge(&before, &after, out);
        }
        (Some(before), Some(after)) => {
            let (before, after) = (sides(before, level), sides(after, level));
            for (before, after) in before.into_iter().zip(after) {
                compare(walk, before, after, level + 1, out);
            }
        }
        _ => {}
    }
}

fn list<S: NodeSource>(walk: &mut Walk<'_, S>, side: Side, is_before: bool, out: &mut Vec<Difference>) {
    let mut entries = Vec::new();
    match side {
        Side::Stored(id) => collect(walk, id, &mut entries),
        Side::Entries(own) => entries = own,
    }
    out.extend(entries.into_iter().map(|(key, value)| {
        let value = Some(value);
        if is_before {
            Difference { key, before: value, after: None }
        } else {
            Difference { key, before: None, after: value }
        }
    }));
}

fn merge(before: &[(i64, i64)], after: &[(i64, i64)], out: &mut Vec<Difference>) {
    let mut after = after.iter().copied().peekable();
    for (key, value) in before {
        while let Some((added, value)) = after.next_if(|entry| entry.0 < *key) {
            out.push(Difference { key: added, before: None, after: Some(value) });
        }
        let now = after.next_if(|entry| entry.0 == *key).map(|entry| entry.1);
        if now != Some(*value) {
            out.push(Difference { key: *key, before: Some(*value), after: now });
        }
    }
    out.extend(after.map(|(key, value)| Difference { key, before: None, after: Some(value) }));
}
