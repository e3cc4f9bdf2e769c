//! A place in a tenant's change log.

use serde::{Deserialize, Serialize};

/// A position in a tenant's change log. Later changes have larger positions; backfilled history has negative ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StreamPosition(pub i64);

impl std::fmt::Display for StreamPosition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl From<i64> for StreamPosition {
    fn from(position: i64) -> Self {
        Self(position)
    }
}
