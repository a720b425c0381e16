//! What the world looks at when hints leave.

use std::collections::BTreeMap;

use quoit_core::HintChanges;
use quoit_core::peer::{HandOver, Pushed};
use quoit_ring::{NodeId, VnodeCount};
use quoit_storage::codec;
use quoit_storage::layout::StoredKey;
use quoit_storage::store::Found;
use quoit_storage::version::SiblingSet;

use super::World;
use crate::invariants::hints;

/// At the end every hint has left within so many seconds.
const DELIVERED_S: u32 = 200;

/// Messages that hand something over and are not answered, by holder, target and number.
pub(super) type Handed = BTreeMap<(usize, usize, u64), HandOver>;
/// What targets of hints took in last, and when, by holder, target and key.
pub(super) type HandedOver = BTreeMap<(usize, NodeId, StoredKey), (SiblingSet, u64)>;

impl World {
    pub(super) fn note_handed(&mut self, which: (usize, usize, u64), message: &HandOver) {
        self.handed.insert(which, message.clone());
    }

    /// A target answers: what it has taken in is what it was sent last, whatever is sent after.
    pub(super) fn note_taken_over(&mut self, which: (usize, usize, u64), answer: &Pushed) {
        let Some(message) = self.handed.remove(&which) else { return };
        let taken_in = answer.result.as_deref().unwrap_or_default();
        for ((key, (set, _)), _) in message.rows.iter().zip(taken_in).filter(|(_, taken)| **taken) {
            let key = StoredKey::from_bytes(key.clone()).expect("a node sends right keys");
            let set = codec::decode(set).expect("a node sends right sets");
            let sent = (set, self.time_us);
            self.handed_over.insert((which.0, super::node_id(which.1), key), sent);
        }
    }

    /// Looks at hints that leave.
    pub(super) fn check_hints(&mut self, node: usize, changes: &HintChanges) {
        for hint in &changes.delivered {
            let sent = self.handed_over.get(&(node, hint.target, hint.key.clone()));
            let target = &self.machines[hint.target.0 as usize - 1];
            let at = self.tables.iter().position(|id| *id == hint.key.table());
            let Some(policy) = at.map(|at| self.schedule.tables[at].policy) else { continue };
            let vnodes = VnodeCount::new(self.schedule.vnodes).expect("it was checked");
            // It may have lost its disk since.
            let is_robbed = target.robbed_us > sent.map(|(_, at)| *at);
            let is_sound = !target.is_damaged && !is_robbed && !self.schedule.expects_loss;
            let reader = target.process.as_ref().filter(|_| is_sound).map(|it| &it.worker.reader);
            let held = reader.and_then(|reader| match reader.read(&hint.key) {
                Found::Set(bytes) => {
                    let floor = reader.floor(vnodes.vnode_of(hint.key.token()));
                    Some((codec::decode(&bytes).expect("the store checked it"), floor))
                }
                Found::Unreadable => None,
            });
            let held = held.as_ref().map(|(set, floor)| (set, *floor));
            let text = || format!("{} of n{}'s hint of {:?}", hint.target, node + 1, hint.key);
            let sent = sent.map(|(set, _)| set);
            hints::check_delivered(&mut self.checks.hints, sent, held, policy, text);
        }
    }

    /// All nodes are up: in the end nothing waits, and the counters say where it went.
    pub(super) fn wait_for_hints(&mut self) {
        let waits = |world: &Self| {
            let cores = world.machines.iter().filter_map(|machine| machine.process.as_ref());
            cores.map(|process| process.core.hints_waiting()).sum::<u64>()
        };
        for _ in 0..DELIVERED_S {
            if waits(self) == 0 {
                break;
            }
            self.run_until(self.time_us + 1_000_000);
        }
        let left = waits(self);
        self.checks.hints.expect(left == 0 || self.is_lost_for_good(), || {
            let nodes = self.machines.iter().enumerate();
            let waits = nodes.filter_map(|(node, machine)| {
                let core = &machine.process.as_ref()?.core;
                Some((node + 1, core.hints_waiting())).filter(|(_, waiting)| *waiting > 0)
            });
            let waits: Vec<_> = waits.collect();
            format!("{left} hints wait though all nodes are up; at which and how many: {waits:?}")
        });
        for (node, machine) in self.machines.iter().enumerate() {
            if let Some(process) = &machine.process {
                let counters = process.core.counters().hints;
                hints::check_balance(
                    &mut self.checks.hints,
                    node,
                    process.hints_recovered,
                    counters,
                    process.core.hints_waiting(),
                );
            }
        }
    }
}
