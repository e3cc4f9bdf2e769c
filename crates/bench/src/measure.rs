//! Stopwatches, and what the operating system says about the server's process.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Runs from its making.
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    #[expect(clippy::disallowed_methods, reason = "measuring is what this program is for")]
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// When something happened.
pub(crate) struct Moment(Instant);

impl Moment {
    #[expect(clippy::disallowed_methods, reason = "measuring is what this program is for")]
    pub(crate) fn now() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn since(&self, earlier: &Self) -> Duration {
        self.0.saturating_duration_since(earlier.0)
    }
}

/// A text that differs from run to run.
#[expect(clippy::disallowed_methods, reason = "names of users must be new in each run")]
pub(crate) fn stamp() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis())
}

/// The middle and the far end of some times.
pub(crate) struct Spread(Vec<Duration>);

impl Spread {
    pub(crate) fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    /// Milliseconds within which this part of them was done.
    pub(crate) fn at(&self, part: f64) -> f64 {
        let index = ((self.0.len() as f64 - 1.0).max(0.0) * part).round() as usize;
        self.0.get(index).map_or(0.0, Duration::as_secs_f64) * 1_000.0
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (p50, p90, p99) = (self.at(0.5), self.at(0.9), self.at(0.99));
        write!(f, "p50 {p50:.2} ms, p90 {p90:.2} ms, p99 {p99:.2} ms, max {:.2} ms", self.at(1.0))
    }
}

/// The server's process as `/proc` shows it.
pub(crate) struct Process {
    pid: Option<u32>,
    data_dir: Option<PathBuf>,
}

impl Process {
    pub(crate) fn new(pid: Option<u32>, data_dir: Option<PathBuf>) -> Self {
        Self { pid, data_dir }
    }

    /// CPU time so far, of all threads.
    pub(crate) fn cpu(&self) -> Duration {
        let Some(pid) = self.pid else { return Duration::ZERO };
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name in parentheses may hold spaces; user and system time are the 12th and 13th fields behind it.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        Duration::from_millis((ticks(11) + ticks(12)) * 10)
    }

    /// Resident memory in MiB.
    pub(crate) fn resident_mib(&self) -> Option<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid?)).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        line.split_whitespace().nth(1)?.parse::<f64>().ok().map(|kib| kib / 1024.0)
    }

    /// Bytes of all files in the data directory.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.data_dir.as_deref().map_or(0, size_of)
    }

    pub(crate) fn report(&self, when: &str) {
        if let Some(mib) = self.resident_mib() {
            println!("{when}: {mib:.1} MiB resident, {:.2} s of CPU", self.cpu().as_secs_f64());
        }
    }
}

fn size_of(path: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => size_of(&entry.path()),
            Ok(found) => found.len(),
            Err(_) => 0,
        })
        .sum()
}
