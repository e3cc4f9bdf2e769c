//! The rules an operator writes.

use ruma::ServerName;
use serde::{Deserialize, Serialize};

use crate::{Direction, Pattern};

/// What happens to a server no rule names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unnamed {
    /// It may take part.
    #[default]
    Open,
    /// It may not.
    Closed,
}

/// One entry of the allow or deny list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerRule {
    /// Which servers.
    pub server: Pattern,
    /// In which direction; both if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    /// Why, for the operator and for `explain`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

impl ServerRule {
    /// A rule for both directions.
    pub fn new(server: &str, reason: &str) -> Self {
        Self { server: Pattern::new(server), direction: None, reason: reason.to_owned() }
    }

    pub(crate) fn applies(&self, server: &ServerName, direction: Direction) -> bool {
        self.direction.is_none_or(|only| only == direction) && self.server.matches(server)
    }
}

/// A tenant's federation rules, as stored and as written in its file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// For servers no rule names. Looked at only when there is no allow list.
    pub default: Unnamed,
    /// If there is a list, only these take part. An empty list is nobody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow: Option<Vec<ServerRule>>,
    /// Never these, whatever the allow list says.
    pub deny: Vec<ServerRule>,
    /// Rooms shared with other servers must be encrypted: unencrypted ones are not joined, and invitations to them refused.
    pub encrypted_only: bool,
    /// If given, only rooms of these types are shared with other servers; a plain room has the type `""`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room_types: Option<Vec<String>>,
    /// Invitations from servers no allow rule names wait for a person instead of reaching the user at once.
    pub hold_unknown_invites: bool,
}

/// Why a text is no [`Settings`].
#[derive(Debug, thiserror::Error)]
#[error("the federation rules cannot be read")]
pub struct SettingsError(#[from] serde_json::Error);

impl Settings {
    /// Reads the stored form.
    pub fn from_json(text: &str) -> Result<Self, SettingsError> {
        Ok(serde_json::from_str(text)?)
    }

    /// The stored form.
    pub fn to_json(&self) -> Result<String, SettingsError> {
        Ok(serde_json::to_string(self)?)
    }
}
