//! `quoit status`: what is wrong first, then every node.
//!
//! Every member is asked at once, with a short patience. One that does not answer is shown with
//! what the others say of it, so that a dead node and a network that is cut only from here look
//! different.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use futures_util::future::join_all;
use quoit_client::{Client, StatusError};
use quoit_protocol::status::NodeStatus;
use quoit_ring::{ClusterRecord, NodeId};
use serde_json::{Value, json};

use crate::failure::CommandError;
use crate::output::Output;
use crate::render::{Grid, bytes_text, list_text, uptime_text};

/// Show every node's state, and what is wrong.
#[derive(Debug, Args)]
pub struct StatusArguments {
    #[command(flatten)]
    patience: Patience,
}

/// How long the nodes are waited for.
#[derive(Debug, Args)]
pub(crate) struct Patience {
    /// How long each node may take to answer, in milliseconds.
    #[arg(long, default_value_t = 1_500, value_parser = clap::value_parser!(u64).range(1..=600_000))]
    patience_ms: u64,
}

impl Patience {
    /// What the members say within that time.
    ///
    /// # Errors
    /// Where none says anything, since this client's role does not allow it.
    pub(crate) async fn view(&self, client: &Client) -> Result<ClusterView, CommandError> {
        let patience = Duration::from_millis(self.patience_ms);
        let (view, forbidden) = ClusterView::ask(client, patience).await;
        match forbidden {
            Some(why) if view.answers.is_empty() => Err(CommandError::Forbidden(why)),
            _ => Ok(view),
        }
    }
}

pub(crate) async fn show(
    client: &Client,
    arguments: &StatusArguments,
    output: Output,
) -> Result<(), CommandError> {
    let view = arguments.patience.view(client).await?;
    if output.is_json() { output.json(&view.json()) } else { output.text(&view.render()) }
}

/// The record, and what each member said of itself and of the others.
pub(crate) struct ClusterView {
    pub(crate) record: std::sync::Arc<ClusterRecord>,
    /// The members that answered.
    pub(crate) answers: BTreeMap<NodeId, NodeStatus>,
    /// Why the others did not.
    pub(crate) silent: BTreeMap<NodeId, String>,
}

/// What is known of a member that may not answer.
struct Opinion {
    up: Vec<NodeId>,
    down: Vec<NodeId>,
}

impl ClusterView {
    /// Asks every member at once; says also why one of them may not be asked, if so.
    pub(crate) async fn ask(client: &Client, patience: Duration) -> (Self, Option<String>) {
        let record = client.record();
        let asked = record.members.iter().map(|member| async move {
            let answer = tokio::time::timeout(patience, client.status(member.id)).await;
            let answer = match answer {
                Ok(answer) => answer.map_err(|error| {
                    (error.to_string(), matches!(error, StatusError::Forbidden { .. }))
                }),
                Err(_) => Err((format!("no answer within {} ms", patience.as_millis()), false)),
            };
            (member.id, answer)
        });
        let (mut answers, mut silent, mut forbidden) = (BTreeMap::new(), BTreeMap::new(), None);
        for (id, answer) in join_all(asked).await {
            match answer {
                Ok(status) => drop(answers.insert(id, status)),
                Err((why, is_forbidden)) => {
                    forbidden = is_forbidden.then(|| why.clone()).or(forbidden);
                    silent.insert(id, why);
                }
            }
        }
        (Self { record, answers, silent }, forbidden)
    }

    /// Which of the others that answered see a member up, and which see it down.
    fn opinion(&self, of: NodeId) -> Opinion {
        let mut opinion = Opinion { up: Vec::new(), down: Vec::new() };
        for (&observer, status) in &self.answers {
            if observer == of {
                continue;
            }
            if let Some(member) = status.members.iter().find(|member| member.node == of) {
                if member.up { &mut opinion.up } else { &mut opinion.down }.push(observer);
            }
        }
        opinion
    }

