//! Measures Quoit beside etcd, Garage and Redis: each is started here, loaded, measured and stopped, one
//! after the other, with the same closed loop of the same operations on the same keys. The figures
//! and what they mean are in `client/cli/docs/comparison.md`.
//!
//! ```console
//! $ apt-get install etcd-server redis-server
//! $ apt-get install protobuf-compiler libprotobuf-dev     # etcd's client is built with them
//! $ cargo install garage --locked --no-default-features --features bundled-libs,lmdb,k2v
//! $ cargo build --release
//! $ cargo run --release --manifest-path client/cli/compare/Cargo.toml
//! ```

mod garage;
mod load;
mod servers;
mod store;

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use load::{Figures, Load, Mix};
use servers::{Servers, StartError};
use store::{Store, StoreError};

/// Measure Quoit beside etcd, Garage and Redis, and print a table in Markdown.
#[derive(Debug, Parser)]
struct Arguments {
    /// The quoit program, a release build.
    #[arg(long, value_name = "FILE", default_value = "target/release/quoit")]
    quoit: PathBuf,
    /// How long each mix is measured in a round.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// How long each mix runs before it is measured.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(0..=600))]
    warm_up: u64,
    /// How often all stores are measured, in turns.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// How many keys are loaded and used, each as often as any other.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    keys: u64,
    /// How long a value is, of random bytes.
    #[arg(long, default_value_t = 1_024, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    value_bytes: u32,
    /// How many operations are in flight.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1_024))]
    in_flight: u16,
    /// Only these (may be repeated).
    #[arg(long)]
    only: Vec<Setup>,
}

/// A store in one of its configurations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Setup {
    /// Three nodes, W=2 and R=2.
    Quoit,
    /// Three nodes, W=1 and R=1.
    QuoitOne,
    /// One node.
    QuoitAlone,
    /// Three nodes.
    Etcd,
    /// Three nodes with metadata_fsync, quorums of 2.
    Garage,
    /// Three nodes without metadata_fsync, which is the default, quorums of 2.
    GarageNoFsync,
    /// One node that syncs before it answers.
    RedisAlways,
    /// One node that syncs every second.
    RedisEverysec,
    /// One primary with two replicas, and WAIT 1 after each write.
    RedisWait,
}

impl Setup {
    const ALL: [Self; 9] = [
        Self::Quoit,
        Self::QuoitOne,
        Self::QuoitAlone,
        Self::Etcd,
        Self::Garage,
        Self::GarageNoFsync,
        Self::RedisAlways,
        Self::RedisEverysec,
        Self::RedisWait,
    ];

    /// What an acknowledged write and a read promise.
    fn promise(self) -> &'static str {
        match self {
            Self::Quoit => {
                "a write is synced to disk on 2 of 3 nodes; a read asks 2 of 3 and takes in every \
                 acknowledged write"
            }
            Self::QuoitOne => {
                "a write is synced to disk on 1 of 3 nodes; a read asks 1 of 3 and may be stale"
            }
            Self::QuoitAlone => "a write is synced to disk on the only node; no replica",
            Self::Etcd => {
                "a write is synced to disk on 2 of 3 nodes, in one order for all keys; a read is \
                 linearizable"
            }
            Self::Garage => {
                "a write is synced to disk on 2 of 3 nodes, but for the page that makes it valid: the next \
                 write on the node syncs that; a read asks 2 of 3 and takes in every acknowledged write"
            }
            Self::GarageNoFsync => {
                "a write is in the memory of 2 of 3 nodes; a read asks 2 of 3 and takes in every \
                 acknowledged write"
            }
            Self::RedisAlways => "a write is synced to disk on the only node; no replica",
            Self::RedisEverysec => {
                "a write is in the memory of the only node, up to a second from its disk; no replica"
            }
            Self::RedisWait => {
                "a write is in the memory of 2 of 3 nodes; a read asks the primary; what happens when \
                 that is lost is not decided by the store"
            }
        }
    }
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Quoit => "Quoit, W=2 R=2",
            Self::QuoitOne => "Quoit, W=1 R=1",
            Self::QuoitAlone => "Quoit, one node",
            Self::Etcd => "etcd, 3 nodes",
            Self::Garage => "Garage, metadata_fsync",
            Self::GarageNoFsync => "Garage, no metadata_fsync",
            Self::RedisAlways => "Redis, appendfsync always",
            Self::RedisEverysec => "Redis, appendfsync everysec",
            Self::RedisWait => "Redis, everysec, 2 replicas, WAIT 1",
        })
    }
}

