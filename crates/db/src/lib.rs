//! One tenant's database: two engines, one SQL text, writes as values, one change log.
//!
//! - [`Db`] is opened with the [`Schema`]s of the crates that own tables. It is cheap to clone.
//! - Reads are single statements ([`Db::query`]) or several on one consistent view ([`Db::snapshot`]).
//! - A write is a [`Batch`] of statements with expectations, handed to [`Db::commit`]: all of it becomes durable or nothing
//!   does, and an expectation that fails is a [`DbError::Conflict`].
//! - Every batch may append rows to the change log. Their positions are given at commit, in commit order, without gaps that
//!   could fill later; [`Db::changes`] reads them as they come.
//! - Where many nodes share a PostgreSQL, a [`Lease`] gives some work one owner, and [`Db::tell`] carries what is kept nowhere.
//!
//! It leaves out: what the tables mean. Only the crates above hold SQL, each for its own tables.

mod batch;
mod changes;
mod db;
mod error;
mod postgres;
mod schema;
mod sql;
mod sqlite;
#[cfg(feature = "testing")]
pub mod testing;
mod value;

pub use batch::{Batch, Change, Committed};
pub use changes::{Changes, LoggedChange};
pub use db::{Db, FirstToHear, Lease, Options, Snapshot};
pub use error::DbError;
pub use postgres::TOLD_BYTES_MAX;
pub use schema::{Migration, Schema};
pub use sql::Sql;
pub use value::{FromValue, Row, Value};
