//! Delayed events, as clients of several drafts list them.

use serde_json::{Value, json};

use crate::harness::each_engine;

const BASE: &str = "/unstable/org.matrix.msc4140/delayed_events";

#[tokio::test]
async fn what_waits_and_what_has_ended_is_listed_as_old_and_new_clients_read_it() {
    each_engine(async |node| {
        let alice = node.person("alice").await;
        let room = node.post_as(&alice, "/v3/createRoom", json!({})).await.ok();
        let room_id = room["room_id"].as_str().unwrap();
        let mut ids = Vec::new();
        for number in 0..3 {
            let path = format!("/v3/rooms/{room_id}/send/m.test/d{number}?org.matrix.msc4140.delay=600000");
            let answer = node.put_as(&alice, &path, json!({ "n": number })).await.ok();
            ids.push(answer["delay_id"].as_str().unwrap().to_owned());
        }
        node.post_as(&alice, &format!("{BASE}/{}/cancel", ids[0]), json!({})).await.ok();
        node.post_as(&alice, &format!("{BASE}/{}/send", ids[1]), json!({})).await.ok();
        let waiting = node.get_as(&alice, BASE).await.ok();
        assert_eq!(waiting["scheduled"], waiting["delayed_events"]);
        let listed: Vec<&Value> = waiting["scheduled"].as_array().unwrap().iter().collect();
        assert_eq!(listed.len(), 1);
        assert_eq!(
            (&listed[0]["delay_id"], &listed[0]["delay"], &listed[0]["delay_ms"]),
            (&json!(ids[2]), &json!(600_000), &json!(600_000))
        );
        assert_eq!(listed[0]["running_since"], listed[0]["delayed_since_ts"]);
        let ended = node.get_as(&alice, &format!("{BASE}?status=finalised")).await.ok();
        let ended = ended["finalised"].as_array().unwrap();
        let of = |id: &str| ended.iter().find(|one| one["delayed_event"]["delay_id"] == id).unwrap();
        assert_eq!((&of(&ids[0])["outcome"], &of(&ids[0])["reason"]), (&json!("cancel"), &json!("action")));
        let sent = of(&ids[1]);
        assert_eq!((&sent["outcome"], &sent["reason"]), (&json!("send"), &json!("action")));
        let event_id = sent["event_id"].as_str().unwrap();
        assert_eq!(node.get_as(&alice, &format!("/v3/rooms/{room_id}/event/{event_id}")).await.ok()["content"]["n"], 1);
        let one = node.get_as(&alice, &format!("{BASE}/{}", ids[1])).await.ok();
        assert_eq!(one["finalised"]["event_id"], event_id);
        assert_eq!(one["finalised"]["finalised_ts"], one["finalised_ts"]);
        assert!(node.get_as(&alice, &format!("{BASE}/{}", ids[2])).await.ok().get("finalised").is_none());
    })
    .await;
}
