//! What is gathered when a store is opened: the checkpoint, the log's records after it, and what
//! damage means for either.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::mutation::{About, Record};
use super::open::{OpenError, StoreReport};
use super::scan::{ERAS_BEHIND_DAMAGE, scan};
use super::{CHECKPOINT_FILE, CHECKPOINT_FORMAT, Checkpoint, CheckpointError, StoreOptions};
use crate::codec;
use crate::disk::Disk;
use crate::engine::{Change, Engine, EngineError, Sequence};
use crate::layout::{HintKind, StoredKey};
use crate::log::{LogOptions, Lost, RecoveredEntry, Recovery, Tail};
use crate::small_file::{SmallFile, SmallFileError};
use crate::stored::{Era, Stored};

const EVERYTHING: &str = "every key is distrusted until its peers are merged in";

/// Gathers while the log is read.
pub(super) struct Replay<'a> {
    engine: &'a dyn Engine,
    memory_bytes_max: u64,
    tables_persisted: Sequence,
    /// The tables were lost, or others put in their place: they hold nothing for certain.
    tables_lost: bool,
    /// Whether there was one, readable or not.
    had_checkpoint: bool,
    checkpoint: Checkpoint,
    /// Keys whose last record is damaged.
    incomplete: BTreeMap<StoredKey, u8>,
    /// Where values lie apart whose last record is damaged.
    lost_values: BTreeMap<StoredKey, u8>,
    /// Something was lost and nobody knows under which keys.
    lost: bool,
    failed: Option<OpenError>,
    report: StoreReport,
}

/// What all of it comes to.
pub(super) struct Found {
    /// What the store goes on from.
    pub(super) checkpoint: Checkpoint,
    /// Keys that lost writes, with their replication factors.
    pub(super) incomplete: BTreeMap<StoredKey, u8>,
    /// It has to be written down before anything rests on it.
    pub(super) is_news: bool,
    pub(super) report: StoreReport,
}

impl<'a> Replay<'a> {
    /// Loads the checkpoint.
    pub(super) fn begin(
        disk: &Arc<dyn Disk>,
        engine: &'a dyn Engine,
        options: &StoreOptions,
        tables_lost: Option<String>,
    ) -> Result<Self, OpenError> {
        let mut replay = Self {
            engine,
            memory_bytes_max: options.memory_bytes_max,
            tables_persisted: engine.persisted_sequence(),
            tables_lost: tables_lost.is_some(),
            had_checkpoint: true,
            checkpoint: Checkpoint::new(options.vnodes),
            incomplete: BTreeMap::new(),
            lost_values: BTreeMap::new(),
            lost: tables_lost.is_some(),
            failed: None,
            report: StoreReport::default(),
        };
        replay.report.damage.extend(tables_lost);
        match SmallFile::new(disk.clone(), CHECKPOINT_FILE).load() {
            Ok(Some(loaded)) => {
                replay.report.notes.extend(loaded.repaired);
                match Checkpoint::decode(&loaded.bytes) {
                    Ok(checkpoint) => replay.take_checkpoint(checkpoint, options)?,
                    Err(CheckpointError::Format(format)) => {
                        return Err(OpenError::CheckpointFormat {
                            format,
                            known: CHECKPOINT_FORMAT,
                        });
                    }
                    Err(CheckpointError::Damaged) => replay.distrust("the checkpoint is damaged"),
                }
            }
            Ok(None) => {
                replay.had_checkpoint = false;
                if replay.tables_persisted > Sequence(0) {
                    replay.distrust("the checkpoint is missing");
                }
            }
            Err(SmallFileError::Damaged { .. }) => {
                replay.distrust("the checkpoint is damaged in both copies");
            }
            Err(other) => return Err(other.into()),
        }
        if !replay.tables_lost && replay.tables_persisted < replay.checkpoint.tables {
            replay.distrust_other_tables(disk)?;
        }
        Ok(replay)
    }

    fn take_checkpoint(
        &mut self,
        checkpoint: Checkpoint,
        options: &StoreOptions,
    ) -> Result<(), OpenError> {
        let given = options.vnodes;
        let vnodes = checkpoint
            .vnodes
            .with_count(given)
            .map_err(|stored| OpenError::Vnodes { stored: stored.get(), given: given.get() })?;
        self.checkpoint = Checkpoint { vnodes, ..checkpoint };
        Ok(())
    }

