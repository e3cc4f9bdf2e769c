//! A server that speaks Matrix 1.1 and no more, as some federation kits do: older forms of requests and answers, stripped state
//! for invites, no `get_missing_events`, no destination in its signatures, files at their old place. A room is shared without loss.

use std::{collections::HashMap, sync::Arc, time::Duration};

use http::StatusCode;
use parking_lot::Mutex;
use ruma::{OwnedEventId, OwnedRoomId, RoomVersionId, events::room::member::MembershipState};
use samtal_event::rules_of;
use samtal_ops::{Content, media::Effort};
use serde_json::{Value, json};

use crate::{
    peer::{Peer, id_of},
    world::{Node, World, until},
};

/// Such a server, with one room of its own.
struct Old {
    peer: Arc<Peer>,
    room: OwnedRoomId,
    version: RoomVersionId,
    /// All events of the room it has, in the order of their coming.
    events: Arc<Mutex<Vec<Value>>>,
}

impl Old {
    fn new(world: &World, version: RoomVersionId) -> Self {
        let mut peer = Peer::new(world, "old.example");
        peer.names_destination = false;
        let old = Self {
            peer: Arc::new(peer),
            room: "!room:old.example".try_into().unwrap(),
            version,
            events: Arc::default(),
        };
        let user = old.peer.user();
        let create = if old.version == RoomVersionId::V11 { json!({}) } else { json!({ "creator": user }) };
        let mut create = create;
        create["room_version"] = json!(old.version);
        old.state("m.room.create", "", create);
        old.state("m.room.member", &user, json!({ "membership": "join" }));
        old.state("m.room.power_levels", "", json!({ "users": { user.as_str(): 100 } }));
        old.state("m.room.join_rules", "", json!({ "join_rule": "public" }));
        old.serve();
        old
    }

