//! What the room engine does on a SQLite file, every commit durable: messages of 64 senders into one room and over 64
//! rooms, a state change in rooms of 100 and of 100,000 members, and what a message takes on disk and of the processor.
//!
//! To reach on two cores: more than 5,000 events/s into one room and 8,000/s over 64; at most 0.2 ms of CPU and 1,000
//! bytes an event; a state change with 100,000 members less than three times one with 100.

#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId, RoomVersionId};
use samtal_db::{
    Db,
    testing::{Directory, open, sqlite},
};
use samtal_event::Draft;
use samtal_keyring::{OwnKey, OwnKeys};
use samtal_kit::{Clock, Random, Tasks};
use samtal_room::{LocalDraft, NewRoom, Options, Rooms, Txn};
use tokio::runtime::Runtime;

const SENDERS: usize = 64;
const NAME: &str = "bench.example";

/// An engine on a file that goes with it.
struct Engine {
    directory: Directory,
    db: Db,
    rooms: Rooms,
}

impl Engine {
    async fn new() -> Self {
        let directory = Directory::new();
        let db = open(&sqlite(&directory), &[samtal_room::SCHEMA]).await;
        let name: OwnedServerName = NAME.try_into().unwrap();
        let keys = Arc::new(OwnKeys::new(vec![OwnKey::from_seed("ed25519:a", [1; 32], 0, None).unwrap()]).unwrap());
        let options = Options {
            name,
            signing_keys: Arc::new(move || Arc::clone(&keys)),
            clock: Clock::system(),
            random: Random::seeded(1),
            tasks: Tasks::new(),
        };
        let rooms = Rooms::open(db.clone(), options).await.unwrap();
        Self { directory, db, rooms }
    }

