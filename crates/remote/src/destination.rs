//! Which servers do not answer, and when to try them again.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::RwLock;
use ruma::{OwnedServerName, ServerName};
use samtal_db::{Batch, Db, DbError, params};
use samtal_kit::{Clock, Random};
use tokio::sync::broadcast;

use crate::schema;

/// The first wait after a failure.
const INTERVAL_MS_MIN: u64 = 1_000;
/// The longest wait.
const INTERVAL_MS_MAX: u64 = 3_600_000;
/// Below this wait a request of a person is tried all the same.
const PATIENT_MS: u64 = 60_000;
/// Servers that are known not to answer: who names more than these, makes us forget those that nobody has tried for longest.
const FAILING_MAX: usize = 20_000;
/// So many are forgotten together.
const FORGOTTEN_AT_ONCE: usize = FAILING_MAX / 16;
/// Servers that came back and were not yet noticed by a listener.
const CAME_BACK_MAX: usize = 256;

/// A server that does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failing {
    /// Since when, in ms since the epoch.
    pub since_ms: u64,
    /// When it is tried again.
    pub retry_at_ms: u64,
    /// The wait in force.
    pub interval_ms: u64,
}

/// The servers that do not answer. Waits double up to an hour, with jitter, and end at once when the server shows up. Cheap to clone.
#[derive(Clone)]
pub struct Destinations {
    inner: Arc<Inner>,
}

struct Inner {
    db: Db,
    clock: Clock,
    random: Random,
    failing: RwLock<BTreeMap<OwnedServerName, Failing>>,
    came_back: broadcast::Sender<OwnedServerName>,
}

impl Destinations {
    /// Reads what is remembered.
    pub async fn open(db: Db, clock: Clock, random: Random) -> Result<Self, DbError> {
        let mut failing = BTreeMap::new();
        let ms = |value: i64| u64::try_from(value).unwrap_or(0);
        for row in db.query(&schema::DESTINATIONS, params![]).await? {
            if let Ok(server) = OwnedServerName::try_from(row.text(0)?) {
                let entry =
                    Failing { since_ms: ms(row.int(1)?), retry_at_ms: ms(row.int(2)?), interval_ms: ms(row.int(3)?) };
                failing.insert(server, entry);
            }
        }
        let came_back = broadcast::channel(CAME_BACK_MAX).0;
        Ok(Self { inner: Arc::new(Inner { db, clock, random, failing: RwLock::new(failing), came_back }) })
    }

    /// What is known of a server that does not answer; nothing of one that does.
    pub fn failing(&self, server: &ServerName) -> Option<Failing> {
        self.inner.failing.read().get(server).copied()
    }

    /// All servers that do not answer.
    pub fn all_failing(&self) -> BTreeMap<OwnedServerName, Failing> {
        self.inner.failing.read().clone()
    }

    /// Until when not to try, if not now: for what happens in the background.
    pub fn wait_until(&self, server: &ServerName) -> Option<u64> {
        let now_ms = self.inner.clock.now_ms();
        self.failing(server).map(|failing| failing.retry_at_ms).filter(|&until_ms| now_ms < until_ms)
    }

    /// As [`Self::wait_until`], for what a person waits for: short waits do not count.
    pub(crate) fn wait_until_for_a_person(&self, server: &ServerName) -> Option<u64> {
        let long = self.failing(server).is_some_and(|failing| failing.interval_ms >= PATIENT_MS);
        self.wait_until(server).filter(|_| long)
    }

    /// The server has answered, or asked us something.
    pub async fn is_there(&self, server: &ServerName) -> Result<(), DbError> {
        if self.inner.failing.read().contains_key(server) && self.inner.failing.write().remove(server).is_some() {
            // Nobody listening is fine.
            let _ = self.inner.came_back.send(server.to_owned());
            let mut batch = Batch::new();
            batch.exec(&schema::DESTINATION_DELETE, params![server.as_str()]);
            self.inner.db.commit(batch).await?;
        }
        Ok(())
    }

