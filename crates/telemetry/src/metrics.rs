//! Counters, gauges and histograms, written out in Prometheus' text form.
//!
//! A registry is a value, not a global. Labels are bounded: a family takes [`SERIES_MAX`] combinations, and what comes
//! after is counted together as `other`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

/// Most label combinations of one family.
pub const SERIES_MAX: usize = 500;

/// Upper bounds, in seconds, for things that take from under a millisecond to half a minute.
pub const SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// All metrics of a process. Cheap to clone.
#[derive(Clone, Default)]
pub struct Metrics(Arc<Inner>);

#[derive(Default)]
struct Inner {
    families: Mutex<BTreeMap<&'static str, Family>>,
    collectors: Mutex<Vec<Collector>>,
}

/// What sets gauges before they are written out.
type Collector = Box<dyn Fn(&Metrics) + Send + Sync>;

struct Family {
    help: &'static str,
    kind: &'static str,
    series: BTreeMap<String, Series>,
}

#[derive(Clone)]
enum Series {
    Counter(Counter),
    Gauge(Gauge),
    Histogram(Histogram),
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

/// A number that only grows.
#[derive(Debug, Clone, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// One more.
    pub fn increment(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// How many there were.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Clone, Default)]
pub struct Gauge(Arc<AtomicI64>);

impl Gauge {
    /// Sets it.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Moves it by so much.
    pub fn add(&self, by: i64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    /// What it is.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    /// One more until the guard is dropped.
    pub fn hold(&self) -> Held {
        self.add(1);
        Held(self.clone())
    }
}

/// One that is counted in a gauge while it lives.
#[derive(Debug)]
pub struct Held(Gauge);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.add(-1);
    }
}

/// How often a duration fell under each bound.
#[derive(Debug, Clone)]
pub struct Histogram(Arc<Buckets>);

#[derive(Debug)]
struct Buckets {
    bounds: &'static [f64],
    counts: Vec<AtomicU64>,
    microseconds: AtomicU64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Histogram {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram(Arc::new(Buckets { bounds, counts, microseconds: AtomicU64::new(0) }))
    }

    /// Counts one.
    pub fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let at = self.0.bounds.iter().position(|bound| seconds <= *bound).unwrap_or(self.0.bounds.len());
        if let Some(count) = self.0.counts.get(at) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.0.microseconds.fetch_add(us, Ordering::Relaxed);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.0.counts.iter().map(|c| c.load(Ordering::Relaxed)).sum()
    }
}

impl Metrics {
    /// An empty registry.
    pub fn new() -> Metrics {
        Metrics::default()
    }

    /// A counter; the same one for the same name and labels.
    pub fn counter(&self, name: &'static str, help: &'static str, labels: &[(&str, &str)]) -> Counter {
        match self.series(name, help, "counter", labels, || Series::Counter(Counter::default())) {
            Series::Counter(counter) => counter,
            _ => Counter::default(),
        }
    }

    /// A gauge; the same one for the same name and labels.
    pub fn gauge(&self, name: &'static str, help: &'static str, labels: &[(&str, &str)]) -> Gauge {
        match self.series(name, help, "gauge", labels, || Series::Gauge(Gauge::default())) {
            Series::Gauge(gauge) => gauge,
            _ => Gauge::default(),
        }
    }

    /// A histogram of durations; the same one for the same name and labels. `bounds` in seconds, ascending.
    pub fn histogram(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &[(&str, &str)],
        bounds: &'static [f64],
    ) -> Histogram {
        match self.series(name, help, "histogram", labels, || Series::Histogram(Histogram::new(bounds))) {
            Series::Histogram(histogram) => histogram,
            _ => Histogram::new(bounds),
        }
    }

    /// Runs `collect` before each writing-out, to set gauges that nobody keeps up.
    pub fn on_render(&self, collect: impl Fn(&Metrics) + Send + Sync + 'static) {
        self.0.collectors.lock().push(Box::new(collect));
    }

