//! Events and passing messages on their way.

use std::time::Duration;

use ruma::{RoomVersionId, events::room::member::MembershipState, presence::PresenceState};
use samtal_edu::NewReceipt;
use samtal_ops::Content;
use serde_json::json;

use crate::world::{World, until};

#[tokio::test]
async fn what_was_missed_comes_in_order_when_the_other_is_back() {
    let world = World::new();
    let (a, b) = (world.node("a.example").await, world.node("b.example").await);
    let room = a.public_room(RoomVersionId::V11).await;
    b.join(&room, &a).await;
    b.set_up(false);
    let mut missed = Vec::new();
    for n in 0..200 {
        missed.push(a.say(&room, &format!("message {n}")).await);
    }
    b.set_up(true);
    until("b has caught up", async || {
        world.clock.advance(Duration::from_secs(5));
        b.has(missed.last().unwrap()).await
    })
    .await;
    for event in &missed {
        assert!(b.has(event).await);
    }
    let mut last = None;
    for event in &missed {
        let position = b.hs.rooms.event(event).await.unwrap().position;
        assert!(position > last, "in order");
        last = position;
    }
    until("nothing waits any more", async || a.hs.sender.waiting().is_empty()).await;
}

#[tokio::test]
async fn whoever_shows_up_is_sent_to_at_once() {
    let world = World::new();
    let (a, b) = (world.node("a.example").await, world.node("b.example").await);
    let room = a.public_room(RoomVersionId::V11).await;
    b.join(&room, &a).await;
    b.set_up(false);
    let missed = a.say(&room, "are you there").await;
    until("a gives up", async || a.hs.remote.destinations().failing(b.name()).is_some()).await;
    b.set_up(true);
    // The clock stands still: only what b says ends the wait.
    b.say(&room, "I am").await;
    until("b has what it missed", async || b.has(&missed).await).await;
}

#[tokio::test]
async fn state_that_changed_on_both_sides_converges() {
    let world = World::new();
    let (a, b) = (world.node("a.example").await, world.node("b.example").await);
    let room = a.public_room(RoomVersionId::V11).await;
    b.join(&room, &a).await;
    let levels = json!({ "users": { a.user().as_str(): 100, b.user().as_str(): 100 } });
    let levels = a.set_state(&room, "m.room.power_levels", levels).await;
    until("b may do it", async || b.has(&levels).await).await;
    a.set_up(false);
    b.set_up(false);
    let (one, other) = (
        a.set_state(&room, "m.room.topic", json!({ "topic": "a's" })).await,
        b.set_state(&room, "m.room.topic", json!({ "topic": "b's" })).await,
    );
    a.say(&room, "still talking").await;
    b.say(&room, "so am I").await;
    a.set_up(true);
    b.set_up(true);
    until("both have both", async || {
        world.clock.advance(Duration::from_secs(5));
        a.has(&other).await && b.has(&one).await
    })
    .await;
    let (last_a, last_b) = (a.say(&room, "x").await, b.say(&room, "y").await);
    until("both are at the end", async || {
        world.clock.advance(Duration::from_secs(5));
        a.has(&last_b).await && b.has(&last_a).await
    })
    .await;
    assert_eq!(a.state(&room).await, b.state(&room).await);
}

#[tokio::test]
async fn note_34_a_server_that_the_room_keeps_out_is_not_heard() {
    let world = World::new();
    let (a, b) = (world.node("a.example").await, world.node("b.example").await);
    let room = a.public_room(RoomVersionId::V11).await;
    b.join(&room, &a).await;
    let acl = a.set_state(&room, "m.room.server_acl", json!({ "allow": ["*"], "deny": ["b.example"] })).await;
    until("b hears of the list, though it is on it", async || b.has(&acl).await).await;
    let said = b.say(&room, "can you hear me").await;
    b.hs.edus.typing.start(&room, &b.user(), Duration::from_secs(30));
    until("b has said it", async || b.hs.sender.waiting().is_empty()).await;
    assert!(!a.has(&said).await);
    assert!(a.hs.edus.typing.users(&room).is_empty());
    assert!(b.hs.join(&b.user(), &room, &[a.hs.name.clone()], Content::new()).await.is_ok(), "b thinks it is in");
}

#[tokio::test]
async fn note_40_typing_receipts_and_presence_pass() {
    let world = World::new();
    let (a, b) = (world.node("a.example").await, world.node("b.example").await);
    let room = a.public_room(RoomVersionId::V11).await;
    b.join(&room, &a).await;
    let said = a.say(&room, "read this").await;
    until("b has it", async || b.has(&said).await).await;

    b.hs.edus.typing.start(&room, &b.user(), Duration::from_secs(30));
    until("a sees b type", async || a.hs.edus.typing.users(&room) == [b.user()]).await;
    b.hs.edus.typing.stop(&room, &b.user());
    until("a sees b stop", async || a.hs.edus.typing.users(&room).is_empty()).await;

    let receipt = NewReceipt {
        room_id: room.clone(),
        user_id: b.user(),
        receipt_type: "m.read".into(),
        thread: Some("main".into()),
        event_id: said.clone(),
        event_position: b.hs.rooms.event(&said).await.unwrap().position.map(|position| position.0),
        ts_ms: Some(7),
    };
    b.hs.edus.receipts.put(vec![receipt]).await.unwrap();
    until("a sees that b has read", async || {
        let receipts = a.hs.edus.receipts.of_user_in_room(&b.user(), &room).await.unwrap();
        receipts
            .iter()
            .any(|receipt| receipt.event_id == said && receipt.thread.as_deref() == Some("main") && receipt.ts_ms == 7)
    })
    .await;

    b.hs.edus.presence.set(&b.user(), PresenceState::Online, Some("here".into()));
    until("a sees b", async || {
        a.hs.edus.presence.get(&b.user()).is_some_and(|presence| presence.state == PresenceState::Online)
    })
    .await;
}

#[tokio::test]
async fn a_ban_reaches_the_banned() {
    let world = World::new();
    let (a, b) = (world.node("a.example").await, world.node("b.example").await);
    let room = a.public_room(RoomVersionId::V11).await;
    b.join(&room, &a).await;
    a.hs.ban(&a.user(), &b.user(), &room, Content::new()).await.unwrap();
    until("b knows", async || b.membership(&b.user(), &room).await == MembershipState::Ban).await;
    assert!(b.hs.join(&b.user(), &room, &[a.hs.name.clone()], Content::new()).await.is_err());
}

#[tokio::test]
async fn a_receipt_of_a_thread_does_not_hide_the_one_of_the_whole_room() {
    let world = World::new();
    let (a, b) = (world.node("a.example").await, world.node("b.example").await);
    let room = a.public_room(RoomVersionId::V11).await;
    b.join(&room, &a).await;
    let said = a.say(&room, "read me").await;
    until("b has it", async || b.has(&said).await).await;
    b.set_up(false);
    for thread in [None, Some("$thread".to_owned()), Some("main".to_owned())] {
        let receipt = NewReceipt {
            room_id: room.clone(),
            user_id: a.user(),
            receipt_type: "m.read".into(),
            thread,
            event_id: said.clone(),
            event_position: Some(1),
            ts_ms: None,
        };
        a.hs.edus.receipts.put(vec![receipt]).await.unwrap();
    }
    b.set_up(true);
    until("b has all three", async || {
        world.clock.advance(Duration::from_secs(5));
        b.hs.edus.receipts.of_user_in_room(&a.user(), &room).await.unwrap().len() == 3
    })
    .await;
}
