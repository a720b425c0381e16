//! Who is let in where many want to be: half-open, idle and greedy connections beside one that works.

use std::time::Instant;

use bytes::BytesMut;
use quoit_protocol::{ALPN_CLIENT, AskRecord, Get, RecordAnswer, Seen};
use quoit_ring::HybridTime;
use tokio::task::JoinSet;

use super::super::*;
use super::world::*;

fn answer() -> ClientResponse {
    Box::new(RecordAnswer { record: None, time: HybridTime::default() }).into()
}

/// Answers whatever clients ask, for ever.
async fn serve(transport: Transport, mut queue: InboundQueue) {
    let mut inbound = Vec::new();
    while queue.recv_many(&mut inbound, 64).await > 0 {
        for one in inbound.drain(..) {
            if let Inbound::Client { connection, request, .. } = one.inbound {
                transport.send_client(connection, request, &answer());
            }
        }
        transport.flush();
    }
}

fn limited(limits: impl FnOnce(&mut AcceptLimits)) -> (Node, TlsMaterial) {
    let authority = Authority::new();
    let mut config = config(authority.node(1), 1, 0);
    limits(&mut config.limits.accept);
    (Node::start(config), authority.client())
}

#[tokio::test]
async fn half_open_connections_make_room_and_their_flood_must_show_its_address() {
    let (node, client) = limited(|limits| {
        limits.handshakes_max = 64;
        limits.handshakes_per_source_max = 48;
    });
    // Each ends its handshake and says nothing: the first of the source goes for the last.
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(connect(node.address, &client, ALPN_CLIENT).await.unwrap());
    }
    let stats = node.until(|stats| stats.shed >= 2).await;
    assert!(stats.retried > 0, "{stats:?}");
    assert!(ended(&silent[0]).await.contains("no hello came"));
    assert!(silent[49].close_reason().is_none(), "the newest is left alone");
    let Node { address, transport, queue, .. } = node;
    let serving = tokio::spawn(serve(transport, queue));
    let mut good = Client::connect(address, &client).await;
    let expected = request_bytes(1);
    let mut got = vec![0; expected.len()];
    good.receive.read_exact(&mut got).await.unwrap();
    assert_eq!(got, expected);
    serving.abort();
}

#[tokio::test]
async fn the_client_that_has_been_idle_longest_makes_room_and_a_source_has_its_share() {
    let (node, client) = limited(|limits| {
        limits.connections_max = 3;
        limits.connections_per_source_max = 2;
    });
    let Node { address, transport, queue, .. } = node;
    let serving = tokio::spawn(serve(transport.clone(), queue));
    let first = Client::connect(address, &client).await;
    let second = Client::connect(address, &client).await;
    // A third of the source is turned away until the first has been idle for a while.
    let third = loop {
        let third = Client::connect(address, &client).await;
        tokio::select! {
            _ = third.connection.closed() => {}
            _ = first.connection.closed() => break third,
        }
    };
    assert!(ended(&first.connection).await.contains("idle"));
    // Another source has room.
    let elsewhere = connect_from([127, 0, 0, 2].into(), address, &client).await.unwrap();
    let (mut send, mut receive) = elsewhere.open_bi().await.unwrap();
    send.write_all(&request(1, client_hello())).await.unwrap();
    receive.read_exact(&mut [0]).await.unwrap();
    assert!(
        second.connection.close_reason().is_none() && third.connection.close_reason().is_none()
    );
    let stats = transport.stats();
    assert_eq!((stats.clients, stats.shed), (3, 1), "{stats:?}");
    serving.abort();
}

#[tokio::test]
async fn who_works_is_served_beside_the_silent_the_slow_and_the_greedy() {
    const ASKED: u64 = 200;
    let (node, client) = limited(|limits| {
        limits.handshakes_max = 16;
        limits.handshakes_per_source_max = 8;
        limits.connections_max = 24;
    });
    let Node { address, transport, queue, .. } = node;
    let serving = tokio::spawn(serve(transport.clone(), queue));
    let mut good = Client::connect(address, &client).await;
    let mut crowd = JoinSet::new();
    for number in 0..30_u8 {
        let client = client.clone();
        crowd.spawn(async move {
            let from = [127, 0, 0, 2 + number % 3].into();
            let Ok(connection) = connect_from(from, address, &client).await else { return };
            let Ok((mut send, _receive)) = connection.open_bi().await else { return };
            let hello = request(1, client_hello());
            // Some say nothing, some half a word, and some ask without end and read no answer.
            let said = [0, 5, hello.len()][usize::from(number % 3)];
            let mut wrote = send.write_all(&hello[..said]).await;
            while number % 3 == 2 && wrote.is_ok() {
                wrote = send.write_all(&request(2, AskRecord {}.into())).await;
            }
            connection.closed().await;
        });
    }
    let expected = request_bytes(0).len();
    let mut got = vec![0; expected];
    good.receive.read_exact(&mut got).await.unwrap();
    for id in 0..ASKED {
        good.send.write_all(&request(id, AskRecord {}.into())).await.unwrap();
        good.receive.read_exact(&mut got).await.unwrap();
        assert_eq!(got, request_bytes(id), "each is answered, in its turn");
    }
    let stats = transport.stats();
    assert!(stats.clients <= 24, "{stats:?}");
    serving.abort();
}

