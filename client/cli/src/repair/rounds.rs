//! `quoit repair status` and `quoit repair run`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clap::Args;
use futures_util::future::join_all;
use quoit_client::{Client, StatusError};
use quoit_protocol::AskRepair;
use quoit_protocol::status::{ExchangeStatus, NodeStatus, RepairStatus, VnodeRepair};
use quoit_ring::{HybridTime, NodeId};
use serde_json::{Value, json};

use crate::failure::CommandError;
use crate::output::{Output, note};
use crate::progress::Steps;
use crate::render::{Grid, bytes_text, count_text, list_text, uptime_text};

/// A round is looked at so often.
const LOOK_EVERY: Duration = Duration::from_millis(250);
const PATIENCE: Duration = Duration::from_millis(5_000);

/// Which replicas are meant.
#[derive(Debug, Args)]
struct Which {
    /// Only of this table's replication factor: tables of one N are compared together.
    #[arg(long)]
    table: Option<String>,
    /// Only this virtual node.
    #[arg(long)]
    vnode: Option<u32>,
}

#[derive(Debug, Args)]
pub(super) struct StatusArguments {
    #[command(flatten)]
    which: Which,
    /// A row for each virtual node, too.
    #[arg(long)]
    vnodes: bool,
}

#[derive(Debug, Args)]
pub(super) struct RunArguments {
    #[command(flatten)]
    which: Which,
    /// Wait until all is done, and show how far it is.
    #[arg(long)]
    wait: bool,
}

impl Which {
    fn ask(&self, client: &Client) -> Result<AskRepair, CommandError> {
        let record = client.record();
        let table = match &self.table {
            Some(name) => match record.table(name) {
                Some(table) => Some(table.id),
                None => {
                    return Err(CommandError::BadInput(format!(
                        "there is no table {name}; `quoit tables list` shows those that there are"
                    )));
                }
            },
            None => None,
        };
        let vnode = super::vnode_of(client, self.vnode)?;
        Ok(AskRepair { table, vnode, run: false })
    }
}

/// What each member that answers says.
struct Answers {
    nodes: BTreeMap<NodeId, (NodeStatus, RepairStatus)>,
    silent: Vec<NodeId>,
}

impl Answers {
    /// # Errors
    /// Where none answers, since this client's role does not allow it.
    async fn ask(client: &Client, what: AskRepair) -> Result<Self, CommandError> {
        let record = client.record();
        let asked = record.members.iter().map(|member| async move {
            let answer = tokio::time::timeout(PATIENCE, client.repair(member.id, what)).await;
            (member.id, answer.ok())
        });
        let mut answers = Self { nodes: BTreeMap::new(), silent: Vec::new() };
        let mut forbidden = None;
        for (id, answer) in join_all(asked).await {
            if let Some(Err(error @ StatusError::Forbidden { .. })) = &answer {
                forbidden = Some(CommandError::Forbidden(error.to_string()));
            }
            let told = answer
                .and_then(Result::ok)
                .and_then(|mut status| Some((status.repair.take()?, status)));
            match told {
                Some((repair, status)) => drop(answers.nodes.insert(id, (status, repair))),
                None => answers.silent.push(id),
            }
        }
        match forbidden {
            Some(error) if answers.nodes.is_empty() => Err(error),
            _ => Ok(answers),
        }
    }

    fn note_silent(&self) {
        if !self.silent.is_empty() {
            note(&format!("{} did not answer", list_text(&self.silent)));
        }
    }
}

/// As of when a virtual node's replica here has all that the others had; `None` if that is not known of
/// one of them. The moment `now` where there are no others.
fn in_sync(vnode: &VnodeRepair, now: HybridTime) -> Option<HybridTime> {
    let since = vnode.in_sync.iter().map(|(_, since)| *since).min().unwrap_or(now);
    (since > HybridTime::ZERO).then_some(since)
}

/// How long ago that was, for people.
fn age(since: HybridTime, now: HybridTime) -> String {
    format!("{} ago", uptime_text(now.wall().0.saturating_sub(since.wall().0)))
}

