//! Registering endpoints.

use std::collections::BTreeMap;

use axum::{
    Router,
    body::Body,
    response::{IntoResponse, Response},
    routing::{MethodFilter, MethodRouter, on},
};
use bytes::BytesMut;
use http::{HeaderValue, Method, Request, header};
use ruma::api::{IncomingRequest, Metadata, OutgoingResponse, OutgoingResponseExt, path_builder::PathBuilder};

use crate::{
    ApiError,
    args::{Args, Scheme},
};

/// What a handler answers.
pub(crate) type Answer<R> = Result<R, ApiError>;

/// Something that can be sent as an answer.
pub(crate) trait Reply {
    /// The HTTP response.
    fn into_http(self) -> Response;
}

/// A JSON text, as it is.
pub(crate) struct JsonText(pub(crate) String);

impl<R: OutgoingResponse> Reply for R {
    fn into_http(self) -> Response {
        match self.try_into_http_response::<BytesMut>() {
            Ok(response) => response.map(|body| Body::from(body.freeze())),
            Err(error) => ApiError::internal(error).into_response(),
        }
    }
}

impl Reply for JsonText {
    fn into_http(self) -> Response {
        let mut response = Response::new(Body::from(self.0));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

/// Endpoints under way to a router.
#[derive(Default)]
pub(crate) struct Routes {
    paths: BTreeMap<String, (&'static str, MethodRouter)>,
    list: Vec<(Method, &'static str)>,
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
        self.lenient(&[], handler)
    }

    /// As [`Self::route`]; fields of the body that old servers leave out get these values (JSON).
    pub(crate) fn lenient<T, F, Fut, R>(self, defaults: &'static [(&'static str, &'static str)], handler: F) -> Self
    where
        T: IncomingRequest + Send + 'static,
        T::Authentication: Scheme,
        F: Fn(Args<T>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Answer<R>> + Send,
        R: Reply,
    {
        let paths: Vec<&'static str> = T::PATH_BUILDER.all_paths().collect();
        self.add(&<T as Metadata>::METHOD, &paths, defaults, handler)
    }

    /// As [`Self::route`], at these paths.
    pub(crate) fn route_at<T, F, Fut, R>(self, paths: &[&'static str], handler: F) -> Self
    where
        T: IncomingRequest + Send + 'static,
        T::Authentication: Scheme,
        F: Fn(Args<T>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Answer<R>> + Send,
        R: Reply,
    {
        self.add(&<T as Metadata>::METHOD, paths, &[], handler)
    }

    /// As [`Self::lenient`], for a method that callers used before the specification had another.
    pub(crate) fn with_method<T, F, Fut, R>(
        self,
        method: &Method,
        defaults: &'static [(&'static str, &'static str)],
        handler: F,
    ) -> Self
    where
        T: IncomingRequest + Send + 'static,
        T::Authentication: Scheme,
        F: Fn(Args<T>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Answer<R>> + Send,
        R: Reply,
    {
        let paths: Vec<&'static str> = T::PATH_BUILDER.all_paths().collect();
        self.add(method, &paths, defaults, handler)
    }

    fn add<T, F, Fut, R>(
        mut self,
        method: &Method,
        paths: &[&'static str],
        defaults: &'static [(&'static str, &'static str)],
        handler: F,
    ) -> Self
    where
        T: IncomingRequest + Send + 'static,
        T::Authentication: Scheme,
        F: Fn(Args<T>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Answer<R>> + Send,
        R: Reply,
    {
        for &path in paths {
            let handler = handler.clone();
            let serve = move |request: Request<Body>| async move {
                // Boxed: a request's state is large, and most of it is not needed while it waits.
                match Box::pin(Args::<T>::from_request(request, defaults)).await {
                    Ok(args) => match Box::pin(handler(args)).await {
                        Ok(reply) => reply.into_http(),
                        Err(error) => error.into_response(),
                    },
                    Err(error) => error.into_response(),
                }
            };
            let filter = MethodFilter::try_from(method.clone()).unwrap_or(MethodFilter::TRACE);
            // Paths that differ in their parameters' names only are one path.
            let key = path
                .split('/')
                .map(|part| if part.starts_with('{') { "{}" } else { part })
                .collect::<Vec<_>>()
                .join("/");
            let known = self.paths.entry(key).or_insert_with(|| (path, MethodRouter::new()));
            known.1 = std::mem::take(&mut known.1).merge(on(filter, serve));
            self.list.push((method.clone(), path));
        }
        self
    }

    /// Method and path of each endpoint.
    pub(crate) fn list(&self) -> Vec<(Method, &'static str)> {
        self.list.clone()
    }

    /// The router.
    pub(crate) fn into_router(self) -> Router {
        self.paths.into_values().fold(Router::new(), |router, (path, methods)| router.route(path, methods))
    }
}
