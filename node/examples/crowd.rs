//! A crowd at one node's door while a client works: how much the client notices.
//!
//! With a cluster of `quoit up` running, `cargo run --release -p quoit-node --example crowd` measures a
//! foreground client alone, then beside 5,000 connections that are idle (they say hello and nothing
//! more), slow (a hello, byte by byte) or greedy (requests without end, answers not awaited), a third
//! each, from 64 addresses of loopback. It does so in turns, since a machine's pace changes from minute to
//! minute: three times alone and beside, and alone once more. It prints the latencies of each turn, the
//! ratio of those of all, what became of the crowd, and what the node counted. `crowd COUNT DIRECTORY` for
//! another number, another client's directory.
//!
//! The crowd is a process of its own that gets the processor when nobody else wants it (`chrt --idle`): what
//! it takes is not the node's doing, but there is no other machine here.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, Endpoint};
use quoit_client::{Client, ClientBuilder, Context, TableOptions};
use quoit_node::http::fetch;
use quoit_protocol::{ALPN_CLIENT, AskRecord, ClientRequest, Hello, PROTOCOL_VERSION};
use quoit_ring::ClusterId;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

type Failure = Box<dyn Error + Send + Sync>;

/// Tasks of the foreground client, each with one request at a time.
const FOREGROUND_TASKS: usize = 4;
const KEYS: u64 = 1_000;
const TURNS: usize = 3;
const ALONE: Duration = Duration::from_secs(10);
const BESIDE: Duration = Duration::from_secs(10);
/// The crowd is there so long before it is measured, and goes a little after.
const ARRIVING: Duration = Duration::from_secs(30);
/// So long after it has gone the node has forgotten it.
const SETTLING: Duration = Duration::from_secs(5);
const SOURCES: usize = 64;
/// How long one waits that is refused, twice as long each time.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// A greedy connection writes so many requests, then lets others run.
const GREEDY_BURST: usize = 64;

/// What became of the crowd.
#[derive(Default)]
struct Fates {
    refused: AtomicU64,
    connected: AtomicU64,
    ended: AtomicU64,
    requests: AtomicU64,
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if let [flag, count, directory, address] = &arguments[..]
        && flag == "--as-crowd"
    {
        return runtime.block_on(crowd(count.parse()?, Path::new(directory), address.parse()?));
    }
    let count = arguments.first().map_or(Ok(5_000), |text| text.parse())?;
    let directory = arguments.get(1).map_or_else(|| "quoit-data/client".into(), PathBuf::from);
    runtime.block_on(measure(count, &directory))
}

async fn measure(count: usize, directory: &Path) -> Result<(), Failure> {
    let client = ClientBuilder::from_directory(directory)?.connect().await?;
    client.create_table("crowd", TableOptions::default()).await?;
    let table = client.table("crowd").await?.idempotent(true);
    for key in 0..KEYS {
        table.put(format!("key{key}"), vec![1; 1_024], &Context::none()).await?;
    }
    let node = client.record().members[0].address;
    foreground(&client, Duration::from_secs(2)).await?;
    let (mut alone, mut beside) = (Seen::default(), Seen::default());
    for _ in 0..TURNS {
        alone.add("alone: ", foreground(&client, ALONE).await?);
        let mut crowd = Command::new("chrt")
            .args(["--idle", "0"])
            .arg(std::env::current_exe()?)
            .args(["--as-crowd", &count.to_string()])
            .arg(directory)
            .arg(node.to_string())
            .stdin(Stdio::null())
            .spawn()?;
        tokio::time::sleep(ARRIVING).await;
        beside.add("beside:", foreground(&client, BESIDE).await?);
        tell_connections(node).await?;
        // Its last ones sleep for a while yet; the client stays connected.
        tokio::task::spawn_blocking(move || crowd.wait()).await??;
        tokio::time::sleep(SETTLING).await;
    }
    alone.add("alone: ", foreground(&client, ALONE).await?);
    let ratio = |at: usize| beside.at(at).as_secs_f64() / alone.at(at).as_secs_f64();
    println!("in all, alone:  {alone}");
    println!("in all, beside: {beside}");
    println!(
        "beside {count} connections: p50 {:.2} times what it is alone, p99 {:.2}",
        ratio(50),
        ratio(99)
    );
    client.close().await;
    Ok(())
}

