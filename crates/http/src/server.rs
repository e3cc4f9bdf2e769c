//! Listeners: sockets, TLS, connections, and their orderly end.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use parking_lot::RwLock;
use samtal_kit::{Random, Tasks};
use samtal_telemetry::{Gauge, Metrics};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::crowd::{Crowd, Place};
use crate::handle::{Connection, Peer, Shared};
use crate::tls::Certificates;

/// Connections that wait to be accepted. Where a crowd comes back at once and there is no room for it, clients try again after a
/// whole second. The system may allow fewer.
const BACKLOG: u32 = 4_096;

/// Bounds on what is taken in.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Connections at most, on all listeners together; further ones wait to be accepted.
    pub connections_max: usize,
    /// Connections at most from one address, or one /64 of IPv6; further ones are closed. Who comes through a proxy that is ours
    /// is not held to it: all have its address.
    pub connections_each_max: usize,
    /// Whether this machine's own addresses are held to it, too.
    pub bounds_loopback: bool,
    /// Requests at most that are worked on at once; further ones are refused with 503.
    pub requests_max: usize,
    /// How long a client may take for TLS, and then for its first request's headers.
    pub header_read: Duration,
    /// How long a connection is kept from an answer until the next request's headers have come. Longer than the long polls and
    /// pauses of clients: one who uses a connection at the moment it is closed sees a request fail.
    pub idle: Duration,
    /// How long a client may take for a request's body.
    pub body_read: Duration,
}

impl Default for ServerOptions {
    fn default() -> ServerOptions {
        ServerOptions {
            connections_max: 16_384,
            // A whole agency may be behind one address.
            connections_each_max: 8_192,
            bounds_loopback: false,
            requests_max: 8_192,
            header_read: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            body_read: Duration::from_secs(120),
        }
    }
}

/// Streams of HTTP/2 that a client may have taken back before they were looked at, and that may have ended in errors of its
/// own, until its connection is ended (CVE-2023-44487, CVE-2025-8671).
const RESETS_MAX: usize = 20;
const ERRORS_MAX: usize = 1_024;

/// An address to listen on.
#[derive(Debug, Clone)]
pub struct Listener {
    /// The address; port 0 takes a free one.
    pub address: SocketAddr,
    /// The certificate, if it is TLS.
    pub certificates: Option<Arc<Certificates>>,
    /// Whether a proxy in front sets `X-Forwarded-For`.
    pub behind_proxy: bool,
    /// What is answered.
    pub router: Router,
}

/// How long a connection may be silent: see [`ServerOptions`].
#[derive(Clone, Copy)]
struct Patience {
    header_read: Duration,
    idle: Duration,
}

/// Listeners that take connections until they are told to stop.
pub struct Server {
    bound: Vec<(TcpListener, Listener)>,
    shared: Arc<Shared>,
    connections: Arc<Semaphore>,
    crowd: Arc<Crowd>,
    bounds_loopback: bool,
    open: Gauge,
    patience: Patience,
}

impl Server {
    /// Binds all listeners. Connections queue until [`Server::serve`].
    ///
    /// # Errors
    /// An address cannot be bound; the error names it.
    pub async fn bind(
        listeners: Vec<Listener>,
        options: &ServerOptions,
        metrics: &Metrics,
        random: &Random,
    ) -> io::Result<Server> {
        let mut bound = Vec::new();
        for listener in listeners {
            let socket =
                listen(listener.address).map_err(|e| io::Error::new(e.kind(), cannot_listen(listener.address, &e)))?;
            let router = listener.router.layer(axum::middleware::from_fn(tell_route));
            bound.push((socket, Listener { router, ..listener }));
        }
        let shared = Shared {
            requests: Semaphore::new(options.requests_max),
            metrics: metrics.clone(),
            in_flight: metrics.gauge("samtal_http_requests_in_flight", "Requests that are worked on.", &[]),
            body_read: options.body_read,
            counted: RwLock::default(),
            id_prefix: random.alphanumeric(6),
            id_count: AtomicU64::new(1),
        };
        Ok(Server {
            bound,
            shared: Arc::new(shared),
            connections: Arc::new(Semaphore::new(options.connections_max)),
            crowd: Crowd::new(options.connections_each_max),
            bounds_loopback: options.bounds_loopback,
            open: metrics.gauge("samtal_http_connections", "Open connections.", &[]),
            patience: Patience { header_read: options.header_read, idle: options.idle },
        })
    }

    /// The addresses that are listened on, in the order given, with the ports that were free.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.bound.iter().map(|(socket, listener)| socket.local_addr().unwrap_or(listener.address)).collect()
    }

    /// Starts taking connections, in tasks of the group. When the group is asked to finish, no more are taken, idle ones
    /// are closed, and running requests are answered.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn serve(self, tasks: &Tasks) -> Result<(), crate::TlsError> {
        for (socket, listener) in self.bound {
            let tls = match &listener.certificates {
                Some(certificates) => Some(TlsAcceptor::from(certificates.server_config()?)),
                None => None,
            };
            let accepting = Accepting {
                socket,
                tls,
                router: listener.router,
                behind_proxy: listener.behind_proxy,
                shared: self.shared.clone(),
                connections: self.connections.clone(),
                crowd: self.crowd.clone(),
                bounds_loopback: self.bounds_loopback,
                open: self.open.clone(),
                patience: self.patience,
                stop: tasks.token(),
            };
            tasks.spawn("listener", accepting.run());
        }
        Ok(())
    }
}

