//! Texts that are right and that a store may stumble over: NUL, other control characters, and all that is far from ASCII.
//! They come back as they went in, or are refused as the specification says; never is it the server's fault.

use http::Method;
use serde_json::{Value, json};

use super::{ME, World};
use crate::{
    harness::{PASSWORD, each_engine},
    room::state,
};

/// NUL in a JSON text is an escape, and so allowed.
const STRANGE: &str = "a\u{0}b\u{1}\u{7f}\u{85}\u{2028}\u{feff}\u{fffd}\u{10ffff}\u{1f469}\u{200d}\u{1f680} \u{5d0}\u{202e}\u{345}\\\"'%_";

#[tokio::test]
async fn strange_texts_come_back_as_they_went_in() {
    each_engine(async |node| {
        let world = World::of(&node).await;
        let (alice, room) = (&world.alice, &world.room);
        let content = json!({ "msgtype": "m.text", "body": STRANGE, STRANGE: { "deeper": [STRANGE] } });
        let sent = node.put_as(alice, &format!("/v3/rooms/{room}/send/m.room.message/t"), content.clone()).await.ok();
        let event =
            node.get_as(alice, &format!("/v3/rooms/{room}/event/{}", sent["event_id"].as_str().unwrap())).await.ok();
        assert_eq!(event["content"], content);
        let topic = json!({ "topic": STRANGE });
        node.put_as(alice, &format!("/v3/rooms/{room}/state/m.room.topic"), topic.clone()).await.ok();
        assert_eq!(state(&node, alice, room, "m.room.topic").await, topic);
        let name = json!({ "name": STRANGE });
        node.put_as(alice, &format!("/v3/rooms/{room}/state/m.room.name"), name).await.ok();
        let sync = node.get_as(alice, "/v3/sync").await.ok();
        assert!(sync["rooms"]["join"][room].to_string().contains("\\u0000"), "{sync}");
        let data = json!({ STRANGE: STRANGE });
        let path = format!("/v3/user/{ME}/account_data/org.example.x");
        node.put_as(alice, &path, data.clone()).await.ok();
        assert_eq!(node.get_as(alice, &path).await.ok(), data);
        let path = format!("/v3/user/{ME}/rooms/{room}/tags/u.x");
        node.put_as(alice, &path, json!({ STRANGE: STRANGE })).await.ok();
        let filter = json!({ "room": { "timeline": { "types": [STRANGE] } } });
        let made = node.post_as(alice, &format!("/v3/user/{ME}/filter"), filter.clone()).await.ok();
        let path = format!("/v3/user/{ME}/filter/{}", made["filter_id"].as_str().unwrap());
        assert_eq!(
            node.get_as(alice, &path).await.ok()["room"]["timeline"]["types"],
            filter["room"]["timeline"]["types"]
        );
        let messages = json!({ "messages": { ME: { "*": { STRANGE: STRANGE } } } });
        node.put_as(alice, "/v3/sendToDevice/m.x/t", messages).await.ok();
        let sync = node.get_as(alice, "/v3/sync").await.ok();
        assert_eq!(sync["to_device"]["events"][0]["content"], json!({ STRANGE: STRANGE }), "{}", sync["to_device"]);
    })
    .await;
}

