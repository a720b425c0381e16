//! A cluster of fake nodes in this process: real QUIC and TLS, a map for a store, and reactions
//! that a test chooses.

#![expect(clippy::unwrap_used, reason = "this is a part of tests; clippy cannot tell")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, Endpoint, SendStream, ServerConfig};
use quoit_client::{Client, ClientBuilder, ClusterId, ClusterRecord, Identity, Limits, NodeId};
use quoit_protocol::frame::{
    BODY_BYTES_MAX, Frame, HEADER_BYTES, SHARED_STREAM_BODY_BYTES_MAX, take_frame,
};
use quoit_protocol::seen::CONTEXT_HASH_BYTES;
use quoit_protocol::{
    ALPN_CLIENT, ClientRequest, ClientResponse, Failure, FailureCode, Got, Item, Key,
    PROTOCOL_VERSION, Page, RecordAnswer, Seen, Sibling, TableChange, Welcome, Write, Written,
};
use quoit_ring::{
    ConfigurationNumber, Epoch, HybridTime, Member, RingKey, Table, TableId, TableOptions,
    VnodeCount, Zone,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;

pub(crate) const CLUSTER: ClusterId = ClusterId(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);

/// Signs certificates.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    fn sign(&self, names: Vec<String>) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(names).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    pub(crate) fn client(&self) -> Identity {
        let (certificate, key) = self.sign(vec![format!("client.{CLUSTER}.quoit")]);
        Identity {
            authority_pem: self.pem.clone().into(),
            certificate_pem: certificate.into(),
            key_pem: key.into(),
        }
    }

    fn server_config(&self, node: NodeId) -> ServerConfig {
        let names = vec![format!("{node}.{CLUSTER}.quoit"), format!("node.{CLUSTER}.quoit")];
        let (certificate, key) = self.sign(names);
        let provider = Arc::new(default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()
                .unwrap();
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap();
        tls.alpn_protocols = vec![ALPN_CLIENT.to_vec()];
        ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()))
    }
}

/// What a node does with a request.
pub(crate) enum Reaction {
    /// Serves it from the map.
    Serve,
    /// Serves it, but damages the values.
    Damage,
    /// Does not answer.
    Ignore,
    /// Closes the connection.
    Hang,
    /// Sends bytes that are no frame.
    Garbage,
    Refuse(Failure),
}

type React = Arc<dyn Fn(NodeId, &ClientRequest) -> Reaction + Send + Sync>;

/// What all nodes share.
struct State {
    record: Mutex<ClusterRecord>,
    items: Mutex<BTreeMap<(TableId, Key), Sibling>>,
    react: React,
}

pub(crate) struct FakeCluster {
    pub(crate) contact_points: Vec<SocketAddr>,
    state: Arc<State>,
}

impl FakeCluster {
    /// Nodes n1 to n`count` with one table, `t`. A hello gets a reaction, too.
    pub(crate) fn start(
        authority: &Authority,
        count: u64,
        react: impl Fn(NodeId, &ClientRequest) -> Reaction + Send + Sync + 'static,
    ) -> Self {
        let endpoints: Vec<Endpoint> = (1..=count)
            .map(|id| {
                let config = authority.server_config(NodeId(id));
                Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap()
            })
            .collect();
        let contact_points: Vec<SocketAddr> =
            endpoints.iter().map(|endpoint| endpoint.local_addr().unwrap()).collect();
        let state = Arc::new(State {
            record: Mutex::new(record(&contact_points)),
            items: Mutex::default(),
            react: Arc::new(react),
        });
        for (id, endpoint) in (1..).zip(endpoints) {
            tokio::spawn(serve(NodeId(id), endpoint, Arc::clone(&state)));
        }
        Self { contact_points, state }
    }

    /// A client's builder for this cluster.
    pub(crate) fn builder(&self, authority: &Authority) -> ClientBuilder {
        Client::builder()
            .cluster(CLUSTER)
            .contact_points([self.contact_points[0]])
            .identity(authority.client())
    }

