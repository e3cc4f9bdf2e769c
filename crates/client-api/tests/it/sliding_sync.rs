//! Simplified sliding sync, through the router.

use std::time::Duration;

use ruma::{OwnedRoomId, OwnedUserId, api::client::room::create_room::v3::RoomPreset, events::StateEventType};
use samtal_event::Draft;
use samtal_ops::CreateRoom;
use samtal_room::LocalDraft;
use serde_json::{Map, Value, json};

use crate::harness::{Node, Person, each_engine};

const PATH: &str = "/unstable/org.matrix.simplified_msc3575/sync";

fn id(who: &Person) -> OwnedUserId {
    who.user_id.parse().unwrap()
}

async fn room(node: &Node, creator: &Person, others: &[&Person], name: Option<&str>) -> OwnedRoomId {
    let mut wish = CreateRoom::new(id(creator));
    wish.preset = Some(RoomPreset::PublicChat);
    wish.name = name.map(ToOwned::to_owned);
    node.clock.advance(Duration::from_millis(1));
    let room_id = node.hs.create_room(wish).await.unwrap();
    for other in others {
        node.hs.join(&id(other), &room_id, &[], Map::new()).await.unwrap();
    }
    room_id
}

async fn say(node: &Node, who: &Person, room_id: &OwnedRoomId, body: &str) -> String {
    let draft = Draft::message_of("m.room.message", &json!({ "msgtype": "m.text", "body": body })).unwrap();
    node.hs.rooms.send_one(room_id, LocalDraft::new(id(who), draft)).await.unwrap().to_string()
}

async fn set(node: &Node, who: &Person, room_id: &OwnedRoomId, event_type: &str, content: Value) {
    let draft = Draft::state_of(&StateEventType::from(event_type), "", &content).unwrap();
    node.hs.rooms.send_one(room_id, LocalDraft::new(id(who), draft)).await.unwrap();
}

struct Client<'a> {
    node: &'a Node,
    who: Person,
    pos: Option<String>,
}

impl<'a> Client<'a> {
    fn new(node: &'a Node, who: &Person) -> Self {
        Self { node, who: who.clone(), pos: None }
    }

    async fn ask(&mut self, body: Value) -> Value {
        self.wait(body, 0).await
    }

    async fn wait(&mut self, body: Value, timeout_ms: u64) -> Value {
        let pos = self.pos.as_ref().map(|pos| format!("&pos={pos}")).unwrap_or_default();
        let answer = self.node.post_as(&self.who, &format!("{PATH}?timeout={timeout_ms}{pos}"), body).await.ok();
        self.pos = Some(answer["pos"].as_str().unwrap().to_owned());
        answer
    }
}

fn list(to: u64, timeline_limit: u64) -> Value {
    json!({ "lists": { "all": {
        "ranges": [[0, to]],
        "timeline_limit": timeline_limit,
        "required_state": [["m.room.name", ""], ["m.room.member", "$ME"], ["m.room.member", "$LAZY"]],
    } } })
}

fn rooms(answer: &Value) -> Vec<&str> {
    answer["rooms"].as_object().unwrap().keys().map(String::as_str).collect()
}

fn bodies(room: &Value) -> Vec<&str> {
    room["timeline"].as_array().unwrap().iter().filter_map(|event| event["content"]["body"].as_str()).collect()
}

