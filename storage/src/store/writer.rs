//! The single writer: merges in order, commits in batches.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use quoit_ring::{ConflictPolicy, HybridTime};

use super::mutation::{Counted, KeyRecord, lease_record, value_record};
use super::{Change, Checkpoint, Mutation, Shared, StoreOptions, lock};
use crate::codec;
use crate::digest::{self, Digests};
use crate::disk::Disk;
use crate::engine::{self, Engine, EngineError, Pressure, Sequence};
use crate::layout::StoredKey;
use crate::log::{Log, LogError};
use crate::planted::{PlantedBug, is_planted};
use crate::small_file::{SmallFile, SmallFileError};
use crate::stored::{Era, Standing, Stored};
use crate::version::{Actor, ApartValue, Dot, Older, SiblingSet, Version, VersionVector};

/// No set is ever longer, not even by a merge: a record of the log must hold it.
const MERGED_BYTES_MAX: usize = 512 << 20;

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
    /// greatest.
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
struct Prepared {
    key: StoredKey,
    record: Bytes,
    value: Option<Bytes>,
    /// What the digests count, for sets: the replication factor and the change.
    counted: Option<(u8, Counted)>,
}

/// What a mutation comes to.
struct Merged {
    set: SiblingSet,
    incomplete: bool,
    /// Values that lie apart, and are not here yet.
    new_values: Vec<ApartValue>,
}

/// What a key holds, as the writer sees it.
#[derive(Clone)]
struct Held {
    set: SiblingSet,
    encoded: Bytes,
    incomplete: bool,
    /// There may be something that cannot be read.
    is_damaged: bool,
}

impl Held {
    fn nothing(incomplete: bool) -> Self {
        let (set, encoded) = (SiblingSet::default(), Bytes::new());
        Self { set, encoded, incomplete, is_damaged: false }
    }

    fn damaged() -> Self {
        Self { is_damaged: true, ..Self::nothing(true) }
    }
}

/// The single writer of a store.
pub struct Writer {
    pub(super) log: Log,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) shared: Arc<Shared>,
    pub(super) options: StoreOptions,
    pub(super) digests: Digests,
    /// The digests count something that was damaged and is written over: the next start makes them
    /// anew from the tables.
    pub(super) recount_due: bool,
    pub(super) lease: HybridTime,
    pub(super) era: Era,
    pub(super) trusted_from: Era,
    pub(super) batch: Batch,
    pub(super) poisoned: Option<String>,
    /// Actors whose dots went with a batch that was not committed. They make no more: a later dot
    /// would claim, and so erase at other replicas, those that are forgotten here.
    pub(super) lost_actors: VecDeque<Actor>,
}

/// What was merged and not committed.
#[derive(Default)]
pub(super) struct Batch {
    prepared: Vec<Prepared>,
    lease: Option<HybridTime>,
    /// What the keys of the batch hold after it.
    overlay: BTreeMap<StoredKey, Held>,
    /// Who made the dots of the batch's own writes.
    actors: BTreeSet<Actor>,
}

impl Writer {
    /// Merges one mutation with what its key holds, after all mutations before it. Nothing may be
    /// acknowledged before [`Writer::commit`] has returned, not even what changed nothing: it may
    /// rest on what the same batch changed.
    pub fn prepare(&mut self, mutation: Mutation) -> Outcome {
        if self.poisoned.is_some() {
            return Outcome::Refused("the disk failed: nothing is acknowledged before a restart");
        }
        if self.engine.pressure() == Pressure::Halt {
            return Outcome::Refused("the tables do not keep up with the writes");
        }
        let Mutation { key, replication, policy, change, values } = mutation;
        let Ok(held) = self.held(&key) else {
            return Outcome::Refused("the tables cannot be read");
        };
        let merged = match change {
            Change::Write { .. } if held.incomplete => return Outcome::Incomplete,
            Change::Write { context, version } => {
                let dot = version.dot;
                self.write(&key, policy, &held, &context, version).and_then(|set| {
                    let new_values = new_values(&key, &held, &set, &[dot], values, false)?;
                    Ok(Merged { set, incomplete: false, new_values })
                })
            }
            Change::Merge { set, rebuild } => {
                self.merge(&key, policy, &held, &set, values, rebuild)
            }
        };
        let merged = match merged {
            Ok(merged) => merged,
            Err(outcome) => return outcome,
        };
        // Nobody knows whether what an incomplete key holds is the greatest.
        let counts = policy != ConflictPolicy::Latest || !held.incomplete || !merged.incomplete;
        // An empty set under a mark still says that nothing is known, and one without it that
        // nothing is there, where absent keys are distrusted: both are written down.
        let changes = merged.incomplete != held.incomplete
            || !held.set.has_same_dots(&merged.set)
            || !merged.new_values.is_empty();
        let encoded =
            if changes { self.put(key, replication, &held, merged) } else { held.encoded };
        if counts { Outcome::Merged(encoded) } else { Outcome::Incomplete }
    }

