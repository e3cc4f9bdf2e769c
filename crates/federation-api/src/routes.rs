//! Registering endpoints.

use axum::{Router, body::Body, response::IntoResponse};
use http::{Method, Request};
use ruma::api::{IncomingRequest, Metadata, path_builder::PathBuilder};
use samtal_edge::Endpoints;
pub(crate) use samtal_edge::{JsonText, Reply};

use crate::{
    ApiError,
    args::{Args, Scheme},
};

/// What a handler answers.
pub(crate) type Answer<R> = Result<R, ApiError>;

/// Endpoints under way to a router.
#[derive(Debug, Default)]
pub(crate) struct Routes(Endpoints);

/// How older servers call an endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Customs {
    /// Fields of the body that they leave out, and the JSON that stands for them.
    pub(crate) defaults: &'static [(&'static str, &'static str)],
    /// The paths, if not all that ruma knows.
    pub(crate) paths: Option<&'static [&'static str]>,
    /// The method, if not ruma's.
    pub(crate) method: Option<&'static Method>,
}

impl Customs {
    /// Left-out fields, and the JSON that stands for them.
    pub(crate) fn defaults(defaults: &'static [(&'static str, &'static str)]) -> Self {
        Self { defaults, ..Self::default() }
    }

    /// These paths only.
    pub(crate) fn paths(paths: &'static [&'static str]) -> Self {
        Self { paths: Some(paths), ..Self::default() }
    }
}

impl Routes {
    /// Registers a handler of one of ruma's endpoints.
    pub(crate) fn route<T, F, Fut, R>(self, handler: F) -> Self
    where
        T: IncomingRequest + Send + 'static,
        T::Authentication: Scheme,
        F: Fn(Args<T>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Answer<R>> + Send,
        R: Reply,
    {
        self.with(Customs::default(), handler)
    }

    /// As [`Self::route`], in the way of older servers.
    pub(crate) fn with<T, F, Fut, R>(mut self, customs: Customs, handler: F) -> Self
    where
        T: IncomingRequest + Send + 'static,
        T::Authentication: Scheme,
        F: Fn(Args<T>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Answer<R>> + Send,
        R: Reply,
    {
        let paths = customs.paths.map_or_else(|| T::PATH_BUILDER.all_paths().collect(), <[_]>::to_vec);
        let method = customs.method.unwrap_or(&<T as Metadata>::METHOD).clone();
        for path in paths {
            let handler = handler.clone();
            let serve = move |request: Request<Body>| async move {
                // Boxed: a request's state is large, and most of it is not needed while it waits.
                match Box::pin(Args::<T>::from_request(request, customs.defaults)).await {
                    Ok(args) => match Box::pin(handler(args)).await {
                        Ok(reply) => reply.into_http(),
                        Err(error) => error.into_response(),
                    },
                    Err(error) => error.into_response(),
                }
            };
            self.0.push(method.clone(), path, serve);
        }
        self
    }

    /// Method and path of each endpoint.
    pub(crate) fn list(&self) -> Vec<(Method, &'static str)> {
        self.0.list()
    }

    /// The router. What is not here is left to who merges it.
    pub(crate) fn into_router(self) -> Router {
        self.0.into_router()
    }
}
