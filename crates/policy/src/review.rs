//! Questions and answers.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
};

use parking_lot::RwLock;
use ruma::{RoomId, ServerName};
use serde::{Deserialize, Serialize};

use crate::{
    Acl, Effect, Settings, Stored, Unnamed,
    settings::ServerRule,
    tally::{Tally, Totals},
};

/// From where to where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From the other server to us.
    Inbound,
    /// From us to the other server.
    Outbound,
}

impl Direction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Inbound, Self::Outbound];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }

    /// From its word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|direction| direction.as_str() == word)
    }
}

/// What is about to pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// A request of any kind: asked first of each, before it is known what it carries. It passes if anything may.
    Request,
    /// A question about users, devices, aliases, public rooms or spaces.
    Query,
    /// A request about one room, by a server that wants to read it or leave it.
    Room,
    /// An invitation.
    Invite,
    /// A join, or a knock.
    Join,
    /// An event of a room.
    Event,
    /// A passing message (EDU).
    Edu,
    /// A media file.
    Media,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::Request, Self::Query, Self::Room, Self::Invite, Self::Join, Self::Event, Self::Edu, Self::Media];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Query => "query",
            Self::Room => "room",
            Self::Invite => "invite",
            Self::Join => "join",
            Self::Event => "event",
            Self::Edu => "edu",
            Self::Media => "media",
        }
    }

    /// From its word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.as_str() == word)
    }

    /// What a signed request to this path carries, if its path says so and nothing later asks with more knowledge.
    pub fn of_path(path: &str) -> Option<Self> {
        let rest = path.strip_prefix("/_matrix/federation/")?;
        let (_version, rest) = rest.split_once('/')?;
        let first = rest.split(['/', '?']).next().unwrap_or_default();
        match first {
            "media" => Some(Self::Media),
            "query" | "user" | "publicRooms" | "hierarchy" => Some(Self::Query),
            _ => None,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the caller knows about the room in question. `None` is "not known", which no rule holds against it.
#[derive(Clone, Copy, Debug, Default)]
pub struct RoomFacts<'a> {
    /// The room.
    pub id: Option<&'a RoomId>,
    /// Its server access control list in force.
    pub acl: Option<&'a Acl>,
    /// The `type` of its create event, `""` for a plain room.
    pub room_type: Option<&'a str>,
    /// Whether it is encrypted.
    pub encrypted: Option<bool>,
    /// `m.federate` of its create event.
    pub federate: Option<bool>,
}

/// One question to the policy point.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The other server.
    pub server: &'a ServerName,
    /// From where to where.
    pub direction: Direction,
    /// What is about to pass.
    pub action: Action,
    /// The room it is about, if it is about one.
    pub room: RoomFacts<'a>,
    /// Of an invitation: whether its target has said not to want it (`m.invite_permission_config`, MSC4155).
    pub is_unwanted: bool,
}

impl<'a> Question<'a> {
    /// A question that is about no room.
    pub fn new(server: &'a ServerName, direction: Direction, action: Action) -> Self {
        Self { server, direction, action, room: RoomFacts::default(), is_unwanted: false }
    }

    /// The same question about a room.
    pub fn room(mut self, room: RoomFacts<'a>) -> Self {
        self.room = room;
        self
    }

    /// The same question about an invitation that its target may not want.
    pub fn unwanted(mut self, is_unwanted: bool) -> Self {
        self.is_unwanted = is_unwanted;
        self
    }
}

/// The rule that decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Federation is switched off.
    Off,
    /// An entry of the deny list, as stored or in the file.
    Denied(String),
    /// No rule names it, and the default is closed.
    Closed,
    /// The room's server access control list.
    Acl,
    /// The room says that it does not federate.
    NotFederated,
    /// Shared rooms must be encrypted.
    NotEncrypted,
    /// Rooms of this type are not shared.
    RoomType(String),
    /// Who is invited does not want invitations of this sender.
    NotWanted,
    /// Invitations of servers that nobody named wait.
    UnknownInvite,
}