/// One listener's loop. It owns its connections: they end with it.
struct Accepting {
    socket: TcpListener,
    tls: Option<TlsAcceptor>,
    router: Router,
    behind_proxy: bool,
    shared: Arc<Shared>,
    connections: Arc<Semaphore>,
    crowd: Arc<Crowd>,
    bounds_loopback: bool,
    open: Gauge,
    patience: Patience,
    stop: CancellationToken,
}

impl Accepting {
    async fn run(self) {
        let mut running = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                Some(_) = running.join_next() => {}
                taken = self.next() => if let Some((stream, address, places)) = taken {
                    let held = self.open.hold();
                    let connection = self.connection(stream, address);
                    running.spawn(async move {
                        connection.await;
                        drop((places, held));
                    });
                }
            }
        }
        // No more are taken; those that are open finish what they do.
        drop(self.socket);
        while running.join_next().await.is_some() {}
    }

    /// The next connection, with its places among all and among those of its address.
    async fn next(&self) -> Option<(TcpStream, SocketAddr, (OwnedSemaphorePermit, Option<Place>))> {
        let permit = self.connections.clone().acquire_owned().await.ok()?;
        match self.socket.accept().await {
            Ok((stream, address)) => {
                let ip = address.ip().to_canonical();
                if self.behind_proxy || ip.is_loopback() && !self.bounds_loopback {
                    return Some((stream, address, (permit, None)));
                }
                let place = self.crowd.enter(ip);
                if place.is_none() {
                    tracing::debug!(%ip, "too many connections from one address");
                }
                place.map(|place| (stream, address, (permit, Some(place))))
            }
            Err(e) => {
                // Out of file descriptors, or the client is gone already: a breath keeps this from spinning.
                tracing::warn!(error = %e, "cannot take a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                None
            }
        }
    }

    fn connection(&self, stream: TcpStream, address: SocketAddr) -> impl Future<Output = ()> + Send + 'static {
        let (shared, router, tls) = (self.shared.clone(), self.router.clone(), self.tls.clone());
        let (behind_proxy, patience, stop) = (self.behind_proxy, self.patience, self.stop.clone());
        async move {
            // Small answers should not wait for each other.
            let _ = stream.set_nodelay(true);
            let mut peer = Peer { socket: address, client: address.ip(), tls: tls.is_some(), server_name: None };
            match tls {
                None => {
                    let connection = Connection { shared, router, peer, behind_proxy };
                    speak(stream, connection, patience, stop).await;
                }
                Some(tls) => match tokio::time::timeout(patience.header_read, tls.accept(stream)).await {
                    Ok(Ok(stream)) => {
                        peer.server_name = stream.get_ref().1.server_name().map(Into::into);
                        let connection = Connection { shared, router, peer, behind_proxy };
                        speak(stream, connection, patience, stop).await;
                    }
                    Ok(Err(e)) => tracing::debug!(error = %e, ip = %address.ip(), "TLS failed"),
                    Err(_) => tracing::debug!(ip = %address.ip(), "TLS took too long"),
                },
            }
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // So that a restart need not wait for connections of before; elsewhere this would let two listen at once.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Why an address cannot be bound, and what may be done.
fn cannot_listen(address: SocketAddr, error: &io::Error) -> String {
    let (why, hint) = match error.kind() {
        io::ErrorKind::AddrInUse => {
            ("another program listens there", "`ss -ltnp` says which; or choose another address")
        }
        io::ErrorKind::AddrNotAvailable => {
            ("this machine has no such address", "0.0.0.0 or [::] stands for all it has")
        }
        io::ErrorKind::PermissionDenied => {
            ("not permitted", "ports below 1024 need the capability CAP_NET_BIND_SERVICE, or a reverse proxy in front")
        }
        _ => return format!("cannot listen on {address}: {error}"),
    };
    format!("cannot listen on {address}: {why} ({hint})")
}

/// A middleware that hands the matched route out with the answer, for the log and the metrics. A listener's router has it;
/// one nested in it as a service needs its own.
pub async fn tell_route(request: axum::extract::Request, next: axum::middleware::Next) -> axum::response::Response {
    let route = request.extensions().get::<axum::extract::MatchedPath>().cloned();
    let mut response = next.run(request).await;
    if let Some(route) = route
        && response.extensions().get::<axum::extract::MatchedPath>().is_none()
    {
        response.extensions_mut().insert(route);
    }
    response
}

async fn speak<S>(stream: S, connection: Connection, patience: Patience, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(patience.idle).max_buf_size(64 * 1024);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(250)
        .max_header_list_size(64 * 1024)
        .max_pending_accept_reset_streams(RESETS_MAX)
        .max_local_error_reset_streams(ERRORS_MAX)
        .keep_alive_interval(Duration::from_secs(60))
        .keep_alive_timeout(Duration::from_secs(20));
    let connection = Arc::new(connection);
    let asked = CancellationToken::new();
    let first = asked.clone();
    let service = service_fn(move |request: http::Request<Incoming>| {
        first.cancel();
        let connection = connection.clone();
        async move { Ok::<_, Infallible>(connection.handle(request).await.unwrap_or_else(|never| match never {})) }
    });
    let nobody_asks = async {
        if tokio::time::timeout(patience.header_read, asked.cancelled()).await.is_ok() {
            std::future::pending::<()>().await;
        }
    };
    let mut serving = std::pin::pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = nobody_asks => return tracing::debug!("no request on a new connection"),
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(e) = ended {
        tracing::debug!(error = %e, "connection broke");
    }
}
