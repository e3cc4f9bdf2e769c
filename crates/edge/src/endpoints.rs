//! The table of an edge's endpoints, before it becomes a router.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    Router,
    body::Body,
    handler::Handler,
    response::Response,
    routing::{MethodFilter, MethodRouter},
};
use http::{Method, Request, StatusCode};
use tower::Service;

use crate::ErrorAnswer;

/// Endpoints under way to a router: methods, paths and what serves them.
#[derive(Default)]
pub struct Endpoints(Vec<Endpoint>);

struct Endpoint {
    method: Method,
    path: &'static str,
    serve: Serve,
    listed: bool,
}

/// What serves an endpoint, whoever it is. There are hundreds of handlers, and each would have axum's code for it compiled once
/// more, all of which is run when the server starts, and then stays in memory.
#[derive(Clone)]
struct Serve(Arc<dyn Fn(Request<Body>) -> Serving + Send + Sync>);

type Serving = Pin<Box<dyn Future<Output = Response> + Send>>;

impl Service<Request<Body>> for Serve {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let serving = (self.0)(request);
        Box::pin(async { Ok(serving.await) })
    }
}

impl fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|endpoint| (&endpoint.method, endpoint.path))).finish()
    }
}

impl Endpoints {
    /// Adds one. Of two with the same method and path the first is kept: ruma names some paths twice.
    pub fn push<H, M>(&mut self, method: Method, path: &'static str, handler: H)
    where
        H: Handler<M, ()>,
        M: 'static,
    {
        self.add(method, path, Serve(Arc::new(move |request| Box::pin(handler.clone().call(request, ())))));
    }

    fn add(&mut self, method: Method, path: &'static str, serve: Serve) {
        if !self.0.iter().any(|endpoint| endpoint.method == method && endpoint.path == path) {
            self.0.push(Endpoint { method, path, serve, listed: true });
        }
    }

    /// All of both.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Leaves these endpoints out of [`Self::list`]: what they answer is that there is no such endpoint.
    pub fn unlist(&mut self) {
        self.0.iter_mut().for_each(|endpoint| endpoint.listed = false);
    }

    /// Method and path of each endpoint.
    pub fn list(&self) -> Vec<(Method, &'static str)> {
        self.0.iter().filter(|endpoint| endpoint.listed).map(|known| (known.method.clone(), known.path)).collect()
    }

    /// The router. Paths that differ in their parameters' names only are one path, whose first name is kept. What is not
    /// here is left to the router that this one is merged into: see [`with_errors`].
    pub fn into_router(self) -> Router {
        let mut paths: BTreeMap<String, (&'static str, MethodRouter)> = BTreeMap::new();
        for endpoint in self.0 {
            let known =
                paths.entry(without_names(endpoint.path)).or_insert_with(|| (endpoint.path, MethodRouter::new()));
            let filter = MethodFilter::try_from(endpoint.method).unwrap_or(MethodFilter::TRACE);
            known.1 = std::mem::take(&mut known.1).on_service(filter, endpoint.serve);
        }
        paths.into_values().fold(Router::new(), |router, (path, methods)| router.route(path, methods))
    }
}

/// Answers what the router does not know: another path with 404, a known path with another method with 405, both
/// `M_UNRECOGNIZED`.
pub fn with_errors(router: Router) -> Router {
    router.fallback(unknown_path).method_not_allowed_fallback(unknown_method)
}

/// `/rooms/{room_id}/send` as `/rooms/{}/send`.
pub fn without_names(path: &str) -> String {
    let segments: Vec<&str> =
        path.split('/').map(|segment| if segment.starts_with('{') { "{}" } else { segment }).collect();
    segments.join("/")
}

async fn unknown_path() -> ErrorAnswer {
    ErrorAnswer::new(StatusCode::NOT_FOUND, "M_UNRECOGNIZED", "There is no such endpoint")
}

async fn unknown_method() -> ErrorAnswer {
    ErrorAnswer::new(StatusCode::METHOD_NOT_ALLOWED, "M_UNRECOGNIZED", "The endpoint does not know this method")
}
