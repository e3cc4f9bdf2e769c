//! Servers that are broken, malicious, old or merely too much: what they do is contained, and others are served meanwhile.

#![expect(unreachable_pub, reason = "nothing outside sees a test binary")]

#[allow(dead_code, reason = "shared with the other test binary, which needs all of it")]
#[path = "../it/world.rs"]
mod world;

mod file;
mod flood;
mod forged;
mod garbage;
mod graph;
mod old;
mod peer;
mod policy_server;
mod resident;
