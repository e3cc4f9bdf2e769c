//! Making a connection out: which machine, is it allowed, TCP, TLS.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::address::AddressPolicy;
use crate::proxy::Proxy;

/// Where to connect for a URI, and whom to expect there. The `Host` of the request is the URI's authority, which may be
/// quite another name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// A host name or an IP address (IPv6 without brackets).
    pub host: String,
    /// The port.
    pub port: u16,
    /// The name that the certificate must be for (a host name or IP address), sent as SNI; without it, no TLS.
    pub tls_name: Option<String>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The URI names no host, or a scheme other than `http` and `https`.
    #[error("not an address that can be connected to")]
    NoTarget,
    /// The name has no address.
    #[error("{host} has no address")]
    Lookup {
        /// The name.
        host: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// All its addresses are in networks that are not connected to.
    #[error("{host} is in a network that is not connected to")]
    Denied {
        /// The name.
        host: String,
    },
    /// No address took the connection.
    #[error("{host} does not take connections")]
    Refused {
        /// The name.
        host: String,
        /// Why the last one did not.
        #[source]
        source: io::Error,
    },
    /// TLS failed: a certificate that is not trusted, or for another name.
    #[error("no TLS with {host}")]
    Tls {
        /// The name expected.
        host: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The proxy does not connect.
    #[error("the proxy does not connect to {host}: {why}")]
    Proxy {
        /// The name.
        host: String,
        /// What it said.
        why: String,
    },
    /// It took too long.
    #[error("connecting took too long")]
    TimedOut,
    /// What the resolver says.
    #[error("{0}")]
    Resolver(String),
}

/// Finds where to connect for a URI. Federation has rules of its own here.
pub trait Resolve: Send + Sync + 'static {
    /// The targets to try, in order. The pool keeps connections by the URI's scheme and authority: the answer may depend
    /// on nothing else of the URI.
    fn resolve<'a>(&'a self, uri: &'a Uri) -> BoxFuture<'a, Result<Vec<Target>, ConnectError>>;

    /// The addresses of a host name; by default what the system says.
    fn lookup<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((host, 0)).await?.map(|address| address.ip()).collect()) })
    }
}

/// What the URI says: its host and port, TLS for `https`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Direct;

impl Resolve for Direct {
    fn resolve<'a>(&'a self, uri: &'a Uri) -> BoxFuture<'a, Result<Vec<Target>, ConnectError>> {
        Box::pin(async move {
            let host = uri.host().ok_or(ConnectError::NoTarget)?;
            let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            let (port, tls_name) = match uri.scheme_str() {
                Some("https") => (443, Some(host.clone())),
                Some("http") => (80, None),
                _ => return Err(ConnectError::NoTarget),
            };
            Ok(vec![Target { host, port: uri.port_u16().unwrap_or(port), tls_name }])
        })
    }
}

/// Makes connections. Cheap to clone.
#[derive(Clone)]
pub struct Connector {
    pub(crate) resolver: Arc<dyn Resolve>,
    pub(crate) policy: Arc<AddressPolicy>,
    pub(crate) tls: TlsConnector,
    pub(crate) proxy: Option<Arc<Proxy>>,
    pub(crate) time: Duration,
}

/// One address gets so long, so that a second one has a chance.
const ADDRESS_TIME: Duration = Duration::from_secs(5);

impl Connector {
    /// Connects for a URI.
    ///
    /// # Errors
    /// No target could be reached, or none was allowed; the last target's error.
    pub async fn connect(&self, uri: &Uri) -> Result<Stream, ConnectError> {
        let connecting = async {
            let mut last = ConnectError::NoTarget;
            for target in self.resolver.resolve(uri).await? {
                match self.try_target(&target).await {
                    Ok(stream) => return Ok(stream),
                    Err(e) => last = e,
                }
            }
            Err(last)
        };
        tokio::time::timeout(self.time, connecting).await.unwrap_or(Err(ConnectError::TimedOut))
    }

    async fn try_target(&self, target: &Target) -> Result<Stream, ConnectError> {
        let stream = match &self.proxy {
            Some(proxy) => self.try_proxy(proxy, target).await?,
            None => self.try_addresses(target).await?,
        };
        let _ = stream.set_nodelay(true);
        let Some(name) = &target.tls_name else {
            return Ok(Stream::Plain(TokioIo::new(stream)));
        };
        let failed = |source| ConnectError::Tls { host: name.clone(), source };
        let server_name = ServerName::try_from(name.clone()).map_err(|e| failed(io::Error::other(e)))?;
        let stream = self.tls.connect(server_name, stream).await.map_err(failed)?;
        Ok(Stream::Tls(Box::new(TokioIo::new(stream))))
    }

    /// Through the proxy, which looks the name up: addresses are judged here only where they stand in place of a name.
    async fn try_proxy(&self, proxy: &Proxy, target: &Target) -> Result<TcpStream, ConnectError> {
        let host = &target.host;
        if host.parse::<IpAddr>().is_ok_and(|address| !self.policy.allows(address)) {
            return Err(ConnectError::Denied { host: host.clone() });
        }
        proxy
            .connect(host, target.port)
            .await
            .map_err(|error| ConnectError::Proxy { host: host.clone(), why: error.to_string() })
    }

    async fn try_addresses(&self, target: &Target) -> Result<TcpStream, ConnectError> {
        let host = &target.host;
        let addresses = match host.parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => self
                .resolver
                .lookup(host)
                .await
                .map_err(|source| ConnectError::Lookup { host: host.clone(), source })?,
        };
        if addresses.is_empty() {
            let source = io::Error::from(io::ErrorKind::NotFound);
            return Err(ConnectError::Lookup { host: host.clone(), source });
        }
        let mut last = ConnectError::Denied { host: host.clone() };
        // The address that is checked is the one that is connected to: a name that changes in between gains nothing.
        for address in addresses.into_iter().filter(|address| self.policy.allows(*address)).take(8) {
            let tried = tokio::time::timeout(ADDRESS_TIME, TcpStream::connect((address, target.port))).await;
            match tried.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(stream) => return Ok(stream),
                Err(source) => last = ConnectError::Refused { host: host.clone(), source },
            }
        }
        Err(last)
    }
}

impl tower::Service<Uri> for Connector {
    type Response = Stream;
    type Error = ConnectError;
    type Future = BoxFuture<'static, Result<Stream, ConnectError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.connect(&uri).await })
    }
}

/// A connection out.
pub enum Stream {
    /// Without TLS.
    Plain(TokioIo<TcpStream>),
    /// With TLS.
    Tls(Box<TokioIo<TlsStream<TcpStream>>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        match self {
            Stream::Plain(_) => Connected::new(),
            Stream::Tls(stream) => match stream.inner().get_ref().1.alpn_protocol() {
                Some(b"h2") => Connected::new().negotiated_h2(),
                _ => Connected::new(),
            },
        }
    }
}

impl Read for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, into),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).poll_read(context, into),
        }
    }
}

impl Write for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(context),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(context),
        }
    }
}
