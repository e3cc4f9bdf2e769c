//! What clients hold that follow the changes of random days, against what a fresh one is told: by `GET /sync` and by sliding
//! sync, with windows, subscriptions and limits that change, answers that get lost, and restarts.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use samtal_db::testing::{Directory, drop_schema, postgres, sqlite};
use samtal_kit::Random;
use serde_json::{Value, json};

use crate::harness::{Node, Person, settings};

const SLIDING: &str = "/unstable/org.matrix.simplified_msc3575/sync";
/// Steps of one day.
const STEPS: u64 = 70;

/// What a client holds of a room.
#[derive(Clone, Debug, Default)]
struct Held {
    /// Ids of events, the oldest first, without gaps.
    timeline: Vec<String>,
    /// Where paging back from the oldest begins.
    prev_batch: Option<String>,
    /// Event ids by type and state key.
    state: BTreeMap<(String, String), String>,
    counts: Value,
    receipts: BTreeMap<(String, String, String), String>,
    account_data: BTreeMap<String, Value>,
    typing: BTreeSet<String>,
    name: Value,
    is_dm: bool,
    joined_count: Value,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn events(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

impl Held {
    fn take_state(&mut self, events: &[Value]) {
        for event in events.iter().filter(|event| event["state_key"].is_string()) {
            self.state.insert((text(&event["type"]), text(&event["state_key"])), text(&event["event_id"]));
        }
    }

    fn take_account_data(&mut self, events: &[Value]) {
        self.account_data.extend(events.iter().map(|event| (text(&event["type"]), event["content"].clone())));
    }

    fn take_ephemeral(&mut self, event: &Value) {
        if event["type"] == "m.typing" {
            self.typing = events(&event["content"]["user_ids"]).iter().map(text).collect();
            return;
        }
        for (event_id, kinds) in event["content"].as_object().into_iter().flatten() {
            for (kind, users) in kinds.as_object().into_iter().flatten() {
                for (user_id, receipt) in users.as_object().into_iter().flatten() {
                    let key = (user_id.clone(), kind.clone(), text(&receipt["thread_id"]));
                    self.receipts.insert(key, event_id.clone());
                }
            }
        }
    }
}

/// Somebody's client.
struct Client {
    who: Person,
    rooms: BTreeMap<String, Held>,
    invites: BTreeSet<String>,
    account_data: BTreeMap<String, Value>,
    at: Option<String>,
    label: String,
}

impl Client {
    fn new(who: &Person, label: String) -> Self {
        let (rooms, invites, account_data) = Default::default();
        Self { who: who.clone(), rooms, invites, account_data, at: None, label }
    }

    /// Adds a timeline that has come, and pages back over the gap before it, if there is one.
    async fn extend(
        &mut self,
        node: &Node,
        room_id: &str,
        told: &Value,
        prev_batch: &Value,
        limited: bool,
        again: bool,
    ) {
        let new: Vec<String> = events(told).iter().map(|event| text(&event["event_id"])).collect();
        let held = self.rooms.get_mut(room_id).unwrap();
        for event in events(told) {
            let is_own =
                event["sender"] == self.who.user_id.as_str() && event["content"]["by"] == self.who.device_id.as_str();
            assert!(!is_own || event["unsigned"]["transaction_id"].is_string(), "{}: {event}", self.label);
        }
        if held.timeline.is_empty() {
            held.timeline = new;
            held.prev_batch = prev_batch.as_str().map(ToOwned::to_owned);
            return;
        }
        let known: BTreeSet<String> = held.timeline.iter().cloned().collect();
        let common = new.iter().position(|event_id| known.contains(event_id));
        assert!(again || common.is_none(), "{}: an event was told twice in {room_id}: {told}", self.label);
        if let Some(common) = common.filter(|common| *common > 0) {
            // More of what was before.
            held.timeline.splice(0..0, new[..common].to_vec());
            held.prev_batch = prev_batch.as_str().map(ToOwned::to_owned);
        }
        let mut before: Vec<String> = Vec::new();
        if common.is_none() && (limited || again) {
            let mut from = text(prev_batch);
            'pages: loop {
                let path = format!("/v3/rooms/{room_id}/messages?dir=b&limit=3&from={from}");
                let page = node.get_as(&self.who, &path).await.ok();
                for event in events(&page["chunk"]) {
                    if known.contains(&text(&event["event_id"])) {
                        break 'pages;
                    }
                    before.insert(0, text(&event["event_id"]));
                }
                let end = page["end"].as_str();
                from = end
                    .unwrap_or_else(|| panic!("{}: a gap in {room_id} that ends nowhere: {told} {known:?}", self.label))
                    .to_owned();
            }
        }
        let news = new[common.unwrap_or(0)..].iter().filter(|event_id| !known.contains(*event_id));
        held.timeline.extend(before.into_iter().chain(news.cloned()));
    }

    /// Everything of a room back to its beginning.
    async fn whole(&self, node: &Node, room_id: &str) -> Vec<String> {
        let held = &self.rooms[room_id];
        let mut timeline = held.timeline.clone();
        let mut from = held.prev_batch.clone();
        while let Some(token) = from {
            let path = format!("/v3/rooms/{room_id}/messages?dir=b&limit=10&from={token}");
            let page = node.get_as(&self.who, &path).await.ok();
            // The token of a first answer that had everything leads to the same once more.
            for event_id in events(&page["chunk"]).iter().map(|event| text(&event["event_id"])) {
                if !timeline.contains(&event_id) {
                    timeline.insert(0, event_id);
                }
            }
            from = page["end"].as_str().map(ToOwned::to_owned);
        }
        timeline
    }

    /// One answer of `GET /sync`; one that is lost changes nothing.
    async fn sync(&mut self, node: &Node, query: &str, lost: bool) {
        let since = self.at.as_ref().map(|at| format!("&since={at}")).unwrap_or_default();
        let answer =
            node.get_as(&self.who, &format!("/v3/sync?timeout=0&set_presence=offline{since}{query}")).await.ok();
        if lost {
            return;
        }
        self.at = Some(text(&answer["next_batch"]));
        for event in events(&answer["account_data"]["events"]) {
            self.account_data.insert(text(&event["type"]), event["content"].clone());
        }
        let rooms = &answer["rooms"];
        for (room_id, _) in rooms["leave"].as_object().into_iter().flatten() {
            self.rooms.remove(room_id);
            self.invites.remove(room_id);
        }
        for (room_id, _) in rooms["invite"].as_object().into_iter().flatten() {
            self.rooms.remove(room_id);
            self.invites.insert(room_id.clone());
        }
        for (room_id, told) in rooms["join"].as_object().into_iter().flatten() {
            self.invites.remove(room_id);
            let timeline = &told["timeline"];
            self.rooms.entry(room_id.clone()).or_default();
            let limited = timeline["limited"] == true;
            self.extend(node, room_id, &timeline["events"], &timeline["prev_batch"], limited, false).await;
            let held = self.rooms.get_mut(room_id).unwrap();
            held.take_state(events(&told["state"]["events"]));
            match told.get("state_after") {
                Some(state) => held.take_state(events(&state["events"])),
                None => held.take_state(events(&timeline["events"])),
            }
            held.take_account_data(events(&told["account_data"]["events"]));
            for event in events(&told["ephemeral"]["events"]) {
                held.take_ephemeral(event);
            }
            if let Some(counts) = told.get("unread_notifications") {
                held.counts = counts.clone();
            }
            if let Some(count) = told["summary"].get("m.joined_member_count") {
                held.joined_count = count.clone();
            }
        }
    }

    /// One answer of sliding sync; one that is lost changes nothing. Whether the connection was known.
    async fn slide(&mut self, node: &Node, body: &Value, lost: bool) -> bool {
        let pos = self.at.as_ref().map(|at| format!("&pos={at}")).unwrap_or_default();
        let answer =
            node.post_as(&self.who, &format!("{SLIDING}?timeout=0&set_presence=offline{pos}"), body.clone()).await;
        if answer.status == 400 {
            answer.refused(400, "M_UNKNOWN_POS");
            *self = Self::new(&self.who, std::mem::take(&mut self.label));
            return false;
        }
        let answer = answer.ok();
        if lost {
            return true;
        }
        self.at = Some(text(&answer["pos"]));
        for (room_id, told) in answer["rooms"].as_object().into_iter().flatten() {
            if told.get("invite_state").is_some() {
                self.rooms.remove(room_id);
                self.invites.insert(room_id.clone());
                continue;
            }
            self.invites.remove(room_id);
            if told["initial"] == true {
                self.rooms.insert(room_id.clone(), Held::default());
            }
            assert!(self.rooms.contains_key(room_id), "{}: {room_id} is not initial: {told}", self.label);
            let (limited, again) = (told["limited"] == true, told["unstable_expanded_timeline"] == true);
            self.extend(node, room_id, &told["timeline"], &told["prev_batch"], limited, again).await;
            let held = self.rooms.get_mut(room_id).unwrap();
            held.take_state(events(&told["required_state"]));
            if told.get("notification_count").is_some() {
                held.counts = json!([told["notification_count"], told["highlight_count"]]);
            }
            for (field, here) in [("name", &mut held.name), ("joined_count", &mut held.joined_count)] {
                if let Some(value) = told.get(field) {
                    *here = value.clone();
                }
            }
            if let Some(is_dm) = told.get("is_dm") {
                held.is_dm = is_dm == true;
            }
        }
        let extensions = &answer["extensions"];
        for event in events(&extensions["account_data"]["global"]) {
            self.account_data.insert(text(&event["type"]), event["content"].clone());
        }
        for (room_id, told) in extensions["account_data"]["rooms"].as_object().into_iter().flatten() {
            if let Some(held) = self.rooms.get_mut(room_id) {
                held.take_account_data(events(told));
            }
        }
        for extension in ["receipts", "typing"] {
            for (room_id, event) in extensions[extension]["rooms"].as_object().into_iter().flatten() {
                if let Some(held) = self.rooms.get_mut(room_id) {
                    held.take_ephemeral(event);
                }
            }
        }
        true
    }

    /// Demands that this client holds what a fresh one has been told.
    async fn must_hold(&self, node: &Node, fresh: &Self, joined: &BTreeSet<String>) {
        let label = &self.label;
        let without_empty = |data: &BTreeMap<String, Value>| -> BTreeMap<String, Value> {
            data.iter()
                .filter(|(_, content)| **content != json!({}))
                .map(|(key, it)| (key.clone(), it.clone()))
                .collect()
        };
        // One and the same event shows one receipt of a user: the one for all threads where there are two.
        let shown =
            |receipts: &BTreeMap<(String, String, String), String>| -> BTreeMap<(String, String, String), String> {
                let of_all = |user: &String, kind: &String| receipts.get(&(user.clone(), kind.clone(), String::new()));
                let shown = receipts
                    .iter()
                    .filter(|((user, kind, thread), it)| thread.is_empty() || of_all(user, kind) != Some(*it));
                shown.map(|(key, it)| (key.clone(), it.clone())).collect()
            };
        assert_eq!(without_empty(&self.account_data), without_empty(&fresh.account_data), "{label}");
        assert_eq!(self.invites, fresh.invites, "{label}: invites");
        for room_id in joined {
            let (held, told) = (self.rooms.get(room_id), fresh.rooms.get(room_id));
            let (Some(held), Some(told)) = (held, told) else { panic!("{label}: {room_id} is missing") };
            assert_eq!(self.whole(node, room_id).await, fresh.whole(node, room_id).await, "{label}: {room_id}");
            for (key, event_id) in &told.state {
                assert_eq!(held.state.get(key), Some(event_id), "{label}: {key:?} in {room_id}");
            }
            assert_eq!(held.counts, told.counts, "{label}: counts in {room_id}");
            assert_eq!(shown(&held.receipts), shown(&told.receipts), "{label}: receipts in {room_id}");
            assert_eq!(
                without_empty(&held.account_data),
                without_empty(&told.account_data),
                "{label}: data of {room_id}"
            );
            assert_eq!(held.typing, told.typing, "{label}: typing in {room_id}");
            assert_eq!(
                (&held.name, held.is_dm, &held.joined_count),
                (&told.name, told.is_dm, &told.joined_count),
                "{label}: {room_id}"
            );
        }
    }
}

/// A number below `below`.
fn pick(random: &Random, below: usize) -> usize {
    usize::try_from(random.below(below as u64)).unwrap()
}

/// A homeserver, people, and rooms.
struct World {
    node: Node,
    people: Vec<Person>,
    rooms: Vec<String>,
    said: Vec<(String, String)>,
    random: Random,
    step: u64,
}

impl World {
    async fn new(database: &samtal_db::Options, seed: u64) -> Self {
        let node = Node::open(database, settings()).await;
        let mut people = Vec::new();
        for name in ["me", "ann", "ben"] {
            people.push(node.person(name).await);
        }
        let mut world =
            Self { node, people, rooms: Vec::new(), said: Vec::new(), random: Random::seeded(seed), step: 0 };
        for number in 0..5_usize {
            let creator = &world.people[1 + number % 2];
            let made = world.node.post_as(creator, "/v3/createRoom", json!({ "preset": "public_chat" })).await.ok();
            let room_id = text(&made["room_id"]);
            for person in &world.people {
                world.node.post_as(person, &format!("/v3/join/{room_id}"), json!({})).await.ok();
            }
            world.rooms.push(room_id);
        }
        world
    }

