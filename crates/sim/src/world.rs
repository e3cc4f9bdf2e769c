//! The nodes, the rooms, and the passing of time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomVersionId,
    api::client::room::create_room::v3::RoomPreset,
};
use samtal_account::{Client, NewUser};
use samtal_db::Db;
use samtal_event::Pdu;
use samtal_kit::{Clock, Random};
use samtal_ops::{CreateRoom, Homeserver, Settings};

use crate::{
    devices::Sent,
    network::{Link, Weather, Wires},
    people::{Deed, Person},
};

/// When all simulated worlds begin, in ms since the epoch.
const GENESIS_MS: u64 = 1_767_225_600_000;
/// How long a world is given to agree once its network is whole again.
const HEALING: Duration = Duration::from_secs(3 * 3_600);

/// Bytes that a node may keep at hand: rooms this small need no more, whatever happens in them.
const MEMORY_MAX: usize = 8 << 20;
/// How long a person waits for an answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Missing events that are named in a history.
const SHOWN_MAX: usize = 20;
/// Pages of history that are fetched at a time.
const SCROLLS_MAX: usize = 20;

/// What a world is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// All that happens follows from it.
    pub seed: u64,
    /// How many nodes.
    pub nodes: usize,
    /// How many rooms.
    pub rooms: usize,
    /// Version of the rooms.
    pub version: RoomVersionId,
    /// Whether people are kicked, banned, leave and come back.
    pub wild: bool,
    /// Whether in the end everybody must have every event, rather than only who acknowledged it.
    pub complete: bool,
}

pub(crate) struct Node {
    name: OwnedServerName,
    pub(crate) user: OwnedUserId,
    clock: Clock,
    db: Db,
    pub(crate) hs: Arc<Homeserver>,
}

/// A federation.
pub struct World {
    options: Options,
    pub(crate) random: Random,
    wires: Arc<Wires>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) rooms: Vec<OwnedRoomId>,
    deeds: Vec<Deed>,
    /// Messages to devices.
    pub(crate) sent: Sent,
}

impl World {
    /// Makes the nodes, one person at each, and rooms that everybody is in.
    pub async fn new(options: Options) -> Self {
        let random = Random::seeded(options.seed);
        let wires = Wires::new(Random::seeded(options.seed ^ 0x5eed));
        let mut nodes = Vec::with_capacity(options.nodes);
        for number in 0..options.nodes {
            nodes.push(Node::new(number, options.seed, &wires, &random).await);
        }
        let mut world = Self { options, random, wires, nodes, rooms: Vec::new(), deeds: Vec::new(), sent: Sent::new() };
        for number in 0..world.options.rooms {
            world.make_room(number % world.nodes.len()).await;
        }
        world
    }

    async fn make_room(&mut self, owner: usize) {
        let node = &self.nodes[owner];
        let mut wish = CreateRoom::new(node.user.clone());
        wish.version = Some(self.options.version.clone());
        wish.preset = Some(RoomPreset::PublicChat);
        let room = node.hs.create_room(wish).await.expect("a room can be made");
        for other in (0..self.nodes.len()).filter(|other| *other != owner) {
            let via = [self.nodes[owner].name.clone()];
            assert!(self.person(other).join(&room, &via).await, "node {other} can join a new room");
        }
        self.rooms.push(room);
    }

