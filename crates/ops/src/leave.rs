//! Getting out of a room, and being put out of it.

use ruma::{RoomId, UserId, events::room::member::MembershipState};
use samtal_room::Expected;

use crate::{Homeserver, OpError, member::Content};

impl Homeserver {
    /// Lets a user of ours leave a room, refuse an invite or take back a knock. Leaving again changes nothing.
    pub async fn leave(&self, user: &UserId, room_id: &RoomId, extra: Content) -> Result<(), OpError> {
        let known = self.rooms.store().graph.membership(user, room_id).await?;
        let Some(known) = known else {
            return Err(match self.rooms.store().graph.room(room_id).await? {
                Some(_) => OpError::Forbidden("you are not in the room".into()),
                None => OpError::NotFound("the room is not known here".into()),
            });
        };
        if known.membership == MembershipState::Leave {
            return Ok(());
        }
        if known.membership == MembershipState::Invite
            && self.notice_sender().is_ok_and(|sender| sender == known.sender)
            && self.is_notice_room(room_id).await?
        {
            return Err(OpError::NoticeRoom);
        }
        self.part(user, room_id, extra).await
    }

    /// As [`Self::leave`], for what the server does with its users: also invites that they may not refuse are refused.
    pub(crate) async fn part(&self, user: &UserId, room_id: &RoomId, extra: Content) -> Result<(), OpError> {
        let mut content = extra;
        content.insert("membership".into(), "leave".into());
        if self.resident_room(room_id).await?.is_none() {
            return self.leave_remote(user, room_id, content).await;
        }
        let draft = Self::member_draft(user, user, &content)?;
        self.rooms.send_one(room_id, draft).await?;
        Ok(())
    }

    /// Puts a user out of the room. They must be in it, invited or knocking.
    pub async fn kick(
        &self,
        sender: &UserId,
        target: &UserId,
        room_id: &RoomId,
        extra: Content,
    ) -> Result<(), OpError> {
        use MembershipState::{Invite, Join, Knock, Leave};
        let expected = (vec![Join, Invite, Knock], "the user is not in the room");
        self.moderate(sender, target, room_id, &Leave, extra, Some(expected)).await
    }

    /// Bans a user, whether in the room or not.
    pub async fn ban(&self, sender: &UserId, target: &UserId, room_id: &RoomId, extra: Content) -> Result<(), OpError> {
        self.moderate(sender, target, room_id, &MembershipState::Ban, extra, None).await
    }

    /// Lifts a ban.
    pub async fn unban(
        &self,
        sender: &UserId,
        target: &UserId,
        room_id: &RoomId,
        extra: Content,
    ) -> Result<(), OpError> {
        let expected = (vec![MembershipState::Ban], "the user is not banned");
        self.moderate(sender, target, room_id, &MembershipState::Leave, extra, Some(expected)).await
    }

    async fn moderate(
        &self,
        sender: &UserId,
        target: &UserId,
        room_id: &RoomId,
        membership: &MembershipState,
        extra: Content,
        expected: Option<(Vec<MembershipState>, &str)>,
    ) -> Result<(), OpError> {
        let mut content = extra;
        content.insert("membership".into(), membership.as_str().into());
        if !self.is_local(target) {
            // What they are in the room must be known.
            self.rooms.until_whole(room_id).await?;
        }
        let draft = Self::member_draft(sender, target, &content)?;
        let expected = expected.map(|(memberships, otherwise)| Expected {
            user: target.to_owned(),
            memberships,
            otherwise: otherwise.to_owned(),
        });
        self.rooms.send_if(room_id, vec![draft], expected).await?;
        Ok(())
    }
}
