//! `quoit snapshot`: makes, lists and deletes snapshots, on every node at once.
//!
//! Every member is asked on its own. One that is down is told of, and the others make theirs all the
//! same: a backup by night is worth more than none, and the exit code says that it is not complete.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use futures_util::future::join_all;
use quoit_client::{Client, FailureCode};
use quoit_protocol::snapshot::{NodeSnapshots, SnapshotAction, SnapshotInfo, SnapshotState};
use quoit_ring::NodeId;
use serde_json::{Value, json};

use crate::failure::CommandError;
use crate::output::{Output, note};
use crate::render::{Grid, bytes_text, count_text, list_text, uptime_text};
use crate::shortage::shortages;

/// How long a node may take to answer a question; making a snapshot may take as long as it takes.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often the nodes are asked whether they have made theirs.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// So often a node that makes a snapshot may not answer in turn, before it is given up.
const SILENCES_MAX: u32 = 5;

/// Make, list and delete snapshots of what all nodes hold; `quoit restore` reads them.
#[derive(Debug, Args)]
pub struct SnapshotArguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a snapshot on every node; it has all that was acknowledged before.
    Create {
        /// Its name: 1 to 64 letters, digits, '_', '-' and '.'.
        name: String,
        /// Exit with 0 although nodes were missing, if the others have all that was acknowledged.
        #[arg(long)]
        allow_missing: bool,
    },
    /// List the snapshots that there are.
    List,
    /// Delete a snapshot on every node.
    Delete {
        /// Its name.
        name: String,
    },
}

pub(crate) async fn run(
    client: &Client,
    arguments: &SnapshotArguments,
    output: Output,
) -> Result<(), CommandError> {
    match &arguments.action {
        Action::Create { name, allow_missing } => {
            create(client, name, *allow_missing, output).await
        }
        Action::List => list(client, output).await,
        Action::Delete { name } => delete(client, name, output).await,
    }
}

/// What each node said, or why it did not.
#[derive(Default)]
struct Answers {
    nodes: BTreeMap<NodeId, NodeSnapshots>,
    silent: BTreeMap<NodeId, String>,
    /// Why one refused what will be refused always.
    invalid: Option<String>,
}

impl Answers {
    async fn ask(
        client: &Client,
        nodes: impl IntoIterator<Item = NodeId>,
        action: &SnapshotAction,
    ) -> Self {
        let asked = nodes.into_iter().map(|node| async move {
            let answer = tokio::time::timeout(PATIENCE, client.snapshots(node, action.clone()));
            (node, answer.await)
        });
        let mut answers = Self::default();
        for (node, answer) in join_all(asked).await {
            let why = match answer {
                Ok(Ok(snapshots)) => {
                    answers.nodes.insert(node, snapshots);
                    continue;
                }
                Ok(Err(error)) => match error.refusal() {
                    Some((code, message)) => {
                        if code == FailureCode::Invalid {
                            answers.invalid.get_or_insert_with(|| message.to_owned());
                        }
                        message.to_owned()
                    }
                    None => crate::failure::one_line(&error),
                },
                Err(_) => format!("no answer within {} s", PATIENCE.as_secs()),
            };
            answers.silent.insert(node, why);
        }
        answers
    }

    fn of(&self, name: &str) -> BTreeMap<NodeId, &SnapshotInfo> {
        let named = |snapshots: &NodeSnapshots| {
            snapshots.snapshots.iter().position(|snapshot| snapshot.name == name)
        };
        let found = self.nodes.iter();
        found.filter_map(|(node, all)| Some((*node, &all.snapshots[named(all)?]))).collect()
    }

    fn note_silent(&self) {
        for (node, why) in &self.silent {
            note(&format!("{node}: {why}"));
        }
    }
}

fn members(client: &Client) -> Vec<NodeId> {
    client.record().members.iter().map(|member| member.id).collect()
}