    /// What a merge comes to, or why it comes to nothing.
    fn merge(
        &self,
        key: &StoredKey,
        policy: ConflictPolicy,
        held: &Held,
        set: &SiblingSet,
        values: Vec<ApartValue>,
        rebuild: bool,
    ) -> Result<Merged, Outcome> {
        let brings = |merged: &SiblingSet| -> Vec<Dot> {
            set.apart().map(|version| version.dot).filter(|dot| merged.holds(*dot)).collect()
        };
        let merged = merge(key, held, set, policy)?;
        let brought = brings(&merged);
        if rebuild && !self.has_values(key, &merged, |dot| !brought.contains(&dot)) {
            // A value was lost that nobody else has: all is forgotten, as where a set is damaged.
            // To drop its dot alone would claim it, and so erase it where it may be under way to.
            let nothing = Held::nothing(true);
            let merged = merge(key, &nothing, set, policy)?;
            let new_values = new_values(key, &nothing, &merged, &brings(&merged), values, true)?;
            return Ok(Merged { set: merged, incomplete: false, new_values });
        }
        let new_values = new_values(key, held, &merged, &brought, values, rebuild)?;
        Ok(Merged { set: merged, incomplete: held.incomplete && !rebuild, new_values })
    }

    /// Whether the values that lie apart, of those dots, are here and intact.
    fn has_values(&self, key: &StoredKey, set: &SiblingSet, of: impl Fn(Dot) -> bool) -> bool {
        set.apart().filter(|version| of(version.dot)).all(|version| {
            let found = self.engine.get(key.apart(version.dot).bytes());
            matches!(found, Ok(Some(bytes)) if version.is_value(&bytes, key.token()))
        })
    }