#[tokio::test]
async fn a_window_shows_the_rooms_with_the_newest_activity_and_grows() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let mut all = Vec::new();
        for number in 0..4 {
            all.push(room(&node, &alice, &[&bob], Some(&format!("room {number}"))).await);
        }
        say(&node, &alice, &all[0], "first is now newest").await;
        let mut client = Client::new(&node, &bob);
        let answer = client.ask(list(1, 1)).await;
        assert_eq!(answer["lists"]["all"]["count"], 4);
        let mut expected = [all[0].as_str(), all[3].as_str()];
        expected.sort_unstable();
        assert_eq!(rooms(&answer), expected);
        let shown = &answer["rooms"][all[0].as_str()];
        assert_eq!(
            (&shown["name"], &shown["initial"], &shown["joined_count"]),
            (&json!("room 0"), &json!(true), &json!(2))
        );
        assert_eq!(bodies(shown), ["first is now newest"]);
        assert_eq!((&shown["limited"], &shown["num_live"]), (&json!(true), &json!(0)));
        assert_eq!(shown["notification_count"], 1);
        let members: Vec<&Value> =
            shown["required_state"].as_array().unwrap().iter().map(|event| &event["state_key"]).collect();
        for user in ["", &alice.user_id, &bob.user_id] {
            assert!(members.contains(&&json!(user)), "{shown}");
        }
        let answer = client.ask(list(9, 1)).await;
        assert_eq!(rooms(&answer).len(), 2, "only those that were not told before: {answer}");
        let answer = client.ask(list(9, 1)).await;
        assert_eq!(rooms(&answer).len(), 0);
        let bump =
            |answer: &Value, room_id: &OwnedRoomId| answer["rooms"][room_id.as_str()]["bump_stamp"].as_u64().unwrap();
        say(&node, &alice, &all[2], "live").await;
        let answer = client.ask(list(9, 1)).await;
        let shown = &answer["rooms"][all[2].as_str()];
        assert_eq!((bodies(shown), &shown["num_live"], shown.get("initial")), (vec!["live"], &json!(1), None));
        assert_eq!(shown.get("name"), None, "it has not changed: {shown}");
        let before = bump(&answer, &all[2]);
        set(&node, &alice, &all[2], "m.room.topic", json!({ "topic": "quiet" })).await;
        assert_eq!(bump(&client.ask(list(9, 1)).await, &all[2]), before, "a topic does not move the room up");
    })
    .await;
}

#[tokio::test]
async fn a_lost_answer_is_given_again_and_an_unknown_position_refused() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let room_id = room(&node, &alice, &[&bob], None).await;
        let mut client = Client::new(&node, &bob);
        client.ask(list(9, 5)).await;
        say(&node, &alice, &room_id, "once").await;
        let pos = client.pos.clone();
        let first = client.ask(list(9, 5)).await;
        client.pos = pos;
        let again = client.ask(list(9, 5)).await;
        assert_eq!(first["rooms"], again["rooms"]);
        let other = Client::new(&node, &alice).pos.replace(client.pos.clone().unwrap());
        assert_eq!(other, None);
        let path = format!("{PATH}?pos={}", client.pos.clone().unwrap());
        node.post_as(&alice, &path, json!({})).await.refused(400, "M_UNKNOWN_POS");
        node.post_as(&bob, &format!("{PATH}?pos=5_nonsense"), json!({})).await.refused(400, "M_UNKNOWN_POS");
        let named = json!({ "conn_id": "other" });
        node.post_as(&bob, &path, named).await.refused(400, "M_UNKNOWN_POS");
    })
    .await;
}

#[tokio::test]
async fn two_connections_do_not_disturb_each_other() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let room_id = room(&node, &alice, &[&bob], None).await;
        let mut rooms_conn = Client::new(&node, &bob);
        let mut keys_conn = Client::new(&node, &bob);
        let with = |mut body: Value, name: &str| {
            body["conn_id"] = json!(name);
            body
        };
        let keys = json!({ "extensions": { "to_device": { "enabled": true }, "e2ee": { "enabled": true } } });
        rooms_conn.ask(with(list(9, 1), "room-list")).await;
        let answer = keys_conn.ask(with(keys.clone(), "encryption")).await;
        assert_eq!(answer["rooms"], json!({}));
        assert_eq!(answer["extensions"]["e2ee"]["device_one_time_keys_count"], json!({ "signed_curve25519": 0 }));
        assert_eq!(answer["extensions"]["e2ee"]["device_unused_fallback_key_types"], json!([]));
        assert!(answer["extensions"]["to_device"]["next_batch"].is_string());
        say(&node, &alice, &room_id, "hello").await;
        assert_eq!(rooms(&keys_conn.ask(with(keys, "encryption")).await).len(), 0);
        assert_eq!(rooms(&rooms_conn.ask(with(list(9, 1), "room-list")).await).len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_waiting_request_wakes_and_a_new_subscription_is_answered_at_once() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let room_id = room(&node, &alice, &[&bob], None).await;
        for number in 0..5 {
            say(&node, &alice, &room_id, &number.to_string()).await;
        }
        let mut client = Client::new(&node, &bob);
        client.ask(list(9, 1)).await;
        let (answer, _) = tokio::join!(client.wait(list(9, 1), 20_000), async {
            tokio::task::yield_now().await;
            say(&node, &alice, &room_id, "wake").await
        });
        assert_eq!(bodies(&answer["rooms"][room_id.as_str()]), ["wake"]);
        let mut body = list(9, 1);
        body["room_subscriptions"] =
            json!({ room_id.as_str(): { "timeline_limit": 4, "required_state": [["m.room.create", ""]] } });
        let answer = client.wait(body.clone(), 20_000).await;
        let shown = &answer["rooms"][room_id.as_str()];
        assert_eq!(bodies(shown), ["2", "3", "4", "wake"]);
        assert_eq!(shown["unstable_expanded_timeline"], true);
        assert_eq!(shown["required_state"][0]["type"], "m.room.create", "{shown}");
        assert_eq!(shown["required_state"].as_array().unwrap().len(), 1);
        assert_eq!(rooms(&client.ask(body).await).len(), 0);
    })
    .await;
}

