//! Faults, as they begin and end.

use quoit_core::Event as CoreEvent;
use quoit_storage::layout::StoredKey;
use quoit_storage::twin::engine::TwinTables;

use super::machine::{Copy, Machine, Process};
use super::{Event, Then, World, node_id};
use crate::plan::Fault;
use crate::workloads;

impl World {
    /// A planned fault begins.
    pub(super) fn attack(&mut self, at: usize) {
        let fault = self.schedule.faults[at].fault.clone();
        if fault.greatest_node() as usize >= self.machines.len() {
            return;
        }
        *self.tally.faults.entry(fault.kind()).or_default() += 1;
        let time_us = self.time_us;
        self.trace.line(time_us, || format!("FAULT {fault:?}"));
        let lasts = fault.for_ms();
        if lasts > 0 {
            self.queue.push(time_us + lasts * 1_000, Event::FaultEnds(at));
            self.lasting.insert(at);
        }
        self.change_blocks(&fault, true);
        self.begin(&fault);
    }

    fn begin(&mut self, fault: &Fault) {
        match *fault {
            Fault::Crash { node, power, .. } => self.take_down(node as usize, power),
            Fault::Tear { node, operations, .. } => {
                let machine = &mut self.machines[node as usize];
                machine.down += 1;
                if let Some(process) = &machine.process {
                    machine.tears = true;
                    machine.disk.crash_after_operations(operations);
                    let life = process.life;
                    self.push_in(200_000, node as usize, life, Then::Tear);
                }
            }
            Fault::Pause { node, for_ms } => self.pause(node as usize, for_ms),
            Fault::Break { one, two } => {
                self.cut(one as usize, two as usize, 50_000);
                self.cut(two as usize, one as usize, 50_000);
            }
            Fault::Echo { from, to } => self.echo(from as usize, to as usize),
            Fault::Slow { one, two, more_us, .. } => {
                self.network.slow(one as usize, two as usize, more_us);
            }
            Fault::CutClients { node, .. } => {
                self.cut_clients[node as usize] += 1;
                self.break_clients(node as usize);
            }
            Fault::JumpClock { node, by_ms } => self.machines[node as usize].jumped_ms = by_ms,
            Fault::StrobeClock { node, by_ms, .. } => {
                self.machines[node as usize].strobe_ms = by_ms;
            }
            Fault::Rumour { node, about, alive } => {
                let node_id = node_id(about as usize);
                let event = if alive {
                    CoreEvent::SeemsAlive { node: node_id }
                } else {
                    CoreEvent::SeemsDead { node: node_id }
                };
                self.tell(node as usize, event);
            }
            Fault::Isolate { .. }
            | Fault::Split { .. }
            | Fault::SplitZones { .. }
            | Fault::Ring { .. }
            | Fault::Bridge { .. }
            | Fault::OneWay { .. }
            | Fault::Clog { .. } => {}
            _ => self.begin_on_disk(fault),
        }
    }

