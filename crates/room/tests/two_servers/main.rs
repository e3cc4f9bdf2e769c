//! Two engines that hand each other events, without a network: what one server makes, the other takes in.

mod below;
mod gap;

use std::sync::Arc;

use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomVersionId, UserId,
    events::room::member::MembershipState,
};
use samtal_db::{
    Db,
    testing::{Directory, drop_schema, open, postgres, sqlite},
};
use samtal_event::{Draft, ParsedPdu, Pdu};
use samtal_keyring::{OwnKey, OwnKeys};
use samtal_kit::{Clock, Random, Tasks};
use samtal_room::{Ingest, Ingested, LocalDraft, NewRoom, Options, Room, Rooms};

const VERSIONS: [RoomVersionId; 3] = [RoomVersionId::V6, RoomVersionId::V11, RoomVersionId::V12];

struct Server {
    rooms: Rooms,
    clock: Clock,
    user: OwnedUserId,
}

impl Server {
    async fn new(name: &str, db: Db, seed: u8) -> Self {
        let name: OwnedServerName = name.try_into().unwrap();
        let key = OwnKey::from_seed("ed25519:a", [seed; 32], 0, None).unwrap();
        let keys = Arc::new(OwnKeys::new(vec![key]).unwrap());
        let clock = Clock::manual(1_700_000_000_000);
        let options = Options {
            name: name.clone(),
            signing_keys: Arc::new(move || Arc::clone(&keys)),
            clock: clock.clone(),
            random: Random::seeded(seed.into()),
            tasks: Tasks::new(),
        };
        let rooms = Rooms::open(db, options).await.unwrap();
        let user = OwnedUserId::try_from(format!("@user:{name}")).unwrap();
        Self { rooms, clock, user }
    }