/// How long what is under way takes still, in milliseconds, if it goes on as it went.
fn left_ms(exchange: &ExchangeStatus, now: HybridTime) -> Option<u64> {
    let running = exchange.running?;
    let done = u64::from(running.vnodes - running.left.min(running.vnodes));
    let passed = now.wall().0.saturating_sub(running.began.wall().0);
    (done > 0).then(|| passed * u64::from(running.left) / done)
}

pub(super) async fn show(
    client: &Client,
    arguments: &StatusArguments,
    output: Output,
) -> Result<(), CommandError> {
    let answers = Answers::ask(client, arguments.which.ask(client)?).await?;
    if output.is_json() {
        return output.json(&shown_json(&answers));
    }
    answers.note_silent();
    let mut text = shown(&answers);
    if arguments.vnodes {
        text.push('\n');
        text.push_str(&shown_vnodes(&answers));
    }
    output.text(&text)
}

fn counter(status: &NodeStatus, name: &str) -> u64 {
    status.counters.iter().find(|(known, _)| known == name).map_or(0, |(_, count)| *count)
}

fn shown(answers: &Answers) -> String {
    let headings = [
        "NODE",
        "REPLICAS",
        "IN SYNC AS OF",
        "UNKNOWN",
        "RECOVERING",
        "KEYS IN",
        "KEYS OUT",
        "BYTES",
        "UNDER WAY",
    ];
    let mut grid = Grid::new(&headings, &[1, 3, 4, 5, 6, 7]);
    let mut troubles = String::new();
    for (node, (status, repair)) in &answers.nodes {
        let known = |vnode: &VnodeRepair| in_sync(vnode, repair.time);
        let oldest = repair.vnodes.iter().filter_map(known).min();
        let unknown = repair.vnodes.iter().filter(|vnode| known(vnode).is_none()).count();
        let recovering = repair.vnodes.iter().filter(|vnode| !vnode.is_trusted).count();
        let under_way: Vec<String> =
            repair.peers.iter().filter_map(|it| running(it, repair.time)).collect();
        let bytes = ["repair_bytes_in", "repair_bytes_out"].map(|name| counter(status, name));
        grid.row([
            node.to_string(),
            count_text(repair.vnodes.len() as u64),
            oldest.map_or_else(|| "-".to_owned(), |since| age(since, repair.time)),
            unknown.to_string(),
            recovering.to_string(),
            count_text(counter(status, "repair_keys_in")),
            count_text(counter(status, "repair_keys_out")),
            bytes_text(bytes.iter().sum()),
            if under_way.is_empty() { "-".to_owned() } else { under_way.join("; ") },
        ]);
        for exchange in &repair.peers {
            if let Some(failure) = &exchange.failure {
                let when = age(exchange.ended, repair.time);
                let peer = exchange.peer;
                troubles.push_str(&format!(
                    "the last exchange of {node} with {peer} failed {when}: {failure}; it is tried again\n"
                ));
            }
        }
    }
    grid.render() + &troubles
}

fn running(exchange: &ExchangeStatus, now: HybridTime) -> Option<String> {
    let running = exchange.running?;
    let left = left_ms(exchange, now);
    let left = left.map_or_else(String::new, |left| format!(", {} left", uptime_text(left)));
    Some(format!(
        "{}: {} of {} virtual nodes, {} keys{left}",
        exchange.peer,
        running.vnodes - running.left.min(running.vnodes),
        running.vnodes,
        count_text(running.keys)
    ))
}

fn shown_vnodes(answers: &Answers) -> String {
    let mut grid = Grid::new(&["VNODE", "N", "NODE", "IN SYNC AS OF", "COUNTS", "BEHIND"], &[0, 1]);
    let mut rows: Vec<(&VnodeRepair, NodeId, HybridTime)> = answers
        .nodes
        .iter()
        .flat_map(|(node, (_, repair))| {
            repair.vnodes.iter().map(move |vnode| (vnode, *node, repair.time))
        })
        .collect();
    rows.sort_by_key(|(vnode, node, _)| (vnode.vnode, vnode.replication, *node));
    for (vnode, node, now) in rows {
        let behind = vnode.in_sync.iter().filter(|(_, since)| *since == HybridTime::ZERO);
        let behind: Vec<NodeId> = behind.map(|(peer, _)| *peer).collect();
        grid.row([
            vnode.vnode.0.to_string(),
            vnode.replication.to_string(),
            node.to_string(),
            in_sync(vnode, now).map_or_else(|| "-".to_owned(), |since| age(since, now)),
            if vnode.is_trusted { "yes" } else { "no: recovering" }.to_owned(),
            if behind.is_empty() { "-".to_owned() } else { list_text(&behind) },
        ]);
    }
    grid.render()
}