    fn begin_on_disk(&mut self, fault: &Fault) {
        let time_us = self.time_us;
        match *fault {
            Fault::FillDisk { node, .. } => {
                let disk = &self.machines[node as usize].disk;
                disk.limit(Some(disk.used_bytes()));
            }
            Fault::SlowDisk { node, more_us, .. } => {
                self.machines[node as usize].more_sync_us = more_us;
            }
            Fault::FailWrites { node, count, .. } => {
                // What lies behind a write that failed in its middle may be taken for damage.
                self.machines[node as usize].is_damaged = true;
                self.machines[node as usize].disk.fail_writes(count);
            }
            Fault::FailSyncs { node, count, .. } => {
                self.machines[node as usize].disk.fail_syncs(count);
            }
            Fault::FailReads { node, count } => {
                self.machines[node as usize].disk.fail_reads(count);
            }
            Fault::FailFlushes { node, count } => {
                self.machines[node as usize].tables.fail_flushes(count);
            }
            Fault::Flush { node } => self.rotate(node as usize),
            Fault::RotTable { node, table, key } => {
                self.rot(node as usize, table, key, |tables, key| tables.damage(key));
            }
            Fault::Misplace { node, table, key } => {
                let other = self.stored_key(table, key + 1);
                self.rot(node as usize, table, key, |tables, key| {
                    if let Some(other) = &other {
                        tables.misplace(key, other.bytes());
                    }
                });
            }
            Fault::RotLog { node, permille, bit } => self.rot_log(node as usize, permille, bit),
            Fault::Copy { node } => {
                let machine = &mut self.machines[node as usize];
                let (disk, tables) = (machine.disk.copy(), machine.tables.copy());
                machine.copy = Some(Copy { disk, tables });
            }
            Fault::Restore { node, .. } => {
                self.take_down(node as usize, true);
                if !self.may_be_robbed(node as usize) {
                    return;
                }
                let machine = &mut self.machines[node as usize];
                if let Some(copy) = machine.copy.take() {
                    machine.disk.restore(&copy.disk);
                    machine.disk.crash();
                    machine.tables = copy.tables;
                    machine.is_robbed = true;
                    machine.robbed_us = Some(time_us);
                }
            }
            Fault::Wipe { node, .. } => {
                self.take_down(node as usize, true);
                if !self.may_be_robbed(node as usize) {
                    return;
                }
                let machine = &mut self.machines[node as usize];
                for path in machine.disk.paths() {
                    machine.disk.lose(&path);
                }
                machine.tables = TwinTables::new();
                machine.is_robbed = true;
                machine.robbed_us = Some(time_us);
            }
            _ => unreachable!("it is no disk's fault: {fault:?}"),
        }
    }

    /// Whether replication bears the loss of a machine's disk now: where W is at least 2, an acknowledged
    /// write is durable at another replica, and that one must count. Where all others do, all that was
    /// ever acknowledged is there.
    fn may_be_robbed(&self, node: usize) -> bool {
        // One that does not know yet whether it has lost anything says so.
        let counts = |(at, machine): (usize, &Machine)| {
            at == node
                || machine.process.as_ref().is_some_and(|process| {
                    let is_sure = process.core.problems().is_empty();
                    is_sure && !machine.is_damaged && process.core.recovering().1 == 0
                })
        };
        self.schedule.expects_loss || self.machines.iter().enumerate().all(counts)
    }

    /// A planned fault ends.
    pub(super) fn relieve(&mut self, at: usize) {
        if !self.lasting.remove(&at) {
            return;
        }
        let fault = self.schedule.faults[at].fault.clone();
        let time_us = self.time_us;
        self.trace.line(time_us, || format!("FAULT ENDS {fault:?}"));
        self.change_blocks(&fault, false);
        match fault {
            Fault::Crash { node, .. }
            | Fault::Tear { node, .. }
            | Fault::Restore { node, .. }
            | Fault::Wipe { node, .. } => {
                let node = node as usize;
                if self.machines[node].tears {
                    self.tear(node);
                }
                self.machines[node].down -= 1;
                self.start(node);
            }
            Fault::Slow { one, two, .. } => self.network.slow(one as usize, two as usize, 0),
            Fault::CutClients { node, .. } => self.cut_clients[node as usize] -= 1,
            Fault::StrobeClock { node, .. } => self.machines[node as usize].strobe_ms = 0,
            Fault::FillDisk { node, .. } => self.machines[node as usize].disk.limit(None),
            Fault::SlowDisk { node, .. } => self.machines[node as usize].more_sync_us = 0,
            // Whoever watches the node starts it again, on a disk that works.
            Fault::FailWrites { node, .. } | Fault::FailSyncs { node, .. } => {
                let machine = &mut self.machines[node as usize];
                machine.disk.fail_writes(0);
                machine.disk.fail_syncs(0);
                self.restart_poisoned(node as usize);
            }
            _ => {}
        }
    }

    /// Starts a node again whose disk has failed: what it could not sync may be lost.
    pub(super) fn restart_poisoned(&mut self, node: usize) {
        // Not every failure comes with a commit: small documents are saved by themselves.
        let is_poisoned = |it: &Process| it.worker.poisoned || it.worker.writer.is_poisoned();
        if self.machines[node].process.as_ref().is_some_and(is_poisoned) {
            self.crash(node, true);
            self.start(node);
        }
    }

