//! One tenant: its name, its database and its engines.

use std::sync::Arc;

use ruma::OwnedServerName;
use samtal_account::Accounts;
use samtal_db::{Db, DbError, Schema};
use samtal_kit::{Clock, Limiter, Random, Tasks};

use crate::Settings;

/// The tables of all engines, in the order in which they are made.
const SCHEMAS: &[Schema] = &[samtal_account::SCHEMA];

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
    /// How often who may do what.
    pub limiter: Limiter,
    /// Users, devices, sessions, profiles, account data, push rules.
    pub accounts: Accounts,
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
        let limiter = Limiter::new(clock.clone());
        let accounts = Accounts::new(name.clone(), db.clone(), clock.clone(), random.clone(), settings.accounts.clone());
        Ok(Arc::new(Self { name, db, clock, random, tasks: Tasks::new(), settings, limiter, accounts }))
    }
}
