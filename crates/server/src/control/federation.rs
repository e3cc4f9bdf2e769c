//! Commands on federation: with whom a tenant speaks, what was refused, and why.

use std::sync::Arc;

use ruma::{OwnedRoomId, OwnedServerName, RoomId, ServerName};
use samtal_ops::Homeserver;
use samtal_policy::{
    Action, Direction, Effect, Explanation, HeldInvite, Pattern, Refusal, ServerRule, Setting, Settings, Stored,
    StoredRule, Unnamed, Which, WhichHeld,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Answer, told};

/// Refusals that are listed at most.
const REFUSALS_MAX: usize = 1_000;

/// A command on federation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FederationCommand {
    /// Whose; may be left out where there is one tenant.
    pub tenant: Option<String>,
    /// Whether the answer is JSON.
    pub json: bool,
    /// What to do.
    pub verb: FederationVerb,
}

/// What to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FederationVerb {
    /// Shows the rules: the stored ones and the file's.
    List,
    /// Stores a rule.
    Put {
        /// Whether it lets in or keeps out.
        effect: Effect,
        /// To whom and what.
        rule: ServerRule,
    },
    /// Removes stored rules.
    Remove {
        /// Whose, exactly as they were given.
        server: Pattern,
        /// The rule for one direction only; together with `action`.
        direction: Option<Direction>,
        /// The rule for one kind only.
        action: Option<Action>,
    },
    /// Stores what holds for servers no rule names; nothing leaves it to the file.
    Default {
        /// What holds.
        unnamed: Option<Unnamed>,
        /// In which direction; both if not given.
        direction: Option<Direction>,
    },
    /// Stores another setting.
    Set(Setting),
    /// Shows the invites that wait, lets them through, or refuses them.
    Held {
        /// What to do with them.
        what: HeldVerb,
        /// With which of them.
        which: WhichHeld,
    },
    /// Says what would happen to a server, and why.
    Explain {
        /// The server.
        server: OwnedServerName,
        /// In a room of ours.
        room: Option<OwnedRoomId>,
    },
    /// Shows what was refused, the latest first.
    Refusals {
        /// Of one server only.
        server: Option<OwnedServerName>,
        /// At most so many.
        limit: usize,
    },
}

/// What to do with invites that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeldVerb {
    /// Shows them.
    List,
    /// Tells those invited of them.
    Release,
    /// Refuses them.
    Refuse,
}

/// Runs it.
pub(crate) async fn answer(homeservers: &[Arc<Homeserver>], command: FederationCommand) -> Answer {
    let homeserver = find(homeservers, command.tenant.as_deref())?;
    let is_json = command.json;
    match command.verb {
        FederationVerb::List => list(homeserver, is_json),
        FederationVerb::Put { effect, rule } => {
            homeserver.rulebook.put(effect, &rule).await.map_err(|e| told(&e))?;
            list_or_say(homeserver, is_json, &format!("{} is in force now", words(effect, &rule)))
        }
        FederationVerb::Remove { server, direction, action } => {
            let which =
                if direction.is_none() && action.is_none() { Which::All } else { Which::One(direction, action) };
            match homeserver.rulebook.remove(&server, which).await.map_err(|e| told(&e))? {
                0 => Err(format!("no stored rule has the pattern {server}")),
                1 => list_or_say(homeserver, is_json, &format!("the rule for {server} is gone")),
                count => list_or_say(homeserver, is_json, &format!("{count} rules for {server} are gone")),
            }
        }
        FederationVerb::Default { unnamed, direction } => {
            let directions = Direction::ALL.into_iter().filter(|way| direction.is_none_or(|only| only == *way));
            let settings: Vec<Setting> = directions.map(|direction| Setting::Default { direction, unnamed }).collect();
            homeserver.rulebook.set(&settings).await.map_err(|e| told(&e))?;
            let what = unnamed.map_or("the file's again", Unnamed::as_str);
            let way = direction.map_or(String::new(), |direction| format!(" {}", direction.as_str()));
            list_or_say(homeserver, is_json, &format!("the{way} default is {what} now"))
        }
        FederationVerb::Set(setting) => {
            homeserver.rulebook.set(&[setting]).await.map_err(|e| told(&e))?;
            list_or_say(homeserver, is_json, "the setting is in force now")
        }
        FederationVerb::Held { what, which } => held(homeserver, is_json, what, &which).await,
        FederationVerb::Explain { server, room } => explain(homeserver, is_json, &server, room.as_deref()).await,
        FederationVerb::Refusals { server, limit } => refusals(homeserver, is_json, server.as_deref(), limit).await,
    }
}

