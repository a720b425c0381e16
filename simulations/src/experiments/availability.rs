//! What is lost to requests while members are down: strict quorums, N=3, R=W=2.
//!
//! A request fails if two of its key's replicas are down. Drawn at random many times over the real
//! placement, beside the formula; and for two members that fail at once, how likely it is that any key
//! is lost to requests, which depends on who shares virtual nodes with whom.

use std::collections::BTreeSet;

use quoit_core::random::Random;

use super::placement::{Arc, REPLICATION, arcs_of, fitting, members, quoit, random_tokens};
use super::table::{Cell, Table};

/// Draws for each number.
const DRAWS: usize = 400;
/// Members are down with these probabilities, in thousandths.
const DOWN: [u64; 3] = [10, 50, 100];

/// One row for each number of members.
pub(super) fn make(sizes: &[usize], seed: u64) -> Table {
    Table {
        title: "Requests that fail, in percent (N=3, R=W=2), while members are down at random".to_owned(),
        columns: vec![
            "members",
            "1 % down",
            "theory",
            "5 % down",
            "theory ",
            "10 % down",
            "theory  ",
            "a rack down",
            "two down: some key, quoit",
            "two down: some key, 16 tokens",
        ],
        plotted: vec![1, 3, 5],
        axis: "percent of requests",
        rows: sizes.iter().map(|size| row(*size, seed)).collect(),
        notes: vec![
            "Theory: a key's requests fail if two or three of its three replicas are down, each with \
             probability p: 3 p^2 - 2 p^3. Replicas stand on distinct racks, so a whole rack that fails \
             costs nothing."
                .to_owned(),
            "Two down: the percentage of pairs of members that share some virtual node, so that its keys \
             fail when just these two are down. The more evenly a failed member's load is spread, the \
             more pairs do (Cidon et al., \"Copysets\", 2013): speed of mending is bought with it."
                .to_owned(),
        ],
    }
}

/// The part of requests that fail while these are down.
fn failing(arcs: &[Arc], down: &BTreeSet<u64>) -> f64 {
    let fails = |arc: &&Arc| {
        let dead = arc.owners.iter().filter(|owner| down.contains(owner)).count();
        arc.owners.len() - dead < REPLICATION / 2 + 1
    };
    arcs.iter().filter(fails).fold(0.0, |sum, arc| sum + arc.length)
}

fn sharing_pairs(arcs: &[Arc], members: usize) -> f64 {
    let mut pairs: BTreeSet<(u64, u64)> = BTreeSet::new();
    for arc in arcs {
        for one in &arc.owners {
            pairs.extend(arc.owners.iter().filter(|two| *two > one).map(|two| (*one, *two)));
        }
    }
    100.0 * pairs.len() as f64 / (members * (members - 1) / 2) as f64
}

fn row(size: usize, seed: u64) -> Vec<Cell> {
    let members = members(size);
    let arcs = arcs_of(&members, &quoit(&members, fitting(size)));
    let mut random = Random::new(seed);
    let mut cells = vec![Cell::Count(size as u64)];
    for thousandths in DOWN {
        let mut sum = 0.0;
        for _ in 0..DRAWS {
            let ids = members.iter().map(|member| member.id.0);
            let down: BTreeSet<u64> = ids.filter(|_| random.below(1_000) < thousandths).collect();
            sum += failing(&arcs, &down);
        }
        let p = thousandths as f64 / 1_000.0;
        cells.push(Cell::Number(100.0 * sum / DRAWS as f64, 3));
        cells.push(Cell::Number(100.0 * (3.0 * p * p - 2.0 * p * p * p), 3));
    }
    let rack = &members[0].zone.rack;
    let on_it = members.iter().filter(|member| member.zone.rack == *rack);
    let down: BTreeSet<u64> = on_it.map(|member| member.id.0).collect();
    cells.push(Cell::Number(100.0 * failing(&arcs, &down), 3));
    cells.push(Cell::Number(sharing_pairs(&arcs, size), 1));
    cells.push(Cell::Number(sharing_pairs(&random_tokens(&members, 16), size), 1));
    cells
}
