//! A room with very many members: whoever comes, writes or reads is served, and so is everybody elsewhere.
//!
//! `SAMTAL_LARGE_ROOM=100000` makes it as large as wanted, and what each step takes is printed (`--nocapture`).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ruma::{OwnedRoomId, OwnedUserId};
use samtal_db::testing::{Directory, sqlite};
use samtal_event::Draft;
use samtal_room::LocalDraft;
use serde_json::{Value, json};

use crate::harness::{Node, Person, settings};

/// Joins that become durable together.
const AT_ONCE: usize = 500;

fn members() -> usize {
    std::env::var("SAMTAL_LARGE_ROOM").ok().and_then(|text| text.parse().ok()).unwrap_or(2_000)
}

/// Lets people in whom nobody has registered: the engine asks for no account.
async fn fill(node: &Node, room: &OwnedRoomId, count: usize) {
    let join = |number: usize| {
        let user: OwnedUserId = format!("@member{number}:samtal.test").try_into().unwrap();
        let content = json!({ "membership": "join", "displayname": format!("Member {number}") });
        let draft = Draft::state_of(&"m.room.member".into(), user.as_str(), &content).unwrap();
        LocalDraft::new(user, draft)
    };
    for from in (0..count).step_by(AT_ONCE) {
        let drafts = (from..count.min(from + AT_ONCE)).map(join).collect();
        node.hs.rooms.send(room, drafts).await.unwrap();
    }
}

async fn public_room(node: &Node, who: &Person) -> OwnedRoomId {
    let room = node.post_as(who, "/v3/createRoom", json!({ "preset": "public_chat" })).await.ok();
    room["room_id"].as_str().unwrap().try_into().unwrap()
}

/// Somebody who goes on writing in another room.
#[derive(Default)]
struct Elsewhere {
    who: Option<Person>,
    room: Option<OwnedRoomId>,
    over: AtomicBool,
    said: AtomicU64,
    slowest_ms: AtomicU64,
}

impl Elsewhere {
    async fn talk(self: Arc<Self>, node: Arc<Node>) {
        let (Some(who), Some(room)) = (&self.who, &self.room) else { return };
        for n in 0.. {
            if self.over.load(Ordering::SeqCst) {
                return;
            }
            let begun = Instant::now();
            let body = json!({ "msgtype": "m.text", "body": "elsewhere" });
            node.put_as(who, &format!("/v3/rooms/{room}/send/m.room.message/{n}"), body).await.ok();
            self.said.fetch_add(1, Ordering::SeqCst);
            self.slowest_ms.fetch_max(u64::try_from(begun.elapsed().as_millis()).unwrap(), Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Says how it was since the last time. How many messages.
    fn tell(&self) -> u64 {
        let (said, slowest_ms) = (self.said.swap(0, Ordering::SeqCst), self.slowest_ms.swap(0, Ordering::SeqCst));
        println!("meanwhile elsewhere: {said} messages, the slowest {slowest_ms} ms");
        said
    }
}

async fn timed<T>(what: &str, work: impl Future<Output = T>) -> T {
    let begun = Instant::now();
    let done = work.await;
    println!("{what}: {:.1} ms", begun.elapsed().as_secs_f64() * 1_000.0);
    done
}

/// The median of some topics, one after the other.
async fn topic(node: &Node, who: &Person, room: &OwnedRoomId) -> Duration {
    let mut times = Vec::new();
    for n in 0..15 {
        let begun = Instant::now();
        let body = json!({ "topic": format!("topic {n}") });
        node.put_as(who, &format!("/v3/rooms/{room}/state/m.room.topic/"), body).await.ok();
        times.push(begun.elapsed());
    }
    times.sort();
    times[times.len() / 2]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_writes_and_reads_is_served_and_so_is_everybody_elsewhere() {
    let directory = Directory::new();
    let node = Arc::new(Node::open(&sqlite(&directory), settings()).await);
    let (owner, elsewhere) = (node.somebody().await, node.somebody().await);
    let (room, small) = (public_room(&node, &owner).await, public_room(&node, &owner).await);
    let quiet = public_room(&node, &elsewhere).await;
    let count = members();
    fill(&node, &small, 98).await;
    let elsewhere = Arc::new(Elsewhere { who: Some(elsewhere), room: Some(quiet), ..Elsewhere::default() });
    // A task of its own: what is measured is whether another worker serves it.
    let others = node.hs.tasks.spawn("elsewhere", Arc::clone(&elsewhere).talk(Arc::clone(&node)));
    let work = async {
        timed(&format!("{count} joins by the engine"), fill(&node, &room, count)).await;
        elsewhere.tell();
        let newcomer = node.somebody().await;
        timed("join", node.post_as(&newcomer, &format!("/v3/join/{room}"), json!({}))).await.ok();
        let path = format!("/v3/rooms/{room}/send/m.room.message/1");
        timed("send", node.put_as(&newcomer, &path, json!({ "msgtype": "m.text", "body": "hello" }))).await.ok();
        let (few, many) = (topic(&node, &owner, &small).await, topic(&node, &owner, &room).await);
        println!("a new topic: {few:?} among 100, {many:?} among {count}");

        let answer = timed("members", node.get_as(&newcomer, &format!("/v3/rooms/{room}/members"))).await.ok();
        assert_eq!(answer["chunk"].as_array().unwrap().len(), count + 2);
        let answer =
            timed("joined members", node.get_as(&newcomer, &format!("/v3/rooms/{room}/joined_members"))).await.ok();
        assert_eq!(answer["joined"].as_object().unwrap().len(), count + 2);
        let lazy = "/v3/sync?filter={\"room\":{\"state\":{\"lazy_load_members\":true}}}"
            .replace('{', "%7B")
            .replace('}', "%7D")
            .replace('"', "%22");
        let state = |answer: &Value| {
            let state = answer["rooms"]["join"][room.as_str()]["state"]["events"].as_array().unwrap().clone();
            state.iter().filter(|event| event["type"] == "m.room.member").count()
        };
        let answer = timed("initial sync, members lazily", node.get_as(&newcomer, &lazy)).await.ok();
        assert!(state(&answer) < 50, "{}", state(&answer));
        assert_eq!(answer["rooms"]["join"][room.as_str()]["summary"]["m.joined_member_count"], count + 2);
        let answer = timed("initial sync, all members", node.get_as(&newcomer, "/v3/sync")).await.ok();
        assert!(state(&answer) >= count, "{}", state(&answer));
        let since = answer["next_batch"].as_str().unwrap().to_owned();
        node.put_as(
            &owner,
            &format!("/v3/rooms/{room}/send/m.room.message/2"),
            json!({ "msgtype": "m.text", "body": "hi" }),
        )
        .await
        .ok();
        let answer =
            timed("sync of one message", node.get_as(&newcomer, &format!("/v3/sync?since={since}&timeout=10000")))
                .await
                .ok();
        assert_eq!(answer["rooms"]["join"][room.as_str()]["timeline"]["events"][0]["content"]["body"], "hi");
        timed("leave", node.post_as(&newcomer, &format!("/v3/rooms/{room}/leave"), json!({}))).await.ok();
    };
    work.await;
    elsewhere.over.store(true, Ordering::SeqCst);
    others.await.unwrap();
    assert!(elsewhere.tell() > 0, "nobody elsewhere was served");
}
