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
    #[error("another samtal process uses {}", .0.display())]
    InUse(PathBuf),
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
    /// A listener cannot be bound.
    #[error(transparent)]
    Listen(io::Error),
    /// A certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] samtal_http::TlsError),
}
