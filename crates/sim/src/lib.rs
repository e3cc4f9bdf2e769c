//! A federation in one process, over a network that fails as it likes, from one seed.
//!
//! Each node is a whole [`Homeserver`](samtal_ops::Homeserver) with its database in memory; only the network and the clocks
//! are made up. Requests are delayed, reordered, lost, answered in vain, and delivered twice; links are cut and healed; clocks
//! differ. Run it on a current-thread runtime with paused time: time then passes when everybody waits.

mod devices;
mod network;
mod people;
mod world;

pub use network::Weather;
pub use people::Deed;
pub use world::{Options, World};
