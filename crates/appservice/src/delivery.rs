//! The follower: one task for each service that has an address, on one of several nodes. Transactions go out one after the other, each stored before it
//! is sent, so that a retry, after a restart too, is the same one.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use http::{Method, StatusCode};
use samtal_account::AccountError;
use samtal_db::{Batch, Changes, DbError, LoggedChange, params};
use samtal_e2ee::E2eeError;
use samtal_edu::EduChange;
use samtal_room::RoomError;
use tokio::sync::{Notify, broadcast};
use tokio_util::sync::CancellationToken;

use crate::{
    Engines, Service,
    ask::{Call, Line},
    interest::Interest,
    schema,
    transaction::{Draft, Reader},
};

/// How far the cursor may trail behind what has been read for nothing.
const CURSOR_LAG: i64 = 1_000;
/// The pause after the database failed.
const TROUBLE: Duration = Duration::from_secs(1);
/// How often a node looks whether the one that tells a service is gone.
const OTHER: Duration = Duration::from_secs(2);
/// A transaction gets so long.
const TRANSACTION_TIME: Duration = Duration::from_secs(60);

/// Why the follower had to stop for a moment.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// The database.
    #[error("storage failed")]
    Storage(#[from] DbError),
    /// The rooms.
    #[error("reading rooms failed")]
    Room(#[from] RoomError),
    /// The keys.
    #[error("reading devices failed")]
    E2ee(#[from] E2eeError),
    /// The accounts.
    #[error("reading accounts failed")]
    Account(#[from] AccountError),
    /// Something stored is not JSON.
    #[error("something stored is not JSON")]
    Json(#[from] serde_json::Error),
}

/// How long to wait after a failure: twice as long each time.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// The first pause.
    pub first: Duration,
    /// The longest pause.
    pub longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), longest: Duration::from_secs(60) }
    }
}

/// The name of a service's cursor.
pub(crate) fn cursor(id: &str) -> String {
    format!("appservice:{id}")
}

/// One service's way through the log.
pub(crate) struct Lane {
    pub(crate) engines: Engines,
    pub(crate) service: Arc<Service>,
    pub(crate) line: Line,
    pub(crate) backoff: Backoff,
    pub(crate) stop: CancellationToken,
    /// The service has been heard of: it is worth trying at once.
    pub(crate) wake: Arc<Notify>,
}

/// Where a lane stands.
struct Place {
    changes: Changes,
    page: Arc<[LoggedChange]>,
    /// How much of the page has been read.
    read: usize,
    /// All up to here is in transactions.
    after: i64,
    /// The cursor as it is stored.
    stored: i64,
    /// The last transaction's id.
    txn_id: i64,
    interest: Interest,
    edus: broadcast::Receiver<EduChange>,
}