    fn person(&self, node: usize) -> Person<'_> {
        let Node { hs, user, .. } = &self.nodes[node];
        Person { hs, id: user, node, random: &self.random }
    }

    pub(crate) fn pick(&self, bound: usize) -> usize {
        usize::try_from(self.random.below(bound as u64)).unwrap_or(0)
    }

    /// Lets people do `count` things while the network does as the weather says. Now and then a link is cut or all are
    /// mended, and a node is restarted.
    pub async fn live(&mut self, count: usize, weather: Weather) {
        self.wires.set_weather(weather);
        for _ in 0..count {
            match self.random.below(40) {
                0 => self.cut_a_link(),
                1 => self.wires.mend(),
                2 => self.restart(self.pick(self.nodes.len())).await,
                _ => {}
            }
            if self.random.below(8) == 0 {
                self.use_devices().await;
            }
            let node = self.pick(self.nodes.len());
            let room = self.rooms[self.pick(self.rooms.len())].clone();
            let everybody: Vec<OwnedUserId> = self.nodes.iter().map(|node| node.user.clone()).collect();
            let via: Vec<OwnedServerName> = self.nodes.iter().map(|node| node.name.clone()).collect();
            let person = self.person(node);
            let does = async {
                if self.options.wild && self.random.below(6) == 0 && !person.join(&room, &via).await {
                    person.knock(&room, &via).await;
                }
                person.act(&room, &everybody, &self.deeds, &self.rooms, self.options.wild).await
            };
            // Some things wait for servers that cannot be reached. People do not.
            let deed = tokio::time::timeout(PATIENCE, does).await.ok().flatten();
            self.deeds.extend(deed);
            self.pass(Duration::from_millis(self.random.below(400))).await;
        }
    }

    fn cut_a_link(&self) {
        let (one, other) = (self.pick(self.nodes.len()), self.pick(self.nodes.len()));
        if one != other {
            self.wires.cut(&self.nodes[one].name, &self.nodes[other].name);
        }
    }

    /// Ends a node's process and starts it anew over its database.
    pub async fn restart(&mut self, number: usize) {
        let wires = Arc::clone(&self.wires);
        let random = self.random.clone();
        let node = &mut self.nodes[number];
        wires.detach(&node.name);
        node.hs.tasks.shut_down(Duration::ZERO).await;
        node.hs = start(&node.name, node.db.clone(), &node.clock, &wires, &random).await;
    }

    /// Lets time pass, on all clocks.
    pub async fn pass(&self, time: Duration) {
        let step = Duration::from_secs(1);
        let mut left = time;
        while left > Duration::ZERO {
            let now = left.min(step);
            tokio::time::sleep(now).await;
            for node in &self.nodes {
                node.clock.advance(now);
            }
            left -= now;
        }
    }

    /// Makes the network whole, lets everybody who is still there say a last word, and waits until all agree. Says what they
    /// do not agree on, if they never do.
    pub async fn heal(&mut self) -> Result<(), String> {
        self.wires.mend();
        self.wires.set_weather(Weather::FAIR);
        let mut waited = Duration::ZERO;
        let mut disagreement = String::new();
        for round in 0_u64.. {
            if waited >= HEALING {
                break;
            }
            // What ends a fork for good is an event that refers to both branches.
            for room in self.rooms.clone() {
                for node in 0..self.nodes.len() {
                    let word = serde_json::json!({ "msgtype": "m.text", "body": format!("round {round}") });
                    let person = self.person(node);
                    let says = person.send(&room, "m.room.message", None, word);
                    let deed = tokio::time::timeout(PATIENCE, says).await.ok().flatten();
                    self.deeds.extend(deed);
                    self.pass(Duration::from_secs(2)).await;
                }
            }
            let pause = Duration::from_secs(60 << round.min(5));
            self.pass(pause).await;
            waited += pause;
            self.scroll_up().await;
            let agreed = match self.agreement().await {
                Ok(()) => self.hear_in_passing().await,
                disagreed => disagreed,
            };
            match agreed {
                Ok(()) => return Ok(()),
                Err(what) => disagreement = what,
            }
        }
        Err(format!("seed {}: {disagreement}", self.options.seed))
    }

    /// Lets everybody look at all of the history: what a long outage left out is fetched only then.
    async fn scroll_up(&self) {
        for node in &self.nodes {
            for room in &self.rooms {
                let Ok(room) = node.hs.rooms.room(room).await else { continue };
                for _ in 0..SCROLLS_MAX {
                    if !node.hs.backfill(&room, 50).await.unwrap_or(false) {
                        break;
                    }
                }
            }
        }
    }

    /// Whether all who see each other in a room, and all who stand at the same events, have the same state of it, whether
    /// nothing that was acknowledged is gone, messages to devices have come once and in order, and whether memory stays within its bound.
    pub async fn agreement(&self) -> Result<(), String> {
        for room in &self.rooms {
            for (one, here) in self.nodes.iter().enumerate() {
                for (other, there) in self.nodes.iter().enumerate().skip(one + 1) {
                    // Whom state resolution put out, for a branch that they could not know when they came back through
                    // somebody who did not know it either, may never hear of it.
                    let see_each_other = here.see_each_other(there, room).await;
                    let end = extremities(&here.hs, room).await;
                    let at_one_place = end.is_some() && end == extremities(&there.hs, room).await;
                    if !see_each_other && !at_one_place {
                        continue;
                    }
                    let (ours, theirs) = (state_of(&here.hs, room).await?, state_of(&there.hs, room).await?);
                    if ours != theirs {
                        let differing: Vec<_> = ours.symmetric_difference(&theirs).collect();
                        return Err(format!("nodes {one} and {other} differ in {room} on {differing:?}"));
                    }
                }
            }
        }
        self.memory()?;
        self.devices_agree().await?;
        for deed in &self.deeds {
            for (number, node) in self.nodes.iter().enumerate() {
                let must_have = number == deed.node || self.options.complete;
                if must_have && node.hs.rooms.store().graph.event(&deed.event_id).await.ok().flatten().is_none() {
                    let known = self.what_is_known_of(&deed.event_id).await;
                    return Err(format!("node {number} lacks {} of node {}: {known}", deed.event_id, deed.node));
                }
            }
        }
        Ok(())
    }

    /// What stays at hand of the databases is bounded.
    fn memory(&self) -> Result<(), String> {
        match self.nodes.iter().map(|node| node.db.memory().used()).max() {
            Some(used) if used > MEMORY_MAX => Err(format!("a node keeps {used} bytes at hand")),
            _ => Ok(()),
        }
    }

    /// What each node has of an event and of those that build on it.
    async fn what_is_known_of(&self, id: &OwnedEventId) -> String {
        let mut known = String::new();
        for (number, node) in self.nodes.iter().enumerate() {
            let graph = &node.hs.rooms.store().graph;
            let flags = graph.event(id).await.ok().flatten().map(|event| event.flags.0);
            let mut children = Vec::new();
            for deed in &self.deeds {
                if let Ok(Some(event)) = graph.event(&deed.event_id).await
                    && event.pdu.prev_events().contains(id)
                {
                    children.push((deed.event_id.clone(), event.flags.0));
                }
            }
            known += &format!("node {number}: flags {flags:?}, below it {children:?}; ");
        }
        known
    }

    /// All events of all rooms, oldest first, and what each node made of them: for who looks for the cause of a failure.
    pub async fn history(&self) -> String {
        let mut told = String::new();
        for room_id in &self.rooms {
            let mut events: BTreeMap<(i64, OwnedEventId), (Pdu, Vec<String>)> = BTreeMap::new();
            for (number, node) in self.nodes.iter().enumerate() {
                let Ok(room) = node.hs.rooms.room(room_id).await else { continue };
                let graph = &node.hs.rooms.store().graph;
                let Ok(all) = graph.all_of_room(&room).await else { continue };
                for event in all {
                    let key = (event.pdu.depth(), event.pdu.event_id().to_owned());
                    let (_, seen) = events.entry(key).or_insert_with(|| (event.pdu.clone(), Vec::new()));
                    let position = event.position.map_or("-".to_owned(), |position| position.0.to_string());
                    let state = if event.before.is_some() { "" } else { " stateless" };
                    seen.push(format!("n{number}:{position}/{}{state}", event.flags.0));
                }
                let mut sees = String::new();
                for other in &self.nodes {
                    sees += if node.sees(other, room_id).await { "j" } else { "-" };
                }
                let ends = extremities(&node.hs, room_id).await.unwrap_or_default();
                let behind = node.hs.rooms.backward_extremities(&room, SHOWN_MAX).await.unwrap_or_default();
                told += &format!("{room_id} n{number} sees {sees}, ends {}, lacks {}\n", short(&ends), short(&behind));
            }
            for ((depth, id), (pdu, seen)) in events {
                let key = pdu.state_key().unwrap_or("-");
                let what = format!("{} {key} {}", pdu.type_str(), pdu.sender().server_name());
                let (id, prev) = (short([&id]), short(pdu.prev_events()));
                told += &format!("{depth:4} {id} <- {prev} {what} [{}]\n", seen.join(" "));
            }
        }
        told
    }

    /// How many things have been acknowledged.
    pub fn deeds(&self) -> usize {
        self.deeds.len()
    }

    /// Every request that went over the network, in order: the same for the same seed.
    pub fn trace(&self) -> Vec<String> {
        self.wires.trace()
    }

    /// Ends all nodes.
    pub async fn end(self) {
        for node in self.nodes {
            // Who is on the network is held by it.
            self.wires.detach(&node.name);
            node.hs.tasks.shut_down(Duration::ZERO).await;
        }
    }
}

