//! Working on a lane: transactions to one destination, one after the other, until nothing is left or it does not answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::Ordering,
    time::Duration,
};

use http::{Request, header};
use ruma::{OwnedServerName, ServerName};
use samtal_db::{Batch, params};
use samtal_policy::Action;
use samtal_remote::{Options, RemoteError};

use crate::{
    Sender, SenderError,
    catch_up::{Amount, Missed},
    item::{Item, Placed},
    lane::{Lane, Worker},
    schema,
    sender::TROUBLE,
    transaction::Transaction,
};

/// A transaction gets so long.
const TRANSACTION_TIME: Duration = Duration::from_secs(60);

/// Work on a lane. However it ends, another may go on with the lane.
struct Work {
    sender: Sender,
    destination: OwnedServerName,
    worker: Worker,
}

impl Drop for Work {
    fn drop(&mut self) {
        self.sender.inner.lanes.lock().release(&self.destination, self.worker);
    }
}

impl Sender {
    pub(crate) async fn work(self, destination: OwnedServerName, worker: Worker) {
        let (inner, tasks) = (self.inner.clone(), self.inner.engines.tasks.clone());
        let work = Work { sender: self, destination, worker };
        loop {
            let step = async {
                let has_failed = inner.engines.remote.destinations().failing(&work.destination).is_some();
                // The semaphores are never closed.
                let _permit = if has_failed { &inner.retried_at_once } else { &inner.at_once }.acquire().await;
                work.step().await
            };
            let step = tokio::select! {
                biased;
                () = tasks.stopping() => return,
                step = step => step,
            };
            match step {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    tracing::error!(destination = %work.destination, %error, "sending waits");
                    tokio::time::sleep(TROUBLE).await;
                    return;
                }
            }
        }
    }
}

impl Work {
    /// The lane, as long as it is ours to work on.
    fn with_lane<T>(&self, then: impl FnOnce(&mut Lane) -> T) -> Option<T> {
        self.sender.inner.lanes.lock().of(&self.destination, self.worker).map(then)
    }

    /// One transaction, or one reading of the log. Whether there may be more to do.
    async fn step(&self) -> Result<bool, SenderError> {
        let (sender, destination) = (&self.sender, &*self.destination);
        let taken = self.with_lane(|lane| {
            if lane.is_behind {
                (Some(lane.after), Vec::new(), BTreeMap::new(), BTreeSet::new())
            } else {
                let count = Transaction::fitting(lane.queue.iter()).min(lane.queue.len());
                let items: Vec<Placed> = lane.queue.iter().take(count).cloned().collect();
                (None, items, std::mem::take(&mut lane.typing), std::mem::take(&mut lane.presence))
            }
        });
        let Some((behind_after, items, typing, presence)) = taken else { return Ok(false) };
        if let Some(after) = behind_after {
            return self.catch_up(after).await;
        }
        if items.is_empty() && typing.is_empty() && presence.is_empty() {
            return self.finish().await;
        }
        let engines = &sender.inner.engines;
        let mut transaction = Transaction::build(engines, destination, &items).await?;
        transaction.typing(typing);
        transaction.presence(engines, presence);
        if !sender.send(destination, &transaction).await? {
            self.with_lane(Lane::let_go);
            return Ok(false);
        }
        let after = self.with_lane(|lane| {
            lane.sent(&items);
            if transaction.more_stored && !lane.is_behind {
                lane.queue.push_front(Placed { position: lane.after, item: Item::Edu });
            }
            lane.after
        });
        let Some(after) = after else { return Ok(false) };
        self.delivered(&transaction, after).await?;
        Ok(true)
    }