#[tokio::test]
async fn filters_choose_rooms() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let plain = room(&node, &alice, &[&bob], Some("Plain")).await;
        let secret = room(&node, &alice, &[&bob], Some("Secret")).await;
        set(&node, &alice, &secret, "m.room.encryption", json!({ "algorithm": "m.megolm.v1.aes-sha2" })).await;
        let mut wish = CreateRoom::new(id(&bob));
        wish.creation_content.insert("type".into(), json!("m.space"));
        let space = node.hs.create_room(wish).await.unwrap();
        let invite = room(&node, &alice, &[], Some("Invite")).await;
        node.hs.invite(&id(&alice), &id(&bob), &invite, Map::new()).await.unwrap();
        let direct = format!("/v3/user/{}/account_data/m.direct", bob.user_id);
        node.put_as(&bob, &direct, json!({ &alice.user_id: [plain] })).await.ok();
        let tag = format!("/v3/user/{}/rooms/{secret}/tags/m.favourite", bob.user_id);
        node.put_as(&bob, &tag, json!({ "order": 0.5 })).await.ok();
        for (filters, expected) in [
            (json!({ "is_dm": true }), vec![&plain]),
            (json!({ "is_encrypted": true }), vec![&secret]),
            (json!({ "is_invite": true }), vec![&invite]),
            (json!({ "is_invite": false, "not_room_types": ["m.space"] }), vec![&plain, &secret]),
            (json!({ "room_types": ["m.space"] }), vec![&space]),
            (json!({ "room_types": [null], "is_invite": false, "is_dm": false }), vec![&secret]),
            (json!({ "tags": ["m.favourite"] }), vec![&secret]),
            (json!({ "not_tags": ["m.favourite"], "room_types": [null], "is_invite": false }), vec![&plain]),
            (json!({ "room_name_like": "lai" }), vec![&plain]),
        ] {
            let body = json!({ "lists": { "l": { "ranges": [[0, 9]], "timeline_limit": 0, "required_state": [], "filters": filters } } });
            let answer = Client::new(&node, &bob).ask(body).await;
            let mut expected: Vec<&str> = expected.iter().map(|room_id| room_id.as_str()).collect();
            expected.sort_unstable();
            assert_eq!(rooms(&answer), expected, "{filters}");
            assert_eq!(answer["lists"]["l"]["count"], expected.len(), "{filters}");
        }
        let answer = Client::new(&node, &bob).ask(list(9, 1)).await;
        let shown = &answer["rooms"][invite.as_str()];
        assert!(shown["invite_state"].to_string().contains("m.room.create"), "{shown}");
        assert_eq!((&shown["name"], shown.get("timeline")), (&json!("Invite"), None));
        assert_eq!(answer["rooms"][plain.as_str()]["is_dm"], true);
    })
    .await;
}

