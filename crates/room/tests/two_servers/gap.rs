//! History that comes later than what builds on it.

use ruma::OwnedEventId;
use samtal_event::Pdu;
use samtal_model::StreamPosition;
use samtal_room::{Flags, Gap, Ingest, Ingested, OldEvent};

use crate::{Server, join, message, over_the_wire, state, with_two};

impl Server {
    /// Events from a position back, newest first, by id.
    async fn back(&self, room: &ruma::OwnedRoomId, from: StreamPosition) -> Vec<OwnedEventId> {
        let room = self.rooms.room(room).await.unwrap();
        let graph = &self.rooms.store().graph;
        let events = graph.timeline_back(room.nid, from, StreamPosition(i64::MIN), 100).await.unwrap();
        events.iter().map(|event| event.pdu.event_id().to_owned()).collect()
    }

    async fn gap(&self, room: &ruma::OwnedRoomId) -> Option<Gap> {
        let room = self.rooms.room(room).await.unwrap();
        self.rooms.gap_before(&room, self.rooms.now()).await.unwrap()
    }

    /// Takes in an event whose previous ones are missing, with the state before it as `from` tells it.
    pub(crate) async fn jump(&self, from: &Server, room_id: &ruma::OwnedRoomId, pdu: &Pdu) -> Ingest {
        let room = self.rooms.room(room_id).await.unwrap();
        let (told, chain) = from.rooms.state_before(&from.rooms.event(pdu.event_id()).await.unwrap()).await.unwrap();
        let events = told.iter().chain(&chain).map(|event| over_the_wire(&event.pdu, &room)).collect();
        self.rooms.hold(&room, events).await.unwrap();
        let ids: Vec<OwnedEventId> = told.iter().map(|event| event.pdu.event_id().to_owned()).collect();
        self.rooms.ingest(&room, &over_the_wire(pdu, &room), Some(&ids), None).await.unwrap()
    }

