//! Sync, through the router.

use std::time::Duration;

use ruma::{OwnedRoomId, OwnedUserId, api::client::room::create_room::v3::RoomPreset, events::StateEventType};
use samtal_event::Draft;
use samtal_ops::CreateRoom;
use samtal_room::LocalDraft;
use serde_json::{Map, Value, json};

use crate::harness::{Node, Person, each_engine};

fn id(who: &Person) -> OwnedUserId {
    who.user_id.parse().unwrap()
}

async fn room(node: &Node, creator: &Person, others: &[&Person]) -> OwnedRoomId {
    let mut wish = CreateRoom::new(id(creator));
    wish.preset = Some(RoomPreset::PublicChat);
    node.clock.advance(Duration::from_millis(1));
    let room_id = node.hs.create_room(wish).await.unwrap();
    for other in others {
        node.hs.join(&id(other), &room_id, &[], Map::new()).await.unwrap();
    }
    room_id
}

async fn say(node: &Node, who: &Person, room_id: &OwnedRoomId, body: &str) -> String {
    say_content(node, who, room_id, json!({ "msgtype": "m.text", "body": body })).await
}

async fn say_content(node: &Node, who: &Person, room_id: &OwnedRoomId, content: Value) -> String {
    let draft = Draft::message_of("m.room.message", &content).unwrap();
    node.hs.rooms.send_one(room_id, LocalDraft::new(id(who), draft)).await.unwrap().to_string()
}

async fn set(node: &Node, who: &Person, room_id: &OwnedRoomId, event_type: &str, content: Value) -> String {
    let draft = Draft::state_of(&StateEventType::from(event_type), "", &content).unwrap();
    node.hs.rooms.send_one(room_id, LocalDraft::new(id(who), draft)).await.unwrap().to_string()
}

/// A client that syncs again and again.
struct Client<'a> {
    node: &'a Node,
    who: Person,
    since: Option<String>,
    query: String,
}

impl<'a> Client<'a> {
    fn new(node: &'a Node, who: &Person) -> Self {
        Self { node, who: who.clone(), since: None, query: String::new() }
    }

    fn with(mut self, query: &str, value: &Value) -> Self {
        let value = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
        let value: String = url(&value);
        self.query.push_str(&format!("&{query}={value}"));
        self
    }

    async fn sync(&mut self) -> Value {
        self.wait(0).await
    }

    async fn wait(&mut self, timeout_ms: u64) -> Value {
        let since = self.since.as_ref().map(|since| format!("&since={since}")).unwrap_or_default();
        let path = format!("/v3/sync?timeout={timeout_ms}{since}{}", self.query);
        let body = self.node.get_as(&self.who, &path).await.ok();
        self.since = Some(body["next_batch"].as_str().unwrap().to_owned());
        body
    }
}

fn url(text: &str) -> String {
    text.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

fn joined<'a>(body: &'a Value, room_id: &OwnedRoomId) -> &'a Value {
    &body["rooms"]["join"][room_id.as_str()]
}

fn ids(events: &Value) -> Vec<&str> {
    events.as_array().into_iter().flatten().map(|event| event["event_id"].as_str().unwrap()).collect()
}

fn types(events: &Value) -> Vec<&str> {
    events.as_array().into_iter().flatten().map(|event| event["type"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn the_first_sync_shows_rooms_and_the_next_only_what_is_new() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let room_id = room(&node, &alice, &[&bob]).await;
        let first = say(&node, &alice, &room_id, "one").await;
        let mut client = Client::new(&node, &bob);
        let body = client.sync().await;
        let timeline = &joined(&body, &room_id)["timeline"];
        assert_eq!(ids(&timeline["events"]).last(), Some(&&*first));
        assert_eq!(joined(&body, &room_id)["summary"]["m.joined_member_count"], 2);
        assert_eq!(joined(&body, &room_id)["summary"]["m.heroes"], json!([alice.user_id]));
        assert!(body["account_data"]["events"].to_string().contains("m.push_rules"));
        assert_eq!(body["device_unused_fallback_key_types"], json!([]));
        let body = client.sync().await;
        assert_eq!(body.get("rooms"), None, "{body}");
        let second = say(&node, &alice, &room_id, "two").await;
        let body = client.sync().await;
        let timeline = &joined(&body, &room_id)["timeline"];
        assert_eq!(ids(&timeline["events"]), [&second]);
        assert_eq!(timeline["limited"], false);
        assert_eq!(timeline["events"][0]["unsigned"]["membership"], "join");
        assert_eq!(timeline["events"][0].get("room_id"), None);
        assert_eq!(joined(&body, &room_id)["state"]["events"], json!([]), "nothing but the message changed: {body}");
        assert_eq!(joined(&body, &room_id).get("summary"), None);
    })
    .await;
}