#[tokio::test]
async fn leaving_is_told_once_and_being_thrown_out_stays_in_the_list() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let left = room(&node, &alice, &[&bob], None).await;
        let kicked = room(&node, &alice, &[&bob], None).await;
        let mut client = Client::new(&node, &bob);
        client.ask(list(9, 5)).await;
        node.hs.leave(&id(&bob), &left, Map::new()).await.unwrap();
        node.hs.kick(&id(&alice), &id(&bob), &kicked, Map::new()).await.unwrap();
        say(&node, &alice, &kicked, "secret").await;
        let answer = client.ask(list(9, 5)).await;
        assert_eq!(rooms(&answer).len(), 2);
        for room_id in [&left, &kicked] {
            let timeline = answer["rooms"][room_id.as_str()]["timeline"].as_array().unwrap();
            assert_eq!(timeline.last().unwrap()["content"]["membership"], "leave", "{answer}");
        }
        assert!(!answer.to_string().contains("secret"));
        let answer = client.ask(list(9, 5)).await;
        assert_eq!((rooms(&answer).len(), &answer["lists"]["all"]["count"]), (0, &json!(1)));
        node.hs.join(&id(&bob), &left, &[], Map::new()).await.unwrap();
        let answer = client.ask(list(9, 5)).await;
        assert_eq!(answer["rooms"][left.as_str()]["initial"], true);
    })
    .await;
}

#[tokio::test]
async fn extensions_tell_account_data_receipts_and_typing() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let room_id = room(&node, &alice, &[&bob], None).await;
        let said = say(&node, &bob, &room_id, "read me").await;
        let mut body = list(9, 1);
        body["extensions"] = json!({
            "account_data": { "enabled": true }, "receipts": { "enabled": true, "rooms": ["*"] },
            "typing": { "enabled": true }, "org.example.unknown": { "enabled": true },
        });
        let mut client = Client::new(&node, &bob);
        let answer = client.ask(body.clone()).await;
        assert_eq!(answer["extensions"]["account_data"]["global"][0]["type"], "m.push_rules");
        let tag = format!("/v3/user/{}/rooms/{room_id}/tags/m.favourite", bob.user_id);
        node.put_as(&bob, &tag, json!({})).await.ok();
        node.post_as(&alice, &format!("/v3/rooms/{room_id}/receipt/m.read/{said}"), json!({})).await.ok();
        let typing = format!("/v3/rooms/{room_id}/typing/{}", alice.user_id);
        node.put_as(&alice, &typing, json!({ "typing": true, "timeout": 30_000 })).await.ok();
        let answer = client.ask(body.clone()).await;
        let extensions = &answer["extensions"];
        assert_eq!(extensions["account_data"]["rooms"][room_id.as_str()][0]["type"], "m.tag", "{answer}");
        let receipt = &extensions["receipts"]["rooms"][room_id.as_str()];
        assert!(receipt["content"][&said]["m.read"].get(&alice.user_id).is_some(), "{answer}");
        let typing = &extensions["typing"]["rooms"][room_id.as_str()];
        assert_eq!(typing["content"]["user_ids"], json!([alice.user_id]));
        assert_eq!(client.ask(body).await["extensions"], json!({}));
    })
    .await;
}

#[tokio::test]
async fn the_accepted_shape_has_everything_in_the_body() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let room_id = room(&node, &alice, &[&bob], Some("Named")).await;
        let mut body = json!({ "lists": { "all": {
            "range": [0, 9], "timeline_limit": 1,
            "required_state": { "include": [{ "type": "m.room.name" }], "lazy_members": true },
        } } });
        let answer = node.post_as(&bob, "/v4/sync", body.clone()).await.ok();
        let shown = &answer["rooms"][room_id.as_str()];
        assert_eq!((&shown["membership"], &shown["lists"]), (&json!("join"), &json!(["all"])));
        assert_eq!(shown.get("notification_count"), None);
        say(&node, &alice, &room_id, "next").await;
        body["pos"] = answer["pos"].clone();
        let answer = node.post_as(&bob, "/v4/sync", body).await.ok();
        assert_eq!(bodies(&answer["rooms"][room_id.as_str()]), ["next"]);
    })
    .await;
}

