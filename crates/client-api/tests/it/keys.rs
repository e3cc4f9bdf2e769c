//! Keys and messages to devices, through the router.

use serde_json::{Value, json};

use crate::harness::{Node, Person, each_engine};

fn device_keys(who: &Person, secret: &str) -> Value {
    let device = &who.device_id;
    json!({
        "user_id": who.user_id,
        "device_id": device,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
        "keys": { format!("ed25519:{device}"): secret, format!("curve25519:{device}"): "c" },
        "signatures": {},
    })
}

async fn sync(node: &Node, who: &Person, since: Option<&str>) -> Value {
    let since = since.map(|since| format!("&since={since}")).unwrap_or_default();
    node.get_as(who, &format!("/v3/sync?timeout=0{since}")).await.ok()
}

#[tokio::test]
async fn keys_are_uploaded_asked_for_and_claimed() {
    each_engine(async |node| {
        let (alice, bob) = (node.somebody().await, node.somebody().await);
        let empty = node.post_as(&alice, "/v3/keys/upload", json!({})).await.ok();
        assert_eq!(empty["one_time_key_counts"], json!({ "signed_curve25519": 0 }));
        let upload = json!({
            "device_keys": device_keys(&alice, "secret"),
            "one_time_keys": { "signed_curve25519:a": { "key": "1" } },
            "fallback_keys": { "signed_curve25519:f": { "key": "f", "fallback": true } },
        });
        let counts = node.post_as(&alice, "/v3/keys/upload", upload).await.ok();
        assert_eq!(counts["one_time_key_counts"], json!({ "signed_curve25519": 1 }));

        let (user, device) = (&alice.user_id, &alice.device_id);
        let found = node.post_as(&bob, "/v3/keys/query", json!({ "device_keys": { user.as_str(): [] } })).await.ok();
        assert_eq!(found["device_keys"][user][device]["keys"][format!("ed25519:{device}")], "secret");
        assert_eq!(found["failures"], json!({}));

        let want = json!({ "one_time_keys": { user.as_str(): { device.as_str(): "signed_curve25519" } } });
        for key in ["signed_curve25519:a", "signed_curve25519:f", "signed_curve25519:f"] {
            let claimed = node.post_as(&bob, "/v3/keys/claim", want.clone()).await.ok();
            let keys = claimed["one_time_keys"][user][device].as_object().unwrap();
            assert_eq!(keys.keys().collect::<Vec<_>>(), [key]);
        }
        let synced = sync(&node, &alice, None).await;
        assert_eq!(synced["device_one_time_keys_count"], json!({ "signed_curve25519": 0 }));
        assert_eq!(synced["device_unused_fallback_key_types"], json!([]));
    })
    .await;
}

#[tokio::test]
async fn wrong_key_requests_are_refused() {
    each_engine(async |node| {
        let (alice, bob) = (node.somebody().await, node.somebody().await);
        node.post("/v3/keys/query", json!({})).await.refused(401, "M_MISSING_TOKEN");
        let of_bob = json!({ "device_keys": device_keys(&bob, "x") });
        node.post_as(&alice, "/v3/keys/upload", of_bob).await.refused(400, "M_INVALID_PARAM");
        let devices = json!({ "device_keys": { alice.user_id.as_str(): { "PHONE": {} } } });
        node.post_as(&alice, "/v3/keys/query", devices).await.refused(400, "M_BAD_JSON");
        node.post_as(&alice, "/v3/keys/upload", json!({ "one_time_keys": 5 })).await.refused(400, "M_BAD_JSON");
        let nameless = json!({ "one_time_keys": { "nameless": "key" } });
        node.post_as(&alice, "/v3/keys/upload", nameless).await.refused(400, "M_INVALID_PARAM");
        for key in ["1", "2"] {
            let upload = json!({ "one_time_keys": { "signed_curve25519:a": { "key": key } } });
            let answer = node.post_as(&alice, "/v3/keys/upload", upload).await;
            if key == "1" {
                answer.ok();
            } else {
                answer.refused(400, "M_INVALID_PARAM");
            }
        }
        node.get_as(&alice, "/v3/keys/changes?from=nonsense&to=x").await.refused(400, "M_INVALID_PARAM");
    })
    .await;
}