#[tokio::test]
async fn at_the_token_of_a_first_sync_with_everything_are_the_messages_and_the_members_of_now() {
    each_engine(async |node| {
        let alice = node.person("alice").await;
        let room_id = room(&node, &alice, &[]).await;
        let said = say(&node, &alice, &room_id, "hello").await;
        let body = Client::new(&node, &alice).sync().await;
        let timeline = &joined(&body, &room_id)["timeline"];
        assert_eq!(timeline["limited"], false);
        assert_eq!(types(&timeline["events"]).first(), Some(&"m.room.create"));
        let token = timeline["prev_batch"].as_str().unwrap();

        let page = node.get_as(&alice, &format!("/v3/rooms/{room_id}/messages?dir=b&from={token}")).await.ok();
        assert_eq!(ids(&page["chunk"]).first(), Some(&&*said));
        assert_eq!(types(&page["chunk"]).last(), Some(&"m.room.create"));
        let members = node.get_as(&alice, &format!("/v3/rooms/{room_id}/members?at={token}")).await.ok();
        assert_eq!(members["chunk"][0]["state_key"], alice.user_id.as_str());
        let end = page["end"].as_str().unwrap();
        let rest = node.get_as(&alice, &format!("/v3/rooms/{room_id}/messages?dir=b&from={end}")).await.ok();
        assert_eq!((&rest["chunk"], rest.get("end")), (&json!([]), None));
    })
    .await;
}

#[tokio::test]
async fn a_waiting_sync_wakes_for_a_message() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let room_id = room(&node, &alice, &[&bob]).await;
        let mut client = Client::new(&node, &bob);
        client.sync().await;
        let (body, event_id) = tokio::join!(client.wait(20_000), async {
            tokio::task::yield_now().await;
            say(&node, &alice, &room_id, "hello").await
        });
        assert_eq!(ids(&joined(&body, &room_id)["timeline"]["events"]), [&event_id]);
    })
    .await;
}

#[tokio::test]
async fn a_sync_that_waits_while_its_token_is_revoked_is_refused() {
    each_engine(async |node| {
        let alice = node.person("alice").await;
        let other = Person::of(&node.log_in(&alice, json!({})).await.ok());
        let mut client = Client::new(&node, &alice);
        client.sync().await;
        let path = format!("/v3/sync?timeout=20000&since={}", client.since.clone().unwrap());
        let (answer, ()) = tokio::join!(node.get_as(&alice, &path), async {
            tokio::task::yield_now().await;
            node.post_as(&alice, "/v3/logout", json!({})).await.ok();
        });
        answer.refused(401, "M_UNKNOWN_TOKEN");
        Client::new(&node, &other).sync().await;
    })
    .await;
}

