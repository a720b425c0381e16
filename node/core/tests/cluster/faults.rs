//! Random schedules of clients and faults, checked against what was promised. The same seed gives
//! the same world.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use quoit_protocol::{ClientResponse, Got};
use quoit_ring::{ConflictPolicy, HybridTime, Level, NodeId, TableId};

use crate::world::{Put, World, node, options, put, values};

const KEYS: [&str; 3] = ["a", "b", "c"];

/// A write, as its writer sees it.
#[derive(Debug)]
struct Wrote {
    key: &'static str,
    value: String,
    began: u64,
    /// When it was acknowledged.
    acknowledged: Option<u64>,
    /// Certainly not done.
    refused: bool,
    /// What it came with, and the values that this covered: replaced wherever the write is.
    context: Bytes,
    covers: BTreeSet<String>,
}

/// What a client waits for.
enum Asked {
    Write(usize),
    Read { key: &'static str, began: u64 },
}

struct Run {
    world: World,
    table: TableId,
    policy: ConflictPolicy,
    wrote: Vec<Wrote>,
    asked: BTreeMap<u64, Asked>,
    /// The last context that a client got for a key, and what it covers.
    contexts: BTreeMap<&'static str, (Bytes, BTreeSet<String>)>,
    /// For each key when reads ended, and the dot they gave.
    read: Vec<(&'static str, u64, HybridTime)>,
    down: BTreeSet<NodeId>,
    /// Whether disks fail too: they run full and fail syncs, and what one of them holds rots.
    disks: bool,
    done: usize,
}

impl Run {
    fn new(seed: u64, nodes: u64, policy: ConflictPolicy) -> Self {
        let (world, table) = World::with_table(seed, nodes, options(policy));
        Self {
            world,
            table,
            policy,
            wrote: Vec::new(),
            asked: BTreeMap::new(),
            contexts: BTreeMap::new(),
            read: Vec::new(),
            down: BTreeSet::new(),
            disks: false,
            done: 0,
        }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.world.random.below(bound)
    }

    fn any_node(&mut self) -> NodeId {
        let count = self.world.ids().len() as u64;
        node(1 + self.below(count))
    }

    fn ask(&mut self) {
        let at = self.any_node();
        if !self.world.is_running(at) {
            return;
        }
        let key = KEYS[usize::try_from(self.below(3)).expect("small")];
        let began = self.world.time_us();
        if self.below(3) == 0 {
            let request = self.world.send_get(at, self.table, key, Level::Quorum);
            self.asked.insert(request, Asked::Read { key, began });
            return;
        }
        let padding = if self.disks && self.below(3) == 0 { 20_000 } else { 0 };
        let value = format!("w{}{}", self.wrote.len(), ".".repeat(padding));
        let seen = self.contexts.get(key).cloned().unwrap_or_default();
        let (context, covers) = if self.below(2) == 0 { seen } else { Default::default() };
        let wanted = Put { context: context.clone(), ..put(key, &value) };
        let request = self.world.send_put(at, self.table, wanted);
        self.asked.insert(request, Asked::Write(self.wrote.len()));
        let wrote =
            Wrote { key, value, began, acknowledged: None, refused: false, context, covers };
        self.wrote.push(wrote);
    }

