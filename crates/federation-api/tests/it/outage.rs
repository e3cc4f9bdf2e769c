//! Servers that were away.

use std::time::Duration;

use ruma::RoomVersionId;
use samtal_ops::{Content, Settings, Transaction};

use crate::world::{World, until};

#[tokio::test]
async fn a_server_that_was_away_for_longer_than_the_log_is_kept_hears_of_each_room() {
    let world = World::new();
    let (a, b) = (world.node("a.example").await, world.node("b.example").await);
    let rooms = [a.public_room(RoomVersionId::V11).await, a.public_room(RoomVersionId::V11).await];
    for room in &rooms {
        b.join(room, &a).await;
        b.state(room).await;
    }
    let parted = a.public_room(RoomVersionId::V11).await;
    b.join(&parted, &a).await;
    b.state(&parted).await;
    let before = a.say(&rooms[0], "before").await;
    until("b hears a", async || b.has(&before).await).await;

    b.set_up(false);
    let missed = [a.say(&rooms[0], "one").await, a.say(&rooms[0], "two").await, a.say(&rooms[1], "three").await];
    a.hs.kick(&a.user(), &b.user(), &parted, Content::new()).await.unwrap();
    let newest = a.hs.db.position();
    until("the log is short", async || {
        world.clock.advance(Duration::from_secs(1));
        a.hs.db.prune_log(0, i64::MAX).await.unwrap();
        let first = a.hs.db.changes_after(0, 1).await.unwrap();
        first.first().is_none_or(|first| first.position >= newest)
    })
    .await;
    b.set_up(true);
    until("b has what it missed", async || {
        world.clock.advance(Duration::from_secs(60));
        b.has(&missed[2]).await && b.has(&missed[1]).await && b.has(&missed[0]).await
    })
    .await;
    until("b knows that it was put out", async || {
        b.membership(&b.user(), &parted).await == ruma::events::room::member::MembershipState::Leave
    })
    .await;
}

#[tokio::test]
async fn a_server_that_answers_but_cannot_keep_up_gets_everything() {
    const MANY: usize = 1_300;
    let world = World::new();
    let (a, b) = (world.node("a.example").await, world.node("b.example").await);
    let room = a.public_room(RoomVersionId::V11).await;
    b.join(&room, &a).await;
    b.state(&room).await;
    // Nothing is answered until far more waits than is kept in memory.
    b.hold(Some("/send/"));
    let mut said = Vec::with_capacity(MANY);
    for number in 0..MANY {
        said.push(a.say(&room, &number.to_string()).await);
    }
    b.hold(None);
    let last = said[MANY - 1].clone();
    until("the last is there", async || b.has(&last).await).await;
    for event in &said {
        assert!(b.has(event).await, "none is left out");
    }
}

#[tokio::test]
async fn what_cannot_be_stored_is_not_acknowledged() {
    let world = World::new();
    let directory = samtal_db::testing::Directory::new();
    let storage = samtal_db::testing::sqlite(&directory);
    let a = world.node("a.example").await;
    let b = world.node_on("b.example", Settings::default(), &storage).await;
    let room = a.public_room(RoomVersionId::V11).await;
    b.join(&room, &a).await;
    b.set_up(false);
    let said = a.say(&room, "do not forget").await;
    let event = a.hs.rooms.event(&said).await.unwrap().pdu.json().to_owned();
    let transaction = Transaction {
        origin: a.hs.name.clone(),
        id: "again".to_owned(),
        pdus: vec![serde_json::value::RawValue::from_string(event).unwrap()],
        edus: Vec::new(),
    };
    b.hs.db.close().await;
    // The sender, who is told of a failure, keeps it; as "delivered" it would be lost.
    assert!(b.hs.ingest_transaction(transaction).await.is_err());
}
