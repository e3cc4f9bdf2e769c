//! Who sees what (conformance note 58).

use ruma::RoomVersionId;

use crate::bench::{Bench, membership, message, on_each, state, user};

async fn room(bench: &Bench, visibility: &str) -> ruma::OwnedRoomId {
    let visibility = format!(r#"{{"history_visibility":"{visibility}"}}"#);
    bench
        .room_with(
            RoomVersionId::V12,
            &[
                state("m.room.join_rules", "", r#"{"join_rule":"public"}"#),
                state("m.room.history_visibility", "", &visibility),
            ],
        )
        .await
        .unwrap()
}

#[tokio::test]
async fn note_58_history_is_open_to_whom_the_visibility_at_the_time_names() {
    on_each(|bench| async move {
        // (visibility, seen by an outsider, before the invite, between invite and join, after the join)
        for (visibility, expected) in [
            ("world_readable", [true, true, true, true]),
            ("shared", [false, true, true, true]),
            ("invited", [false, false, true, true]),
            ("joined", [false, false, false, true]),
            ("unheard-of", [false, true, true, true]),
        ] {
            let room = room(&bench, visibility).await;
            let first = bench.send(&room, "alice", message("before the invite")).await;
            bench.send(&room, "alice", membership(&user("bob"), "invite")).await;
            let second = bench.send(&room, "alice", message("before the join")).await;
            bench.join(&room, "bob").await;
            let third = bench.send(&room, "alice", message("after the join")).await;
            let bob = bench.seen(&room, "bob").await;
            let eve = bench.seen(&room, "eve").await;
            let found = [eve.contains(&first), bob.contains(&first), bob.contains(&second), bob.contains(&third)];
            assert_eq!(found, expected, "{visibility}");
        }
    })
    .await;
}

#[tokio::test]
async fn those_who_left_see_up_to_their_leaving_and_that_itself() {
    on_each(|bench| async move {
        let room = room(&bench, "shared").await;
        bench.join(&room, "bob").await;
        let heard = bench.send(&room, "alice", message("bob hears this")).await;
        let left = bench.send(&room, "alice", membership(&user("bob"), "leave")).await;
        let missed = bench.send(&room, "alice", message("bob does not")).await;
        let seen = bench.seen(&room, "bob").await;
        assert!(seen.contains(&heard) && seen.contains(&left) && !seen.contains(&missed));
        // Once back, what was said meanwhile is shared with them.
        bench.join(&room, "bob").await;
        assert!(bench.seen(&room, "bob").await.contains(&missed));
    })
    .await;
}

#[tokio::test]
async fn state_is_readable_to_members_as_it_is_and_to_others_as_they_left_it() {
    on_each(|bench| async move {
        let room = room(&bench, "shared").await;
        bench.join(&room, "bob").await;
        bench.send(&room, "alice", state("m.room.topic", "", r#"{"topic":"then"}"#)).await;
        bench.send(&room, "bob", membership(&user("bob"), "leave")).await;
        bench.send(&room, "alice", state("m.room.topic", "", r#"{"topic":"now"}"#)).await;
        let known = bench.room(&room).await;
        for (name, expected) in [("alice", Some("now")), ("bob", Some("then")), ("eve", None)] {
            let found = bench.rooms.readable_snapshot(&user(name), &known).await;
            let Some(expected) = expected else {
                assert!(found.is_err(), "{name}");
                continue;
            };
            let topic = bench.rooms.store().state_event(found.unwrap().0, "m.room.topic", "").await.unwrap().unwrap();
            assert!(topic.pdu.content_str().contains(expected), "{name}");
        }
    })
    .await;
}

#[tokio::test]
async fn note_58_a_change_of_visibility_is_not_for_the_past() {
    on_each(|bench| async move {
        let room = room(&bench, "joined").await;
        let hidden = bench.send(&room, "alice", message("among us")).await;
        let open = state("m.room.history_visibility", "", r#"{"history_visibility":"world_readable"}"#);
        let change = bench.send(&room, "alice", open).await;
        let shown = bench.send(&room, "alice", message("to all")).await;
        let seen = bench.seen(&room, "eve").await;
        assert!(!seen.contains(&hidden) && seen.contains(&change) && seen.contains(&shown));
    })
    .await;
}
