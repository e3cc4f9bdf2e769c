//! A homeserver in this process, and people who use it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{Router, body::Body};
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use ruma::OwnedServerName;
use samtal_client_api::Peer;
use samtal_db::testing::{Directory, drop_schema, postgres, sqlite};
use samtal_kit::{Clock, Random, Secret};
use samtal_ops::{Homeserver, Settings};
use serde_json::{Map, Value, json};
use tower::ServiceExt;

/// The secret for registering by shared secret.
pub const SHARED_SECRET: &str = "shared-secret";

/// The password of everyone.
pub const PASSWORD: &str = "correct horse battery";

/// A homeserver and its client API.
pub struct Node {
    pub hs: Arc<Homeserver>,
    pub clock: Clock,
    router: Router,
    people: AtomicU64,
}

/// Somebody logged in.
#[derive(Clone, Debug)]
pub struct Person {
    pub user_id: String,
    pub device_id: String,
    pub token: String,
}

/// An answer, read whole.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Answer {
    /// The body of an answer that must have this status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.body);
        self.body
    }

    /// The body of an answer that must have status 200.
    #[track_caller]
    pub fn ok(self) -> Value {
        self.expect(200)
    }

    /// Checks status and `errcode`.
    #[track_caller]
    pub fn refused(self, status: u16, errcode: &str) -> Value {
        assert_eq!((self.status.as_u16(), self.body["errcode"].as_str()), (status, Some(errcode)), "{}", self.body);
        assert!(self.body["error"].is_string(), "{}", self.body);
        self.body
    }
}

/// Settings under which tests are fast and nothing is limited.
pub fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.accounts.registration_open = true;
    settings.accounts.registration_shared_secret = Some(Secret::new(SHARED_SECRET.to_owned()));
    settings.accounts.guests = true;
    settings.accounts.password_cost = samtal_account::PasswordCost::CHEAP;
    settings.accounts.rates = None;
    settings
}

/// Runs `test` against a fresh homeserver on each engine.
pub async fn each_engine(test: impl AsyncFn(Node)) {
    each_engine_with(settings(), test).await;
}

/// As [`each_engine`], under other settings.
pub async fn each_engine_with(settings: Settings, test: impl AsyncFn(Node)) {
    let directory = Directory::new();
    test(Node::open(&sqlite(&directory), settings.clone()).await).await;
    if let Some(options) = postgres() {
        test(Node::open(&options, settings).await).await;
        drop_schema(&options).await;
    }
}

impl Node {
    pub async fn open(database: &samtal_db::Options, settings: Settings) -> Self {
        let clock = Clock::manual(1_700_000_000_000);
        let name = OwnedServerName::try_from("samtal.test").unwrap();
        let hs = Homeserver::open(name, database, settings, clock.clone(), Random::seeded(7)).await.unwrap();
        Self { hs, clock, router: samtal_client_api::router(), people: AtomicU64::new(0) }
    }

    /// Sends a request with any body and headers.
    pub async fn send(&self, mut request: Request<Body>) -> Answer {
        request.extensions_mut().insert(Arc::clone(&self.hs));
        request.extensions_mut().insert(Peer([192, 0, 2, 1].into()));
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        Answer { status, headers, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null) }
    }

    /// Sends any bytes as the body of a request below `/_matrix/client`.
    pub async fn bytes(&self, method: Method, path: &str, token: Option<&str>, body: impl Into<Body>) -> Answer {
        let path = if path.starts_with("/_") { path.to_owned() } else { format!("/_matrix/client{path}") };
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        self.send(request.body(body.into()).unwrap()).await
    }

    /// `GET`, without a token.
    pub async fn get(&self, path: &str) -> Answer {
        self.bytes(Method::GET, path, None, Body::empty()).await
    }

    /// `POST` JSON, without a token.
    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.bytes(Method::POST, path, None, body.to_string()).await
    }

    /// `GET` as somebody.
    pub async fn get_as(&self, who: &Person, path: &str) -> Answer {
        self.bytes(Method::GET, path, Some(&who.token), Body::empty()).await
    }

    /// `POST` JSON as somebody.
    pub async fn post_as(&self, who: &Person, path: &str, body: Value) -> Answer {
        self.bytes(Method::POST, path, Some(&who.token), body.to_string()).await
    }

    /// `PUT` JSON as somebody.
    pub async fn put_as(&self, who: &Person, path: &str, body: Value) -> Answer {
        self.bytes(Method::PUT, path, Some(&who.token), body.to_string()).await
    }

    /// `DELETE` as somebody.
    pub async fn delete_as(&self, who: &Person, path: &str, body: Value) -> Answer {
        self.bytes(Method::DELETE, path, Some(&who.token), body.to_string()).await
    }

    /// Registers somebody of this name with [`PASSWORD`].
    pub async fn person(&self, name: &str) -> Person {
        let body = json!({ "username": name, "password": PASSWORD, "auth": { "type": "m.login.dummy" } });
        Person::of(&self.post("/v3/register", body).await.ok())
    }

    /// Registers somebody of any name.
    pub async fn somebody(&self) -> Person {
        let number = self.people.fetch_add(1, Ordering::Relaxed);
        self.person(&format!("person{number}")).await
    }

    /// Registers an administrator.
    pub async fn admin(&self, name: &str) -> Person {
        let person = self.person(name).await;
        let user: ruma::OwnedUserId = person.user_id.parse().unwrap();
        self.hs.accounts.switch(&user, samtal_account::Switch::Admin, true).await.unwrap();
        person
    }

    /// Logs somebody in once more, with further fields in the request.
    pub async fn log_in(&self, who: &Person, more: Value) -> Answer {
        let mut body = Map::from_iter(BTreeMap::from([
            ("type".to_owned(), json!("m.login.password")),
            ("identifier".to_owned(), json!({ "type": "m.id.user", "user": who.user_id })),
            ("password".to_owned(), json!(PASSWORD)),
        ]));
        body.extend(more.as_object().cloned().unwrap_or_default());
        self.post("/v3/login", Value::Object(body)).await
    }
}

impl Person {
    /// Who has logged in with this answer.
    pub fn of(body: &Value) -> Self {
        let text = |key: &str| body[key].as_str().unwrap_or_else(|| panic!("{key} in {body}")).to_owned();
        Self { user_id: text("user_id"), device_id: text("device_id"), token: text("access_token") }
    }

    /// The `auth` of a password stage in a session.
    pub fn auth(&self, session: &Value) -> Value {
        json!({
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": self.user_id },
            "password": PASSWORD,
            "session": session,
        })
    }
}