#[tokio::test]
async fn note_47_a_limited_timeline_comes_with_the_state_that_changed_in_the_gap() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let room_id = room(&node, &alice, &[&bob]).await;
        let filter = json!({ "room": { "timeline": { "limit": 2 } } });
        let mut before = Client::new(&node, &bob).with("filter", &filter);
        let mut after = Client::new(&node, &bob).with("filter", &filter).with("use_state_after", &json!(true));
        let mut unstable =
            Client::new(&node, &bob).with("filter", &filter).with("org.matrix.msc4222.use_state_after", &json!(true));
        for client in [&mut before, &mut after, &mut unstable] {
            client.sync().await;
        }
        let name = set(&node, &alice, &room_id, "m.room.name", json!({ "name": "one" })).await;
        say(&node, &alice, &room_id, "lost in the gap").await;
        say(&node, &alice, &room_id, "shown").await;
        let topic = set(&node, &alice, &room_id, "m.room.topic", json!({ "topic": "two" })).await;
        let body = before.sync().await;
        let shown = joined(&body, &room_id);
        assert_eq!(shown["timeline"]["limited"], true);
        assert_eq!(ids(&shown["state"]["events"]), [&name]);
        assert_eq!(ids(&shown["timeline"]["events"]).last(), Some(&&*topic));
        let body = after.sync().await;
        let mut told = ids(&joined(&body, &room_id)["state_after"]["events"]);
        told.sort_unstable();
        let mut expected = [&*name, &*topic];
        expected.sort_unstable();
        assert_eq!(told, expected);
        assert_eq!(joined(&body, &room_id).get("state"), None);
        let body = unstable.sync().await;
        assert_eq!(ids(&joined(&body, &room_id)["org.matrix.msc4222.state_after"]["events"]).len(), 2);
        say(&node, &alice, &room_id, "no state").await;
        let body = after.sync().await;
        assert_eq!(joined(&body, &room_id)["state_after"]["events"], json!([]), "always there");
    })
    .await;
}

#[tokio::test]
async fn note_47_a_state_change_that_a_filter_hides_from_the_timeline_is_told_as_state() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let room_id = room(&node, &alice, &[&bob]).await;
        let filter = json!({ "room": { "timeline": { "types": ["m.room.message"] } } });
        let mut client = Client::new(&node, &bob).with("filter", &filter);
        client.sync().await;
        let name = set(&node, &alice, &room_id, "m.room.name", json!({ "name": "hidden" })).await;
        let said = say(&node, &alice, &room_id, "shown").await;
        let body = client.sync().await;
        assert_eq!(ids(&joined(&body, &room_id)["timeline"]["events"]), [&said]);
        assert_eq!(ids(&joined(&body, &room_id)["state"]["events"]), [&name]);
    })
    .await;
}

#[tokio::test]
async fn note_60_invites_come_with_stripped_state_and_vanish_when_refused() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let room_id = room(&node, &alice, &[]).await;
        let mut client = Client::new(&node, &bob);
        client.sync().await;
        let (body, ()) = tokio::join!(client.wait(20_000), async {
            tokio::task::yield_now().await;
            node.hs.invite(&id(&alice), &id(&bob), &room_id, Map::new()).await.unwrap();
        });
        let events = &body["rooms"]["invite"][room_id.as_str()]["invite_state"]["events"];
        assert!(types(events).contains(&"m.room.create"), "{body}");
        let own = events.as_array().unwrap().iter().find(|event| event["state_key"] == bob.user_id).unwrap();
        let mut fields: Vec<&String> = own.as_object().unwrap().keys().collect();
        fields.sort_unstable();
        assert_eq!(fields, ["content", "sender", "state_key", "type"]);
        let mut other = Client::new(&node, &bob);
        assert!(other.sync().await["rooms"]["invite"].get(room_id.as_str()).is_some());
        node.hs.leave(&id(&bob), &room_id, Map::new()).await.unwrap();
        let body = client.sync().await;
        let left = &body["rooms"]["leave"][room_id.as_str()];
        assert_eq!(left["timeline"]["events"].as_array().unwrap().len(), 1, "{body}");
        assert_eq!(Client::new(&node, &bob).sync().await.get("rooms"), None);
    })
    .await;
}

#[tokio::test]
async fn a_ban_ends_a_long_poll_and_nothing_after_it_is_shown() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let room_id = room(&node, &alice, &[&bob]).await;
        let mut client = Client::new(&node, &bob);
        client.sync().await;
        let since = client.since.clone();
        let (body, ()) = tokio::join!(client.wait(20_000), async {
            tokio::task::yield_now().await;
            node.hs.ban(&id(&alice), &id(&bob), &room_id, Map::new()).await.unwrap();
        });
        let left = &body["rooms"]["leave"][room_id.as_str()];
        assert_eq!(left["timeline"]["events"][0]["content"]["membership"], "ban", "{body}");
        say(&node, &alice, &room_id, "secret").await;
        assert_eq!(client.sync().await.get("rooms"), None);
        client.since = since;
        let body = client.sync().await;
        assert!(!body.to_string().contains("secret"), "{body}");
        assert!(body["rooms"]["leave"].get(room_id.as_str()).is_some(), "a repeated token gets the same again");
    })
    .await;
}

