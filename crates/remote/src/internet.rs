//! The real network: finds servers, keeps connections, bounds everything.

use std::{error::Error, num::NonZeroUsize, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response, StatusCode, Uri, header, uri::PathAndQuery};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioTimer},
};
use lru::LruCache;
use parking_lot::Mutex;
use ruma::{OwnedServerName, ServerName};
use samtal_kit::{Clock, Random};

use crate::{
    address::AddressPolicy,
    connect::{Connector, Kind},
    dns::{Dns, DnsSetupError, SystemDns},
    network::{Limits, Network, NetworkError},
    resolve::Authority,
    tls::{Trust, TrustError},
    well_known::{WELL_KNOWN_BYTES_MAX, WellKnown},
};

const USER_AGENT: &str = concat!("Samtal/", env!("CARGO_PKG_VERSION"));
/// An idle connection is kept for so long; shorter than the usual time-outs of the other side.
const IDLE: Duration = Duration::from_secs(50);
/// Idle HTTP/1.1 connections kept for each authority.
const IDLE_PER_HOST_MAX: usize = 4;
/// Redirects followed.
const REDIRECTS_MAX: usize = 5;
/// `.well-known` gets so long.
const WELL_KNOWN_TIME: Duration = Duration::from_secs(10);
/// Hosts whose `.well-known` is remembered.
const WELL_KNOWN_MAX: NonZeroUsize = NonZeroUsize::new(8192).unwrap();

/// What [`Internet`] needs to know.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Which certificates are trusted.
    pub trust: Trust,
    /// Which addresses are connected to.
    pub addresses: AddressPolicy,
}

/// Why the network cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Certificates.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// Name servers.
    #[error(transparent)]
    Dns(#[from] DnsSetupError),
}

/// The network between servers. Shared by all tenants of a process.
pub struct Internet {
    federation: Client<Connector, Full<Bytes>>,
    web: Client<Connector, Full<Bytes>>,
    clock: Clock,
    delegations: Mutex<LruCache<String, Delegation>>,
}

/// The answer of a host's `.well-known` and until when it counts. One asks, others wait.
type Delegation = Arc<tokio::sync::Mutex<Option<(Option<OwnedServerName>, u64)>>>;

impl Internet {
    /// With the system's name servers.
    pub fn new(settings: Settings, clock: Clock, random: Random) -> Result<Self, SetupError> {
        Self::with_dns(settings, clock, random, Arc::new(SystemDns::new()?))
    }

    /// With other name servers.
    pub fn with_dns(settings: Settings, clock: Clock, random: Random, dns: Arc<dyn Dns>) -> Result<Self, SetupError> {
        let tls = settings.trust.config(&[b"h2", b"http/1.1"])?;
        let addresses = Arc::new(settings.addresses);
        let client = |kind| {
            let connector = Connector { kind, dns: dns.clone(), addresses: addresses.clone(), tls: tls.clone(), random: random.clone() };
            Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .timer(TokioTimer::new())
                .pool_idle_timeout(IDLE)
                .pool_max_idle_per_host(IDLE_PER_HOST_MAX)
                .http1_max_headers(100)
                .http2_max_header_list_size(32 * 1024)
                .build(connector)
        };
        Ok(Self {
            federation: client(Kind::Federation),
            web: client(Kind::Web),
            clock,
            delegations: Mutex::new(LruCache::new(WELL_KNOWN_MAX)),
        })
    }

    /// The name to connect to, by `.well-known` where it has a say.
    async fn delegated(&self, server: &ServerName) -> OwnedServerName {
        if !Authority::of_server(server).may_delegate() {
            return server.to_owned();
        }
        let known = self.delegations.lock().get_or_insert(server.host().to_owned(), Delegation::default).clone();
        let mut known = known.lock().await;
        let now_ms = self.clock.now_ms();
        let delegated = match &*known {
            Some((delegated, until_ms)) if now_ms < *until_ms => delegated.clone(),
            _ => {
                let asked = self.ask_well_known(server).await;
                *known = Some((asked.delegated.clone(), now_ms.saturating_add(asked.lifetime_ms)));
                asked.delegated
            }
        };
        delegated.unwrap_or_else(|| server.to_owned())
    }

    async fn ask_well_known(&self, server: &ServerName) -> WellKnown {
        let url = format!("https://{}/.well-known/matrix/server", server.host());
        let limits = Limits { time: WELL_KNOWN_TIME, body_bytes_max: WELL_KNOWN_BYTES_MAX };
        match self.get(&url, limits).await {
            Ok(answer) => WellKnown::from_answer(answer.status(), answer.headers(), answer.body(), self.clock.now_ms()),
            Err(error) => {
                tracing::debug!(%server, %error, "no well-known");
                WellKnown::unreachable()
            }
        }
    }

    async fn exchange_now(
        &self,
        destination: &ServerName,
        mut request: Request<Bytes>,
        limits: Limits,
    ) -> Result<Response<Bytes>, NetworkError> {
        let authority = self.delegated(destination).await;
        let path = request.uri().path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        *request.uri_mut() = Uri::builder()
            .scheme("https")
            .authority(authority.as_str())
            .path_and_query(path)
            .build()
            .map_err(|error| NetworkError::Malformed(error.to_string()))?;
        round_trip(&self.federation, request, limits.body_bytes_max).await
    }

