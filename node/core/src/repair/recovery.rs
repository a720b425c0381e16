//! How a replica that has lost what it held comes to count again, virtual node by virtual node
//! (design, section 6).
//!
//! From the moment of a loss on the store vouches for nothing (see `quoit_storage::store`): what the
//! replica is sent it takes in, and its answers count for nobody. Of a table's N replicas W have
//! acknowledged a write, so that W - 1 of the others hold what this one has lost: whatever N - W + 1 of
//! the others hold takes it in. When all that so many of them held of a virtual node, at a moment after
//! the loss, is durable here, for every N that tables have, the virtual node is trusted again.
//!
//! - **W** is each table's own; a write that asked for less has promised no more. Where there are
//!   not so many others, all of them must do. Where there are none (N = 1), nobody knows what was
//!   lost, and the virtual node stays as it is.
//! - **Which tables there were** must be known: a node that took a new incarnation waits for a
//!   record that names this. It was decided after the loss, so no earlier one has a table that it
//!   does not know of, or has dropped. (Tables made later lost nothing.)
//! - **If the others are lost as well** nothing of this can be had, and an operator must say that what is left
//!   is all there is ([`Recovery::accept_loss`]).
//!
//! What was merged is not written down: after a restart it is merged again.

use std::collections::{BTreeMap, BTreeSet};

use quoit_ring::{ClusterRecord, NodeId, VnodeIndex};

use quoit_storage::planted::{PlantedBug, is_planted};

use crate::time::Instant;

/// At most so many virtual nodes are being trusted at a time.
const TRUST_MAX: usize = 256;

/// The virtual nodes that are not trusted, and what was merged there.
#[derive(Debug, Default)]
pub(crate) struct Recovery {
    /// What began before does not count.
    since: Instant,
    distrusted: BTreeSet<VnodeIndex>,
    merged: BTreeMap<VnodeIndex, BTreeSet<(u8, NodeId)>>,
    accepted: BTreeSet<VnodeIndex>,
    /// The store was asked to trust them.
    asked: BTreeSet<VnodeIndex>,
    /// Those that may have become due.
    to_judge: BTreeSet<VnodeIndex>,
}

impl Recovery {
    /// From now on these are not trusted, and nothing was merged there.
    pub(crate) fn begin(&mut self, distrusted: impl Iterator<Item = VnodeIndex>, now: Instant) {
        let distrusted: BTreeSet<VnodeIndex> = distrusted.collect();
        let to_judge = distrusted.clone();
        *self = Self { since: now, distrusted, to_judge, ..Self::default() };
    }

    /// Whether anything is not trusted.
    pub(crate) fn is_under_way(&self) -> bool {
        !self.distrusted.is_empty()
    }

    /// Those that are not trusted, ascending.
    pub(crate) fn distrusted(&self) -> impl Iterator<Item = VnodeIndex> {
        self.distrusted.iter().copied()
    }

    /// All that a whole peer held of a virtual node, in tables of one N, at `began` or later is
    /// durable here.
    pub(crate) fn on_merged_from(
        &mut self,
        vnode: VnodeIndex,
        replication: u8,
        peer: NodeId,
        began: Instant,
    ) {
        if began > self.since && self.distrusted.contains(&vnode) {
            self.merged.entry(vnode).or_default().insert((replication, peer));
            self.to_judge.insert(vnode);
        }
    }

    /// All is looked at again: the tables may have changed, or the store failed.
    pub(crate) fn judge_all(&mut self) {
        self.to_judge.clone_from(&self.distrusted);
    }

    /// Nobody has more: what is here of a virtual node, or of all, is to be trusted. How many that
    /// are.
    pub(crate) fn accept_loss(&mut self, vnode: Option<VnodeIndex>) -> usize {
        let accepted: Vec<VnodeIndex> =
            self.distrusted().filter(|it| vnode.is_none_or(|vnode| vnode == *it)).collect();
        self.to_judge.extend(&accepted);
        self.accepted.extend(&accepted);
        accepted.len()
    }

    /// The virtual nodes that the store should trust now. `is_record_new` tells that the record was
    /// decided after the loss.
    pub(crate) fn due(
        &mut self,
        record: Option<&ClusterRecord>,
        own: NodeId,
        is_record_new: bool,
    ) -> Vec<VnodeIndex> {
        if self.to_judge.is_empty() {
            return Vec::new();
        }
        let needs = record.filter(|_| is_record_new).map(Needs::of);
        let room = TRUST_MAX.saturating_sub(self.asked.len());
        let is_due = |vnode: &VnodeIndex| {
            let is_merged = needs.as_ref().zip(record).is_some_and(|(needs, record)| {
                needs.are_met(record, *vnode, own, self.merged.get(vnode))
            });
            !self.asked.contains(vnode) && (is_merged || self.accepted.contains(vnode))
        };
        let due: Vec<VnodeIndex> =
            self.to_judge.iter().copied().filter(is_due).take(room).collect();
        self.asked.extend(&due);
        if due.len() < room {
            self.to_judge.clear();
        } else {
            self.to_judge.retain(|vnode| !due.contains(vnode));
        }
        due
    }