    fn rules(&self) -> &'static ruma::room_version_rules::RoomVersionRules {
        rules_of(&self.version).unwrap()
    }

    fn id(&self, event: &Value) -> OwnedEventId {
        id_of(event, self.rules())
    }

    fn last(&self) -> OwnedEventId {
        self.id(self.events.lock().last().unwrap())
    }

    /// The ids of the events of these types that the peer's user made.
    fn auth(&self) -> Vec<OwnedEventId> {
        let events = self.events.lock();
        let own = events.iter().filter(|event| {
            matches!(event["type"].as_str(), Some("m.room.create" | "m.room.power_levels"))
                || (event["type"] == "m.room.member" && event["state_key"] == self.peer.user())
        });
        own.map(|event| self.id(event)).collect()
    }

    fn state(&self, event_type: &str, state_key: &str, content: Value) -> OwnedEventId {
        self.add(event_type, Some(state_key), content)
    }

    fn say(&self, text: &str) -> OwnedEventId {
        self.add("m.room.message", None, json!({ "msgtype": "m.text", "body": text }))
    }

    /// Makes an event of the peer's own room, and keeps it.
    fn add(&self, event_type: &str, state_key: Option<&str>, content: Value) -> OwnedEventId {
        let prev: Vec<OwnedEventId> = self.events.lock().last().map(|event| self.id(event)).into_iter().collect();
        let mut event = json!({
            "room_id": self.room, "sender": self.peer.user(), "origin": self.peer.name, "type": event_type,
            "content": content, "origin_server_ts": 1_700_000_000_000_u64, "depth": self.events.lock().len() + 1,
            "prev_events": prev, "auth_events": self.auth(),
        });
        if let Some(state_key) = state_key {
            event["state_key"] = json!(state_key);
        }
        let event = self.peer.sign(event, self.rules());
        self.events.lock().push(event.clone());
        self.id(&event)
    }

    fn state_events(events: &[Value]) -> Vec<Value> {
        let mut state: HashMap<(String, String), Value> = HashMap::new();
        for event in events.iter().filter(|event| event["state_key"].is_string()) {
            let key = |name: &str| event[name].as_str().unwrap().to_owned();
            state.insert((key("type"), key("state_key")), event.clone());
        }
        state.into_values().collect()
    }

    fn serve(&self) {
        let (room, version, last, auth) = (self.room.clone(), self.version.clone(), self.last(), self.auth());
        let join_rules = self.id(&self.events.lock()[3]);
        self.peer.answer("/_matrix/federation/v1/make_join/", move |request| {
            let user = request.uri().path().rsplit('/').next().unwrap().replace("%40", "@").replace("%3A", ":");
            let auth: Vec<&OwnedEventId> = [&auth[0], &auth[2], &join_rules].into();
            let event = json!({
                "room_id": room, "sender": user, "state_key": user, "type": "m.room.member", "origin": "old.example",
                "content": { "membership": "join" }, "depth": 5, "origin_server_ts": 1, "prev_events": [last],
                "auth_events": auth,
            });
            (StatusCode::OK, json!({ "room_version": version, "event": event }))
        });
        // Only the old form, whose answer is a list of a number and the state. It knows of no members left out.
        let events = Arc::clone(&self.events);
        self.peer.answer("/_matrix/federation/v1/send_join/", move |request| {
            let state = Self::state_events(&events.lock());
            events.lock().push(serde_json::from_slice(request.body()).unwrap());
            (StatusCode::OK, json!([200, { "origin": "old.example", "auth_chain": state, "state": state }]))
        });
        let (events, rules) = (Arc::clone(&self.events), self.rules());
        self.peer.answer("/_matrix/federation/v1/send/", move |request| {
            let body: Value = serde_json::from_slice(request.body()).unwrap();
            let mut events = events.lock();
            for pdu in body["pdus"].as_array().unwrap() {
                if !events.iter().any(|known| id_of(known, rules) == id_of(pdu, rules)) {
                    events.push(pdu.clone());
                }
            }
            (StatusCode::OK, json!({ "pdus": {} }))
        });
        let events = Arc::clone(&self.events);
        self.peer.answer("/_matrix/federation/v1/event/", move |request| {
            let id = request.uri().path().rsplit('/').next().unwrap().replace("%24", "$");
            let events = events.lock();
            match events.iter().find(|event| id_of(event, rules) == id) {
                Some(event) => {
                    (StatusCode::OK, json!({ "origin": "old.example", "origin_server_ts": 1, "pdus": [event] }))
                }
                None => (StatusCode::NOT_FOUND, json!({ "errcode": "M_NOT_FOUND", "error": "Event not found" })),
            }
        });
        for (path, whole) in [("/_matrix/federation/v1/state/", true), ("/_matrix/federation/v1/state_ids/", false)] {
            let events = Arc::clone(&self.events);
            self.peer.answer(path, move |request| {
                let at = request.uri().query().unwrap().split("event_id=").nth(1).unwrap().replace("%24", "$");
                let events = events.lock();
                let index = events.iter().position(|event| id_of(event, rules) == at).unwrap();
                let state = Self::state_events(&events[..index]);
                if whole {
                    return (StatusCode::OK, json!({ "pdus": state, "auth_chain": state }));
                }
                let ids: Vec<_> = state.iter().map(|event| id_of(event, rules)).collect();
                (StatusCode::OK, json!({ "pdu_ids": ids, "auth_chain_ids": ids }))
            });
        }
        let events = Arc::clone(&self.events);
        self.peer.answer("/_matrix/federation/v1/backfill/", move |_| {
            let all: Vec<Value> = events.lock().iter().rev().cloned().collect();
            (StatusCode::OK, json!({ "origin": "old.example", "origin_server_ts": 1, "pdus": all }))
        });
    }

    async fn tell(&self, node: &Node, ids: &[OwnedEventId]) {
        let events: Vec<Value> = {
            let events = self.events.lock();
            ids.iter().map(|id| events.iter().find(|event| self.id(event) == *id).unwrap().clone()).collect()
        };
        // Without a list of passing messages: there are none.
        let body = json!({ "origin": "old.example", "origin_server_ts": 1, "pdus": events }).to_string();
        let path = format!("/_matrix/federation/v1/send/t{}", self.events.lock().len());
        let (status, answer) = self.peer.call(node, "PUT", &path, &body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert!(answer["pdus"].as_object().unwrap().values().all(|said| *said == json!({})), "{answer}");
    }

    async fn has(&self, id: &OwnedEventId) -> bool {
        self.events.lock().iter().any(|event| self.id(event) == *id)
    }
}

