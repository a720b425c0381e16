//! `quoit repair`: how far replicas were compared, a round of comparing them now, and what an operator
//! may have to say when they mend themselves.

mod rounds;

use std::time::Duration;

use clap::{Args, Subcommand};
use quoit_client::{Client, StatusError};
use quoit_protocol::status::NodeStatus;
use quoit_ring::{NodeId, VnodeIndex};
use serde_json::{Value, json};

use crate::failure::CommandError;
use crate::output::Output;

/// The node is looked at so often and so long until its store has done what was asked.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const LOOKS: u32 = 30;

/// Show how far replicas are in sync, have them compared now, or help those that cannot mend themselves.
#[derive(Debug, Args)]
pub struct RepairArguments {
    #[command(subcommand)]
    action: RepairAction,
}

#[derive(Debug, Subcommand)]
enum RepairAction {
    /// Show since when replicas are in sync, and what is under way.
    Status(rounds::StatusArguments),
    /// Have replicas compared now, and what differs merged both ways.
    Run(rounds::RunArguments),
    /// Tell a node that lost what it held that nobody has more than what it holds now: it counts at
    /// once, and what the others have lost as well is gone for good.
    AcceptLoss(AcceptLossArguments),
}

#[derive(Debug, Args)]
struct AcceptLossArguments {
    /// The node that is recovering.
    #[arg(long)]
    node: NodeId,
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// Of one virtual node.
    #[arg(long)]
    vnode: Option<u32>,
    /// Of all that it has not recovered.
    #[arg(long)]
    all: bool,
}

pub(crate) async fn run(
    client: &Client,
    arguments: &RepairArguments,
    output: Output,
) -> Result<(), CommandError> {
    match &arguments.action {
        RepairAction::Status(arguments) => rounds::show(client, arguments, output).await,
        RepairAction::Run(arguments) => rounds::run(client, arguments, output).await,
        RepairAction::AcceptLoss(arguments) => accept_loss(client, arguments, output).await,
    }
}

async fn accept_loss(
    client: &Client,
    arguments: &AcceptLossArguments,
    output: Output,
) -> Result<(), CommandError> {
    let vnode = vnode_of(client, arguments.which.vnode)?;
    let mut status = client.accept_loss(arguments.node, vnode).await.map_err(failure)?;
    // It is written down meanwhile.
    let (before, least) = (status.recovering_vnodes, if vnode.is_some() { 1 } else { u32::MAX });
    for _ in 0..LOOKS {
        if before - status.recovering_vnodes.min(before) >= least.min(before) {
            break;
        }
        tokio::time::sleep(LOOK_EVERY).await;
        status = client.status(arguments.node).await.map_err(failure)?;
    }
    if output.is_json() { output.json(&told_json(&status)) } else { output.text(&told(&status)) }
}

/// The virtual node of that number.
fn vnode_of(client: &Client, number: Option<u32>) -> Result<Option<VnodeIndex>, CommandError> {
    let vnodes = client.record().vnodes.get();
    match number {
        Some(number) if number >= vnodes => Err(CommandError::BadInput(format!(
            "the ring has {vnodes} virtual nodes, numbered from 0: there is no {number}"
        ))),
        _ => Ok(number.map(VnodeIndex)),
    }
}

fn failure(error: StatusError) -> CommandError {
    let text = error.to_string();
    match error {
        StatusError::UnknownNode(_) => CommandError::BadInput(text),
        StatusError::Forbidden { .. } => CommandError::Forbidden(text),
        StatusError::Refused { .. } => CommandError::NotDone(text),
        _ => CommandError::Unknown(format!("{text}; `quoit status` tells whether it is done")),
    }
}

fn told(status: &NodeStatus) -> String {
    let NodeStatus { node, recovering_vnodes: left, replica_vnodes: all, .. } = status;
    match left {
        0 => format!("{node} counts in all of its {all} virtual nodes\n"),
        _ => format!("{node} is still recovering {left}/{all} virtual nodes\n"),
    }
}

fn told_json(status: &NodeStatus) -> Value {
    json!({
        "node": status.node.to_string(),
        "incarnation": status.incarnation,
        "replica_vnodes": status.replica_vnodes,
        "recovering_vnodes": status.recovering_vnodes,
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::sample;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        repair: RepairArguments,
    }

    fn parse(words: &str) -> Result<(NodeId, Option<u32>), clap::error::ErrorKind> {
        let words = ["repair"].into_iter().chain(words.split_whitespace());
        let line = Line::try_parse_from(words).map_err(|error| error.kind())?;
        let RepairAction::AcceptLoss(arguments) = line.repair.action else {
            panic!("another action");
        };
        assert_eq!(arguments.which.all, arguments.which.vnode.is_none());
        Ok((arguments.node, arguments.which.vnode))
    }

    #[test]
    fn a_loss_is_accepted_of_one_virtual_node_or_expressly_of_all() {
        assert_eq!(parse("accept-loss --node n1 --vnode 7"), Ok((NodeId(1), Some(7))));
        assert_eq!(parse("accept-loss --node n1 --all"), Ok((NodeId(1), None)));
        assert!(parse("accept-loss --node n1").is_err());
        assert!(parse("accept-loss --node n1 --all --vnode 7").is_err());
        assert!(parse("accept-loss --all").is_err());
    }

    #[test]
    fn what_is_left_is_told() {
        let mut status = sample::status(1, &[]);
        assert_eq!(told(&status), "n1 counts in all of its 3 virtual nodes\n");
        status.recovering_vnodes = 2;
        assert_eq!(told(&status), "n1 is still recovering 2/3 virtual nodes\n");
        assert_eq!(told_json(&status)["recovering_vnodes"], 2);
    }
}
