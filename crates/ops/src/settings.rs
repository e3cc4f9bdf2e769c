//! What the operator decides for one tenant. Plain values: the file format is `samtal-config`'s.

use std::time::Duration;

use ruma::{OwnedServerName, RoomVersionId};

/// What the operator decides for one tenant.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Accounts: registration, log-in, rates.
    pub accounts: samtal_account::Options,
    /// Where clients reach this homeserver, without a slash at the end: `https://matrix.example.org`.
    pub public_base_url: Option<String>,
    /// Whether clients that log in are told to go there, wherever they came from. Not so where the operator did not say where
    /// it is: then they are best off where they are.
    pub tell_base_url: bool,
    /// Version of new rooms whose creator names none.
    pub default_room_version: RoomVersionId,
    /// Which new rooms are encrypted when their creator does not say.
    pub encrypted_by_default: EncryptedByDefault,
    /// The public list of rooms.
    pub directory: Directory,
    /// Longest time a `/sync` waits for news.
    pub sync_wait_max: Duration,
    /// Whether users are told who is there.
    pub presence: bool,
    /// Finding messages and people.
    pub search: samtal_search::Options,
    /// Files.
    pub media: samtal_media::Options,
    /// Speaking with other servers.
    pub federation: Federation,
    /// Speaking with others than servers: push gateways, identity servers.
    pub web: samtal_http::ClientOptions,
    /// Bridges and bots.
    pub appservices: samtal_appservice::Options,
    /// The TURN server for calls.
    pub turn: Option<Turn>,
    /// Where group calls meet: addresses of the authorization services of LiveKit servers, the best first.
    pub livekit_service_urls: Vec<String>,
    /// The mail server.
    pub mail: Option<crate::Mail>,
    /// How users are told something by those who run the server.
    pub notices: crate::Notices,
    /// What caches may hold; the tenants of a process share it.
    pub memory: samtal_kit::Memory,
}

/// Which new rooms are encrypted when their creator does not say. Spaces never are: they hold no messages.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EncryptedByDefault {
    /// None.
    None,
    /// Those that are not made as public chats, nor by application services or with their users.
    Private,
    /// All.
    All,
}

/// Who may put rooms into the public list.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Publishers {
    /// Who may name the room's main alias.
    Everyone,
    /// Administrators of this server.
    Administrators,
    /// Nobody.
    Nobody,
}

/// The public list of rooms: who adds to it, and who sees it besides this server's users.
#[derive(Clone, Copy, Debug)]
pub struct Directory {
    /// Who may put rooms into it.
    pub publishers: Publishers,
    /// Whether anyone sees it without an access token.
    pub without_login: bool,
    /// Whether other servers see it.
    pub over_federation: bool,
}

impl Default for Directory {
    fn default() -> Self {
        Self { publishers: Publishers::Everyone, without_login: false, over_federation: false }
    }
}

/// A TURN server for calls, which shares a secret with us.
#[derive(Clone, Debug)]
pub struct Turn {
    /// Its addresses.
    pub uris: Vec<String>,
    /// The secret, from which each client's password is made.
    pub secret: samtal_kit::Secret<String>,
    /// How long such a password lasts.
    pub lifetime_ms: u64,
}

/// Speaking with other servers.
#[derive(Clone, Debug)]
pub struct Federation {
    /// Whether at all.
    pub enabled: bool,
    /// With whom, and about what.
    pub policy: samtal_policy::Settings,
    /// Whether other servers are told what people call their devices.
    pub device_names: bool,
    /// How many requests one server may make; `None` without bound.
    pub rate: Option<samtal_kit::Rate>,
    /// Servers that are asked for keys of servers that do not answer.
    pub key_servers: Vec<OwnedServerName>,
    /// Certificates, address policy and connections.
    pub client: samtal_http::ClientOptions,
}

impl Default for Federation {
    fn default() -> Self {
        Self {
            enabled: true,
            policy: samtal_policy::Settings::default(),
            device_names: false,
            rate: None,
            key_servers: Vec::new(),
            client: samtal_http::ClientOptions::default(),
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            accounts: samtal_account::Options::default(),
            public_base_url: None,
            tell_base_url: false,
            default_room_version: RoomVersionId::V12,
            encrypted_by_default: EncryptedByDefault::Private,
            directory: Directory::default(),
            sync_wait_max: Duration::from_secs(30),
            presence: true,
            search: samtal_search::Options::default(),
            media: samtal_media::Options::default(),
            federation: Federation::default(),
            web: samtal_http::ClientOptions::default(),
            appservices: samtal_appservice::Options::default(),
            turn: None,
            livekit_service_urls: Vec::new(),
            mail: None,
            notices: crate::Notices::default(),
            memory: samtal_kit::Memory::default(),
        }
    }
}
