//! Questions, answers, and the count of both.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::RwLock;
use ruma::{OwnedServerName, RoomId, ServerName};
use serde::{Deserialize, Serialize};

use crate::{
    Acl, Settings,
    settings::{ServerRule, Unnamed},
};

/// Most servers whose refusals are counted one by one; the rest are counted together.
const DENIED_SERVERS_MAX: usize = 10_000;

/// From where to where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From the other server to us.
    Inbound,
    /// From us to the other server.
    Outbound,
}

/// What is about to pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// A request of any kind.
    Request,
    /// A request about one room, by a server that wants to read or change it.
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

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Request => "request",
            Self::Room => "room",
            Self::Invite => "invite",
            Self::Join => "join",
            Self::Event => "event",
            Self::Edu => "edu",
            Self::Media => "media",
        })
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
}

impl<'a> Question<'a> {
    /// A question that is about no room.
    pub fn new(server: &'a ServerName, direction: Direction, action: Action) -> Self {
        Self { server, direction, action, room: RoomFacts::default() }
    }

    /// The same question about a room.
    pub fn room(mut self, room: RoomFacts<'a>) -> Self {
        self.room = room;
        self
    }
}

/// The rule that decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// An entry of the deny list.
    Denied(String),
    /// There is an allow list, and it does not name the server.
    NotAllowed,
    /// The default is closed.
    Closed,
    /// The room's server access control list.
    Acl,
    /// The room says that it does not federate.
    NotFederated,
    /// Shared rooms must be encrypted.
    NotEncrypted,
    /// Rooms of this type are not shared.
    RoomType(String),
    /// Invitations of servers that nobody named wait.
    UnknownInvite,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(pattern) => write!(f, "the deny list names it as {pattern}"),
            Self::NotAllowed => f.write_str("the allow list does not name it"),
            Self::Closed => f.write_str("federation is closed by default"),
            Self::Acl => f.write_str("the room's server ACL refuses it"),
            Self::NotFederated => f.write_str("the room does not federate"),
            Self::NotEncrypted => f.write_str("the room is not encrypted"),
            Self::RoomType(kind) => write!(f, "rooms of type {kind:?} are not shared"),
            Self::UnknownInvite => f.write_str("invitations from servers nobody named wait for a person"),
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

/// How often something was refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Questions answered with allow.
    pub allowed: u64,
    /// Questions answered with deny or hold.
    pub denied: u64,
    /// Refusals by server.
    pub denied_by_server: BTreeMap<OwnedServerName, u64>,
}

/// The policy point of one tenant. Cheap to clone; all clones see a change of the settings at once.
#[derive(Clone, Default)]
pub struct Policy {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    settings: RwLock<Arc<Settings>>,
    allowed: AtomicU64,
    denied: AtomicU64,
    by_server: RwLock<BTreeMap<OwnedServerName, u64>>,
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Policy")
    }
}

impl Policy {
    /// A policy point with these rules.
    pub fn new(settings: Settings) -> Self {
        let policy = Self::default();
        policy.replace(settings);
        policy
    }

    /// Puts new rules in force, from the next question on.
    pub fn replace(&self, settings: Settings) {
        *self.inner.settings.write() = Arc::new(settings);
    }

    /// The rules in force.
    pub fn settings(&self) -> Arc<Settings> {
        self.inner.settings.read().clone()
    }

    /// Answers a question and counts the answer.
    pub fn review(&self, question: &Question<'_>) -> Decision {
        let decision = decide(&self.settings(), question);
        match &decision {
            Decision::Allow => {
                self.inner.allowed.fetch_add(1, Ordering::Relaxed);
            }
            Decision::Deny(_) | Decision::Hold(_) => self.count_denied(question.server),
        }
        decision
    }

