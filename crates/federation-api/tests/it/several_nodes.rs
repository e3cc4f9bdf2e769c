//! One server on several nodes, which share a PostgreSQL: what is kept nowhere crosses, and each piece of work is done once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use axum::{Json, Router, body::Body, extract::State};
use bytes::Bytes;
use http::{Request, Uri};
use parking_lot::Mutex;
use ruma::{OwnedEventId, OwnedRoomId, RoomVersionId, presence::PresenceState};
use samtal_ops::Settings;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::world::{Node, World, until};

/// Two nodes of `a.example`, where there is a PostgreSQL to have them on.
async fn two_nodes(world: &World) -> Option<(Node, Node, samtal_db::Options)> {
    let storage = samtal_db::testing::postgres()?;
    let one = world.node_on("a.example", Settings::default(), &storage).await;
    let other = world.node_on("a.example", Settings::default(), &storage).await;
    Some((one, other, storage))
}

async fn end(nodes: &[&Node], storage: &samtal_db::Options) {
    for node in nodes {
        node.hs.tasks.shut_down(Duration::from_secs(5)).await;
        node.hs.db.close().await;
    }
    samtal_db::testing::drop_schema(storage).await;
}

/// How often a server is sent each message, by what it says.
#[derive(Clone, Default)]
struct Counted(Arc<Mutex<BTreeMap<String, usize>>>);

impl Counted {
    /// Stands between a server and the others, and counts.
    fn listen(&self, world: &World, to: &Node) {
        let (counted, to) = (self.0.clone(), to.clone());
        world.network.insert(
            to.hs.name.clone(),
            Box::new(move |request: Request<Bytes>| {
                let (counted, to) = (Arc::clone(&counted), to.clone());
                Box::pin(async move {
                    let body: Value = serde_json::from_slice(request.body()).unwrap_or_default();
                    for pdu in body["pdus"].as_array().into_iter().flatten() {
                        *counted.lock().entry(pdu["content"]["body"].to_string()).or_default() += 1;
                    }
                    let router = samtal_federation_api::router().layer(axum::Extension(Arc::clone(&to.hs)));
                    router.oneshot(request.map(Body::from)).await.unwrap().map(samtal_remote::Body::from_http)
                })
            }),
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn typing_and_presence_cross_and_other_servers_hear_of_each_event_once() {
    let world = World::new();
    let Some((one, other, storage)) = two_nodes(&world).await else { return };
    let b = world.node("b.example").await;
    let counted = Counted::default();
    counted.listen(&world, &b);
    let room = one.public_room(RoomVersionId::V11).await;
    b.join(&room, &one).await;

    one.hs.edus.typing.start(&room, &one.user(), Duration::from_secs(30));
    for (name, node) in [("the other node", &other), ("b", &b)] {
        until(&format!("{name} sees it"), async || node.hs.edus.typing.users(&room) == [one.user()]).await;
    }
    other.hs.edus.typing.stop(&room, &one.user());
    for (name, node) in [("the node where it began", &one), ("b", &b)] {
        until(&format!("{name} sees the end"), async || node.hs.edus.typing.users(&room).is_empty()).await;
    }
    b.hs.edus.typing.start(&room, &b.user(), Duration::from_secs(30));
    for node in [&one, &other] {
        until("whichever node b speaks to, both see it", async || node.hs.edus.typing.users(&room) == [b.user()]).await;
    }

    other.hs.edus.presence.set(&one.user(), PresenceState::Online, Some("here".into()));
    for node in [&one, &b] {
        until("all see who is there", async || {
            let known = node.hs.edus.presence.get(&one.user());
            known.is_some_and(|known| {
                known.state == PresenceState::Online && known.status_msg.as_deref() == Some("here")
            })
        })
        .await;
    }

    let mut said: Vec<(String, OwnedEventId)> = Vec::new();
    for n in 0..20 {
        let text = format!("message {n}");
        let id = if n % 2 == 0 { one.say(&room, &text).await } else { other.say(&room, &text).await };
        said.push((text, id));
    }
    for (_, id) in &said {
        until("b has all", async || b.has(id).await).await;
    }
    // An answer that is on its way when a node ends is not heard: what it answers is told again.
    until("the node that sends knows it", async || one.hs.sender.needed_after().await.unwrap() == i64::MAX).await;
    // Whichever node sends: when it ends, the other goes on where it stood.
    one.hs.tasks.shut_down(Duration::from_secs(5)).await;
    let last = other.say(&room, "last").await;
    until("b hears from the node that is left", async || b.has(&last).await).await;
    for (text, _) in &said {
        let times = counted.0.lock().get(&json!(text).to_string()).copied();
        assert_eq!(times, Some(1), "{text}");
    }
    end(&[&one, &other], &storage).await;
}

/// The events that a bridge was told, each with the path of its transaction.
type Told = Arc<Mutex<Vec<(String, Value)>>>;

/// A bridge that notes the events of each transaction.
async fn heard(State(heard): State<Told>, uri: Uri, Json(body): Json<Value>) -> Json<Value> {
    let events = body["events"].as_array().cloned().unwrap_or_default();
    heard.lock().extend(events.into_iter().map(|event| (uri.path().to_owned(), event)));
    Json(json!({}))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bridge_is_told_by_one_node_and_by_the_other_when_that_is_gone() {
    let world = World::new();
    let Some((one, other, storage)) = two_nodes(&world).await else { return };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let told: Told = Arc::default();
    let router = Router::new().fallback(heard).with_state(Arc::clone(&told));
    let bridge = other.hs.tasks.spawn("bridge", async move { axum::serve(listener, router).await });
    let registration = json!({
        "id": "bridge", "url": url, "as_token": "as", "hs_token": "hs", "sender_localpart": "bot",
        "namespaces": { "users": [{ "exclusive": false, "regex": "@user:a.example" }] },
    });
    for node in [&one, &other] {
        node.hs.appservices.add(serde_json::from_value(registration.clone()).unwrap()).await.unwrap();
    }
    let room: OwnedRoomId = one.public_room(RoomVersionId::V11).await;
    // A transaction whose answer is on its way when a node ends is sent again, by the same name: the bridge knows it by that.
    let times = |id: &OwnedEventId| {
        let told = told.lock();
        let of_event = told.iter().filter(|(_, event)| event["event_id"] == id.as_str());
        of_event.map(|(transaction, _)| transaction).collect::<BTreeSet<_>>().len()
    };
    let mut said = Vec::new();
    for n in 0..20 {
        let node = if n % 2 == 0 { &one } else { &other };
        said.push(node.say(&room, &n.to_string()).await);
    }
    until("the bridge has heard all", async || said.iter().all(|id| times(id) > 0)).await;
    one.hs.tasks.shut_down(Duration::from_secs(5)).await;
    said.push(other.say(&room, "last").await);
    until("the bridge hears from the node that is left", async || times(said.last().unwrap()) > 0).await;
    assert!(said.iter().all(|id| times(id) == 1), "{:?}", told.lock());
    let mut transactions: Vec<String> = told.lock().iter().map(|(path, _)| path.clone()).collect();
    transactions.dedup();
    assert!(transactions.is_sorted(), "{transactions:?}");
    bridge.abort();
    end(&[&one, &other], &storage).await;
}
