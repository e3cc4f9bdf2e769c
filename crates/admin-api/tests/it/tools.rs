//! The calls that Ketesa (synapse-admin), Element Admin and Draupnir make, with the fields that they read of the answers.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{Node, each_engine};

/// A node with an administrator, two users and a room in which one has said something.
struct Scene {
    node: Node,
    admin: String,
    bob: String,
    carol: String,
    room: String,
    said: String,
}

impl Scene {
    async fn set(node: Node) -> Self {
        let admin = node.user("root", true).await;
        let (bob, carol) = (node.user("bob", false).await, node.user("carol", false).await);
        let room =
            node.room(&bob, json!({ "name": "Place", "preset": "public_chat", "room_alias_name": "place" })).await;
        node.post(&format!("/_matrix/client/v3/join/{room}"), &carol, json!({})).await;
        let said = Self::say_in(&node, &room, &carol, "1", json!({ "msgtype": "m.text", "body": "Hej!" })).await;
        Self { node, admin, bob, carol, room, said }
    }

    async fn say_in(node: &Node, room: &str, token: &str, txn: &str, content: Value) -> String {
        let send = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{txn}");
        let sent = Node::ok(node.ask(Method::PUT, &send, token, content).await);
        sent["event_id"].as_str().unwrap().to_owned()
    }

    async fn get(&self, path: &str) -> Value {
        self.node.get(path, &self.admin).await
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        self.node.post(path, &self.admin, body).await
    }

    async fn put(&self, path: &str, body: Value) -> Value {
        Node::ok(self.node.ask(Method::PUT, path, &self.admin, body).await)
    }

    async fn delete(&self, path: &str, body: Value) -> Value {
        Node::ok(self.node.ask(Method::DELETE, path, &self.admin, body).await)
    }

    /// Waits for the end of a task in the background.
    async fn ended(&self, path: &str) -> Value {
        loop {
            let status = self.get(path).await;
            if status["status"] != "active" {
                return status;
            }
            tokio::task::yield_now().await;
        }
    }
}

async fn in_scene(test: impl AsyncFn(&Scene)) {
    each_engine(async |node: Node| {
        let scene = Scene::set(node).await;
        test(&scene).await;
    })
    .await;
}

/// Whether an answer holds fields of these names.
#[track_caller]
fn has(value: &Value, fields: &[&str]) {
    for field in fields {
        assert!(value.get(field).is_some(), "no {field} in {value}");
    }
}

#[tokio::test]
async fn ketesa_shows_users() {
    in_scene(async |scene: &Scene| {
        let users = scene.get("/v3/users?deactivated=false&guests=false&from=0&limit=50&order_by=name&dir=f").await;
        assert_eq!(users["total"], 3);
        let fields = [
            "name",
            "displayname",
            "avatar_url",
            "is_guest",
            "admin",
            "deactivated",
            "erased",
            "locked",
            "suspended",
            "shadow_banned",
            "creation_ts",
            "last_seen_ts",
            "user_type",
            "approved",
        ];
        has(&users["users"][0], &fields);
        let one = scene.get("/v2/users/@carol:samtal.test").await;
        has(&one, &["name", "threepids", "external_ids", "consent_version", "appservice_id", "last_seen_ts"]);
        let devices = scene.get("/v2/users/@carol:samtal.test/devices").await;
        has(&devices["devices"][0], &["device_id", "display_name", "last_seen_ip", "last_seen_ts", "user_id"]);
        has(&scene.get("/v1/whois/@carol:samtal.test").await, &["user_id", "devices"]);
        assert_eq!(scene.get("/v1/users/@carol:samtal.test/joined_rooms").await["joined_rooms"], json!([scene.room]));
        assert_eq!(scene.get("/v1/users/@carol:samtal.test/memberships").await["memberships"][&scene.room], "join");
        has(&scene.get("/v1/users/@carol:samtal.test/pushers").await, &["pushers", "total"]);
        has(&scene.get("/v1/users/@carol:samtal.test/accountdata").await["account_data"], &["global", "rooms"]);
        let joined = scene.get("/v1/users/@carol:samtal.test/cumulative_joined_room_count?from_ts=0").await;
        assert_eq!(joined["cumulative_joined_room_count"], 1);
        let late = scene.get("/v1/users/@carol:samtal.test/cumulative_joined_room_count?from_ts=1800000000000").await;
        assert_eq!(late["cumulative_joined_room_count"], 0);
        let invite = json!({ "user_id": "@root:samtal.test" });
        scene.node.post(&format!("/_matrix/client/v3/rooms/{}/invite", scene.room), &scene.bob, invite).await;
        let sent = scene.get("/v1/users/@bob:samtal.test/sent_invite_count?from_ts=0").await;
        assert_eq!(sent["invite_count"], 1);
        let (status, taken) =
            scene.node.ask(Method::GET, "/v1/username_available?username=bob", &scene.admin, json!({})).await;
        assert_eq!((status, &taken["errcode"]), (StatusCode::BAD_REQUEST, &json!("M_USER_IN_USE")));
        // What it cannot keep it does not take.
        let (status, _) = scene
            .node
            .ask(Method::PUT, "/v2/users/@bob:samtal.test", &scene.admin, json!({ "user_type": "bot" }))
            .await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        let (status, _) =
            scene.node.ask(Method::POST, "/v1/users/@bob:samtal.test/shadow_ban", &scene.admin, json!({})).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
    })
    .await;
}