#[tokio::test]
async fn who_leaves_and_comes_back_while_offline_sees_what_they_may() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let room_id = room(&node, &alice, &[&bob]).await;
        set(&node, &alice, &room_id, "m.room.history_visibility", json!({ "history_visibility": "joined" })).await;
        let mut client = Client::new(&node, &bob);
        client.sync().await;
        let before = say(&node, &alice, &room_id, "before").await;
        node.hs.leave(&id(&bob), &room_id, Map::new()).await.unwrap();
        let meanwhile = say(&node, &alice, &room_id, "meanwhile").await;
        let name = set(&node, &alice, &room_id, "m.room.name", json!({ "name": "new" })).await;
        node.hs.join(&id(&bob), &room_id, &[], Map::new()).await.unwrap();
        let after = say(&node, &alice, &room_id, "after").await;
        let body = client.sync().await;
        let shown = joined(&body, &room_id);
        let events = ids(&shown["timeline"]["events"]);
        assert!(events.contains(&&*before) && events.contains(&&*after), "{body}");
        assert!(!events.contains(&&*meanwhile), "{body}");
        assert!(events.contains(&&*name), "what is the room's state now is shown: {body}");
    })
    .await;
}

#[tokio::test]
async fn note_48_a_newly_joined_room_comes_whole() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let room_id = room(&node, &alice, &[]).await;
        let said = say(&node, &alice, &room_id, "earlier").await;
        let mut client = Client::new(&node, &bob);
        client.sync().await;
        node.hs.join(&id(&bob), &room_id, &[], Map::new()).await.unwrap();
        let body = client.sync().await;
        assert!(ids(&joined(&body, &room_id)["timeline"]["events"]).contains(&&*said), "{body}");
        let state =
            joined(&body, &room_id)["state"]["events"].to_string() + &joined(&body, &room_id)["timeline"].to_string();
        assert!(state.contains("m.room.create") && state.contains("m.room.power_levels"), "{body}");
        assert_eq!(body["device_lists"]["changed"], json!([alice.user_id, bob.user_id]));
        node.hs.leave(&id(&bob), &room_id, Map::new()).await.unwrap();
        let body = client.sync().await;
        assert_eq!(body["device_lists"]["left"], json!([alice.user_id]));
        assert_eq!(client.sync().await.get("rooms"), None, "told once");
        let archived = json!({ "room": { "include_leave": true } });
        let body = Client::new(&node, &bob).with("filter", &archived).sync().await;
        assert!(body["rooms"]["leave"].get(room_id.as_str()).is_some());
        node.hs.rooms.forget(&id(&bob), &room_id).await.unwrap();
        let body = Client::new(&node, &bob).with("filter", &archived).sync().await;
        assert_eq!(body.get("rooms"), None, "forgotten rooms vanish");
    })
    .await;
}

