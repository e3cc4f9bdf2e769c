//! Pushers, against a gateway of our own.

use std::{sync::Arc, time::Duration};

use axum::{Router, extract::State, routing::post};
use ruma::{OwnedRoomId, OwnedUserId, api::client::room::create_room::v3::RoomPreset};
use samtal_event::Draft;
use samtal_ops::CreateRoom;
use samtal_room::LocalDraft;
use serde_json::{Map, Value, json};
use tokio::sync::{Mutex, mpsc};

use crate::harness::{Node, Person, each_engine};

/// A push gateway that notes what it is told and answers what it is set to.
struct Gateway {
    url: String,
    told: mpsc::Receiver<Value>,
    answer: Answers,
}

type Answers = Arc<Mutex<(u16, Value)>>;

impl Gateway {
    async fn open() -> Self {
        let (tell, told) = mpsc::channel(64);
        let answer: Answers = Arc::new(Mutex::new((200, json!({}))));
        async fn notify(
            State((tell, answer)): State<(mpsc::Sender<Value>, Answers)>,
            body: axum::Json<Value>,
        ) -> (http::StatusCode, axum::Json<Value>) {
            let (status, answer) = answer.lock().await.clone();
            tell.send(body.0["notification"].clone()).await.unwrap();
            (http::StatusCode::from_u16(status).unwrap(), axum::Json(answer))
        }
        let router = Router::new().route("/_matrix/push/v1/notify", post(notify));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/_matrix/push/v1/notify", listener.local_addr().unwrap());
        let router = router.with_state((tell, Arc::clone(&answer)));
        #[expect(clippy::disallowed_methods, reason = "the gateway is no part of the homeserver")]
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, told, answer }
    }

    async fn next(&mut self) -> Value {
        tokio::time::timeout(Duration::from_secs(20), self.told.recv()).await.expect("the gateway is told").unwrap()
    }

    fn pusher(&self, pushkey: &str) -> Value {
        json!({
            "kind": "http", "app_id": "app", "pushkey": pushkey, "lang": "sv",
            "app_display_name": "App", "device_display_name": "Phone",
            "data": { "url": self.url, "custom": 1 },
        })
    }
}

fn id(who: &Person) -> OwnedUserId {
    who.user_id.parse().unwrap()
}

async fn room(node: &Node, creator: &Person, others: &[&Person]) -> OwnedRoomId {
    let mut wish = CreateRoom::new(id(creator));
    wish.preset = Some(RoomPreset::PublicChat);
    wish.name = Some("Room".to_owned());
    node.clock.advance(Duration::from_millis(1));
    let room_id = node.hs.create_room(wish).await.unwrap();
    for other in others {
        node.hs.join(&id(other), &room_id, &[], Map::new()).await.unwrap();
    }
    room_id
}

async fn say(node: &Node, who: &Person, room_id: &OwnedRoomId, body: &str) -> String {
    let draft = Draft::message_of("m.room.message", &json!({ "msgtype": "m.text", "body": body })).unwrap();
    node.hs.rooms.send_one(room_id, LocalDraft::new(id(who), draft)).await.unwrap().to_string()
}

#[tokio::test]
async fn a_gateway_is_told_of_messages_invites_and_what_has_been_read() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let room_id = room(&node, &alice, &[&bob]).await;
        let mut gateway = Gateway::open().await;
        node.post_as(&bob, "/v3/pushers/set", gateway.pusher("key")).await.ok();
        let event_id = say(&node, &alice, &room_id, "hello").await;
        let told = gateway.next().await;
        assert_eq!((&told["event_id"], &told["room_id"]), (&json!(event_id), &json!(room_id)));
        assert_eq!((&told["content"]["body"], &told["room_name"]), (&json!("hello"), &json!("Room")));
        assert_eq!((&told["counts"]["unread"], &told["prio"]), (&json!(1), &json!("high")));
        let device = &told["devices"][0];
        assert_eq!((&device["pushkey"], &device["data"]), (&json!("key"), &json!({ "custom": 1 })));
        assert_eq!(device["tweaks"]["sound"], "default");
        let receipt = format!("/v3/rooms/{room_id}/receipt/m.read/{event_id}");
        node.post_as(&bob, &receipt, json!({})).await.ok();
        let told = gateway.next().await;
        assert_eq!((&told["counts"]["unread"], told.get("event_id")), (&json!(0), None));
        let other = room(&node, &alice, &[]).await;
        node.hs.invite(&id(&alice), &id(&bob), &other, Map::new()).await.unwrap();
        let told = gateway.next().await;
        assert_eq!((&told["type"], &told["membership"]), (&json!("m.room.member"), &json!("invite")), "{told}");
        assert_eq!(told["user_is_target"], true);
        say(&node, &bob, &room_id, "one's own events are not told").await;
        let next = say(&node, &alice, &room_id, "next").await;
        assert_eq!(gateway.next().await["event_id"], next);
    })
    .await;
}

