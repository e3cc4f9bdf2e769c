//! The one way out: requests with limits of time and size, over connections that the address policy allows.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;

use crate::address::AddressPolicy;
use crate::body::{BodyError, collect};
use crate::connect::{ConnectError, Connector, Direct, Resolve};
use crate::proxy::Proxy;
use crate::tls::{Certificate, TlsError, client_config};

/// What a client may do.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// PEM files with authorities that are trusted besides the public ones.
    pub trusted_certificates: Vec<PathBuf>,
    /// What we show to servers that ask who we are. Most do not.
    pub certificate: Option<Certificate>,
    /// Where no connection is made to.
    pub policy: AddressPolicy,
    /// Through which all connections go, where there is no other way out.
    pub proxy: Option<Proxy>,
    /// How long finding, connecting and TLS may take together.
    pub connect: Duration,
    /// How long an idle connection is kept.
    pub idle: Duration,
    /// Idle connections kept for each host.
    pub idle_per_host: usize,
    /// Requests at once; further ones wait.
    pub requests_max: usize,
}

impl Default for ClientOptions {
    fn default() -> ClientOptions {
        ClientOptions {
            trusted_certificates: Vec::new(),
            certificate: None,
            proxy: None,
            policy: AddressPolicy::default(),
            connect: Duration::from_secs(15),
            idle: Duration::from_secs(60),
            idle_per_host: 4,
            requests_max: 512,
        }
    }
}

/// Bounds on one exchange.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From the request until the answer's last byte.
    pub time: Duration,
    /// Longest answer, in bytes.
    pub bytes_max: u64,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no connection.
    #[error(transparent)]
    Connect(ConnectError),
    /// The exchange broke off.
    #[error("the exchange broke off")]
    Broken(#[source] legacy::Error),
    /// The answer could not be read within its limits.
    #[error(transparent)]
    Body(BodyError),
    /// It took too long.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// Redirected too often, or to somewhere that cannot be followed.
    #[error("redirected to where it cannot be followed")]
    Redirect,
}

impl ClientError {
    /// Whether the address policy refused the connection.
    pub fn is_denied(&self) -> bool {
        matches!(self, ClientError::Connect(ConnectError::Denied { .. }))
    }
}

/// An HTTP client with a pool of connections. Cheap to clone; clones share the pool.
#[derive(Clone)]
pub struct Client {
    inner: legacy::Client<Connector, Full<Bytes>>,
    connector: Connector,
    running: Arc<Semaphore>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("Samtal/", env!("CARGO_PKG_VERSION")));

impl Client {
    /// A client that goes where the URI says.
    ///
    /// # Errors
    /// A trusted certificate cannot be read.
    pub fn new(options: &ClientOptions) -> Result<Client, TlsError> {
        Client::with_resolver(options, Arc::new(Direct))
    }

    /// A client that goes where the resolver says.
    ///
    /// # Errors
    /// A trusted certificate cannot be read.
    pub fn with_resolver(options: &ClientOptions, resolver: Arc<dyn Resolve>) -> Result<Client, TlsError> {
        let connector = Connector {
            resolver,
            policy: Arc::new(options.policy.clone()),
            tls: TlsConnector::from(client_config(&options.trusted_certificates, options.certificate.as_ref())?),
            proxy: options.proxy.clone().map(Arc::new),
            time: options.connect,
        };
        let inner = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(options.idle)
            .pool_max_idle_per_host(options.idle_per_host)
            .http1_max_buf_size(256 * 1024)
            .build(connector.clone());
        Ok(Client { inner, connector, running: Arc::new(Semaphore::new(options.requests_max)) })
    }

    /// The connector, for protocols other than HTTP.
    pub fn connector(&self) -> &Connector {
        &self.connector
    }

    /// One exchange; the answer's body is read wholly.
    ///
    /// # Errors
    /// No connection, no answer in time, or one that is too long. Any status is an answer.
    pub async fn fetch(&self, request: Request<Bytes>, limits: Limits) -> Result<Response<Bytes>, ClientError> {
        let exchange = async {
            let (parts, body) = self.exchange(request).await?.into_parts();
            let body = collect(body, limits.bytes_max).await.map_err(ClientError::Body)?;
            Ok(Response::from_parts(parts, body))
        };
        // Boxed: hyper's future is large, and many of ours hold this one.
        Box::pin(tokio::time::timeout(limits.time, exchange)).await.unwrap_or(Err(ClientError::TimedOut(limits.time)))
    }

    /// One exchange; the answer's body is left to the caller, who must bound it. `time` is until its first byte.
    ///
    /// # Errors
    /// No connection, or no answer in time.
    pub async fn open(&self, request: Request<Bytes>, time: Duration) -> Result<Response<Incoming>, ClientError> {
        Box::pin(tokio::time::timeout(time, self.exchange(request))).await.unwrap_or(Err(ClientError::TimedOut(time)))
    }