/// What became of a snapshot on the nodes.
#[derive(Default)]
struct Made {
    whole: BTreeMap<NodeId, SnapshotInfo>,
    /// Why the others have none.
    failed: BTreeMap<NodeId, String>,
}

async fn create(
    client: &Client,
    name: &str,
    allow_missing: bool,
    output: Output,
) -> Result<(), CommandError> {
    let there = Answers::ask(client, members(client), &SnapshotAction::List).await;
    let taken: Vec<NodeId> = there
        .of(name)
        .into_iter()
        .filter(|(_, info)| !matches!(info.state, SnapshotState::Failed(_)))
        .map(|(node, _)| node)
        .collect();
    if !taken.is_empty() {
        return Err(CommandError::BadInput(format!(
            "{} {} a snapshot {name} already, and nothing was done; choose another name, or delete \
             it first",
            list_text(&taken),
            if taken.len() == 1 { "has" } else { "have" }
        )));
    }
    if there.nodes.is_empty() {
        there.note_silent();
        return Err(CommandError::NotDone("no node answers: no snapshot was made".to_owned()));
    }
    let began = Instant::now();
    let action = SnapshotAction::Create { name: name.to_owned() };
    let begun = Answers::ask(client, there.nodes.keys().copied(), &action).await;
    if let (true, Some(why)) = (begun.nodes.is_empty(), begun.invalid) {
        return Err(CommandError::BadInput(format!("no snapshot was made: {why}")));
    }
    let mut made = Made { failed: there.silent, ..Made::default() };
    made.failed.extend(begun.silent);
    wait(client, name, begun.nodes.into_keys().collect(), &mut made).await;
    report(client, name, made, began.elapsed(), allow_missing, output)
}

