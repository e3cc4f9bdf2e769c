//! Joining, inviting, leaving and knocking between servers.

use std::time::Duration;

use ruma::{RoomVersionId, events::room::member::MembershipState, presence::PresenceState};
use samtal_ops::{Content, Federation, OpError, Settings};
use samtal_sync::{StateAfter, SyncRequest};
use serde_json::json;

use crate::world::{World, each_engine, until};

#[tokio::test]
async fn a_public_room_is_joined_in_each_room_version() {
    for version in [
        RoomVersionId::V6,
        RoomVersionId::V8,
        RoomVersionId::V9,
        RoomVersionId::V10,
        RoomVersionId::V11,
        RoomVersionId::V12,
    ] {
        let world = World::new();
        let (a, b) = (world.node("a.example").await, world.node("b.example").await);
        let room = a.public_room(version.clone()).await;
        let before = a.say(&room, "before").await;
        b.join(&room, &a).await;
        assert_eq!(a.state(&room).await, b.state(&room).await, "{version}");
        assert!(!b.has(&before).await, "history is not part of a join");
        let (one, other) = (a.say(&room, "from a").await, b.say(&room, "from b").await);
        until("both have both", async || b.has(&one).await && a.has(&other).await).await;
    }
}

#[tokio::test]
async fn note_38_an_invite_is_signed_by_both_and_answered_by_a_join() {
    let world = World::new();
    let (a, b) = (world.node("a.example").await, world.node("b.example").await);
    let room = a.private_room(RoomVersionId::V11).await;
    assert!(b.hs.join(&b.user(), &room, &[a.hs.name.clone()], Content::new()).await.is_err(), "not without an invite");
    a.hs.invite(&a.user(), &b.user(), &room, Content::new()).await.unwrap();
    assert_eq!(b.membership(&b.user(), &room).await, MembershipState::Invite);
    let stripped = b.hs.rooms.store().graph.invite_state(&b.user(), &room).await.unwrap().unwrap();
    assert!(stripped.contains("m.room.create") && !stripped.contains("signatures"), "{stripped}");
    // Whoever was invited needs nobody to tell them a server.
    b.hs.join(&b.user(), &room, &[], Content::new()).await.unwrap();
    assert_eq!(a.membership(&b.user(), &room).await, MembershipState::Join);
    assert_eq!(a.state(&room).await, b.state(&room).await);
}

#[tokio::test]
async fn note_38_an_invite_to_a_version_12_room_carries_its_create_event() {
    let world = World::new();
    let (a, b) = (world.node("a.example").await, world.node("b.example").await);
    let room = a.private_room(RoomVersionId::V12).await;
    a.hs.invite(&a.user(), &b.user(), &room, Content::new()).await.unwrap();
    // The room's id names no server, so the inviter's is asked.
    b.hs.join(&b.user(), &room, &[], Content::new()).await.unwrap();
    assert_eq!(a.state(&room).await, b.state(&room).await);
}

#[tokio::test]
async fn note_39_an_invite_is_refused_through_its_server_or_alone_if_that_is_gone() {
    let world = World::new();
    let (a, b) = (world.node("a.example").await, world.node("b.example").await);
    let room = a.private_room(RoomVersionId::V11).await;
    a.hs.invite(&a.user(), &b.user(), &room, Content::new()).await.unwrap();
    b.hs.leave(&b.user(), &room, Content::new()).await.unwrap();
    assert_eq!(b.membership(&b.user(), &room).await, MembershipState::Leave);
    assert_eq!(a.membership(&b.user(), &room).await, MembershipState::Leave);

    a.hs.invite(&a.user(), &b.user(), &room, Content::new()).await.unwrap();
    a.set_up(false);
    b.hs.leave(&b.user(), &room, Content::new()).await.unwrap();
    assert_eq!(b.membership(&b.user(), &room).await, MembershipState::Leave);
    assert_eq!(a.membership(&b.user(), &room).await, MembershipState::Invite);
}

#[tokio::test]
async fn an_invite_that_is_taken_back_goes_away() {
    let world = World::new();
    let (a, b) = (world.node("a.example").await, world.node("b.example").await);
    let room = a.private_room(RoomVersionId::V11).await;
    a.hs.invite(&a.user(), &b.user(), &room, Content::new()).await.unwrap();
    a.hs.kick(&a.user(), &b.user(), &room, Content::new()).await.unwrap();
    until("the invite is gone", async || b.membership(&b.user(), &room).await == MembershipState::Leave).await;
}

