//! Sticky events: everybody in the room hears of them while they are fresh, and nobody afterwards.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Node, Person, each_engine};

const SLIDING: &str = "/unstable/org.matrix.simplified_msc3575/sync";
const EXTENSION: &str = "org.matrix.msc4354.sticky_events";
const PARAMETER: &str = "org.matrix.msc4354.sticky_duration_ms";

async fn say(node: &Node, who: &Person, room_id: &str, txn: &str, query: &str) -> String {
    let path = format!("/v3/rooms/{room_id}/send/m.test/{txn}?{query}");
    node.put_as(who, &path, json!({ "n": txn })).await.ok()["event_id"].as_str().unwrap().to_owned()
}

async fn room(node: &Node, creator: &Person, more: Value) -> String {
    let mut body = json!({ "preset": "public_chat" });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    node.post_as(creator, "/v3/createRoom", body).await.ok()["room_id"].as_str().unwrap().to_owned()
}

/// Ids of the sticky events of a room in an answer.
fn sticky(answer: &Value, room_id: &str) -> Vec<String> {
    let events = answer["rooms"]["join"][room_id]["msc4354_sticky"]["events"].as_array().cloned().unwrap_or_default();
    events.iter().map(|event| event["event_id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_sticky_event_reaches_who_comes_later_until_it_expires() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        // Bob will not see the history; sticky events he does.
        let hidden = json!({ "initial_state": [{ "type": "m.room.history_visibility", "state_key": "",
            "content": { "history_visibility": "joined" } }] });
        let room_id = room(&node, &alice, hidden).await;
        let fresh = say(&node, &alice, &room_id, "fresh", &format!("{PARAMETER}=600000")).await;
        let short = say(&node, &alice, &room_id, "short", &format!("{PARAMETER}=1000")).await;
        say(&node, &alice, &room_id, "plain", "").await;
        let timeline = node.get_as(&alice, "/v3/sync").await.ok();
        assert!(sticky(&timeline, &room_id).is_empty(), "the timeline shows them");
        let events = timeline["rooms"]["join"][&room_id]["timeline"]["events"].as_array().unwrap();
        let shown = events.iter().find(|event| event["event_id"] == *fresh).unwrap();
        assert_eq!(shown["msc4354_sticky"], json!({ "duration_ms": 600_000 }));
        assert_eq!(shown["unsigned"]["msc4354_sticky_duration_ttl_ms"], 600_000);
        node.clock.advance(Duration::from_secs(60));
        node.post_as(&bob, &format!("/v3/join/{room_id}"), json!({})).await.ok();
        let first = node.get_as(&bob, "/v3/sync").await.ok();
        assert_eq!(sticky(&first, &room_id), [fresh.as_str()]);
        assert!(!first.to_string().contains(&short));
        let event = &first["rooms"]["join"][&room_id]["msc4354_sticky"]["events"][0];
        assert_eq!(event["unsigned"]["msc4354_sticky_duration_ttl_ms"], 540_000);
        let since = first["next_batch"].as_str().unwrap();
        let next = node.get_as(&bob, &format!("/v3/sync?since={since}")).await.ok();
        assert!(sticky(&next, &room_id).is_empty(), "once is enough");
        // Behind more messages than the timeline holds, he hears of it nevertheless, whatever his filter.
        let buried = say(&node, &alice, &room_id, "buried", &format!("{PARAMETER}=600000")).await;
        for number in 0..15 {
            say(&node, &alice, &room_id, &format!("more{number}"), "").await;
        }
        let next = node.get_as(&bob, &format!("/v3/sync?since={since}")).await.ok();
        assert_eq!(sticky(&next, &room_id), [buried.as_str()]);
        let none = "filter=%7B%22room%22%3A%7B%22timeline%22%3A%7B%22types%22%3A%5B%5D%7D%7D%7D";
        let next = node.get_as(&bob, &format!("/v3/sync?since={since}&{none}")).await.ok();
        assert_eq!(sticky(&next, &room_id), [buried.as_str()]);
        // A redaction takes it back.
        node.put_as(&alice, &format!("/v3/rooms/{room_id}/redact/{fresh}/r"), json!({})).await.ok();
        assert_eq!(sticky(&node.get_as(&bob, "/v3/sync").await.ok(), &room_id), [buried.as_str()]);
        node.clock.advance(Duration::from_secs(3_600));
        assert!(sticky(&node.get_as(&bob, "/v3/sync").await.ok(), &room_id).is_empty());
        for wrong in ["3600001", "-1", "x"] {
            let path = format!("/v3/rooms/{room_id}/send/m.test/wrong?{PARAMETER}={wrong}");
            node.put_as(&alice, &path, json!({})).await.refused(400, "M_INVALID_PARAM");
        }
    })
    .await;
}

