//! Speaking to other servers: finding them, signing, sending, and waiting when they are gone.
//!
//! [`Remote`] sends typed requests over a [`Network`], which is a parameter: the [`Internet`], the other tenants of this process
//! ([`LocalFirst`]) or a simulator. Modules in reading order: [`well_known`] → [`dns`] →
//! `resolve` (names to targets) → [`network`] (the trait; [`body`]: what comes back) → [`internet`] (the real one) →
//! [`multipart`] (files) → [`destination`] (servers that do not answer) → [`client`] (typed requests).

pub mod body;
pub mod client;
pub mod destination;
pub mod dns;
pub mod internet;
pub mod multipart;
pub mod network;
mod resolve;
mod schema;
pub mod well_known;

pub use body::Body;
pub use client::{Options, Remote, RemoteError, Urgency, into_http};
pub use destination::{Destinations, Failing};
pub use internet::{Internet, SetupError};
pub use network::{Limits, LocalFirst, LocalHandler, Network, NetworkError};
pub use schema::SCHEMA;
