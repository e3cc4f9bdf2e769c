//! What an operator's command asks of an installation: of the running server through a socket in its data directory, or
//! of the databases themselves when no server runs.
//!
//! The socket takes one JSON line and answers one. It is its owner's only (mode 0600), as the databases are.

mod backup;
mod federation;
mod reports;
mod rooms;
mod users;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use samtal_kit::Tasks;
use samtal_ops::Homeserver;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};

pub use federation::{FederationCommand, FederationVerb, HeldVerb};
pub use reports::{ReportCommand, ReportVerb};
pub use rooms::{RoomCommand, RoomVerb};
pub use users::UserCommand;

use crate::{Installation, ServerError, Tenants, lock::socket_path};

/// Longest command or answer.
const BYTES_MAX: u64 = 16 * 1024 * 1024;

/// How long a command may take to arrive.
const READ_TIME: Duration = Duration::from_secs(10);

/// A command.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Copies every tenant's database into a directory, consistently, while the server runs.
    Backup {
        /// Where to; it is made if it is not there.
        directory: PathBuf,
    },
    /// On users.
    User(UserCommand),
    /// On rooms.
    Room(RoomCommand),
    /// On what users have reported.
    Report(ReportCommand),
    /// What administrators and operators did.
    Audit {
        /// Which tenant's; may be left out where there is one.
        tenant: Option<String>,
        /// The newest so many.
        count: usize,
    },
    /// On federation.
    Federation(FederationCommand),
}

/// What came of it: lines to print, or what went wrong.
pub type Answer = Result<Vec<String>, String>;

/// Runs a command, in the running server if there is one.
///
/// # Errors
/// The configuration is wrong, or the databases cannot be opened.
pub async fn run(source: &samtal_config::Source, command: Command) -> Result<Answer, ServerError> {
    let config = source.load()?;
    if let Some(answer) = ask_running(&config.process.server.data_dir, &command).await {
        return Ok(answer);
    }
    let installation = Installation::take(source.clone(), samtal_kit::Clock::system(), samtal_kit::Random::system())?;
    let tenants = installation.open().await?;
    let answer = answer(&tenants, command).await;
    for homeserver in tenants.homeservers() {
        homeserver.tasks.shut_down(Duration::from_secs(5)).await;
        homeserver.db.close().await;
    }
    Ok(answer)
}

/// Puts a backup back into an installation that holds nothing yet: databases and files of its tenants, as `backup` has copied
/// them. One-time keys that the backup holds are forgotten, since some of them may have been given out after it was made.
///
/// # Errors
/// The configuration is wrong, a server runs, or a tenant cannot be opened afterwards.
pub async fn restore(source: &samtal_config::Source, directory: &Path) -> Result<Answer, ServerError> {
    let installation = Installation::take(source.clone(), samtal_kit::Clock::system(), samtal_kit::Random::system())?;
    let process = &installation.config.process;
    if process.database.url.is_some() {
        return Ok(Err(
            "the database is PostgreSQL's to put back (pg_restore); files can be copied to their place".to_owned()
        ));
    }
    let mut lines = Vec::new();
    for tenant in &installation.config.tenants {
        let from = directory.join(backup::place(tenant.name.as_str()));
        if !from.join("samtal.db").is_file() {
            return Ok(Err(format!("{}: there is no backup of {}", from.display(), tenant.name)));
        }
        crate::lock::private_dir(&tenant.data_dir)
            .map_err(|source| ServerError::Files { path: tenant.data_dir.clone(), source })?;
        let samtal_db::Options::Sqlite { path } = crate::settings::database(process, tenant) else { continue };
        let media = match crate::settings::tenant(process, tenant).media.location {
            samtal_media::Location::Directory(directory) => Some(directory),
            _ => None,
        };
        let put = tokio::task::spawn_blocking(move || backup::put_back(&from, &path, media.as_deref())).await;
        match put.map_err(|e| told(&e)) {
            Ok(Ok(put)) => lines.extend(put),
            Ok(Err(error)) => return Ok(Err(error.to_string())),
            Err(error) => return Ok(Err(error)),
        }
    }
    let tenants = installation.open().await?;
    for homeserver in tenants.homeservers() {
        match homeserver.e2ee.forget_one_time_keys().await {
            Ok(count) => lines.push(format!(
                "{}: {count} one-time keys forgotten; its users' devices upload others by themselves",
                homeserver.name
            )),
            Err(error) => return Ok(Err(format!("{}: {}", homeserver.name, told(&error)))),
        }
        homeserver.tasks.shut_down(Duration::from_secs(5)).await;
        homeserver.db.close().await;
    }
    Ok(Ok(lines))
}

