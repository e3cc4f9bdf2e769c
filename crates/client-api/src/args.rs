//! What a handler gets: the parsed request, who sent it, and the tenant it is for.

use std::{fmt, sync::Arc};

use axum::{
    body::Body,
    extract::{FromRequestParts, RawPathParams},
};
use bytes::Bytes;
use http::{Method, Request, request};
use http_body_util::{BodyExt, LengthLimitError, Limited as LimitedBody};
use parking_lot::Mutex;
use ruma::api::{IncomingRequest, auth_scheme::AccessToken, error::DeserializationError};
use samtal_account::Client;
use samtal_ops::Homeserver;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use crate::{
    ApiError,
    principal::{self, Access, Limited, Scheme},
};

/// Longest request body that is not an upload, in bytes. Key backups are the longest of them.
pub const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A parsed request of ruma's type `T`, for handlers of [`crate::Routes::route`].
pub struct Args<T: IncomingRequest>
where
    T::Authentication: Scheme,
{
    /// The request: path, query and body.
    pub body: T,
    /// Who sent it: a [`crate::UserPrincipal`], an option of it, or `()`, as the endpoint's authentication has it.
    pub who: <T::Authentication as Scheme>::Who,
    /// The tenant.
    pub hs: Arc<Homeserver>,
    /// The other end.
    pub client: Client,
    /// The JSON body as it came; `{}` when there was none.
    pub json: Bytes,
    /// The path as it came: what user-interactive authentication is bound to.
    pub uri_path: String,
    /// The query as it came.
    pub query: Option<String>,
}

/// An authenticated request whose body has not been read, for handlers of [`crate::Routes::raw`].
pub struct RawArgs<A: Scheme = AccessToken> {
    /// Who sent it.
    pub who: A::Who,
    /// The tenant.
    pub hs: Arc<Homeserver>,
    /// The other end.
    pub client: Client,
    /// The path's arguments in order, percent-decoded.
    pub path: Vec<String>,
    /// Method, URI and headers.
    pub parts: request::Parts,
    /// The body, until it is taken. (The lock only makes the whole shareable between threads.)
    body: Mutex<Body>,
}

/// What is known about an endpoint when it is registered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Endpoint {
    pub(crate) access: Access,
    pub(crate) rate_limited: bool,
}

impl<A: Scheme> RawArgs<A> {
    pub(crate) async fn from_request(request: Request<Body>, endpoint: Endpoint) -> Result<Self, ApiError> {
        let (mut parts, body) = request.into_parts();
        let Some(hs) = parts.extensions.get::<Arc<Homeserver>>().cloned() else {
            return Err(ApiError::unrecognized("No homeserver of this name is here"));
        };
        let who = A::authenticate(&hs, &parts, endpoint.access).await?;
        let client = principal::client(&parts);
        if endpoint.rate_limited {
            limit(&hs, A::limited(&who), &client)?;
        }
        let path = path_arguments(&mut parts).await?;
        Ok(Self { who, hs, client, path, parts, body: Mutex::new(body) })
    }

    /// The path's argument at `index`, parsed.
    pub fn path<T: std::str::FromStr>(&self, index: usize) -> Result<T, ApiError> {
        let text = self.path.get(index).map_or("", String::as_str);
        text.parse().map_err(|_| ApiError::invalid_param("A part of the path is not an id of the right kind"))
    }

    /// The query.
    pub fn query<Q: DeserializeOwned>(&self) -> Result<Q, ApiError> {
        serde_html_form::from_str(self.parts.uri.query().unwrap_or_default()).map_err(|error| query_error(&error))
    }

    /// The body as a stream; an empty one when it has been taken.
    pub(crate) fn take_body(&self) -> Body {
        std::mem::take(&mut self.body.lock())
    }

    /// The whole body, if it has at most `bytes_max` bytes.
    pub async fn bytes(&self, bytes_max: usize) -> Result<Bytes, ApiError> {
        read(self.take_body(), bytes_max).await
    }

    /// The JSON body; a missing one counts as `{}`.
    pub async fn json<B: DeserializeOwned>(&self) -> Result<B, ApiError> {
        let bytes = json_object(self.bytes(BODY_BYTES_MAX).await?)?;
        serde_json::from_slice(&bytes).map_err(|error| json_error(&error))
    }

    /// The JSON body as it came, known to be an object; a missing one counts as `{}`.
    pub(crate) async fn json_bytes(&self) -> Result<Bytes, ApiError> {
        json_object(self.bytes(BODY_BYTES_MAX).await?)
    }
}

