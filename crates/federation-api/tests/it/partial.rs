//! Joining with a part of the state (MSC3706), and what happens until the rest is here (MSC3902).

use std::sync::Arc;

use ruma::{
    OwnedEventId, RoomVersionId, api::federation::membership::prepare_join_event::v1 as make_join,
    events::room::member::MembershipState,
};
use samtal_ops::{Content, Homeserver, Transaction};
use samtal_room::membership_of;

use crate::{
    device::upload,
    world::{Node, World, each_engine, until},
};

/// Of a room with users of two servers, `b` knows a part of the state.
async fn partial_room(world: &World, version: RoomVersionId) -> (Node, Node, Node, ruma::OwnedRoomId) {
    partial_room_told_by(world, version, |_| {}).await
}

/// As [`partial_room`]; something is done with `a` before `b` comes.
async fn partial_room_told_by(
    world: &World,
    version: RoomVersionId,
    with_a: impl Fn(&Node),
) -> (Node, Node, Node, ruma::OwnedRoomId) {
    let (a, b, c) = (world.node("a.example").await, world.node("b.example").await, world.node("c.example").await);
    with_a(&a);
    let room = a.public_room(version).await;
    a.set_state(&room, "m.room.name", serde_json::json!({ "name": "large" })).await;
    c.join(&room, &a).await;
    c.state(&room).await;
    for server in [&a, &c] {
        server.hold(Some("/state"));
    }
    b.join(&room, &a).await;
    assert!(b.is_partial(&room));
    (a, b, c, room)
}

/// What a server knows of a member before an event.
async fn member_before(of: &Node, event: &OwnedEventId, user: &ruma::UserId) -> Option<MembershipState> {
    let event = of.hs.rooms.event(event).await.unwrap();
    let store = of.hs.rooms.store();
    let member = store.state_event(event.before.unwrap(), "m.room.member", user.as_str()).await.unwrap();
    member.and_then(|member| membership_of(&member.pdu))
}

#[tokio::test]
async fn note_37_all_write_and_read_before_the_whole_state_is_here_and_it_is_the_same_afterwards() {
    each_engine(async |world| {
        for version in [RoomVersionId::V10, RoomVersionId::V12] {
            let (a, b, c, room) = partial_room(world, version).await;
            assert_eq!(b.membership(&c.user(), &room).await, MembershipState::Leave, "members are left out");
            let from_b = b.say(&room, "from b").await;
            until("both hear b, whom only servers were named to", async || {
                a.has(&from_b).await && c.has(&from_b).await
            })
            .await;
            let from_c = c.say(&room, "from c").await;
            until("b hears of somebody it did not know", async || b.has(&from_c).await).await;
            let from_a = a.say(&room, "from a").await;
            until("b hears a", async || b.has(&from_a).await).await;
            assert_ne!(b.state_so_far(&room).await, a.state(&room).await);
            assert_eq!(member_before(&b, &from_a, &c.user()).await, None);

            a.hold(None);
            assert_eq!(b.state(&room).await, a.state(&room).await);
            assert_eq!(b.membership(&c.user(), &room).await, MembershipState::Join);
            assert_eq!(
                member_before(&b, &from_a, &c.user()).await,
                Some(MembershipState::Join),
                "of events before, too"
            );
            let late = c.say(&room, "once more").await;
            until("b hears c", async || b.has(&late).await).await;
            assert_eq!(b.state(&room).await, a.state(&room).await);
            let (joined, _) = b.hs.rooms.store().graph.counts(b.hs.rooms.room(&room).await.unwrap().nid).await.unwrap();
            assert_eq!(joined, 3);
        }
    })
    .await;
}

#[tokio::test]
async fn who_does_not_know_the_whole_state_lets_nobody_in() {
    let world = World::new();
    let (a, b, _, room) = partial_room(&world, RoomVersionId::V11).await;
    let d = world.node("d.example").await;
    let mut request = make_join::Request::new(room.clone(), d.user());
    request.ver = vec![RoomVersionId::V11];
    let refused = d.hs.remote.send(b.name(), request.clone()).await.unwrap_err();
    assert_eq!((refused.status().unwrap().as_u16(), refused.errcode()), (404, Some("M_NOT_FOUND")));
    a.hold(None);
    b.state(&room).await;
    d.hs.remote.send(b.name(), request).await.unwrap();
}