    async fn insert(&self, from: &Server, room_id: &ruma::OwnedRoomId, pdus: &[Pdu]) -> usize {
        let room = self.rooms.room(room_id).await.unwrap();
        let mut old = Vec::new();
        for (index, pdu) in pdus.iter().enumerate() {
            let mut state = None;
            if index == 0 {
                let event = from.rooms.event(pdu.event_id()).await.unwrap();
                let (told, _) = from.rooms.state_before(&event).await.unwrap();
                state = Some(told.iter().map(|event| event.pdu.event_id().to_owned()).collect());
            }
            old.push(OldEvent { pdu: over_the_wire(pdu, &room), state });
        }
        self.rooms.insert_history(&room, old).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_missed_is_shown_where_it_belongs_and_not_as_news() {
    with_two(|home, other, version| async move {
        let room = home.create(&version).await;
        join(&home, &other, &room).await;
        let before = home.send(&room, message("before")).await;
        other.take(&room, &before).await;
        let mut missed = Vec::new();
        for text in ["one", "two", "three"] {
            missed.push(home.send(&room, message(text)).await);
        }
        let after = home.send(&room, message("after")).await;
        assert_eq!(other.jump(&home, &room, &after).await, Ingest::Done(Ingested::Accepted));
        let synced = other.rooms.now();
        let last = other.send(&room, message("last")).await;

        let gap = other.gap(&room).await.expect("a gap is known");
        assert_eq!(other.rooms.event(after.event_id()).await.unwrap().position, Some(gap.position));
        // The newest first, as one pages back.
        assert_eq!(other.insert(&home, &room, &missed[2..]).await, 1);
        assert_eq!(other.gap(&room).await, Some(gap), "there is more in it");
        assert_eq!(other.insert(&home, &room, &missed[..2]).await, 2);
        assert_eq!(other.gap(&room).await, None, "the gap is closed");

        let shown = other.back(&room, other.rooms.now()).await;
        let expected: Vec<&Pdu> = [&last, &after].into_iter().chain(missed.iter().rev()).chain([&before]).collect();
        let expected: Vec<OwnedEventId> = expected.iter().map(|pdu| pdu.event_id().to_owned()).collect();
        assert_eq!(shown[..6], expected);
        // Whoever reads back from before what they have got gets it; whoever has synced is told of nothing but the last.
        assert_eq!(other.back(&room, StreamPosition(gap.position.0 - 1)).await[..3], expected[2..5]);
        let nid = other.rooms.room(&room).await.unwrap().nid;
        let graph = &other.rooms.store().graph;
        let news = graph.timeline_forward(nid, synced, StreamPosition(i64::MAX), 100).await.unwrap();
        assert_eq!(news.len(), 1);
        assert_eq!(news[0].pdu.event_id(), last.event_id());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_from_before_a_join_are_no_news_and_do_not_bring_old_state_back() {
    with_two(|home, other, version| async move {
        let room = home.create(&version).await;
        let old = home.send(&room, message("old")).await;
        home.send(&room, state("m.room.topic", "", r#"{"topic":"old"}"#)).await;
        let new_topic = home.send(&room, state("m.room.topic", "", r#"{"topic":"new"}"#)).await;
        join(&home, &other, &room).await;
        let there = other.rooms.room(&room).await.unwrap();
        let heads = other.rooms.head(&there).await.unwrap();
        let ends = other.rooms.extremities(&there).await.unwrap();
        // As get_missing_events may tell it: all of the history, and something new.
        let here = home.rooms.room(&room).await.unwrap();
        let all = home.rooms.store().graph.all_of_room(&here).await.unwrap();
        let mut told: Vec<Pdu> = all.iter().map(|event| over_the_wire(&event.pdu, &there)).collect();
        let news = home.send(&room, message("news")).await;
        told.push(over_the_wire(&news, &there));
        let (history, rest) = other.rooms.split_history(&there, told).await.unwrap();
        assert!(history.iter().any(|pdu| pdu.event_id() == old.event_id()));
        assert!(rest.iter().any(|pdu| pdu.event_id() == news.event_id()));
        assert!(!rest.iter().any(|pdu| pdu.event_id() == old.event_id()));

        let before = other.rooms.now();
        let history = samtal_room::in_graph_order(history);
        let history = history.into_iter().map(|pdu| OldEvent { pdu, state: None }).collect();
        assert!(other.rooms.insert_history(&there, history).await.unwrap() > 5);
        let after = other.rooms.head(&there).await.unwrap();
        assert_eq!(other.rooms.extremities(&there).await.unwrap(), ends);
        assert_eq!(after.snapshot, heads.snapshot);
        assert_eq!(other.state(&room, "m.room.topic", "").await.as_deref(), Some(new_topic.content_str()));
        let nid = there.nid;
        let graph = &other.rooms.store().graph;
        assert!(graph.timeline_forward(nid, before, StreamPosition(i64::MAX), 100).await.unwrap().is_empty());
        assert!(other.rooms.backward_extremities(&there, 10).await.unwrap().is_empty(), "all of it is here");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_is_judged_as_news_is() {
    with_two(|home, other, version| async move {
        let room_id = home.create(&version).await;
        join(&home, &other, &room_id).await;
        let missed = other.send(&room_id, message("missed")).await;
        let after = other.send(&room_id, message("after")).await;
        assert_eq!(home.jump(&other, &room_id, &after).await, Ingest::Done(Ingested::Accepted));
        // The event is well signed; but by the state before it, as it is told, its sender was not in the room.
        let room = home.rooms.room(&room_id).await.unwrap();
        let head = home.rooms.head(&room).await.unwrap();
        let told = home.rooms.store().state(head.snapshot).await.unwrap();
        let told = told.iter().filter(|event| event.pdu.state_key() != Some(other.user.as_str()));
        let told = told.map(|event| event.pdu.event_id().to_owned()).collect();
        let old = OldEvent { pdu: over_the_wire(&missed, &room), state: Some(told) };
        home.rooms.insert_history(&room, vec![old]).await.unwrap();
        let event = home.rooms.event(missed.event_id()).await.unwrap();
        assert!(event.flags.has(Flags::REJECTED) && event.position.is_none());
        assert!(!home.back(&room_id, home.rooms.now()).await.iter().any(|id| id == missed.event_id()));
        // What nothing here builds on has no place in the history.
        let stray = other.send(&room_id, message("stray")).await;
        let old = OldEvent { pdu: over_the_wire(&stray, &room), state: None };
        assert_eq!(home.rooms.insert_history(&room, vec![old]).await.unwrap(), 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_before_an_event_that_is_not_shown_can_be_had_too() {
    with_two(|home, other, version| async move {
        let room = home.create(&version).await;
        join(&home, &other, &room).await;
        let missed = other.send(&room, message("missed")).await;
        let after = other.send(&room, message("after")).await;
        let kick = state("m.room.member", other.user.as_str(), r#"{"membership":"leave"}"#);
        home.send(&room, kick).await;
        let ingested = home.jump(&other, &room, &after).await;
        assert!(matches!(ingested, Ingest::Done(Ingested::SoftFailed(_))), "{ingested:?}");
        let there = home.rooms.room(&room).await.unwrap();
        assert_eq!(home.rooms.backward_extremities(&there, 10).await.unwrap(), [missed.event_id().to_owned()]);
        assert_eq!(home.insert(&other, &room, &[missed]).await, 1);
        assert!(home.rooms.backward_extremities(&there, 10).await.unwrap().is_empty());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_is_told_holds_nothing_of_another_room() {
    with_two(|home, other, version| async move {
        let (room_id, elsewhere) = (home.create(&version).await, home.create(&version).await);
        join(&home, &other, &room_id).await;
        join(&home, &other, &elsewhere).await;
        let foreign = home.send(&elsewhere, state("m.room.topic", "", r#"{"topic":"elsewhere"}"#)).await;
        other.take(&elsewhere, &foreign).await;
        home.send(&room_id, message("missed")).await;
        let after = home.send(&room_id, message("after")).await;

        let room = other.rooms.room(&room_id).await.unwrap();
        let at_home = home.rooms.event(after.event_id()).await.unwrap();
        let (told, _) = home.rooms.state_before(&at_home).await.unwrap();
        let mut ids: Vec<OwnedEventId> = told.iter().map(|event| event.pdu.event_id().to_owned()).collect();
        let count = ids.len();
        ids.push(foreign.event_id().to_owned());
        let ingested = other.rooms.ingest(&room, &over_the_wire(&after, &room), Some(&ids), None).await.unwrap();
        assert_eq!(ingested, Ingest::Done(Ingested::Accepted));

        let before = other.rooms.event(after.event_id()).await.unwrap().before.expect("it has its place");
        let before = other.rooms.store().state(before).await.unwrap();
        assert_eq!(before.len(), count);
        assert!(before.iter().all(|event| event.room == room.nid));
        assert_eq!(other.state(&room_id, "m.room.topic", "").await, None);
    })
    .await;
}
