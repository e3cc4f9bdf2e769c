//! PostgreSQL: the same grouped commits by one task per node, reads through a pool, wake-ups by LISTEN/NOTIFY.

use std::{future::poll_fn, sync::Arc, time::Duration};

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, RecyclingMethod};
use futures_util::{FutureExt, future::BoxFuture};
use parking_lot::Mutex;
use samtal_kit::{Random, Tasks};
use tokio::sync::{mpsc, oneshot};
use tokio_postgres::{
    AsyncMessage, NoTls,
    types::{IsNull, ToSql, Type, private::BytesMut, to_sql_checked},
};

use crate::{
    Batch, Change, Committed, DbError, LoggedChange, Row, Schema, Sql, Value,
    batch::{Expect, Step, call_hooks},
    db::Announcer,
    schema,
};

/// Most bytes that a node tells the others at once: PostgreSQL takes 8,000 in all.
pub const TOLD_BYTES_MAX: usize = 7_900;
/// Longest name of a channel.
const CHANNEL_BYTES_MAX: usize = 63;
const WAITING_MAX: usize = 4_096;
const GROUP_MAX: usize = 512;
/// Changes read at a time.
const CATCH_UP: i64 = 1_000;
const RECONNECT: Duration = Duration::from_millis(500);

pub(crate) struct Postgres {
    reading: Reading,
    writer: Mutex<Option<mpsc::Sender<Waiting>>>,
    tasks: Tasks,
    telling: Telling,
}

/// How nodes tell each other what is kept nowhere.
#[derive(Clone)]
struct Telling {
    channel: String,
    /// This node: it hears what it said itself, too.
    node: String,
}

struct Waiting {
    batch: Batch,
    answer: oneshot::Sender<Result<Committed, DbError>>,
}

/// What the reading tasks share.
#[derive(Clone)]
struct Reading {
    pool: Pool,
    announcer: Announcer,
    /// One reader of new changes at a time, so that they are announced in order.
    turn: Arc<tokio::sync::Mutex<()>>,
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
        migrate(&pool, schema, schemas).await?;
        let reading = Reading { pool, announcer, turn: Arc::default() };
        let head = reading.query(&schema::HEAD, &[]).await?.first().map_or(Ok(0), |row| row.int(0))?;
        reading.announcer.start_at(head);
        let tasks = Tasks::new();
        let telling = Telling { channel: told_channel(schema), node: Random::system().alphanumeric(16) };
        let (sender, waiting) = mpsc::channel(WAITING_MAX);
        tasks.spawn("db-writer", write(reading.clone(), schema.to_owned(), waiting));
        tasks.spawn("db-listener", listen(reading.clone(), config, schema.to_owned(), telling.clone()));
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
        let client = self.reading.pool.get().await?;
        client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        Ok(View { client })
    }

    pub(crate) async fn catch_up(&self) -> Result<(), DbError> {
        self.reading.catch_up().await
    }

    pub(crate) async fn tell(&self, what: &str) -> Result<(), DbError> {
        if what.len() > TOLD_BYTES_MAX {
            return Err(DbError::Engine(format!("{} bytes are too much to tell", what.len()), None));
        }
        let client = self.reading.pool.get().await?;
        let told = format!("{} {what}", self.telling.node);
        client.execute("SELECT pg_notify($1, $2)", &[&self.telling.channel, &told]).await?;
        Ok(())
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

/// Where the nodes of a schema tell each other: as PostgreSQL names channels, of at most 63 bytes.
fn told_channel(schema: &str) -> String {
    let plain = format!("samtal_{schema}_told");
    if plain.len() <= CHANNEL_BYTES_MAX {
        return plain;
    }
    // Two long schemas must not hear each other.
    format!("told_{}", blake3::hash(schema.as_bytes()).to_hex().get(..32).unwrap_or_default())
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
        rows(&self.client, sql, params).await
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // Queued before whatever the connection is used for next.
        self.client.__private_api_rollback(None);
    }
}

