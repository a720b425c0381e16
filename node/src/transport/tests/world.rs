//! A small world for the tests: an authority, nodes on loopback, and bare QUIC beside them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quinn::crypto::rustls::QuicClientConfig;
use quoit_core::handshake::PEER_VERSION;
use quoit_core::peer::PeerHello;
use quoit_protocol::{ALPN_CLIENT, ClientRequest, Failure, FailureCode, Head, Hello, Key};
use quoit_ring::{ClusterId, ConfigurationNumber, Epoch, HybridTime, NodeId, TableId, VnodeIndex};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, IsCa,
    KeyIdMethod, KeyPair, RevokedCertParams, date_time_ymd,
};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::time::timeout;

use super::super::closing::explain;
use super::super::*;
use crate::authority::Parsed;

pub(super) const CLUSTER: ClusterId = ClusterId(0x5150);
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer }
    }

    /// Issues a certificate of these names that is valid up to a year.
    pub(super) fn issue_until(&self, names: &[String], year: i32) -> TlsMaterial {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        TlsMaterial {
            authority_pem: self.issuer.pem().into_bytes(),
            certificate_pem: certificate.pem().into_bytes(),
            key_pem: key.serialize_pem().into_bytes(),
            revoked_pem: Vec::new(),
        }
    }

    /// A list that revokes the certificates of these.
    pub(super) fn revoke(&self, revoked: &[&TlsMaterial]) -> Vec<u8> {
        let serial = |one: &&TlsMaterial| {
            Parsed::read_pem(&one.certificate_pem).unwrap().swap_remove(0).serial
        };
        let revoked_certs = revoked.iter().map(|one| RevokedCertParams {
            serial_number: serial(one).into(),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2999, 1, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap().into_bytes()
    }

    pub(super) fn node(&self, node: u64) -> TlsMaterial {
        self.issue_until(&node_names(node), 2999)
    }

    pub(super) fn client(&self) -> TlsMaterial {
        self.issue_until(&[format!("client.{CLUSTER}.quoit")], 2999)
    }
}

pub(super) fn node_names(node: u64) -> Vec<String> {
    vec![format!("n{node}.{CLUSTER}.quoit"), format!("node.{CLUSTER}.quoit")]
}

pub(super) fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

pub(super) fn config(tls: TlsMaterial, node: u64, port: u16) -> TransportConfig {
    let listen = loopback(port);
    TransportConfig { listen, node: NodeId(node), cluster: CLUSTER, tls, limits: Limits::default() }
}

/// A node without a core.
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) address: SocketAddr,
    pub(super) transport: Transport,
    pub(super) queue: InboundQueue,
}

impl Node {
    pub(super) fn start(config: TransportConfig) -> Self {
        let id = config.node;
        let (transport, queue) = Transport::bind(config).unwrap();
        let address = transport.local_address().unwrap();
        let node = Self { id, address, transport, queue };
        node.transport.set_hello(node.hello());
        node
    }

    pub(super) fn hello(&self) -> PeerHello {
        PeerHello {
            version_min: PEER_VERSION,
            version_max: PEER_VERSION,
            cluster: CLUSTER,
            node: self.id,
            address: self.address,
            boot_count: 1,
            genesis_hash: 7,
            epoch: Epoch(0),
            record_hash: 0,
        }
    }

    pub(super) fn dial(&self, others: &[&Node]) {
        let members: Vec<_> = others.iter().map(|node| (node.id, node.address)).collect();
        self.transport.set_members(&members);
    }

    pub(super) async fn next(&mut self) -> Inbound {
        timeout(PATIENCE, self.queue.recv()).await.expect("something comes").unwrap()
    }

    /// The next that is no news of connections.
    pub(super) async fn next_message(&mut self) -> Inbound {
        loop {
            match self.next().await {
                Inbound::PeerConnected { .. } | Inbound::PeerDisconnected { .. } => {}
                inbound => return inbound,
            }
        }
    }

