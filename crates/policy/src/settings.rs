//! The rules of the configuration file.

use serde::{Deserialize, Serialize};

use crate::{Action, Direction, Pattern};

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

impl Unnamed {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
        }
    }

    /// From its word.
    pub(crate) fn from_word(word: &str) -> Option<Self> {
        [Self::Open, Self::Closed].into_iter().find(|value| value.as_str() == word)
    }
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
    /// Which kind of traffic; every kind if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<Action>,
    /// Why, for the operator and for `explain`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

impl ServerRule {
    /// A rule for both directions and every kind.
    pub fn new(server: &str, reason: &str) -> Self {
        Self { server: Pattern::new(server), direction: None, action: None, reason: reason.to_owned() }
    }

    /// Whether the rule names this server, given as a host in lower case, for this direction.
    pub(crate) fn names(&self, host: &str, direction: Direction) -> bool {
        self.direction.is_none_or(|only| only == direction) && self.server.matches_lower(host)
    }
}

/// A tenant's federation rules as its file has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether there is federation at all; if not, no rule changes that.
    pub enabled: bool,
    /// For servers no rule names.
    pub default: Unnamed,
    /// These take part, also where the default is closed. With a closed default, an empty list is nobody.
    pub allow: Vec<ServerRule>,
    /// Never these, whatever the allow list says.
    pub deny: Vec<ServerRule>,
    /// Rooms shared with other servers must be encrypted: unencrypted ones are not joined, and invitations to them refused.
    pub encrypted_only: bool,
    /// If given, only rooms of these types are shared with other servers; a plain room has the type `""`.
    pub room_types: Option<Vec<String>>,
    /// Invitations from servers no allow rule names are held: refused until an operator has allowed the server.
    pub hold_unknown_invites: bool,
}

impl Default for Settings {
    /// Open to all.
    fn default() -> Self {
        Self {
            enabled: true,
            default: Unnamed::Open,
            allow: Vec::new(),
            deny: Vec::new(),
            encrypted_only: false,
            room_types: None,
            hold_unknown_invites: false,
        }
    }
}

impl Settings {
    /// Closed to all but these.
    pub fn only(servers: &[&str]) -> Self {
        let allow = servers.iter().map(|server| ServerRule::new(server, "")).collect();
        Self { default: Unnamed::Closed, allow, ..Self::default() }
    }
}
