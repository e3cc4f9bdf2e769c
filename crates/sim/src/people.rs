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
    /// Does something in the room, if the room's rules and the person's powers allow it.
    pub(crate) async fn act(&self, room: &OwnedRoomId, others: &[OwnedUserId], wild: bool) -> Option<Deed> {
        let number = self.random.below(10_000);
        let choice = self.random.below(if wild { 100 } else { 80 });
        match choice {
            0..=49 => {
                self.send(room, "m.room.message", None, json!({ "msgtype": "m.text", "body": number.to_string() }))
                    .await
            }
            50..=59 => self.send(room, "m.room.topic", Some(""), json!({ "topic": number.to_string() })).await,
            60..=65 => self.send(room, "m.room.name", Some(""), json!({ "name": number.to_string() })).await,
            66..=69 => {
                let key = format!("key{}", self.random.below(5));
                self.send(room, "org.example.state", Some(&key), json!({ "value": number })).await
            }
            70..=74 => self.set_power(room, others).await,
            75..=79 => {
                let rule = if number.is_multiple_of(4) { "invite" } else { "public" };
                self.send(room, "m.room.join_rules", Some(""), json!({ "join_rule": rule })).await
            }
            80..=84 => self.moderate(room, others, &MembershipState::Leave).await,
            85..=88 => self.moderate(room, others, &MembershipState::Ban).await,
            89..=93 => self.moderate(room, others, &MembershipState::Invite).await,
            _ => {
                let _ = self.hs.leave(self.id, room, Map::new()).await;
                None
            }
        }
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