/// Event ids as far as one needs to tell them apart.
fn short<'a>(ids: impl IntoIterator<Item = &'a OwnedEventId>) -> String {
    let ids: Vec<&str> = ids.into_iter().map(|id| id.as_str().get(..6).unwrap_or_default()).collect();
    ids.join(",")
}

/// The events that nothing refers to yet, as one node sees it.
async fn extremities(hs: &Homeserver, room_id: &OwnedRoomId) -> Option<BTreeSet<OwnedEventId>> {
    let room = hs.rooms.room(room_id).await.ok()?;
    Some(hs.rooms.extremities(&room).await.ok()?.into_iter().collect())
}

async fn state_of(hs: &Homeserver, room_id: &OwnedRoomId) -> Result<BTreeSet<OwnedEventId>, String> {
    let room = hs.rooms.room(room_id).await.map_err(|error| error.to_string())?;
    let head = hs.rooms.head(&room).await.map_err(|error| error.to_string())?;
    let state = hs.rooms.store().state(head.snapshot).await.map_err(|error| error.to_string())?;
    Ok(state.iter().map(|event| event.pdu.event_id().to_owned()).collect())
}

impl Node {
    /// Whether both nodes have both users in the room.
    pub(crate) async fn see_each_other(&self, other: &Self, room: &OwnedRoomId) -> bool {
        self.sees(self, room).await
            && self.sees(other, room).await
            && other.sees(self, room).await
            && other.sees(other, room).await
    }

