//! The administration API through its router, on both database engines: the calls that common tools make, and who may make them.

mod documentation;
mod member_tasks;
mod notices;
mod own;
mod tools;

use std::sync::Arc;

use axum::{Router, body::Body};
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use ruma::OwnedServerName;
use samtal_account::{Client, NewSession, NewUser};
use samtal_client_api::Peer;
use samtal_db::testing::{Directory, drop_schema, postgres, sqlite};
use samtal_kit::{Clock, Random};
use samtal_ops::{Homeserver, Settings};
use serde_json::{Value, json};
use tower::ServiceExt;

struct Node {
    hs: Arc<Homeserver>,
    router: Router,
}

impl Node {
    async fn open(database: &samtal_db::Options) -> Self {
        Self::open_at(database, 1_700_000_000_000).await
    }

    async fn open_at(database: &samtal_db::Options, now_ms: u64) -> Self {
        let mut settings = Settings::default();
        settings.accounts.password_cost = samtal_account::PasswordCost::CHEAP;
        settings.accounts.rates = None;
        let name = OwnedServerName::try_from("samtal.test").unwrap();
        let clock = Clock::manual(now_ms);
        let hs = Homeserver::open(name, database, settings, clock, Random::seeded(7)).await.unwrap();
        let routes =
            samtal_client_api::routes().merge(samtal_admin_api::synapse_routes()).merge(samtal_admin_api::own_routes());
        Self { hs, router: routes.into_router() }
    }

    async fn user(&self, localpart: &str, admin: bool) -> String {
        let mut new = NewUser::normal(self.hs.accounts.new_user_id(localpart).unwrap());
        new.admin = admin;
        new.session = Some(NewSession::default());
        self.hs.accounts.create(new, &Client::default()).await.unwrap().unwrap().access_token
    }

