//! The event graph of rooms: one way in, state as snapshots, what may be read. No network.
//!
//! An event stands on its previous events, and the state before it is what the states after those come to. That state is a
//! snapshot, a tree that shares with others all in which they are alike ([`samtal_state::tree`]), so each event can keep its own
//! and a change costs little in a room of any size. A room is written by one task (`writer`) that takes what waits in turns: a
//! `turn` begins at the room's `head`, tries one job after the other, and is one write batch that expects the head to be as it
//! was. If another node was faster, it is done again from the head as it is now. So whatever is decided in memory is a guess
//! that the commit confirms.
//!
//! Modules in reading order. What is stored: `ids`, `graph` (as `packed` bytes, and `at_hand` in memory), `snapshot`, `store`.
//! The newest point: `extremities`, `head`, `turn`, `writer`. What comes in: `local` (ours), `ingest` (others': the checks on
//! receipt), `resolution` (branches that disagree), `outlier` (held without a place), `join` and `partial` (entering a room),
//! `gap` and `below` (what comes later than what builds on it). What follows from an event: `membership`, `relation`, `redaction`,
//! `sticky`. What goes out: `visibility` (who may see what), `reading`, `bundle`, `serving` (other servers). The rest is beside:
//! aliases, lists, cases, deleting. Each of those that bring work to the queue knows `writer`, which knows what they bring.

mod alias;
mod at_hand;
mod below;
mod block;
mod bundle;
mod case;
mod create;
mod current;
mod erasure;
mod error;
mod extremities;
mod gap;
mod graph;
mod head;
mod ids;
mod ingest;
mod join;
mod local;
mod membership;
mod outlier;
mod packed;
mod partial;
mod policy_server;
mod purge;
mod reading;
mod redaction;
mod relation;
mod resolution;
mod room_list;
mod rooms;
mod schema;
mod serving;
mod snapshot;
mod sticky;
mod store;
mod timestamp;
mod turn;
mod txn;
mod visibility;
mod writer;

pub use alias::Alias;
pub use bundle::{Bundles, RelationFilter};
pub use case::{Case, CaseStep, Report};
pub use create::NewRoom;
pub use erasure::Erasures;
pub use error::RoomError;
pub use gap::{Gap, OldEvent, in_graph_order};
pub use graph::{Flags, Graph, Room, StoredEvent};
pub use head::HeadInfo;
pub use ids::{EventNid, RoomNid, StateKeys};
pub use ingest::{Ingest, Ingested};
pub use local::{Appended, LocalDraft};
pub use membership::{Member, RoomMembership, membership_of};
pub use outlier::Held;
pub use partial::{PartialEntry, PartialRoom, PartialRooms};
pub use policy_server::{NotRecommended, PolicyServer, PolicySource};
pub use reading::{Chunk, Direction, Form};
pub use relation::Relation;
pub use room_list::{ListedRoom, PendingInvite};
pub use rooms::{Options, Rooms, SigningKeys};
pub use schema::SCHEMA;
pub use snapshot::{Snapshots, StateDifference};
pub use sticky::{STICKY_MS_MAX, StickyEvent, sticky_left_ms, sticky_ms};
pub use store::Store;
pub use txn::Txn;
pub use visibility::Viewer;
pub use writer::Expected;
