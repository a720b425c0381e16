//! `quoit tables`: make, list and drop tables.

use std::io::{self, IsTerminal};
use std::time::Duration;

use clap::{Args, Subcommand};
use quoit_client::{Client, ConflictPolicy, Level, TableOptions};
use quoit_ring::Table;
use serde_json::{Value, json};

use crate::duration::{TimeToLive, compact};
use crate::failure::CommandError;
use crate::output::{Output, note};
use crate::render::{Grid, bytes_text, count_text, list_text};
use crate::status::ClusterView;

/// How long a node may take to say what its tables hold.
const STATUS_PATIENCE: Duration = Duration::from_millis(1_500);
/// N where nobody says otherwise and there are members enough.
const REPLICATION_DEFAULT: usize = 3;

/// List tables; make and drop them.
#[derive(Debug, Args)]
pub struct TablesArguments {
    #[command(subcommand)]
    action: Option<TablesAction>,
}

#[derive(Debug, Subcommand)]
enum TablesAction {
    /// List the tables and about how much they hold.
    List,
    /// Make a table. One that is there with the same options is no error.
    Create(CreateArguments),
    /// Drop a table and all its data, for good.
    Drop(DropArguments),
}

#[derive(Debug, Args)]
struct CreateArguments {
    /// Its name: letters, digits, '_', '-' and '.'.
    name: String,
    /// N: how many replicas each key has [default: 3, or the members if they are fewer].
    #[arg(long = "n", value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    replication: Option<u8>,
    /// R: how many replicas must answer a read that does not say.
    #[arg(long = "r", value_name = "LEVEL", default_value_t = Level::Quorum)]
    read: Level,
    /// W: how many replicas must acknowledge a write that does not say.
    #[arg(long = "w", value_name = "LEVEL", default_value_t = Level::Quorum)]
    write: Level,
    /// What happens to writes that did not know of each other: `latest` keeps one, `siblings` all.
    #[arg(long, default_value_t = ConflictPolicy::Latest)]
    policy: ConflictPolicy,
    /// How long a value lives, such as 1h30m [default: for ever].
    #[arg(long)]
    ttl: Option<TimeToLive>,
    /// Let other nodes take writes, and answer reads, in the place of replicas that cannot be reached:
    /// always writeable, but R + W > N promises nothing but convergence.
    #[arg(long)]
    sloppy: bool,
}

#[derive(Debug, Args)]
struct DropArguments {
    /// Its name.
    name: String,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

pub(crate) async fn run(
    client: &Client,
    arguments: &TablesArguments,
    output: Output,
) -> Result<(), CommandError> {
    match &arguments.action {
        None | Some(TablesAction::List) => list(client, output).await,
        Some(TablesAction::Create(arguments)) => create(client, arguments, output).await,
        Some(TablesAction::Drop(arguments)) => drop_table(client, arguments, output).await,
    }
}

/// The options of a table that a command makes by itself.
pub(crate) fn default_options(members: usize) -> TableOptions {
    let replication = u8::try_from(members.clamp(1, REPLICATION_DEFAULT)).expect("at most three");
    TableOptions { replication, ..TableOptions::default() }
}

async fn create(
    client: &Client,
    arguments: &CreateArguments,
    output: Output,
) -> Result<(), CommandError> {
    let defaults = default_options(client.record().members.len());
    let options = TableOptions {
        replication: arguments.replication.unwrap_or(defaults.replication),
        read_level: arguments.read,
        write_level: arguments.write,
        policy: arguments.policy,
        ttl_ms: arguments.ttl.map(TimeToLive::as_millis),
        sloppy: arguments.sloppy,
    };
    let record = client.create_table(&arguments.name, options).await?;
    let Some(table) = record.table(&arguments.name) else {
        return Err(CommandError::Unknown(format!(
            "the table {} was made, but the newest record does not have it: another client may \
             have dropped it; list the tables",
            arguments.name
        )));
    };
    if output.is_json() {
        return output.json(&table_json(table));
    }
    let TableOptions { replication, read_level, write_level, policy, .. } = &table.options;
    let sloppy = if table.options.sloppy { ", sloppy" } else { "" };
    note(&format!(
        "the table {} is there: N={replication}, R={read_level}, W={write_level}, {policy}{sloppy}",
        table.name
    ));
    Ok(())
}

async fn drop_table(
    client: &Client,
    arguments: &DropArguments,
    output: Output,
) -> Result<(), CommandError> {
    let name = &arguments.name;
    if !arguments.yes {
        confirm_drop(name)?;
    }
    client.drop_table(name).await?;
    if output.is_json() {
        return output.json(&json!({ "dropped": name }));
    }
    note(&format!("the table {name} and its data are dropped"));
    Ok(())
}

/// Asks a person; a program has to say --yes.
fn confirm_drop(name: &str) -> Result<(), CommandError> {
    if !io::stdin().is_terminal() {
        return Err(CommandError::BadInput(format!(
            "not dropped: all data of the table {name} would be lost for good; say --yes"
        )));
    }
    note(&format!("all data of the table {name} will be lost for good; type its name to drop it:"));
    let mut line = String::new();
    let read = io::stdin().read_line(&mut line);
    if read.is_ok() && line.trim() == name {
        return Ok(());
    }
    Err(CommandError::BadInput(format!("not dropped: that is not {name}")))
}

async fn list(client: &Client, output: Output) -> Result<(), CommandError> {
    let (view, _) = ClusterView::ask(client, STATUS_PATIENCE).await;
    if output.is_json() {
        return output.json(&list_json(&view));
    }
    if view.record.tables.is_empty() {
        note("there are no tables; make one with `quoit tables create NAME`");
        return Ok(());
    }
    output.text(&render(&view))?;
    note(&footnote(&view));
    Ok(())
}

fn footnote(view: &ClusterView) -> String {
    let mut text =
        "KEYS, TOMBSTONES and BYTES are estimates: the sum over the nodes, divided by N".to_owned();
    if !view.silent.is_empty() {
        let silent: Vec<_> = view.silent.keys().copied().collect();
        text.push_str(&format!("; too low, for {} did not answer", list_text(&silent)));
    }
    text
}

/// About how much a table holds: what the nodes that answered hold together, divided by N.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Estimate {
    live_keys: u64,
    tombstones: u64,
    bytes: u64,
}

