//! What follows from the rules of a room, told in small rooms.

#![allow(clippy::unwrap_used)]

mod authorization;
mod power;
mod resolution;
mod tree;
mod walks;
mod world;
