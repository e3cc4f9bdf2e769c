//! An installation that serves.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use samtal_config::process::{LogFormat, LogLevel, Process};
use samtal_http::{Certificate, Certificates, Listener, Server, ServerOptions};
use samtal_kit::{Memory, Tasks};
use samtal_ops::Homeserver;
use samtal_policy::Decided;
use samtal_telemetry::{Format, Level, LogControl, Metrics};

use crate::{Installation, ServerError, Tenants, control, open_files, routes};

/// How often unused memory is looked for: what has not been used for two to three times as long goes.
const SWEEP: Duration = Duration::from_secs(120);

/// A server that takes requests until [`Running::end`].
pub struct Running {
    pub(crate) installation: Installation,
    pub(crate) tenants: Tenants,
    /// By listener: the address that the configuration gave it, and what it shows.
    pub(crate) certificates: Vec<(SocketAddr, Option<Arc<Certificates>>)>,
    pub(crate) log: Option<LogControl>,
    addresses: Vec<SocketAddr>,
    listeners: Tasks,
    metrics: Metrics,
}

impl Running {
    /// Binds the listeners, opens the tenants, and starts to serve.
    ///
    /// # Errors
    /// An address is taken, a certificate or a database cannot be used.
    pub async fn start(
        installation: Installation,
        metrics: Metrics,
        log: Option<LogControl>,
    ) -> Result<Running, ServerError> {
        let process = &installation.config.process;
        let tenants = Tenants::default();
        let (mut listeners, mut certificates) = (Vec::new(), Vec::new());
        for listener in &process.listeners {
            let tls = match &listener.tls {
                Some(tls) => Some(Certificates::load(&certificates_of(listener, tls))?),
                None => None,
            };
            certificates.push((listener.address, tls.clone()));
            let body_bytes_max = usize::try_from(process.http.body_bytes_max).unwrap_or(usize::MAX);
            listeners.push(Listener {
                address: listener.address,
                certificates: tls,
                behind_proxy: listener.behind_proxy,
                router: routes::router(&listener.serve, &tenants, &metrics, body_bytes_max),
            });
        }
        // Addresses first: a second server by mistake should not come as far as the databases.
        let server = Server::bind(listeners, &server_options(process), &metrics, installation.random())
            .await
            .map_err(ServerError::Listen)?;
        let addresses = server.addresses();
        let opened = installation.open().await?;
        tenants.replace(opened.all().into_iter().map(|open| ((*open.config).clone(), open.homeserver)).collect());
        watch_tenants(&metrics, &tenants);
        let tasks = Tasks::new();
        tasks.spawn("memory", sweep(installation.memory.clone(), tasks.clone()));
        server.serve(&tasks)?;
        control::listen(&tasks, &process.server.data_dir, tenants.clone())?;
        Ok(Running { installation, tenants, certificates, log, addresses, listeners: tasks, metrics })
    }

    /// Where it listens, as URLs, in the configuration's order, with the ports that were free.
    pub fn urls(&self) -> Vec<String> {
        let tls = self.certificates.iter().map(|(_, certificates)| certificates.is_some());
        let schemes = tls.map(|tls| if tls { "https" } else { "http" });
        schemes.zip(&self.addresses).map(|(scheme, address)| format!("{scheme}://{address}")).collect()
    }

    /// The server names it serves.
    pub fn names(&self) -> Vec<String> {
        self.tenants.homeservers().iter().map(|homeserver| homeserver.name.to_string()).collect()
    }

    /// The tenants.
    pub fn tenants(&self) -> &Tenants {
        &self.tenants
    }

