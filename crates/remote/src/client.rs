//! Typed requests to other servers.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use http::{Request, Response, StatusCode, header};
use ruma::{
    OwnedServerName, ServerName,
    api::{IncomingResponseExt, OutgoingBody, OutgoingRequest, path_builder::SinglePath},
};
use samtal_db::DbError;
use samtal_keyring::{KeySource, Keyring};
use samtal_kit::Clock;
use samtal_policy::{Action, Denial, Direction, Policy, Question};
use serde_json::Value;

use crate::{
    body::Body,
    destination::Destinations,
    network::{Limits, Network, NetworkError},
};

/// Longest error answer that is read where the answer is not read whole.
const ERROR_BYTES_MAX: usize = 64 * 1024;

/// Why a request to another server has no good answer.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// Our policy refuses the server.
    #[error("refused by policy: {0}")]
    Refused(Denial),
    /// It has not answered for a while, and is not tried before then.
    #[error("{server} has not answered for a while")]
    BackingOff {
        /// The server.
        server: OwnedServerName,
        /// When it is tried again, in ms since the epoch.
        until_ms: u64,
    },
    /// It cannot be reached.
    #[error("{server} cannot be reached")]
    Unreachable {
        /// The server.
        server: OwnedServerName,
        /// Why.
        #[source]
        source: NetworkError,
    },
    /// It took too long.
    #[error("{0} did not answer in time")]
    Timeout(OwnedServerName),
    /// It answered with an error.
    #[error("{server} answered {status} {errcode}: {message}")]
    Status {
        /// The server.
        server: OwnedServerName,
        /// The HTTP status.
        status: StatusCode,
        /// The Matrix error code, `M_UNKNOWN` if none came.
        errcode: String,
        /// Its words.
        message: String,
        /// The whole body, for codes that carry more.
        body: Bytes,
    },
    /// It answered something we cannot read.
    #[error("the answer of {server} cannot be read: {reason}")]
    Malformed {
        /// The server.
        server: OwnedServerName,
        /// What is wrong.
        reason: String,
    },
    /// The request cannot be made.
    #[error("the request cannot be made: {0}")]
    Request(String),
    /// The database failed.
    #[error("storage failed")]
    Storage(#[from] DbError),
}

impl RemoteError {
    /// The Matrix error code the other server answered with.
    pub fn errcode(&self) -> Option<&str> {
        match self {
            Self::Status { errcode, .. } => Some(errcode),
            _ => None,
        }
    }

    /// The HTTP status the other server answered with.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }
}

/// Who waits for the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Urgency {
    /// Nobody: a server that does not answer is left alone.
    Background,
    /// A person: only long silences count.
    #[default]
    Person,
    /// It is tried whatever happened before.
    Always,
}

/// How a request is sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// What it may cost.
    pub limits: Limits,
    /// Who waits.
    pub urgency: Urgency,
}

impl Options {
    /// For a follower or a job.
    pub fn background() -> Self {
        Self { urgency: Urgency::Background, ..Self::default() }
    }

    /// With another time.
    #[must_use]
    pub fn time(mut self, time: Duration) -> Self {
        self.limits.time = time;
        self
    }

    /// With another size of the answer.
    #[must_use]
    pub fn body_bytes_max(mut self, bytes: usize) -> Self {
        self.limits.body_bytes_max = bytes;
        self
    }
}

/// Speaks to other servers for one tenant. Cheap to clone.
#[derive(Clone)]
pub struct Remote {
    inner: Arc<Inner>,
}

struct Inner {
    keyring: Keyring,
    policy: Policy,
    network: Arc<dyn Network>,
    destinations: Destinations,
    clock: Clock,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Remote({})", self.inner.keyring.server())
    }
}

impl Remote {
    /// With everything it needs.
    pub fn new(
        keyring: Keyring,
        policy: Policy,
        network: Arc<dyn Network>,
        destinations: Destinations,
        clock: Clock,
    ) -> Self {
        Self { inner: Arc::new(Inner { keyring, policy, network, destinations, clock }) }
    }

    /// Our name.
    pub fn origin(&self) -> &ServerName {
        self.inner.keyring.server()
    }

    /// The servers that do not answer.
    pub fn destinations(&self) -> &Destinations {
        &self.inner.destinations
    }