#[tokio::test]
async fn unfit_requests_are_refused() {
    each_engine(async |node| {
        let alice = node.person("alice").await;
        for body in [
            json!({ "lists": { "l": { "ranges": [[5, 1]] } } }),
            json!({ "conn_id": "x".repeat(100) }),
            json!({ "lists": { "x".repeat(65): {} } }),
        ] {
            node.post_as(&alice, PATH, body).await.refused(400, "M_INVALID_PARAM");
        }
        node.post_as(&alice, PATH, json!({ "lists": [] })).await.refused(400, "M_BAD_JSON");
        node.post_as(&alice, &format!("{PATH}?timeout=soon"), json!({})).await.refused(400, "M_INVALID_PARAM");
        node.post(PATH, json!({})).await.refused(401, "M_MISSING_TOKEN");
    })
    .await;
}

#[tokio::test]
async fn a_room_that_becomes_a_direct_chat_is_told_as_one_without_other_news() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let room_id = room(&node, &alice, &[&bob], Some("x")).await;
        let mut client = Client::new(&node, &alice);
        client.ask(list(9, 1)).await;
        let data = format!("/v3/user/{}/account_data/m.direct", alice.user_id);
        for (content, expected) in [(json!({ &bob.user_id: [room_id] }), true), (json!({}), false)] {
            node.put_as(&alice, &data, content).await.ok();
            let answer = client.ask(list(9, 1)).await;
            assert_eq!(answer["rooms"][room_id.as_str()]["is_dm"], expected, "{answer}");
            assert!(rooms(&client.ask(list(9, 1)).await).is_empty(), "once");
        }
    })
    .await;
}

#[tokio::test]
async fn nobody_learns_what_a_space_holds_that_they_are_not_in() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let space = room(&node, &alice, &[], Some("space")).await;
        let child = room(&node, &alice, &[&bob], Some("child")).await;
        let draft =
            Draft::state_of(&"m.space.child".into(), child.as_str(), &json!({ "via": ["samtal.test"] })).unwrap();
        node.hs.rooms.send_one(&space, LocalDraft::new(id(&alice), draft)).await.unwrap();
        let body = json!({ "lists": { "all": { "ranges": [[0, 9]], "timeline_limit": 0, "required_state": [],
            "filters": { "spaces": [space] } } } });
        let count =
            async |who: &Person| Client::new(&node, who).ask(body.clone()).await["lists"]["all"]["count"].clone();
        assert_eq!((count(&alice).await, count(&bob).await), (json!(1), json!(0)));
    })
    .await;
}

#[tokio::test]
async fn a_position_can_be_paged_from_and_a_ban_from_elsewhere_is_not_listed() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let room_id = room(&node, &alice, &[], Some("x")).await;
        say(&node, &alice, &room_id, "before").await;
        node.hs.ban(&id(&alice), &id(&bob), &room_id, Map::new()).await.unwrap();
        let body = json!({ "lists": { "all": { "range": [0, 9], "timeline_limit": 0, "required_state": {} } } });
        let of_bob = node.post_as(&bob, "/v4/sync", body.clone()).await.ok();
        assert_eq!(of_bob["lists"]["all"]["count"], 0, "he has never been there");
        let pos = node.post_as(&alice, "/v4/sync", body).await.ok()["pos"].as_str().unwrap().to_owned();
        say(&node, &alice, &room_id, "after").await;
        let page = node.get_as(&alice, &format!("/v3/rooms/{room_id}/messages?dir=b&from={pos}")).await.ok();
        assert!(page.to_string().contains("before") && !page.to_string().contains("after"), "{page}");
        let many: Map<String, Value> = (0..101).map(|n| (format!("!r{n}:samtal.test"), json!({}))).collect();
        let body = json!({ "room_subscriptions": many });
        node.post_as(&bob, "/v4/sync", body).await.refused(400, "M_INVALID_PARAM");
    })
    .await;
}

/// What a client knows of a room, and compares.
fn known(before: Option<&Value>, told: &Value) -> Value {
    let before = before.filter(|_| told["initial"] != true);
    let last = told["timeline"].as_array().and_then(|events| events.last()).map(|event| event["event_id"].clone());
    let kept = |key: &str| before.map_or(Value::Null, |before| before[key].clone());
    let field = |key: &str| told.get(key).cloned().unwrap_or_else(|| kept(key));
    json!({
        "name": field("name"), "is_dm": field("is_dm") == true, "bump_stamp": field("bump_stamp"),
        "notification_count": field("notification_count"), "last": last.unwrap_or_else(|| kept("last")),
    })
}

