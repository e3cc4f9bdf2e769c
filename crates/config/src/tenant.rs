//! Options of one server name (a tenant). Each may be set for all, and again for one.

use std::path::PathBuf;

use ruma::{OwnedServerName, OwnedUserId, RoomVersionId};

use crate::process::networks_that_are_not_public;
use crate::{Network, Secret};

/// One server name with all that holds for it: what the server is built from.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// The server name.
    pub name: OwnedServerName,
    /// Its own directory, under `server.data_dir`.
    pub data_dir: PathBuf,
    /// Where clients reach it, without a slash at the end.
    pub public_base_url: String,
    /// Whether that was said, and not made from the name.
    pub is_base_url_given: bool,
    /// Where other servers reach it, if that is to be published.
    pub federation_address: Option<OwnedServerName>,
    /// What it does and allows.
    pub options: TenantOptions,
}

section! {
    /// The further server names. That of `server.name` needs none of these.
    pub struct Tenants {
        /// A further server name in this process, with a database, keys and media of its own. The tables `registration` to
        /// `contact` may be repeated in it (`[tenants.registration]`); what is not said there is as outside.
        tenants: Vec<TenantEntry> = Vec::new() => PLAIN,
    }
}

section! {
    /// A further server name in this process.
    pub struct TenantEntry {
        /// The name that ends every user id here.
        name: Option<OwnedServerName> = None => PLAIN.required().example("\"example.com\""),
        /// As `server.public_base_url`.
        public_base_url: Option<String> = None => PLAIN.example("\"https://matrix.example.com\""),
        /// As `server.federation_address`.
        federation_address: Option<OwnedServerName> = None => PLAIN.live().example("\"matrix.example.com:443\""),
    }
}

section! {
    /// The tables that may stand outside, for every tenant, and again in `[[tenants]]`, for that one.
    pub struct TenantOptions {
        /// Who may make an account.
        registration: Registration = Registration::default() => PLAIN,
        /// How people log in.
        login: Login = Login::default() => PLAIN,
        /// What new rooms are like, and who sees the room directory.
        rooms: Rooms = Rooms::default() => PLAIN,
        /// With which other servers this one talks.
        federation: Federation = Federation::default() => PLAIN,
        /// Previews of web pages that are linked to in messages.
        url_previews: UrlPreviews = UrlPreviews::default() => PLAIN,
        /// How much one user, address or server may do.
        limits: Limits = Limits::default() => PLAIN,
        /// Uploaded files.
        media: Media = Media::default() => PLAIN,
        /// Whether people see who is online.
        presence: Presence = Presence::default() => PLAIN,
        /// Finding messages and people.
        search: Search = Search::default() => PLAIN,
        /// Bridges and bots with their own registration file.
        application_services: ApplicationServices = ApplicationServices::default() => PLAIN.live(),
        /// The mail server for verification mails. Without this table no mail is sent.
        mail: Option<Mail> = None => PLAIN,
        /// A TURN server for calls. Without this table clients get none.
        turn: Option<Turn> = None => PLAIN,
        /// Where group calls meet.
        calls: Calls = Calls::default() => PLAIN,
        /// How users are told something by those who run the server.
        notices: Notices = Notices::default() => PLAIN,
        /// Whom to turn to, published at `/.well-known/matrix/support`.
        contact: Contact = Contact::default() => PLAIN,
    }
}

section! {
    /// Who may make an account.
    pub struct Registration {
        /// Whether anyone may, without further proof.
        open: bool = false => PLAIN.live(),
        /// Whether guests get in: accounts without a password that may only read and speak in rooms that allow guests.
        guests: bool = false => PLAIN.live(),
        /// Registration tokens: whoever knows one may make an account. More can be made in the administration API.
        tokens: Vec<Secret> = Vec::new() => PLAIN.live(),
        /// Whoever knows this secret may make any account, an administrator's too, at `/_synapse/admin/v1/register`.
        shared_secret: Option<Secret> = None => PLAIN.live().example("\"a long random text\""),
        /// Terms that a new account must accept.
        terms: Option<Terms> = None => PLAIN.live(),
        /// Shortest password accepted.
        password_length_min: u32 = 8 => PLAIN.unit("characters").range(1, 512).live(),
    }
}

section! {
    /// Terms that a new account must accept.
    pub struct Terms {
        /// Their version; accepting again is asked for when it changes.
        version: String = "1.0".to_owned() => PLAIN.live(),
        /// What they are called.
        name: String = "Terms of service".to_owned() => PLAIN.live(),
        /// Where they stand.
        url: String = String::new() => PLAIN.required().live().example("\"https://example.org/terms\""),
    }
}