    /// The network beneath.
    pub fn network(&self) -> &dyn Network {
        &*self.inner.network
    }

    /// What time it is.
    pub fn clock(&self) -> &Clock {
        &self.inner.clock
    }

    /// Sends a signed request a person waits for and reads the answer.
    pub async fn send<R>(&self, destination: &ServerName, request: R) -> Result<R::IncomingResponse, RemoteError>
    where
        R: OutgoingRequest<PathBuilder = SinglePath>,
    {
        self.send_with(destination, request, Options::default()).await
    }

    /// Sends a signed request and reads the answer.
    pub async fn send_with<R>(
        &self,
        destination: &ServerName,
        request: R,
        options: Options,
    ) -> Result<R::IncomingResponse, RemoteError>
    where
        R: OutgoingRequest<PathBuilder = SinglePath>,
    {
        let response = self.send_raw(destination, into_http(request)?, options).await?;
        let (parts, body) = response.into_parts();
        R::IncomingResponse::try_from_http_response(Response::from_parts(parts, &body[..]))
            .map_err(|error| RemoteError::Malformed { server: destination.to_owned(), reason: error.to_string() })
    }

    /// Sends a request, whose URI is path and query, signed, and returns a good answer as it came.
    pub async fn send_raw(
        &self,
        destination: &ServerName,
        request: Request<Bytes>,
        options: Options,
    ) -> Result<Response<Bytes>, RemoteError> {
        let request = self.prepare(destination, request, options.urgency)?;
        let answer = self.inner.network.exchange(destination, request, options.limits).await;
        good(destination, self.noted(destination, answer).await?)
    }

    /// The same; the body of a good answer is read by the caller, within the same limits.
    pub async fn open_raw(
        &self,
        destination: &ServerName,
        request: Request<Bytes>,
        options: Options,
    ) -> Result<Response<Body>, RemoteError> {
        let request = self.prepare(destination, request, options.urgency)?;
        let answer = self.inner.network.open(destination, request, options.limits).await;
        let answer = self.noted(destination, answer).await?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let (parts, body) = answer.into_parts();
        // Whatever is wrong with its words, it is an error.
        let body = body.collect(ERROR_BYTES_MAX).await.unwrap_or_default();
        good(destination, Response::from_parts(parts, body)).map(|answer| answer.map(Body::from))
    }

    /// The request signed, if it may be sent now.
    fn prepare(
        &self,
        destination: &ServerName,
        mut request: Request<Bytes>,
        urgency: Urgency,
    ) -> Result<Request<Bytes>, RemoteError> {
        for action in std::iter::once(Action::Request).chain(Action::of_path(request.uri().path())) {
            let question = Question::new(destination, Direction::Outbound, action);
            self.inner.policy.review(&question).permit().map_err(RemoteError::Refused)?;
        }
        let destinations = &self.inner.destinations;
        let wait = match urgency {
            Urgency::Background => destinations.wait_until(destination),
            Urgency::Person => destinations.wait_until_for_a_person(destination),
            Urgency::Always => None,
        };
        if let Some(until_ms) = wait {
            return Err(RemoteError::BackingOff { server: destination.to_owned(), until_ms });
        }
        self.sign(destination, &mut request)?;
        Ok(request)
    }

    /// The answer, after it is noted whether the server is there.
    async fn noted<B>(
        &self,
        destination: &ServerName,
        answer: Result<Response<B>, NetworkError>,
    ) -> Result<Response<B>, RemoteError> {
        let destinations = &self.inner.destinations;
        match answer {
            Ok(response) => {
                if is_gateway_error(response.status()) {
                    destinations.is_gone(destination).await?;
                } else {
                    destinations.is_there(destination).await?;
                }
                Ok(response)
            }
            Err(error) => {
                // A long answer is an answer; a denied network is our own doing.
                if !matches!(error, NetworkError::TooLong(_) | NetworkError::DeniedNetwork(_)) {
                    destinations.is_gone(destination).await?;
                }
                Err(failed(destination, error))
            }
        }
    }

