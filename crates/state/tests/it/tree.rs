//! The persistent map behaves as a map, is named by its entries alone, and costs what changes.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proptest::prelude::*;
use samtal_state::{
    Missing, Node, NodeId, NodeSource, Part, Snapshot, SnapshotId,
    tree::{Change, Difference, diff, disagreements, entries, get, get_many, len, update},
};

type Store = HashMap<NodeId, Node>;
type Changes = Vec<(i64, Option<i64>)>;

/// Change a tree and keep its new nodes, as read back from storage.
fn apply(store: &mut Store, root: NodeId, changes: &[(i64, Option<i64>)]) -> NodeId {
    let done = update(store, root, changes).unwrap();
    for (id, node) in done.nodes {
        let stored = Node::from_bytes(node.bytes().to_vec()).unwrap();
        assert_eq!(stored.id(), id);
        store.insert(id, stored);
    }
    done.root
}

fn model(changes: &[(i64, Option<i64>)]) -> BTreeMap<i64, i64> {
    let mut map = BTreeMap::new();
    for (key, value) in changes {
        match value {
            Some(value) => map.insert(*key, *value),
            None => map.remove(key),
        };
    }
    map
}

fn key() -> impl Strategy<Value = i64> {
    prop_oneof![0..400_i64, any::<i64>(), Just(i64::MAX), Just(i64::MIN)]
}

fn changes() -> impl Strategy<Value = Changes> {
    prop::collection::vec((key(), prop::option::weighted(0.7, any::<i64>())), 0..600)
}

fn batches() -> impl Strategy<Value = Vec<Changes>> {
    prop::collection::vec(changes(), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(96) })]

    #[test]
    fn it_is_a_map(batches in batches()) {
        let mut store = Store::new();
        let mut root = NodeId::EMPTY;
        for batch in &batches {
            root = apply(&mut store, root, batch);
        }
        let flat: Changes = batches.into_iter().flatten().collect();
        let expected = model(&flat);
        prop_assert_eq!(entries(&store, root).unwrap(), expected.clone().into_iter().collect::<Vec<_>>());
        prop_assert_eq!(len(&store, root).unwrap(), expected.len());
        let keys: Vec<i64> = flat.iter().map(|(key, _)| *key).collect();
        let values: Vec<_> = keys.iter().map(|key| expected.get(key).copied()).collect();
        prop_assert_eq!(get_many(&store, root, &keys).unwrap(), values);
        prop_assert_eq!(root == NodeId::EMPTY, expected.is_empty());
    }

    #[test]
    fn its_name_follows_from_its_entries_alone(batches in batches(), chunk in 1..50_usize) {
        let mut store = Store::new();
        let mut root = NodeId::EMPTY;
        for batch in &batches {
            root = apply(&mut store, root, batch);
        }
        // The same map, put together backwards and in pieces.
        let flat: Changes = batches.into_iter().flatten().collect();
        let mut all: Changes = model(&flat).into_iter().map(|(key, value)| (key, Some(value))).collect();
        all.reverse();
        let mut other = NodeId::EMPTY;
        for part in all.chunks(chunk) {
            other = apply(&mut store, other, part);
        }
        prop_assert_eq!(root, other);
    }

    #[test]
    fn a_difference_names_what_was_added_removed_and_changed(one in changes(), more in changes()) {
        let mut store = Store::new();
        let before = apply(&mut store, NodeId::EMPTY, &one);
        let after = apply(&mut store, before, &more);
        let (old, both) = (model(&one), model(&[one, more].concat()));
        let keys: BTreeSet<i64> = old.keys().chain(both.keys()).copied().collect();
        let expected: Vec<Difference> = keys
            .into_iter()
            .map(|key| Difference { key, before: old.get(&key).copied(), after: both.get(&key).copied() })
            .filter(|difference| difference.before != difference.after)
            .collect();
        prop_assert_eq!(diff(&store, before, after).unwrap(), expected.clone());
        let back: Vec<_> = expected
            .into_iter()
            .map(|Difference { key, before, after }| Difference { key, before: after, after: before })
            .collect();
        prop_assert_eq!(diff(&store, after, before).unwrap(), back);
    }

    #[test]
    fn loading_what_is_missing_leads_to_the_end(one in changes(), more in changes()) {
        let mut store = Store::new();
        let before = apply(&mut store, NodeId::EMPTY, &one);
        let after = apply(&mut store, before, &more);
        let cold = |step: &dyn Fn(&Store) -> Result<(), Missing>| {
            let mut loaded = Store::new();
            for _ in 0..40 {
                match step(&loaded) {
                    Ok(()) => return,
                    Err(Missing(ids)) => {
                        assert!(ids.iter().any(|id| !loaded.contains_key(id)));
                        loaded.extend(ids.into_iter().map(|id| (id, store[&id].clone())));
                    }
                }
            }
            panic!("never has enough");
        };
        cold(&|loaded| {
            let done = update(loaded, before, &more)?;
            assert_eq!(done.root, after);
            Ok(())
        });
        cold(&|loaded| diff(loaded, before, after).map(drop));
        cold(&|loaded| entries(loaded, after).map(drop));
    }

    #[test]
    fn any_stored_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        if let Ok(node) = Node::from_bytes(bytes) {
            let _ = node.children();
            let store = Store::from([(node.id(), node.clone())]);
            let _ = (get(&store, node.id(), 1), entries(&store, node.id()), len(&store, node.id()));
            let _ = update(&store, node.id(), &[(1, Some(1)), (2, None)]);
        }
    }
}

/// A source that counts what is read.
struct Counting<'a>(&'a Store, std::cell::Cell<usize>);

