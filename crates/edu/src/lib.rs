//! What passes between people without entering the event graph: read receipts (stored), typing and presence (in memory).
//!
//! Modules in reading order: [`receipt`] → [`typing`] → [`presence`]. All three tell what changed after a mark, so that
//! sync can answer "since then", and say when something changed: receipts through the change log, the others through
//! [`Edus::subscribe`]. It leaves out: who may see what, and sending to other servers.

pub mod presence;
pub mod receipt;
mod schema;
pub mod typing;

use ruma::{OwnedRoomId, OwnedUserId};
use samtal_db::Db;
use samtal_kit::{Clock, Tasks};
use tokio::sync::broadcast;

pub use presence::{Presence, PresenceEntry};
pub use receipt::{NewReceipt, Receipt, Receipts};
pub use schema::SCHEMA;
pub use typing::Typing;

/// Wake-ups that a slow listener may fall behind before it has to look at everything.
const WAKE_UPS: usize = 4_096;

/// Something that is not in the change log changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EduChange {
    /// Who is typing in a room.
    Typing(OwnedRoomId),
    /// A user's presence.
    Presence(OwnedUserId),
}

/// One tenant's receipts, typing and presence.
#[derive(Debug)]
pub struct Edus {
    /// Read receipts.
    pub receipts: Receipts,
    /// Who is typing where.
    pub typing: Typing,
    /// Who is there.
    pub presence: Presence,
    changes: broadcast::Sender<EduChange>,
}

impl Edus {
    /// Over this database. `presence` says whether the tenant offers presence at all.
    pub fn new(db: Db, clock: &Clock, presence: bool) -> Self {
        let changes = broadcast::channel(WAKE_UPS).0;
        Self {
            receipts: Receipts::new(db, clock.clone()),
            typing: Typing::new(clock.clone(), changes.clone()),
            presence: Presence::new(clock.clone(), changes.clone(), presence),
            changes,
        }
    }

    /// What changes from now on in typing and presence.
    pub fn subscribe(&self) -> broadcast::Receiver<EduChange> {
        self.changes.subscribe()
    }

    /// Ends typing and presence when their time is up, until the tenant stops.
    pub async fn run(&self, tasks: &Tasks) {
        loop {
            let pause = self.typing.next_deadline_in().min(presence::SWEEP);
            tokio::select! {
                biased;
                () = tasks.stopping() => return,
                () = self.typing.woken() => {}
                () = tokio::time::sleep(pause) => {
                    self.typing.expire();
                    self.presence.sweep();
                }
            }
        }
    }
}
