//! `quoit bench`: a closed loop of reads and writes, and how long each took.
//!
//! Each of the operations in flight begins as soon as the one before it in its slot ends, so a slow
//! cluster is asked less; the percentiles are those of the operations that were done, not of a
//! steady stream of arrivals.

mod keys;
mod random;
mod report;
mod slots;

use clap::Args;
use quoit_client::{Client, Table, TableError, Value};

use crate::arguments::LevelArguments;
use crate::failure::CommandError;
use crate::output::{Output, note};
use crate::tables::default_options;

pub use keys::Distribution;

use keys::key_name;
use report::Report;
use slots::{Limit, Mix, Plan};

/// How many keys are looked at to see whether the table is loaded.
const PROBES: u64 = 16;
/// The most bytes of values that may be in flight.
const IN_FLIGHT_BYTES_MAX: u64 = 1 << 30;

/// Measure reads and writes: throughput, percentiles, errors by kind.
#[derive(Debug, Args)]
pub struct BenchArguments {
    /// What is done.
    #[arg(long)]
    workload: Workload,
    /// The table; it is made if it is not there.
    #[arg(long, value_name = "NAME", default_value = "bench")]
    table: String,
    /// How many keys are used.
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 100_000,
        value_parser = clap::value_parser!(u64).range(1..=1_000_000_000_000)
    )]
    keys: u64,
    /// Which of them are chosen.
    #[arg(long, default_value = "uniform")]
    distribution: Distribution,
    /// How long a value is; its bytes are random and do not compress.
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = 1_024,
        value_parser = clap::value_parser!(u32).range(0..=16 << 20)
    )]
    value_bytes: u32,
    /// How many operations are in flight.
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 128,
        value_parser = clap::value_parser!(u16).range(1..=4_096)
    )]
    in_flight: u16,
    /// For how long.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 10,
        value_parser = clap::value_parser!(u64).range(1..=86_400)
    )]
    seconds: u64,
    /// How many operations, in place of a time.
    #[arg(
        long,
        value_name = "COUNT",
        conflicts_with = "seconds",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    operations: Option<u64>,
    /// Write all keys first, even if they seem to be there.
    #[arg(long)]
    load: bool,
    /// Another seed gives other values and another order of keys.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Mark writes idempotent, so that the library repeats those whose outcome is unknown.
    #[arg(long)]
    idempotent: bool,
    /// How many threads drive the client. One is fastest where the cluster shares the machine.
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 1,
        value_parser = clap::value_parser!(u16).range(1..=256)
    )]
    threads: u16,
    #[command(flatten)]
    levels: LevelArguments,
}

/// What a benchmark does; a, b and c are YCSB's core workloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Workload {
    /// Writes only.
    Put,
    /// Reads only.
    Get,
    /// Half reads, half writes.
    A,
    /// 95 % reads, 5 % writes.
    B,
    /// Reads only, as `get`.
    C,
}

impl Workload {
    fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::A => "a",
            Self::B => "b",
            Self::C => "c",
        }
    }

    /// How many of a hundred operations are reads.
    fn read_percent(self) -> u64 {
        match self {
            Self::Put => 0,
            Self::Get | Self::C => 100,
            Self::A => 50,
            Self::B => 95,
        }
    }
}

impl BenchArguments {
    /// How many threads the runtime should have.
    pub(crate) fn threads(&self) -> usize {
        self.threads.into()
    }

    fn plan(&self) -> Plan {
        let limit = match self.operations {
            Some(count) => Limit::Operations(count),
            None => Limit::Seconds(self.seconds),
        };
        Plan {
            mix: Mix::Random { read_percent: self.workload.read_percent() },
            keys: self.keys,
            distribution: self.distribution,
            value_bytes: self.value_bytes as usize,
            in_flight: self.in_flight.into(),
            limit,
            seed: self.seed,
        }
    }
}

pub(crate) async fn run(
    client: &Client,
    arguments: &BenchArguments,
    output: Output,
) -> Result<(), CommandError> {
    let in_flight_bytes = u64::from(arguments.value_bytes) * u64::from(arguments.in_flight);
    if in_flight_bytes > IN_FLIGHT_BYTES_MAX {
        return Err(CommandError::BadInput(
            "--value-bytes times --in-flight is more than 1 GiB; lower one of them".to_owned(),
        ));
    }
    let table = open_table(client, &arguments.table).await?;
    let table = arguments.levels.apply(table).idempotent(arguments.idempotent);
    let reads = arguments.workload.read_percent() > 0;
    if arguments.load || (reads && !is_loaded(&table, arguments).await?) {
        load(&table, arguments).await?;
    }
    let plan = arguments.plan();
    note(&format!(
        "{} on {}: {} {} keys, {} B values, {} in flight",
        arguments.workload.name(),
        arguments.table,
        arguments.keys,
        arguments.distribution.name(),
        arguments.value_bytes,
        arguments.in_flight,
    ));
    let measured = slots::run(&table, &plan, "bench").await;
    let report = Report::new(arguments, &measured);
    if output.is_json() { output.json(&report.json()) } else { output.text(&report.render()) }
}

async fn open_table(client: &Client, name: &str) -> Result<Table, CommandError> {
    match client.table(name).await {
        Err(TableError::Unknown { .. }) => {
            let options = default_options(client.record().members.len());
            note(&format!("making the table {name} with N={}", options.replication));
            client.create_table(name, options).await?;
            Ok(client.table(name).await?)
        }
        other => Ok(other?),
    }
}

/// Whether some keys, the first and the last among them, are there with values of that length.
async fn is_loaded(table: &Table, arguments: &BenchArguments) -> Result<bool, CommandError> {
    let keys = arguments.keys;
    for probe in 0..PROBES.min(keys) {
        let last_probe = PROBES.min(keys) - 1;
        let number = if probe == last_probe { keys - 1 } else { keys * probe / PROBES };
        let reading = table.get(key_name(number)).await?;
        let is_good = |value: &Value| value.bytes.len() == arguments.value_bytes as usize;
        if reading.siblings.is_empty() || !reading.siblings.iter().all(is_good) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Writes every key once.
async fn load(table: &Table, arguments: &BenchArguments) -> Result<(), CommandError> {
    note(&format!("loading {} keys", arguments.keys));
    let plan =
        Plan { mix: Mix::Load, limit: Limit::Operations(arguments.keys), ..arguments.plan() };
    let table = table.clone().idempotent(true);
    let measured = slots::run(&table, &plan, "load").await;
    let failed: u64 = measured.errors.values().sum();
    if failed > 0 {
        let kinds: Vec<_> =
            measured.errors.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        return Err(CommandError::NotDone(format!(
            "the table is not loaded: {failed} of {} writes failed ({}); see `quoit status`",
            arguments.keys,
            kinds.join(", ")
        )));
    }
    Ok(())
}