async fn held(homeserver: &Homeserver, is_json: bool, what: HeldVerb, which: &WhichHeld) -> Answer {
    let (count, done) = match what {
        HeldVerb::List => {
            let held = homeserver.held_invites().list(which).await.map_err(|e| told(&e))?;
            if is_json {
                return Ok(vec![json!({ "tenant": homeserver.name, "held": held }).to_string()]);
            }
            if held.is_empty() {
                return Ok(vec!["no invite waits".to_owned()]);
            }
            let now_ms = homeserver.clock.signed_now_ms();
            let line = |held: &HeldInvite| {
                format!("{}\t{}\tby {}\t{}", held.room_id, held.target, held.sender, ago(now_ms - held.since_ms))
            };
            return Ok(held.iter().map(line).collect());
        }
        HeldVerb::Release => (homeserver.release_invites(which).await.map_err(|e| told(&e))?, "released"),
        HeldVerb::Refuse => (homeserver.refuse_held_invites(which).await.map_err(|e| told(&e))?, "refused"),
    };
    if is_json {
        return Ok(vec![json!({ "tenant": homeserver.name, done: count }).to_string()]);
    }
    Ok(vec![format!("{done}: {count}")])
}

fn find<'a>(homeservers: &'a [Arc<Homeserver>], tenant: Option<&str>) -> Result<&'a Arc<Homeserver>, String> {
    match (homeservers, tenant) {
        (_, Some(name)) => {
            let found = homeservers.iter().find(|homeserver| homeserver.name == name);
            found.ok_or_else(|| format!("{name} is not served here"))
        }
        ([only], None) => Ok(only),
        (_, None) => Err("there are several tenants: name one with --tenant".to_owned()),
    }
}

fn list_or_say(homeserver: &Homeserver, is_json: bool, said: &str) -> Answer {
    if is_json { list(homeserver, true) } else { Ok(vec![said.to_owned()]) }
}

fn list(homeserver: &Homeserver, is_json: bool) -> Answer {
    let (stored, file) = (homeserver.rulebook.stored(), homeserver.policy.settings());
    if is_json {
        return Ok(vec![
            json!({
                "tenant": homeserver.name,
                "stored": stored,
                "file": {
                    "enabled": file.enabled,
                    "default": file.default,
                    "allow": file.allow,
                    "deny": file.deny,
                    "encrypted_only": file.encrypted_only,
                    "room_types": file.room_types,
                    "hold_unknown_invites": file.hold_unknown_invites,
                },
            })
            .to_string(),
        ]);
    }
    let mut lines = Vec::new();
    if !file.enabled {
        lines.push("federation is switched off in the file: nothing below has an effect".to_owned());
    }
    lines.push("stored, asked first:".to_owned());
    lines.extend(stored_lines(&stored));
    lines.push("in the file:".to_owned());
    lines.extend(file_lines(&file));
    Ok(lines)
}

fn stored_lines(stored: &Stored) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for effect in [Effect::Deny, Effect::Allow] {
        let rules = stored.rules.iter().filter(|rule| rule.effect == effect);
        lines.extend(rules.map(|StoredRule { effect, rule, .. }| format!("  {}", words(*effect, rule))));
    }
    let defaults = match (stored.default_inbound, stored.default_outbound) {
        (Some(both), Some(other)) if both == other => vec![format!("  default {}", both.as_str())],
        (inbound, outbound) => [("inbound", inbound), ("outbound", outbound)]
            .into_iter()
            .filter_map(|(way, unnamed)| Some(format!("  default {way} {}", unnamed?.as_str())))
            .collect(),
    };
    lines.extend(defaults);
    let switch = |name: &str, on: Option<bool>| on.map(|on| format!("  {name} {}", if on { "on" } else { "off" }));
    lines.extend(switch("encrypted-only", stored.encrypted_only));
    lines.extend(switch("hold-unknown-invites", stored.hold_unknown_invites));
    lines.extend(stored.room_types.as_ref().map(|types| match types.only() {
        None => "  rooms of any type".to_owned(),
        Some(types) => format!("  rooms of these types only: {types:?}"),
    }));
    if lines.is_empty() {
        lines.push("  nothing".to_owned());
    }
    lines
}