/// Prints whom the node let in, and whom not.
async fn tell_connections(node: SocketAddr) -> Result<(), Failure> {
    let http = SocketAddr::new(node.ip(), node.port() + quoit_node::config::HTTP_PORT_OFFSET);
    let metrics = fetch(http, "/metrics", Duration::from_secs(5)).await?.body;
    let told = ["quoit_refused_connections_total", "quoit_connections{"];
    for line in metrics.lines().filter(|line| told.iter().any(|name| line.starts_with(name))) {
        println!("{line}");
    }
    Ok(())
}

/// What the foreground client saw.
#[derive(Default)]
struct Seen {
    /// Ascending.
    times: Vec<Duration>,
    failed: usize,
}

impl Seen {
    /// Adds what was seen in a turn, and prints it.
    fn add(&mut self, turn: &str, mut seen: Self) {
        println!("{turn} {seen}");
        self.times.append(&mut seen.times);
        self.times.sort_unstable();
        self.failed += seen.failed;
    }

    fn at(&self, percent: usize) -> Duration {
        self.times.get(self.times.len() * percent / 100).copied().unwrap_or_default()
    }
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (requests, failed, p50, p99) =
            (self.times.len(), self.failed, self.at(50), self.at(99));
        write!(f, "{requests} requests, {failed} failed, p50 {p50:.2?}, p99 {p99:.2?}")
    }
}

/// Reads and writes, half and half.
async fn foreground(client: &Client, length: Duration) -> Result<Seen, Failure> {
    let until = Instant::now() + length;
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..FOREGROUND_TASKS as u64 {
        let table = client.table("crowd").await?.idempotent(true);
        tasks.spawn(async move {
            let (mut times, mut failed, mut number) = (Vec::new(), 0, task * 7_919);
            while Instant::now() < until {
                number += 1;
                let key = format!("key{}", number * 31 % KEYS);
                let began = Instant::now();
                let done = if number % 2 == 0 {
                    table.get(key).await.is_ok()
                } else {
                    table.put(key, vec![1; 1_024], &Context::none()).await.is_ok()
                };
                times.push(began.elapsed());
                failed += usize::from(!done);
            }
            (times, failed)
        });
    }
    let mut seen = Seen::default();
    while let Some(done) = tasks.join_next().await {
        let (times, failed) = done?;
        seen.times.extend(times);
        seen.failed += failed;
    }
    seen.times.sort_unstable();
    Ok(seen)
}

/// The crowd itself, until the foreground has been measured.
async fn crowd(count: usize, directory: &Path, node: SocketAddr) -> Result<(), Failure> {
    let (config, cluster) = identity(directory)?;
    let endpoints: Vec<Endpoint> = (0..SOURCES)
        .map(|number| {
            let host = 2 + u8::try_from(number).unwrap_or(0);
            let mut endpoint = Endpoint::client((Ipv4Addr::new(127, 0, 0, host), 0).into())?;
            endpoint.set_default_client_config(config.clone());
            Ok(endpoint)
        })
        .collect::<std::io::Result<_>>()?;
    let fates = Arc::new(Fates::default());
    let until = Instant::now() + ARRIVING + BESIDE + Duration::from_secs(1);
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..count {
        let (endpoint, fates) = (endpoints[number % SOURCES].clone(), Arc::clone(&fates));
        tasks.spawn(async move {
            let name = format!("node.{cluster}.quoit");
            let mut pause = PAUSE_MIN;
            while Instant::now() < until {
                let visit = visit(number, &endpoint, node, &name, &fates);
                let was_in = tokio::time::timeout_at(until.into(), visit).await.unwrap_or(true);
                // Whoever is refused comes back as the client library does.
                pause = if was_in { PAUSE_MIN } else { (2 * pause).min(PAUSE_MAX) };
                tokio::time::sleep(pause).await;
            }
        });
    }
    while tasks.join_next().await.is_some() {}
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "the crowd: {} handshakes, {} refused or unanswered, {} connections ended early, {} requests",
        read(&fates.connected),
        read(&fates.refused),
        read(&fates.ended),
        read(&fates.requests)
    );
    Ok(())
}

