//! Account data, tags, filters, ignored users.

use ruma::OwnedUserId;
use serde_json::json;

use crate::harness::{Person, each_engine};

const ROOM: &str = "!room:samtal.test";

#[tokio::test]
async fn account_data_is_kept_for_all_rooms_and_for_one() {
    each_engine(async |node| {
        let alice = node.person("alice").await;
        let bob = node.person("bob").await;
        let base = format!("/v3/user/{}", alice.user_id);
        let global = format!("{base}/account_data/org.example.x");
        let room = format!("{base}/rooms/{ROOM}/account_data/org.example.x");
        node.get_as(&alice, &global).await.refused(404, "M_NOT_FOUND");
        node.put_as(&alice, &global, json!({ "n": 1.5, "text": "a\0b" })).await.ok();
        node.put_as(&alice, &room, json!({ "n": 2 })).await.ok();
        assert_eq!(node.get_as(&alice, &global).await.ok(), json!({ "n": 1.5, "text": "a\0b" }));
        assert_eq!(node.get_as(&alice, &room).await.ok(), json!({ "n": 2 }));
        node.get_as(&bob, &global).await.refused(403, "M_FORBIDDEN");
        node.put_as(&bob, &room, json!({})).await.refused(403, "M_FORBIDDEN");
        for data_type in ["m.fully_read", "m.push_rules"] {
            let path = format!("{base}/rooms/{ROOM}/account_data/{data_type}");
            node.put_as(&alice, &path, json!({})).await.refused(405, "M_BAD_JSON");
        }
        let rules = node.get_as(&alice, &format!("{base}/account_data/m.push_rules")).await.ok();
        assert!(rules["global"]["override"].is_array());
        let nowhere = format!("{base}/rooms/room/account_data/x");
        node.put_as(&alice, &nowhere, json!({})).await.refused(400, "M_INVALID_PARAM");
        let long = format!("{base}/account_data/{}", "t".repeat(256));
        node.put_as(&alice, &long, json!({})).await.refused(400, "M_INVALID_PARAM");
        let large = json!({ "x": "x".repeat(600_000) });
        node.put_as(&alice, &global, large).await.refused(413, "M_TOO_LARGE");
    })
    .await;
}

