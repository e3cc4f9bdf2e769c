//! What the users of the simulated nodes do.

use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, UserId, events::room::member::MembershipState};
use samtal_event::Draft;
use samtal_ops::Homeserver;
use samtal_room::LocalDraft;
use serde_json::{Map, json};

use samtal_kit::Random;

/// Something that a user has done and that their server has acknowledged.
#[derive(Clone, Debug)]
pub struct Deed {
    /// The node.
    pub node: usize,
    /// The room.
    pub room: OwnedRoomId,
    /// The event.
    pub event_id: OwnedEventId,
}

/// One person at one node.
pub(crate) struct Person<'a> {
    pub(crate) hs: &'a Homeserver,
    pub(crate) id: &'a UserId,
    pub(crate) node: usize,
    pub(crate) random: &'a Random,
}

impl Person<'_> {
    /// Does something in the room, if the room's rules and the person's powers allow it. `deeds` is what has been done so far.
    pub(crate) async fn act(
        &self,
        room: &OwnedRoomId,
        others: &[OwnedUserId],
        deeds: &[Deed],
        rooms: &[OwnedRoomId],
        wild: bool,
    ) -> Option<Deed> {
        let number = self.random.below(10_000);
        let choice = self.random.below(if wild { 100 } else { 80 });
        match choice {
            0..=37 => {
                self.send(room, "m.room.message", None, json!({ "msgtype": "m.text", "body": number.to_string() }))
                    .await
            }
            38..=43 => self.edit(room, deeds, number).await,
            44..=49 => self.redact(room, deeds).await,
            50..=59 => self.send(room, "m.room.topic", Some(""), json!({ "topic": number.to_string() })).await,
            60..=65 => self.send(room, "m.room.name", Some(""), json!({ "name": number.to_string() })).await,
            66..=69 => {
                let key = format!("key{}", self.random.below(5));
                self.send(room, "org.example.state", Some(&key), json!({ "value": number })).await
            }
            70..=74 => self.set_power(room, others).await,
            75..=79 => self.set_join_rule(room, rooms, number, wild).await,
            80..=84 => self.moderate(room, others, &MembershipState::Leave).await,
            85..=88 => self.moderate(room, others, &MembershipState::Ban).await,
            89..=93 => self.moderate(room, others, &MembershipState::Invite).await,
            _ => {
                let _ = self.hs.leave(self.id, room, Map::new()).await;
                None
            }
        }
    }

    /// One of the things done in this room, if there is any.
    fn some_deed<'d>(&self, room: &OwnedRoomId, deeds: &'d [Deed]) -> Option<&'d Deed> {
        let here: Vec<&Deed> = deeds.iter().filter(|deed| deed.room == *room).collect();
        let index = self.random.below(here.len().max(1) as u64);
        here.get(usize::try_from(index).ok()?).copied()
    }

    async fn edit(&self, room: &OwnedRoomId, deeds: &[Deed], number: u64) -> Option<Deed> {
        let target = self.some_deed(room, deeds)?;
        let text = json!({ "msgtype": "m.text", "body": number.to_string() });
        let relation = json!({ "rel_type": "m.replace", "event_id": target.event_id });
        let content = json!({ "msgtype": "m.text", "body": "*", "m.new_content": text, "m.relates_to": relation });
        self.send(room, "m.room.message", None, content).await
    }

    async fn redact(&self, room: &OwnedRoomId, deeds: &[Deed]) -> Option<Deed> {
        let target = self.some_deed(room, deeds)?;
        let draft = Draft::from_text("m.room.redaction".into(), None, "{}").ok()?.redacting(&target.event_id);
        let event_id = self.hs.rooms.send_one(room, LocalDraft::new(self.id.to_owned(), draft)).await.ok()?;
        Some(Deed { node: self.node, room: room.clone(), event_id })
    }

    async fn set_join_rule(&self, room: &OwnedRoomId, rooms: &[OwnedRoomId], number: u64, wild: bool) -> Option<Deed> {
        let other = rooms.iter().find(|other| *other != room);
        let content = match (number % 6, other) {
            (0, _) => json!({ "join_rule": "invite" }),
            (1, _) if wild => json!({ "join_rule": "knock" }),
            (2, Some(other)) if wild => {
                json!({ "join_rule": "restricted", "allow": [{ "type": "m.room_membership", "room_id": other }] })
            }
            _ => json!({ "join_rule": "public" }),
        };
        self.send(room, "m.room.join_rules", Some(""), content).await
    }

    /// Asks to be let in with the help of these servers.
    pub(crate) async fn knock(&self, room: &OwnedRoomId, via: &[OwnedServerName]) -> bool {
        self.hs.knock(self.id, room, via, Map::new()).await.is_ok()
    }

    /// Joins the room with the help of these servers.
    pub(crate) async fn join(&self, room: &OwnedRoomId, via: &[OwnedServerName]) -> bool {
        self.hs.join(self.id, room, via, Map::new()).await.is_ok()
    }

    pub(crate) async fn send(
        &self,
        room: &OwnedRoomId,
        event_type: &str,
        state_key: Option<&str>,
        content: serde_json::Value,
    ) -> Option<Deed> {
        let draft = Draft::from_text(event_type.into(), state_key.map(str::to_owned), &content.to_string()).ok()?;
        let event_id = self.hs.rooms.send_one(room, LocalDraft::new(self.id.to_owned(), draft)).await.ok()?;
        Some(Deed { node: self.node, room: room.clone(), event_id })
    }

    /// Gives somebody another power level.
    async fn set_power(&self, room: &OwnedRoomId, others: &[OwnedUserId]) -> Option<Deed> {
        let current = self.hs.rooms.current_state(room, "m.room.power_levels", "").await.ok()??;
        let mut content: serde_json::Value = current.pdu.content_as().ok()?;
        let whom = others.get(usize::try_from(self.random.below(others.len() as u64)).ok()?)?;
        let level = [0, 50, 100][usize::try_from(self.random.below(3)).ok()?];
        content
            .as_object_mut()?
            .entry("users")
            .or_insert_with(|| json!({}))
            .as_object_mut()?
            .insert(whom.to_string(), level.into());
        self.send(room, "m.room.power_levels", Some(""), content).await
    }

    async fn moderate(&self, room: &OwnedRoomId, others: &[OwnedUserId], to: &MembershipState) -> Option<Deed> {
        let whom = others.get(usize::try_from(self.random.below(others.len() as u64)).ok()?)?;
        if whom == self.id {
            return None;
        }
        let done = match to {
            MembershipState::Ban => self.hs.ban(self.id, whom, room, Map::new()).await,
            MembershipState::Invite => self.hs.invite(self.id, whom, room, Map::new()).await,
            _ => self.hs.kick(self.id, whom, room, Map::new()).await,
        };
        done.ok()?;
        None
    }
}
