//! Sending: transactions, state that is already so, memberships, redactions.

use std::collections::HashSet;

use ruma::{RoomVersionId, events::room::member::MembershipState};
use samtal_event::Draft;
use samtal_room::{Expected, Flags, LocalDraft, RoomError, Txn};

use crate::bench::{membership, message, on_each, state, user};

#[tokio::test]
async fn note_45_many_senders_with_one_transaction_id_make_one_event() {
    on_each(|bench| async move {
        let room = bench.public_room(RoomVersionId::V12).await;
        let name = Txn::name(&user("alice"), "DEVICE", &*bench.room(&room).await, "send m.room.message", "t1");
        let sends = (0..20).map(|_| {
            let mut draft = LocalDraft::new(user("alice"), message("once"));
            draft.txn = Some(name.clone());
            bench.rooms.send_one(&room, draft)
        });
        let answers = futures_util::future::join_all(sends).await;
        let made: HashSet<_> = answers.into_iter().map(Result::unwrap).collect();
        assert_eq!(made.len(), 1);
        // Also after a restart, and for an event that came in between.
        let bench = bench.again().await;
        bench.send(&room, "alice", message("other")).await;
        let mut draft = LocalDraft::new(user("alice"), message("once"));
        draft.txn = Some(name);
        assert!(made.contains(&bench.rooms.send_one(&room, draft).await.unwrap()));
    })
    .await;
}

