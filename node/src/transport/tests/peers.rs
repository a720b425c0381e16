use quoit_core::handshake::PeerHello;
use quoit_core::peer::{AskRecord, MergeAnswer, PeerHead, PeerMerge, Ping};
use quoit_protocol::{ALPN_CLIENT, Key};
use quoit_ring::{ConfigurationNumber, Epoch, HybridTime, TableId, VnodeIndex, WallTime};

use super::super::*;
use super::world::*;
use crate::authority::Parsed;
use crate::bearer::chain_of;

fn ping() -> PeerMessage {
    Ping {
        wall: WallTime(1),
        time: HybridTime::default(),
        epoch: Epoch(3),
        life: None,
        remembered: None,
    }
    .into()
}

fn merge(set: Bytes) -> PeerMessage {
    let head = PeerHead {
        table: TableId(1),
        vnode: VnodeIndex(2),
        configuration: ConfigurationNumber(3),
        time: HybridTime::default(),
        deadline_ms: 500,
        trace: None,
    };
    let key = Key { partition: Bytes::from_static(b"key"), sort: Bytes::new() };
    PeerMerge { head, key, set, rebuild: false, values: Vec::new(), stands_in_for: None }.into()
}

fn merged() -> PeerMessage {
    MergeAnswer { time: HybridTime::default(), merged: Ok(()) }.into()
}

fn from(node: &Node, request: u64, message: PeerMessage) -> Inbound {
    Inbound::Peer { from: node.id, request, message }
}

#[tokio::test]
async fn two_nodes_ask_and_answer() {
    let (mut one, mut two) = pair(&Authority::new()).await;
    one.transport.send_peer(two.id, 7, &ping());
    one.transport.send_peer(two.id, 8, &AskRecord { have: Epoch(1) }.into());
    one.transport.flush();
    assert_eq!(two.next().await, from(&one, 7, ping()));
    assert_eq!(two.next().await, from(&one, 8, AskRecord { have: Epoch(1) }.into()));
    one.transport.send_peer(two.id, 9, &merge(Bytes::from_static(b"set")));
    one.transport.flush();
    assert_eq!(two.next().await, from(&one, 9, merge(Bytes::from_static(b"set"))));
    two.transport.send_peer(one.id, 9, &merged());
    two.transport.flush();
    assert_eq!(one.next().await, from(&two, 9, merged()));
    assert_eq!(one.transport.stats().queued_bytes, 0);
}

#[tokio::test]
async fn an_answer_needs_only_the_askers_connection() {
    let authority = Authority::new();
    let mut one = Node::start(config(authority.node(1), 1, 0));
    let mut two = Node::start(config(authority.node(2), 2, 0));
    one.dial(&[&two]);
    assert_eq!(one.next().await, Inbound::PeerConnected { node: two.id });
    one.transport.send_peer(two.id, 1, &merge(Bytes::new()));
    one.transport.flush();
    assert_eq!(two.next().await, from(&one, 1, merge(Bytes::new())));
    two.transport.send_peer(one.id, 1, &merged());
    // A request has no way.
    two.transport.send_peer(one.id, 2, &ping());
    two.transport.flush();
    assert_eq!(one.next().await, from(&two, 1, merged()));
    assert_eq!(two.transport.stats().dropped_unconnected, 1);
}

#[tokio::test]
async fn three_nodes_gossip_by_address() {
    let authority = Authority::new();
    let mut nodes: Vec<_> =
        (1..=3).map(|node| Node::start(config(authority.node(node), node, 0))).collect();
    for node in &nodes {
        node.dial(&nodes.iter().collect::<Vec<_>>());
    }
    for node in &nodes {
        node.until(|stats| stats.peers_connected == 2 && stats.peers_accepted == 2).await;
    }
    let addresses: Vec<_> = nodes.iter().map(|node| node.address).collect();
    for from in 0..3 {
        for to in (0..3).filter(|to| *to != from) {
            nodes[from].transport.send_gossip(addresses[to], b"hush");
            let body = Bytes::from_static(b"hush");
            let expected = Inbound::Gossip { from: addresses[from], body };
            assert_eq!(nodes[to].next_message().await, expected);
        }
    }
}

#[tokio::test]
async fn gossip_answers_a_node_that_is_no_member_yet() {
    let authority = Authority::new();
    let mut member = Node::start(config(authority.node(1), 1, 0));
    let mut joining = Node::start(config(authority.node(2), 2, 0));
    joining.dial(&[&member]);
    assert_eq!(joining.next().await, Inbound::PeerConnected { node: member.id });
    joining.transport.send_gossip(member.address, b"let me in");
    let body = Bytes::from_static(b"let me in");
    assert_eq!(member.next().await, Inbound::Gossip { from: joining.address, body });
    member.transport.send_gossip(joining.address, b"welcome");
    let body = Bytes::from_static(b"welcome");
    assert_eq!(joining.next().await, Inbound::Gossip { from: member.address, body });
}