fn file_lines(file: &Settings) -> Vec<String> {
    let mut lines: Vec<String> = file.deny.iter().map(|rule| format!("  {}", words(Effect::Deny, rule))).collect();
    lines.extend(file.allow.iter().map(|rule| format!("  {}", words(Effect::Allow, rule))));
    lines.push(format!("  default {}", file.default.as_str()));
    if file.encrypted_only {
        lines.push("  encrypted-only on".to_owned());
    }
    if let Some(types) = &file.room_types {
        lines.push(format!("  rooms of these types only: {types:?}"));
    }
    if file.hold_unknown_invites {
        lines.push("  hold-unknown-invites on".to_owned());
    }
    lines
}

/// A rule in words: `deny *.example inbound media (spam)`.
fn words(effect: Effect, rule: &ServerRule) -> String {
    let mut text = format!("{} {}", effect.as_str(), rule.server);
    for word in [rule.direction.map(Direction::as_str), rule.action.map(Action::as_str)].into_iter().flatten() {
        text.push(' ');
        text.push_str(word);
    }
    if !rule.reason.is_empty() {
        text.push_str(&format!(" ({})", rule.reason));
    }
    text
}

async fn explain(homeserver: &Homeserver, is_json: bool, server: &ServerName, room: Option<&RoomId>) -> Answer {
    let explained = homeserver.explain(server, room).await.map_err(|e| told(&e))?;
    let refused = homeserver.rulebook.refusals(Some(server), REFUSALS_MAX).await.map_err(|e| told(&e))?;
    if is_json {
        let answer = json!({
            "tenant": homeserver.name,
            "server": server,
            "room": room,
            "decisions": explained,
            "refusals": refused,
        });
        return Ok(vec![answer.to_string()]);
    }
    let mut lines = Vec::new();
    for direction in Direction::ALL {
        let way = if direction == Direction::Inbound { "from" } else { "to" };
        let of_way: Vec<&Explanation> = explained.iter().filter(|line| line.direction == direction).collect();
        let alike = of_way.windows(2).all(|pair| match pair {
            [one, other] => one.outcome == other.outcome && one.why == other.why,
            _ => true,
        });
        match of_way.first() {
            Some(first) if alike => lines.push(format!("all {way} {server}: {}, {}", said(first), first.why)),
            _ => lines.extend(
                of_way.iter().map(|line| format!("{} {way} {server}: {}, {}", line.action, said(line), line.why)),
            ),
        }
    }
    if refused.is_empty() {
        lines.push("refused so far: nothing".to_owned());
    }
    lines.extend(refused.iter().map(|refusal| format!("refused so far: {}", refusal_words(refusal))));
    Ok(lines)
}

fn said(line: &Explanation) -> &'static str {
    match line.outcome {
        "allow" => "allowed",
        "hold" => "held",
        _ => "denied",
    }
}

fn refusal_words(refusal: &Refusal) -> String {
    let Refusal { direction, action, words, count, .. } = refusal;
    format!("{count} × {action} {direction}: {words}")
}

async fn refusals(homeserver: &Homeserver, is_json: bool, server: Option<&ServerName>, limit: usize) -> Answer {
    let refused = homeserver.rulebook.refusals(server, limit.clamp(1, REFUSALS_MAX)).await.map_err(|e| told(&e))?;
    if is_json {
        return Ok(vec![json!({ "tenant": homeserver.name, "refusals": refused }).to_string()]);
    }
    if refused.is_empty() {
        return Ok(vec!["nothing was refused".to_owned()]);
    }
    let now_ms = homeserver.clock.signed_now_ms();
    let line = |refusal: &Refusal| {
        format!("{}\t{}\tlast {}", refusal.server, refusal_words(refusal), ago(now_ms - refusal.last_ms))
    };
    Ok(refused.iter().map(line).collect())
}

/// A span of time in words.
fn ago(ms: i64) -> String {
    match ms / 1_000 {
        seconds @ ..120 => format!("{} s ago", seconds.max(0)),
        seconds @ 120..7_200 => format!("{} min ago", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h ago", seconds / 3_600),
        seconds => format!("{} days ago", seconds / 86_400),
    }
}
