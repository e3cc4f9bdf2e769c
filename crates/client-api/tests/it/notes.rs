//! Points that homeservers often get wrong, by their number among the conformance notes, which had no test elsewhere.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    harness::{Node, Person, each_engine},
    room::{act, create, join, public, say},
};

async fn sync(node: &Node, who: &Person, since: Option<&str>) -> Value {
    let since = since.map(|since| format!("?since={since}")).unwrap_or_default();
    node.get_as(who, &format!("/v3/sync{since}")).await.ok()
}

fn token(body: &Value) -> String {
    body["next_batch"].as_str().unwrap().to_owned()
}

fn bodies(events: &Value) -> Vec<&str> {
    events.as_array().into_iter().flatten().filter_map(|event| event["content"]["body"].as_str()).collect()
}

#[tokio::test]
async fn note_46_a_token_can_be_used_again_and_its_places_lead_through_history() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let room = public(&node, &alice, &[&bob]).await;
        let since = token(&sync(&node, &bob, None).await);
        for number in 0..3 {
            say(&node, &alice, &room, &number.to_string(), &number.to_string()).await.ok();
        }
        let first = sync(&node, &bob, Some(&since)).await;
        let timeline = &first["rooms"]["join"][&room]["timeline"];
        assert_eq!(bodies(&timeline["events"]), ["0", "1", "2"]);
        let again = sync(&node, &bob, Some(&since)).await;
        assert_eq!(again["rooms"]["join"][&room]["timeline"], *timeline);
        say(&node, &alice, &room, "3", "3").await.ok();
        let next = sync(&node, &bob, Some(&token(&first))).await;
        assert_eq!(
            bodies(&next["rooms"]["join"][&room]["timeline"]["events"]),
            ["3"],
            "since itself is not told again"
        );

        let messages = async |query: &str| {
            let page = node.get_as(&bob, &format!("/v3/rooms/{room}/messages?limit=100&{query}")).await.ok();
            bodies(&page["chunk"]).join(" ")
        };
        let (before, after) = (timeline["prev_batch"].as_str().unwrap(), token(&first));
        assert_eq!(messages(&format!("dir=f&from={before}")).await, "0 1 2 3");
        assert_eq!(messages(&format!("dir=b&from={before}")).await, "");
        assert_eq!(messages(&format!("dir=b&from={after}")).await, "2 1 0");
        assert_eq!(messages(&format!("dir=f&from={after}")).await, "3");
        assert_eq!(messages(&format!("dir=f&from={before}&to={after}")).await, "0 1 2");
    })
    .await;
}

#[tokio::test]
async fn note_53_device_lists_follow_who_shares_rooms_and_whose_devices_change() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let room = create(&node, &alice, json!({ "preset": "public_chat" })).await;
        let encryption = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
        node.put_as(&alice, &format!("/v3/rooms/{room}/state/m.room.encryption"), encryption).await.ok();
        let body = sync(&node, &alice, None).await;
        assert_eq!(
            body.get("device_lists").map_or(json!(null), |lists| lists["changed"].clone()),
            json!(null),
            "{body}"
        );
        let lists = async |since: &mut String| {
            let body = sync(&node, &alice, Some(since)).await;
            *since = token(&body);
            let of = |name: &str| body["device_lists"][name].as_array().cloned().unwrap_or_default();
            (of("changed"), of("left"))
        };
        let mut since = token(&body);
        join(&node, &bob, &room).await.ok();
        assert_eq!(lists(&mut since).await, (vec![json!(bob.user_id)], vec![]), "a room is newly shared");
        assert_eq!(lists(&mut since).await, (vec![], vec![]));
        let upload = async |who: &Person| {
            let keys = json!({ "device_keys": {
                "user_id": who.user_id, "device_id": who.device_id, "algorithms": ["m.megolm.v1.aes-sha2"],
                "keys": { format!("ed25519:{}", who.device_id): "a" }, "signatures": {},
            } });
            node.post_as(who, "/v3/keys/upload", keys).await.ok();
        };
        upload(&bob).await;
        assert_eq!(lists(&mut since).await, (vec![json!(bob.user_id)], vec![]));
        let phone = Person::of(&node.log_in(&alice, json!({})).await.ok());
        upload(&phone).await;
        assert_eq!(lists(&mut since).await, (vec![json!(alice.user_id)], vec![]), "one's own new device");
        node.post_as(&bob, &format!("/v3/rooms/{room}/leave"), json!({})).await.ok();
        assert_eq!(lists(&mut since).await, (vec![], vec![json!(bob.user_id)]), "no room is shared any more");
        upload(&bob).await;
        assert_eq!(lists(&mut since).await, (vec![], vec![]));
    })
    .await;
}