#[tokio::test]
async fn messages_reach_the_devices_they_are_meant_for_once() {
    each_engine(async |node| {
        let (alice, bob) = (node.somebody().await, node.somebody().await);
        let phone = Person::of(&node.log_in(&bob, json!({ "device_id": "PHONE" })).await.ok());
        let messages = json!({ "messages": {
            bob.user_id.as_str(): { "PHONE": { "n": 1 }, "NONE": { "n": 2 } },
            "@nobody:samtal.test": { "*": { "n": 3 } },
        } });
        for _ in 0..2 {
            node.put_as(&alice, "/v3/sendToDevice/m.test/one", messages.clone()).await.ok();
        }
        let all = json!({ "messages": { bob.user_id.as_str(): { "*": { "n": 4 } } } });
        node.put_as(&alice, "/v3/sendToDevice/m.test/two", all).await.ok();

        let first = sync(&node, &phone, None).await;
        let event = |n: i64| json!({ "type": "m.test", "sender": alice.user_id, "content": { "n": n } });
        assert_eq!(first["to_device"]["events"], json!([event(1), event(4)]));
        assert_eq!(sync(&node, &phone, None).await["to_device"]["events"], json!([event(1), event(4)]));
        let next = first["next_batch"].as_str().unwrap();
        let second = sync(&node, &phone, Some(next)).await;
        assert!(second["to_device"]["events"].as_array().is_none_or(Vec::is_empty), "{second}");
        assert_eq!(sync(&node, &bob, None).await["to_device"]["events"], json!([event(4)]));

        let list = json!({ "messages": { bob.user_id.as_str(): { "PHONE": [] } } });
        node.put_as(&alice, "/v3/sendToDevice/m.test/three", list).await.refused(400, "M_BAD_JSON");
    })
    .await;
}

#[tokio::test]
async fn note_54_replacing_cross_signing_keys_needs_the_password() {
    each_engine(async |node| {
        let alice = node.somebody().await;
        let master = |public: &str| {
            json!({ "master_key": {
                "user_id": alice.user_id, "usage": ["master"], "keys": { format!("ed25519:{public}"): public },
            } })
        };
        let path = "/v3/keys/device_signing/upload";
        node.post_as(&alice, path, master("first")).await.ok();
        node.post_as(&alice, path, master("first")).await.ok();
        let asked = node.post_as(&alice, path, master("second")).await.expect(401);
        let mut proven = master("second");
        proven["auth"] = alice.auth(&asked["session"]);
        node.post_as(&alice, path, proven).await.ok();
        let query = json!({ "device_keys": { alice.user_id.as_str(): [] } });
        let found = node.post_as(&alice, "/v3/keys/query", query).await.ok();
        assert_eq!(found["master_keys"][&alice.user_id], master("second")["master_key"]);

        let asked = node.post_as(&alice, path, master("third")).await.expect(401);
        let only_auth = json!({ "auth": alice.auth(&asked["session"]) });
        node.post_as(&alice, path, only_auth).await.ok();
        let unsigned = json!({ "self_signing_key": {
            "user_id": alice.user_id, "usage": ["self_signing"], "keys": { "ed25519:s": "s" },
        } });
        let asked = node.post_as(&alice, path, unsigned.clone()).await.expect(401);
        let mut proven = unsigned;
        proven["auth"] = alice.auth(&asked["session"]);
        node.post_as(&alice, path, proven).await.refused(400, "M_INVALID_SIGNATURE");
    })
    .await;
}

#[tokio::test]
async fn a_deleted_device_has_no_keys_left() {
    each_engine(async |node| {
        let alice = node.somebody().await;
        let phone = Person::of(&node.log_in(&alice, json!({ "device_id": "PHONE" })).await.ok());
        let upload = json!({ "device_keys": device_keys(&phone, "p") });
        node.post_as(&phone, "/v3/keys/upload", upload).await.ok();
        let since = sync(&node, &alice, None).await["next_batch"].as_str().unwrap().to_owned();
        node.post_as(&phone, "/v3/logout", json!({})).await.ok();
        let query = json!({ "device_keys": { alice.user_id.as_str(): [] } });
        let found = node.post_as(&alice, "/v3/keys/query", query).await.ok();
        assert_eq!(found["device_keys"][&alice.user_id], json!({}));
        let synced = sync(&node, &alice, Some(&since)).await;
        assert_eq!(synced["device_lists"]["changed"], json!([alice.user_id]));
        let changes = node.get_as(&alice, &format!("/v3/keys/changes?from={since}&to=x")).await.ok();
        assert_eq!(changes, json!({ "changed": [alice.user_id], "left": [] }));
    })
    .await;
}

