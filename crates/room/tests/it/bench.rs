//! A workbench: an engine on a fresh database, and short words for what is done with it.

use std::sync::Arc;

use ruma::{
    OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, RoomVersionId, UserId, events::room::member::MembershipState,
};
use samtal_db::{Db, testing::each_engine};
use samtal_event::Draft;
use samtal_keyring::{OwnKey, OwnKeys};
use samtal_kit::{Clock, Random, Tasks};
use samtal_room::{LocalDraft, NewRoom, Options, Room, RoomError, Rooms, SCHEMA, StoredEvent, Viewer};

pub struct Bench {
    pub rooms: Rooms,
    pub clock: Clock,
    pub db: Db,
}

/// Runs a test on both engines.
pub async fn on_each<F, Fut>(test: F)
where
    F: Fn(Bench) -> Fut,
    Fut: Future<Output = ()>,
{
    each_engine(&[SCHEMA], |db| async { test(Bench::new(db).await).await }).await;
}

pub fn user(name: &str) -> OwnedUserId {
    OwnedUserId::try_from(format!("@{name}:here")).unwrap()
}

pub fn state(event_type: &str, state_key: &str, content: &str) -> Draft {
    Draft::from_text(event_type.into(), Some(state_key.to_owned()), content).unwrap()
}

pub fn message(text: &str) -> Draft {
    Draft::from_text("m.room.message".into(), None, &format!(r#"{{"body":"{text}","msgtype":"m.text"}}"#)).unwrap()
}

pub fn related(text: &str, rel_type: &str, target: &OwnedEventId) -> Draft {
    let content = format!(
        r#"{{"body":"{text}","msgtype":"m.text","m.relates_to":{{"rel_type":"{rel_type}","event_id":"{target}"}}}}"#
    );
    Draft::from_text("m.room.message".into(), None, &content).unwrap()
}

pub fn membership(of: &UserId, membership: &str) -> Draft {
    state("m.room.member", of.as_str(), &format!(r#"{{"membership":"{membership}"}}"#))
}

/// The content of the create event, as each version wants it.
pub fn create_content(creator: &UserId, version: &RoomVersionId) -> String {
    let has_creator = !matches!(version, RoomVersionId::V11 | RoomVersionId::V12);
    let creator = if has_creator { format!(r#""creator":"{creator}","#) } else { String::new() };
    format!(r#"{{{creator}"room_version":"{version}"}}"#)
}

/// Power levels in which `creator` may do everything.
pub fn levels(creator: &UserId, version: &RoomVersionId) -> String {
    match version {
        RoomVersionId::V12 => r#"{"users":{}}"#.to_owned(),
        _ => format!(r#"{{"users":{{"{creator}":100}}}}"#),
    }
}

impl Bench {
    pub async fn new(db: Db) -> Self {
        let key = OwnKey::from_seed("ed25519:a", [7; 32], 0, None).unwrap();
        let keys = Arc::new(OwnKeys::new(vec![key]).unwrap());
        let clock = Clock::manual(1_700_000_000_000);
        let options = Options {
            name: "here".try_into().unwrap(),
            signing_keys: Arc::new(move || Arc::clone(&keys)),
            clock: clock.clone(),
            random: Random::seeded(1),
            tasks: Tasks::new(),
        };
        Self { rooms: Rooms::open(db.clone(), options).await.unwrap(), clock, db }
    }

    /// The same database, opened anew: nothing is left in memory.
    pub async fn again(&self) -> Self {
        Self::new(self.db.clone()).await
    }

    /// A room of alice's that anybody may join.
    pub async fn public_room(&self, version: RoomVersionId) -> OwnedRoomId {
        self.room_with(version, &[state("m.room.join_rules", "", r#"{"join_rule":"public"}"#)]).await.unwrap()
    }

    pub async fn room_with(&self, version: RoomVersionId, events: &[Draft]) -> Result<OwnedRoomId, RoomError> {
        let alice = user("alice");
        let mut first = vec![membership(&alice, "join"), state("m.room.power_levels", "", &levels(&alice, &version))];
        first.extend(events.iter().cloned());
        self.rooms
            .create(NewRoom {
                create: state("m.room.create", "", &create_content(&alice, &version)),
                creator: alice,
                version,
                events: first,
                alias: None,
                published: false,
            })
            .await
    }

    pub async fn try_send(&self, room: &RoomId, sender: &str, draft: Draft) -> Result<OwnedEventId, RoomError> {
        self.clock.advance(std::time::Duration::from_millis(10));
        self.rooms.send_one(room, LocalDraft::new(user(sender), draft)).await
    }

    pub async fn send(&self, room: &RoomId, sender: &str, draft: Draft) -> OwnedEventId {
        self.try_send(room, sender, draft).await.unwrap()
    }

    pub async fn join(&self, room: &RoomId, name: &str) {
        self.send(room, name, membership(&user(name), "join")).await;
    }

    pub async fn room(&self, room: &RoomId) -> Arc<Room> {
        self.rooms.room(room).await.unwrap()
    }

    pub async fn viewer(&self, room: &RoomId, name: &str) -> Viewer {
        let room = self.room(room).await;
        self.rooms.viewer(&user(name), &room).await.unwrap()
    }

    pub async fn content(&self, room: &RoomId, event_type: &str, state_key: &str) -> Option<String> {
        let event = self.rooms.current_state(room, event_type, state_key).await.unwrap();
        event.map(|event| event.pdu.content_str().to_owned())
    }

    pub async fn membership(&self, room: &RoomId, name: &str) -> Option<MembershipState> {
        let found = self.rooms.store().graph.membership(&user(name), room).await.unwrap();
        found.map(|found| found.membership)
    }

    /// Ids of all that a user sees, newest first.
    pub async fn seen(&self, room: &RoomId, name: &str) -> Vec<OwnedEventId> {
        let mut viewer = self.viewer(room, name).await;
        let back = samtal_room::Direction::Backward;
        ids(&self.rooms.timeline(&mut viewer, self.rooms.now(), None, back, 1_000).await.unwrap().events)
    }
}

pub fn ids(events: &[Arc<StoredEvent>]) -> Vec<OwnedEventId> {
    events.iter().map(|event| event.pdu.event_id().to_owned()).collect()
}