#[tokio::test]
async fn large_messages_pass_beside_small_ones() {
    let (one, mut two) = pair(&Authority::new()).await;
    let large = Bytes::from(vec![7; 16 << 20]);
    for request in 0..3 {
        one.transport.send_peer(two.id, request, &merge(large.clone()));
    }
    one.transport.send_peer(two.id, 3, &merge(Bytes::new()));
    one.transport.flush();
    let mut requests = Vec::new();
    for _ in 0..4 {
        let Inbound::Peer { request, message, .. } = two.next().await else { panic!() };
        let set = if request == 3 { Bytes::new() } else { large.clone() };
        assert_eq!(message, merge(set));
        requests.push(request);
    }
    assert_eq!(requests[0], 3, "small ones are not held up");
    requests.sort_unstable();
    assert_eq!(requests, [0, 1, 2, 3]);
}

#[tokio::test]
async fn a_slow_loop_holds_up_the_sender_and_loses_nothing() {
    const COUNT: u64 = 6_000;
    let authority = Authority::new();
    let mut sender = Node::start(config(authority.node(1), 1, 0));
    let mut small = config(authority.node(2), 2, 0);
    small.limits.inbound_bytes_max = 0;
    let mut receiver = Node::start(small);
    sender.dial(&[&receiver]);
    sender.next().await;
    for request in 0..COUNT {
        sender.transport.send_peer(receiver.id, request, &merge(Bytes::from(vec![1; 8 << 10])));
    }
    sender.transport.flush();
    // 48 MiB do not fit into the queue (17) and QUIC's windows (8): some must wait.
    receiver.until(|stats| stats.received_bytes > 16 << 20).await;
    assert!(sender.transport.stats().queued_bytes > 8 << 20);
    for expected in 0..COUNT {
        let Inbound::Peer { request, .. } = receiver.next().await else { panic!() };
        assert_eq!(request, expected);
    }
}

#[tokio::test]
async fn a_full_queue_to_a_peer_drops_what_comes_more() {
    let authority = Authority::new();
    let mut little = config(authority.node(1), 1, 0);
    little.limits.queued_bytes_max = 10_000;
    let mut one = Node::start(little);
    let mut two = Node::start(config(authority.node(2), 2, 0));
    one.dial(&[&two]);
    one.next().await;
    for request in 0..100 {
        one.transport.send_peer(two.id, request, &merge(Bytes::from(vec![1; 1 << 10])));
    }
    one.transport.flush();
    let dropped = one.transport.stats().dropped_full;
    assert!((85..=95).contains(&dropped), "{dropped}");
    for request in 0..100 - dropped {
        assert!(matches!(two.next().await, Inbound::Peer { request: r, .. } if r == request));
    }
}

#[tokio::test]
async fn closing_sends_what_waits_and_says_goodbye() {
    let (one, mut two) = pair(&Authority::new()).await;
    for request in 0..50 {
        one.transport.send_peer(two.id, request, &merge(Bytes::from(vec![1; 100 << 10])));
        one.transport.send_peer(two.id, 100 + request, &ping());
    }
    let close = one.transport.close(PATIENCE);
    let receive = async {
        let mut requests = Vec::new();
        loop {
            match two.next().await {
                Inbound::Peer { request, .. } => requests.push(request),
                Inbound::PeerDisconnected { .. } => return requests,
                other => panic!("{other:?}"),
            }
        }
    };
    let ((), mut requests) = tokio::join!(close, receive);
    requests.sort_unstable();
    assert_eq!(requests, (0..50).chain(100..150).collect::<Vec<_>>());
}

/// A node in a thread and a runtime of its own, which can be killed: nothing says goodbye.
struct Doomed {
    kill: tokio::sync::oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
    address: SocketAddr,
}

impl Doomed {
    fn start(tls: TlsMaterial, port: u16, members: Vec<(NodeId, SocketAddr)>) -> Self {
        let (kill, killed) = tokio::sync::oneshot::channel();
        let (started, start) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let node = runtime.block_on(async {
                let node = Node::start(config(tls, 2, port));
                node.transport.set_members(&members);
                started.send(node.address).unwrap();
                killed.await.unwrap();
                node
            });
            // First all tasks go: what the handles still say is sent by nobody.
            drop(runtime);
            drop(node);
        });
        Self { kill, thread, address: start.recv().unwrap() }
    }

    fn kill(self) {
        self.kill.send(()).unwrap();
        self.thread.join().unwrap();
    }
}

