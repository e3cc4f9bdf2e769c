//! The rules an operator has stored: a layer over the file's.

use serde::{Deserialize, Serialize};

use crate::{Action, Direction, ServerRule, Unnamed};

/// Whether a rule lets in or keeps out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// Lets pass.
    Allow,
    /// Keeps out.
    Deny,
}

impl Effect {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }

    /// From its word.
    pub(crate) fn from_word(word: &str) -> Option<Self> {
        [Self::Allow, Self::Deny].into_iter().find(|effect| effect.as_str() == word)
    }
}

/// A stored rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredRule {
    /// What it does.
    pub effect: Effect,
    /// To whom and what.
    #[serde(flatten)]
    pub rule: ServerRule,
    /// Since when, in ms since the epoch.
    pub since_ms: u64,
}

/// A stored setting besides rules for servers. Nothing stored leaves it to the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Setting {
    /// What holds for servers no rule names, in one direction.
    Default {
        /// Which.
        direction: Direction,
        /// What holds.
        unnamed: Option<Unnamed>,
    },
    /// Whether shared rooms must be encrypted.
    EncryptedOnly(Option<bool>),
    /// Whether invitations of servers nobody named wait for a person.
    HoldUnknownInvites(Option<bool>),
    /// Rooms of which types are shared.
    RoomTypes(Option<RoomTypes>),
}

/// Rooms of which types are shared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoomTypes {
    /// Of any.
    Any,
    /// Of these only; a plain room has the type `""`.
    Only(Vec<String>),
}

impl RoomTypes {
    /// As it is stored: `any`, or a JSON list.
    fn to_text(&self) -> String {
        match self {
            Self::Any => "any".to_owned(),
            Self::Only(types) => serde_json::json!(types).to_string(),
        }
    }

    /// From its text. What cannot be read shares nothing.
    fn from_text(text: &str) -> Self {
        match text {
            "any" => Self::Any,
            list => Self::Only(serde_json::from_str(list).unwrap_or_default()),
        }
    }

    /// The types that are shared; nothing for any.
    pub fn only(&self) -> Option<&[String]> {
        match self {
            Self::Any => None,
            Self::Only(types) => Some(types),
        }
    }
}

impl Setting {
    /// Its name and, if it is stored, its value.
    pub(crate) fn row(&self) -> (&'static str, Option<String>) {
        let switch = |on: bool| if on { "on" } else { "off" }.to_owned();
        let default = |unnamed: Option<Unnamed>| unnamed.map(|unnamed| unnamed.as_str().to_owned());
        match self {
            Self::Default { direction: Direction::Inbound, unnamed } => ("default_inbound", default(*unnamed)),
            Self::Default { direction: Direction::Outbound, unnamed } => ("default_outbound", default(*unnamed)),
            Self::EncryptedOnly(on) => ("encrypted_only", on.map(switch)),
            Self::HoldUnknownInvites(on) => ("hold_unknown_invites", on.map(switch)),
            Self::RoomTypes(types) => ("room_types", types.as_ref().map(RoomTypes::to_text)),
        }
    }
}

/// All that is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Rules, by pattern.
    pub rules: Vec<StoredRule>,
    /// What holds for servers no rule names, from them to us.
    pub default_inbound: Option<Unnamed>,
    /// The same, from us to them.
    pub default_outbound: Option<Unnamed>,
    /// Whether shared rooms must be encrypted.
    pub encrypted_only: Option<bool>,
    /// Whether invitations of servers nobody named wait for a person.
    pub hold_unknown_invites: Option<bool>,
    /// Rooms of which types are shared.
    pub room_types: Option<RoomTypes>,
}

impl Stored {
    /// Takes in a row of the settings. A row that a later version wrote is left alone.
    pub(crate) fn take(&mut self, name: &str, value: &str) {
        let switch = match value {
            "on" => Some(true),
            "off" => Some(false),
            _ => None,
        };
        match name {
            "default_inbound" => self.default_inbound = Unnamed::from_word(value),
            "default_outbound" => self.default_outbound = Unnamed::from_word(value),
            "encrypted_only" => self.encrypted_only = switch,
            "hold_unknown_invites" => self.hold_unknown_invites = switch,
            "room_types" => self.room_types = Some(RoomTypes::from_text(value)),
            _ => {}
        }
    }

    /// The stored default of a direction.
    pub(crate) fn default_of(&self, direction: Direction) -> Option<Unnamed> {
        match direction {
            Direction::Inbound => self.default_inbound,
            Direction::Outbound => self.default_outbound,
        }
    }

    /// The first rule of this effect that decides about the server.
    pub(crate) fn first(
        &self,
        effect: Effect,
        host: &str,
        direction: Direction,
        covers: impl Fn(Option<Action>) -> bool,
    ) -> Option<&StoredRule> {
        self.rules
            .iter()
            .find(|stored| stored.effect == effect && covers(stored.rule.action) && stored.rule.names(host, direction))
    }
}
