//! Logs and metrics, and what may not stand in them.
//!
//! [`log`] writes lines as text or JSON and drops fields by name: content and secrets always, personal data unless the
//! operator chose `debug`. [`metrics`] is a registry of counters, gauges and histograms in Prometheus' text form. Both
//! are values that the assembly makes and hands down; the crates below use `tracing` and the metric handles only.

pub mod log;
pub mod metrics;
mod process;
mod time;

pub use log::{Format, Level, LogControl};
pub use metrics::{Counter, Gauge, Histogram, Metrics};
