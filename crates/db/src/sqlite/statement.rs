//! Running one statement: parameters in, rows out.

use std::rc::Rc;

use rusqlite::{
    Connection, Statement,
    types::{Null, Value as SqliteValue, ValueRef},
};

use crate::{
    DbError, Row, Sql, Value,
    batch::{Answered, Expect, Step},
};

/// The rows of a statement.
pub(super) fn rows(connection: &Connection, sql: &Sql, params: &[Value]) -> Result<Vec<Row>, DbError> {
    let mut statement = connection.prepare_cached(&sql.for_sqlite())?;
    bind(&mut statement, params, 0)?;
    collect(&mut statement)
}

/// How many rows a statement changed.
pub(super) fn execute(connection: &Connection, sql: &Sql, params: &[Value]) -> Result<usize, DbError> {
    let mut statement = connection.prepare_cached(&sql.for_sqlite())?;
    bind(&mut statement, params, 0)?;
    Ok(statement.raw_execute()?)
}

/// Runs a step of a batch that takes its positions from `first_position` on: the rows that the committer gets, if it asked for any.
pub(super) fn run_step(connection: &Connection, step: &Step, first_position: i64) -> Result<Option<Vec<Row>>, DbError> {
    let mut statement = connection.prepare_cached(&step.sql.for_sqlite())?;
    bind(&mut statement, &step.params, first_position)?;
    let answers_rows = match step.expect {
        Expect::Any => statement.column_count() > 0,
        Expect::Changed(_) => false,
        Expect::Returning | Expect::Some | Expect::None => true,
    };
    step.outcome(match answers_rows {
        true => Answered::Rows(collect(&mut statement)?),
        false => Answered::Changed(statement.raw_execute()? as u64),
    })
}

fn bind(statement: &mut Statement<'_>, params: &[Value], first_position: i64) -> Result<(), DbError> {
    for (index, value) in params.iter().enumerate() {
        let index = index + 1;
        match value {
            Value::Null => statement.raw_bind_parameter(index, Null)?,
            Value::Int(int) => statement.raw_bind_parameter(index, int)?,
            Value::Text(text) => statement.raw_bind_parameter(index, &**text)?,
            Value::Blob(bytes) => statement.raw_bind_parameter(index, &**bytes)?,
            Value::Ints(list) => statement.raw_bind_parameter(index, array_of(list, |int| (*int).into()))?,
            Value::Texts(list) => statement.raw_bind_parameter(index, array_of(list, |text| text.clone().into()))?,
            Value::Blobs(list) => statement.raw_bind_parameter(index, array_of(list, |bytes| bytes.clone().into()))?,
            Value::Position(offset) => statement.raw_bind_parameter(index, first_position + offset)?,
        }
    }
    Ok(())
}

fn array_of<T>(list: &[T], value: impl Fn(&T) -> SqliteValue) -> Rc<Vec<SqliteValue>> {
    Rc::new(list.iter().map(value).collect())
}

fn collect(statement: &mut Statement<'_>) -> Result<Vec<Row>, DbError> {
    let columns = statement.column_count();
    let mut rows = statement.raw_query();
    let mut answer = Vec::new();
    while let Some(row) = rows.next()? {
        let mut values = Vec::with_capacity(columns);
        for column in 0..columns {
            values.push(match row.get_ref(column)? {
                ValueRef::Null => Value::Null,
                ValueRef::Integer(int) => Value::Int(int),
                ValueRef::Real(_) => Value::Null,
                ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into()),
                ValueRef::Blob(bytes) => Value::Blob(bytes.into()),
            });
        }
        answer.push(Row(values));
    }
    Ok(answer)
}