    /// The server has not answered.
    pub async fn is_gone(&self, server: &ServerName) -> Result<Failing, DbError> {
        let now_ms = self.inner.clock.now_ms();
        let mut batch = Batch::new();
        let entry = {
            let mut failing = self.inner.failing.write();
            let before = failing.get(server).copied();
            // Several requests that fail together are one failure.
            if let Some(before) = before.filter(|before| now_ms < before.retry_at_ms) {
                return Ok(before);
            }
            let interval_ms = before.map_or(INTERVAL_MS_MIN, |before| (before.interval_ms * 2).min(INTERVAL_MS_MAX));
            let jitter_ms = self.inner.random.below(interval_ms / 4 + 1);
            let entry = Failing {
                since_ms: before.map_or(now_ms, |before| before.since_ms),
                retry_at_ms: now_ms + interval_ms - interval_ms / 8 + jitter_ms,
                interval_ms,
            };
            if before.is_none() {
                for forgotten in without_room(&failing) {
                    failing.remove(&forgotten);
                    batch.exec(&schema::DESTINATION_DELETE, params![forgotten.as_str()]);
                }
            }
            failing.insert(server.to_owned(), entry);
            entry
        };
        let values = params![server.as_str(), entry.since_ms, entry.retry_at_ms, entry.interval_ms];
        batch.exec(&schema::DESTINATION_SET, values);
        self.inner.db.commit(batch).await?;
        Ok(entry)
    }

    /// Tells of servers that came back. One that lags has missed some and should look at all it waits for.
    pub fn came_back(&self) -> broadcast::Receiver<OwnedServerName> {
        self.inner.came_back.subscribe()
    }
}

/// Those that must go before another one comes: none as long as there is room.
fn without_room(failing: &BTreeMap<OwnedServerName, Failing>) -> Vec<OwnedServerName> {
    if failing.len() < FAILING_MAX {
        return Vec::new();
    }
    let mut by_time: Vec<(u64, &OwnedServerName)> =
        failing.iter().map(|(server, failing)| (failing.retry_at_ms, server)).collect();
    by_time.sort_unstable();
    by_time.into_iter().take(FORGOTTEN_AT_ONCE).map(|(_, server)| server.clone()).collect()
}

#[cfg(test)]
mod tests {
    use ruma::server_name;
    use samtal_db::testing::each_engine;

    use super::*;

    #[tokio::test]
    async fn waits_double_up_to_an_hour_survive_a_restart_and_end_at_once() {
        each_engine(&[schema::SCHEMA], |db| async move {
            let clock = Clock::manual(1_000_000);
            let open = async || Destinations::open(db.clone(), clock.clone(), Random::seeded(3)).await.unwrap();
            let destinations = open().await;
            let server = server_name!("gone.example");
            assert_eq!(destinations.wait_until(server), None);

            let first = destinations.is_gone(server).await.unwrap();
            assert_eq!(destinations.is_gone(server).await.unwrap(), first, "failures together are one");
            assert_eq!(destinations.wait_until(server), Some(first.retry_at_ms));
            assert_eq!(destinations.wait_until_for_a_person(server), None);

            for _ in 0..20 {
                clock.set_ms(destinations.failing(server).unwrap().retry_at_ms);
                assert_eq!(destinations.wait_until(server), None);
                destinations.is_gone(server).await.unwrap();
            }
            let long = destinations.failing(server).unwrap();
            assert_eq!((long.interval_ms, long.since_ms), (INTERVAL_MS_MAX, 1_000_000));
            assert!(destinations.wait_until_for_a_person(server).is_some());
            assert_eq!(open().await.failing(server), Some(long));

            let mut came_back = destinations.came_back();
            destinations.is_there(server).await.unwrap();
            assert_eq!(came_back.try_recv().unwrap(), server);
            assert_eq!(destinations.wait_until(server), None);
            assert_eq!(open().await.failing(server), None);
        })
        .await;
    }

    #[test]
    fn those_whom_nobody_has_tried_for_longest_make_place_for_others() {
        let failing = |number: usize| {
            let retry_at_ms = (FAILING_MAX - number) as u64;
            let server = OwnedServerName::try_from(format!("s{number}.example")).unwrap();
            (server, Failing { since_ms: 0, retry_at_ms, interval_ms: 1 })
        };
        let mut all: BTreeMap<_, _> = (1..FAILING_MAX).map(failing).collect();
        assert_eq!(without_room(&all), Vec::<OwnedServerName>::new());
        all.extend([failing(FAILING_MAX)]);
        let gone = without_room(&all);
        assert_eq!(gone.len(), FORGOTTEN_AT_ONCE);
        assert_eq!(gone[0], format!("s{FAILING_MAX}.example"));
    }
}