#[tokio::test]
async fn an_invite_that_is_taken_back_in_the_middle_of_a_sync_does_not_break_it() {
    let world = World::new();
    let (a, b) = (world.node("a.example").await, world.node("b.example").await);
    let request = SyncRequest {
        user_id: b.user(),
        device_id: None,
        filter: b.hs.sync.filter(&b.user(), None).await.unwrap(),
        since: None,
        full_state: false,
        state_after: StateAfter::No,
        timeout: Duration::ZERO,
        set_presence: PresenceState::Offline,
    };
    for _ in 0..20 {
        let room = a.private_room(RoomVersionId::V11).await;
        a.hs.invite(&a.user(), &b.user(), &room, Content::new()).await.unwrap();
        let syncing = async {
            while b.membership(&b.user(), &room).await == MembershipState::Invite {
                b.hs.sync.sync(&request).await.unwrap();
            }
        };
        let (kicker, kicked) = (a.user(), b.user());
        let (kicked, ()) = tokio::join!(a.hs.kick(&kicker, &kicked, &room, Content::new()), syncing);
        kicked.unwrap();
    }
}

#[tokio::test]
async fn an_invite_blocked_by_its_target_is_refused() {
    let world = World::new();
    let (a, b) = (world.node("a.example").await, world.node("b.example").await);
    let blocked = serde_json::value::to_raw_value(&json!({ "default_action": "block" })).unwrap();
    b.hs.accounts.set_account_data(&b.user(), None, "m.invite_permission_config", &blocked).await.unwrap();
    let room = a.private_room(RoomVersionId::V11).await;
    let Err(OpError::Remote(error)) = a.hs.invite(&a.user(), &b.user(), &room, Content::new()).await else {
        panic!("it should be refused");
    };
    assert_eq!(error.errcode(), Some("M_INVITE_BLOCKED"));
}

#[tokio::test]
async fn leaving_and_coming_back() {
    let world = World::new();
    let (a, b) = (world.node("a.example").await, world.node("b.example").await);
    let room = a.public_room(RoomVersionId::V11).await;
    b.join(&room, &a).await;
    b.hs.leave(&b.user(), &room, Content::new()).await.unwrap();
    until("a knows", async || a.membership(&b.user(), &room).await == MembershipState::Leave).await;
    let missed = a.say(&room, "nobody of b is here").await;
    b.join(&room, &a).await;
    assert!(!b.has(&missed).await);
    let said = a.say(&room, "back again").await;
    until("b hears", async || b.has(&said).await).await;
    assert_eq!(a.state(&room).await, b.state(&room).await);
}

#[tokio::test]
async fn note_24_a_knock_is_answered_by_an_invite() {
    let world = World::new();
    let (a, b) = (world.node("a.example").await, world.node("b.example").await);
    let room = a.private_room(RoomVersionId::V11).await;
    a.set_state(&room, "m.room.join_rules", json!({ "join_rule": "knock" })).await;
    b.hs.knock(&b.user(), &room, &[a.hs.name.clone()], Content::new()).await.unwrap();
    assert_eq!(b.membership(&b.user(), &room).await, MembershipState::Knock);
    assert_eq!(a.membership(&b.user(), &room).await, MembershipState::Knock);
    a.hs.invite(&a.user(), &b.user(), &room, Content::new()).await.unwrap();
    assert_eq!(b.membership(&b.user(), &room).await, MembershipState::Invite);
    b.hs.join(&b.user(), &room, &[], Content::new()).await.unwrap();
    assert_eq!(a.state(&room).await, b.state(&room).await);
}

#[tokio::test]
async fn note_22_a_restricted_room_lets_in_who_is_in_the_other_room() {
    let world = World::new();
    let (a, b) = (world.node("a.example").await, world.node("b.example").await);
    let space = a.public_room(RoomVersionId::V11).await;
    let room = a.private_room(RoomVersionId::V11).await;
    let allow = json!([{ "type": "m.room_membership", "room_id": space }]);
    a.set_state(&room, "m.room.join_rules", json!({ "join_rule": "restricted", "allow": allow })).await;
    let refused = b.hs.join(&b.user(), &room, &[a.hs.name.clone()], Content::new()).await;
    let Err(OpError::Remote(error)) = refused else { panic!("{refused:?}") };
    assert_eq!(error.errcode(), Some("M_FORBIDDEN"));
    b.join(&space, &a).await;
    b.join(&room, &a).await;
    assert_eq!(a.state(&room).await, b.state(&room).await);
    let said = b.say(&room, "in").await;
    until("a hears", async || a.has(&said).await).await;
}