    /// The store trusts a virtual node, or could not write that down: then it is asked again after
    /// the next [`Recovery::judge_all`].
    pub(crate) fn on_trusted(&mut self, vnode: VnodeIndex, is_durable: bool) {
        self.asked.remove(&vnode);
        if is_durable {
            self.distrusted.remove(&vnode);
            self.merged.remove(&vnode);
            self.accepted.remove(&vnode);
        }
    }
}

/// For each N in use the least W of its tables.
struct Needs(BTreeMap<u8, u8>);

impl Needs {
    fn of(record: &ClusterRecord) -> Self {
        let mut needs = BTreeMap::new();
        for table in &record.tables {
            let options = &table.options;
            // A record that was checked has no level that cannot be had.
            let write = options.write_level.required(options.replication).unwrap_or(1);
            let least = needs.entry(options.replication).or_insert(write);
            *least = write.min(*least);
        }
        Self(needs)
    }

    fn are_met(
        &self,
        record: &ClusterRecord,
        vnode: VnodeIndex,
        own: NodeId,
        merged: Option<&BTreeSet<(u8, NodeId)>>,
    ) -> bool {
        self.0.iter().all(|(&replication, &write)| {
            if !record.is_primary(own, vnode, replication) {
                return true;
            }
            let others: Vec<NodeId> =
                record.primaries(vnode, replication).filter(|node| *node != own).collect();
            let is_merged =
                |peer: &&NodeId| merged.is_some_and(|it| it.contains(&(replication, **peer)));
            let needed = match is_planted(PlantedBug::RefillFromOne) {
                true => 1,
                false => usize::from(replication.saturating_sub(write)) + 1,
            };
            others.iter().filter(is_merged).count() >= needed.min(others.len()).max(1)
        })
    }
}

#[cfg(test)]
mod tests {
    use quoit_ring::{
        ClusterId, Level, Member, RingKey, Table, TableId, TableOptions, VnodeCount, Zone,
        assignment,
    };

    use super::*;

    const OWN: NodeId = NodeId(1);

    fn record(members: u64, tables: &[(u8, Level)]) -> ClusterRecord {
        let member = |id| Member {
            id: NodeId(id),
            address: std::net::SocketAddr::from(([127, 0, 0, 1], 7_000)),
            zone: Zone { datacenter: "d".to_owned(), rack: format!("r{id}") },
            capacity: 1,
        };
        let vnodes = VnodeCount::new(8).expect("a power of two");
        let members: Vec<Member> = (1..=members).map(member).collect();
        let most = u8::try_from(members.len().min(3)).expect("small");
        let mut record =
            assignment::initial_record(ClusterId(7), RingKey(1, 2), vnodes, most, members)
                .expect("a record");
        for (id, (replication, write_level)) in (1..).zip(tables) {
            let options = TableOptions {
                replication: *replication,
                write_level: *write_level,
                ..TableOptions::default()
            };
            record.tables.push(Table { id: TableId(id), name: format!("t{id}"), options });
        }
        record
    }

    fn recovery() -> Recovery {
        let mut recovery = Recovery::default();
        recovery.begin((0..8).map(VnodeIndex), Instant(5));
        recovery
    }

    /// Merges these peers, one after the other, and tells after how many the virtual node is due.
    #[track_caller]
    fn check(record: &ClusterRecord, merged: &[(u8, u64)], due_after: Option<usize>) {
        let vnode = VnodeIndex(3);
        let mut recovery = recovery();
        let mut due = None;
        for count in 0..=merged.len() {
            if let Some((replication, peer)) = count.checked_sub(1).map(|at| merged[at]) {
                recovery.on_merged_from(vnode, replication, NodeId(peer), Instant(6));
            }
            if recovery.due(Some(record), OWN, true).contains(&vnode) {
                due = Some(count);
                break;
            }
        }
        assert_eq!(due, due_after);
    }