    /// The set after a coordinator's write, or why there is none.
    fn write(
        &mut self,
        key: &StoredKey,
        policy: ConflictPolicy,
        held: &Held,
        context: &VersionVector,
        version: Version,
    ) -> Result<SiblingSet, Outcome> {
        if !version.is_intact(key.token()) {
            return Err(Outcome::Corrupt);
        }
        let actor = version.dot.actor;
        // In a `latest` table a dot claims no other.
        let claims = policy == ConflictPolicy::Siblings;
        if claims && self.lost_actors.contains(&actor) {
            return Err(Outcome::Refused("an earlier write was not committed: try again"));
        }
        let written = held.set.write(policy, context, version);
        let set = written.map_err(|Older(time)| Outcome::Older(time))?;
        let set = self.check_limits(held, set)?;
        if claims {
            self.batch.actors.insert(actor);
        }
        Ok(set)
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
            Err(LogError::Full(_)) => {
                // The oldest go first: what is queued under them was answered long ago.
                self.lost_actors.extend(batch.actors);
                let surplus = self.lost_actors.len().saturating_sub(LOST_ACTORS_MAX);
                self.lost_actors.drain(..surplus);
                return Err(CommitError::Full);
            }
            Err(error) => return Err(self.poison(&error)),
        };
        if (self.options.durability == Durability::Group || batch.lease.is_some())
            && !is_planted(PlantedBug::SkipSync)
            && let Err(error) = self.log.sync()
            && !is_planted(PlantedBug::IgnoreFailedSync)
        {
            return Err(self.poison(&error));
        }
        self.publish(batch, last)
    }

    /// Syncs what `Periodic` commits have left unsynced.
    pub fn sync(&mut self) -> Result<(), CommitError> {
        if let Some(reason) = &self.poisoned {
            return Err(CommitError::Poisoned(reason.clone()));
        }
        match self.log.sync() {
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
            recount_due: self.recount_due,
            digests: self.digests.clone(),
        }
    }

    /// What a key holds after all that was prepared. What cannot be read is held as an incomplete
    /// set of which nothing is known; an error says nothing of what is held.
    fn held(&self, key: &StoredKey) -> Result<Held, EngineError> {
        if let Some(held) = self.batch.overlay.get(key) {
            return Ok(held.clone());
        }
        match self.engine.get(key.bytes()) {
            Ok(None) => Ok(Held::nothing(self.trusted_from > Era(0))),
            Ok(Some(sealed)) => Ok(self.open_held(key, &sealed).unwrap_or_else(Held::damaged)),
            Err(EngineError::Damaged(_)) => Ok(Held::damaged()),
            Err(error @ EngineError::Io(_)) => Err(error),
        }
    }

    fn open_held(&self, key: &StoredKey, sealed: &Bytes) -> Option<Held> {
        let Stored { standing, set: encoded } = Stored::open(key.bytes(), sealed).ok()?;
        let incomplete = standing.incomplete || standing.era < self.trusted_from;
        Some(Held { set: codec::decode(&encoded).ok()?, encoded, incomplete, is_damaged: false })
    }

    fn check_limits(&self, before: &Held, after: SiblingSet) -> Result<SiblingSet, Outcome> {
        let (count, before_count) = (after.versions().len(), before.set.versions().len());
        if count > self.options.siblings_max && count > before_count {
            return Err(Outcome::TooManySiblings);
        }
        if after.vector().entries().len() > codec::ENTRIES_MAX {
            return Err(Outcome::TooLarge);
        }
        let bytes = codec::whole_bytes(&after);
        if bytes > self.options.set_bytes_max && bytes > codec::whole_bytes(&before.set) {
            return Err(Outcome::TooLarge);
        }
        Ok(after)
    }

    /// Adds the key's new state to the batch; returns the encoded set.
    fn put(&mut self, key: StoredKey, replication: u8, before: &Held, merged: Merged) -> Bytes {
        let Merged { set, incomplete, new_values } = merged;
        for ApartValue { dot, bytes } in new_values {
            self.put_value(key.apart(dot), replication, Some(bytes));
        }
        let delta = digest::delta(&key, &before.set, &set);
        let change = Counted { delta, over_damage: before.is_damaged };
        let standing = Standing { incomplete, replication, era: self.era };
        let record = KeyRecord::new(&key, change, standing, &set);
        let encoded = record.set();
        self.batch.prepared.push(Prepared {
            key: key.clone(),
            value: Some(record.sealed()),
            record: record.bytes,
            counted: Some((replication, change)),
        });
        for version in before.set.apart().filter(|version| !set.holds(version.dot)) {
            self.put_value(key.apart(version.dot), replication, None);
        }
        let held = Held { set, encoded: encoded.clone(), incomplete, is_damaged: false };
        self.batch.overlay.insert(key, held);
        encoded
    }

    fn put_value(&mut self, at: StoredKey, replication: u8, value: Option<Bytes>) {
        let record = value_record(&at, replication, value.as_ref());
        // The tables share the record's memory.
        let value = value.map(|value| record.slice(record.len() - value.len()..));
        self.batch.prepared.push(Prepared { key: at, record, value, counted: None });
    }

    /// Marks a key as incomplete: writes under it may have been lost.
    pub(super) fn mark_incomplete(
        &mut self,
        key: StoredKey,
        replication: u8,
    ) -> Result<(), EngineError> {
        let held = self.held(&key)?;
        // Whatever the mark was: a key that was never heard of differs from one that was lost.
        let merged = Merged { set: held.set.clone(), incomplete: true, new_values: Vec::new() };
        self.put(key, replication, &held, merged);
        Ok(())
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
            if let Some((replication, change)) = prepared.counted {
                self.digests.apply(&prepared.key, replication, change.delta);
                self.recount_due |= change.over_damage;
            }
        }
        self.lease = self.lease.max(batch.lease.unwrap_or_default());
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

/// Those of the values that lie apart, of the dots that a mutation has brought into the set, which
/// are to be written down: what is held already is not written again, but in a rebuild.
fn new_values(
    key: &StoredKey,
    held: &Held,
    set: &SiblingSet,
    brought: &[Dot],
    mut values: Vec<ApartValue>,
    rebuild: bool,
) -> Result<Vec<ApartValue>, Outcome> {
    let is_held = |dot: Dot| !held.incomplete && held.set.holds(dot);
    let mut new = Vec::new();
    for version in set.apart().filter(|version| brought.contains(&version.dot)) {
        let came = values.iter().position(|value| value.dot == version.dot);
        match came.map(|at| values.swap_remove(at)) {
            Some(_) if is_held(version.dot) && !rebuild => {}
            Some(value) if version.is_value(&value.bytes, key.token()) => new.push(value),
            Some(_) => return Err(Outcome::Corrupt),
            None if is_held(version.dot) => {}
            None => return Err(Outcome::Lacks),
        }
    }
    Ok(new)
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
        && !is_planted(PlantedBug::SkipOlder)
    {
        return Err(Outcome::Older(greatest.time));
    }
    let merged = held.set.merge(set, policy);
    let counts = merged.vector().entries().len().max(merged.versions().len());
    if counts > codec::ENTRIES_MAX || codec::encoded_bytes(&merged) > MERGED_BYTES_MAX {
        return Err(Outcome::TooLarge);
    }
    Ok(merged)
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
