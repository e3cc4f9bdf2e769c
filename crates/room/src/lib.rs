//! The event graph of rooms: one way in, state as snapshots, what may be read. No network.
//!
//! The modules in reading order, each importing only those before it.

mod schema;
pub mod error;
pub mod ids;
pub mod cache;
pub mod graph;
pub mod membership;
pub mod snapshot;