#[tokio::test]
async fn a_sync_learns_what_changed_since() {
    each_engine(async |node| {
        let alice = node.person("alice").await;
        let user: OwnedUserId = alice.user_id.parse().unwrap();
        let accounts = &node.hs.accounts;
        let types = async |since: i64| {
            let changed = accounts.account_data_changed(&user, since, node.hs.db.position()).await.unwrap();
            changed.into_iter().map(|data| data.data_type).collect::<Vec<_>>()
        };
        assert_eq!(types(0).await, ["m.push_rules"]);
        let before = node.hs.db.position();
        assert!(types(before).await.is_empty());
        let base = format!("/v3/user/{}", alice.user_id);
        node.put_as(&alice, &format!("{base}/account_data/m.direct"), json!({ "a": 1 })).await.ok();
        assert_eq!(types(before).await, ["m.direct"]);
        node.put_as(&alice, &format!("{base}/rooms/{ROOM}/tags/m.favourite"), json!({ "order": 0.5 })).await.ok();
        let rooms = accounts.room_account_data_changed(&user, before, node.hs.db.position()).await.unwrap();
        let content = rooms.first().unwrap();
        assert_eq!((content.room_id.as_deref(), &*content.data_type), (Some(ROOM), "m.tag"));
        assert_eq!(content.content.get(), r#"{"tags":{"m.favourite":{"order":0.5}}}"#);
    })
    .await;
}

#[tokio::test]
async fn tags_come_and_go() {
    each_engine(async |node| {
        let alice = node.person("alice").await;
        let tags = format!("/v3/user/{}/rooms/{ROOM}/tags", alice.user_id);
        assert_eq!(node.get_as(&alice, &tags).await.ok(), json!({ "tags": {} }));
        let put = async |tag: &str, info| node.put_as(&alice, &format!("{tags}/{tag}"), info).await;
        let (one, other) = tokio::join!(put("m.favourite", json!({ "order": 0.25 })), put("u.work", json!({})));
        one.ok();
        other.ok();
        assert_eq!(
            node.get_as(&alice, &tags).await.ok(),
            json!({ "tags": { "m.favourite": { "order": 0.25 }, "u.work": {} } })
        );
        node.delete_as(&alice, &format!("{tags}/u.work"), json!({})).await.ok();
        node.delete_as(&alice, &format!("{tags}/u.nothing"), json!({})).await.ok();
        assert_eq!(node.get_as(&alice, &tags).await.ok(), json!({ "tags": { "m.favourite": { "order": 0.25 } } }));
        put("u.bad", json!({ "order": "first" })).await.refused(400, "M_BAD_JSON");
        put(&"t".repeat(256), json!({})).await.refused(400, "M_INVALID_PARAM");
    })
    .await;
}

#[tokio::test]
async fn a_filter_comes_back_as_it_was_and_has_one_id() {
    each_engine(async |node| {
        let alice = node.person("alice").await;
        let path = format!("/v3/user/{}/filter", alice.user_id);
        let filter = json!({ "room": { "timeline": { "limit": 10 } }, "org.example.later": [1] });
        let id = node.post_as(&alice, &path, filter.clone()).await.ok()["filter_id"].clone();
        assert_eq!(node.post_as(&alice, &path, filter.clone()).await.ok()["filter_id"], id);
        assert_eq!(node.get_as(&alice, &format!("{path}/{}", id.as_str().unwrap())).await.ok(), filter);
        node.get_as(&alice, &format!("{path}/nothing")).await.refused(404, "M_NOT_FOUND");
        node.post_as(&alice, &path, json!({ "room": { "timeline": { "limit": "ten" } } }))
            .await
            .refused(400, "M_BAD_JSON");
        node.post_as(&alice, &path, json!({ "room": [] })).await.refused(400, "M_BAD_JSON");
        let many = json!({ "room": { "rooms": (0..1_000).map(|n| format!("!{n}:samtal.test")).collect::<Vec<_>>() } });
        node.post_as(&alice, &path, many).await.ok();
    })
    .await;
}

#[tokio::test]
async fn ignored_users_are_read_from_what_a_client_wrote_whatever_it_is() {
    each_engine(async |node| {
        let alice = node.person("alice").await;
        let user: OwnedUserId = alice.user_id.parse().unwrap();
        let path = format!("/v3/user/{}/account_data/m.ignored_user_list", alice.user_id);
        for (content, count) in [
            (json!({ "ignored_users": { "@bob:samtal.test": {}, "nonsense": {} } }), 1),
            (json!({ "ignored_users": [1] }), 0),
            (json!({}), 0),
        ] {
            node.put_as(&alice, &path, content).await.ok();
            assert_eq!(node.hs.accounts.ignored(&user).await.unwrap().len(), count);
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_deleted_is_told_once_and_then_not_there() {
    each_engine(async |node| {
        let alice = node.person("alice").await;
        let made = node.post_as(&alice, "/v3/createRoom", json!({})).await.ok();
        let room_id = made["room_id"].as_str().unwrap();
        let user = format!("user/{}", alice.user_id);
        for place in [user.clone(), format!("{user}/rooms/{room_id}")] {
            let path = format!("/v3/{place}/account_data/org.example.data");
            let delete = format!("/unstable/org.matrix.msc3391/{place}/account_data/org.example.data");
            for by_put in [false, true] {
                node.put_as(&alice, &path, json!({ "n": 1 })).await.ok();
                let before = node.get_as(&alice, "/v3/sync").await.ok();
                assert!(before.to_string().contains("org.example.data"));
                match by_put {
                    true => node.put_as(&alice, &path, json!({})).await.ok(),
                    false => node.delete_as(&alice, &delete, json!({})).await.ok(),
                };
                node.delete_as(&alice, &delete, json!({})).await.ok();
                node.get_as(&alice, &path).await.refused(404, "M_NOT_FOUND");
                let since = before["next_batch"].as_str().unwrap();
                let after = node.get_as(&alice, &format!("/v3/sync?since={since}")).await.ok().to_string();
                assert!(after.contains(r#"{"content":{},"type":"org.example.data"}"#), "{after}");
                let anew = node.get_as(&alice, "/v3/sync").await.ok().to_string();
                assert!(!anew.contains("org.example.data"), "{anew}");
            }
        }
        let rules = format!("/unstable/org.matrix.msc3391/{user}/account_data/m.push_rules");
        node.delete_as(&alice, &rules, json!({})).await.refused(405, "M_BAD_JSON");
    })
    .await;
}

#[tokio::test]
async fn what_is_said_of_a_device_goes_with_the_device() {
    each_engine(async |node| {
        let alice = node.person("alice").await;
        let other = Person::of(&node.log_in(&alice, json!({})).await.ok());
        let name = format!("org.matrix.msc3890.local_notification_settings.{}", other.device_id);
        let path = format!("/v3/user/{}/account_data/{name}", alice.user_id);
        node.put_as(&alice, &path, json!({ "is_silenced": true })).await.ok();
        node.post_as(&other, "/v3/logout", json!({})).await.ok();
        node.get_as(&alice, &path).await.refused(404, "M_NOT_FOUND");
    })
    .await;
}
