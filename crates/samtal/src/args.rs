//! What may stand on the command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId};
use samtal_config::Source;

use crate::federation::FederationArgs;

/// A Matrix homeserver for the public sector.
#[derive(Debug, Parser)]
#[command(name = "samtal", version, about, max_term_width = 100)]
#[command(after_help = "Start one to try:   samtal serve --server-name localhost --set registration.open=true\n\
                        All options:        samtal config reference")]
pub(crate) struct Args {
    /// The configuration file (TOML). Without it, and without SAMTAL_CONFIG, all is at its default
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// The server name: what ends every user id. As `server.name` in the file
    #[arg(long, value_name = "NAME", global = true)]
    server_name: Option<String>,
    /// The directory for everything that must last. As `server.data_dir` in the file
    #[arg(long, value_name = "DIR", global = true)]
    data_dir: Option<PathBuf>,
    /// Sets any option, such as `log.level=debug`; wins over the file and the environment. May be repeated
    #[arg(long = "set", value_name = "OPTION=VALUE", value_parser = setting, global = true)]
    settings: Vec<(String, String)>,
    /// What to do
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((option, value)) => Ok((option.trim().to_owned(), value.trim().to_owned())),
        None => Err("expected OPTION=VALUE".to_owned()),
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run the server until SIGINT or SIGTERM. SIGHUP reads the configuration again
    Serve,
    /// Check a configuration, or see what may stand in it
    Config {
        /// What to do
        #[command(subcommand)]
        verb: ConfigVerb,
    },
    /// Make and look after accounts, in the running server or without one
    User {
        /// What to do
        #[command(subcommand)]
        verb: UserVerb,
    },
    /// Say with which other servers to speak, at once and without a restart, and see what was refused and why
    Federation(FederationArgs),
    /// Add, list and remove server names in this installation
    Tenant {
        /// What to do
        #[command(subcommand)]
        verb: TenantVerb,
    },
    /// Look after rooms
    Room(RoomArgs),
    /// Work what users have reported
    Report(ReportArgs),
    /// Show what administrators and operators did
    Audit {
        /// Of this tenant; may be left out where there is one
        #[arg(long, value_name = "NAME")]
        tenant: Option<String>,
        /// The newest so many
        #[arg(long, value_name = "NUMBER", default_value_t = 50)]
        last: usize,
    },
    /// Copy every tenant's database (with its keys) and files, consistently, while the server runs
    ///
    /// A second backup into the same directory copies only what is new. The configuration file is not copied.
    Backup {
        /// The directory to copy into
        directory: PathBuf,
    },
    /// Put a backup back where nothing is yet; no server may run
    Restore {
        /// The directory that `samtal backup` has copied into
        directory: PathBuf,
    },
}

/// On the configuration.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    /// Say all that is wrong with the configuration, with file and line; nothing is started
    Check,
    /// Print the reference of all options, in Markdown
    Reference,
    /// Print a file with all options at their defaults
    Example,
}

/// On rooms.
#[derive(Debug, clap::Args)]
pub(crate) struct RoomArgs {
    /// Of this tenant; may be left out where there is one
    #[arg(long, value_name = "NAME", global = true)]
    pub(crate) tenant: Option<String>,
    /// What to do
    #[command(subcommand)]
    pub(crate) verb: RoomVerb,
}

/// On rooms. ROOM is a room id (`!…`).
#[derive(Debug, Subcommand)]
pub(crate) enum RoomVerb {
    /// List rooms, those with the most members first
    List,
    /// Show what is known of a room
    Show {
        /// The room
        room: OwnedRoomId,
    },
    /// Let nobody of this server into a room any more
    Block {
        /// The room
        room: OwnedRoomId,
    },
    /// Let people into a blocked room again
    Unblock {
        /// The room
        room: OwnedRoomId,
    },
    /// Put everybody of this server out of a room and delete what is kept of it
    Delete {
        /// The room
        room: OwnedRoomId,
        /// Let nobody back in
        #[arg(long)]
        block: bool,
        /// Only put everybody out
        #[arg(long)]
        keep: bool,
    },
    /// Give a user power in a room where nobody has any
    ///
    /// It is done in the name of a user of this server who has the power or had it once, such as the room's creator; one
    /// who has left comes back for it and leaves again.
    Recover {
        /// The room
        room: OwnedRoomId,
        /// Who gets the power
        #[arg(long, value_name = "USER")]
        to: String,
    },
    /// Refuse invites that users of this server have not answered
    #[command(group = clap::ArgGroup::new("which").required(true).multiple(true).args(["sender", "server", "room"]))]
    RefuseInvites {
        /// From this user
        #[arg(long, value_name = "USER")]
        sender: Option<OwnedUserId>,
        /// From users of this server
        #[arg(long, value_name = "NAME")]
        server: Option<OwnedServerName>,
        /// To this room
        #[arg(long, value_name = "ROOM")]
        room: Option<OwnedRoomId>,
    },
}