#[tokio::test]
async fn a_connection_that_hears_of_changes_only_knows_what_a_new_one_is_told() {
    each_engine(async |node| {
        let random = samtal_kit::Random::seeded(11);
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let space = room(&node, &alice, &[&bob], Some("space")).await;
        let mut all = Vec::new();
        for number in 0..7 {
            all.push(room(&node, &alice, &[&bob], Some(&format!("room {number}"))).await);
        }
        let mut client = Client::new(&node, &bob);
        let mut knows: Map<String, Value> = Map::new();
        let mut subscribed = all[0].clone();
        let mut direct = Vec::new();
        for step in 0..60 {
            let room_id = &all[usize::try_from(random.below(7)).unwrap()];
            match random.below(12) {
                0..=3 => drop(say(&node, &alice, room_id, &format!("step {step}")).await),
                4 => set(&node, &alice, room_id, "m.room.name", json!({ "name": format!("name {step}") })).await,
                5 => set(&node, &alice, room_id, "m.room.encryption", json!({ "algorithm": "m.megolm.v1.aes-sha2" })).await,
                6 => {
                    let draft = Draft::state_of(&"m.space.child".into(), room_id.as_str(), &json!({ "via": ["samtal.test"] }));
                    node.hs.rooms.send_one(&space, LocalDraft::new(id(&alice), draft.unwrap())).await.unwrap();
                }
                7 => subscribed = room_id.clone(),
                8 => {
                    direct.push(room_id.clone());
                    let data = format!("/v3/user/{}/account_data/m.direct", bob.user_id);
                    node.put_as(&bob, &data, json!({ &alice.user_id: direct })).await.ok();
                }
                9 => {
                    let said = say(&node, &alice, room_id, "read").await;
                    node.post_as(&bob, &format!("/v3/rooms/{room_id}/receipt/m.read/{said}"), json!({})).await.ok();
                }
                10 => node.hs.leave(&id(&bob), room_id, Map::new()).await.map_or((), drop),
                _ => node.hs.join(&id(&bob), room_id, &[], Map::new()).await.map_or((), drop),
            }
            let list = |to: u64, filters: Value| json!({
                "ranges": [[0, to]], "timeline_limit": 1, "required_state": [["m.room.name", ""]], "filters": filters,
            });
            let body = json!({
                "lists": {
                    "a": list(2, json!({})), "b": list(1, json!({ "is_encrypted": false })),
                    "c": list(9, json!({ "spaces": [space] })), "d": list(0, json!({ "is_dm": true })),
                },
                "room_subscriptions": { subscribed.as_str(): { "timeline_limit": 1, "required_state": [] } },
            });
            let pos = client.pos.clone();
            let mut answer = client.ask(body.clone()).await;
            if random.below(4) == 0 && pos.is_some() {
                client.pos = pos;
                answer = client.ask(body.clone()).await;
            }
            // A room that was left is told once; only then lists no longer hold it.
            let then = client.ask(body.clone()).await;
            for (room_id, told) in [&answer, &then].into_iter().flat_map(|answer| answer["rooms"].as_object().unwrap()) {
                let now = known(knows.get(room_id), told);
                knows.insert(room_id.clone(), now);
            }
            let mut fresh = body.clone();
            fresh["conn_id"] = json!("fresh");
            let whole = Client::new(&node, &bob).ask(fresh).await;
            assert_eq!(then["lists"], whole["lists"], "step {step}");
            for (room_id, told) in whole["rooms"].as_object().unwrap() {
                assert_eq!(knows.get(room_id), Some(&known(None, told)), "step {step}, {room_id}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn the_sending_device_knows_its_own_events_wherever_it_meets_them() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let other = Person::of(&node.log_in(&alice, json!({})).await.ok());
        let room_id = room(&node, &alice, &[&bob], None).await;
        let (mut mine, mut others) = (Client::new(&node, &alice), Client::new(&node, &other));
        mine.ask(list(9, 5)).await;
        others.ask(list(9, 5)).await;
        let root = say(&node, &bob, &room_id, "root").await;
        let path = format!("/v3/rooms/{room_id}/send/m.room.message/mine");
        let relation = json!({ "rel_type": "m.thread", "event_id": root });
        let content = json!({ "msgtype": "m.text", "body": "reply", "m.relates_to": relation });
        let sent = node.put_as(&alice, &path, content).await.ok()["event_id"].clone();
        let sent = sent.as_str().unwrap();
        // The first answer, the same again after it was lost, and a longer timeline.
        let pos = mine.pos.clone();
        let mut found = Vec::new();
        for limit in [5, 5, 20] {
            mine.pos = if limit == 20 { mine.pos.clone() } else { pos.clone() };
            let answer = mine.ask(list(9, limit)).await;
            let timeline = answer["rooms"][room_id.as_str()]["timeline"].as_array().unwrap().clone();
            found.push(timeline.into_iter().rev().find(|event| event["event_id"] == sent).unwrap());
        }
        let base = format!("/v1/rooms/{room_id}");
        for (path, at) in [
            (format!("/v3/rooms/{room_id}/messages?dir=b&limit=5"), "/chunk/0"),
            (format!("/v3/rooms/{room_id}/context/{sent}"), "/event"),
            (format!("/v3/rooms/{room_id}/event/{sent}"), ""),
            (format!("{base}/relations/{root}/m.thread"), "/chunk/0"),
            (format!("{base}/threads"), "/chunk/0/unsigned/m.relations/m.thread/latest_event"),
        ] {
            found.push(node.get_as(&alice, &path).await.ok().pointer(at).unwrap().clone());
            let event = node.get_as(&other, &path).await.ok().pointer(at).unwrap().clone();
            assert_eq!(event["unsigned"].get("transaction_id"), None, "another device did not send it: {path}");
        }
        for event in found {
            assert_eq!(
                (&event["event_id"], &event["unsigned"]["transaction_id"]),
                (&json!(sent), &json!("mine")),
                "{event}"
            );
        }
        let answer = others.ask(list(9, 5)).await;
        let timeline = answer["rooms"][room_id.as_str()]["timeline"].as_array().unwrap();
        assert!(timeline.iter().all(|event| event["unsigned"].get("transaction_id").is_none()), "{answer}");
    })
    .await;
}

#[tokio::test]
async fn a_longer_timeline_says_that_it_is_one_and_what_is_live_in_it() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let room_id = room(&node, &alice, &[&bob], None).await;
        for number in 0..4 {
            say(&node, &alice, &room_id, &number.to_string()).await;
        }
        let mut client = Client::new(&node, &bob);
        let answer = client.ask(list(9, 1)).await;
        let room = &answer["rooms"][room_id.as_str()];
        assert_eq!((bodies(room), &room["limited"], &room["num_live"]), (vec!["3"], &json!(true), &json!(0)));
        say(&node, &alice, &room_id, "4").await;
        let answer = client.ask(list(9, 3)).await;
        let room = &answer["rooms"][room_id.as_str()];
        assert_eq!((bodies(room), &room["num_live"]), (vec!["2", "3", "4"], &json!(1)));
        assert_eq!((&room["unstable_expanded_timeline"], room.get("initial")), (&json!(true), None));
        let path = format!("/v3/rooms/{room_id}/messages?dir=b&limit=1&from={}", room["prev_batch"].as_str().unwrap());
        assert_eq!(node.get_as(&bob, &path).await.ok()["chunk"][0]["content"]["body"], "1", "just before it");
        assert_eq!(rooms(&client.ask(list(9, 3)).await), Vec::<&str>::new(), "once");
        say(&node, &alice, &room_id, "5").await;
        let answer = client.ask(list(9, 3)).await;
        let room = &answer["rooms"][room_id.as_str()];
        assert_eq!((bodies(room), &room["limited"], &room["num_live"]), (vec!["5"], &json!(false), &json!(1)));
        assert_eq!(room.get("unstable_expanded_timeline"), None);
    })
    .await;
}

