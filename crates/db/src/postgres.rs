//! PostgreSQL: the same grouped commits by one task per node, reads through a pool, wake-ups by LISTEN/NOTIFY.
//!
//! Modules in reading order: [`statement`] → [`migration`] → [`listener`] → [`writer`].

mod listener;
mod migration;
mod statement;
mod writer;

use std::{sync::Arc, time::Duration};

use deadpool_postgres::{ClientWrapper, Manager, ManagerConfig, Object, Pool, RecyclingMethod};
use futures_util::FutureExt;
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
    holder: tokio::sync::Mutex<Option<Arc<ClientWrapper>>>,
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
        Ok(Self { reading, writer: Mutex::new(Some(sender)), tasks, telling, holder: tokio::sync::Mutex::default() })
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
        let client = self.holder().await?;
        let key = AdvisoryLock::key(name);
        // Made first: who stops waiting must not leave a lock that nobody knows of.
        let mut lock = AdvisoryLock { client, key: Some(key.clone()) };
        let row = lock.client.query_one(&format!("SELECT pg_try_advisory_lock({key})"), &[]).await?;
        if row.get::<_, bool>(0) {
            return Ok(Some(lock));
        }
        lock.key = None;
        Ok(None)
    }

    /// The connection that holds all locks of this node, however many, and takes them with it when it goes.
    async fn holder(&self) -> Result<Arc<ClientWrapper>, DbError> {
        let mut holder = self.holder.lock().await;
        match &*holder {
            Some(client) if !client.is_closed() => Ok(Arc::clone(client)),
            _ => {
                let client = Arc::new(Object::take(self.reading.pool.get().await?));
                *holder = Some(Arc::clone(&client));
                Ok(client)
            }
        }
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

/// Held until it is dropped, if its connection lives so long.
pub(crate) struct AdvisoryLock {
    client: Arc<ClientWrapper>,
    /// Nothing if it turned out not to be held.
    key: Option<String>,
}

impl AdvisoryLock {
    /// The number that stands for a name, as an expression. No name can be more than a text in it.
    fn key(name: &str) -> String {
        use std::fmt::Write as _;
        let hex = name.bytes().fold(String::new(), |mut hex, byte| {
            // Writing to a string cannot fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        format!("hashtextextended(current_schema() || convert_from(decode('{hex}', 'hex'), 'UTF8'), 0)")
    }

    /// Whether the connection lives.
    pub(crate) fn is_held(&self) -> bool {
        !self.client.is_closed()
    }
}

impl Drop for AdvisoryLock {
    fn drop(&mut self) {
        let Some(key) = &self.key else { return };
        // Queued before whatever the connection is asked for next; nobody waits for the answer.
        let _ = self.client.batch_execute(&format!("SELECT pg_advisory_unlock({key})")).now_or_never();
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
