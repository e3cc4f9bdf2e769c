//! From a server's name to the addresses to connect to: [Resolving server names, Matrix 1.19](https://spec.matrix.org/v1.19/server-server-api/#resolving-server-names).

use std::{io, net::IpAddr, sync::Arc};

use futures_util::future::BoxFuture;
use http::Uri;
use ruma::ServerName;
use samtal_http::{Resolve, Target, connect::ConnectError};
use samtal_kit::Random;

use crate::dns::{Dns, Service};

/// The port of federation when nothing says another.
const FEDERATION_PORT: u16 = 8448;
/// Most addresses of one server that are kept.
const ADDRESSES_MAX: usize = 16;
/// Most SRV records of one name that are followed.
const SERVICES_MAX: usize = 8;

/// Where to go for a server, or for a host of the web.
pub(crate) struct Resolver {
    pub(crate) dns: Arc<dyn Dns>,
    pub(crate) random: Random,
    pub(crate) kind: Kind,
}

/// What an authority means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A server, after `.well-known` has had its say: SRV records and port 8448.
    Federation,
    /// A host of the web: port 443.
    Web,
}

impl Resolve for Resolver {
    fn resolve<'a>(&'a self, uri: &'a Uri) -> BoxFuture<'a, Result<Vec<Target>, ConnectError>> {
        Box::pin(async move {
            let host = uri.host().filter(|_| uri.scheme_str() == Some("https")).ok_or(ConnectError::NoTarget)?;
            let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
            Ok(match self.kind {
                Kind::Federation => federation_targets(host, uri.port_u16(), &*self.dns, &self.random).await,
                Kind::Web => vec![target(host, uri.port_u16().unwrap_or(443), host)],
            })
        })
    }

    fn lookup<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            let addresses = self.dns.addresses(host).await;
            Ok(addresses.into_iter().take(ADDRESSES_MAX).collect())
        })
    }
}

/// Whether `.well-known` has a say about this name: not if it is an address or has a port.
pub(crate) fn may_delegate(server: &ServerName) -> bool {
    server.port().is_none() && !server.is_ip_literal()
}

/// The targets of a host after `.well-known` has had its say, in the order to try them. The certificate must always be for the host
/// itself, never for the target of an SRV record.
async fn federation_targets(host: &str, port: Option<u16>, dns: &dyn Dns, random: &Random) -> Vec<Target> {
    if port.is_some() || host.parse::<IpAddr>().is_ok() {
        return vec![target(host, port.unwrap_or(FEDERATION_PORT), host)];
    }
    for service in ["_matrix-fed._tcp", "_matrix._tcp"] {
        let services = ordered(dns.services(&format!("{service}.{host}")).await, random);
        if !services.is_empty() {
            // An empty host says in so many words that there is no such service.
            let offered = services.into_iter().filter(|service| !service.host.is_empty()).take(SERVICES_MAX);
            return offered.map(|service| target(&service.host, service.port, host)).collect();
        }
    }
    vec![target(host, FEDERATION_PORT, host)]
}

fn target(host: &str, port: u16, tls_name: &str) -> Target {
    Target { host: host.to_owned(), port, tls_name: Some(tls_name.to_owned()) }
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

    use super::*;

    /// Services by name.
    #[derive(Default)]
    struct Zone(HashMap<&'static str, Vec<(u16, u16, u16, &'static str)>>);

    impl Dns for Zone {
        fn addresses<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Vec<IpAddr>> {
            Box::pin(async { Vec::new() })
        }

        fn services<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Vec<Service>> {
            let found = self.0.get(name).into_iter().flatten();
            let found = found
                .map(|&(priority, weight, port, host)| Service { priority, weight, port, host: host.to_owned() })
                .collect();
            Box::pin(async move { found })
        }
    }

    /// Priority, weight, port and host.
    type Srv = (u16, u16, u16, &'static str);

    /// Each target as `host:port for name`.
    async fn resolve(services: &[(&'static str, Vec<Srv>)], server: &str) -> Vec<String> {
        let zone = Zone(services.iter().cloned().collect());
        let resolver = Resolver { dns: Arc::new(zone), random: Random::seeded(1), kind: Kind::Federation };
        let uri = format!("https://{server}/").parse().unwrap();
        let targets = resolver.resolve(&uri).await.unwrap().into_iter();
        targets.map(|target| format!("{}:{} for {}", target.host, target.port, target.tls_name.unwrap())).collect()
    }

    #[tokio::test]
    async fn note_29_literals_and_ports_need_no_service_record() {
        let zone = [("_matrix-fed._tcp.a.example", vec![(1, 1, 1, "srv.example")])];
        assert_eq!(resolve(&zone, "192.0.2.9").await, ["192.0.2.9:8448 for 192.0.2.9"]);
        assert_eq!(resolve(&zone, "192.0.2.9:1").await, ["192.0.2.9:1 for 192.0.2.9"]);
        assert_eq!(resolve(&zone, "[2001:db8::9]").await, ["2001:db8::9:8448 for 2001:db8::9"]);
        assert_eq!(resolve(&zone, "a.example:443").await, ["a.example:443 for a.example"]);
        for (server, delegates) in [("a.example", true), ("a.example:1", false), ("192.0.2.9", false), ("[::1]", false)]
        {
            assert_eq!(may_delegate(<&ServerName>::try_from(server).unwrap()), delegates, "{server}");
        }
    }

    #[tokio::test]
    async fn note_29_the_newer_service_record_goes_before_the_older_and_the_certificate_is_for_the_name() {
        let old = ("_matrix._tcp.a.example", vec![(10, 0, 1000, "srv.example")]);
        let new = ("_matrix-fed._tcp.a.example", vec![(20, 0, 2000, "far.example"), (10, 0, 3000, "srv.example")]);
        assert_eq!(resolve(&[], "a.example").await, ["a.example:8448 for a.example"]);
        assert_eq!(resolve(&[old.clone()], "a.example").await, ["srv.example:1000 for a.example"]);
        assert_eq!(
            resolve(&[old, new], "a.example").await,
            ["srv.example:3000 for a.example", "far.example:2000 for a.example"]
        );
        let none = ("_matrix-fed._tcp.a.example", vec![(0, 0, 0, "")]);
        assert!(resolve(&[none], "a.example").await.is_empty(), "a dot says that there is none");
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