    async fn create(&self, version: &RoomVersionId) -> OwnedRoomId {
        let levels = match version {
            RoomVersionId::V12 => r#"{"users":{}}"#.to_owned(),
            _ => format!(r#"{{"users":{{"{}":100}}}}"#, self.user),
        };
        let creator = match version {
            RoomVersionId::V6 => format!(r#"{{"creator":"{}","room_version":"6"}}"#, self.user),
            other => format!(r#"{{"room_version":"{other}"}}"#),
        };
        self.rooms
            .create(NewRoom {
                version: version.clone(),
                creator: self.user.clone(),
                create: state("m.room.create", "", &creator),
                events: vec![
                    state("m.room.member", self.user.as_str(), r#"{"membership":"join"}"#),
                    state("m.room.power_levels", "", &levels),
                    state("m.room.join_rules", "", r#"{"join_rule":"public"}"#),
                ],
                alias: None,
                published: false,
            })
            .await
            .unwrap()
    }

    async fn send(&self, room: &OwnedRoomId, draft: Draft) -> Pdu {
        self.clock.advance(std::time::Duration::from_millis(10));
        let id = self.rooms.send_one(room, LocalDraft::new(self.user.clone(), draft)).await.unwrap();
        self.rooms.event(&id).await.unwrap().pdu.clone()
    }

    async fn take(&self, room: &OwnedRoomId, pdu: &Pdu) -> Ingest {
        let room = self.rooms.room(room).await.unwrap();
        self.rooms.ingest(&room, &over_the_wire(pdu, &room), None, None).await.unwrap()
    }

    async fn state(&self, room: &OwnedRoomId, event_type: &str, state_key: &str) -> Option<String> {
        let event = self.rooms.current_state(room, event_type, state_key).await.unwrap();
        event.map(|event| event.pdu.content_str().to_owned())
    }

    async fn snapshot(&self, room: &OwnedRoomId) -> Vec<OwnedEventId> {
        let room = self.rooms.room(room).await.unwrap();
        let head = self.rooms.head(&room).await.unwrap();
        let state = self.rooms.store().state(head.snapshot).await.unwrap();
        let mut ids: Vec<OwnedEventId> = state.iter().map(|event| event.pdu.event_id().to_owned()).collect();
        ids.sort();
        ids
    }

    async fn membership(&self, user: &UserId, room: &OwnedRoomId) -> Option<MembershipState> {
        self.rooms.store().graph.membership(user, room).await.unwrap().map(|found| found.membership)
    }
}

fn state(event_type: &str, state_key: &str, content: &str) -> Draft {
    Draft::from_text(event_type.into(), Some(state_key.to_owned()), content).unwrap()
}

fn message(text: &str) -> Draft {
    Draft::from_text("m.room.message".into(), None, &format!(r#"{{"body":"{text}","msgtype":"m.text"}}"#)).unwrap()
}

fn over_the_wire(pdu: &Pdu, room: &Room) -> Pdu {
    ParsedPdu::from_bytes(pdu.json().as_bytes(), room.rules).unwrap().unverified().clone()
}

/// `other`'s user joins a room of `home`, as make_join and send_join do it.
async fn join(home: &Server, other: &Server, room_id: &OwnedRoomId) {
    let room = home.rooms.room(room_id).await.unwrap();
    let draft = state("m.room.member", other.user.as_str(), r#"{"membership":"join"}"#);
    let template = home.rooms.template(room_id, &other.user, &draft).await.unwrap();
    let join = other.rooms.sign(&template, &room).unwrap().into_pdu();
    assert_eq!(home.take(room_id, &join).await, Ingest::Done(Ingested::Accepted));
    let stored = home.rooms.event(join.event_id()).await.unwrap();
    let (state, chain) = home.rooms.state_before(&stored).await.unwrap();
    let ids: Vec<OwnedEventId> = state.iter().map(|event| event.pdu.event_id().to_owned()).collect();
    let there = other.rooms.ensure_room(room_id, &room.version).await.unwrap();
    let pdus = state.iter().chain(&chain).map(|event| over_the_wire(&event.pdu, &there)).collect();
    let held = other.rooms.hold(&there, pdus).await.unwrap();
    assert!(held.unjudged.is_empty() && held.rejected.is_empty(), "{held:?}");
    other.rooms.adopt(&there, join, &ids, None).await.unwrap();
}

/// Runs a test with two servers, each in its own database, on both engines. All versions on SQLite, the newest on
/// PostgreSQL: what differs between versions does not depend on the engine.
async fn with_two<F, Fut>(test: F)
where
    F: Fn(Server, Server, RoomVersionId) -> Fut,
    Fut: Future<Output = ()>,
{
    for version in VERSIONS {
        let directories = [Directory::new(), Directory::new()];
        let options = [sqlite(&directories[0]), sqlite(&directories[1])];
        run(&test, &options, version).await;
    }
    if let (Some(one), Some(two)) = (postgres(), postgres()) {
        let options = [one, two];
        run(&test, &options, RoomVersionId::V12).await;
        drop_schema(&options[0]).await;
        drop_schema(&options[1]).await;
    }
}

async fn run<F, Fut>(test: &F, options: &[samtal_db::Options; 2], version: RoomVersionId)
where
    F: Fn(Server, Server, RoomVersionId) -> Fut,
    Fut: Future<Output = ()>,
{
    let schemas = [samtal_room::SCHEMA];
    let dbs = [open(&options[0], &schemas).await, open(&options[1], &schemas).await];
    let home = Server::new("home.example", dbs[0].clone(), 1).await;
    let other = Server::new("other.example", dbs[1].clone(), 2).await;
    test(home, other, version).await;
    for db in dbs {
        db.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_shows_the_same_state_on_both_sides() {
    with_two(|home, other, version| async move {
        let room = home.create(&version).await;
        join(&home, &other, &room).await;
        assert_eq!(home.snapshot(&room).await, other.snapshot(&room).await);
        assert_eq!(other.membership(&home.user, &room).await, Some(MembershipState::Join));
        assert_eq!(home.membership(&other.user, &room).await, Some(MembershipState::Join));
        let nid = other.rooms.room(&room).await.unwrap().nid;
        assert_eq!(other.rooms.store().graph.counts(nid).await.unwrap(), (2, 0));
        let mut servers = other.rooms.store().graph.servers(nid).await.unwrap();
        servers.sort();
        assert_eq!(servers, ["home.example", "other.example"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_pass_both_ways_and_only_once() {
    with_two(|home, other, version| async move {
        let room = home.create(&version).await;
        join(&home, &other, &room).await;
        let hello = home.send(&room, message("hello")).await;
        assert_eq!(other.take(&room, &hello).await, Ingest::Done(Ingested::Accepted));
        assert_eq!(other.take(&room, &hello).await, Ingest::Done(Ingested::Duplicate));
        let answer = other.send(&room, message("answer")).await;
        assert_eq!(answer.prev_events(), [hello.event_id().to_owned()]);
        assert_eq!(home.take(&room, &answer).await, Ingest::Done(Ingested::Accepted));
        let room = home.rooms.room(&room).await.unwrap();
        assert_eq!(home.rooms.extremities(&room).await.unwrap(), [answer.event_id().to_owned()]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn note_35_a_gap_is_named_and_filled() {
    with_two(|home, other, version| async move {
        let room = home.create(&version).await;
        join(&home, &other, &room).await;
        let first = home.send(&room, message("first")).await;
        let second = home.send(&room, message("second")).await;
        assert_eq!(other.take(&room, &second).await, Ingest::NeedPrev(vec![first.event_id().to_owned()]));
        let here = home.rooms.room(&room).await.unwrap();
        let latest = [second.event_id().to_owned()];
        let earliest = other.rooms.extremities(&other.rooms.room(&room).await.unwrap()).await.unwrap();
        let missing =
            home.rooms.missing_events(&here, "other.example".try_into().unwrap(), &earliest, &latest, 10, 0).await;
        assert_eq!(missing.unwrap(), [first.clone()]);
        assert_eq!(other.take(&room, &first).await, Ingest::Done(Ingested::Accepted));
        assert_eq!(other.take(&room, &second).await, Ingest::Done(Ingested::Accepted));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_both_sides_did_during_a_partition_ends_in_one_state() {
    with_two(|home, other, version| async move {
        let room = home.create(&version).await;
        join(&home, &other, &room).await;
        let levels = match version {
            RoomVersionId::V12 => format!(r#"{{"users":{{"{}":50}}}}"#, other.user),
            _ => format!(r#"{{"users":{{"{}":100,"{}":50}}}}"#, home.user, other.user),
        };
        let levels = home.send(&room, state("m.room.power_levels", "", &levels)).await;
        other.take(&room, &levels).await;
        // Apart: both set the topic, the owner bans the other's user, who goes on talking.
        let mut at_home = Vec::new();
        let mut at_other = Vec::new();
        at_home.push(home.send(&room, state("m.room.topic", "", r#"{"topic":"home"}"#)).await);
        at_other.push(other.send(&room, state("m.room.topic", "", r#"{"topic":"other"}"#)).await);
        at_other.push(other.send(&room, state("m.room.name", "", r#"{"name":"other"}"#)).await);
        at_other.push(other.send(&room, message("still here")).await);
        at_home.push(home.send(&room, state("m.room.member", other.user.as_str(), r#"{"membership":"ban"}"#)).await);
        at_home.push(home.send(&room, message("gone")).await);
        // Together again, in either order.
        for pdu in &at_other {
            home.take(&room, pdu).await;
        }
        for pdu in &at_home {
            assert!(matches!(other.take(&room, pdu).await, Ingest::Done(_)));
        }
        assert_eq!(home.membership(&other.user, &room).await, Some(MembershipState::Ban));
        assert_eq!(other.membership(&other.user, &room).await, Some(MembershipState::Ban));
        assert_eq!(home.state(&room, "m.room.topic", "").await, other.state(&room, "m.room.topic", "").await);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_state_of_two_admins_converges() {
    with_two(|home, other, version| async move {
        let room = home.create(&version).await;
        join(&home, &other, &room).await;
        let levels = match version {
            RoomVersionId::V12 => format!(r#"{{"users":{{"{}":100}}}}"#, other.user),
            _ => format!(r#"{{"users":{{"{}":100,"{}":100}}}}"#, home.user, other.user),
        };
        let levels = home.send(&room, state("m.room.power_levels", "", &levels)).await;
        other.take(&room, &levels).await;
        let mut apart = (Vec::new(), Vec::new());
        for round in 0..4 {
            let content = |who: &str| format!(r#"{{"topic":"{who} {round}"}}"#);
            apart.0.push(home.send(&room, state("m.room.topic", "", &content("home"))).await);
            apart.1.push(other.send(&room, state("m.room.topic", "", &content("other"))).await);
            apart.1.push(other.send(&room, state("org.example.note", "x", &content("other"))).await);
            apart.0.push(home.send(&room, state("m.room.join_rules", "", r#"{"join_rule":"invite"}"#)).await);
            apart.1.push(other.send(&room, message("hm")).await);
        }
        for (pdu, other_pdu) in apart.0.iter().zip(&apart.1) {
            assert!(matches!(other.take(&room, pdu).await, Ingest::Done(_)));
            assert!(matches!(home.take(&room, other_pdu).await, Ingest::Done(_)));
        }
        for pdu in apart.1.iter().skip(apart.0.len()) {
            home.take(&room, pdu).await;
        }
        for pdu in apart.0.iter().skip(apart.1.len()) {
            other.take(&room, pdu).await;
        }
        let merged = home.send(&room, message("merged")).await;
        assert_eq!(other.take(&room, &merged).await, Ingest::Done(Ingested::Accepted));
        assert_eq!(home.snapshot(&room).await, other.snapshot(&room).await);
        assert_eq!(home.state(&room, "m.room.join_rules", "").await.unwrap(), r#"{"join_rule":"invite"}"#);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn note_11_a_message_of_a_user_who_is_not_in_the_room_is_rejected() {
    with_two(|home, other, version| async move {
        let room = home.create(&version).await;
        let there = other.rooms.ensure_room(&room, &version).await.unwrap();
        let known = home.rooms.room(&room).await.unwrap();
        let template = home.rooms.template(&room, &home.user, &message("x")).await.unwrap();
        // The same event, but of somebody else.
        let json = template.json().replace(home.user.as_str(), other.user.as_str());
        let mut object: serde_json::Value = serde_json::from_str(&json).unwrap();
        object["hashes"] = serde_json::json!({ "sha256": "x" });
        object["signatures"] = serde_json::json!({});
        let forged = ParsedPdu::from_bytes(object.to_string().as_bytes(), known.rules).unwrap().unverified().clone();
        let outcome = home.take(&room, &forged).await;
        assert!(matches!(outcome, Ingest::Done(Ingested::Rejected(_))), "{outcome:?}");
        drop(there);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn note_13_and_14_what_rests_on_a_missing_event_is_not_judged_before_that_is_here() {
    with_two(|home, other, version| async move {
        let room = home.create(&version).await;
        let topic = home.send(&room, state("m.room.topic", "", r#"{"topic":"x"}"#)).await;
        let stored = home.rooms.event(topic.event_id()).await.unwrap();
        let (events, _) = home.rooms.state_before(&stored).await.unwrap();
        let there = other.rooms.ensure_room(&room, &version).await.unwrap();
        let levels = events.iter().find(|event| event.pdu.type_str() == "m.room.power_levels").unwrap();
        let missing = levels.pdu.event_id().to_owned();
        let all = events.iter().map(|event| &event.pdu).chain([&topic]);
        let rest: Vec<Pdu> =
            all.filter(|pdu| pdu.event_id() != missing).map(|pdu| over_the_wire(pdu, &there)).collect();
        let resting: Vec<OwnedEventId> = rest
            .iter()
            .filter(|pdu| pdu.auth_events().contains(&missing))
            .map(|pdu| pdu.event_id().to_owned())
            .collect();
        assert!(resting.contains(&topic.event_id().to_owned()));
        let mut held = other.rooms.hold(&there, rest).await.unwrap();
        let mut resting = resting;
        resting.sort();
        held.unjudged.sort();
        assert_eq!(held.unjudged, resting);
        assert_eq!(held.rejected, [] as [OwnedEventId; 0]);
        let all = events.iter().map(|event| &event.pdu).chain([&topic]);
        let held = other.rooms.hold(&there, all.map(|pdu| over_the_wire(pdu, &there)).collect()).await.unwrap();
        assert!(held.unjudged.is_empty() && held.rejected.is_empty(), "{held:?}");
    })
    .await;
}

/// The ban is known here, and what the banned said before they knew of it comes afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn note_15_and_16_what_only_current_state_refuses_is_kept_unseen_and_not_built_upon() {
    with_two(|home, other, version| async move {
        let room = home.create(&version).await;
        join(&home, &other, &room).await;
        home.send(&room, state("m.room.member", other.user.as_str(), r#"{"membership":"ban"}"#)).await;
        let late = other.send(&room, message("said before I knew")).await;
        let outcome = home.take(&room, &late).await;
        assert!(matches!(outcome, Ingest::Done(Ingested::SoftFailed(_))), "{outcome:?}");
        let known = home.rooms.room(&room).await.unwrap();
        let stored = home.rooms.event(late.event_id()).await.unwrap();
        assert!(!stored.is_visible());
        assert!(!home.rooms.extremities(&known).await.unwrap().contains(&late.event_id().to_owned()));
        let next = home.send(&room, message("goes on")).await;
        assert!(!next.prev_events().contains(&late.event_id().to_owned()));
        // What builds on it is judged by the same rules: the state before it still has its sender in the room.
        let later = other.send(&room, message("still do not know")).await;
        let outcome = home.take(&room, &later).await;
        assert!(matches!(outcome, Ingest::Done(Ingested::SoftFailed(_))), "{outcome:?}");
    })
    .await;
}
