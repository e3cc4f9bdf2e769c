//! Commands on users.

use std::sync::Arc;

use ruma::{OwnedUserId, UserId};
use samtal_account::{AccountError, Client, Kind, NewUser, Switch, User};
use samtal_ops::Homeserver;
use serde::{Deserialize, Serialize};

use super::{Answer, told};

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
    },
}

/// Runs it.
pub(crate) async fn answer(homeservers: &[Arc<Homeserver>], command: UserCommand) -> Answer {
    match command {
        UserCommand::Create { user, password, admin } => create(homeservers, &user, password, admin).await,
        UserCommand::List { tenant } => list(homeservers, tenant.as_deref()).await,
        UserCommand::Lock { user, on } => switch(homeservers, &user, Switch::Locked, on).await,
        UserCommand::Suspend { user, on } => switch(homeservers, &user, Switch::Suspended, on).await,
        UserCommand::ResetPassword { user, password } => reset_password(homeservers, &user, password).await,
    }
}

async fn create(homeservers: &[Arc<Homeserver>], user: &str, password: Option<String>, admin: bool) -> Answer {
    let (homeserver, user) = find(homeservers, user)?;
    let user_id = homeserver.accounts.new_user_id(user.localpart()).map_err(|e| told(&e))?;
    let (password, made) = password_or_made(homeserver, password);
    let new = NewUser { password: Some(password), admin, ..NewUser::normal(user_id.clone()) };
    homeserver.accounts.create(new, &Client::default()).await.map_err(|e| told(&e))?;
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
    ];
    let words: Vec<&str> = words.into_iter().flatten().collect();
    if words.is_empty() { user.user_id.to_string() } else { format!("{}\t{}", user.user_id, words.join(",")) }
}

async fn switch(homeservers: &[Arc<Homeserver>], user: &str, switch: Switch, on: bool) -> Answer {
    let (homeserver, user) = find(homeservers, user)?;
    homeserver.accounts.switch(&user, switch, on).await.map_err(|e| unknown(&user, &e))?;
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

async fn reset_password(homeservers: &[Arc<Homeserver>], user: &str, password: Option<String>) -> Answer {
    let (homeserver, user) = find(homeservers, user)?;
    let (password, made) = password_or_made(homeserver, password);
    homeserver.accounts.set_password(&user, &password).await.map_err(|e| unknown(&user, &e))?;
    Ok(std::iter::once(format!("password of {user} set; its sessions go on")).chain(made).collect())
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
