//! The event graph of rooms: one way in, state as snapshots, what may be read. No network.
//!
//! The modules in reading order, each importing only those before it (but for [`Rooms`], which all of the later ones
//! add their methods to).

mod alias;
mod block;
mod bundle;
mod case;
mod create;
mod erasure;
mod error;
mod extremities;
mod gap;
mod graph;
mod head;
mod ids;
mod ingest;
mod join;
mod membership;
mod outlier;
mod packed;
mod partial;
mod policy_server;
mod purge;
mod reading;
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
pub use turn::{Appended, LocalDraft};
pub use txn::Txn;
pub use visibility::Viewer;
pub use writer::Expected;
