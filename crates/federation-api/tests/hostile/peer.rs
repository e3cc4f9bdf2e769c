//! A server that does as its script says: it signs what the test wants, right or wrong, and answers what the test wants.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use ruma::{
    CanonicalJsonObject, OwnedEventId, OwnedServerName, RoomId, RoomVersionId,
    room_version_rules::RoomVersionRules,
    signatures::{hash_and_sign_event, reference_hash},
};
use samtal_event::rules_of;
use samtal_keyring::{OwnKey, OwnKeys, XMatrix};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::world::{Node, World};

/// What a peer answers to a path that begins so.
type Script = Box<dyn Fn(&Request<Bytes>) -> Response<samtal_remote::Body> + Send + Sync>;

pub struct Peer {
    pub name: OwnedServerName,
    pub key: OwnKey,
    /// Whether its signatures say for whom they are; old servers' do not.
    pub names_destination: bool,
    scripts: Arc<Mutex<Vec<(&'static str, Script)>>>,
    asked: Arc<Mutex<Vec<String>>>,
    transactions: AtomicUsize,
}

/// What a peer knows of a room it is in.
pub struct Membership {
    pub room: ruma::OwnedRoomId,
    pub rules: &'static RoomVersionRules,
    /// The state before its join, by type and state key.
    pub state: Vec<Value>,
    /// Its join.
    pub join: Value,
}

impl Peer {
    /// A peer that publishes its keys and knows nothing else.
    pub fn new(world: &World, name: &str) -> Self {
        let key = OwnKey::from_seed("ed25519:peer", [7; 32], 0, None).unwrap();
        let name: OwnedServerName = name.try_into().unwrap();
        let scripts: Arc<Mutex<Vec<(&'static str, Script)>>> = Arc::default();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let document = OwnKeys::new(vec![key.clone()]).unwrap().document(&name, world.clock.now_ms() + 86_400_000);
        let (answers, noted) = (Arc::clone(&scripts), Arc::clone(&asked));
        world.network.insert(
            name.clone(),
            Box::new(move |request: Request<Bytes>| {
                let path = request.uri().path().to_owned();
                noted.lock().push(path.clone());
                let scripts = answers.lock();
                let script = scripts.iter().rev().find(|(prefix, _)| path.starts_with(prefix));
                let answer = match script {
                    Some((_, script)) => script(&request),
                    None if path == "/_matrix/key/v2/server" => {
                        json_answer(StatusCode::OK, Value::String(document.clone()))
                    }
                    None => json_answer(StatusCode::NOT_FOUND, json!({ "errcode": "M_UNRECOGNIZED", "error": "no" })),
                };
                drop(scripts);
                Box::pin(async move { answer })
            }),
        );
        Self { name, key, names_destination: true, scripts, asked, transactions: AtomicUsize::new(0) }
    }

    pub fn user(&self) -> String {
        format!("@mallory:{}", self.name)
    }

    /// Answers requests whose path begins so from now on. A string is sent as it is, all else as JSON.
    pub fn answer(
        &self,
        prefix: &'static str,
        script: impl Fn(&Request<Bytes>) -> (StatusCode, Value) + Send + Sync + 'static,
    ) {
        self.answer_http(prefix, move |request| {
            let (status, body) = script(request);
            json_answer(status, body)
        });
    }

    /// The same with any answer at all.
    pub fn answer_http(
        &self,
        prefix: &'static str,
        script: impl Fn(&Request<Bytes>) -> Response<samtal_remote::Body> + Send + Sync + 'static,
    ) {
        self.scripts.lock().push((prefix, Box::new(script)));
    }

    /// How many requests with such a path came.
    pub fn asked(&self, prefix: &str) -> usize {
        self.asked.lock().iter().filter(|path| path.starts_with(prefix)).count()
    }

    /// Sends a signed request.
    pub async fn call(&self, to: &Node, method: &str, path: &str, body: &str) -> (StatusCode, Value) {
        let header = XMatrix::sign(&self.name, to.name(), self.key.pair(), method, path, body);
        // What is no JSON cannot be signed; then what is signed does not matter.
        let header = header.map_or_else(
            |_| XMatrix::sign(&self.name, to.name(), self.key.pair(), method, path, "").unwrap().to_string(),
            |header| match self.names_destination {
                true => header.to_string(),
                false => XMatrix { destination: None, ..header }.to_string(),
            },
        );
        let request = Request::builder().method(method).uri(path).header("authorization", header);
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let router = samtal_federation_api::router().layer(axum::Extension(to.hs.clone()));
        let response = router.oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    /// Sends a transaction.
    pub async fn send(&self, to: &Node, pdus: &[Value], edus: &[Value]) -> (StatusCode, Value) {
        let number = self.transactions.fetch_add(1, Ordering::Relaxed);
        self.send_as(to, &format!("t{number}"), pdus, edus).await
    }

    /// Sends a transaction of this id.
    pub async fn send_as(&self, to: &Node, id: &str, pdus: &[Value], edus: &[Value]) -> (StatusCode, Value) {
        let body = json!({ "origin": self.name, "origin_server_ts": 1, "pdus": pdus, "edus": edus }).to_string();
        self.call(to, "PUT", &format!("/_matrix/federation/v1/send/{id}"), &body).await
    }

    /// Hashes and signs an event.
    pub fn sign(&self, mut event: Value, rules: &RoomVersionRules) -> Value {
        let mut object: CanonicalJsonObject = serde_json::from_value(event.take()).unwrap();
        hash_and_sign_event(self.name.as_str(), self.key.pair(), &mut object, &rules.redaction).unwrap();
        serde_json::to_value(object).unwrap()
    }

    /// Joins through a node, as a server that behaves.
    pub async fn join(&self, node: &Node, room: &RoomId) -> Membership {
        let user = self.user();
        let versions = ["1", "6", "9", "10", "11", "12"].map(|version| format!("ver={version}")).join("&");
        let path = format!("/_matrix/federation/v1/make_join/{room}/{user}?{versions}");
        let (status, made) = self.call(node, "GET", &path, "").await;
        assert_eq!(status, StatusCode::OK, "{made}");
        let version: RoomVersionId = made["room_version"].as_str().unwrap().try_into().unwrap();
        let rules = rules_of(&version).unwrap();
        let mut template = made["event"].clone();
        template["origin_server_ts"] = json!(1_700_000_000_000_u64);
        let join = self.sign(template, rules);
        let id = id_of(&join, rules);
        let path = format!("/_matrix/federation/v2/send_join/{room}/{id}");
        let (status, answer) = self.call(node, "PUT", &path, &join.to_string()).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let state = answer["state"].as_array().unwrap().clone();
        Membership { room: room.to_owned(), rules, state, join }
    }
}

impl Membership {
    /// The id of the state event of this type and state key.
    pub fn state_id(&self, event_type: &str, state_key: &str) -> OwnedEventId {
        let event = self.state.iter().find(|event| event["type"] == event_type && event["state_key"] == state_key);
        id_of(event.unwrap(), self.rules)
    }

    /// An event of the peer's user, not signed yet.
    pub fn draft(&self, peer: &Peer, prev: &[OwnedEventId], text: &str) -> Value {
        json!({
            "room_id": self.room,
            "sender": peer.user(),
            "type": "m.room.message",
            "content": { "msgtype": "m.text", "body": text },
            "origin_server_ts": 1_700_000_000_001_u64,
            "depth": 100,
            "prev_events": prev,
            "auth_events": self.auth_events(),
        })
    }

    pub fn auth_events(&self) -> Vec<OwnedEventId> {
        vec![
            self.state_id("m.room.create", ""),
            self.state_id("m.room.power_levels", ""),
            id_of(&self.join, self.rules),
        ]
    }

    /// A good event of the peer's user.
    pub fn message(&self, peer: &Peer, prev: &[OwnedEventId], text: &str) -> Value {
        peer.sign(self.draft(peer, prev, text), self.rules)
    }

    pub fn join_id(&self) -> OwnedEventId {
        id_of(&self.join, self.rules)
    }
}

fn json_answer(status: StatusCode, body: Value) -> Response<samtal_remote::Body> {
    let body = match body {
        Value::String(raw) => raw,
        other => other.to_string(),
    };
    let answer = Response::builder().status(status).header("content-type", "application/json");
    answer.body(Bytes::from(body).into()).unwrap()
}

/// The id of an event of a room of version 3 or later.
pub fn id_of(event: &Value, rules: &RoomVersionRules) -> OwnedEventId {
    let object: CanonicalJsonObject = serde_json::from_value(event.clone()).unwrap();
    format!("${}", reference_hash(&object, rules).unwrap()).try_into().unwrap()
}
