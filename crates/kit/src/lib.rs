//! Clock, randomness, tasks, memory and secrets: what the rest of the house takes as parameters.
//!
//! Nothing outside this crate asks the operating system for the time or for random bytes, or starts a task: so tests and
//! the simulator own all three.

pub mod clock;
pub mod limiter;
pub mod memory;
pub mod random;
pub mod secret;
pub mod tasks;

pub use clock::{Clock, signed_ms};
pub use limiter::{Limiter, Rate};
pub use memory::{Cache, Memory};
pub use random::Random;
pub use secret::Secret;
pub use tasks::Tasks;
