//! Getting changes to people: what in a user's view changed between one position of the log and another.
//!
//! Modules in reading order. What is kept in memory: `active` (who listens, what happened last in each room), `lazy`
//! (whom each device knows), `span` (what happened in a room, shared by all who wait for it). What decides: [`filter`],
//! `state` (which state events must be told), `summary`, `view` (events for one reader). `core` is the handle,
//! `room` one room for one user, `v3` the answer of `GET /v3/sync`, `sliding` the
//! other interface; `threads` which threads a user has subscribed to.

mod active;
mod json;
mod lazy;
mod listener;
mod marks;
mod span;
mod state;
mod summary;
mod view;

pub mod filter;
mod relations;

mod core;
mod error;
mod room;
mod room_json;
mod room_state;
mod sliding;
mod threads;
mod v3;

pub use core::{DeviceLists, Engines, Sync};
pub use error::SyncError;
pub use filter::Filter;
pub use relations::RelationFilter;
pub use sliding::{Shape, SlidingBody, SlidingRequest};
pub use v3::{StateAfter, SyncRequest};