    pub(crate) fn items(&self) -> usize {
        self.state.items.lock().unwrap().len()
    }
}

/// A context of one write.
fn context() -> Bytes {
    let mut context = BytesMut::new();
    Seen::put(HybridTime::ZERO, [(1, HybridTime(7))].into_iter(), &mut context);
    context.extend_from_slice(&[0; CONTEXT_HASH_BYTES]);
    context.freeze()
}

pub(crate) fn failure(code: FailureCode, unknown: bool, message: &str) -> Failure {
    Failure {
        code,
        unknown,
        answered: 1,
        required: 2,
        retry_after_ms: 0,
        message: message.to_owned(),
        time: HybridTime(1),
    }
}

fn record(addresses: &[SocketAddr]) -> ClusterRecord {
    let count = addresses.len();
    let zone = Zone { datacenter: "d".into(), rack: "r".into() };
    let replication = count.min(3) as u8;
    let options = TableOptions { replication, ..TableOptions::default() };
    let record = ClusterRecord {
        cluster: CLUSTER,
        epoch: Epoch(1),
        ring_key: RingKey(1, 2),
        vnodes: VnodeCount::new(16).unwrap(),
        members: (1..)
            .zip(addresses)
            .map(|(id, &address)| Member {
                id: NodeId(id),
                address,
                zone: zone.clone(),
                capacity: 1,
            })
            .collect(),
        owners: vec![(0..count as u16).collect(); 16],
        configurations: vec![ConfigurationNumber(1); 16],
        tables: vec![Table { id: TableId(1), name: "t".into(), options }],
        table_id_next: TableId(2),
        voters: vec![NodeId(1)],
        incarnations: Vec::new(),
    };
    record.check().unwrap();
    record
}

async fn serve(node: NodeId, endpoint: Endpoint, state: Arc<State>) {
    while let Some(incoming) = endpoint.accept().await {
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            if let Ok(connection) = incoming.await {
                // A test's client closes when it pleases.
                let _ = converse(node, connection, state).await;
            }
        });
    }
}

type Broken = Box<dyn std::error::Error + Send + Sync>;

async fn converse(node: NodeId, connection: Connection, state: Arc<State>) -> Result<(), Broken> {
    let (mut send, mut receive) = connection.accept_bi().await?;
    let mut buffer = BytesMut::new();
    loop {
        tokio::select! {
            chunk = receive.read_chunk(1 << 20, true) => {
                let Some(chunk) = chunk? else { return Ok(()) };
                buffer.extend_from_slice(&chunk.bytes);
                let mut answers = BytesMut::new();
                while let Some(frame) = take_frame(&mut buffer, SHARED_STREAM_BODY_BYTES_MAX)? {
                    answer(node, &connection, &frame, &state, &mut answers).await?;
                }
                send.write_chunk(answers.freeze()).await?;
            }
            stream = connection.accept_uni() => {
                let bytes = stream?.read_to_end(HEADER_BYTES + BODY_BYTES_MAX).await?;
                let frame = take_frame(&mut BytesMut::from(&bytes[..]), BODY_BYTES_MAX)?
                    .ok_or("not a whole frame")?;
                assert!(frame.body.len() > SHARED_STREAM_BODY_BYTES_MAX, "it should be shared");
                let mut answers = BytesMut::new();
                answer(node, &connection, &frame, &state, &mut answers).await?;
                send.write_chunk(answers.freeze()).await?;
            }
        }
    }
}

