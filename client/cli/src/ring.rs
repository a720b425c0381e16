//! `quoit ring`: who owns how much, and each virtual node's owners.

use clap::Args;
use quoit_ring::{ClusterRecord, Member, NodeId, VnodeIndex};
use serde_json::{Value, json};

use crate::failure::CommandError;
use crate::output::Output;
use crate::render::Grid;

/// Show who owns how much of the ring.
#[derive(Debug, Args)]
pub struct RingArguments {
    /// List every virtual node with its owners and configuration number.
    #[arg(long)]
    vnodes: bool,
}

pub(crate) fn show(
    record: &ClusterRecord,
    arguments: &RingArguments,
    output: Output,
) -> Result<(), CommandError> {
    if output.is_json() {
        return output.json(&ring_json(record, arguments.vnodes));
    }
    output.text(&render(record, arguments.vnodes))
}

/// What one node owns.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Share {
    node: NodeId,
    pub(crate) primary: usize,
    pub(crate) replica: usize,
    /// Of all (virtual node, owner) pairs, in percent.
    pub(crate) percent: f64,
}

pub(crate) fn shares(record: &ClusterRecord) -> Vec<Share> {
    let pairs: usize = record.owners.iter().map(Vec::len).sum();
    let mut counts = vec![(0, 0); record.members.len()];
    for owners in &record.owners {
        for (rank, &owner) in owners.iter().enumerate() {
            let (primary, replica) = &mut counts[usize::from(owner)];
            *if rank == 0 { primary } else { replica } += 1;
        }
    }
    record
        .members
        .iter()
        .zip(counts)
        .map(|(member, (primary, replica))| Share {
            node: member.id,
            primary,
            replica,
            percent: 100.0 * (primary + replica) as f64 / pairs.max(1) as f64,
        })
        .collect()
}

fn owner_ids(record: &ClusterRecord, vnode: VnodeIndex) -> Vec<NodeId> {
    let owners = &record.owners[vnode.0 as usize];
    owners.iter().map(|&at| record.members[usize::from(at)].id).collect()
}

fn render(record: &ClusterRecord, with_vnodes: bool) -> String {
    let owners = record.owners.iter().map(Vec::len).max().unwrap_or(0);
    let mut text = format!(
        "cluster {}, record {}: {} virtual nodes with {owners} owners each, {} members\n\n",
        record.cluster,
        record.epoch,
        record.vnodes.get(),
        record.members.len(),
    );
    let mut grid = Grid::new(
        &["NODE", "ZONE", "CAPACITY", "FIRST", "OTHER", "OWNED", "SHARE"],
        &[2, 3, 4, 5, 6],
    );
    for (member, share) in record.members.iter().zip(shares(record)) {
        grid.row([
            member.id.to_string(),
            member.zone.to_string(),
            member.capacity.to_string(),
            share.primary.to_string(),
            share.replica.to_string(),
            (share.primary + share.replica).to_string(),
            format!("{:.1} %", share.percent),
        ]);
    }
    text.push_str(&grid.render());
    if with_vnodes {
        let mut grid = Grid::new(&["VNODE", "FIRST TOKEN", "CONFIGURATION", "OWNERS"], &[0, 2]);
        for vnode in record.vnodes.all() {
            let owners: Vec<_> = owner_ids(record, vnode).iter().map(NodeId::to_string).collect();
            grid.row([
                vnode.to_string(),
                record.vnodes.first_token(vnode).to_string(),
                record.configuration(vnode).to_string(),
                owners.join(" "),
            ]);
        }
        text.push('\n');
        text.push_str(&grid.render());
    }
    text
}

/// A member, and its share of the ring.
pub(crate) fn share_json(member: &Member, share: &Share) -> Value {
    json!({
        "node": member.id.to_string(),
        "address": member.address.to_string(),
        "datacenter": member.zone.datacenter,
        "rack": member.zone.rack,
        "capacity": member.capacity,
        "vnodes_first": share.primary,
        "vnodes_other": share.replica,
        "share_percent": share.percent,
    })
}

fn ring_json(record: &ClusterRecord, with_vnodes: bool) -> Value {
    let nodes: Vec<_> = record
        .members
        .iter()
        .zip(shares(record))
        .map(|(member, share)| share_json(member, &share))
        .collect();
    let mut ring = json!({
        "cluster": record.cluster.to_string(),
        "epoch": record.epoch.0,
        "vnode_count": record.vnodes.get(),
        "nodes": nodes,
    });
    if with_vnodes {
        let vnodes = record.vnodes.all().map(|vnode| {
            let owners = owner_ids(record, vnode);
            json!({
                "vnode": vnode.0,
                "first_token": record.vnodes.first_token(vnode).to_string(),
                "configuration": record.configuration(vnode).0,
                "owners": owners.iter().map(NodeId::to_string).collect::<Vec<_>>(),
            })
        });
        ring["vnodes"] = vnodes.collect();
    }
    ring
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn the_ring_is_golden() {
        assert_eq!(
            render(&sample::record(), true),
            "cluster 0000000000000000000000000000002a, record 7: 4 virtual nodes with 2 owners each, 3 members\n\
             \n\
             NODE  ZONE         CAPACITY  FIRST  OTHER  OWNED   SHARE\n\
             n1    local/rack1         1      2      1      3  37.5 %\n\
             n2    local/rack2         1      1      2      3  37.5 %\n\
             n3    local/rack3         1      1      1      2  25.0 %\n\
             \n\
             VNODE  FIRST TOKEN       CONFIGURATION  OWNERS\n    \
                 0  0000000000000000              1  n1 n2\n    \
                 1  4000000000000000              1  n2 n3\n    \
                 2  8000000000000000              1  n3 n1\n    \
                 3  c000000000000000              2  n1 n2\n"
        );
    }

    #[test]
    fn the_json_lists_virtual_nodes_only_when_asked() {
        let record = sample::record();
        assert!(ring_json(&record, false).get("vnodes").is_none());
        let ring = ring_json(&record, true);
        assert_eq!(ring["vnodes"][3]["owners"], json!(["n1", "n2"]));
        assert_eq!(ring["nodes"][0]["vnodes_first"], 2);
    }
}
