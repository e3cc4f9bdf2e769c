//! Finding people, on both engines.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Node, Person, each_engine, each_engine_with, settings};

async fn named(node: &Node, name: &str, display_name: &str) -> Person {
    let person = node.person(name).await;
    let path = format!("/v3/profile/{}/displayname", person.user_id);
    node.put_as(&person, &path, json!({ "displayname": display_name })).await.ok();
    person
}

async fn room(node: &Node, creator: &Person, preset: &str) -> String {
    node.clock.advance(Duration::from_millis(1));
    let wish = json!({ "preset": preset });
    node.post_as(creator, "/v3/createRoom", wish).await.ok()["room_id"].as_str().unwrap().to_owned()
}

async fn set(node: &Node, who: &Person, room_id: &str, event_type: &str, content: Value) {
    node.put_as(who, &format!("/v3/rooms/{room_id}/state/{event_type}"), content).await.ok();
}

async fn find(node: &Node, who: &Person, term: &str) -> Vec<String> {
    let found = node.post_as(who, "/v3/user_directory/search", json!({ "search_term": term })).await.ok();
    let id = |user: &Value| user["user_id"].as_str().unwrap().trim_end_matches(":samtal.test").to_owned();
    found["results"].as_array().unwrap().iter().map(id).collect()
}

#[tokio::test]
async fn people_are_found_where_they_can_be_seen() {
    each_engine(async |node| {
        let alice = named(&node, "alice-1", "Åsa Lindström").await;
        let bob = node.person("bob-2").await;
        let eve = node.person("eve-3").await;
        assert!(find(&node, &bob, "asa").await.is_empty(), "no room shared");
        let shared = room(&node, &alice, "private_chat").await;
        assert!(find(&node, &alice, "asa").await.is_empty(), "not even by herself");
        node.post_as(&alice, &format!("/v3/rooms/{shared}/invite"), json!({ "user_id": bob.user_id })).await.ok();
        assert!(find(&node, &bob, "asa").await.is_empty(), "only invited");
        node.post_as(&bob, &format!("/v3/join/{shared}"), json!({})).await.ok();
        for term in ["asa", "ÅSA", "lind", "lindström åsa", "alice", "@alice", "@alice-1:samtal.test"] {
            assert_eq!(find(&node, &bob, term).await, ["@alice-1"], "{term}");
        }
        assert!(find(&node, &bob, "sa").await.is_empty());
        assert!(find(&node, &bob, "@alice-1:other.test").await.is_empty());
        assert!(find(&node, &eve, "asa").await.is_empty(), "eve shares no room");

        for (event_type, open, closed) in [
            ("m.room.join_rules", json!({ "join_rule": "public" }), json!({ "join_rule": "invite" })),
            (
                "m.room.history_visibility",
                json!({ "history_visibility": "world_readable" }),
                json!({ "history_visibility": "shared" }),
            ),
        ] {
            set(&node, &alice, &shared, event_type, open).await;
            assert_eq!(find(&node, &eve, "asa").await, ["@alice-1"], "{event_type}");
            set(&node, &alice, &shared, event_type, closed).await;
            assert!(find(&node, &eve, "asa").await.is_empty(), "{event_type}");
        }

        let public = room(&node, &bob, "public_chat").await;
        node.post_as(&alice, &format!("/v3/join/{public}"), json!({})).await.ok();
        assert_eq!(find(&node, &eve, "asa").await, ["@alice-1"]);
        let path = format!("/v3/profile/{}/displayname", alice.user_id);
        node.put_as(&alice, &path, json!({ "displayname": "Berit" })).await.ok();
        assert_eq!((find(&node, &eve, "asa").await.len(), find(&node, &eve, "ber").await.len()), (0, 1));
        set_own_name(&node, &alice, &shared, "Freddy").await;
        assert!(find(&node, &eve, "freddy").await.is_empty(), "a name in one room is no name for all");
        node.post_as(&alice, &format!("/v3/rooms/{public}/leave"), json!({})).await.ok();
        assert!(find(&node, &eve, "berit").await.is_empty());
    })
    .await;
}

async fn set_own_name(node: &Node, who: &Person, room_id: &str, name: &str) {
    let path = format!("/v3/rooms/{room_id}/state/m.room.member/{}", who.user_id);
    node.put_as(who, &path, json!({ "membership": "join", "displayname": name })).await.ok();
}

#[tokio::test]
async fn the_best_come_first_and_the_rest_is_cut() {
    let mut settings = settings();
    settings.search.all_local_users = true;
    each_engine_with(settings, async |node| {
        let searcher = node.person("searcher").await;
        named(&node, "u1", "Annabel").await;
        named(&node, "u2", "Anna Svensson").await;
        named(&node, "u3", "Anna").await;
        let gone = named(&node, "u4", "Anna").await;
        let shy = named(&node, "u5", "Anna").await;
        assert_eq!(find(&node, &searcher, "anna").await, ["@u3", "@u4", "@u5", "@u2", "@u1"]);
        node.hs
            .accounts
            .switch(&gone.user_id.parse::<ruma::OwnedUserId>().unwrap(), samtal_account::Switch::Locked, true)
            .await
            .unwrap();
        node.hs.search.set_hidden(&shy.user_id.parse::<ruma::OwnedUserId>().unwrap(), true).await.unwrap();
        assert_eq!(find(&node, &searcher, "anna").await, ["@u3", "@u2", "@u1"]);
        let path = "/v3/user_directory/search";
        let found = node.post_as(&searcher, path, json!({ "search_term": "anna", "limit": 2 })).await.ok();
        assert_eq!((found["results"].as_array().unwrap().len(), &found["limited"]), (2, &json!(true)));
        assert_eq!(found["results"][0]["display_name"], json!("Anna"));
        node.post_as(&searcher, path, json!({})).await.refused(400, "M_MISSING_PARAM");
        node.post(path, json!({ "search_term": "anna" })).await.refused(401, "M_MISSING_TOKEN");
    })
    .await;
}

#[tokio::test]
async fn two_users_share_the_rooms_that_both_are_in() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let path = |user_id: &str, more: &str| format!("/v1/mutual_rooms?user_id={user_id}{more}");
        let shared = async || node.get_as(&alice, &path(&bob.user_id, "")).await.ok();
        assert_eq!(shared().await, json!({ "count": 0, "joined": [] }));
        let both = room(&node, &alice, "public_chat").await;
        room(&node, &alice, "public_chat").await;
        let left = room(&node, &bob, "public_chat").await;
        for (who, room_id) in [(&bob, &both), (&alice, &left)] {
            node.post_as(who, &format!("/v3/join/{room_id}"), json!({})).await.ok();
        }
        node.post_as(&alice, &format!("/v3/rooms/{left}/leave"), json!({})).await.ok();
        assert_eq!(shared().await, json!({ "count": 1, "joined": [both] }));
        let unknown = node.get_as(&alice, &path("@nobody:samtal.test", "")).await.ok();
        assert_eq!(unknown, json!({ "count": 0, "joined": [] }));
        for bad in [path(&alice.user_id, ""), path("bob", ""), path(&bob.user_id, "&from=1")] {
            node.get_as(&alice, &bad).await.refused(400, "M_INVALID_PARAM");
        }
    })
    .await;
}
