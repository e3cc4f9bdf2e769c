//! The engine through its own front door, on both database engines.

#![expect(unreachable_pub, reason = "nothing outside sees a test binary")]

mod bench;
mod creation;
mod history;
mod sending;
mod visibility;
