//! Who is who: mutual TLS 1.3 over QUIC, and the transport's settings.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Endpoint, MtuDiscoveryConfig, TransportConfig};
use quoit_ring::{ClusterId, NodeId};
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::{CipherSuite, RootCertStore};

use crate::{ConnectError, Identity};

/// A connection on which nothing goes to and fro is kept alive by a packet this often.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// A node that was silent for so long is taken for dead. It also bounds the handshake.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);
/// Streams that a node may have open towards us at once, each with one large answer.
const INCOMING_STREAMS_MAX: u32 = 16;
/// What errors call it.
const REVOKED: &str = "the list of revoked certificates";
/// Loopback takes large packets; past 6,500 bytes segmentation offload collapses.
const LOOPBACK_PACKET_BYTES_MAX: u16 = 6_400;

/// What connections are opened with.
#[derive(Debug, Clone)]
pub(crate) struct ClientTls {
    elsewhere: ClientConfig,
    loopback: ClientConfig,
}

impl ClientTls {
    /// `revoked` has the lists of revoked certificates; none where it is empty.
    pub(crate) fn new(identity: &Identity, revoked: &[u8]) -> Result<Self, ConnectError> {
        let crypto = Arc::new(crypto(identity, revoked)?);
        let with = |transport: TransportConfig| {
            let mut config = ClientConfig::new(Arc::clone(&crypto) as _);
            config.transport_config(Arc::new(transport));
            config
        };
        let mut large_packets = MtuDiscoveryConfig::default();
        large_packets.upper_bound(LOOPBACK_PACKET_BYTES_MAX);
        let mut loopback = transport();
        loopback.mtu_discovery_config(Some(large_packets));
        Ok(Self { elsewhere: with(transport()), loopback: with(loopback) })
    }

    pub(crate) fn config(&self, address: SocketAddr) -> ClientConfig {
        if address.ip().is_loopback() { self.loopback.clone() } else { self.elsewhere.clone() }
    }
}

/// The name that a node's certificate must bear: its own, or that of any node of the cluster.
pub(crate) fn server_name(cluster: ClusterId, node: Option<NodeId>) -> String {
    match node {
        Some(node) => format!("{node}.{cluster}.quoit"),
        None => format!("node.{cluster}.quoit"),
    }
}

/// A socket for all connections.
pub(crate) fn endpoint(contact_points: &[SocketAddr]) -> io::Result<Endpoint> {
    let any: SocketAddr = if contact_points.iter().all(SocketAddr::is_ipv4) {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    Endpoint::client(any)
}

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport.keep_alive_interval(Some(KEEP_ALIVE));
    let idle = IDLE_TIMEOUT.try_into().expect("five seconds fit the wire's field");
    transport.max_idle_timeout(Some(idle));
    transport.max_concurrent_bidi_streams(0_u32.into());
    transport.max_concurrent_uni_streams(INCOMING_STREAMS_MAX.into());
    transport.datagram_receive_buffer_size(None);
    transport
}

fn crypto(identity: &Identity, revoked: &[u8]) -> Result<QuicClientConfig, ConnectError> {
    let wrong = |what: &str, error: String| ConnectError::Identity(format!("{what}: {error}"));
    let mut roots = RootCertStore::empty();
    for certificate in all_of(&identity.authority_pem, "the authority's certificate")? {
        roots
            .add(certificate)
            .map_err(|error| wrong("the authority's certificate", error.to_string()))?;
    }
    let chain = all_of(&identity.certificate_pem, "the client's certificate")?;
    let key = PrivateKeyDer::from_pem_slice(&identity.key_pem)
        .map_err(|error| wrong("the client's key", error.to_string()))?;
    let lists = if revoked.is_empty() { Vec::new() } else { all_of(revoked, REVOKED)? };
    let provider = Arc::new(provider());
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .with_crls(lists)
            // An authority need not have a list.
            .allow_unknown_revocation_status()
            .only_check_end_entity_revocation()
            .build()
            .map_err(|error| wrong(REVOKED, error.to_string()))?;
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| wrong("TLS 1.3", error.to_string()))?
        .with_webpki_verifier(verifier)
        .with_client_auth_cert(chain, key)
        .map_err(|error| wrong("the client's certificate and key", error.to_string()))?;
    config.alpn_protocols = vec![quoit_protocol::ALPN_CLIENT.to_vec()];
    QuicClientConfig::try_from(config).map_err(|error| wrong("QUIC", error.to_string()))
}

/// All of one kind in a PEM text, one at least.
fn all_of<T: PemObject>(pem: &[u8], what: &str) -> Result<Vec<T>, ConnectError> {
    let all: Vec<T> = T::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| ConnectError::Identity(format!("{what}: {error}")))?;
    if all.is_empty() {
        return Err(ConnectError::Identity(format!("{what}: the PEM text holds none")));
    }
    Ok(all)
}

/// AES-128-GCM first: the fastest where the processor helps, and strong enough.
fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider
        .cipher_suites
        .sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    provider
}