/// Looks at the nodes until each has made its snapshot or failed.
async fn wait(client: &Client, name: &str, mut making: BTreeSet<NodeId>, made: &mut Made) {
    let mut silences = BTreeMap::<NodeId, u32>::new();
    while !making.is_empty() {
        let answers = Answers::ask(client, making.iter().copied(), &SnapshotAction::List).await;
        for (node, why) in &answers.silent {
            let silences = silences.entry(*node).or_default();
            *silences += 1;
            if *silences >= SILENCES_MAX {
                made.failed.insert(*node, format!("it was begun, and then: {why}"));
                making.remove(node);
            }
        }
        for node in answers.nodes.keys() {
            silences.remove(node);
        }
        let found = answers.of(name);
        for node in answers.nodes.keys() {
            match found.get(node).map(|info| (&info.state, *info)) {
                Some((SnapshotState::Making, _)) => continue,
                Some((SnapshotState::Whole, info)) => drop(made.whole.insert(*node, info.clone())),
                Some((SnapshotState::Failed(why) | SnapshotState::Damaged(why), _)) => {
                    made.failed.insert(*node, why.clone());
                }
                None => {
                    let why = "it was begun, and is not there: has the node started anew?";
                    made.failed.insert(*node, why.to_owned());
                }
            }
            making.remove(node);
        }
        if !making.is_empty() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

fn report(
    client: &Client,
    name: &str,
    made: Made,
    took: Duration,
    allow_missing: bool,
    output: Output,
) -> Result<(), CommandError> {
    let record = client.record();
    let short = shortages(&record, |node, _| made.whole.contains_key(&node));
    let (files, bytes) = made
        .whole
        .values()
        .fold((0, 0), |(files, bytes), info| (files + u64::from(info.files), bytes + info.bytes));
    if output.is_json() {
        let nodes = made.whole.iter().map(|(node, info)| info_json(*node, info));
        let failed = made.failed.iter().map(|(node, why)| (node.to_string(), why));
        output.json(&json!({
            "snapshot": name,
            "nodes": nodes.collect::<Vec<_>>(),
            "missing": failed.collect::<BTreeMap<_, _>>(),
            "has_all_acknowledged": short.is_empty(),
            "seconds": took.as_secs_f64(),
        }))?;
    } else {
        let nodes: Vec<_> = made.whole.keys().copied().collect();
        if !nodes.is_empty() {
            output.text(&format!(
                "snapshot {name} made on {}: {} files, {}, in {:.1} s\n",
                list_text(&nodes),
                count_text(files),
                bytes_text(bytes),
                took.as_secs_f64()
            ))?;
        }
        made.failed.iter().for_each(|(node, why)| note(&format!("not on {node}: {why}")));
    }
    if made.failed.is_empty() || (allow_missing && short.is_empty()) {
        return Ok(());
    }
    let nodes: Vec<_> = made.failed.keys().copied().collect();
    let judgement = match short.first() {
        None => "the others have all that was acknowledged at the tables' levels: it can be \
                 restored (--allow-missing makes this no error)"
            .to_owned(),
        Some(shortage) => format!(
            "acknowledged writes of {} may be in it nowhere: delete it, and make another once the \
             nodes are back",
            shortage.table
        ),
    };
    Err(CommandError::NotDone(format!(
        "the snapshot {name} lacks {}; {judgement}",
        list_text(&nodes)
    )))
}

async fn list(client: &Client, output: Output) -> Result<(), CommandError> {
    let answers = Answers::ask(client, members(client), &SnapshotAction::List).await;
    if output.is_json() {
        return output.json(&list_json(&answers));
    }
    answers.note_silent();
    if answers.nodes.is_empty() {
        return Err(CommandError::NotDone("no node answers".to_owned()));
    }
    output.text(&shown(&answers))
}

fn shown(answers: &Answers) -> String {
    let now_ms = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_millis();
    shown_at(answers, u64::try_from(now_ms).unwrap_or(u64::MAX))
}

fn shown_at(answers: &Answers, now_ms: u64) -> String {
    let names: BTreeSet<&str> = answers
        .nodes
        .values()
        .flat_map(|node| &node.snapshots)
        .map(|snapshot| snapshot.name.as_str())
        .collect();
    if names.is_empty() {
        return "no snapshots; make one with `quoit snapshot create NAME`\n".to_owned();
    }
    let headings = ["SNAPSHOT", "MADE", "ON", "FILES", "BYTES", "DELETING FREES"];
    let mut grid = Grid::new(&headings, &[3, 4, 5]);
    let mut troubles = String::new();
    for name in &names {
        let found = answers.of(name);
        let whole: Vec<_> =
            found.iter().filter(|(_, info)| info.state == SnapshotState::Whole).collect();
        let nodes: Vec<NodeId> = whole.iter().map(|(node, _)| **node).collect();
        let made_ms = whole.iter().map(|(_, info)| info.made_ms).max();
        let sum = |of: fn(&SnapshotInfo) -> u64| whole.iter().map(|(_, info)| of(info)).sum();
        grid.row([
            (*name).to_owned(),
            made_ms.map_or_else(
                || "-".to_owned(),
                |made_ms| format!("{} ago", uptime_text(now_ms.saturating_sub(made_ms))),
            ),
            if nodes.is_empty() { "-".to_owned() } else { list_text(&nodes) },
            count_text(sum(|info| info.files.into())),
            bytes_text(sum(|info| info.bytes)),
            bytes_text(sum(|info| info.own_bytes)),
        ]);
        for (node, info) in &found {
            let what = match &info.state {
                SnapshotState::Whole => continue,
                SnapshotState::Making => "is being made".to_owned(),
                SnapshotState::Failed(why) => format!("was not made: {why}"),
                SnapshotState::Damaged(why) => format!("cannot be used: {why}"),
            };
            troubles.push_str(&format!("{name} on {node} {what}\n"));
        }
    }
    grid.render() + &troubles
}

fn list_json(answers: &Answers) -> Value {
    let nodes = answers.nodes.values().map(|node| {
        let snapshots = node.snapshots.iter().map(|info| info_json(node.node, info));
        json!({
            "node": node.node.to_string(),
            "directory": node.directory,
            "free_bytes": node.free_bytes,
            "snapshots": snapshots.collect::<Vec<_>>(),
        })
    });
    let silent = answers.silent.iter().map(|(node, why)| (node.to_string(), why));
    json!({
        "nodes": nodes.collect::<Vec<_>>(),
        "silent": silent.collect::<BTreeMap<_, _>>(),
    })
}

fn info_json(node: NodeId, info: &SnapshotInfo) -> Value {
    let (state, reason) = match &info.state {
        SnapshotState::Making => ("making", None),
        SnapshotState::Whole => ("whole", None),
        SnapshotState::Failed(why) => ("failed", Some(why)),
        SnapshotState::Damaged(why) => ("damaged", Some(why)),
    };
    json!({
        "node": node.to_string(),
        "snapshot": info.name,
        "state": state,
        "reason": reason,
        "made_ms": info.made_ms,
        "took_ms": info.took_ms,
        "files": info.files,
        "bytes": info.bytes,
        "own_bytes": info.own_bytes,
    })
}

async fn delete(client: &Client, name: &str, output: Output) -> Result<(), CommandError> {
    let there = Answers::ask(client, members(client), &SnapshotAction::List).await;
    let found: Vec<NodeId> = there.of(name).into_keys().collect();
    if found.is_empty() && there.silent.is_empty() {
        return Err(CommandError::BadInput(format!(
            "no node has a snapshot {name}; `quoit snapshot list` shows those that there are"
        )));
    }
    let action = SnapshotAction::Delete { name: name.to_owned() };
    let deleted = Answers::ask(client, found, &action).await;
    let nodes: Vec<NodeId> = deleted.nodes.keys().copied().collect();
    if output.is_json() {
        output.json(&json!({
            "deleted": name,
            "nodes": nodes.iter().map(ToString::to_string).collect::<Vec<_>>(),
        }))?;
    } else if !nodes.is_empty() {
        output.text(&format!("snapshot {name} deleted on {}\n", list_text(&nodes)))?;
    }
    there.note_silent();
    deleted.note_silent();
    let left: Vec<NodeId> = there.silent.keys().chain(deleted.silent.keys()).copied().collect();
    if left.is_empty() {
        return Ok(());
    }
    Err(CommandError::NotDone(format!(
        "the snapshot {name} may be left on {}: delete it again once they answer",
        list_text(&left)
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers() -> Answers {
        let info = |state, bytes| SnapshotInfo {
            name: "nightly".to_owned(),
            state,
            made_ms: 40_000,
            took_ms: 12,
            files: 7,
            bytes,
            own_bytes: 1 << 10,
        };
        let node = |id, snapshots| NodeSnapshots {
            node: NodeId(id),
            directory: "/data/snapshots".to_owned(),
            free_bytes: 1 << 30,
            snapshots,
        };
        let whole = node(1, vec![info(SnapshotState::Whole, 3 << 20)]);
        let failed = node(2, vec![info(SnapshotState::Failed("no space".to_owned()), 0)]);
        Answers {
            nodes: [(NodeId(1), whole), (NodeId(2), failed)].into(),
            silent: [(NodeId(3), "no answer".to_owned())].into(),
            invalid: None,
        }
    }

    #[test]
    fn the_list_is_golden() {
        assert_eq!(
            shown_at(&answers(), 100_000),
            "SNAPSHOT  MADE      ON  FILES    BYTES  DELETING FREES\n\
             nightly   1m0s ago  n1      7  3.0 MiB         1.0 KiB\n\
             nightly on n2 was not made: no space\n"
        );
        let json = list_json(&answers());
        assert_eq!(json["nodes"][1]["snapshots"][0]["reason"], "no space");
        assert_eq!(json["silent"]["n3"], "no answer");
        let none = Answers::default();
        assert!(shown(&none).starts_with("no snapshots"));
    }
}
