//! What a state change costs in small and large rooms, and how much memory many states of one room
//! take. To reach: a change with 100,000 members costs less than three times one with 100; 1,000
//! successive states take less than twice the memory of one.

#![allow(missing_docs, clippy::unwrap_used)]

use std::{collections::HashMap, hint::black_box};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use samtal_state::{
    Node, NodeId, Part, Snapshot,
    tree::{Change, SnapshotUpdate},
};

type Store = HashMap<NodeId, Node>;

/// Numbers without a pattern, the same in every run (a linear congruence).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> i64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % limit).cast_signed()
    }
}

/// A room on a server that knows ten million state keys and a hundred million events.
fn room(members: usize, numbers: &mut Numbers) -> (Store, Snapshot, Vec<i64>) {
    let keys: Vec<i64> = (0..members).map(|_| numbers.below(10_000_000)).collect();
    let mut changes: Vec<Change> = keys
        .iter()
        .map(|key| Change { part: Part::Members, key: *key, event: Some(numbers.below(100_000_000)) })
        .collect();
    changes.extend((0..20).map(|n| Change { part: Part::Other, key: n, event: Some(n * 1000) }));
    let mut store = Store::new();
    let done = Snapshot::EMPTY.update(&store, &changes).unwrap();
    store.extend(done.nodes);
    (store, done.snapshot, keys)
}

fn change(store: &Store, snapshot: &Snapshot, key: i64, event: i64) -> SnapshotUpdate {
    let change = Change { part: Part::Members, key, event: Some(event) };
    snapshot.update(store, &[change]).unwrap()
}

/// Bytes of the nodes as held in memory: theirs, the counts beside them, and the entry in a table.
fn weight(store: &Store) -> usize {
    store.values().map(|node| node.bytes().len() + 16 + 8 + size_of::<(NodeId, Node)>()).sum()
}

fn changes(c: &mut Criterion) {
    let mut group = c.benchmark_group("one state change");
    for members in [100, 1_000, 10_000, 100_000] {
        let mut numbers = Numbers(7);
        let (store, snapshot, keys) = room(members, &mut numbers);
        group.bench_function(format!("{members} members"), |b| {
            b.iter_batched(
                || (keys[numbers.below(members as u64) as usize], numbers.below(100_000_000)),
                |(key, event)| black_box(change(&store, &snapshot, key, event)),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn reads(c: &mut Criterion) {
    let mut numbers = Numbers(11);
    let (mut store, before, keys) = room(100_000, &mut numbers);
    let done = change(&store, &before, keys[5], 1);
    store.extend(done.nodes);
    c.bench_function("look up one of 100,000 members", |b| {
        b.iter(|| before.get(&store, Part::Members, black_box(keys[77])).unwrap());
    });
    c.bench_function("difference of two states with 100,000 members", |b| {
        b.iter(|| before.diff(&store, &done.snapshot, Part::Members).unwrap());
    });
    c.bench_function("list 100,000 members", |b| {
        b.iter(|| before.entries(&store, Part::Members).unwrap().len());
    });
    c.bench_function("list other state beside 100,000 members", |b| {
        b.iter(|| before.entries(&store, Part::Other).unwrap().len());
    });
}

fn memory(_: &mut Criterion) {
    let mut numbers = Numbers(13);
    let (mut store, mut snapshot, keys) = room(100_000, &mut numbers);
    let (nodes, one) = (store.len(), weight(&store));
    for _ in 0..1_000 {
        let key = keys[numbers.below(100_000) as usize];
        let done = change(&store, &snapshot, key, numbers.below(100_000_000));
        snapshot = done.snapshot;
        store.extend(done.nodes);
    }
    let all = weight(&store);
    println!(
        "memory with 100,000 members: one state {one} bytes in {nodes} nodes; \
         1,000 successive states {all} bytes in {} nodes: {:.2} times\n",
        store.len(),
        all as f64 / one as f64
    );
}

criterion_group! {
    name = benches;
    config = Criterion::default().without_plots();
    targets = changes, reads, memory
}
criterion_main!(benches);
