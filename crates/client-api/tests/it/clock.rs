//! A clock that runs backwards: after a correction of an hour, nothing is out of order, lost, or locked up.

use std::time::Duration;

use samtal_account::Rates;
use samtal_kit::Rate;
use serde_json::{Value, json};

use crate::{
    harness::{Node, Person, each_engine, each_engine_with, settings},
    room::{public, say},
};

const HOUR_MS: u64 = 3_600_000;

fn back(node: &Node, ms: u64) {
    node.clock.set_ms(node.clock.now_ms() - ms);
}

async fn sync(node: &Node, who: &Person, since: &Value) -> Value {
    let since = since.as_str().map(|since| format!("?since={since}")).unwrap_or_default();
    node.get_as(who, &format!("/v3/sync{since}")).await.ok()
}

fn bodies(events: &Value) -> Vec<&str> {
    events.as_array().unwrap().iter().filter_map(|event| event["content"]["body"].as_str()).collect()
}

#[tokio::test]
async fn what_is_said_after_the_clock_ran_backwards_comes_after_what_was_said_before() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let room = public(&node, &alice, &[&bob]).await;
        let before = sync(&node, &bob, &Value::Null).await;
        say(&node, &alice, &room, "1", "one").await.ok();
        back(&node, HOUR_MS);
        say(&node, &alice, &room, "2", "two").await.ok();
        let between = sync(&node, &bob, &before["next_batch"]).await;
        assert_eq!(bodies(&between["rooms"]["join"][&room]["timeline"]["events"]), ["one", "two"]);
        say(&node, &bob, &room, "3", "three").await.ok();
        let after = sync(&node, &bob, &between["next_batch"]).await;
        assert_eq!(bodies(&after["rooms"]["join"][&room]["timeline"]["events"]), ["three"]);
        let history = node.get_as(&bob, &format!("/v3/rooms/{room}/messages?dir=b&limit=3")).await.ok();
        assert_eq!(bodies(&history["chunk"]), ["three", "two", "one"]);
        // State, receipts and account data follow what was done, not what the clock said.
        let path = format!("/v3/rooms/{room}/state/m.room.topic");
        node.put_as(&alice, &path, json!({ "topic": "now" })).await.ok();
        back(&node, HOUR_MS);
        node.put_as(&alice, &path, json!({ "topic": "later" })).await.ok();
        assert_eq!(node.get_as(&bob, &path).await.ok()["topic"], "later");
        let read = after["rooms"]["join"][&room]["timeline"]["events"][0]["event_id"].as_str().unwrap();
        node.post_as(&alice, &format!("/v3/rooms/{room}/receipt/m.read/{read}"), json!({})).await.ok();
        let seen = sync(&node, &bob, &after["next_batch"]).await;
        assert!(seen["rooms"]["join"][&room]["ephemeral"].to_string().contains(read), "{seen}");
        // People can still enter, and make rooms and devices.
        node.log_in(&bob, json!({})).await.ok();
        let carol = node.somebody().await;
        crate::room::join(&node, &carol, &room).await.ok();
        public(&node, &carol, &[&alice]).await;
        assert_eq!(node.get_as(&alice, "/v3/account/whoami").await.ok()["user_id"], json!(alice.user_id));
    })
    .await;
}

#[tokio::test]
async fn nobody_waits_for_the_clock_to_come_back_to_where_it_was() {
    let mut limited = settings();
    limited.accounts.rates = Some(Rates { messages: Rate::new(1.0, 3), ..Rates::default() });
    each_engine_with(limited, async |node| {
        let alice = node.person("alice").await;
        let room = public(&node, &alice, &[]).await;
        for number in 0..3 {
            say(&node, &alice, &room, &number.to_string(), "x").await.ok();
        }
        back(&node, HOUR_MS);
        say(&node, &alice, &room, "over", "x").await.refused(429, "M_LIMIT_EXCEEDED");
        node.clock.advance(Duration::from_secs(1));
        say(&node, &alice, &room, "over", "x").await.ok();
    })
    .await;
}

#[tokio::test]
async fn typing_that_began_before_the_clock_ran_backwards_ends() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let room = public(&node, &alice, &[&bob]).await;
        let path = format!("/v3/rooms/{room}/typing/{}", alice.user_id);
        node.put_as(&alice, &path, json!({ "typing": true, "timeout": 30_000 })).await.ok();
        let seen = sync(&node, &bob, &Value::Null).await;
        assert!(seen["rooms"]["join"][&room]["ephemeral"].to_string().contains(&alice.user_id), "{seen}");
        back(&node, HOUR_MS);
        node.put_as(&alice, &path, json!({ "typing": false })).await.ok();
        let ended = sync(&node, &bob, &seen["next_batch"]).await;
        assert_eq!(ended["rooms"]["join"][&room]["ephemeral"]["events"][0]["content"]["user_ids"], json!([]));
    })
    .await;
}