    /// What would happen to this server, in words, one line for each thing an operator asks about. Counts nothing.
    pub fn explain(&self, server: &ServerName) -> Vec<String> {
        let settings = self.settings();
        let mut lines = Vec::new();
        for direction in [Direction::Inbound, Direction::Outbound] {
            let word = if direction == Direction::Inbound { "from" } else { "to" };
            lines.push(match decide(&settings, &Question::new(server, direction, Action::Request)) {
                Decision::Allow => {
                    format!("requests {word} {server}: allowed, {}", why_allowed(&settings, server, direction))
                }
                Decision::Deny(Denial { rule, reason }) if reason.is_empty() => {
                    format!("requests {word} {server}: denied, {rule}")
                }
                Decision::Deny(Denial { rule, reason }) => {
                    format!("requests {word} {server}: denied, {rule} ({reason})")
                }
                Decision::Hold(rule) => format!("requests {word} {server}: held, {rule}"),
            });
        }
        let denied = self.inner.by_server.read().get(server).copied().unwrap_or(0);
        lines.push(format!("refused so far: {denied}"));
        lines
    }

    /// How often something was allowed and refused since the start.
    pub fn counts(&self) -> Counts {
        Counts {
            allowed: self.inner.allowed.load(Ordering::Relaxed),
            denied: self.inner.denied.load(Ordering::Relaxed),
            denied_by_server: self.inner.by_server.read().clone(),
        }
    }

    fn count_denied(&self, server: &ServerName) {
        self.inner.denied.fetch_add(1, Ordering::Relaxed);
        let mut by_server = self.inner.by_server.write();
        if let Some(count) = by_server.get_mut(server) {
            *count += 1;
        } else if by_server.len() < DENIED_SERVERS_MAX {
            by_server.insert(server.to_owned(), 1);
        }
    }
}

fn first<'a>(rules: &'a [ServerRule], server: &ServerName, direction: Direction) -> Option<&'a ServerRule> {
    rules.iter().find(|rule| rule.applies(server, direction))
}

fn why_allowed(settings: &Settings, server: &ServerName, direction: Direction) -> String {
    match settings.allow.as_deref().and_then(|rules| first(rules, server, direction)) {
        Some(rule) if rule.reason.is_empty() => format!("the allow list names it as {}", rule.server),
        Some(rule) => format!("the allow list names it as {} ({})", rule.server, rule.reason),
        None => "federation is open by default".to_owned(),
    }
}

/// The rules in their order. Pure: the same settings and question always give the same answer.
fn decide(settings: &Settings, question: &Question<'_>) -> Decision {
    let Question { server, direction, action, room } = *question;
    let deny = |rule| Decision::Deny(Denial { rule, reason: String::new() });

    if let Some(rule) = first(&settings.deny, server, direction) {
        return Decision::Deny(Denial { rule: Rule::Denied(rule.server.to_string()), reason: rule.reason.clone() });
    }
    let named = settings.allow.as_deref().and_then(|rules| first(rules, server, direction)).is_some();
    match (&settings.allow, settings.default) {
        (Some(_), _) if named => {}
        (Some(_), _) => return deny(Rule::NotAllowed),
        (None, Unnamed::Closed) => return deny(Rule::Closed),
        (None, Unnamed::Open) => {}
    }

    // The list binds what others do here. Events still go out to a refused server that has members: it needs them to leave.
    if direction == Direction::Inbound && room.acl.is_some_and(|acl| !acl.permits(server)) {
        return deny(Rule::Acl);
    }
    if matches!(action, Action::Invite | Action::Join) {
        if room.federate == Some(false) {
            return deny(Rule::NotFederated);
        }
        if settings.encrypted_only && room.encrypted == Some(false) {
            return deny(Rule::NotEncrypted);
        }
        if let (Some(types), Some(kind)) = (&settings.room_types, room.room_type)
            && !types.iter().any(|allowed| allowed == kind)
        {
            return deny(Rule::RoomType(kind.to_owned()));
        }
        if settings.hold_unknown_invites && action == Action::Invite && direction == Direction::Inbound && !named {
            return Decision::Hold(Rule::UnknownInvite);
        }
    }
    Decision::Allow
}

#[cfg(test)]
mod tests;