async fn migrate(pool: &Pool, schema: &str, schemas: &[Schema]) -> Result<(), DbError> {
    let mut client = pool.get().await?;
    let transaction = client.transaction().await?;
    transaction.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 1))", &[&schema]).await?;
    transaction.batch_execute(&format!("CREATE SCHEMA IF NOT EXISTS \"{schema}\"")).await?;
    transaction.batch_execute(schema::MIGRATION_TABLE).await?;
    for schema in schemas {
        let row = transaction.query_one(&*schema::MIGRATION_LAST.for_postgres(), &[&schema.owner]).await?;
        let done = usize::try_from(row.get::<_, i64>(0)).unwrap_or(0);
        if done > schema.migrations.len() {
            return Err(DbError::Migration(format!("{}: the database was written by a newer version", schema.owner)));
        }
        for (index, migration) in schema.migrations.iter().enumerate().skip(done) {
            transaction
                .batch_execute(&migration.for_postgres())
                .await
                .map_err(|error| DbError::Migration(format!("{}: {}", schema.owner, DbError::from(error))))?;
            let number = i64::try_from(index + 1).unwrap_or(i64::MAX);
            transaction.execute(&*schema::MIGRATION_DONE.for_postgres(), &[&schema.owner, &number]).await?;
        }
    }
    Ok(transaction.commit().await?)
}

impl Reading {
    async fn query(&self, sql: &Sql, params: &[Value]) -> Result<Vec<Row>, DbError> {
        rows(&self.pool.get().await?, sql, params).await
    }