section! {
    /// How people log in.
    pub struct Login {
        /// Whether passwords do.
        password: bool = true => PLAIN.live(),
        /// How long an access token lasts for clients that can refresh it.
        access_token_ms: u64 = 3_600_000 => PLAIN.unit("ms").range(10_000, 31_536_000_000).live(),
    }
}

choices! {
    /// Who may do something.
    pub enum Who {
        /// Every account of this server.
        Everyone = "everyone",
        /// Administrators of this server.
        Administrators = "administrators",
        /// Nobody.
        Nobody = "nobody",
    }
}

choices! {
    /// Which new rooms are encrypted when their maker does not say.
    pub enum EncryptedByDefault {
        /// Those made as private chats.
        Private = "private",
        /// All.
        All = "all",
        /// None.
        None = "none",
    }
}

section! {
    /// What new rooms are like, and who sees the room directory.
    pub struct Rooms {
        /// The version of new rooms.
        default_version: RoomVersionId = RoomVersionId::V12 => PLAIN,
        /// Who may put rooms into the public directory.
        publish: Who = Who::Everyone => PLAIN,
        /// Whether the public directory is shown to anyone.
        public_directory_without_login: bool = false => PLAIN,
        /// Whether the public directory is shown to other servers.
        public_directory_over_federation: bool = false => PLAIN,
        /// Which new rooms are end-to-end encrypted when their maker does not say. Of the private ones, those are not that a
        /// bridge or bot (an application service) makes or is invited to at once: it could not read them, or says that it can.
        encrypted_by_default: EncryptedByDefault = EncryptedByDefault::Private => PLAIN,
    }
}

choices! {
    /// What holds for servers on neither list.
    pub enum FederationPolicy {
        /// They are talked with.
        Open = "open",
        /// They are not.
        Closed = "closed",
    }
}

section! {
    /// A certificate that is shown to servers that ask for one.
    pub struct ClientCertificate {
        /// PEM file with the certificate and the intermediate ones after it.
        certificate: PathBuf = PathBuf::new() => PLAIN.required().example("\"/etc/samtal/client.crt\""),
        /// PEM file with the private key.
        private_key: PathBuf = PathBuf::new() => PLAIN.required().example("\"/etc/samtal/client.key\""),
    }
}

section! {
    /// With which other servers this one talks.
    pub struct Federation {
        /// Whether at all.
        enabled: bool = true => PLAIN.live(),
        /// What holds for servers that are on neither list below. Default: `"open"`, but `"closed"` where `allow` is given.
        /// What is stored with `samtal federation` goes before this, `allow` and `deny`.
        policy: Option<FederationPolicy> = None => PLAIN.live().example("\"closed\""),
        /// Servers that are talked with (`*` and `?` stand for any text and character). An empty list is nobody.
        allow: Option<Vec<String>> = None => PLAIN.live().example("[\"*.example.org\", \"partner.example.com\"]"),
        /// Servers that are not; this list is the stronger one.
        deny: Vec<String> = Vec::new() => PLAIN.live(),
        /// Whether rooms shared with other servers must be encrypted: others are not joined, nobody is let into them or invited.
        encrypted_only: bool = false => PLAIN.live(),
        /// Types of rooms that are shared with other servers; a plain room has the type `""`. Default: all.
        room_types: Option<Vec<String>> = None => PLAIN.live().example("[\"\", \"m.space\"]"),
        /// Whether invitations from servers that no allow rule names wait until an operator lets them through.
        hold_unknown_invites: bool = false => PLAIN.live(),
        /// PEM files with certificate authorities that are trusted besides the public ones.
        trusted_certificates: Vec<PathBuf> = Vec::new() => PLAIN,
        /// Addresses that are never connected to, whatever a server name resolves to.
        denied_networks: Vec<Network> = networks_that_are_not_public() => PLAIN,
        /// An HTTP proxy that connections to other servers go through, with its password if it wants one. It looks names up itself, so
        /// `denied_networks` then binds only addresses that stand in place of a name.
        proxy: Option<Secret> = None => PLAIN.example("\"http://proxy.example.org:3128\""),
        /// The certificate that is shown to servers that ask for one. Few do.
        client_certificate: Option<ClientCertificate> = None => PLAIN,
        /// Whether other servers are told what people call their devices.
        device_names: bool = false => PLAIN,
        /// Servers that are asked for another server's signing keys when it does not answer itself.
        key_servers: Vec<OwnedServerName> = Vec::new() => PLAIN.example("[\"matrix.org\"]"),
    }
}

