//! Things to do later or in the background, kept until they are done: delayed events, long administrative tasks.
//!
//! A [`Job`] has a kind, an owner, a time when it is due, and a body that only its kind understands. [`Jobs`] stores them, says which
//! are due and when the next one is, and keeps what came of them for a while. It leaves out: doing them, which the use cases do.

mod job;
mod jobs;
mod schema;

pub use job::{Job, NewJob, State};
pub use jobs::Jobs;
pub use schema::SCHEMA;