#[tokio::test]
async fn ketesa_edits_users() {
    in_scene(async |scene: &Scene| {
        let path = "/v2/users/@dave:samtal.test";
        let new = json!({
            "id": "dave", "password": "a long password", "displayname": "Dave", "admin": false, "user_type": null,
            "threepids": [{ "medium": "email", "address": "dave@example.org" }], "external_ids": [],
        });
        let (status, made) = scene.node.ask(Method::PUT, path, &scene.admin, new).await;
        assert_eq!((status, &made["threepids"][0]["address"]), (StatusCode::CREATED, &json!("dave@example.org")));
        let found = scene.get("/v1/threepid/email/users/dave@example.org").await;
        assert_eq!(found["user_id"], "@dave:samtal.test");
        let token = scene.post("/v1/users/@dave:samtal.test/login", json!({ "valid_until_ms": 1_700_000_900_000_u64 })).await;
        let token = token["access_token"].as_str().unwrap().to_owned();
        assert_eq!(scene.put("/v1/suspend/@dave:samtal.test", json!({ "suspend": true })).await["user_@dave:samtal.test_suspended"], true);
        let create = scene.node.ask(Method::POST, "/_matrix/client/v3/createRoom", &token, json!({})).await;
        assert_eq!((create.0, &create.1["errcode"]), (StatusCode::FORBIDDEN, &json!("M_USER_SUSPENDED")));
        scene.put("/v1/suspend/@dave:samtal.test", json!({ "suspend": false })).await;
        scene.put(path, json!({ "locked": true })).await;
        let (status, locked) = scene.node.ask(Method::GET, "/_matrix/client/v3/sync", &token, json!({})).await;
        assert_eq!(
            (status, &locked["errcode"], &locked["soft_logout"]),
            (StatusCode::UNAUTHORIZED, &json!("M_USER_LOCKED"), &json!(true))
        );
        scene.put(path, json!({ "locked": false })).await;
        scene.node.get("/_matrix/client/v3/sync", &token).await;
        let reset = json!({ "new_password": "another long password", "logout_devices": true });
        scene.post("/v1/reset_password/@dave:samtal.test", reset).await;
        assert_eq!(scene.get("/v2/users/@dave:samtal.test/devices").await["total"], 0);
        assert_eq!(scene.put(path, json!({ "deactivated": true })).await["deactivated"], true);
        assert_eq!(scene.put(path, json!({ "deactivated": false, "password": "and another one" })).await["deactivated"], false);
        scene.post("/v1/deactivate/@dave:samtal.test", json!({ "erase": true })).await;
        assert_eq!(scene.get(path).await["erased"], true);
    })
    .await;
}

