//! Application services: what a bridge is told, and what it may do.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use axum::{Router, body::Body, extract::State, response::IntoResponse};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use samtal_appservice::{Backoff, Registration};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::harness::{Answer, Node, Person, each_engine_with, settings};

const TOKEN: &str = "as-token";
const TIME: Duration = Duration::from_secs(20);

/// What the bridge was asked.
#[derive(Debug)]
struct Asked {
    method: Method,
    path: String,
    authorization: String,
    body: Value,
}

type Answers = Arc<Mutex<VecDeque<(StatusCode, Value)>>>;

/// A bridge that notes what it is asked, and answers `{}` unless it has been told otherwise.
struct Bridge {
    url: String,
    asked: mpsc::Receiver<Asked>,
    answers: Answers,
}

async fn answer(
    State((heard, answers)): State<(mpsc::Sender<Asked>, Answers)>,
    request: Request<Body>,
) -> impl IntoResponse {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let authorization = parts.headers.get("authorization").map_or("", |value| value.to_str().unwrap()).to_owned();
    let asked = Asked {
        method: parts.method,
        path: parts.uri.to_string(),
        authorization,
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
    };
    heard.send(asked).await.unwrap();
    let (status, body) = answers.lock().pop_front().unwrap_or((StatusCode::OK, json!({})));
    (status, axum::Json(body))
}

impl Bridge {
    async fn start(node: &Node) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (heard, asked) = mpsc::channel(1_000);
        let answers = Answers::default();
        let router = Router::new().fallback(answer).with_state((heard, Arc::clone(&answers)));
        node.hs.tasks.spawn("bridge", async move { axum::serve(listener, router).await });
        Self { url, asked, answers }
    }

    fn registration(&self) -> Value {
        json!({
            "id": "bridge", "url": self.url, "as_token": TOKEN, "hs_token": "hs-token", "sender_localpart": "bot",
            "rate_limited": false, "receive_ephemeral": true, "org.matrix.msc3202": true, "protocols": ["irc"],
            "namespaces": {
                "users": [{ "exclusive": true, "regex": "@irc_.*:samtal.test" }],
                "aliases": [{ "exclusive": true, "regex": "#irc_.*:samtal.test" }],
            },
        })
    }

    async fn attached(node: &Node) -> Self {
        let bridge = Self::start(node).await;
        node.hs.appservices.add(serde_json::from_value(bridge.registration()).unwrap()).await.unwrap();
        bridge
    }

    async fn next(&mut self) -> Asked {
        tokio::time::timeout(TIME, self.asked.recv()).await.expect("the bridge is asked").unwrap()
    }

    /// Events of transactions, until one has this type.
    async fn events_until(&mut self, event_type: &str) -> Vec<Value> {
        let mut events = Vec::new();
        loop {
            let asked = self.next().await;
            assert_eq!(asked.method, Method::PUT);
            assert_eq!(asked.authorization, "Bearer hs-token");
            events.extend(asked.body["events"].as_array().unwrap().iter().cloned());
            if events.iter().any(|event| event["type"] == event_type) {
                return events;
            }
        }
    }
}

/// The bridge, or a ghost of it.
fn bridge_user(user_id: &str) -> Person {
    Person { user_id: user_id.to_owned(), device_id: String::new(), token: TOKEN.to_owned() }
}

async fn as_ghost(node: &Node, method: Method, path: &str, ghost: &str, body: Value) -> Answer {
    let path = format!("{path}?user_id={}", ghost.replace('@', "%40"));
    node.bytes(method, &path, Some(TOKEN), body.to_string()).await
}

async fn register(node: &Node, localpart: &str) -> String {
    let body = json!({ "type": "m.login.application_service", "username": localpart, "inhibit_login": true });
    let made = node.post_as(&bridge_user(""), "/v3/register", body).await.ok();
    made["user_id"].as_str().unwrap().to_owned()
}

async fn room(node: &Node, who: &Person, more: Value) -> String {
    let room = node.post_as(who, "/v3/createRoom", more).await.ok();
    room["room_id"].as_str().unwrap().to_owned()
}

async fn say(node: &Node, who: &Person, room: &str, event_type: &str, txn: &str) {
    let path = format!("/v3/rooms/{room}/send/{event_type}/{txn}");
    node.put_as(who, &path, json!({ "body": txn })).await.ok();
}

async fn each_engine(test: impl AsyncFn(Node)) {
    let mut settings = settings();
    settings.appservices.backoff = Backoff { first: Duration::from_millis(1), longest: Duration::from_millis(5) };
    each_engine_with(settings, test).await;
}

