//! Options of the whole process: listeners, storage, outgoing connections, logs.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use ruma::OwnedServerName;

use crate::{Network, Secret};

section! {
    /// What holds for the whole process, whichever tenants it runs.
    pub struct Process {
        /// Who this server is, and where its data lies.
        server: Server = Server::default() => PLAIN,
        /// Where rooms, accounts and keys are kept.
        database: Database = Database::default() => PLAIN,
        /// An address the server listens on, and what it answers there. Any number of them.
        listeners: Vec<Listener> = vec![Listener::default()] => PLAIN,
        /// Bounds on incoming connections and requests.
        http: Http = Http::default() => PLAIN,
        /// Connections to others than federation peers: URL previews, push gateways, application services, identity providers.
        outgoing: Outgoing = Outgoing::default() => PLAIN,
        /// What is written to the standard error output.
        log: Log = Log::default() => PLAIN,
    }
}

section! {
    /// Who this server is, and where its data lies.
    pub struct Server {
        /// The name that ends every user id and room alias here (`@someone:example.org`). It can never be changed. Without it only
        /// the servers under `tenants` are run.
        name: Option<OwnedServerName> = None => PLAIN.example("\"example.org\""),
        /// The directory for everything that must last: databases, signing keys, uploaded files.
        data_dir: PathBuf = PathBuf::from("samtal-data") => PLAIN,
        /// Where clients reach this server, published at `/.well-known/matrix/client`. Default: `https://` and the name.
        /// If it is set, clients are told when they log in, too.
        public_base_url: Option<String> = None => PLAIN.example("\"https://matrix.example.org\""),
        /// Where other servers reach this server (`host:port`), published at `/.well-known/matrix/server`. Without it nothing is
        /// published, and they come to the name itself, port 8448.
        federation_address: Option<OwnedServerName> = None => PLAIN.example("\"matrix.example.org:443\"").live(),
        /// Memory for caches, shared by all tenants. Databases keep some more of their pages, up to 16 MiB for each tenant that is in use.
        cache_bytes_max: u64 = 128 * 1024 * 1024 => PLAIN.unit("bytes").range(1024 * 1024, i64::MAX),
        /// How long requests that run when the server is told to stop may go on.
        shutdown_soft_ms: u64 = 10_000 => PLAIN.unit("ms").range(0, 600_000).live(),
        /// How long background work may take to put itself away after that.
        shutdown_hard_ms: u64 = 5_000 => PLAIN.unit("ms").range(0, 600_000).live(),
    }
}

section! {
    /// Where rooms, accounts and keys are kept.
    pub struct Database {
        /// A PostgreSQL address (`postgres://user:password@host/database`). Without it each tenant has an SQLite file in `data_dir`.
        url: Option<Secret> = None => PLAIN.example("\"postgres://samtal@localhost/samtal\""),
        /// Connections to PostgreSQL that are held open at most.
        connections_max: u32 = 16 => PLAIN.range(2, 1_000),
    }
}

choices! {
    /// What is answered on a listener. `/health` and `/ready` are answered on each.
    pub enum Serve {
        /// The Client-Server API, media, and `/.well-known/matrix`.
        Client = "client",
        /// The Server-Server API, keys, and `/.well-known/matrix/server`.
        Federation = "federation",
        /// The administration API.
        Admin = "admin",
        /// Prometheus metrics at `/metrics`, without authentication: keep it on an inner address.
        Metrics = "metrics",
    }
}

section! {
    /// An address the server listens on.
    pub struct Listener {
        /// Address and port, such as `0.0.0.0:8448` or `[::]:443`. Port 0 takes a free one, which the ready line tells.
        address: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8008) => PLAIN,
        /// What is answered there.
        serve: Vec<Serve> = vec![Serve::Client, Serve::Federation] => PLAIN,
        /// The certificate, for HTTPS. Without this table it is plain HTTP, for a reverse proxy or a try.
        tls: Option<Tls> = None => PLAIN,
        /// Further certificates, for other hosts than the one in `tls` (other tenants, say): whoever connects gets the first that names
        /// the host they ask for.
        certificates: Vec<Tls> = Vec::new() => PLAIN.live(),
        /// Whether a reverse proxy in front sets `X-Forwarded-For`; its last address is then the client's.
        behind_proxy: bool = false => PLAIN,
    }
}

