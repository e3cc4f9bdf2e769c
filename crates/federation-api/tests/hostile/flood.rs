//! More than anybody could want: a thousand passing messages, and strangers without number.

use http::StatusCode;
use ruma::RoomVersionId;
use serde_json::{Value, json};

use crate::{peer::Peer, world::World};

/// A thousand messages of one kind, as transactions of a hundred.
async fn flood(peer: &Peer, to: &crate::world::Node, edu: impl Fn(usize) -> Value) {
    for part in 0..10 {
        let edus: Vec<Value> = (0..100).map(|n| edu(part * 100 + n)).collect();
        assert_eq!(peer.send(to, &[], &edus).await.0, StatusCode::OK);
    }
}

#[tokio::test]
async fn a_thousand_passing_messages_of_each_kind_are_taken_or_dropped_and_the_room_goes_on() {
    let world = World::new();
    let (a, mallory) = (world.node("a.example").await, Peer::new(&world, "mallory.example"));
    let room = a.public_room(RoomVersionId::V11).await;
    let inside = mallory.join(&a, &room).await;
    let stranger = |n: usize| format!("@made-up-{n}:mallory.example");

    flood(
        &mallory,
        &a,
        |n| json!({ "edu_type": "m.typing", "content": { "room_id": room, "user_id": stranger(n), "typing": true } }),
    )
    .await;
    assert!(a.hs.edus.typing.users(&room).is_empty(), "who is not in the room does not type there");
    flood(&mallory, &a, |n| {
        json!({ "edu_type": "m.typing", "content": { "room_id": room, "user_id": mallory.user(), "typing": n % 2 == 1 } })
    })
    .await;
    assert_eq!(a.hs.edus.typing.users(&room), [mallory.user()]);

    let read = inside.join_id();
    flood(&mallory, &a, |n| {
        let receipt = json!({ "event_ids": [read], "data": { "ts": n } });
        json!({ "edu_type": "m.receipt", "content": { room.as_str(): { "m.read": {
            stranger(n): receipt, "@user:a.example": receipt, mallory.user(): receipt,
        } } } })
    })
    .await;
    let ours = a.hs.edus.receipts.of_user_in_room(&a.user(), &room).await.unwrap();
    assert!(ours.is_empty(), "nobody reads for our users");
    let user: ruma::OwnedUserId = mallory.user().try_into().unwrap();
    assert_eq!(a.hs.edus.receipts.of_user_in_room(&user, &room).await.unwrap().len(), 1);

    flood(&mallory, &a, |n| {
        let push: Vec<Value> = (0..50)
            .map(|m| json!({ "user_id": stranger(n * 50 + m), "presence": "online", "status_msg": "x".repeat(500) }))
            .collect();
        json!({ "edu_type": "m.presence", "content": { "push": push } })
    })
    .await;
    let known = (0..50_000)
        .filter(|n| {
            let user: ruma::OwnedUserId = stranger(*n).try_into().unwrap();
            a.hs.edus.presence.get(&user).is_some()
        })
        .count();
    assert!(known <= 20_000, "{known} strangers are remembered");

    flood(&mallory, &a, |n| {
        json!({ "edu_type": "m.device_list_update", "content": {
            "user_id": stranger(n), "device_id": "D", "stream_id": n, "prev_id": [n + 7],
        } })
    })
    .await;
    assert_eq!(mallory.asked("/_matrix/federation/v1/user/devices/"), 0, "nobody here knows them");

    flood(&mallory, &a, |n| {
        json!({ "edu_type": "m.direct_to_device", "content": {
            "sender": mallory.user(), "type": "m.test", "message_id": format!("m{n}"),
            "messages": { format!("@nobody-{n}:a.example"): { "*": { "n": n } }, "@elsewhere:b.example": { "*": {} } },
        } })
    })
    .await;
    assert!(a.has(&a.say(&room, "still here").await).await);
}

#[tokio::test]
async fn a_user_whose_devices_change_all_the_time_is_asked_about_now_and_then() {
    let world = World::new();
    let (a, mallory) = (world.node("a.example").await, Peer::new(&world, "mallory.example"));
    let room = a.public_room(RoomVersionId::V11).await;
    mallory.join(&a, &room).await;
    let user = mallory.user();
    mallory.answer("/_matrix/federation/v1/user/devices/", move |_| {
        (StatusCode::OK, json!({ "user_id": user, "stream_id": 1, "devices": [] }))
    });
    flood(&mallory, &a, |n| {
        json!({ "edu_type": "m.device_list_update", "content": {
            "user_id": mallory.user(), "device_id": "D", "stream_id": 10 + n * 2, "prev_id": [9 + n * 2],
        } })
    })
    .await;
    let asked = mallory.asked("/_matrix/federation/v1/user/devices/");
    assert!(asked <= 1_000, "{asked}");
    assert!(a.has(&a.say(&room, "still here").await).await);
}