#[tokio::test]
async fn a_room_that_comes_back_into_view_brings_what_was_beside_its_events_meanwhile() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let old = room(&node, &alice, &[&bob], None).await;
        let said = say(&node, &alice, &old, "unread").await;
        let on = json!({ "enabled": true });
        let window = |to: u64| {
            let mut body = list(to, 1);
            body["extensions"] = json!({ "account_data": on, "receipts": on, "typing": on });
            body
        };
        let mut client = Client::new(&node, &bob);
        client.ask(window(0)).await;
        let newer = room(&node, &alice, &[&bob], None).await;
        assert_eq!(rooms(&client.ask(window(0)).await), [newer.as_str()]);
        node.post_as(&bob, &format!("/v3/rooms/{old}/receipt/m.read/{said}"), json!({})).await.ok();
        let data = format!("/v3/user/{}/rooms/{old}/account_data/my.type", bob.user_id);
        node.put_as(&bob, &data, json!({ "a": 1 })).await.ok();
        let answer = client.ask(window(0)).await;
        assert!(answer["extensions"]["receipts"]["rooms"].get(old.as_str()).is_none(), "out of view: {answer}");
        let answer = client.ask(window(1)).await;
        assert_eq!(answer["rooms"][old.as_str()]["notification_count"], 0, "{answer}");
        let extensions = &answer["extensions"];
        assert!(extensions["receipts"]["rooms"][old.as_str()]["content"].get(&said).is_some(), "{answer}");
        assert_eq!(extensions["account_data"]["rooms"][old.as_str()][0]["type"], "my.type", "{answer}");
        let answer = client.ask(window(1)).await;
        assert!(answer["extensions"]["receipts"]["rooms"].get(old.as_str()).is_none(), "once: {answer}");
    })
    .await;
}

