//! How fast two nodes ask and answer over loopback: each in a thread with a runtime of its own, as
//! in a process.
//!
//! `cargo run --release -p quoit-node --example transport_speed [seconds]`

use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quoit_core::handshake::{PEER_VERSION, PeerHello};
use quoit_core::peer::{MergeAnswer, PeerHead, PeerMerge, PeerMessage};
use quoit_node::transport::{
    Arrived, Inbound, InboundQueue, Limits, TlsMaterial, Transport, TransportConfig,
};
use quoit_protocol::Key;
use quoit_ring::{ClusterId, ConfigurationNumber, Epoch, HybridTime, NodeId, TableId, VnodeIndex};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

const CLUSTER: ClusterId = ClusterId(1);
const ASKER: NodeId = NodeId(1);
const ANSWERER: NodeId = NodeId(2);
/// What the loop takes at once.
const BATCH: usize = 1_024;

fn main() {
    let seconds = std::env::args().nth(1).map_or(3, |text| text.parse().expect("whole seconds"));
    let (asker, answerer) = materials();
    let (tell, told) = std::sync::mpsc::channel();
    thread::spawn(move || {
        runtime().block_on(async {
            let (transport, queue) = node(ANSWERER, answerer);
            tell.send(transport.local_address().expect("it listens")).expect("main waits");
            answer(transport, queue).await;
        });
    });
    let address = told.recv().expect("the other node starts");
    runtime().block_on(async {
        let (transport, mut queue) = node(ASKER, asker);
        transport.set_members(&[(ANSWERER, address)]);
        queue.recv().await.expect("it connects");
        println!(
            "{:>6} {:>9} {:>12} {:>8} {:>8}",
            "bytes", "in flight", "requests/s", "p50 us", "p99 us"
        );
        for bytes in [100, 1_024] {
            for in_flight in [1, 16, 128, 1_024] {
                let length = Duration::from_secs(seconds);
                let before = cpu_microseconds();
                let mut times = ask(&transport, &mut queue, bytes, in_flight, length).await;
                times.sort_unstable();
                let rate = times.len() as f64 / length.as_secs_f64();
                let (p50, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
                let cpu = (cpu_microseconds() - before) / times.len() as f64;
                println!("{bytes:>6} {in_flight:>9} {rate:>12.0} {p50:>8} {p99:>8} {cpu:>8.1}");
            }
        }
        transport.close(Duration::from_secs(1)).await;
    });
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts")
}

fn materials() -> (TlsMaterial, TlsMaterial) {
    let mut params = CertificateParams::new(Vec::new()).expect("no names are fine");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("keys are made");
    let authority = CertifiedIssuer::self_signed(params, key).expect("it signs itself");
    let issue = |node: NodeId| {
        let key = KeyPair::generate().expect("keys are made");
        let names = [format!("{node}.{CLUSTER}.quoit"), format!("node.{CLUSTER}.quoit")];
        let params = CertificateParams::new(names).expect("the names are sound");
        let certificate = params.signed_by(&key, &authority).expect("the authority signs");
        TlsMaterial {
            authority_pem: authority.pem().into_bytes(),
            certificate_pem: certificate.pem().into_bytes(),
            key_pem: key.serialize_pem().into_bytes(),
            revoked_pem: Vec::new(),
        }
    };
    (issue(ASKER), issue(ANSWERER))
}

fn node(node: NodeId, tls: TlsMaterial) -> (Transport, InboundQueue) {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let limits = Limits::default();
    let config = TransportConfig { listen, node, cluster: CLUSTER, tls, limits };
    let (transport, queue) = Transport::bind(config).expect("loopback has a free port");
    let address = transport.local_address().expect("it listens");
    transport.set_hello(PeerHello {
        version_min: PEER_VERSION,
        version_max: PEER_VERSION,
        cluster: CLUSTER,
        node,
        address,
        boot_count: 1,
        genesis_hash: 0,
        epoch: Epoch(0),
        record_hash: 0,
    });
    (transport, queue)
}

/// Answers all that comes, a batch at a time, until the other thread ends the program.
async fn answer(transport: Transport, mut queue: InboundQueue) {
    let message = PeerMessage::from(MergeAnswer { time: HybridTime::default(), merged: Ok(()) });
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        for Arrived { inbound, .. } in batch.drain(..) {
            if let Inbound::Peer { from, request, .. } = inbound {
                transport.send_peer(from, request, &message);
            }
        }
        transport.flush();
    }
}

/// Keeps `in_flight` requests on their way; how long each took, in microseconds.
async fn ask(
    transport: &Transport,
    queue: &mut InboundQueue,
    bytes: usize,
    in_flight: u64,
    length: Duration,
) -> Vec<u128> {
    let head = PeerHead {
        table: TableId(1),
        vnode: VnodeIndex(0),
        configuration: ConfigurationNumber(1),
        time: HybridTime::default(),
        deadline_ms: 1_000,
        trace: None,
    };
    let key = Key { partition: Bytes::from_static(b"a key of some bytes"), sort: Bytes::new() };
    let set = Bytes::from(vec![7; bytes]);
    let message = PeerMessage::from(PeerMerge {
        head,
        key,
        set,
        rebuild: false,
        values: Vec::new(),
        stands_in_for: None,
    });
    let start = Instant::now();
    let mut sent = vec![start; in_flight as usize];
    for request in 0..in_flight {
        transport.send_peer(ANSWERER, request, &message);
    }
    transport.flush();
    let mut times = Vec::new();
    let mut batch = Vec::new();
    let mut under_way = in_flight;
    while under_way > 0 {
        queue.recv_many(&mut batch, BATCH).await;
        let now = Instant::now();
        for Arrived { inbound, .. } in batch.drain(..) {
            let Inbound::Peer { request, .. } = inbound else { continue };
            times.push((now - sent[request as usize]).as_micros());
            if now - start < length {
                sent[request as usize] = now;
                transport.send_peer(ANSWERER, request, &message);
            } else {
                under_way -= 1;
            }
        }
        transport.flush();
    }
    times
}

/// What this process has used, by the kernel's clock of 10 ms; 0 where there is no such file.
fn cpu_microseconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name, which may hold spaces, ends at the last bracket; then the 12th and 13th.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    fields.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() * 10_000.0
}
