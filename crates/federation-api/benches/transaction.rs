//! What it takes to receive a transaction of fifty events, from the request to the answer: signatures, hashes, authorisation and
//! the durable write, on a SQLite file.

#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types
)]

#[path = "../tests/hostile/peer.rs"]
mod peer;
#[path = "../tests/it/world.rs"]
mod world;

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use http::StatusCode;
use ruma::{OwnedEventId, RoomVersionId};
use samtal_db::testing::{Directory, sqlite};
use samtal_ops::Settings;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::{
    peer::{Membership, Peer, id_of},
    world::World,
};

/// As many as the specification lets a transaction have.
const EVENTS: usize = 50;

/// The next events of a conversation: each follows the one before, or all follow the last one, as if said at once.
fn events(peer: &Peer, member: &Membership, last: &mut OwnedEventId, is_chain: bool) -> Vec<Value> {
    let mut events = Vec::with_capacity(EVENTS);
    let mut prev = last.clone();
    for number in 0..EVENTS {
        let event = member.message(peer, std::slice::from_ref(&prev), &format!("{number} after {last}"));
        if is_chain {
            prev = id_of(&event, member.rules);
        }
        events.push(event);
    }
    *last = id_of(events.last().unwrap(), member.rules);
    events
}

fn receive(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let mut group = criterion.benchmark_group("a transaction of 50 events");
    group.throughput(Throughput::Elements(EVENTS as u64)).sample_size(20).measurement_time(Duration::from_secs(5));
    for (name, is_chain) in [("one after the other", true), ("all at once", false)] {
        let directory = Directory::new();
        let (world, node, peer, member) = runtime.block_on(async {
            let world = World::new();
            let node = world.node_on("node.example", Settings::default(), &sqlite(&directory)).await;
            let peer = Peer::new(&world, "peer.example");
            let room = node.public_room(RoomVersionId::V11).await;
            let member = peer.join(&node, &room).await;
            (world, node, peer, member)
        });
        let mut last = member.join_id();
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|rounds| {
                let mut time = Duration::ZERO;
                for _ in 0..rounds {
                    let events = events(&peer, &member, &mut last, is_chain);
                    let begun = Instant::now();
                    let (status, answer) = runtime.block_on(peer.send(&node, &events, &[]));
                    time += begun.elapsed();
                    assert_eq!(status, StatusCode::OK);
                    let refused = answer["pdus"].as_object().unwrap().values().find(|pdu| pdu.get("error").is_some());
                    assert_eq!(refused, None);
                }
                time
            });
        });
        assert!(runtime.block_on(node.has(&last)), "they were taken in");
        drop(world);
    }
}

criterion_group!(benches, receive);
criterion_main!(benches);
