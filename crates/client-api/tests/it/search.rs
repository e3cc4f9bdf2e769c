//! Finding messages, on both engines.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Node, Person, each_engine};

async fn room(node: &Node, creator: &Person, wish: Value) -> String {
    node.clock.advance(Duration::from_millis(1));
    node.post_as(creator, "/v3/createRoom", wish).await.ok()["room_id"].as_str().unwrap().to_owned()
}

async fn join(node: &Node, who: &Person, room_id: &str) {
    node.post_as(who, &format!("/v3/join/{room_id}"), json!({})).await.ok();
}

async fn say_content(node: &Node, who: &Person, room_id: &str, content: Value) -> String {
    node.clock.advance(Duration::from_millis(1));
    let txn = node.hs.random.alphanumeric(12);
    let path = format!("/v3/rooms/{room_id}/send/m.room.message/{txn}");
    node.put_as(who, &path, content).await.ok()["event_id"].as_str().unwrap().to_owned()
}

async fn say(node: &Node, who: &Person, room_id: &str, body: &str) -> String {
    say_content(node, who, room_id, json!({ "msgtype": "m.text", "body": body })).await
}

async fn edit(node: &Node, who: &Person, room_id: &str, event_id: &str, body: &str) -> String {
    let content = json!({
        "msgtype": "m.text", "body": format!("* {body}"),
        "m.new_content": { "msgtype": "m.text", "body": body },
        "m.relates_to": { "rel_type": "m.replace", "event_id": event_id },
    });
    say_content(node, who, room_id, content).await
}

async fn redact(node: &Node, who: &Person, room_id: &str, event_id: &str) {
    let txn = node.hs.random.alphanumeric(12);
    node.put_as(who, &format!("/v3/rooms/{room_id}/redact/{event_id}/{txn}"), json!({})).await.ok();
}

async fn search(node: &Node, who: &Person, criteria: Value) -> Value {
    search_on(node, who, criteria, "").await
}

async fn search_on(node: &Node, who: &Person, criteria: Value, query: &str) -> Value {
    let body = json!({ "search_categories": { "room_events": criteria } });
    let path = format!("/v3/search{query}");
    node.post_as(who, &path, body).await.ok()["search_categories"]["room_events"].take()
}

/// The bodies of what was found, in order.
async fn bodies(node: &Node, who: &Person, term: &str) -> Vec<String> {
    let found = search(node, who, json!({ "search_term": term, "order_by": "recent" })).await;
    texts(&found)
}

fn texts(found: &Value) -> Vec<String> {
    let text = |result: &Value| {
        let content = &result["result"]["content"];
        [&content["body"], &content["name"], &content["topic"]].into_iter().find_map(Value::as_str).unwrap().to_owned()
    };
    found["results"].as_array().unwrap().iter().map(text).collect()
}

#[tokio::test]
async fn messages_names_and_topics_are_found_by_forms_and_parts_of_words_without_accents() {
    each_engine(async |node| {
        let alice = node.person("alice").await;
        let wish = json!({ "preset": "private_chat", "name": "Räksmörgåsar", "topic": "Om möten i kommunen" });
        let plain = room(&node, &alice, json!({ "preset": "public_chat" })).await;
        for text in
            ["Mötena flyttas till torsdag", "Running late", "kommunfullmäktige i kväll", "mot Stockholm", "東京タワー"]
        {
            say(&node, &alice, &plain, text).await;
        }
        let named = room(&node, &alice, wish).await;
        assert_eq!(bodies(&node, &alice, "möte torsdagar").await, ["Mötena flyttas till torsdag"]);
        assert_eq!(bodies(&node, &alice, "RUNS late").await, ["Running late"]);
        assert_eq!(bodies(&node, &alice, "kvall").await, ["kommunfullmäktige i kväll"]);
        assert_eq!(bodies(&node, &alice, "mot").await, ["mot Stockholm"]);
        assert_eq!(bodies(&node, &alice, "stock").await, ["mot Stockholm"], "the beginning of a word");
        assert_eq!(bodies(&node, &alice, "fullmäktige").await, ["kommunfullmäktige i kväll"], "the end of a compound");
        assert_eq!(bodies(&node, &alice, "タワー").await, ["東京タワー"]);
        assert_eq!(bodies(&node, &alice, "\"till torsdag\"").await, ["Mötena flyttas till torsdag"]);
        assert!(bodies(&node, &alice, "\"torsdag till\"").await.is_empty());
        assert!(bodies(&node, &alice, "möte -torsdag").await.iter().all(|text| !text.contains("torsdag")));
        assert!(bodies(&node, &alice, "' OR \" * ) & : \\ §1").await.is_empty());
        assert!(bodies(&node, &alice, "!!!").await.is_empty());

        let only = |key: &str| json!({ "search_term": "räksmörgås möte", "keys": [key] });
        assert!(texts(&search(&node, &alice, only("content.body")).await).is_empty());
        let found = search(&node, &alice, json!({ "search_term": "raksmorgasar", "keys": ["content.name"] })).await;
        assert_eq!(texts(&found), ["Räksmörgåsar"]);
        let found = search(&node, &alice, json!({ "search_term": "möte", "keys": ["content.topic"] })).await;
        assert_eq!(
            (texts(&found), found["highlights"].clone()),
            (vec!["Om möten i kommunen".into()], json!(["möten"]))
        );
        assert_eq!(found["results"][0]["result"]["room_id"], json!(named));
    })
    .await;
}

