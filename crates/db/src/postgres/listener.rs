//! How a node hears of the others: what they have committed, and what they tell that is kept nowhere.

use std::{future::poll_fn, sync::Arc, time::Duration};

use deadpool_postgres::Pool;
use futures_util::FutureExt;
use samtal_kit::Random;
use tokio_postgres::{AsyncMessage, NoTls};

use super::statement::rows;
use crate::{DbError, LoggedChange, Row, Sql, Value, db::Announcer, schema};

/// Most bytes that a node tells the others at once: PostgreSQL takes 8,000 in all.
pub const TOLD_BYTES_MAX: usize = 7_900;
/// Longest name of a channel.
const CHANNEL_BYTES_MAX: usize = 63;
/// Changes read at a time.
const CATCH_UP: i64 = 1_000;
/// How long it waits before it connects again.
const RECONNECT: Duration = Duration::from_millis(500);

/// What the reading tasks share.
#[derive(Clone)]
pub(super) struct Reading {
    pub(super) pool: Pool,
    announcer: Announcer,
    /// One reader of new changes at a time, so that they are announced in order.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Reading {
    /// Begins at the head of the log.
    pub(super) async fn begin(pool: Pool, announcer: Announcer) -> Result<Self, DbError> {
        let reading = Self { pool, announcer, turn: Arc::default() };
        let head = reading.query(&schema::HEAD, &[]).await?.first().map_or(Ok(0), |row| row.int(0))?;
        reading.announcer.start_at(head);
        Ok(reading)
    }

    pub(super) async fn query(&self, sql: &Sql, params: &[Value]) -> Result<Vec<Row>, DbError> {
        rows(&self.pool.get().await?, sql, params).await
    }

    /// Announces what any node has committed since the last time.
    pub(super) async fn catch_up(&self) -> Result<(), DbError> {
        let _turn = self.turn.lock().await;
        loop {
            let params = [self.announcer.head().into(), CATCH_UP.into()];
            let found = self.query(&schema::CHANGES_AFTER, &params).await?;
            let full = found.len() == usize::try_from(CATCH_UP).unwrap_or(0);
            self.announcer.announce(found.iter().map(LoggedChange::from_row).collect::<Result<_, _>>()?);
            if !full {
                return Ok(());
            }
        }
    }
}

/// How nodes tell each other what is kept nowhere.
#[derive(Clone)]
pub(super) struct Telling {
    channel: String,
    /// This node: it hears what it said itself, too.
    node: String,
}

impl Telling {
    pub(super) fn new(schema: &str) -> Self {
        Self { channel: told_channel(schema), node: Random::system().alphanumeric(16) }
    }

    pub(super) async fn tell(&self, pool: &Pool, what: &str) -> Result<(), DbError> {
        if what.len() > TOLD_BYTES_MAX {
            return Err(DbError::Engine(format!("{} bytes are too much to tell", what.len()), None));
        }
        let told = format!("{} {what}", self.node);
        pool.get().await?.execute("SELECT pg_notify($1, $2)", &[&self.channel, &told]).await?;
        Ok(())
    }

    /// What another node said, if it was another.
    fn heard<'a>(&self, payload: &'a str) -> Option<&'a str> {
        payload.split_once(' ').filter(|(node, _)| *node != self.node).map(|(_, what)| what)
    }
}

/// Where the nodes of a schema tell each other: as PostgreSQL names channels, of at most 63 bytes.
fn told_channel(schema: &str) -> String {
    let plain = format!("samtal_{schema}_told");
    if plain.len() <= CHANNEL_BYTES_MAX {
        return plain;
    }
    // Two long schemas must not hear each other.
    format!("told_{}", blake3::hash(schema.as_bytes()).to_hex().get(..32).unwrap_or_default())
}

/// Wakes this node when another has committed. Losing a connection costs time, not changes.
pub(super) async fn listen(reading: Reading, config: tokio_postgres::Config, schema: String, telling: Telling) {
    loop {
        if let Err(error) = listen_once(&reading, &config, &schema, &telling).await {
            tracing::warn!(%error, "lost the connection that listens for other nodes' commits");
        }
        tokio::time::sleep(RECONNECT).await;
        if let Err(error) = reading.catch_up().await {
            tracing::warn!(%error, "could not read new changes");
        }
    }
}

async fn listen_once(
    reading: &Reading,
    config: &tokio_postgres::Config,
    schema: &str,
    telling: &Telling,
) -> Result<(), DbError> {
    let (client, mut connection) = config.connect(NoTls).await?;
    let subscribe = format!("LISTEN \"samtal_{schema}\"; LISTEN \"{}\"", telling.channel);
    let mut subscribed = std::pin::pin!(client.batch_execute(&subscribe).fuse());
    loop {
        tokio::select! {
            result = &mut subscribed => result?,
            message = poll_fn(|context| connection.poll_message(context)) => match message {
                Some(Ok(AsyncMessage::Notification(told))) if told.channel() == telling.channel => {
                    if let Some(what) = telling.heard(told.payload()) {
                        reading.announcer.hear(what);
                    }
                }
                Some(Ok(AsyncMessage::Notification(_))) => reading.catch_up().await?,
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
                None => return Err(DbError::Closed),
            },
        }
    }
}