    /// Announces what any node has committed since the last time.
    async fn catch_up(&self) -> Result<(), DbError> {
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

/// Wakes this node when another has committed. Losing a connection costs time, not changes.
async fn listen(reading: Reading, config: tokio_postgres::Config, schema: String, telling: Telling) {
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
                    match told.payload().split_once(' ') {
                        Some((node, what)) if node != telling.node => reading.announcer.hear(what),
                        _ => {}
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

async fn write(reading: Reading, schema: String, mut waiting: mpsc::Receiver<Waiting>) {
    let notify = format!("NOTIFY \"samtal_{schema}\"");
    let mut group = Vec::new();
    while waiting.recv_many(&mut group, GROUP_MAX).await > 0 {
        let group = std::mem::take(&mut group);
        match write_group(&reading, &notify, &group).await {
            Ok(results) => {
                call_hooks(group.iter().map(|waiting| &waiting.batch).zip(&results));
                if let Err(error) = reading.catch_up().await {
                    tracing::warn!(%error, "could not read back new changes");
                }
                for (waiting, result) in group.into_iter().zip(results) {
                    let _ = waiting.answer.send(result);
                }
            }
            Err(error) => {
                tracing::error!(%error, "a commit failed; its {} batches are refused", group.len());
                for waiting in group {
                    let _ = waiting.answer.send(Err(match &error {
                        DbError::Full => DbError::Full,
                        DbError::Busy => DbError::Busy,
                        other => DbError::Engine(other.to_string(), None),
                    }));
                }
            }
        }
    }
}

/// What a refused batch takes with it.
#[derive(Clone, Copy, PartialEq)]
enum Undo {
    /// The whole transaction.
    Group,
    /// Only itself: it runs in a savepoint.
    Batch,
}

/// One transaction for all batches of the group. Savepoints cost round trips, and refusals are rare: only a group with one in it
/// runs again with them.
async fn write_group(
    reading: &Reading,
    notify: &str,
    group: &[Waiting],
) -> Result<Vec<Result<Committed, DbError>>, DbError> {
    let mut committing = false;
    let mut done = try_group(reading, notify, group, Undo::Group, &mut committing).await;
    // What failed while it was being committed may have been: it is not done again.
    if group.len() > 1 && done.is_err() && !committing {
        done = try_group(reading, notify, group, Undo::Batch, &mut committing).await;
    }
    match done {
        // Alone, it was refused with the transaction.
        Err(error) if group.len() == 1 && error.is_conflict() => Ok(vec![Err(error)]),
        done => done,
    }
}

/// The row of the log's head is locked first, which orders the commits of all nodes.
async fn try_group(
    reading: &Reading,
    notify: &str,
    group: &[Waiting],
    undo: Undo,
    committing: &mut bool,
) -> Result<Vec<Result<Committed, DbError>>, DbError> {
    let client = reading.pool.get().await?;
    let wanted: usize = group.iter().map(|waiting| waiting.batch.positions).sum();
    let guard = RollbackOnDrop(Some(client));
    let client = guard.0.as_ref().ok_or(DbError::Closed)?;
    client.batch_execute("BEGIN").await?;
    let mut next = 0;
    if wanted > 0 {
        let head = rows(client, &schema::HEAD_ADVANCE, &[wanted.into()]).await?;
        next = head.first().ok_or(DbError::Closed)?.int(0)? - i64::try_from(wanted).unwrap_or(0) + 1;
    }
    let first = next;
    let mut results = Vec::with_capacity(group.len());
    if undo == Undo::Group {
        for committed in run_batches(client, group.iter().map(|waiting| &waiting.batch), next).await? {
            results.push(Ok(committed));
        }
        next += i64::try_from(wanted).unwrap_or(0);
    } else {
        for waiting in group {
            client.batch_execute("SAVEPOINT batch").await?;
            let result = run_batches(client, std::iter::once(&waiting.batch), next).await;
            match &result {
                Ok(_) => {
                    next += i64::try_from(waiting.batch.positions).unwrap_or(0);
                    client.batch_execute("RELEASE batch").await?;
                }
                Err(_) => client.batch_execute("ROLLBACK TO batch; RELEASE batch").await?,
            }
            results.push(result.and_then(|mut committed| committed.pop().ok_or(DbError::Closed)));
        }
    }
    if wanted > 0 {
        // Positions of refused batches are given back.
        if next != first + i64::try_from(wanted).unwrap_or(0) {
            rows(client, &schema::HEAD_SET, &[(next - 1).into()]).await?;
        }
        client.batch_execute(notify).await?;
    }
    *committing = true;
    client.batch_execute("COMMIT").await?;
    guard.done();
    Ok(results)
}

/// A pooled connection that leaves its transaction when it is dropped early.
struct RollbackOnDrop(Option<Object>);

impl RollbackOnDrop {
    fn done(mut self) {
        self.0.take();
    }
}

impl Drop for RollbackOnDrop {
    fn drop(&mut self) {
        if let Some(client) = self.0.take() {
            client.__private_api_rollback(None);
        }
    }
}

/// All batches in one round trip, each with its positions behind those of the one before.
async fn run_batches(
    client: &Object,
    batches: impl Iterator<Item = &Batch> + Clone,
    first_position: i64,
) -> Result<Vec<Committed>, DbError> {
    let (mut steps, mut next) = (Vec::new(), first_position);
    for batch in batches.clone() {
        steps.extend(batch.changes.iter().map(|(offset, change)| logged(change, next, *offset)));
        steps.extend(batch.steps.iter().map(|step| Step { params: placed(&step.params, next), ..step.clone() }));
        next += i64::try_from(batch.positions).unwrap_or(0);
    }
    let mut answers = steps.iter().zip(pipeline(client, &steps).await?);
    let (mut done, mut next) = (Vec::new(), first_position);
    for batch in batches {
        let last_position = next - 1 + i64::try_from(batch.positions).unwrap_or(0);
        let mut committed = Committed { first_position: next, last_position, rows: Vec::new() };
        for (step, answered) in answers.by_ref().take(batch.changes.len() + batch.steps.len()) {
            committed.rows.extend(expected(step, answered?)?);
        }
        done.push(committed);
        next = last_position + 1;
    }
    Ok(done)
}

/// The step that writes a row of the change log.
fn logged(change: &Change, first_position: i64, offset: usize) -> Step {
    let position = first_position + i64::try_from(offset).unwrap_or(0);
    let params = vec![
        position.into(),
        change.kind.into(),
        change.room.clone().into(),
        change.user.clone().into(),
        change.reference.clone().into(),
    ];
    Step { sql: schema::CHANGE_INSERT, params, expect: Expect::Any }
}

/// The rows that the committer gets, if it asked for any and the step did what it must.
fn expected(step: &Step, answered: Answered) -> Result<Option<Vec<Row>>, DbError> {
    let refused = |what: &str| Err(DbError::Conflict(format!("{}: {what}", step.sql.name())));
    match (step.expect, answered) {
        (Expect::Returning, Answered::Rows(rows)) => Ok(Some(rows)),
        (Expect::Some, Answered::Rows(rows)) if rows.is_empty() => refused("no row"),
        (Expect::None, Answered::Rows(rows)) if !rows.is_empty() => refused("a row"),
        (Expect::Changed(expected), Answered::Changed(changed)) if changed != expected => {
            refused(&format!("{changed} rows changed, expected {expected}"))
        }
        _ => Ok(None),
    }
}

enum Answered {
    Rows(Vec<Row>),
    Changed(u64),
}

/// Sends all steps before waiting for the first answer: one round trip.
async fn pipeline(client: &Object, steps: &[Step]) -> Result<Vec<Result<Answered, DbError>>, DbError> {
    let mut statements = Vec::with_capacity(steps.len());
    for step in steps {
        statements.push(client.prepare_cached(&step.sql.for_postgres()).await?);
    }
    let mut running: Vec<Running<'_>> = Vec::with_capacity(steps.len());
    for (step, statement) in steps.iter().zip(&statements) {
        let future: BoxFuture<'_, Result<Answered, DbError>> = async move {
            let params: Vec<&(dyn ToSql + Sync)> = step.params.iter().map(|value| value as _).collect();
            match step.expect {
                Expect::Any | Expect::Changed(_) => Ok(Answered::Changed(client.execute(statement, &params).await?)),
                _ => {
                    let rows = client.query(statement, &params).await?;
                    Ok(Answered::Rows(rows.iter().map(row).collect::<Result<_, _>>()?))
                }
            }
        }
        .boxed();
        let mut future = future;
        running.push(match futures_util::poll!(&mut future) {
            std::task::Poll::Ready(answer) => Running::Done(answer),
            std::task::Poll::Pending => Running::Waiting(future),
        });
    }
    let mut answers = Vec::with_capacity(running.len());
    for one in running {
        answers.push(match one {
            Running::Done(answer) => answer,
            Running::Waiting(future) => future.await,
        });
    }
    Ok(answers)
}

enum Running<'a> {
    Done(Result<Answered, DbError>),
    Waiting(BoxFuture<'a, Result<Answered, DbError>>),
}

fn placed(params: &[Value], first_position: i64) -> Vec<Value> {
    params
        .iter()
        .map(|value| match value {
            Value::Position(offset) => Value::Int(first_position + i64::try_from(*offset).unwrap_or(0)),
            other => other.clone(),
        })
        .collect()
}

async fn rows(client: &Object, sql: &Sql, params: &[Value]) -> Result<Vec<Row>, DbError> {
    let statement = client.prepare_cached(&sql.for_postgres()).await?;
    let params: Vec<&(dyn ToSql + Sync)> = params.iter().map(|value| value as _).collect();
    client.query(&statement, &params).await?.iter().map(row).collect()
}

fn row(row: &tokio_postgres::Row) -> Result<Row, DbError> {
    let value = |index: usize, column: &tokio_postgres::Column| {
        Ok(match *column.type_() {
            Type::INT8 => row.try_get::<_, Option<i64>>(index)?.into(),
            Type::INT4 => row.try_get::<_, Option<i32>>(index)?.into(),
            Type::BOOL => row.try_get::<_, Option<bool>>(index)?.into(),
            Type::BYTEA => row.try_get::<_, Option<&[u8]>>(index)?.into(),
            Type::TEXT | Type::VARCHAR | Type::NAME => row.try_get::<_, Option<&str>>(index)?.into(),
            _ => return Err(DbError::Decode { column: index, expected: "a known type", found: "another" }),
        })
    };
    row.columns().iter().enumerate().map(|(index, column)| value(index, column)).collect::<Result<_, _>>().map(Row)
}

impl ToSql for Value {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Int(int) if *ty == Type::INT4 => i32::try_from(*int)?.to_sql(ty, out),
            Self::Int(int) if *ty == Type::BOOL => (*int != 0).to_sql(ty, out),
            Self::Int(int) => int.to_sql(ty, out),
            // PostgreSQL's TEXT cannot hold NUL.
            Self::Text(text) if text.contains('\0') => text.replace('\0', "\u{fffd}").to_sql(ty, out),
            Self::Text(text) => (&**text).to_sql(ty, out),
            Self::Blob(bytes) => (&**bytes).to_sql(ty, out),
            Self::Ints(list) => list.to_sql(ty, out),
            Self::Texts(list) => list.to_sql(ty, out),
            Self::Blobs(list) => list.to_sql(ty, out),
            Self::Position(_) => Err("a position outside of a batch".into()),
        }
    }

    fn accepts(ty: &Type) -> bool {
        matches!(
            *ty,
            Type::INT8
                | Type::INT4
                | Type::BOOL
                | Type::TEXT
                | Type::VARCHAR
                | Type::BYTEA
                | Type::INT8_ARRAY
                | Type::TEXT_ARRAY
                | Type::VARCHAR_ARRAY
                | Type::BYTEA_ARRAY
        )
    }

    to_sql_checked!();
}
