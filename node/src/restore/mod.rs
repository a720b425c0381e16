//! `quoit restore`: brings what a snapshot holds into a cluster, the same or another one, of any size.
//!
//! The folders of all nodes (or enough of them) are verified file by file, then read side by side and
//! merged key by key, as replicas merge; what comes of that is written through the client library. What
//! is restored is written anew: under its old dots it would be invisible to a cluster that has replaced
//! or deleted it since.

mod folders;
mod merge;
mod report;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use quoit_cli::{CommandError, ConnectionOptions, Output, Progress, note, run_to_end};
use quoit_client::{Client, ConflictPolicy, HybridTime, Key, Level, TableError, with_sources};
use quoit_ring::{ClusterRecord, Table, TableId, TableOptions};
use tokio::sync::mpsc;

use folders::Folders;
use merge::{Merge, MergeError, Passed, Row, Source};
use report::Report;
use write::{Target, Writer, now};

/// Rows that the merge hands over at once, and how many such batches may wait.
const BATCH_ROWS_MAX: usize = 128;
const BATCH_BYTES_MAX: usize = 4 << 20;
const BATCHES_MAX: usize = 4;
/// How long a key may take when nobody says otherwise, as with an import.
const KEY_TIMEOUT: Duration = Duration::from_secs(30);

/// Restore a snapshot into a cluster, from the folders of all nodes (or enough of them).
///
/// Every file is verified before a row is written. A key goes back to what it held: its values are
/// written anew, over whatever it holds now; keys that the snapshot does not hold stay (but for --exact).
/// Values that were deleted, or have expired by now, are left out. Repeating a restore does no harm, and
/// is how one that was broken off goes on.
#[derive(Debug, Args)]
pub struct RestoreArguments {
    /// The folders of one snapshot, one of each node.
    #[arg(required = true, value_name = "FOLDER")]
    folders: Vec<PathBuf>,
    /// Only this table.
    #[arg(long, value_name = "NAME")]
    table: Option<String>,
    /// Restore it into this table, beside the one that there is.
    #[arg(long, value_name = "NAME", requires = "table")]
    into: Option<String>,
    /// Also delete the keys that the snapshot does not hold, if they were written before this began.
    #[arg(long)]
    exact: bool,
    /// Restore what there is, although acknowledged writes may be lacking.
    #[arg(long)]
    allow_missing: bool,
    /// Only verify the files and tell what would be restored; no cluster is asked.
    #[arg(long)]
    dry_run: bool,
    /// How many keys are written at once.
    #[arg(
        long,
        value_name = "KEYS",
        default_value_t = 128,
        value_parser = clap::value_parser!(u16).range(1..=4_096)
    )]
    in_flight: u16,
}

/// Runs the command on a runtime of its own, tells its error on standard error, and yields the exit code
/// (see `quoit_cli`).
pub fn run(arguments: &RestoreArguments, options: &ConnectionOptions) -> ExitCode {
    run_to_end(1, execute(arguments, options))
}

async fn execute(
    arguments: &RestoreArguments,
    options: &ConnectionOptions,
) -> Result<(), CommandError> {
    let output = Output::new(options.json);
    let folders = Folders::open(&arguments.folders)?;
    let tables = chosen(&folders.record, arguments.table.as_deref())?;
    // Before hours of verifying: a cluster that cannot be reached is told at once.
    let client = if arguments.dry_run { None } else { Some(options.connect().await?) };
    folders.verify()?;
    let scratch = tempfile::tempdir()
        .map_err(|error| CommandError::NotDone(format!("no temporary directory: {error}")))?;
    let sources = folders.read(&scratch)?;
    folders.check_enough(&sources, arguments.allow_missing)?;
    let mut report = Report::new(&folders, tables, arguments.into.as_deref());
    let from = Merged { sources: sources.into(), record: folders.record.into() };
    let Some(client) = client else {
        report.is_dry = true;
        count(&from, &mut report)?;
        return report.show(Ok(()), output);
    };
    let timeout = options.timeout().unwrap_or(KEY_TIMEOUT);
    let restored = restore(&client, &from, arguments, timeout, &mut report).await;
    client.close().await;
    report.show(restored, output)
}

/// What the folders hold, for all who read it.
#[derive(Clone)]
struct Merged {
    sources: Arc<[Source]>,
    record: Arc<ClusterRecord>,
}

/// The tables that are restored.
fn chosen(record: &ClusterRecord, name: Option<&str>) -> Result<Vec<Table>, CommandError> {
    let Some(name) = name else { return Ok(record.tables.clone()) };
    match record.table(name) {
        Some(table) => Ok(vec![table.clone()]),
        None => {
            let names: Vec<_> = record.tables.iter().map(|table| table.name.as_str()).collect();
            let names = if names.is_empty() { "no table".to_owned() } else { names.join(", ") };
            Err(CommandError::BadInput(format!("the snapshot has no table {name}: it has {names}")))
        }
    }
}

/// Counts what would be restored.
fn count(from: &Merged, report: &mut Report) -> Result<(), CommandError> {
    let mut progress = Progress::new("count", None);
    let mut merge = Merge::new(&from.sources, &from.record);
    let wanted: BTreeSet<TableId> = report.tables.iter().map(|table| table.id).collect();
    let (mut bytes, mut keys) = (0, 0);
    while let Some(row) = merge.next(now(), &|table| wanted.contains(&table)).map_err(unread)? {
        bytes += row.bytes() as u64;
        keys += 1;
        report.tallies.entry(row.table).or_default().take(&row);
        progress.set(bytes, keys);
    }
    report.passed = merge.passed;
    report.seconds = progress.seconds();
    Ok(())
}

