//! Making rooms.

use ruma::{RoomVersionId, events::room::member::MembershipState};
use samtal_room::{NewRoom, RoomError};

use crate::bench::{create_content, levels, membership, message, on_each, state, user};

const VERSIONS: [RoomVersionId; 12] = [
    RoomVersionId::V1,
    RoomVersionId::V2,
    RoomVersionId::V3,
    RoomVersionId::V4,
    RoomVersionId::V5,
    RoomVersionId::V6,
    RoomVersionId::V7,
    RoomVersionId::V8,
    RoomVersionId::V9,
    RoomVersionId::V10,
    RoomVersionId::V11,
    RoomVersionId::V12,
];

#[tokio::test]
async fn every_stable_version_can_be_made_joined_and_spoken_in() {
    on_each(|bench| async move {
        for version in VERSIONS {
            let room = bench.public_room(version.clone()).await;
            bench.join(&room, "bob").await;
            let said = bench.send(&room, "bob", message("hi")).await;
            assert_eq!(bench.seen(&room, "alice").await.first(), Some(&said), "{version}");
            assert_eq!(room.server_name().is_none(), version == RoomVersionId::V12, "{version}: {room}");
            assert_eq!(bench.membership(&room, "bob").await, Some(MembershipState::Join), "{version}");
        }
    })
    .await;
}

#[tokio::test]
async fn note_26_the_create_event_of_version_12_names_no_room_and_everything_else_does() {
    on_each(|bench| async move {
        let room = bench.public_room(RoomVersionId::V12).await;
        let create = bench.rooms.current_state(&room, "m.room.create", "").await.unwrap().unwrap();
        assert!(!create.pdu.json().contains("\"room_id\""));
        assert_eq!(create.pdu.event_id().as_str().replace('$', "!"), room.as_str());
        let said = bench.send(&room, "alice", message("hi")).await;
        let said = bench.rooms.event(&said).await.unwrap();
        assert!(said.pdu.json().contains(room.as_str()));
        assert!(!said.pdu.auth_events().contains(&create.pdu.event_id().to_owned()));
        // Towards clients it does.
        let form = samtal_room::Form { with_room_id: true, ..Default::default() };
        let written = bench.rooms.client_event(&create, &user("alice"), form).await.unwrap();
        assert!(written.get().contains(room.as_str()));
    })
    .await;
}

#[tokio::test]
async fn a_room_with_a_refused_event_is_not_made_at_all() {
    on_each(|bench| async move {
        let alice = user("alice");
        let powerless = state("m.room.power_levels", "", &format!(r#"{{"users":{{"{alice}":0}}}}"#));
        let refused =
            bench.room_with(RoomVersionId::V10, &[powerless, state("m.room.name", "", r#"{"name":"n"}"#)]).await;
        assert!(matches!(refused, Err(RoomError::Refused(_))), "{refused:?}");
        assert!(bench.rooms.store().graph.memberships(&alice).await.unwrap().is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_taken_alias_leaves_no_second_room() {
    on_each(|bench| async move {
        let (alice, version) = (user("alice"), RoomVersionId::V12);
        let new = || NewRoom {
            version: version.clone(),
            creator: alice.clone(),
            create: state("m.room.create", "", &create_content(&alice, &version)),
            events: vec![membership(&alice, "join"), state("m.room.power_levels", "", &levels(&alice, &version))],
            alias: Some("#one:here".try_into().unwrap()),
            published: true,
        };
        let room = bench.rooms.create(new()).await.unwrap();
        let second = bench.rooms.create(new()).await;
        assert!(matches!(second, Err(RoomError::AliasTaken)), "{second:?}");
        let alias = bench.rooms.alias(&"#one:here".try_into().unwrap() as &ruma::OwnedRoomAliasId).await.unwrap();
        assert_eq!(alias.unwrap().room_id, room);
        assert_eq!(bench.rooms.published().await.unwrap(), [room]);
    })
    .await;
}

#[tokio::test]
async fn note_26_a_version_12_creator_stands_above_every_number_and_cannot_be_named_in_the_levels() {
    on_each(|bench| async move {
        let room = bench.public_room(RoomVersionId::V12).await;
        bench.join(&room, "bob").await;
        let (alice, bob) = (user("alice"), user("bob"));
        let max = format!(r#"{{"users":{{"{bob}":9007199254740991}}}}"#);
        bench.send(&room, "alice", state("m.room.power_levels", "", &max)).await;
        let kick = bench.try_send(&room, "bob", membership(&alice, "leave")).await;
        assert!(matches!(kick, Err(RoomError::Refused(_))), "{kick:?}");
        let named = format!(r#"{{"users":{{"{alice}":100}}}}"#);
        let named = bench.try_send(&room, "alice", state("m.room.power_levels", "", &named)).await;
        assert!(matches!(named, Err(RoomError::Refused(_))), "{named:?}");
        bench.send(&room, "alice", membership(&bob, "ban")).await;
    })
    .await;
}

#[tokio::test]
async fn what_was_made_is_there_after_a_restart() {
    on_each(|bench| async move {
        let room = bench.public_room(RoomVersionId::V12).await;
        bench.join(&room, "bob").await;
        let said = bench.send(&room, "bob", message("hi")).await;
        let bench = bench.again().await;
        assert_eq!(bench.seen(&room, "alice").await.first(), Some(&said));
        assert_eq!(bench.content(&room, "m.room.join_rules", "").await.as_deref(), Some(r#"{"join_rule":"public"}"#));
        let more = bench.send(&room, "bob", message("still here")).await;
        let event = bench.rooms.event(&more).await.unwrap();
        assert_eq!(event.pdu.prev_events(), [said]);
    })
    .await;
}
