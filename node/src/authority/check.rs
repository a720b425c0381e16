//! Whether certificates are what they should be, before anything is started with them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use quoit_ring::{ClusterId, NodeId};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use super::{AuthorityError, Parsed, Subject, read};
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
    let authorities = certificates(authority_pem)?;
    let chain = certificates(certificate_pem)?;
    verify(&authorities, &chain, now, KeyUsage::server_auth())?;
    let leaf = EndEntityCert::try_from(&chain[0]).map_err(|error| error.to_string())?;
    for name in names {
        let server = ServerName::try_from(name.as_str()).map_err(|error| error.to_string())?;
        leaf.verify_is_valid_for_subject_name(&server)
            .map_err(|_| format!("it is not the certificate of {name}"))?;
    }
    Ok(())
}

/// Whether one of the authorities issued a certificate, be it a node's or a client's.
pub(super) fn is_issued(
    authority_pem: &str,
    certificate_pem: &str,
    then: Duration,
) -> Result<(), String> {
    let (authorities, chain) = (certificates(authority_pem)?, certificates(certificate_pem)?);
    verify(&authorities, &chain, then, KeyUsage::client_auth())
}

/// Which of the authorities issued a certificate, whenever that was.
pub(super) fn signer_of(authority_pem: &str, leaf: &CertificateDer<'static>) -> Option<Parsed> {
    let parsed = Parsed::read(leaf).ok()?;
    let then = (parsed.not_before + Duration::from_secs(1)).duration_since(UNIX_EPOCH).ok()?;
    let signed = |authority: &CertificateDer<'static>| {
        let (authority, chain) = (std::slice::from_ref(authority), std::slice::from_ref(leaf));
        verify(authority, chain, then, KeyUsage::client_auth()).is_ok()
    };
    let authority = certificates(authority_pem).ok()?.into_iter().find(signed)?;
    Parsed::read(&authority).ok()
}

fn verify(
    authorities: &[CertificateDer<'static>],
    chain: &[CertificateDer<'static>],
    now: Duration,
    usage: KeyUsage,
) -> Result<(), String> {
    let anchors: Vec<_> = authorities
        .iter()
        .map(anchor_from_trusted_cert)
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())?;
    let leaf = EndEntityCert::try_from(&chain[0]).map_err(|error| error.to_string())?;
    leaf.verify_for_usage(
        aws_lc_rs::default_provider().signature_verification_algorithms.all,
        &anchors,
        &chain[1..],
        UnixTime::since_unix_epoch(now),
        usage,
        None,
        None,
    )
    .map(drop)
    .map_err(in_words)
}

/// The cluster that any certificate of Quoit's names.
pub(super) fn cluster_named(certificate: &CertificateDer<'_>) -> Option<ClusterId> {
    let parsed = EndEntityCert::try_from(certificate).ok()?;
    parsed.valid_dns_names().find_map(|name| {
        let name = name.strip_suffix(".quoit")?;
        name.rsplit_once('.')?.1.parse().ok()
    })
}

/// The name that only the authority's certificate bears.
pub(super) fn authority_name(cluster: ClusterId) -> String {
    format!("authority.{cluster}.quoit")
}

/// The cluster that the certificates of its authorities name, all of them the same.
pub(super) fn cluster_of_authority(pem: &str) -> Result<ClusterId, String> {
    let mut found = None;
    for certificate in certificates(pem)? {
        let parsed = EndEntityCert::try_from(&certificate).map_err(|error| error.to_string())?;
        let cluster: ClusterId = parsed
            .valid_dns_names()
            .find_map(|name| name.strip_prefix("authority.")?.strip_suffix(".quoit")?.parse().ok())
            .ok_or_else(|| "it is not the certificate of a cluster's authority".to_owned())?;
        match found {
            Some(other) if other != cluster => {
                return Err(format!("it has authorities of two clusters, {other} and {cluster}"));
            }
            _ => found = Some(cluster),
        }
    }
    Ok(found.expect("there is one certificate at least"))
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