    /// A `GET` that follows at most `redirects_max` redirects, each under the same address policy, all within the limits.
    /// The second value is where it ended.
    ///
    /// # Errors
    /// As [`Client::fetch`]; or redirected too often or away from `https`.
    pub async fn get_following(
        &self,
        uri: Uri,
        limits: Limits,
        redirects_max: usize,
    ) -> Result<(Response<Bytes>, Uri), ClientError> {
        let fetching = async {
            let (response, uri) = self.open_following(uri, limits.time, redirects_max).await?;
            let (parts, body) = response.into_parts();
            let body = collect(body, limits.bytes_max).await.map_err(ClientError::Body)?;
            Ok((Response::from_parts(parts, body), uri))
        };
        Box::pin(tokio::time::timeout(limits.time, fetching)).await.unwrap_or(Err(ClientError::TimedOut(limits.time)))
    }

    /// The same; the answer's body is left to the caller, who must bound it. `time` is until its first byte.
    ///
    /// # Errors
    /// As [`Client::open`]; or redirected too often or away from `https`.
    pub async fn open_following(
        &self,
        uri: Uri,
        time: Duration,
        redirects_max: usize,
    ) -> Result<(Response<Incoming>, Uri), ClientError> {
        let following = async {
            let mut uri = uri;
            for _ in 0..=redirects_max {
                let mut request = Request::new(Bytes::new());
                *request.method_mut() = Method::GET;
                *request.uri_mut() = uri.clone();
                let response = self.exchange(request).await?;
                if !is_redirect(response.status()) {
                    return Ok((response, uri));
                }
                uri = next(&uri, &response).ok_or(ClientError::Redirect)?;
            }
            Err(ClientError::Redirect)
        };
        Box::pin(tokio::time::timeout(time, following)).await.unwrap_or(Err(ClientError::TimedOut(time)))
    }

    async fn exchange(&self, mut request: Request<Bytes>) -> Result<Response<Incoming>, ClientError> {
        // The semaphore is never closed, so there is always a permit in the end.
        let _permit = self.running.acquire().await;
        request.headers_mut().entry(header::USER_AGENT).or_insert(USER_AGENT);
        self.inner.request(request.map(Full::new)).await.map_err(told)
    }
}

/// Our own connector's error is found again in hyper's.
fn told(e: legacy::Error) -> ClientError {
    let mut source = std::error::Error::source(&e);
    while let Some(cause) = source {
        if let Some(own) = cause.downcast_ref::<ConnectError>() {
            return ClientError::Connect(own.again());
        }
        source = cause.source();
    }
    ClientError::Broken(e)
}

impl ConnectError {
    /// The same error once more (`io::Error` cannot be cloned, so its kind and text are).
    fn again(&self) -> ConnectError {
        let io = |e: &std::io::Error| std::io::Error::new(e.kind(), e.to_string());
        match self {
            ConnectError::NoTarget => ConnectError::NoTarget,
            ConnectError::Lookup { host, source } => ConnectError::Lookup { host: host.clone(), source: io(source) },
            ConnectError::Denied { host } => ConnectError::Denied { host: host.clone() },
            ConnectError::Refused { host, source } => ConnectError::Refused { host: host.clone(), source: io(source) },
            ConnectError::Tls { host, source } => ConnectError::Tls { host: host.clone(), source: io(source) },
            ConnectError::Proxy { host, why } => ConnectError::Proxy { host: host.clone(), why: why.clone() },
            ConnectError::TimedOut => ConnectError::TimedOut,
            ConnectError::Resolver(text) => ConnectError::Resolver(text.clone()),
        }
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Where an answer redirects to; never from `https` to `http`.
fn next<B>(from: &Uri, response: &Response<B>) -> Option<Uri> {
    let location: Uri = response.headers().get(header::LOCATION)?.to_str().ok()?.parse().ok()?;
    let next = if location.host().is_some() {
        location
    } else {
        let path = location.path_and_query()?.as_str();
        // A path without a slash at its beginning is relative to the directory.
        let path = if path.starts_with('/') {
            path.to_owned()
        } else {
            let directory = from.path().rsplit_once('/').map_or("", |(directory, _)| directory);
            format!("{directory}/{path}")
        };
        Uri::builder()
            .scheme(from.scheme_str()?)
            .authority(from.authority()?.as_str())
            .path_and_query(path)
            .build()
            .ok()?
    };
    match (from.scheme_str(), next.scheme_str()) {
        (Some("https"), Some("https")) | (Some("http"), Some("http" | "https")) => Some(next),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redirect(from: &str, to: &str) -> Option<String> {
        let response = Response::builder().header("location", to).body(()).unwrap();
        next(&from.parse().unwrap(), &response).map(|uri| uri.to_string())
    }

    #[test]
    fn a_redirect_never_leaves_https() {
        assert_eq!(redirect("https://a/x/y", "/z?q").as_deref(), Some("https://a/z?q"));
        assert_eq!(redirect("https://a:1/x/y", "https://b/").as_deref(), Some("https://b/"));
        assert_eq!(redirect("https://a/", "http://a/"), None);
        assert_eq!(redirect("http://a/", "https://a/").as_deref(), Some("https://a/"));
        assert_eq!(redirect("https://a/", "file:///etc/passwd"), None);
    }
}
