//! What the operator decides for one tenant. Plain values: the file format is `samtal-config`'s.

use ruma::{OwnedServerName, RoomVersionId};

/// What the operator decides for one tenant.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Accounts: registration, log-in, rates.
    pub accounts: samtal_account::Options,
    /// Where clients reach this homeserver, without a slash at the end: `https://matrix.example.org`.
    pub public_base_url: Option<String>,
    /// Version of new rooms whose creator names none.
    pub default_room_version: RoomVersionId,
    /// Whether new rooms that are not public are encrypted when their creator does not say.
    pub encrypted_by_default: bool,
    /// Whether users are told who is there.
    pub presence: bool,
    /// Finding messages and people.
    pub search: samtal_search::Options,
    /// Files.
    pub media: samtal_media::Options,
    /// Speaking with other servers.
    pub federation: Federation,
    /// Bridges and bots.
    pub appservices: samtal_appservice::Options,
    /// The TURN server for calls.
    pub turn: Option<Turn>,
    /// Where group calls meet: addresses of the authorization services of LiveKit servers, the best first.
    pub livekit_service_urls: Vec<String>,
    /// The mail server.
    pub mail: Option<crate::Mail>,
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
            default_room_version: RoomVersionId::V12,
            encrypted_by_default: true,
            presence: true,
            search: samtal_search::Options::default(),
            media: samtal_media::Options::default(),
            federation: Federation::default(),
            appservices: samtal_appservice::Options::default(),
            turn: None,
            livekit_service_urls: Vec::new(),
            mail: None,
        }
    }
}
