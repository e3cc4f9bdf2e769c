//! Registering endpoints.

use std::future::Future;

use axum::{
    Router,
    body::Body,
    response::{IntoResponse, Response},
};
use http::{Method, Request};
use ruma::api::{IncomingRequest, Metadata, path_builder::PathBuilder};
use samtal_edge::{Endpoints, Reply};

use crate::{
    Answer, access,
    args::{Args, Endpoint, RawArgs},
    principal::Scheme,
};

/// Endpoints under way to a router. Each area of the API makes one; they are merged.
#[derive(Debug, Default)]
pub struct Routes(Endpoints);

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
    pub(crate) fn route_at<T, F, Fut, R>(mut self, paths: &[&'static str], handler: F) -> Self
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
            self.0.push(T::METHOD, path, serve);
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
            self.0.push(method.clone(), path, serve);
        }
        self
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
        self.0.unlist();
        self
    }

    /// Method and path of each endpoint.
    pub fn list(&self) -> Vec<(Method, &'static str)> {
        self.0.list()
    }

    /// The router. What is not here is left to who merges it.
    pub fn into_router(self) -> Router {
        self.0.into_router()
    }
}

fn finish<R: Reply>(answer: Answer<R>) -> Response {
    match answer {
        Ok(reply) => reply.into_http(),
        Err(error) => error.into_response(),
    }
}