    /// A public room of the first `members` users.
    async fn room(&self, members: usize) -> OwnedRoomId {
        let owner = user(0);
        let new = NewRoom {
            version: RoomVersionId::V12,
            creator: owner.clone(),
            create: state("m.room.create", "", r#"{"room_version":"12"}"#),
            events: vec![
                state("m.room.member", owner.as_str(), r#"{"membership":"join"}"#),
                state("m.room.power_levels", "", r#"{"users":{}}"#),
                state("m.room.join_rules", "", r#"{"join_rule":"public"}"#),
                state("m.room.history_visibility", "", r#"{"history_visibility":"shared"}"#),
                state("m.room.name", "", r#"{"name":"Bench"}"#),
            ],
            alias: None,
            published: false,
        };
        let room = self.rooms.create(new).await.unwrap();
        in_parallel(SENDERS, members - 1, |number| {
            let (rooms, room, user) = (self.rooms.clone(), room.clone(), user(number + 1));
            async move {
                let join =
                    state("m.room.member", user.as_str(), r#"{"displayname":"One of many","membership":"join"}"#);
                rooms.send_one(&room, LocalDraft::new(user, join)).await.unwrap();
            }
        })
        .await;
        room
    }

    /// `count` messages of the senders, spread over the rooms, each sender waiting for the answer before the next.
    async fn messages(&self, ids: &[OwnedRoomId], count: usize, run: u64) {
        in_parallel(SENDERS, count, |number| {
            let (rooms, sender) = (self.rooms.clone(), number % SENDERS);
            let room_id = ids.get(sender % ids.len()).cloned().unwrap();
            async move {
                let user = if ids.len() == 1 { user(sender) } else { user(0) };
                let room = rooms.room(&room_id).await.unwrap();
                let txn = Txn::name(&user, "QTESTDEVIC", &room, "m.room.message", &format!("m{run}.{number}"));
                let draft = LocalDraft { txn: Some(txn), ..LocalDraft::new(user, message()) };
                rooms.send_one(&room_id, draft).await.unwrap();
            }
        })
        .await;
    }

    async fn topic(&self, room: &OwnedRoomId, number: u64) {
        let topic = state("m.room.topic", "", &format!(r#"{{"topic":"Topic {number}"}}"#));
        self.rooms.send_one(room, LocalDraft::new(user(0), topic)).await.unwrap();
    }
}

/// Runs the numbers up to `count`, `lanes` at a time, each lane one after the other.
async fn in_parallel<F, Fut>(lanes: usize, count: usize, work: F)
where
    F: Fn(usize) -> Fut,
    Fut: Future<Output = ()>,
{
    futures_util::future::join_all((0..lanes).map(|lane| {
        let work = &work;
        async move {
            for number in (lane..count).step_by(lanes) {
                work(number).await;
            }
        }
    }))
    .await;
}

fn user(number: usize) -> OwnedUserId {
    format!("@user{number}:{NAME}").try_into().unwrap()
}

fn state(event_type: &str, state_key: &str, content: &str) -> Draft {
    Draft::from_text(event_type.into(), Some(state_key.to_owned()), content).unwrap()
}

fn message() -> Draft {
    let content = r#"{"body":"The minutes of the meeting are in the shared folder; please read them before Thursday.","msgtype":"m.text"}"#;
    Draft::from_text("m.room.message".into(), None, content).unwrap()
}

/// CPU time of this process so far.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

fn file_bytes(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |found| found.len())
}

/// What a message takes on disk and of the processor: printed, since it is counted and not timed.
async fn count_message(engine: &Engine, ids: &[OwnedRoomId], what: &str) {
    const COUNT: usize = 10_000;
    let path = engine.directory.path("samtal.db");
    let settled = engine.directory.path("before.db");
    engine.db.backup(settled.clone()).await.unwrap();
    let disk = file_bytes(&settled);
    let (cpu_before, start) = (cpu(), Instant::now());
    engine.messages(ids, COUNT, u64::MAX).await;
    let (cpu, elapsed) = (cpu() - cpu_before, start.elapsed());
    let settled = engine.directory.path(&format!("after-{what}.db"));
    engine.db.backup(settled.clone()).await.unwrap();
    println!(
        "{what}: {:.0} events/s, {:.3} ms of CPU each, {} bytes each when packed (file now {} with a log of {})",
        COUNT as f64 / elapsed.as_secs_f64(),
        cpu.as_secs_f64() * 1_000.0 / COUNT as f64,
        (file_bytes(&settled) - disk) / COUNT as u64,
        file_bytes(&path),
        file_bytes(&engine.directory.path("samtal.db-wal")),
    );
}

fn send(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let mut group = criterion.benchmark_group("send");
    group.throughput(Throughput::Elements(1)).sample_size(10).measurement_time(Duration::from_secs(10));
    for (name, count) in [("one_room", 1), ("64_rooms", 64)] {
        let (engine, ids) = runtime.block_on(async {
            let engine = Engine::new().await;
            let mut ids = Vec::new();
            for _ in 0..count {
                ids.push(engine.room(if count == 1 { SENDERS } else { 1 }).await);
            }
            count_message(&engine, &ids, name).await;
            (engine, ids)
        });
        let mut run = 0;
        group.bench_function(name, |bench| {
            bench.iter_custom(|count| {
                run += 1;
                // A sample of few events would measure how lanes start and end.
                let (start, events) = (Instant::now(), (count as usize).max(SENDERS * 16));
                runtime.block_on(engine.messages(&ids, events, run));
                start.elapsed().mul_f64(count as f64 / events as f64)
            });
        });
        runtime.block_on(engine.db.close());
    }
    group.finish();
}

fn state_change(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let mut group = criterion.benchmark_group("state_change");
    group.sample_size(20).measurement_time(Duration::from_secs(5));
    for members in [100, 100_000] {
        let (engine, room) = runtime.block_on(async {
            let engine = Engine::new().await;
            let (cpu_before, start) = (cpu(), Instant::now());
            let room = engine.room(members).await;
            let (cpu, elapsed) = (cpu() - cpu_before, start.elapsed());
            println!(
                "{members} joins: {:.0} events/s, {:.3} ms of CPU each",
                members as f64 / elapsed.as_secs_f64(),
                cpu.as_secs_f64() * 1_000.0 / members as f64
            );
            (engine, room)
        });
        let mut number = 0;
        group.bench_function(members.to_string(), |bench| {
            bench.iter(|| {
                number += 1;
                runtime.block_on(engine.topic(&room, number));
            });
        });
        runtime.block_on(engine.db.close());
    }
    group.finish();
}

criterion_group!(benches, send, state_change);
criterion_main!(benches);
