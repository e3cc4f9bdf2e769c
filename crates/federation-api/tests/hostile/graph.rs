//! Event graphs without end: references to nothing, forks without number, auth chains that never stop.

use std::{collections::HashMap, sync::Arc, time::Duration};

use http::StatusCode;
use parking_lot::Mutex;
use ruma::{OwnedEventId, RoomVersionId};
use serde_json::{Value, json};

use crate::{
    peer::{Membership, Peer, id_of},
    world::World,
};

#[tokio::test]
async fn an_event_that_builds_on_nothing_costs_a_few_questions() {
    let world = World::new();
    let (a, mallory) = (world.node("a.example").await, Peer::new(&world, "mallory.example"));
    let room = a.public_room(RoomVersionId::V11).await;
    let inside = mallory.join(&a, &room).await;
    let nonsense: Vec<OwnedEventId> = (0..20).map(|n| format!("$nonsense{n:043}").try_into().unwrap()).collect();
    let floating = inside.message(&mallory, &nonsense, "floating");
    let mut lawless = inside.draft(&mallory, &[inside.join_id()], "lawless");
    lawless["auth_events"] = json!(&nonsense[..10]);
    let lawless = mallory.sign(lawless, inside.rules);
    let itself = inside.message(&mallory, &[inside.join_id()], "sound");

    let pdus = [floating.clone(), lawless.clone(), itself.clone()];
    let (status, _) = mallory.send(&a, &pdus, &[]).await;
    assert_eq!(status, StatusCode::OK);
    assert!(!a.has(&id_of(&floating, inside.rules)).await);
    assert!(!a.has(&id_of(&lawless, inside.rules)).await);
    assert!(a.has(&id_of(&itself, inside.rules)).await, "what is sound beside it is taken");
    let asked = mallory.asked("/_matrix/federation/");
    assert!(asked <= 100, "{asked} questions for two events");
    // What it named is not waited for: the room goes on.
    let said = a.say(&room, "still here").await;
    assert!(a.has(&said).await);
}

#[tokio::test]
async fn an_event_that_names_events_of_other_rooms_is_not_let_in() {
    let world = World::new();
    let (a, mallory) = (world.node("a.example").await, Peer::new(&world, "mallory.example"));
    let (room, other) = (a.public_room(RoomVersionId::V11).await, a.public_room(RoomVersionId::V11).await);
    let (inside, elsewhere) = (mallory.join(&a, &room).await, mallory.join(&a, &other).await);
    let mut smuggled = inside.draft(&mallory, &[inside.join_id()], "smuggled");
    smuggled["auth_events"] = json!(elsewhere.auth_events());
    let smuggled = mallory.sign(smuggled, inside.rules);
    let grafted = inside.message(&mallory, &[elsewhere.join_id()], "grafted");
    mallory.send(&a, &[smuggled.clone(), grafted.clone()], &[]).await;
    assert!(!a.has(&id_of(&smuggled, inside.rules)).await);
    assert!(!a.has(&id_of(&grafted, inside.rules)).await);
}

/// How many events that nothing refers to a hostile server makes.
const FORKS: usize = 10_000;

#[tokio::test]
async fn thousands_of_forks_neither_stop_the_room_nor_fill_our_events() {
    let world = World::new();
    let (a, mallory) = (world.node("a.example").await, Peer::new(&world, "mallory.example"));
    let room = a.public_room(RoomVersionId::V11).await;
    let quiet = a.public_room(RoomVersionId::V11).await;
    let inside = mallory.join(&a, &room).await;
    let prev = [inside.join_id()];
    for part in 0..FORKS / 50 {
        let events: Vec<Value> =
            (0..50).map(|n| inside.message(&mallory, &prev, &format!("fork {part}.{n}"))).collect();
        let (status, _) = mallory.send(&a, &events, &[]).await;
        assert_eq!(status, StatusCode::OK);
        if part % 20 == 0 {
            // Others are served meanwhile.
            assert!(a.has(&a.say(&quiet, "quiet").await).await);
        }
    }
    // An event of ours names only as many as an event may, and closes them.
    let mut named = 0;
    for n in 0..3 {
        let said = a.say(&room, &format!("closing {n}")).await;
        let event = a.hs.rooms.event(&said).await.unwrap();
        let count = event.pdu.prev_events().len();
        assert!((1..=20).contains(&count), "{count}");
        named += count;
    }
    assert!(named >= 20, "{named}");
}

