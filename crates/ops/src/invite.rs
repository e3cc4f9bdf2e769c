//! Inviting users, and whether they want to be invited.

use ruma::{RoomId, UserId};
use samtal_room::RoomError;
use serde_json::Value;

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
        if self.is_local(target) && self.accounts.user(target).await?.is_none() {
            // An application service makes users when somebody first asks for them. Whether it did shows in the profile below.
            self.appservices.query_user(target.as_str()).await;
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

    /// Refuses an invite that its target has said they do not want (CS API, "Invite permission").
    pub async fn check_invite(&self, sender: &UserId, target: &UserId) -> Result<(), OpError> {
        if !self.is_local(target) {
            return Ok(());
        }
        for data_type in ["m.invite_permission_config", "org.matrix.msc4155.invite_permission_config"] {
            let Some(config) = self.accounts.account_data(target, None, data_type).await? else { continue };
            // A client may have written anything here.
            let config: Value = serde_json::from_str(config.get()).unwrap_or_default();
            if !accepts(&config, sender) {
                return Err(OpError::InviteBlocked);
            }
        }
        Ok(())
    }
}

/// Whether an invite permission configuration lets this sender's invites pass. The lists by user and server are MSC4155's.
fn accepts(config: &Value, sender: &UserId) -> bool {
    if config.get("enabled").and_then(Value::as_bool) == Some(false) {
        return true;
    }
    let named = |list: &str, name: &str| {
        let list = config.get(list).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        list.iter().filter_map(Value::as_str).any(|pattern| crate::glob::matches(pattern, name))
    };
    let (user, server) = (sender.as_str(), sender.server_name().host());
    if named("allowed_users", user) {
        return true;
    }
    if named("blocked_users", user) {
        return false;
    }
    if named("allowed_servers", server) {
        return true;
    }
    if named("blocked_servers", server) {
        return false;
    }
    config.get("default_action").and_then(Value::as_str) != Some("block")
}
