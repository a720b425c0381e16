//! HTTPS: TLS 1.3 with a certificate of the operator's choice, and, where they are asked for, clients'
//! certificates. Nobody has to show one to speak: whoever does not gets health and metrics, and data
//! only with a token.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use tokio_rustls::TlsAcceptor;

use crate::config::HttpTlsSettings;

/// The first byte of a TLS connection: a handshake record.
pub(super) const FIRST_BYTE: u8 = 22;

/// Files with which HTTPS cannot be served. Nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum HttpsError {
    /// A file cannot be read.
    #[error("{} cannot be read (http.{setting})", path.display())]
    Read {
        /// The setting.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not what the setting says, or does not go with the others.
    #[error("{} cannot be used (http.{setting}): {message}", path.display())]
    Unusable {
        /// The setting.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
}

/// What accepts encrypted connections, and what clients' certificates are verified with.
pub(super) struct Accepting {
    pub(super) acceptor: TlsAcceptor,
    pub(super) verifier: Option<Arc<dyn ClientCertVerifier>>,
}

/// Reads the files; `revoked` are the cluster's lists of revoked certificates.
pub(super) fn accepting(
    settings: &HttpTlsSettings,
    revoked: &[CertificateRevocationListDer<'static>],
) -> Result<Accepting, HttpsError> {
    let chain = certificates("certificate", &settings.certificate)?;
    let key_pem = read("key", &settings.key)?;
    let wrong_key = |error: String| unusable("key", &settings.key, error);
    let key =
        PrivateKeyDer::from_pem_slice(&key_pem).map_err(|error| wrong_key(error.to_string()))?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| wrong_key(error.to_string()))?;
    let verifier = match &settings.client_authority {
        None => None,
        Some(path) => {
            let wrong = |error: String| unusable("client_authority", path, error);
            let mut roots = RootCertStore::empty();
            for certificate in certificates("client_authority", path)? {
                roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .with_crls(revoked.iter().cloned())
                // It need not be the cluster's authority, and that need not have a list.
                .allow_unknown_revocation_status()
                .only_check_end_entity_revocation()
                .allow_unauthenticated()
                .build()
                .map_err(|error| wrong(error.to_string()))?;
            Some(verifier)
        }
    };
    let builder = match &verifier {
        None => builder.with_no_client_auth(),
        Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| wrong_key(format!("{error}; is it the key of http.certificate?")))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Accepting { acceptor: TlsAcceptor::from(Arc::new(config)), verifier })
}

fn certificates(
    setting: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, HttpsError> {
    let pem = read(setting, path)?;
    let found: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| unusable(setting, path, error.to_string()))?;
    if found.is_empty() {
        return Err(unusable(setting, path, "it holds no certificate in PEM format".to_owned()));
    }
    Ok(found)
}

fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, HttpsError> {
    std::fs::read(path).map_err(|source| HttpsError::Read {
        setting,
        path: path.to_owned(),
        source,
    })
}

fn unusable(setting: &'static str, path: &Path, message: String) -> HttpsError {
    HttpsError::Unusable { setting, path: path.to_owned(), message }
}
