//! How a run ends: the faults are mended, the load stops, and then the cluster must make progress,
//! every replica must come to hold the same, and every acknowledged write must be there.

use std::collections::BTreeSet;

use quoit_protocol::{Got, Seen};
use quoit_ring::{Level, NodeId, VnodeIndex};
use quoit_session::{Answer, OperationError, Request};
use quoit_storage::codec;
use quoit_storage::store::Found;

use super::World;
use super::load::FINAL_FROM;
use crate::workloads;

/// Within this every operation has ended and every node has its connections again.
const SETTLE_US: u64 = 20_000_000;
/// And every disk has done what it was asked to do.
const DRAIN_US: u64 = 300_000_000;
/// Within so many seconds exchanges have made the replicas equal.
const EXCHANGES_S: u32 = 120;
/// Within so many tries every key is read at `All`.
const ROUNDS_MAX: u32 = 12;
const READ_US: u64 = 5_000_000;
/// So many keys are read at once.
const AT_ONCE: usize = 8;

/// A read of the end.
pub(super) struct FinalRead {
    table: u32,
    key: u32,
    got: Option<Result<Got, String>>,
}

impl World {
    /// Ends the run.
    pub(crate) fn end(&mut self) {
        self.heal();
        let busy = |world: &Self| world.clients.iter().any(|it| it.session.in_flight() > 0);
        let settled = self.run_while(SETTLE_US, busy);
        self.checks
            .convergence
            .expect(settled, || "operations are still under way long after the faults".to_owned());
        // What a slow disk has still to do, it does.
        let behind = |world: &Self| world.machines.iter().any(|machine| machine.is_behind());
        self.run_while(DRAIN_US, behind);
        self.run_until(self.time_us + 6_000_000);
        let keys = self.ledger.keys();
        self.wait_for_hints();
        self.wait_for_exchanges(&keys);
        if self.is_lost_for_good() {
            return;
        }
        self.read_all(&keys, false);
        self.run_until(self.time_us + 2_000_000);
        self.read_all(&keys, true);
        self.run_until(self.time_us + 2_000_000);
        if !self.checks.is_violated() {
            self.check_stores(&keys);
        }
        for node in 0..self.machines.len() {
            let process = self.machines[node].process.as_ref();
            let count = process.map(|process| process.core.operation_count());
            self.checks.convergence.expect(count == Some(0), || {
                format!("n{} is down or still coordinates: {count:?}", node + 1)
            });
        }
    }

    /// Whether a replica waits for an operator's word: it has lost what nobody else had (N = 1), or the
    /// others are lost too. That happens in runs that expect loss only.
    pub(super) fn is_lost_for_good(&self) -> bool {
        let cores = self.machines.iter().filter_map(|machine| machine.process.as_ref());
        self.schedule.expects_loss && cores.map(|it| it.core.recovering().1).any(|left| left > 0)
    }

    /// Exchanges alone make the replicas equal, but for damage that nobody has met.
    fn wait_for_exchanges(&mut self, keys: &BTreeSet<(u32, u32)>) {
        let is_damaged = self.machines.iter().any(|machine| machine.is_damaged);
        if self.schedule.rarities.repair_interval_ms == 0 || is_damaged {
            return;
        }
        let mut differing = None;
        for _ in 0..EXCHANGES_S {
            differing = keys.iter().find(|key| !self.has_equal_pairs(**key)).copied();
            if differing.is_none() {
                return;
            }
            self.run_until(self.time_us + 1_000_000);
        }
        if self.is_lost_for_good() {
            return;
        }
        let left = differing.map(|(table, key)| (table, key, self.found(table, key)));
        self.checks.convergence.expect(left.is_none(), || {
            format!("exchanges leave a key (table, key, sets) different: {left:?}")
        });
    }

    /// Whether the replicas of a key hold the same, but for what each collects at its own time.
    fn has_equal_pairs(&self, (table, key): (u32, u32)) -> bool {
        let found = self.found(table, key);
        let vnode = self.vnode_of(table, key);
        let floors = self.machines.iter().filter_map(|machine| machine.process.as_ref());
        let floor = floors.map(|process| process.worker.reader.floor(vnode)).max();
        let pairs = |found: &Found| match found {
            Found::Set(bytes) => {
                let set = codec::decode(bytes).expect("the store checked it");
                Some(set.without_going(floor.unwrap_or_default()).versions().to_vec())
            }
            Found::Unreadable => None,
        };
        found.windows(2).all(|pair| pairs(&pair[0].1) == pairs(&pair[1].1))
    }

    pub(super) fn vnode_of(&self, table: u32, key: u32) -> VnodeIndex {
        let record = self.record.as_ref().expect("there is one");
        let stored = self.stored_key(table, key).expect("there is a record");
        record.vnodes.vnode_of(stored.token())
    }