#[tokio::test]
async fn who_asks_without_end_is_taken_up_at_its_pace_and_others_at_once() {
    let (node, client) = limited(|_| {});
    let Node { address, transport: _transport, mut queue, .. } = node;
    let mut greedy = Client::connect(address, &client).await;
    let mut asked = BytesMut::new();
    for id in 0..2_000 {
        asked.extend_from_slice(&request(id, AskRecord {}.into()));
    }
    greedy.send.write_all(&asked).await.unwrap();
    // What it had saved, and then 50 a second.
    let mut taken_up = 0;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        let wait = timeout(Duration::from_millis(50), queue.recv()).await;
        taken_up += u64::from(wait.is_ok());
    }
    assert!((402..=600).contains(&taken_up), "{taken_up}");
    let _other = Client::connect(address, &client).await;
    loop {
        let next = timeout(Duration::from_millis(500), queue.recv()).await.unwrap().unwrap();
        if matches!(next, Inbound::Client { message: ClientRequest::Hello(_), .. }) {
            break;
        }
    }
}

#[tokio::test]
async fn operations_pass_a_question_that_waits_for_its_turn() {
    let (node, client) = limited(|_| {});
    let Node { address, transport: _transport, mut queue, .. } = node;
    // Each of them always has a question in the queue.
    let mut greedy = Vec::new();
    for _ in 0..40 {
        let mut one = Client::connect(address, &client).await;
        let asked: Vec<u8> = (0..100).flat_map(|id| request(id, AskRecord {}.into())).collect();
        one.send.write_all(&asked).await.unwrap();
        greedy.push(one);
    }
    for _ in 0..200 {
        timeout(PATIENCE, queue.recv()).await.unwrap().unwrap();
    }
    let mut other = Client::connect(address, &client).await;
    let get: ClientRequest = Get { head: head(), key: key(), at_least: Seen::default() }.into();
    let mut asked = BytesMut::new();
    asked.extend_from_slice(&request(1, AskRecord {}.into()));
    for id in 2..=20 {
        asked.extend_from_slice(&request(id, get.clone()));
    }
    other.send.write_all(&asked).await.unwrap();
    let mut hello = None;
    let mut came = Vec::new();
    while came.len() < 20 {
        let next = timeout(PATIENCE, queue.recv()).await.unwrap().unwrap();
        let Inbound::Client { connection, request, message } = next else { continue };
        match message {
            ClientRequest::Hello(_) => hello = Some(connection),
            _ if hello == Some(connection) => came.push(request),
            _ => {}
        }
    }
    let expected: Vec<u64> = (2..=20).chain([1]).collect();
    assert_eq!(came, expected, "the question last, and all the operations in their order");
}

#[tokio::test]
async fn who_does_not_read_is_read_no_further_until_it_does() {
    const ASKED: u64 = 8_000;
    let (node, client) = limited(|_| {});
    let Node { address, transport, mut queue, .. } = node;
    let mut lazy = Client::connect(address, &client).await;
    let Some(Inbound::Client { connection, .. }) = queue.recv().await else { panic!("no hello") };
    let get: ClientRequest = Get { head: head(), key: key(), at_least: Seen::default() }.into();
    let mut asked = BytesMut::new();
    for id in 0..ASKED {
        asked.extend_from_slice(&request(id, get.clone()));
    }
    lazy.send.write_all(&asked).await.unwrap();
    let large = failure(10_000);
    // All are answered that are taken up: those that came before there was an answer, and few more.
    let mut answered = 0;
    while let Ok(Some(_)) = timeout(Duration::from_secs(1), queue.recv()).await {
        transport.send_client(connection, answered, &large);
        transport.flush();
        answered += 1;
    }
    let most = Limits::default().queued_bytes_max as u64;
    let waits = transport.stats().queued_bytes;
    assert!((most / 16..most * 3 / 4).contains(&waits), "{waits} bytes wait");
    assert!(answered < ASKED * 2 / 3, "{answered}");
    let reading = tokio::spawn(async move {
        while lazy.receive.read_chunk(1 << 20, true).await.is_ok_and(|chunk| chunk.is_some()) {}
    });
    while answered < ASKED {
        timeout(Duration::from_secs(10), queue.recv()).await.unwrap().unwrap();
        transport.send_client(connection, answered, &large);
        transport.flush();
        answered += 1;
    }
    assert_eq!(transport.stats().cut_off, 0);
    reading.abort();
}

fn request_bytes(id: u64) -> Vec<u8> {
    let mut buffer = BytesMut::new();
    answer().put(id, &mut buffer);
    buffer.to_vec()
}
