//! Subscribing to threads, and what it does to notifications and to sync.

use http::Method;
use serde_json::{Value, json};

use crate::harness::{Node, Person, each_engine};

const SLIDING: &str = "/unstable/org.matrix.simplified_msc3575/sync";
const EXTENSION: &str = "io.element.msc4308.thread_subscriptions";
const UNSUBSCRIBED: &str = ".io.element.msc4306.rule.unsubscribed_thread";

async fn room(node: &Node, creator: &Person, other: &Person) -> String {
    let made = node.post_as(creator, "/v3/createRoom", json!({ "preset": "public_chat" })).await.ok();
    let room_id = made["room_id"].as_str().unwrap().to_owned();
    node.post_as(other, &format!("/v3/join/{room_id}"), json!({})).await.ok();
    room_id
}

/// Says something, in a thread if there is a root; answers with the event's id.
async fn say(node: &Node, who: &Person, room_id: &str, txn: &str, root: Option<&str>) -> String {
    let mut content = json!({ "msgtype": "m.text", "body": txn });
    if let Some(root) = root {
        content["m.relates_to"] = json!({ "rel_type": "m.thread", "event_id": root });
    }
    let sent = node.put_as(who, &format!("/v3/rooms/{room_id}/send/m.room.message/{txn}"), content).await.ok();
    sent["event_id"].as_str().unwrap().to_owned()
}

fn path(room_id: &str, root: &str) -> String {
    format!("/unstable/io.element.msc4306/rooms/{room_id}/thread/{root}/subscription")
}

#[tokio::test]
async fn a_client_does_not_subscribe_again_for_the_sake_of_what_the_user_has_seen() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let room_id = room(&node, &alice, &bob).await;
        let root = say(&node, &bob, &room_id, "root", None).await;
        let first = say(&node, &bob, &room_id, "first", Some(&root)).await;
        let subscription = path(&room_id, &root);
        node.get_as(&alice, &subscription).await.refused(404, "M_NOT_FOUND");
        node.put_as(&alice, &subscription, json!({ "automatic": first })).await.ok();
        assert_eq!(node.get_as(&alice, &subscription).await.ok(), json!({ "automatic": true }));
        node.put_as(&alice, &subscription, json!({})).await.ok();
        node.put_as(&alice, &subscription, json!({ "automatic": first })).await.ok();
        assert_eq!(node.get_as(&alice, &subscription).await.ok(), json!({ "automatic": false }), "the user's own wins");
        node.delete_as(&alice, &subscription, json!({})).await.ok();
        node.delete_as(&alice, &subscription, json!({})).await.ok();
        node.get_as(&alice, &subscription).await.refused(404, "M_NOT_FOUND");
        let conflict = "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION";
        node.put_as(&alice, &subscription, json!({ "automatic": first })).await.refused(409, conflict);
        let second = say(&node, &bob, &room_id, "second", Some(&root)).await;
        node.put_as(&alice, &subscription, json!({ "automatic": second })).await.ok();
        let outside = "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD";
        let elsewhere = say(&node, &bob, &room_id, "elsewhere", None).await;
        for event_id in [&root, &elsewhere] {
            node.put_as(&alice, &subscription, json!({ "automatic": event_id })).await.refused(400, outside);
        }
        // Neither what is not there nor what cannot be seen is a thread.
        let stranger = node.person("stranger").await;
        for method in [Method::GET, Method::PUT, Method::DELETE] {
            let nowhere = path(&room_id, "$nowhere");
            node.bytes(method.clone(), &nowhere, Some(&alice.token), "{}").await.refused(404, "M_NOT_FOUND");
            if method != Method::GET {
                let room_id = node.post_as(&alice, "/v3/createRoom", json!({})).await.ok();
                let room_id = room_id["room_id"].as_str().unwrap();
                let hidden = say(&node, &alice, room_id, "hidden", None).await;
                let hidden = path(room_id, &hidden);
                node.bytes(method, &hidden, Some(&stranger.token), "{}").await.refused(404, "M_NOT_FOUND");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn threads_notify_everybody_until_the_user_first_subscribes_to_one() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let room_id = room(&node, &alice, &bob).await;
        let one = say(&node, &alice, &room_id, "one", None).await;
        let other = say(&node, &alice, &room_id, "other", None).await;
        let filter = r#"{"room":{"timeline":{"unread_thread_notifications":true}}}"#;
        let filter = filter.replace('{', "%7B").replace('}', "%7D").replace('"', "%22");
        let unread = async |root: &str| {
            let answer = node.get_as(&alice, &format!("/v3/sync?filter={filter}")).await.ok();
            let room = &answer["rooms"]["join"][&room_id];
            room["unread_thread_notifications"][root]["notification_count"].as_u64().unwrap_or(0)
        };
        say(&node, &bob, &room_id, "a", Some(&one)).await;
        say(&node, &bob, &room_id, "b", Some(&other)).await;
        assert_eq!((unread(&one).await, unread(&other).await), (1, 1), "her clients know no subscriptions");
        let rule = format!("/v3/pushrules/global/postcontent/{UNSUBSCRIBED}");
        assert_eq!(node.get_as(&alice, &rule).await.ok()["enabled"], false);
        node.put_as(&alice, &path(&room_id, &one), json!({})).await.ok();
        assert_eq!(node.get_as(&alice, &rule).await.ok()["enabled"], true);
        // A muted room says nothing but what is in threads that she wants to follow, and what mentions her.
        let mute = json!({ "actions": [] });
        node.put_as(&alice, &format!("/v3/pushrules/global/room/{room_id}"), mute).await.ok();
        say(&node, &bob, &room_id, "c", Some(&one)).await;
        say(&node, &bob, &room_id, "d", Some(&other)).await;
        assert_eq!((unread(&one).await, unread(&other).await), (2, 1));
        let mention = json!({ "body": "@alice", "msgtype": "m.text", "m.mentions": { "user_ids": [alice.user_id] },
            "m.relates_to": { "rel_type": "m.thread", "event_id": other } });
        node.put_as(&bob, &format!("/v3/rooms/{room_id}/send/m.room.message/mention"), mention).await.ok();
        assert_eq!(unread(&other).await, 2);
        let own = json!({ "actions": ["notify"], "conditions": [] });
        node.put_as(&alice, "/v3/pushrules/global/postcontent/own", own).await.refused(400, "M_INVALID_PARAM");
    })
    .await;
}

