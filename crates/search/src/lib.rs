//! Finding messages and people: a full-text index and a directory that follow the change log.
//!
//! All that has to do with language is done here, once, when a text is indexed and when it is asked for: `word` makes words of
//! texts and stems of words. The database only finds the documents that hold certain tokens (`index`), so that both engines give
//! the same answers. `query` is what somebody asks for, `found` the way from there to events that they may see. `directory`
//! keeps who is who, `people` finds them. `follow` reads the log for both.

mod directory;
mod document;
mod error;
mod follow;
mod found;
mod index;
mod people;
mod query;
mod schema;
mod search;
mod token;
mod word;

pub use document::Key;
pub use error::SearchError;
pub use found::{Found, Group, GroupBy, Hit, Order, Wish};
pub use people::{People, Person};
pub use schema::SCHEMA;
pub use search::{Engines, Options, Search};
pub use word::Language;