async fn answer(
    node: NodeId,
    connection: &Connection,
    frame: &Frame,
    state: &State,
    answers: &mut BytesMut,
) -> Result<(), Broken> {
    let request = ClientRequest::read(frame)?;
    let response = match (state.react)(node, &request) {
        Reaction::Serve => state.serve(node, request),
        Reaction::Damage => match state.serve(node, request) {
            ClientResponse::Got(mut got) => {
                got.siblings.iter_mut().for_each(|sibling| sibling.checksum ^= 1);
                got.into()
            }
            other => other,
        },
        Reaction::Ignore => return Ok(()),
        Reaction::Hang => {
            connection.close(9_u32.into(), b"hung up");
            return Ok(());
        }
        Reaction::Garbage => {
            answers.extend_from_slice(&[0xff; 64]);
            return Ok(());
        }
        Reaction::Refuse(failure) => failure.into(),
    };
    let start = answers.len();
    response.put(frame.request, answers);
    if answers.len() - start > HEADER_BYTES + SHARED_STREAM_BODY_BYTES_MAX {
        let alone = answers.split_off(start).freeze();
        let mut stream: SendStream = connection.open_uni().await?;
        stream.write_chunk(alone).await?;
        stream.finish()?;
    }
    Ok(())
}

impl State {
    fn serve(&self, node: NodeId, request: ClientRequest) -> ClientResponse {
        let time = HybridTime(7);
        let context = context();
        match request {
            ClientRequest::Hello(_) => {
                let record = Some(self.record.lock().unwrap().clone().into());
                let (version, limits) = (PROTOCOL_VERSION, Limits::default());
                Box::new(Welcome { version, node, record, time, limits }).into()
            }
            ClientRequest::Get(get) => {
                let items = self.items.lock().unwrap();
                let siblings = items.get(&(get.head.table, get.key)).cloned().into_iter().collect();
                Got { time, siblings, context, answered: 2, repaired: false }.into()
            }
            ClientRequest::Write(Write { head, key, value, checksum, .. }) => {
                let key = (head.table, key);
                let mut items = self.items.lock().unwrap();
                match value {
                    Some(value) => {
                        items
                            .insert(key, Sibling { value, checksum, expires: None, written: time });
                    }
                    None => {
                        items.remove(&key);
                    }
                }
                Written { time, context, dot: (1, time), acknowledged: 2 }.into()
            }
            ClientRequest::Scan(scan) => self.page(scan.head.table, scan.limit, |key| {
                key.partition == scan.partition
                    && key.sort >= scan.from
                    && scan.to.as_ref().is_none_or(|to| key.sort < to)
            }),
            ClientRequest::Export(export) => {
                let record = self.record.lock().unwrap().clone();
                self.page(export.head.table, export.limit.min(3), |key| {
                    record.vnodes.vnode_of(record.token(&key.partition)) == export.head.vnode
                        && export.after.as_ref().is_none_or(|after| key > after)
                })
            }
            ClientRequest::ChangeTables(change) => {
                let mut record = self.record.lock().unwrap();
                match change.change {
                    TableChange::Create { name, options } => {
                        let id = record.table_id_next;
                        record.tables.push(Table { id, name, options });
                        record.table_id_next = TableId(id.0 + 1);
                    }
                    TableChange::Drop { name } => record.tables.retain(|table| table.name != name),
                }
                record.epoch = Epoch(record.epoch.0 + 1);
                Box::new(RecordAnswer { record: Some(record.clone().into()), time }).into()
            }
            ClientRequest::AskRecord(_) => {
                let record = Some(self.record.lock().unwrap().clone().into());
                Box::new(RecordAnswer { record, time }).into()
            }
            ClientRequest::AskStatus(_)
            | ClientRequest::AcceptLoss(_)
            | ClientRequest::AskRepair(_)
            | ClientRequest::AskActivity(_)
            | ClientRequest::AskSnapshots(_) => {
                failure(FailureCode::NotServing, false, "no status here").into()
            }
        }
    }

    fn page(&self, table: TableId, limit: u32, wanted: impl Fn(&Key) -> bool) -> ClientResponse {
        let items = self.items.lock().unwrap();
        let mut found = items.iter().filter(|((of, key), _)| *of == table && wanted(key));
        let page: Vec<Item> = found
            .by_ref()
            .take(limit as usize)
            .map(|((_, key), sibling)| Item {
                key: key.clone(),
                siblings: vec![sibling.clone()],
                context: context(),
            })
            .collect();
        let after = found.next().and(page.last()).map(|item| item.key.clone());
        Page { time: HybridTime(7), items: page, after }.into()
    }
}
