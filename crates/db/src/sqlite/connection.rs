//! Opening the file: how each connection is set up, and bringing the tables up to date.

use std::{path::Path, time::Duration};

use rusqlite::{Connection, OpenFlags, TransactionBehavior, config::DbConfig, vtab::array};

use super::statement::{execute, rows};
use crate::{DbError, Schema, schema};

const STATEMENTS_CACHED: usize = 256;
/// Pages the writer keeps in memory, in KiB: with SQLite's 2 MiB it writes and reads the same index pages again within one
/// group.
const WRITER_CACHE_KIB: i64 = 16 << 10;
/// Pages a reader keeps in memory, in KiB: they are good only until the next commit.
const READER_CACHE_KIB: i64 = 1 << 10;
/// Pages in the write-ahead log that start the next checkpoint (8 MB): a page that changes often is then copied to the file
/// half as often as with SQLite's 1,000.
const CHECKPOINT_PAGES: i64 = 2_000;
/// How long a connection waits for another that locks the file.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// The connection that writes; makes the file if there is none.
pub(super) fn writing(path: &Path) -> Result<Connection, DbError> {
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // An acknowledged write survives the loss of power; grouping makes that cheap.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    connection.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
    // Savepoints and statements that may fail half-way note what they change: in memory, not in a file.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(connection)
}

/// A connection that only reads.
pub(super) fn reading(path: &Path) -> Result<Connection, DbError> {
    let connection = existing(path)?;
    connection.pragma_update(None, "query_only", true)?;
    connection.pragma_update(None, "cache_size", -READER_CACHE_KIB)?;
    Ok(connection)
}

/// A plain connection to a file that is there.
pub(super) fn existing(path: &Path) -> Result<Connection, DbError> {
    connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, DbError> {
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(LOCK_WAIT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_CACHED);
    // Else SQLite looks at the values of `LIMIT` and the like, and plans a statement anew whenever they are bound.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    array::load_module(&connection)?;
    Ok(connection)
}

/// Runs the migrations that are missing, all or none.
pub(super) fn migrate(connection: &mut Connection, schemas: &[Schema]) -> Result<(), DbError> {
    let failed = |owner: &str, error: &dyn std::fmt::Display| DbError::Migration(format!("{owner}: {error}"));
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(schema::MIGRATION_TABLE)?;
    for schema in schemas {
        let done = rows(&transaction, &schema::MIGRATION_LAST, &[schema.owner.into()])?;
        let done = usize::try_from(done.first().map_or(Ok(0), |row| row.int(0))?).unwrap_or(0);
        if done > schema.migrations.len() {
            return Err(failed(schema.owner, &"the database was written by a newer version"));
        }
        for (index, migration) in schema.migrations.iter().enumerate().skip(done) {
            transaction.execute_batch(&migration.for_sqlite()).map_err(|error| failed(schema.owner, &error))?;
            execute(&transaction, &schema::MIGRATION_DONE, &[schema.owner.into(), (index + 1).into()])?;
        }
    }
    Ok(transaction.commit()?)
}