#[tokio::test]
async fn redacted_messages_are_not_found_and_edited_ones_by_what_they_say_now() {
    each_engine(async |node| {
        let alice = node.person("alice").await;
        let room_id = room(&node, &alice, json!({ "preset": "public_chat" })).await;
        let first = say(&node, &alice, &room_id, "a secret").await;
        let second = say(&node, &alice, &room_id, "no secret").await;
        assert_eq!(bodies(&node, &alice, "secret").await, ["no secret", "a secret"]);
        redact(&node, &alice, &room_id, &first).await;
        assert_eq!(bodies(&node, &alice, "secret").await, ["no secret"]);
        let edited = edit(&node, &alice, &room_id, &second, "an apple").await;
        assert!(bodies(&node, &alice, "secret").await.is_empty());
        let found = search(&node, &alice, json!({ "search_term": "apples" })).await;
        assert_eq!(found["results"][0]["result"]["event_id"], json!(second), "{found}");
        assert_eq!(found["count"], json!(1));
        redact(&node, &alice, &room_id, &edited).await;
        assert_eq!(bodies(&node, &alice, "secret").await, ["no secret"]);
        assert!(bodies(&node, &alice, "apple").await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn nobody_finds_what_they_may_not_see() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let joined = json!([{ "type": "m.room.history_visibility", "content": { "history_visibility": "joined" } }]);
        let room_id = room(&node, &alice, json!({ "preset": "public_chat", "initial_state": joined })).await;
        let other = room(&node, &alice, json!({ "preset": "private_chat" })).await;
        say(&node, &alice, &room_id, "budget one").await;
        say(&node, &alice, &other, "budget elsewhere").await;
        join(&node, &bob, &room_id).await;
        say(&node, &alice, &room_id, "budget two").await;
        node.post_as(&bob, &format!("/v3/rooms/{room_id}/leave"), json!({})).await.ok();
        say(&node, &alice, &room_id, "budget three").await;
        let found = search(&node, &bob, json!({ "search_term": "budget" })).await;
        assert_eq!((texts(&found), &found["count"]), (vec!["budget two".into()], &json!(1)));
        let filter = json!({ "search_term": "budget", "filter": { "rooms": [other] } });
        assert_eq!(search(&node, &bob, filter).await["count"], json!(0));
        assert_eq!(bodies(&node, &alice, "budget").await.len(), 4);

        let ignored = json!({ "ignored_users": { bob.user_id.clone(): {} } });
        say(&node, &alice, &other, "hello").await;
        let path = format!("/v3/user/{}/account_data/m.ignored_user_list", alice.user_id);
        join(&node, &bob, &room_id).await;
        say(&node, &bob, &room_id, "budget of bob").await;
        assert_eq!(bodies(&node, &alice, "budget bob").await.len(), 1);
        node.put_as(&alice, &path, ignored).await.ok();
        assert!(bodies(&node, &alice, "budget bob").await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn pages_groups_context_and_state_are_as_asked_for() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let room_id = room(&node, &alice, json!({ "preset": "public_chat" })).await;
        join(&node, &bob, &room_id).await;
        for number in 0..20 {
            let who = if number % 2 == 0 { &alice } else { &bob };
            say(&node, who, &room_id, &format!("Message number {number}")).await;
        }
        for order in ["recent", "rank"] {
            let criteria = json!({
                "search_term": "message", "order_by": order, "filter": { "rooms": [room_id], "limit": 10 },
                "groupings": { "group_by": [{ "key": "room_id" }, { "key": "sender" }] },
            });
            let first = search(&node, &alice, criteria.clone()).await;
            assert_eq!(first["count"], json!(20));
            assert_eq!(texts(&first)[0], "Message number 19", "{order}");
            let group = &first["groups"]["sender"][&bob.user_id];
            assert_eq!(group["results"].as_array().unwrap().len(), 5);
            assert_eq!(first["groups"]["room_id"][&room_id]["order"], json!(1));

            let next = |token: &Value| format!("?next_batch={}", token.as_str().unwrap());
            let second = search_on(&node, &alice, criteria.clone(), &next(&first["next_batch"])).await;
            assert_eq!((texts(&second)[9].clone(), &second["count"]), ("Message number 0".into(), &json!(20)));
            let third = search_on(&node, &alice, criteria.clone(), &next(&second["next_batch"])).await;
            assert_eq!(
                (&third["results"], &third["next_batch"], &third["count"]),
                (&json!([]), &Value::Null, &json!(20))
            );

            let of_bob = search_on(&node, &alice, criteria, &next(&group["next_batch"])).await;
            let expected: Vec<_> = [9, 7, 5, 3, 1].map(|number| format!("Message number {number}")).into();
            assert_eq!(texts(&of_bob), expected, "{order}");
        }
        let criteria = json!({
            "search_term": "Message 4", "order_by": "recent", "include_state": true,
            "filter": { "senders": [alice.user_id] },
            "event_context": { "before_limit": 2, "after_limit": 1, "include_profile": true },
        });
        let found = search(&node, &bob, criteria).await;
        assert_eq!(found["results"].as_array().unwrap().len(), 1, "14 is no form of 4: {found}");
        assert_eq!(found["results"][0]["context"]["profile_info"][&bob.user_id], json!({ "displayname": "bob" }));
        assert!(found["state"][&room_id].as_array().unwrap().iter().any(|event| event["type"] == "m.room.create"));
        let found = search(&node, &bob, json!({ "search_term": "4", "event_context": { "before_limit": 2 } })).await;
        let context = &found["results"][0]["context"];
        let bodies = |events: &Value| -> Vec<String> {
            events
                .as_array()
                .unwrap()
                .iter()
                .map(|event| event["content"]["body"].as_str().unwrap().to_owned())
                .collect()
        };
        assert_eq!(bodies(&context["events_before"]), ["Message number 3", "Message number 2"]);
        assert_eq!(bodies(&context["events_after"])[0], "Message number 5");
        assert!(context["start"].is_string() && context["end"].is_string());
    })
    .await;
}

#[tokio::test]
async fn what_is_purged_is_not_found() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let room_id = room(&node, &alice, json!({ "preset": "public_chat", "topic": "Apples" })).await;
        let other = room(&node, &alice, json!({ "preset": "public_chat" })).await;
        for number in 0..3 {
            say(&node, &alice, &room_id, &format!("apple {number}")).await;
        }
        say(&node, &alice, &other, "apple elsewhere").await;
        assert_eq!(bodies(&node, &alice, "apple").await.len(), 5);
        let id: ruma::OwnedRoomId = room_id.parse().unwrap();
        let known = node.hs.rooms.room(&id).await.unwrap();
        assert!(node.hs.rooms.purge_history(&known, node.hs.rooms.now(), true).await.unwrap() > 0);
        say(&node, &alice, &room_id, "a new apple").await;
        let left = bodies(&node, &alice, "apple").await;
        assert!(left.contains(&"a new apple".to_owned()) && !left.contains(&"apple 0".to_owned()), "{left:?}");
        join(&node, &bob, &room_id).await;
        node.hs.rooms.purge(&id).await.unwrap();
        assert_eq!(bodies(&node, &alice, "apple").await, ["apple elsewhere"]);
        let leftover = "SELECT COUNT(*) FROM search_event WHERE room = $1";
        let rows = node.hs.db.query(&samtal_db::Sql::new(leftover), samtal_db::params![known.nid.0]).await.unwrap();
        assert_eq!(rows[0].int(0).unwrap(), 0);
    })
    .await;
}

