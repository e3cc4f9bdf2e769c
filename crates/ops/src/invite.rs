//! Inviting users, and whether they want to be invited.

use ruma::{RoomId, UserId};
use samtal_account::InviteVerdict;
use samtal_room::RoomError;

use crate::{Homeserver, OpError, member::Content};

impl Homeserver {
    /// Invites a user, of ours or of another server. `extra` may hold `reason` and `is_direct`.
    pub async fn invite(
        &self,
        sender: &UserId,
        target: &UserId,
        room_id: &RoomId,
        extra: Content,
    ) -> Result<(), OpError> {
        if self.rooms.is_blocked(room_id).await? {
            return Err(RoomError::Blocked.into());
        }
        self.check_invite(sender, target).await?;
        let mut content = extra;
        content.insert("membership".into(), "invite".into());
        self.complete_member(target, &mut content).await?;
        if self.is_local(target) {
            let draft = Self::member_draft(sender, target, &content)?;
            self.rooms.send_one(room_id, draft).await?;
            return Ok(());
        }
        // What they are in the room must be known.
        self.rooms.until_whole(room_id).await?;
        self.invite_remote(sender, target, room_id, content).await
    }

    /// Refuses an invite that its target has said they do not want (CS API, "Invite permission"). A target of ours that we
    /// do not know is asked for first.
    pub(crate) async fn check_invite(&self, sender: &UserId, target: &UserId) -> Result<(), OpError> {
        if !self.is_local(target) {
            return Ok(());
        }
        if self.accounts.user(target).await?.is_none() {
            // An application service makes users when somebody first asks for them. Whether it did shows in their profile.
            self.appservices.query_user(target.as_str()).await;
        }
        match self.accounts.invite_filter(target).await?.verdict(sender) {
            InviteVerdict::Allow | InviteVerdict::Ignore => Ok(()),
            InviteVerdict::Block => Err(OpError::InviteBlocked),
        }
    }
}
