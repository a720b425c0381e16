//! The single writer: merges in order, commits in batches.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use quoit_ring::{HybridTime, VnodeIndex};

use super::heads::Heads;
use super::mutation::{Counted, era_record, floor_record, lease_record, trust_record};
use super::prepare::Held;
use super::stand_ins::TakenChanges;
use super::vnodes::Vnodes;
use super::{Checkpoint, Shared, StoreOptions, lock};
use crate::digest::Digests;
use crate::disk::Disk;
use crate::engine::{self, Engine, Pressure, Sequence};
use crate::layout::StoredKey;
use crate::log::{Log, LogError};
use crate::planted::{PlantedBug, is_planted};
use crate::small_file::{SmallFile, SmallFileError};
use crate::stored::Era;
use crate::trees::Trees;
use crate::version::Actor;

/// So many actors are remembered whose writes were lost. A core takes new ones as soon as it is
/// told, so only those of the last few batches matter.
const LOST_ACTORS_MAX: usize = 65_536;

/// When a commit counts as durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// After an fsync that the whole batch shares.
    Group,
    /// After the write; the caller syncs at intervals ([`Writer::sync`]) and a power cut may take
    /// back what came since the last. Leases are synced at once, and so is all that goes to the
    /// tables: what they hold was in the log before.
    Periodic,
}

/// What became of a mutation when it was merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Merged: durable once the next [`Writer::commit`] returns. The encoded set that the key holds
    /// then, which is what a coordinator replicates.
    Merged(Bytes),
    /// A `latest` table holds a greater dot, or the dot is not above what the key has seen. Nothing
    /// changed: make a dot above this time.
    Older(HybridTime),
    /// The key may have lost writes. It is not coordinated here: a write changed nothing. A merge
    /// into a `latest` table was taken in, but does not count: nobody knows whether it is the
    /// greatest; nor does one into a virtual node that is distrusted, whatever its table is.
    Incomplete,
    /// The key would have more siblings than allowed. Nothing changed.
    TooManySiblings,
    /// The key's set would be larger than allowed; by a merge, larger than can be written down at
    /// all. Nothing changed.
    TooLarge,
    /// A value does not have the checksum that came with it. Nothing changed.
    Corrupt,
    /// A value that lies apart did not come with its set, and is not here. Nothing changed: send it
    /// with all values.
    Lacks,
    /// The tables cannot be read, or do not keep up, or the store is poisoned. Nothing changed; come
    /// back later.
    Refused(&'static str),
}

/// Why a batch was not committed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// The disk is full: nothing of the batch was kept. Reads go on, and so do writes once there
    /// is space again.
    #[error("the disk is full: free some space; writes go on by themselves then")]
    Full,
    /// A write or an fsync failed, so nobody knows what the disk holds. The store acknowledges
    /// nothing any more: mend the disk and restart the node.
    #[error(
        "a write to the disk failed ({0}): nothing more is acknowledged; mend the disk and restart"
    )]
    Poisoned(String),
}

/// One change of a batch: its record in the log, and what the tables get.
pub(super) struct Prepared {
    pub(super) key: StoredKey,
    pub(super) record: Bytes,
    pub(super) value: Option<Bytes>,
    /// What the digests count, for sets: the replication factor and the change.
    pub(super) counted: Option<(u8, Counted)>,
}

/// The single writer of a store.
pub struct Writer {
    pub(super) log: Log,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) shared: Arc<Shared>,
    pub(super) options: StoreOptions,
    pub(super) digests: Digests,
    pub(super) trees: Trees,
    /// The digests count something that was damaged and is written over: the next start makes them
    /// anew from the tables.
    pub(super) recount_due: bool,
    pub(super) lease: HybridTime,
    pub(super) vnodes: Vnodes,
    pub(super) batch: Batch,
    pub(super) heads: Heads,
    pub(super) poisoned: Option<String>,
    /// Actors whose dots went with a batch that was not committed. They make no more: a later dot
    /// would claim, and so erase at other replicas, those that are forgotten here.
    pub(super) lost_actors: VecDeque<Actor>,
    /// Bytes that lie here in the place of others.
    pub(super) taken_bytes: i64,
}

/// What was merged and not committed.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) prepared: Vec<Prepared>,
    lease: Option<HybridTime>,
    /// What changes for whole virtual nodes: the records, and what it comes to. They go before all
    /// else of the batch: were the end of it cut off in a crash, no record of an era would be there
    /// without its beginning.
    vnode_records: Vec<Bytes>,
    /// It is synced in any case.
    is_barrier: bool,
    pub(super) vnodes: Option<Vnodes>,
    /// What the keys of the batch hold after it.
    pub(super) overlay: BTreeMap<StoredKey, Held>,
    pub(super) taken: TakenChanges,
    /// Who made the dots of the batch's own writes.
    pub(super) actors: BTreeSet<Actor>,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.prepared.is_empty() && self.lease.is_none() && self.vnode_records.is_empty()
    }

    /// Whether it is synced whatever the durability.
    fn must_sync(&self) -> bool {
        self.is_barrier || self.lease.is_some() || !self.vnode_records.is_empty()
    }
}

