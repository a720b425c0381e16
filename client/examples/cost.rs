//! What a request costs the client: closed loops of gets and puts against a fake node in this
//! process, the processor time of the client's threads counted apart (Linux).
//!
//! `cargo run --release -p quoit-client --example cost -- [in flight] [seconds] [client threads]`

#[path = "../tests/fake/mod.rs"]
#[expect(dead_code, reason = "the tests use all of it")]
mod fake;

use std::time::{Duration, Instant};

use fake::{Authority, FakeCluster, Reaction};
use quoit_client::{Context, Table};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>());
    let in_flight = arguments.next().transpose()?.unwrap_or(128);
    let seconds = arguments.next().transpose()?.unwrap_or(3);
    let threads = usize::try_from(arguments.next().transpose()?.unwrap_or(1))?;
    let authority = Authority::new();
    let servers = runtime("server", 1)?;
    let cluster =
        servers.block_on(async { FakeCluster::start(&authority, 1, |_, _| Reaction::Serve) });
    let clients = runtime("client", threads)?;
    let builder = cluster.builder(&authority);
    let run = clients.spawn(async move {
        let client = builder.connect().await?;
        let table = client.table("t").await?;
        for number in 0..1_000 {
            table.put(format!("key {number}"), vec![7; 100], &Context::none()).await?;
        }
        let start = (Instant::now(), processor_time("client")?);
        let end = start.0 + Duration::from_secs(seconds);
        let loops: Vec<_> =
            (0..in_flight).map(|at| tokio::spawn(get_until(table.clone(), at, end))).collect();
        let mut latencies = Vec::new();
        for one in loops {
            latencies.extend(one.await??);
        }
        let spent = processor_time("client")? - start.1;
        latencies.sort_unstable();
        let count = latencies.len();
        println!(
            "{in_flight} in flight: {:.0} gets/s, client {:.2} us of processor each, \
             p50 {} us, p99 {} us",
            count as f64 / start.0.elapsed().as_secs_f64(),
            spent.as_secs_f64() * 1e6 / count as f64,
            latencies[count / 2],
            latencies[count * 99 / 100],
        );
        client.close().await;
        Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    });
    clients.block_on(run)?.map_err(|error| error.to_string())?;
    Ok(())
}

async fn get_until(
    table: Table,
    at: u64,
    end: Instant,
) -> Result<Vec<u64>, quoit_client::ReadError> {
    let mut latencies = Vec::new();
    let mut number = at * 17;
    loop {
        let start = Instant::now();
        if start >= end {
            return Ok(latencies);
        }
        number = (number + 1) % 1_000;
        table.get(format!("key {number}")).await?;
        latencies.push(start.elapsed().as_micros() as u64);
    }
}

fn runtime(name: &str, threads: usize) -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name(name)
        .enable_all()
        .build()
}

/// The processor time of all threads of that name.
fn processor_time(name: &str) -> std::io::Result<Duration> {
    let mut sum = Duration::ZERO;
    for task in std::fs::read_dir("/proc/self/task")? {
        let path = task?.path();
        if std::fs::read_to_string(path.join("comm"))?.trim() == name {
            let text = std::fs::read_to_string(path.join("schedstat"))?;
            let nanoseconds = text.split(' ').next().and_then(|field| field.parse().ok());
            sum += Duration::from_nanos(nanoseconds.unwrap_or(0));
        }
    }
    Ok(sum)
}
