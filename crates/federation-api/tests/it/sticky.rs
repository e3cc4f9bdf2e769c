//! Sticky events between servers (MSC4354).

use std::time::Duration;

use ruma::{OwnedEventId, OwnedRoomId, RoomVersionId};
use samtal_event::Draft;
use samtal_ops::Content;
use samtal_room::LocalDraft;
use serde_json::json;

use crate::world::{Node, World, until};

async fn stick(node: &Node, room: &OwnedRoomId) -> OwnedEventId {
    let draft = Draft::message_of("m.rtc.member", &json!({ "sticky_key": "device" })).unwrap();
    let draft = samtal_ops::delayed_event::sticky(draft, 600_000).unwrap();
    node.hs.rooms.send_one(room, LocalDraft::new(node.user(), draft)).await.unwrap()
}

async fn has_sticky(node: &Node, world: &World, room: &OwnedRoomId, event: &OwnedEventId) -> bool {
    let room = node.hs.rooms.room(room).await.unwrap();
    let found = node.hs.rooms.store().sticky_events(room.nid, 0, i64::MAX, world.clock.now_ms(), 100).await.unwrap();
    found.iter().any(|sticky| sticky.event.pdu.event_id() == event)
}

#[tokio::test]
async fn a_server_that_comes_later_gets_what_is_sticky() {
    let world = World::new();
    let (a, b) = (world.node("a.example").await, world.node("b.example").await);
    let room = a.public_room(RoomVersionId::V11).await;
    let sticky = stick(&a, &room).await;
    for n in 0..30 {
        a.say(&room, &format!("message {n}")).await;
    }
    b.join(&room, &a).await;
    until("b has the sticky event", async || has_sticky(&b, &world, &room, &sticky).await).await;
    world.clock.advance(Duration::from_secs(600));
    assert!(!has_sticky(&b, &world, &room, &sticky).await, "it has expired");
}

#[tokio::test]
async fn what_was_refused_is_shown_when_its_sender_is_let_in_after_all() {
    let world = World::new();
    let (a, b) = (world.node("a.example").await, world.node("b.example").await);
    let room = a.public_room(RoomVersionId::V11).await;
    b.join(&room, &a).await;
    until("a knows b", async || a.hs.rooms.store().graph.is_joined(&b.user(), &room).await.unwrap()).await;
    // b does not hear of the ban, and a not of what b says meanwhile.
    b.hold(Some("/send/"));
    a.hold(Some("/send/"));
    a.hs.ban(&a.user(), &b.user(), &room, Content::new()).await.unwrap();
    let sticky = stick(&b, &room).await;
    a.hold(None);
    until("a has the event", async || a.hs.rooms.store().graph.event(&sticky).await.unwrap().is_some()).await;
    assert!(!a.has(&sticky).await && !has_sticky(&a, &world, &room, &sticky).await);
    b.hold(None);
    a.hs.unban(&a.user(), &b.user(), &room, Content::new()).await.unwrap();
    b.join(&room, &a).await;
    until("a shows the event", async || has_sticky(&a, &world, &room, &sticky).await).await;
    assert!(a.has(&sticky).await);
}
