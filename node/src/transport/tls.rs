//! Who is who: TLS 1.3 with certificates on both sides, made from PEM and checked at the start.
//!
//! Sessions are not resumed: a handshake costs 1.5 ms, and each one looks at the certificates anew.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quoit_core::peer::ALPN_PEER;
use quoit_protocol::ALPN_CLIENT;
use quoit_ring::{ClusterId, NodeId};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{CertificateError, CipherSuite, RootCertStore};

use super::limits::Limits;
use crate::authority::{Parsed, ParsedList};
use crate::bearer::{Bearer, BearerError, UNNAMED, bearer};

/// What a node proves itself with, as PEM text.
#[derive(Clone, PartialEq, Eq)]
pub struct TlsMaterial {
    /// The certificate of the cluster's authority (several while it is being replaced).
    pub authority_pem: Vec<u8>,
    /// The node's certificate, followed by intermediates, if any.
    pub certificate_pem: Vec<u8>,
    /// The private key of the node's certificate.
    pub key_pem: Vec<u8>,
    /// The authorities' lists of revoked certificates; empty where there are none.
    pub revoked_pem: Vec<u8>,
}

impl std::fmt::Debug for TlsMaterial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsMaterial").finish_non_exhaustive()
    }
}

/// Certificates or a key that a node cannot start with. Nothing was done; mend the files.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A text is not what it should be.
    #[error("{what} cannot be read: {why}")]
    Pem {
        /// Which text.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// Key and certificate were not made together.
    #[error(
        "the node's key does not belong to its certificate: use the pair that was made together"
    )]
    KeyMismatch,
    /// The certificate is not from this authority.
    #[error(
        "the node's certificate was not issued by the authority that is given: use the certificate \
         and the authority of one cluster"
    )]
    ForeignAuthority,
    /// Too late.
    #[error("the node's certificate expired {0} ago: have the authority issue a new one")]
    Expired(
        /// How long ago, for people.
        String,
    ),
    /// Too early.
    #[error(
        "the node's certificate becomes valid only in {0}: see whether this machine's clock is right"
    )]
    NotYetValid(
        /// How soon, for people.
        String,
    ),
    /// A list of revoked certificates is not one of these authorities'.
    #[error(
        "the list of revoked certificates of {0:?} counts for nothing, for no authority of that name is \
         trusted: take it out, or trust that authority"
    )]
    ForeignList(
        /// The name of the authority that the list names.
        String,
    ),
    /// It is on the list.
    #[error("the node's certificate is revoked: have the authority issue a new one")]
    Revoked,
    /// It is valid, but not for what it is used for.
    #[error("the node's certificate cannot be used: {0}")]
    Unusable(
        /// Why.
        String,
    ),
    /// It names nobody of this cluster.
    #[error("the node's certificate is not one of this cluster: {0}")]
    Bearer(#[source] BearerError),
    /// It belongs to another node, or to a client.
    #[error("the certificate belongs to {found}, not to node {wanted}: give each node its own")]
    WrongNode {
        /// Whose it is.
        found: String,
        /// Whose it should be.
        wanted: NodeId,
    },
}

/// Whether a node can start with these: what its peers would refuse is refused here.
///
/// # Errors
/// See [`TlsError`].
pub fn check_material(
    material: &TlsMaterial,
    node: NodeId,
    cluster: ClusterId,
) -> Result<(), TlsError> {
    Identity::new(material)?.check(node, cluster)
}

/// What QUIC needs for both directions; each for loopback and for elsewhere, which differ in the
/// size of packets.
pub(super) struct TlsConfigs {
    accept_loopback: Arc<quinn::ServerConfig>,
    accept_elsewhere: Arc<quinn::ServerConfig>,
    dial_loopback: quinn::ClientConfig,
    dial_elsewhere: quinn::ClientConfig,
    /// What they were made from.
    pub(super) material: TlsMaterial,
    /// What others' certificates are verified with.
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
    /// Others were used before them.
    pub(super) has_replaced: bool,
    /// Drawn from the private key, so that it survives a restart and nobody else knows it.
    pub(super) secret: [u8; 32],
}

