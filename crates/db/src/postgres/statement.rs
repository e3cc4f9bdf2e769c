//! Running statements: parameters in, rows out, several in one round trip.

use deadpool_postgres::Object;
use futures_util::{FutureExt, future::BoxFuture};
use tokio_postgres::types::{IsNull, ToSql, Type, private::BytesMut, to_sql_checked};

use crate::{
    DbError, Row, Sql, Value,
    batch::{Answered, Expect, Step},
};

/// The rows of a statement.
pub(super) async fn rows(client: &Object, sql: &Sql, params: &[Value]) -> Result<Vec<Row>, DbError> {
    let statement = client.prepare_cached(&sql.for_postgres()).await?;
    let params: Vec<&(dyn ToSql + Sync)> = params.iter().map(|value| value as _).collect();
    client.query(&statement, &params).await?.iter().map(row).collect()
}

/// Sends all steps before waiting for the first answer: one round trip.
pub(super) async fn pipeline(client: &Object, steps: &[Step]) -> Result<Vec<Result<Answered, DbError>>, DbError> {
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
