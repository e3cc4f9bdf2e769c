//! Events chosen by their relations: by what they say of others, and by what others say of them.

use serde_json::{Value, json};

use crate::harness::each_engine;

#[tokio::test]
async fn messages_context_and_sync_choose_events_by_their_relations() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let made = node.post_as(&alice, "/v3/createRoom", json!({ "preset": "public_chat" })).await.ok();
        let room_id = made["room_id"].as_str().unwrap().to_owned();
        node.post_as(&bob, &format!("/v3/join/{room_id}"), json!({})).await.ok();
        let say = async |who, txn: &str, relation: Value| {
            let mut content = json!({ "msgtype": "m.text", "body": txn });
            if !relation.is_null() {
                content["m.relates_to"] = relation;
            }
            let path = format!("/v3/rooms/{room_id}/send/m.room.message/{txn}");
            node.put_as(who, &path, content).await.ok()["event_id"].as_str().unwrap().to_owned()
        };
        let root = say(&alice, "root", Value::Null).await;
        let plain = say(&alice, "plain", Value::Null).await;
        let relation = |kind: &str| json!({ "rel_type": kind, "event_id": root });
        let thread = say(&bob, "thread", relation("m.thread")).await;
        let reference = say(&alice, "reference", relation("m.reference")).await;
        let ids = |events: &Value| -> Vec<String> {
            let events = events.as_array().into_iter().flatten();
            let messages = events.filter(|event| event["type"] == "m.room.message");
            messages.map(|event| event["event_id"].as_str().unwrap().to_owned()).collect()
        };
        let quoted = |filter: &Value| {
            let text = filter.to_string();
            text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>()
        };
        let all = [&root, &plain, &thread, &reference];
        for (filter, expected) in [
            (json!({ "org.matrix.msc3874.rel_types": ["m.thread"] }), vec![&thread]),
            (json!({ "rel_types": ["m.thread", "m.reference"] }), vec![&thread, &reference]),
            (json!({ "org.matrix.msc3874.not_rel_types": ["m.thread"] }), vec![&root, &plain, &reference]),
            (json!({ "related_by_rel_types": ["m.thread"] }), vec![&root]),
            (json!({ "related_by_senders": [bob.user_id] }), vec![&root]),
            (json!({ "related_by_senders": [bob.user_id], "related_by_rel_types": ["m.reference"] }), vec![]),
            (json!({}), all.to_vec()),
        ] {
            let expected: Vec<String> = expected.into_iter().cloned().collect();
            let path = format!("/v3/rooms/{room_id}/messages?dir=f&limit=50&filter={}", quoted(&filter));
            assert_eq!(ids(&node.get_as(&alice, &path).await.ok()["chunk"]), expected, "{filter}");
            let path = format!("/v3/rooms/{room_id}/context/{plain}?limit=50&filter={}", quoted(&filter));
            let context = node.get_as(&alice, &path).await.ok();
            let mut around = ids(&context["events_before"]);
            around.extend(ids(&context["events_after"]));
            let others: Vec<String> = expected.iter().filter(|id| **id != plain).cloned().collect();
            assert_eq!(around, others, "{filter}");
            let filter = json!({ "room": { "timeline": filter } });
            let synced = node.get_as(&alice, &format!("/v3/sync?filter={}", quoted(&filter))).await.ok();
            assert_eq!(ids(&synced["rooms"]["join"][&room_id]["timeline"]["events"]), expected, "{filter}");
        }
        let bad = quoted(&json!({ "rel_types": "m.thread" }));
        let path = format!("/v3/rooms/{room_id}/messages?dir=f&filter={bad}");
        assert_eq!(node.get_as(&alice, &path).await.status, 400);
    })
    .await;
}
