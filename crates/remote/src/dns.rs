//! Names to addresses.

use std::net::IpAddr;

use futures_util::future::BoxFuture;
use hickory_resolver::{
    TokioResolver,
    config::{LookupIpStrategy, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
    proto::rr::{RData, RecordType},
};

/// Where a service is offered, by an SRV record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Lower is tried first.
    pub priority: u16,
    /// Among equals, more is chosen more often.
    pub weight: u16,
    /// The port.
    pub port: u16,
    /// The host, without the final dot; empty when the record says that there is no such service.
    pub host: String,
}

/// Asks the domain name system.
pub trait Dns: Send + Sync {
    /// The addresses of a host; none if it has none or they cannot be had.
    fn addresses<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Vec<IpAddr>>;

    /// The SRV records of a name; none if it has none or they cannot be had.
    fn services<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Vec<Service>>;
}

/// The name servers and the hosts file the operating system is configured with.
pub struct SystemDns(TokioResolver);

/// Why no resolver can be made.
#[derive(Debug, thiserror::Error)]
#[error("the system's name servers cannot be used: {0}")]
pub struct DnsSetupError(String);

impl SystemDns {
    /// Reads the system's configuration. Without a readable one only the hosts file is used.
    pub fn new() -> Result<Self, DnsSetupError> {
        let mut builder = TokioResolver::builder_tokio().unwrap_or_else(|_| {
            TokioResolver::builder_with_config(ResolverConfig::default(), TokioRuntimeProvider::default())
        });
        let options = builder.options_mut();
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.timeout = std::time::Duration::from_secs(3);
        options.attempts = 2;
        Ok(Self(builder.build().map_err(|error| DnsSetupError(error.to_string()))?))
    }
}

impl Dns for SystemDns {
    fn addresses<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Vec<IpAddr>> {
        Box::pin(async move {
            match self.0.lookup_ip(host).await {
                Ok(found) => found.iter().collect(),
                Err(error) => {
                    tracing::debug!(host, %error, "no address");
                    Vec::new()
                }
            }
        })
    }

    fn services<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Vec<Service>> {
        Box::pin(async move {
            // The final dot keeps the search list of the system out of it.
            match self.0.lookup(format!("{name}."), RecordType::SRV).await {
                Ok(found) => found
                    .answers()
                    .iter()
                    .filter_map(|record| match &record.data {
                        RData::SRV(srv) => Some(Service {
                            priority: srv.priority,
                            weight: srv.weight,
                            port: srv.port,
                            host: srv.target.to_ascii().trim_end_matches('.').to_owned(),
                        }),
                        _ => None,
                    })
                    .collect(),
                Err(error) => {
                    tracing::debug!(name, %error, "no service record");
                    Vec::new()
                }
            }
        })
    }
}