    fn take_down(&mut self, node: usize, power: bool) {
        self.machines[node].down += 1;
        if self.machines[node].process.is_some() {
            self.crash(node, power);
        }
    }

    /// The power goes in the middle of a commit.
    pub(super) fn tear(&mut self, node: usize) {
        if std::mem::take(&mut self.machines[node].tears) && self.machines[node].process.is_some() {
            self.crash(node, true);
        }
    }

    pub(super) fn stored_key(&self, table: u32, key: u32) -> Option<StoredKey> {
        let record = self.record.as_ref()?;
        let table = *self.tables.get(table as usize)?;
        let key = workloads::key(key);
        let token = record.token(&key.partition);
        StoredKey::new(token, table, &key.partition, &key.sort).ok()
    }

    fn rot(&mut self, node: usize, table: u32, key: u32, harm: impl FnOnce(&TwinTables, &[u8])) {
        let Some(key) = self.stored_key(table, key) else { return };
        let machine = &mut self.machines[node];
        machine.is_damaged = true;
        harm(&machine.tables, key.bytes());
    }

    fn rot_log(&mut self, node: usize, permille: u64, bit: u8) {
        let machine = &mut self.machines[node];
        // Of a segment that was dropped nobody reads anything.
        let is_read = |path: &String| {
            path.starts_with("log/") && path != "log/dropped" && path != "log/retired"
        };
        let paths: Vec<String> = machine.disk.paths().into_iter().filter(is_read).collect();
        let Some(path) = paths.get(permille as usize % paths.len().max(1)) else { return };
        // Segments are preallocated: most of a file may be zeros that nobody reads.
        let content = machine.disk.content(path).unwrap_or_default();
        let used = content.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1) as u64;
        if used > 0 {
            machine.is_damaged = true;
            machine.disk.flip_bit(path, used * permille / 1_000, bit);
        }
    }

    /// Makes or lifts the blocks of a partition.
    fn change_blocks(&mut self, fault: &Fault, blocked: bool) {
        let count = self.machines.len();
        let zones = self.schedule.zones as usize;
        let apart: Box<dyn Fn(usize, usize) -> bool> = match fault {
            Fault::Isolate { node, .. } => {
                let node = *node as usize;
                Box::new(move |from, to| from == node || to == node)
            }
            Fault::Split { side, .. } => {
                let is_in: Vec<bool> =
                    (0..count).map(|node| side.contains(&(node as u32))).collect();
                Box::new(move |from, to| is_in[from] != is_in[to])
            }
            Fault::SplitZones { .. } => Box::new(move |from, to| from % zones != to % zones),
            Fault::Ring { .. } => Box::new(move |from, to| {
                let apart = from.abs_diff(to);
                apart != 1 && apart != count - 1
            }),
            Fault::Bridge { node, .. } => {
                let node = *node as usize;
                Box::new(move |from, to| {
                    from != node && to != node && (from * 2 < count) != (to * 2 < count)
                })
            }
            Fault::OneWay { from, to, .. } => {
                let way = (*from as usize, *to as usize);
                Box::new(move |from, to| (from, to) == way)
            }
            Fault::Clog { one, two, .. } => {
                let (one, two) = (*one as usize, *two as usize);
                Box::new(move |from, to| (from, to) == (one, two) || (from, to) == (two, one))
            }
            _ => return,
        };
        for from in 0..count {
            for to in (0..count).filter(|to| *to != from && apart(from, *to)) {
                if blocked { self.block(from, to) } else { self.unblock(from, to) }
            }
        }
    }

    /// All faults end: whatever was broken is mended, and gossip is right.
    pub(super) fn heal(&mut self) {
        for at in std::mem::take(&mut self.lasting) {
            self.lasting.insert(at);
            self.relieve(at);
        }
        for node in 0..self.machines.len() {
            let machine = &mut self.machines[node];
            machine.jumped_ms = 0;
            machine.disk.limit(None);
            machine.disk.fail_reads(0);
            machine.tables.fail_flushes(0);
            self.restart_poisoned(node);
            self.start(node);
        }
        for node in 0..self.machines.len() {
            for about in (0..self.machines.len()).filter(|about| *about != node) {
                self.tell(node, CoreEvent::SeemsAlive { node: node_id(about) });
            }
        }
    }
}