fn shown_json(answers: &Answers) -> Value {
    let time = |time: HybridTime| (time > HybridTime::ZERO).then(|| time.wall().0);
    let nodes = answers.nodes.iter().map(|(node, (status, repair))| {
        let exchanges = repair.peers.iter().map(|exchange| {
            json!({
                "peer": exchange.peer.to_string(),
                "ended_ms": time(exchange.ended),
                "failure": exchange.failure,
                "running": exchange.running.map(|running| json!({
                    "began_ms": running.began.wall().0,
                    "vnodes": running.vnodes,
                    "vnodes_left": running.left,
                    "keys": running.keys,
                    "bytes": running.bytes,
                    "ms_left": left_ms(exchange, repair.time),
                })),
            })
        });
        let vnodes = repair.vnodes.iter().map(|vnode| {
            let since = vnode.in_sync.iter().map(|(peer, since)| (peer.to_string(), time(*since)));
            json!({
                "vnode": vnode.vnode.0,
                "n": vnode.replication,
                "counts": vnode.is_trusted,
                "in_sync_as_of_ms": in_sync(vnode, repair.time).and_then(time),
                "in_sync_with_ms": since.collect::<BTreeMap<_, _>>(),
            })
        });
        json!({
            "node": node.to_string(),
            "time_ms": repair.time.wall().0,
            "recovering_vnodes": status.recovering_vnodes,
            "keys_in": counter(status, "repair_keys_in"),
            "keys_out": counter(status, "repair_keys_out"),
            "bytes_in": counter(status, "repair_bytes_in"),
            "bytes_out": counter(status, "repair_bytes_out"),
            "exchanges": exchanges.collect::<Vec<_>>(),
            "vnodes": vnodes.collect::<Vec<_>>(),
        })
    });
    let silent = answers.silent.iter().map(ToString::to_string);
    json!({ "nodes": nodes.collect::<Vec<_>>(), "silent": silent.collect::<Vec<_>>() })
}

pub(super) async fn run(
    client: &Client,
    arguments: &RunArguments,
    output: Output,
) -> Result<(), CommandError> {
    let what = arguments.which.ask(client)?;
    let begun = Answers::ask(client, AskRepair { run: true, ..what }).await?;
    begun.note_silent();
    if begun.nodes.is_empty() {
        return Err(CommandError::NotDone("no node answers: nothing was begun".to_owned()));
    }
    let since = begun.nodes.iter().map(|(node, (_, repair))| (*node, repair.time)).collect();
    let round = Round { since, silent: begun.silent.iter().copied().collect() };
    let (mut done, mut all) = round.progress(&begun);
    if arguments.wait {
        let mut steps = Steps::new("comparing", all);
        while done < all {
            steps.set(done);
            tokio::time::sleep(LOOK_EVERY).await;
            let answers = Answers::ask(client, what).await?;
            if let Some(gone) = round.since.keys().find(|node| !answers.nodes.contains_key(node)) {
                return Err(CommandError::NotDone(format!(
                    "{gone} does not answer any more, after {done} of {all} comparisons; the others \
                     go on, and `quoit repair status` shows how far they are"
                )));
            }
            (done, all) = round.progress(&answers);
        }
    }
    if output.is_json() {
        let silent = begun.silent.iter().map(ToString::to_string);
        return output.json(&json!({
            "nodes": round.since.keys().map(ToString::to_string).collect::<Vec<_>>(),
            "silent": silent.collect::<Vec<_>>(),
            "comparisons": all,
            "done": done,
        }));
    }
    match arguments.wait {
        true => output.text(&format!(
            "{} comparisons of virtual nodes done: replicas that answer are in sync as of when this \
             command began\n",
            count_text(all)
        )),
        false => output.text(&format!(
            "{} comparisons of virtual nodes begun; `quoit repair status` shows how far they are\n",
            count_text(all)
        )),
    }
}

