//! Messages to devices: stored until the device has them, in order, at most so many.

use std::{collections::BTreeSet, sync::atomic::Ordering};

use ruma::{DeviceId, OwnedUserId, UserId};
use samtal_db::{Batch, Change, Sql, Value, params, sql};
use samtal_model::ChangeKind;
use serde_json::value::RawValue;

use crate::{E2ee, E2eeError};

/// Messages kept for a device that does not sync. Beyond it the oldest are dropped.
pub const INBOX_MESSAGES_MAX: i64 = 10_000;
/// Bytes kept for a device that does not sync. Beyond it the oldest are dropped.
pub const INBOX_BYTES_MAX: i64 = 16 << 20;
/// Largest message, in bytes of its content.
pub const MESSAGE_BYTES_MAX: usize = 65_536;
/// How long a transaction id or a server's message id counts as seen.
const SEEN_MS: u64 = 24 * 3600 * 1000;
/// Sends between two sweeps of ids that no longer count.
const SENDS_PER_SWEEP: u64 = 1_024;

const MESSAGE_INSERT: Sql =
    sql!("INSERT INTO to_device (user_id, device_id, position, event_json, bytes) VALUES ($1, $2, $3, $4, $5)");
const INBOX_ADD: Sql = sql!(
    "INSERT INTO to_device_inbox (user_id, device_id, messages, bytes, dropped) VALUES ($1, $2, 1, $3, 0)
     ON CONFLICT (user_id, device_id) DO UPDATE SET messages = to_device_inbox.messages + 1,
        bytes = to_device_inbox.bytes + excluded.bytes
     RETURNING messages, bytes"
);
const MESSAGES_AFTER: Sql = sql!(
    "SELECT position, event_json FROM to_device
     WHERE user_id = $1 AND device_id = $2 AND position > $3 AND position <= $4 ORDER BY position LIMIT $5"
);
const MESSAGE_WAITS: Sql =
    sql!("SELECT 1 FROM to_device WHERE user_id = $1 AND device_id = $2 AND position <= $3 LIMIT 1");
const MESSAGES_DELETE: Sql = sql!("DELETE FROM to_device WHERE user_id = $1 AND device_id = $2 AND position <= $3");
/// Stands before [`MESSAGES_DELETE`] in a batch: counts what that will take.
const INBOX_SUBTRACT: Sql = sql!(
    "UPDATE to_device_inbox SET
        messages = messages - (SELECT COUNT(*) FROM to_device WHERE user_id = $1 AND device_id = $2 AND position <= $3),
        bytes = bytes - (SELECT CAST(COALESCE(SUM(gone.bytes), 0) AS BIGINT) FROM to_device AS gone
                         WHERE user_id = $1 AND device_id = $2 AND position <= $3)
     WHERE user_id = $1 AND device_id = $2"
);
const INBOX_DROPPED: Sql =
    sql!("UPDATE to_device_inbox SET dropped = dropped + $1 WHERE user_id = $2 AND device_id = $3");
const INBOX: Sql = sql!("SELECT messages, bytes, dropped FROM to_device_inbox WHERE user_id = $1 AND device_id = $2");
/// The newest message that no longer fits when those after it are counted.
const INBOX_BEYOND: Sql = sql!(
    "SELECT MAX(position), COUNT(*) FROM (
        SELECT position, ROW_NUMBER() OVER (ORDER BY position DESC) AS place,
            CAST(SUM(bytes) OVER (ORDER BY position DESC) AS BIGINT) AS upto
        FROM to_device WHERE user_id = $1 AND device_id = $2) AS kept
     WHERE place > $3 OR upto > $4"
);
const ALL_DELETE: Sql = sql!("DELETE FROM to_device WHERE user_id = $1 AND device_id = $2");
const INBOX_DELETE: Sql = sql!("DELETE FROM to_device_inbox WHERE user_id = $1 AND device_id = $2");
const SENT: Sql = sql!("SELECT 1 FROM to_device_sent WHERE user_id = $1 AND device_id = $2 AND transaction_id = $3");
const SENT_INSERT: Sql =
    sql!("INSERT INTO to_device_sent (user_id, device_id, transaction_id, sent_ms) VALUES ($1, $2, $3, $4)");
const RECEIVED: Sql = sql!("SELECT 1 FROM to_device_received WHERE origin = $1 AND message_id = $2");
const RECEIVED_INSERT: Sql =
    sql!("INSERT INTO to_device_received (origin, message_id, received_ms) VALUES ($1, $2, $3)");
