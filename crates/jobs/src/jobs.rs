//! The handle.

use std::{sync::Arc, time::Duration};

use samtal_db::{Batch, Db, DbError, params};
use samtal_kit::{Clock, Random};
use tokio::sync::Notify;

use crate::{Job, NewJob, State, schema};

/// How long what ended is kept.
const KEPT_MS: i64 = 24 * 3_600_000;
/// Most jobs that one reading gives.
const PAGE_MAX: usize = 1_000;

/// The jobs of a tenant. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Jobs {
    db: Db,
    clock: Clock,
    random: Random,
    changed: Arc<Notify>,
}

impl Jobs {
    /// Over this database, which must have been opened with [`crate::SCHEMA`].
    pub fn new(db: Db, clock: Clock, random: Random) -> Self {
        Self { db, clock, random, changed: Arc::new(Notify::new()) }
    }

    fn now(&self) -> i64 {
        self.clock.signed_now_ms()
    }

    /// Stores a job. Its id, or that of the one which was scheduled before with the same `once`.
    pub async fn schedule(&self, new: NewJob<'_>) -> Result<String, DbError> {
        // What one kind calls a request is nothing to another.
        let once = new.once.map(|once| format!("{} {once}", new.kind));
        if let Some(once) = &once
            && let Some(row) = self.db.query_opt(&schema::ID_OF_ONCE, params![once.as_str()]).await?
        {
            return Ok(row.text(0)?.to_owned());
        }
        let id = self.random.alphanumeric(24);
        let (now, mut batch) = (self.now(), Batch::new());
        batch.exec(&schema::SWEEP, params![now - KEPT_MS]);
        batch.expect(
            &schema::INSERT,
            params![id.as_str(), new.kind, new.owner, once.as_deref(), new.due_ms, now, new.body],
            1,
        );
        match self.db.commit(batch).await {
            Ok(_) => {}
            Err(error) if error.is_conflict() && once.is_some() => {
                // The same request has won the race.
                let row = self.db.query_opt(&schema::ID_OF_ONCE, params![once.as_deref()]).await?;
                return row.ok_or(error)?.text(0).map(ToOwned::to_owned);
            }
            Err(error) => return Err(error),
        }
        self.changed.notify_waiters();
        Ok(id)
    }

    /// The job of this kind with this id.
    pub async fn get(&self, kind: &str, id: &str) -> Result<Option<Job>, DbError> {
        self.db.query_opt(&schema::BY_ID, params![id, kind]).await?.as_ref().map(Job::from_row).transpose()
    }

    /// The owner's jobs of this kind, the oldest first, with those that ended of late.
    pub async fn of_owner(&self, kind: &str, owner: &str) -> Result<Vec<Job>, DbError> {
        self.db.query(&schema::OF_OWNER, params![owner, kind, PAGE_MAX]).await?.iter().map(Job::from_row).collect()
    }

    /// All jobs of this kind, the oldest first, with those that ended of late.
    pub async fn of_kind(&self, kind: &str) -> Result<Vec<Job>, DbError> {
        self.db.query(&schema::OF_KIND, params![kind, PAGE_MAX]).await?.iter().map(Job::from_row).collect()
    }

    /// How many of the owner's jobs of this kind wait.
    pub async fn waiting(&self, kind: &str, owner: &str) -> Result<i64, DbError> {
        self.db.query_opt(&schema::WAITING, params![owner, kind]).await?.map_or(Ok(0), |row| row.int(0))
    }

    /// Jobs of this kind whose time has come, the first due first.
    pub async fn due(&self, kind: &str, limit: usize) -> Result<Vec<Job>, DbError> {
        self.db.query(&schema::DUE, params![kind, self.now(), limit]).await?.iter().map(Job::from_row).collect()
    }

    /// Waits until a job of this kind may be due: its time has come, or the schedule has changed.
    pub async fn wait(&self, kind: &str) -> Result<(), DbError> {
        let changed = self.changed.notified();
        tokio::pin!(changed);
        // From here on no change is missed.
        changed.as_mut().enable();
        let next = self.db.query_opt(&schema::NEXT, params![kind]).await?;
        let next = next.map(|row| row.opt_int(0)).transpose()?.flatten();
        match next.map(|due_ms| u64::try_from(due_ms - self.now()).unwrap_or(0)) {
            Some(wait_ms) => {
                tokio::select! {
                    () = changed => {}
                    () = tokio::time::sleep(Duration::from_millis(wait_ms)) => {}
                }
            }
            None => changed.await,
        }
        Ok(())
    }

    /// Puts a waiting job off until `due_ms`. Whether it still waited.
    pub async fn put_off(&self, id: &str, due_ms: i64) -> Result<bool, DbError> {
        self.change(&schema::AGAIN, params![due_ms, self.now(), id]).await
    }

