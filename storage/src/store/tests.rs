//! What is common to the store's tests: a store over twins, and a model of what it should hold.

mod apart;
mod compare;
mod damage;
mod distrust;
mod faults;
mod floors;
mod frozen;
mod heads;
mod hints;
mod model;
mod rules;
mod stand_ins;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use quoit_ring::{ConflictPolicy, HybridTime, TableId, Token, VnodeCount, VnodeIndex};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::*;
use crate::codec;
use crate::digest::{self, Delta, Digests, LEAVES};
use crate::layout::StoredKey;
use crate::stored::Stored;
use crate::twin::disk::TwinDisk;
use crate::twin::engine::TwinTables;
use crate::version::{Actor, Content, Dot, SiblingSet, Version, VersionVector};

/// Keys that the tests use: two tables, and two keys in one leaf of the digests.
const KEYS: u64 = 7;

fn key(number: u64) -> StoredKey {
    let token = Token((number / 2 + 1) << 60 | number);
    let table = TableId(1 + (number % 2) as u32);
    StoredKey::new(token, table, format!("key {number}").as_bytes(), b"").unwrap()
}

fn policy(key: &StoredKey) -> ConflictPolicy {
    if key.table() == TableId(1) { ConflictPolicy::Latest } else { ConflictPolicy::Siblings }
}

fn replication(key: &StoredKey) -> u8 {
    if key.table() == TableId(1) { 3 } else { 1 }
}

fn options() -> StoreOptions {
    StoreOptions {
        vnodes: VnodeCount::new(8).unwrap(),
        memory_bytes_max: 4 << 10,
        // A few keys' worth.
        heads_bytes_max: 2 << 10,
        segment_bytes: 4 << 10,
        siblings_max: 4,
        set_bytes_max: 4 << 10,
        ..StoreOptions::default()
    }
}

/// Every write reads the tables.
fn without_heads() -> StoreOptions {
    StoreOptions { heads_bytes_max: 0, ..options() }
}

fn version(key: &StoredKey, time: u64, actor: u64, value: &str) -> Version {
    let bytes = Bytes::copy_from_slice(value.as_bytes());
    let checksum = xxh3_64_with_seed(&bytes, key.token().0);
    Version {
        dot: Dot { time: HybridTime(time), actor: Actor(actor) },
        content: Content::Value { bytes, checksum },
        expires: None,
    }
}

fn set(key: &StoredKey, time: u64, value: &str) -> SiblingSet {
    SiblingSet::of(version(key, time, 1, value))
}

fn mutation(key: &StoredKey, change: Change) -> Mutation {
    Mutation {
        key: key.clone(),
        replication: replication(key),
        policy: policy(key),
        change,
        values: Vec::new(),
    }
}

/// A write that has seen nothing.
fn write(key: &StoredKey, time: u64, value: &str) -> Mutation {
    let version = version(key, time, 1, value);
    mutation(key, Change::Write { context: VersionVector::default(), version })
}

fn merge(key: &StoredKey, set: SiblingSet) -> Mutation {
    mutation(key, Change::Merge { set, rebuild: false, authority: None })
}

fn rebuild(key: &StoredKey, set: SiblingSet) -> Mutation {
    mutation(key, Change::Merge { set, rebuild: true, authority: None })
}

/// An open store over its twins.
struct Rig {
    disk: TwinDisk,
    tables: TwinTables,
    options: StoreOptions,
    writer: Writer,
    reader: Reader,
    maintainer: Maintainer,
    report: StoreReport,
}

fn try_open(
    disk: &TwinDisk,
    tables: &TwinTables,
    options: &StoreOptions,
    tables_lost: Option<String>,
) -> Result<Rig, OpenError> {
    let (twin_disk, engine) = (Arc::new(disk.clone()), Arc::new(tables.open()));
    let Opened { writer, reader, maintainer, report } =
        open(twin_disk, engine, options.clone(), tables_lost, 7)?;
    let (disk, tables, options) = (disk.clone(), tables.clone(), options.clone());
    Ok(Rig { disk, tables, options, writer, reader, maintainer, report })
}

