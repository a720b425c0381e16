//! How long it takes to mend after a member is lost.
//!
//! Two cases. It comes back empty, under its own name: all that it held flows to it from whoever shares
//! its virtual nodes. Or it is gone for good and taken out of the cluster: what it held is spread over
//! the others, each of which is filled by its peers.

use std::collections::BTreeMap;

use quoit_ring::assignment::reassign;

use super::placement::{Arc, REPLICATION, arcs_of, fitting, members, quoit, random_tokens};
use super::table::{Cell, Table};

/// A member holds so much, in MiB.
const HELD_MIB: f64 = 1_048_576.0;
/// One is filled so fast, in MiB a second: measured on two processors, see the node's docs.
const RATE_MIB: f64 = 80.0;

/// One row for each number of members.
pub(super) fn make(sizes: &[usize]) -> Table {
    Table {
        title: "Hours to mend after a member with 1 TiB is lost (each is filled at 80 MiB/s)".to_owned(),
        columns: vec![
            "members",
            "sources",
            "fullest source",
            "comes back, h",
            "taken out, h",
            "taken out, best, h",
            "16 tokens: sources",
            "16 tokens: fullest",
        ],
        plotted: vec![3, 4, 5],
        axis: "hours",
        rows: sizes.iter().map(|size| row(*size)).collect(),
        notes: vec![
            "Sources: members that share a virtual node with the lost one. Fullest source: the part of \
             what was lost that one of them holds, where the mean over the sources is 1: it is slowed \
             down by so much more than the others."
                .to_owned(),
            "Who comes back is filled at the rate of one member, however large the cluster; taken out, \
             all are filled at once, which takes 1 / (members - 1) of it at best (declustered \
             placement; Dynamo, section 6.2)."
                .to_owned(),
        ],
    }
}

/// How many share what the first member holds, and the greatest part over the mean.
fn sources(arcs: &[Arc]) -> (usize, f64) {
    let mut shared: BTreeMap<u64, f64> = BTreeMap::new();
    for arc in arcs.iter().filter(|arc| arc.owners.contains(&1)) {
        for owner in arc.owners.iter().filter(|owner| **owner != 1) {
            *shared.entry(*owner).or_default() += arc.length;
        }
    }
    let mean = shared.values().sum::<f64>() / shared.len().max(1) as f64;
    (shared.len(), shared.into_values().fold(0.0, f64::max) / mean)
}

fn row(size: usize) -> Vec<Cell> {
    let (members, vnodes) = (members(size), fitting(size));
    let owners = quoit(&members, vnodes);
    let (count, fullest) = sources(&arcs_of(&members, &owners));
    let left = &members[1..];
    let plan = reassign(&members, &owners, left, REPLICATION as u8).expect("sound members");
    // What each of the others gets, in places.
    let mut gets = vec![0u32; left.len()];
    for (before, after) in owners.iter().zip(&plan.owners) {
        for owner in after.iter().filter(|owner| !before.contains(&(**owner + 1))) {
            gets[usize::from(*owner)] += 1;
        }
    }
    let held = owners.iter().flatten().filter(|owner| **owner == 0).count() as f64;
    let hours = |places: f64| places / held * HELD_MIB / RATE_MIB / 3_600.0;
    let most = gets.iter().max().copied().unwrap_or(0);
    let (few, few_fullest) = sources(&random_tokens(&members, 16));
    vec![
        Cell::Count(size as u64),
        Cell::Count(count as u64),
        Cell::Number(fullest, 2),
        Cell::Number(hours(held), 2),
        Cell::Number(hours(most.into()), 3),
        Cell::Number(hours(held / left.len() as f64), 3),
        Cell::Count(few as u64),
        Cell::Number(few_fullest, 2),
    ]
}