impl Writer {
    /// Asks for a longer lease of hybrid time with the next commit.
    pub fn extend_lease(&mut self, lease: HybridTime) {
        self.batch.lease = self.batch.lease.max(Some(lease));
    }

    /// Distrusts every virtual node from the next commit on: what they hold, and what they do not,
    /// is unknown until they are trusted again, or key by key until it is rebuilt. For losses that
    /// the store cannot see, such as an older copy of the disk that was put back.
    pub fn begin_era(&mut self) {
        let vnodes = self.batch.vnodes.get_or_insert_with(|| self.vnodes.clone());
        let era = Era(vnodes.era().0 + 1);
        vnodes.begin_era(era);
        self.batch.vnode_records.push(era_record(era));
    }

    /// Trusts a virtual node again with the next commit: enough of its peers were merged in. Its
    /// absent keys are absent then, and what was written in earlier eras counts, but for keys with a
    /// mark of their own. What it rests on must be committed before: of the batch this comes first.
    pub fn trust(&mut self, vnode: VnodeIndex) {
        let vnodes = self.batch.vnodes.get_or_insert_with(|| self.vnodes.clone());
        if vnodes.trust(vnode) {
            self.batch.vnode_records.push(trust_record(vnodes.era(), vnode));
        }
    }

    /// Raises a virtual node's floor with the next commit; it never goes down. Every replica has
    /// applied all dots at or before it, none is made any more, and their pairs are equal everywhere.
    /// What it rests on must be committed before: of the batch this comes first.
    pub fn raise_floor(&mut self, vnode: VnodeIndex, floor: HybridTime) {
        let vnodes = self.batch.vnodes.get_or_insert_with(|| self.vnodes.clone());
        if vnodes.raise_floor(vnode, floor) {
            self.batch.vnode_records.push(floor_record(vnode, floor));
        }
    }

    /// Has the next commit synced, and so all before it, whatever the durability.
    pub fn sync_next(&mut self) {
        self.batch.is_barrier = true;
    }

    /// The durable lease: every hybrid time made lies below it.
    pub fn lease(&self) -> HybridTime {
        self.lease
    }

    /// Whether anything waits for a commit.
    pub fn has_prepared(&self) -> bool {
        !self.batch.is_empty()
    }

    /// Makes all that was prepared durable with one write and one fsync, then visible to readers.
    ///
    /// # Errors
    /// See [`CommitError`]. The batch is dropped in either case.
    pub fn commit(&mut self) -> Result<(), CommitError> {
        let batch = std::mem::take(&mut self.batch);
        if let Some(reason) = &self.poisoned {
            return Err(CommitError::Poisoned(reason.clone()));
        }
        if batch.is_empty() {
            return if batch.is_barrier { self.sync() } else { Ok(()) };
        }
        let lease = batch.lease.map(lease_record);
        let prepared = batch.prepared.iter().map(|prepared| &prepared.record);
        let records = batch.vnode_records.iter().chain(prepared);
        let last = match self.log.append(records.chain(&lease).map(|record| &record[..])) {
            Ok(last) => last,
            Err(LogError::Full(_)) => {
                // The oldest go first: what is queued under them was answered long ago.
                self.lost_actors.extend(batch.actors);
                let surplus = self.lost_actors.len().saturating_sub(LOST_ACTORS_MAX);
                self.lost_actors.drain(..surplus);
                return Err(CommitError::Full);
            }
            Err(error) => return Err(self.poison(&error)),
        };
        if (self.options.durability == Durability::Group || batch.must_sync())
            && !is_planted(PlantedBug::SkipSync)
            && let Err(error) = self.sync_log()
            && !is_planted(PlantedBug::IgnoreFailedSync)
        {
            return Err(self.poison(&error));
        }
        self.publish(batch, last)
    }

    fn sync_log(&mut self) -> Result<(), LogError> {
        self.log.sync()?;
        self.shared.durable.store(self.log.synced_sequence().0, Ordering::Release);
        Ok(())
    }

    /// Syncs what `Periodic` commits have left unsynced.
    pub fn sync(&mut self) -> Result<(), CommitError> {
        if let Some(reason) = &self.poisoned {
            return Err(CommitError::Poisoned(reason.clone()));
        }
        match self.sync_log() {
            Ok(()) => Ok(()),
            Err(error) => Err(self.poison(&error)),
        }
    }

