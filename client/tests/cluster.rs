//! The library against fake nodes that speak real QUIC in this process.

mod fake;
mod large;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fake::{Authority, CLUSTER, FakeCluster, Reaction, failure};
use quoit_client::{
    Client, ClientBuilder, ConnectError, Context, FailureCode, Format, Kind, LastWriter, Level,
    Max, NodeId, Profile, ReadError, RetryPolicy, ScanRange, Session, StatusError, TableError,
    TableOptions, TypedError, WriteError, blocking,
};
use quoit_protocol::ClientRequest;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_put_is_read_until_it_is_deleted() {
    let authority = Authority::new();
    let cluster = FakeCluster::start(&authority, 3, |_, _| Reaction::Serve);
    let client = cluster.builder(&authority).connect().await.unwrap();
    let table = client.table("t").await.unwrap();
    let written = table.put("alice", "3 apples", &Context::none()).await.unwrap();
    assert_eq!(written.acknowledged, 2);
    let reading = table.get("alice").await.unwrap();
    assert_eq!(reading.single().unwrap().bytes, "3 apples");
    table.delete("alice", &reading.context).await.unwrap();
    assert!(table.get("alice").await.unwrap().is_absent());
    client.clone().close().await;
    assert_eq!(table.get("alice").await, Err(ReadError::Closed));
}

#[tokio::test]
async fn many_requests_at_once_are_all_answered() {
    let authority = Authority::new();
    let cluster = FakeCluster::start(&authority, 3, |_, _| Reaction::Serve);
    let client = cluster.builder(&authority).connect().await.unwrap();
    let table = client.table("t").await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..500 {
        let table = table.clone();
        tasks.spawn(async move {
            let key = format!("key {number}");
            table.put(&key, key.clone(), &Context::none()).await.unwrap();
            assert_eq!(table.get(&key).await.unwrap().single().unwrap().bytes, key);
        });
    }
    tasks.join_all().await;
    assert_eq!(cluster.items(), 500);
}

#[tokio::test]
async fn a_large_value_travels_on_a_stream_of_its_own() {
    let authority = Authority::new();
    let cluster = FakeCluster::start(&authority, 1, |_, _| Reaction::Serve);
    let client = cluster.builder(&authority).connect().await.unwrap();
    let table = client.table("t").await.unwrap();
    let value: Vec<u8> = (0..1 << 20).map(|at: u32| at.to_le_bytes()[1]).collect();
    table.put("large", value.clone(), &Context::none()).await.unwrap();
    assert_eq!(table.get("large").await.unwrap().single().unwrap().bytes, value);
}

#[tokio::test]
async fn a_value_over_the_limit_is_not_sent() {
    let authority = Authority::new();
    let cluster = FakeCluster::start(&authority, 1, |_, _| Reaction::Serve);
    let client = cluster.builder(&authority).connect().await.unwrap();
    let table = client.table("t").await.unwrap();
    let error = table.put("k", vec![0; (4 << 20) + 1], &Context::none()).await.unwrap_err();
    assert!(!error.is_unknown());
    assert_eq!(
        error.to_string(),
        "not written: the value has 4194305 bytes, but the cluster takes at most 4194304"
    );
}

#[tokio::test]
async fn a_read_survives_a_node_that_hangs_up() {
    let authority = Authority::new();
    let hung = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&hung);
    let cluster = FakeCluster::start(&authority, 3, move |_, request| {
        let first =
            matches!(request, ClientRequest::Get(_)) && count.fetch_add(1, Ordering::SeqCst) == 0;
        if first { Reaction::Hang } else { Reaction::Serve }
    });
    let client = cluster.builder(&authority).connect().await.unwrap();
    let table = client.table("t").await.unwrap();
    assert!(table.get("k").await.unwrap().is_absent());
    assert!(hung.load(Ordering::SeqCst) >= 2);
}