    /// The metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Ends it: no more connections; running requests and background work may finish within the configured times.
    pub async fn end(self) {
        let server = &self.installation.config.process.server;
        let (soft, hard) =
            (Duration::from_millis(server.shutdown_soft_ms), Duration::from_millis(server.shutdown_hard_ms));
        let homeservers = self.tenants.homeservers();
        // Requests that wait for something (a long poll) see that their tenant ends, and answer.
        for homeserver in &homeservers {
            homeserver.tasks.token().cancel();
        }
        let dropped = self.listeners.shut_down(soft).await;
        if dropped > 0 {
            tracing::warn!(dropped, "requests were cut off");
        }
        self.installation.networks.clear();
        for homeserver in homeservers {
            let dropped = homeserver.tasks.shut_down(hard).await;
            if dropped > 0 {
                tracing::warn!(tenant = %homeserver.name, dropped, "background work was cut off");
            }
            homeserver.db.close().await;
        }
    }
}

/// Gives back, now and then, the memory of what nobody has asked for in a while. A tenant that nobody uses sleeps then.
async fn sweep(memory: Memory, tasks: Tasks) {
    loop {
        tokio::select! {
            () = tasks.stopping() => return,
            () = tokio::time::sleep(SWEEP) => memory.sweep(),
        }
    }
}

/// The files of a listener's certificates, the first one first.
pub(crate) fn certificates_of(
    listener: &samtal_config::process::Listener,
    tls: &samtal_config::process::Tls,
) -> Vec<Certificate> {
    std::iter::once(tls).chain(&listener.certificates).map(certificate).collect()
}

pub(crate) fn certificate(tls: &samtal_config::process::Tls) -> Certificate {
    Certificate { certificate: tls.certificate.clone(), private_key: tls.private_key.clone() }
}

fn server_options(process: &Process) -> ServerOptions {
    let connections_max = open_files::connections(process.http.connections_max);
    ServerOptions {
        connections_max,
        connections_each_max: connections_max.div_ceil(2),
        bounds_loopback: false,
        requests_max: process.http.requests_max as usize,
        header_read: Duration::from_millis(process.http.header_read_ms),
        idle: Duration::from_millis(process.http.idle_ms),
        body_read: Duration::from_millis(process.http.body_read_ms),
    }
}

fn watch_tenants(metrics: &Metrics, tenants: &Tenants) {
    let tenants = tenants.clone();
    metrics.on_render(move |metrics| {
        let homeservers = tenants.homeservers();
        let count = i64::try_from(homeservers.len()).unwrap_or(i64::MAX);
        metrics.gauge("samtal_tenants", "Server names served.", &[]).set(count);
        count_decisions(metrics, &homeservers);
        for homeserver in homeservers {
            metrics
                .gauge(
                    "samtal_log_position",
                    "The change log's newest position.",
                    &[("tenant", homeserver.name.as_str())],
                )
                .set(homeserver.db.position());
        }
    });
}

/// Counts what the policy points answered, of all tenants together: who was refused stands in each tenant's own list.
fn count_decisions(metrics: &Metrics, homeservers: &[Arc<Homeserver>]) {
    let mut sums: BTreeMap<_, u64> = BTreeMap::new();
    for Decided { direction, action, outcome, count } in homeservers.iter().flat_map(|hs| hs.policy.decided()) {
        *sums.entry((direction, action, outcome)).or_default() += count;
    }
    for ((direction, action, outcome), sum) in sums {
        let labels = [("direction", direction.as_str()), ("action", action.as_str()), ("outcome", outcome)];
        let counter = metrics.counter(
            "samtal_federation_decisions_total",
            "What the policy point answered about what would pass between servers.",
            &labels,
        );
        counter.add(sum.saturating_sub(counter.get()));
    }
}

/// Starts logging as the configuration says.
pub(crate) fn level(level: LogLevel) -> Level {
    match level {
        LogLevel::Error => Level::Error,
        LogLevel::Warn => Level::Warn,
        LogLevel::Info => Level::Info,
        LogLevel::Debug => Level::Debug,
        LogLevel::Trace => Level::Trace,
    }
}

impl Installation {
    /// Starts logging as the configuration says.
    pub fn start_log(&self) -> LogControl {
        let log = &self.config.process.log;
        let format = match log.format {
            LogFormat::Text => Format::Text,
            LogFormat::Json => Format::Json,
        };
        samtal_telemetry::log::start(format, level(log.level), self.clock().clone())
    }
}
