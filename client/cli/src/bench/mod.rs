//! `quoit bench`: YCSB's core workloads and two simple ones, in a closed or an open loop, and how
//! long each operation took.
//!
//! ```console
//! $ quoit bench --workload a                                   # half reads, half writes; ten seconds
//! $ quoit bench --workload a --rate 5000 --output results/a    # an open loop, with logs and plots
//! $ quoit bench --workload b --processes 2 --repeat 5 --output results/b
//! $ quoit bench compare results/old/result.json results/new/result.json
//! ```
//!
//! **Workloads.** `put` and `get` are of one kind. a to f are those of YCSB: see [`Workload`]. Keys
//! are loaded first where they are not there. Not as in YCSB: a value is one string of `--value-bytes`
//! bytes, not ten fields; e scans items of one partition key (`--partition-items` each) and stops at
//! its last; f updates with the context of what it read, in a table of siblings, and begins again
//! where another wrote meanwhile; every run, and every repetition, inserts the same new keys.
//!
//! **Closed loop.** Each of the operations in flight begins as soon as the one before it in its slot
//! ends, so a slow cluster is asked less; the percentiles are those of the operations that were done,
//! not of a steady stream of arrivals.
//!
//! **Open loop** (`--rate`). The intended starts are fixed in advance, and latency counts from them:
//! a stall is not hidden. `--in-flight` is how many run at a time; others wait in a backlog with a
//! bound, and what finds it full, or still waits at the end, is counted as not started. How late
//! operations started is told too: if that is much while the cluster is idle, the machine was too busy
//! to keep the schedule.
//!
//! **Output** (`--output DIR`): `result.json` (settings, surroundings, summary, series, histograms),
//! and for each run `KIND.hgrm` (HdrHistogram's percentile output, milliseconds), `intervals.hlog`
//! (HdrHistogram's interval log, a tag a kind, microseconds), `throughput.svg` and `latency.svg`.
//!
//! The generator takes its share of a machine that also runs the cluster: figures are good for
//! comparing with others of the same machine and hour, which is what `compare` is for. What was
//! measured so against other stores is in `client/cli/docs/comparison.md`.

mod arguments;
mod arrivals;
mod compare;
mod document;
mod files;
mod keys;
mod measured;
mod operation;
mod percentiles;
mod plots;
mod processes;
mod random;
mod report;
mod results;
mod slots;
mod worker;
mod workload;
mod zipfian;

use std::time::SystemTime;

use quoit_client::{Client, ConflictPolicy, Table, TableError, TableOptions, Value};

use crate::arguments::ConnectionOptions;
use crate::failure::CommandError;
use crate::output::{Output, note};
use crate::progress::Progress;
use crate::render::count_text;
use crate::tables::default_options;

pub use arguments::BenchArguments;
pub use arrivals::ArrivalKind;
pub use keys::Distribution;
pub use workload::Workload;

pub(crate) use compare::run as compare;

use arguments::{BenchAction, Parameters};
use document::{Document, Environment, RunDocument};
use files::Files;
use measured::Measured;
use results::Results;
use slots::Run;

/// How many keys are looked at to see whether the table is loaded.
const PROBES: u64 = 16;

pub(crate) async fn run(
    client: &Client,
    arguments: &BenchArguments,
    options: &ConnectionOptions,
    output: Output,
) -> Result<(), CommandError> {
    if let Some(BenchAction::Worker { .. }) = arguments.action {
        return worker::run(client, output).await;
    }
    let parameters = arguments.parameters()?;
    let files = match &arguments.output {
        Some(directory) => Some(Files::prepare(directory, parameters.repeat)?),
        None => None,
    };
    let table = open_table(client, &parameters).await?;
    let mut document = Document::new(parameters.clone(), Environment::look(client, &table));
    let table = arguments.levels().apply(table).idempotent(parameters.idempotent);
    let needs_keys = parameters.workload.needs_keys();
    if arguments.must_load() || (needs_keys && !is_loaded(&table, &parameters).await?) {
        load(&table, &parameters).await?;
    }
    let title = describe(&parameters);
    note(&title);
    for repetition in 0..parameters.repeat {
        let started = SystemTime::now();
        let parts = measure(&table, &parameters, options, repetition).await?;
        let results = Results::new(&parts, parameters.interval_ms, parameters.rate.is_some())
            .map_err(|error| CommandError::NotDone(error.to_string()))?;
        if output.is_json() {
            output.json(&report::json(&parameters, &results))?;
        } else {
            output.text(&report::render(&results))?;
        }
        if let Some(files) = &files {
            files.write_run(repetition, &results, started, &title)?;
            document.runs.push(RunDocument::new(&results, started));
        }
    }
    if let Some(files) = &files {
        note(&format!("written: {}", files.write_result(&document)?.display()));
    }
    Ok(())
}