#[tokio::test]
async fn a_killed_peer_is_noticed_and_dialled_again() {
    let authority = Authority::new();
    let mut one = Node::start(config(authority.node(1), 1, 0));
    let members = vec![(one.id, one.address)];
    let doomed = Doomed::start(authority.node(2), 0, members.clone());
    let address = doomed.address;
    one.transport.set_members(&[(NodeId(2), address)]);
    assert_eq!(one.next().await, Inbound::PeerConnected { node: NodeId(2) });
    doomed.kill();
    let killed = std::time::Instant::now();
    assert_eq!(one.next().await, Inbound::PeerDisconnected { node: NodeId(2) });
    let noticed = killed.elapsed();
    assert!((1_000..6_000).contains(&noticed.as_millis()), "{noticed:?}");
    one.until(|stats| stats.peers_accepted == 0).await;
    let back = Doomed::start(authority.node(2), address.port(), members);
    assert_eq!(one.next().await, Inbound::PeerConnected { node: NodeId(2) });
    one.until(|stats| stats.peers_accepted == 1).await;
    back.kill();
}

#[tokio::test]
async fn a_quick_restart_is_noticed_by_the_first_packet() {
    let authority = Authority::new();
    let mut patient = config(authority.node(1), 1, 0);
    patient.limits.peer_idle_ms_max = 60_000;
    let mut one = Node::start(patient);
    let tls = authority.node(2);
    let doomed = Doomed::start(tls.clone(), 0, Vec::new());
    let address = doomed.address;
    one.transport.set_members(&[(NodeId(2), address)]);
    assert_eq!(one.next().await, Inbound::PeerConnected { node: NodeId(2) });
    doomed.kill();
    let back = Doomed::start(tls, address.port(), Vec::new());
    // Silence would be noticed only after 30 s, the other side's limit.
    assert_eq!(one.next().await, Inbound::PeerDisconnected { node: NodeId(2) });
    assert_eq!(one.next().await, Inbound::PeerConnected { node: NodeId(2) });
    back.kill();
}

#[tokio::test]
async fn different_initial_members_are_refused_with_the_reason_on_both_sides() {
    let authority = Authority::new();
    let one = Node::start(config(authority.node(1), 1, 0));
    let mut two = Node::start(config(authority.node(2), 2, 0));
    two.transport.set_hello(PeerHello { genesis_hash: 8, ..two.hello() });
    two.dial(&[&one]);
    let because = |stats: &TransportStats| {
        stats.refusals.iter().any(|refusal| refusal.reason.contains("lists of initial members"))
    };
    let stats = two.until(because).await;
    assert!(stats.refusals[0].reason.starts_with("n1 says: "), "{stats:?}");
    one.until(because).await;
    assert_eq!(two.transport.stats().peers_connected, 0);
    // Mended, it is dialled again without waiting.
    two.transport.set_hello(two.hello());
    assert_eq!(two.next().await, Inbound::PeerConnected { node: one.id });
}

#[tokio::test]
async fn who_is_no_member_any_more_is_hung_up_on() {
    let (one, mut two) = pair(&Authority::new()).await;
    two.transport.set_members(&[]);
    assert_eq!(two.next().await, Inbound::PeerDisconnected { node: one.id });
    one.until(|stats| stats.peers_accepted == 0).await;
    // One's own connection to two is not touched, and one may become a member again.
    assert_eq!(one.transport.stats().peers_connected, 1);
    two.dial(&[&one]);
    assert_eq!(two.next().await, Inbound::PeerConnected { node: one.id });
}

#[tokio::test]
async fn new_certificates_count_from_the_next_handshake() {
    let old = Authority::new();
    let new = Authority::new();
    let mut both = old.node(1);
    both.authority_pem.extend_from_slice(&new.node(1).authority_pem);
    let one = Node::start(config(old.node(1), 1, 0));
    let mut two = Node::start(config(new.node(2), 2, 0));
    two.dial(&[&one]);
    two.until(|stats| stats.refused > 0).await;
    one.transport.set_tls(&both).unwrap();
    let mut of_two = new.node(2);
    of_two.authority_pem.extend_from_slice(&old.node(2).authority_pem);
    two.transport.set_tls(&of_two).unwrap();
    assert_eq!(two.next().await, Inbound::PeerConnected { node: one.id });
}

