//! Who somebody is in a room: contents of member events, and what power they have.

use ruma::{
    OwnedEventId, OwnedUserId, RoomId, UserId,
    events::{StateEventType, room::member::MembershipState},
};
use samtal_event::Draft;
use samtal_room::{LocalDraft, Room, membership_of};
use samtal_state::PowerLevels;
use serde_json::{Map, Value};

use crate::{Homeserver, OpError};

/// The content of a state event, or a part of a request's body.
pub type Content = Map<String, Value>;

impl Homeserver {
    /// Whether the user has their account here.
    pub fn is_local(&self, user: &UserId) -> bool {
        user.server_name() == self.name
    }

    /// The content of a member event. Joins, knocks and invites of users of ours say what the user's profile says.
    pub(crate) async fn member_content(&self, user: &UserId, membership: &MembershipState) -> Result<Content, OpError> {
        let mut content = Content::new();
        content.insert("membership".into(), membership.as_str().into());
        self.complete_member(user, &mut content).await?;
        Ok(content)
    }

    /// Adds name and picture to the content of a join, knock or invite that leaves them out.
    pub(crate) async fn complete_member(&self, user: &UserId, content: &mut Content) -> Result<(), OpError> {
        let shows = matches!(content.get("membership").and_then(Value::as_str), Some("join" | "knock" | "invite"));
        if !shows || !self.is_local(user) {
            return Ok(());
        }
        let profile = self.accounts.profile(user).await?;
        for field in ["displayname", "avatar_url"] {
            if !content.contains_key(field)
                && let Some(value) = profile.get(field).filter(|value| value.is_string())
            {
                content.insert(field.into(), value.clone());
            }
        }
        Ok(())
    }

    /// A user's membership in a room now: `Leave` also for those who never were in it.
    pub async fn membership(&self, user: &UserId, room_id: &RoomId) -> Result<MembershipState, OpError> {
        let found = self.rooms.store().graph.membership(user, room_id).await?;
        Ok(found.map_or(MembershipState::Leave, |found| found.membership))
    }

    /// The room's power levels now.
    pub async fn power_levels(&self, room: &Room) -> Result<PowerLevels, OpError> {
        let create = self.rooms.current_state(&room.room_id, "m.room.create", "").await?;
        let create = create.ok_or(samtal_room::RoomError::UnknownRoom)?;
        let levels = self.rooms.current_state(&room.room_id, "m.room.power_levels", "").await?;
        PowerLevels::new(&create.pdu, levels.as_ref().map(|event| &event.pdu), room.rules)
            .map_err(|refused| samtal_room::RoomError::Refused(refused.reason).into())
    }

    /// The content of a current state event, as far as it is an object.
    pub async fn state_content(&self, room_id: &RoomId, event_type: &str) -> Result<Option<Content>, OpError> {
        let event = self.rooms.current_state(room_id, event_type, "").await?;
        Ok(event.and_then(|event| serde_json::from_str(event.pdu.content_str()).ok()))
    }

    /// Who of us may let the user into a restricted room: a joined user of ours who may invite. Nobody, if the user meets
    /// none of the room's conditions ([`OpError::Forbidden`]) or none of us may invite (`None`).
    pub(crate) async fn restricted_authorizer(
        &self,
        room: &Room,
        user: &UserId,
    ) -> Result<Option<OwnedUserId>, OpError> {
        let rules = self.state_content(&room.room_id, "m.room.join_rules").await?.unwrap_or_default();
        if !self.meets_condition(&rules, user).await? {
            return Err(OpError::Forbidden("you are in none of the rooms that let you join this one".into()));
        }
        let levels = self.power_levels(room).await?;
        let ours = self.rooms.store().graph.joined_of(room.nid, &self.name).await?;
        let able = ours.into_iter().filter(|user| levels.can_invite(user));
        Ok(able.max_by(|one, other| levels.user_level(one).cmp(&levels.user_level(other))))
    }

    /// Whether the user is in a room that the join rules name.
    pub(crate) async fn meets_condition(&self, join_rules: &Content, user: &UserId) -> Result<bool, OpError> {
        for room_id in allowed_rooms(join_rules) {
            let Ok(room_id) = RoomId::parse(room_id) else { continue };
            // What we knew of a room when we left it says nothing of who is there now.
            if self.rooms.store().graph.is_joined(user, &room_id).await?
                && self.resident_room(&room_id).await?.is_some()
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A draft of a member event.
    pub(crate) fn member_draft(sender: &UserId, target: &UserId, content: &Content) -> Result<LocalDraft, OpError> {
        let draft = Draft::state_of(&StateEventType::RoomMember, target.as_str(), content)?;
        Ok(LocalDraft::new(sender, draft))
    }

    /// Sets a member event whose content somebody has written themselves (`PUT /state`). What it means is done, whichever
    /// way that goes: joins and invites may concern other servers.
    pub async fn set_member(
        &self,
        sender: &UserId,
        target: &UserId,
        room_id: &RoomId,
        mut content: Content,
    ) -> Result<OwnedEventId, OpError> {
        let membership = content.get("membership").and_then(Value::as_str).map(MembershipState::from);
        let membership = membership.ok_or_else(|| OpError::BadContent("membership is missing".into()))?;
        let is_self = sender == target;
        let before = self.membership(target, room_id).await?;
        // Who lets somebody in is for us to say, and where nobody enters, for nobody.
        content.remove("join_authorised_via_users_server");
        match membership {
            MembershipState::Join if is_self && before != MembershipState::Join => {
                self.join(sender, room_id, &[], content).await?;
            }
            MembershipState::Knock if is_self => self.knock(sender, room_id, &[], content).await?,
            MembershipState::Leave if is_self => self.leave(sender, room_id, content).await?,
            MembershipState::Invite => self.invite(sender, target, room_id, content).await?,
            _ => {
                self.complete_member(target, &mut content).await?;
                return Ok(self.rooms.send_one(room_id, Self::member_draft(sender, target, &content)?).await?);
            }
        }
        let event = self.rooms.current_state(room_id, "m.room.member", target.as_str()).await?;
        Ok(event.ok_or(samtal_room::RoomError::UnknownEvent)?.pdu.event_id().to_owned())
    }

    /// A user's member event as it is now, with its content.
    pub async fn member_event_content(&self, room_id: &RoomId, user: &UserId) -> Result<Option<Content>, OpError> {
        let event = self.rooms.current_state(room_id, "m.room.member", user.as_str()).await?;
        Ok(event
            .filter(|event| membership_of(&event.pdu).is_some())
            .and_then(|event| serde_json::from_str(event.pdu.content_str()).ok()))
    }
}

/// The rooms whose members may join, in the content of join rules.
pub(crate) fn allowed_rooms(join_rules: &Content) -> impl Iterator<Item = &str> {
    let rules = join_rules.get("allow").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    rules
        .iter()
        .filter(|rule| rule.get("type").and_then(Value::as_str) == Some("m.room_membership"))
        .filter_map(|rule| rule.get("room_id").and_then(Value::as_str))
}

/// The join rule in the content of join rules; `invite` when there is none.
pub fn join_rule(join_rules: Option<&Content>) -> &str {
    join_rules.and_then(|content| content.get("join_rule")).and_then(Value::as_str).unwrap_or("invite")
}
