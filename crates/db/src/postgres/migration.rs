//! Bringing the tables up to date.

use deadpool_postgres::Pool;

use crate::{DbError, Schema, schema};

/// Makes the schema if there is none and runs the migrations that are missing, all or none, one node at a time.
pub(super) async fn migrate(pool: &Pool, schema: &str, schemas: &[Schema]) -> Result<(), DbError> {
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