#[tokio::test]
async fn a_write_is_unknown_when_its_node_hangs_up_and_sent_again_if_idempotent() {
    let authority = Authority::new();
    let writes = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&writes);
    let cluster = FakeCluster::start(&authority, 3, move |_, request| {
        let hang = matches!(request, ClientRequest::Write(_))
            && count.fetch_add(1, Ordering::SeqCst).is_multiple_of(2);
        if hang { Reaction::Hang } else { Reaction::Serve }
    });
    let client = cluster.builder(&authority).connect().await.unwrap();
    let table = client.table("t").await.unwrap();
    let error = table.put("k", "v", &Context::none()).await.unwrap_err();
    assert!(error.is_unknown(), "{error}");
    assert!(error.to_string().contains("hung up"), "{error}");
    assert_eq!(writes.load(Ordering::SeqCst), 1);
    writes.store(0, Ordering::SeqCst);
    table.idempotent(true).put("k", "v", &Context::none()).await.unwrap();
    assert_eq!(writes.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_deadline_ends_what_a_silent_node_does_not() {
    let authority = Authority::new();
    let cluster = FakeCluster::start(&authority, 1, |_, request| match request {
        ClientRequest::Get(_) | ClientRequest::Write(_) => Reaction::Ignore,
        _ => Reaction::Serve,
    });
    let client = cluster.builder(&authority).connect().await.unwrap();
    let table = client.table("t").await.unwrap().with_timeout(Duration::from_millis(200));
    let start = Instant::now();
    let error = table.get("k").await.unwrap_err();
    assert!(matches!(error, ReadError::Timeout { .. }), "{error}");
    let error = table.put("k", "v", &Context::none()).await.unwrap_err();
    assert!(error.is_unknown(), "{error}");
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_node_that_sends_garbage_is_left_for_another() {
    let authority = Authority::new();
    let cluster = FakeCluster::start(&authority, 2, |node, request| {
        let bad = node == NodeId(2) && matches!(request, ClientRequest::Get(_));
        if bad { Reaction::Garbage } else { Reaction::Serve }
    });
    let client = cluster.builder(&authority).connect().await.unwrap();
    let table = client.table("t").await.unwrap();
    for _ in 0..20 {
        assert!(table.get("k").await.unwrap().is_absent());
    }
}

#[tokio::test]
async fn a_damaged_value_is_never_shown() {
    let authority = Authority::new();
    let cluster = FakeCluster::start(&authority, 2, |_, _| Reaction::Damage);
    let client = cluster.builder(&authority).connect().await.unwrap();
    let table = client.table("t").await.unwrap();
    table.put("k", "v", &Context::none()).await.unwrap();
    let error = table.get("k").await.unwrap_err();
    assert!(matches!(error, ReadError::Damaged { .. }), "{error}");
}

#[tokio::test]
async fn a_refusal_says_what_to_do() {
    let authority = Authority::new();
    let cluster = FakeCluster::start(&authority, 1, |_, request| match request {
        ClientRequest::Write(_) => {
            Reaction::Refuse(failure(FailureCode::TooManySiblings, false, "32 siblings"))
        }
        ClientRequest::Get(_) => {
            Reaction::Refuse(failure(FailureCode::Unavailable, false, "n2 and n3 are down"))
        }
        _ => Reaction::Serve,
    });
    let client = cluster.builder(&authority).connect().await.unwrap();
    let table = client.table("t").await.unwrap();
    let error = table.put("k", "v", &Context::none()).await.unwrap_err();
    assert_eq!(error, WriteError::TooManySiblings { message: "32 siblings".into() });
    let error = table.get("k").await.unwrap_err();
    assert_eq!((error.answered(), error.required()), (Some(1), Some(2)), "{error}");
}

#[tokio::test]
async fn another_protocol_version_is_named() {
    let authority = Authority::new();
    let cluster = FakeCluster::start(&authority, 1, |_, _| {
        let text = "this node speaks versions 2 to 3; the client speaks 1: upgrade the client";
        Reaction::Refuse(failure(FailureCode::Protocol, false, text))
    });
    let error = cluster.builder(&authority).connect().await.unwrap_err();
    assert!(error.to_string().contains("versions 2 to 3"), "{error}");
}

#[tokio::test]
async fn a_node_of_another_authority_is_refused_and_so_is_a_stranger() {
    let (authority, other) = (Authority::new(), Authority::new());
    let cluster = FakeCluster::start(&authority, 1, |_, _| Reaction::Serve);
    let start = Instant::now();
    let error = cluster.builder(&other).connect().await.unwrap_err();
    assert!(error.to_string().contains("the node's certificate is not accepted"), "{error}");

    let mut identity = other.client();
    identity.authority_pem = authority.client().authority_pem;
    let error = cluster.builder(&authority).identity(identity).connect().await.unwrap_err();
    assert!(error.to_string().contains("the node does not accept this client"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(3), "it is told at once");
}

#[tokio::test]
async fn a_partition_is_scanned_page_by_page() {
    let authority = Authority::new();
    let cluster = FakeCluster::start(&authority, 3, |_, _| Reaction::Serve);
    let client = cluster.builder(&authority).connect().await.unwrap();
    let table = client.table("t").await.unwrap();
    for number in 0..1_203 {
        table.put(("p", format!("{number:05}")), "v", &Context::none()).await.unwrap();
    }
    table.put(("q", "00000"), "v", &Context::none()).await.unwrap();
    let items = table.scan("p", ScanRange::default()).collect().await.unwrap();
    assert_eq!(items.len(), 1_203);
    assert!(items.is_sorted_by(|a, b| a.key.sort < b.key.sort));
    let range = ScanRange { from: "00100".into(), to: Some("01100".into()), limit: Some(700) };
    let items = table.scan("p", range).collect().await.unwrap();
    assert_eq!((items.len(), &items[0].key.sort[..]), (700, &b"00100"[..]));

    let mut items = table.export().collect().await.unwrap();
    items.sort_by(|a, b| a.key.cmp(&b.key));
    items.dedup_by(|a, b| a.key == b.key);
    assert_eq!(items.len(), 1_204);
}

#[tokio::test]
async fn tables_come_and_go() {
    let authority = Authority::new();
    let cluster = FakeCluster::start(&authority, 3, |_, _| Reaction::Serve);
    let client = cluster.builder(&authority).connect().await.unwrap();
    let error = client.table("u").await.unwrap_err();
    assert_eq!(error, TableError::Unknown { name: "u".into(), known: vec!["t".into()] });
    let record = client.create_table("u", TableOptions::default()).await.unwrap();
    assert!(record.table("u").is_some());
    let table = client.table("u").await.unwrap();
    table.put("k", "v", &Context::none()).await.unwrap();
    client.drop_table("u").await.unwrap();
    let error = table.get("k").await.unwrap_err();
    assert_eq!(error, ReadError::UnknownTable { table: "u".into() });
    let error = client.create_table("no spaces", TableOptions::default()).await.unwrap_err();
    assert!(error.to_string().contains("no spaces"), "{error}");
    assert!(std::error::Error::source(&error).is_none(), "it would be told twice");
    let error = client.status(NodeId(9)).await.unwrap_err();
    assert_eq!(error, StatusError::UnknownNode(NodeId(9)));
}

#[tokio::test]
async fn a_directory_says_all_that_a_client_needs() {
    let authority = Authority::new();
    let cluster = FakeCluster::start(&authority, 1, |_, _| Reaction::Serve);
    let directory = tempfile::tempdir().unwrap();
    let error = ClientBuilder::from_directory(directory.path()).unwrap_err();
    assert!(matches!(&error, ConnectError::File { path, .. } if path.ends_with("client.toml")));
    let identity = authority.client();
    let write = |name: &str, bytes: &[u8]| std::fs::write(directory.path().join(name), bytes);
    write("authority.pem", &identity.authority_pem).unwrap();
    write("client.pem", &identity.certificate_pem).unwrap();
    write("client.key", &identity.key_pem).unwrap();
    let text = format!(
        "cluster = \"{CLUSTER}\"\ncontact_points = [\"{}\"]\nauthority = \"authority.pem\"\n\
         certificate = \"client.pem\"\nkey = \"client.key\"\n",
        cluster.contact_points[0]
    );
    write("client.toml", text.as_bytes()).unwrap();
    let client: Client =
        ClientBuilder::from_directory(directory.path()).unwrap().connect().await.unwrap();
    assert_eq!(client.record().cluster, CLUSTER);
    write("client.toml", format!("{text}colour = \"red\"\n").as_bytes()).unwrap();
    let error = ClientBuilder::from_directory(directory.path()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("client.toml") && text.contains("colour"), "{text}");
}

#[tokio::test]
async fn many_keys_are_written_and_read_in_order_each_with_its_own_outcome() {
    let authority = Authority::new();
    let cluster = FakeCluster::start(&authority, 3, |_, request| match request {
        ClientRequest::Write(write) if &write.key.partition[..] == b"key 7" => {
            Reaction::Refuse(failure(FailureCode::Invalid, false, "for the test"))
        }
        _ => Reaction::Serve,
    });
    let client = cluster.builder(&authority).connect().await.unwrap();
    let table = client.table("t").await.unwrap();
    let keys: Vec<String> = (0..1_000).map(|number| format!("key {number}")).collect();
    let writes = keys.iter().map(|key| (key, key.clone(), Context::none()));
    let written = table.put_many(writes).await;
    let failed: Vec<usize> = (0..1_000).filter(|at| written[*at].is_err()).collect();
    assert_eq!(failed, [7]);
    let readings = table.get_many(&keys).await;
    for (number, reading) in readings.into_iter().enumerate() {
        let value = reading.unwrap().single().map(|value| value.bytes.clone());
        assert_eq!(value, (number != 7).then(|| keys[number].clone().into()));
    }
}

#[tokio::test]
async fn an_update_of_a_latest_table_is_refused_and_says_why() {
    let authority = Authority::new();
    let cluster = FakeCluster::start(&authority, 1, |_, _| Reaction::Serve);
    let client = cluster.builder(&authority).connect().await.unwrap();
    let table = client.table("t").await.unwrap();
    let error = table.update("k", |_| "v".into()).await.unwrap_err();
    assert!(!error.is_unknown());
    assert!(error.to_string().contains("updates need a table of siblings"), "{error}");
}

#[tokio::test]
async fn typed_values_travel_in_either_format_and_others_are_refused() {
    let authority = Authority::new();
    let cluster = FakeCluster::start(&authority, 1, |_, _| Reaction::Serve);
    let client = cluster.builder(&authority).connect().await.unwrap();
    let table = client.table("t").await.unwrap();
    for format in [Format::MessagePack, Format::Json] {
        let typed = table.typed::<(String, Vec<u32>)>(format);
        let value = ("three".to_owned(), vec![1, 2, 3]);
        typed.put("k", &value, &Context::none()).await.unwrap();
        assert_eq!(typed.get("k").await.unwrap().resolved(&LastWriter), Some(value));
        let other = table.typed::<u64>(format);
        let error = other.get("k").await.unwrap_err();
        assert!(matches!(error, TypedError::Decode { .. }), "{error}");
        assert!(error.to_string().contains("the table t cannot be read as u64"), "{error}");
    }
    assert_eq!(table.typed::<u64>(Format::Json).get("absent").await.unwrap().resolved(&Max), None);
}

#[tokio::test]
async fn a_reading_says_who_served_it_and_the_metrics_count_it() {
    let authority = Authority::new();
    let refused = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&refused);
    let cluster = FakeCluster::start(&authority, 3, move |_, request| {
        let first =
            matches!(request, ClientRequest::Get(_)) && count.fetch_add(1, Ordering::SeqCst) == 0;
        if first {
            Reaction::Refuse(failure(FailureCode::NotServing, false, "starting"))
        } else {
            Reaction::Serve
        }
    });
    let client = cluster.builder(&authority).connect().await.unwrap();
    let table = client.table("t").await.unwrap();
    table.put("k", "v", &Context::none()).await.unwrap();
    let service = table.with_read_level(Level::One).get("k").await.unwrap().service;
    assert_eq!((service.level, service.trail.attempts), (Level::One, 2));
    let metrics = client.metrics().await.unwrap();
    let reads = metrics.of_kind(Kind::Read);
    assert_eq!((reads.took_us.len(), reads.retries, reads.failed, reads.unknown), (1, 1, 0, 0));
    assert_eq!(metrics.of_kind(Kind::Write).took_us.len(), 1);
    assert!(!metrics.by_coordinator()[&service.coordinator].took_us.is_empty());
    client.clone().close().await;
    assert!(client.metrics().await.is_none());
}

#[tokio::test]
async fn a_request_is_sent_once_where_the_profile_says_so() {
    let authority = Authority::new();
    let cluster = FakeCluster::start(&authority, 3, |_, request| match request {
        ClientRequest::Get(_) => {
            Reaction::Refuse(failure(FailureCode::NotServing, false, "starting"))
        }
        _ => Reaction::Serve,
    });
    let once = Profile::new().retry(RetryPolicy::never());
    let client = cluster.builder(&authority).profile(once).connect().await.unwrap();
    let table = client.table("t").await.unwrap();
    let error = table.get("k").await.unwrap_err();
    assert!(error.to_string().contains("(1 attempt: "), "{error}");
    let thrice = Profile::new().retry(RetryPolicy::new().attempts_max(3));
    let error = table.with_profile(&thrice).get("k").await.unwrap_err();
    assert!(error.to_string().contains("(3 attempts: "), "{error}");
}

#[tokio::test]
async fn a_session_takes_along_what_it_has_seen() {
    let authority = Authority::new();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let cluster = FakeCluster::start(&authority, 1, move |_, request| {
        if let ClientRequest::Get(get) = request
            && !get.at_least.is_empty()
        {
            count.fetch_add(1, Ordering::SeqCst);
        }
        Reaction::Serve
    });
    let client = cluster.builder(&authority).connect().await.unwrap();
    let plain = client.table("t").await.unwrap();
    let session = Session::new();
    let table = plain.with_profile(&Profile::new().session(session.clone()));
    table.put("k", "v", &Context::none()).await.unwrap();
    plain.get("k").await.unwrap();
    table.get("other").await.unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 0);
    table.get("k").await.unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    assert!(table.get_many(["k", "k"]).await.iter().all(Result::is_ok));
    assert_eq!(asked.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_condition_is_refused_where_the_table_cannot_promise_it() {
    let authority = Authority::new();
    let cluster = FakeCluster::start(&authority, 1, |_, _| Reaction::Serve);
    let client = cluster.builder(&authority).connect().await.unwrap();
    let table = client.table("t").await.unwrap();
    let error = table.put_if_absent("k", "v").await.unwrap_err();
    assert!(error.to_string().contains("keeps only the latest write"), "{error}");
    assert!(!error.is_unknown());
}

#[test]
fn the_blocking_client_waits_for_its_answers() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let authority = Authority::new();
    let cluster =
        runtime.block_on(async { FakeCluster::start(&authority, 3, |_, _| Reaction::Serve) });
    let client = blocking::connect(cluster.builder(&authority)).unwrap();
    let table = client.table("t").unwrap();
    let threads: Vec<_> = (0..4)
        .map(|number| {
            let table = table.clone();
            std::thread::spawn(move || {
                let key = format!("key {number}");
                table.put(&key, key.clone(), &Context::none()).unwrap();
                assert_eq!(table.get(&key).unwrap().single().unwrap().bytes, key);
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let missing = client.table("none").unwrap_err();
    assert!(matches!(missing, TableError::Unknown { .. }), "{missing}");
    client.close();
    assert_eq!(table.get("key 1"), Err(ReadError::Closed));
}
