//! A server that lets us into a room of its making.

use http::StatusCode;
use ruma::{OwnedRoomId, RoomVersionId, events::room::member::MembershipState};
use samtal_event::rules_of;
use samtal_ops::Content;
use serde_json::{Value, json};

use crate::{
    peer::{Peer, id_of},
    world::{Node, World},
};

/// The state of a public room of the peer's making, in order.
fn room_of(peer: &Peer, room: &OwnedRoomId, encrypted: bool) -> Vec<Value> {
    let rules = rules_of(&RoomVersionId::V11).unwrap();
    let mut events: Vec<Value> = Vec::new();
    let user = peer.user();
    let mut add = |event_type: &str, state_key: &str, content: Value| {
        let ids: Vec<_> = events.iter().map(|event| id_of(event, rules)).collect();
        let auth: Vec<_> = ids.iter().take(3).collect();
        let event = json!({
            "room_id": room, "sender": user, "type": event_type, "state_key": state_key, "content": content,
            "origin_server_ts": 1_700_000_000_000_u64, "depth": events.len() + 1,
            "prev_events": ids.last().into_iter().collect::<Vec<_>>(), "auth_events": auth,
        });
        let event = peer.sign(event, rules);
        events.push(event);
    };
    add("m.room.create", "", json!({ "room_version": "11" }));
    add("m.room.member", &user, json!({ "membership": "join" }));
    add("m.room.power_levels", "", json!({ "users": { user.as_str(): 100 } }));
    add("m.room.join_rules", "", json!({ "join_rule": "public" }));
    if encrypted {
        add("m.room.encryption", "", json!({ "algorithm": "m.megolm.v1.aes-sha2" }));
    }
    events
}

/// Answers a join as a resident would, with this state and auth chain.
fn let_in(peer: &Peer, room: &OwnedRoomId, state: Vec<Value>, chain: Vec<Value>) {
    let rules = rules_of(&RoomVersionId::V11).unwrap();
    let (auth, prev): (Vec<_>, _) = (
        state
            .iter()
            .take(4)
            .filter(|event| event["type"] != "m.room.member")
            .map(|event| id_of(event, rules))
            .collect(),
        state.last().map(|event| id_of(event, rules)),
    );
    let id = room.clone();
    peer.answer("/_matrix/federation/v1/make_join/", move |request| {
        let user = request.uri().path().rsplit('/').next().unwrap().replace("%40", "@").replace("%3A", ":");
        let event = json!({
            "room_id": id, "sender": user, "state_key": user, "type": "m.room.member",
            "content": { "membership": "join" }, "depth": 10, "origin_server_ts": 1,
            "prev_events": prev.iter().collect::<Vec<_>>(), "auth_events": auth,
        });
        (StatusCode::OK, json!({ "room_version": "11", "event": event }))
    });
    peer.answer("/_matrix/federation/v2/send_join/", move |request| {
        let event: Value = serde_json::from_slice(request.body()).unwrap();
        let answer = json!({ "origin": "x", "state": state, "auth_chain": chain, "event": event });
        (StatusCode::OK, answer)
    });
}

async fn join(node: &Node, room: &OwnedRoomId, peer: &Peer) -> Result<(), samtal_ops::OpError> {
    node.hs.join(&node.user(), room, std::slice::from_ref(&peer.name), Content::new()).await.map(|_| ())
}

/// Nothing is left of a join that came to nothing, and a good one works afterwards.
async fn left_alone(a: &Node, room: &OwnedRoomId) {
    assert_eq!(a.membership(&a.user(), room).await, MembershipState::Leave);
    let own = a.public_room(RoomVersionId::V11).await;
    assert!(a.has(&a.say(&own, "still here").await).await);
}

#[tokio::test]
async fn a_room_whose_state_is_sound_is_joined() {
    let world = World::new();
    let (a, mallory) = (world.node("a.example").await, Peer::new(&world, "mallory.example"));
    let room: OwnedRoomId = "!good:mallory.example".try_into().unwrap();
    let state = room_of(&mallory, &room, false);
    let_in(&mallory, &room, state.clone(), state);
    join(&a, &room, &mallory).await.unwrap();
    assert_eq!(a.membership(&a.user(), &room).await, MembershipState::Join);
}

