//! What the nodes of a tenant tell each other, where several share a database: typing and presence are kept nowhere else.
//!
//! A node that has just begun, or has not heard something, knows less for a while: typing ends by itself, and whoever is there
//! is told of again each minute.

use ruma::{OwnedRoomId, OwnedUserId, presence::PresenceState};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// What waits to be told; beyond that it is not.
pub(crate) const WAITING_MAX: usize = 1_024;
/// Users who are told of at once: as many as fit.
pub(crate) const SEEN_AT_ONCE: usize = 25;

/// One of these things.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Told {
    /// Someone types for a time, or (0) no longer.
    Typing { room: OwnedRoomId, user: OwnedUserId, ms: u64, serial: u64 },
    /// How someone is.
    Presence {
        user: OwnedUserId,
        state: PresenceState,
        status_msg: Option<String>,
        last_active_ms: u64,
        currently_active: bool,
        local: bool,
        serial: u64,
    },
    /// These are there still.
    Seen(Vec<OwnedUserId>),
}

/// The way to the other nodes; leads nowhere where there are none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Teller(pub(crate) Option<mpsc::Sender<Told>>);

impl Teller {
    pub(crate) fn tell(&self, told: impl FnOnce() -> Told) {
        if let Some(waiting) = &self.0 {
            let _ = waiting.try_send(told());
        }
    }
}