    /// The tables are not those that the checkpoint was written for. That is written down at once:
    /// what is replayed into them will make it look as if they were.
    fn distrust_other_tables(&mut self, disk: &Arc<dyn Disk>) -> Result<(), OpenError> {
        self.tables_lost = true;
        let (now, before) = (self.tables_persisted.0, self.checkpoint.tables.0);
        self.distrust(&format!(
            "the tables hold records up to {now} and had {before} when the checkpoint was written: \
             others were put in their place"
        ));
        // The log may tell of later eras: none of them is this one.
        let era = self.checkpoint.vnodes.era();
        self.begin_era(Era(era.0 + ERAS_BEHIND_DAMAGE));
        self.checkpoint.tables = self.tables_persisted;
        self.checkpoint.recount_due = true;
        Ok(SmallFile::new(disk.clone(), CHECKPOINT_FILE).save(&self.checkpoint.encode())?)
    }

    /// Begins an era after all that there may have been.
    fn begin_era(&mut self, last: Era) {
        let last = self.checkpoint.vnodes.era().max(last);
        self.checkpoint.vnodes.begin_era(Era(last.0 + 1));
    }

    /// How the log has to be opened.
    pub(super) fn log_options(&self, segment_bytes: u64, identity: u64) -> LogOptions {
        // Where tables are lost the log's older records are wanted again, if they are still there.
        let persisted = if self.tables_lost { Sequence(0) } else { self.checkpoint.sequence };
        let is_new = !self.had_checkpoint && self.tables_persisted == Sequence(0);
        let known = self.tables_persisted.max(self.checkpoint.tables).max(self.checkpoint.sequence);
        let known = (!is_new).then_some(known);
        LogOptions { segment_bytes, persisted, known, identity }
    }

    /// Takes in one record of the log.
    pub(super) fn take(&mut self, entry: RecoveredEntry) {
        match entry {
            RecoveredEntry::Intact { sequence, payload } => match Record::read(&payload) {
                Some(record) => self.take_record(sequence, record),
                None => self.failed = Some(OpenError::NewerRecord { sequence: sequence.0 }),
            },
            RecoveredEntry::Damaged { sequence, payload_as_found } => {
                self.take_damaged(sequence, &payload_as_found);
            }
        }
    }

    fn take_record(&mut self, sequence: Sequence, record: Record) {
        self.report.replayed += 1;
        match record {
            Record::Key { key, replication, change, sealed } => {
                if sequence > self.checkpoint.sequence {
                    self.checkpoint.digests.apply(&key, replication, &change.delta);
                    self.checkpoint.recount_due |= change.over_damage;
                }
                // A record holds all that the key held.
                self.incomplete.remove(&key);
                self.insert(&key, sealed, sequence);
            }
            Record::Value { at, bytes } => {
                self.lost_values.remove(&at);
                self.insert(&at, bytes, sequence);
            }
            Record::Era(era) => {
                if sequence > self.checkpoint.sequence {
                    self.checkpoint.vnodes.begin_era(era);
                }
            }
            Record::Trust(era, vnode) => {
                if sequence > self.checkpoint.sequence && era == self.checkpoint.vnodes.era() {
                    self.checkpoint.vnodes.trust(vnode);
                }
            }
            Record::Floor(vnode, floor) => {
                self.checkpoint.vnodes.raise_floor(vnode, floor);
            }
            Record::Lease(lease) => self.checkpoint.lease = self.checkpoint.lease.max(lease),
        }
    }

    fn insert(&mut self, key: &StoredKey, value: Option<Bytes>, sequence: Sequence) {
        if sequence > self.tables_persisted
            && self.failed.is_none()
            && let Err(error) = self.insert_into_tables(key, value, sequence)
        {
            self.failed = Some(error.into());
        }
    }

    fn insert_into_tables(
        &self,
        key: &StoredKey,
        value: Option<Bytes>,
        sequence: Sequence,
    ) -> Result<(), EngineError> {
        let change = Change { key: key.bytes().clone(), value };
        self.engine.insert(vec![change], sequence)?;
        if self.engine.memory_bytes() > self.memory_bytes_max {
            self.engine.rotate();
            self.engine.flush()?;
        }
        Ok(())
    }