#[tokio::test]
async fn what_asks_for_too_much_is_refused_and_what_only_sounds_large_is_answered() {
    each_engine(async |node| {
        let alice = node.person("alice").await;
        let room_id = room(&node, &alice, &[], None).await;
        let lists: Map<String, Value> = (0..500).map(|number| (format!("l{number}"), json!({}))).collect();
        node.post_as(&alice, PATH, json!({ "lists": lists })).await.refused(400, "M_INVALID_PARAM");
        let subscriptions = |count: u64| -> Map<String, Value> {
            (0..count).map(|number| (format!("!r{number}:elsewhere"), json!({ "timeline_limit": 1 }))).collect()
        };
        let body = json!({ "room_subscriptions": subscriptions(1_001) });
        node.post_as(&alice, PATH, body).await.refused(400, "M_INVALID_PARAM");
        let body = json!({ "room_subscriptions": subscriptions(1_000) });
        let answer = node.post_as(&alice, PATH, body).await.ok();
        assert_eq!(answer["rooms"], json!({}), "rooms that there are not are ignored");
        let most = 9_007_199_254_740_992_u64;
        let lists: Map<String, Value> = (0..100)
            .map(|number| {
                (format!("l{number}"), json!({ "ranges": [[0, most], [most, u64::MAX]], "timeline_limit": most }))
            })
            .collect();
        let answer = node.post_as(&alice, PATH, json!({ "lists": lists })).await.ok();
        assert_eq!((answer["lists"]["l99"]["count"].as_u64(), rooms(&answer)), (Some(1), vec![room_id.as_str()]));
        let many: Vec<String> = (0..1_000).map(|number| format!("!r{number}:elsewhere")).collect();
        let filter = json!({ "room": { "rooms": many, "timeline": { "types": many, "not_rooms": many } } });
        let made = node.post_as(&alice, &format!("/v3/user/{}/filter", alice.user_id), filter).await.ok();
        let filter = made["filter_id"].as_str().unwrap();
        let body = node.get_as(&alice, &format!("/v3/sync?full_state=true&timeout=0&filter={filter}")).await.ok();
        assert_eq!(body.get("rooms"), None, "{body}");
        for number in 0..300 {
            let body = json!({ "conn_id": format!("c{number}"), "lists": { "all": { "ranges": [[0, 9]] } } });
            assert_eq!(rooms(&node.post_as(&alice, PATH, body).await.ok()), [room_id.as_str()]);
        }
    })
    .await;
}
