//! What is here already, and comes once more as if it were news; and what another node of the same server has done with it.

use ruma::{OwnedRoomId, RoomVersionId};
use samtal_db::testing::{Directory, drop_schema, open, postgres, sqlite};
use samtal_event::{Draft, Pdu};
use samtal_room::{Ingest, Ingested, OldEvent};

use crate::{Server, VERSIONS, join, message, over_the_wire, state, with_two};

impl Server {
    /// The room's first events, as another server would send them.
    async fn first_events(&self, room_id: &OwnedRoomId) -> Vec<Pdu> {
        let room = self.rooms.room(room_id).await.unwrap();
        let mut events = self.rooms.store().graph.all_of_room(&room).await.unwrap();
        events.sort_by_key(|event| event.pdu.depth());
        events.iter().take(4).map(|event| event.pdu.clone()).collect()
    }

    async fn ends(&self, room_id: &OwnedRoomId) -> Vec<ruma::OwnedEventId> {
        let room = self.rooms.room(room_id).await.unwrap();
        self.rooms.extremities(&room).await.unwrap()
    }
}

/// Redacts an event.
fn redaction(of: &Pdu) -> Draft {
    Draft::from_text("m.room.redaction".into(), None, "{}").unwrap().redacting(of.event_id())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_s_first_events_that_come_as_news_undo_nothing() {
    with_two(|home, other, version| async move {
        let room = home.create(&version).await;
        join(&home, &other, &room).await;
        let closed = home.send(&room, state("m.room.join_rules", "", r#"{"join_rule":"invite"}"#)).await;
        other.take(&room, &closed).await;
        let before = (other.snapshot(&room).await, other.ends(&room).await);
        // What our join names is known to be old; of these nothing tells.
        for old in home.first_events(&room).await.into_iter().take(3) {
            assert_eq!(other.take(&room, &old).await, Ingest::Done(Ingested::Accepted), "{}", old.type_str());
            assert_eq!((other.snapshot(&room).await, other.ends(&room).await), before, "{}", old.type_str());
        }
        let there = other.rooms.room(&room).await.unwrap();
        let news = other.rooms.store().graph.timeline_forward(
            there.nid,
            other.rooms.event(closed.event_id()).await.unwrap().position.unwrap(),
            other.rooms.now(),
            10,
        );
        assert!(news.await.unwrap().is_empty(), "nobody is told of them");
        // They take their places when the history comes down to them.
        let mut old = Vec::new();
        for event in home.first_events(&room).await {
            old.push(OldEvent { pdu: over_the_wire(&event, &there), state: None });
        }
        assert_eq!(other.rooms.insert_history(&there, old).await.unwrap(), 4);
        for event in home.first_events(&room).await {
            assert!(other.rooms.event(event.event_id()).await.unwrap().position.is_some_and(|position| position.0 < 0));
        }
        assert_eq!((other.snapshot(&room).await, other.ends(&room).await), before);
        let hello = home.send(&room, message("hello")).await;
        assert_eq!(other.take(&room, &hello).await, Ingest::Done(Ingested::Accepted));
    })
    .await;
}

/// A server on two nodes that share a database, and one elsewhere.
async fn with_two_nodes<F, Fut>(test: F)
where
    F: Fn(Server, Server, Server, RoomVersionId) -> Fut,
    Fut: Future<Output = ()>,
{
    let schemas = [samtal_room::SCHEMA];
    for version in VERSIONS {
        let directories = [Directory::new(), Directory::new()];
        let (home, here) =
            (open(&sqlite(&directories[0]), &schemas).await, open(&sqlite(&directories[1]), &schemas).await);
        // One that is stopping beside one that has started: both have the database.
        let one = Server::new("other.example", here.clone(), 2).await;
        let two = Server::new("other.example", here.clone(), 2).await;
        test(Server::new("home.example", home.clone(), 1).await, one, two, version).await;
        home.close().await;
        here.close().await;
    }
    if let (Some(home_options), Some(options)) = (postgres(), postgres()) {
        let home = open(&home_options, &schemas).await;
        let (one, two) = (open(&options, &schemas).await, open(&options, &schemas).await);
        let nodes =
            [Server::new("other.example", one.clone(), 2).await, Server::new("other.example", two.clone(), 2).await];
        let [first, second] = nodes;
        test(Server::new("home.example", home.clone(), 1).await, first, second, RoomVersionId::V12).await;
        for db in [home, one, two] {
            db.close().await;
        }
        drop_schema(&home_options).await;
        drop_schema(&options).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_does_not_go_by_what_an_event_was_before_another_node_gave_it_its_place() {
    with_two_nodes(|home, one, two, version| async move {
        let room = home.create(&version).await;
        join(&home, &one, &room).await;
        let closed = home.send(&room, state("m.room.join_rules", "", r#"{"join_rule":"invite"}"#)).await;
        one.take(&room, &closed).await;
        // Both nodes have seen the room's first events as what was told when it was entered.
        for old in home.first_events(&room).await {
            assert!(two.rooms.event(old.event_id()).await.unwrap().before.is_none());
        }
        let there = one.rooms.room(&room).await.unwrap();
        let old = home.first_events(&room).await;
        let history = old.iter().map(|event| OldEvent { pdu: over_the_wire(event, &there), state: None }).collect();
        assert_eq!(one.rooms.insert_history(&there, history).await.unwrap(), 4);
        let before = (one.snapshot(&room).await, one.ends(&room).await);
        for event in &old {
            let position = one.rooms.event(event.event_id()).await.unwrap().position;
            assert_eq!(two.take(&room, event).await, Ingest::Done(Ingested::Duplicate), "{}", event.type_str());
            two.rooms.store().db().refresh().await.unwrap();
            assert_eq!(two.rooms.event(event.event_id()).await.unwrap().position, position);
        }
        assert_eq!((two.snapshot(&room).await, two.ends(&room).await), before);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_shows_nothing_that_was_redacted_on_another() {
    with_two_nodes(|home, one, two, version| async move {
        let room = home.create(&version).await;
        join(&home, &one, &room).await;
        let secret = home.send(&room, message("secret")).await;
        one.take(&room, &secret).await;
        assert!(two.rooms.event(secret.event_id()).await.unwrap().pdu.content_str().contains("secret"));
        let redaction = home.send(&room, redaction(&secret)).await;
        assert_eq!(one.take(&room, &redaction).await, Ingest::Done(Ingested::Accepted));
        two.rooms.store().db().refresh().await.unwrap();
        assert_eq!(two.rooms.event(secret.event_id()).await.unwrap().pdu.content_str(), "{}");
        // And what was taken in by either, both build on.
        let mine = two.send(&room, message("mine")).await;
        assert_eq!(mine.prev_events(), [redaction.event_id().to_owned()]);
        let ours = one.send(&room, message("ours")).await;
        assert_eq!(ours.prev_events(), [mine.event_id().to_owned()]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_has_one_create_event() {
    with_two(|home, other, version| async move {
        let room = home.create(&version).await;
        join(&home, &other, &room).await;
        let there = other.rooms.room(&room).await.unwrap();
        let create = home.first_events(&room).await.remove(0);
        let mut again: serde_json::Value = serde_json::from_str(create.json()).unwrap();
        again["origin_server_ts"] = 1.into();
        let again = samtal_event::ParsedPdu::from_bytes(again.to_string().as_bytes(), there.rules).unwrap();
        let again = again.unverified().clone();
        let before = (other.snapshot(&room).await, other.ends(&room).await);
        // In room version 12 it is even that of another room.
        if again.room_id() == room {
            let outcome = other.rooms.ingest(&there, &again, None, None).await.unwrap();
            assert!(matches!(outcome, Ingest::Done(Ingested::Rejected(_))), "{outcome:?}");
        }
        assert_eq!((other.snapshot(&room).await, other.ends(&room).await), before);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_that_was_held_across_a_gap_comes_as_news_once_the_gap_is_filled() {
    with_two(|home, other, version| async move {
        let room = home.create(&version).await;
        join(&home, &other, &room).await;
        let mut missed = vec![home.send(&room, message("missed")).await];
        for name in ["a", "b", "c"] {
            missed.push(home.send(&room, state("org.example.state", name, "{}")).await);
        }
        let later = home.send(&room, message("later")).await;
        // The state is told with what comes after the gap.
        assert_eq!(other.jump(&home, &room, &later).await, Ingest::Done(Ingested::Accepted));
        let before = other.snapshot(&room).await;
        // And then all of the gap comes, by itself and in one transaction.
        let there = other.rooms.room(&room).await.unwrap();
        let filling: Vec<Pdu> = missed.iter().map(|event| over_the_wire(event, &there)).collect();
        let filled = other.rooms.ingest_run(&there, &filling).await.unwrap();
        assert_eq!(filled, vec![Ingested::Accepted; 4]);
        for event in &missed {
            let stored = other.rooms.event(event.event_id()).await.unwrap();
            assert!(stored.is_visible(), "{}", stored.pdu.content_str());
        }
        assert_eq!((other.snapshot(&room).await, other.ends(&room).await), (before, vec![later.event_id().to_owned()]));
    })
    .await;
}