    /// Whether this node has the other's user in the room.
    async fn sees(&self, other: &Self, room: &OwnedRoomId) -> bool {
        self.hs.rooms.store().graph.is_joined(&other.user, room).await.unwrap_or(false)
    }

    async fn new(number: usize, seed: u64, wires: &Arc<Wires>, random: &Random) -> Self {
        let name: OwnedServerName = format!("n{number}.example").try_into().expect("a server name");
        let user: OwnedUserId = format!("@user:{name}").try_into().expect("a user id");
        // Clocks that differ by up to five minutes.
        let skew = Random::seeded(seed ^ (number as u64 + 1)).below(300_000);
        let clock = Clock::manual(GENESIS_MS + skew);
        let db = Homeserver::open_database(&samtal_db::Options::Memory).await.expect("a database in memory opens");
        let hs = start(&name, db.clone(), &clock, wires, random).await;
        hs.accounts.create(NewUser::normal(user.clone()), &Client::default()).await.expect("a user can be made");
        let node = Self { name, user, clock, db, hs };
        node.begin_device().await;
        node
    }
}

async fn start(name: &OwnedServerName, db: Db, clock: &Clock, wires: &Arc<Wires>, random: &Random) -> Arc<Homeserver> {
    let settings = Settings { encrypted_by_default: samtal_ops::EncryptedByDefault::None, ..Settings::default() };
    let link = Arc::new(Link { wires: Arc::clone(wires), from: name.clone() });
    let hs =
        Homeserver::over(name.clone(), db, settings, clock.clone(), random.clone(), link).await.expect("a node starts");
    let router = samtal_federation_api::router().layer(axum::Extension(Arc::clone(&hs)));
    wires.attach(name.clone(), router);
    hs
}
