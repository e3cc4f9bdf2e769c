//! `samtal federation`.

use clap::{
    Args, Subcommand, ValueEnum,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};
use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId};
use samtal_config::Source;
use samtal_policy::{Action, Direction, Effect, Pattern, RoomTypes, ServerRule, Setting, Unnamed, WhichHeld};
use samtal_server::control::{Command, FederationCommand, FederationVerb, HeldVerb};

use crate::Outcome;
use crate::backup::run;

/// On federation.
#[derive(Debug, Args)]
#[command(
    after_help = "Stored rules are asked before those of the configuration file, so they win. Among the stored ones, and \
                  among the file's, deny beats allow. A server that no rule names falls under the default. \
                  All of it holds at once, on every node of the tenant."
)]
pub(crate) struct FederationArgs {
    /// Of this tenant; may be left out where there is one
    #[arg(long, value_name = "NAME", global = true)]
    tenant: Option<String>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    /// What to do
    #[command(subcommand)]
    verb: Verb,
}

/// On federation. PATTERN is a server name in which `*` stands for any text and `?` for one character; ports do not count.
#[derive(Debug, Subcommand)]
enum Verb {
    /// Show the rules: the stored ones and the file's
    List,
    /// Speak with these servers
    Allow(Rule),
    /// Do not speak with these servers
    Deny(Rule),
    /// Remove stored rules: all with this pattern, or the one for a direction and kind
    Remove {
        /// The pattern, as it was given
        #[arg(value_name = "PATTERN")]
        server: String,
        #[command(flatten)]
        traffic: Traffic,
    },
    /// Say what holds for servers that no rule names
    Default {
        /// They are spoken with, or not, or as the file says
        default: Default,
        /// In this direction only
        #[arg(long, value_parser = direction())]
        direction: Option<Direction>,
    },
    /// Share encrypted rooms only
    EncryptedOnly {
        /// Whether; `file`: as the file says
        switch: Switch,
    },
    /// Let invitations of servers that no allow rule names wait: see `held`
    HoldUnknownInvites {
        /// Whether; `file`: as the file says
        switch: Switch,
    },
    /// Share rooms of these types only
    RoomTypes {
        /// Types, as `m.space`
        #[arg(required_unless_present_any = ["plain", "any", "file"])]
        types: Vec<String>,
        /// Rooms without a type too
        #[arg(long)]
        plain: bool,
        /// Rooms of any type
        #[arg(long, conflicts_with_all = ["types", "plain", "file"])]
        any: bool,
        /// As the file says
        #[arg(long, conflicts_with_all = ["types", "plain"])]
        file: bool,
    },
    /// Show invites that wait since no allow rule names their server, let them through, or refuse them
    Held {
        /// What to do
        #[command(subcommand)]
        verb: Held,
    },
    /// Say what would happen to a server, and why
    Explain {
        /// The server
        server: OwnedServerName,
        /// In this room, whose server ACL then counts too
        #[arg(long, value_name = "ROOM_ID")]
        room: Option<OwnedRoomId>,
    },
    /// Show what was refused, the latest first
    Refusals {
        /// Of this server only
        server: Option<OwnedServerName>,
        /// At most so many
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
}

#[derive(Debug, Subcommand)]
enum Held {
    /// Show them
    List(HeldArgs),
    /// Let them through
    Release(HeldArgs),
    /// Refuse them
    Refuse(HeldArgs),
}

#[derive(Debug, Args)]
struct HeldArgs {
    /// Those from this server
    #[arg(long)]
    server: Option<OwnedServerName>,
    /// Those to this room
    #[arg(long, value_name = "ROOM_ID")]
    room: Option<OwnedRoomId>,
    /// Those of this user
    #[arg(long, value_name = "USER_ID")]
    user: Option<OwnedUserId>,
    /// All of them
    #[arg(long)]
    all: bool,
}

impl HeldArgs {
    fn which(self, is_needed: bool) -> Result<WhichHeld, String> {
        let which = WhichHeld {
            server: self.server.map(|server| server.to_string()),
            room_id: self.room.map(|room| room.to_string()),
            target: self.user.map(|user| user.to_string()),
        };
        if is_needed && !self.all && which.is_empty() {
            return Err("say which: --server, --room, --user or --all".to_owned());
        }
        Ok(which)
    }
}

#[derive(Debug, Args)]
struct Rule {
    /// Which servers
    #[arg(value_name = "PATTERN")]
    server: String,
    #[command(flatten)]
    traffic: Traffic,
    /// Why; shown by `list` and `explain`, never to other servers
    #[arg(long, default_value = "")]
    reason: String,
}

#[derive(Debug, Args)]
struct Traffic {
    /// In this direction only
    #[arg(long, value_parser = direction())]
    direction: Option<Direction>,
    /// This kind of traffic only
    #[arg(long, value_parser = kind())]
    kind: Option<Action>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Default {
    Open,
    Closed,
    File,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Switch {
    On,
    Off,
    File,
}

/// Takes the words of the policy, and says what each means.
fn word<T: Clone + Send + Sync + 'static>(
    meanings: &[(&'static str, &'static str)],
    from_word: fn(&str) -> Option<T>,
) -> impl TypedValueParser<Value = T> + use<T> {
    let words = meanings.iter().map(|(word, meaning)| PossibleValue::new(*word).help(*meaning));
    PossibleValuesParser::new(words).try_map(move |word| from_word(&word).ok_or("a word that the policy does not know"))
}

fn direction() -> impl TypedValueParser<Value = Direction> {
    let meanings = [("inbound", "From other servers to this one"), ("outbound", "From this server to others")];
    word(&meanings, Direction::from_word)
}

/// All but [`Action::Request`], which is asked of every request before it is known what it carries.
fn kind() -> impl TypedValueParser<Value = Action> {
    let meanings = [
        ("query", "Questions about users, devices, aliases, public rooms and spaces"),
        ("room", "Reading a room that both are in"),
        ("invite", "Invitations"),
        ("join", "Joins and knocks"),
        ("event", "Events of rooms"),
        ("edu", "Typing, receipts, presence, device lists, messages to devices"),
        ("media", "Files"),
    ];
    word(&meanings, Action::from_word)
}

impl Switch {
    fn stored(self) -> Option<bool> {
        match self {
            Self::On => Some(true),
            Self::Off => Some(false),
            Self::File => None,
        }
    }
}

impl Rule {
    fn put(self, effect: Effect) -> FederationVerb {
        let rule = ServerRule {
            server: Pattern::new(&self.server),
            direction: self.traffic.direction,
            action: self.traffic.kind,
            reason: self.reason,
        };
        FederationVerb::Put { effect, rule }
    }
}

pub(crate) async fn federation(source: &Source, args: FederationArgs) -> Outcome {
    let verb = match args.verb {
        Verb::List => FederationVerb::List,
        Verb::Allow(rule) => rule.put(Effect::Allow),
        Verb::Deny(rule) => rule.put(Effect::Deny),
        Verb::Remove { server, traffic } => {
            FederationVerb::Remove { server: Pattern::new(&server), direction: traffic.direction, action: traffic.kind }
        }
        Verb::Default { default, direction } => FederationVerb::Default {
            unnamed: match default {
                Default::Open => Some(Unnamed::Open),
                Default::Closed => Some(Unnamed::Closed),
                Default::File => None,
            },
            direction,
        },
        Verb::EncryptedOnly { switch } => FederationVerb::Set(Setting::EncryptedOnly(switch.stored())),
        Verb::HoldUnknownInvites { switch } => FederationVerb::Set(Setting::HoldUnknownInvites(switch.stored())),
        Verb::RoomTypes { mut types, plain, any, file } => {
            if plain {
                types.push(String::new());
            }
            let stored = if any { RoomTypes::Any } else { RoomTypes::Only(types) };
            FederationVerb::Set(Setting::RoomTypes((!file).then_some(stored)))
        }
        Verb::Held { verb } => match verb {
            Held::List(which) => FederationVerb::Held { what: HeldVerb::List, which: which.which(false)? },
            Held::Release(which) => FederationVerb::Held { what: HeldVerb::Release, which: which.which(true)? },
            Held::Refuse(which) => FederationVerb::Held { what: HeldVerb::Refuse, which: which.which(true)? },
        },
        Verb::Explain { server, room } => FederationVerb::Explain { server, room },
        Verb::Refusals { server, limit } => FederationVerb::Refusals { server, limit },
    };
    run(source, Command::Federation(FederationCommand { tenant: args.tenant, json: args.json, verb })).await
}