    async fn get_now(&self, url: &str, limits: Limits) -> Result<Response<Bytes>, NetworkError> {
        let mut uri: Uri = url.parse().map_err(|_| NetworkError::Malformed("not a URL".to_owned()))?;
        for _ in 0..=REDIRECTS_MAX {
            let request = Request::get(uri.clone()).body(Bytes::new());
            let request = request.map_err(|error| NetworkError::Malformed(error.to_string()))?;
            let response = round_trip(&self.web, request, limits.body_bytes_max).await?;
            match redirect(&uri, &response) {
                Some(next) => uri = next?,
                None => return Ok(response),
            }
        }
        Err(NetworkError::Malformed("too many redirects".to_owned()))
    }
}

impl Network for Internet {
    fn exchange<'a>(
        &'a self,
        destination: &'a ServerName,
        request: Request<Bytes>,
        limits: Limits,
    ) -> BoxFuture<'a, Result<Response<Bytes>, NetworkError>> {
        Box::pin(async move {
            let exchange = self.exchange_now(destination, request, limits);
            tokio::time::timeout(limits.time, exchange).await.unwrap_or(Err(NetworkError::Timeout))
        })
    }

    fn get<'a>(&'a self, url: &'a str, limits: Limits) -> BoxFuture<'a, Result<Response<Bytes>, NetworkError>> {
        Box::pin(async move { tokio::time::timeout(limits.time, self.get_now(url, limits)).await.unwrap_or(Err(NetworkError::Timeout)) })
    }
}

async fn round_trip(
    client: &Client<Connector, Full<Bytes>>,
    mut request: Request<Bytes>,
    body_bytes_max: usize,
) -> Result<Response<Bytes>, NetworkError> {
    request.headers_mut().insert(header::USER_AGENT, header::HeaderValue::from_static(USER_AGENT));
    let response = client.request(request.map(Full::new)).await.map_err(|error| cause(&error))?;
    let (parts, body) = response.into_parts();
    let length: Option<usize> = parts.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if length.is_some_and(|length| length > body_bytes_max) {
        return Err(NetworkError::TooLong(body_bytes_max));
    }
    match Limited::new(body, body_bytes_max).collect().await {
        Ok(body) => Ok(Response::from_parts(parts, body.to_bytes())),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(NetworkError::TooLong(body_bytes_max)),
        Err(error) => Err(NetworkError::Unreachable(error.to_string())),
    }
}

/// What the connector said, out of what the pool wrapped around it.
fn cause(error: &hyper_util::client::legacy::Error) -> NetworkError {
    let mut source: Option<&(dyn Error + 'static)> = Some(error);
    let mut last = error.to_string();
    while let Some(inner) = source {
        if let Some(known) = inner.downcast_ref::<NetworkError>() {
            return known.clone();
        }
        last = inner.to_string();
        source = inner.source();
    }
    NetworkError::Unreachable(last)
}

/// Where to go on, if the answer sends us elsewhere.
fn redirect(from: &Uri, response: &Response<Bytes>) -> Option<Result<Uri, NetworkError>> {
    if !matches!(
        response.status(),
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    ) {
        return None;
    }
    let location = response.headers().get(header::LOCATION)?.to_str().ok()?;
    let refused = || NetworkError::Malformed("redirected to no https URL".to_owned());
    let to: Result<Uri, _> = location.parse();
    let next = match to {
        Ok(to) if to.scheme_str() == Some("https") && to.host().is_some() => Ok(to),
        Ok(to) if to.scheme().is_none() && to.host().is_none() && location.starts_with('/') && !location.starts_with("//") => {
            let mut parts = from.clone().into_parts();
            parts.path_and_query = to.path_and_query().cloned();
            Uri::from_parts(parts).map_err(|_| refused())
        }
        _ => Err(refused()),
    };
    Some(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redirected(location: &str) -> Option<Result<String, NetworkError>> {
        let from = Uri::from_static("https://a.example/.well-known/matrix/server");
        let response = Response::builder().status(302).header(header::LOCATION, location).body(Bytes::new()).unwrap();
        redirect(&from, &response).map(|next| next.map(|uri| uri.to_string()))
    }

    #[test]
    fn note_29_redirects_are_followed_but_never_out_of_tls() {
        assert_eq!(redirected("https://b.example/x").unwrap().unwrap(), "https://b.example/x");
        assert_eq!(redirected("/x?y").unwrap().unwrap(), "https://a.example/x?y");
        for refused in ["http://b.example/", "file:///etc/passwd", "//b.example/x", "x", "ftp://b.example", "https:"] {
            assert!(redirected(refused).unwrap().is_err(), "{refused}");
        }
        let plain = Response::builder().status(200).header(header::LOCATION, "/x").body(Bytes::new()).unwrap();
        assert!(redirect(&Uri::from_static("https://a.example/"), &plain).is_none());
    }
}