    fn series(
        &self,
        name: &'static str,
        help: &'static str,
        kind: &'static str,
        labels: &[(&str, &str)],
        make: impl FnOnce() -> Series,
    ) -> Series {
        let mut families = self.0.families.lock();
        let family = families.entry(name).or_insert_with(|| Family { help, kind, series: BTreeMap::new() });
        let mut key = label_text(labels.iter().copied());
        if family.series.len() >= SERIES_MAX && !family.series.contains_key(&key) {
            key = label_text(labels.iter().map(|(label, _)| (*label, "other")));
        }
        family.series.entry(key).or_insert_with(make).clone()
    }

    /// Everything, in Prometheus' text form (version 0.0.4).
    pub fn render(&self) -> String {
        crate::process::collect(self);
        for collect in self.0.collectors.lock().iter() {
            collect(self);
        }
        let mut text = String::new();
        for (name, family) in self.0.families.lock().iter() {
            let _ = writeln!(text, "# HELP {name} {}\n# TYPE {name} {}", family.help, family.kind);
            for (labels, series) in &family.series {
                let _ = match series {
                    Series::Counter(counter) => writeln!(text, "{name}{} {}", braced(labels), counter.get()),
                    Series::Gauge(gauge) => writeln!(text, "{name}{} {}", braced(labels), gauge.get()),
                    Series::Histogram(histogram) => {
                        render_histogram(&mut text, name, labels, &histogram.0);
                        Ok(())
                    }
                };
            }
        }
        text
    }
}

fn render_histogram(text: &mut String, name: &str, labels: &str, buckets: &Buckets) {
    let comma = if labels.is_empty() { "" } else { "," };
    let mut below = 0;
    for (at, count) in buckets.counts.iter().enumerate() {
        below += count.load(Ordering::Relaxed);
        let bound = buckets.bounds.get(at).map_or_else(|| "+Inf".to_owned(), f64::to_string);
        let _ = writeln!(text, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {below}");
    }
    #[expect(clippy::cast_precision_loss, reason = "a sum for a graph")]
    let sum = buckets.microseconds.load(Ordering::Relaxed) as f64 / 1e6;
    let _ = writeln!(text, "{name}_sum{} {sum}\n{name}_count{} {below}", braced(labels), braced(labels));
}

fn braced(labels: &str) -> String {
    if labels.is_empty() { String::new() } else { format!("{{{labels}}}") }
}

fn label_text<'a>(labels: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut text = String::new();
    for (label, value) in labels {
        if !text.is_empty() {
            text.push(',');
        }
        let _ = write!(text, "{label}=\"");
        for c in value.chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                c => text.push(c),
            }
        }
        text.push('"');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_written_out() {
        let metrics = Metrics::new();
        metrics.counter("a_total", "How many.", &[("route", "/x\"y")]).add(2);
        metrics.counter("a_total", "How many.", &[("route", "/x\"y")]).increment();
        let held = metrics.gauge("b", "Now.", &[]).hold();
        let histogram = metrics.histogram("c_seconds", "How long.", &[], &[0.01, 0.1]);
        histogram.observe(Duration::from_millis(50));
        histogram.observe(Duration::from_millis(500));
        let text = metrics.render();
        for line in [
            "# TYPE a_total counter",
            "a_total{route=\"/x\\\"y\"} 3",
            "b 1",
            "c_seconds_bucket{le=\"0.01\"} 0",
            "c_seconds_bucket{le=\"0.1\"} 1",
            "c_seconds_bucket{le=\"+Inf\"} 2",
            "c_seconds_sum 0.55",
            "c_seconds_count 2",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
        drop(held);
        assert!(metrics.render().lines().any(|l| l == "b 0"));
    }

    #[test]
    fn labels_are_bounded() {
        let metrics = Metrics::new();
        for i in 0..SERIES_MAX + 50 {
            metrics.counter("a_total", "", &[("n", &i.to_string())]).increment();
        }
        assert!(metrics.render().lines().any(|l| l == "a_total{n=\"other\"} 50"));
    }
}
