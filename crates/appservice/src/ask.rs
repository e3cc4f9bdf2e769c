//! Asking a service: is this user or alias yours, are you there, whom do you know on other networks?

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use parking_lot::Mutex;
use samtal_http::{Client, ClientError, FetchLimits};
use serde_json::{Map, Value, json};

use crate::{Appservices, Service};

/// Longest answer of a service, in bytes.
const ANSWER_BYTES_MAX: u64 = 4 << 20;
/// A question gets so long.
const QUESTION_TIME: Duration = Duration::from_secs(10);
/// How long a protocol's description is kept.
const PROTOCOL_MS: u64 = 60 * 60_000;

/// What is asked of a service.
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    /// Behind `/_matrix/app/v1/`.
    pub(crate) path: &'a str,
    /// Without the question mark.
    pub(crate) query: &'a str,
    pub(crate) body: Option<Bytes>,
    pub(crate) time: Duration,
}

/// The way to the services.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) client: Client,
    /// Services that know only the paths from before the specification's first version.
    pub(crate) legacy: Arc<Mutex<std::collections::HashSet<String>>>,
}

/// Why a service gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// It has no address.
    #[error("the application service has no address")]
    NoAddress,
    /// Its address makes no request.
    #[error("the address makes no request: {0}")]
    Address(#[from] http::Error),
    /// It cannot be reached.
    #[error(transparent)]
    Network(#[from] ClientError),
}

impl Line {
    /// One exchange. A service that does not know the path is asked on the path that was used before the specification had
    /// versions, and from then on there.
    pub(crate) async fn call(&self, service: &Service, call: &Call<'_>) -> Result<(StatusCode, Bytes), CallError> {
        let is_legacy = self.legacy.lock().contains(service.id());
        let answer = self.exchange(service, call, is_legacy).await?;
        if !does_not_know(&answer) || call.path == "ping" {
            return Ok(answer);
        }
        let other = self.exchange(service, call, !is_legacy).await?;
        if does_not_know(&other) {
            return Ok(answer);
        }
        if call.path.starts_with("transactions/") {
            let mut legacy = self.legacy.lock();
            if is_legacy {
                legacy.remove(service.id())
            } else {
                legacy.insert(service.id().to_owned())
            };
        }
        Ok(other)
    }

    async fn exchange(
        &self,
        service: &Service,
        call: &Call<'_>,
        is_legacy: bool,
    ) -> Result<(StatusCode, Bytes), CallError> {
        let url = service.url.as_deref().ok_or(CallError::NoAddress)?;
        let path = call.path;
        let mut uri = match (is_legacy, path.starts_with("thirdparty/")) {
            (false, _) => format!("{url}/_matrix/app/v1/{path}"),
            (true, true) => format!("{url}/_matrix/app/unstable/{path}"),
            (true, false) => format!("{url}/{path}"),
        };
        let mut query = call.query.to_owned();
        if is_legacy {
            let token = serde_html_form::to_string([("access_token", service.token.expose())]).unwrap_or_default();
            query = if query.is_empty() { token } else { format!("{query}&{token}") };
        }
        if !query.is_empty() {
            uri = format!("{uri}?{query}");
        }
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(uri)
            .header(header::AUTHORIZATION, format!("Bearer {}", service.token.expose()));
        if call.body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request.body(call.body.clone().unwrap_or_default())?;
        let limits = FetchLimits { time: call.time, bytes_max: ANSWER_BYTES_MAX };
        let (parts, body) = self.client.fetch(request, limits).await?.into_parts();
        Ok((parts.status, body))
    }
}

/// Whether an answer means that there is no such path, rather than no such thing.
fn does_not_know((status, body): &(StatusCode, Bytes)) -> bool {
    if *status == StatusCode::METHOD_NOT_ALLOWED {
        return true;
    }
    // Any answer of the specification's has an errcode.
    let errcode = serde_json::from_slice::<Value>(body).ok().and_then(|body| body.get("errcode").cloned());
    *status == StatusCode::NOT_FOUND && errcode.is_none_or(|errcode| errcode == "M_UNRECOGNIZED")
}

/// What came of a ping.
#[derive(Debug)]
pub enum Pong {
    /// It answered after so many milliseconds.
    Ok(u64),
    /// It answered with another status than 200.
    Status(StatusCode, String),
    /// It could not be reached.
    Failed(String),
    /// It did not answer in time.
    TimedOut,
    /// It has no address.
    NoAddress,
}

/// A kind of lookup on other networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Users.
    User,
    /// Places.
    Location,
}

impl Lookup {
    fn word(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Location => "location",
        }
    }
}

/// Descriptions of protocols: the service's id, the protocol, until when, what it said.
pub(crate) type Protocols = Mutex<Vec<(String, String, u64, Value)>>;

impl Appservices {
    async fn get(&self, service: &Service, path: &str, query: &str) -> Result<(StatusCode, Bytes), CallError> {
        let call = Call { method: Method::GET, path, query, body: None, time: QUESTION_TIME };
        self.line().call(service, &call).await
    }

    /// Asks the services that may have this user of ours, whom we do not know, to make it. Whether one says that it did.
    pub async fn query_user(&self, user: &str) -> bool {
        let path = format!("users/{}", encoded(user));
        for service in self.services() {
            if service.account.users.iter().any(|names| names.regex.is_match(user))
                && self.says_yes(&service, &path).await
            {
                return true;
            }
        }
        false
    }

    /// Asks the services that may have this alias of ours, which we do not know, to make it. Whether one says that it did.
    pub async fn query_alias(&self, alias: &str) -> bool {
        let path = format!("rooms/{}", encoded(alias));
        for service in self.services() {
            if service.has_alias(alias) && self.says_yes(&service, &path).await {
                return true;
            }
        }
        false
    }

