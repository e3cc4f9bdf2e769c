//! What is counted as unread, held against the plain way of counting: every event of the room judged by itself.

use std::{collections::BTreeMap, time::Duration};

use ruma::{OwnedRoomId, OwnedUserId, api::client::room::create_room::v3::RoomPreset};
use samtal_event::Draft;
use samtal_kit::Random;
use samtal_model::StreamPosition;
use samtal_ops::CreateRoom;
use samtal_push::{Count, Counts};
use samtal_room::LocalDraft;
use serde_json::{Map, Value, json};

use crate::harness::{Node, Person, each_engine};

/// An event, as the plain way of counting sees it.
struct Said {
    event_id: String,
    position: i64,
    sender: String,
    thread: Option<String>,
}

/// A receipt: whose, of which thread (none: all), up to where.
struct Read {
    reader: String,
    thread: Option<String>,
    position: i64,
}

fn id(who: &Person) -> OwnedUserId {
    who.user_id.parse().unwrap()
}

async fn send(node: &Node, who: &Person, room_id: &OwnedRoomId, event_type: &str, content: Value) -> (String, i64) {
    let draft = Draft::message_of(event_type, &content).unwrap();
    let event_id = node.hs.rooms.send_one(room_id, LocalDraft::new(id(who), draft)).await.unwrap();
    let event = node.hs.rooms.event(&event_id).await.unwrap();
    (event_id.to_string(), event.position.unwrap().0)
}

/// Judges every event by itself, and holds it against every receipt and every event of the reader's own.
async fn plainly(
    node: &Node,
    reader: &Person,
    room_id: &OwnedRoomId,
    all: &[Said],
    read: &[Read],
    from: i64,
) -> Counts {
    let room = node.hs.rooms.room(room_id).await.unwrap();
    let mut counts = Counts::default();
    for said in all.iter().filter(|said| said.sender != reader.user_id && said.position > from) {
        let same_thread = |thread: &Option<String>| *thread == said.thread;
        let by_receipt = read.iter().filter(|read| read.reader == reader.user_id).any(|read| {
            let main = read.thread.as_deref() == Some("main") && said.thread.is_none();
            said.position <= read.position && (read.thread.is_none() || main || same_thread(&read.thread))
        });
        let by_own = all
            .iter()
            .any(|own| own.sender == reader.user_id && own.position >= said.position && same_thread(&own.thread));
        if by_receipt || by_own {
            continue;
        }
        let event = node.hs.rooms.event(said.event_id.as_str().try_into().unwrap()).await.unwrap();
        let verdict = node.hs.push.verdict(&id(reader), &room, &event).await.unwrap();
        if verdict.notify {
            let count: &mut Count = match &said.thread {
                None => &mut counts.main,
                Some(thread) => counts.threads.entry(thread.clone()).or_default(),
            };
            count.notifications += 1;
            count.highlights += u64::from(verdict.highlight);
        }
    }
    counts
}

#[tokio::test]
async fn counts_are_those_of_judging_every_event_by_itself() {
    each_engine(async |node| {
        for seed in 0..4 {
            one_history(&node, seed).await;
        }
    })
    .await;
}

async fn one_history(node: &Node, seed: u64) {
    let random = Random::seeded(seed);
    let people = [node.somebody().await, node.somebody().await, node.somebody().await];
    let mut wish = CreateRoom::new(id(&people[0]));
    wish.preset = Some(RoomPreset::PublicChat);
    node.clock.advance(Duration::from_millis(1));
    let room_id = node.hs.create_room(wish).await.unwrap();
    for person in &people[1..] {
        node.hs.join(&id(person), &room_id, &[], Map::new()).await.unwrap();
    }
    // One of them wants to hear nothing but a word; another has muted the room.
    let rule = json!({ "pattern": "word", "actions": ["notify", { "set_tweak": "highlight" }] });
    node.put_as(&people[1], "/v3/pushrules/global/content/word", rule).await.ok();
    if seed.is_multiple_of(2) {
        let mute = json!({ "actions": [] });
        node.put_as(&people[2], &format!("/v3/pushrules/global/room/{room_id}"), mute).await.ok();
    }
    let begin = node.hs.db.position();
    let (mut all, mut read): (Vec<Said>, Vec<Read>) = (Vec::new(), Vec::new());
    let pick = |count: usize| usize::try_from(random.below(count as u64)).unwrap();
    for step in 0..60 {
        let person = &people[pick(3)];
        match random.below(10) {
            0..=6 => {
                let mut content = json!({ "msgtype": "m.text", "body": format!("step {step}") });
                if random.below(4) == 0 {
                    content["m.mentions"] = json!({ "user_ids": [people[pick(3)].user_id] });
                }
                if random.below(4) == 0 {
                    content["body"] = json!("the word");
                }
                let mut event_type = "m.room.message";
                let mut thread = None;
                if !all.is_empty() && random.below(2) == 0 {
                    let target = &all[pick(all.len())];
                    let kind = if target.thread.is_none() { random.below(3) } else { 1 };
                    match kind {
                        0 => {
                            let relation = json!({ "rel_type": "m.thread", "event_id": target.event_id });
                            content["m.relates_to"] = relation;
                            thread = Some(target.event_id.clone());
                        }
                        1 => {
                            event_type = "m.reaction";
                            let key = step.to_string();
                            content = json!({ "m.relates_to": {
                                "rel_type": "m.annotation", "event_id": target.event_id, "key": key,
                            } });
                            thread = target.thread.clone();
                        }
                        _ => {
                            content["m.relates_to"] = json!({ "rel_type": "m.reference", "event_id": target.event_id });
                        }
                    }
                }
                let (event_id, position) = send(node, person, &room_id, event_type, content).await;
                all.push(Said { event_id, position, sender: person.user_id.clone(), thread });
            }
            _ if all.is_empty() => {}
            _ => {
                let target = &all[pick(all.len())];
                let thread = match random.below(3) {
                    0 => None,
                    1 => Some("main".to_owned()),
                    _ => target.thread.clone().or(Some("main".to_owned())),
                };
                let body = thread.as_ref().map_or(json!({}), |thread| json!({ "thread_id": thread }));
                let path = format!("/v3/rooms/{room_id}/receipt/m.read/{}", target.event_id);
                node.post_as(person, &path, body).await.ok();
                read.push(Read { reader: person.user_id.clone(), thread, position: target.position });
            }
        }
        if random.below(5) == 0 || step == 59 {
            for reader in &people {
                let membership = node.hs.rooms.store().graph.membership(&id(reader), &room_id).await.unwrap().unwrap();
                let room = node.hs.rooms.room(&room_id).await.unwrap();
                let until = StreamPosition(node.hs.db.position());
                let counted = node.hs.push.counts(&id(reader), &room, &membership, until).await.unwrap();
                let expected = plainly(node, reader, &room_id, &all, &read, begin).await;
                let shown: BTreeMap<_, _> = counted.threads.iter().collect();
                assert_eq!(
                    (counted.main, shown),
                    (expected.main, expected.threads.iter().collect()),
                    "seed {seed}, step {step}"
                );
            }
        }
    }
}
