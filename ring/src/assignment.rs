//! Owners for a set of members: which of them hold each virtual node, and in what order.
//!
//! It follows Dynamo's third strategy (section 6.2): equal arcs, and the members share them out. The
//! work is done in four steps, each with a law of its own that the next one keeps:
//!
//! 1. [`share`] says how many places (virtual node, replica) each member holds: its fair share,
//!    rounded down or up.
//! 2. [`lay_out`] deals these places around the ring, which already keeps the owners of a virtual
//!    node distinct and its racks even.
//! 3. [`mix`] trades owners between virtual nodes, so that whoever fails leaves its load to many.
//! 4. [`order`] chooses who comes first, so that all coordinate equally.
//!
//! The result is a function of the arguments: the draws come from a fixed seed. Steps 3 and 4 only
//! trade places. The plan from one member set to the next is [`reassign`]'s.

mod order;
mod plan;
mod random;
mod share;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use self::plan::{Plan, reassign};
use self::random::Draws;
use self::share::{PerVnode, even_over_racks};
use crate::{
    ClusterId, ClusterRecord, ConfigurationNumber, Epoch, Member, NodeId, RingKey, TableId,
    VOTERS_MAX, VnodeCount, Zone,
};

/// How often [`mix`] tries a trade for each place: enough that nothing of the deal's order is left.
const TRADES_PER_PLACE: usize = 16;
/// [`mix`] never tries more trades than this, whatever the size of the ring.
const TRADES_MAX: usize = 1 << 22;

/// Owners that nobody can compute. Nothing was made; correct the argument.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AssignmentError {
    /// There is nobody to own anything.
    #[error("there are no members: name at least one")]
    NoMembers,
    /// An owner's index would not fit into its 16 bits.
    #[error("{0} members are too many: at most {max} fit a ring", max = u16::MAX)]
    TooManyMembers(usize),
    /// The members do not ascend by id, or this one is listed twice.
    #[error("member {0} is listed twice or out of order: list members once each, ascending by id")]
    Order(NodeId),
    /// A member of capacity 0 would have no share.
    #[error("member {0} has capacity 0: the least is 1")]
    NoCapacity(NodeId),
    /// Nobody would keep any data.
    #[error("a replication of 0 keeps nothing: the least is 1")]
    NoReplicas,
}

/// For each virtual node its ordered owners, as indexes into `members`, which ascend by id.
///
/// What holds for every input, with N the lesser of `replication` and the number of members, and a
/// *rack* being a datacenter's rack:
///
/// - **Distinct.** Each virtual node has exactly N owners, all different.
/// - **Racks.** They stand on N different racks wherever there are N racks. Where there are fewer,
///   they are as even over the racks as the racks' sizes allow: no rack holds two more of a virtual
///   node's owners than another rack that still has members to spare. The first 1, 2, 3, ... owners
///   are even in the same way, so it holds for a table of a smaller N too.
/// - **Shares.** A member's places differ by less than one from its fair share. That is its share
///   by capacity under the two laws above: a member holds at most all virtual nodes, a rack no less
///   and no more than its part of every virtual node, and what one cannot take goes to the
///   others in proportion to their capacity. So racks win over capacity.
/// - **First places.** Of its places, one in N (rounded down or up) is a first one.
///
/// Datacenters are not told apart beyond their racks: owners may all stand in one of several.
///
/// Who shares virtual nodes with whom is mixed as if at random, so that a failed member's load goes
/// to many; this is no promise for every input.
///
/// # Errors
///
/// [`AssignmentError`] names the argument that is out of range.
pub fn assign(
    members: &[Member],
    vnodes: VnodeCount,
    replication: u8,
) -> Result<Vec<Vec<u16>>, AssignmentError> {
    check(members, replication)?;
    let racks = Racks::of(members);
    let vnodes = vnodes.get() as usize;
    let owners_per_vnode = usize::from(replication).min(members.len());
    let per_vnode = even_over_racks(&racks.sizes(), owners_per_vnode);
    let places = share::places(members, &racks, &per_vnode, vnodes, owners_per_vnode);

    let mut draws = Draws::new();
    let mut owners = lay_out(&racks, &places, vnodes);
    mix(&mut owners, &racks, &per_vnode, &mut draws);
    order::balance_places(&mut owners, &places, &mut draws);
    if racks.members.len() < owners_per_vnode {
        for row in &mut owners {
            order::alternate_racks(row, &racks);
        }
    }
    Ok(owners)
}

