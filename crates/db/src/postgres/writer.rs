//! The writer: one task per node that commits batches in groups.

use deadpool_postgres::Object;
use tokio::sync::{mpsc, oneshot};

use super::{
    listener::Reading,
    statement::{pipeline, rows},
};
use crate::{
    Batch, Committed, DbError, Value,
    batch::{Step, Undo, call_hooks},
    schema,
};

/// Batches that may wait for the writer.
pub(super) const WAITING_MAX: usize = 4_096;
/// Batches in one commit.
const GROUP_MAX: usize = 512;

pub(super) struct Waiting {
    pub(super) batch: Batch,
    pub(super) answer: oneshot::Sender<Result<Committed, DbError>>,
}

/// Commits what comes until nobody can send any more.
pub(super) async fn write(reading: Reading, schema: String, mut waiting: mpsc::Receiver<Waiting>) {
    let notify_and_commit = format!("NOTIFY \"samtal_{schema}\"; COMMIT");
    let mut group = Vec::new();
    while waiting.recv_many(&mut group, GROUP_MAX).await > 0 {
        let group = std::mem::take(&mut group);
        match write_group(&reading, &notify_and_commit, &group).await {
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
                    let _ = waiting.answer.send(Err(error.again()));
                }
            }
        }
    }
}

/// One transaction for all batches of the group. Savepoints cost round trips, and refusals are rare: only a group with one in it
/// runs again with them.
async fn write_group(
    reading: &Reading,
    notify_and_commit: &str,
    group: &[Waiting],
) -> Result<Vec<Result<Committed, DbError>>, DbError> {
    let mut committing = false;
    let mut done = try_group(reading, notify_and_commit, group, Undo::Group, &mut committing).await;
    // What failed while it was being committed may have been: it is not done again.
    if group.len() > 1 && done.is_err() && !committing {
        done = try_group(reading, notify_and_commit, group, Undo::Batch, &mut committing).await;
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
    notify_and_commit: &str,
    group: &[Waiting],
    undo: Undo,
    committing: &mut bool,
) -> Result<Vec<Result<Committed, DbError>>, DbError> {
    let client = reading.pool.get().await?;
    let wanted: i64 = group.iter().map(|waiting| waiting.batch.positions).sum();
    let guard = RollbackOnDrop(Some(client));
    let client = guard.0.as_ref().ok_or(DbError::Closed)?;
    let begin = async { Ok::<_, DbError>(client.batch_execute("BEGIN").await?) };
    let mut next = 0;
    if wanted > 0 {
        // Sent together, answered in turn.
        let params = [wanted.into()];
        let ((), head) = tokio::try_join!(biased; begin, rows(client, &schema::HEAD_ADVANCE, &params))?;
        next = head.first().ok_or(DbError::Closed)?.int(0)? - wanted + 1;
    } else {
        begin.await?;
    }
    let first = next;
    let mut results = Vec::with_capacity(group.len());
    if undo == Undo::Group {
        for committed in run_batches(client, group.iter().map(|waiting| &waiting.batch), next).await? {
            results.push(Ok(committed));
        }
        next += wanted;
    } else {
        for waiting in group {
            client.batch_execute("SAVEPOINT batch").await?;
            let result = run_batches(client, std::iter::once(&waiting.batch), next).await;
            match &result {
                Ok(_) => {
                    next += waiting.batch.positions;
                    client.batch_execute("RELEASE batch").await?;
                }
                Err(_) => client.batch_execute("ROLLBACK TO batch; RELEASE batch").await?,
            }
            results.push(result.and_then(|mut committed| committed.pop().ok_or(DbError::Closed)));
        }
    }
    if wanted > 0 {
        // Positions of refused batches are given back.
        if next != first + wanted {
            rows(client, &schema::HEAD_SET, &[(next - 1).into()]).await?;
        }
    }
    *committing = true;
    client.batch_execute(if wanted > 0 { notify_and_commit } else { "COMMIT" }).await?;
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
        steps.extend(batch.changes.iter().map(|(offset, change)| Step::logged(change, next + offset)));
        steps.extend(batch.steps.iter().map(|step| Step { params: placed(&step.params, next), ..step.clone() }));
        next += batch.positions;
    }
    let mut answers = steps.iter().zip(pipeline(client, &steps).await?);
    let (mut done, mut next) = (Vec::new(), first_position);
    for batch in batches {
        let last_position = next - 1 + batch.positions;
        let mut committed = Committed { first_position: next, last_position, rows: Vec::new() };
        for (step, answered) in answers.by_ref().take(batch.changes.len() + batch.steps.len()) {
            committed.rows.extend(step.outcome(answered?)?);
        }
        done.push(committed);
        next = last_position + 1;
    }
    Ok(done)
}

/// The parameters, with positions for what stands for them.
fn placed(params: &[Value], first_position: i64) -> Vec<Value> {
    params
        .iter()
        .map(|value| match value {
            Value::Position(offset) => Value::Int(first_position + offset),
            other => other.clone(),
        })
        .collect()
}