impl Rule {
    /// A word for it that stays the same.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Denied(_) => "denied",
            Self::Closed => "closed",
            Self::Acl => "acl",
            Self::NotFederated => "not_federated",
            Self::NotEncrypted => "not_encrypted",
            Self::RoomType(_) => "room_type",
            Self::NotWanted => "not_wanted",
            Self::UnknownInvite => "unknown_invite",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("federation is switched off"),
            Self::Denied(pattern) => write!(f, "the deny list names it as {pattern}"),
            Self::Closed => f.write_str("no rule names it, and federation is closed by default"),
            Self::Acl => f.write_str("the room's server ACL refuses it"),
            Self::NotFederated => f.write_str("the room does not federate"),
            Self::NotEncrypted => f.write_str("the room is not encrypted"),
            Self::RoomType(kind) => write!(f, "rooms of type {kind:?} are not shared"),
            Self::NotWanted => f.write_str("who is invited does not want invitations of this sender"),
            Self::UnknownInvite => {
                f.write_str("no rule names the server, and invitations of such wait for an operator to allow it")
            }
        }
    }
}

/// A refusal, with the rule and the operator's reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rule}")]
pub struct Denial {
    /// The rule that decided.
    pub rule: Rule,
    /// The operator's words, or empty. Never sent to the other server.
    pub reason: String,
}

/// The answer of the policy point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Go on.
    Allow,
    /// Do not.
    Deny(Denial),
    /// Keep it until a person has decided.
    Hold(Rule),
}

impl Decision {
    /// Turns a refusal, or a hold, into an error.
    pub fn permit(self) -> Result<(), Denial> {
        match self {
            Self::Allow => Ok(()),
            Self::Deny(denial) => Err(denial),
            Self::Hold(rule) => Err(Denial { rule, reason: String::new() }),
        }
    }
}

/// How many questions of one kind had one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decided {
    /// From where to where.
    pub direction: Direction,
    /// What was about to pass.
    pub action: Action,
    /// `allow`, `deny` or `hold`.
    pub outcome: &'static str,
    /// How many, since the start.
    pub count: u64,
}

/// The policy point of one tenant. Cheap to clone; all clones see a change of the rules at once.
#[derive(Clone, Default)]
pub struct Policy {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    rules: RwLock<Arc<Rules>>,
    totals: Totals,
    tally: Tally,
}

/// The rules in force: the file's, and those stored over them.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    pub(crate) file: Settings,
    pub(crate) stored: Stored,
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Policy")
    }
}

impl Policy {
    /// A policy point with these rules of the file, and none stored.
    pub fn new(settings: Settings) -> Self {
        let policy = Self::default();
        policy.replace(settings);
        policy
    }

    /// Puts new rules of the file in force, from the next question on.
    pub fn replace(&self, file: Settings) {
        let mut rules = self.inner.rules.write();
        let stored = rules.stored.clone();
        *rules = Arc::new(Rules { file, stored });
    }

    /// Puts new stored rules in force, from the next question on.
    pub(crate) fn replace_stored(&self, stored: Stored) {
        let mut rules = self.inner.rules.write();
        let file = rules.file.clone();
        *rules = Arc::new(Rules { file, stored });
    }

    /// The rules of the file that are in force.
    pub fn settings(&self) -> Settings {
        self.rules().file.clone()
    }

    pub(crate) fn rules(&self) -> Arc<Rules> {
        self.inner.rules.read().clone()
    }

    pub(crate) fn tally(&self) -> &Tally {
        &self.inner.tally
    }

    /// Whether what passes between servers must be about encrypted rooms.
    pub fn encrypted_only(&self) -> bool {
        let rules = self.rules();
        rules.stored.encrypted_only.unwrap_or(rules.file.encrypted_only)
    }

    /// Answers a question and counts the answer.
    pub fn review(&self, question: &Question<'_>) -> Decision {
        let decision = decide(&self.rules(), question);
        let (outcome, rule) = match &decision {
            Decision::Allow => (0, None),
            Decision::Deny(denial) => (1, Some(&denial.rule)),
            Decision::Hold(rule) => (2, Some(rule)),
        };
        self.inner.totals.add(question.direction, question.action, outcome);
        if let Some(rule) = rule {
            self.inner.tally.add(question, rule);
        }
        decision
    }

    /// How many questions of each kind had which answer since the start. Those that never were asked are left out.
    pub fn decided(&self) -> Vec<Decided> {
        let mut decided = Vec::new();
        for (direction, action, outcome, counter) in self.inner.totals.iter() {
            let count = counter.load(Ordering::Relaxed);
            if count > 0 {
                decided.push(Decided { direction, action, outcome, count });
            }
        }
        decided
    }
}