#[tokio::test]
async fn whoever_stops_in_between_goes_on_with_it_after_the_restart() {
    each_engine(async |world| {
        let (a, b, c, room) = partial_room(world, RoomVersionId::V11).await;
        let said = c.say(&room, "meanwhile").await;
        until("b hears c", async || b.has(&said).await).await;
        // What was in the database at a sudden end is all that the next start has.
        b.hs.tasks.shut_down(std::time::Duration::ZERO).await;
        let hs = Homeserver::over(
            b.hs.name.clone(),
            b.hs.db.clone(),
            b.hs.settings.clone(),
            world.clock.clone(),
            samtal_kit::Random::seeded(9),
            Arc::clone(&world.network) as _,
        )
        .await
        .unwrap();
        assert!(hs.rooms.store().partial.is_partial(&room));
        a.hold(None);
        hs.rooms.until_whole(&room).await.unwrap();
        let head = hs.rooms.head(&hs.rooms.room(&room).await.unwrap()).await.unwrap();
        let state = hs.rooms.store().state(head.snapshot).await.unwrap();
        let state: std::collections::BTreeSet<OwnedEventId> =
            state.iter().map(|event| event.pdu.event_id().to_owned()).collect();
        assert_eq!(state, a.state(&room).await);
    })
    .await;
}

#[tokio::test]
async fn the_state_comes_from_another_server_when_the_first_is_gone() {
    each_engine(async |world| {
        let (a, b, c, room) = partial_room(world, RoomVersionId::V11).await;
        a.set_up(false);
        a.hold(None);
        c.hold(None);
        assert_eq!(b.state(&room).await, c.state(&room).await);
    })
    .await;
}