impl TlsConfigs {
    /// Reads and checks the material of `node`.
    pub(super) fn new(
        material: &TlsMaterial,
        node: NodeId,
        cluster: ClusterId,
        limits: &Limits,
    ) -> Result<Self, TlsError> {
        let identity = Identity::new(material)?;
        identity.check(node, cluster)?;
        let server = Arc::new(identity.server()?);
        let client = Arc::new(identity.client()?);
        let accept = |remote| {
            let mut config = quinn::ServerConfig::with_crypto(Arc::clone(&server) as _);
            config.transport_config(Arc::new(limits.accepted(remote)));
            Limits::set_incoming(&mut config);
            // Nodes and their clients keep their addresses.
            config.migration(false);
            Arc::new(config)
        };
        let dial = |remote| {
            let mut config = quinn::ClientConfig::new(Arc::clone(&client) as _);
            config.transport_config(Arc::new(limits.dialled(remote)));
            config
        };
        Ok(Self {
            accept_loopback: accept(LOOPBACK),
            accept_elsewhere: accept(ELSEWHERE),
            dial_loopback: dial(LOOPBACK),
            dial_elsewhere: dial(ELSEWHERE),
            material: material.clone(),
            verifier: identity.verifier()?,
            has_replaced: false,
            secret: identity.secret(),
        })
    }

    /// The same, in the place of others.
    pub(super) fn replacing(self) -> Self {
        Self { has_replaced: true, ..self }
    }

    pub(super) fn accept(&self, remote: SocketAddr) -> Arc<quinn::ServerConfig> {
        let near = remote.ip().to_canonical().is_loopback();
        Arc::clone(if near { &self.accept_loopback } else { &self.accept_elsewhere })
    }

    pub(super) fn dial(&self, remote: SocketAddr) -> quinn::ClientConfig {
        let near = remote.ip().to_canonical().is_loopback();
        if near { self.dial_loopback.clone() } else { self.dial_elsewhere.clone() }
    }
}

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

struct Identity {
    provider: Arc<CryptoProvider>,
    authority: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    revoked: Vec<CertificateRevocationListDer<'static>>,
}

impl Identity {
    fn new(material: &TlsMaterial) -> Result<Self, TlsError> {
        const AUTHORITY: &str = "the authority's certificate";
        let mut authority = RootCertStore::empty();
        for certificate in certificates(&material.authority_pem, AUTHORITY)? {
            authority
                .add(certificate)
                .map_err(|error| TlsError::Pem { what: AUTHORITY, why: error.to_string() })?;
        }
        let chain = certificates(&material.certificate_pem, "the node's certificate")?;
        let key = PrivateKeyDer::from_pem_slice(&material.key_pem)
            .map_err(|error| TlsError::Pem { what: "the node's key", why: error.to_string() })?;
        let revoked = revocation_lists(&material.revoked_pem, &material.authority_pem)?;
        let (provider, authority) = (Arc::new(provider()), Arc::new(authority));
        Ok(Self { provider, authority, chain, key, revoked })
    }

    /// What others would refuse is refused here, in words for the operator of this node.
    fn check(&self, node: NodeId, cluster: ClusterId) -> Result<(), TlsError> {
        let (first, rest) = self.chain.split_first().expect("an empty chain was refused");
        self.verifier()?
            .verify_client_cert(first, rest, UnixTime::now())
            .map_err(|error| in_words(&error))?;
        match bearer(first, cluster).map_err(TlsError::Bearer)? {
            Bearer::Node(found) if found == node => Ok(()),
            Bearer::Node(found) => {
                Err(TlsError::WrongNode { found: format!("node {found}"), wanted: node })
            }
            Bearer::Client(client) => {
                let found = match client.name.as_str() {
                    UNNAMED => "a client".to_owned(),
                    name => format!("the client {name}"),
                };
                Err(TlsError::WrongNode { found, wanted: node })
            }
        }
    }