/// On reports.
#[derive(Debug, clap::Args)]
pub(crate) struct ReportArgs {
    /// Of this tenant; may be left out where there is one
    #[arg(long, value_name = "NAME", global = true)]
    pub(crate) tenant: Option<String>,
    /// What to do
    #[command(subcommand)]
    pub(crate) verb: ReportVerb,
}

/// On reports.
#[derive(Debug, Subcommand)]
pub(crate) enum ReportVerb {
    /// List reports that nobody has dealt with
    List {
        /// Those that are closed too
        #[arg(long)]
        all: bool,
    },
    /// Show a report
    Show {
        /// Its number
        case: i64,
    },
    /// Give a report to somebody; to nobody without --to
    Assign {
        /// Its number
        case: i64,
        /// To whom
        #[arg(long, value_name = "USER")]
        to: Option<String>,
    },
    /// Close a report
    Close {
        /// Its number
        case: i64,
        /// What came of it
        #[arg(long, value_name = "TEXT")]
        note: Option<String>,
    },
    /// Open a closed report again
    Reopen {
        /// Its number
        case: i64,
    },
}

/// On users. USER is an id (`@alice:example.org`) or, where there is one tenant, its local part (`alice`).
#[derive(Debug, Subcommand)]
pub(crate) enum UserVerb {
    /// Make an account. Without --password-stdin a password is made and printed
    Create {
        /// The user: `alice` or `@alice:example.org`
        user: String,
        /// Make it an administrator
        #[arg(long)]
        admin: bool,
        /// Read the password from the first line of the standard input
        #[arg(long)]
        password_stdin: bool,
    },
    /// List accounts
    List {
        /// Of this tenant only
        #[arg(long, value_name = "NAME")]
        tenant: Option<String>,
    },
    /// Lock an account: nothing works until it is unlocked; its sessions stay
    Lock {
        /// The user
        user: String,
    },
    /// Unlock an account
    Unlock {
        /// The user
        user: String,
    },
    /// Suspend an account: it may read and leave, not speak
    Suspend {
        /// The user
        user: String,
    },
    /// Let a suspended account speak again
    Unsuspend {
        /// The user
        user: String,
    },
    /// Set a password and end all sessions. Without --password-stdin one is made and printed
    ResetPassword {
        /// The user
        user: String,
        /// Read the password from the first line of the standard input
        #[arg(long)]
        password_stdin: bool,
        /// Let the sessions go on, though somebody else may hold one
        #[arg(long)]
        keep_sessions: bool,
    },
    /// Show what is known of an account
    Show {
        /// The user
        user: String,
    },
    /// Make an account an administrator of the server
    Promote {
        /// The user
        user: String,
    },
    /// Take the administration of the server from an account
    Demote {
        /// The user
        user: String,
    },
    /// End all sessions of an account
    LogOut {
        /// The user
        user: String,
    },
    /// End an account: its sessions, profile and private data; it leaves all rooms
    Deactivate {
        /// The user
        user: String,
        /// Hide what it wrote from those who come later
        #[arg(long)]
        erase: bool,
    },
    /// Open a deactivated account again. Without --password-stdin a password is made and printed
    Reactivate {
        /// The user
        user: String,
        /// Read the password from the first line of the standard input
        #[arg(long)]
        password_stdin: bool,
    },
    /// Tell a user something, in a room of its own that they cannot refuse
    Notice {
        /// The user
        user: String,
        /// What to tell
        text: String,
    },
}

/// On tenants.
#[derive(Debug, Subcommand)]
pub(crate) enum TenantVerb {
    /// Add a server name. A running server takes it in on reload (SIGHUP)
    Add {
        /// The new server name
        name: String,
        /// Where clients reach it; `https://NAME` if not given
        #[arg(long, value_name = "URL")]
        public_base_url: Option<String>,
        /// Where other servers reach it (HOST:PORT), if that is to be published
        #[arg(long, value_name = "ADDRESS")]
        federation_address: Option<String>,
    },
    /// List the server names
    List,
    /// Remove a server name that was added. Its data stays on the disk
    Remove {
        /// The server name
        name: String,
    },
}

impl Args {
    /// Where the configuration comes from.
    pub(crate) fn source(&self) -> Source {
        let file = self.config.clone().or_else(|| std::env::var_os("SAMTAL_CONFIG").map(PathBuf::from));
        let mut source = Source::from_environment(file);
        if let Some(name) = &self.server_name {
            source.arguments.push(("server.name".to_owned(), name.clone()));
        }
        if let Some(dir) = &self.data_dir {
            source.arguments.push(("server.data_dir".to_owned(), dir.to_string_lossy().into_owned()));
        }
        source.arguments.extend(self.settings.iter().cloned());
        source
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn settings_on_the_command_line_are_options() {
        let args =
            Args::try_parse_from(["samtal", "serve", "--server-name", "a.example", "--set", "registration.open=true"]);
        let config = args.unwrap().source().load().unwrap();
        assert_eq!(config.tenants[0].name, "a.example");
        assert!(config.tenants[0].options.registration.open);
    }
}
