//! What a handler gets: the parsed request, the server that sent it, and the tenant it is for.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{FromRequestParts, RawPathParams},
};
use bytes::Bytes;
use http::{Method, Request, header, request};
use ruma::{
    OwnedServerName,
    api::{
        IncomingRequest,
        auth_scheme::{AuthScheme, NoAuthentication},
        error::DeserializationError,
        federation::authentication::ServerSignatures,
        path_builder::PathBuilder,
    },
};
use samtal_http::BodyError;
use samtal_keyring::{RequestError, SignedRequest, XMatrix, XMatrixError};
use samtal_ops::Homeserver;
use samtal_policy::{Action, Direction, Question};

use crate::ApiError;

/// Longest request body, in bytes: 50 PDUs and 100 EDUs of full size, with room to spare.
const BODY_BYTES_MAX: u64 = 12 * 1024 * 1024;

/// A server that has signed its request, and may speak to us.
#[derive(Clone, Debug)]
pub struct ServerPrincipal {
    /// Its name.
    pub server: OwnedServerName,
}

/// A parsed request of ruma's type `T`.
pub(crate) struct Args<T: IncomingRequest>
where
    T::Authentication: Scheme,
{
    /// The request: path, query and body.
    pub request: T,
    /// Who sent it.
    pub who: <T::Authentication as Scheme>::Who,
    /// The tenant.
    pub hs: Arc<Homeserver>,
    /// The JSON body as it came.
    pub json: Bytes,
}

/// How an endpoint knows who asks.
pub(crate) trait Scheme: AuthScheme {
    /// Who asks.
    type Who: Send;

    /// Checks who asks.
    fn authenticate(
        hs: &Homeserver,
        parts: &request::Parts,
        body: &[u8],
    ) -> impl Future<Output = Result<Self::Who, ApiError>> + Send;
}

impl Scheme for NoAuthentication {
    type Who = ();

    async fn authenticate(_: &Homeserver, _: &request::Parts, _: &[u8]) -> Result<(), ApiError> {
        Ok(())
    }
}

impl Scheme for ServerSignatures {
    type Who = ServerPrincipal;

    async fn authenticate(hs: &Homeserver, parts: &request::Parts, body: &[u8]) -> Result<ServerPrincipal, ApiError> {
        if !hs.settings.federation.enabled {
            return Err(ApiError::forbidden("This server does not federate"));
        }
        let authorization = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let authorization = authorization.ok_or_else(|| ApiError::unauthorized("The request is not signed"))?;
        let uri = original_uri(parts);
        // Before it is known whether the name is right: the keys of a server that is refused are not even asked for.
        if let Ok(claimed) = XMatrix::parse(authorization) {
            for action in std::iter::once(Action::Request).chain(Action::of_path(&uri)) {
                let question = Question::new(&claimed.origin, Direction::Inbound, action);
                let refused = |_| ApiError::forbidden("This server does not speak with yours");
                hs.policy.review(&question).permit().map_err(refused)?;
            }
        }
        let request = SignedRequest { authorization, method: parts.method.as_str(), uri: &uri, content: body };
        let server = hs.keyring.verify_request(request, &hs.remote).await.map_err(|error| {
            tracing::info!(%error, "signed request refused");
            match error {
                RequestError::Keyring(error) => ApiError::internal(error),
                RequestError::Body => ApiError::not_json("The body is not JSON"),
                RequestError::Header(XMatrixError::Value(_)) => ApiError::invalid_param(error.to_string()),
                RequestError::Header(_)
                | RequestError::Destination(_)
                | RequestError::Key { .. }
                | RequestError::Signature(_) => ApiError::unauthorized(error.to_string()),
            }
        })?;
        if server == hs.name {
            return Err(ApiError::unauthorized("The request says to be our own"));
        }
        if let Some(rate) = hs.settings.federation.rate {
            hs.limiter.take("federation", server.as_str(), rate).map_err(ApiError::limit_exceeded)?;
        }
        hs.remote.destinations().is_there(&server).await.map_err(ApiError::internal)?;
        Ok(ServerPrincipal { server })
    }
}