    /// Takes in what was answered meanwhile.
    fn listen(&mut self) {
        let answered: Vec<u64> =
            self.asked.keys().copied().filter(|it| self.world.answer(*it).is_some()).collect();
        for request in answered {
            let answer = self.world.answer(request).cloned().expect("just seen");
            let asked = self.asked.remove(&request).expect("just seen");
            let now = self.world.time_us();
            match (asked, answer) {
                (Asked::Write(at), ClientResponse::Written(written)) => {
                    self.done += 1;
                    let wrote = &mut self.wrote[at];
                    wrote.acknowledged = Some(now);
                    // Where the context is the one it came with, it does not cover the write.
                    let mut covers = wrote.covers.clone();
                    if written.context != wrote.context {
                        covers.insert(wrote.value.clone());
                    }
                    self.contexts.insert(wrote.key, (written.context, covers));
                }
                (Asked::Write(at), ClientResponse::Failure(failure)) => {
                    self.wrote[at].refused = !failure.unknown;
                }
                (Asked::Read { key, began }, ClientResponse::Got(got)) => {
                    self.done += 1;
                    self.check_read(key, began, &got);
                }
                (Asked::Read { .. }, ClientResponse::Failure(failure)) => {
                    assert!(!failure.unknown, "a read has no unknown outcome");
                }
                (_, other) => panic!("an answer to something else: {other:?}"),
            }
        }
    }

    fn check_read(&mut self, key: &'static str, began: u64, got: &Got) {
        let read: BTreeSet<String> = values(got).into_iter().collect();
        for value in &read {
            let wrote = self.wrote.iter().find(|it| it.value == *value).expect("nothing invented");
            assert!(wrote.key == key, "{value} was written under another key");
            assert!(!wrote.refused, "{value} was certainly not done");
        }
        let before: Vec<&Wrote> = self
            .wrote
            .iter()
            .filter(|it| it.key == key && it.acknowledged.is_some_and(|at| at <= began))
            .collect();
        match self.policy {
            ConflictPolicy::Siblings => {
                for wrote in before {
                    let there = read.contains(&wrote.value) || self.is_superseded(wrote);
                    assert!(there, "{} of {key} is missing in {read:?}", wrote.value);
                }
                let covers = self.covered_by(&read);
                self.contexts.insert(key, (got.context.clone(), covers));
            }
            ConflictPolicy::Latest => {
                let value = read.first().map(|it| {
                    self.wrote.iter().find(|wrote| wrote.value == *it).expect("seen above")
                });
                for wrote in before {
                    let stale = match value {
                        Some(value) => value.acknowledged.is_some_and(|at| at <= wrote.began),
                        None => true,
                    };
                    assert!(!stale, "{read:?} was read of {key}, but {} is later", wrote.value);
                }
                let dot = got.siblings.first().map_or(HybridTime::ZERO, |it| it.written);
                for (_, _, earlier) in self.read.iter().filter(|it| it.0 == key && it.1 <= began) {
                    assert!(*earlier <= dot, "reads of {key} went backwards");
                }
                self.read.push((key, self.world.time_us(), dot));
            }
        }
    }

    /// What a context covers that was read with these values: they, and all that they replaced.
    fn covered_by(&self, read: &BTreeSet<String>) -> BTreeSet<String> {
        let of = |value: &String| self.wrote.iter().find(|it| it.value == *value);
        let covers = read.iter().filter_map(of).flat_map(|wrote| wrote.covers.iter().cloned());
        covers.chain(read.iter().cloned()).collect()
    }

    fn is_superseded(&self, wrote: &Wrote) -> bool {
        self.wrote.iter().any(|other| !other.refused && other.covers.contains(&wrote.value))
    }

    fn attack(&mut self) {
        let (one, two) = (self.any_node(), self.any_node());
        let minority = (self.world.ids().len() - 1) / 2;
        match self.below(12) {
            0 | 1 if self.world.is_running(one) && self.down.len() < minority => {
                let power = self.below(2) == 0;
                self.world.crash(one, power);
                self.down.insert(one);
            }
            2 | 3 => {
                if let Some(down) = self.down.pop_first() {
                    // What a start finds it must be able to write down.
                    self.world.machines[&down].disk.limit(None);
                    self.world.start(down);
                }
            }
            4 if one != two => self.world.cut(one, two),
            5 if one != two => self.world.shake(one, two),
            6 => {
                let milliseconds = self.below(300);
                self.world.pause(one, milliseconds);
            }
            7 => {
                let skew = i64::try_from(self.below(400_000)).expect("small") - 200_000;
                self.world.skew(one, skew);
            }
            8 if self.world.is_running(one) => self.world.flush(one),
            9 => self.heal(),
            _ if self.disks => self.attack_disk(one, self.down.len() < minority),
            _ => {}
        }
    }

