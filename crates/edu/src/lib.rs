//! What passes between people without entering the event graph: read receipts (stored), typing and presence (in memory).
//!
//! Modules in reading order: [`receipt`] → `told` → [`typing`] → [`presence`]. All three tell what changed after a mark, so that
//! sync can answer "since then", and say when something changed: receipts through the change log, the others through
//! [`Edus::subscribe`]. It leaves out: who may see what, and sending to other servers.

pub mod presence;
pub mod receipt;
mod schema;
mod told;
pub mod typing;

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use ruma::{OwnedRoomId, OwnedUserId};
use samtal_db::Db;
use samtal_kit::{Clock, Tasks};
use tokio::sync::{
    broadcast::{self, error::RecvError},
    mpsc,
};

use told::{SEEN_AT_ONCE, Teller, Told};

pub use presence::{Presence, PresenceEntry};
pub use receipt::{NewReceipt, Receipt, Receipts};
pub use schema::SCHEMA;
pub use typing::Typing;

/// Wake-ups that a slow listener may fall behind before it has to look at everything.
const WAKE_UPS: usize = 4_096;

/// What typing and presence begin with, among what nodes tell each other.
const TOPIC: &str = "edu ";
/// How often other nodes hear that someone is there still: more often than who is gone is looked for.
const STILL_THERE: Duration = Duration::from_secs(15);

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
    db: Db,
    /// What is to be told to other nodes.
    to_tell: Mutex<Option<mpsc::Receiver<Told>>>,
}

impl Edus {
    /// Over this database. `presence` says whether the tenant offers presence at all.
    pub fn new(db: Db, clock: &Clock, presence: bool) -> Self {
        let changes = broadcast::channel(WAKE_UPS).0;
        let (waiting, to_tell) = mpsc::channel(told::WAITING_MAX);
        let teller = Teller(db.is_postgres().then_some(waiting));
        Self {
            receipts: Receipts::new(db.clone(), clock.clone()),
            typing: Typing::new(clock.clone(), changes.clone(), teller.clone()),
            presence: Presence::new(clock.clone(), changes.clone(), teller, presence),
            changes,
            db,
            to_tell: Mutex::new(Some(to_tell)),
        }
    }

    /// What changes from now on in typing and presence.
    pub fn subscribe(&self) -> broadcast::Receiver<EduChange> {
        self.changes.subscribe()
    }

    /// Ends typing and presence when their time is up, and shares them with the tenant's other nodes, until the tenant stops.
    pub async fn run(&self, tasks: &Tasks) {
        let to_tell = self.to_tell.lock().take();
        match to_tell.filter(|_| self.db.is_postgres()) {
            Some(to_tell) => {
                tokio::join!(self.expire(tasks), self.share(tasks, to_tell));
            }
            None => self.expire(tasks).await,
        }
    }

    /// Tells other nodes what happens here, and takes in what they tell.
    async fn share(&self, tasks: &Tasks, mut to_tell: mpsc::Receiver<Told>) {
        let mut heard = self.db.heard();
        let mut still_there = tokio::time::interval(STILL_THERE);
        loop {
            let told = tokio::select! {
                biased;
                () = tasks.stopping() => return,
                Some(told) = to_tell.recv() => vec![told],
                what = heard.recv() => {
                    match what {
                        Ok(what) => self.hear(&what),
                        Err(RecvError::Lagged(_)) => {}
                        Err(RecvError::Closed) => return,
                    }
                    continue;
                }
                _ = still_there.tick() => {
                    let here = self.presence.seen_here(STILL_THERE);
                    here.chunks(SEEN_AT_ONCE).map(|users| Told::Seen(users.to_vec())).collect()
                }
            };
            for told in told {
                // What we send is always JSON.
                let Ok(text) = serde_json::to_string(&told) else { continue };
                if let Err(error) = self.db.tell(&format!("{TOPIC}{text}")).await {
                    tracing::debug!(%error, "other nodes were not told of typing or presence");
                }
            }
        }
    }

    fn hear(&self, what: &Arc<str>) {
        let Some(told) = what.strip_prefix(TOPIC) else { return };
        match serde_json::from_str(told) {
            Ok(Told::Typing { room, user, ms, serial }) => self.typing.told(&room, &user, ms, serial),
            Ok(Told::Seen(users)) => self.presence.seen_elsewhere(&users),
            Ok(Told::Presence { user, state, status_msg, last_active_ms, currently_active, local, serial }) => {
                self.presence.told(&user, local, serial, |entry| {
                    entry.state = state;
                    entry.status_msg = status_msg;
                    entry.last_active_ms = last_active_ms;
                    entry.currently_active = currently_active;
                });
            }
            Err(error) => tracing::debug!(%error, "what another node tells cannot be read"),
        }
    }

    async fn expire(&self, tasks: &Tasks) {
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