    /// Durably replaces a small document of the node's (votes, the cluster record, identity).
    ///
    /// # Errors
    /// See [`CommitError`]; but it is unknown then whether the next start finds the old document or
    /// the new one. Save it again before anything rests on either.
    pub fn save(&mut self, name: &str, bytes: &[u8]) -> Result<(), CommitError> {
        if let Some(reason) = &self.poisoned {
            return Err(CommitError::Poisoned(reason.clone()));
        }
        match SmallFile::new(self.disk.clone(), name).save(bytes) {
            Ok(()) => Ok(()),
            Err(SmallFileError::Io { source, .. }) if is_full(&source) => Err(CommitError::Full),
            Err(error) => Err(self.poison(&error)),
        }
    }

    /// Whether the disk has failed so that nothing is acknowledged before a restart.
    pub fn is_poisoned(&self) -> bool {
        self.poisoned.is_some()
    }

    /// The digests of all that is committed. Where something that was damaged has been written over
    /// they still count it, until the next start.
    pub fn digests(&self) -> &Digests {
        &self.digests
    }

    /// How the caller should pace its batches.
    pub fn pressure(&self) -> Pressure {
        self.engine.pressure()
    }

    /// Closes the tables' memory for a flush, with the checkpoint that goes with it.
    pub fn rotate(&mut self) {
        // What the tables will hold must be in the log before. A failure poisons the store, which
        // the next commit tells.
        if self.options.durability == Durability::Periodic && self.sync().is_err() {
            return;
        }
        // Held from before: no flush takes the memory for that of an earlier checkpoint.
        let shared = self.shared.clone();
        let mut checkpoints = lock(&shared.checkpoints);
        let Some(closed) = self.engine.rotate() else { return };
        checkpoints.push(self.checkpoint(closed));
    }

    pub(super) fn checkpoint(&self, sequence: Sequence) -> Checkpoint {
        Checkpoint {
            sequence,
            tables: Sequence(0),
            lease: self.lease,
            vnodes: self.vnodes.clone(),
            recount_due: self.recount_due,
            digests: self.digests.clone(),
        }
    }

    fn publish(&mut self, batch: Batch, last: Sequence) -> Result<(), CommitError> {
        let changes = batch.prepared.iter().map(|prepared| engine::Change {
            key: prepared.key.bytes().clone(),
            value: prepared.value.clone(),
        });
        if let Err(error) = self.engine.insert(changes.collect(), last) {
            return Err(self.poison(&error));
        }
        for prepared in &batch.prepared {
            if let Some((replication, change)) = &prepared.counted
                && !is_planted(PlantedBug::SkipDigest)
            {
                let vnode = self.options.vnodes.vnode_of(prepared.key.token());
                self.digests.apply(&prepared.key, *replication, &change.delta);
                self.trees.on_changed(*replication, vnode);
                self.recount_due |= change.over_damage;
            }
        }
        for (key, held) in &batch.overlay {
            self.heads.note(key, held);
        }
        if let Some(vnodes) = batch.vnodes {
            self.shared.publish_vnodes(&vnodes);
            self.vnodes = vnodes;
        }
        self.lease = self.lease.max(batch.lease.unwrap_or_default());
        self.taken_bytes += batch.taken.grown;
        let taken_bytes = u64::try_from(self.taken_bytes).unwrap_or(0);
        self.shared.taken_bytes.store(taken_bytes, Ordering::Relaxed);
        self.shared.committed.store(last.0, Ordering::Relaxed);
        lock(&self.shared.tables).clone_from(self.digests.tables());
        if self.engine.memory_bytes() > self.options.memory_bytes_max {
            self.rotate();
        }
        self.cut_log();
        Ok(())
    }

    /// Records up to this one are not needed any more.
    pub(super) fn allow_cut(&self, sequence: Sequence) {
        self.shared.cut.fetch_max(sequence.0 + 1, Ordering::Release);
    }

    /// Drops the segments that no start needs any more.
    fn cut_log(&mut self) {
        let cut = self.shared.cut.swap(0, Ordering::Acquire);
        if cut > 0 && self.log.truncate_before(Sequence(cut)).is_err() {
            // The batch is durable all the same: it is tried again after the next one, and if the
            // log was poisoned by this, that one tells.
            self.shared.cut.fetch_max(cut, Ordering::Release);
        }
    }

    fn poison(&mut self, error: &dyn std::fmt::Display) -> CommitError {
        let reason = error.to_string();
        self.poisoned.get_or_insert_with(|| reason.clone());
        CommitError::Poisoned(reason)
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
