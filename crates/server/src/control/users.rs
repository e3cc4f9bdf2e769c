//! Commands on users.

use std::sync::Arc;

use ruma::{OwnedUserId, UserId};
use samtal_account::{AccountError, Client, Kind, NewUser, Switch, User};
use samtal_ops::{Homeserver, Notice};
use serde::{Deserialize, Serialize};

use super::{Answer, note, table, told};

/// Characters of a password that is made here: about 119 bits.
const PASSWORD_LENGTH: usize = 20;

/// Users that are listed at most at once.
const LIST_PAGE: usize = 500;

/// A command on users. A user is named by its id (`@alice:example.org`) or, where there is one tenant, its local part.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UserCommand {
    /// Makes an account.
    Create {
        /// Who.
        user: String,
        /// Its password; without it one is made and told.
        password: Option<String>,
        /// Whether it administrates the server.
        admin: bool,
    },
    /// Lists the accounts of a tenant, or of all.
    List {
        /// Which tenant.
        tenant: Option<String>,
    },
    /// Locks an account (nothing works until it is unlocked; sessions stay), or unlocks it.
    Lock {
        /// Who.
        user: String,
        /// Whether it shall be locked.
        on: bool,
    },
    /// Suspends an account (it may read and leave, not speak), or lets it speak again.
    Suspend {
        /// Who.
        user: String,
        /// Whether it shall be suspended.
        on: bool,
    },
    /// Sets a password.
    ResetPassword {
        /// Who.
        user: String,
        /// The password; without it one is made and told.
        password: Option<String>,
        /// Whether the user's sessions go on: somebody else may hold one.
        keep_sessions: bool,
    },
    /// Says what is known of a user.
    Show {
        /// Who.
        user: String,
    },
    /// Makes a user an administrator of the server, or no longer.
    Admin {
        /// Who.
        user: String,
        /// Whether it shall be one.
        on: bool,
    },
    /// Ends all sessions of a user.
    LogOut {
        /// Who.
        user: String,
    },
    /// Ends an account: its sessions, profile and private data; it leaves all rooms.
    Deactivate {
        /// Who.
        user: String,
        /// Whether what it wrote is hidden from those who come later.
        erase: bool,
    },
    /// Opens an account again that was ended. What was deleted stays deleted.
    Reactivate {
        /// Who.
        user: String,
        /// Its password; without it one is made and told.
        password: Option<String>,
    },
    /// Tells a user something, in a room of its own that they cannot refuse.
    Notice {
        /// Whom.
        user: String,
        /// What.
        text: String,
    },
}

/// Runs it.
pub(crate) async fn answer(homeservers: &[Arc<Homeserver>], command: UserCommand) -> Answer {
    match command {
        UserCommand::Create { user, password, admin } => create(homeservers, &user, password, admin).await,
        UserCommand::List { tenant } => list(homeservers, tenant.as_deref()).await,
        UserCommand::Lock { user, on } => switch(homeservers, &user, Switch::Locked, on).await,
        UserCommand::Suspend { user, on } => switch(homeservers, &user, Switch::Suspended, on).await,
        UserCommand::ResetPassword { user, password, keep_sessions } => {
            reset_password(homeservers, &user, password, keep_sessions).await
        }
        UserCommand::Show { user } => show(homeservers, &user).await,
        UserCommand::Admin { user, on } => switch(homeservers, &user, Switch::Admin, on).await,
        UserCommand::LogOut { user } => log_out(homeservers, &user).await,
        UserCommand::Deactivate { user, erase } => deactivate(homeservers, &user, erase).await,
        UserCommand::Reactivate { user, password } => reactivate(homeservers, &user, password).await,
        UserCommand::Notice { user, text } => send_notice(homeservers, &user, &text).await,
    }
}

async fn create(homeservers: &[Arc<Homeserver>], user: &str, password: Option<String>, admin: bool) -> Answer {
    let (homeserver, user) = find(homeservers, user)?;
    let user_id = homeserver.accounts.new_user_id(user.localpart()).map_err(|e| told(&e))?;
    let (password, made) = password_or_made(homeserver, password);
    let new = NewUser { password: Some(password), admin, ..NewUser::normal(user_id.clone()) };
    homeserver.accounts.create(new, &Client::default()).await.map_err(|e| told(&e))?;
    note(homeserver, "user create", user_id.as_str()).await;
    Ok(std::iter::once(format!("{user_id} created")).chain(made).collect())
}

