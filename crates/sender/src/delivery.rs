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
    schema,
    sender::TROUBLE,
    transaction::Transaction,
};

/// A transaction gets so long.
const TRANSACTION_TIME: Duration = Duration::from_secs(60);

impl Sender {
    pub(crate) async fn work(self, destination: OwnedServerName) {
        let tasks = self.inner.engines.tasks.clone();
        loop {
            let step = async {
                // The semaphore is never closed.
                let _permit = self.inner.at_once.acquire().await;
                self.step(&destination).await
            };
            let step = tokio::select! {
                biased;
                () = tasks.stopping() => return,
                step = step => step,
            };
            let go_on = match step {
                Ok(go_on) => go_on,
                Err(error) => {
                    tracing::error!(%destination, %error, "sending waits");
                    tokio::time::sleep(TROUBLE).await;
                    false
                }
            };
            if !go_on {
                let mut lanes = self.inner.lanes.lock();
                if let Some(lane) = lanes.get_mut(&destination) {
                    lane.is_running = false;
                    if lane.is_empty() && !lane.has_row {
                        lanes.remove(&destination);
                    }
                }
                return;
            }
        }
    }

    /// One transaction, or one reading of the log. Whether there may be more to do.
    async fn step(&self, destination: &ServerName) -> Result<bool, SenderError> {
        let (behind_after, items, typing, presence) = {
            let mut lanes = self.inner.lanes.lock();
            let Some(lane) = lanes.get_mut(destination) else { return Ok(false) };
            if lane.is_behind {
                (Some(lane.after), Vec::new(), BTreeMap::new(), BTreeSet::new())
            } else {
                let count = Transaction::fitting(lane.queue.iter()).min(lane.queue.len());
                let items: Vec<Placed> = lane.queue.iter().take(count).cloned().collect();
                (None, items, std::mem::take(&mut lane.typing), std::mem::take(&mut lane.presence))
            }
        };
        if let Some(after) = behind_after {
            return self.catch_up(destination, after).await;
        }
        if items.is_empty() && typing.is_empty() && presence.is_empty() {
            return self.finish(destination).await;
        }
        let mut transaction = Transaction::build(&self.inner.engines, destination, &items).await?;
        transaction.typing(typing);
        transaction.presence(&self.inner.engines, presence);
        if !self.send(destination, &transaction).await? {
            self.give_up(destination);
            return Ok(false);
        }
        let after = {
            let mut lanes = self.inner.lanes.lock();
            let Some(lane) = lanes.get_mut(destination) else { return Ok(false) };
            lane.after = items.last().map_or(lane.after, |placed| placed.position.max(lane.after));
            if !lane.is_behind {
                lane.queue.drain(..items.len().min(lane.queue.len()));
                if transaction.more_stored {
                    lane.queue.push_front(Placed { position: lane.after, item: Item::Edu });
                }
            }
            lane.after
        };
        self.delivered(destination, &transaction, after).await?;
        Ok(true)
    }

    /// Reads the log for a destination that is behind and sends what it missed. Whether that worked.
    async fn catch_up(&self, destination: &ServerName, after: i64) -> Result<bool, SenderError> {
        if self.inner.engines.remote.destinations().wait_until(destination).is_some() {
            return Ok(false);
        }
        let was_gone = self.inner.lanes.lock().get(destination).is_some_and(|lane| lane.was_gone);
        let amount = if was_gone { Amount::Newest } else { Amount::Page };
        let (missed, until) = Missed::read(&self.inner.engines, destination, after, self.position(), amount).await?;
        let mut items = missed.into_items(until);
        // The rules may have changed since.
        for action in [Action::Event, Action::Edu] {
            if items.iter().any(|placed| placed.item.action() == action) && !self.may_hear(destination, action) {
                items.retain(|placed| placed.item.action() != action);
            }
        }
        tracing::debug!(%destination, after, until, items = items.len(), "catching up");
        while !items.is_empty() {
            let count = Transaction::fitting(items.iter()).min(items.len());
            let part: Vec<Placed> = items.iter().take(count).cloned().collect();
            let transaction = Transaction::build(&self.inner.engines, destination, &part).await?;
            if !self.send(destination, &transaction).await? {
                return Ok(false);
            }
            self.delivered(destination, &transaction, after).await?;
            items.drain(..count);
            if transaction.more_stored {
                items.insert(0, Placed { position: until, item: Item::Edu });
            }
        }
        {
            let mut lanes = self.inner.lanes.lock();
            if let Some(lane) = lanes.get_mut(destination) {
                lane.after = until;
                lane.was_gone = false;
                // What was dispatched meanwhile is not in the queue, so the log has to be read once more.
                lane.is_behind = self.position() > until;
            }
        }
        self.delivered(destination, &Transaction::default(), until).await?;
        Ok(true)
    }

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

    /// Notes what has been delivered.
    async fn delivered(
        &self,
        destination: &ServerName,
        transaction: &Transaction,
        after: i64,
    ) -> Result<(), SenderError> {
        let has_row = self.inner.lanes.lock().get(destination).is_some_and(|lane| lane.has_row);
        let mut batch = Batch::new();
        if has_row {
            batch.exec(&schema::OUTGOING_ADVANCE, params![after, destination.as_str()]);
        }
        if !transaction.stored.is_empty() {
            batch.exec(&schema::EDUS_DELETE, params![destination.as_str(), transaction.stored.clone()]);
        }
        if !batch.is_empty() {
            self.inner.engines.db.commit(batch).await?;
        }
        Ok(())
    }

    /// Removes a lane for which nothing waits. Whether there was something after all.
    async fn finish(&self, destination: &ServerName) -> Result<bool, SenderError> {
        let _rows = self.inner.rows.lock().await;
        let lane = {
            let mut lanes = self.inner.lanes.lock();
            match lanes.get(destination) {
                Some(lane) if lane.is_empty() => lanes.remove(destination),
                _ => return Ok(true),
            }
        };
        if let Some(lane) = lane.filter(|lane| lane.has_row) {
            let mut batch = Batch::new();
            batch.exec(&schema::OUTGOING_END, params![destination.as_str(), lane.after]);
            self.inner.engines.db.commit(batch).await?;
        }
        Ok(false)
    }

    fn give_up(&self, destination: &ServerName) {
        if let Some(lane) = self.inner.lanes.lock().get_mut(destination) {
            lane.let_go();
        }
    }
}
