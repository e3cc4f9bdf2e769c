//! The one point that answers whether another server, a room, an event or a file may pass.
//!
//! Every request, invitation, join, event, passing message and media fetch, in and out, asks [`Policy::review`] and gets allow, deny
//! with a reason, or hold. Inputs are the tenant's own rules, the room's server access control list ([`Acl`]), what the invited user
//! has said about invitations, and facts about the room that the caller hands over. Nothing here reads a room or a network.
//!
//! The tenant's rules come in two layers: the configuration file's ([`Settings`]), and those an operator has stored while the server
//! ran ([`Rulebook`]). The stored layer is asked first, so it wins; inside a layer deny beats allow; a server that neither layer names
//! falls under the default, the stored one before the file's. Refusals are counted, and [`Policy::explain`] tells an operator what
//! would happen to a server and why.
//!
//! Modules in reading order: [`pattern`] → [`acl`] → [`settings`] → [`stored`] → [`review`] → [`explain`] → [`rulebook`]
//! → [`held`].

pub mod acl;
pub mod explain;
pub mod held;
pub mod pattern;
pub mod review;
pub mod rulebook;
mod schema;
pub mod settings;
pub mod stored;
mod tally;

pub use acl::Acl;
pub use explain::Explanation;
pub use held::{HeldInvite, HeldInvites, WhichHeld};
pub use pattern::Pattern;
pub use review::{Action, Decided, Decision, Denial, Direction, Policy, Question, RoomFacts, Rule};
pub use rulebook::{Refusal, RuleError, Rulebook, Which};
pub use schema::SCHEMA;
pub use settings::{ServerRule, Settings, Unnamed};
pub use stored::{Effect, RoomTypes, Setting, Stored, StoredRule};
