//! Whatever happens on the way, in the end all nodes agree, and nothing that was acknowledged is gone.
//!
//! A failure prints its seed; `SAMTAL_SIM_SEEDS=from..to` runs others, and `SAMTAL_SIM_LOG=debug` shows what the nodes say.

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

fn run(options: Options, weather: Weather, count: usize) -> (Vec<String>, usize) {
    log();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(async {
        let mut world = World::new(options).await;
        world.live(count, weather).await;
        if let Err(what) = world.heal().await {
            panic!("{what}");
        }
        let outcome = (world.trace(), world.deeds());
        world.end().await;
        outcome
    })
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
        complete: false,
    }
}

#[test]
fn nodes_agree_after_a_quiet_day() {
    for seed in seeds(0..20) {
        let (_, deeds) = run(Options { complete: true, ..options(seed) }, Weather::FAIR, 30);
        assert!(deeds > 10, "seed {seed}: only {deeds} deeds");
    }
}

#[test]
fn nodes_agree_after_a_bad_day() {
    for seed in seeds(100..200) {
        run(options(seed), Weather::FOUL, 60);
    }
}

#[test]
fn nodes_agree_when_people_come_and_go() {
    for seed in seeds(200..300) {
        run(Options { wild: true, ..options(seed) }, Weather::FOUL, 60);
    }
}

#[test]
fn one_seed_is_one_history() {
    let once = || run(Options { nodes: 3, ..options(7) }, Weather::FOUL, 40).0;
    assert_eq!(once(), once());
}
