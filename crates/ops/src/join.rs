//! Getting into a room, or to its door.

use ruma::{OwnedServerName, RoomId, UserId, events::room::member::MembershipState};
use samtal_account::Kind;
use samtal_room::{Room, RoomError};
use serde_json::Value;

use crate::{
    Homeserver, OpError,
    member::{Content, join_rule},
};

impl Homeserver {
    /// Whether events of this room can be made here: we know its state, and it is not one that others go on with alone.
    pub(crate) async fn is_resident(&self, room: &Room) -> Result<bool, OpError> {
        let store = self.rooms.store();
        if store.head(room).await?.is_none() {
            return Ok(false);
        }
        let servers = store.graph.servers(room.nid).await?;
        Ok(servers.is_empty() || servers.contains(&self.name))
    }

    /// The room, if events of it can be made here.
    pub async fn resident_room(&self, room_id: &RoomId) -> Result<Option<std::sync::Arc<Room>>, OpError> {
        let Some(room) = self.rooms.store().graph.room(room_id).await? else { return Ok(None) };
        Ok(self.is_resident(&room).await?.then_some(room))
    }

    /// Lets a user of ours join a room. `extra` is laid over what the member event says by itself (`reason`, a name for
    /// this room only). Joining again changes nothing, unless `extra` says something new.
    pub async fn join(
        &self,
        user: &UserId,
        room_id: &RoomId,
        via: &[OwnedServerName],
        extra: Content,
    ) -> Result<(), OpError> {
        let before = self.membership(user, room_id).await?;
        if before == MembershipState::Join && extra.is_empty() {
            return Ok(());
        }
        if self.rooms.is_blocked(room_id).await? {
            return Err(RoomError::Blocked.into());
        }
        let mut content = self.member_content(user, &MembershipState::Join).await?;
        content.extend(extra);
        content.insert("membership".into(), "join".into());
        match self.resident_room(room_id).await? {
            Some(room) if self.knows_membership(user, room_id).await? => {
                self.join_here(user, &room, &before, content).await?;
            }
            _ => self.join_elsewhere(user, room_id, via, content).await?,
        }
        if before != MembershipState::Join {
            self.carry_over(user, room_id).await?;
        }
        Ok(())
    }

    /// Whether the room as it is here tells who this user is in it. While its members are on their way, somebody of whom nothing is
    /// known may be banned: a server that has all of the room decides.
    async fn knows_membership(&self, user: &UserId, room_id: &RoomId) -> Result<bool, OpError> {
        let store = self.rooms.store();
        Ok(!store.partial.is_partial(room_id) || store.graph.membership(user, room_id).await?.is_some())
    }

    async fn join_here(
        &self,
        user: &UserId,
        room: &Room,
        before: &MembershipState,
        mut content: Content,
    ) -> Result<(), OpError> {
        self.check_guest(user, &room.room_id).await?;
        let enters = !matches!(before, MembershipState::Join | MembershipState::Invite);
        content.remove("join_authorised_via_users_server");
        if enters && room.rules.authorization.restricted_join_rule {
            let rules = self.state_content(&room.room_id, "m.room.join_rules").await?;
            if matches!(join_rule(rules.as_ref()), "restricted" | "knock_restricted") && *before != MembershipState::Ban
            {
                match self.restricted_authorizer(room, user).await? {
                    Some(authorizer) => {
                        content.insert("join_authorised_via_users_server".into(), Value::String(authorizer.into()));
                    }
                    None => {
                        let servers = self.rooms.store().graph.servers(room.nid).await?;
                        let others: Vec<OwnedServerName> =
                            servers.into_iter().filter(|server| *server != self.name).collect();
                        if others.is_empty() {
                            return Err(RoomError::CannotAuthorizeJoin.into());
                        }
                        return self.join_elsewhere(user, &room.room_id, &others, content).await;
                    }
                }
            }
        }
        let draft = Self::member_draft(user, user, &content)?;
        self.rooms.send_one(&room.room_id, draft).await?;
        Ok(())
    }