#[tokio::test]
async fn ketesa_sets_rates() {
    in_scene(async |scene: &Scene| {
        let path = "/v1/users/@bob:samtal.test/override_ratelimit";
        assert_eq!(scene.get(path).await, json!({}));
        let rate = json!({ "messages_per_second": 1, "burst_count": 2 });
        assert_eq!(scene.post(path, rate.clone()).await, rate);
        assert_eq!(scene.get(path).await, rate);
        // The rates of the node are off in this test; on, the user's own counts.
        let mut options = (*scene.node.hs.accounts.options()).clone();
        options.rates = Some(samtal_account::Rates::default());
        scene.node.hs.accounts.set_options(options);
        let send = async |txn: u32| {
            let path = format!("/_matrix/client/v3/rooms/{}/send/m.room.message/r{txn}", scene.room);
            scene.node.ask(Method::PUT, &path, &scene.bob, json!({ "msgtype": "m.text", "body": "x" })).await.0
        };
        let statuses = [send(1).await, send(2).await, send(3).await];
        assert_eq!(statuses, [StatusCode::OK, StatusCode::OK, StatusCode::TOO_MANY_REQUESTS]);
        scene.post(path, json!({ "messages_per_second": 0, "burst_count": 0 })).await;
        for txn in 4..200 {
            assert_eq!(send(txn).await, StatusCode::OK, "0 means no limit");
        }
        assert_eq!(scene.delete(path, json!({})).await, json!({}));
        assert_eq!(scene.get(path).await, json!({}));
        let (status, _) = scene.node.ask(Method::POST, path, &scene.admin, json!({ "burst_count": -1 })).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
    })
    .await;
}

#[tokio::test]
async fn ketesa_and_draupnir_look_into_rooms() {
    in_scene(async |scene: &Scene| {
        let room = &scene.room;
        let list = scene.get("/v1/rooms?from=0&limit=25&search_term=pla&order_by=name&dir=f").await;
        has(&list, &["rooms", "offset", "total_rooms"]);
        let fields = [
            "room_id",
            "name",
            "canonical_alias",
            "joined_members",
            "joined_local_members",
            "version",
            "creator",
            "encryption",
            "federatable",
            "public",
            "join_rules",
            "guest_access",
            "history_visibility",
            "state_events",
            "room_type",
        ];
        has(&list["rooms"][0], &fields);
        assert_eq!(scene.get("/v1/rooms?limit=0").await["total_rooms"], 1, "Element Admin counts so");
        has(&scene.get(&format!("/v1/rooms/{room}")).await, &["avatar", "topic", "joined_local_devices", "forgotten"]);
        assert_eq!(scene.get(&format!("/v1/rooms/{room}/members")).await["total"], 2);
        has(
            &scene.get(&format!("/v1/rooms/{room}/state")).await["state"][0],
            &["type", "event_id", "sender", "content"],
        );
        let context = scene.get(&format!("/v1/rooms/{room}/context/{}?limit=1", scene.said)).await;
        assert_eq!(context["event"]["event_id"], scene.said.as_str());
        assert_eq!(context["events_before"].as_array().unwrap().len(), 1);
        has(&context, &["events_after", "state", "start", "end"]);
        let before = context["start"].as_str().unwrap();
        let page = scene.get(&format!("/v1/rooms/{room}/messages?from={before}&dir=b&limit=3")).await;
        assert_eq!(page["chunk"].as_array().unwrap().len(), 3);
        assert!(page["chunk"].as_array().unwrap().iter().all(|event| event["event_id"] != scene.said.as_str()));
        let near = scene.get(&format!("/v1/rooms/{room}/timestamp_to_event?ts=1900000000000&dir=b")).await;
        assert_eq!(near["event_id"], scene.said.as_str());
        has(&near, &["origin_server_ts"]);
        let extremities = scene.get(&format!("/v1/rooms/{room}/forward_extremities")).await;
        assert_eq!((&extremities["count"], &extremities["results"][0]["event_id"]), (&json!(1), &json!(scene.said)));
        assert_eq!(
            scene.delete(&format!("/v1/rooms/{room}/forward_extremities"), json!({})).await,
            json!({ "deleted": 0 })
        );
        assert_eq!(
            scene.get(&format!("/v1/fetch_event/{}", scene.said)).await["event"]["event_id"],
            scene.said.as_str()
        );
        let sizes = scene.get("/v1/statistics/database/rooms").await;
        assert_eq!(sizes["rooms"][0]["room_id"], room.as_str());
        assert!(sizes["rooms"][0]["estimated_size"].as_u64().unwrap() > 100);
        scene.put(&format!("/v1/rooms/{room}/block"), json!({ "block": true })).await;
        let blocked = json!({ "block": true, "user_id": "@root:samtal.test" });
        assert_eq!(scene.get(&format!("/v1/rooms/{room}/block")).await, blocked);
        scene.put(&format!("/v1/rooms/{room}/block"), json!({ "block": false })).await;
        assert_eq!(scene.get(&format!("/v1/rooms/{room}/block")).await, json!({ "block": false }));
        // A space with one room.
        let space = scene.node.room(&scene.bob, json!({ "creation_content": { "type": "m.space" } })).await;
        let child = format!("/_matrix/client/v3/rooms/{space}/state/m.space.child/{room}");
        Node::ok(scene.node.ask(Method::PUT, &child, &scene.bob, json!({ "via": ["samtal.test"] })).await);
        let first = scene.get(&format!("/v1/rooms/{space}/hierarchy?limit=1")).await;
        assert_eq!(first["rooms"][0]["room_id"], space.as_str(), "though the administrator is not in it");
        let next =
            scene.get(&format!("/v1/rooms/{space}/hierarchy?from={}", first["next_batch"].as_str().unwrap())).await;
        assert_eq!((&next["rooms"][0]["room_id"], next.get("next_batch")), (&json!(room), None));
        let beyond = scene.get(&format!("/v1/rooms/{space}/hierarchy?from={}", usize::MAX)).await;
        assert_eq!(beyond, json!({ "rooms": [] }));
        // Draupnir brings users in and takes over.
        let joined = scene.post("/v1/join/%23place:samtal.test", json!({ "user_id": "@root:samtal.test" })).await;
        assert_eq!(joined["room_id"], room.as_str());
        scene.post("/v1/rooms/%23place:samtal.test/make_room_admin", json!({ "user_id": "@root:samtal.test" })).await;
        let rename = format!("/_matrix/client/v3/rooms/{room}/state/m.room.topic");
        Node::ok(scene.node.ask(Method::PUT, &rename, &scene.admin, json!({ "topic": "Governed" })).await);
    })
    .await;
}

