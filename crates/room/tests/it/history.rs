//! Pages of history, relations, threads, dates.

use ruma::RoomVersionId;
use samtal_model::StreamPosition;
use samtal_room::{Direction, Form, RelationFilter};

use crate::bench::{ids, message, on_each, related};

#[tokio::test]
async fn pages_meet_without_gap_or_overlap_both_ways() {
    on_each(|bench| async move {
        let room = bench.public_room(RoomVersionId::V12).await;
        for number in 0..25 {
            bench.send(&room, "alice", message(&number.to_string())).await;
        }
        let all = bench.seen(&room, "alice").await;
        for direction in [Direction::Backward, Direction::Forward] {
            let mut viewer = bench.viewer(&room, "alice").await;
            let mut at = if direction == Direction::Backward { bench.rooms.now() } else { StreamPosition(i64::MIN) };
            let mut read = Vec::new();
            loop {
                let chunk = bench.rooms.timeline(&mut viewer, at, None, direction, 7).await.unwrap();
                assert!(chunk.events.len() <= 7);
                read.extend(ids(&chunk.events));
                match chunk.next {
                    Some(next) => at = next,
                    None => break,
                }
            }
            if direction == Direction::Forward {
                read.reverse();
            }
            assert_eq!(read, all, "{direction:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_page_stops_where_it_is_told() {
    on_each(|bench| async move {
        let room = bench.public_room(RoomVersionId::V12).await;
        let first = bench.send(&room, "alice", message("one")).await;
        let second = bench.send(&room, "alice", message("two")).await;
        let to = bench.rooms.event(&first).await.unwrap().position;
        let mut viewer = bench.viewer(&room, "alice").await;
        let chunk = bench.rooms.timeline(&mut viewer, bench.rooms.now(), to, Direction::Backward, 10).await.unwrap();
        assert_eq!(ids(&chunk.events), [second]);
    })
    .await;
}

#[tokio::test]
async fn note_62_relations_are_listed_by_kind_and_bundled_with_their_target() {
    on_each(|bench| async move {
        let room = bench.public_room(RoomVersionId::V12).await;
        bench.join(&room, "bob").await;
        let root = bench.send(&room, "alice", message("root")).await;
        let reply = bench.send(&room, "bob", related("reply", "m.thread", &root)).await;
        let edit = bench.send(&room, "alice", related("edit", "m.replace", &root)).await;
        let foreign = bench.send(&room, "bob", related("not mine", "m.replace", &root)).await;
        let deep = bench.send(&room, "alice", related("deep", "m.reference", &reply)).await;
        let mut viewer = bench.viewer(&room, "alice").await;
        let end = StreamPosition(i64::MAX);
        let mut list = async |rel_type: Option<&str>, recurse: bool| {
            let filter = RelationFilter { rel_type: rel_type.map(Into::into), event_type: None, recurse };
            let chunk = bench.rooms.relations(&mut viewer, &root, &filter, end, Direction::Backward, 10).await;
            ids(&chunk.unwrap().events)
        };
        assert_eq!(list(None, false).await, [foreign.clone(), edit.clone(), reply.clone()]);
        assert_eq!(list(Some("m.thread"), false).await, [reply.clone()]);
        assert_eq!(list(None, true).await, [deep, foreign, edit.clone(), reply.clone()]);
        let event = bench.rooms.event(&root).await.unwrap();
        let form = Form { with_bundles: true, ..Form::default() };
        let mut viewer = bench.viewer(&room, "bob").await;
        let written = bench.rooms.client_events(&mut viewer, &[event], form).await.unwrap();
        let written: serde_json::Value = serde_json::from_str(written[0].get()).unwrap();
        let relations = &written["unsigned"]["m.relations"];
        assert_eq!(relations["m.replace"]["event_id"], edit.as_str());
        assert_eq!(relations["m.thread"]["count"], 1);
        assert_eq!(relations["m.thread"]["latest_event"]["event_id"], reply.as_str());
        assert_eq!(relations["m.thread"]["current_user_participated"], true);
        assert_eq!(written["content"]["body"], "root", "the edit stays out of the original's content");
    })
    .await;
}

#[tokio::test]
async fn threads_come_with_the_newest_reply_first_and_go_with_their_last() {
    on_each(|bench| async move {
        let room = bench.public_room(RoomVersionId::V12).await;
        bench.join(&room, "bob").await;
        let one = bench.send(&room, "alice", message("one")).await;
        let two = bench.send(&room, "alice", message("two")).await;
        let last = bench.send(&room, "bob", related("on two", "m.thread", &two)).await;
        bench.send(&room, "alice", related("on one", "m.thread", &one)).await;
        let end = StreamPosition(i64::MAX);
        let mut viewer = bench.viewer(&room, "bob").await;
        let roots = async |viewer: &mut samtal_room::Viewer, participated: bool| {
            ids(&bench.rooms.threads(viewer, participated, end, 10).await.unwrap().events)
        };
        assert_eq!(roots(&mut viewer, false).await, [one.clone(), two.clone()]);
        assert_eq!(roots(&mut viewer, true).await, [two.clone()]);
        let page = bench.rooms.threads(&mut viewer, false, end, 1).await.unwrap();
        assert_eq!(ids(&page.events), [one.clone()]);
        let page = bench.rooms.threads(&mut viewer, false, page.next.unwrap(), 1).await.unwrap();
        assert_eq!(ids(&page.events), [two]);
        let draft = samtal_event::Draft::from_text("m.room.redaction".into(), None, "{}").unwrap();
        bench.send(&room, "bob", draft.redacting(&last)).await;
        assert_eq!(roots(&mut viewer, false).await, [one]);
    })
    .await;
}

#[tokio::test]
async fn a_thread_outlives_the_text_of_its_root_and_the_edit_does_not() {
    on_each(|bench| async move {
        let room = bench.public_room(RoomVersionId::V12).await;
        let root = bench.send(&room, "alice", message("root")).await;
        bench.send(&room, "alice", related("edit", "m.replace", &root)).await;
        let reply = bench.send(&room, "alice", related("reply", "m.thread", &root)).await;
        let draft = samtal_event::Draft::from_text("m.room.redaction".into(), None, "{}").unwrap();
        bench.send(&room, "alice", draft.redacting(&root)).await;
        let mut viewer = bench.viewer(&room, "alice").await;
        let event = bench.rooms.event(&root).await.unwrap();
        let form = Form { with_bundles: true, ..Form::default() };
        let written = bench.rooms.client_events(&mut viewer, &[event], form).await.unwrap();
        let written: serde_json::Value = serde_json::from_str(written[0].get()).unwrap();
        let relations = &written["unsigned"]["m.relations"];
        assert_eq!(relations["m.thread"]["latest_event"]["event_id"], reply.as_str());
        assert!(relations.get("m.replace").is_none(), "{relations}");
    })
    .await;
}

#[tokio::test]
async fn the_event_closest_to_a_time_is_found_in_both_directions() {
    on_each(|bench| async move {
        let room = bench.public_room(RoomVersionId::V12).await;
        let mut sent = Vec::new();
        for number in 0..300 {
            bench.clock.advance(std::time::Duration::from_secs(60));
            let id = bench.send(&room, "alice", message(&number.to_string())).await;
            sent.push((id.clone(), bench.rooms.event(&id).await.unwrap().pdu.origin_server_ts_ms()));
        }
        let mut viewer = bench.viewer(&room, "alice").await;
        for index in [0, 1, 57, 150, 298] {
            let between = sent[index].1 + 1_000;
            for (direction, expected) in
                [(Direction::Forward, &sent[index + 1].0), (Direction::Backward, &sent[index].0)]
            {
                let found = bench.rooms.visible_event_near(&mut viewer, between, direction).await.unwrap().unwrap();
                assert_eq!(found.pdu.event_id(), expected, "{index} {direction:?}");
            }
        }
        let late = bench.rooms.visible_event_near(&mut viewer, sent[299].1 + 1, Direction::Forward).await.unwrap();
        assert!(late.is_none());
        let early = bench.rooms.visible_event_near(&mut viewer, 1, Direction::Backward).await.unwrap();
        assert!(early.is_none());
    })
    .await;
}