async fn list(homeservers: &[Arc<Homeserver>], tenant: Option<&str>) -> Answer {
    if let Some(tenant) = tenant
        && !homeservers.iter().any(|homeserver| homeserver.name == tenant)
    {
        return Err(format!("{tenant} is not served here"));
    }
    let mut lines = Vec::new();
    for homeserver in homeservers.iter().filter(|homeserver| tenant.is_none_or(|tenant| homeserver.name == tenant)) {
        let mut after = String::new();
        loop {
            let users = homeserver.accounts.users(&after, LIST_PAGE).await.map_err(|e| told(&e))?;
            let Some(last) = users.last() else { break };
            after = last.user_id.to_string();
            lines.extend(users.iter().map(line));
        }
    }
    Ok(lines)
}

/// A user in one line: the id, then what is unusual.
fn line(user: &User) -> String {
    let words = words(user);
    if words.is_empty() { user.user_id.to_string() } else { format!("{}\t{}", user.user_id, words.join(",")) }
}

/// What is unusual about a user.
fn words(user: &User) -> Vec<&'static str> {
    let kind = match user.kind {
        Kind::Normal => None,
        Kind::Guest => Some("guest"),
        Kind::Service => Some("service"),
    };
    let words = [
        kind,
        user.admin.then_some("admin"),
        user.locked.then_some("locked"),
        user.suspended.then_some("suspended"),
        user.deactivated.then_some("deactivated"),
        user.erased.then_some("erased"),
    ];
    words.into_iter().flatten().collect()
}

async fn switch(homeservers: &[Arc<Homeserver>], user: &str, switch: Switch, on: bool) -> Answer {
    let (homeserver, user) = find(homeservers, user)?;
    homeserver.accounts.switch(&user, switch, on).await.map_err(|e| unknown(&user, &e))?;
    let action = match (switch, on) {
        (Switch::Locked, true) => "user lock",
        (Switch::Locked, false) => "user unlock",
        (Switch::Suspended, true) => "user suspend",
        (Switch::Suspended, false) => "user unsuspend",
        (Switch::Admin, true) => "user promote",
        (Switch::Admin, false) => "user demote",
    };
    note(homeserver, action, user.as_str()).await;
    let state = match (switch, on) {
        (Switch::Locked, true) => "locked",
        (Switch::Locked, false) => "unlocked",
        (Switch::Suspended, true) => "suspended",
        (Switch::Suspended, false) => "no longer suspended",
        (Switch::Admin, true) => "an administrator",
        (Switch::Admin, false) => "no longer an administrator",
    };
    Ok(vec![format!("{user} is {state}")])
}

async fn reset_password(
    homeservers: &[Arc<Homeserver>],
    user: &str,
    password: Option<String>,
    keep_sessions: bool,
) -> Answer {
    let (homeserver, user) = find(homeservers, user)?;
    let (password, made) = password_or_made(homeserver, password);
    homeserver.accounts.check_password_strength(&password).map_err(|e| told(&e))?;
    homeserver.accounts.set_password(&user, &password).await.map_err(|e| unknown(&user, &e))?;
    let line = if keep_sessions {
        format!("password of {user} set; its sessions go on")
    } else {
        let ended = end_sessions(homeserver, &user).await?;
        format!("password of {user} set; {ended}")
    };
    note(homeserver, "user reset-password", user.as_str()).await;
    Ok(std::iter::once(line).chain(made).collect())
}

/// Ends all sessions of a user, and says how many they were.
async fn end_sessions(homeserver: &Homeserver, user: &UserId) -> Result<String, String> {
    let devices = homeserver.accounts.devices(user).await.map_err(|e| told(&e))?;
    homeserver.delete_devices(user, devices.iter().map(|device| &*device.device_id)).await.map_err(|e| told(&e))?;
    Ok(match devices.len() {
        0 => "there were no sessions".to_owned(),
        1 => "1 session ended".to_owned(),
        count => format!("{count} sessions ended"),
    })
}

async fn log_out(homeservers: &[Arc<Homeserver>], user: &str) -> Answer {
    let (homeserver, user) = find(homeservers, user)?;
    known(homeserver, &user).await?;
    let ended = end_sessions(homeserver, &user).await?;
    note(homeserver, "user log-out", user.as_str()).await;
    Ok(vec![format!("{user}: {ended}")])
}

async fn known(homeserver: &Homeserver, user: &UserId) -> Result<User, String> {
    let found = homeserver.accounts.user(user).await.map_err(|e| told(&e))?;
    found.ok_or_else(|| format!("there is no {user}"))
}

