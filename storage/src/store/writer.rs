//! The single writer: merges in order, commits in batches.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use quoit_ring::{ConflictPolicy, HybridTime};

use super::mutation::{key_record, lease_record};
use super::{Change, Checkpoint, Mutation, Shared, StoreOptions, lock};
use crate::codec;
use crate::digest::{self, Delta, Digests};
use crate::disk::Disk;
use crate::engine::{self, Engine, EngineError, Pressure, Sequence};
use crate::layout::StoredKey;
use crate::log::{Log, LogError};
use crate::small_file::SmallFile;
use crate::stored::{Era, Stored};
use crate::version::{Older, SiblingSet};

/// When a commit counts as durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// After an fsync that the whole batch shares.
    Group,
    /// After the write; the caller syncs at intervals ([`Writer::sync`]) and a power cut may take
    /// back what came since the last.
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
    /// The key may have lost writes: it is not coordinated here. Nothing changed.
    Incomplete,
    /// The key would have more siblings than allowed. Nothing changed.
    TooManySiblings,
    /// The key's set would be larger than allowed. Nothing changed.
    TooLarge,
    /// A value does not have the checksum that came with it. Nothing changed.
    Corrupt,
    /// The tables cannot be read, or do not keep up. Nothing changed; come back later.
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

struct Prepared {
    key: StoredKey,
    replication: u8,
    delta: Delta,
    record: Bytes,
    envelope_at: usize,
}

/// What a key holds, as the writer sees it.
#[derive(Clone, Default, PartialEq)]
struct Held {
    set: SiblingSet,
    incomplete: bool,
}

/// The single writer of a store.
pub struct Writer {
    pub(super) log: Log,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) shared: Arc<Shared>,
    pub(super) options: StoreOptions,
    pub(super) digests: Digests,
    pub(super) lease: HybridTime,
    pub(super) era: Era,
    pub(super) trusted_from: Era,
    pub(super) batch: Batch,
    pub(super) poisoned: Option<String>,
}

/// What was merged and not committed.
#[derive(Default)]
pub(super) struct Batch {
    prepared: Vec<Prepared>,
    lease: Option<HybridTime>,
    /// What the keys of the batch hold after it.
    overlay: BTreeMap<StoredKey, Held>,
}

impl Writer {
    /// Merges one mutation with what its key holds, after all mutations before it.
    pub fn prepare(&mut self, mutation: Mutation) -> Outcome {
        if self.engine.pressure() == Pressure::Halt {
            return Outcome::Refused("the tables do not keep up with the writes");
        }
        let Mutation { key, replication, policy, change } = mutation;
        let held = match self.held(&key) {
            Ok(held) => held,
            Err(refused) => return refused,
        };
        let merged = match change {
            Change::Write { context, version } => {
                if held.incomplete {
                    return Outcome::Incomplete;
                }
                if !version.is_intact(key.token()) {
                    return Outcome::Corrupt;
                }
                match held.set.write(policy, &context, version) {
                    Ok(set) => self.check_limits(&held.set, set),
                    Err(Older(time)) => Err(Outcome::Older(time)),
                }
                .map(|set| Held { set, incomplete: false })
            }
            Change::Merge { set, rebuild } => merge(&key, &held, &set, policy).map(|set| {
                // An empty set under a mark still says that nothing is known: it must be kept.
                Held { set, incomplete: held.incomplete && !rebuild }
            }),
        };
        match merged {
            Ok(after) => self.put(key, replication, &held, after),
            Err(outcome) => outcome,
        }
    }

    /// Asks for a longer lease of hybrid time with the next commit.
    pub fn extend_lease(&mut self, lease: HybridTime) {
        self.batch.lease = self.batch.lease.max(Some(lease));
    }

    /// The durable lease: every hybrid time made lies below it.
    pub fn lease(&self) -> HybridTime {
        self.lease
    }

    /// Whether anything waits for a commit.
    pub fn has_prepared(&self) -> bool {
        !self.batch.prepared.is_empty() || self.batch.lease.is_some()
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
        if batch.prepared.is_empty() && batch.lease.is_none() {
            return Ok(());
        }
        let lease = batch.lease.map(lease_record);
        let records = batch.prepared.iter().map(|prepared| &prepared.record);
        let last = match self.log.append(records.chain(&lease).map(|record| &record[..])) {
            Ok(last) => last,
            Err(LogError::Full(_)) => return Err(CommitError::Full),
            Err(error) => return Err(self.poison(&error)),
        };
        if self.options.durability == Durability::Group
            && let Err(error) = self.log.sync()
        {
            return Err(self.poison(&error));
        }
        self.publish(batch, last)
    }

    /// Syncs what `Periodic` commits have left unsynced.
    pub fn sync(&mut self) -> Result<(), CommitError> {
        match self.log.sync() {
            Ok(()) => Ok(()),
            Err(error) => Err(self.poison(&error)),
        }
    }

    /// Durably replaces a small document of the node's (votes, the cluster record, identity).
    pub fn save(&mut self, name: &str, bytes: &[u8]) -> Result<(), CommitError> {
        if let Some(reason) = &self.poisoned {
            return Err(CommitError::Poisoned(reason.clone()));
        }
        SmallFile::new(self.disk.clone(), name).save(bytes).map_err(|error| {
            // A document is written beside its old copy: what was acknowledged is still there.
            CommitError::Poisoned(error.to_string())
        })
    }