section! {
    /// Previews of web pages.
    pub struct UrlPreviews {
        /// Whether the server fetches pages for them. A page's owner then sees that its address was sent.
        enabled: bool = false => PLAIN,
    }
}

section! {
    /// So many a second in the long run, so many at once.
    pub struct Rate {
        /// How fast what was used comes back.
        per_second: f64 = 10.0 => PLAIN.unit("per second").live(),
        /// How many at once.
        burst: u32 = 50 => PLAIN.range(1, 10_000_000).live(),
    }
}

const fn rate(per_second: f64, burst: u32) -> Rate {
    Rate { per_second, burst }
}

section! {
    /// How much one user, address or server may do.
    pub struct Limits {
        /// Attempts to log in, for each address and account.
        login: Rate = rate(0.2, 10) => PLAIN,
        /// New accounts, for each address.
        registration: Rate = rate(0.1, 5) => PLAIN,
        /// Messages and other events, for each user.
        messages: Rate = rate(10.0, 100) => PLAIN,
        /// Joins, for each user.
        joins: Rate = rate(0.5, 20) => PLAIN,
        /// Invites, for each user.
        invites: Rate = rate(0.5, 30) => PLAIN,
        /// Requests of another server.
        federation: Rate = rate(100.0, 1_000) => PLAIN,
        /// Longest upload.
        upload_bytes_max: u64 = 50 * 1024 * 1024 => PLAIN.unit("bytes").range(1, i64::MAX),
        /// Longest time a `/sync` may wait. Higher saves requests, lower frees connections sooner.
        sync_wait_ms_max: u64 = 30_000 => PLAIN.unit("ms").range(0, 600_000),
    }
}

section! {
    /// Uploaded files.
    pub struct Media {
        /// Where they are kept: a directory or `file:///…`; or `s3://bucket/below`, `az://container/below`, `gs://bucket/below`.
        /// Default: `media` in the tenant's directory.
        store: Option<String> = None => PLAIN.example("\"/srv/samtal/media\""),
        /// Where a store is spoken to that is like S3 or Azure's but not theirs.
        store_endpoint: Option<String> = None => PLAIN.example("\"https://minio.example.org\""),
        /// The region of an S3 bucket.
        store_region: Option<String> = None => PLAIN.example("\"eu-north-1\""),
        /// S3: the access key's id. Azure: the account.
        store_key_id: Option<String> = None => PLAIN.example("\"samtal\""),
        /// S3: the secret access key. Azure: the account's key. Google: the service account's key, as JSON.
        store_key: Option<Secret> = None => PLAIN.example("\"secret\""),
        /// How much of such a store is copied to the tenant's directory as it is read; 0 for nothing.
        store_copies_bytes_max: u64 = 5_000_000_000 => PLAIN.unit("bytes"),
        /// How much one user may have uploaded. Default: as much as there is room for.
        user_bytes_max: Option<u64> = None => PLAIN.unit("bytes").example("10_000_000_000"),
        /// How much all uploads and copies of other servers' files may be together. Default: as much as there is room for.
        total_bytes_max: Option<u64> = None => PLAIN.unit("bytes").example("1_000_000_000_000"),
        /// How much all smaller pictures may be together; beyond it the longest unused go.
        thumbnail_bytes_max: u64 = 5_000_000_000 => PLAIN.unit("bytes"),
        /// Whether the usual smaller pictures are made when a picture is uploaded, and not only when first asked for. Whoever
        /// asks first then waits less; most of them are never asked for.
        thumbnails_ahead: bool = false => PLAIN,
        /// The socket of a ClamAV daemon that looks at each file before it is kept. What is encrypted end to end it cannot see.
        scanner_socket: Option<PathBuf> = None => PLAIN.example("\"/run/clamav/clamd.ctl\""),
        /// The address of such a daemon, if it has no socket here.
        scanner_address: Option<std::net::SocketAddr> = None => PLAIN.example("\"127.0.0.1:3310\""),
        /// If the daemon speaks ICAP and not as ClamAV's: which of its services looks at files.
        scanner_icap_service: Option<String> = None => PLAIN.example("\"avscan\""),
        /// How long it may take over one file.
        scanner_ms_max: u64 = 60_000 => PLAIN.unit("ms").range(1_000, 600_000),
        /// Whether files are refused that it could not look at.
        scanner_required: bool = true => PLAIN,
        /// How long a copy of another server's file is kept after it was last asked for.
        remote_kept_ms: u64 = 90 * 24 * 3_600_000 => PLAIN.unit("ms").range(60_000, 315_360_000_000),
        /// Whether the old endpoints still give files out to whoever knows their names. Needed for clients older than 2024.
        legacy_downloads: bool = false => PLAIN,
    }
}

