//! The one point that answers whether another server, a room, an event or a file may pass.
//!
//! Every request, invitation, join, event, passing message and media fetch, in and out, asks [`Policy::review`] and gets allow, deny
//! with a reason, or hold. Inputs are the tenant's own rules ([`Settings`]), the room's server access control list ([`Acl`]) and facts
//! about the room that the caller hands over. Nothing here reads a room or a network. Refusals are counted, and [`Policy::explain`]
//! tells an operator in words what would happen to a server and why.
//!
//! Modules in reading order: [`pattern`] → [`acl`] → [`settings`] → [`review`].

pub mod acl;
pub mod pattern;
pub mod review;
pub mod settings;

pub use acl::Acl;
pub use pattern::Pattern;
pub use review::{Action, Decision, Denial, Direction, Policy, Question, RoomFacts, Rule};
pub use settings::{ServerRule, Settings, SettingsError, Unnamed};
