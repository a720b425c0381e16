//! The twin disk's insides: names and files, what of them is durable, and the faults to come.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::sectors::FileState;

/// Draws numbers from a seed: splitmix64.
#[derive(Debug, Clone)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0. The bias does not matter here.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// How much of what was not synced a crash keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    All,
    None,
    Some,
}

impl Keep {
    pub(super) fn draw(self, random: &mut Random) -> bool {
        match self {
            Keep::All => true,
            Keep::None => false,
            Keep::Some => random.below(2) == 0,
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct NameChange {
    /// The name that appears, with its file.
    pub(super) to: Option<(String, u64)>,
    /// The name that goes.
    pub(super) from: Option<String>,
}

impl NameChange {
    fn names(&self) -> impl Iterator<Item = &String> {
        let to = self.to.as_ref().map(|(name, _)| name);
        to.into_iter().chain(self.from.as_ref())
    }

    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        if let Some(from) = &self.from {
            names.remove(from);
        }
        if let Some((to, file)) = &self.to {
            names.insert(to.clone(), *file);
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) random: Random,
    pub(super) directories: BTreeSet<String>,
    pub(super) names: BTreeMap<String, u64>,
    pub(super) durable_names: BTreeMap<String, u64>,
    pub(super) pending: Vec<NameChange>,
    pub(super) files: BTreeMap<u64, FileState>,
    pub(super) next_file: u64,
    /// Counts crashes: a handle of an earlier epoch is dead.
    pub(super) epoch: u64,
    pub(super) operations: u64,
    pub(super) crash_at: Option<u64>,
    pub(super) crashed: bool,
    pub(super) reads_to_fail: u64,
    pub(super) writes_to_fail: u64,
    pub(super) syncs_to_fail: u64,
    pub(super) limit_bytes: Option<u64>,
}

impl State {
    pub(super) fn begin(&mut self) -> io::Result<()> {
        if self.crash_at.is_some_and(|at| self.operations >= at) {
            self.crashed = true;
        }
        if self.crashed {
            return Err(io::Error::other("the simulated disk has crashed"));
        }
        self.operations += 1;
        Ok(())
    }

    pub(super) fn wake(&mut self) {
        self.epoch += 1;
        self.crashed = false;
        self.crash_at = None;
        self.reads_to_fail = 0;
        self.writes_to_fail = 0;
        self.syncs_to_fail = 0;
    }

    pub(super) fn crash(&mut self) {
        let keep = match self.random.below(4) {
            0 => Keep::All,
            1 => Keep::None,
            _ => Keep::Some,
        };
        let mut dropped: BTreeSet<String> = BTreeSet::new();
        for change in std::mem::take(&mut self.pending) {
            let kept = keep.draw(&mut self.random);
            if kept && !change.names().any(|name| dropped.contains(name)) {
                change.apply(&mut self.durable_names);
            } else {
                dropped.extend(change.names().cloned());
            }
        }
        self.names.clone_from(&self.durable_names);
        for file in self.files.values_mut() {
            file.crash(keep, &mut self.random);
        }
        self.drop_nameless();
        self.wake();
    }

    fn drop_nameless(&mut self) {
        let mut live: BTreeSet<u64> = self.names.values().copied().collect();
        live.extend(self.durable_names.values());
        let pending = self.pending.iter().filter_map(|change| change.to.as_ref());
        live.extend(pending.map(|(_, file)| *file));
        self.files.retain(|id, _| live.contains(id));
    }

    pub(super) fn used_bytes(&self) -> u64 {
        let named: BTreeSet<u64> = self.names.values().copied().collect();
        let lengths = named.iter().filter_map(|id| self.files.get(id));
        lengths.map(FileState::length).sum()
    }

    /// Whether a file may grow by so much.
    pub(super) fn check_space(&self, more: u64) -> io::Result<()> {
        let fits = self.limit_bytes.is_none_or(|limit| self.used_bytes() + more <= limit);
        if more == 0 || fits { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
    }

    pub(super) fn change_names(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.pending.push(change);
    }

    pub(super) fn sync_names(&mut self, directory: &str) {
        let pending = std::mem::take(&mut self.pending);
        let (synced, left) = pending
            .into_iter()
            .partition(|change| change.names().any(|name| parent(name) == directory));
        self.pending = left;
        let synced: Vec<NameChange> = synced;
        for change in synced {
            change.apply(&mut self.durable_names);
        }
        self.drop_nameless();
    }
}

pub(super) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

pub(super) fn take_fault(left: &mut u64, what: &str) -> io::Result<()> {
    if *left == 0 {
        return Ok(());
    }
    *left -= 1;
    Err(io::Error::other(format!("a simulated fault: {what}")))
}