section! {
    /// Whether people see who is online.
    pub struct Presence {
        /// Whether presence is kept and shown.
        enabled: bool = true => PLAIN.live(),
    }
}

choices! {
    /// A language whose words are known by their stems.
    pub enum Language {
        /// Danish.
        Danish = "danish",
        /// Dutch.
        Dutch = "dutch",
        /// English.
        English = "english",
        /// Finnish.
        Finnish = "finnish",
        /// French.
        French = "french",
        /// German.
        German = "german",
        /// Hungarian.
        Hungarian = "hungarian",
        /// Italian.
        Italian = "italian",
        /// Norwegian.
        Norwegian = "norwegian",
        /// Portuguese.
        Portuguese = "portuguese",
        /// Romanian.
        Romanian = "romanian",
        /// Russian.
        Russian = "russian",
        /// Spanish.
        Spanish = "spanish",
        /// Swedish.
        Swedish = "swedish",
    }
}

section! {
    /// What can be found.
    pub struct Search {
        /// The languages that are written here, of which all forms of a word are found. Messages that are there already keep the
        /// languages they were written under.
        languages: Vec<Language> = vec![Language::Swedish, Language::English] => PLAIN,
        /// Whether people find every account of this server, not only those they share a room with and those in public rooms.
        all_users: bool = false => PLAIN,
    }
}

section! {
    /// Bridges and bots.
    pub struct ApplicationServices {
        /// Their registration files (YAML).
        registrations: Vec<PathBuf> = Vec::new() => PLAIN.live(),
    }
}

choices! {
    /// How the connection to the mail server is protected.
    pub enum MailTls {
        /// Not at all.
        None = "none",
        /// By STARTTLS.
        StartTls = "starttls",
        /// TLS from the beginning.
        Tls = "tls",
    }
}

section! {
    /// The mail server.
    pub struct Mail {
        /// Its host.
        smtp_host: String = "localhost".to_owned() => PLAIN,
        /// Its port.
        smtp_port: u16 = 25 => PLAIN,
        /// How the connection is protected.
        tls: MailTls = MailTls::None => PLAIN,
        /// The user there.
        username: Option<String> = None => PLAIN.example("\"samtal\""),
        /// The password there.
        password: Option<Secret> = None => PLAIN.example("\"secret\""),
        /// The sender's address.
        from: String = String::new() => PLAIN.required().example("\"samtal@example.org\""),
        /// Whether users may have themselves told of unread messages by mail.
        notifications: bool = true => PLAIN,
        /// How long such a mail waits for its messages to be read elsewhere.
        notification_delay_ms: u64 = 600_000 => PLAIN.unit("ms").range(1_000, 86_400_000),
    }
}

section! {
    /// A TURN server for calls.
    pub struct Turn {
        /// Its addresses.
        uris: Vec<String> = Vec::new() => PLAIN.required().example("[\"turn:turn.example.org?transport=udp\"]"),
        /// The secret shared with it, from which each client's password is made.
        shared_secret: Option<Secret> = None => PLAIN.required().example("\"secret\""),
        /// How long such a password lasts.
        lifetime_ms: u64 = 86_400_000 => PLAIN.unit("ms").range(60_000, 604_800_000),
    }
}

section! {
    /// How users are told something by those who run the server: each in a room of their own.
    pub struct Notices {
        /// The local part of the user in whose name they are told. It is made when it is first needed; nobody can log in as it.
        sender: String = "_server".to_owned() => PLAIN,
        /// What that user is called; the server's name if not given.
        display_name: Option<String> = None => PLAIN.example("\"The service desk\""),
        /// What the rooms are called.
        room_name: String = "Server Notices".to_owned() => PLAIN,
    }
}

section! {
    /// Where group calls meet (MatrixRTC).
    pub struct Calls {
        /// Addresses of the authorization services of LiveKit servers, the best first. Without one clients are told of none.
        livekit_service_urls: Vec<String> = Vec::new() => PLAIN.example("[\"https://livekit-jwt.example.org\"]"),
    }
}

section! {
    /// Whom to turn to.
    pub struct Contact {
        /// Mail address of the server's administrators.
        email: Option<String> = None => PLAIN.live().example("\"matrix@example.org\""),
        /// User id of one.
        matrix_id: Option<OwnedUserId> = None => PLAIN.live().example("\"@admin:example.org\""),
        /// A page with help.
        support_page: Option<String> = None => PLAIN.live().example("\"https://example.org/help\""),
    }
}