#[tokio::test]
async fn a_room_of_an_old_server_is_shared_without_loss() {
    for version in [RoomVersionId::V6, RoomVersionId::V9, RoomVersionId::V10] {
        let world = World::new();
        let (a, old) = (world.node("a.example").await, Old::new(&world, version.clone()));
        a.hs.join(&a.user(), &old.room, std::slice::from_ref(&old.peer.name), Content::new()).await.unwrap();
        assert_eq!(old.peer.asked("/_matrix/federation/v1/send_join/"), 1, "{version}");

        // Both ways, and what it sends without saying to whom.
        let mut said = Vec::new();
        for n in 0..5 {
            let ours = a.say(&old.room, &format!("ours {n}")).await;
            until("it has ours", async || {
                world.clock.advance(Duration::from_secs(5));
                old.has(&ours).await
            })
            .await;
            let theirs = old.say(&format!("theirs {n}"));
            old.tell(&a, std::slice::from_ref(&theirs)).await;
            assert!(a.has(&theirs).await, "{version}");
            said.extend([ours, theirs]);
        }

        // A gap, though it knows no way to ask what lies in it.
        let missed: Vec<OwnedEventId> = (0..3).map(|n| old.say(&format!("missed {n}"))).collect();
        let after = old.say("after");
        old.tell(&a, std::slice::from_ref(&after)).await;
        assert!(a.has(&after).await, "{version}");
        let room = a.hs.rooms.room(&old.room).await.unwrap();
        a.hs.backfill(&room, 20).await.unwrap();
        for id in &missed {
            assert!(a.has(id).await, "{version}: history brings what was missed");
        }
        said.extend(missed);
        said.push(after);
        for id in &said {
            assert!(a.has(id).await && old.has(id).await, "{version}");
        }
    }
}

#[tokio::test]
async fn an_old_server_comes_into_our_room_and_goes_by_the_old_forms() {
    let world = World::new();
    let (a, old) = (world.node("a.example").await, Old::new(&world, RoomVersionId::V10));
    let room = a.public_room(RoomVersionId::V10).await;
    let user: ruma::OwnedUserId = old.peer.user().try_into().unwrap();
    let (status, made) =
        old.peer.call(&a, "GET", &format!("/_matrix/federation/v1/make_join/{room}/{user}?ver=9&ver=10"), "").await;
    assert_eq!(status, StatusCode::OK, "{made}");
    let join = old.peer.sign(made["event"].clone(), old.rules());
    let path = format!("/_matrix/federation/v1/send_join/{room}/{}", old.id(&join));
    let (status, answer) = old.peer.call(&a, "PUT", &path, &join.to_string()).await;
    assert_eq!((status, &answer[0]), (StatusCode::OK, &json!(200)), "{answer}");
    assert!(answer[1]["state"].as_array().is_some_and(|state| state.len() >= 4), "{answer}");
    assert_eq!(a.membership(&user, &room).await, MembershipState::Join);

    let (status, made) =
        old.peer.call(&a, "GET", &format!("/_matrix/federation/v1/make_leave/{room}/{user}"), "").await;
    assert_eq!(status, StatusCode::OK, "{made}");
    let leave = old.peer.sign(made["event"].clone(), old.rules());
    let path = format!("/_matrix/federation/v1/send_leave/{room}/{}", old.id(&leave));
    let (status, answer) = old.peer.call(&a, "PUT", &path, &leave.to_string()).await;
    assert_eq!((status, &answer[0]), (StatusCode::OK, &json!(200)), "{answer}");
    assert_eq!(a.membership(&user, &room).await, MembershipState::Leave);
}

#[tokio::test]
async fn an_old_servers_invite_shows_what_it_strips() {
    let world = World::new();
    let (a, old) = (world.node("a.example").await, Old::new(&world, RoomVersionId::V10));
    let invite = old.state("m.room.member", a.user().as_str(), json!({ "membership": "invite" }));
    let event = old.events.lock().last().unwrap().clone();
    let stripped = json!([
        { "type": "m.room.name", "state_key": "", "sender": old.peer.user(), "content": { "name": "An old room" } },
        { "type": "m.room.create", "state_key": "", "sender": old.peer.user(), "content": { "room_version": "10" } },
    ]);
    let body = json!({ "room_version": "10", "event": event, "invite_room_state": stripped }).to_string();
    let path = format!("/_matrix/federation/v2/invite/{}/{invite}", old.room);
    let (status, answer) = old.peer.call(&a, "PUT", &path, &body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert!(answer["event"]["signatures"]["a.example"].is_object(), "{answer}");
    assert_eq!(a.membership(&a.user(), &old.room).await, MembershipState::Invite);
}

#[tokio::test]
async fn an_old_servers_files_are_fetched_from_their_old_place() {
    let world = World::new();
    let (a, old) = (world.node("a.example").await, Old::new(&world, RoomVersionId::V10));
    old.peer.answer("/_matrix/media/v3/download/old.example/cat", |_| {
        (StatusCode::OK, Value::String("not really a cat".to_owned()))
    });
    let effort = Effort { wait: Duration::ZERO, remote: true };
    let entry = a.hs.file(&old.peer.name, "cat", effort).await.unwrap();
    assert_eq!(entry.bytes, 16);
}