/// Where a server stands with the lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Denied { pattern: String, reason: String, is_stored: bool },
    Allowed { pattern: String, reason: String, is_stored: bool },
    Unnamed { default: Unnamed, is_stored: bool },
}

/// Looks a server up: the stored layer before the file's, in each of them deny before allow, then the default.
pub(crate) fn standing(rules: &Rules, server: &ServerName, direction: Direction, action: Action) -> Standing {
    let host = server.host().to_lowercase();
    // A request passes if anything may: a rule for one kind lets it in, only one for every kind keeps it out.
    let allows = |only: Option<Action>| only.is_none_or(|only| only == action || action == Action::Request);
    let denies = |only: Option<Action>| only.is_none_or(|only| only == action);
    let Rules { file, stored } = rules;
    let denied = |rule: &ServerRule, is_stored| Standing::Denied {
        pattern: rule.server.to_string(),
        reason: rule.reason.clone(),
        is_stored,
    };
    let allowed = |rule: &ServerRule, is_stored| Standing::Allowed {
        pattern: rule.server.to_string(),
        reason: rule.reason.clone(),
        is_stored,
    };
    if let Some(rule) = stored.first(Effect::Deny, &host, direction, denies) {
        return denied(&rule.rule, true);
    }
    if let Some(rule) = stored.first(Effect::Allow, &host, direction, allows) {
        return allowed(&rule.rule, true);
    }
    let of_file = |list: &'_ [ServerRule], covers: &dyn Fn(Option<Action>) -> bool| {
        list.iter().find(|rule| covers(rule.action) && rule.names(&host, direction)).cloned()
    };
    if let Some(rule) = of_file(&file.deny, &denies) {
        return denied(&rule, false);
    }
    if let Some(rule) = of_file(&file.allow, &allows) {
        return allowed(&rule, false);
    }
    match stored.default_of(direction) {
        Some(default) => Standing::Unnamed { default, is_stored: true },
        None => Standing::Unnamed { default: file.default, is_stored: false },
    }
}

/// The rules in their order. Pure: the same rules and question always give the same answer.
pub(crate) fn decide(rules: &Rules, question: &Question<'_>) -> Decision {
    let Question { server, direction, action, room, is_unwanted } = *question;
    let deny = |rule| Decision::Deny(Denial { rule, reason: String::new() });
    if !rules.file.enabled {
        return deny(Rule::Off);
    }
    let is_named = match standing(rules, server, direction, action) {
        Standing::Denied { pattern, reason, .. } => {
            return Decision::Deny(Denial { rule: Rule::Denied(pattern), reason });
        }
        Standing::Allowed { .. } => true,
        Standing::Unnamed { default: Unnamed::Closed, .. } => return deny(Rule::Closed),
        Standing::Unnamed { default: Unnamed::Open, .. } => false,
    };
    // The list binds what others do here. Events still go out to a refused server that has members: it needs them to leave.
    if direction == Direction::Inbound && room.acl.is_some_and(|acl| !acl.permits(server)) {
        return deny(Rule::Acl);
    }
    if !matches!(action, Action::Invite | Action::Join) {
        return Decision::Allow;
    }
    let Rules { file, stored } = rules;
    if room.federate == Some(false) {
        return deny(Rule::NotFederated);
    }
    if stored.encrypted_only.unwrap_or(file.encrypted_only) && room.encrypted == Some(false) {
        return deny(Rule::NotEncrypted);
    }
    let types = match &stored.room_types {
        Some(types) => types.only(),
        None => file.room_types.as_deref(),
    };
    if let (Some(types), Some(kind)) = (types, room.room_type)
        && !types.iter().any(|allowed| allowed == kind)
    {
        return deny(Rule::RoomType(kind.to_owned()));
    }
    if is_unwanted {
        return deny(Rule::NotWanted);
    }
    let holds = stored.hold_unknown_invites.unwrap_or(file.hold_unknown_invites);
    if holds && action == Action::Invite && direction == Direction::Inbound && !is_named {
        return Decision::Hold(Rule::UnknownInvite);
    }
    Decision::Allow
}

#[cfg(test)]
mod tests;
