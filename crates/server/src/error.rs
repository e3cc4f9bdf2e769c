//! Why a server does not start or reload.

use std::io;
use std::path::PathBuf;

use ruma::OwnedServerName;

/// Why a server does not start or reload.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] samtal_config::ConfigError),
    /// There is no tenant at all.
    #[error("no server name: give one with --server-name, in [server] name, or as SAMTAL_SERVER__NAME")]
    NoTenant,
    /// A file or directory cannot be used.
    #[error("cannot use {}", path.display())]
    Files {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another process has opened the data directory.
    #[error(
        "another samtal process uses {}: end it, or give this one a directory of its own (--data-dir)",
        .0.display()
    )]
    InUse(PathBuf),
    /// The data directory is there, and is that of other server names.
    #[error(
        "{} holds the data of {}, and none of {}: a server name cannot be changed later. Give the name that was meant, \
         or a directory of its own (--data-dir), or run both names (`samtal tenant add`)",
        path.display(), found.join(", "), wanted.join(", ")
    )]
    OtherNames {
        /// The data directory.
        path: PathBuf,
        /// Whose directories are in it.
        found: Vec<String>,
        /// Whose were looked for.
        wanted: Vec<String>,
    },
    /// The machine's clock cannot be right.
    #[error(
        "the clock of this machine says {year}, which cannot be right: what is sent now would bear that time for ever"
    )]
    Clock {
        /// The year it says.
        year: u64,
    },
    /// A tenant cannot be opened.
    #[error("tenant {name} cannot be opened")]
    Tenant {
        /// Which.
        name: OwnedServerName,
        /// Why.
        #[source]
        source: samtal_ops::OpenError,
    },
    /// A registration file of an application service cannot be used.
    #[error(transparent)]
    Registration(#[from] samtal_appservice::RegistrationError),
    /// The application services cannot be changed.
    #[error(transparent)]
    Appservices(#[from] samtal_appservice::AppserviceError),
    /// A proxy has no usable address.
    #[error("federation.proxy of {name} cannot be used")]
    Proxy {
        /// Of which tenant.
        name: OwnedServerName,
        /// What was expected.
        #[source]
        source: samtal_http::NoProxy,
    },
    /// A listener cannot be bound.
    #[error(transparent)]
    Listen(io::Error),
    /// A certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] samtal_http::TlsError),
}
