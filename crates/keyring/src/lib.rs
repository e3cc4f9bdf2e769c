//! Signing keys: our own, made at the first start and rotated, and those of other servers, kept with their validity.
//!
//! There is no network here. Whoever needs keys hands over a [`KeySource`] that can ask for them. Modules in reading order:
//! [`signed`] (canonical bytes and signatures) → [`xmatrix`] (the header of a signed request) → [`document`] (a server's published
//! keys) → [`own`] (our keys) → [`validity`] (which key counts when) → `store` (what is remembered) → [`ring`] (all of it together).

pub mod document;
pub mod own;
pub mod ring;
mod schema;
pub mod signed;
mod store;
pub mod validity;
pub mod xmatrix;

pub use document::{KeyDocument, KeyDocumentError};
pub use own::{OwnKey, OwnKeys};
pub use ring::{KeyError, KeySet, KeySource, Keyring, Purpose, RequestError, SignedRequest, Wanted};
pub use schema::SCHEMA;
pub use validity::{KnownKey, KnownKeys};
pub use xmatrix::{XMatrix, XMatrixError};
