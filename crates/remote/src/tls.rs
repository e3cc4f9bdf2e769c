//! Whom we believe: roots of trust, and our own certificate where a closed network asks for one.

use std::{path::PathBuf, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

/// Which certificates are trusted.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// Files of PEM certificates, trusted beside the system's.
    pub bundles: Vec<PathBuf>,
    /// Only the bundles are trusted, not the system's roots.
    pub bundles_only: bool,
    /// Certificate chain and private key to show to servers that ask for one, in PEM.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A file cannot be read.
    #[error("cannot read certificates or keys from {path}: {reason}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The library refuses.
    #[error("the TLS settings are refused")]
    Tls(#[from] rustls::Error),
}

impl Trust {
    /// The settings of the TLS library.
    pub fn config(&self, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, TrustError> {
        let mut roots = RootCertStore::empty();
        if !self.bundles_only {
            let system = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(system.certs);
        }
        for path in &self.bundles {
            for certificate in read(path)? {
                roots.add(certificate)?;
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?.with_root_certificates(roots);
        let mut config = match &self.client_certificate {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let key = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| TrustError::File { path: key.clone(), reason: error.to_string() })?;
                builder.with_client_auth_cert(read(chain)?, key)?
            }
        };
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Arc::new(config))
    }
}

fn read(path: &PathBuf) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let failed = |error: rustls::pki_types::pem::Error| TrustError::File { path: path.clone(), reason: error.to_string() };
    CertificateDer::pem_file_iter(path).map_err(failed)?.collect::<Result<_, _>>().map_err(failed)
}