#[tokio::test]
async fn thousands_of_forks_of_one_state_are_resolved_in_the_end() {
    let world = World::new();
    let (a, mallory) = (world.node("a.example").await, Peer::new(&world, "mallory.example"));
    let room = a.public_room(RoomVersionId::V11).await;
    let inside = mallory.join(&a, &room).await;
    let prev = [inside.join_id()];
    let mut newest = 0;
    for part in 0..FORKS / 50 {
        let events: Vec<Value> = (0..50)
            .map(|n| {
                newest += 1;
                let mut event = inside.draft(&mallory, &prev, "");
                event["type"] = json!("m.room.member");
                event["state_key"] = json!(mallory.user());
                let mut auth = inside.auth_events();
                auth.push(inside.state_id("m.room.join_rules", ""));
                event["auth_events"] = json!(auth);
                event["content"] = json!({ "membership": "join", "displayname": format!("{part}.{n}") });
                event["origin_server_ts"] = json!(1_700_000_000_000_u64 + newest);
                mallory.sign(event, inside.rules)
            })
            .collect();
        assert_eq!(mallory.send(&a, &events, &[]).await.0, StatusCode::OK);
    }
    // Of names the newest wins, whatever the order in which they came; that is so once the room has been left alone.
    let wins = format!("{}.49", FORKS / 50 - 1);
    let name = async || {
        let member = a.hs.rooms.current_state(&room, "m.room.member", &mallory.user()).await.unwrap().unwrap();
        serde_json::from_str::<Value>(member.pdu.content_str()).unwrap()["displayname"].clone()
    };
    while name().await != json!(wins) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // What we send closes some, and is allowed by the state where it stands.
    let before = a.hs.rooms.extremities(&a.hs.rooms.room(&room).await.unwrap()).await.unwrap().len();
    assert_eq!(before, FORKS);
    let said = a.say(&room, "closing").await;
    let event = a.hs.rooms.event(&said).await.unwrap();
    assert_eq!(event.pdu.prev_events().len(), 20);
    let after = a.hs.rooms.extremities(&a.hs.rooms.room(&room).await.unwrap()).await.unwrap().len();
    assert_eq!(after, before - 19);
}