/// Path and query as they came; a router that is nested has cut the path.
fn original_uri(parts: &request::Parts) -> String {
    let uri = parts.extensions.get::<axum::extract::OriginalUri>().map_or(&parts.uri, |original| &original.0);
    uri.path_and_query().map_or("/", |path| path.as_str()).to_owned()
}

impl<T: IncomingRequest> Args<T>
where
    T::Authentication: Scheme,
{
    pub(crate) async fn from_request(request: Request<Body>, defaults: &[(&str, &str)]) -> Result<Self, ApiError> {
        let (mut parts, body) = request.into_parts();
        let Some(hs) = parts.extensions.get::<Arc<Homeserver>>().cloned() else {
            return Err(ApiError::unrecognized("No homeserver of this name is here"));
        };
        let body = samtal_http::collect(body, BODY_BYTES_MAX).await.map_err(|error| match error {
            BodyError::TooLarge { .. } => ApiError::too_large("The request body is too large"),
            BodyError::TimedOut | BodyError::Broken(_) => ApiError::not_json("The request body ended early"),
        })?;
        let who = T::Authentication::authenticate(&hs, &parts, &body).await?;
        let params = RawPathParams::from_request_parts(&mut parts, &()).await;
        let params = params.map_err(|_| ApiError::invalid_param("The path is not UTF-8"))?;
        // Some paths end in a part that old servers add and nobody needs.
        let count = T::PATH_BUILDER.all_paths().next().map_or(0, |path| path.matches('{').count());
        // What is no event id names no event: the body is looked at first, since what is wrong with it says more.
        let path: Vec<String> = params
            .iter()
            .map(|(name, value)| match name {
                "event_id" if !value.starts_with('$') => format!("${value}"),
                _ => value.to_owned(),
            })
            .take(count)
            .collect();
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let json = if T::METHOD == Method::GET { Bytes::new() } else { json_object(body)? };
        let whole = with_defaults(json.clone(), defaults);
        let request = T::try_from_http_request_inner(Request::from_parts(parts, &*whole), &path)
            .map_err(deserialization_error)?;
        Ok(Self { request, who, hs, json })
    }
}

/// Adds what old servers leave out: names of fields and the JSON that stands for them.
fn with_defaults(json: Bytes, defaults: &[(&str, &str)]) -> Bytes {
    if defaults.is_empty() {
        return json;
    }
    let Ok(fields) = serde_json::from_slice::<std::collections::BTreeMap<String, &serde_json::value::RawValue>>(&json)
    else {
        return json;
    };
    let missing: Vec<String> = defaults
        .iter()
        .filter(|(name, _)| !fields.contains_key(*name))
        .map(|(name, value)| format!("{name:?}:{value}"))
        .collect();
    let inner =
        std::str::from_utf8(&json).ok().and_then(|text| text.trim().strip_prefix('{')).filter(|_| !missing.is_empty());
    match inner {
        Some(inner) if fields.is_empty() => format!("{{{}{inner}", missing.join(",")).into(),
        Some(inner) => format!("{{{},{inner}", missing.join(",")).into(),
        None => json,
    }
}

/// Checks that the body is a JSON object. An empty one becomes `{}`.
fn json_object(bytes: Bytes) -> Result<Bytes, ApiError> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(Bytes::from_static(b"{}"));
    }
    match serde_json::from_slice::<&serde_json::value::RawValue>(&bytes) {
        Err(_) => Err(ApiError::not_json("The body is not JSON")),
        Ok(value) if !value.get().starts_with('{') => Err(ApiError::bad_json("The body is not a JSON object")),
        Ok(_) => Ok(bytes),
    }
}

fn deserialization_error(error: DeserializationError) -> ApiError {
    let message = error.to_string();
    match error {
        DeserializationError::Json(error) if error.is_data() && message.contains("missing field") => {
            ApiError::missing_param(message)
        }
        DeserializationError::Json(error) if error.is_data() => ApiError::bad_json(message),
        DeserializationError::Json(_) | DeserializationError::Utf8(_) => ApiError::not_json(message),
        DeserializationError::Query(_) if message.contains("missing field `access_token`") => {
            ApiError::missing_token("There is no token in the query")
        }
        DeserializationError::Query(_) if message.contains("missing field") => ApiError::missing_param(message),
        _ => ApiError::invalid_param(message),
    }
}