#[tokio::test]
async fn an_upgraded_room_is_searched_with_what_it_was_before() {
    each_engine(async |node| {
        let alice = node.person("alice").await;
        let before = room(&node, &alice, json!({ "preset": "private_chat", "room_version": "10" })).await;
        say(&node, &alice, &before, "before the upgrade").await;
        let path = format!("/v3/rooms/{before}/upgrade");
        let after = node.post_as(&alice, &path, json!({ "new_version": "11" })).await.ok();
        let after = after["replacement_room"].as_str().unwrap();
        say(&node, &alice, after, "after the upgrade").await;
        let found = search(&node, &alice, json!({ "search_term": "upgrade", "filter": { "rooms": [after] } })).await;
        assert_eq!(found["count"], json!(2), "{found}");
    })
    .await;
}

#[tokio::test]
async fn bad_questions_are_refused() {
    each_engine(async |node| {
        let alice = node.person("alice").await;
        let refused = async |criteria: Value, errcode: &str| {
            let body = json!({ "search_categories": { "room_events": criteria } });
            node.post_as(&alice, "/v3/search", body).await.refused(400, errcode);
        };
        refused(json!({}), "M_MISSING_PARAM").await;
        refused(json!({ "search_term": 5 }), "M_BAD_JSON").await;
        refused(json!({ "search_term": "x".repeat(2000) }), "M_INVALID_PARAM").await;
        refused(json!({ "search_term": "x", "order_by": "size" }), "M_INVALID_PARAM").await;
        refused(json!({ "search_term": "x", "keys": ["content.url"] }), "M_INVALID_PARAM").await;
        let body = json!({ "search_categories": { "room_events": { "search_term": "x" } } });
        node.post_as(&alice, "/v3/search?next_batch=nonsense", body.clone()).await.refused(400, "M_INVALID_PARAM");
        node.post("/v3/search", body).await.refused(401, "M_MISSING_TOKEN");
        assert_eq!(
            node.post_as(&alice, "/v3/search", json!({ "search_categories": {} })).await.ok(),
            json!({ "search_categories": {} })
        );
    })
    .await;
}
