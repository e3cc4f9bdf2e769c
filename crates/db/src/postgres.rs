//! PostgreSQL: the same grouped commits by one task per node, reads through a pool, wake-ups by LISTEN/NOTIFY.
//!
//! Modules in reading order: [`statement`] → [`migration`] → [`listener`] → [`writer`].

mod listener;
mod migration;
mod statement;
mod writer;

use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, RecyclingMethod};
use parking_lot::Mutex;
use samtal_kit::Tasks;
use tokio::sync::{mpsc, oneshot};
use tokio_postgres::NoTls;

pub use self::listener::TOLD_BYTES_MAX;
use self::{
    listener::{Reading, Telling},
    writer::Waiting,
};
use crate::{Batch, Committed, DbError, Row, Schema, Sql, Value, db::Announcer};

pub(crate) struct Postgres {
    reading: Reading,
    writer: Mutex<Option<mpsc::Sender<Waiting>>>,
    tasks: Tasks,
    telling: Telling,
}

impl Postgres {
    pub(crate) async fn open(
        url: &str,
        schema: &str,
        connections_max: usize,
        schemas: &[Schema],
        announcer: Announcer,
    ) -> Result<Self, DbError> {
        if schema.is_empty() || !schema.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return Err(DbError::Migration(format!("{schema:?} is not a name for a schema")));
        }
        let mut config: tokio_postgres::Config = url.parse()?;
        config.options(format!("-c search_path=\"{schema}\" -c synchronous_commit=on"));
        let manager =
            Manager::from_config(config.clone(), NoTls, ManagerConfig { recycling_method: RecyclingMethod::Fast });
        let pool = Pool::builder(manager)
            .max_size(connections_max.max(4))
            .runtime(deadpool_postgres::Runtime::Tokio1)
            .wait_timeout(Some(Duration::from_secs(10)))
            .build()
            .map_err(|error| DbError::Engine(error.to_string(), None))?;
        migration::migrate(&pool, schema, schemas).await?;
        let reading = Reading::begin(pool, announcer).await?;
        let telling = Telling::new(schema);
        let tasks = Tasks::new();
        let (sender, waiting) = mpsc::channel(writer::WAITING_MAX);
        tasks.spawn("db-writer", writer::write(reading.clone(), schema.to_owned(), waiting));
        tasks.spawn("db-listener", listener::listen(reading.clone(), config, schema.to_owned(), telling.clone()));
        Ok(Self { reading, writer: Mutex::new(Some(sender)), tasks, telling })
    }

    pub(crate) async fn commit(&self, batch: Batch) -> Result<Committed, DbError> {
        let writer = self.writer.lock().clone().ok_or(DbError::Closed)?;
        let (answer, answered) = oneshot::channel();
        writer.send(Waiting { batch, answer }).await.map_err(|_| DbError::Closed)?;
        answered.await.map_err(|_| DbError::Closed)?
    }

    pub(crate) async fn query(&self, sql: &Sql, params: &[Value]) -> Result<Vec<Row>, DbError> {
        self.reading.query(sql, params).await
    }

    pub(crate) async fn snapshot(&self) -> Result<View, DbError> {
        // Made first: who stops waiting must not leave a begun transaction to whoever gets the connection next.
        let view = View { client: self.reading.pool.get().await? };
        view.client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        Ok(view)
    }

    pub(crate) async fn catch_up(&self) -> Result<(), DbError> {
        self.reading.catch_up().await
    }

    pub(crate) async fn tell(&self, what: &str) -> Result<(), DbError> {
        self.telling.tell(&self.reading.pool, what).await
    }

    pub(crate) async fn advisory_lock(&self, name: &str) -> Result<Option<AdvisoryLock>, DbError> {
        let client = self.reading.pool.get().await?;
        let row = client
            .query_one("SELECT pg_try_advisory_lock(hashtextextended(current_schema() || $1, 0))", &[&name])
            .await?;
        // A connection of its own, which takes the lock with it when it goes.
        Ok(row.get::<_, bool>(0).then(|| AdvisoryLock { client: Object::take(client) }))
    }

    pub(crate) async fn close(&self, patience: Duration) {
        self.writer.lock().take();
        self.tasks.shut_down(patience).await;
        self.reading.pool.close();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.tasks.token().cancel();
    }
}

/// Held for as long as its connection lives.
pub(crate) struct AdvisoryLock {
    client: deadpool_postgres::ClientWrapper,
}

impl AdvisoryLock {
    /// Whether the connection lives.
    pub(crate) fn is_held(&self) -> bool {
        !self.client.is_closed()
    }
}

/// A read-only transaction.
pub(crate) struct View {
    client: Object,
}

impl View {
    pub(crate) async fn query(&self, sql: &Sql, params: &[Value]) -> Result<Vec<Row>, DbError> {
        statement::rows(&self.client, sql, params).await
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // Queued before whatever the connection is used for next.
        self.client.__private_api_rollback(None);
    }
}