fn types(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_bridge_hears_of_rooms_its_ghosts_are_in_and_of_no_others() {
    each_engine(async |node: Node| {
        let mut bridge = Bridge::attached(&node).await;
        let alice = node.person("alice").await;
        let ghost = register(&node, "irc_bob").await;
        let other = room(&node, &alice, json!({})).await;
        say(&node, &alice, &other, "unheard", "1").await;
        let ours = room(&node, &alice, json!({ "name": "Ours", "preset": "private_chat" })).await;
        say(&node, &alice, &ours, "unheard", "2").await;
        node.post_as(&alice, &format!("/v3/rooms/{ours}/invite"), json!({ "user_id": ghost })).await.ok();
        let events = bridge.events_until("m.room.member").await;
        assert_eq!(events.len(), 1, "{events:?}");
        assert_eq!((&events[0]["state_key"], &events[0]["room_id"]), (&json!(ghost), &json!(ours)));
        let stripped = events[0]["unsigned"]["invite_room_state"].as_array().unwrap();
        assert!(stripped.iter().any(|event| event["content"]["name"] == "Ours"), "{stripped:?}");
        as_ghost(&node, Method::POST, &format!("/v3/rooms/{ours}/join"), &ghost, json!({})).await.ok();
        for n in 0..5 {
            say(&node, &alice, &ours, "heard", &format!("heard-{n}")).await;
            say(&node, &alice, &other, "unheard", &format!("more-{n}")).await;
        }
        as_ghost(&node, Method::POST, &format!("/v3/rooms/{ours}/leave"), &ghost, json!({})).await.ok();
        say(&node, &alice, &ours, "unheard", "gone").await;
        as_ghost(
            &node,
            Method::PUT,
            "/v3/profile/@irc_bob:samtal.test/displayname",
            &ghost,
            json!({ "displayname": "B" }),
        )
        .await
        .ok();
        let last = room(&node, &alice, json!({ "invite": [ghost] })).await;
        let mut events = Vec::new();
        while !events.iter().any(|event: &Value| event["room_id"] == last.as_str()) {
            events.extend(bridge.events_until("m.room.member").await);
        }
        let types = types(&events);
        assert!(!types.contains(&"unheard"), "{types:?}");
        let bodies: Vec<&str> = events.iter().filter_map(|event| event["content"]["body"].as_str()).collect();
        assert_eq!(bodies, ["heard-0", "heard-1", "heard-2", "heard-3", "heard-4"]);
    })
    .await;
}

#[tokio::test]
async fn note_75_a_bridge_that_fails_gets_the_same_transaction_again_and_nothing_is_lost() {
    each_engine(async |node: Node| {
        let mut bridge = Bridge::start(&node).await;
        // As often as it is tried in an hour.
        let failures = (0..60).map(|_| (StatusCode::INTERNAL_SERVER_ERROR, json!({})));
        bridge.answers.lock().extend(failures);
        node.hs.appservices.add(serde_json::from_value(bridge.registration()).unwrap()).await.unwrap();
        let alice = node.person("alice").await;
        let ours = room(&node, &alice, json!({ "invite": ["@bot:samtal.test"] })).await;
        node.post_as(&bridge_user(""), &format!("/v3/rooms/{ours}/join"), json!({})).await.ok();
        for n in 0..10 {
            say(&node, &alice, &ours, "m.room.message", &n.to_string()).await;
        }
        let first = bridge.next().await;
        for _ in 0..60 {
            let again = bridge.next().await;
            assert_eq!((&again.path, &again.body), (&first.path, &first.body));
        }
        let mut events = first.body["events"].as_array().unwrap().clone();
        let mut paths = vec![first.path];
        while events.iter().filter(|event| event["type"] == "m.room.message").count() < 10 {
            let asked = bridge.next().await;
            assert!(!paths.contains(&asked.path), "a delivered transaction came again");
            paths.push(asked.path);
            events.extend(asked.body["events"].as_array().unwrap().iter().cloned());
        }
        let bodies: Vec<_> = events.iter().filter_map(|event| event["content"]["body"].as_str()).collect();
        assert_eq!(bodies, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    })
    .await;
}

#[tokio::test]
async fn a_bridge_that_knows_only_the_old_paths_is_told_there() {
    each_engine(async |node: Node| {
        let mut bridge = Bridge::start(&node).await;
        bridge.answers.lock().push_back((StatusCode::NOT_FOUND, json!({ "errcode": "M_UNRECOGNIZED" })));
        node.hs.appservices.add(serde_json::from_value(bridge.registration()).unwrap()).await.unwrap();
        let alice = node.person("alice").await;
        room(&node, &alice, json!({ "invite": ["@bot:samtal.test"] })).await;
        let new = bridge.next().await;
        let old = bridge.next().await;
        let txn = new.path.strip_prefix("/_matrix/app/v1/transactions/").unwrap();
        assert!(txn.bytes().all(|byte| byte.is_ascii_digit()), "{txn}");
        assert_eq!(old.path, format!("/transactions/{txn}?access_token=hs-token"));
        assert_eq!(old.body, new.body);
        room(&node, &alice, json!({ "invite": ["@bot:samtal.test"] })).await;
        assert!(bridge.next().await.path.starts_with("/transactions/"));
    })
    .await;
}

#[tokio::test]
async fn a_bridge_hears_of_typing_receipts_and_messages_to_its_devices() {
    each_engine(async |node: Node| {
        let mut bridge = Bridge::attached(&node).await;
        let alice = node.person("alice").await;
        let ours = room(&node, &alice, json!({ "invite": ["@bot:samtal.test"] })).await;
        node.post_as(&bridge_user(""), &format!("/v3/rooms/{ours}/join"), json!({})).await.ok();
        let sent =
            node.put_as(&alice, &format!("/v3/rooms/{ours}/send/m.room.message/1"), json!({ "body": "x" })).await;
        let event_id = sent.ok()["event_id"].as_str().unwrap().to_owned();
        let typing = format!("/v3/rooms/{ours}/typing/{}", alice.user_id);
        node.put_as(&alice, &typing, json!({ "typing": true, "timeout": 30_000 })).await.ok();
        node.post_as(&alice, &format!("/v3/rooms/{ours}/receipt/m.read/{event_id}"), json!({})).await.ok();
        let device = json!({ "display_name": "bridge" });
        node.put_as(&bridge_user(""), "/v3/devices/BRIDGE", device).await.expect(201);
        let message = json!({ "messages": { "@bot:samtal.test": { "BRIDGE": { "hello": 1 } } } });
        node.put_as(&alice, "/v3/sendToDevice/org.example.test/1", message).await.ok();
        let (mut seen, mut to_device) = (Vec::new(), Vec::new());
        while !(seen.contains(&"m.typing".to_owned())
            && seen.contains(&"m.receipt".to_owned())
            && !to_device.is_empty())
        {
            let asked = bridge.next().await;
            for event in asked.body["ephemeral"].as_array().unwrap() {
                if event["type"] == "m.typing" {
                    assert_eq!(event["content"]["user_ids"], json!([alice.user_id]));
                }
                if event["type"] == "m.receipt" {
                    assert!(event["content"][&event_id]["m.read"][&alice.user_id].is_object(), "{event}");
                }
                if event["type"] != "m.presence" {
                    assert_eq!(event["room_id"], ours.as_str());
                }
                seen.push(event["type"].as_str().unwrap().to_owned());
            }
            to_device.extend(asked.body["de.sorunome.msc2409.to_device"].as_array().unwrap().iter().cloned());
        }
        assert_eq!(to_device.len(), 1);
        assert_eq!(to_device[0]["to_user_id"], "@bot:samtal.test");
        assert_eq!(to_device[0]["to_device_id"], "BRIDGE");
        assert_eq!(to_device[0]["content"], json!({ "hello": 1 }));
    })
    .await;
}

#[tokio::test]
async fn a_bridge_hears_whose_devices_it_needs_to_know_no_longer() {
    each_engine(async |node: Node| {
        let mut bridge = Bridge::attached(&node).await;
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let wish = json!({ "preset": "public_chat", "invite": ["@bot:samtal.test"] });
        let ours = room(&node, &alice, wish).await;
        node.post_as(&bridge_user(""), &format!("/v3/rooms/{ours}/join"), json!({})).await.ok();
        node.post_as(&bob, &format!("/v3/join/{ours}"), json!({})).await.ok();
        let mut until = async |kind: &str, who: &str| loop {
            let asked = bridge.next().await;
            let lists = &asked.body["device_lists"];
            if lists[kind].as_array().unwrap().iter().any(|user| user == who) {
                break lists.clone();
            }
        };
        until("changed", &bob.user_id).await;
        node.post_as(&bob, &format!("/v3/rooms/{ours}/leave"), json!({})).await.ok();
        let lists = until("left", &bob.user_id).await;
        assert!(!lists["changed"].as_array().unwrap().contains(&json!(bob.user_id)), "{lists}");
        // When the bot goes, nobody is left whom it needs to know.
        node.post_as(&bridge_user(""), &format!("/v3/rooms/{ours}/leave"), json!({})).await.ok();
        until("left", &alice.user_id).await;
    })
    .await;
}

#[tokio::test]
async fn names_of_a_bridge_are_its_own() {
    each_engine(async |node: Node| {
        let _bridge = Bridge::attached(&node).await;
        let alice = node.person("alice").await;
        node.post("/v3/register", json!({ "username": "irc_eve", "password": "correct horse battery" }))
            .await
            .refused(400, "M_EXCLUSIVE");
        let foreign = json!({ "type": "m.login.application_service", "username": "eve", "inhibit_login": true });
        node.post_as(&bridge_user(""), "/v3/register", foreign).await.refused(400, "M_EXCLUSIVE");
        let ours = room(&node, &alice, json!({})).await;
        let alias = "/v3/directory/room/%23irc_x:samtal.test";
        node.put_as(&alice, alias, json!({ "room_id": ours })).await.refused(400, "M_EXCLUSIVE");
        node.put_as(&bridge_user(""), alias, json!({ "room_id": ours })).await.ok();
        as_ghost(&node, Method::GET, "/v3/account/whoami", "@alice:samtal.test", json!({}))
            .await
            .refused(403, "M_FORBIDDEN");
        let who = node.get_as(&bridge_user(""), "/v3/account/whoami").await.ok();
        assert_eq!(who["user_id"], "@bot:samtal.test");
    })
    .await;
}

#[tokio::test]
async fn a_bridge_that_does_not_encrypt_can_read_its_private_rooms() {
    each_engine(async |node: Node| {
        let _bridge = Bridge::attached(&node).await;
        let alice = node.person("alice").await;
        let ghost = register(&node, "irc_ghost").await;
        let by_bot = room(&node, &bridge_user(""), json!({ "invite": [alice.user_id] })).await;
        let body = json!({ "preset": "trusted_private_chat", "invite": [alice.user_id], "is_direct": true });
        let by_ghost = as_ghost(&node, Method::POST, "/v3/createRoom", &ghost, body).await.ok();
        let with_ghost = room(&node, &alice, json!({ "preset": "private_chat", "invite": [ghost] })).await;
        let encryption = |room: &str| format!("/v3/rooms/{room}/state/m.room.encryption");
        node.get_as(&bridge_user(""), &encryption(&by_bot)).await.refused(404, "M_NOT_FOUND");
        let path = encryption(by_ghost["room_id"].as_str().unwrap());
        as_ghost(&node, Method::GET, &path, &ghost, Value::Null).await.refused(404, "M_NOT_FOUND");
        node.get_as(&alice, &encryption(&with_ghost)).await.refused(404, "M_NOT_FOUND");
        // Those who want it say so, and the others' rooms stay as they are.
        let wanted = json!([{ "type": "m.room.encryption", "content": { "algorithm": "m.megolm.v1.aes-sha2" } }]);
        let encrypted = room(&node, &bridge_user(""), json!({ "initial_state": wanted })).await;
        node.get_as(&bridge_user(""), &encryption(&encrypted)).await.ok();
        let own = room(&node, &alice, json!({})).await;
        node.get_as(&alice, &encryption(&own)).await.ok();
    })
    .await;
}

#[tokio::test]
async fn an_unknown_user_of_a_bridge_is_asked_for_by_whoever_invites_it() {
    each_engine(async |node: Node| {
        let mut bridge = Bridge::attached(&node).await;
        let alice = node.person("alice").await;
        let room = room(&node, &alice, json!({ "invite": ["@irc_kim:samtal.test", "@irc_lee:samtal.test"] })).await;
        for who in ["kim", "lee"] {
            assert_eq!(bridge.next().await.path, format!("/_matrix/app/v1/users/%40irc_{who}%3Asamtal.test"));
        }
        let invite = json!({ "user_id": "@irc_mo:samtal.test" });
        node.post_as(&alice, &format!("/v3/rooms/{room}/invite"), invite).await.ok();
        loop {
            let asked = bridge.next().await.path;
            if asked.contains("/users/") {
                break assert_eq!(asked, "/_matrix/app/v1/users/%40irc_mo%3Asamtal.test");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn an_unknown_alias_of_a_bridge_is_asked_for_and_made() {
    each_engine(async |node: Node| {
        let mut bridge = Bridge::attached(&node).await;
        let alice = node.person("alice").await;
        bridge.answers.lock().push_back((StatusCode::NOT_FOUND, json!({ "errcode": "M_NOT_FOUND" })));
        node.get_as(&alice, "/v3/directory/room/%23irc_gone:samtal.test").await.refused(404, "M_NOT_FOUND");
        assert_eq!(bridge.next().await.path, "/_matrix/app/v1/rooms/%23irc_gone%3Asamtal.test");
        node.get_as(&alice, "/v3/directory/room/%23other:samtal.test").await.refused(404, "M_NOT_FOUND");
        assert!(bridge.asked.try_recv().is_err(), "a bridge was asked for what is not its own");
    })
    .await;
}

#[tokio::test]
async fn a_bridge_can_check_its_connection() {
    each_engine(async |node: Node| {
        let mut bridge = Bridge::attached(&node).await;
        let ping = "/v1/appservice/bridge/ping";
        let pong = node.post_as(&bridge_user(""), ping, json!({ "transaction_id": "t" })).await.ok();
        assert!(pong["duration_ms"].is_u64());
        let asked = bridge.next().await;
        assert_eq!((asked.method, asked.path.as_str()), (Method::POST, "/_matrix/app/v1/ping"));
        assert_eq!(asked.body, json!({ "transaction_id": "t" }));
        bridge.answers.lock().push_back((StatusCode::IM_A_TEAPOT, json!({ "no": 1 })));
        let refused = node.post_as(&bridge_user(""), ping, json!({})).await.refused(502, "M_BAD_STATUS");
        assert_eq!((&refused["status"], &refused["body"]), (&json!(418), &json!("{\"no\":1}")));
        node.post_as(&bridge_user(""), "/v1/appservice/other/ping", json!({})).await.refused(403, "M_FORBIDDEN");
        let alice = node.person("alice").await;
        node.post_as(&alice, ping, json!({})).await.refused(403, "M_FORBIDDEN");
        let mut without = bridge.registration();
        without["url"] = Value::Null;
        let without: Registration = serde_json::from_value(without).unwrap();
        node.hs.appservices.add(without).await.unwrap();
        node.post_as(&bridge_user(""), ping, json!({})).await.refused(400, "M_URL_NOT_SET");
    })
    .await;
}

#[tokio::test]
async fn other_networks_are_looked_up_at_the_bridge() {
    each_engine(async |node: Node| {
        let mut bridge = Bridge::attached(&node).await;
        let alice = node.person("alice").await;
        let irc =
            json!({ "user_fields": ["nick"], "icon": "mxc://a/b", "instances": [{ "desc": "X", "network_id": "x" }] });
        bridge.answers.lock().push_back((StatusCode::OK, irc));
        let found = node.get_as(&alice, "/v3/thirdparty/protocols").await.ok();
        assert_eq!(found["irc"]["instances"][0]["instance_id"], "bridge|x");
        assert_eq!(found["irc"]["location_fields"], json!([]));
        assert_eq!(bridge.next().await.path, "/_matrix/app/v1/thirdparty/protocol/irc");
        node.get_as(&alice, "/v3/thirdparty/protocol/xmpp").await.refused(404, "M_NOT_FOUND");
        let user = json!({ "userid": "@irc_bob:samtal.test", "protocol": "irc", "fields": { "nick": "bob" } });
        bridge.answers.lock().push_back((StatusCode::OK, json!([user, { "userid": 5 }])));
        let found = node.get_as(&alice, "/v3/thirdparty/user/irc?nick=bob&access_token=secret").await.ok();
        assert_eq!(found, json!([user]));
        assert_eq!(bridge.next().await.path, "/_matrix/app/v1/thirdparty/user/irc?nick=bob");
    })
    .await;
}

#[tokio::test]
async fn rooms_of_other_networks_have_their_own_list() {
    each_engine(async |node: Node| {
        let _bridge = Bridge::attached(&node).await;
        let alice = node.person("alice").await;
        let ours = room(&node, &alice, json!({ "preset": "public_chat" })).await;
        let path = format!("/v3/directory/list/appservice/x/{ours}");
        node.put_as(&bridge_user(""), &path, json!({ "visibility": "public" })).await.ok();
        let list = async |body: Value| {
            let found = node.post_as(&alice, "/v3/publicRooms", body).await.ok();
            found["chunk"].as_array().unwrap().len()
        };
        assert_eq!(list(json!({})).await, 0);
        assert_eq!(list(json!({ "third_party_instance_id": "bridge|x" })).await, 1);
        assert_eq!(list(json!({ "third_party_instance_id": "bridge|y" })).await, 0);
        assert_eq!(list(json!({ "include_all_networks": true })).await, 1);
        node.put_as(&bridge_user(""), &path, json!({ "visibility": "private" })).await.ok();
        assert_eq!(list(json!({ "third_party_instance_id": "bridge|x" })).await, 0);
    })
    .await;
}
