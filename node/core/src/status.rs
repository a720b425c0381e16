//! What a node tells people about itself and about what it sees.

use std::collections::{BTreeMap, BTreeSet};

use quoit_protocol::AskRepair;
use quoit_protocol::activity::{Activity, Measured};
use quoit_protocol::status::{
    HintStatus, MemberStatus, NodeStatus, RepairStatus, StorageStatus, TableStatus, VnodeRepair,
};
use quoit_ring::{Table, VnodeIndex};
use quoit_storage::layout::HintKind;
use quoit_storage::store::StoreFigures;

use crate::node::NodeCore;
use crate::repair::hints::Line;
use crate::time::Now;

impl NodeCore {
    /// The answer to a status request, and what the node's metrics show.
    pub fn status(&mut self, figures: StoreFigures, now: Now) -> NodeStatus {
        let mut problems = self.problems();
        let (held, recovering) = self.recovering();
        if recovering > 0 {
            problems.push(format!(
                "recovering {recovering}/{held} vnodes: what the data directory held was damaged or \
                 lost, and this node does not count there until it is filled by the others (where \
                 none of them has it any more, `quoit repair accept-loss` gives it up)"
            ));
        }
        if let Some(damage) = &figures.damage {
            problems.push(format!(
                "{damage}; keys that it hides are answered by the other replicas and rebuilt from \
                 them as they are read ({} reads met such keys)",
                figures.unreadable
            ));
        }
        if let Some(failure) = &figures.flush_failure {
            problems.push(format!(
                "what is in memory cannot be written to the tables ({failure}): nothing is lost, and \
                 it is tried again, but writes will be refused once memory or the log is full"
            ));
        }
        let scrub = self.scrub().status();
        if scrub.waiting > 0 || scrub.hidden > 0 {
            problems.push(format!(
                "verifying what is held has found damage: {} keys are being fetched from the others, \
                 and blocks in {} places of the tables cannot be read (`quoit scrub status`)",
                scrub.waiting, scrub.hidden
            ));
        }
        let waiting = self.not_ready(now);
        let state = match (waiting.is_empty(), problems.is_empty()) {
            (false, _) => "starting",
            (true, false) => "degraded",
            (true, true) => "serving",
        };
        problems.extend(self.settling_problem(now));
        let shared = self.shared();
        let own = shared.config.node;
        let members = shared.keeper.members().map(|node| MemberStatus {
            node,
            up: node == own || shared.liveness.is_up(node),
            clock_offset_ms: shared.liveness.offset_ms(node, now),
        });
        NodeStatus {
            node: own,
            state: state.to_owned(),
            problems,
            epoch: self.epoch(),
            boot_count: shared.config.boot_count,
            incarnation: shared.continuity.incarnation(),
            replica_vnodes: held,
            recovering_vnodes: recovering,
            uptime_ms: self.uptime_ms(now),
            version: shared.config.version.clone(),
            members: members.collect(),
            tables: figures
                .tables
                .iter()
                .map(|(table, held)| TableStatus {
                    table: *table,
                    live_keys: held.live,
                    tombstones: held.tombstones,
                    bytes: held.bytes,
                })
                .collect(),
            storage: StorageStatus {
                disk_bytes: figures.size.disk_bytes,
                memory_bytes: figures.memory_bytes,
                log_sequence: figures.sequence,
                unreadable: figures.unreadable,
            },
            counters: self.counters().named(),
            hints: self.hint_statuses(now),
            scrub,
            repair: None,
            activity: None,
        }
    }

    /// What the node does just now, as far as the core knows: what is measured around it is left empty.
    pub fn activity(&mut self, now: Now) -> Option<Activity> {
        let vnodes = self.record()?.vnodes;
        let exchanges = self.exchange_statuses();
        let shared = self.shared_mut();
        Some(Activity {
            hot_keys: shared.hot_keys.told(vnodes, now.instant),
            large_sets: shared.large_sets.told(vnodes, now.instant),
            exchanges,
            slow_keys: shared.slow_keys.told(vnodes, now.instant),
            measured: Measured::default(),
        })
    }

    fn hint_statuses(&self, now: Now) -> Vec<HintStatus> {
        let hints = &self.shared().hints;
        let time = self.shared().clock.read(now.wall);
        let status = |line: Line| {
            let (figures, (kind, target)) = (hints.figures(line), line);
            HintStatus {
                target,
                is_data: kind == HintKind::StandIn,
                number: figures.number,
                bytes: figures.bytes,
                oldest_ms: time.wall().0.saturating_sub(figures.oldest.wall().0),
                per_second: self.handoff().rate(line),
            }
        };
        hints.all_lines().into_iter().map(status).collect()
    }

    /// How far the replicas of some tables' virtual nodes were compared.
    pub(crate) fn repair_status(&self, what: AskRepair, now: Now) -> Option<RepairStatus> {
        let record = self.record()?;
        let (own, recovering) = (self.shared().config.node, self.distrusted());
        let of_table = |table: &&Table| what.table.is_none_or(|wanted| wanted == table.id);
        let tables = record.tables.iter().filter(of_table);
        let replications: BTreeSet<u8> = tables.map(|table| table.options.replication).collect();
        let mut vnodes = Vec::new();
        for replication in replications {
            let wanted = |vnode: &VnodeIndex| {
                what.vnode.is_none_or(|wanted| wanted == *vnode)
                    && record.is_primary(own, *vnode, replication)
            };
            vnodes.extend(record.vnodes.all().filter(wanted).map(|vnode| {
                let others = record.primaries(vnode, replication).filter(|node| *node != own);
                let known: BTreeMap<_, _> = self.compared(vnode, replication).into_iter().collect();
                let since = |node| (node, known.get(&node).copied().unwrap_or_default());
                VnodeRepair {
                    vnode,
                    replication,
                    in_sync: others.map(since).collect(),
                    is_trusted: !recovering.contains(&vnode),
                }
            }));
        }
        let time = self.shared().clock.read(now.wall);
        Some(RepairStatus { time, peers: self.exchange_statuses(), vnodes })
    }
}
