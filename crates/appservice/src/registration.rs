//! Registrations: what the operator writes about an application service, in YAML (AS API, "Registration").

use std::path::{Path, PathBuf};

use ruma::{OwnedUserId, ServerName, UserId};
use samtal_account::{Namespace, Service as Account};
use samtal_kit::Secret;
use serde::{Deserialize, Serialize};

/// Longest registration, in bytes.
const BYTES_MAX: usize = 1 << 20;

/// A registration as it is written. Unknown fields are allowed.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Registration {
    /// Its id, unique on this server.
    pub id: String,
    /// Where it listens; without an address nothing is sent to it.
    #[serde(default)]
    pub url: Option<String>,
    /// The token that it shows to us.
    pub as_token: String,
    /// The token that we show to it.
    pub hs_token: String,
    /// The local part of its own user.
    pub sender_localpart: String,
    /// Its names.
    #[serde(default)]
    pub namespaces: Namespaces,
    /// Whether requests as its users are limited in rate, as everybody's are.
    #[serde(default = "yes")]
    pub rate_limited: Option<bool>,
    /// Networks that it can look up people and places of.
    #[serde(default)]
    pub protocols: Option<Vec<String>>,
    /// Whether it hears of typing, receipts, presence, and messages to devices.
    #[serde(default)]
    pub receive_ephemeral: bool,
    /// As `receive_ephemeral`, as MSC2409 called it.
    #[serde(default, rename = "de.sorunome.msc2409.push_ephemeral")]
    pub push_ephemeral: bool,
    /// As `receive_ephemeral`, as some bridges write it.
    #[serde(default, rename = "push_ephemeral")]
    pub push_ephemeral_short: bool,
    /// Whether it hears of device lists and counts of one-time keys (MSC3202).
    #[serde(default, rename = "org.matrix.msc3202")]
    pub msc3202: bool,
}

/// A registration's namespaces.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Namespaces {
    /// Users of this server.
    #[serde(default)]
    pub users: Option<Vec<Names>>,
    /// Room aliases.
    #[serde(default)]
    pub aliases: Option<Vec<Names>>,
    /// Room ids.
    #[serde(default)]
    pub rooms: Option<Vec<Names>>,
}

/// A namespace.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Names {
    /// Whether nobody else may make names in it.
    #[serde(default)]
    pub exclusive: bool,
    /// What it matches.
    pub regex: String,
}

#[expect(clippy::unnecessary_wraps, reason = "the field is optional, so that an explicit null is not an error")]
fn yes() -> Option<bool> {
    Some(true)
}

/// Why a registration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    /// The file cannot be read.
    #[error("{path}: cannot be read: {source}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no registration.
    #[error("{path}: {problem}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        problem: Box<RegistrationError>,
    },
    /// It is not what a registration looks like.
    #[error("not a registration: {0}")]
    Syntax(String),
    /// One of its values cannot be.
    #[error("{0}")]
    Value(String),
}

impl Registration {
    /// Reads one.
    pub fn parse(yaml: &str) -> Result<Self, RegistrationError> {
        if yaml.len() > BYTES_MAX {
            return Err(RegistrationError::Syntax(format!("more than {BYTES_MAX} bytes")));
        }
        serde_saphyr::from_str(yaml).map_err(|error| RegistrationError::Syntax(error.to_string()))
    }

    /// Reads these files. The first that cannot be used is the error.
    pub fn load(paths: &[PathBuf]) -> Result<Vec<Self>, RegistrationError> {
        paths.iter().map(|path| Self::load_one(path)).collect()
    }

    fn load_one(path: &Path) -> Result<Self, RegistrationError> {
        let yaml = std::fs::read_to_string(path)
            .map_err(|source| RegistrationError::Unreadable { path: path.to_owned(), source })?;
        Self::parse(&yaml)
            .map_err(|problem| RegistrationError::File { path: path.to_owned(), problem: Box::new(problem) })
    }

