//! Registering endpoints.

use std::{collections::BTreeMap, fmt, future::Future};

use axum::{
    Router,
    body::Body,
    handler::Handler,
    response::{IntoResponse, Response},
    routing::{MethodFilter, MethodRouter, on},
};
use http::{Method, Request, StatusCode};
use ruma::api::{IncomingRequest, Metadata, path_builder::PathBuilder};

use crate::{
    Answer, ApiError, access,
    args::{Args, Endpoint, RawArgs},
    principal::Scheme,
    reply::Reply,
};

/// Endpoints under way to a router. Each area of the API makes one; they are merged.
#[derive(Default)]
pub struct Routes(Vec<Route>);

struct Route {
    method: Method,
    path: &'static str,
    handler: MethodRouter,
    listed: bool,
}

impl fmt::Debug for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|route| (&route.method, route.path))).finish()
    }
}

impl Routes {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a handler of one of ruma's endpoints on all paths that it ever had.
    #[must_use]
    pub fn route<T, F, Fut, R>(self, handler: F) -> Self
    where
        T: IncomingRequest + Send + 'static,
        T::Authentication: Scheme,
        F: Fn(Args<T>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Answer<R>> + Send,
        R: Reply,
    {
        let paths: Vec<&'static str> = T::PATH_BUILDER.all_paths().collect();
        self.route_at(&paths, handler)
    }

    /// As [`Routes::route`], on these paths only.
    #[must_use]
    pub fn route_at<T, F, Fut, R>(mut self, paths: &[&'static str], handler: F) -> Self
    where
        T: IncomingRequest + Send + 'static,
        T::Authentication: Scheme,
        F: Fn(Args<T>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Answer<R>> + Send,
        R: Reply,
    {
        for path in paths {
            let endpoint =
                Endpoint { access: access::of(&T::METHOD, path), rate_limited: <T as Metadata>::RATE_LIMITED };
            let handler = handler.clone();
            let serve = move |request: Request<Body>| async move {
                // Boxed: a request's state is large, and most of it is not needed while it waits.
                match Box::pin(Args::<T>::from_request(request, endpoint)).await {
                    Ok(args) => finish(handler(args).await),
                    Err(error) => error.into_response(),
                }
            };
            self.push(T::METHOD, path, serve);
        }
        self
    }

    /// Registers a handler that reads the request itself. `A` is the kind of authentication: one of ruma's.
    #[must_use]
    pub fn raw<A, F, Fut, R>(mut self, method: Method, paths: &[&'static str], handler: F) -> Self
    where
        A: Scheme + 'static,
        F: Fn(RawArgs<A>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Answer<R>> + Send,
        R: Reply,
    {
        for path in paths {
            let endpoint = Endpoint { access: access::of(&method, path), rate_limited: false };
            let handler = handler.clone();
            let serve = move |request: Request<Body>| async move {
                match Box::pin(RawArgs::<A>::from_request(request, endpoint)).await {
                    Ok(args) => finish(handler(args).await),
                    Err(error) => error.into_response(),
                }
            };
            self.push(method.clone(), path, serve);
        }
        self
    }

    fn push<H, M>(&mut self, method: Method, path: &'static str, handler: H)
    where
        H: Handler<M, ()>,
        M: 'static,
    {
        if self.0.iter().any(|route| route.method == method && route.path == path) {
            return;
        }
        let filter = MethodFilter::try_from(method.clone()).unwrap_or(MethodFilter::TRACE);
        self.0.push(Route { method, path, handler: on(filter, handler), listed: true });
    }

    /// All of both.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// Leaves these endpoints out of [`Routes::list`]: what they answer is that there is no such endpoint.
    #[must_use]
    pub(crate) fn unlisted(mut self) -> Self {
        self.0.iter_mut().for_each(|route| route.listed = false);
        self
    }

    /// Method and path of each endpoint.
    pub fn list(&self) -> Vec<(Method, &'static str)> {
        self.0.iter().filter(|route| route.listed).map(|route| (route.method.clone(), route.path)).collect()
    }

    /// The router. Paths that differ in their parameters' names only are one path, whose first name is kept. What is not
    /// here is answered with 404, a known path with an unknown method with 405, both `M_UNRECOGNIZED`.
    pub fn into_router(self) -> Router {
        let mut paths: BTreeMap<String, (&'static str, MethodRouter)> = BTreeMap::new();
        for route in self.0 {
            let known = paths.entry(without_names(route.path)).or_insert_with(|| (route.path, MethodRouter::new()));
            let methods = std::mem::take(&mut known.1);
            known.1 = methods.merge(route.handler);
        }
        let mut router = Router::new();
        for (path, methods) in paths.into_values() {
            router = router.route(path, methods);
        }
        router.fallback(unknown_path).method_not_allowed_fallback(unknown_method)
    }
}

/// `/rooms/{room_id}/send` as `/rooms/{}/send`.
pub fn without_names(path: &str) -> String {
    let segments: Vec<&str> =
        path.split('/').map(|segment| if segment.starts_with('{') { "{}" } else { segment }).collect();
    segments.join("/")
}

fn finish<R: Reply>(answer: Answer<R>) -> Response {
    match answer {
        Ok(reply) => reply.into_http(),
        Err(error) => error.into_response(),
    }
}

async fn unknown_path() -> ApiError {
    ApiError::unrecognized("There is no such endpoint")
}

async fn unknown_method() -> ApiError {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "M_UNRECOGNIZED", "The endpoint does not know this method")
}
