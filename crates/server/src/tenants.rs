//! The tenants of this process, found by the host that a request asks for.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use samtal_config::Tenant;
use samtal_ops::Homeserver;

/// One tenant that is open.
#[derive(Debug, Clone)]
pub(crate) struct Open {
    pub(crate) config: Arc<Tenant>,
    pub(crate) homeserver: Arc<Homeserver>,
}

/// All tenants that are open. Cheap to clone; clones see the same.
#[derive(Debug, Clone, Default)]
pub struct Tenants(Arc<RwLock<Table>>);

#[derive(Debug, Default)]
struct Table {
    open: Vec<Open>,
    /// By `host:port` and by `host`, in lower case.
    by_host: HashMap<String, usize>,
}

impl Tenants {
    /// These, found by their names and addresses.
    pub(crate) fn new(opened: Vec<(Tenant, Arc<Homeserver>)>) -> Tenants {
        let tenants = Tenants::default();
        tenants.replace(opened);
        tenants
    }

    /// Sets which there are.
    pub(crate) fn replace(&self, opened: Vec<(Tenant, Arc<Homeserver>)>) {
        let open: Vec<Open> =
            opened.into_iter().map(|(config, homeserver)| Open { config: Arc::new(config), homeserver }).collect();
        let mut by_host = HashMap::new();
        // Names first: an address of one tenant never hides another's name. Then hosts without their ports.
        for (at, tenant) in open.iter().enumerate() {
            by_host.entry(tenant.config.name.as_str().to_ascii_lowercase()).or_insert(at);
        }
        for (at, tenant) in open.iter().enumerate() {
            for host in addresses(&tenant.config) {
                by_host.entry(host).or_insert(at);
            }
        }
        for (at, tenant) in open.iter().enumerate() {
            by_host.entry(without_port(&tenant.config.name.as_str().to_ascii_lowercase()).to_owned()).or_insert(at);
            for host in addresses(&tenant.config) {
                by_host.entry(without_port(&host).to_owned()).or_insert(at);
            }
        }
        *self.0.write() = Table { open, by_host };
    }

    /// The tenant that answers for a host; the only one answers for any.
    pub(crate) fn find(&self, host: &str) -> Option<Open> {
        let table = self.0.read();
        if let [only] = table.open.as_slice() {
            return Some(only.clone());
        }
        let host = host.to_ascii_lowercase();
        let at = table.by_host.get(&host).or_else(|| table.by_host.get(without_port(&host)))?;
        table.open.get(*at).cloned()
    }

    /// All of them, in the configuration's order.
    pub(crate) fn all(&self) -> Vec<Open> {
        self.0.read().open.clone()
    }

    /// All homeservers, in the configuration's order.
    pub fn homeservers(&self) -> Vec<Arc<Homeserver>> {
        self.0.read().open.iter().map(|open| open.homeserver.clone()).collect()
    }
}

fn addresses(tenant: &Tenant) -> Vec<String> {
    let base = tenant.public_base_url.parse::<http::Uri>().ok();
    let base = base.and_then(|uri| uri.authority().map(|authority| authority.as_str().to_ascii_lowercase()));
    let federation = tenant.federation_address.as_ref().map(|address| address.as_str().to_ascii_lowercase());
    base.into_iter().chain(federation).collect()
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.chars().all(|c| c.is_ascii_digit()) && !name.is_empty() => {
            // `::1` alone is an address, not a host and a port.
            if name.contains(':') && !name.ends_with(']') { host } else { name }
        }
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::without_port;

    #[test]
    fn a_port_is_told_from_an_address() {
        for (host, name) in [
            ("a.example:8448", "a.example"),
            ("a.example", "a.example"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("::1", "::1"),
        ] {
            assert_eq!(without_port(host), name);
        }
    }
}
