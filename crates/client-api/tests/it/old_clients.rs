//! What old clients, scripts and bridges still ask, as the public test suites do.

use serde_json::{Value, json};

use crate::harness::{PASSWORD, Person, each_engine};

fn types(events: &Value) -> Vec<&str> {
    events.as_array().into_iter().flatten().filter_map(|event| event["type"].as_str()).collect()
}

#[tokio::test]
async fn a_redaction_needs_no_transaction() {
    each_engine(async |node| {
        let alice = node.person("alice").await;
        let room = node.post_as(&alice, "/v3/createRoom", json!({})).await.ok()["room_id"].clone();
        let room = room.as_str().unwrap();
        let path = format!("/v3/rooms/{room}/send/m.room.message/1");
        let sent = node.put_as(&alice, &path, json!({ "msgtype": "m.text", "body": "oh" })).await.ok();
        let event = sent["event_id"].as_str().unwrap();
        let path = format!("/v3/rooms/{room}/redact/{event}");
        let redaction = node.post_as(&alice, &path, json!({ "reason": "typo" })).await.ok()["event_id"].clone();
        let found = node.get_as(&alice, &format!("/v3/rooms/{room}/event/{event}")).await.ok();
        assert_eq!(found["unsigned"]["redacted_because"]["event_id"], redaction);
        assert_eq!(found["unsigned"]["redacted_because"]["content"]["reason"], "typo");
        assert_eq!(found["content"], json!({}));
    })
    .await;
}

#[tokio::test]
async fn account_data_comes_with_the_first_stream() {
    each_engine(async |node| {
        let alice = node.person("alice").await;
        let room = node.post_as(&alice, "/v3/createRoom", json!({})).await.ok()["room_id"].clone();
        let room = room.as_str().unwrap();
        let whole = node.get_as(&alice, "/v3/initialSync").await.ok();
        assert_eq!(types(&whole["account_data"]), Vec::<&str>::new(), "push rules are asked for by themselves");
        assert!(whole["presence"][0]["content"]["last_active_ago"].is_u64(), "{}", whole["presence"]);
        let path = format!("/v3/user/{}/account_data/my.type", alice.user_id);
        node.put_as(&alice, &path, json!({ "a": 1 })).await.ok();
        let path = format!("/v3/user/{}/rooms/{room}/account_data/my.type", alice.user_id);
        node.put_as(&alice, &path, json!({ "b": 2 })).await.ok();
        let from = whole["end"].as_str().unwrap();
        let news = node.get_as(&alice, &format!("/v3/events?from={from}")).await.ok();
        let of_type: Vec<&Value> =
            news["chunk"].as_array().unwrap().iter().filter(|event| event["type"] == "my.type").collect();
        assert_eq!(of_type.len(), 2, "{news}");
        assert!(of_type.iter().any(|event| event["content"]["a"] == 1 && event.get("room_id").is_none()));
        assert!(of_type.iter().any(|event| event["content"]["b"] == 2 && event["room_id"] == room));
        for limit in ["hello", "-2"] {
            let path = format!("/v3/events?from={from}&limit={limit}");
            assert!(node.get_as(&alice, &path).await.status.is_client_error(), "{limit}");
        }
        let whole = node.get_as(&alice, "/v3/initialSync").await.ok();
        assert_eq!(types(&whole["account_data"]), ["my.type"]);
    })
    .await;
}

#[tokio::test]
async fn whoever_begins_to_sync_hears_that_somebody_has_stopped_typing() {
    each_engine(async |node| {
        let alice = node.person("alice").await;
        let room = node.post_as(&alice, "/v3/createRoom", json!({})).await.ok()["room_id"].clone();
        let room = room.as_str().unwrap();
        let path = format!("/v3/rooms/{room}/typing/{}", alice.user_id);
        node.put_as(&alice, &path, json!({ "typing": true, "timeout": 30_000 })).await.ok();
        node.put_as(&alice, &path, json!({ "typing": false })).await.ok();
        let synced = node.get_as(&alice, "/v3/sync").await.ok();
        let events = &synced["rooms"]["join"][room]["ephemeral"]["events"];
        let typing = events.as_array().unwrap().iter().find(|event| event["type"] == "m.typing");
        assert_eq!(typing.unwrap()["content"]["user_ids"], json!([]));
    })
    .await;
}