/// The first record of a cluster, epoch 1: owners by [`assign`], every configuration number 1, no
/// tables. The members may come in any order.
///
/// The voters are the first members by id: as many as there are, at most [`VOTERS_MAX`], and one
/// fewer where that makes them odd. An even number would survive no more failures than the odd one
/// below it, and would need one vote more.
///
/// # Errors
///
/// As [`assign`].
pub fn initial_record(
    cluster: ClusterId,
    ring_key: RingKey,
    vnodes: VnodeCount,
    replication: u8,
    mut members: Vec<Member>,
) -> Result<ClusterRecord, AssignmentError> {
    members.sort_by_key(|member| member.id);
    let owners = assign(&members, vnodes, replication)?;
    let at_most = members.len().min(VOTERS_MAX);
    let voters = if at_most.is_multiple_of(2) { at_most - 1 } else { at_most };
    let record = ClusterRecord {
        cluster,
        epoch: Epoch(1),
        ring_key,
        vnodes,
        voters: members[..voters].iter().map(|member| member.id).collect(),
        incarnations: Vec::new(),
        configurations: vec![ConfigurationNumber(1); owners.len()],
        members,
        owners,
        tables: Vec::new(),
        table_id_next: TableId(1),
    };
    assert_eq!(record.check(), Ok(()), "a new record is consistent");
    Ok(record)
}

fn check(members: &[Member], replication: u8) -> Result<(), AssignmentError> {
    if members.is_empty() {
        return Err(AssignmentError::NoMembers);
    }
    if members.len() > usize::from(u16::MAX) {
        return Err(AssignmentError::TooManyMembers(members.len()));
    }
    if let Some(pair) = members.windows(2).find(|pair| pair[0].id >= pair[1].id) {
        return Err(AssignmentError::Order(pair[1].id));
    }
    if let Some(member) = members.iter().find(|member| member.capacity == 0) {
        return Err(AssignmentError::NoCapacity(member.id));
    }
    if replication == 0 {
        return Err(AssignmentError::NoReplicas);
    }
    Ok(())
}

/// The members by the rack that they stand on. Racks ascend by zone, and their members by id.
struct Racks {
    /// For each rack its members.
    members: Vec<Vec<u16>>,
    /// For each member its rack.
    rack_of: Vec<usize>,
}

impl Racks {
    fn of(members: &[Member]) -> Self {
        let mut by_zone: BTreeMap<&Zone, Vec<u16>> = BTreeMap::new();
        for (index, member) in (0..=u16::MAX).zip(members) {
            by_zone.entry(&member.zone).or_default().push(index);
        }
        let mut rack_of = vec![0; members.len()];
        for (rack, indexes) in by_zone.values().enumerate() {
            for &index in indexes {
                rack_of[usize::from(index)] = rack;
            }
        }
        Self { members: by_zone.into_values().collect(), rack_of }
    }

    fn sizes(&self) -> Vec<usize> {
        self.members.iter().map(Vec::len).collect()
    }

    fn rack_of(&self, member: u16) -> usize {
        self.rack_of[usize::from(member)]
    }

    /// How many of `row` stand on a rack.
    fn count(&self, row: &[u16], rack: usize) -> usize {
        row.iter().filter(|&&member| self.rack_of(member) == rack).count()
    }
}

/// Deals all places around the ring, one virtual node after the other, each member's places
/// together and each rack's members together (McNaughton's wrap-around rule).
///
/// A member's places are at most one turn of the ring, so it meets no virtual node twice. A rack's
/// places follow each other, so its parts of any two virtual nodes differ by at most one. All
/// places together are a whole number of turns, so every virtual node gets as many.
fn lay_out(racks: &Racks, places: &[usize], vnodes: usize) -> Vec<Vec<u16>> {
    let mut owners = vec![Vec::new(); vnodes];
    let mut vnode = 0;
    for &member in racks.members.iter().flatten() {
        for _ in 0..places[usize::from(member)] {
            owners[vnode].push(member);
            vnode = (vnode + 1) % vnodes;
        }
    }
    owners
}

/// Trades owners between virtual nodes drawn at random, wherever both stay distinct and keep their
/// racks even. Nobody's number of places changes.
///
/// Between any two different virtual nodes some trade is allowed, so nothing stays as it was dealt.
fn mix(owners: &mut [Vec<u16>], racks: &Racks, per_vnode: &[PerVnode], draws: &mut Draws) {
    let vnodes = owners.len();
    let owners_per_vnode = owners[0].len();
    if owners_per_vnode == racks.rack_of.len() {
        return;
    }
    for _ in 0..(vnodes * owners_per_vnode * TRADES_PER_PLACE).min(TRADES_MAX) {
        let (one, other) = (draws.below(vnodes), draws.below(vnodes));
        let (from_one, from_other) = (draws.below(owners_per_vnode), draws.below(owners_per_vnode));
        let (leaving, coming) = (owners[one][from_one], owners[other][from_other]);
        if may_replace(&owners[one], leaving, coming, racks, per_vnode)
            && may_replace(&owners[other], coming, leaving, racks, per_vnode)
        {
            owners[one][from_one] = coming;
            owners[other][from_other] = leaving;
        }
    }
}

/// Whether the owners stay distinct and even over the racks when `leaving` makes way for `coming`.
fn may_replace(
    row: &[u16],
    leaving: u16,
    coming: u16,
    racks: &Racks,
    per_vnode: &[PerVnode],
) -> bool {
    if row.contains(&coming) {
        return false;
    }
    let (left, entered) = (racks.rack_of(leaving), racks.rack_of(coming));
    left == entered
        || (racks.count(row, left) > per_vnode[left].least
            && racks.count(row, entered) < per_vnode[entered].most)
}