impl<T: IncomingRequest> Args<T>
where
    T::Authentication: Scheme,
{
    pub(crate) async fn from_request(request: Request<Body>, endpoint: Endpoint) -> Result<Self, ApiError> {
        let raw = RawArgs::<T::Authentication>::from_request(request, endpoint).await?;
        let json = match T::METHOD {
            Method::GET | Method::HEAD => Bytes::new(),
            _ => raw.json_bytes().await?,
        };
        let RawArgs { who, hs, client, path, parts, .. } = raw;
        let uri_path = parts.uri.path().to_owned();
        let query = parts.uri.query().map(ToOwned::to_owned);
        let request = Request::from_parts(parts, &*json);
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let body = T::try_from_http_request_inner(request, &path).map_err(deserialization_error)?;
        Ok(Self { body, who, hs, client, json, uri_path, query })
    }
}

async fn path_arguments(parts: &mut request::Parts) -> Result<Vec<String>, ApiError> {
    let params = RawPathParams::from_request_parts(parts, &())
        .await
        .map_err(|_| ApiError::invalid_param("The path is not UTF-8"))?;
    let path: Vec<String> = params.iter().map(|(_, value)| value.to_owned()).collect();
    if path.iter().any(|argument| argument.contains('\0')) {
        return Err(ApiError::invalid_param("The path holds a NUL character"));
    }
    Ok(path)
}

async fn read(body: Body, bytes_max: usize) -> Result<Bytes, ApiError> {
    match LimitedBody::new(body, bytes_max).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.downcast_ref::<LengthLimitError>().is_some() => {
            Err(ApiError::too_large("The request body is too large"))
        }
        Err(_) => Err(ApiError::bad_request("The request body ended early")),
    }
}

/// Checks that the body is a JSON object. An empty one becomes `{}`.
fn json_object(bytes: Bytes) -> Result<Bytes, ApiError> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(Bytes::from_static(b"{}"));
    }
    if std::str::from_utf8(&bytes).is_err() {
        return Err(ApiError::not_json("The body is not UTF-8"));
    }
    if let Err(error) = serde_json::from_slice::<WellFormed>(&bytes) {
        // What JSON's grammar allows, numbers without bound, unpaired surrogates and any depth too, is JSON.
        return Err(match serde_json::from_slice::<IgnoredAny>(&bytes) {
            Ok(_) => ApiError::bad_json(format!("The body holds what cannot be read: {error}")),
            Err(error) => ApiError::not_json(format!("The body is not JSON: {error}")),
        });
    }
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Err(ApiError::bad_json("The body is not a JSON object"));
    }
    Ok(bytes)
}

/// Any JSON value, looked at wholly and kept nowhere. `IgnoredAny` and `RawValue` would let pass any depth and unpaired
/// surrogates, which whoever reads the value later stumbles over.
struct WellFormed;

impl<'de> Deserialize<'de> for WellFormed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for WellFormed {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self, A::Error> {
        while items.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self, A::Error> {
        while entries.next_entry::<Self, Self>()?.is_some() {}
        Ok(self)
    }
}

pub(crate) fn json_error(error: &serde_json::Error) -> ApiError {
    let message = error.to_string();
    match error.classify() {
        serde_json::error::Category::Data if message.starts_with("missing field") => ApiError::missing_param(message),
        serde_json::error::Category::Data => ApiError::bad_json(message),
        _ => ApiError::not_json(message),
    }
}

fn query_error(error: &serde_html_form::de::Error) -> ApiError {
    let message = error.to_string();
    if message.contains("missing field") { ApiError::missing_param(message) } else { ApiError::invalid_param(message) }
}

pub(crate) fn deserialization_error(error: DeserializationError) -> ApiError {
    match &error {
        DeserializationError::Json(error) => json_error(error),
        DeserializationError::Query(error) => query_error(error),
        DeserializationError::Utf8(_) => ApiError::not_json("The body is not UTF-8"),
        _ => ApiError::invalid_param(error.to_string()),
    }
}

/// Counts a request against the general rate limit.
fn limit(hs: &Homeserver, limited: Limited<'_>, client: &Client) -> Result<(), ApiError> {
    let Some(rates) = hs.accounts.options().rates else { return Ok(()) };
    let who = match limited {
        Limited::User(user) => user.as_str(),
        Limited::Address => client.ip.as_deref().unwrap_or_default(),
        Limited::Free => return Ok(()),
    };
    hs.limiter.take("other", who, rates.other).map_err(ApiError::limit_exceeded)
}