#[tokio::test]
async fn thousands_of_forks_that_each_set_another_state_come_together() {
    let world = World::new();
    let (a, mallory) = (world.node("a.example").await, Peer::new(&world, "mallory.example"));
    let room = a.public_room(RoomVersionId::V11).await;
    let levels = a.hs.rooms.current_state(&room, "m.room.power_levels", "").await.unwrap().unwrap();
    let mut levels: Value = serde_json::from_str(levels.pdu.content_str()).unwrap();
    levels["events"]["x.anybody"] = json!(0);
    a.set_state(&room, "m.room.power_levels", levels).await;
    let inside = mallory.join(&a, &room).await;
    let prev = [inside.join_id()];
    for part in 0..FORKS / 50 {
        let events: Vec<Value> = (0..50)
            .map(|n| {
                let mut event = inside.draft(&mallory, &prev, "");
                event["type"] = json!("x.anybody");
                event["state_key"] = json!(format!("{part}.{n}"));
                mallory.sign(event, inside.rules)
            })
            .collect();
        assert_eq!(mallory.send(&a, &events, &[]).await.0, StatusCode::OK);
    }
    let count = async || {
        let state = a.hs.rooms.current_state_but_members(&room).await.unwrap();
        state.iter().filter(|event| event.pdu.type_str() == "x.anybody").count()
    };
    while count().await != FORKS {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn an_auth_chain_without_end_is_given_up() {
    let world = World::new();
    let (a, mallory) = (world.node("a.example").await, Peer::new(&world, "mallory.example"));
    let room = a.public_room(RoomVersionId::V11).await;
    let inside = Arc::new(mallory.join(&a, &room).await);
    let mallory = Arc::new(mallory);
    // Each event that is asked for names another one that is not here: 2,000 deep.
    let chain: Arc<Mutex<HashMap<OwnedEventId, Value>>> = Arc::default();
    let mut last = None;
    for depth in 0..2_000 {
        let event = link(&mallory, &inside, last.as_ref(), depth);
        let id = id_of(&event, inside.rules);
        chain.lock().insert(id.clone(), event);
        last = Some(id);
    }
    let served = Arc::clone(&chain);
    mallory.answer("/_matrix/federation/v1/event/", move |request| {
        let id = request.uri().path().rsplit('/').next().unwrap().replace("%24", "$");
        match served.lock().get(&*ruma::EventId::parse(id).unwrap()) {
            Some(event) => (StatusCode::OK, json!({ "origin": "x", "origin_server_ts": 1, "pdus": [event] })),
            None => (StatusCode::NOT_FOUND, json!({ "errcode": "M_NOT_FOUND", "error": "no" })),
        }
    });
    let mut top = inside.draft(&mallory, &[inside.join_id()], "on top");
    let mut auth = inside.auth_events();
    auth.push(last.unwrap());
    top["auth_events"] = json!(auth);
    let top = mallory.sign(top, inside.rules);
    mallory.send(&a, std::slice::from_ref(&top), &[]).await;
    assert!(!a.has(&id_of(&top, inside.rules)).await);
    let asked = mallory.asked("/_matrix/federation/v1/event/");
    assert!(asked <= 200, "{asked} of 2,000 were asked for");
    assert!(a.has(&a.say(&room, "still here").await).await);
}

/// A power levels event of the peer's that rests on the one before.
fn link(peer: &Peer, inside: &Membership, below: Option<&OwnedEventId>, depth: usize) -> Value {
    let mut auth = vec![inside.state_id("m.room.create", ""), inside.join_id()];
    auth.extend(below.cloned());
    let event = json!({
        "room_id": inside.room,
        "sender": peer.user(),
        "type": "m.room.power_levels",
        "state_key": "",
        "content": { "users": { peer.user(): 100 }, "n": depth },
        "origin_server_ts": 1_700_000_000_001_u64,
        "depth": depth + 10,
        "prev_events": [inside.join_id()],
        "auth_events": auth,
    });
    peer.sign(event, inside.rules)
}

#[tokio::test]
async fn a_whole_auth_chain_of_thousands_is_taken_or_left_without_trouble() {
    let world = World::new();
    let (a, mallory) = (world.node("a.example").await, Peer::new(&world, "mallory.example"));
    let room = a.public_room(RoomVersionId::V11).await;
    let inside = mallory.join(&a, &room).await;
    let mut chain = Vec::new();
    let mut last = None;
    for depth in 0..3_000 {
        let event = link(&mallory, &inside, last.as_ref(), depth);
        last = Some(id_of(&event, inside.rules));
        chain.push(event);
    }
    let answer = json!({ "auth_chain": chain });
    mallory.answer("/_matrix/federation/v1/event_auth/", move |_| (StatusCode::OK, answer.clone()));
    let mut top = inside.draft(&mallory, &[inside.join_id()], "on top");
    let mut auth = inside.auth_events();
    auth.push(last.unwrap());
    top["auth_events"] = json!(auth);
    let top = mallory.sign(top, inside.rules);
    // Two power levels in its auth events: it is refused whatever the chain is worth.
    mallory.send(&a, std::slice::from_ref(&top), &[]).await;
    assert!(!a.has(&id_of(&top, inside.rules)).await);
    let levels = a.hs.rooms.current_state(&room, "m.room.power_levels", "").await.unwrap().unwrap();
    assert_eq!(levels.pdu.sender(), a.user(), "nobody made themselves powerful");
    assert!(a.has(&a.say(&room, "still here").await).await);
}

#[tokio::test]
async fn history_without_end_comes_in_pieces() {
    let world = World::new();
    let (a, mallory) = (world.node("a.example").await, Peer::new(&world, "mallory.example"));
    let room = a.public_room(RoomVersionId::V11).await;
    let inside = mallory.join(&a, &room).await;
    // A gap of 5,000 events, all of which the peer would give at once.
    let mut prev = inside.join_id();
    let mut gap = Vec::new();
    for n in 0..5_000 {
        let event = inside.message(&mallory, std::slice::from_ref(&prev), &format!("gap {n}"));
        prev = id_of(&event, inside.rules);
        gap.push(event);
    }
    let top = inside.message(&mallory, &[prev], "top");
    let answer = json!({ "events": gap });
    mallory.answer("/_matrix/federation/v1/get_missing_events/", move |_| (StatusCode::OK, answer.clone()));
    let before = a.hs.db.position();
    mallory.send(&a, std::slice::from_ref(&top), &[]).await;
    let changes = a.hs.db.changes_after(before, 10_000).await.unwrap();
    assert!(changes.len() <= 200, "{} changes for one event", changes.len());
    assert!(a.has(&a.say(&room, "still here").await).await);
}
