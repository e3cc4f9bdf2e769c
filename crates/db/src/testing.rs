//! The storage test-suites of the crates above run on both engines through here.

use std::{future::Future, path::PathBuf};

use samtal_kit::Random;

use crate::{Db, Options, Schema};

/// Environment variable with the URL of a PostgreSQL database that tests may make schemas in. `./test` sets it.
pub const POSTGRES_VARIABLE: &str = "SAMTAL_TEST_POSTGRES";

/// Runs `test` on a fresh SQLite database and, where [`POSTGRES_VARIABLE`] is set, in a fresh PostgreSQL schema.
pub async fn each_engine<F, Fut>(schemas: &[Schema], test: F)
where
    F: Fn(Db) -> Fut,
    Fut: Future<Output = ()>,
{
    let directory = Directory::new();
    let db = open(&sqlite(&directory), schemas).await;
    test(db.clone()).await;
    db.close().await;
    if let Some(options) = postgres() {
        let db = open(&options, schemas).await;
        test(db.clone()).await;
        db.close().await;
        drop_schema(&options).await;
    }
}

/// A temporary directory that goes with the value.
#[derive(Debug)]
pub struct Directory(tempfile::TempDir);

impl Directory {
    /// Makes one.
    ///
    /// # Panics
    /// When the machine has no place for it.
    #[expect(clippy::new_without_default, reason = "it touches the disk")]
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory can be made"))
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// Options for a SQLite file in `directory`.
pub fn sqlite(directory: &Directory) -> Options {
    Options::Sqlite { path: directory.path("samtal.db") }
}

/// Options for a fresh schema, where [`POSTGRES_VARIABLE`] is set.
pub fn postgres() -> Option<Options> {
    let url = std::env::var(POSTGRES_VARIABLE).ok()?;
    let schema = format!("test_{}", Random::system().alphanumeric(16).to_lowercase());
    Some(Options::Postgres { url, schema, connections_max: 6 })
}

/// Opens the database.
///
/// # Panics
/// When it cannot be opened.
pub async fn open(options: &Options, schemas: &[Schema]) -> Db {
    Db::open(options, schemas).await.expect("the test database opens")
}

/// Removes a schema that [`postgres`] named.
pub async fn drop_schema(options: &Options) {
    let Options::Postgres { url, schema, .. } = options else { return };
    if let Ok((client, connection)) = tokio_postgres::connect(url, tokio_postgres::NoTls).await {
        let drop = format!("DROP SCHEMA IF EXISTS \"{schema}\" CASCADE");
        tokio::select! {
            _ = connection => {}
            _ = client.batch_execute(&drop) => {}
        }
    }
}
