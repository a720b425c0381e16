//! What the world looks at when a floor is raised, and when a replica that lost what it held counts
//! again.

use std::collections::BTreeSet;

use quoit_ring::{VnodeCount, VnodeIndex};
use quoit_storage::codec;
use quoit_storage::store::Found;
use quoit_storage::version::{Content, Version};

use super::World;

impl World {
    /// Looks at what was raised.
    pub(super) fn check_floors(&mut self, node: usize) {
        let Some(process) = &self.machines[node].process else { return };
        let reader = process.worker.reader.clone();
        let vnodes = VnodeCount::new(self.schedule.vnodes).expect("it was checked");
        let before = &mut self.machines[node].floors;
        let mut raised = BTreeSet::new();
        for vnode in vnodes.all() {
            let floor = reader.floor(vnode);
            if floor > before.get(&vnode).copied().unwrap_or_default() {
                before.insert(vnode, floor);
                raised.insert(vnode);
                self.floor_max = self.floor_max.max(floor);
            }
        }
        if raised.is_empty() || self.schedule.expects_loss {
            return;
        }
        for (table, key) in self.ledger.keys() {
            let plan = self.schedule.tables[table as usize].clone();
            let Some(stored) = self.stored_key(table, key) else { continue };
            let vnode = vnodes.vnode_of(stored.token());
            if !raised.contains(&vnode) || !plan.orders_writes() {
                continue;
            }
            let set = |found: &Found| match found {
                Found::Set(bytes) => codec::decode(bytes).ok(),
                Found::Unreadable => None,
            };
            let found = self.found(table, key);
            let own = found.iter().find(|(id, _)| id.0 as usize == node + 1);
            let Some(own) = own.and_then(|(_, found)| set(found)) else { continue };
            let is_required = |version: &Version| match &version.content {
                Content::Value { bytes, .. } => self.ledger.requires((table, key), bytes),
                Content::Apart { .. } | Content::Tombstone => false,
            };
            for other in found.iter().filter_map(|(_, found)| set(found)) {
                let (floor, sets) = (reader.floor(vnode), (&own, &other));
                self.checks.floors.on_raised(node, floor, plan.policy, sets, is_required);
            }
        }
    }

    /// Looks at a virtual node that is trusted again after a loss: what the others hold that was
    /// acknowledged before it is there.
    pub(super) fn check_trusted(&mut self, node: usize, vnode: VnodeIndex) {
        let machine = &self.machines[node];
        let (Some(robbed_us), Some(process)) = (machine.robbed_us, &machine.process) else {
            return;
        };
        if self.schedule.expects_loss {
            return;
        }
        let floor = process.worker.reader.floor(vnode);
        for (table, key) in self.ledger.keys() {
            let plan = self.schedule.tables[table as usize].clone();
            let Some(stored) = self.stored_key(table, key) else { continue };
            if self.vnode_of(table, key) != vnode || !plan.orders_writes() {
                continue;
            }
            let set = |found: &Found| match found {
                Found::Set(bytes) => codec::decode(bytes).ok(),
                Found::Unreadable => None,
            };
            let found = self.found(table, key);
            if !found.iter().any(|(id, _)| id.0 as usize == node + 1) {
                continue;
            }
            let process = self.machines[node].process.as_ref().expect("it was just there");
            let own = set(&process.worker.reader.read(&stored)).unwrap_or_default();
            let was_required = |version: &Version| match &version.content {
                Content::Value { bytes, .. } => {
                    self.ledger.requires_since((table, key), bytes, robbed_us)
                }
                Content::Apart { .. } | Content::Tombstone => false,
            };
            for other in found.iter().filter_map(|(_, found)| set(found)) {
                let sets = (&own, &other);
                self.checks.losses.on_trusted(node, plan.policy, floor, sets, was_required);
            }
        }
    }
}
