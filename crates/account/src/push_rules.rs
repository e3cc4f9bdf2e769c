//! Push rules: which events a user wants to be told of. They are kept as account data of their own type.
//!
//! Rules are kept as the JSON that clients sent, so that conditions which this version does not know, and rules for rooms
//! by another name than an id, come back as they were. [`PushRules::ruleset`] is what can be evaluated of them.

use ruma::{
    UserId,
    push::{Action, ConditionalPushRule, PatternedPushRule, Ruleset, SimplePushRule},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use crate::{AccountError, Accounts, data::PUSH_RULES};

/// Longest set of rules, in rules of all kinds together.
pub const PUSH_RULES_MAX: usize = 2_000;

/// The rule that switches all others off: it always comes first.
const MASTER: &str = ".m.rule.master";

/// The kinds of rules, in the order in which they are looked at. `postcontent` (MSC4306) holds rules of the server only.
pub const PUSH_RULE_KINDS: [&str; 6] = ["override", "content", POST_CONTENT, "room", "sender", "underride"];

const POST_CONTENT: &str = "postcontent";
const UNSUBSCRIBED_THREAD: &str = ".io.element.msc4306.rule.unsubscribed_thread";
const SUBSCRIBED_THREAD: &str = ".io.element.msc4306.rule.subscribed_thread";

/// All push rules of a user.
#[derive(Clone, Debug, PartialEq)]
pub struct PushRules(Map<String, Value>);

/// A rule as a client wants it.
#[derive(Clone, Debug)]
pub struct NewPushRule {
    /// Its id among the rules of its kind.
    pub id: String,
    /// `actions`.
    pub actions: Vec<Value>,
    /// `conditions`, for `override` and `underride`.
    pub conditions: Option<Vec<Value>>,
    /// `pattern`, for `content`.
    pub pattern: Option<String>,
    /// The rule that it comes before.
    pub before: Option<String>,
    /// The rule that it comes after.
    pub after: Option<String>,
}

/// Why push rules cannot be changed like this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushRuleError {
    /// There is no such kind of rules.
    #[error("there is no such kind of push rules")]
    UnknownKind,
    /// There is no such rule.
    #[error("there is no such push rule")]
    NotFound,
    /// The rule that it should come before or after is not there, or is the rule itself.
    #[error("the rule to come before or after is not there")]
    UnknownNeighbor,
    /// It would touch what is the server's.
    #[error("the server's own rules cannot be made, removed or surrounded")]
    ServerDefault,
    /// The id is not one that rules may have.
    #[error("a rule's id has 1 to 255 bytes, and no slashes")]
    InvalidId,
    /// A condition or action is not well formed.
    #[error("{0} is missing or not well formed")]
    Malformed(&'static str),
    /// There are too many.
    #[error("there are too many push rules")]
    TooMany,
}

impl PushRules {
    /// What is kept, with the server's rules as this version has them.
    fn new(user: &UserId, content: Option<Value>) -> Self {
        let mut kept = content.and_then(|mut content| content.get_mut("global").map(Value::take)).unwrap_or_default();
        let server = server_default(user);
        let mut rules = Map::new();
        for kind in PUSH_RULE_KINDS {
            let kept = match kept.get_mut(kind).map(Value::take) {
                Some(Value::Array(kept)) => kept,
                _ => Vec::new(),
            };
            let server = server.get(kind).and_then(Value::as_array).cloned().unwrap_or_default();
            rules.insert(kind.to_owned(), Value::Array(merge(kept, server)));
        }
        Self(rules)
    }

    /// The rules of somebody who has changed none.
    pub fn unchanged(user: &UserId) -> Self {
        Self::new(user, None)
    }

    /// All rules by kind: the value of `global`.
    pub fn global(&self) -> &Map<String, Value> {
        &self.0
    }

    /// The rules of a kind.
    pub fn of_kind(&self, kind: &str) -> Result<&[Value], PushRuleError> {
        self.0.get(kind).and_then(Value::as_array).map(Vec::as_slice).ok_or(PushRuleError::UnknownKind)
    }

    fn of_kind_mut(&mut self, kind: &str) -> Result<&mut Vec<Value>, PushRuleError> {
        self.0.get_mut(kind).and_then(Value::as_array_mut).ok_or(PushRuleError::UnknownKind)
    }

    /// A rule.
    pub fn get(&self, kind: &str, id: &str) -> Result<&Value, PushRuleError> {
        self.of_kind(kind)?.iter().find(|rule| has_id(rule, id)).ok_or(PushRuleError::NotFound)
    }

    fn set(&mut self, kind: &str, id: &str, field: &str, value: Value) -> Result<(), PushRuleError> {
        let rule = self.of_kind_mut(kind)?.iter_mut().find(|rule| has_id(rule, id)).ok_or(PushRuleError::NotFound)?;
        if let Some(rule) = rule.as_object_mut() {
            rule.insert(field.to_owned(), value);
        }
        Ok(())
    }

    /// Switches a rule on or off.
    pub fn set_enabled(&mut self, kind: &str, id: &str, enabled: bool) -> Result<(), PushRuleError> {
        self.set(kind, id, "enabled", enabled.into())
    }

    /// Gives a rule other actions.
    pub fn set_actions(&mut self, kind: &str, id: &str, actions: Vec<Value>) -> Result<(), PushRuleError> {
        check_actions(&actions)?;
        self.set(kind, id, "actions", actions.into())
    }

    /// Removes a rule.
    pub fn remove(&mut self, kind: &str, id: &str) -> Result<(), PushRuleError> {
        let at = self.position(kind, id)?.ok_or(PushRuleError::NotFound)?;
        if id.starts_with('.') {
            return Err(PushRuleError::ServerDefault);
        }
        self.of_kind_mut(kind)?.remove(at);
        Ok(())
    }

    fn position(&self, kind: &str, id: &str) -> Result<Option<usize>, PushRuleError> {
        Ok(self.of_kind(kind)?.iter().position(|rule| has_id(rule, id)))
    }

    /// Adds a rule or changes it. A changed one stays where and as enabled as it was, unless it is to come somewhere else;
    /// a new one comes before all others of its kind.
    pub fn put(&mut self, kind: &str, new: NewPushRule) -> Result<(), PushRuleError> {
        self.of_kind(kind)?;
        if kind == POST_CONTENT {
            return Err(PushRuleError::ServerDefault);
        }
        check_id(&new.id)?;
        check_actions(&new.actions)?;
        let mut rule = json!({ "rule_id": new.id, "default": false, "enabled": true, "actions": new.actions });
        match kind {
            "override" | "underride" => {
                let conditions = new.conditions.ok_or(PushRuleError::Malformed("conditions"))?;
                if !conditions.iter().all(|condition| condition.get("kind").is_some_and(Value::is_string)) {
                    return Err(PushRuleError::Malformed("conditions"));
                }
                rule["conditions"] = conditions.into();
            }
            "content" => rule["pattern"] = new.pattern.ok_or(PushRuleError::Malformed("pattern"))?.into(),
            _ => {}
        }
        let neighbors = [new.before.as_deref(), new.after.as_deref()];
        if neighbors.iter().flatten().any(|neighbor| neighbor.starts_with('.')) {
            return Err(PushRuleError::ServerDefault);
        }
        let known = self.position(kind, &new.id)?;
        if let Some(enabled) = known.and_then(|at| self.of_kind(kind).ok()?.get(at)?.get("enabled")) {
            rule["enabled"] = enabled.clone();
        }
        let rules = self.of_kind_mut(kind)?;
        let mut left: Vec<&Value> = rules.iter().filter(|rule| !has_id(rule, &new.id)).collect();
        let find =
            |neighbor: &str| left.iter().position(|rule| has_id(rule, neighbor)).ok_or(PushRuleError::UnknownNeighbor);
        let at = match (new.before.as_deref(), new.after.as_deref(), known) {
            (Some(before), _, _) => find(before)?,
            (None, Some(after), _) => find(after)? + 1,
            (None, None, Some(known)) => known,
            (None, None, None) => usize::from(left.first().is_some_and(|first| has_id(first, MASTER))),
        };
        left.insert(at, &rule);
        *rules = left.into_iter().cloned().collect();
        let count: usize = self.0.values().filter_map(Value::as_array).map(Vec::len).sum();
        if count > PUSH_RULES_MAX { Err(PushRuleError::TooMany) } else { Ok(()) }
    }

    /// What can be evaluated of the rules.
    pub fn ruleset(&self) -> Ruleset {
        let mut rules = Ruleset::new();
        rules.override_ = self.parsed::<ConditionalPushRule>("override").collect();
        rules.content = self.parsed::<PatternedPushRule>("content").collect();
        rules.room = self.parsed::<SimplePushRule<_>>("room").collect();
        rules.sender = self.parsed::<SimplePushRule<_>>("sender").collect();
        rules.underride = self.parsed::<ConditionalPushRule>("underride").collect();
        rules
    }

    /// What is done about events in threads, between the rules for contents and those for rooms.
    pub fn thread_rules(&self) -> ThreadRules {
        let actions = |id| {
            let rule = self.get(POST_CONTENT, id).ok()?;
            let is_enabled = rule.get("enabled").and_then(Value::as_bool).unwrap_or_default();
            Vec::<Action>::deserialize(rule.get("actions").filter(|_| is_enabled)?).ok()
        };
        ThreadRules { subscribed: actions(SUBSCRIBED_THREAD), unsubscribed: actions(UNSUBSCRIBED_THREAD) }
    }

    fn parsed<T: DeserializeOwned>(&self, kind: &str) -> impl Iterator<Item = T> {
        self.of_kind(kind).unwrap_or_default().iter().filter_map(|rule| T::deserialize(rule).ok())
    }
}

/// What is done about events in threads (MSC4306).
///
/// MSC4306: there these rules are switched on for everybody, which silences all threads of those whose clients know no
/// subscriptions. Here they are switched on when the user's clients first subscribe to a thread.
#[derive(Clone, Debug, Default)]
pub struct ThreadRules {
    /// In those that the user has subscribed to; nothing when the rule is switched off.
    pub subscribed: Option<Vec<Action>>,
    /// In all others; nothing when the rule is switched off.
    pub unsubscribed: Option<Vec<Action>>,
}

impl Accounts {
    /// Switches the rules for threads on.
    pub(crate) async fn enable_thread_rules(&self, user: &UserId) -> Result<(), AccountError> {
        let enable = |rules: &mut PushRules| {
            rules.set_enabled(POST_CONTENT, UNSUBSCRIBED_THREAD, true)?;
            rules.set_enabled(POST_CONTENT, SUBSCRIBED_THREAD, true)
        };
        let done = self.edit_push_rules(user, enable).await?;
        done.map_err(|error| AccountError::Invalid(error.to_string()))
    }

    /// The user's rules as clients see them.
    pub async fn push_rules_of(&self, user: &UserId) -> Result<PushRules, AccountError> {
        let content = match self.account_data(user, None, PUSH_RULES).await? {
            Some(content) => serde_json::from_str(content.get()).ok(),
            None => None,
        };
        Ok(PushRules::new(user, content))
    }

    /// The user's rules as they are evaluated, with those of the specification that they do not have yet.
    pub async fn push_rules(&self, user: &UserId) -> Result<Ruleset, AccountError> {
        Ok(self.push_rules_of(user).await?.ruleset())
    }

    /// Reads, changes and writes the user's rules. `edit` is called again when another write came between.
    pub async fn edit_push_rules<T, E>(
        &self,
        user: &UserId,
        mut edit: impl FnMut(&mut PushRules) -> Result<T, E>,
    ) -> Result<Result<T, E>, AccountError> {
        self.edit_account_data(user, None, PUSH_RULES, |content| {
            let is_kept = content.is_some();
            let mut rules = PushRules::new(user, content);
            let before = rules.clone();
            Ok(match edit(&mut rules) {
                Ok(answer) if is_kept && rules == before => (None, Ok(answer)),
                Ok(answer) => (Some(json!({ "global": rules.0 })), Ok(answer)),
                Err(error) => (None, Err(error)),
            })
        })
        .await
    }
}

/// The server's rules for somebody who has changed none: those of the specification, with those for polls (MSC3930) and for
/// threads (MSC4306).
pub(crate) fn server_default(user: &UserId) -> Value {
    let mut rules = serde_json::to_value(Ruleset::server_default(user)).unwrap_or_default();
    let rule = |id: &str, enabled: bool, conditions: Value, actions: Value| json!({ "rule_id": id, "default": true, "enabled": enabled, "conditions": conditions, "actions": actions });
    let of_type = |name: &str| json!({ "kind": "event_match", "key": "type", "pattern": format!("org.matrix.msc3381.poll.{name}") });
    let between_two = json!({ "kind": "room_member_count", "is": "2" });
    let (quietly, aloud) = (json!(["notify"]), json!(["notify", { "set_tweak": "sound", "value": "default" }]));
    let polls = ["start", "end"].into_iter();
    add_mentions_in_words(user, &mut rules);
    let mut add = |kind: &str, rule: Value| {
        if let Some(rules) = rules.get_mut(kind).and_then(Value::as_array_mut) {
            rules.push(rule);
        }
    };
    add("override", rule(".org.matrix.msc3930.rule.poll_response", true, json!([of_type("response")]), json!([])));
    for poll in polls.clone() {
        let id = format!(".org.matrix.msc3930.rule.poll_{poll}_one_to_one");
        add("underride", rule(&id, true, json!([between_two, of_type(poll)]), aloud.clone()));
    }
    for poll in polls {
        let id = format!(".org.matrix.msc3930.rule.poll_{poll}");
        add("underride", rule(&id, true, json!([of_type(poll)]), quietly.clone()));
    }
    let in_thread =
        |subscribed: bool| json!([{ "kind": "io.element.msc4306.thread_subscription", "subscribed": subscribed }]);
    rules[POST_CONTENT] = json!([
        rule(UNSUBSCRIBED_THREAD, false, in_thread(false), json!([])),
        rule(SUBSCRIBED_THREAD, false, in_thread(true), aloud),
    ]);
    rules
}

/// The rules for mentions in words, which are looked at where an event does not say whom it mentions (`m.mentions`). They
/// are no longer among the specification's (MSC4210), but bridges and older clients still mention in words only, and
/// clients show these rules in their settings.
fn add_mentions_in_words(user: &UserId, rules: &mut Value) {
    let loud = |sound: &str| {
        let mut actions = vec![json!("notify"), json!({ "set_tweak": "highlight" })];
        if !sound.is_empty() {
            actions.push(json!({ "set_tweak": "sound", "value": sound }));
        }
        actions
    };
    let name = json!({
        "rule_id": ".m.rule.contains_display_name", "default": true, "enabled": true,
        "conditions": [{ "kind": "contains_display_name" }], "actions": loud("default"),
    });
    let room = json!({
        "rule_id": ".m.rule.roomnotif", "default": true, "enabled": true, "actions": loud(""),
        "conditions": [
            { "kind": "event_match", "key": "content.body", "pattern": "@room" },
            { "kind": "sender_notification_permission", "key": "room" },
        ],
    });
    let localpart = json!({
        "rule_id": ".m.rule.contains_user_name", "default": true, "enabled": true,
        "pattern": user.localpart(), "actions": loud("default"),
    });
    let insert = |rules: &mut Value, kind: &str, after: &str, rule: Value| {
        // A kind without rules is left out.
        let rules = rules.as_object_mut().map(|rules| rules.entry(kind).or_insert_with(|| json!([])));
        let Some(rules) = rules.and_then(Value::as_array_mut) else { return };
        let at = rules.iter().position(|rule| has_id(rule, after)).map_or(rules.len(), |at| at + 1);
        rules.insert(at, rule);
    };
    insert(rules, "override", ".m.rule.is_user_mention", name);
    insert(rules, "override", ".m.rule.is_room_mention", room);
    insert(rules, "content", "", localpart);
}

/// The rules of one kind: the master rule, the user's own, the server's. Of the server's, what the user has switched stays.
fn merge(kept: Vec<Value>, server: Vec<Value>) -> Vec<Value> {
    let (kept_server, own): (Vec<Value>, Vec<Value>) =
        kept.into_iter().partition(|rule| rule.get("default").and_then(Value::as_bool).unwrap_or_default());
    let mut server = server;
    for rule in &mut server {
        let id = rule.get("rule_id").and_then(Value::as_str).unwrap_or_default();
        let Some(kept) = kept_server.iter().find(|kept| has_id(kept, id)) else { continue };
        for field in ["enabled", "actions"] {
            if let Some(value) = kept.get(field) {
                rule[field] = value.clone();
            }
        }
    }
    let (master, server): (Vec<Value>, Vec<Value>) = server.into_iter().partition(|rule| has_id(rule, MASTER));
    master.into_iter().chain(own).chain(server).collect()
}

fn has_id(rule: &Value, id: &str) -> bool {
    rule.get("rule_id").and_then(Value::as_str) == Some(id)
}

fn check_id(id: &str) -> Result<(), PushRuleError> {
    if id.starts_with('.') {
        return Err(PushRuleError::ServerDefault);
    }
    if id.is_empty() || id.len() > 255 || id.contains(['/', '\\']) {
        return Err(PushRuleError::InvalidId);
    }
    Ok(())
}

fn check_actions(actions: &[Value]) -> Result<(), PushRuleError> {
    let is_action = |action: &Value| match action {
        Value::String(action) => matches!(action.as_str(), "notify" | "dont_notify" | "coalesce"),
        Value::Object(action) => action.get("set_tweak").is_some_and(Value::is_string),
        _ => false,
    };
    if actions.iter().all(is_action) { Ok(()) } else { Err(PushRuleError::Malformed("actions")) }
}