impl NodeSource for Counting<'_> {
    fn node(&self, id: &NodeId) -> Option<Node> {
        self.1.set(self.1.get() + 1);
        self.0.get(id).cloned()
    }
}

fn big(store: &mut Store, count: i64) -> NodeId {
    let all: Changes = (0..count).map(|n| (n * 37, Some(n * 1001))).collect();
    apply(store, NodeId::EMPTY, &all)
}

#[test]
fn one_change_in_a_large_map_makes_a_path_of_nodes_and_no_more() {
    let mut store = Store::new();
    let root = big(&mut store, 100_000);
    for key in [5, 37, 37 * 99_999] {
        let done = update(&store, root, &[(key, Some(-1))]).unwrap();
        assert!(done.nodes.len() <= 6, "{}", done.nodes.len());
        let bytes: usize = done.nodes.iter().map(|(_, node)| node.bytes().len()).sum();
        assert!(bytes < 1500, "{bytes}");
    }
    assert!(update(&store, root, &[(37, Some(1001))]).unwrap().nodes.is_empty());
}

#[test]
fn comparing_two_large_maps_reads_only_where_they_differ() {
    let mut store = Store::new();
    let before = big(&mut store, 100_000);
    let after = apply(&mut store, before, &[(5, Some(1)), (37, None), (74, Some(2))]);
    let counting = Counting(&store, std::cell::Cell::new(0));
    assert_eq!(diff(&counting, before, after).unwrap().len(), 3);
    assert!(counting.1.get() <= 40, "{}", counting.1.get());
}

#[test]
fn a_snapshot_lists_other_state_without_touching_members() {
    let mut store = Store::new();
    let members = (0..10_000).map(|n| Change { part: Part::Members, key: n, event: Some(n) });
    let other = (0..10).map(|n| Change { part: Part::Other, key: n, event: Some(n * 2) });
    let done = Snapshot::EMPTY.update(&store, &members.chain(other).collect::<Vec<_>>()).unwrap();
    store.extend(done.nodes);
    let snapshot = Snapshot::load(&store, done.id).unwrap();
    assert_eq!(snapshot, done.snapshot);
    assert_eq!(SnapshotId::from_slice(&done.id.to_vec()), Some(done.id));
    let counting = Counting(&store, std::cell::Cell::new(0));
    assert_eq!(snapshot.entries(&counting, Part::Other).unwrap().len(), 10);
    assert_eq!(counting.1.get(), 1);
    assert_eq!(snapshot.len(&store, Part::Members).unwrap(), 10_000);
    let keys = [(Part::Other, 3), (Part::Members, 7), (Part::Other, 99), (Part::Members, 8)];
    assert_eq!(snapshot.get_many(&store, &keys).unwrap(), [Some(6), Some(7), None, Some(8)]);
}

#[test]
fn a_state_that_empties_again_has_the_name_of_the_empty_state() {
    let mut store = Store::new();
    let set = Change { part: Part::Members, key: 1, event: Some(1) };
    let done = Snapshot::EMPTY.update(&store, &[set]).unwrap();
    store.extend(done.nodes);
    let unset = Change { event: None, ..set };
    let done = done.snapshot.update(&store, &[unset]).unwrap();
    assert_eq!((done.id, done.nodes.len()), (SnapshotId::EMPTY, 0));
    assert_eq!(Snapshot::load(&store, SnapshotId::EMPTY), Ok(Snapshot::EMPTY));
}

#[test]
fn all_nodes_of_a_snapshot_are_found_from_its_name() {
    let mut store = Store::new();
    let members = (0..1000).map(|n| Change { part: Part::Members, key: n, event: Some(n) });
    let done = Snapshot::EMPTY.update(&store, &members.collect::<Vec<_>>()).unwrap();
    store.extend(done.nodes);
    let mut found = BTreeSet::new();
    let mut waiting = vec![done.id.node_id()];
    while let Some(id) = waiting.pop() {
        if found.insert(id) {
            waiting.extend(store[&id].children().0);
        }
    }
    assert_eq!(found.len(), store.len());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(96) })]

    #[test]
    fn what_many_trees_disagree_on_is_what_comparing_them_key_by_key_tells(
        first in changes(),
        more in prop::collection::vec((any::<prop::sample::Index>(), prop::collection::vec((0..40_i64, prop::option::of(0..3_i64)), 0..20)), 1..80),
    ) {
        let mut store = Store::new();
        let mut roots = vec![apply(&mut store, NodeId::EMPTY, &first)];
        for (from, changes) in more {
            let from = *from.get(&roots);
            roots.push(apply(&mut store, from, &changes));
        }
        let maps: Vec<BTreeMap<i64, i64>> =
            roots.iter().map(|root| entries(&store, *root).unwrap().into_iter().collect()).collect();
        let found = disagreements(&store, &roots).unwrap();
        let keys: BTreeSet<i64> = maps.iter().flat_map(BTreeMap::keys).copied().collect();
        let differ = |key: &i64| maps.iter().any(|map| map.get(key) != maps[0].get(key));
        let expected: Vec<i64> = keys.into_iter().filter(differ).collect();
        prop_assert_eq!(found.iter().map(|found| found.key).collect::<Vec<_>>(), expected);
        for found in found {
            let mut told = vec![found.usual; maps.len()];
            for (value, holders) in &found.others {
                prop_assert_ne!(*value, found.usual);
                for place in holders.iter() {
                    told[*place as usize] = *value;
                }
            }
            prop_assert_eq!(told, maps.iter().map(|map| map.get(&found.key).copied()).collect::<Vec<_>>());
        }
    }
}