    fn sign(&self, destination: &ServerName, request: &mut Request<Bytes>) -> Result<(), RemoteError> {
        let failed = |error: &dyn std::fmt::Display| RemoteError::Request(error.to_string());
        let uri = request.uri().path_and_query().map(|path| path.as_str()).unwrap_or("/");
        let content = std::str::from_utf8(request.body()).map_err(|error| failed(&error))?;
        let header = self
            .inner
            .keyring
            .sign_request(destination, request.method().as_str(), uri, content)
            .map_err(|error| failed(&error))?;
        let value = header::HeaderValue::try_from(header.to_string()).map_err(|error| failed(&error))?;
        request.headers_mut().insert(header::AUTHORIZATION, value);
        Ok(())
    }
}

/// Keys are asked for without a signature, as whoever verifies it would have to ask for ours, and with little patience.
impl KeySource for Remote {
    fn direct<'a>(&'a self, server: &'a ServerName) -> BoxFuture<'a, Option<String>> {
        Box::pin(async move {
            let request = Request::get("/_matrix/key/v2/server").body(Bytes::new()).ok()?;
            self.keys(server, request).await
        })
    }

    fn notary<'a>(&'a self, notary: &'a ServerName, server: &'a ServerName) -> BoxFuture<'a, Vec<String>> {
        Box::pin(async move {
            let body = serde_json::json!({ "server_keys": { server.as_str(): {} } }).to_string();
            let request = Request::post("/_matrix/key/v2/query")
                .header(header::CONTENT_TYPE, "application/json")
                .body(body.into());
            let Some(answer) = (match request {
                Ok(request) => self.keys(notary, request).await,
                Err(_) => None,
            }) else {
                return Vec::new();
            };
            let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
            answer
                .get("server_keys")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .take(100)
                .map(Value::to_string)
                .collect()
        })
    }
}

impl Remote {
    async fn keys(&self, server: &ServerName, request: Request<Bytes>) -> Option<String> {
        self.inner.policy.review(&Question::new(server, Direction::Outbound, Action::Request)).permit().ok()?;
        if self.inner.destinations.wait_until_for_a_person(server).is_some() {
            return None;
        }
        let limits =
            Limits { time: Duration::from_secs(10), body_bytes_max: samtal_keyring::document::DOCUMENT_BYTES_MAX };
        match self.inner.network.exchange(server, request, limits).await {
            Ok(response) if response.status() == StatusCode::OK => {
                String::from_utf8(response.into_body().to_vec()).ok()
            }
            Ok(response) => {
                tracing::info!(%server, status = %response.status(), "no keys");
                None
            }
            Err(error) => {
                tracing::info!(%server, %error, "no keys");
                None
            }
        }
    }
}

/// The request as HTTP; its URI is path and query.
pub fn into_http<R>(request: R) -> Result<Request<Bytes>, RemoteError>
where
    R: OutgoingRequest<PathBuilder = SinglePath>,
{
    let failed = |error: ruma::api::error::IntoHttpError| RemoteError::Request(error.to_string());
    let (mut parts, body) = request.try_into_http_request_inner("", ()).map_err(failed)?.into_parts();
    if let Some(content_type) = body.content_type() {
        parts.headers.entry(header::CONTENT_TYPE).or_insert(content_type);
    }
    let body: BytesMut = body.try_into_buf().map_err(|error| failed(error.into()))?;
    Ok(Request::from_parts(parts, body.freeze()))
}

fn failed(server: &ServerName, error: NetworkError) -> RemoteError {
    match error {
        NetworkError::Timeout => RemoteError::Timeout(server.to_owned()),
        NetworkError::TooLong(_) | NetworkError::Malformed(_) => {
            RemoteError::Malformed { server: server.to_owned(), reason: error.to_string() }
        }
        source => RemoteError::Unreachable { server: server.to_owned(), source },
    }
}

/// The server itself did not answer, whatever stands before it did.
fn is_gateway_error(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

fn good(server: &ServerName, response: Response<Bytes>) -> Result<Response<Bytes>, RemoteError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = response.into_body();
    let json: Value = serde_json::from_slice(&body).unwrap_or_default();
    let text = |name: &str, default: &str| {
        json.get(name).and_then(Value::as_str).unwrap_or(default).chars().take(500).collect()
    };
    Err(RemoteError::Status {
        server: server.to_owned(),
        status,
        errcode: text("errcode", "M_UNKNOWN"),
        message: text("error", ""),
        body,
    })
}

#[cfg(test)]
mod tests;
