//! The assembly: from a configuration to running tenants behind listeners, and to their orderly end.
//!
//! [`Installation`] is what is on the disk: the configuration, the tenants' databases, the lock that says who may open
//! them. [`Running`] is an installation that serves. [`control`] is what an operator's command asks of either.
//!
//! This is the only crate that knows the file format ([`samtal_config`]) and all edges at once. It holds no rules.

pub mod control;
mod error;
mod health;
mod installation;
mod lock;
mod networks;
mod open_files;
mod reload;
mod routes;
mod running;
mod settings;
mod tenants;
mod welcome;
mod well_known;

pub use error::ServerError;
pub use installation::Installation;
pub use lock::Lock;
pub use running::Running;
pub use tenants::Tenants;