    /// The digests of all that is committed.
    pub fn digests(&self) -> &Digests {
        &self.digests
    }

    /// How the caller should pace its batches.
    pub fn pressure(&self) -> Pressure {
        self.engine.pressure()
    }

    /// Closes the tables' memory for a flush, with the checkpoint that goes with it.
    pub fn rotate(&mut self) {
        let Some(closed) = self.engine.rotate() else { return };
        lock(&self.shared.checkpoints).push(self.checkpoint(closed));
    }

    pub(super) fn checkpoint(&self, sequence: Sequence) -> Checkpoint {
        Checkpoint {
            sequence,
            tables: Sequence(0),
            lease: self.lease,
            era: self.era,
            trusted_from: self.trusted_from,
            digests: self.digests.clone(),
        }
    }

    /// What a key holds after all that was prepared.
    fn held(&self, key: &StoredKey) -> Result<Held, Outcome> {
        if let Some(held) = self.batch.overlay.get(key) {
            return Ok(held.clone());
        }
        let nothing_known = || Held { set: SiblingSet::default(), incomplete: true };
        match self.engine.get(key.bytes()) {
            Ok(None) => {
                Ok(Held { set: SiblingSet::default(), incomplete: self.trusted_from > Era(0) })
            }
            Ok(Some(sealed)) => Ok(Stored::open(key.bytes(), &sealed)
                .ok()
                .and_then(|stored| {
                    let incomplete = stored.incomplete || stored.era < self.trusted_from;
                    Some(Held { set: codec::decode(&stored.set).ok()?, incomplete })
                })
                .unwrap_or_else(nothing_known)),
            Err(EngineError::Damaged(_)) => Ok(nothing_known()),
            Err(EngineError::Io(_)) => Err(Outcome::Refused("the tables cannot be read")),
        }
    }

    fn check_limits(&self, before: &SiblingSet, after: SiblingSet) -> Result<SiblingSet, Outcome> {
        let (count, before_count) = (after.versions().len(), before.versions().len());
        if count > self.options.siblings_max && count > before_count {
            return Err(Outcome::TooManySiblings);
        }
        let bytes = codec::encoded_bytes(&after);
        if bytes > self.options.set_bytes_max && bytes > codec::encoded_bytes(before) {
            return Err(Outcome::TooLarge);
        }
        Ok(after)
    }

    /// Adds the key's new state to the batch, unless it is the old one.
    fn put(&mut self, key: StoredKey, replication: u8, before: &Held, after: Held) -> Outcome {
        let set = codec::encode(&after.set);
        if *before == after {
            return Outcome::Merged(set);
        }
        let delta = digest::delta(&key, &before.set, &after.set);
        let stored = Stored { incomplete: after.incomplete, era: self.era, set: set.clone() };
        let (record, envelope_at) = key_record(&key, replication, delta, &stored.seal(key.bytes()));
        self.batch.overlay.insert(key.clone(), after);
        self.batch.prepared.push(Prepared { key, replication, delta, record, envelope_at });
        Outcome::Merged(set)
    }

    /// Marks a key as incomplete: writes under it may have been lost.
    pub(super) fn mark_incomplete(&mut self, key: StoredKey, replication: u8) {
        let held = self.held(&key).unwrap_or_default();
        let after = Held { set: held.set.clone(), incomplete: true };
        // A key that was never heard of differs from one that may have been lost.
        let before = Held { incomplete: false, ..held };
        self.put(key, replication, &before, after);
    }

    fn publish(&mut self, batch: Batch, last: Sequence) -> Result<(), CommitError> {
        let changes = batch.prepared.iter().map(|prepared| engine::Change {
            key: prepared.key.bytes().clone(),
            value: Some(prepared.record.slice(prepared.envelope_at..)),
        });
        if let Err(error) = self.engine.insert(changes.collect(), last) {
            return Err(self.poison(&error));
        }
        for prepared in &batch.prepared {
            self.digests.apply(&prepared.key, prepared.replication, prepared.delta);
        }
        self.lease = self.lease.max(batch.lease.unwrap_or_default());
        self.shared.committed.store(last.0, Ordering::Relaxed);
        lock(&self.shared.tables).clone_from(self.digests.tables());
        if self.engine.memory_bytes() > self.options.memory_bytes_max {
            self.rotate();
        }
        let cut = self.shared.cut.swap(0, Ordering::Acquire);
        if cut > 0
            && let Err(error) = self.log.truncate_before(Sequence(cut))
        {
            return Err(self.poison(&error));
        }
        Ok(())
    }

    fn poison(&mut self, error: &dyn std::fmt::Display) -> CommitError {
        let reason = error.to_string();
        self.poisoned.get_or_insert_with(|| reason.clone());
        CommitError::Poisoned(reason)
    }
}

/// The set after a merge, or why there is none.
fn merge(
    key: &StoredKey,
    held: &Held,
    set: &SiblingSet,
    policy: ConflictPolicy,
) -> Result<SiblingSet, Outcome> {
    if !set.versions().iter().all(|version| version.is_intact(key.token())) {
        return Err(Outcome::Corrupt);
    }
    if policy == ConflictPolicy::Latest
        && let (Some(greatest), Some(new)) = (held.set.greatest_dot(), set.greatest_dot())
        && greatest > new
        && !held.incomplete
    {
        return Err(Outcome::Older(greatest.time));
    }
    Ok(held.set.merge(set, policy))
}