    fn attack_disk(&mut self, one: NodeId, may_crash: bool) {
        if !self.world.is_running(one) {
            return;
        }
        let disk = self.world.machines[&one].disk.clone();
        match self.below(3) {
            0 => disk.limit(Some(disk.used_bytes())),
            1 if may_crash => {
                disk.fail_syncs(1);
                self.world.run_ms(5);
                self.world.crash(one, true);
                self.down.insert(one);
            }
            // Of one node's alone: two lost copies of three may be all that there were.
            _ if self.world.is_running(node(1)) => {
                self.world.machines[&node(1)].disk.limit(None);
                let key = KEYS[usize::try_from(self.below(3)).expect("small")];
                self.world.damage(node(1), self.table, key);
            }
            _ => {}
        }
    }

    fn heal(&mut self) {
        self.world.machines.values().for_each(|machine| machine.disk.limit(None));
        self.down.clear();
        self.world.heal();
    }

    /// Clients and faults for a while, then peace.
    fn go(mut self, rounds: u64) -> (u64, usize) {
        for _ in 0..rounds {
            let asks = self.below(3);
            (0..asks).for_each(|_| self.ask());
            let step_us = self.below(8_000);
            self.world.run_us(step_us);
            self.listen();
            if self.below(10) == 0 {
                self.attack();
            }
        }
        self.heal();
        self.world.run_ms(8_000);
        if self.disks {
            // What was damaged is met, and rebuilt.
            for key in KEYS {
                self.world.get(node(1), self.table, key).expect("a quorum can vouch");
                self.world.run_ms(1_000);
            }
        }
        self.listen();
        self.check_end();
        self.world.end();
        (self.world.trace(), self.done)
    }

    /// After the faults every acknowledged write is there or superseded, for a reader of all.
    fn check_end(&mut self) {
        for key in KEYS {
            let began = self.world.time_us();
            let at = self.any_node();
            let request = self.world.send_get(at, self.table, key, Level::All);
            let got = self.world.got(request).expect("all are up");
            self.check_read(key, began, &got);
        }
    }
}

#[test]
fn in_a_siblings_table_every_acknowledged_write_is_there_or_superseded() {
    let mut done = 0;
    for seed in 0..120 {
        let nodes = if seed % 4 == 0 { 5 } else { 3 };
        done += Run::new(seed, nodes, ConflictPolicy::Siblings).go(400).1;
    }
    assert!(done > 10_000, "{done} operations succeeded: the faults were not everything");
}

#[test]
fn in_a_latest_table_reads_take_in_every_earlier_write_and_never_go_backwards() {
    let mut done = 0;
    for seed in 1_000..1_120 {
        let nodes = if seed % 4 == 0 { 5 } else { 3 };
        done += Run::new(seed, nodes, ConflictPolicy::Latest).go(400).1;
    }
    assert!(done > 10_000, "{done} operations succeeded: the faults were not everything");
}

#[test]
fn failing_disks_take_nothing_that_was_acknowledged() {
    let mut done = 0;
    for seed in 0..30 {
        for policy in [ConflictPolicy::Latest, ConflictPolicy::Siblings] {
            let mut run = Run::new(seed, 3, policy);
            run.disks = true;
            done += run.go(300).1;
        }
    }
    assert!(done > 3_000, "{done} operations succeeded: the faults were not everything");
}

#[test]
fn one_seed_gives_one_trace() {
    for policy in [ConflictPolicy::Latest, ConflictPolicy::Siblings] {
        let trace = |seed| Run::new(seed, 3, policy).go(200).0;
        assert_eq!(trace(5), trace(5));
        assert_ne!(trace(5), trace(6));
    }
}