async fn show(homeservers: &[Arc<Homeserver>], user: &str) -> Answer {
    let (homeserver, user) = find(homeservers, user)?;
    let known = known(homeserver, &user).await?;
    let profile = homeserver.accounts.profile(&user).await.map_err(|e| told(&e))?;
    let devices = homeserver.accounts.devices(&user).await.map_err(|e| told(&e))?;
    let addresses = homeserver.accounts.threepids(&user).await.map_err(|e| told(&e))?;
    let rooms = homeserver.rooms.store().graph.memberships(&user).await.map_err(|e| told(&e))?;
    let joined = rooms.iter().filter(|room| room.membership == ruma::events::room::member::MembershipState::Join);
    let words = words(&known);
    let name = profile.get("displayname").and_then(|name| name.as_str()).unwrap_or_default();
    let mut rows = vec![
        vec!["user".to_owned(), user.to_string()],
        vec!["name".to_owned(), name.to_owned()],
        vec!["state".to_owned(), if words.is_empty() { "normal".to_owned() } else { words.join(", ") }],
        vec!["created (ms)".to_owned(), known.created_ms.to_string()],
        vec!["rooms".to_owned(), joined.count().to_string()],
    ];
    rows.extend(addresses.iter().map(|known| vec![known.medium.clone(), known.address.clone()]));
    rows.extend(devices.iter().map(|device| {
        let name = device.display_name.as_deref().unwrap_or_default();
        let seen = device.seen_ms.map_or("never".to_owned(), |seen_ms| seen_ms.to_string());
        vec!["device".to_owned(), format!("{}  {name}  seen (ms) {seen}", device.device_id)]
    }));
    Ok(table(&rows))
}

async fn deactivate(homeservers: &[Arc<Homeserver>], user: &str, erase: bool) -> Answer {
    let (homeserver, user) = find(homeservers, user)?;
    if known(homeserver, &user).await?.deactivated {
        return Err(format!("{user} is deactivated already"));
    }
    homeserver.deactivate(&user, erase).await.map_err(|e| told(&e))?;
    note(homeserver, "user deactivate", user.as_str()).await;
    Ok(vec![format!("{user} is deactivated; it leaves its rooms in the background")])
}

async fn reactivate(homeservers: &[Arc<Homeserver>], user: &str, password: Option<String>) -> Answer {
    let (homeserver, user) = find(homeservers, user)?;
    if !known(homeserver, &user).await?.deactivated {
        return Err(format!("{user} is not deactivated"));
    }
    let (password, made) = password_or_made(homeserver, password);
    homeserver.accounts.check_password_strength(&password).map_err(|e| told(&e))?;
    homeserver.accounts.reactivate(&user, Some(&password)).await.map_err(|e| unknown(&user, &e))?;
    note(homeserver, "user reactivate", user.as_str()).await;
    Ok(std::iter::once(format!("{user} may log in again")).chain(made).collect())
}

async fn send_notice(homeservers: &[Arc<Homeserver>], user: &str, text: &str) -> Answer {
    let (homeserver, user) = find(homeservers, user)?;
    let content = serde_json::json!({ "msgtype": "m.text", "body": text });
    let content = serde_json::value::to_raw_value(&content).map_err(|e| told(&e))?;
    let notice = Notice { event_type: "m.room.message", state_key: None, content: &content, txn: None };
    homeserver.send_notice(&user, notice).await.map_err(|e| told(&e))?;
    note(homeserver, "user notice", user.as_str()).await;
    Ok(vec![format!("{user} has been told")])
}

/// The id of a user of this tenant: an id, or its local part.
pub(super) fn id_at(homeserver: &Homeserver, user: &str) -> Result<OwnedUserId, String> {
    let id = if user.starts_with('@') { user.to_owned() } else { format!("@{user}:{}", homeserver.name) };
    UserId::parse(id).map_err(|_| format!("{user} is not a user id"))
}

/// A password, and the line that tells it if it was made here.
fn password_or_made(homeserver: &Homeserver, given: Option<String>) -> (String, Option<String>) {
    match given {
        Some(password) => (password, None),
        None => {
            let made = homeserver.random.alphanumeric(PASSWORD_LENGTH);
            let line = format!("password: {made}");
            (made, Some(line))
        }
    }
}

/// The tenant and the id of a user.
fn find<'a>(homeservers: &'a [Arc<Homeserver>], user: &str) -> Result<(&'a Arc<Homeserver>, OwnedUserId), String> {
    if !user.starts_with('@') {
        let [only] = homeservers else {
            return Err(format!("there are several tenants: name the user as @{user}:SERVER"));
        };
        let id = UserId::parse(format!("@{user}:{}", only.name)).map_err(|_| format!("{user} is not a user's name"))?;
        return Ok((only, id));
    }
    let id = UserId::parse(user).map_err(|_| format!("{user} is not a user id"))?;
    match homeservers.iter().find(|homeserver| homeserver.name == id.server_name()) {
        Some(homeserver) => Ok((homeserver, id)),
        None => Err(format!("{} is not served here", id.server_name())),
    }
}

fn unknown(user: &UserId, error: &AccountError) -> String {
    match error {
        AccountError::NotFound(_) => format!("there is no {user}"),
        other => told(other),
    }
}