/// Where a text goes into a column of its own, a store that holds no NUL must not answer for it with a failure.
#[tokio::test]
async fn a_nul_is_kept_or_refused_and_is_never_the_servers_fault() {
    each_engine(async |node| {
        let world = World::of(&node).await;
        let nul = json!("a\u{0}b");
        let backup = json!({ "algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": {} });
        node.post_as(&world.alice, "/v3/room_keys/version", backup).await.ok();
        let bodies: Vec<(Method, &str, Value)> = vec![
            (Method::PUT, "/v3/profile/{me}/displayname", json!({ "displayname": nul })),
            (Method::PUT, "/v3/profile/{me}/avatar_url", json!({ "avatar_url": nul })),
            (Method::PUT, "/v3/profile/{me}/org.example.x", json!({ "org.example.x": nul })),
            (Method::PUT, "/v3/devices/{device}", json!({ "display_name": nul })),
            (Method::POST, "/v3/login", json!({ "type": "m.login.password", "user": nul, "password": nul })),
            (Method::POST, "/v3/login", json!({
                "type": "m.login.password", "user": "alice", "password": PASSWORD, "device_id": nul,
                "initial_device_display_name": nul,
            })),
            (Method::POST, "/v3/delete_devices", json!({ "devices": [nul] })),
            (Method::POST, "/v3/keys/signatures/upload", json!({ "{me}": { "a\u{0}b": { "x": nul } } })),
            (Method::PUT, "/v3/room_keys/keys?version=1", json!({ "rooms": { "!a:b": { "sessions": { "a\u{0}b": {
                "first_message_index": 0, "forwarded_count": 0, "is_verified": false, "session_data": { "x": nul },
            } } } } })),
            (Method::PUT, "/v3/room_keys/keys?version=1", json!({ "rooms": { "!a\u{0}b:c": { "sessions": { "s": {
                "first_message_index": 0, "forwarded_count": 0, "is_verified": false, "session_data": {},
            } } } } })),
            (Method::PUT, "/v3/rooms/{room}/send/m.room.message/nul", json!({
                "body": "x", "m.relates_to": { "rel_type": nul, "event_id": nul, "key": nul },
            })),
            (Method::PUT, "/v3/rooms/{room}/send/m.reaction/nul", json!({
                "m.relates_to": { "rel_type": "m.annotation", "event_id": "{event}", "key": nul },
            })),
            (Method::PUT, "/v3/sendToDevice/m.x/nul", json!({ "messages": { "{me}": { "a\u{0}b": {} } } })),
            (Method::POST, "/unstable/org.matrix.simplified_msc3575/sync", json!({
                "conn_id": nul, "lists": { "a\u{0}b": { "ranges": [[0, 5]], "timeline_limit": 1, "required_state": [[nul, nul]] } },
            })),
            (Method::POST, "/v3/register", json!({ "username": nul, "auth": { "type": "m.login.dummy" } })),
            (Method::POST, "/v3/register", json!({ "auth": { "type": "m.login.registration_token", "token": nul, "session": nul } })),
            (Method::POST, "/v3/refresh", json!({ "refresh_token": nul })),
            (Method::PUT, "/v3/pushrules/global/content/x", json!({ "actions": ["notify"], "pattern": nul })),
            (Method::POST, "/v3/rooms/{room}/report", json!({ "reason": nul })),
            (Method::POST, "/v3/rooms/{room}/report/{event}", json!({ "reason": nul })),
            (Method::POST, "/v3/users/{me}/report", json!({ "reason": nul })),
            (Method::POST, "/v3/publicRooms", json!({ "filter": { "generic_search_term": nul } })),
            (Method::POST, "/v3/search", json!({ "search_categories": { "room_events": { "search_term": nul } } })),
            (Method::POST, "/v3/user_directory/search", json!({ "search_term": nul })),
            (Method::POST, "/v3/createRoom", json!({ "name": nul, "topic": nul, "room_alias_name": "fine" })),
            (Method::POST, "/v3/createRoom", json!({ "room_alias_name": nul })),
            (Method::PUT, "/v3/presence/{me}/status", json!({ "presence": "online", "status_msg": nul })),
            (Method::POST, "/v3/keys/claim", json!({ "one_time_keys": { "{me}": { "a\u{0}b": "signed_curve25519" } } })),
            (Method::POST, "/v3/keys/query", json!({ "device_keys": { "{me}": ["a\u{0}b"] } })),
            (Method::POST, "/v3/keys/upload", json!({ "one_time_keys": { "signed_curve25519:a\u{0}b": { "key": nul } } })),
            (Method::POST, "/v3/room_keys/version", json!({ "algorithm": nul, "auth_data": { "x": nul } })),
            (Method::PUT, "/v3/rooms/{room}/state/org.example.x", json!({ "x": nul })),
            (Method::POST, "/v3/rooms/{room}/receipt/m.read/{event}", json!({ "thread_id": nul })),
            (Method::POST, "/v3/rooms/{room}/read_markers", json!({ "m.fully_read": "$a\u{0}b" })),
            (Method::POST, "/v3/pushers/set", json!({
                "kind": "http", "app_id": nul, "pushkey": nul, "app_display_name": nul, "device_display_name": nul,
                "lang": nul, "data": { "url": "https://push.example/_matrix/push/v1/notify" },
            })),
        ];
        let paths = [
            (Method::GET, "/v3/user/{me}/account_data/a%00b"),
            (Method::PUT, "/v3/user/{me}/account_data/a%00b"),
            (Method::PUT, "/v3/user/{me}/rooms/{room}/account_data/a%00b"),
            (Method::PUT, "/v3/user/{me}/rooms/{room}/tags/a%00b"),
            (Method::GET, "/v3/rooms/{room}/state/a%00b/c%00d"),
            (Method::PUT, "/v3/rooms/{room}/state/a%00b/c%00d"),
            (Method::PUT, "/v3/rooms/{room}/send/a%00b/t"),
            (Method::PUT, "/v3/rooms/{room}/send/m.room.message/a%00b"),
            (Method::GET, "/v3/rooms/{room}/event/$a%00b"),
            (Method::GET, "/v3/rooms/!a%00b:samtal.test/state"),
            (Method::GET, "/v3/directory/room/%23a%00b:samtal.test"),
            (Method::PUT, "/v3/sendToDevice/a%00b/c%00d"),
            (Method::GET, "/v3/pushrules/global/content/a%00b"),
            (Method::GET, "/v3/devices/a%00b"),
            (Method::GET, "/v3/room_keys/keys/{room}/a%00b?version=1"),
            (Method::GET, "/v1/register/m.login.registration_token/validity?token=a%00b"),
            (Method::GET, "/v3/register/available?username=a%00b"),
            (Method::GET, "/v3/rooms/{room}/messages?dir=b&from=a%00b"),
            (Method::GET, "/v3/sync?since=a%00b"),
            (Method::GET, "/v3/sync?filter=a%00b"),
            (Method::GET, "/v3/profile/{me}/a%00b"),
            (Method::GET, "/v1/media/download/samtal.test/a%00b"),
        ];
        let paths = paths.into_iter().map(|(method, path)| (method, path, json!({})));
        let mut wrong = Vec::new();
        for (method, path, body) in bodies.into_iter().chain(paths) {
            let path = world.path(path).replace("{device}", &world.alice.device_id);
            let body = world.path(&body.to_string());
            let answer = node.bytes(method.clone(), &path, Some(&world.alice.token), body.clone()).await;
            let told = answer.status.is_success() || answer.body["errcode"].is_string() || answer.status == 401;
            if answer.status.is_server_error() || !told {
                wrong.push(format!("{method} {path} {body}: {} {}", answer.status, answer.body));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    })
    .await;
}