fn estimate(view: &ClusterView, table: &Table) -> Estimate {
    let mut sum = Estimate::default();
    let held = view.answers.values().flat_map(|status| &status.tables);
    for held in held.filter(|held| held.table == table.id) {
        sum.live_keys = sum.live_keys.saturating_add(held.live_keys);
        sum.tombstones = sum.tombstones.saturating_add(held.tombstones);
        sum.bytes = sum.bytes.saturating_add(held.bytes);
    }
    let replicas = u64::from(table.options.replication.max(1));
    let share = |sum: u64| sum.saturating_add(replicas / 2) / replicas;
    Estimate {
        live_keys: share(sum.live_keys),
        tombstones: share(sum.tombstones),
        bytes: share(sum.bytes),
    }
}

fn render(view: &ClusterView) -> String {
    let headings = ["TABLE", "N", "R", "W", "POLICY", "TTL", "KEYS", "TOMBSTONES", "BYTES"];
    let mut grid = Grid::new(&headings, &[1, 6, 7, 8]);
    for table in &view.record.tables {
        let Estimate { live_keys, tombstones, bytes } = estimate(view, table);
        grid.row([
            table.name.clone(),
            table.options.replication.to_string(),
            table.options.read_level.to_string(),
            table.options.write_level.to_string(),
            table.options.policy.to_string(),
            table.options.ttl_ms.map_or_else(|| "-".to_owned(), compact),
            count_text(live_keys),
            count_text(tombstones),
            bytes_text(bytes),
        ]);
    }
    grid.render()
}

fn list_json(view: &ClusterView) -> Value {
    let tables = view.record.tables.iter().map(|table| {
        let estimate = estimate(view, table);
        let mut object = table_json(table);
        object["live_keys_estimate"] = estimate.live_keys.into();
        object["tombstones_estimate"] = estimate.tombstones.into();
        object["bytes_estimate"] = estimate.bytes.into();
        object
    });
    json!({
        "tables": tables.collect::<Vec<_>>(),
        "nodes_asked": view.record.members.len(),
        "nodes_answered": view.answers.len(),
    })
}

fn table_json(table: &Table) -> Value {
    json!({
        "table": table.name,
        "id": table.id.0,
        "n": table.options.replication,
        "r": table.options.read_level.to_string(),
        "w": table.options.write_level.to_string(),
        "policy": table.options.policy.to_string(),
        "ttl_ms": table.options.ttl_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;
    use std::collections::BTreeMap;

    fn view(answering: &[u64]) -> ClusterView {
        let (mut answers, mut silent) = (BTreeMap::new(), BTreeMap::new());
        for member in &sample::record().members {
            if answering.contains(&member.id.0) {
                answers.insert(member.id, sample::status(member.id.0, &[]));
            } else {
                silent.insert(member.id, "no answer".to_owned());
            }
        }
        ClusterView { record: sample::record().into(), answers, silent }
    }

    #[test]
    fn the_list_is_golden() {
        assert_eq!(
            render(&view(&[1, 2, 3])),
            "TABLE    N  R       W       POLICY    TTL      KEYS  TOMBSTONES    BYTES\n\
             unicode  3  quorum  quorum  latest    -      34,924           3  2.0 MiB\n\
             carts    3  quorum  all     siblings  1h30m       0           0      0 B\n"
        );
    }

    #[test]
    fn a_silent_node_makes_the_figures_too_low_and_that_is_said() {
        let view = view(&[1, 3]);
        assert!(footnote(&view).ends_with("too low, for n2 did not answer"));
        let json = list_json(&view);
        assert_eq!(json["nodes_answered"], 2);
        assert_eq!(json["tables"][0]["live_keys_estimate"], 23_283);
        assert_eq!(json["tables"][1]["ttl_ms"], 5_400_000);
    }

    #[test]
    fn a_small_cluster_gets_tables_that_it_can_hold() {
        assert_eq!(default_options(1).replication, 1);
        assert_eq!(default_options(9).replication, 3);
    }
}
