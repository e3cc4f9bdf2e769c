//! Users, devices, sessions, profiles, account data, push rules: what the server knows of its own people.
//!
//! [`Accounts`] is the one handle. It leaves out: what a room knows of a member (`samtal-room`), keys (`samtal-e2ee`),
//! and HTTP.

mod accounts;
mod device;
mod error;
mod options;
mod schema;
mod services;
mod session;
mod user;

pub use accounts::Accounts;
pub use device::Device;
pub use error::AccountError;
pub use options::{Options, PasswordCost, Rates, Terms};
pub use schema::SCHEMA;
pub use services::{Namespace, Service, Services};
pub use session::{Client, Issued, Lapse, Session, TokenHash};
pub use user::{Kind, User};
