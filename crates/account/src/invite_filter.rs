//! Whose invites a user wants (CS API, "Invite permission"; MSC4155).

use ruma::UserId;
use serde_json::Value;

use crate::{AccountError, Accounts, glob};

/// What becomes of an invite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InviteVerdict {
    /// It reaches the user.
    Allow,
    /// It is taken, and the user is not told.
    Ignore,
    /// It is refused.
    Block,
}

/// What a user has said about invites. What is not well formed says nothing: a client may have written anything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InviteFilter {
    /// `m.invite_permission_config`.
    stable: Option<Value>,
    /// `org.matrix.msc4155.invite_permission_config`.
    lists: Option<Value>,
}

impl InviteFilter {
    /// What becomes of this sender's invites. Of several rules for users, and then of several for servers, the kindest holds.
    pub fn verdict(&self, sender: &UserId) -> InviteVerdict {
        let blocks = |config: &Value| config.get("default_action").and_then(Value::as_str) == Some("block");
        if self.stable.as_ref().is_some_and(blocks) {
            return InviteVerdict::Block;
        }
        let Some(config) = &self.lists else { return InviteVerdict::Allow };
        if config.get("enabled").and_then(Value::as_bool) == Some(false) {
            return InviteVerdict::Allow;
        }
        for (kind, name) in [("users", sender.as_str()), ("servers", sender.server_name().host())] {
            for (action, verdict) in [
                ("allowed", InviteVerdict::Allow),
                ("ignored", InviteVerdict::Ignore),
                ("blocked", InviteVerdict::Block),
            ] {
                let list = config.get(format!("{action}_{kind}")).and_then(Value::as_array);
                let mut patterns = list.into_iter().flatten().filter_map(Value::as_str);
                if patterns.any(|pattern| glob::matches(pattern, name)) {
                    return verdict;
                }
            }
        }
        if blocks(config) { InviteVerdict::Block } else { InviteVerdict::Allow }
    }
}

impl Accounts {
    /// What the user has said about invites.
    pub async fn invite_filter(&self, user: &UserId) -> Result<InviteFilter, AccountError> {
        let read = async |data_type| {
            let content = self.account_data(user, None, data_type).await?;
            Ok::<_, AccountError>(content.and_then(|content| serde_json::from_str(content.get()).ok()))
        };
        Ok(InviteFilter {
            stable: read("m.invite_permission_config").await?,
            lists: read("org.matrix.msc4155.invite_permission_config").await?,
        })
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rule_for_the_user_beats_one_for_the_server_and_the_kindest_wins() {
        let verdict =
            |lists: Value| InviteFilter { stable: None, lists: Some(lists) }.verdict(user_id!("@bob:b.example:8448"));
        for (lists, expected) in [
            (json!({}), InviteVerdict::Allow),
            (json!({ "blocked_users": ["@bob:*"] }), InviteVerdict::Block),
            (json!({ "ignored_users": ["@b?b:*"], "blocked_users": ["@bob:*"] }), InviteVerdict::Ignore),
            (json!({ "allowed_users": ["@bob:*"], "blocked_servers": ["*"] }), InviteVerdict::Allow),
            (json!({ "blocked_users": ["@bob:*"], "allowed_servers": ["*"] }), InviteVerdict::Block),
            (json!({ "ignored_servers": ["b.example"] }), InviteVerdict::Ignore),
            (json!({ "enabled": false, "blocked_servers": ["*"] }), InviteVerdict::Allow),
            (json!({ "blocked_users": null, "blocked_servers": 7 }), InviteVerdict::Allow),
        ] {
            assert_eq!(verdict(lists.clone()), expected, "{lists}");
        }
        let stable = InviteFilter { stable: Some(json!({ "default_action": "block" })), lists: None };
        assert_eq!(stable.verdict(user_id!("@bob:b")), InviteVerdict::Block);
    }
}