    /// Waits until figures say so.
    pub(super) async fn until(&self, holds: impl Fn(&TransportStats) -> bool) -> TransportStats {
        let waiting = async {
            loop {
                let stats = self.transport.stats();
                if holds(&stats) {
                    return stats;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let last = || self.transport.stats();
        timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("never: {:?}", last()))
    }
}

/// Two nodes that have connected to each other.
pub(super) async fn pair(authority: &Authority) -> (Node, Node) {
    let mut one = Node::start(config(authority.node(1), 1, 0));
    let mut two = Node::start(config(authority.node(2), 2, 0));
    one.dial(&[&two]);
    two.dial(&[&one]);
    assert_eq!(one.next().await, Inbound::PeerConnected { node: NodeId(2) });
    assert_eq!(two.next().await, Inbound::PeerConnected { node: NodeId(1) });
    (one, two)
}

/// Bare QUIC, under any certificate and protocol name.
pub(super) async fn connect(
    to: SocketAddr,
    material: &TlsMaterial,
    alpn: &[u8],
) -> Result<quinn::Connection, quinn::ConnectionError> {
    dial(Ipv4Addr::LOCALHOST.into(), to, material, alpn).await
}

/// As [`connect`], for a client, from another address of loopback.
pub(super) async fn connect_from(
    from: IpAddr,
    to: SocketAddr,
    material: &TlsMaterial,
) -> Result<quinn::Connection, quinn::ConnectionError> {
    dial(from, to, material, ALPN_CLIENT).await
}

async fn dial(
    from: IpAddr,
    to: SocketAddr,
    material: &TlsMaterial,
    alpn: &[u8],
) -> Result<quinn::Connection, quinn::ConnectionError> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&material.authority_pem).unwrap()).unwrap();
    let chain = CertificateDer::pem_slice_iter(&material.certificate_pem).map(Result::unwrap);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(
            chain.collect(),
            PrivateKeyDer::from_pem_slice(&material.key_pem).unwrap(),
        )
        .unwrap();
    tls.alpn_protocols = vec![alpn.to_vec()];
    let crypto = Arc::new(QuicClientConfig::try_from(tls).unwrap());
    let endpoint = quinn::Endpoint::client((from, 0).into()).unwrap();
    let name = format!("node.{CLUSTER}.quoit");
    let connecting = endpoint.connect_with(quinn::ClientConfig::new(crypto), to, &name).unwrap();
    timeout(PATIENCE, connecting).await.expect("an answer")
}

/// A client that has said hello.
pub(super) struct Client {
    pub(super) connection: quinn::Connection,
    pub(super) send: quinn::SendStream,
    pub(super) receive: quinn::RecvStream,
}

impl Client {
    pub(super) async fn connect(to: SocketAddr, material: &TlsMaterial) -> Self {
        let connection = connect(to, material, ALPN_CLIENT).await.unwrap();
        let (mut send, receive) = connection.open_bi().await.unwrap();
        send.write_all(&request(1, client_hello())).await.unwrap();
        Self { connection, send, receive }
    }
}

pub(super) fn client_hello() -> ClientRequest {
    ClientRequest::Hello(Hello {
        version_min: 1,
        version_max: 1,
        cluster: None,
        client: "test".into(),
    })
}

pub(super) fn head() -> Head {
    Head {
        table: TableId(1),
        vnode: VnodeIndex(0),
        configuration: ConfigurationNumber(1),
        time: HybridTime::default(),
        deadline_ms: 1,
        level: None,
        trace: None,
    }
}

pub(super) fn key() -> Key {
    Key { partition: Bytes::from_static(b"k"), sort: Bytes::new() }
}

/// An answer of about so many bytes.
pub(super) fn failure(bytes: usize) -> ClientResponse {
    Failure {
        code: FailureCode::Unavailable,
        unknown: false,
        answered: 0,
        required: 0,
        retry_after_ms: 0,
        message: "x".repeat(bytes),
        time: HybridTime::default(),
    }
    .into()
}

pub(super) fn request(id: u64, request: ClientRequest) -> BytesMut {
    let mut buffer = BytesMut::new();
    request.put(id, &mut buffer);
    buffer
}

/// Why the other side ended a connection.
pub(super) async fn ended(connection: &quinn::Connection) -> String {
    explain(&timeout(PATIENCE, connection.closed()).await.expect("it ends"))
}