impl Lane {
    pub(crate) async fn run(self) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.engines.tasks.stopping() => {}
            () = self.take_turns() => {}
        }
    }

    /// Of several nodes one tells a service; another goes on where it stood when that one is gone.
    async fn take_turns(&self) {
        loop {
            match self.engines.db.lease(&cursor(self.service.id())).await {
                Ok(Some(lease)) => tokio::select! {
                    () = lease.lost() => {
                        tracing::warn!(service = self.service.id(), "another node may tell the application service now");
                    }
                    () = self.follow() => {}
                },
                Ok(None) => tokio::time::sleep(OTHER).await,
                Err(error) => self.trouble(&error.into()).await,
            }
        }
    }

    async fn follow(&self) {
        let mut place = loop {
            match self.begin().await {
                Ok(place) => break place,
                Err(error) => self.trouble(&error).await,
            }
        };
        let mut draft = Draft::default();
        loop {
            if let Err(error) = self.collect(&mut place, &mut draft).await {
                self.trouble(&error).await;
                continue;
            }
            while let Err(error) = self.deliver(&mut place, &draft).await {
                self.trouble(&error).await;
            }
            draft = Draft::default();
        }
    }

    async fn trouble(&self, error: &DeliveryError) {
        tracing::error!(
            service = self.service.id(),
            error = error as &dyn std::error::Error,
            "events for an application service wait"
        );
        tokio::time::sleep(TROUBLE).await;
    }

    /// Finds out where it stood, and sends again what was not answered.
    async fn begin(&self) -> Result<Place, DeliveryError> {
        let (db, id) = (&self.engines.db, self.service.id());
        let edus = self.engines.edus.subscribe();
        let mut after = db.cursor(&cursor(id)).await?;
        if after == 0 {
            // What happened before there was this service does not concern it.
            after = db.position();
            let mut batch = Batch::new();
            batch.cursor(&cursor(id), after);
            db.commit(batch).await?;
        }
        let mut txn_id = 0;
        if let Some(row) = db.query_opt(&schema::TRANSACTION, params![id]).await? {
            txn_id = row.int(0)?;
            if let Some(body) = row.opt_text(1)? {
                self.send(txn_id, body.to_owned()).await;
                self.done().await?;
            }
        }
        let changes = db.changes(after);
        let page = Arc::new([]);
        Ok(Place { changes, page, read: 0, after, stored: after, txn_id, interest: Interest::new(), edus })
    }

    /// Reads on until there is something to tell and no more at hand. What fails is read again.
    async fn collect(&self, place: &mut Place, draft: &mut Draft) -> Result<(), DeliveryError> {
        loop {
            let mut reader = Reader { engines: &self.engines, service: &self.service, interest: &mut place.interest };
            while let Some(change) = place.page.get(place.read) {
                if draft.is_full() {
                    return Ok(());
                }
                reader.read(draft, change).await?;
                place.after = change.position;
                place.read += 1;
            }
            while let Ok(change) = place.edus.try_recv() {
                reader.passing(draft, change).await?;
            }
            let next = if draft.is_empty() {
                self.keep_up(place).await?;
                tokio::select! {
                    next = place.changes.next() => Some(next),
                    change = place.edus.recv() => {
                        if let Ok(change) = change {
                            let mut reader =
                                Reader { engines: &self.engines, service: &self.service, interest: &mut place.interest };
                            reader.passing(draft, change).await?;
                        }
                        continue;
                    }
                }
            } else {
                place.changes.next().now_or_never()
            };
            match next {
                Some(page) => {
                    place.page = page?;
                    place.read = 0;
                }
                None => return Ok(()),
            }
        }
    }

    /// Stores the cursor when it trails far behind.
    async fn keep_up(&self, place: &mut Place) -> Result<(), DeliveryError> {
        if place.after - place.stored > CURSOR_LAG {
            let mut batch = Batch::new();
            batch.cursor(&cursor(self.service.id()), place.after);
            self.engines.db.commit(batch).await?;
            place.stored = place.after;
        }
        Ok(())
    }

    /// Stores the transaction with the cursor behind it, then sends it until it is taken.
    async fn deliver(&self, place: &mut Place, draft: &Draft) -> Result<(), DeliveryError> {
        let reader = Reader { engines: &self.engines, service: &self.service, interest: &mut place.interest };
        let body = reader.body(draft).await?;
        // Ids must not come again when the database has been set back to an older day.
        let now_ms = self.engines.clock.signed_now_ms();
        let txn_id = now_ms.max(place.txn_id + 1);
        let mut batch = Batch::new();
        batch.exec(&schema::TRANSACTION_SET, params![self.service.id(), txn_id, body.as_str()]);
        batch.cursor(&cursor(self.service.id()), place.after);
        self.engines.db.commit(batch).await?;
        place.txn_id = txn_id;
        place.stored = place.after;
        for (user, device, position) in &draft.taken {
            self.engines.e2ee.to_device_acknowledge(user, device.as_str().into(), *position).await?;
        }
        self.send(txn_id, body).await;
        while let Err(error) = self.done().await {
            self.trouble(&error).await;
        }
        Ok(())
    }

    async fn done(&self) -> Result<(), DeliveryError> {
        let mut batch = Batch::new();
        batch.exec(&schema::TRANSACTION_DONE, params![self.service.id()]);
        self.engines.db.commit(batch).await?;
        Ok(())
    }

    /// Sends until the service says that it has it.
    async fn send(&self, txn_id: i64, body: String) {
        let path = format!("transactions/{txn_id}");
        let call =
            Call { method: Method::PUT, path: &path, query: "", body: Some(body.into()), time: TRANSACTION_TIME };
        let mut pause = self.backoff.first;
        let mut failed = false;
        loop {
            match self.line.call(&self.service, &call).await {
                Ok((StatusCode::OK, _)) => break,
                Ok((status, _)) => {
                    tracing::warn!(service = self.service.id(), %status, "an application service refused a transaction")
                }
                Err(error) => {
                    tracing::warn!(service = self.service.id(), %error, "an application service cannot be reached")
                }
            }
            failed = true;
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.wake.notified() => {}
            }
            pause = (pause * 2).min(self.backoff.longest);
        }
        if failed {
            tracing::info!(service = self.service.id(), "an application service is back");
        }
    }
}