    async fn join_elsewhere(
        &self,
        user: &UserId,
        room_id: &RoomId,
        via: &[OwnedServerName],
        content: Content,
    ) -> Result<(), OpError> {
        let via = self.candidates(user, room_id, via).await?;
        if via.is_empty() {
            return Err(OpError::NotFound("no server is known that is in the room".into()));
        }
        if self.is_guest(user).await? {
            // The room's state is not known before the join; what the room says of itself is.
            let answer = self.hierarchy_remote(room_id, &via, false).await;
            if !answer.is_some_and(|answer| answer.room.summary.guest_can_join) {
                return Err(OpError::GuestsForbidden);
            }
        }
        self.join_remote(user, room_id, &via, content).await
    }

    async fn is_guest(&self, user: &UserId) -> Result<bool, OpError> {
        Ok(self.accounts.user(user).await?.is_some_and(|user| user.kind == Kind::Guest))
    }

    /// Lets a user of ours knock at a room.
    pub async fn knock(
        &self,
        user: &UserId,
        room_id: &RoomId,
        via: &[OwnedServerName],
        extra: Content,
    ) -> Result<(), OpError> {
        if self.rooms.is_blocked(room_id).await? {
            return Err(RoomError::Blocked.into());
        }
        let mut content = self.member_content(user, &MembershipState::Knock).await?;
        content.extend(extra);
        content.insert("membership".into(), "knock".into());
        if let Some(room) = self.resident_room(room_id).await? {
            if !room.rules.authorization.knocking {
                return Err(OpError::Forbidden("this room's version knows no knocking".into()));
            }
            let draft = Self::member_draft(user, user, &content)?;
            self.rooms.send_one(room_id, draft).await?;
            return Ok(());
        }
        let via = self.candidates(user, room_id, via).await?;
        if via.is_empty() {
            return Err(OpError::NotFound("no server is known that is in the room".into()));
        }
        self.knock_remote(user, room_id, &via, content).await
    }

    /// Servers that may be in the room: those that were named, those we knew there, the inviter's, the room id's.
    pub(crate) async fn candidates(
        &self,
        user: &UserId,
        room_id: &RoomId,
        via: &[OwnedServerName],
    ) -> Result<Vec<OwnedServerName>, OpError> {
        let mut servers = via.to_vec();
        let store = self.rooms.store();
        if let Some(member) = store.graph.membership(user, room_id).await? {
            servers.push(member.sender.server_name().to_owned());
        }
        // Whoever names servers may have reasons to.
        if via.is_empty()
            && let Some(room) = store.graph.room(room_id).await?
        {
            servers.extend(store.graph.servers(room.nid).await?);
        }
        if servers.iter().all(|server| *server == self.name) {
            servers.extend(room_id.server_name().map(ToOwned::to_owned));
        }
        let mut seen = std::collections::HashSet::new();
        servers.retain(|server| *server != self.name && seen.insert(server.clone()));
        Ok(servers)
    }

    /// Refuses guests where they are not welcome.
    async fn check_guest(&self, user: &UserId, room_id: &RoomId) -> Result<(), OpError> {
        if !self.is_guest(user).await? {
            return Ok(());
        }
        let access = self.state_content(room_id, "m.room.guest_access").await?;
        let access = access.as_ref().and_then(|content| content.get("guest_access")).and_then(Value::as_str);
        if access == Some("can_join") { Ok(()) } else { Err(OpError::GuestsForbidden) }
    }

    /// Removes guests from a room that no longer wants them.
    pub async fn remove_guests(&self, room_id: &RoomId) -> Result<(), OpError> {
        let room = self.rooms.room(room_id).await?;
        for user in self.rooms.store().graph.joined_of(room.nid, &self.name).await? {
            if self.check_guest(&user, room_id).await.is_err() {
                self.leave(&user, room_id, Content::new()).await?;
            }
        }
        Ok(())
    }
}