/// A round that was asked for.
struct Round {
    /// When each node was asked, by its own clock.
    since: BTreeMap<NodeId, HybridTime>,
    /// Whom nobody can compare anything with.
    silent: BTreeSet<NodeId>,
}

impl Round {
    /// Comparisons that are done, and all.
    fn progress(&self, answers: &Answers) -> (u64, u64) {
        let (mut done, mut all) = (0, 0);
        for (node, (_, repair)) in &answers.nodes {
            let Some(asked) = self.since.get(node) else { continue };
            let pairs = repair.vnodes.iter().flat_map(|vnode| &vnode.in_sync);
            for (_, since) in pairs.filter(|(peer, _)| !self.silent.contains(peer)) {
                all += 1;
                done += u64::from(since >= asked);
            }
        }
        (done, all)
    }
}

#[cfg(test)]
mod tests {
    use quoit_protocol::status::RunningExchange;
    use quoit_ring::{VnodeIndex, WallTime};

    use super::*;
    use crate::sample;

    fn at(seconds: u64) -> HybridTime {
        HybridTime::at(WallTime(1_000_000 + 1_000 * seconds))
    }

    fn answers() -> Answers {
        let vnode = |vnode, with_2, with_3| VnodeRepair {
            vnode: VnodeIndex(vnode),
            replication: 3,
            in_sync: vec![(NodeId(2), with_2), (NodeId(3), with_3)],
            is_trusted: vnode == 0,
        };
        let running = RunningExchange { began: at(80), vnodes: 4, left: 3, keys: 1_200, bytes: 9 };
        let exchange = |peer, failure: Option<&str>, running| ExchangeStatus {
            peer: NodeId(peer),
            ended: at(90),
            failure: failure.map(str::to_owned),
            running,
        };
        let repair = RepairStatus {
            time: at(100),
            peers: vec![exchange(2, None, Some(running)), exchange(3, Some("it is late"), None)],
            vnodes: vec![vnode(0, at(70), at(60)), vnode(1, at(70), HybridTime::ZERO)],
        };
        let mut status = sample::status(1, &[]);
        status.counters = vec![("repair_keys_in".to_owned(), 1_200)];
        Answers { nodes: [(NodeId(1), (status, repair))].into(), silent: vec![NodeId(3)] }
    }

    #[test]
    fn the_summary_and_the_virtual_nodes_are_golden() {
        assert_eq!(
            shown(&answers()),
            "NODE  REPLICAS  IN SYNC AS OF  UNKNOWN  RECOVERING  KEYS IN  KEYS OUT  BYTES  UNDER WAY\n\
             n1           2  40s ago              1           1    1,200         0    0 B  n2: 1 of 4 virtual nodes, 1,200 keys, 1m0s left\n\
             the last exchange of n1 with n3 failed 10s ago: it is late; it is tried again\n"
        );
        assert_eq!(
            shown_vnodes(&answers()),
            "VNODE  N  NODE  IN SYNC AS OF  COUNTS          BEHIND\n    \
                 0  3  n1    40s ago        yes             -\n    \
                 1  3  n1    -              no: recovering  n3\n"
        );
        assert_eq!(
            shown_json(&answers())["nodes"][0]["exchanges"][0]["running"]["ms_left"],
            60_000
        );
    }

    #[test]
    fn a_round_is_done_when_all_that_can_be_compared_was_compared_since() {
        let round = |since, silent: &[u64]| Round {
            since: [(NodeId(1), since)].into(),
            silent: silent.iter().map(|id| NodeId(*id)).collect(),
        };
        assert_eq!(round(at(65), &[]).progress(&answers()), (2, 4));
        assert_eq!(round(at(70), &[3]).progress(&answers()), (2, 2));
        assert_eq!(round(at(71), &[3]).progress(&answers()), (0, 2));
    }
}