#[tokio::test]
async fn note_74_what_a_gateway_refuses_is_told_again_and_a_rejected_pusher_goes() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let room_id = room(&node, &alice, &[&bob]).await;
        let mut gateway = Gateway::open().await;
        let mut pusher = gateway.pusher("key");
        pusher["data"]["format"] = json!("event_id_only");
        node.post_as(&bob, "/v3/pushers/set", pusher).await.ok();
        *gateway.answer.lock().await = (502, json!({}));
        let first = say(&node, &alice, &room_id, "one").await;
        assert_eq!(gateway.next().await["event_id"], first);
        let mut waiting = Vec::new();
        for n in 0..6 {
            waiting.push(say(&node, &alice, &room_id, &format!("meanwhile {n}")).await);
        }
        *gateway.answer.lock().await = (200, json!({}));
        let again = gateway.next().await;
        assert_eq!(again["event_id"], first);
        assert_eq!((again.get("content"), again.get("sender")), (None, None), "no more than ids: {again}");
        let mut told = gateway.next().await;
        while told["event_id"] == first.as_str() {
            // It was tried once more before the gateway was well.
            told = gateway.next().await;
        }
        waiting.push(say(&node, &alice, &room_id, "afterwards").await);
        for event_id in &waiting {
            assert_eq!(told["event_id"], event_id.as_str(), "each once, in order");
            if Some(event_id) != waiting.last() {
                told = gateway.next().await;
            }
        }
        *gateway.answer.lock().await = (200, json!({ "rejected": ["key"] }));
        say(&node, &alice, &room_id, "two").await;
        gateway.next().await;
        let mut client = node.hs.db.changes(node.hs.db.position() - 1);
        while !node.hs.pushers.of_user(&id(&bob)).await.unwrap().is_empty() {
            client.next().await.unwrap();
        }
        assert_eq!(node.get_as(&bob, "/v3/pushers").await.ok(), json!({ "pushers": [] }));
    })
    .await;
}

#[tokio::test]
async fn pushers_are_listed_replaced_and_go_with_their_device() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let gateway = Gateway::open().await;
        node.post_as(&alice, "/v3/pushers/set", gateway.pusher("one")).await.ok();
        let mut second = gateway.pusher("two");
        second["profile_tag"] = json!("tag");
        node.post_as(&alice, "/v3/pushers/set", second.clone()).await.ok();
        let listed = node.get_as(&alice, "/v3/pushers").await.ok();
        assert_eq!(listed["pushers"], json!([gateway.pusher("one"), second]));
        let mut shared = gateway.pusher("one");
        shared["append"] = json!(true);
        node.post_as(&bob, "/v3/pushers/set", shared.clone()).await.ok();
        assert_eq!(node.get_as(&alice, "/v3/pushers").await.ok()["pushers"].as_array().unwrap().len(), 2);
        shared["append"] = json!(false);
        node.post_as(&bob, "/v3/pushers/set", shared).await.ok();
        assert_eq!(node.get_as(&alice, "/v3/pushers").await.ok()["pushers"].as_array().unwrap().len(), 1);
        let gone = json!({ "app_id": "app", "pushkey": "two", "kind": null });
        node.post_as(&alice, "/v3/pushers/set", gone).await.ok();
        assert_eq!(node.get_as(&alice, "/v3/pushers").await.ok(), json!({ "pushers": [] }));
        let mut changes = node.hs.db.changes(node.hs.db.position());
        node.post_as(&bob, "/v3/logout", json!({})).await.ok();
        while !node.hs.pushers.of_user(&id(&bob)).await.unwrap().is_empty() {
            changes.next().await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn unfit_pushers_are_refused() {
    each_engine(async |node| {
        let alice = node.person("alice").await;
        let fit = json!({
            "kind": "http", "app_id": "app", "pushkey": "key", "lang": "sv", "app_display_name": "App",
            "device_display_name": "Phone", "data": { "url": "https://push.test/_matrix/push/v1/notify" },
        });
        for (field, value, errcode) in [
            ("data", json!({}), "M_MISSING_PARAM"),
            ("data", json!({ "url": "https://push.test/elsewhere" }), "M_INVALID_PARAM"),
            ("data", json!({ "url": "file:///_matrix/push/v1/notify" }), "M_INVALID_PARAM"),
            ("kind", json!("pigeon"), "M_INVALID_PARAM"),
            ("app_id", json!("a".repeat(65)), "M_INVALID_PARAM"),
            ("pushkey", json!("a".repeat(513)), "M_INVALID_PARAM"),
            ("lang", Value::Null, "M_MISSING_PARAM"),
            ("data", json!([]), "M_BAD_JSON"),
        ] {
            let mut unfit = fit.clone();
            unfit[field] = value;
            node.post_as(&alice, "/v3/pushers/set", unfit).await.refused(400, errcode);
        }
        node.post_as(&alice, "/v3/pushers/set", json!({ "app_id": "a", "pushkey": "b" }))
            .await
            .refused(400, "M_MISSING_PARAM");
        node.post_as(&alice, "/v3/pushers/set", fit).await.ok();
    })
    .await;
}

#[tokio::test]
async fn notifications_are_listed_newest_first_and_marked_as_read() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let room_id = room(&node, &alice, &[&bob]).await;
        let mut said = Vec::new();
        for number in 0..3 {
            said.push(say(&node, &alice, &room_id, &number.to_string()).await);
        }
        let listed = |page: &Value| -> Vec<(String, bool)> {
            let notifications = page["notifications"].as_array().unwrap().iter();
            notifications.map(|it| (it["event"]["event_id"].as_str().unwrap().to_owned(), it["read"] == true)).collect()
        };
        node.post_as(&bob, &format!("/v3/rooms/{room_id}/receipt/m.read/{}", said[0]), json!({})).await.ok();
        let page = node.get_as(&bob, "/v3/notifications?limit=2").await.ok();
        assert_eq!(listed(&page), [(said[2].clone(), false), (said[1].clone(), false)]);
        assert!(page["notifications"][0]["actions"].to_string().contains("notify"));
        let next = page["next_token"].as_str().unwrap();
        let page = node.get_as(&bob, &format!("/v3/notifications?from={next}")).await.ok();
        assert_eq!(listed(&page), [(said[0].clone(), true)]);
        assert_eq!(page.get("next_token"), None);
        assert_eq!(node.get_as(&bob, "/v3/notifications?only=highlight").await.ok()["notifications"], json!([]));
        node.get_as(&bob, "/v3/notifications?from=x").await.refused(400, "M_INVALID_PARAM");
    })
    .await;
}