fn unread(error: MergeError) -> CommandError {
    CommandError::NotDone(with_sources(&error))
}

/// Merges on a thread of its own while rows are written.
async fn restore(
    client: &Client,
    from: &Merged,
    arguments: &RestoreArguments,
    timeout: Duration,
    report: &mut Report,
) -> Result<(), CommandError> {
    let began = now();
    let mut targets = BTreeMap::new();
    for table in chosen(&from.record, arguments.table.as_deref())? {
        let name = arguments.into.as_deref().unwrap_or(&table.name);
        let mut target = open_table(client, name, &table).await?;
        report.created |= target.is_new;
        target.table = target.table.with_timeout(timeout).idempotent(true);
        targets.insert(table.id, target);
    }
    let wanted: BTreeSet<TableId> = targets.keys().copied().collect();
    let (sender, mut rows) = mpsc::channel(BATCHES_MAX);
    let merging = {
        let from = from.clone();
        tokio::task::spawn_blocking(move || hand_over(&from, &wanted, &sender))
    };
    let mut writer = Writer::new(&targets, arguments.in_flight.into());
    let mut progress = Progress::new("restore", None);
    let written = writer.run(&mut rows, &mut progress).await;
    // The merge ends when nobody takes its rows.
    drop(rows);
    report.tallies.extend(writer.tallies);
    report.seconds = progress.seconds();
    progress.finish();
    let merged = merging.await;
    written?;
    match merged {
        Ok(Ok(passed)) => report.passed = passed,
        Ok(Err(error)) => return Err(unread(error)),
        Err(error) => return Err(CommandError::NotDone(format!("the merge has died: {error}"))),
    }
    if arguments.exact {
        delete_others(client, from, &targets, began, report).await?;
    }
    Ok(())
}

/// Hands rows over in batches, as long as somebody takes them.
fn hand_over(
    from: &Merged,
    wanted: &BTreeSet<TableId>,
    rows: &mpsc::Sender<Vec<Row>>,
) -> Result<Passed, MergeError> {
    let mut merge = Merge::new(&from.sources, &from.record);
    let (mut batch, mut bytes) = (Vec::new(), 0);
    while let Some(row) = merge.next(now(), &|table| wanted.contains(&table))? {
        bytes += row.bytes();
        batch.push(row);
        if batch.len() >= BATCH_ROWS_MAX || bytes >= BATCH_BYTES_MAX {
            bytes = 0;
            if rows.blocking_send(std::mem::take(&mut batch)).is_err() {
                return Ok(merge.passed);
            }
        }
    }
    // Nobody who does not take them needs to be told.
    let _ = rows.blocking_send(batch);
    Ok(merge.passed)
}

async fn delete_others(
    client: &Client,
    from: &Merged,
    targets: &BTreeMap<TableId, Target>,
    began: HybridTime,
    report: &mut Report,
) -> Result<(), CommandError> {
    for (id, target) in targets.iter().filter(|(_, target)| !target.is_new) {
        let table = from.record.table_by_id(*id).expect("targets are of the record's tables");
        let mut is_wanted = |key: &Key| {
            merge::is_live(&from.sources, &from.record, table, key, began).map_err(unread)
        };
        let handle = &target.table;
        report.deleted += write::delete_others(client, handle, began, &mut is_wanted).await?;
    }
    Ok(())
}

/// The table that rows go to; it is made where it is missing, as it was.
async fn open_table(client: &Client, name: &str, was: &Table) -> Result<Target, CommandError> {
    match client.table(name).await {
        Ok(table) => {
            let policy = table.definition().options.policy;
            if was.options.policy == ConflictPolicy::Siblings && policy == ConflictPolicy::Latest {
                return Err(CommandError::BadInput(format!(
                    "the table {name} keeps only the latest value, and {} kept siblings: of several \
                     one would be left; restore into another table with --into",
                    was.name
                )));
            }
            Ok(Target { table, is_new: false })
        }
        Err(TableError::Unknown { .. }) => {
            let members = client.record().members.len();
            let options = fitting(&was.options, members);
            if options != was.options {
                let TableOptions { replication, read_level, write_level, .. } = &options;
                note(&format!(
                    "the table {name} is made with N={replication}, R={read_level}, \
                     W={write_level}: it was made for more nodes"
                ));
            }
            client.create_table(name, options).await?;
            Ok(Target { table: client.table(name).await?, is_new: true })
        }
        Err(error) => Err(error.into()),
    }
}

/// The options of a table in a cluster of perhaps fewer members.
fn fitting(was: &TableOptions, members: usize) -> TableOptions {
    let most = u8::try_from(members).unwrap_or(u8::MAX);
    let replication = was.replication.min(most);
    let level = |level: Level| match level.required(replication) {
        Ok(_) => level,
        Err(_) => Level::All,
    };
    TableOptions {
        replication,
        read_level: level(was.read_level),
        write_level: level(was.write_level),
        ..was.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_fits_a_smaller_cluster() {
        let was = TableOptions { write_level: Level::Three, ..TableOptions::default() };
        assert_eq!(fitting(&was, 5), was);
        let made = fitting(&was, 2);
        assert_eq!((made.replication, made.write_level), (2, Level::All));
        assert_eq!(made.read_level, Level::Quorum);
        assert!(made.check("t", 2).is_ok());
    }
}
