//! What the world looks at when a floor is raised, and when a replica that lost what it held counts
//! again.

use std::collections::BTreeSet;

use quoit_ring::{ConflictPolicy, VnodeCount, VnodeIndex};
use quoit_storage::codec;
use quoit_storage::store::Found;
use quoit_storage::version::{Content, SiblingSet, Version};

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
        for held in self.held_of(node, |vnode| raised.contains(&vnode)) {
            let Some(own) = &held.own else { continue };
            let is_required = |version: &Version| {
                value_of(version).is_some_and(|it| self.ledger.requires(held.place, it))
            };
            for other in &held.all {
                let (floor, sets) = (reader.floor(held.vnode), (own, other));
                self.checks.floors.on_raised(node, floor, held.policy, sets, is_required);
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
        for held in self.held_of(node, |it| it == vnode) {
            let own = held.own.unwrap_or_default();
            let was_required = |version: &Version| {
                let value = value_of(version);
                value.is_some_and(|it| self.ledger.requires_since(held.place, it, robbed_us))
            };
            for other in &held.all {
                let sets = (&own, other);
                self.checks.losses.on_trusted(node, held.policy, floor, sets, was_required);
            }
        }
    }

    /// What is held of the keys of some virtual nodes, where `node` is a replica and the later of two
    /// writes wins.
    fn held_of(&self, node: usize, is_wanted: impl Fn(VnodeIndex) -> bool) -> Vec<Held> {
        let set = |found: &Found| match found {
            Found::Set(bytes) => codec::decode(bytes).ok(),
            Found::Unreadable => None,
        };
        let mut held = Vec::new();
        for (table, key) in self.ledger.keys() {
            let plan = &self.schedule.tables[table as usize];
            if self.stored_key(table, key).is_none() || !plan.orders_writes() {
                continue;
            }
            let vnode = self.vnode_of(table, key);
            if !is_wanted(vnode) {
                continue;
            }
            let found = self.found(table, key);
            if let Some((_, own)) = found.iter().find(|(id, _)| id.0 as usize == node + 1) {
                let all = found.iter().filter_map(|(_, found)| set(found)).collect();
                let (own, policy) = (set(own), plan.policy);
                held.push(Held { place: (table, key), vnode, policy, own, all });
            }
        }
        held
    }
}

/// What is held of one key.
struct Held {
    place: (u32, u32),
    vnode: VnodeIndex,
    policy: ConflictPolicy,
    /// By the replica that is looked at, unless it cannot vouch for it.
    own: Option<SiblingSet>,
    /// By all replicas that can.
    all: Vec<SiblingSet>,
}

/// The value of a version, where it lies with its set.
fn value_of(version: &Version) -> Option<&[u8]> {
    match &version.content {
        Content::Value { bytes, .. } => Some(bytes),
        Content::Apart { .. } | Content::Tombstone => None,
    }
}
