//! The real network: finds servers, keeps connections, bounds everything.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response, Uri, uri::PathAndQuery};
use hyper::body::Incoming;
use lru::LruCache;
use parking_lot::Mutex;
use ruma::{OwnedServerName, ServerName};
use samtal_http::{BodyError, Client, ClientError, ClientOptions, FetchLimits, TlsError, connect::ConnectError};
use samtal_kit::{Clock, Random};
use tokio::time::Instant;

use crate::{
    body::Body,
    dns::{Dns, DnsSetupError, SystemDns},
    network::{Limits, Network, NetworkError},
    resolve::{Kind, Resolver, may_delegate},
    well_known::{WELL_KNOWN_BYTES_MAX, WellKnown},
};

/// Redirects followed.
const REDIRECTS_MAX: usize = 5;
/// `.well-known` gets half of what the request has, but not less
const WELL_KNOWN_TIME_MIN: Duration = Duration::from_secs(5);
/// nor more. Were it all, then of a host that has nobody at port 443 and lets connections wait nobody would ever learn that.
const WELL_KNOWN_TIME_MAX: Duration = Duration::from_secs(10);
/// Hosts whose `.well-known` is remembered: at most 261 bytes each, with as many for where it points.
const WELL_KNOWN_MAX: NonZeroUsize = NonZeroUsize::new(8192).unwrap();

/// Why the network cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Name servers.
    #[error(transparent)]
    Dns(#[from] DnsSetupError),
}

/// The network between servers. Shared by all tenants of a process.
pub struct Internet {
    federation: Client,
    web: Client,
    clock: Clock,
    delegations: Mutex<LruCache<String, Delegation>>,
}

/// The answer of a host's `.well-known` and until when it counts. One asks, others wait.
type Delegation = Arc<tokio::sync::Mutex<Option<(Option<OwnedServerName>, u64)>>>;

impl Internet {
    /// With the system's name servers.
    pub fn new(options: &ClientOptions, clock: Clock, random: Random) -> Result<Self, SetupError> {
        Self::with_dns(options, clock, random, Arc::new(SystemDns::new()?))
    }

    /// With other name servers.
    pub(crate) fn with_dns(
        options: &ClientOptions,
        clock: Clock,
        random: Random,
        dns: Arc<dyn Dns>,
    ) -> Result<Self, SetupError> {
        let client = |kind| {
            Client::with_resolver(options, Arc::new(Resolver { dns: dns.clone(), random: random.clone(), kind }))
        };
        Ok(Self {
            federation: client(Kind::Federation)?,
            web: client(Kind::Web)?,
            clock,
            delegations: Mutex::new(LruCache::new(WELL_KNOWN_MAX)),
        })
    }

    /// The name to connect to, by `.well-known` where it has a say.
    async fn delegated(&self, server: &ServerName, limits: Limits) -> OwnedServerName {
        if !may_delegate(server) {
            return server.to_owned();
        }
        let known = self.delegations.lock().get_or_insert(server.host().to_owned(), Delegation::default).clone();
        let mut known = known.lock().await;
        let now_ms = self.clock.now_ms();
        let delegated = match &*known {
            Some((delegated, until_ms)) if now_ms < *until_ms => delegated.clone(),
            _ => {
                let asked = self.ask_well_known(server, limits).await;
                *known = Some((asked.delegated.clone(), now_ms.saturating_add(asked.lifetime_ms)));
                asked.delegated
            }
        };
        delegated.unwrap_or_else(|| server.to_owned())
    }

    async fn ask_well_known(&self, server: &ServerName, of_request: Limits) -> WellKnown {
        let url = format!("https://{}/.well-known/matrix/server", server.host());
        let limits = Limits { time: well_known_time(of_request), body_bytes_max: WELL_KNOWN_BYTES_MAX };
        match self.get(&url, limits).await {
            Ok(answer) => WellKnown::from_answer(answer.status(), answer.headers(), answer.body(), self.clock.now_ms()),
            Err(error) => {
                tracing::debug!(%server, %error, "no well-known");
                WellKnown::unreachable()
            }
        }
    }

