//! One request, from the wire through the router and back: id, log, limits, CORS, panics.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::MatchedPath;
use futures_util::FutureExt as _;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use parking_lot::RwLock;
use samtal_telemetry::metrics::SECONDS;
use samtal_telemetry::{Counter, Gauge, Histogram, Metrics};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tower::ServiceExt as _;
use tracing::Instrument as _;

use crate::body::Timely;
use crate::cors;

/// Who is at the other end; in every request's extensions.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The connection's other end: the client, or a proxy in front of us.
    pub socket: SocketAddr,
    /// The client, as far as it is known (from `X-Forwarded-For` where the listener is behind a proxy).
    pub client: IpAddr,
    /// Whether the connection is TLS.
    pub tls: bool,
    /// The name the client asked for in TLS.
    pub server_name: Option<Arc<str>>,
}

/// The request's id, in its extensions, the log and the `X-Request-Id` header of the answer.
#[derive(Debug, Clone)]
pub struct RequestId(pub Arc<str>);

/// The body of a Matrix error.
pub fn error_body(errcode: &str, error: &str) -> String {
    let mut body = String::from("{\"errcode\":\"");
    escape(&mut body, errcode);
    body.push_str("\",\"error\":\"");
    escape(&mut body, error);
    body.push_str("\"}");
    body
}

fn escape(into: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '"' => into.push_str("\\\""),
            '\\' => into.push_str("\\\\"),
            c if c.is_control() => into.push(' '),
            c => into.push(c),
        }
    }
}

