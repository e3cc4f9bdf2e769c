//! What is on the disk: a configuration, and the tenants' databases.

use std::sync::Arc;

use samtal_config::{Config, Source, Tenant};
use samtal_kit::{Clock, Random};
use samtal_ops::Homeserver;

use crate::lock::private_dir;
use crate::networks::Networks;
use crate::{Lock, ServerError, Tenants, settings};

/// A configuration and the right to open what it names.
#[derive(Debug)]
pub struct Installation {
    /// Where the configuration comes from, to read it again.
    pub source: Source,
    /// What it said last.
    pub config: Config,
    clock: Clock,
    random: Random,
    pub(crate) networks: Networks,
    /// Nothing on PostgreSQL, where many processes may share the tenants.
    _lock: Option<Lock>,
}

impl Installation {
    /// Reads the configuration and takes its data directory.
    ///
    /// # Errors
    /// The configuration is wrong or names no tenant, or another process has the directory.
    pub fn take(source: Source, clock: Clock, random: Random) -> Result<Installation, ServerError> {
        let config = source.load()?;
        if config.tenants.is_empty() {
            return Err(ServerError::NoTenant);
        }
        let data_dir = &config.file.server.data_dir;
        let lock = Lock::take(data_dir)?;
        if lock.is_none() && config.file.database.url.is_none() {
            return Err(ServerError::InUse(data_dir.clone()));
        }
        Ok(Installation { source, config, clock, random, networks: Networks::default(), _lock: lock })
    }

    /// Opens all tenants.
    ///
    /// # Errors
    /// One cannot be opened.
    pub async fn open(&self) -> Result<Tenants, ServerError> {
        let mut opened = Vec::new();
        for tenant in &self.config.tenants {
            opened.push((tenant.clone(), self.open_tenant(&self.config, tenant).await?));
        }
        Ok(Tenants::new(opened))
    }

    /// Opens one tenant.
    ///
    /// # Errors
    /// Its directory or its database cannot be opened.
    pub async fn open_tenant(&self, config: &Config, tenant: &Tenant) -> Result<Arc<Homeserver>, ServerError> {
        private_dir(&tenant.data_dir).map_err(|source| ServerError::Files { path: tenant.data_dir.clone(), source })?;
        let database = settings::database(&config.file, tenant);
        let mut settings = settings::tenant(tenant);
        settings.media.previews = settings::previews(&config.file, tenant);
        settings.appservices = settings::appservices(&config.file, tenant)?;
        let failed = |source| ServerError::Tenant { name: tenant.name.clone(), source };
        let (clock, random) = (self.clock.clone(), self.random.clone());
        let network = self.networks.get(&tenant.federation, &settings.federation.client, &clock, &random);
        let network = network.map_err(|e| failed(e.into()))?;
        let homeserver = Homeserver::open_with(tenant.name.clone(), &database, settings, clock, random, network)
            .await
            .map_err(failed)?;
        if tenant.federation.enabled {
            self.networks.insert(&homeserver);
        }
        Ok(homeserver)
    }

    /// The clock that everything here uses.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The randomness that everything here uses.
    pub fn random(&self) -> &Random {
        &self.random
    }
}