#[tokio::test]
async fn note_49_lazy_loading_tells_each_member_once_and_never_hides_a_change() {
    each_engine(async |node| {
        let (alice, bob, carol) = (node.person("alice").await, node.person("bob").await, node.person("carol").await);
        let room_id = room(&node, &alice, &[&bob, &carol]).await;
        set(&node, &alice, &room_id, "m.room.name", json!({ "name": "named" })).await;
        for number in 0..5 {
            say(&node, &alice, &room_id, &number.to_string()).await;
        }
        let filter = json!({ "room": { "state": { "lazy_load_members": true }, "timeline": { "limit": 1 } } });
        let mut client = Client::new(&node, &bob).with("filter", &filter);
        let body = client.sync().await;
        let members = |body: &Value| {
            let state = &joined(body, &room_id)["state"]["events"];
            let mut members: Vec<String> = state
                .as_array()
                .into_iter()
                .flatten()
                .filter(|event| event["type"] == "m.room.member")
                .map(|event| event["state_key"].as_str().unwrap().to_owned())
                .collect();
            members.sort();
            members
        };
        assert_eq!(members(&body), [alice.user_id.clone(), bob.user_id.clone()]);
        say(&node, &carol, &room_id, "carol speaks").await;
        let since = client.since.clone();
        assert_eq!(members(&client.sync().await), [carol.user_id.clone()]);
        client.since = since;
        assert_eq!(members(&client.sync().await), [carol.user_id.clone()], "the first answer may have been lost");
        say(&node, &carol, &room_id, "again").await;
        assert_eq!(members(&client.sync().await), [""; 0]);
        let draft = json!({ "membership": "join", "displayname": "Caroline" });
        let draft = Draft::state_of(&StateEventType::RoomMember, &carol.user_id, &draft).unwrap();
        node.hs.rooms.send_one(&room_id, LocalDraft::new(id(&carol), draft)).await.unwrap();
        say(&node, &carol, &room_id, "as Caroline").await;
        assert_eq!(
            members(&client.sync().await),
            [carol.user_id.clone()],
            "the gap hides the change from the timeline"
        );
    })
    .await;
}

#[tokio::test]
async fn with_state_after_a_lazy_reader_gets_their_own_join_although_the_timeline_has_it() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let filter = json!({ "room": { "state": { "lazy_load_members": true } } });
        let client = |who| {
            Client::new(&node, who).with("filter", &filter).with("org.matrix.msc4222.use_state_after", &json!(true))
        };
        let (mut creator, mut joiner) = (client(&alice), client(&bob));
        creator.sync().await;
        joiner.sync().await;
        let room_id = room(&node, &alice, &[&bob]).await;
        for (client, who) in [(&mut creator, &alice), (&mut joiner, &bob)] {
            let body = client.sync().await;
            let state = joined(&body, &room_id)["org.matrix.msc4222.state_after"]["events"].as_array().unwrap();
            assert!(state.iter().any(|event| event["state_key"] == who.user_id), "{body}");
        }
    })
    .await;
}

#[tokio::test]
async fn note_63_typing_and_receipts_are_told_without_a_room_id() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let room_id = room(&node, &alice, &[&bob]).await;
        let other = room(&node, &alice, &[&bob]).await;
        let mut client = Client::new(&node, &bob);
        client.sync().await;
        let typing = format!("/v3/rooms/{room_id}/typing/{}", alice.user_id);
        let (body, ()) = tokio::join!(client.wait(20_000), async {
            tokio::task::yield_now().await;
            node.put_as(&alice, &typing, json!({ "typing": true, "timeout": 30_000 })).await.ok();
        });
        let event = &joined(&body, &room_id)["ephemeral"]["events"][0];
        assert_eq!(event, &json!({ "type": "m.typing", "content": { "user_ids": [alice.user_id] } }));
        assert!(joined(&body, &other).is_null(), "one room's typing does not show in another");
        node.put_as(&alice, &typing, json!({ "typing": false })).await.ok();
        let body = client.sync().await;
        assert_eq!(joined(&body, &room_id)["ephemeral"]["events"][0]["content"]["user_ids"], json!([]));
        assert_eq!(client.sync().await.get("rooms"), None);
        let said = say(&node, &bob, &room_id, "read me").await;
        let earlier = say(&node, &bob, &other, "elsewhere").await;
        client.sync().await;
        node.post_as(&alice, &format!("/v3/rooms/{room_id}/receipt/m.read/{said}"), json!({})).await.ok();
        let body = client.sync().await;
        let event = &joined(&body, &room_id)["ephemeral"]["events"][0];
        assert_eq!(event["type"], "m.receipt");
        assert!(event["content"][&said]["m.read"][&alice.user_id]["ts"].is_u64(), "{body}");
        assert_eq!(event.get("room_id"), None);
        let wrong = format!("/v3/rooms/{room_id}/receipt/m.read/{earlier}");
        node.post_as(&alice, &wrong, json!({})).await.ok();
        assert_eq!(client.sync().await.get("rooms"), None, "an event of another room is not read here");
        let path = format!("/v3/rooms/{room_id}/receipt/m.read.private/{said}");
        node.post_as(&alice, &path, json!({ "thread_id": "main" })).await.ok();
        assert_eq!(client.sync().await.get("rooms"), None, "private receipts never leave their user");
        let somebody = node.somebody().await;
        node.post_as(&somebody, &path, json!({})).await.refused(403, "M_FORBIDDEN");
    })
    .await;
}

