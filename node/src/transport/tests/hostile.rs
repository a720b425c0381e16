use bytes::BytesMut;
use quoit_core::peer::ALPN_PEER;
use quoit_protocol::frame::HEADER_BYTES;
use quoit_protocol::{ALPN_CLIENT, AskRecord, RecordAnswer, Write};
use quoit_ring::HybridTime;

use super::super::*;
use super::world::*;

fn ask_record() -> ClientRequest {
    AskRecord {}.into()
}

async fn one_node(authority: &Authority) -> Node {
    Node::start(config(authority.node(1), 1, 0))
}

#[track_caller]
fn client_of(inbound: Inbound) -> ConnectionId {
    match inbound {
        Inbound::Client { connection, .. } => connection,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_client_asks_and_is_answered() {
    let authority = Authority::new();
    let mut node = one_node(&authority).await;
    let mut client = Client::connect(node.address, &authority.client()).await;
    let hello = node.next().await;
    let connection = client_of(hello.clone());
    assert_eq!(hello, Inbound::Client { connection, request: 1, message: client_hello() });
    client.send.write_all(&request(2, ask_record())).await.unwrap();
    assert_eq!(
        node.next().await,
        Inbound::Client { connection, request: 2, message: ask_record() }
    );
    let answer: ClientResponse =
        Box::new(RecordAnswer { record: None, time: HybridTime::default() }).into();
    node.transport.send_client(connection, 2, &answer);
    node.transport.flush();
    let mut expected = BytesMut::new();
    answer.put(2, &mut expected);
    let mut got = vec![0; expected.len()];
    client.receive.read_exact(&mut got).await.unwrap();
    assert_eq!(got, expected);
    client.connection.close(0_u32.into(), b"");
    assert_eq!(node.next().await, Inbound::ClientClosed { connection });
    assert_eq!(node.transport.stats().clients, 0);
}

#[tokio::test]
async fn large_requests_and_answers_have_streams_of_their_own() {
    let authority = Authority::new();
    let mut node = one_node(&authority).await;
    let client = Client::connect(node.address, &authority.client()).await;
    let connection = client_of(node.next().await);
    let message: ClientRequest = Write {
        head: head(),
        key: key(),
        value: Some(Bytes::from(vec![1; 4 << 20])),
        checksum: 0,
        context: Bytes::new(),
        ttl_ms: None,
        write_id: None,
    }
    .into();
    let mut stream = client.connection.open_uni().await.unwrap();
    stream.write_all(&request(2, message.clone())).await.unwrap();
    stream.finish().unwrap();
    assert_eq!(node.next().await, Inbound::Client { connection, request: 2, message });
    let answer = failure(4 << 20);
    node.transport.send_client(connection, 2, &answer);
    node.transport.flush();
    let mut expected = BytesMut::new();
    answer.put(2, &mut expected);
    let got = client.connection.accept_uni().await.unwrap().read_to_end(17 << 20).await.unwrap();
    assert_eq!(got, expected);
}

/// Says `bytes` on a client's first stream, and tells why the node hangs up. Another client must
/// not be disturbed.
async fn hangs_up_on(bytes: &[u8]) -> String {
    let authority = Authority::new();
    let mut node = one_node(&authority).await;
    let mut other = Client::connect(node.address, &authority.client()).await;
    let undisturbed = client_of(node.next().await);
    let bad = connect(node.address, &authority.client(), ALPN_CLIENT).await.unwrap();
    let (mut send, _receive) = bad.open_bi().await.unwrap();
    send.write_all(bytes).await.unwrap();
    let reason = ended(&bad).await;
    node.until(|stats| stats.garbage == 1 && stats.clients == 1).await;
    other.send.write_all(&request(3, ask_record())).await.unwrap();
    loop {
        match node.next().await {
            Inbound::Client { connection, request: 3, .. } if connection == undisturbed => break,
            Inbound::Client { message: ClientRequest::Hello(_), .. } => {}
            Inbound::ClientClosed { connection } => assert_ne!(connection, undisturbed),
            other => panic!("{other:?}"),
        }
    }
    reason
}

#[tokio::test]
async fn garbage_ends_only_the_connection_it_came_on() {
    let reason = hangs_up_on(&[0xaa; 4_000]).await;
    assert!(reason.contains("frame"), "{reason}");
}

#[tokio::test]
async fn garbage_after_hello_ends_the_connection() {
    let mut bytes = request(1, client_hello());
    bytes.extend_from_slice(&[0x55; 100]);
    let reason = hangs_up_on(&bytes).await;
    assert!(reason.contains("frame version 85"), "{reason}");
}

#[tokio::test]
async fn a_huge_length_is_refused_from_the_header_alone() {
    let mut bytes = request(1, client_hello());
    let mut huge = request(2, ask_record());
    huge[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    bytes.extend_from_slice(&huge[..HEADER_BYTES]);
    let reason = hangs_up_on(&bytes).await;
    assert!(reason.contains("over the limit of 65536"), "{reason}");
}

/// Says `bytes` on a stream of a client's for one large frame, and tells why the node hangs up.
async fn hangs_up_on_one_frame(bytes: &[u8]) -> String {
    let authority = Authority::new();
    let mut node = one_node(&authority).await;
    let client = Client::connect(node.address, &authority.client()).await;
    node.next().await;
    let mut stream = client.connection.open_uni().await.unwrap();
    stream.write_all(bytes).await.unwrap();
    ended(&client.connection).await
}

#[tokio::test]
async fn a_huge_length_on_a_stream_of_its_own_is_refused_too() {
    let mut huge = request(2, ask_record());
    huge[..4].copy_from_slice(&(18_u32 << 20).to_le_bytes());
    let reason = hangs_up_on_one_frame(&huge).await;
    assert!(reason.contains("over the limit"), "{reason}");
}

#[tokio::test]
async fn a_question_on_a_stream_of_its_own_ends_the_connection() {
    let reason = hangs_up_on_one_frame(&request(2, ask_record())).await;
    assert!(reason.contains("a question came on a stream of its own"), "{reason}");
}

#[tokio::test]
async fn nothing_is_heard_before_hello() {
    let reason = hangs_up_on(&request(1, ask_record())).await;
    assert!(reason.contains("before hello"), "{reason}");
}

#[tokio::test]
async fn a_body_that_does_not_decode_ends_the_connection() {
    let mut bytes = request(1, client_hello());
    put_frame(&mut bytes, 2, 9, |writer| io::Write::write_all(writer, b"\xc1\xc1")).unwrap();
    let reason = hangs_up_on(&bytes).await;
    assert!(reason.contains("does not decode"), "{reason}");
}

#[tokio::test]
async fn a_peer_must_say_hello_first_and_be_a_node() {
    let authority = Authority::new();
    let node = one_node(&authority).await;
    let connection = connect(node.address, &authority.node(2), ALPN_PEER).await.unwrap();
    let (mut send, _receive) = connection.open_bi().await.unwrap();
    send.write_all(&request(1, client_hello())).await.unwrap();
    assert!(ended(&connection).await.contains("kind 1 is unknown"));
    let connection = connect(node.address, &authority.client(), ALPN_PEER).await.unwrap();
    assert!(ended(&connection).await.contains("a client's certificate does not make a node"));
}

#[tokio::test]
async fn a_certificate_of_another_cluster_is_refused() {
    let authority = Authority::new();
    let node = one_node(&authority).await;
    let names = [format!("client.{}.quoit", ClusterId(1))];
    let foreign = authority.issue_until(&names, 2999);
    let connection = connect(node.address, &foreign, ALPN_CLIENT).await.unwrap();
    assert!(ended(&connection).await.contains("names no node and no client of cluster"));
}

/// What a node notes about a certificate that TLS refuses.
async fn refusal_of(tls: &TlsMaterial, node: &Node) -> String {
    match connect(node.address, tls, ALPN_CLIENT).await {
        // With TLS 1.3 the asker hears of it only after its own part is done.
        Ok(connection) => {
            let reason = ended(&connection).await;
            assert!(reason.contains("the other side refuses: our certificate"), "{reason}");
        }
        Err(error) => panic!("{error}"),
    }
    node.until(|stats| stats.refused == 1).await.refusals[0].reason.clone()
}

#[tokio::test]
async fn a_foreign_authority_is_refused() {
    let authority = Authority::new();
    let node = one_node(&authority).await;
    let mut foreign = Authority::new().client();
    foreign.authority_pem = authority.client().authority_pem;
    let reason = refusal_of(&foreign, &node).await;
    assert!(reason.contains("was issued by another authority than this cluster's"), "{reason}");
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let authority = Authority::new();
    let node = one_node(&authority).await;
    let expired = authority.issue_until(&[format!("client.{CLUSTER}.quoit")], 2021);
    let reason = refusal_of(&expired, &node).await;
    assert!(reason.contains("has expired: have the authority issue a new one"), "{reason}");
}

#[tokio::test]
async fn a_node_that_dials_a_foreign_cluster_says_so() {
    let one = one_node(&Authority::new()).await;
    let two = Node::start(config(Authority::new().node(2), 2, 0));
    two.dial(&[&one]);
    let stats = two.until(|stats| stats.refused > 0).await;
    let reason = &stats.refusals[0].reason;
    assert!(reason.contains("its certificate was issued by another authority"), "{reason}");
}

#[tokio::test]
async fn a_client_that_never_reads_is_cut_off_and_others_are_not() {
    let authority = Authority::new();
    let mut node = one_node(&authority).await;
    let idle = Client::connect(node.address, &authority.client()).await;
    let cut = client_of(node.next().await);
    let mut good = Client::connect(node.address, &authority.client()).await;
    let kept = client_of(node.next().await);
    let answer = failure(60_000);
    let most = Limits::default().queued_bytes_max as u64;
    for id in 0.. {
        node.transport.send_client(cut, id, &answer);
        node.transport.flush();
        tokio::task::yield_now().await;
        let stats = node.transport.stats();
        assert!(stats.queued_bytes <= most + 100_000, "{stats:?}");
        if stats.cut_off == 1 {
            break;
        }
        assert!(id < 10_000, "{stats:?}");
    }
    assert!(ended(&idle.connection).await.contains("does not read"));
    assert_eq!(node.next().await, Inbound::ClientClosed { connection: cut });
    node.until(|stats| stats.queued_bytes == 0).await;
    node.transport.send_client(kept, 2, &answer);
    node.transport.flush();
    good.receive.read_exact(&mut vec![0; 60_000]).await.unwrap();
}

#[tokio::test]
async fn more_clients_than_allowed_are_turned_away() {
    let authority = Authority::new();
    let mut config = config(authority.node(1), 1, 0);
    config.limits.accept.connections_max = 2;
    let mut node = Node::start(config);
    let first = Client::connect(node.address, &authority.client()).await;
    let _second = Client::connect(node.address, &authority.client()).await;
    node.next().await;
    node.next().await;
    let third = Client::connect(node.address, &authority.client()).await;
    assert!(ended(&third.connection).await.contains("as many clients as it takes"));
    first.connection.close(0_u32.into(), b"");
    assert!(matches!(node.next().await, Inbound::ClientClosed { .. }));
    let _fourth = Client::connect(node.address, &authority.client()).await;
    client_of(node.next().await);
}

#[track_caller]
fn bind_fails(tls: TlsMaterial, node: u64, because: &str) {
    let Err(error) = Transport::bind(config(tls, node, 0)) else { panic!("it binds") };
    assert!(error.to_string().contains(because), "{error}");
}

#[tokio::test]
async fn what_others_would_refuse_is_told_at_the_start() {
    let authority = Authority::new();
    let good = authority.node(1);
    let with = |change: fn(&mut TlsMaterial, &TlsMaterial)| {
        let mut material = good.clone();
        change(&mut material, &authority.node(1));
        material
    };
    bind_fails(with(|m, _| m.authority_pem.clear()), 1, "the authority's certificate cannot be");
    bind_fails(with(|m, _| m.key_pem = b"key".to_vec()), 1, "the node's key cannot be read");
    bind_fails(with(|m, other| m.key_pem = other.key_pem.clone()), 1, "does not belong to its");
    bind_fails(authority.issue_until(&node_names(1), 2021), 1, "expired");
    bind_fails(good.clone(), 2, "belongs to node n1, not to node n2");
    bind_fails(authority.client(), 1, "belongs to a client");
    bind_fails(authority.issue_until(&["n1.quoit".into()], 2999), 1, "but n1.quoit");
    let mut foreign = Authority::new().node(1);
    foreign.authority_pem = good.authority_pem.clone();
    bind_fails(foreign, 1, "was not issued by the authority");
}

#[tokio::test]
async fn a_port_in_use_is_told_with_its_address() {
    let authority = Authority::new();
    let node = one_node(&authority).await;
    let again = Transport::bind(config(authority.node(2), 2, node.address.port()));
    let Err(error) = again else { panic!("it binds") };
    let expected = format!("UDP address {} is in use", node.address);
    assert!(error.to_string().starts_with(&expected), "{error}");
}