#[tokio::test]
async fn note_23_the_resident_signs_a_join_only_where_it_vouches_for_the_user() {
    let world = World::new();
    let (a, b) = (world.node("a.example").await, world.node("b.example").await);
    let signers = async |node: &crate::world::Node, room: &ruma::OwnedRoomId| {
        let join = node.hs.rooms.current_state(room, "m.room.member", b.user().as_str()).await.unwrap().unwrap();
        let event: serde_json::Value = serde_json::from_str(join.pdu.json()).unwrap();
        event["signatures"].as_object().unwrap().keys().cloned().collect::<Vec<_>>()
    };
    let space = a.public_room(RoomVersionId::V11).await;
    b.join(&space, &a).await;
    let room = a.private_room(RoomVersionId::V11).await;
    let allow = json!([{ "type": "m.room_membership", "room_id": space }]);
    a.set_state(&room, "m.room.join_rules", json!({ "join_rule": "restricted", "allow": allow })).await;
    b.join(&room, &a).await;
    for node in [&a, &b] {
        assert_eq!(signers(node, &space).await, ["b.example"]);
        assert_eq!(signers(node, &room).await, ["a.example", "b.example"]);
    }
}

#[tokio::test]
async fn a_third_server_hears_of_a_join_through_the_resident() {
    let world = World::new();
    let (a, b, c) = (world.node("a.example").await, world.node("b.example").await, world.node("c.example").await);
    let room = a.public_room(RoomVersionId::V11).await;
    b.join(&room, &a).await;
    c.join(&room, &a).await;
    until("b knows c", async || b.membership(&c.user(), &room).await == MembershipState::Join).await;
    let said = c.say(&room, "hello").await;
    until("b hears c", async || b.has(&said).await && a.has(&said).await).await;
    c.hs.leave(&c.user(), &room, Content::new()).await.unwrap();
    until("b knows that c has left", async || b.membership(&c.user(), &room).await == MembershipState::Leave).await;
}

#[tokio::test]
async fn a_dead_server_is_passed_over() {
    let world = World::new();
    let (a, b) = (world.node("a.example").await, world.node("b.example").await);
    // The dead server's events are in the room, so somebody has to tell its keys.
    let federation = Federation { key_servers: vec![b.hs.name.clone()], ..Federation::default() };
    let c = world.node_with("c.example", Settings { federation, ..Settings::default() }).await;
    let room = a.public_room(RoomVersionId::V11).await;
    b.join(&room, &a).await;
    a.set_up(false);
    c.hs.join(&c.user(), &room, &[a.hs.name.clone(), b.hs.name.clone()], Content::new()).await.unwrap();
    assert_eq!(b.state(&room).await, c.state(&room).await);
    a.set_up(true);
    until("a hears of it in the end", async || {
        world.clock.advance(Duration::from_secs(60));
        a.membership(&c.user(), &room).await == MembershipState::Join
    })
    .await;
}

#[tokio::test]
async fn an_alias_is_found_on_its_server() {
    let world = World::new();
    let (a, b) = (world.node("a.example").await, world.node("b.example").await);
    let room = a.public_room(RoomVersionId::V11).await;
    let alias = ruma::room_alias_id!("#rüm:a.example");
    a.hs.create_alias(&a.user(), alias, &room, None).await.unwrap();
    let (found, servers) = b.hs.resolve_alias(alias).await.unwrap();
    assert_eq!((found, servers), (room, vec![a.hs.name.clone()]));
    assert!(matches!(b.hs.resolve_alias(ruma::room_alias_id!("#no:a.example")).await, Err(OpError::NotFound(_))));
}