#[tokio::test]
async fn note_56_unread_counts_follow_messages_mentions_receipts_and_threads() {
    each_engine(async |node| {
        let (alice, bob, carol) = (node.person("alice").await, node.person("bob").await, node.person("carol").await);
        let room_id = room(&node, &alice, &[&bob, &carol]).await;
        let filter = json!({ "room": { "timeline": { "unread_thread_notifications": true } } });
        let mut flat = Client::new(&node, &bob);
        let mut threaded = Client::new(&node, &bob).with("filter", &filter);
        let counts = |body: &Value, section: &str| {
            let count = &joined(body, &room_id)[section];
            (count["notification_count"].as_u64(), count["highlight_count"].as_u64())
        };
        assert_eq!(counts(&flat.sync().await, "unread_notifications"), (Some(0), Some(0)));
        threaded.sync().await;
        let root = say(&node, &alice, &room_id, "root").await;
        let mention = json!({ "msgtype": "m.text", "body": "hi", "m.mentions": { "user_ids": [bob.user_id] } });
        say_content(&node, &alice, &room_id, mention).await;
        let relation = json!({ "rel_type": "m.thread", "event_id": root });
        let in_thread = json!({ "msgtype": "m.text", "body": "in a thread", "m.relates_to": relation });
        let reply = say_content(&node, &alice, &room_id, in_thread).await;
        assert_eq!(counts(&flat.sync().await, "unread_notifications"), (Some(3), Some(1)));
        let body = threaded.sync().await;
        assert_eq!(counts(&body, "unread_notifications"), (Some(2), Some(1)));
        let thread = &joined(&body, &room_id)["unread_thread_notifications"][&root];
        assert_eq!(thread, &json!({ "notification_count": 1, "highlight_count": 0 }));
        let read = |event_id: &str| format!("/v3/rooms/{room_id}/receipt/m.read.private/{event_id}");
        node.post_as(&bob, &read(&reply), json!({ "thread_id": "main" })).await.ok();
        let body = threaded.sync().await;
        assert_eq!(counts(&body, "unread_notifications"), (Some(0), Some(0)), "{body}");
        assert!(joined(&body, &room_id)["unread_thread_notifications"].get(&root).is_some());
        node.post_as(&bob, &read(&reply), json!({})).await.ok();
        let body = threaded.sync().await;
        assert_eq!(joined(&body, &room_id).get("unread_thread_notifications"), None, "{body}");
        say(&node, &alice, &room_id, "one more").await;
        assert_eq!(counts(&flat.sync().await, "unread_notifications"), (Some(1), Some(0)));
        say(&node, &bob, &room_id, "sending is reading").await;
        assert_eq!(counts(&flat.sync().await, "unread_notifications"), (Some(0), Some(0)));
    })
    .await;
}

#[tokio::test]
async fn note_59_ignored_users_are_not_heard_but_their_state_is() {
    each_engine(async |node| {
        let (alice, bob) = (node.person("alice").await, node.person("bob").await);
        let room_id = room(&node, &alice, &[&bob]).await;
        let path = format!("/v3/user/{}/account_data/m.ignored_user_list", bob.user_id);
        let mut client = Client::new(&node, &bob);
        client.sync().await;
        node.put_as(&bob, &path, json!({ "ignored_users": { &alice.user_id: {} } })).await.ok();
        let body = client.sync().await;
        assert_eq!(types(&body["account_data"]["events"]), ["m.ignored_user_list"]);
        say(&node, &alice, &room_id, "unheard").await;
        let name = set(&node, &alice, &room_id, "m.room.name", json!({ "name": "seen" })).await;
        let body = client.sync().await;
        assert_eq!(ids(&joined(&body, &room_id)["timeline"]["events"]), [&name]);
        let private = room(&node, &alice, &[]).await;
        node.hs.invite(&id(&alice), &id(&bob), &private, Map::new()).await.ok();
        assert_eq!(client.sync().await.get("rooms"), None);
    })
    .await;
}