const SENT_SWEEP: Sql = sql!("DELETE FROM to_device_sent WHERE sent_ms < $1");
const RECEIVED_SWEEP: Sql = sql!("DELETE FROM to_device_received WHERE received_ms < $1");

/// A message on its way, by its place among those that were asked for.
type Pending<'m> = (usize, &'m ToDevice);

/// A message for one device of ours.
#[derive(Clone, Debug)]
pub struct ToDevice {
    /// Whose device.
    pub user: OwnedUserId,
    /// Which.
    pub device: String,
    /// The content, passed through as it came.
    pub content: Box<RawValue>,
}

/// What makes sending the same twice do it once.
#[derive(Clone, Copy, Debug)]
pub enum Once<'a> {
    /// A device's transaction id (with the event type, as the path has both).
    Transaction {
        /// Who sends.
        user: &'a UserId,
        /// From which device; an application service's own name for itself when it has none.
        device: &'a str,
        /// Event type and transaction id.
        id: &'a str,
    },
    /// Another server's message id.
    Message {
        /// The server.
        origin: &'a str,
        /// Its id.
        id: &'a str,
    },
}

impl<'a> Once<'a> {
    fn query(self) -> (&'static Sql, &'static Sql, Vec<Value>) {
        match self {
            Self::Transaction { user, device, id } => (&SENT, &SENT_INSERT, params![user.as_str(), device, id]),
            Self::Message { origin, id } => (&RECEIVED, &RECEIVED_INSERT, params![origin, id]),
        }
    }
}

/// A stored message, ready for a sync.
#[derive(Clone, Debug)]
pub struct StoredMessage {
    /// Its log position: acknowledging it acknowledges all before it.
    pub position: i64,
    /// `{"type", "sender", "content"}`.
    pub event: Box<RawValue>,
}

/// What waits for a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inbox {
    /// Messages.
    pub messages: i64,
    /// Their size in bytes.
    pub bytes: i64,
    /// Messages that were dropped because more came than is kept.
    pub dropped: i64,
}

/// Adds the deletion of all messages to a device.
pub(crate) fn delete_all(batch: &mut Batch, user: &UserId, device: &DeviceId) {
    batch.exec(&ALL_DELETE, params![user.as_str(), device.as_str()]);
    batch.exec(&INBOX_DELETE, params![user.as_str(), device.as_str()]);
}

impl E2ee {
    /// Stores one message of this type for each of the devices, which the caller has found to exist, together with what
    /// else is in `batch`. False when `once` says that it was done before: then nothing is stored. A repeated request that
    /// races the first one is stored once too.
    pub async fn to_device_send(
        &self,
        sender: &UserId,
        event_type: &str,
        messages: &[ToDevice],
        once: Once<'_>,
        others: Batch,
    ) -> Result<bool, E2eeError> {
        let (mut batch, inboxes) = self.sending(sender, event_type, messages)?;
        batch.append(others);
        self.sweep(&mut batch);
        let (seen, remember, id) = once.query();
        let mut row = id.clone();
        row.push(self.clock.now_ms().into());
        batch.exec(remember, row);
        if self.db.query_opt(seen, id.clone()).await?.is_some() {
            return Ok(false);
        }
        let committed = match self.db.commit(batch).await {
            Ok(committed) => committed,
            Err(error) if error.is_conflict() && self.db.query_opt(seen, id).await?.is_some() => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let mut full = BTreeSet::new();
        for (index, message) in inboxes {
            let row = committed.rows.get(index).and_then(|rows| rows.first());
            let Some((count, bytes)) = row.map(|row| Ok::<_, E2eeError>((row.int(0)?, row.int(1)?))).transpose()?
            else {
                continue;
            };
            if count > INBOX_MESSAGES_MAX || bytes > INBOX_BYTES_MAX {
                full.insert((&message.user, &message.device));
            }
        }
        for (user, device) in full {
            self.inbox_trim(user, device).await?;
        }
        Ok(true)
    }

    fn sending<'m>(
        &self,
        sender: &UserId,
        event_type: &str,
        messages: &'m [ToDevice],
    ) -> Result<(Batch, Vec<Pending<'m>>), E2eeError> {
        let mut batch = Batch::new();
        let mut inboxes = Vec::with_capacity(messages.len());
        let head = format!(
            r#"{{"type":{},"sender":{},"content":"#,
            serde_json::Value::from(event_type),
            serde_json::Value::from(sender.as_str())
        );
        for message in messages {
            let content = message.content.get();
            if content.len() > MESSAGE_BYTES_MAX {
                return Err(E2eeError::TooLarge(format!("a message to a device may have {MESSAGE_BYTES_MAX} bytes")));
            }
            let event = format!("{head}{content}}}");
            let bytes = event.len();
            let (user, device) = (message.user.as_str(), message.device.as_str());
            let position = batch.log(Change::new(ChangeKind::ToDevice).user(user).reference(device));
            batch.exec(&MESSAGE_INSERT, vec![user.into(), device.into(), position, event.into(), bytes.into()]);
            inboxes.push((batch.returning(&INBOX_ADD, params![user, device, bytes]), message));
        }
        Ok((batch, inboxes))
    }

