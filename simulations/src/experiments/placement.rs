//! Placements on the same members: Quoit's own, random tokens, bounded loads.

use std::collections::{BTreeMap, BTreeSet};

use quoit_core::random::Random;
use quoit_ring::assignment::assign;
use quoit_ring::{Member, NodeId, VnodeCount, Zone};

/// The ring's length.
const RING: f64 = 18_446_744_073_709_551_616.0;
/// N of all experiments.
pub(super) const REPLICATION: usize = 3;
/// Racks, where there are so many members.
const RACKS: usize = 5;
/// A member should have so many places, so that one more or less is 2 %.
const PLACES_MIN: usize = 50;

/// Members n1, n2, ..., in five racks in turns, all alike.
pub(super) fn members(count: usize) -> Vec<Member> {
    let member = |number: usize| Member {
        id: NodeId(number as u64),
        address: std::net::SocketAddr::from(([127, 0, 0, 1], 7_000)),
        zone: Zone { datacenter: "d".to_owned(), rack: format!("r{}", number % RACKS) },
        capacity: 1,
    };
    (1..=count).map(member).collect()
}

/// Q that fits: the least power of two that gives a member 50 places, between the default and the
/// greatest that there is.
pub(super) fn fitting(members: usize) -> VnodeCount {
    let wanted = (members * PLACES_MIN).div_ceil(REPLICATION).next_power_of_two();
    let bounded = wanted.clamp(VnodeCount::DEFAULT.get() as usize, VnodeCount::MAX as usize);
    VnodeCount::new(u32::try_from(bounded).expect("it was bounded")).expect("a power of two")
}

/// Quoit's owners.
pub(super) fn quoit(members: &[Member], vnodes: VnodeCount) -> Vec<Vec<u16>> {
    assign(members, vnodes, REPLICATION as u8).expect("the members are sound")
}

/// A part of the ring and its owners.
pub(super) struct Arc {
    /// Of the whole ring, which is 1.
    pub(super) length: f64,
    pub(super) owners: Vec<u64>,
}

/// Owners as arcs.
pub(super) fn arcs_of(members: &[Member], owners: &[Vec<u16>]) -> Vec<Arc> {
    let length = 1.0 / owners.len() as f64;
    let id = |owner: &u16| members[usize::from(*owner)].id.0;
    owners.iter().map(|row| Arc { length, owners: row.iter().map(id).collect() }).collect()
}

/// The tokens of a member: the same for ever.
fn tokens_of(member: u64, count: usize) -> Vec<u64> {
    let mut random = Random::new(member.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x0074_6f6b_656e);
    (0..count).map(|_| random.draw()).collect()
}

/// Random tokens: the owners of an arc are the next N distinct members clockwise.
pub(super) fn random_tokens(members: &[Member], per_member: usize) -> Vec<Arc> {
    let mut ring: BTreeMap<u64, u64> = BTreeMap::new();
    for member in members {
        ring.extend(tokens_of(member.id.0, per_member).into_iter().map(|at| (at, member.id.0)));
    }
    let tokens: Vec<(u64, u64)> = ring.into_iter().collect();
    let width = REPLICATION.min(members.len());
    let mut arcs = Vec::with_capacity(tokens.len());
    let mut before = 0;
    for (at, (token, _)) in tokens.iter().enumerate() {
        let length = (token - before) as f64 / RING;
        before = *token;
        let mut owners = Vec::with_capacity(width);
        for step in 0..tokens.len() {
            let owner = tokens[(at + step) % tokens.len()].1;
            if !owners.contains(&owner) {
                owners.push(owner);
                if owners.len() == width {
                    break;
                }
            }
        }
        arcs.push(Arc { length, owners });
    }
    // What lies behind the last token belongs to the first one.
    let owners = arcs[0].owners.clone();
    arcs.push(Arc { length: (u64::MAX - before) as f64 / RING, owners });
    arcs
}

/// Consistent hashing with bounded loads: the virtual nodes are the balls, members the bins, none of
/// which takes more than 1.02 times the mean (or one more than the mean, where that is more).
pub(super) fn bounded_loads(members: &[Member], vnodes: VnodeCount) -> Vec<Arc> {
    let balls = vnodes.get() as usize;
    let width = REPLICATION.min(members.len());
    let mean = (balls * width) as f64 / members.len() as f64;
    let bound = (mean * 1.02).ceil().max(mean.floor() + 1.0) as usize;
    let mut ring: Vec<(u64, u64)> =
        members.iter().map(|member| (tokens_of(member.id.0, 1)[0], member.id.0)).collect();
    ring.sort_unstable();
    let mut loads: BTreeMap<u64, usize> = BTreeMap::new();
    let mut random = Random::new(7);
    let length = 1.0 / balls as f64;
    let mut arcs = Vec::with_capacity(balls);
    for _ in 0..balls {
        let ball = random.draw();
        let start = ring.partition_point(|(at, _)| *at < ball);
        let mut owners = Vec::with_capacity(width);
        for step in 0..ring.len() {
            let (_, member) = ring[(start + step) % ring.len()];
            let load = loads.entry(member).or_default();
            if *load < bound {
                *load += 1;
                owners.push(member);
                if owners.len() == width {
                    break;
                }
            }
        }
        arcs.push(Arc { length, owners });
    }
    arcs
}

/// Each member's part of the data, replicas counted, where the mean is 1.
pub(super) fn loads(members: &[Member], arcs: &[Arc]) -> BTreeMap<u64, f64> {
    let mut loads: BTreeMap<u64, f64> = members.iter().map(|member| (member.id.0, 0.0)).collect();
    for arc in arcs {
        for owner in &arc.owners {
            *loads.entry(*owner).or_default() += arc.length;
        }
    }
    let mean = loads.values().sum::<f64>() / members.len() as f64;
    loads.values_mut().for_each(|load| *load /= mean);
    loads
}

/// The greatest load, where the mean is 1.
pub(super) fn max_over_mean(members: &[Member], arcs: &[Arc]) -> f64 {
    loads(members, arcs).into_values().fold(0.0, f64::max)
}

/// What must be copied to get from one placement to another, of the data without replicas. Both may
/// cut the ring elsewhere, unless `same_cuts`.
pub(super) fn moved(before: &[Arc], after: &[Arc], same_cuts: bool) -> f64 {
    let new_owners = |old: &Arc, new: &Arc| {
        let old: BTreeSet<u64> = old.owners.iter().copied().collect();
        new.owners.iter().filter(|owner| !old.contains(owner)).count() as f64
    };
    if same_cuts {
        return before.iter().zip(after).map(|(old, new)| new.length * new_owners(old, new)).sum();
    }
    // Both go around the ring from one place; arcs end at tokens.
    let ends = |arcs: &[Arc]| -> Vec<f64> {
        let mut end = 0.0;
        arcs.iter()
            .map(|arc| {
                end += arc.length;
                end
            })
            .collect()
    };
    let (old_ends, new_ends) = (ends(before), ends(after));
    let (mut at, mut old, mut new, mut sum) = (0.0, 0, 0, 0.0);
    while old < before.len() && new < after.len() {
        let end = old_ends[old].min(new_ends[new]);
        sum += (end - at) * new_owners(&before[old], &after[new]);
        at = end;
        if old_ends[old] <= end {
            old += 1;
        }
        if new_ends[new] <= end {
            new += 1;
        }
    }
    sum
}