    #[test]
    fn enough_of_the_others_are_those_that_meet_every_acknowledgement() {
        let quorum = record(3, &[(3, Level::Quorum)]);
        check(&quorum, &[(3, 2), (3, 2), (3, 3)], Some(3));
        check(&record(3, &[(3, Level::All)]), &[(3, 3)], Some(1));
        check(&record(3, &[(3, Level::One)]), &[(3, 3), (3, 2)], Some(2));
        check(&record(3, &[(3, Level::All), (3, Level::Quorum)]), &[(3, 3), (3, 2)], Some(2));
        check(&record(1, &[(1, Level::One)]), &[], None);
        check(&record(3, &[]), &[], Some(0));
    }

    #[test]
    fn every_replication_factor_needs_its_own() {
        let record = record(5, &[(5, Level::Quorum), (3, Level::Quorum)]);
        assert!(record.is_primary(OWN, VnodeIndex(3), 5));
        let five = [(5, 2), (5, 3), (5, 4)];
        let is_of_three = record.is_primary(OWN, VnodeIndex(3), 3);
        check(&record, &five, (!is_of_three).then_some(3));
        let others: Vec<(u8, u64)> = record
            .primaries(VnodeIndex(3), 3)
            .filter(|node| *node != OWN)
            .map(|node| (3, node.0))
            .collect();
        check(&record, &[&others[..], &five].concat(), Some(others.len() + 3));
    }

    #[test]
    fn who_is_no_replica_has_nothing_to_wait_for() {
        let record = record(5, &[(1, Level::One), (3, Level::Quorum)]);
        let mut recovery = recovery();
        let due = recovery.due(Some(&record), OWN, true);
        let is_none = |vnode: &VnodeIndex| !record.is_primary(OWN, *vnode, 3);
        assert_eq!(due, record.vnodes.all().filter(is_none).collect::<Vec<_>>());
    }

    #[test]
    fn nothing_is_due_before_the_tables_are_known() {
        let record = record(3, &[(3, Level::Quorum)]);
        let mut recovery = recovery();
        for peer in [2, 3] {
            recovery.on_merged_from(VnodeIndex(1), 3, NodeId(peer), Instant(6));
        }
        assert_eq!(recovery.due(None, OWN, true), []);
        recovery.judge_all();
        assert_eq!(recovery.due(Some(&record), OWN, false), []);
        recovery.judge_all();
        assert_eq!(recovery.due(Some(&record), OWN, true), [VnodeIndex(1)]);
        assert_eq!(recovery.due(Some(&record), OWN, true), [], "it is asked for once");
        recovery.on_trusted(VnodeIndex(1), false);
        recovery.judge_all();
        assert_eq!(recovery.due(Some(&record), OWN, true), [VnodeIndex(1)], "and again");
        recovery.on_trusted(VnodeIndex(1), true);
        assert_eq!(recovery.distrusted().count(), 7);
    }

    #[test]
    fn what_began_before_the_loss_does_not_count() {
        let record = record(3, &[(3, Level::Quorum)]);
        let mut recovery = recovery();
        for peer in [2, 3] {
            recovery.on_merged_from(VnodeIndex(1), 3, NodeId(peer), Instant(5));
        }
        assert_eq!(recovery.due(Some(&record), OWN, true), []);
        for peer in [2, 3] {
            recovery.on_merged_from(VnodeIndex(1), 3, NodeId(peer), Instant(6));
        }
        // A second loss forgets what was merged after the first.
        recovery.begin((0..8).map(VnodeIndex), Instant(7));
        assert_eq!(recovery.due(Some(&record), OWN, true), []);
    }

    #[test]
    fn an_accepted_loss_waits_for_nobody() {
        let mut recovery = recovery();
        assert_eq!(recovery.accept_loss(Some(VnodeIndex(9))), 0);
        assert_eq!(recovery.accept_loss(Some(VnodeIndex(2))), 1);
        assert_eq!(recovery.due(None, OWN, false), [VnodeIndex(2)]);
        recovery.on_trusted(VnodeIndex(2), true);
        assert_eq!(recovery.accept_loss(None), 7);
        assert_eq!(recovery.due(None, OWN, false).len(), 7);
    }

    #[test]
    fn the_store_is_asked_for_so_many_at_a_time() {
        let mut recovery = Recovery::default();
        recovery.begin((0..1_000).map(VnodeIndex), Instant(5));
        recovery.accept_loss(None);
        let mut total = 0;
        while recovery.is_under_way() {
            let due = recovery.due(None, OWN, false);
            assert!(!due.is_empty() && due.len() <= TRUST_MAX);
            total += due.len();
            due.into_iter().for_each(|vnode| recovery.on_trusted(vnode, true));
        }
        assert_eq!(total, 1_000);
    }
}