    fn pick(&self, below: usize) -> usize {
        pick(&self.random, below)
    }

    /// Something happens, if who wants it may do it.
    async fn happen(&mut self) {
        self.step += 1;
        self.node.clock.advance(Duration::from_millis(1));
        let (node, step) = (&self.node, self.step);
        let (me, who) = (&self.people[0], &self.people[self.pick(3)]);
        let room_id = self.rooms[self.pick(self.rooms.len())].clone();
        let base = format!("/v3/rooms/{room_id}");
        let data = format!("/v3/user/{}", me.user_id);
        match self.pick(24) {
            0..=8 => {
                let mut content = json!({ "msgtype": "m.text", "body": format!("step {step}"), "by": who.device_id });
                if self.pick(4) == 0 {
                    content["m.mentions"] = json!({ "user_ids": [me.user_id] });
                }
                let root = self.said.iter().rev().find(|(room, _)| *room == room_id);
                if let Some((_, root)) = root.filter(|_| self.pick(4) == 0) {
                    content["m.relates_to"] = json!({ "rel_type": "m.thread", "event_id": root });
                }
                let sent = node.put_as(who, &format!("{base}/send/m.room.message/{step}"), content).await;
                if sent.status == 200 {
                    self.said.push((room_id, text(&sent.body["event_id"])));
                }
            }
            9 => drop(
                node.put_as(
                    &self.people[1],
                    &format!("{base}/state/m.room.name/"),
                    json!({ "name": format!("room {step}") }),
                )
                .await,
            ),
            10 => drop(
                node.put_as(
                    &self.people[1 + self.pick(2)],
                    &format!("{base}/state/test.some/{}", self.pick(3)),
                    json!({ "step": step }),
                )
                .await,
            ),
            11 => drop(node.post_as(who, &format!("{base}/leave"), json!({})).await),
            12 | 13 => drop(node.post_as(who, &format!("{base}/join"), json!({})).await),
            14 => drop(
                node.post_as(&self.people[1 + self.pick(2)], &format!("{base}/kick"), json!({ "user_id": me.user_id }))
                    .await,
            ),
            15 => drop(
                node.post_as(
                    &self.people[1 + self.pick(2)],
                    &format!("{base}/invite"),
                    json!({ "user_id": me.user_id }),
                )
                .await,
            ),
            16 if !self.said.is_empty() => {
                let (room_id, event_id) = self.said[self.pick(self.said.len())].clone();
                drop(
                    node.put_as(&self.people[1], &format!("/v3/rooms/{room_id}/redact/{event_id}/r{step}"), json!({}))
                        .await,
                );
            }
            17 | 18 if !self.said.is_empty() => {
                let (room_id, event_id) = self.said[self.pick(self.said.len())].clone();
                let kind = ["m.read", "m.read.private", "m.fully_read"][self.pick(3)];
                let body = if self.pick(3) == 0 && kind != "m.fully_read" {
                    json!({ "thread_id": "main" })
                } else {
                    json!({})
                };
                drop(node.post_as(who, &format!("/v3/rooms/{room_id}/receipt/{kind}/{event_id}"), body).await);
            }
            19 => drop(node.put_as(me, &format!("{data}/account_data/test.global"), json!({ "step": step })).await),
            20 => drop(
                node.put_as(me, &format!("{data}/rooms/{room_id}/account_data/test.here"), json!({ "step": step }))
                    .await,
            ),
            21 if self.pick(2) == 0 => drop(
                node.put_as(me, &format!("{data}/rooms/{room_id}/tags/u.t{}", self.pick(2)), json!({ "order": 0.5 }))
                    .await,
            ),
            21 => drop(
                node.put_as(
                    me,
                    &format!("{data}/account_data/m.direct"),
                    json!({ &self.people[1].user_id: [room_id] }),
                )
                .await,
            ),
            _ => drop(
                node.put_as(
                    who,
                    &format!("{base}/typing/{}", who.user_id),
                    json!({ "typing": self.pick(2) == 0, "timeout": 60_000 }),
                )
                .await,
            ),
        }
    }