section! {
    /// A certificate and its key; both files are read again on reload.
    pub struct Tls {
        /// PEM file with the certificate and the intermediate ones after it.
        certificate: PathBuf = PathBuf::new() => PLAIN.required().live().example("\"/etc/samtal/tls.crt\""),
        /// PEM file with the private key.
        private_key: PathBuf = PathBuf::new() => PLAIN.required().live().example("\"/etc/samtal/tls.key\""),
    }
}

section! {
    /// Bounds on incoming connections and requests.
    pub struct Http {
        /// Connections that are held open at most, on all listeners together. Fewer where the system lets the process have too few
        /// files open (`ulimit -n`, `LimitNOFILE=`): the server raises that as far as it may, and says at its start what is left.
        /// One address, or one /64 of IPv6, gets half of them at most; this machine and listeners with `behind_proxy` are exempt.
        /// So a reverse proxy on another machine needs `behind_proxy`.
        connections_max: u32 = 16_384 => PLAIN.range(16, 1_000_000),
        /// Requests that are worked on at once; waiting `/sync` requests do not count long.
        requests_max: u32 = 8_192 => PLAIN.range(16, 1_000_000),
        /// How long a client may take for TLS, and then to send the headers of its first request.
        header_read_ms: u64 = 30_000 => PLAIN.unit("ms").range(100, 600_000),
        /// How long a connection is kept from an answer until the headers of the next request have come. A reverse
        /// proxy in front should give up its idle connections earlier than this.
        idle_ms: u64 = 75_000 => PLAIN.unit("ms").range(1_000, 3_600_000),
        /// How long a client may take to send a request's body.
        body_read_ms: u64 = 120_000 => PLAIN.unit("ms").range(100, 3_600_000),
        /// Longest request body, but for uploads.
        body_bytes_max: u64 = 8 * 1024 * 1024 => PLAIN.unit("bytes").range(65_536, 1024 * 1024 * 1024),
    }
}

/// What is not on the open internet: private, loopback, link-local, documentation and multicast
/// ranges.
pub(crate) fn networks_that_are_not_public() -> Vec<Network> {
    [
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "::/128",
        "::1/128",
        "64:ff9b::/96",
        "100::/64",
        "2001:db8::/32",
        "fc00::/7",
        "fe80::/10",
        "fec0::/10",
        "ff00::/8",
    ]
    .iter()
    .filter_map(|network| network.parse().ok())
    .collect()
}

section! {
    /// Connections to others than federation peers.
    pub struct Outgoing {
        /// PEM files with certificate authorities that are trusted besides the public ones.
        trusted_certificates: Vec<PathBuf> = Vec::new() => PLAIN,
        /// Addresses that are never connected to, whatever a name resolves to. Application services may be anywhere: the operator
        /// names their addresses, not a user.
        denied_networks: Vec<Network> = networks_that_are_not_public() => PLAIN,
    }
}

choices! {
    /// How log lines look.
    pub enum LogFormat {
        /// For people.
        Text = "text",
        /// One JSON object a line, for collectors.
        Json = "json",
    }
}

choices! {
    /// What is logged.
    pub enum LogLevel {
        /// Only what needs the operator.
        Error = "error",
        /// And what may soon.
        Warn = "warn",
        /// And the main events of the server's life.
        Info = "info",
        /// And each request with its ids: personal data.
        Debug = "debug",
        /// And much more.
        Trace = "trace",
    }
}

section! {
    /// What is written to the standard error output. Message content is never logged.
    pub struct Log {
        /// How lines look.
        format: LogFormat = LogFormat::Text => PLAIN,
        /// What is logged. At `info` no personal data is.
        level: LogLevel = LogLevel::Info => PLAIN.live(),
    }
}