#[tokio::test]
async fn note_57_the_read_marker_and_the_push_rules_are_not_set_as_account_data() {
    each_engine(async |node| {
        let alice = node.person("alice").await;
        let room = public(&node, &alice, &[]).await;
        for path in [
            "/v3/user/@alice:samtal.test/account_data/m.fully_read".to_owned(),
            "/v3/user/@alice:samtal.test/account_data/m.push_rules".to_owned(),
            format!("/v3/user/@alice:samtal.test/rooms/{room}/account_data/m.fully_read"),
        ] {
            node.put_as(&alice, &path, json!({ "event_id": "$x" })).await.refused(405, "M_BAD_JSON");
        }
        // Other account data wakes who waits.
        let since = token(&sync(&node, &alice, None).await);
        let path = "/v3/user/@alice:samtal.test/account_data/m.direct";
        let wait = format!("/v3/sync?timeout=20000&since={since}");
        let (woken, _) = tokio::join!(node.get_as(&alice, &wait), async {
            tokio::task::yield_now().await;
            node.put_as(&alice, path, json!({ "@bob:samtal.test": ["!a:b"] })).await.ok()
        });
        assert_eq!(woken.ok()["account_data"]["events"][0]["type"], "m.direct");
    })
    .await;
}

#[tokio::test]
async fn note_61_pages_end_only_where_nothing_is_left_even_if_a_filter_empties_them() {
    each_engine(async |node| {
        let alice = node.person("alice").await;
        let room = public(&node, &alice, &[]).await;
        for number in 0..5 {
            say(&node, &alice, &room, &number.to_string(), "x").await.ok();
        }
        let filter = "%7B%22types%22%3A%5B%22m.room.create%22%5D%7D";
        let (mut from, mut found, mut pages) = (None::<String>, Vec::new(), 0);
        loop {
            let start = from.as_ref().map(|from| format!("&from={from}")).unwrap_or_default();
            let path = format!("/v3/rooms/{room}/messages?dir=b&limit=2&filter={filter}{start}");
            let page = node.get_as(&alice, &path).await.ok();
            if let Some(from) = &from {
                assert_eq!(page["start"], json!(from));
            }
            found.extend(page["chunk"].as_array().unwrap().iter().map(|event| event["type"].clone()));
            pages += 1;
            assert!(pages < 20, "the pages come to no end");
            match page["end"].as_str() {
                Some(end) => from = Some(end.to_owned()),
                None => break,
            }
        }
        assert_eq!(found, ["m.room.create"]);
    })
    .await;
}

#[tokio::test]
async fn note_64_a_changed_profile_is_a_member_event_in_each_room_and_who_shares_one_sees_it() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let rooms = [public(&node, &alice, &[&bob]).await, public(&node, &alice, &[]).await];
        node.clock.advance(Duration::from_secs(1));
        let path = "/v3/profile/@alice:samtal.test/displayname";
        node.put_as(&alice, path, json!({ "displayname": "Alice A." })).await.ok();
        for room in &rooms {
            let path = format!("/v3/rooms/{room}/state/m.room.member/@alice:samtal.test");
            assert_eq!(
                node.get_as(&alice, &path).await.ok(),
                json!({ "membership": "join", "displayname": "Alice A." })
            );
        }
        assert_eq!(node.get_as(&bob, path).await.ok(), json!({ "displayname": "Alice A." }));
        node.get_as(&bob, "/v3/profile/@nobody:samtal.test").await.refused(404, "M_NOT_FOUND");
    })
    .await;
}

#[tokio::test]
async fn note_20_who_was_banned_is_invited_again_only_after_the_ban_is_lifted() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let room = public(&node, &alice, &[&bob]).await;
        act(&node, &alice, &room, "ban", &bob).await.ok();
        act(&node, &alice, &room, "invite", &bob).await.refused(403, "M_FORBIDDEN");
        join(&node, &bob, &room).await.refused(403, "M_FORBIDDEN");
        act(&node, &alice, &room, "unban", &bob).await.ok();
        act(&node, &alice, &room, "invite", &bob).await.ok();
        join(&node, &bob, &room).await.ok();
    })
    .await;
}
