//! What the world looks at when a floor is raised.

use std::collections::BTreeSet;

use quoit_ring::VnodeCount;
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
}