/// A Matrix error as an answer.
pub fn error_response(status: StatusCode, errcode: &str, error: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(error_body(errcode, error)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// What all requests of a server share.
pub(crate) struct Shared {
    pub(crate) requests: Semaphore,
    pub(crate) metrics: Metrics,
    pub(crate) in_flight: Gauge,
    pub(crate) body_read: Duration,
    /// By route, of which there is a fixed number.
    pub(crate) counted: RwLock<HashMap<Box<str>, Arc<Counted>>>,
    /// Request ids are this, which differs from run to run, and a count.
    pub(crate) id_prefix: String,
    pub(crate) id_count: AtomicU64,
}

/// What all requests of a connection share.
pub(crate) struct Connection {
    pub(crate) shared: Arc<Shared>,
    pub(crate) router: Router,
    pub(crate) peer: Peer,
    pub(crate) behind_proxy: bool,
}

impl Connection {
    /// Answers one request. Never fails: what goes wrong is an answer too.
    pub(crate) async fn handle(&self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let begun = Instant::now();
        let _held = self.shared.in_flight.hold();
        let count = self.shared.id_count.fetch_add(1, Ordering::Relaxed);
        let id: Arc<str> = format!("{}-{count}", self.shared.id_prefix).into();
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let span = tracing::info_span!("request", request = %id, method = %method, route = tracing::field::Empty);
        let mut response = self.answer(request, &id).instrument(span.clone()).await;

        let route = response.extensions_mut().remove::<MatchedPath>();
        let route = route.as_ref().map_or("none", MatchedPath::as_str);
        let took = begun.elapsed();
        let status = response.status();
        self.count(&method, route, status, took);
        span.in_scope(|| {
            span.record("route", route);
            tracing::debug!(status = status.as_u16(), ms = took.as_millis() as u64, %path, ip = %self.peer.client, "answered");
        });
        if let Ok(id) = HeaderValue::from_str(&id) {
            response.headers_mut().insert("x-request-id", id);
        }
        Ok(response)
    }

    async fn answer(&self, request: Request<Incoming>, id: &Arc<str>) -> Response<Body> {
        if request.method() == Method::OPTIONS {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            cors::allow_preflight(response.headers_mut());
            return response;
        }
        let mut response = match self.shared.requests.try_acquire() {
            Ok(_permit) => self.route(request, id).await,
            Err(_) => {
                let mut busy =
                    error_response(StatusCode::SERVICE_UNAVAILABLE, "M_LIMIT_EXCEEDED", "the server is busy");
                busy.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
                busy
            }
        };
        cors::allow(response.headers_mut());
        response
    }

    async fn route(&self, request: Request<Incoming>, id: &Arc<str>) -> Response<Body> {
        let mut peer = self.peer.clone();
        if self.behind_proxy
            && let Some(client) = forwarded_for(&request)
        {
            peer.client = client;
        }
        let body_read = self.shared.body_read;
        let mut request = request.map(|body| Body::new(Timely::new(body, body_read)));
        request.extensions_mut().insert(peer);
        request.extensions_mut().insert(RequestId(id.clone()));
        match AssertUnwindSafe(self.router.clone().oneshot(request)).catch_unwind().await {
            Ok(Ok(response)) => response,
            Ok(Err(never)) => match never {},
            Err(_) => {
                tracing::error!("a handler panicked: this is a bug");
                error_response(StatusCode::INTERNAL_SERVER_ERROR, "M_UNKNOWN", &format!("internal error, request {id}"))
            }
        }
    }

    fn count(&self, method: &Method, route: &str, status: StatusCode, took: Duration) {
        // Methods are foreign input: only the usual ones are labels.
        let method = METHODS.iter().position(|known| *known == method.as_str()).unwrap_or(METHODS.len());
        let class = CLASSES.get(usize::from(status.as_u16() / 100)).copied().unwrap_or("1xx");
        let route = self.shared.counted(route);
        let Some(counted) = route.by_method.get(method) else { return };
        let method = METHODS.get(method).copied().unwrap_or("other");
        let metrics = &self.shared.metrics;
        let make = || {
            let labels = [("method", method), ("route", &*route.route)];
            metrics.histogram("samtal_http_request_seconds", "Time until the answer began.", &labels, SECONDS)
        };
        counted.seconds.get_or_init(make).observe(took);
        let Some(answered) = CLASSES.iter().position(|known| *known == class).and_then(|at| counted.answered.get(at))
        else {
            return;
        };
        let make = || {
            let labels = [("method", method), ("route", &*route.route), ("status", class)];
            metrics.counter("samtal_http_requests_total", "Requests answered.", &labels)
        };
        answered.get_or_init(make).increment();
    }
}

/// The methods that are told apart.
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"];
/// Statuses by their first digit.
const CLASSES: [&str; 6] = ["1xx", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// What is counted of a route, looked up once.
pub(crate) struct Counted {
    route: Box<str>,
    by_method: [CountedMethod; METHODS.len() + 1],
}

#[derive(Default)]
struct CountedMethod {
    seconds: OnceLock<Histogram>,
    answered: [OnceLock<Counter>; CLASSES.len()],
}

impl Shared {
    fn counted(&self, route: &str) -> Arc<Counted> {
        if let Some(counted) = self.counted.read().get(route) {
            return Arc::clone(counted);
        }
        let mut all = self.counted.write();
        let new = || Arc::new(Counted { route: route.into(), by_method: Default::default() });
        Arc::clone(all.entry(route.into()).or_insert_with(new))
    }
}

/// The last address of the last `X-Forwarded-For`: the one that our own proxy has set.
fn forwarded_for<B>(request: &Request<B>) -> Option<IpAddr> {
    let last = request.headers().get_all("x-forwarded-for").iter().next_back()?.to_str().ok()?;
    last.rsplit(',').next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_our_own_proxy_says_counts() {
        let request = Request::builder().header("x-forwarded-for", "6.6.6.6, 1.2.3.4").body(()).unwrap();
        assert_eq!(forwarded_for(&request), Some("1.2.3.4".parse().unwrap()));
        let request = Request::builder().header("x-forwarded-for", "rubbish").body(()).unwrap();
        assert_eq!(forwarded_for(&request), None);
    }

    #[test]
    fn an_error_is_json_whatever_stands_in_it() {
        assert_eq!(error_body("M_X", "a \"b\"\n\\"), r#"{"errcode":"M_X","error":"a \"b\" \\"}"#);
    }
}