    /// Reads the log for a destination that is behind and sends what it missed. Whether that worked.
    async fn catch_up(&self, after: i64) -> Result<bool, SenderError> {
        let (sender, destination) = (&self.sender, &*self.destination);
        let engines = &sender.inner.engines;
        if engines.remote.destinations().wait_until(destination).is_some() {
            return Ok(false);
        }
        let Some(was_gone) = self.with_lane(|lane| lane.was_gone) else { return Ok(false) };
        let amount = if was_gone { Amount::Newest } else { Amount::Page };
        let (missed, until) = Missed::read(engines, destination, after, sender.position(), amount).await?;
        let mut items = missed.into_items(until);
        // The rules may have changed since.
        for action in [Action::Event, Action::Edu] {
            if items.iter().any(|placed| placed.item.action() == action) && !sender.may_hear(destination, action) {
                items.retain(|placed| placed.item.action() != action);
            }
        }
        tracing::debug!(%destination, after, until, items = items.len(), "catching up");
        while !items.is_empty() {
            let count = Transaction::fitting(items.iter()).min(items.len());
            let part: Vec<Placed> = items.iter().take(count).cloned().collect();
            let transaction = Transaction::build(engines, destination, &part).await?;
            if !sender.send(destination, &transaction).await? {
                return Ok(false);
            }
            self.delivered(&transaction, after).await?;
            items.drain(..count);
            if transaction.more_stored {
                items.insert(0, Placed { position: until, item: Item::Edu });
            }
        }
        self.with_lane(|lane| {
            lane.after = until;
            lane.was_gone = false;
            // What was dispatched meanwhile is not in the queue, so the log has to be read once more.
            lane.is_behind = sender.position() > until;
        });
        self.delivered(&Transaction::default(), until).await?;
        Ok(true)
    }

    /// Notes what has been delivered.
    async fn delivered(&self, transaction: &Transaction, after: i64) -> Result<(), SenderError> {
        let destination = self.destination.as_str();
        let has_row = self.with_lane(|lane| lane.has_row).unwrap_or(false);
        let mut batch = Batch::new();
        if has_row {
            batch.exec(&schema::OUTGOING_ADVANCE, params![after, destination]);
        }
        if !transaction.stored.is_empty() {
            batch.exec(&schema::EDUS_DELETE, params![destination, transaction.stored.clone()]);
        }
        if !batch.is_empty() {
            self.sender.inner.engines.db.commit(batch).await?;
        }
        Ok(())
    }

    /// Removes a lane for which nothing waits. Whether there was something after all.
    async fn finish(&self) -> Result<bool, SenderError> {
        let inner = &self.sender.inner;
        let _rows = inner.rows.lock().await;
        let Some(lane) = inner.lanes.lock().finish(&self.destination, self.worker) else { return Ok(true) };
        if lane.has_row {
            let mut batch = Batch::new();
            batch.exec(&schema::OUTGOING_END, params![self.destination.as_str(), lane.after]);
            inner.engines.db.commit(batch).await?;
        }
        Ok(false)
    }
}

impl Sender {
    /// Sends one transaction. Whether it arrived.
    async fn send(&self, destination: &ServerName, transaction: &Transaction) -> Result<bool, SenderError> {
        if transaction.is_empty() {
            return Ok(true);
        }
        let engines = &self.inner.engines;
        let number = self.inner.transactions.fetch_add(1, Ordering::Relaxed);
        let path = format!("/_matrix/federation/v1/send/{}-{}-{number}", self.inner.started_ms, self.inner.started_at);
        let body = transaction.body(&engines.name, engines.clock.now_ms());
        let request = Request::put(path).header(header::CONTENT_TYPE, "application/json").body(body.into());
        let Ok(request) = request else { return Ok(true) };
        match engines.remote.send_raw(destination, request, Options::background().time(TRANSACTION_TIME)).await {
            Ok(_) => Ok(true),
            Err(RemoteError::Storage(error)) => Err(error.into()),
            Err(RemoteError::BackingOff { .. }) => Ok(false),
            // Nothing that could be done later would make it go through; the policy may change, but then for what comes then.
            Err(error @ (RemoteError::Refused(_) | RemoteError::Request(_))) => {
                tracing::info!(%destination, %error, "a transaction is dropped");
                Ok(true)
            }
            Err(error) => {
                tracing::debug!(%destination, %error, "a transaction did not arrive");
                if error.status().is_some() || matches!(error, RemoteError::Malformed { .. }) {
                    engines.remote.destinations().is_gone(destination).await?;
                }
                Ok(false)
            }
        }
    }
}
