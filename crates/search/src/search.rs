//! The handle.

use std::{sync::Arc, time::Duration};

use ruma::OwnedServerName;
use samtal_account::Accounts;
use samtal_db::Db;
use samtal_kit::{Clock, Tasks};
use samtal_room::Rooms;
use tokio::sync::{Notify, watch};

use crate::word::{Language, Languages};

/// The follower's cursor.
pub(crate) const CURSOR: &str = "search";
/// A question waits so long for what was written just before it.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the operator decides.
#[derive(Clone, Debug)]
pub struct Options {
    /// The languages that are written here. Texts that are there already keep the stems they have.
    pub languages: Vec<Language>,
    /// Whether every user of this server can be found by all others, not only by those who share a room with them.
    pub all_local_users: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { languages: vec![Language::Swedish, Language::English], all_local_users: false }
    }
}

/// What search reads from.
#[derive(Clone, Debug)]
pub struct Engines {
    /// The tenant's server name.
    pub name: OwnedServerName,
    /// The database.
    pub db: Db,
    /// Rooms.
    pub rooms: Rooms,
    /// Accounts.
    pub accounts: Arc<Accounts>,
    /// The clock.
    pub clock: Clock,
    /// The tenant's tasks.
    pub tasks: Tasks,
}

/// Finding messages and people of one tenant.
#[derive(Debug)]
pub struct Search {
    pub(crate) engines: Engines,
    pub(crate) options: Options,
    pub(crate) languages: Languages,
    /// Up to where the log has been followed, as far as this node knows.
    pub(crate) followed: watch::Sender<i64>,
    /// Somebody waits: do not gather any longer.
    pub(crate) hurry: Notify,
}

impl Search {
    /// Over these engines; [`Search::run`] must be running for anything to be found.
    pub fn new(engines: Engines, options: Options) -> Self {
        let languages = Languages::new(&options.languages);
        Self { engines, options, languages, followed: watch::channel(0).0, hurry: Notify::new() }
    }

    /// Waits until all that has been committed before this call can be found, but not for long.
    pub(crate) async fn settle(&self) {
        let position = self.engines.db.position();
        let mut followed = self.followed.subscribe();
        self.hurry.notify_one();
        // Where another node follows, this one hears of it by `follow_other`.
        let settled = tokio::time::timeout(PATIENCE, followed.wait_for(|followed| *followed >= position)).await;
        if settled.is_err() {
            tracing::warn!("search answers without the newest: the index is behind");
        }
    }
}
