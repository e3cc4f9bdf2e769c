//! What the operator decides about accounts.

use samtal_kit::{Rate, Secret};

/// What the operator decides about accounts. Plain values: the file format is `samtal-config`'s.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether anyone may make an account, with no more proof than `m.login.dummy`.
    pub registration_open: bool,
    /// Registration tokens from the configuration, beside those in the database. Without an open registration, a user
    /// who knows one may make an account.
    pub registration_tokens: Vec<Secret<String>>,
    /// Whoever knows this secret may make any account.
    pub registration_shared_secret: Option<Secret<String>>,
    /// Whether guests get in.
    pub guests: bool,
    /// Terms that a new account must accept.
    pub terms: Option<Terms>,
    /// Whether passwords log in.
    pub password_login: bool,
    /// Shortest password accepted, in characters.
    pub password_length_min: usize,
    /// How dear a password's hash is.
    pub password_cost: PasswordCost,
    /// How long an access token lasts for clients that can refresh it.
    pub access_token_ms: u64,
    /// How long an unfinished user-interactive authentication is kept.
    pub uia_ms: u64,
    /// How long a token of `/login/get_token` lasts.
    pub login_token_ms: u64,
    /// Rates; nothing when limits are switched off.
    pub rates: Option<Rates>,
}

/// Terms that a new account must accept.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Their version.
    pub version: String,
    /// What they are called.
    pub name: String,
    /// Where they stand.
    pub url: String,
}

/// Parameters of argon2id.
#[derive(Clone, Copy, Debug)]
pub struct PasswordCost {
    /// Memory.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
}

impl PasswordCost {
    /// For tests: no protection at all.
    pub const CHEAP: Self = Self { memory_kib: 8, passes: 1 };
}

/// How often somebody may do something.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// Attempts to log in, for each address and account.
    pub login: Rate,
    /// New accounts, for each address.
    pub registration: Rate,
    /// Messages and other events, for each user.
    pub messages: Rate,
    /// Joins, for each user.
    pub joins: Rate,
    /// Invites, for each user.
    pub invites: Rate,
    /// All other rate-limited requests, for each user or address.
    pub other: Rate,
}

impl Default for Rates {
    fn default() -> Self {
        Self {
            login: Rate::new(0.2, 10),
            registration: Rate::new(0.1, 5),
            messages: Rate::new(10.0, 100),
            joins: Rate::new(0.5, 20),
            invites: Rate::new(0.5, 30),
            other: Rate::new(50.0, 500),
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            registration_open: false,
            registration_tokens: Vec::new(),
            registration_shared_secret: None,
            guests: false,
            terms: None,
            password_login: true,
            password_length_min: 8,
            // OWASP's recommendation: 19 MiB, two passes, one lane.
            password_cost: PasswordCost { memory_kib: 19 * 1024, passes: 2 },
            access_token_ms: 3_600_000,
            uia_ms: 15 * 60_000,
            login_token_ms: 2 * 60_000,
            rates: Some(Rates::default()),
        }
    }
}