#[tokio::test]
async fn note_45_a_transaction_id_is_told_to_the_sending_device_only() {
    on_each(|bench| async move {
        let room = bench.public_room(RoomVersionId::V12).await;
        bench.join(&room, "bob").await;
        let mut draft = LocalDraft::new(user("alice"), message("hi"));
        draft.txn = Some(Txn::name(&user("alice"), "DEV|ICE", &*bench.room(&room).await, "send m.room.message", "a|b"));
        let id = bench.rooms.send_one(&room, draft).await.unwrap();
        let event = bench.rooms.event(&id).await.unwrap();
        let form = |device| samtal_room::Form { device_id: Some(device), ..Default::default() };
        for (reader, device, told) in [("alice", "DEV|ICE", true), ("alice", "OTHER", false), ("bob", "DEV|ICE", false)]
        {
            let written = bench.rooms.client_event(&event, &user(reader), form(device)).await.unwrap();
            assert_eq!(written.get().contains(r#""transaction_id":"a|b""#), told, "{reader} {device}: {written}");
        }
    })
    .await;
}

#[tokio::test]
async fn state_that_is_already_so_is_not_sent_again() {
    on_each(|bench| async move {
        let room = bench.public_room(RoomVersionId::V12).await;
        let topic = || state("m.room.topic", "", r#"{"topic":"one"}"#);
        let first = bench.send(&room, "alice", topic()).await;
        assert_eq!(bench.send(&room, "alice", topic()).await, first);
        bench.send(&room, "alice", state("m.room.topic", "", r#"{"topic":"two"}"#)).await;
        assert_ne!(bench.send(&room, "alice", topic()).await, first);
    })
    .await;
}

#[tokio::test]
async fn concurrent_senders_all_get_through_and_make_one_chain() {
    on_each(|bench| async move {
        let room = bench.public_room(RoomVersionId::V12).await;
        let sends = (0..200)
            .map(|number| bench.rooms.send_one(&room, LocalDraft::new(user("alice"), message(&number.to_string()))));
        let made: Vec<_> = futures_util::future::join_all(sends).await.into_iter().map(Result::unwrap).collect();
        let seen: HashSet<_> = bench.seen(&room, "alice").await.into_iter().collect();
        assert!(made.iter().all(|id| seen.contains(id)));
        assert_eq!(bench.rooms.extremities(&*bench.room(&room).await).await.unwrap().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn several_events_go_in_together_or_not_at_all() {
    on_each(|bench| async move {
        let room = bench.public_room(RoomVersionId::V12).await;
        bench.join(&room, "bob").await;
        let before = bench.seen(&room, "alice").await;
        let drafts = vec![
            LocalDraft::new(user("bob"), message("fine")),
            LocalDraft::new(user("bob"), state("m.room.name", "", r#"{"name":"not mine to give"}"#)),
        ];
        let refused = bench.rooms.send(&room, drafts).await;
        assert!(matches!(refused, Err(RoomError::Refused(_))), "{refused:?}");
        assert_eq!(bench.seen(&room, "alice").await, before);
    })
    .await;
}

#[tokio::test]
async fn a_ban_keeps_out_and_a_kick_needs_somebody_there() {
    on_each(|bench| async move {
        let room = bench.public_room(RoomVersionId::V12).await;
        bench.join(&room, "bob").await;
        bench.send(&room, "alice", membership(&user("bob"), "ban")).await;
        assert_eq!(bench.membership(&room, "bob").await, Some(MembershipState::Ban));
        let again = bench.try_send(&room, "bob", membership(&user("bob"), "join")).await;
        assert!(matches!(again, Err(RoomError::Refused(_))), "{again:?}");
        let speak = bench.try_send(&room, "bob", message("let me")).await;
        assert!(matches!(speak, Err(RoomError::Refused(_))), "{speak:?}");
        let kick = LocalDraft::new(user("alice"), membership(&user("carol"), "leave"));
        let expected = Expected {
            user: user("carol"),
            memberships: vec![MembershipState::Join, MembershipState::Invite],
            otherwise: "not there".into(),
        };
        let kick = bench.rooms.send_if(&room, vec![kick], Some(expected)).await;
        assert!(matches!(kick, Err(RoomError::Forbidden(_))), "{kick:?}");
        bench.send(&room, "alice", membership(&user("bob"), "leave")).await;
        bench.join(&room, "bob").await;
        assert_eq!(bench.rooms.store().graph.counts(bench.room(&room).await.nid).await.unwrap(), (2, 0));
    })
    .await;
}

#[tokio::test]
async fn a_redaction_takes_the_content_in_every_format_and_says_why_it_is_gone() {
    on_each(|bench| async move {
        for version in [RoomVersionId::V1, RoomVersionId::V2, RoomVersionId::V3, RoomVersionId::V10, RoomVersionId::V12]
        {
            let room = bench.public_room(version.clone()).await;
            bench.join(&room, "bob").await;
            let said = bench.send(&room, "bob", message("regret")).await;
            let draft = Draft::from_text("m.room.redaction".into(), None, r#"{"reason":"no"}"#).unwrap();
            let redaction = bench.send(&room, "bob", draft.redacting(&said)).await;
            for bench in [&bench, &bench.again().await] {
                let event = bench.rooms.event(&said).await.unwrap();
                assert_eq!(event.pdu.content_str(), "{}", "{version}");
                assert!(event.flags.has(Flags::REDACTED), "{version}");
                assert_eq!(event.redacted_by.as_ref(), Some(&redaction), "{version}");
                let form = samtal_room::Form::default();
                let written = bench.rooms.client_event(&event, &user("alice"), form).await.unwrap();
                assert!(written.get().contains("redacted_because"), "{version}: {written}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_redacted_name_is_no_name_any_more() {
    on_each(|bench| async move {
        let room = bench.public_room(RoomVersionId::V12).await;
        let name = bench.send(&room, "alice", state("m.room.name", "", r#"{"name":"n"}"#)).await;
        let draft = Draft::from_text("m.room.redaction".into(), None, "{}").unwrap();
        bench.send(&room, "alice", draft.redacting(&name)).await;
        assert_eq!(bench.content(&room, "m.room.name", "").await.as_deref(), Some("{}"));
        // The same name once more is not "already so".
        let again = bench.send(&room, "alice", state("m.room.name", "", r#"{"name":"n"}"#)).await;
        assert_ne!(again, name);
        assert_eq!(bench.content(&room, "m.room.name", "").await.as_deref(), Some(r#"{"name":"n"}"#));
    })
    .await;
}

#[tokio::test]
async fn a_forgotten_room_is_left_first_and_remembered_on_a_new_invite() {
    on_each(|bench| async move {
        let room = bench.public_room(RoomVersionId::V12).await;
        bench.join(&room, "bob").await;
        let bob = user("bob");
        let early = bench.rooms.forget(&bob, &room).await;
        assert!(matches!(early, Err(RoomError::BadEvent(_))), "{early:?}");
        bench.send(&room, "bob", membership(&bob, "leave")).await;
        bench.rooms.forget(&bob, &room).await.unwrap();
        let kept = |bench: &crate::bench::Bench| {
            let (rooms, room, bob) = (bench.rooms.clone(), room.clone(), bob.clone());
            async move { rooms.store().graph.membership(&bob, &room).await.unwrap().unwrap() }
        };
        assert!(kept(&bench).await.forgotten);
        bench.send(&room, "alice", membership(&bob, "invite")).await;
        assert!(!kept(&bench).await.forgotten);
    })
    .await;
}