#[tokio::test]
async fn who_is_removed_by_the_record_is_hung_up_on_and_not_let_in_again() {
    let (one, two) = pair(&Authority::new()).await;
    one.until(|stats| stats.peers_accepted == 1).await;
    let decided = |node: &Node| PeerHello { epoch: Epoch(3), ..node.hello() };
    for node in [&one, &two] {
        node.transport.set_hello(decided(node));
    }
    one.transport.set_members(&[]);
    let because = |stats: &TransportStats| {
        let refusal = |reason: &str| stats.refusals.iter().any(|one| one.reason.contains(reason));
        refusal("n2 is no member of the cluster, as version 3 of its record says")
    };
    one.until(because).await;
    two.until(because).await;
    // By a later record it may be one.
    two.transport.set_hello(PeerHello { epoch: Epoch(4), ..two.hello() });
    one.until(|stats| stats.peers_accepted == 1).await;
}

#[tokio::test]
async fn a_revoked_certificate_ends_what_stands_and_lets_nobody_in() {
    let authority = Authority::new();
    let (own, stolen, good) = (authority.node(1), authority.node(2), authority.client());
    let lost = authority.issue_until(&[format!("lost.client.{CLUSTER}.quoit")], 2999);
    let mut one = Node::start(config(own.clone(), 1, 0));
    let mut two = Node::start(config(stolen.clone(), 2, 0));
    one.dial(&[&two]);
    two.dial(&[&one]);
    assert_eq!(one.next().await, Inbound::PeerConnected { node: two.id });
    assert_eq!(two.next().await, Inbound::PeerConnected { node: one.id });
    let (kept, cut) =
        (Client::connect(one.address, &good).await, Client::connect(one.address, &lost).await);
    one.until(|stats| stats.clients == 2 && stats.peers_accepted == 1).await;

    let revoked_pem = authority.revoke(&[&stolen, &lost]);
    one.transport.set_tls(&TlsMaterial { revoked_pem, ..own.clone() }).unwrap();
    assert!(ended(&cut.connection).await.contains("not good any more"));
    one.until(|stats| stats.peers_connected == 0 && stats.peers_accepted == 0).await;
    let refused = connect(one.address, &lost, ALPN_CLIENT).await.unwrap();
    assert!(ended(&refused).await.contains("our certificate was revoked"));
    assert!(kept.connection.close_reason().is_none(), "the other client is not touched");
    drop(Client::connect(one.address, &good).await);

    // Nobody starts with a certificate that the others refuse, or with a list that counts for nothing.
    let revoked_pem = authority.revoke(&[&own]);
    let error = one.transport.set_tls(&TlsMaterial { revoked_pem, ..own.clone() }).unwrap_err();
    assert!(matches!(error, TlsError::Revoked), "{error}");
    let revoked_pem = b"nothing".to_vec();
    let error = one.transport.set_tls(&TlsMaterial { revoked_pem, ..own }).unwrap_err();
    assert!(error.to_string().contains("list of revoked certificates"), "{error}");
}

#[tokio::test]
async fn new_certificates_are_used_between_peers_at_once_and_nothing_is_lost() {
    let (old, new) = (Authority::new(), Authority::new());
    let both = |material: TlsMaterial| {
        let authority_pem = [old.node(1).authority_pem, new.node(1).authority_pem].concat();
        TlsMaterial { authority_pem, ..material }
    };
    let mut one = Node::start(config(both(old.node(1)), 1, 0));
    let mut two = Node::start(config(both(old.node(2)), 2, 0));
    one.dial(&[&two]);
    two.dial(&[&one]);
    assert_eq!(one.next().await, Inbound::PeerConnected { node: two.id });
    assert_eq!(two.next().await, Inbound::PeerConnected { node: one.id });
    // Both get certificates of the new authority, and once they have shown them trust no other.
    for (node, material) in [(&one, new.node(1)), (&two, new.node(2))] {
        node.transport.set_tls(&both(material)).unwrap();
    }
    one.until(|_| shows_own(&one, &two) && shows_own(&two, &one)).await;
    for (node, material) in [(&one, new.node(1)), (&two, new.node(2))] {
        node.transport.set_tls(&material).unwrap();
    }
    for request in 0..200 {
        one.transport.send_peer(two.id, request, &ping());
        one.transport.flush();
        assert_eq!(two.next_message().await, from(&one, request, ping()));
    }
    assert_eq!(two.transport.stats().refused, 0);
}

/// Whether the connection that a peer has opened shows the certificate that the peer has now.
fn shows_own(node: &Node, peer: &Node) -> bool {
    let Some(link) = node.transport.shared().accepted(peer.id) else { return false };
    let pem = &peer.transport.shared().tls().material.certificate_pem;
    chain_of(link.connection.peer_identity())[0] == Parsed::read_pem(pem).unwrap()[0].der
}