#[tokio::test]
async fn ketesa_and_draupnir_redact_what_somebody_wrote() {
    in_scene(async |scene: &Scene| {
        let more =
            Scene::say_in(&scene.node, &scene.room, &scene.carol, "2", json!({ "msgtype": "m.text", "body": "Och?" }))
                .await;
        let of_bob =
            Scene::say_in(&scene.node, &scene.room, &scene.bob, "1", json!({ "msgtype": "m.text", "body": "Hm." }))
                .await;
        let body = async |event: &str| {
            scene.get(&format!("/v1/fetch_event/{event}")).await["event"]["content"]["body"].clone()
        };
        let one = json!({ "rooms": [scene.room], "limit": 1, "reason": "spam" });
        let begun = scene.post("/v1/user/@carol:samtal.test/redact", one).await;
        let path = format!("/v1/user/redact_status/{}", begun["redact_id"].as_str().unwrap());
        assert_eq!(scene.ended(&path).await, json!({ "status": "complete", "failed_redactions": {} }));
        assert_eq!((body(&more).await, body(&scene.said).await), (Value::Null, json!("Hej!")), "the newest goes first");
        let begun = scene.post("/v1/user/@carol:samtal.test/redact", json!({ "rooms": [] })).await;
        scene.ended(&format!("/v1/user/redact_status/{}", begun["redact_id"].as_str().unwrap())).await;
        assert_eq!((body(&scene.said).await, body(&of_bob).await), (Value::Null, json!("Hm.")));
        let tasks = scene.get("/v1/scheduled_tasks?action_name=redact_all_events&status=complete").await;
        assert_eq!(tasks["scheduled_tasks"].as_array().unwrap().len(), 2);
        has(
            &tasks["scheduled_tasks"][0],
            &["id", "action", "status", "timestamp_ms", "resource_id", "result", "error"],
        );
        // Somebody who has gone redacts nothing themselves: whoever may does.
        let later =
            Scene::say_in(&scene.node, &scene.room, &scene.carol, "3", json!({ "msgtype": "m.text", "body": "Hejdå" }))
                .await;
        let ban = json!({ "user_id": "@carol:samtal.test" });
        scene.node.post(&format!("/_matrix/client/v3/rooms/{}/ban", scene.room), &scene.bob, ban).await;
        let begun = scene.post("/v1/user/@carol:samtal.test/redact", json!({ "rooms": [] })).await;
        scene.ended(&format!("/v1/user/redact_status/{}", begun["redact_id"].as_str().unwrap())).await;
        assert_eq!(body(&later).await, Value::Null);
    })
    .await;
}

