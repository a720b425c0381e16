//! The store of one replica: one writer, any number of readers, one maintainer.
//!
//! - [`Writer`] merges mutations with what the keys hold, in order, and commits a batch with one
//!   log write and one fsync. What it has merged but not committed is seen by its own later
//!   mutations, and by nobody else.
//! - [`Reader`] reads what is committed. It never waits for a sync.
//! - [`Maintainer`] flushes and compacts the tables, and writes the checkpoint that lets the log be
//!   cut.
//!
//! **What damage means.** A record of the log that is damaged makes its key incomplete (see
//! [`crate::stored`]), unless a later record of the key is intact, since each record holds the
//! whole set. Damage whose keys cannot be told begins a new era (see `vnodes`): every key is
//! incomplete until enough of its peers have been merged in, key by key or virtual node by virtual
//! node. Nothing is taken for absent that may have been
//! lost. What a start finds is written down before anything rests on it, so that it is told once.
//!
//! **Values that lie apart.** A value longer than [`INLINE_BYTES_MAX`](crate::version::INLINE_BYTES_MAX)
//! is stored under (key, dot), in the batch that brings its dot into the key's set, and goes with the
//! batch that takes the dot out: a merge neither reads nor writes it again. A set that comes without
//! a value which is lacked here is refused ([`Outcome::Lacks`]). A value that is damaged makes its
//! key unreadable for those who want it whole, until it is rebuilt.
//!
//! **Speed.** `cargo run --release -p quoit-storage-files --example store_speed`, on a machine of 2
//! cores that other builds kept busy (load 5), batches of 64 merges of 1 KiB into a `latest` table:
//!
//! | | records/s | processor time of a record: prepare + commit |
//! |---|---|---|
//! | new keys, one fsync a batch | 13,000 to 16,000 | 7 us + 8 us |
//! | new keys, no fsync (`SYNC=0`) | 35,000 | 7 us + 4 us |
//! | keys on disk, no fsync | 17,000 | 23 us + 5 us |
//! | random reads, one thread | 60,000 to 80,000 | |
//!
//! The store's own part (codec, checksums, digests, records) is less than 2 us of that; the rest of
//! preparing is the tables' point read, which a disk block behind the key makes dear, and of
//! committing the log's write and the memtable's insert.

mod collect;
mod compare;
mod freeze;
mod frozen;
mod heads;
mod hints;
mod mutation;
mod open;
mod prepare;
mod reader;
mod replay;
mod scan;
mod scrub;
mod stand_ins;
mod vnodes;
mod writer;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quoit_ring::{HybridTime, TableId, VnodeCount};

use crate::digest::{Digests, TableFigures};
use crate::engine::Sequence;
use crate::log::SpareKeeper;
use vnodes::Vnodes;

pub use collect::Collectible;
pub use compare::{Range, Reconciliation, Root, RootsCompared, Row, Survey, Unknown};
pub use freeze::FlushedError;
pub use frozen::{Frozen, FrozenRow, Known, Stream};
pub use hints::{CountedHints, Hint, HintFigures, Hints};
pub(crate) use mutation::check_record;
pub use mutation::{Change, Mutation};
pub use open::{OpenError, Opened, StoreReport, open};
pub use reader::{Found, Maintainer, PageRow, Reader, StoreFigures, Whole};
pub use scrub::{ScrubStep, Scrubbed};
pub use stand_ins::StandIn;
pub use writer::{CommitError, Durability, Outcome, Writer};

/// How a store behaves.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Q of the cluster: virtual nodes are distrusted one by one, and have floors.
    pub vnodes: VnodeCount,
    /// When a commit counts as durable.
    pub durability: Durability,
    /// Siblings of a key, enforced where a write is coordinated.
    pub siblings_max: usize,
    /// Bytes of a key's encoded set, enforced where a write is coordinated.
    pub set_bytes_max: usize,
    /// The tables' memory is closed for a flush when it holds so many bytes.
    pub memory_bytes_max: u64,
    /// Bytes that the dots of what keys hold may take in memory: a write that replaces all of that needs
    /// no read of the tables.
    pub heads_bytes_max: u64,
    /// At most so many bytes are taken in the place of other nodes (see [`StandIn`]).
    pub taken_bytes_max: u64,
    /// Bytes of one log segment.
    pub segment_bytes: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            vnodes: VnodeCount::DEFAULT,
            durability: Durability::Group,
            siblings_max: 32,
            set_bytes_max: 16 << 20,
            memory_bytes_max: 32 << 20,
            heads_bytes_max: 16 << 20,
            taken_bytes_max: 1 << 30,
            segment_bytes: 64 << 20,
        }
    }
}