    /// A random wish for a connection.
    fn wish(&self) -> Value {
        let state = [
            json!([["m.room.name", ""], ["m.room.member", "$LAZY"], ["m.room.member", "$ME"]]),
            json!([["*", "*"]]),
            json!([["test.some", "*"], ["m.room.member", "*"]]),
        ];
        let mut lists = json!({});
        for name in ["a", "b"] {
            if self.pick(3) > 0 {
                let start = self.pick(3);
                lists[name] = json!({
                    "ranges": [[start, start + self.pick(4)]],
                    "timeline_limit": self.pick(5), "required_state": state[self.pick(3)],
                    "filters": if self.pick(3) == 0 { json!({ "is_dm": self.pick(2) == 0 }) } else { json!({}) },
                });
            }
        }
        let mut subscriptions = json!({});
        for _ in 0..self.pick(3) {
            subscriptions[&self.rooms[self.pick(self.rooms.len())]] =
                json!({ "timeline_limit": self.pick(12), "required_state": state[self.pick(3)] });
        }
        let on = |odds: usize| json!({ "enabled": self.pick(odds) > 0 });
        json!({
            "lists": lists, "room_subscriptions": subscriptions,
            "extensions": { "account_data": on(5), "receipts": on(5), "typing": on(5) },
        })
    }