#[tokio::test]
async fn subscriptions_reach_other_devices_page_by_page() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let room_id = room(&node, &alice, &bob).await;
        let mut roots = Vec::new();
        for number in 0..5 {
            roots.push(say(&node, &bob, &room_id, &format!("root{number}"), None).await);
        }
        let wish = json!({ "extensions": { EXTENSION: { "enabled": true, "limit": 2 } } });
        let first = node.post_as(&alice, &format!("{SLIDING}?timeout=0"), wish.clone()).await.ok();
        assert_eq!(first["extensions"].get(EXTENSION), None);
        for root in &roots {
            node.put_as(&alice, &path(&room_id, root), json!({})).await.ok();
        }
        node.delete_as(&alice, &path(&room_id, &roots[4]), json!({})).await.ok();
        let pos = first["pos"].as_str().unwrap();
        let answer = node.post_as(&alice, &format!("{SLIDING}?timeout=0&pos={pos}"), wish).await.ok();
        let told = &answer["extensions"][EXTENSION];
        let of = |told: &Value, kind: &str| -> Vec<String> {
            told[kind][&room_id].as_object().map(|threads| threads.keys().cloned().collect()).unwrap_or_default()
        };
        assert_eq!(
            (of(told, "subscribed"), of(told, "unsubscribed")),
            (vec![roots[3].clone()], vec![roots[4].clone()])
        );
        let stamp = |root: &String| told["subscribed"][&room_id][root]["bump_stamp"].as_u64();
        assert!(stamp(&roots[3]).is_some());
        let mut from = told["prev_batch"].as_str().unwrap().to_owned();
        let mut rest = Vec::new();
        loop {
            let list = "/unstable/io.element.msc4308/thread_subscriptions";
            let page = node.get_as(&alice, &format!("{list}?dir=b&from={from}&to={pos}&limit=2")).await.ok();
            rest.extend(of(&page, "subscribed"));
            match page["end"].as_str() {
                Some(end) => end.clone_into(&mut from),
                None => break,
            }
        }
        rest.sort_unstable();
        let mut expected = roots[..3].to_vec();
        expected.sort_unstable();
        assert_eq!(rest, expected);
        let list = "/unstable/io.element.msc4308/thread_subscriptions";
        for query in ["dir=f", "dir=b&limit=0", "dir=b&from=nonsense"] {
            node.get_as(&alice, &format!("{list}?{query}")).await.refused(400, "M_INVALID_PARAM");
        }
    })
    .await;
}