/// What is measured, in a line.
fn describe(parameters: &Parameters) -> String {
    let mut text = format!(
        "{} on {}: {} {} keys, {} B values, {} in flight",
        parameters.workload.name(),
        parameters.table,
        parameters.keys,
        parameters.distribution.name(),
        parameters.value_bytes,
        parameters.in_flight,
    );
    if let (Some(rate), Some(arrivals)) = (parameters.rate, parameters.arrivals) {
        text.push_str(&format!(
            ", {} starts a second ({})",
            count_text(rate.into()),
            arrivals.name()
        ));
    }
    if parameters.processes > 1 {
        text.push_str(&format!(", {} processes", parameters.processes));
    }
    text
}

async fn measure(
    table: &Table,
    parameters: &Parameters,
    options: &ConnectionOptions,
    repetition: u16,
) -> Result<Vec<Measured>, CommandError> {
    let progress = progress("bench", parameters, None);
    if parameters.processes > 1 {
        return processes::measure(parameters, options, repetition, progress).await;
    }
    Ok(vec![Run::new(table, parameters.plan(0, repetition)).measure(progress).await])
}

/// Shows how many operations are done.
fn progress(
    label: &'static str,
    parameters: &Parameters,
    operations: Option<u64>,
) -> impl FnMut(u64) + Send + 'static {
    let per_row = u64::from(parameters.value_bytes);
    let total = operations.or(parameters.operations).map(|count| count.saturating_mul(per_row));
    let mut progress = Progress::new(label, total);
    move |done| progress.set(done.saturating_mul(per_row), done)
}

async fn open_table(client: &Client, parameters: &Parameters) -> Result<Table, CommandError> {
    let name = parameters.table.as_str();
    let needs_siblings = parameters.workload.needs_siblings();
    let table = match client.table(name).await {
        Err(TableError::Unknown { .. }) => {
            let mut options = default_options(client.record().members.len());
            if needs_siblings {
                options = TableOptions { policy: ConflictPolicy::Siblings, ..options };
            }
            note(&format!("making the table {name} with N={}", options.replication));
            client.create_table(name, options).await?;
            client.table(name).await?
        }
        other => other?,
    };
    if needs_siblings && table.definition().options.policy != ConflictPolicy::Siblings {
        return Err(CommandError::BadInput(format!(
            "workload {} updates, and the table {name} keeps only the latest write, so that updates \
             would be lost: make one with `quoit tables create NAME --policy siblings`, or leave \
             --table out",
            parameters.workload.name()
        )));
    }
    Ok(table)
}

/// Whether some keys, the first and the last among them, are there with values of that length.
async fn is_loaded(table: &Table, parameters: &Parameters) -> Result<bool, CommandError> {
    let (keys, layout) = (parameters.keys, parameters.layout());
    for probe in 0..PROBES.min(keys) {
        let last_probe = PROBES.min(keys) - 1;
        let number = if probe == last_probe { keys - 1 } else { keys * probe / PROBES };
        let reading = table.get(layout.key(number)).await?;
        let is_good = |value: &Value| value.bytes.len() == parameters.value_bytes as usize;
        if reading.siblings.is_empty() || !reading.siblings.iter().all(is_good) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Writes every key once.
async fn load(table: &Table, parameters: &Parameters) -> Result<(), CommandError> {
    note(&format!("loading {} keys", parameters.keys));
    let table = table.clone().idempotent(true);
    let run = Run::new(&table, parameters.load_plan());
    let measured = run.measure(progress("load", parameters, Some(parameters.keys))).await;
    let results = Results::new(&[measured], parameters.interval_ms, false)
        .map_err(|error| CommandError::NotDone(error.to_string()))?;
    let errors = results.errors();
    let failed: u64 = errors.values().sum();
    if failed > 0 {
        let kinds: Vec<_> = errors.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        return Err(CommandError::NotDone(format!(
            "the table is not loaded: {failed} of {} writes failed ({}); see `quoit status`",
            parameters.keys,
            kinds.join(", ")
        )));
    }
    Ok(())
}
