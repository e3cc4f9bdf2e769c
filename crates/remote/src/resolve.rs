//! From a server's name to the addresses to connect to: [Resolving server names, Matrix 1.19](https://spec.matrix.org/v1.19/server-server-api/#resolving-server-names).

use std::net::{IpAddr, SocketAddr};

use ruma::ServerName;
use samtal_kit::Random;

use crate::dns::{Dns, Service};

/// The port of federation when nothing says another.
pub const FEDERATION_PORT: u16 = 8448;
/// Most addresses of one server that are kept.
const ADDRESSES_MAX: usize = 16;
/// Most SRV records of one name that are followed.
const SERVICES_MAX: usize = 8;

/// A host, and maybe a port, as a server's name or a URL gives them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// The host.
    pub host: Host,
    /// The port, if one is given.
    pub port: Option<u16>,
}

/// The host of an [`Authority`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// An address.
    Ip(IpAddr),
    /// A name.
    Name(String),
}

impl Authority {
    /// Of a server's name.
    pub fn of_server(server: &ServerName) -> Self {
        Self { host: Host::parse(server.host()), port: server.port() }
    }

    /// Of a URL.
    pub fn of_uri(uri: &http::Uri) -> Option<Self> {
        Some(Self { host: Host::parse(uri.host()?), port: uri.port_u16() })
    }

    /// Whether `.well-known` has a say: only for a name without a port.
    pub fn may_delegate(&self) -> bool {
        self.port.is_none() && matches!(self.host, Host::Name(_))
    }
}

impl Host {
    fn parse(text: &str) -> Self {
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        bare.parse().map_or_else(|_| Self::Name(text.to_owned()), Self::Ip)
    }
}

/// The addresses of a server, after `.well-known` has had its say, in the order to try them.
pub async fn federation_addresses(authority: &Authority, dns: &dyn Dns, random: &Random) -> Vec<SocketAddr> {
    let name = match (&authority.host, authority.port) {
        (Host::Ip(address), port) => return vec![SocketAddr::new(*address, port.unwrap_or(FEDERATION_PORT))],
        (Host::Name(name), Some(port)) => return at(dns.addresses(name).await, port),
        (Host::Name(name), None) => name,
    };
    for service in ["_matrix-fed._tcp", "_matrix._tcp"] {
        let services = ordered(dns.services(&format!("{service}.{name}")).await, random);
        if services.is_empty() {
            continue;
        }
        let mut addresses = Vec::new();
        for Service { host, port, .. } in services.into_iter().take(SERVICES_MAX) {
            // An empty host says in so many words that there is no such service.
            if !host.is_empty() {
                addresses.extend(at(dns.addresses(&host).await, port));
            }
        }
        addresses.truncate(ADDRESSES_MAX);
        return addresses;
    }
    at(dns.addresses(name).await, FEDERATION_PORT)
}

/// The addresses of a host of the web.
pub async fn web_addresses(authority: &Authority, dns: &dyn Dns) -> Vec<SocketAddr> {
    let port = authority.port.unwrap_or(443);
    match &authority.host {
        Host::Ip(address) => vec![SocketAddr::new(*address, port)],
        Host::Name(name) => at(dns.addresses(name).await, port),
    }
}

fn at(addresses: Vec<IpAddr>, port: u16) -> Vec<SocketAddr> {
    addresses.into_iter().take(ADDRESSES_MAX).map(|address| SocketAddr::new(address, port)).collect()
}