/// What writer, readers and maintainer share.
struct Shared {
    vnodes: Mutex<Vnodes>,
    /// Whether any virtual node is distrusted, which is rare: readers need not look further.
    has_distrusted: AtomicBool,
    /// Reads that met damage.
    unreadable: AtomicU64,
    /// What the tables said when a read last met damage in them.
    damage: Mutex<Option<String>>,
    /// Why the last flush failed; `None` if it did not.
    flush_failure: Mutex<Option<String>>,
    /// The last sequence that was committed.
    committed: AtomicU64,
    /// The last sequence that is durable.
    durable: AtomicU64,
    /// The log may be cut below this sequence (excluded).
    cut: AtomicU64,
    tables: Mutex<BTreeMap<TableId, TableFigures>>,
    /// Held throughout a flush: they come one after the other.
    flushing: Mutex<SpareKeeper>,
    /// Checkpoints taken when memory was closed, waiting for its flush; ascending.
    checkpoints: Mutex<Vec<Checkpoint>>,
    /// How whole virtual nodes stand in the tables' files, since the last flush.
    flushed: Mutex<Option<freeze::Flushed>>,
    /// Bytes that lie here in the place of others.
    taken_bytes: AtomicU64,
}

impl Shared {
    fn has_distrusted(&self) -> bool {
        self.has_distrusted.load(Ordering::Acquire)
    }

    fn publish_vnodes(&self, vnodes: &Vnodes) {
        lock(&self.vnodes).clone_from(vnodes);
        self.has_distrusted.store(vnodes.has_distrusted(), Ordering::Release);
    }
}

/// A lock that no panic can leave broken: its holders only move values.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// What must be known besides the tables to replay the log from a sequence on.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Checkpoint {
    /// Records of the log up to this one are not needed any more.
    sequence: Sequence,
    /// What the tables had persisted when the checkpoint was written: they never hold less.
    tables: Sequence,
    lease: HybridTime,
    vnodes: Vnodes,
    /// The digests are to be made anew from the tables.
    recount_due: bool,
    digests: Digests,
}

/// The small file that holds the checkpoint.
pub const CHECKPOINT_FILE: &str = "checkpoint";

/// 1 knew one era for all virtual nodes, 2 digests that counted vectors, 3 no floors.
const CHECKPOINT_FORMAT: u8 = 4;
/// Before the virtual nodes.
const CHECKPOINT_FIXED_BYTES: usize = 26;

/// Why a checkpoint's bytes, which are those that were saved, do not decode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CheckpointError {
    /// An older or newer program wrote them.
    Format(u8),
    Damaged,
}

impl Checkpoint {
    /// Of a store in which nothing happened.
    fn new(vnodes: VnodeCount) -> Self {
        Self {
            sequence: Sequence(0),
            tables: Sequence(0),
            lease: HybridTime::ZERO,
            vnodes: Vnodes::new(vnodes),
            recount_due: false,
            digests: Digests::default(),
        }
    }

    fn encode(&self) -> Bytes {
        let digests = self.digests.encode();
        let mut out = BytesMut::with_capacity(CHECKPOINT_FIXED_BYTES + digests.len());
        out.put_u8(CHECKPOINT_FORMAT);
        out.put_u64_le(self.sequence.0);
        out.put_u64_le(self.tables.0);
        out.put_u64_le(self.lease.0);
        out.put_u8(u8::from(self.recount_due));
        self.vnodes.encode_into(&mut out);
        out.put_slice(&digests);
        out.freeze()
    }

    fn decode(mut input: &[u8]) -> Result<Self, CheckpointError> {
        match input.first() {
            Some(&CHECKPOINT_FORMAT) if input.len() >= CHECKPOINT_FIXED_BYTES => input.advance(1),
            Some(&format) if format != CHECKPOINT_FORMAT => {
                return Err(CheckpointError::Format(format));
            }
            _ => return Err(CheckpointError::Damaged),
        }
        Ok(Self {
            sequence: Sequence(input.get_u64_le()),
            tables: Sequence(input.get_u64_le()),
            lease: HybridTime(input.get_u64_le()),
            recount_due: input.get_u8() != 0,
            vnodes: Vnodes::decode(&mut input).ok_or(CheckpointError::Damaged)?,
            digests: Digests::decode(input).ok_or(CheckpointError::Damaged)?,
        })
    }
}
