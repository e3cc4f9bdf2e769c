//! The ways out to other servers: shared by tenants with the same settings, and a function call between tenants.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::Request;
use parking_lot::Mutex;
use ruma::{OwnedServerName, ServerName};
use samtal_config::Network as Range;
use samtal_config::tenant::Federation;
use samtal_http::{Certificate, ClientOptions, Proxy};
use samtal_kit::{Clock, Random};
use samtal_ops::Homeserver;
use samtal_remote::{Internet, LocalFirst, LocalHandler, SetupError};
use tower::ServiceExt as _;

/// All ways out of this process. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Networks(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    networks: Vec<(Key, Arc<LocalFirst<Internet>>)>,
    tenants: Vec<Arc<Homeserver>>,
}

/// What two tenants must have in common to share connections.
#[derive(Clone, PartialEq)]
struct Key(Vec<PathBuf>, Vec<Range>, Option<Proxy>, Option<Certificate>);

impl std::fmt::Debug for Networks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Networks")
    }
}

impl Networks {
    /// The way out for a tenant with these settings.
    pub(crate) fn get(
        &self,
        federation: &Federation,
        client: &ClientOptions,
        clock: &Clock,
        random: &Random,
    ) -> Result<Arc<LocalFirst<Internet>>, SetupError> {
        let key = Key(
            federation.trusted_certificates.clone(),
            federation.denied_networks.clone(),
            client.proxy.clone(),
            client.certificate.clone(),
        );
        let mut inner = self.0.lock();
        if let Some((_, network)) = inner.networks.iter().find(|(k, _)| *k == key) {
            return Ok(network.clone());
        }
        let internet = Internet::new(client, clock.clone(), random.clone())?;
        let network = Arc::new(LocalFirst::new(internet));
        for tenant in &inner.tenants {
            network.insert(tenant.name.clone(), handler(tenant));
        }
        inner.networks.push((key, network.clone()));
        Ok(network)
    }

    /// Makes a tenant that federates reachable for the others.
    pub(crate) fn insert(&self, tenant: &Arc<Homeserver>) {
        let mut inner = self.0.lock();
        for (_, network) in &inner.networks {
            network.insert(tenant.name.clone(), handler(tenant));
        }
        inner.tenants.push(tenant.clone());
    }

    /// Makes a tenant unreachable.
    pub(crate) fn remove(&self, name: &ServerName) {
        let mut inner = self.0.lock();
        for (_, network) in &inner.networks {
            network.remove(name);
        }
        inner.tenants.retain(|tenant| tenant.name != name);
    }

    /// Lets go of all tenants, which hold the networks themselves.
    pub(crate) fn clear(&self) {
        let names: Vec<OwnedServerName> = self.0.lock().tenants.iter().map(|tenant| tenant.name.clone()).collect();
        for name in names {
            self.remove(&name);
        }
    }
}

/// Answers another tenant's requests as a listener would.
fn handler(tenant: &Arc<Homeserver>) -> LocalHandler {
    let tenant = tenant.clone();
    let router: Router = crate::routes::federation();
    Box::new(move |request: Request<Bytes>| {
        let (tenant, router) = (tenant.clone(), router.clone());
        Box::pin(async move {
            let mut request = request.map(Body::from);
            request.extensions_mut().insert(tenant);
            let response = router.oneshot(request).await.unwrap_or_else(|never| match never {});
            response.map(samtal_remote::Body::from_http)
        })
    })
}