/// By priority, and by lot among equals, where weight counts (RFC 2782).
fn ordered(mut services: Vec<Service>, random: &Random) -> Vec<Service> {
    let mut ordered = Vec::with_capacity(services.len());
    services.sort_by_key(|service| (service.priority, service.weight));
    while let Some(priority) = services.first().map(|service| service.priority) {
        let equals = services.iter().take_while(|service| service.priority == priority);
        let total: u64 = equals.map(|service| u64::from(service.weight)).sum();
        let mut lot = random.below(total + 1);
        let chosen = services
            .iter()
            .take_while(|service| service.priority == priority)
            .position(|service| match lot.checked_sub(u64::from(service.weight)) {
                Some(left) if left > 0 => {
                    lot = left;
                    false
                }
                _ => true,
            })
            .unwrap_or(0);
        ordered.push(services.remove(chosen));
    }
    ordered
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use futures_util::future::BoxFuture;

    use super::*;

    #[derive(Default)]
    struct Zone {
        addresses: HashMap<&'static str, Vec<&'static str>>,
        services: HashMap<&'static str, Vec<(u16, u16, u16, &'static str)>>,
    }

    impl Dns for Zone {
        fn addresses<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Vec<IpAddr>> {
            let found = self.addresses.get(host).into_iter().flatten().map(|address| address.parse().unwrap()).collect();
            Box::pin(async move { found })
        }

        fn services<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Vec<Service>> {
            let found = self.services.get(name).into_iter().flatten();
            let found = found.map(|&(priority, weight, port, host)| Service { priority, weight, port, host: host.to_owned() }).collect();
            Box::pin(async move { found })
        }
    }

    async fn resolve(zone: &Zone, server: &str) -> Vec<String> {
        let server = ServerName::parse(server).unwrap();
        let found = federation_addresses(&Authority::of_server(&server), zone, &Random::seeded(1)).await;
        found.iter().map(ToString::to_string).collect()
    }

    fn zone() -> Zone {
        Zone {
            addresses: HashMap::from([("a.example", vec!["192.0.2.1", "2001:db8::1"]), ("srv.example", vec!["192.0.2.2"])]),
            services: HashMap::new(),
        }
    }

    #[tokio::test]
    async fn note_29_literals_and_ports_need_no_service_record() {
        let mut zone = zone();
        zone.services.insert("_matrix-fed._tcp.a.example", vec![(1, 1, 1, "srv.example")]);
        assert_eq!(resolve(&zone, "192.0.2.9").await, ["192.0.2.9:8448"]);
        assert_eq!(resolve(&zone, "192.0.2.9:1").await, ["192.0.2.9:1"]);
        assert_eq!(resolve(&zone, "[2001:db8::9]").await, ["[2001:db8::9]:8448"]);
        assert_eq!(resolve(&zone, "[2001:db8::9]:443").await, ["[2001:db8::9]:443"]);
        assert_eq!(resolve(&zone, "a.example:443").await, ["192.0.2.1:443", "[2001:db8::1]:443"]);
    }

    #[tokio::test]
    async fn note_29_the_newer_service_record_goes_before_the_older_and_both_before_the_port() {
        let mut zone = zone();
        assert_eq!(resolve(&zone, "a.example").await, ["192.0.2.1:8448", "[2001:db8::1]:8448"]);
        zone.services.insert("_matrix._tcp.a.example", vec![(10, 0, 1000, "srv.example")]);
        assert_eq!(resolve(&zone, "a.example").await, ["192.0.2.2:1000"]);
        zone.services.insert("_matrix-fed._tcp.a.example", vec![(20, 0, 2000, "srv.example"), (10, 0, 3000, "srv.example")]);
        assert_eq!(resolve(&zone, "a.example").await, ["192.0.2.2:3000", "192.0.2.2:2000"]);
        zone.services.insert("_matrix-fed._tcp.a.example", vec![(0, 0, 0, "")]);
        assert!(resolve(&zone, "a.example").await.is_empty(), "a dot says that there is none");
    }

    #[test]
    fn weight_decides_among_equals_and_loses_nobody() {
        let service = |weight, port| Service { priority: 1, weight, port, host: "h".to_owned() };
        let random = Random::seeded(7);
        let mut first = 0;
        for _ in 0..1000 {
            let order = ordered(vec![service(0, 1), service(10, 2), service(90, 3)], &random);
            assert_eq!(order.len(), 3);
            first += usize::from(order.first().is_some_and(|service| service.port == 3));
        }
        assert!((800..1000).contains(&first), "{first}");
    }
}
