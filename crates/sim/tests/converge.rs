//! Whatever happens on the way, in the end all nodes agree, and nothing that was acknowledged is gone.
//!
//! A failure prints its seed; `SAMTAL_SIM_SEEDS=from..to` runs others, `SAMTAL_SIM_LOG=debug` shows what the nodes say, and
//! `SAMTAL_SIM_HISTORY=1` what each of them made of each event.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;
use ruma::RoomVersionId;
use samtal_sim::{Options, Weather, World};

fn seeds(usual: std::ops::Range<u64>) -> std::ops::Range<u64> {
    let wanted = std::env::var("SAMTAL_SIM_SEEDS").ok();
    let parse = |text: &str| {
        let (from, to) = text.split_once("..")?;
        Some(from.parse().ok()?..to.parse().ok()?)
    };
    wanted.and_then(|text| parse(&text)).unwrap_or(usual)
}

/// The first test to come here starts the log, if one is wanted.
fn log() {
    static LOG: std::sync::OnceLock<Option<samtal_telemetry::LogControl>> = std::sync::OnceLock::new();
    LOG.get_or_init(|| {
        let level = match std::env::var("SAMTAL_SIM_LOG").ok()?.as_str() {
            "debug" => samtal_telemetry::Level::Debug,
            _ => samtal_telemetry::Level::Info,
        };
        Some(samtal_telemetry::log::start(samtal_telemetry::Format::Text, level, samtal_kit::Clock::system()))
    });
}

/// What came of a world: every request that went over the network, every event with what each node made of it.
#[derive(Debug, PartialEq)]
struct Outcome {
    trace: Vec<String>,
    history: String,
    deeds: usize,
}

fn run(options: Options, weather: Weather, count: usize) -> Outcome {
    log();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(async {
        let mut world = World::new(options).await;
        world.live(count, weather).await;
        if let Err(what) = world.heal().await {
            if std::env::var_os("SAMTAL_SIM_HISTORY").is_some() {
                println!("{}", world.history().await);
            }
            panic!("{what}");
        }
        let outcome = Outcome { trace: world.trace(), history: world.history().await, deeds: world.deeds() };
        world.end().await;
        outcome
    })
}

/// Runs each seed's world, as many at once as there are processors, and says which of them failed.
fn each(seeds: std::ops::Range<u64>, test: impl Fn(u64) + Sync) {
    let next = AtomicU64::new(seeds.start);
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    if catch_unwind(AssertUnwindSafe(|| test(seed))).is_err() {
                        failed.lock().push(seed);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    assert!(failed.is_empty(), "these seeds failed: {failed:?}");
}

fn options(seed: u64) -> Options {
    let version = [RoomVersionId::V6, RoomVersionId::V10, RoomVersionId::V11, RoomVersionId::V12];
    let version = version[usize::try_from(seed % 4).unwrap()].clone();
    Options {
        seed,
        nodes: 2 + usize::try_from(seed % 3).unwrap(),
        rooms: 1 + usize::try_from(seed % 2).unwrap(),
        version,
        wild: false,
        complete: true,
    }
}

fn wild(seed: u64) -> Options {
    // Who is out of a room need not know what is said there.
    Options { wild: true, complete: false, ..options(seed) }
}

#[test]
fn nodes_agree_after_a_quiet_day() {
    each(seeds(0..20), |seed| {
        let deeds = run(options(seed), Weather::FAIR, 30).deeds;
        assert!(deeds > 10, "seed {seed}: only {deeds} deeds");
    });
}

#[test]
fn nodes_agree_and_have_everything_after_a_bad_day() {
    each(seeds(100..220), |seed| {
        run(options(seed), Weather::FOUL, 60);
    });
}

#[test]
fn nodes_agree_when_people_come_and_go() {
    each(seeds(200..320), |seed| {
        run(wild(seed), Weather::FOUL, 60);
    });
}

#[test]
fn one_seed_is_one_history() {
    each(seeds(1..7), |seed| {
        let once = || run(options(seed), Weather::FOUL, 40);
        assert!(once() == once(), "seed {seed} came out differently");
        let once = || run(wild(seed), Weather::FOUL, 40);
        assert!(once() == once(), "wild seed {seed} came out differently");
    });
}
