//! Logging in, refreshing, logging out; locked and suspended users; rates.

use std::time::Duration;

use samtal_account::Switch;
use serde_json::json;

use crate::harness::{Node, PASSWORD, Person, each_engine, each_engine_with, settings};

#[tokio::test]
async fn passwords_log_in_by_full_id_or_local_part_in_any_case() {
    each_engine(async |node| {
        let alice = node.person("alice").await;
        for name in ["alice", "ALICE", "@alice:samtal.test"] {
            let again = Person::of(
                &node.log_in(&alice, json!({ "identifier": { "type": "m.id.user", "user": name } })).await.ok(),
            );
            assert_eq!(again.user_id, alice.user_id);
            assert_ne!(again.device_id, alice.device_id);
        }
        // As clients before the first stable version write it.
        let old = json!({ "type": "m.login.password", "user": "alice", "password": PASSWORD });
        assert_eq!(node.post("/r0/login", old).await.ok()["home_server"], "samtal.test");
        node.log_in(&alice, json!({ "password": "wrong" })).await.refused(403, "M_FORBIDDEN");
        for name in ["nobody", "@alice:elsewhere.test", "@", "a\0b"] {
            let who = json!({ "identifier": { "type": "m.id.user", "user": name } });
            node.log_in(&alice, who).await.refused(403, "M_FORBIDDEN");
        }
        node.log_in(&alice, json!({ "type": "m.login.magic" })).await.refused(400, "M_UNKNOWN");
        node.log_in(&alice, json!({ "identifier": null })).await.refused(400, "M_MISSING_PARAM");
    })
    .await;
}

#[tokio::test]
async fn the_ways_to_log_in_are_listed() {
    each_engine(async |node| {
        let flows = node.get("/v3/login").await.ok()["flows"].clone();
        assert_eq!(flows[0], json!({ "type": "m.login.password" }));
        assert!(flows.as_array().unwrap().contains(&json!({ "type": "m.login.token", "get_login_token": true })));
    })
    .await;
}