/// The running server's answer; nothing if none runs.
async fn ask_running(data_dir: &Path, command: &Command) -> Option<Answer> {
    let stream = UnixStream::connect(socket_path(data_dir)).await.ok()?;
    Some(exchange(stream, command).await.unwrap_or_else(|e| Err(format!("the running server did not answer: {e}"))))
}

async fn exchange(mut stream: UnixStream, command: &Command) -> io::Result<Answer> {
    let mut line = serde_json::to_vec(command)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    let mut answer = String::new();
    BufReader::new(stream.take(BYTES_MAX)).read_line(&mut answer).await?;
    Ok(serde_json::from_str(&answer)?)
}

/// Starts answering commands. A data directory whose path is too long for a socket is no reason not to serve.
pub(crate) fn listen(tasks: &Tasks, data_dir: &Path, tenants: Tenants) -> Result<(), ServerError> {
    let path = socket_path(data_dir);
    // A socket that is there is one of a server that was killed: the lock says that none runs.
    let _ = std::fs::remove_file(&path);
    let listener = match UnixListener::bind(&path) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(%error, "no commands can be given to this server while it runs");
            return Ok(());
        }
    };
    {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
            .map_err(|source| ServerError::Files { path: path.clone(), source })?;
    }
    let group = tasks.clone();
    tasks.spawn("control", async move {
        loop {
            tokio::select! {
                () = group.stopping() => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let tenants = tenants.clone();
                        group.spawn("command", async move {
                            if let Err(error) = serve(stream, &tenants).await {
                                tracing::warn!(%error, "a command broke off");
                            }
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "no command can be taken");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                },
            }
        }
        let _ = std::fs::remove_file(path);
    });
    Ok(())
}

async fn serve(stream: UnixStream, tenants: &Tenants) -> io::Result<()> {
    let (reading, mut writing) = stream.into_split();
    let mut line = String::new();
    let mut reading = BufReader::new(reading.take(BYTES_MAX));
    tokio::time::timeout(READ_TIME, reading.read_line(&mut line)).await??;
    let answer = match serde_json::from_str(&line) {
        Ok(command) => answer(tenants, command).await,
        Err(e) => Err(format!("not a command of this version: {e}")),
    };
    let mut line = serde_json::to_vec(&answer)?;
    line.push(b'\n');
    writing.write_all(&line).await
}

async fn answer(tenants: &Tenants, command: Command) -> Answer {
    match command {
        Command::Backup { directory } => backup::backup(&tenants.homeservers(), &directory).await,
        Command::User(command) => users::answer(&tenants.homeservers(), command).await,
        Command::Room(command) => rooms::answer(&tenants.homeservers(), command).await,
        Command::Report(command) => reports::answer(&tenants.homeservers(), command).await,
        Command::Audit { tenant, count } => reports::audit(&tenants.homeservers(), tenant.as_deref(), count).await,
        Command::Federation(command) => federation::answer(&tenants.homeservers(), command).await,
    }
}

/// The tenant of this name, or the only one.
fn tenant<'a>(homeservers: &'a [Arc<Homeserver>], name: Option<&str>) -> Result<&'a Arc<Homeserver>, String> {
    match (name, homeservers) {
        (None, [only]) => Ok(only),
        (None, _) => Err("there are several tenants: say which with --tenant NAME".to_owned()),
        (Some(name), _) => {
            let found = homeservers.iter().find(|homeserver| homeserver.name == name);
            found.ok_or_else(|| format!("{name} is not served here"))
        }
    }
}

/// Keeps on record what was done.
async fn note(homeserver: &Homeserver, action: &str, subject: &str) {
    if let Err(error) = homeserver.accounts.audit(rooms::OPERATOR, action, subject, "done").await {
        tracing::error!(%error, action, subject, "an operator's command is not on record");
    }
}

/// Rows with their columns under each other.
fn table(rows: &[Vec<String>]) -> Vec<String> {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            let width = cell.chars().count();
            match widths.get_mut(column) {
                Some(widest) => *widest = width.max(*widest),
                None => widths.push(width),
            }
        }
    }
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// An error with its causes.
pub fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some say their cause themselves.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