    /// Now and then forgets ids that no longer count.
    fn sweep(&self, batch: &mut Batch) {
        if self.counters.to_device_sent.fetch_add(1, Ordering::Relaxed).is_multiple_of(SENDS_PER_SWEEP) {
            let before = self.clock.now_ms().saturating_sub(SEEN_MS);
            batch.exec(&SENT_SWEEP, params![before]);
            batch.exec(&RECEIVED_SWEEP, params![before]);
        }
    }

    /// Drops the oldest messages of a full inbox, a tenth more than must go, so that this is rare.
    async fn inbox_trim(&self, user: &UserId, device: &str) -> Result<(), E2eeError> {
        let limits = params![user.as_str(), device, INBOX_MESSAGES_MAX / 10 * 9, INBOX_BYTES_MAX / 10 * 9];
        let Some(row) = self.db.query_opt(&INBOX_BEYOND, limits).await? else { return Ok(()) };
        let Some(upto) = row.opt_int(0)? else { return Ok(()) };
        let dropped: u64 = row.get(1)?;
        let mut batch = Batch::new();
        batch.exec(&INBOX_SUBTRACT, params![user.as_str(), device, upto]);
        batch.exec(&MESSAGES_DELETE, params![user.as_str(), device, upto]);
        batch.exec(&INBOX_DROPPED, params![dropped, user.as_str(), device]);
        self.db.commit(batch).await?;
        self.counters.to_device_dropped.fetch_add(dropped, Ordering::Relaxed);
        tracing::warn!(dropped, "a device that does not sync has a full inbox: its oldest messages were dropped");
        Ok(())
    }

    /// The messages to a device after `since` and not after `until`, at most `limit`, oldest first. When there are `limit`
    /// of them, the next token must stand at the last one's position, not at `until`.
    pub async fn to_device_after(
        &self,
        user: &UserId,
        device: &DeviceId,
        since: i64,
        until: i64,
        limit: i64,
    ) -> Result<Vec<StoredMessage>, E2eeError> {
        let rows = self.db.query(&MESSAGES_AFTER, params![user.as_str(), device.as_str(), since, until, limit]).await?;
        let mut messages = Vec::with_capacity(rows.len());
        for row in &rows {
            match RawValue::from_string(row.text(1)?.to_owned()) {
                Ok(event) => messages.push(StoredMessage { position: row.int(0)?, event }),
                Err(error) => tracing::error!(%error, "a stored message to a device is not JSON"),
            }
        }
        Ok(messages)
    }

    /// Deletes the messages that the device has acknowledged: it came back with the token of the answer that held them.
    pub async fn to_device_acknowledge(&self, user: &UserId, device: &DeviceId, upto: i64) -> Result<(), E2eeError> {
        let acknowledged = params![user.as_str(), device.as_str(), upto];
        if self.db.query_opt(&MESSAGE_WAITS, acknowledged.clone()).await?.is_none() {
            return Ok(());
        }
        let mut batch = Batch::new();
        batch.exec(&INBOX_SUBTRACT, acknowledged.clone());
        batch.exec(&MESSAGES_DELETE, acknowledged);
        self.db.commit(batch).await?;
        Ok(())
    }

    /// What waits for a device.
    pub async fn inbox(&self, user: &UserId, device: &DeviceId) -> Result<Inbox, E2eeError> {
        let row = self.db.query_opt(&INBOX, params![user.as_str(), device.as_str()]).await?;
        let read = |row: samtal_db::Row| Ok(Inbox { messages: row.int(0)?, bytes: row.int(1)?, dropped: row.int(2)? });
        row.map_or(Ok(Inbox::default()), read)
    }
}
