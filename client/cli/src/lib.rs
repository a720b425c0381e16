//! The commands of the `quoit` program that speak to a cluster as a client.
//!
//! The program flattens [`ClientCommand`] into its own subcommands and [`ConnectionOptions`] into
//! its options, and hands both to [`run`]. Results go to standard output, words for people to
//! standard error, and the exit code says what became of it:
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | the key is absent (`get`) |
//! | 2 | the input is wrong and will be refused always; what was asked is not done |
//! | 3 | certainly not done now; it may succeed later (nodes down, too few replicas, overload) |
//! | 4 | it is not known whether it is done |
//! | 5 | this client's role does not allow it; nothing was done |
//!
//! An import or an export that ends with an error has done a part; it says which.
//!
//! A file of lines that was imported comes back from an export byte for byte where its keys ascend,
//! each once, in one of the orders that an export offers ([`Order`]); the import's last words say
//! whether they do, and which flags give the file back.

mod arguments;
mod bench;
mod duration;
mod export;
mod failure;
mod hints;
mod import;
mod items;
mod order;
mod output;
mod picture;
mod problem;
mod progress;
mod render;
mod repair;
mod ring;
#[cfg(test)]
mod sample;
mod scrub;
mod shortage;
mod snapshot;
mod status;
mod tables;
mod top;
mod trace;

use std::process::ExitCode;

use clap::Subcommand;

pub use arguments::{ConnectionOptions, KeyArguments, LevelArguments, ReadLevelArguments};
pub use bench::{ArrivalKind, BenchArguments, Distribution, Workload};
pub use duration::{ParseTimeToLiveError, TimeToLive};
pub use export::{ExportArguments, ExportFormat};
pub use failure::CommandError;
pub use hints::HintsArguments;
pub use import::{
    Column, ColumnError, Delimiter, Format, ImportArguments, OnError, ParseDelimiterError,
};
pub use items::{DeleteArguments, GetArguments, PutArguments, ScanArguments, siblings_json};
pub use order::Order;
pub use output::{Output, note, put_bytes};
pub use picture::Picture;
pub use progress::{Progress, rate};
pub use render::{NodeRow, bytes_text, count_text, node_rows, render_nodes_table};
pub use repair::RepairArguments;
pub use ring::RingArguments;
pub use scrub::ScrubArguments;
pub use shortage::{Shortage, shortages};
pub use snapshot::SnapshotArguments;
pub use status::StatusArguments;
pub use tables::TablesArguments;
pub use top::TopArguments;
pub use trace::TraceArguments;

/// A command that speaks to a cluster as a client.
#[derive(Debug, Subcommand)]
#[expect(missing_docs, reason = "each variant is documented by its arguments")]
pub enum ClientCommand {
    Put(PutArguments),
    Get(GetArguments),
    Delete(DeleteArguments),
    Scan(ScanArguments),
    Tables(TablesArguments),
    Import(ImportArguments),
    Export(ExportArguments),
    Bench(Box<BenchArguments>),
    Status(StatusArguments),
    Top(TopArguments),
    Ring(RingArguments),
    Hints(HintsArguments),
    Scrub(ScrubArguments),
    Repair(RepairArguments),
    Snapshot(SnapshotArguments),
}

impl ClientCommand {
    /// How many threads its runtime should have. One is best for all but a large benchmark: the
    /// client shares the machine with nodes, and a wake-up of another thread costs more than it
    /// gives.
    fn threads(&self) -> usize {
        match self {
            Self::Bench(arguments) => arguments.threads(),
            _ => 1,
        }
    }
}

/// Runs a command on a runtime of its own, tells its error on standard error, and yields the exit
/// code. Not to be called inside another runtime: [`execute`] is for that.
pub fn run(command: &ClientCommand, options: &ConnectionOptions) -> ExitCode {
    run_to_end(command.threads(), execute(command, options))
}

/// Runs what a command does on a runtime of so many threads, tells its error on standard error, and yields
/// the exit code.
pub fn run_to_end(
    threads: usize,
    command: impl Future<Output = Result<(), CommandError>>,
) -> ExitCode {
    let mut builder = match threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        threads => {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(threads);
            builder
        }
    };
    let result = match builder.enable_all().build() {
        Ok(runtime) => runtime.block_on(command),
        Err(error) => Err(CommandError::NotDone(format!("no runtime could be made: {error}"))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if error != CommandError::OutputClosed {
                note(&format!("quoit: {error}"));
            }
            error.exit_code()
        }
    }
}

/// Runs a command inside the current runtime.
///
/// # Errors
/// [`CommandError`], whose variants say what it means for the data.
///
/// # Panics
/// Outside a tokio runtime with I/O and time enabled.
pub async fn execute(
    command: &ClientCommand,
    options: &ConnectionOptions,
) -> Result<(), CommandError> {
    let output = Output::new(options.json);
    if let ClientCommand::Bench(arguments) = command
        && let Some(comparison) = arguments.comparison()
    {
        return bench::compare(comparison, output);
    }
    let client = options.connect().await?;
    let result = match command {
        ClientCommand::Put(arguments) => items::put(&client, arguments, output).await,
        ClientCommand::Get(arguments) => items::get(&client, arguments, output).await,
        ClientCommand::Delete(arguments) => items::delete(&client, arguments, output).await,
        ClientCommand::Scan(arguments) => items::scan(&client, arguments, output).await,
        ClientCommand::Tables(arguments) => tables::run(&client, arguments, output).await,
        ClientCommand::Import(arguments) => import::run(&client, arguments, options, output).await,
        ClientCommand::Export(arguments) => export::run(&client, arguments, output).await,
        ClientCommand::Bench(arguments) => bench::run(&client, arguments, options, output).await,
        ClientCommand::Status(arguments) => status::show(&client, arguments, output).await,
        ClientCommand::Top(arguments) => top::run(&client, arguments, output).await,
        ClientCommand::Ring(arguments) => ring::show(&client.record(), arguments, output),
        ClientCommand::Hints(arguments) => hints::show(&client, arguments, output).await,
        ClientCommand::Scrub(arguments) => scrub::run(&client, arguments, output).await,
        ClientCommand::Repair(arguments) => repair::run(&client, arguments, output).await,
        ClientCommand::Snapshot(arguments) => snapshot::run(&client, arguments, output).await,
    };
    client.close().await;
    result
}

#[cfg(test)]
mod tests;