    async fn says_yes(&self, service: &Service, path: &str) -> bool {
        match self.get(service, path, "").await {
            Ok((status, _)) => status == StatusCode::OK,
            Err(CallError::NoAddress) => false,
            Err(error) => {
                tracing::warn!(service = service.id(), %error, "an application service does not answer a question");
                false
            }
        }
    }

    /// Asks a service whether it is there (CS API, "Ping").
    pub async fn ping(&self, id: &str, transaction_id: Option<&str>) -> Pong {
        let Some(service) = self.service(id) else { return Pong::NoAddress };
        let body = match transaction_id {
            Some(id) => json!({ "transaction_id": id }),
            None => json!({}),
        };
        let body = Some(body.to_string().into());
        let call = Call { method: Method::POST, path: "ping", query: "", body, time: QUESTION_TIME };
        let began_ms = self.now_ms();
        match self.line().call(&service, &call).await {
            Ok((StatusCode::OK, _)) => {
                self.wake(id);
                Pong::Ok(self.now_ms().saturating_sub(began_ms))
            }
            Ok((status, body)) => Pong::Status(status, String::from_utf8_lossy(&body).into_owned()),
            Err(CallError::NoAddress) => Pong::NoAddress,
            Err(CallError::Network(ClientError::TimedOut(_))) => Pong::TimedOut,
            Err(error) => Pong::Failed(error.to_string()),
        }
    }

    /// The networks that services can look up, with what they say of them; the instances of all of them together.
    pub async fn protocols(&self, only: Option<&str>) -> Map<String, Value> {
        let mut found: Map<String, Value> = Map::new();
        for service in self.services() {
            for protocol in &service.protocols {
                if only.is_some_and(|only| only != protocol) {
                    continue;
                }
                let Some(description) = self.protocol(&service, protocol).await else { continue };
                match found.get_mut(protocol) {
                    None => {
                        found.insert(protocol.clone(), description);
                    }
                    Some(known) => {
                        if let (Some(Value::Array(known)), Some(Value::Array(more))) =
                            (known.get_mut("instances"), description.get("instances"))
                        {
                            known.extend(more.iter().cloned());
                        }
                    }
                }
            }
        }
        found
    }

    async fn protocol(&self, service: &Service, protocol: &str) -> Option<Value> {
        let now_ms = self.now_ms();
        {
            let mut known = self.known_protocols().lock();
            known.retain(|(_, _, until_ms, _)| *until_ms > now_ms);
            if let Some((.., said)) = known.iter().find(|(id, of, ..)| id == service.id() && of == protocol) {
                return Some(said.clone());
            }
        }
        let (status, body) = self.get(service, &format!("thirdparty/protocol/{}", encoded(protocol)), "").await.ok()?;
        let mut said: Value = serde_json::from_slice(&body).ok().filter(|_| status == StatusCode::OK)?;
        if !said.is_object() {
            return None;
        }
        for (field, empty) in [("user_fields", json!([])), ("location_fields", json!([])), ("instances", json!([]))] {
            if said.get(field).is_none() {
                said[field] = empty;
            }
        }
        // Clients name the network of a room list by this id.
        if let Some(Value::Array(instances)) = said.get_mut("instances") {
            for instance in instances.iter_mut().filter(|instance| instance.is_object()) {
                if let Some(network) = instance.get("network_id").and_then(Value::as_str) {
                    instance["instance_id"] = format!("{}|{network}", service.id()).into();
                }
            }
        }
        self.known_protocols().lock().push((
            service.id().to_owned(),
            protocol.to_owned(),
            now_ms + PROTOCOL_MS,
            said.clone(),
        ));
        Some(said)
    }

    /// Looks up people or places on another network. `query` are the client's fields as a query string.
    pub async fn look_up(&self, what: Lookup, protocol: &str, query: &str) -> Vec<Value> {
        let path = format!("thirdparty/{}/{}", what.word(), encoded(protocol));
        let knows = |service: &Service| service.protocols.iter().any(|known| known == protocol);
        self.gather(what, &path, query, knows).await
    }

    /// Looks up whom or what on other networks a user or alias of ours stands for. `query` is `userid=…` or `alias=…`.
    pub async fn look_up_ours(&self, what: Lookup, query: &str) -> Vec<Value> {
        self.gather(what, &format!("thirdparty/{}", what.word()), query, |service| !service.protocols.is_empty()).await
    }

    async fn gather(&self, what: Lookup, path: &str, query: &str, asked: impl Fn(&Service) -> bool) -> Vec<Value> {
        let services: Vec<_> = self.services().into_iter().filter(|service| asked(service)).collect();
        let answers = services.iter().map(|service| self.get(service, path, query));
        let mut found = Vec::new();
        for answer in futures_util::future::join_all(answers).await {
            let Ok((StatusCode::OK, body)) = answer else { continue };
            let Ok(Value::Array(said)) = serde_json::from_slice::<Value>(&body) else { continue };
            let key = if what == Lookup::User { "userid" } else { "alias" };
            let whole = |said: &Value| {
                said.get(key).is_some_and(Value::is_string)
                    && said.get("protocol").is_some_and(Value::is_string)
                    && said.get("fields").is_some_and(Value::is_object)
            };
            found.extend(said.into_iter().filter(whole));
        }
        found
    }
}

/// A segment of a path.
fn encoded(segment: &str) -> String {
    let mut encoded = String::with_capacity(segment.len() * 2);
    for byte in segment.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            other => encoded.push_str(&format!("%{other:02X}")),
        }
    }
    encoded
}