    /// What the replicas hold of a key, readable, each with its floor.
    fn described(&self, (table, key): (u32, u32)) -> Vec<String> {
        let vnode = self.vnode_of(table, key);
        let described = self.found(table, key).into_iter().map(|(node, found)| {
            let process = self.machines[node.0 as usize - 1].process.as_ref();
            let floor = process.map(|process| process.worker.reader.floor(vnode));
            let set = match found {
                Found::Set(bytes) => format!("{:?}", codec::decode(&bytes)),
                Found::Unreadable => "unreadable".to_owned(),
            };
            format!("{node}, floor {floor:?}: {set}")
        });
        described.collect()
    }

    /// What the replicas hold of a key.
    pub(super) fn found(&self, table: u32, key: u32) -> Vec<(NodeId, Found)> {
        let record = self.record.as_ref().expect("there is one");
        let plan = &self.schedule.tables[table as usize];
        let stored = self.stored_key(table, key).expect("there is a record");
        let vnode = record.vnodes.vnode_of(stored.token());
        let primaries = record.primaries(vnode, plan.replication);
        let found = primaries.filter_map(|node| {
            let process = self.machines[node.0 as usize - 1].process.as_ref()?;
            Some((node, process.worker.reader.read(&stored)))
        });
        found.collect()
    }

    /// Reads every key at `All`, again and again where that fails.
    fn read_all(&mut self, keys: &BTreeSet<(u32, u32)>, judges: bool) {
        let mut left: Vec<(u32, u32)> = keys.iter().copied().collect();
        for round in 0..ROUNDS_MAX {
            let mut failed = Vec::new();
            let mut trouble = String::new();
            for chunk in left.chunks(AT_ONCE) {
                for (key, error) in self.read_some(chunk, judges) {
                    failed.push(key);
                    trouble = error;
                }
                if self.checks.is_violated() {
                    return;
                }
            }
            left = failed;
            if left.is_empty() {
                return;
            }
            let last = round + 1 == ROUNDS_MAX;
            let held: Vec<_> = match last {
                true => left.iter().take(2).map(|key| self.described(*key)).collect(),
                false => Vec::new(),
            };
            self.checks.convergence.expect(!last, || {
                format!("after the faults {left:?} (table, key) cannot be read at All: {trouble}; {held:?}")
            });
            self.run_until(self.time_us + 1_000_000);
        }
    }

    fn read_some(&mut self, keys: &[(u32, u32)], judges: bool) -> Vec<((u32, u32), String)> {
        self.final_reads.clear();
        for &(table, key) in keys {
            self.next_connection += 1;
            let id = FINAL_FROM + self.next_connection;
            self.final_reads.insert(id, FinalRead { table, key, got: None });
            let request = Request::Get {
                table: self.tables[table as usize],
                key: workloads::key(key),
                at_least: Seen::default(),
            };
            self.ask(0, id, request, Some(Level::All), READ_US);
        }
        let waits = |world: &Self| world.final_reads.values().any(|read| read.got.is_none());
        self.run_while(2 * READ_US, waits);
        let mut failed = Vec::new();
        let truth = self.truth();
        for read in std::mem::take(&mut self.final_reads).into_values() {
            match read.got {
                Some(Ok(got)) if judges => {
                    let (at, now) = ((read.table, read.key), self.time_us);
                    self.ledger.on_final_got(at, &got, now, &mut self.checks, &truth);
                    // A repair may have been refused: a queue was full.
                    if got.repaired {
                        failed.push((at, "its replicas differ still".to_owned()));
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => failed.push(((read.table, read.key), error)),
                None => failed.push(((read.table, read.key), "no answer".to_owned())),
            }
        }
        failed
    }

    pub(super) fn on_final_read(&mut self, id: u64, outcome: Result<Answer, OperationError>) {
        if let Some(read) = self.final_reads.get_mut(&id) {
            read.got = Some(match outcome {
                Ok(Answer::Got(got)) => Ok(got),
                Ok(other) => Err(format!("{other:?}")),
                Err(error) => Err(error.to_string()),
            });
        }
    }

    /// All replicas of a key hold one set, and each store's digests are the fold of what it holds.
    fn check_stores(&mut self, keys: &BTreeSet<(u32, u32)>) {
        for &(table, key) in keys {
            let plan = self.schedule.tables[table as usize].clone();
            let found = self.found(table, key);
            let is_equal = self.has_equal_pairs((table, key));
            self.checks.convergence.expect(is_equal, || {
                format!("the replicas of key {key} of table {table} differ: {found:?}")
            });
            self.checks.merges.on_sets(found.iter().map(|(_, found)| found), plan.policy);
        }
        for (node, machine) in self.machines.iter().enumerate() {
            if let Some(process) = &machine.process
                && !machine.is_damaged
            {
                self.checks.digests.on_end(node, &process.worker);
            }
        }
    }
}