    /// Checks it, as one of this server.
    pub fn service(self, server: &ServerName) -> Result<Service, RegistrationError> {
        let wrong = |what: String| RegistrationError::Value(format!("application service {}: {what}", self.id));
        if self.id.is_empty() || self.id.contains('\0') {
            return Err(wrong("id: empty".into()));
        }
        if self.as_token.is_empty() || self.hs_token.is_empty() {
            return Err(wrong("as_token and hs_token must not be empty".into()));
        }
        let sender = UserId::parse(format!("@{}:{server}", self.sender_localpart))
            .map_err(|error| wrong(format!("sender_localpart: {error}")))?;
        let url = match self.url.as_deref().map(str::trim).filter(|url| !url.is_empty() && *url != "null") {
            Some(url) => {
                let known = url.parse::<http::Uri>().ok().filter(|uri| {
                    matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some() && uri.query().is_none()
                });
                known.ok_or_else(|| wrong(format!("url: an http or https address is wanted, not {url:?}")))?;
                Some(url.trim_end_matches('/').to_owned())
            }
            None => None,
        };
        let names = |what: &str, names: &Option<Vec<Names>>| -> Result<Vec<Namespace>, RegistrationError> {
            let made = names.iter().flatten().map(|names| Namespace::new(names.exclusive, &names.regex));
            made.collect::<Result<_, _>>().map_err(|error| wrong(format!("namespaces.{what}: {error}")))
        };
        let account = Account {
            id: self.id.clone(),
            token: Secret::new(self.as_token.clone()),
            sender: sender.clone(),
            users: names("users", &self.namespaces.users)?,
            aliases: names("aliases", &self.namespaces.aliases)?,
            rooms: names("rooms", &self.namespaces.rooms)?,
            rate_limited: self.rate_limited.unwrap_or(true),
        };
        Ok(Service {
            account,
            server: server.to_string(),
            url,
            token: Secret::new(self.hs_token),
            protocols: self.protocols.unwrap_or_default(),
            ephemeral: self.receive_ephemeral || self.push_ephemeral || self.push_ephemeral_short,
            ephemeral_unstable: self.push_ephemeral || self.push_ephemeral_short,
            devices: self.msc3202,
        })
    }
}

/// An application service whose registration has been checked.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its names and its token, as accounts know them.
    pub account: Account,
    /// Our name.
    server: String,
    /// Where it listens, without a slash at the end.
    pub(crate) url: Option<String>,
    /// The token that we show to it.
    pub(crate) token: Secret<String>,
    /// Networks that it can look up.
    pub(crate) protocols: Vec<String>,
    /// Whether it hears of typing, receipts, presence and messages to devices.
    pub(crate) ephemeral: bool,
    /// Whether under MSC2409's names too.
    pub(crate) ephemeral_unstable: bool,
    /// Whether it hears of device lists and one-time keys.
    pub(crate) devices: bool,
}

impl Service {
    /// Its id.
    pub fn id(&self) -> &str {
        &self.account.id
    }

    /// Its own user.
    pub fn sender(&self) -> &OwnedUserId {
        &self.account.sender
    }

    /// Whether the user is one of this server's that it is interested in: namespaces of users are for local ones only.
    pub(crate) fn has_user(&self, user: &UserId) -> bool {
        user.server_name() == self.server.as_str() && self.account.owns_user(user)
    }

    pub(crate) fn has_alias(&self, alias: &str) -> bool {
        self.account.aliases.iter().any(|names| names.regex.is_match(alias))
    }

    pub(crate) fn has_room(&self, room: &str) -> bool {
        self.account.rooms.iter().any(|names| names.regex.is_match(room))
    }
}

#[cfg(test)]
mod tests {
    use ruma::{server_name, user_id};

    use super::*;

    const BRIDGE: &str = r#"
id: telegram
url: http://localhost:29317/
as_token: one
hs_token: "two"
sender_localpart: telegrambot
rate_limited: false
namespaces:
  users:
  - {exclusive: true, regex: '@telegram_.*:a\.example'}
  aliases:
  - exclusive: false
    regex: '#telegram_.*:a\.example'
  rooms: []
de.sorunome.msc2409.push_ephemeral: true
org.matrix.msc3202: true
receive_ephemeral: true
io.element.msc4190: true
"#;

    #[test]
    fn a_bridges_registration_is_read() {
        let service = Registration::parse(BRIDGE).unwrap().service(server_name!("a.example")).unwrap();
        assert_eq!(service.url.as_deref(), Some("http://localhost:29317"));
        assert_eq!(service.sender(), user_id!("@telegrambot:a.example"));
        assert!(service.has_user(user_id!("@telegram_1:a.example")));
        assert!(service.has_user(user_id!("@telegrambot:a.example")));
        assert!(!service.has_user(user_id!("@telegram_1:b.example")));
        assert!(!service.has_user(user_id!("@my_telegram_1:a.example")));
        assert!(service.has_alias("#telegram_x:a.example") && !service.has_alias("#x:a.example"));
        assert!(!service.account.rate_limited && service.ephemeral && service.devices);
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_its_reason() {
        let with = |from: &str, to: &str| {
            let made = Registration::parse(&BRIDGE.replace(from, to));
            made.and_then(|registration| registration.service(server_name!("a.example")))
        };
        assert!(with("url: http://localhost:29317/", "url: null").unwrap().url.is_none());
        assert!(with("url: http://localhost:29317/", "url: ''").unwrap().url.is_none());
        for (from, to, why) in [
            ("id: telegram", "name: telegram", "id"),
            ("url: http", "url: ftp", "url"),
            ("as_token: one", "as_token: ''", "as_token"),
            ("'@telegram_.*:a", "'@telegram_(:a", "users"),
            ("id: telegram", "id: [", "registration"),
        ] {
            let error = with(from, to).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        assert!(Registration::load(&["/does/not/exist.yaml".into()]).is_err());
    }
}
