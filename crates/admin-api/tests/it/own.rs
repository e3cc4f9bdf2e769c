//! Our own endpoints: they answer as they are described, and there is no endpoint without description.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{Node, each_engine};

impl Node {
    /// Asks one of our own endpoints, whose answer must have the form that its description says.
    async fn own(&self, method: Method, form: &str, path: &str, token: &str, body: Value) -> Value {
        let form = format!("/_samtal/admin/v1{form}");
        let answer = Self::ok(self.ask(method.clone(), &format!("/_samtal/admin/v1{path}"), token, body).await);
        let described =
            samtal_admin_api::answer_form(&method, &form).unwrap_or_else(|| panic!("{form} is not described"));
        if let Err(why) = described.check(&answer) {
            panic!("{method} {form} answers otherwise than described: {why}");
        }
        answer
    }
}

#[test]
fn every_route_of_our_own_is_described_and_nothing_else() {
    let document = samtal_admin_api::openapi();
    let mut described: Vec<String> = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        described.extend(methods.as_object().unwrap().keys().map(|method| format!("{} {path}", method.to_uppercase())));
    }
    let mut served: Vec<String> =
        samtal_admin_api::own_routes().list().iter().map(|(method, path)| format!("{method} {path}")).collect();
    described.sort();
    served.sort();
    assert_eq!(described, served);
    let summary = &document["paths"]["/_samtal/admin/v1/cases/{case_id}"]["put"];
    assert_eq!(summary["parameters"][0]["name"], "case_id");
    assert_eq!(summary["requestBody"]["content"]["application/json"]["schema"]["type"], "object");
}

#[test]
fn the_description_in_the_documentation_is_this_one() {
    let path = "../../docs/admin-api.json";
    let written = format!("{:#}\n", samtal_admin_api::openapi());
    if std::env::var_os("SAMTAL_WRITE_DOCS").is_some() {
        std::fs::write(path, &written).unwrap();
    }
    assert!(
        std::fs::read_to_string(path).is_ok_and(|found| found == written),
        "docs/admin-api.json is out of date: SAMTAL_WRITE_DOCS=1 cargo test -p samtal-admin-api --test it documentation"
    );
}

#[tokio::test]
async fn cases_are_given_out_closed_and_taken_up_again() {
    each_engine(async |node: Node| {
        let (admin, bob) = (node.user("root", true).await, node.user("bob", false).await);
        node.user("mallory", false).await;
        let room = node.room(&bob, json!({ "preset": "public_chat" })).await;
        let rude = json!({ "reason": "rude" });
        node.post("/_matrix/client/v3/users/@mallory:samtal.test/report", &bob, rude.clone()).await;
        node.post(&format!("/_matrix/client/v3/rooms/{room}/report"), &bob, rude).await;
        let list = async |query: &str| {
            let found = node.own(Method::GET, "/cases", &format!("/cases{query}"), &admin, json!({})).await;
            let cases = found["cases"].as_array().unwrap().clone();
            assert_eq!(found["total"].as_u64(), Some(cases.len() as u64));
            cases
        };
        assert_eq!(list("").await.len(), 2);
        let of_user = list("?about=user").await;
        assert_eq!(of_user[0]["user_id"], "@mallory:samtal.test");
        let id = of_user[0]["id"].as_i64().unwrap();
        let change = async |change: Value| {
            node.own(Method::PUT, "/cases/{case_id}", &format!("/cases/{id}"), &admin, change).await
        };
        assert_eq!(change(json!({ "assignee": "@root:samtal.test" })).await["state"], "assigned");
        assert_eq!(list("?assignee=@root:samtal.test").await.len(), 1);
        let closed = change(json!({ "state": "closed", "note": "Warned." })).await;
        assert_eq!(
            (&closed["state"], &closed["note"], &closed["closed_by"]),
            (&json!("closed"), &json!("Warned."), &json!("@root:samtal.test"))
        );
        assert_eq!(
            (list("").await.len(), list("?state=closed").await.len(), list("?state=all").await.len()),
            (1, 1, 2)
        );
        assert_eq!(change(json!({ "state": "open", "assignee": null })).await["state"], "open");
        assert_eq!(
            node.own(Method::GET, "/cases/{case_id}", &format!("/cases/{id}"), &admin, json!({})).await["id"],
            id
        );
        let path = format!("/_samtal/admin/v1/cases/{id}");
        let wrong = json!({ "state": "gone", "assignee": "@root:samtal.test" });
        let (status, _) = node.ask(Method::PUT, &path, &admin, wrong).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert_eq!(list("?assignee=@root:samtal.test").await.len(), 0, "what is wrong changes nothing");
        let (status, _) = node.ask(Method::GET, "/_samtal/admin/v1/cases/99", &admin, json!({})).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
    })
    .await;
}

