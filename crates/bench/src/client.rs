//! A client that knows only what the scenarios need.

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};

/// Why a request did not do what the scenario needs.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A server under load. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Server {
    base: String,
    http: Client<HttpConnector, Full<Bytes>>,
}

/// A user that is logged in.
#[derive(Clone)]
pub(crate) struct User {
    pub(crate) server: Server,
    pub(crate) token: String,
}

impl Server {
    pub(crate) fn new(base: &str) -> Result<Self, Failure> {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let http = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(4_096).build(connector);
        Ok(Self { base: base.trim_end_matches('/').to_owned(), http })
    }

    /// One request; the answer's JSON, or a failure for any status but 200.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<&Value>,
    ) -> Result<Value, Failure> {
        let bytes = self.raw(method, path, token, body).await?;
        Ok(serde_json::from_slice(&bytes)?)
    }

    /// As [`Server::call`], without reading the answer.
    pub(crate) async fn raw(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<&Value>,
    ) -> Result<Bytes, Failure> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        let answer = self.http.request(request.header("content-type", "application/json").body(body.into())?).await?;
        let status = answer.status();
        let bytes = answer.into_body().collect().await?.to_bytes();
        if status.is_success() {
            Ok(bytes)
        } else {
            Err(format!("{path}: {status}: {}", String::from_utf8_lossy(&bytes)).into())
        }
    }

    /// Registers a user with a name that starts with `prefix`, by open registration with the dummy stage.
    pub(crate) async fn register(&self, prefix: &str, number: usize) -> Result<User, Failure> {
        let stamp = crate::measure::stamp();
        let name = format!("{prefix}-{stamp}-{number}");
        let password = "a long enough pass phrase";
        let body = json!({
            "username": name, "password": password, "auth": { "type": "m.login.dummy" },
            "initial_device_display_name": "bench",
        });
        let answer = self.call(Method::POST, "/_matrix/client/v3/register", None, Some(&body)).await?;
        let text = |key: &str| answer.get(key).and_then(Value::as_str).map(str::to_owned).ok_or("no such key");
        Ok(User { server: self.clone(), token: text("access_token")? })
    }

    /// Registers several users, a few at a time.
    pub(crate) async fn register_all(&self, prefix: &str, count: usize) -> Result<Vec<User>, Failure> {
        use futures_util::{StreamExt, TryStreamExt, stream};
        stream::iter(0..count).map(|number| self.register(prefix, number)).buffer_unordered(8).try_collect().await
    }
}

impl User {
    pub(crate) async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, Failure> {
        self.server.call(method, path, Some(&self.token), body.as_ref()).await
    }

    /// Makes a public room and gives its id.
    pub(crate) async fn create_room(&self) -> Result<String, Failure> {
        let body = json!({ "preset": "public_chat", "name": "Bench" });
        let answer = self.call(Method::POST, "/_matrix/client/v3/createRoom", Some(body)).await?;
        Ok(answer.get("room_id").and_then(Value::as_str).ok_or("no room id")?.to_owned())
    }

    pub(crate) async fn join(&self, room: &str) -> Result<(), Failure> {
        self.call(Method::POST, &format!("/_matrix/client/v3/rooms/{}/join", escape(room)), Some(json!({}))).await?;
        Ok(())
    }

    pub(crate) async fn send(&self, room: &str, txn: &str, text: &str) -> Result<(), Failure> {
        let path = format!("/_matrix/client/v3/rooms/{}/send/m.room.message/{txn}", escape(room));
        let body = json!({ "msgtype": "m.text", "body": text });
        self.server.raw(Method::PUT, &path, Some(&self.token), Some(&body)).await?;
        Ok(())
    }

    /// One `/sync`, waiting up to `timeout_ms`; gives the bytes and the next token.
    pub(crate) async fn sync(&self, since: Option<&str>, timeout_ms: u32) -> Result<(Bytes, String), Failure> {
        let since = since.map(|since| format!("&since={since}")).unwrap_or_default();
        let path = format!("/_matrix/client/v3/sync?timeout={timeout_ms}{since}");
        let bytes = self.server.raw(Method::GET, &path, Some(&self.token), None).await?;
        let answer: Value = serde_json::from_slice(&bytes)?;
        let next = answer.get("next_batch").and_then(Value::as_str).ok_or("no next_batch")?.to_owned();
        Ok((bytes, next))
    }
}

/// Percent-encodes what may stand in a room or user id.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 8);
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => escaped.push(char::from(byte)),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}
