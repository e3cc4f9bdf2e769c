//! Certificates: ours, read again without dropping connections, and those that are trusted.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read, or holds no such thing.
    #[error("cannot read {what} from {}", path.display())]
    Read {
        /// What was looked for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// There is no certificate in the file.
    #[error("no certificate in {}", .0.display())]
    Empty(PathBuf),
    /// A listener has no certificate.
    #[error("no certificate is given")]
    NoneGiven,
    /// There is no private key in the file.
    #[error("no private key in {}", .0.display())]
    NoKey(PathBuf),
    /// The key belongs to another certificate.
    #[error("the private key in {} does not belong to the certificate in {}", key.display(), certificate.display())]
    KeyOfAnother {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
    },
    /// rustls does not take it.
    #[error("certificate {} and its key cannot be used", path.display())]
    Unusable {
        /// The certificate's file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// rustls refuses our settings.
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
}

/// The files of a certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// PEM, the certificate itself first.
    pub certificate: PathBuf,
    /// PEM.
    pub private_key: PathBuf,
}

impl Certificate {
    fn load(&self) -> Result<CertifiedKey, TlsError> {
        let chain = certificates(&self.certificate)?;
        let key = PrivateKeyDer::from_pem_file(&self.private_key).map_err(|source| match source {
            pem::Error::NoItemsFound => TlsError::NoKey(self.private_key.clone()),
            source => TlsError::Read { what: "a private key", path: self.private_key.clone(), source },
        })?;
        CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|source| match source {
            rustls::Error::InconsistentKeys(_) => {
                TlsError::KeyOfAnother { key: self.private_key.clone(), certificate: self.certificate.clone() }
            }
            source => TlsError::Unusable { path: self.certificate.clone(), source },
        })
    }
}

/// The certificates of a listener, which can be read again. Whoever connects gets the first that names the host they ask for;
/// whoever asks for none, or for one that nobody has, gets the first of all.
#[derive(Debug)]
pub struct Certificates {
    current: RwLock<Current>,
}

/// Hosts whose certificate is remembered; any client may ask for any.
const HOSTS_MAX: usize = 4_096;

#[derive(Debug)]
struct Current {
    first: Arc<CertifiedKey>,
    further: Vec<Arc<CertifiedKey>>,
    by_host: HashMap<String, Arc<CertifiedKey>>,
}

impl Current {
    fn load(files: &[Certificate]) -> Result<Current, TlsError> {
        let (first, further) = files.split_first().ok_or(TlsError::NoneGiven)?;
        let further = further.iter().map(|files| Ok(Arc::new(files.load()?))).collect::<Result<_, TlsError>>()?;
        Ok(Current { first: Arc::new(first.load()?), further, by_host: HashMap::new() })
    }

    fn find(&self, host: &str) -> Arc<CertifiedKey> {
        let names = |certified: &&Arc<CertifiedKey>| {
            let Ok(host) = ServerName::try_from(host) else { return false };
            let parsed = certified.cert.first().and_then(|certificate| ParsedCertificate::try_from(certificate).ok());
            parsed.is_some_and(|parsed| verify_server_name(&parsed, &host).is_ok())
        };
        std::iter::once(&self.first).chain(&self.further).find(names).unwrap_or(&self.first).clone()
    }
}

impl Certificates {
    /// Reads the files: the first certificate, and further ones.
    ///
    /// # Errors
    /// They cannot be read or used, or there is none.
    pub fn load(files: &[Certificate]) -> Result<Arc<Certificates>, TlsError> {
        Ok(Arc::new(Certificates { current: RwLock::new(Current::load(files)?) }))
    }

    /// Reads these files; new connections get what is in them. What was before stays if they cannot be used.
    ///
    /// # Errors
    /// They cannot be read or used, or there is none.
    pub fn reload(&self, files: &[Certificate]) -> Result<(), TlsError> {
        *self.current.write() = Current::load(files)?;
        Ok(())
    }

    /// The settings for a listener.
    ///
    /// # Errors
    /// rustls does not take them (never seen).
    pub(crate) fn server_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, TlsError> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Setup)?
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.current.read();
        let Some(host) = hello.server_name().filter(|_| !current.further.is_empty()) else {
            return Some(current.first.clone());
        };
        if let Some(found) = current.by_host.get(host) {
            return Some(found.clone());
        }
        let found = current.find(host);
        drop(current);
        let mut current = self.current.write();
        if current.by_host.len() >= HOSTS_MAX {
            current.by_host.clear();
        }
        current.by_host.insert(host.to_owned(), found.clone());
        Some(found)
    }
}

/// The settings for connections to others: the public authorities, and those in the files. Who shows a certificate of the
/// files as their own is believed too, if it names the host or nobody: services in one's own house sign for themselves.
///
/// # Errors
/// A file cannot be read, or holds none.
pub(crate) fn client_config(trusted: &[PathBuf], own: Option<&Certificate>) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    let mut listed = Vec::new();
    for path in trusted {
        for certificate in certificates(path)? {
            roots.add(certificate.clone()).map_err(|source| TlsError::Unusable { path: path.clone(), source })?;
            listed.push(certificate);
        }
    }
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Setup)?;
    let config = if listed.is_empty() {
        config.with_root_certificates(roots)
    } else {
        let authorities = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
        let authorities = authorities.map_err(|error| TlsError::Setup(rustls::Error::General(error.to_string())))?;
        let verifier = Arc::new(ListedOrSigned { listed, authorities });
        config.dangerous().with_custom_certificate_verifier(verifier)
    };
    let mut config = match own {
        None => config.with_no_client_auth(),
        Some(own) => config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own.load()?))),
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = |source| TlsError::Read { what: "certificates", path: path.to_owned(), source };
    let chain = CertificateDer::pem_file_iter(path).map_err(read)?.collect::<Result<Vec<_>, _>>().map_err(read)?;
    if chain.is_empty() { Err(TlsError::Empty(path.to_owned())) } else { Ok(chain) }
}

/// Whether a certificate names the host, or no host at all.
fn names_nobody_else(certificate: &CertificateDer<'_>, host: &ServerName<'_>) -> bool {
    let Ok(parsed) = ParsedCertificate::try_from(certificate) else { return false };
    match verify_server_name(&parsed, host) {
        Ok(()) => true,
        Err(rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext { presented, .. })) => {
            presented.is_empty()
        }
        Err(_) => false,
    }
}

/// Believes certificates that an authority has signed for the host, and those that are listed themselves.
#[derive(Debug)]
struct ListedOrSigned {
    listed: Vec<CertificateDer<'static>>,
    authorities: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for ListedOrSigned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // That they have its key is shown by the handshake's signature, which is checked below.
        if self.listed.iter().any(|listed| listed == end_entity) && names_nobody_else(end_entity, server_name) {
            return Ok(ServerCertVerified::assertion());
        }
        self.authorities.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authorities.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authorities.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.supported_verify_schemes()
    }
}
