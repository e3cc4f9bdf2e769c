//! Speaking to other servers: finding them, signing, sending, and waiting when they are gone.
//!
//! [`Remote`] sends typed requests over a [`Network`], which is a parameter: the [`Internet`], the other tenants of this process
//! ([`LocalFirst`]) or a simulator. Modules in reading order: [`address`] (where we may connect to) → [`well_known`] → [`dns`] →
//! [`resolve`] (names to addresses) → [`tls`] → [`network`] (the trait) → [`connect`] → [`internet`] (the real one) →
//! [`destination`] (servers that do not answer) → [`client`] (typed requests).

pub mod address;
pub mod client;
mod connect;
pub mod destination;
pub mod dns;
pub mod internet;
pub mod network;
pub mod resolve;
mod schema;
pub mod tls;
pub mod well_known;

pub use address::AddressPolicy;
pub use client::{Options, Remote, RemoteError, Urgency};
pub use destination::{Destinations, Failing};
pub use internet::{Internet, Settings, SetupError};
pub use network::{Limits, LocalFirst, LocalHandler, Network, NetworkError};
pub use schema::SCHEMA;
pub use tls::Trust;