#[tokio::test]
async fn a_guest_becomes_a_user_by_their_own_token_only() {
    each_engine(async |node| {
        let guest = Person::of(&node.post("/v3/register?kind=guest", json!({})).await.ok());
        let other = Person::of(&node.post("/v3/register?kind=guest", json!({})).await.ok());
        let name = guest.user_id.trim_start_matches('@').split(':').next().unwrap().to_owned();
        let upgrade = |token: &str| {
            let auth = json!({ "type": "m.login.dummy" });
            json!({ "username": name, "password": PASSWORD, "guest_access_token": token, "auth": auth })
        };
        node.post("/v3/register", upgrade(&other.token)).await.refused(403, "M_FORBIDDEN");
        let user = Person::of(&node.post("/v3/register", upgrade(&guest.token)).await.ok());
        assert_eq!(user.user_id, guest.user_id);
        assert_ne!(node.get_as(&user, "/v3/account/whoami").await.ok()["is_guest"], true);
        node.log_in(&user, json!({})).await.ok();
        // Whoever is a user already is no guest any more.
        node.post("/v3/register", upgrade(&user.token)).await.refused(403, "M_FORBIDDEN");
    })
    .await;
}

#[tokio::test]
async fn mentions_in_words_count_where_an_event_does_not_say_whom_it_mentions() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let made = node.post_as(&alice, "/v3/createRoom", json!({ "preset": "public_chat", "invite": [] })).await.ok();
        let room = made["room_id"].as_str().unwrap().to_owned();
        node.post_as(&bob, &format!("/v3/join/{room}"), json!({})).await.ok();
        let rules = node.get_as(&alice, "/v3/pushrules/").await.ok();
        let ids = |kind: &str| -> Vec<String> {
            let rules = rules["global"][kind].as_array().unwrap().iter();
            rules.map(|rule| rule["rule_id"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(ids("content"), [".m.rule.contains_user_name"]);
        assert!(ids("override").contains(&".m.rule.contains_display_name".to_owned()));
        assert!(ids("override").contains(&".m.rule.roomnotif".to_owned()));
        let muted = format!("/v3/pushrules/global/room/{room}");
        node.put_as(&alice, &muted, json!({ "actions": [] })).await.ok();
        let say = async |txn: &str, content: Value| {
            let path = format!("/v3/rooms/{room}/send/m.room.message/{txn}");
            node.put_as(&bob, &path, content).await.ok();
            let synced = node.get_as(&alice, "/v3/sync").await.ok();
            synced["rooms"]["join"][&room]["unread_notifications"]["highlight_count"].as_u64().unwrap()
        };
        assert_eq!(say("1", json!({ "msgtype": "m.text", "body": "hello" })).await, 0);
        assert_eq!(say("2", json!({ "msgtype": "m.text", "body": "hello alice" })).await, 1);
        let names_nobody = json!({ "msgtype": "m.text", "body": "hello alice", "m.mentions": {} });
        assert_eq!(say("3", names_nobody).await, 1);
    })
    .await;
}

#[tokio::test]
async fn creators_have_no_level_and_a_room_has_one_beginning() {
    each_engine(async |node| {
        let alice = node.person("alice").await;
        let made = node.post_as(&alice, "/v3/createRoom", json!({ "room_version": "12" })).await.ok();
        let room = made["room_id"].as_str().unwrap().to_owned();
        let path = format!("/v3/rooms/{room}/state/m.room.power_levels");
        let levels = json!({ "users": { &alice.user_id: 100 } });
        assert_eq!(node.put_as(&alice, &path, levels).await.status, 400);
        let path = format!("/v3/rooms/{room}/state/m.room.create");
        assert_eq!(node.put_as(&alice, &path, json!({ "room_version": "12" })).await.status, 400);
        let upgraded = node.post_as(&alice, &format!("/v3/rooms/{room}/upgrade"), json!({ "new_version": "12" })).await;
        let new = upgraded.ok()["replacement_room"].as_str().unwrap().to_owned();
        let create = node.get_as(&alice, &format!("/v3/rooms/{new}/state/m.room.create")).await.ok();
        assert_eq!(create["predecessor"], json!({ "room_id": room }));
    })
    .await;
}

#[tokio::test]
async fn a_join_that_changes_a_name_says_nothing_of_who_let_the_user_in() {
    each_engine(async |node| {
        let alice = node.person("alice").await;
        let made = node.post_as(&alice, "/v3/createRoom", json!({ "preset": "public_chat" })).await.ok();
        let room = made["room_id"].as_str().unwrap().to_owned();
        let path = format!("/v3/rooms/{room}/state/m.room.member/{}", alice.user_id);
        let content = json!({ "membership": "join", "displayname": "A", "join_authorised_via_users_server": "unused" });
        node.put_as(&alice, &path, content).await.ok();
        let member = node.get_as(&alice, &path).await.ok();
        assert_eq!(member, json!({ "membership": "join", "displayname": "A" }));
        let path = format!("/v3/directory/list/room/{room}");
        node.put_as(&alice, &path, json!({ "visibility": "public" })).await.ok();
        let listed = node.get_as(&alice, "/v3/publicRooms").await.ok();
        assert_eq!(listed["chunk"][0]["join_rule"], "public");
    })
    .await;
}