#[tokio::test]
async fn ketesa_purges_and_deletes() {
    in_scene(async |scene: &Scene| {
        let room = &scene.room;
        let wish = json!({ "purge_up_to_ts": 1_700_000_000_000_u64, "delete_local_events": true });
        let begun = scene.post(&format!("/v1/purge_history/{room}"), wish).await;
        let path = format!("/v1/purge_history_status/{}", begun["purge_id"].as_str().unwrap());
        assert_eq!(scene.ended(&path).await["status"], "complete");
        let wish = json!({ "block": false, "purge": true, "force_purge": true });
        let begun = scene.delete(&format!("/v2/rooms/{room}"), wish).await;
        let done = scene.ended(&format!("/v2/rooms/delete_status/{}", begun["delete_id"].as_str().unwrap())).await;
        has(&done["shutdown_room"], &["kicked_users", "failed_to_kick_users", "local_aliases", "new_room_id"]);
        let of_room = scene.get(&format!("/v2/rooms/{room}/delete_status")).await;
        has(&of_room["results"][0], &["delete_id", "status", "shutdown_room"]);
    })
    .await;
}

#[tokio::test]
async fn ketesa_looks_after_files() {
    in_scene(async |scene: &Scene| {
        let upload = async |token: &str, bytes: &str| {
            let up = scene.node.ask(Method::POST, "/_matrix/media/v3/upload?filename=a.txt", token, json!(bytes)).await;
            Node::ok(up)["content_uri"].as_str().unwrap().to_owned()
        };
        let (one, two) = (upload(&scene.carol, "one").await, upload(&scene.carol, "a longer one").await);
        let id = |url: &str| url.rsplit('/').next().unwrap().to_owned();
        let content = json!({ "msgtype": "m.file", "body": "a.txt", "url": one });
        Scene::say_in(&scene.node, &scene.room, &scene.carol, "file", content).await;
        let list = scene.get("/v1/users/@carol:samtal.test/media?order_by=media_length&dir=b").await;
        let fields = [
            "media_id",
            "media_type",
            "media_length",
            "upload_name",
            "created_ts",
            "last_access_ts",
            "quarantined_by",
            "safe_from_quarantine",
        ];
        has(&list["media"][0], &fields);
        assert_eq!((&list["total"], &list["media"][0]["media_id"]), (&json!(2), &json!(id(&two))));
        let of_room = scene.get(&format!("/v1/room/{}/media", scene.room)).await;
        assert_eq!((&of_room["local"], &of_room["remote"]), (&json!([one]), &json!([])));
        let info = format!("/v1/media/samtal.test/{}", id(&one));
        assert_eq!(scene.get(&info).await["media_info"]["user_id"], "@carol:samtal.test");
        scene.post(&format!("/v1/media/protect/{}", id(&one)), json!({})).await;
        assert_eq!(
            scene.post(&format!("/v1/room/{}/media/quarantine", scene.room), json!({})).await["num_quarantined"],
            0
        );
        scene.post(&format!("/v1/media/unprotect/{}", id(&one)), json!({})).await;
        assert_eq!(
            scene.post(&format!("/v1/room/{}/media/quarantine", scene.room), json!({})).await["num_quarantined"],
            1
        );
        assert!(scene.get(&info).await["media_info"]["quarantined_by"].is_string());
        let download = format!("/_matrix/client/v1/media/download/samtal.test/{}", id(&one));
        assert_eq!(scene.node.ask(Method::GET, &download, &scene.carol, json!({})).await.0, StatusCode::NOT_FOUND);
        scene.post(&format!("/v1/media/unquarantine/samtal.test/{}", id(&one)), json!({})).await;
        assert_eq!(scene.node.ask(Method::GET, &download, &scene.carol, json!({})).await.0, StatusCode::OK);
        assert_eq!(scene.post("/v1/user/@carol:samtal.test/media/quarantine", json!({})).await["num_quarantined"], 2);
        for url in [&one, &two] {
            scene.post(&format!("/v1/media/unquarantine/samtal.test/{}", id(url)), json!({})).await;
        }
        let statistics = scene.get("/v1/statistics/users/media?order_by=media_length&dir=b").await;
        has(&statistics["users"][0], &["user_id", "displayname", "media_length"]);
        assert_eq!(statistics["users"][0]["media_count"], 2);
        // A picture of somebody stays when files that nobody reads are cleared.
        let avatar = json!({ "avatar_url": one });
        Node::ok(
            scene
                .node
                .ask(Method::PUT, "/_matrix/client/v3/profile/@carol:samtal.test/avatar_url", &scene.carol, avatar)
                .await,
        );
        let clear = "/v1/media/delete?before_ts=1900000000000&size_gt=0&keep_profiles=true";
        assert_eq!(scene.post(clear, json!({})).await, json!({ "deleted_media": [id(&two)], "total": 1 }));
        let (status, _) =
            scene.node.ask(Method::POST, "/v1/media/delete?before_ts=1700000000", &scene.admin, json!({})).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "seconds");
        assert_eq!(
            scene.post("/v1/purge_media_cache?before_ts=1900000000000", json!({})).await,
            json!({ "deleted": 0 })
        );
        assert_eq!(scene.delete(&info, json!({})).await["total"], 1);
        assert_eq!(scene.delete("/v1/users/@carol:samtal.test/media", json!({})).await["total"], 0);
    })
    .await;
}