    /// One or a few words for a member's state.
    fn state(&self, id: NodeId) -> String {
        if let Some(status) = self.answers.get(&id) {
            return status.state.clone();
        }
        if self.opinion(id).up.is_empty() { "down" } else { "no answer" }.to_owned()
    }

    /// What is wrong, a sentence each; empty where all is well.
    fn problems(&self) -> Vec<String> {
        let newest = self.answers.values().map(|status| status.epoch).max();
        let mut problems = Vec::new();
        for member in &self.record.members {
            let id = member.id;
            let opinion = self.opinion(id);
            let Some(status) = self.answers.get(&id) else {
                problems.push(self.silence(id, &opinion));
                continue;
            };
            if status.state != "serving" {
                problems.push(format!("{id} is {}", status.state));
            }
            problems.extend(status.problems.iter().map(|problem| format!("{id}: {problem}")));
            if !opinion.down.is_empty() {
                let observers = list_text(&opinion.down);
                problems.push(format!("{id} answers, but is seen as down by {observers}"));
            }
            if let Some(newest) = newest.filter(|&newest| status.epoch < newest) {
                let epoch = status.epoch;
                problems.push(format!("{id} follows record {epoch}, the newest is {newest}"));
            }
            if status.storage.unreadable > 0 {
                let records = status.storage.unreadable;
                problems.push(format!("{id} could not read {records} of its records"));
            }
        }
        problems
    }

    fn silence(&self, id: NodeId, opinion: &Opinion) -> String {
        let why = self.silent.get(&id).map_or("not asked", String::as_str);
        match (opinion.up.as_slice(), opinion.down.as_slice()) {
            ([], []) => format!("{id} is down or out of reach: {why}"),
            ([], down) => format!("{id} is down: {why}, and {} cannot reach it", list_text(down)),
            (up, []) => {
                let up = list_text(up);
                format!("{id} does not answer here ({why}), but {up} can reach it")
            }
            (up, down) => {
                let (up, down) = (list_text(up), list_text(down));
                format!("{id} does not answer here ({why}); {up} can reach it, {down} cannot")
            }
        }
    }

    pub(crate) fn render(&self) -> String {
        let mut text = String::new();
        let problems = self.problems();
        if problems.is_empty() {
            text.push_str("no problems\n");
        }
        for problem in problems {
            text.push_str(&format!("PROBLEM  {problem}\n"));
        }
        text.push('\n');
        let headings =
            ["NODE", "ADDRESS", "ZONE", "VNODES", "STATE", "RECORD", "UPTIME", "DISK", "MEMORY"];
        let mut grid = Grid::new(&headings, &[3, 5, 6, 7, 8]);
        for member in &self.record.members {
            let status = self.answers.get(&member.id);
            let figure =
                |figure: fn(&NodeStatus) -> String| status.map_or_else(|| "-".to_owned(), figure);
            grid.row([
                member.id.to_string(),
                member.address.to_string(),
                member.zone.to_string(),
                self.record.owned_vnodes(member.id).to_string(),
                self.state(member.id),
                figure(|status| status.epoch.to_string()),
                figure(|status| uptime_text(status.uptime_ms)),
                figure(|status| bytes_text(status.storage.disk_bytes)),
                figure(|status| bytes_text(status.storage.memory_bytes)),
            ]);
        }
        text.push_str(&grid.render());
        text
    }