/// One connection of the crowd, until it ends; whether it was let in.
async fn visit(
    number: usize,
    endpoint: &Endpoint,
    node: SocketAddr,
    name: &str,
    fates: &Fates,
) -> bool {
    let connecting = endpoint.connect(node, name).map(|connecting| async { connecting.await.ok() });
    let connection = match connecting {
        Ok(connecting) => connecting.await,
        Err(_) => None,
    };
    let Some(connection) = connection else {
        fates.refused.fetch_add(1, Ordering::Relaxed);
        return false;
    };
    fates.connected.fetch_add(1, Ordering::Relaxed);
    let ended = match number % 3 {
        0 => idle(&connection).await,
        1 => slow(&connection).await,
        _ => greedy(&connection, fates).await,
    };
    if ended.is_err() {
        fates.ended.fetch_add(1, Ordering::Relaxed);
    }
    // Those whose hello does not come are never welcomed.
    number % 3 != 1
}

async fn idle(connection: &Connection) -> Result<(), Failure> {
    let (mut send, _receive) = connection.open_bi().await?;
    send.write_all(&frame(1, hello())).await?;
    Err(connection.closed().await.into())
}

async fn slow(connection: &Connection) -> Result<(), Failure> {
    let (mut send, _receive) = connection.open_bi().await?;
    for byte in frame(1, hello()) {
        send.write_all(&[byte]).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Err(connection.closed().await.into())
}

async fn greedy(connection: &Connection, fates: &Fates) -> Result<(), Failure> {
    let (mut send, mut receive) = connection.open_bi().await?;
    send.write_all(&frame(1, hello())).await?;
    let asking = async {
        for request in 0_u64.. {
            let frame = frame(request, AskRecord {}.into());
            send.write_all(&frame).await?;
            fates.requests.fetch_add(1, Ordering::Relaxed);
            if request % GREEDY_BURST as u64 == 0 {
                tokio::task::yield_now().await;
            }
        }
        Ok::<(), Failure>(())
    };
    let reading = async {
        while receive.read_chunk(1 << 16, true).await?.is_some() {}
        Ok::<(), Failure>(())
    };
    tokio::try_join!(asking, reading).map(|_| ())
}

fn hello() -> ClientRequest {
    ClientRequest::Hello(Hello {
        version_min: PROTOCOL_VERSION,
        version_max: PROTOCOL_VERSION,
        cluster: None,
        client: "crowd".into(),
    })
}

fn frame(id: u64, request: ClientRequest) -> BytesMut {
    let mut buffer = BytesMut::new();
    request.put(id, &mut buffer);
    buffer
}

/// What the client's directory says: its certificate, and its cluster.
fn identity(directory: &Path) -> Result<(quinn::ClientConfig, ClusterId), Failure> {
    let read = |name: &str| std::fs::read(directory.join(name));
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&read("authority.pem")?)?)?;
    let chain = CertificateDer::pem_slice_iter(&read("client.pem")?).collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(&read("client.key")?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    tls.alpn_protocols = vec![ALPN_CLIENT.to_vec()];
    let mut transport = quinn::TransportConfig::default();
    transport.keep_alive_interval(Some(Duration::from_secs(5)));
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport));
    let text = String::from_utf8(read("client.toml")?)?;
    let document: toml::Table = text.parse()?;
    let cluster = document.get("cluster").and_then(toml::Value::as_str).unwrap_or_default();
    Ok((config, cluster.parse()?))
}