    fn take_damaged(&mut self, sequence: Sequence, payload: &Bytes) {
        // Even if the tables have persisted beyond it they may lack it: an earlier start may have
        // come so far, and no further, with this very damage.
        let damaged = format!("record {} of the commit log is damaged", sequence.0);
        match About::read(payload) {
            About::Key { key, .. } if key.taken().is_some() => self.report.damage.push(format!(
                "{damaged}: it held what was taken in another node's place, which is lost here"
            )),
            About::Key { key, .. }
                if key.hinted().is_some_and(|hint| hint.0 == HintKind::StandIn) =>
            {
                self.report.damage.push(format!("{damaged}: it is written anew"));
            }
            About::Key { key, .. } if key.is_for_others() => {
                self.report.damage.push(format!("{damaged}: a replica is told of one write less"));
            }
            About::Key { key, replication } => {
                self.report.damage.push(format!("{damaged}: its key is rebuilt from peers"));
                if key.is_apart() {
                    self.lost_values.insert(key, replication);
                } else {
                    self.incomplete.insert(key, replication);
                }
            }
            About::Lease => self.report.damage.push(format!(
                "{damaged}: it leased hybrid time; the clock goes on above all that is stored"
            )),
            About::Trust => self.report.damage.push(format!(
                "{damaged}: it ended the distrust of a virtual node, which goes on until its peers \
                 are merged in once more"
            )),
            About::Floor => self.report.damage.push(format!(
                "{damaged}: it raised the floor of a virtual node, which is raised again when its \
                 replicas agree the next time"
            )),
            About::Unknown => self.distrust(&format!("{damaged} and its key cannot be told")),
        }
    }

    fn distrust(&mut self, why: &str) {
        self.report.damage.push(format!("{why}: {EVERYTHING}"));
        self.lost = true;
    }

    /// Judges how the log ended, and begins a new era where that is due.
    pub(super) fn finish(mut self, recovery: &Recovery) -> Result<Found, OpenError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.judge(recovery);
        self.judge_lost_values();
        if !self.had_checkpoint && !self.lost && self.report.replayed > 0 {
            self.report.notes.push("the checkpoint is missing; the log tells all of it".to_owned());
        }
        let is_damaged = !self.report.damage.is_empty();
        let is_recounted = is_damaged || self.checkpoint.recount_due;
        if is_recounted {
            let scanned = scan(self.engine);
            self.checkpoint.digests = scanned.digests;
            self.checkpoint.recount_due = false;
            self.checkpoint.lease = self.checkpoint.lease.max(scanned.greatest_time);
            if self.lost {
                self.begin_era(scanned.greatest_era);
            }
        }
        self.report.incomplete_keys = self.incomplete.len() as u64;
        self.report.distrusted = self.checkpoint.vnodes.distrusted_count();
        Ok(Found {
            checkpoint: self.checkpoint,
            incomplete: self.incomplete,
            is_news: is_recounted || !self.had_checkpoint,
            report: self.report,
        })
    }

    /// A value that was lost matters where the key's set still speaks of it.
    fn judge_lost_values(&mut self) {
        for (at, replication) in std::mem::take(&mut self.lost_values) {
            let Some((key, dot)) = at.owner() else { continue };
            let is_needed = match self.engine.get(key.bytes()) {
                Ok(Some(sealed)) => Stored::open(key.bytes(), &sealed)
                    .ok()
                    .and_then(|stored| codec::decode(&stored.set).ok())
                    .is_none_or(|set| set.holds(dot)),
                Ok(None) => false,
                Err(_) => true,
            };
            if is_needed {
                self.incomplete.insert(key, replication);
            }
        }
    }

    fn judge(&mut self, recovery: &Recovery) {
        for lost in &recovery.lost {
            let Lost { segment, from_offset, after_sequence, reason, .. } = lost;
            self.distrust(&format!(
                "{segment} is damaged at byte {from_offset} ({reason}), so that records after {} \
                 may be missing",
                after_sequence.0
            ));
        }
        for harmless in &recovery.harmless {
            self.report.notes.push(format!(
                "{} is damaged at byte {} ({}); nothing that is needed was there",
                harmless.segment, harmless.from_offset, harmless.reason
            ));
        }
        if let Tail::Torn { segment, offset, bytes } = &recovery.tail {
            self.report.notes.push(format!(
                "{segment} ended in {bytes} bytes at {offset} of a write that was cut short and \
                 never acknowledged; they were cut off"
            ));
        }
    }
}