/// A comparison that did not come to its end. All processes that were started are ended.
#[derive(Debug, thiserror::Error)]
enum CompareError {
    /// A store could not be started.
    #[error("{setup} cannot be started: {source}")]
    Start {
        setup: Setup,
        #[source]
        source: StartError,
    },
    /// A store could not be reached or loaded.
    #[error("{setup} cannot be used: {source}")]
    Store {
        setup: Setup,
        #[source]
        source: StoreError,
    },
    /// There is no runtime.
    #[error("no runtime could be made: {0}")]
    Runtime(#[source] std::io::Error),
}

/// What the rounds found of one setup.
struct Row {
    setup: Setup,
    mixed: Vec<Figures>,
    reads: Vec<Figures>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match compare(&arguments) {
        Ok(rows) => {
            print!("{}", render(&rows));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("quoit-compare: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compare(arguments: &Arguments) -> Result<Vec<Row>, CompareError> {
    // One thread drives every store's client: the stores share the machine with it.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CompareError::Runtime)?;
    let chosen = |setup: &Setup| arguments.only.is_empty() || arguments.only.contains(setup);
    let mut rows: Vec<Row> = Setup::ALL
        .into_iter()
        .filter(chosen)
        .map(|setup| Row { setup, mixed: Vec::new(), reads: Vec::new() })
        .collect();
    for round in 0..arguments.rounds {
        for row in &mut rows {
            let [mixed, reads] = runtime.block_on(measure(row.setup, arguments))?;
            eprintln!(
                "round {}: {}: mixed {:.0}/s, reads {:.0}/s",
                round + 1,
                row.setup,
                mixed.per_second,
                reads.per_second
            );
            row.mixed.push(mixed);
            row.reads.push(reads);
        }
    }
    Ok(rows)
}

/// Starts a store, loads it, measures both mixes and stops it.
async fn measure(setup: Setup, arguments: &Arguments) -> Result<[Figures; 2], CompareError> {
    let failed = |source| CompareError::Store { setup, source };
    let servers = Servers::start(setup, &arguments.quoit)
        .map_err(|source| CompareError::Start { setup, source })?;
    let store = Store::connect(setup, &servers).await.map_err(failed)?;
    let load = Load {
        keys: arguments.keys,
        value_bytes: arguments.value_bytes as usize,
        in_flight: arguments.in_flight.into(),
        warm_up: Duration::from_secs(arguments.warm_up),
        measured: Duration::from_secs(arguments.seconds),
    };
    load.fill(&store).await.map_err(failed)?;
    let mixed = load.run(&store, Mix::Half).await.map_err(failed)?;
    let reads = load.run(&store, Mix::Reads).await.map_err(failed)?;
    store.close().await;
    servers.stop();
    Ok([mixed, reads])
}

/// Medians of the rounds (of an even number the upper one), with the least and the greatest.
fn render(rows: &[Row]) -> String {
    let mut text = String::from(
        "| store | promise | half writes: ops/s | its reads p50 / p99 | its writes p50 / p99 | reads \
         only: ops/s | p50 / p99 | errors |\n|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let errors: u64 = row.mixed.iter().chain(&row.reads).map(|figures| figures.errors).sum();
        text.push_str(&format!(
            "| {} | {} | {} | {} | {} | {} | {} | {errors} |\n",
            row.setup,
            row.setup.promise(),
            throughput(&row.mixed),
            latency(&row.mixed, |figures| figures.read_us),
            latency(&row.mixed, |figures| figures.write_us),
            throughput(&row.reads),
            latency(&row.reads, |figures| figures.read_us),
        ));
    }
    text
}

fn throughput(rounds: &[Figures]) -> String {
    let mut sorted: Vec<f64> = rounds.iter().map(|figures| figures.per_second).collect();
    sorted.sort_by(f64::total_cmp);
    let (least, most) = (sorted[0], sorted[sorted.len() - 1]);
    format!("{:.0} ({least:.0} to {most:.0})", sorted[sorted.len() / 2])
}

/// Medians of p50 and p99 (of an even number of rounds the upper one), in milliseconds.
fn latency(rounds: &[Figures], of: impl Fn(&Figures) -> [u64; 2]) -> String {
    let median = |place: usize| {
        let mut sorted: Vec<u64> = rounds.iter().map(|figures| of(figures)[place]).collect();
        sorted.sort_unstable();
        sorted[sorted.len() / 2] as f64 / 1e3
    };
    format!("{:.2} / {:.2} ms", median(0), median(1))
}