#[tokio::test]
async fn a_room_that_nobody_governs_gets_an_administrator() {
    each_engine(async |node: Node| {
        let (admin, bob, carol) =
            (node.user("root", true).await, node.user("bob", false).await, node.user("carol", false).await);
        // In version 12 the creator has power for ever, in version 11 the power levels name them.
        for version in ["11", "12"] {
            let room = node.room(&bob, json!({ "preset": "private_chat", "room_version": version })).await;
            let invite = json!({ "user_id": "@carol:samtal.test" });
            node.post(&format!("/_matrix/client/v3/rooms/{room}/invite"), &bob, invite).await;
            node.post(&format!("/_matrix/client/v3/join/{room}"), &carol, json!({})).await;
            node.post(&format!("/_matrix/client/v3/rooms/{room}/leave"), &bob, json!({})).await;
            let rename = format!("/_matrix/client/v3/rooms/{room}/state/m.room.name");
            let (status, _) = node.ask(Method::PUT, &rename, &carol, json!({ "name": "Ours" })).await;
            assert_eq!(status, StatusCode::FORBIDDEN, "version {version}");
            let path = format!("/rooms/{room}/recover");
            let wish = json!({ "user_id": "@carol:samtal.test" });
            let done = node.own(Method::POST, "/rooms/{room_id}/recover", &path, &admin, wish).await;
            assert_eq!(done["by"], "@bob:samtal.test");
            Node::ok(node.ask(Method::PUT, &rename, &carol, json!({ "name": "Ours" })).await);
            let joined = node.get(&format!("/v1/rooms/{room}/members"), &admin).await;
            assert_eq!(joined["members"], json!(["@carol:samtal.test"]), "whoever came back for it is gone again");
        }
        let entries = node.own(Method::GET, "/audit", "/audit?limit=1", &admin, json!({})).await;
        let entry = &entries["entries"][0];
        assert_eq!(
            (&entry["actor"], &entry["action"], &entry["outcome"]),
            (&json!("@root:samtal.test"), &json!("POST /_samtal/admin/v1/rooms/{room_id}/recover"), &json!("done"))
        );
        let room = node.room(&bob, json!({ "preset": "private_chat" })).await;
        let path = format!("/_samtal/admin/v1/rooms/{room}/recover");
        let (status, _) = node.ask(Method::POST, &path, &admin, json!({ "user_id": "@nobody:samtal.test" })).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
    })
    .await;
}

#[tokio::test]
async fn unwanted_invites_are_refused_in_bulk() {
    each_engine(async |node: Node| {
        let (admin, bob, carol) =
            (node.user("root", true).await, node.user("bob", false).await, node.user("carol", false).await);
        let mallory = node.user("mallory", false).await;
        let everybody = json!({ "invite": ["@bob:samtal.test", "@carol:samtal.test"] });
        for _ in 0..3 {
            node.room(&mallory, everybody.clone()).await;
        }
        let wanted = node.room(&bob, json!({ "invite": ["@carol:samtal.test"] })).await;
        let query = "/invites?sender=@mallory:samtal.test&limit=2";
        let found = node.own(Method::GET, "/invites", query, &admin, json!({})).await;
        assert_eq!((&found["total"], found["invites"].as_array().unwrap().len()), (&json!(6), 2));
        let (status, _) = node.ask(Method::POST, "/_samtal/admin/v1/invites/refuse", &admin, json!({})).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "not all there are");
        let which = json!({ "sender": "@mallory:samtal.test" });
        let task = node.own(Method::POST, "/invites/refuse", "/invites/refuse", &admin, which).await;
        let path = format!("/tasks/{}", task["task_id"].as_str().unwrap());
        let done = loop {
            let task = node.own(Method::GET, "/tasks/{task_id}", &path, &admin, json!({})).await;
            if task["status"] != "active" {
                break task;
            }
            tokio::task::yield_now().await;
        };
        assert_eq!(done["result"], json!({ "refused": 6, "failed": 0 }));
        assert_eq!(node.own(Method::GET, "/tasks", "/tasks", &admin, json!({})).await["tasks"], json!([done]));
        let sync = node.get("/_matrix/client/v3/sync", &carol).await;
        assert_eq!(sync["rooms"]["invite"].as_object().unwrap().keys().collect::<Vec<_>>(), [&wanted]);
    })
    .await;
}

#[tokio::test]
async fn the_server_is_told_in_numbers_and_sessions_are_ended() {
    each_engine(async |node: Node| {
        let (admin, bob) = (node.user("root", true).await, node.user("bob", false).await);
        node.room(&bob, json!({ "visibility": "public" })).await;
        let numbers = node.own(Method::GET, "/statistics", "/statistics", &admin, json!({})).await;
        assert_eq!((&numbers["users"]["total"], &numbers["users"]["administrators"]), (&json!(2), &json!(1)));
        assert_eq!((&numbers["rooms"]["total"], &numbers["rooms"]["published"]), (&json!(1), &json!(1)));
        let path = "/users/@bob:samtal.test/log_out";
        node.own(Method::POST, "/users/{user_id}/log_out", path, &admin, json!({})).await;
        let (status, _) = node.ask(Method::GET, "/_matrix/client/v3/account/whoami", &bob, json!({})).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        let document = node.own(Method::GET, "/openapi.json", "/openapi.json", &admin, json!({})).await;
        assert_eq!(document["openapi"], "3.1.0");
    })
    .await;
}
