//! Taking in a changed configuration without dropping connections.

use std::collections::HashMap;
use std::time::Duration;

use samtal_config::Tenant;

use crate::running::{certificates_of, level};
use crate::{Running, ServerError, settings};

/// How long a removed tenant's background work may take.
const REMOVED_TENANT_TIME: Duration = Duration::from_secs(5);

impl Running {
    /// Reads the configuration again: log level, certificates, tenants that came or went, account and
    /// federation rules, application services, published addresses. If it is wrong, all stays as it is.
    /// Tells the options that were changed since the start and wait for the next one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub async fn reload(&mut self) -> Result<Vec<String>, ServerError> {
        let mut config = self.installation.source.load()?;
        if config.tenants.is_empty() {
            return Err(ServerError::NoTenant);
        }
        let listeners = &config.process.listeners;
        for (i, (address, certificates)) in self.certificates.iter().enumerate() {
            // Listeners may have come, gone or changed places: the address tells which one is meant.
            let mut candidates = listeners.get(i).into_iter().chain(listeners);
            let listener = candidates.find(|listener| listener.address == *address);
            let tls = listener.and_then(|listener| Some((listener, listener.tls.as_ref()?)));
            if let (Some((listener, tls)), Some(certificates)) = (tls, certificates) {
                certificates.reload(&certificates_of(listener, tls))?;
            }
        }
        if let Some(log) = &self.log {
            log.set_level(level(config.process.log.level));
        }
        let mut open: HashMap<_, _> =
            self.tenants.homeservers().into_iter().map(|homeserver| (homeserver.name.clone(), homeserver)).collect();
        let mut kept: Vec<(Tenant, _)> = Vec::new();
        for tenant in &config.tenants {
            let homeserver = match open.remove(&tenant.name) {
                Some(homeserver) => {
                    homeserver.accounts.set_options(settings::accounts(tenant));
                    homeserver.policy.replace(settings::federation(tenant).policy);
                    let appservices = settings::appservices(&config.process, tenant)?;
                    homeserver.appservices.configure(appservices.registrations).await?;
                    homeserver
                }
                None => {
                    let homeserver = self.installation.open_tenant(&config, tenant).await?;
                    tracing::info!(tenant = %tenant.name, "tenant added");
                    homeserver
                }
            };
            kept.push((tenant.clone(), homeserver));
        }
        self.tenants.replace(kept);
        for homeserver in open.into_values() {
            self.installation.networks.remove(&homeserver.name);
            homeserver.tasks.shut_down(REMOVED_TENANT_TIME).await;
            homeserver.db.close().await;
            tracing::info!(tenant = %homeserver.name, "tenant removed; its data stays");
        }
        let waiting = config.awaiting_restart(&self.installation.config);
        self.installation.config = config;
        Ok(waiting)
    }
}