#[tokio::test]
async fn logging_in_on_a_known_device_ends_its_earlier_session() {
    each_engine(async |node| {
        let alice = node.somebody().await;
        let again = Person::of(&node.log_in(&alice, json!({ "device_id": alice.device_id })).await.ok());
        assert_eq!(again.device_id, alice.device_id);
        node.get_as(&alice, "/v3/account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
        node.get_as(&again, "/v3/account/whoami").await.ok();
        let devices = node.get_as(&again, "/v3/devices").await.ok();
        assert_eq!(devices["devices"].as_array().unwrap().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn logging_out_ends_one_session_or_all() {
    each_engine(async |node| {
        let alice = node.somebody().await;
        let phone = Person::of(&node.log_in(&alice, json!({})).await.ok());
        let tablet = Person::of(&node.log_in(&alice, json!({})).await.ok());
        // The body may be missing.
        let out = node.bytes(http::Method::POST, "/v3/logout", Some(&phone.token), "").await;
        assert_eq!(out.ok(), json!({}));
        let gone = node.get_as(&phone, "/v3/account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
        assert_eq!(gone["soft_logout"], false);
        node.get_as(&tablet, "/v3/account/whoami").await.ok();
        node.post_as(&alice, "/v3/logout/all", json!({})).await.ok();
        for person in [&alice, &tablet] {
            node.get_as(person, "/v3/account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
        }
    })
    .await;
}

async fn refresh(node: &Node, token: &str) -> crate::harness::Answer {
    node.post("/v3/refresh", json!({ "refresh_token": token })).await
}

async fn with_refresh(node: &Node) -> (Person, String) {
    let alice = node.somebody().await;
    let body = node.log_in(&alice, json!({ "refresh_token": true })).await.ok();
    (Person::of(&body), body["refresh_token"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn an_expired_token_is_a_soft_logout_and_can_be_refreshed() {
    each_engine(async |node| {
        let (phone, first) = with_refresh(&node).await;
        node.get_as(&phone, "/v3/account/whoami").await.ok();
        node.clock.advance(Duration::from_millis(3_600_000));
        let lapsed = node.get_as(&phone, "/v3/account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
        assert_eq!(lapsed["soft_logout"], true);
        let body = refresh(&node, &first).await.ok();
        assert_eq!(body["expires_in_ms"], 3_600_000);
        let renewed = Person { token: body["access_token"].as_str().unwrap().to_owned(), ..phone.clone() };
        let me = node.get_as(&renewed, "/v3/account/whoami").await.ok();
        assert_eq!(me["device_id"], phone.device_id);
    })
    .await;
}

#[tokio::test]
async fn a_lost_answer_to_a_refresh_is_forgiven() {
    each_engine(async |node| {
        let (phone, first) = with_refresh(&node).await;
        let lost = refresh(&node, &first).await.ok();
        // The old access token goes on until the new one has been seen.
        node.get_as(&phone, "/v3/account/whoami").await.ok();
        let second = refresh(&node, &first).await.ok();
        refresh(&node, lost["refresh_token"].as_str().unwrap()).await.refused(401, "M_UNKNOWN_TOKEN");
        let renewed = Person { token: second["access_token"].as_str().unwrap().to_owned(), ..phone.clone() };
        node.get_as(&renewed, "/v3/account/whoami").await.ok();
        node.get_as(&phone, "/v3/account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
        let third = refresh(&node, second["refresh_token"].as_str().unwrap()).await.ok();
        assert!(third["access_token"].is_string());
    })
    .await;
}

#[tokio::test]
async fn a_refresh_token_that_comes_back_after_its_successor_was_used_ends_the_session() {
    each_engine(async |node| {
        let (phone, first) = with_refresh(&node).await;
        let second = refresh(&node, &first).await.ok();
        let renewed = Person { token: second["access_token"].as_str().unwrap().to_owned(), ..phone };
        node.get_as(&renewed, "/v3/account/whoami").await.ok();
        refresh(&node, &first).await.refused(401, "M_UNKNOWN_TOKEN");
        node.get_as(&renewed, "/v3/account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
        refresh(&node, second["refresh_token"].as_str().unwrap()).await.refused(401, "M_UNKNOWN_TOKEN");
    })
    .await;
}

#[tokio::test]
async fn a_login_token_is_good_once_and_briefly() {
    each_engine(async |node| {
        let alice = node.somebody().await;
        let token = async || {
            let asked = node.post_as(&alice, "/v1/login/get_token", json!({})).await.expect(401);
            let auth = alice.auth(&asked["session"]);
            let body = node.post_as(&alice, "/v1/login/get_token", json!({ "auth": auth })).await.ok();
            assert_eq!(body["expires_in_ms"], 120_000);
            body["login_token"].clone()
        };
        let use_it = async |token: &serde_json::Value| {
            node.post("/v3/login", json!({ "type": "m.login.token", "token": token })).await
        };
        let first = token().await;
        assert_eq!(Person::of(&use_it(&first).await.ok()).user_id, alice.user_id);
        use_it(&first).await.refused(403, "M_FORBIDDEN");
        let second = token().await;
        node.clock.advance(Duration::from_millis(120_000));
        use_it(&second).await.refused(403, "M_FORBIDDEN");
    })
    .await;
}

#[tokio::test]
async fn a_locked_user_can_only_log_out_and_a_suspended_one_only_read() {
    each_engine(async |node| {
        let root = node.admin("root").await;
        let alice = node.person("alice").await;
        let lock = format!("/v1/admin/lock/{}", alice.user_id);
        assert_eq!(node.put_as(&root, &lock, json!({ "locked": true })).await.ok(), json!({ "locked": true }));
        assert_eq!(node.get_as(&root, &lock).await.ok(), json!({ "locked": true }));
        let locked = node.get_as(&alice, "/v3/account/whoami").await.refused(401, "M_USER_LOCKED");
        assert_eq!(locked["soft_logout"], true);
        node.log_in(&alice, json!({})).await.refused(401, "M_USER_LOCKED");
        node.put_as(&root, &lock, json!({ "locked": false })).await.ok();
        node.get_as(&alice, "/v3/account/whoami").await.ok();

        let suspend = format!("/v1/admin/suspend/{}", alice.user_id);
        node.put_as(&root, &suspend, json!({ "suspended": true })).await.ok();
        node.get_as(&alice, "/v3/account/whoami").await.ok();
        let name = format!("/v3/profile/{}/displayname", alice.user_id);
        node.put_as(&alice, &name, json!({ "displayname": "Eve" })).await.refused(403, "M_USER_SUSPENDED");

        node.put_as(&alice, &lock, json!({ "locked": true })).await.refused(403, "M_FORBIDDEN");
        let own = format!("/v1/admin/lock/{}", root.user_id);
        node.put_as(&root, &own, json!({ "locked": true })).await.refused(403, "M_FORBIDDEN");
        node.get_as(&root, "/v1/admin/lock/@nobody:samtal.test").await.refused(404, "M_NOT_FOUND");
        node.get_as(&root, "/v1/admin/lock/@alice:elsewhere.test").await.refused(400, "M_INVALID_PARAM");
        let user: ruma::OwnedUserId = alice.user_id.parse().unwrap();
        node.hs.accounts.switch(&user, Switch::Locked, true).await.unwrap();
        node.post_as(&alice, "/v3/logout", json!({})).await.ok();
    })
    .await;
}

#[tokio::test]
async fn a_suspended_user_reads_redacts_and_leaves_but_does_not_speak() {
    each_engine(async |node| {
        let (root, alice, bob) = (node.admin("root").await, node.person("alice").await, node.person("bob").await);
        let moderation = json!({ "suspend": true, "lock": true });
        let of_root = node.get_as(&root, "/v3/capabilities").await.ok();
        assert_eq!(of_root["capabilities"]["m.account_moderation"], moderation);
        let of_alice = node.get_as(&alice, "/v3/capabilities").await.ok();
        assert_eq!(of_alice["capabilities"].get("m.account_moderation"), None, "left out for those who may do neither");
        let room = node.post_as(&bob, "/v3/createRoom", json!({ "preset": "public_chat" })).await.ok();
        let room = room["room_id"].as_str().unwrap().to_owned();
        node.post_as(&alice, &format!("/v3/join/{room}"), json!({})).await.ok();
        let message = json!({ "msgtype": "m.text", "body": "before" });
        let send = format!("/v3/rooms/{room}/send/m.room.message");
        let said = node.put_as(&alice, &format!("{send}/1"), message.clone()).await.ok();
        let suspend = format!("/v1/admin/suspend/{}", alice.user_id);
        node.put_as(&root, &suspend, json!({ "suspended": true })).await.ok();
        let refused = [
            (format!("{send}/2"), message),
            (format!("/v3/rooms/{room}/typing/{}", alice.user_id), json!({ "typing": true, "timeout": 1000 })),
            (format!("/v3/rooms/{room}/state/m.room.topic"), json!({ "topic": "x" })),
        ];
        for (path, body) in refused {
            node.put_as(&alice, &path, body).await.refused(403, "M_USER_SUSPENDED");
        }
        node.post_as(&alice, "/v3/createRoom", json!({})).await.refused(403, "M_USER_SUSPENDED");
        let invite = json!({ "user_id": root.user_id });
        node.post_as(&alice, &format!("/v3/rooms/{room}/invite"), invite).await.refused(403, "M_USER_SUSPENDED");
        node.get_as(&alice, "/v3/sync").await.ok();
        let redact = format!("/v3/rooms/{room}/redact/{}/1", said["event_id"].as_str().unwrap());
        node.put_as(&alice, &redact, json!({})).await.ok();
        node.post_as(&alice, &format!("/v3/rooms/{room}/leave"), json!({})).await.ok();
        node.post_as(&alice, "/v3/logout", json!({})).await.ok();
    })
    .await;
}

#[tokio::test]
async fn too_many_attempts_are_told_to_wait() {
    let mut limited = settings();
    limited.accounts.rates = Some(samtal_account::Rates::default());
    each_engine_with(limited, async |node| {
        let body = json!({ "type": "m.login.password", "user": "alice", "password": "guess" });
        for _ in 0..10 {
            node.post("/v3/login", body.clone()).await.refused(403, "M_FORBIDDEN");
        }
        let answer = node.post("/v3/login", body.clone()).await;
        assert_eq!(answer.headers.get(http::header::RETRY_AFTER).unwrap(), "5");
        assert_eq!(answer.refused(429, "M_LIMIT_EXCEEDED")["retry_after_ms"], 5_000);
        node.clock.advance(Duration::from_secs(5));
        node.post("/v3/login", body).await.refused(403, "M_FORBIDDEN");
    })
    .await;
}