#[tokio::test]
async fn who_leaves_meanwhile_is_out_and_may_come_back() {
    each_engine(async |world| {
        let (a, b, _, room) = partial_room(world, RoomVersionId::V11).await;
        b.hs.leave(&b.user(), &room, Content::new()).await.unwrap();
        assert_eq!(b.membership(&b.user(), &room).await, MembershipState::Leave);
        until("a hears of it", async || a.membership(&b.user(), &room).await == MembershipState::Leave).await;
        b.join(&room, &a).await;
        let said = b.say(&room, "back").await;
        until("a hears b", async || a.has(&said).await).await;
        a.hold(None);
        assert_eq!(b.state(&room).await, a.state(&room).await);
        b.hs.leave(&b.user(), &room, Content::new()).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn whether_a_second_user_may_come_in_says_who_knows_the_members() {
    each_engine(async |world| {
        let banned = <&ruma::UserId>::try_from("@banned:b.example").unwrap();
        let (a, b, c) = (world.node("a.example").await, world.node("b.example").await, world.node("c.example").await);
        let room = a.public_room(RoomVersionId::V11).await;
        c.join(&room, &a).await;
        a.hs.ban(&a.user(), banned, &room, Content::new()).await.unwrap();
        a.hold(Some("/state"));
        b.join(&room, &a).await;
        assert!(b.is_partial(&room));
        let refused = b.hs.join(banned, &room, &[], Content::new()).await;
        assert!(refused.is_err(), "{refused:?}");
        assert_eq!(b.membership(banned, &room).await, MembershipState::Leave);
        let welcome = <&ruma::UserId>::try_from("@welcome:b.example").unwrap();
        b.hs.join(welcome, &room, &[], Content::new()).await.unwrap();
        assert_eq!(a.membership(welcome, &room).await, MembershipState::Join);
        assert!(b.is_partial(&room));
        a.hold(None);
        assert_eq!(b.state(&room).await, a.state(&room).await);
        assert_eq!(b.membership(welcome, &room).await, MembershipState::Join);
    })
    .await;
}

#[tokio::test]
async fn nobody_needs_the_state_of_a_room_that_all_have_left() {
    let world = World::new();
    let (a, b, c, room) = partial_room(&world, RoomVersionId::V11).await;
    b.hs.leave(&b.user(), &room, Content::new()).await.unwrap();
    a.set_up(false);
    c.set_up(false);
    a.hold(None);
    c.hold(None);
    until("the wait is over", async || !b.is_partial(&room)).await;
}

#[tokio::test]
async fn a_member_is_invited_or_put_out_once_it_is_known_who_is_in_the_room() {
    let world = World::new();
    let (a, b, c, room) = partial_room(&world, RoomVersionId::V11).await;
    let (hs, user, target, place) = (Arc::clone(&b.hs), b.user(), c.user(), room.clone());
    let invite = b.hs.tasks.spawn("test", async move { hs.invite(&user, &target, &place, Content::new()).await });
    assert!(!invite.is_finished());
    a.hold(None);
    let refused = invite.await.unwrap().unwrap_err();
    assert!(refused.to_string().contains("already") || refused.to_string().contains("join"), "{refused}");
    assert_eq!(b.membership(&c.user(), &room).await, MembershipState::Join);
}

#[tokio::test]
async fn devices_that_changed_before_it_was_known_who_is_in_the_room_are_told_of_then() {
    let world = World::new();
    let (a, b, c, room) = partial_room(&world, RoomVersionId::V11).await;
    let since = b.hs.db.position();
    let changed = async || b.hs.e2ee.users_changed(&b.user(), since, b.hs.db.position()).await.unwrap();
    upload(&c).await;
    until("b is told", async || c.hs.sender.position() == c.hs.db.position() && c.hs.sender.waiting().is_empty()).await;
    assert!(changed().await.is_empty(), "c may not be in the room");
    a.hold(None);
    b.state(&room).await;
    until("it is known that c is", async || changed().await == [c.user()]).await;
}

#[tokio::test]
async fn presence_that_comes_before_the_answer_to_the_join_is_kept() {
    let world = World::new();
    let (a, b) = (world.node("a.example").await, world.node("b.example").await);
    let room = a.public_room(RoomVersionId::V11).await;
    let content = serde_json::json!({ "push": [{ "user_id": a.user(), "presence": "online" }] });
    let edu = serde_json::json!({ "edu_type": "m.presence", "content": content });
    let say = async |id: &str| {
        let edus = vec![serde_json::value::to_raw_value(&edu).unwrap()];
        let transaction = Transaction { origin: a.hs.name.clone(), id: id.to_owned(), pdus: Vec::new(), edus };
        b.hs.ingest_transaction(transaction).await.unwrap();
        b.hs.edus.presence.get(&a.user()).is_some()
    };
    assert!(!say("stranger").await, "nobody here knows this user");
    a.hold(Some("/send_join"));
    let (hs, user, place, via) = (Arc::clone(&b.hs), b.user(), room.clone(), a.hs.name.clone());
    let join = b.hs.tasks.spawn("test", async move { hs.join(&user, &place, &[via], Content::new()).await });
    let attempt = std::sync::atomic::AtomicUsize::new(0);
    until("it is kept", async || say(&attempt.fetch_add(1, std::sync::atomic::Ordering::SeqCst).to_string()).await)
        .await;
    assert!(!join.is_finished());
    a.hold(None);
    join.await.unwrap().unwrap();
}

#[tokio::test]
async fn servers_that_were_not_known_to_be_in_the_room_hear_what_they_missed() {
    let world = World::new();
    let (a, b, c, room) = partial_room_told_by(&world, RoomVersionId::V11, |a| {
        a.lie(Some(|path, answer| {
            if path.contains("/send_join/") {
                answer["servers_in_room"] = serde_json::json!([]);
            }
        }));
    })
    .await;
    upload(&b).await;
    let knows = async |node: &Node| node.hs.e2ee.remote_current(&[b.user()]).await.unwrap() == [b.user()];
    until("a hears of b's device", async || knows(&a).await).await;
    assert!(!knows(&c).await, "b does not know that c is there");
    a.hold(None);
    b.state(&room).await;
    until("c hears of b's device", async || knows(&c).await).await;
}

#[tokio::test]
async fn who_lets_somebody_in_need_not_be_in_the_part_of_the_state() {
    let world = World::new();
    let (a, b) = (world.node("a.example").await, world.node("b.example").await);
    let space = a.public_room(RoomVersionId::V11).await;
    let room = a.private_room(RoomVersionId::V11).await;
    // A room with a name needs no members to stand for it.
    a.set_state(&room, "m.room.name", serde_json::json!({ "name": "large" })).await;
    let allow = serde_json::json!([{ "type": "m.room_membership", "room_id": space }]);
    let rules = serde_json::json!({ "join_rule": "restricted", "allow": allow });
    a.set_state(&room, "m.room.join_rules", rules).await;
    b.join(&space, &a).await;
    b.join(&room, &a).await;
    assert_eq!(a.state(&room).await, b.state(&room).await);
}
