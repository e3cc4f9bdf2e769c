//! Application services: who has which token and which names.

use std::sync::Arc;

use parking_lot::RwLock;
use regex::Regex;
use ruma::{OwnedUserId, UserId};
use samtal_kit::{Secret, secret::constant_time_eq};

/// One application service, as far as accounts are concerned.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its id.
    pub id: String,
    /// The token that it shows to us.
    pub token: Secret<String>,
    /// Its own user.
    pub sender: OwnedUserId,
    /// Users that are its own or interest it.
    pub users: Vec<Namespace>,
    /// Room aliases that are its own or interest it.
    pub aliases: Vec<Namespace>,
    /// Rooms that interest it.
    pub rooms: Vec<Namespace>,
    /// Whether its requests are limited in rate.
    pub rate_limited: bool,
}

/// A namespace of an application service.
#[derive(Clone, Debug)]
pub struct Namespace {
    /// Nobody else may make names in it.
    pub exclusive: bool,
    /// What it matches, from the beginning of the id.
    pub regex: Regex,
}

impl Namespace {
    /// A namespace.
    pub fn new(exclusive: bool, pattern: &str) -> Result<Self, regex::Error> {
        Ok(Self { exclusive, regex: Regex::new(&format!("^(?:{pattern})"))? })
    }
}

impl Service {
    /// Whether it may act as `user` or register it: its own user, or one in a user namespace.
    pub fn owns_user(&self, user: &UserId) -> bool {
        user == self.sender || self.users.iter().any(|names| names.regex.is_match(user.as_str()))
    }
}

/// All application services of the tenant.
#[derive(Debug, Default)]
pub struct Services(RwLock<Arc<[Arc<Service>]>>);

impl Services {
    /// Replaces them all.
    pub fn set(&self, services: Vec<Service>) {
        *self.0.write() = services.into_iter().map(Arc::new).collect();
    }

    /// All of them.
    pub fn all(&self) -> Arc<[Arc<Service>]> {
        Arc::clone(&self.0.read())
    }

    /// The one with this token.
    pub fn by_token(&self, token: &str) -> Option<Arc<Service>> {
        self.all().iter().find(|service| constant_time_eq(service.token.expose().as_bytes(), token.as_bytes())).cloned()
    }

    /// The one with this id.
    pub fn by_id(&self, id: &str) -> Option<Arc<Service>> {
        self.all().iter().find(|service| service.id == id).cloned()
    }

    /// The service that alone may have this user.
    pub fn exclusive_user(&self, user: &UserId) -> Option<Arc<Service>> {
        self.all()
            .iter()
            .find(|service| {
                user == service.sender
                    || service.users.iter().any(|names| names.exclusive && names.regex.is_match(user.as_str()))
            })
            .cloned()
    }

    /// The service that alone may have this alias.
    pub fn exclusive_alias(&self, alias: &str) -> Option<Arc<Service>> {
        self.all()
            .iter()
            .find(|service| service.aliases.iter().any(|names| names.exclusive && names.regex.is_match(alias)))
            .cloned()
    }
}