    fn verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
        let provider = Arc::clone(&self.provider);
        WebPkiClientVerifier::builder_with_provider(Arc::clone(&self.authority), provider)
            .with_crls(self.revoked.iter().cloned())
            // An authority need not have a list.
            .allow_unknown_revocation_status()
            .only_check_end_entity_revocation()
            .build()
            .map_err(|error| TlsError::Unusable(error.to_string()))
    }

    fn server_verifier(&self) -> Result<Arc<WebPkiServerVerifier>, TlsError> {
        let provider = Arc::clone(&self.provider);
        WebPkiServerVerifier::builder_with_provider(Arc::clone(&self.authority), provider)
            .with_crls(self.revoked.iter().cloned())
            .allow_unknown_revocation_status()
            .only_check_end_entity_revocation()
            .build()
            .map_err(|error| TlsError::Unusable(error.to_string()))
    }

    fn server(&self) -> Result<QuicServerConfig, TlsError> {
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| in_words(&error))?
            .with_client_cert_verifier(self.verifier()?)
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .map_err(|error| in_words(&error))?;
        config.alpn_protocols = vec![ALPN_PEER.to_vec(), ALPN_CLIENT.to_vec()];
        config.send_tls13_tickets = 0;
        QuicServerConfig::try_from(config).map_err(|error| TlsError::Unusable(error.to_string()))
    }

    fn client(&self) -> Result<QuicClientConfig, TlsError> {
        let mut config = rustls::ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| in_words(&error))?
            .with_webpki_verifier(self.server_verifier()?)
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            .map_err(|error| in_words(&error))?;
        config.alpn_protocols = vec![ALPN_PEER.to_vec()];
        config.resumption = Resumption::disabled();
        QuicClientConfig::try_from(config).map_err(|error| TlsError::Unusable(error.to_string()))
    }

    fn secret(&self) -> [u8; 32] {
        use ::aws_lc_rs::hmac;
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.key.secret_der());
        let tag = hmac::sign(&key, b"quoit stateless reset");
        tag.as_ref().try_into().expect("SHA-256 gives 32 bytes")
    }
}

fn certificates(pem: &[u8], what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::Pem { what, why: error.to_string() })?;
    if found.is_empty() {
        return Err(TlsError::Pem { what, why: "the PEM text holds no certificate".into() });
    }
    Ok(found)
}

/// The lists, each of which must be one of the authorities'.
pub(crate) fn revocation_lists(
    pem: &[u8],
    authority_pem: &[u8],
) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    const LIST: &str = "the list of revoked certificates";
    let wrong = |why: String| TlsError::Pem { what: LIST, why };
    if pem.is_empty() {
        return Ok(Vec::new());
    }
    let parsed = ParsedList::read_pem(pem).map_err(wrong)?;
    if parsed.is_empty() {
        return Err(wrong("the PEM text holds none".into()));
    }
    let authorities = Parsed::read_pem(authority_pem).map_err(wrong)?;
    let foreign = |list: &&ParsedList| !authorities.iter().any(|one| one.subject == list.issuer);
    if let Some(list) = parsed.iter().find(foreign) {
        return Err(TlsError::ForeignList(list.issuer.clone()));
    }
    CertificateRevocationListDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| wrong(error.to_string()))
}

fn in_words(error: &rustls::Error) -> TlsError {
    let seconds = |from: UnixTime, to: UnixTime| to.as_secs().saturating_sub(from.as_secs());
    match error {
        rustls::Error::InconsistentKeys(_) => TlsError::KeyMismatch,
        rustls::Error::InvalidCertificate(error) => match error {
            CertificateError::ExpiredContext { time, not_after } => {
                TlsError::Expired(span(seconds(*not_after, *time)))
            }
            CertificateError::NotValidYetContext { time, not_before } => {
                TlsError::NotYetValid(span(seconds(*time, *not_before)))
            }
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                TlsError::ForeignAuthority
            }
            CertificateError::Revoked => TlsError::Revoked,
            other => TlsError::Unusable(other.to_string()),
        },
        other => TlsError::Unusable(other.to_string()),
    }
}

/// A span of time for people.
fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} seconds"),
        120..7_200 => format!("{} minutes", seconds / 60),
        7_200..172_800 => format!("{} hours", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// AES-128-GCM first: the fastest where the processor helps, and strong enough.
fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider
        .cipher_suites
        .sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    provider
}