#[tokio::test]
async fn sliding_sync_pages_through_the_sticky_events_of_all_rooms_of_its_lists() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let mut rooms = Vec::new();
        for _ in 0..2 {
            node.clock.advance(Duration::from_millis(1));
            rooms.push(room(&node, &alice, json!({})).await);
        }
        let mut sent = Vec::new();
        for number in 0..3 {
            sent.push(say(&node, &alice, &rooms[0], &format!("s{number}"), &format!("{PARAMETER}=600000")).await);
        }
        for room_id in &rooms {
            say(&node, &alice, room_id, "plain", "").await;
        }
        for room_id in &rooms {
            node.post_as(&bob, &format!("/v3/join/{room_id}"), json!({})).await.ok();
        }
        let wish = |since: Option<&str>| {
            let mut extension = json!({ "enabled": true, "limit": 2 });
            if let Some(since) = since {
                extension["since"] = json!(since);
            }
            json!({ "lists": { "all": { "ranges": [[0, 0]], "timeline_limit": 1, "required_state": [] } },
                "extensions": { EXTENSION: extension } })
        };
        let ids = |answer: &Value| -> Vec<String> {
            let events = answer["extensions"][EXTENSION]["rooms"][&rooms[0]]["events"].as_array().cloned();
            events.unwrap_or_default().iter().map(|event| event["event_id"].as_str().unwrap().to_owned()).collect()
        };
        let first = node.post_as(&bob, &format!("{SLIDING}?timeout=0"), wish(None)).await.ok();
        assert_eq!(ids(&first), sent[..2], "also of a room out of view");
        let since = first["extensions"][EXTENSION]["next_batch"].as_str().unwrap().to_owned();
        let pos = first["pos"].as_str().unwrap();
        for number in 3..8 {
            sent.push(say(&node, &alice, &rooms[0], &format!("s{number}"), &format!("{PARAMETER}=600000")).await);
        }
        let mut told = ids(&first);
        let (mut since, mut pos) = (since, pos.to_owned());
        for _ in 0..5 {
            let path = format!("{SLIDING}?timeout=0&pos={pos}");
            let answer = node.post_as(&bob, &path, wish(Some(&since))).await.ok();
            told.extend(ids(&answer));
            let timeline = answer["rooms"][&rooms[0]]["timeline"].as_array().cloned().unwrap_or_default();
            told.extend(timeline.iter().filter_map(|event| event["event_id"].as_str().map(ToOwned::to_owned)));
            answer["pos"].as_str().unwrap().clone_into(&mut pos);
            if let Some(next) = answer["extensions"][EXTENSION]["next_batch"].as_str() {
                next.clone_into(&mut since);
            }
        }
        told.sort_unstable();
        told.dedup();
        let mut expected = sent;
        expected.sort_unstable();
        assert_eq!(told, expected);
    })
    .await;
}

#[tokio::test]
async fn a_delayed_event_is_sticky_from_when_it_is_sent() {
    each_engine(async |node| {
        let alice = node.person("alice").await;
        let room_id = room(&node, &alice, json!({})).await;
        let query = format!("org.matrix.msc4140.delay=10000&{PARAMETER}=60000");
        let path = format!("/v3/rooms/{room_id}/send/m.test/later?{query}");
        let delay_id = node.put_as(&alice, &path, json!({})).await.ok()["delay_id"].as_str().unwrap().to_owned();
        node.clock.advance(Duration::from_secs(9));
        let send = format!("/unstable/org.matrix.msc4140/delayed_events/{delay_id}/send");
        node.post_as(&alice, &send, json!({})).await.ok();
        let synced = node.get_as(&alice, "/v3/sync").await.ok();
        let events = synced["rooms"]["join"][&room_id]["timeline"]["events"].as_array().unwrap();
        let sent = events.iter().find(|event| event["type"] == "m.test").unwrap();
        assert_eq!(sent["unsigned"]["msc4354_sticky_duration_ttl_ms"], 60_000);
    })
    .await;
}