#[tokio::test]
async fn a_join_that_comes_to_nothing_leaves_nothing_behind() {
    let world = World::new();
    let (a, b) = (world.node("a.example").await, world.node("b.example").await);
    let room = a.public_room(RoomVersionId::V11).await;
    let create = a.hs.rooms.current_state(&room, "m.room.create", "").await.unwrap().unwrap();
    let graph = &b.hs.rooms.store().graph;
    let lies: [crate::world::Lie; 2] = [
        // A version that the room does not have must not stick to it.
        |path, answer| {
            if path.contains("/make_join/") {
                answer["room_version"] = json!("6");
            }
        },
        // Most of the state arrives, and is held, before it shows that something is lacking.
        |path, answer| {
            if path.contains("/send_join/") {
                answer["state"].as_array_mut().unwrap().retain(|event| event["type"] != "m.room.join_rules");
                let lacks_create = |event: &serde_json::Value| event["type"] != "m.room.create";
                answer["state"].as_array_mut().unwrap().retain(lacks_create);
            }
        },
    ];
    for lie in lies {
        a.lie(Some(lie));
        b.hs.join(&b.user(), &room, std::slice::from_ref(&a.hs.name), Content::new()).await.unwrap_err();
        assert!(graph.room(&room).await.unwrap().is_none());
        assert!(graph.event(create.pdu.event_id()).await.unwrap().is_none());
    }
    a.lie(None);
    until("the failed joins are taken back", async || a.membership(&b.user(), &room).await == MembershipState::Leave)
        .await;
    b.join(&room, &a).await;
    assert_eq!(a.state(&room).await, b.state(&room).await);
}

#[tokio::test]
async fn an_invite_of_a_server_that_nobody_named_waits_until_it_is_released_or_refused() {
    use samtal_policy::{RoomTypes, Setting, WhichHeld};
    let world = World::new();
    let (a, b) = (world.node("a.example").await, world.node("b.example").await);
    b.hs.rulebook.set(&[Setting::HoldUnknownInvites(Some(true))]).await.unwrap();
    let (all, mut rooms) = (WhichHeld::default(), Vec::new());
    for _ in 0..3 {
        let room = a.private_room(RoomVersionId::V11).await;
        a.hs.invite(&a.user(), &b.user(), &room, Content::new()).await.unwrap();
        assert!(b.hs.rooms.store().graph.membership(&b.user(), &room).await.unwrap().is_none(), "nobody is told");
        rooms.push(room);
    }
    let held = b.hs.held_invites().list(&all).await.unwrap();
    assert_eq!(held.len(), 3);
    assert_eq!((held[0].sender.as_str(), held[0].target.as_str()), (a.user().as_str(), b.user().as_str()));
    let only = |room: &ruma::OwnedRoomId| WhichHeld { room_id: Some(room.to_string()), ..WhichHeld::default() };

    assert_eq!(b.hs.release_invites(&only(&rooms[0])).await.unwrap(), 1);
    assert_eq!(b.membership(&b.user(), &rooms[0]).await, MembershipState::Invite);
    b.hs.join(&b.user(), &rooms[0], &[], Content::new()).await.unwrap();

    assert_eq!(b.hs.refuse_held_invites(&only(&rooms[1])).await.unwrap(), 1);
    assert_eq!(a.membership(&b.user(), &rooms[1]).await, MembershipState::Leave);
    assert!(b.hs.rooms.store().graph.membership(&b.user(), &rooms[1]).await.unwrap().is_none());

    a.hs.kick(&a.user(), &b.user(), &rooms[2], Content::new()).await.unwrap();
    until("one is taken back", async || b.hs.held_invites().list(&all).await.unwrap().is_empty()).await;

    // Rules about types of rooms hold at once too.
    b.hs.rulebook.set(&[Setting::RoomTypes(Some(RoomTypes::Only(vec!["m.space".to_owned()])))]).await.unwrap();
    let refused = a.hs.invite(&a.user(), &b.user(), &rooms[2], Content::new()).await.unwrap_err();
    assert!(refused.to_string().contains("are not shared"), "{refused}");
    b.hs.rulebook.set(&[Setting::RoomTypes(Some(RoomTypes::Any))]).await.unwrap();
    a.hs.invite(&a.user(), &b.user(), &rooms[2], Content::new()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_rooms_are_joined_at_once_than_there_are_connections() {
    each_engine(async |world| {
        let (a, b) = (world.node("a.example").await, world.node("b.example").await);
        let mut rooms = Vec::new();
        for _ in 0..16 {
            rooms.push(b.public_room(RoomVersionId::V11).await);
        }
        // All of them hang at the other server, with what they hold, and a question is answered meanwhile.
        b.hold(Some("send_join"));
        let joins = futures_util::future::join_all(rooms.iter().map(|room| a.join(room, &b)));
        let meanwhile = async {
            a.public_room(RoomVersionId::V11).await;
            b.hold(None);
        };
        tokio::join!(joins, meanwhile);
        for room in &rooms {
            assert_eq!(a.membership(&a.user(), room).await, MembershipState::Join);
        }
    })
    .await;
}