    async fn restart(&mut self, database: &samtal_db::Options) {
        self.node.hs.tasks.shut_down(Duration::from_secs(60)).await;
        self.node.hs.db.close().await;
        self.node = Node::open(database, settings()).await;
        self.node.clock.advance(Duration::from_secs(3600) + Duration::from_millis(self.step));
    }
}

async fn day(database: &samtal_db::Options, seed: u64) {
    let mut world = World::new(database, seed).await;
    let me = world.people[0].clone();
    let tablet = Person::of(&world.node.log_in(&me, json!({})).await.ok());
    let query = [
        "",
        "&filter={\"room\":{\"timeline\":{\"limit\":2}}}",
        "&org.matrix.none=1&use_state_after=true&filter={\"room\":{\"timeline\":{\"limit\":3}}}",
        "&filter={\"room\":{\"timeline\":{\"limit\":1},\"state\":{\"lazy_load_members\":true}}}",
    ][pick(&world.random, 4)];
    let query = query.replace('{', "%7B").replace('}', "%7D").replace('"', "%22");
    let mut plain = Client::new(&me, format!("seed {seed}, /sync"));
    let mut sliding = Client::new(&tablet, format!("seed {seed}, sliding"));
    let mut wish = world.wish();
    for _ in 0..STEPS {
        world.happen().await;
        if world.pick(3) == 0 {
            let lost = world.pick(5) == 0;
            plain.sync(&world.node, &query, lost).await;
        }
        if world.pick(4) == 0 {
            wish = world.wish();
        }
        if world.pick(3) == 0 {
            let lost = world.pick(5) == 0;
            sliding.slide(&world.node, &wish, lost).await;
        }
        if world.pick(60) == 0 {
            world.restart(database).await;
            // Who types is forgotten by a restart, and nobody is told.
            for held in plain.rooms.values_mut() {
                held.typing.clear();
            }
        }
    }
    let joined = world.node.get_as(&me, "/v3/joined_rooms").await.ok();
    let joined: BTreeSet<String> = events(&joined["joined_rooms"]).iter().map(text).collect();
    plain.sync(&world.node, &query, false).await;
    let mut fresh = Client::new(&me, format!("seed {seed}, fresh /sync"));
    fresh.sync(&world.node, &query, false).await;
    plain.must_hold(&world.node, &fresh, &joined).await;
    let on = json!({ "enabled": true });
    let mut last = json!({
        "lists": { "all": {
            "ranges": [[0, 99]], "timeline_limit": 3,
            "required_state": [["m.room.name", ""], ["test.some", "*"], ["m.room.member", "*"]],
        } },
        "extensions": { "account_data": on, "receipts": on, "typing": on },
    });
    if !sliding.slide(&world.node, &last, false).await {
        sliding.slide(&world.node, &last, false).await;
    }
    last["conn_id"] = json!("fresh");
    let mut fresh = Client::new(&tablet, format!("seed {seed}, fresh sliding"));
    fresh.slide(&world.node, &last, false).await;
    sliding.must_hold(&world.node, &fresh, &joined).await;
    world.node.hs.tasks.shut_down(Duration::from_secs(60)).await;
    world.node.hs.db.close().await;
}

/// Days of these seeds, on each engine.
async fn days(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let directory = Directory::new();
        day(&sqlite(&directory), seed).await;
        if seed % 4 == 0
            && let Some(options) = postgres()
        {
            day(&options, seed).await;
            drop_schema(&options).await;
        }
    }
}

#[tokio::test]
async fn who_follows_a_random_day_holds_what_a_fresh_client_is_told() {
    let seeds = std::env::var("SAMTAL_SYNC_SEEDS").ok();
    let seeds = seeds
        .as_deref()
        .and_then(|seeds| seeds.split_once(".."))
        .map(|(from, to)| from.parse().unwrap()..to.parse().unwrap());
    days(seeds.unwrap_or(0..30)).await;
}