#[tokio::test]
async fn wrong_queries_are_refused() {
    each_engine(async |node| {
        let alice = node.person("alice").await;
        for query in
            ["since=nonsense", "filter=%7B", "filter=unknown", "timeout=x", "full_state=maybe", "set_presence=asleep"]
        {
            node.get_as(&alice, &format!("/v3/sync?{query}")).await.refused(400, "M_INVALID_PARAM");
        }
        node.get("/v3/sync").await.refused(401, "M_MISSING_TOKEN");
    })
    .await;
}

#[tokio::test]
async fn presence_is_told_to_those_who_share_a_room() {
    each_engine(async |node| {
        let (alice, bob, carol) = (node.person("alice").await, node.person("bob").await, node.person("carol").await);
        room(&node, &alice, &[&bob]).await;
        let (mut shares, mut apart) = (Client::new(&node, &bob), Client::new(&node, &carol));
        shares.sync().await;
        apart.sync().await;
        let path = format!("/v3/presence/{}/status", alice.user_id);
        let (body, ()) = tokio::join!(shares.wait(20_000), async {
            tokio::task::yield_now().await;
            let status = json!({ "presence": "unavailable", "status_msg": "lunch" });
            node.put_as(&alice, &path, status).await.ok();
        });
        let event =
            body["presence"]["events"].as_array().unwrap().iter().find(|event| event["sender"] == alice.user_id);
        assert_eq!(event.unwrap()["content"]["status_msg"], "lunch", "{body}");
        assert!(!apart.sync().await.to_string().contains("lunch"));
        assert_eq!(node.get_as(&bob, &path).await.ok()["presence"], "unavailable");
        node.get_as(&carol, &path).await.refused(403, "M_FORBIDDEN");
        node.put_as(&bob, &path, json!({ "presence": "online" })).await.refused(403, "M_FORBIDDEN");
    })
    .await;
}

#[tokio::test]
async fn the_read_marker_never_goes_backwards() {
    each_engine(async |node| {
        let alice = node.person("alice").await;
        let room_id = room(&node, &alice, &[]).await;
        let (first, second) = (say(&node, &alice, &room_id, "1").await, say(&node, &alice, &room_id, "2").await);
        let mut client = Client::new(&node, &alice);
        client.sync().await;
        let path = format!("/v3/rooms/{room_id}/read_markers");
        node.post_as(&alice, &path, json!({ "m.fully_read": second, "m.read": second })).await.ok();
        let body = client.sync().await;
        let event = &joined(&body, &room_id)["account_data"]["events"][0];
        assert_eq!(event, &json!({ "type": "m.fully_read", "content": { "event_id": second } }));
        node.post_as(&alice, &path, json!({ "m.fully_read": first, "m.read": first })).await.ok();
        assert_eq!(client.sync().await.get("rooms"), None);
    })
    .await;
}

#[tokio::test]
async fn tokens_hold_after_a_restart() {
    let directory = samtal_db::testing::Directory::new();
    let database = samtal_db::testing::sqlite(&directory);
    let node = Node::open(&database, crate::harness::settings()).await;
    let (alice, bob) = (node.person("alice").await, node.person("bob").await);
    let room_id = room(&node, &alice, &[&bob]).await;
    let mut client = Client::new(&node, &bob);
    client.sync().await;
    let since = client.since.clone();
    let said = say(&node, &alice, &room_id, "before the restart").await;
    node.hs.tasks.shut_down(Duration::from_secs(5)).await;
    node.hs.db.close().await;
    drop(node);
    let node = Node::open(&database, crate::harness::settings()).await;
    let mut client = Client::new(&node, &bob);
    client.since = since;
    let body = client.sync().await;
    assert_eq!(ids(&joined(&body, &room_id)["timeline"]["events"]), [&said]);
    assert_eq!(client.sync().await.get("rooms"), None);
}