#[tokio::test]
async fn huge_state_of_garbage_leaves_nothing_behind() {
    let world = World::new();
    let (a, mallory) = (world.node("a.example").await, Peer::new(&world, "mallory.example"));
    let room: OwnedRoomId = "!huge:mallory.example".try_into().unwrap();
    let good = room_of(&mallory, &room, false);
    // 20,000 events that nobody has signed, and none that makes a room.
    let garbage: Vec<Value> = (0..20_000)
        .map(|n| {
            let mut event = good[3].clone();
            event["state_key"] = json!(format!("{n}"));
            event["signatures"] = json!({});
            event
        })
        .collect();
    let_in(&mallory, &room, garbage.clone(), garbage);
    assert!(join(&a, &room, &mallory).await.is_err());
    left_alone(&a, &room).await;
}

#[tokio::test]
async fn what_is_no_state_at_all_leaves_nothing_behind() {
    let world = World::new();
    let (a, mallory) = (world.node("a.example").await, Peer::new(&world, "mallory.example"));
    let room: OwnedRoomId = "!bad:mallory.example".try_into().unwrap();
    let state = room_of(&mallory, &room, false);
    let_in(&mallory, &room, state.clone(), state.clone());
    for answer in [
        json!({}),
        json!([]),
        json!({ "state": 7, "auth_chain": {} }),
        json!({ "state": [1, "x", null], "auth_chain": [[]] }),
        json!({ "state": state[1..], "auth_chain": [] }),
        Value::String("[".repeat(1_000_000)),
        Value::String("not JSON".to_owned()),
    ] {
        mallory.answer("/_matrix/federation/v2/send_join/", move |_| (StatusCode::OK, answer.clone()));
        assert!(join(&a, &room, &mallory).await.is_err());
    }
    left_alone(&a, &room).await;
}

#[tokio::test]
async fn a_template_that_is_a_trap_is_not_signed() {
    let world = World::new();
    let (a, mallory) = (world.node("a.example").await, Peer::new(&world, "mallory.example"));
    let room: OwnedRoomId = "!trap:mallory.example".try_into().unwrap();
    let state = room_of(&mallory, &room, false);
    let_in(&mallory, &room, state.clone(), state);
    // A template for another room, another user, or another kind of event would be our signature on a blank sheet.
    for (name, value) in [
        ("room_id", json!("!other:a.example")),
        ("sender", json!("@admin:a.example")),
        ("type", json!("m.room.power_levels")),
        ("state_key", json!("@admin:a.example")),
        ("content", json!({ "membership": "leave" })),
    ] {
        let id = room.clone();
        mallory.answer("/_matrix/federation/v1/make_join/", move |_| {
            let mut event = json!({
                "room_id": id, "sender": "@user:a.example", "state_key": "@user:a.example", "type": "m.room.member",
                "content": { "membership": "join" }, "depth": 1, "origin_server_ts": 1, "prev_events": [], "auth_events": [],
            });
            event[name] = value.clone();
            (StatusCode::OK, json!({ "room_version": "11", "event": event }))
        });
        mallory.answer("/_matrix/federation/v2/send_join/", move |request| {
            let event: Value = serde_json::from_slice(request.body()).unwrap();
            assert_eq!(event["room_id"], "!trap:mallory.example");
            assert_eq!(event["sender"], "@user:a.example");
            assert_eq!(event["type"], "m.room.member");
            assert_eq!(event["state_key"], "@user:a.example");
            assert_eq!(event["content"]["membership"], "join");
            (StatusCode::FORBIDDEN, json!({ "errcode": "M_FORBIDDEN", "error": "no" }))
        });
        assert!(join(&a, &room, &mallory).await.is_err(), "{name}");
    }
}

#[tokio::test]
async fn a_room_that_may_not_be_shared_is_left_again() {
    let world = World::new();
    let policy = samtal_policy::Settings { encrypted_only: true, ..samtal_policy::Settings::default() };
    let federation = samtal_ops::Federation { policy, ..samtal_ops::Federation::default() };
    let a = world.node_with("a.example", samtal_ops::Settings { federation, ..samtal_ops::Settings::default() }).await;
    let mallory = Peer::new(&world, "mallory.example");
    let open: OwnedRoomId = "!open:mallory.example".try_into().unwrap();
    let state = room_of(&mallory, &open, false);
    let_in(&mallory, &open, state.clone(), state);
    let refused = join(&a, &open, &mallory).await.unwrap_err();
    assert!(refused.to_string().contains("not encrypted"), "{refused}");
    assert!(mallory.asked("/_matrix/federation/v1/make_leave/") > 0, "the other server hears that we are not in");
    left_alone(&a, &open).await;
    let secret: OwnedRoomId = "!secret:mallory.example".try_into().unwrap();
    let state = room_of(&mallory, &secret, true);
    let_in(&mallory, &secret, state.clone(), state);
    join(&a, &secret, &mallory).await.unwrap();
}
