//! What the room's rules say about state: who may do what ([`authorize`], [`power`]), which state
//! follows from branches that disagree ([`mod@resolve`], [`auth_chain`]), and how room state is kept so
//! that a change costs little whatever the room's size ([`tree`]).
//!
//! Pure: no I/O, no clock, no randomness, no async. Where a function needs something that may have
//! to be loaded first it answers what is missing; the caller loads it and calls again.

pub mod auth_chain;
pub mod authorize;
pub mod power;
pub mod resolve;
pub mod tree;

pub use auth_chain::{AuthEdges, NotLoaded, Sets, Shared, auth_difference, auth_difference_of, conflicted_subgraph};
pub use authorize::{AuthState, AuthorizedPdu, Refused, StateKey};
pub use power::PowerLevels;
pub use resolve::{Conflict, Lookup, ResolveError, Resolved, resolve};
pub use tree::{Missing, Node, NodeId, NodeSource, Part, Snapshot, SnapshotId};