#[tokio::test]
async fn draupnir_polls_reports_and_ketesa_works_them() {
    in_scene(async |scene: &Scene| {
        let report = format!("/_matrix/client/v3/rooms/{}/report/{}", scene.room, scene.said);
        scene.node.post(&report, &scene.bob, json!({ "reason": "rude", "score": -100 })).await;
        scene
            .node
            .post("/_matrix/client/v3/users/@carol:samtal.test/report", &scene.bob, json!({ "reason": "spammer" }))
            .await;
        let list = scene.get("/v1/event_reports?dir=b&limit=10&from=0").await;
        assert_eq!(list["total"], 1, "reports of users have a list of their own");
        has(
            &list["event_reports"][0],
            &["id", "received_ts", "room_id", "event_id", "user_id", "reason", "sender", "name"],
        );
        assert_eq!(list["event_reports"][0]["sender"], "@carol:samtal.test");
        let users = scene.get("/v1/user_reports?dir=b&limit=10&from=0").await;
        assert_eq!(
            (&users["total"], &users["user_reports"][0]["target_user_id"]),
            (&json!(1), &json!("@carol:samtal.test"))
        );
        let path = format!("/v1/user_reports/{}", users["user_reports"][0]["id"]);
        has(&scene.get(&path).await, &["id", "received_ts", "target_user_id", "user_id", "reason"]);
        let (status, _) = scene.node.ask(Method::GET, &path.replace("user_", "event_"), &scene.admin, json!({})).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        scene.delete(&path, json!({})).await;
        assert_eq!(scene.get("/v1/user_reports").await["total"], 0);
    })
    .await;
}

#[tokio::test]
async fn tools_make_accounts_with_the_shared_secret() {
    in_scene(async |scene: &Scene| {
        let (status, _) = scene.node.ask(Method::GET, "/v1/register", "", json!({})).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "no secret is set");
        has(&scene.get("/v1/background_updates/enabled").await, &["enabled"]);
        has(
            &scene.get("/v1/federation/destinations?from=0&limit=10&order_by=destination&dir=f").await,
            &["destinations", "total"],
        );
    })
    .await;
}
