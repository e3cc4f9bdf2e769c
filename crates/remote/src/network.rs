//! The network as a parameter: a request for a server goes in, a bounded answer comes out.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use ruma::{OwnedServerName, ServerName};

use crate::body::Body;

/// What an exchange may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From the first byte out to the last byte in, connecting included.
    pub time: Duration,
    /// Of the answer's body.
    pub body_bytes_max: usize,
}

impl Default for Limits {
    /// Half a minute and 16 MiB.
    fn default() -> Self {
        Self { time: Duration::from_secs(30), body_bytes_max: 16 << 20 }
    }
}

impl Limits {
    /// The same with another time.
    #[must_use]
    pub fn time(mut self, time: Duration) -> Self {
        self.time = time;
        self
    }

    /// The same with another size.
    #[must_use]
    pub fn body_bytes_max(mut self, bytes: usize) -> Self {
        self.body_bytes_max = bytes;
        self
    }
}

/// Why nothing came back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// No address is known for the name.
    #[error("no address of {0} can be found")]
    Unresolved(String),
    /// Its addresses lie in networks we do not connect to.
    #[error("the addresses of {0} lie in denied networks")]
    DeniedNetwork(String),
    /// No connection, or it broke.
    #[error("no connection: {0}")]
    Unreachable(String),
    /// The certificate is not good for the name, or the TLS handshake failed.
    #[error("no TLS: {0}")]
    Tls(String),
    /// It took too long.
    #[error("no answer in time")]
    Timeout,
    /// The answer is longer than asked for.
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
    /// What came is not HTTP, or the request was none.
    #[error("no HTTP: {0}")]
    Malformed(String),
}

/// Carries signed requests to other servers. The Internet is one; the other tenants of this process and a simulator are others.
pub trait Network: Send + Sync {
    /// Sends a request, whose URI is path and query only, to a server.
    fn exchange<'a>(
        &'a self,
        destination: &'a ServerName,
        request: http::Request<Bytes>,
        limits: Limits,
    ) -> BoxFuture<'a, Result<http::Response<Bytes>, NetworkError>>;

    /// Fetches an `https` URL another server has named. Redirects are followed.
    fn get<'a>(&'a self, url: &'a str, limits: Limits) -> BoxFuture<'a, Result<http::Response<Bytes>, NetworkError>>;

    /// As [`Network::exchange`]; the answer's body is read by the caller, within the same limits.
    fn open<'a>(
        &'a self,
        destination: &'a ServerName,
        request: http::Request<Bytes>,
        limits: Limits,
    ) -> BoxFuture<'a, Result<http::Response<Body>, NetworkError>> {
        Box::pin(async move { Ok(self.exchange(destination, request, limits).await?.map(Body::from)) })
    }

    /// As [`Network::get`]; the answer's body is read by the caller, within the same limits.
    fn open_url<'a>(
        &'a self,
        url: &'a str,
        limits: Limits,
    ) -> BoxFuture<'a, Result<http::Response<Body>, NetworkError>> {
        Box::pin(async move { Ok(self.get(url, limits).await?.map(Body::from)) })
    }
}

/// Answers requests inside this process.
pub type LocalHandler = Box<dyn Fn(http::Request<Bytes>) -> BoxFuture<'static, http::Response<Body>> + Send + Sync>;

/// The tenants of this process reach each other by a function call with the same bytes; everybody else through the network beneath.
pub struct LocalFirst<N> {
    tenants: parking_lot::RwLock<std::collections::BTreeMap<OwnedServerName, std::sync::Arc<LocalHandler>>>,
    beneath: N,
}

impl<N> LocalFirst<N> {
    /// No tenant yet.
    pub fn new(beneath: N) -> Self {
        Self { tenants: parking_lot::RwLock::default(), beneath }
    }

    /// Makes a tenant reachable.
    pub fn insert(&self, server: OwnedServerName, handler: LocalHandler) {
        self.tenants.write().insert(server, std::sync::Arc::new(handler));
    }

    /// Makes it unreachable again.
    pub fn remove(&self, server: &ServerName) {
        self.tenants.write().remove(server);
    }
}

impl<N: Network> Network for LocalFirst<N> {
    fn exchange<'a>(
        &'a self,
        destination: &'a ServerName,
        request: http::Request<Bytes>,
        limits: Limits,
    ) -> BoxFuture<'a, Result<http::Response<Bytes>, NetworkError>> {
        let Some(handler) = self.tenants.read().get(destination).cloned() else {
            return self.beneath.exchange(destination, request, limits);
        };
        Box::pin(async move {
            let answer = async {
                let (parts, body) = handler(request).await.into_parts();
                Ok(http::Response::from_parts(parts, body.collect(limits.body_bytes_max).await?))
            };
            tokio::time::timeout(limits.time, answer).await.map_err(|_| NetworkError::Timeout)?
        })
    }

    fn get<'a>(&'a self, url: &'a str, limits: Limits) -> BoxFuture<'a, Result<http::Response<Bytes>, NetworkError>> {
        self.beneath.get(url, limits)
    }

    fn open<'a>(
        &'a self,
        destination: &'a ServerName,
        request: http::Request<Bytes>,
        limits: Limits,
    ) -> BoxFuture<'a, Result<http::Response<Body>, NetworkError>> {
        let Some(handler) = self.tenants.read().get(destination).cloned() else {
            return self.beneath.open(destination, request, limits);
        };
        Box::pin(async move {
            let started = tokio::time::Instant::now();
            let answer = tokio::time::timeout(limits.time, handler(request)).await;
            let (parts, body) = answer.map_err(|_| NetworkError::Timeout)?.into_parts();
            Ok(http::Response::from_parts(parts, body.within(limits, started)?))
        })
    }

    fn open_url<'a>(
        &'a self,
        url: &'a str,
        limits: Limits,
    ) -> BoxFuture<'a, Result<http::Response<Body>, NetworkError>> {
        self.beneath.open_url(url, limits)
    }
}