#[tokio::test]
async fn room_keys_are_backed_up_and_restored() {
    each_engine(async |node| {
        let (alice, bob) = (node.somebody().await, node.somebody().await);
        let body = json!({ "algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": { "public_key": "k" } });
        node.get_as(&alice, "/v3/room_keys/version").await.refused(404, "M_NOT_FOUND");
        let made = node.post_as(&alice, "/v3/room_keys/version", body.clone()).await.ok();
        let version = made["version"].as_str().unwrap().to_owned();
        let shown = node.get_as(&alice, "/v3/room_keys/version").await.ok();
        assert_eq!((&shown["auth_data"], &shown["count"]), (&body["auth_data"], &json!(0)));
        let key = json!({
            "first_message_index": 0, "forwarded_count": 0, "is_verified": true,
            "session_data": { "ephemeral": "e", "ciphertext": "c", "mac": "m" },
        });
        let one = format!("/v3/room_keys/keys/!r:samtal.test/s1?version={version}");
        let room = format!("/v3/room_keys/keys/!r:samtal.test?version={version}");
        let all = format!("/v3/room_keys/keys?version={version}");
        assert_eq!(node.put_as(&alice, &one, key.clone()).await.ok()["count"], 1);
        node.put_as(&alice, &room, json!({ "sessions": { "s2": key } })).await.ok();
        let put = json!({ "rooms": { "!q:samtal.test": { "sessions": { "s1": key } } } });
        assert_eq!(node.put_as(&alice, &all, put).await.ok()["count"], 3);
        assert_eq!(node.get_as(&alice, &one).await.ok(), key);
        assert_eq!(node.get_as(&alice, &room).await.ok(), json!({ "sessions": { "s1": key, "s2": key } }));
        assert_eq!(node.get_as(&alice, &all).await.ok()["rooms"].as_object().unwrap().len(), 2);
        node.get_as(&bob, &all).await.refused(404, "M_NOT_FOUND");

        let later = node.post_as(&alice, "/v3/room_keys/version", body.clone()).await.ok();
        let wrong = node.put_as(&alice, &one, key.clone()).await.refused(403, "M_WRONG_ROOM_KEYS_VERSION");
        assert_eq!(wrong["current_version"], later["version"]);
        let path = format!("/v3/room_keys/version/{version}");
        let other = json!({ "algorithm": "other", "auth_data": {} });
        node.put_as(&alice, &path, other).await.refused(400, "M_INVALID_PARAM");
        node.delete_as(&alice, &one, json!({})).await.ok();
        node.get_as(&alice, &one).await.refused(404, "M_NOT_FOUND");
        node.delete_as(&alice, &path, json!({})).await.ok();
        node.get_as(&alice, &all).await.refused(404, "M_NOT_FOUND");
        node.get_as(&alice, "/v3/room_keys/version/nonsense").await.refused(404, "M_NOT_FOUND");
        node.get_as(&alice, "/v3/room_keys/keys").await.refused(400, "M_MISSING_PARAM");
    })
    .await;
}

#[tokio::test]
async fn a_dehydrated_device_receives_messages() {
    each_engine(async |node| {
        let (alice, bob) = (node.somebody().await, node.somebody().await);
        let path = "/unstable/org.matrix.msc3814.v1/dehydrated_device";
        node.get_as(&alice, path).await.refused(404, "M_NOT_FOUND");
        let asleep = Person { device_id: "ASLEEP".to_owned(), ..alice.clone() };
        let device = json!({
            "device_id": "ASLEEP",
            "device_data": { "algorithm": "org.matrix.msc3814.v2" },
            "device_keys": device_keys(&asleep, "d"),
            "one_time_keys": { "signed_curve25519:a": { "key": "1" } },
        });
        node.put_as(&alice, path, device.clone()).await.ok();
        assert_eq!(node.get_as(&alice, path).await.ok()["device_data"], device["device_data"]);
        let all = json!({ "messages": { alice.user_id.as_str(): { "ASLEEP": { "n": 1 } } } });
        node.put_as(&bob, "/v3/sendToDevice/m.test/one", all).await.ok();
        let events = format!("{path}/ASLEEP/events");
        let got = node.post_as(&alice, &events, json!({})).await.ok();
        assert_eq!(got["events"][0]["content"], json!({ "n": 1 }));
        let more = node.post_as(&alice, &events, json!({ "next_batch": got["next_batch"] })).await.ok();
        assert_eq!(more["events"], json!([]));
        node.post_as(&bob, &events, json!({})).await.refused(404, "M_NOT_FOUND");
        node.delete_as(&alice, path, json!({})).await.ok();
        node.get_as(&alice, path).await.refused(404, "M_NOT_FOUND");
    })
    .await;
}
