//! What any number of trees disagree on, at the cost of their different parts, not of all pairs.

use std::{collections::HashMap, sync::Arc};

use super::{
    FANOUT, Missing, NodeId, NodeSource, Walk,
    side::{Opened, Side, open, sides},
};

/// A key on which not all trees agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disagreement {
    /// The key.
    pub key: i64,
    /// The value that all other trees have; `None` if they lack the key.
    pub usual: Option<i64>,
    /// Each other value (`None`: no value), and the trees that have it, by their place among the roots.
    pub others: Vec<(Option<i64>, Holders)>,
}

/// Trees, by their places, in no order.
pub type Holders = Arc<[u32]>;

/// The keys on which these trees do not agree, by rising key. A part that several trees have in common is read once.
///
/// # Errors
/// When nodes are not loaded.
pub fn disagreements(source: &impl NodeSource, roots: &[NodeId]) -> Result<Vec<Disagreement>, Missing> {
    let mut walk = Walk::new(source);
    let mut places: HashMap<NodeId, Vec<u32>> = HashMap::new();
    for (place, root) in (0..).zip(roots) {
        places.entry(*root).or_default().push(place);
    }
    let mut groups: Vec<Group> =
        places.into_iter().map(|(root, places)| Group { side: Side::Stored(root), holders: places.into() }).collect();
    // The greatest group is the one that need not be carried along.
    groups.sort_unstable_by_key(|group| std::cmp::Reverse((group.holders.len(), group.holders.first().copied())));
    let mut groups = groups.into_iter();
    let mut found = Vec::new();
    if let Some(usual) = groups.next() {
        part(&mut walk, usual.side, groups.collect(), 0, &mut found);
    }
    found.sort_unstable_by_key(|disagreement: &Disagreement| disagreement.key);
    walk.end(found)
}

/// Trees that have the same in this place.
struct Group {
    side: Side,
    holders: Holders,
}

fn part<S: NodeSource>(
    walk: &mut Walk<'_, S>,
    usual: Side,
    others: Vec<Group>,
    level: u32,
    found: &mut Vec<Disagreement>,
) {
    if others.is_empty() {
        return;
    }
    // Open all before giving up on any, so that all missing nodes are known.
    let usual = open(walk, usual);
    let others: Vec<Option<(Opened, Holders)>> =
        others.into_iter().map(|group| Some((open(walk, group.side)?, group.holders))).collect();
    let (Some(usual), Some(others)) = (usual, others.into_iter().collect::<Option<Vec<_>>>()) else { return };
    if let Some((usual, others)) = leaves(&usual, &others) {
        return merge(usual, &others, found);
    }
    let usual = sides(usual, level);
    let mut slots: [HashMap<Side, Vec<Holders>>; FANOUT] = Default::default();
    for (opened, holders) in others {
        for ((side, usual), slot) in sides(opened, level).into_iter().zip(&usual).zip(&mut slots) {
            if side != *usual {
                slot.entry(side).or_default().push(Arc::clone(&holders));
            }
        }
    }
    for (usual, others) in usual.into_iter().zip(slots) {
        let others = others.into_iter().map(|(side, holders)| Group { side, holders: together(holders) });
        part(walk, usual, others.collect(), level + 1, found);
    }
}

type Leaf<'a> = &'a [(i64, i64)];

fn leaves<'a>(usual: &'a Opened, others: &'a [(Opened, Holders)]) -> Option<(Leaf<'a>, Vec<(Leaf<'a>, &'a Holders)>)> {
    let leaf = |opened: &'a Opened| match opened {
        Opened::Entries(entries) => Some(entries.as_slice()),
        Opened::Inner(_) => None,
    };
    let others = others.iter().map(|(opened, holders)| Some((leaf(opened)?, holders)));
    Some((leaf(usual)?, others.collect::<Option<Vec<_>>>()?))
}

fn merge(usual: Leaf<'_>, others: &[(Leaf<'_>, &Holders)], found: &mut Vec<Disagreement>) {
    let usual: HashMap<i64, i64> = usual.iter().copied().collect();
    let mut keys: HashMap<i64, HashMap<Option<i64>, Vec<Holders>>> = HashMap::new();
    for (entries, holders) in others {
        let mut same = 0;
        for (key, value) in *entries {
            if usual.get(key) == Some(value) {
                same += 1;
            } else {
                keys.entry(*key).or_default().entry(Some(*value)).or_default().push(Arc::clone(holders));
            }
        }
        if same < usual.len() {
            let own: HashMap<i64, i64> = entries.iter().copied().collect();
            for key in usual.keys().filter(|key| !own.contains_key(key)) {
                keys.entry(*key).or_default().entry(None).or_default().push(Arc::clone(holders));
            }
        }
    }
    found.extend(keys.into_iter().map(|(key, values)| {
        let mut others: Vec<_> = values.into_iter().map(|(value, holders)| (value, together(holders))).collect();
        others.sort_unstable_by_key(|(value, _)| *value);
        Disagreement { key, usual: usual.get(&key).copied(), others }
    }));
}

fn together(mut holders: Vec<Holders>) -> Holders {
    match holders.pop() {
        Some(only) if holders.is_empty() => only,
        last => holders.iter().chain(&last).flat_map(|holders| holders.iter().copied()).collect(),
    }
}