    /// Makes all waiting jobs of this kind due now.
    pub async fn hasten(&self, kind: &str) -> Result<(), DbError> {
        let mut batch = Batch::new();
        batch.exec(&schema::HASTEN, params![self.now(), kind]);
        self.db.commit(batch).await?;
        self.changed.notify_waiters();
        Ok(())
    }

    /// Ends a waiting job. Whether it still waited.
    pub async fn end(&self, id: &str, state: State, outcome: Option<&str>) -> Result<bool, DbError> {
        self.change(&schema::END, params![state.code(), self.now(), outcome, id]).await
    }

    async fn change(&self, sql: &samtal_db::Sql, params: Vec<samtal_db::Value>) -> Result<bool, DbError> {
        let mut batch = Batch::new();
        batch.expect(sql, params, 1);
        match self.db.commit(batch).await {
            Ok(_) => {
                self.changed.notify_waiters();
                Ok(true)
            }
            Err(error) if error.is_conflict() => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use samtal_db::testing::each_engine;

    use super::*;

    fn job<'a>(once: Option<&'a str>, due_ms: i64) -> NewJob<'a> {
        NewJob { kind: "k", owner: "@u:a", once, due_ms: Some(due_ms), body: "{}" }
    }

    #[tokio::test]
    async fn a_job_is_due_once_its_time_has_come_and_ends_once() {
        each_engine(&[crate::SCHEMA], |db| async move {
            let clock = Clock::manual(1_000);
            let jobs = Jobs::new(db, clock.clone(), Random::seeded(1));
            let id = jobs.schedule(job(None, 2_000)).await.unwrap();
            let early = jobs.schedule(job(None, 1_500)).await.unwrap();
            assert_eq!(jobs.due("k", 10).await.unwrap(), []);
            clock.set_ms(2_000);
            let due: Vec<String> = jobs.due("k", 10).await.unwrap().into_iter().map(|job| job.id).collect();
            assert_eq!(due, [early.clone(), id.clone()]);
            assert!(jobs.put_off(&id, 5_000).await.unwrap());
            assert!(jobs.end(&early, State::Done, Some("$e")).await.unwrap());
            assert!(!jobs.end(&early, State::Cancelled, None).await.unwrap());
            assert!(!jobs.put_off(&early, 9_000).await.unwrap());
            jobs.hasten("k").await.unwrap();
            assert_eq!(jobs.due("k", 10).await.unwrap().len(), 1, "what has ended stays so");
            assert!(jobs.put_off(&id, 5_000).await.unwrap());
            assert_eq!(jobs.due("k", 10).await.unwrap(), []);
            assert_eq!(jobs.waiting("k", "@u:a").await.unwrap(), 1);
            let all = jobs.of_owner("k", "@u:a").await.unwrap();
            assert_eq!(all.iter().map(|job| job.state).collect::<Vec<_>>(), [State::Done, State::Waiting]);
            assert_eq!(all[0].outcome.as_deref(), Some("$e"));
            assert!(jobs.get("other", &id).await.unwrap().is_none());
        })
        .await;
    }

    #[tokio::test]
    async fn scheduling_twice_is_scheduling_once() {
        each_engine(&[crate::SCHEMA], |db| async move {
            let jobs = Jobs::new(db, Clock::manual(0), Random::seeded(1));
            let one = jobs.schedule(job(Some("txn"), 5)).await.unwrap();
            assert_eq!(jobs.schedule(job(Some("txn"), 9)).await.unwrap(), one);
            assert_ne!(jobs.schedule(job(Some("other"), 9)).await.unwrap(), one);
            let of_another_kind = NewJob { kind: "l", ..job(Some("txn"), 5) };
            let other = jobs.schedule(of_another_kind).await.unwrap();
            assert_ne!(other, one, "kinds name their requests for themselves");
            assert!(jobs.get("l", &other).await.unwrap().is_some());
        })
        .await;
    }

    #[tokio::test]
    async fn whoever_waits_hears_of_an_earlier_job() {
        each_engine(&[crate::SCHEMA], |db| async move {
            let jobs = Jobs::new(db, Clock::manual(0), Random::seeded(1));
            let waiting = jobs.wait("k");
            tokio::pin!(waiting);
            let is_pending =
                tokio::select! { biased; _ = &mut waiting => false, () = tokio::task::yield_now() => true };
            assert!(is_pending);
            jobs.schedule(job(None, 0)).await.unwrap();
            waiting.await.unwrap();
            assert_eq!(jobs.due("k", 10).await.unwrap().len(), 1);
        })
        .await;
    }
}