impl Rig {
    fn new(seed: u64) -> Self {
        Self::with(seed, options())
    }

    fn with(seed: u64, options: StoreOptions) -> Self {
        try_open(&TwinDisk::new(seed), &TwinTables::new(), &options, None).unwrap()
    }

    /// Opens again what the disk and the tables hold now; the process before is gone.
    fn open_again(&self) -> Self {
        try_open(&self.disk, &self.tables, &self.options, None).unwrap()
    }

    fn kill(&self) -> Self {
        self.disk.kill();
        self.open_again()
    }

    fn crash(&self) -> Self {
        self.disk.crash();
        self.open_again()
    }

    /// An independent copy of what a killed process leaves behind.
    fn copy_killed(&self) -> (TwinDisk, TwinTables) {
        let disk = self.disk.copy();
        disk.kill();
        (disk, self.tables.copy())
    }

    fn apply(&mut self, mutation: Mutation) -> Outcome {
        let outcome = self.writer.prepare(mutation);
        self.writer.commit().unwrap();
        outcome
    }

    fn flush(&mut self) {
        self.writer.rotate();
        self.maintainer.flush().unwrap();
    }

    fn read(&self, key: &StoredKey) -> Found {
        self.reader.read(key)
    }

    fn is_clean(&self) -> bool {
        self.report.damage.is_empty() && self.report.distrusted == 0
    }

    /// The digests must be the fold of all that can be read, marks or not.
    fn check_digests(&self, held: &BTreeMap<StoredKey, SiblingSet>) {
        let folded = self.with_marks(fold(held));
        assert_eq!(figures_and_leaves(self.writer.digests()), figures_and_leaves(&folded));
        let figures: BTreeMap<_, _> = self.reader.figures().tables.into_iter().collect();
        assert_eq!(&figures, self.writer.digests().tables());
    }

    /// Counts the marks of incomplete keys as well.
    fn with_marks(&self, mut digests: Digests) -> Digests {
        self.writer.engine.scan(&[], None, &mut |entry| {
            let (key, sealed) = entry.unwrap();
            let key = StoredKey::from_bytes(key).unwrap();
            if !key.is_apart() && Stored::open(key.bytes(), &sealed).unwrap().standing.incomplete {
                let delta = Delta { stays: digest::mark_digest(&key), ..Delta::default() };
                digests.apply(&key, replication(&key), &delta);
            }
            true
        });
        digests
    }
}

fn fold(held: &BTreeMap<StoredKey, SiblingSet>) -> Digests {
    let mut digests = Digests::default();
    for (key, set) in held {
        let delta = digest::delta(key, &SiblingSet::default(), set);
        digests.apply(key, replication(key), &delta);
    }
    digests
}

/// What of digests is not zero.
type Counted = (Vec<(TableId, TableFigures)>, Vec<(u8, usize, u64)>);

fn figures_and_leaves(digests: &Digests) -> Counted {
    let leaves = [1, 3].into_iter().flat_map(|replication| {
        let leaves =
            digests.leaves(replication, 0..LEAVES, HybridTime::ZERO).into_iter().enumerate();
        leaves.map(move |(index, leaf)| (replication, index, leaf))
    });
    let figures = digests.tables().iter().map(|(id, figures)| (*id, *figures));
    (
        figures.filter(|(_, figures)| *figures != TableFigures::default()).collect(),
        leaves.filter(|(.., leaf)| *leaf != 0).collect(),
    )
}

fn found(set: &SiblingSet) -> Found {
    Found::Set(codec::encode(set))
}

fn value(text: &str, key: &StoredKey, time: u64) -> Found {
    found(&SiblingSet::of(version(key, time, 1, text)))
}

fn absent() -> Found {
    Found::Set(Bytes::new())
}