    async fn ask(&self, method: Method, path: &str, token: &str, body: Value) -> (StatusCode, Value) {
        let path = if path.starts_with("/_") { path.to_owned() } else { format!("/_synapse/admin{path}") };
        let request =
            Request::builder().method(method).uri(path).header(header::AUTHORIZATION, format!("Bearer {token}"));
        let mut request = request.body(Body::from(body.to_string())).unwrap();
        request.extensions_mut().insert(Arc::clone(&self.hs));
        request.extensions_mut().insert(Peer([192, 0, 2, 1].into()));
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    #[track_caller]
    fn ok((status, body): (StatusCode, Value)) -> Value {
        assert_eq!(status, StatusCode::OK, "{body}");
        body
    }

    async fn get(&self, path: &str, token: &str) -> Value {
        Self::ok(self.ask(Method::GET, path, token, json!({})).await)
    }

    async fn post(&self, path: &str, token: &str, body: Value) -> Value {
        Self::ok(self.ask(Method::POST, path, token, body).await)
    }

    async fn room(&self, token: &str, more: Value) -> String {
        let made = self.post("/_matrix/client/v3/createRoom", token, more).await;
        made["room_id"].as_str().unwrap().to_owned()
    }
}

async fn each_engine(test: impl AsyncFn(Node)) {
    let directory = Directory::new();
    test(Node::open(&sqlite(&directory)).await).await;
    if let Some(options) = postgres() {
        test(Node::open(&options).await).await;
        drop_schema(&options).await;
    }
}

#[tokio::test]
async fn only_administrators_of_the_server_are_let_in() {
    each_engine(async |node: Node| {
        let bob = node.user("bob", false).await;
        let routes = samtal_admin_api::synapse_routes().merge(samtal_admin_api::own_routes());
        for (method, path) in routes.list() {
            let path = path.replace("{user_id}", "@bob:samtal.test").replace("{room_id}", "!r:samtal.test");
            let path = path.replace(['{', '}'], "");
            let (status, body) = node.ask(method.clone(), &path, &bob, json!({})).await;
            assert_eq!((status.as_u16(), &body["errcode"]), (403, &json!("M_FORBIDDEN")), "{method} {path}");
            let (status, _) = node.ask(method.clone(), &path, "nonsense", json!({})).await;
            assert_eq!(status.as_u16(), 401, "{method} {path}");
        }
    })
    .await;
}

#[tokio::test]
async fn users_are_made_found_changed_and_ended() {
    each_engine(async |node: Node| {
        let admin = node.user("root", true).await;
        let path = "/v2/users/@carol:samtal.test";
        let new = json!({ "password": "a long password", "displayname": "Carol", "admin": false });
        let (status, made) = node.ask(Method::PUT, path, &admin, new).await;
        assert_eq!(status, StatusCode::CREATED, "{made}");
        assert_eq!((&made["displayname"], &made["deactivated"]), (&json!("Carol"), &json!(false)));
        node.user("dave", false).await;
        let list = node.get("/v2/users?from=0&limit=2&guests=false", &admin).await;
        assert_eq!((&list["total"], &list["next_token"]), (&json!(3), &json!("2")));
        assert_eq!(list["users"].as_array().unwrap().len(), 2);
        let found = node.get("/v2/users?name=caro", &admin).await;
        assert_eq!(found["users"][0]["name"], "@carol:samtal.test");
        Node::ok(node.ask(Method::PUT, path, &admin, json!({ "displayname": null, "locked": true })).await);
        let carol = node.get(path, &admin).await;
        assert_eq!((&carol["displayname"], &carol["locked"]), (&Value::Null, &json!(true)));
        assert_eq!(node.get("/v2/users?name=caro", &admin).await["total"], 0, "the locked are listed on demand only");
        Node::ok(node.ask(Method::PUT, path, &admin, json!({ "locked": false })).await);
        let token = node.post("/v1/users/@carol:samtal.test/login", &admin, json!({})).await;
        let token = token["access_token"].as_str().unwrap().to_owned();
        assert_eq!(node.get("/_matrix/client/v3/account/whoami", &token).await["user_id"], "@carol:samtal.test");
        assert_eq!(node.get("/v2/users/@carol:samtal.test/devices", &admin).await["total"], 1);
        let reset = json!({ "new_password": "another long password" });
        node.post("/v1/reset_password/@carol:samtal.test", &admin, reset).await;
        assert_eq!(node.get("/v2/users/@carol:samtal.test/devices", &admin).await["total"], 0);
        node.post("/v1/deactivate/@carol:samtal.test", &admin, json!({ "erase": true })).await;
        assert_eq!(node.get(path, &admin).await["deactivated"], true);
        assert_eq!(node.get("/v2/users?name=caro", &admin).await["total"], 0);
        assert_eq!(node.get("/v2/users?name=caro&deactivated=true", &admin).await["total"], 1);
        let back = json!({ "deactivated": false, "password": "a third password" });
        assert_eq!(Node::ok(node.ask(Method::PUT, path, &admin, back).await)["deactivated"], false);
        let (status, _) = node.ask(Method::GET, "/v2/users/@nobody:samtal.test", &admin, json!({})).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        let demote = json!({ "admin": false });
        let (status, _) = node.ask(Method::PUT, "/v1/users/@root:samtal.test/admin", &admin, demote).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
    })
    .await;
}

#[tokio::test]
async fn rooms_are_listed_blocked_and_deleted() {
    each_engine(async |node: Node| {
        let admin = node.user("root", true).await;
        let bob = node.user("bob", false).await;
        let room =
            node.room(&bob, json!({ "name": "Bad place", "preset": "public_chat", "room_alias_name": "bad" })).await;
        let other = node.room(&bob, json!({ "name": "Another" })).await;
        let list = node.get("/v1/rooms", &admin).await;
        assert_eq!(list["total_rooms"], 2);
        assert_eq!(list["rooms"][0]["room_id"], other.as_str(), "by name");
        let found = node.get("/v1/rooms?search_term=bad", &admin).await;
        assert_eq!(
            (&found["total_rooms"], &found["rooms"][0]["canonical_alias"]),
            (&json!(1), &json!("#bad:samtal.test"))
        );
        let details = node.get(&format!("/v1/rooms/{room}"), &admin).await;
        assert_eq!((&details["joined_local_members"], &details["creator"]), (&json!(1), &json!("@bob:samtal.test")));
        let members = node.get(&format!("/v1/rooms/{room}/members"), &admin).await;
        assert_eq!(members, json!({ "members": ["@bob:samtal.test"], "total": 1 }));
        let state = node.get(&format!("/v1/rooms/{room}/state"), &admin).await;
        assert!(state["state"].as_array().unwrap().iter().any(|event| event["type"] == "m.room.name"));
        let messages = node.get(&format!("/v1/rooms/{room}/messages?limit=2"), &admin).await;
        assert_eq!(messages["chunk"].as_array().unwrap().len(), 2);
        let wish = json!({ "block": true, "purge": true, "new_room_user_id": "@root:samtal.test", "message": "Gone" });
        let done = Node::ok(node.ask(Method::DELETE, &format!("/v1/rooms/{room}"), &admin, wish).await);
        assert_eq!(done["kicked_users"], json!(["@bob:samtal.test"]));
        assert_eq!(done["local_aliases"], json!(["#bad:samtal.test"]));
        let refuge = done["new_room_id"].as_str().unwrap();
        let joined = node.get("/v1/users/@bob:samtal.test/joined_rooms", &admin).await;
        let joined = joined["joined_rooms"].as_array().unwrap().clone();
        assert!(joined.contains(&json!(refuge)) && !joined.contains(&json!(room)), "{joined:?}");
        assert_eq!(node.get(&format!("/v1/rooms/{room}/block"), &admin).await["block"], true);
        let (status, _) = node.ask(Method::GET, &format!("/v1/rooms/{room}"), &admin, json!({})).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        node.get("/_matrix/client/v3/sync", &bob).await;
        // In the background.
        let begun = Node::ok(node.ask(Method::DELETE, &format!("/v2/rooms/{other}"), &admin, json!({})).await);
        let status_path = format!("/v2/rooms/delete_status/{}", begun["delete_id"].as_str().unwrap());
        let done = loop {
            let status = node.get(&status_path, &admin).await;
            if status["status"] != "active" {
                break status;
            }
            tokio::task::yield_now().await;
        };
        assert_eq!(
            (&done["status"], &done["shutdown_room"]["kicked_users"]),
            (&json!("complete"), &json!(["@bob:samtal.test"]))
        );
    })
    .await;
}

#[tokio::test]
async fn registration_tokens_and_reports_are_worked_through() {
    each_engine(async |node: Node| {
        let admin = node.user("root", true).await;
        let new = json!({ "token": "welcome", "uses_allowed": 2 });
        let made = node.post("/v1/registration_tokens/new", &admin, new).await;
        assert_eq!((&made["token"], &made["completed"]), (&json!("welcome"), &json!(0)));
        let change = json!({ "uses_allowed": null });
        let one = "/v1/registration_tokens/welcome";
        assert_eq!(Node::ok(node.ask(Method::PUT, one, &admin, change).await)["uses_allowed"], Value::Null);
        assert_eq!(node.get("/v1/registration_tokens?valid=false", &admin).await["registration_tokens"], json!([]));
        Node::ok(node.ask(Method::DELETE, one, &admin, json!({})).await);
        assert_eq!(node.ask(Method::GET, one, &admin, json!({})).await.0, StatusCode::NOT_FOUND);
        let bob = node.user("bob", false).await;
        let room = node.room(&bob, json!({ "name": "Place" })).await;
        let send = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/1");
        let sent = Node::ok(node.ask(Method::PUT, &send, &bob, json!({ "body": "x" })).await)["event_id"]
            .as_str()
            .unwrap()
            .to_owned();
        let report = json!({ "reason": "rude" });
        node.post(&format!("/_matrix/client/v3/rooms/{room}/report/{sent}"), &bob, report).await;
        let list = node.get("/v1/event_reports", &admin).await;
        let report = &list["event_reports"][0];
        assert_eq!(
            (&report["reason"], &report["event_id"], &report["name"]),
            (&json!("rude"), &json!(sent), &json!("Place"))
        );
        let path = format!("/v1/event_reports/{}", report["id"]);
        assert_eq!(node.get(&path, &admin).await["event_json"]["content"], json!({ "body": "x" }));
        Node::ok(node.ask(Method::DELETE, &path, &admin, json!({})).await);
        assert_eq!(node.get("/v1/event_reports", &admin).await["total"], 0);
    })
    .await;
}

#[tokio::test]
async fn bridges_come_and_go_while_the_server_runs() {
    each_engine(async |node: Node| {
        let admin = node.user("root", true).await;
        let path = "/_samtal/admin/v1/appservices/irc";
        let registration = json!({
            "id": "irc", "url": null, "as_token": "secret-one", "hs_token": "secret-two", "sender_localpart": "ircbot",
            "namespaces": { "users": [{ "exclusive": true, "regex": "@irc_.*" }] },
        });
        let shown = Node::ok(node.ask(Method::PUT, path, &admin, registration.clone()).await);
        assert!(!shown.to_string().contains("secret"), "{shown}");
        assert_eq!(node.get("/_matrix/client/v3/account/whoami", "secret-one").await["user_id"], "@ircbot:samtal.test");
        let mut twice = registration.clone();
        twice["id"] = "other".into();
        let (status, _) = node.ask(Method::PUT, "/_samtal/admin/v1/appservices/other", &admin, twice).await;
        assert_eq!(status, StatusCode::CONFLICT);
        Node::ok(node.ask(Method::DELETE, path, &admin, json!({})).await);
        let (status, _) = node.ask(Method::GET, "/_matrix/client/v3/account/whoami", "secret-one", json!({})).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
    })
    .await;
}

#[tokio::test]
async fn what_tools_ask_first_is_answered() {
    each_engine(async |node: Node| {
        let admin = node.user("root", true).await;
        assert!(node.get("/v1/server_version", &admin).await["server_version"].is_string());
        assert_eq!(node.get("/v1/federation/destinations", &admin).await["total"], 0);
        assert_eq!(node.get("/v1/statistics/users/media", &admin).await["total"], 0);
        assert_eq!(node.get("/v1/background_updates/status", &admin).await["enabled"], true);
        assert_eq!(node.get("/v1/username_available?username=free", &admin).await["available"], true);
        assert_eq!(node.get("/v1/users/@root:samtal.test/media", &admin).await["total"], 0);
        assert_eq!(node.get("/v1/users/@root:samtal.test/pushers", &admin).await["total"], 0);
        let data = node.get("/v1/users/@root:samtal.test/accountdata", &admin).await;
        assert!(data["account_data"]["global"]["m.push_rules"].is_object());
        assert_eq!(node.get("/v1/whois/@root:samtal.test", &admin).await["user_id"], "@root:samtal.test");
    })
    .await;
}
