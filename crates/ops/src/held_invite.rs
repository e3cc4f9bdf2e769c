//! Invites that wait until an operator lets them through, or refuses them.

use ruma::{OwnedRoomId, RoomVersionId, UserId};
use samtal_event::{Origin as Source, ParsedPdu, Pdu};
use samtal_policy::{HeldInvite, HeldInvites, WhichHeld};
use samtal_room::Room;

use crate::{Content, Homeserver, OpError, handshake::rules_or_refuse};

impl Homeserver {
    /// The invites that wait.
    pub fn held_invites(&self) -> HeldInvites {
        HeldInvites::new(self.db.clone())
    }

    /// Keeps an invite of a user of ours of which they are not told yet. Refused when too many wait already.
    pub(crate) async fn hold_invite(
        &self,
        room: &Room,
        target: &UserId,
        signed: &Pdu,
        stripped: String,
    ) -> Result<(), OpError> {
        let held = HeldInvite {
            room_id: room.room_id.to_string(),
            target: target.to_string(),
            sender: signed.sender().to_string(),
            server: signed.sender().server_name().to_string(),
            version: room.version.to_string(),
            event: signed.json().to_owned(),
            stripped,
            since_ms: self.clock.signed_now_ms(),
        };
        if self.held_invites().put(&held).await? {
            tracing::info!(room = %room.room_id, sender = %signed.sender().server_name(), "an invite waits for an operator");
            return Ok(());
        }
        Err(OpError::Forbidden("too many invites wait for an operator already".into()))
    }

    /// Lets held invites through: their targets are told of them now. How many there were.
    pub async fn release_invites(&self, which: &WhichHeld) -> Result<usize, OpError> {
        let held = self.held_invites().list(which).await?;
        for invite in &held {
            match self.release_invite(invite).await {
                Err(error @ OpError::Storage(_)) => return Err(error),
                Err(error) => tracing::info!(room = %invite.room_id, %error, "a held invite came to nothing"),
                Ok(()) => {}
            }
            self.held_invites().remove(&invite.room_id, &invite.target).await?;
        }
        Ok(held.len())
    }

    async fn release_invite(&self, invite: &HeldInvite) -> Result<(), OpError> {
        let Some(invite) = self.held_invites().with_texts(invite).await? else { return Ok(()) };
        let (room, target, pdu) = self.read_held(&invite).await?;
        let before = self.rooms.store().graph.membership(&target, &room.room_id).await?;
        let is_there = before.is_some_and(|before| {
            use ruma::events::room::member::MembershipState::{Ban, Invite, Join};
            matches!(before.membership, Ban | Invite | Join)
        });
        // Whoever is in the room has the invite as an event of it.
        if !is_there && !self.rooms.has_server(&room, &self.name).await? {
            self.rooms.note_outside(&room, &target, &pdu, Some(&invite.stripped)).await?;
        }
        Ok(())
    }

    /// Refuses held invites, in the name of those invited, who hear nothing of it. How many there were.
    pub async fn refuse_held_invites(&self, which: &WhichHeld) -> Result<usize, OpError> {
        let held = self.held_invites().list(which).await?;
        for invite in &held {
            match self.refuse_held_invite(invite).await {
                Err(error @ OpError::Storage(_)) => return Err(error),
                Err(error) => {
                    tracing::info!(room = %invite.room_id, %error, "the sender of a held invite does not hear that it is refused");
                }
                Ok(()) => {}
            }
            self.held_invites().remove(&invite.room_id, &invite.target).await?;
        }
        Ok(held.len())
    }

    async fn refuse_held_invite(&self, invite: &HeldInvite) -> Result<(), OpError> {
        let Some(invite) = self.held_invites().with_texts(invite).await? else { return Ok(()) };
        let (room, target, pdu) = self.read_held(&invite).await?;
        let content = Content::from_iter([("membership".to_owned(), "leave".into())]);
        self.leave_through(&target, &room, pdu.sender().server_name(), &content).await.map(|_| ())
    }

    /// What was checked when it came.
    async fn read_held(&self, invite: &HeldInvite) -> Result<(std::sync::Arc<Room>, ruma::OwnedUserId, Pdu), OpError> {
        let unreadable = |error: ruma::IdParseError| OpError::Invalid(error.to_string());
        let room_id = OwnedRoomId::try_from(invite.room_id.as_str()).map_err(unreadable)?;
        let target = UserId::parse(&invite.target).map_err(unreadable)?;
        let version = RoomVersionId::try_from(invite.version.as_str()).map_err(unreadable)?;
        let room = self.rooms.ensure_room(&room_id, &version).await?;
        let rules = rules_or_refuse(&version)?;
        let parsed = ParsedPdu::from_bytes_of(invite.event.as_bytes(), rules, Source::History);
        let parsed = parsed.map_err(|error| OpError::Invalid(error.to_string()))?;
        let pdu = self.verified(rules, vec![parsed]).await?.into_iter().next();
        let pdu = pdu.unwrap_or_else(|| Err("no event".into())).map_err(OpError::Forbidden)?;
        Ok((room, target, pdu))
    }
}