    /// The request with the address that its destination has.
    async fn addressed(
        &self,
        destination: &ServerName,
        mut request: Request<Bytes>,
        limits: Limits,
    ) -> Result<Request<Bytes>, NetworkError> {
        let authority = self.delegated(destination, limits).await;
        let path = request.uri().path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        *request.uri_mut() = Uri::builder()
            .scheme("https")
            .authority(authority.as_str())
            .path_and_query(path)
            .build()
            .map_err(|error| NetworkError::Malformed(error.to_string()))?;
        Ok(request)
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
            let exchange = async {
                let request = self.addressed(destination, request, limits).await?;
                self.federation.fetch(request, fetch_limits(limits)).await.map_err(|error| told(error, limits))
            };
            tokio::time::timeout(limits.time, exchange).await.unwrap_or(Err(NetworkError::Timeout))
        })
    }

    fn get<'a>(&'a self, url: &'a str, limits: Limits) -> BoxFuture<'a, Result<Response<Bytes>, NetworkError>> {
        Box::pin(async move {
            let answer = self.web.get_following(secure(url)?, fetch_limits(limits), REDIRECTS_MAX).await;
            answer.map(|(response, _)| response).map_err(|error| told(error, limits))
        })
    }

    fn open<'a>(
        &'a self,
        destination: &'a ServerName,
        request: Request<Bytes>,
        limits: Limits,
    ) -> BoxFuture<'a, Result<Response<Body>, NetworkError>> {
        Box::pin(async move {
            let started = Instant::now();
            let exchange = async {
                let request = self.addressed(destination, request, limits).await?;
                self.federation.open(request, limits.time).await.map_err(|error| told(error, limits))
            };
            let answer = tokio::time::timeout(limits.time, exchange).await.unwrap_or(Err(NetworkError::Timeout))?;
            bounded(answer, limits, started)
        })
    }

    fn open_url<'a>(&'a self, url: &'a str, limits: Limits) -> BoxFuture<'a, Result<Response<Body>, NetworkError>> {
        Box::pin(async move {
            let started = Instant::now();
            let answer = self.web.open_following(secure(url)?, limits.time, REDIRECTS_MAX).await;
            let (answer, _) = answer.map_err(|error| told(error, limits))?;
            bounded(answer, limits, started)
        })
    }
}

/// For how long `.well-known` is waited for on behalf of a request.
fn well_known_time(of_request: Limits) -> Duration {
    (of_request.time / 2).clamp(WELL_KNOWN_TIME_MIN, WELL_KNOWN_TIME_MAX)
}

/// An address on the web that nobody on the way can change the answer of.
fn secure(url: &str) -> Result<Uri, NetworkError> {
    let uri: Uri = url.parse().map_err(|_| NetworkError::Malformed("not a URL".to_owned()))?;
    match uri.scheme_str() {
        Some("https") => Ok(uri),
        _ => Err(NetworkError::Malformed("not an https URL".to_owned())),
    }
}

/// The answer, its body within the limits.
fn bounded(answer: Response<Incoming>, limits: Limits, started: Instant) -> Result<Response<Body>, NetworkError> {
    let (parts, body) = answer.into_parts();
    Ok(Response::from_parts(parts, Body::from_http(body).within(limits, started)?))
}

fn fetch_limits(limits: Limits) -> FetchLimits {
    FetchLimits { time: limits.time, bytes_max: u64::try_from(limits.body_bytes_max).unwrap_or(u64::MAX) }
}

/// The client's error in the words of federation.
fn told(error: ClientError, limits: Limits) -> NetworkError {
    let with_source = |error: &dyn std::error::Error| match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    match error {
        ClientError::TimedOut(_) | ClientError::Connect(ConnectError::TimedOut) => NetworkError::Timeout,
        ClientError::Connect(ConnectError::Denied { host }) => NetworkError::DeniedNetwork(host),
        ClientError::Connect(ConnectError::Lookup { host, .. }) => NetworkError::Unresolved(host),
        ClientError::Connect(error @ ConnectError::Tls { .. }) => NetworkError::Tls(with_source(&error)),
        ClientError::Connect(error) => NetworkError::Unreachable(with_source(&error)),
        ClientError::Body(BodyError::TooLarge { .. }) => NetworkError::TooLong(limits.body_bytes_max),
        ClientError::Redirect => NetworkError::Malformed(error.to_string()),
        error @ (ClientError::Broken(_) | ClientError::Body(BodyError::TimedOut | BodyError::Broken(_))) => {
            NetworkError::Unreachable(with_source(&error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn note_29_a_host_whose_well_known_never_answers_is_known_for_that_before_the_request_gives_up() {
        // Keys are asked for within ten seconds, state within two minutes.
        for (seconds, of_it) in [(10, 5), (15, 7), (30, 10), (120, 10)] {
            let limits = Limits::default().time(Duration::from_secs(seconds));
            assert_eq!(well_known_time(limits).as_secs(), of_it);
            assert!(well_known_time(limits) < limits.time, "or it would be asked for ever");
        }
    }
}
