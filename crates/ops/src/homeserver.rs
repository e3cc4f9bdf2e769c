//! One tenant: its name, its database and its engines.

use std::sync::Arc;

use ruma::OwnedServerName;
use samtal_db::{Db, DbError, Schema};
use samtal_kit::{Clock, Random, Tasks};

use crate::Settings;

/// The tables of all engines, in the order in which they are made.
const SCHEMAS: &[Schema] = &[];

/// One tenant. There is no other state: two tenants in one process know each other only through federation.
#[derive(Debug)]
pub struct Homeserver {
    /// Its server name.
    pub name: OwnedServerName,
    /// Its database.
    pub db: Db,
    /// The clock.
    pub clock: Clock,
    /// Randomness.
    pub random: Random,
    /// Its background tasks.
    pub tasks: Tasks,
    /// What the operator decided.
    pub settings: Settings,
}

/// Why a tenant could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The database cannot be opened.
    #[error("database: {0}")]
    Database(#[from] DbError),
}

impl Homeserver {
    /// Opens the tenant's database, migrates it, and starts what follows its change log.
    pub async fn open(
        name: OwnedServerName,
        database: &samtal_db::Options,
        settings: Settings,
        clock: Clock,
        random: Random,
    ) -> Result<Arc<Self>, OpenError> {
        let db = Db::open(database, SCHEMAS).await?;
        Ok(Arc::new(Self { name, db, clock, random, tasks: Tasks::new(), settings }))
    }
}
