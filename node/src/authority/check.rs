//! Whether certificates are what they should be, before anything is started with them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use quoit_ring::{ClusterId, NodeId};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use super::{AuthorityError, Subject, read};
use crate::config::TlsSettings;

/// Credentials with which a node would be refused by its peers. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] AuthorityError),
    /// A file holds something else. Put the right one there.
    #[error("{} cannot be used: {message}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// The certificate is not the node's, not this cluster's, not signed by the authority, or not
    /// valid now. Issue a new one.
    #[error("{} does not prove that this is {node} of cluster {cluster}: {message}; issue a certificate with `quoit ca issue --node {node}`", path.display())]
    NotProven {
        /// The certificate's file.
        path: PathBuf,
        /// The node.
        node: NodeId,
        /// The cluster.
        cluster: ClusterId,
        /// Why not.
        message: String,
    },
}

/// Checks that the files of `[tls]` prove that a node is `node` of `cluster`, at the time `now`
/// (since 1970).
///
/// # Errors
/// See [`CheckError`], which names the file.
pub fn check_credentials(
    tls: &TlsSettings,
    cluster: ClusterId,
    node: NodeId,
    now: Duration,
) -> Result<(), CheckError> {
    let authority_pem = read(&tls.authority)?;
    let certificate_pem = read(&tls.certificate)?;
    let key_pem = read(&tls.key)?;
    let unusable = |path: &Path, message| CheckError::Unusable { path: path.to_owned(), message };
    let found = cluster_of_authority(&authority_pem)
        .map_err(|message| unusable(&tls.authority, message))?;
    if found != cluster {
        let message = format!("it is the authority of cluster {found}, not of {cluster}");
        return Err(unusable(&tls.authority, message));
    }
    keys_match(&certificate_pem, &key_pem).map_err(|message| unusable(&tls.key, message))?;
    let names = Subject::Node(node).names(cluster);
    prove(&authority_pem, &certificate_pem, &names, now).map_err(|message| CheckError::NotProven {
        path: tls.certificate.clone(),
        node,
        cluster,
        message,
    })
}

/// The cluster that the authority's certificate in a file names.
///
/// # Errors
/// [`CheckError::File`], [`CheckError::Unusable`].
pub fn cluster_of(path: &Path) -> Result<ClusterId, CheckError> {
    cluster_of_authority(&read(path)?)
        .map_err(|message| CheckError::Unusable { path: path.to_owned(), message })
}

/// Whether the authority's signature makes a certificate valid for all of the names at that time.
pub(super) fn prove(
    authority_pem: &str,
    certificate_pem: &str,
    names: &[String],
    now: Duration,
) -> Result<(), String> {
    let authority = first_certificate(authority_pem)?;
    let anchor = anchor_from_trusted_cert(&authority).map_err(|error| error.to_string())?;
    let chain = certificates(certificate_pem)?;
    let leaf = EndEntityCert::try_from(&chain[0]).map_err(|error| error.to_string())?;
    leaf.verify_for_usage(
        aws_lc_rs::default_provider().signature_verification_algorithms.all,
        &[anchor],
        &chain[1..],
        UnixTime::since_unix_epoch(now),
        KeyUsage::server_auth(),
        None,
        None,
    )
    .map_err(in_words)?;
    for name in names {
        let server = ServerName::try_from(name.as_str()).map_err(|error| error.to_string())?;
        leaf.verify_is_valid_for_subject_name(&server)
            .map_err(|_| format!("it is not the certificate of {name}"))?;
    }
    Ok(())
}

/// The name that only the authority's certificate bears.
pub(super) fn authority_name(cluster: ClusterId) -> String {
    format!("authority.{cluster}.quoit")
}

/// The cluster that an authority's certificate names.
pub(super) fn cluster_of_authority(pem: &str) -> Result<ClusterId, String> {
    let certificate = first_certificate(pem)?;
    let parsed = EndEntityCert::try_from(&certificate).map_err(|error| error.to_string())?;
    parsed
        .valid_dns_names()
        .find_map(|name| name.strip_prefix("authority.")?.strip_suffix(".quoit")?.parse().ok())
        .ok_or_else(|| "it is not the certificate of a cluster's authority".to_owned())
}

/// Checks that a private key is the one of a certificate.
pub(super) fn keys_match(certificate_pem: &str, key_pem: &str) -> Result<(), String> {
    let chain = certificates(certificate_pem)?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
        .map_err(|error| format!("it holds no private key ({error})"))?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    match CertifiedKey::from_der(chain, key, &provider) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err("it is not the key of the certificate".to_owned())
        }
        Err(error) => Err(error.to_string()),
    }
}

fn first_certificate(pem: &str) -> Result<CertificateDer<'static>, String> {
    certificates(pem).map(|mut all| all.swap_remove(0))
}

/// At least one certificate.
fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| format!("it is not in PEM format ({error})"))?;
    if all.is_empty() {
        return Err("it holds no certificate in PEM format".to_owned());
    }
    Ok(all)
}

fn in_words(error: webpki::Error) -> String {
    match error {
        webpki::Error::CertExpired { .. } => "it has expired".to_owned(),
        webpki::Error::CertNotValidYet { .. } => {
            "it is not valid yet (is this host's clock right?)".to_owned()
        }
        webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
            "another authority has signed it".to_owned()
        }
        webpki::Error::RequiredEkuNotFoundContext(_) => {
            "it is a client's certificate, not a node's".to_owned()
        }
        error => error.to_string(),
    }
}