    pub(crate) fn json(&self) -> Value {
        let names = |nodes: &[NodeId]| nodes.iter().map(NodeId::to_string).collect::<Vec<_>>();
        let nodes = self.record.members.iter().map(|member| {
            let opinion = self.opinion(member.id);
            let status = self.answers.get(&member.id);
            json!({
                "node": member.id.to_string(),
                "address": member.address.to_string(),
                "datacenter": member.zone.datacenter,
                "rack": member.zone.rack,
                "vnodes_owned": self.record.owned_vnodes(member.id),
                "state": self.state(member.id),
                "up": status.is_some(),
                "silence": self.silent.get(&member.id),
                "seen_up_by": names(&opinion.up),
                "seen_down_by": names(&opinion.down),
                "epoch": status.map(|status| status.epoch.0),
                "boot_count": status.map(|status| status.boot_count),
                "incarnation": status.map(|status| status.incarnation),
                "replica_vnodes": status.map(|status| status.replica_vnodes),
                "recovering_vnodes": status.map(|status| status.recovering_vnodes),
                "uptime_ms": status.map(|status| status.uptime_ms),
                "version": status.map(|status| &status.version),
                "disk_bytes": status.map(|status| status.storage.disk_bytes),
                "memory_bytes": status.map(|status| status.storage.memory_bytes),
                "log_sequence": status.map(|status| status.storage.log_sequence),
                "unreadable": status.map(|status| status.storage.unreadable),
                "clock_offsets_ms": status.map(|status| status.members.iter()
                    .map(|member| (member.node.to_string(), member.clock_offset_ms))
                    .collect::<BTreeMap<_, _>>()),
                "counters": status.map(|status| status.counters.iter().cloned()
                    .collect::<BTreeMap<_, _>>()),
            })
        });
        json!({
            "cluster": self.record.cluster.to_string(),
            "epoch": self.record.epoch.0,
            "problems": self.problems(),
            "nodes": nodes.collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    fn view(answers: Vec<NodeStatus>, silent: &[u64]) -> ClusterView {
        ClusterView {
            record: sample::record().into(),
            answers: answers.into_iter().map(|status| (status.node, status)).collect(),
            silent: silent.iter().map(|&id| (NodeId(id), "no answer within 9 ms".into())).collect(),
        }
    }

    #[test]
    fn a_well_cluster_has_no_problems() {
        let view = view((1..=3).map(|id| sample::status(id, &[])).collect(), &[]);
        assert_eq!(
            view.render(),
            "no problems\n\
             \n\
             NODE  ADDRESS         ZONE         VNODES  STATE    RECORD  UPTIME     DISK  MEMORY\n\
             n1    127.0.0.1:7401  local/rack1       3  serving       7    1m5s  3.0 MiB   512 B\n\
             n2    127.0.0.1:7402  local/rack2       3  serving       7    1m5s  3.0 MiB   512 B\n\
             n3    127.0.0.1:7403  local/rack3       2  serving       7    1m5s  3.0 MiB   512 B\n"
        );
    }

    #[test]
    fn a_dead_node_comes_first_with_what_the_others_say() {
        let view = view(vec![sample::status(1, &[2]), sample::status(3, &[2])], &[2]);
        let text = view.render();
        let problem = "PROBLEM  n2 is down: no answer within 9 ms, and n1 and n3 cannot reach it\n";
        assert!(text.starts_with(problem), "{text}");
        assert!(
            text.contains("n2    127.0.0.1:7402  local/rack2       3  down          -"),
            "{text}"
        );
        let json = view.json();
        assert_eq!(json["nodes"][1]["up"], false);
        assert_eq!(json["nodes"][1]["seen_down_by"], serde_json::json!(["n1", "n3"]));
    }

    #[test]
    fn a_cut_from_here_only_is_told_from_a_dead_node() {
        let view = view(vec![sample::status(1, &[]), sample::status(3, &[])], &[2]);
        assert_eq!(view.state(NodeId(2)), "no answer");
        assert!(view.problems()[0].contains("but n1 and n3 can reach it"), "{:?}", view.problems());
    }

    #[test]
    fn what_nodes_say_of_themselves_is_repeated() {
        let mut status = sample::status(1, &[3]);
        status.state = "degraded".into();
        status.problems = vec!["the disk is full".into()];
        status.storage.unreadable = 4;
        status.epoch = quoit_ring::Epoch(6);
        let view = view(vec![status, sample::status(2, &[]), sample::status(3, &[])], &[]);
        assert_eq!(
            view.problems(),
            [
                "n1 is degraded",
                "n1: the disk is full",
                "n1 follows record 6, the newest is 7",
                "n1 could not read 4 of its records",
                "n3 answers, but is seen as down by n1",
            ]
        );
    }
}
