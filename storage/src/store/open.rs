//! Opening a store: checkpoint, replay, and what to do where something is damaged.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex};

use quoit_ring::HybridTime;

use super::mutation::Record;
use super::writer::Batch;
use super::{
    CHECKPOINT_FILE, Checkpoint, CommitError, Maintainer, Reader, Shared, StoreOptions, Writer,
};
use crate::codec;
use crate::digest::{self, Digests};
use crate::disk::Disk;
use crate::engine::{Change, Engine, EngineError, Sequence};
use crate::layout::StoredKey;
use crate::log::{Log, LogError, LogOptions, RecoveredEntry, Recovery};
use crate::small_file::{SmallFile, SmallFileError};
use crate::stored::{Era, Stored};
use crate::version::SiblingSet;

/// Why a store cannot be opened. Nothing was lost by the try.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The commit log cannot be read at all, or a newer program wrote it.
    #[error("the commit log cannot be opened")]
    Log(#[from] LogError),
    /// The checkpoint's files cannot be read.
    #[error("the checkpoint cannot be read")]
    Checkpoint(#[from] SmallFileError),
    /// The tables failed while the log was replayed.
    #[error("the log cannot be replayed into the tables")]
    Engine(#[from] EngineError),
    /// What was found could not be made durable.
    #[error("what was found at the start cannot be written down")]
    Commit(#[from] CommitError),
}

/// An open store.
pub struct Opened {
    /// The single writer.
    pub writer: Writer,
    /// A reader; clone it.
    pub reader: Reader,
    /// Flushes and compacts.
    pub maintainer: Maintainer,
    /// What was found.
    pub report: StoreReport,
}

/// What was found at the start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoreReport {
    /// What is damaged, for people, one line each; empty where all is well.
    pub damage: Vec<String>,
    /// Worth a line in the log, but nothing is lost by it.
    pub notes: Vec<String>,
    /// Records that were replayed.
    pub replayed: u64,
    /// Keys that lost writes and wait to be rebuilt from peers.
    pub incomplete_keys: u64,
    /// Every key is distrusted until its peers are merged in.
    pub distrusted: bool,
}

/// Opens a store over a disk (for log and checkpoint) and tables that are open already.
///
/// `tables_lost` says why the tables were made anew though there had been some: everything is
/// distrusted then. `identity` is any random number; it names a log where one is made.
pub fn open(
    disk: Arc<dyn Disk>,
    engine: Arc<dyn Engine>,
    options: StoreOptions,
    tables_lost: Option<String>,
    identity: u64,
) -> Result<Opened, OpenError> {
    let mut found = Replay::begin(&disk, engine.as_ref(), &options)?;
    let had_checkpoint = found.checkpoint_found;
    // Lost tables need every record of the log again, and will be told that most are gone.
    let persisted = if tables_lost.is_some() { Sequence(0) } else { found.checkpoint.sequence };
    let log_options = LogOptions { segment_bytes: options.segment_bytes, persisted, identity };
    let (log, recovery) = Log::open(disk.clone(), log_options, &mut |entry| found.take(entry))?;
    if let Some(error) = found.failed {
        return Err(error.into());
    }
    if let Some(reason) = tables_lost {
        found.report.damage.push(reason);
        found.lost = true;
    } else if found.tables_persisted < found.checkpoint.tables {
        found.report.damage.push(format!(
            "the tables hold records up to {} but had {} when the checkpoint was written: an older \
             copy was put in their place; every key is distrusted until its peers are merged in",
            found.tables_persisted.0, found.checkpoint.tables.0
        ));
        found.lost = true;
    }
    found.report_recovery(&recovery);
    let fresh = !had_checkpoint && recovery.intact_records == 0;
    let damaged = !found.report.damage.is_empty() || !found.incomplete.is_empty();
    let Replay { mut checkpoint, lost, incomplete, mut report, .. } = found;
    report.distrusted = lost || checkpoint.trusted_from > Era(0);
    if lost {
        checkpoint.era = Era(checkpoint.era.0 + 1);
        checkpoint.trusted_from = checkpoint.era;
    }
    if damaged {
        let scanned = scan(engine.as_ref(), &checkpoint.digests);
        checkpoint.digests = scanned.digests;
        checkpoint.lease = checkpoint.lease.max(scanned.greatest_time);
    }
    let committed = log.last_sequence();
    let shared = Arc::new(Shared {
        trusted_from: AtomicU32::new(checkpoint.trusted_from.0),
        unreadable: AtomicU64::new(0),
        committed: AtomicU64::new(committed.0),
        cut: AtomicU64::new(0),
        tables: Mutex::new(checkpoint.digests.tables().clone()),
        checkpoints: Mutex::new(Vec::new()),
    });
    let mut writer = Writer {
        log,
        engine: engine.clone(),
        disk: disk.clone(),
        shared: shared.clone(),
        options,
        lease: checkpoint.lease,
        era: checkpoint.era,
        trusted_from: checkpoint.trusted_from,
        digests: checkpoint.digests,
        batch: Batch::default(),
        poisoned: None,
    };
    let mut maintainer = Maintainer { engine: engine.clone(), disk, shared: shared.clone() };
    report.incomplete_keys = incomplete.len() as u64;
    for (key, replication) in incomplete {
        writer.mark_incomplete(key, replication);
    }
    writer.commit()?;
    if damaged || fresh {
        settle(&mut writer, &mut maintainer)?;
    }
    Ok(Opened { writer, reader: Reader { engine, shared }, maintainer, report })
}

/// Writes down what was found, so that the next start does not have to find it again.
fn settle(writer: &mut Writer, maintainer: &mut Maintainer) -> Result<(), OpenError> {
    let sequence = writer.log.last_sequence();
    writer.engine.rotate();
    if writer.engine.persisted_sequence() < sequence {
        writer.engine.flush()?;
    }
    let mut checkpoint = writer.checkpoint(sequence);
    checkpoint.tables = writer.engine.persisted_sequence();
    SmallFile::new(maintainer.disk.clone(), CHECKPOINT_FILE).save(&checkpoint.encode())?;
    maintainer.shared.cut.store(sequence.0 + 1, std::sync::atomic::Ordering::Release);
    Ok(())
}

/// What is gathered while the log is read.
struct Replay<'a> {
    engine: &'a dyn Engine,
    memory_bytes_max: u64,
    tables_persisted: Sequence,
    checkpoint_found: bool,
    checkpoint: Checkpoint,
    /// Keys whose last record is damaged, with a guess of their replication factor.
    incomplete: BTreeMap<StoredKey, u8>,
    /// Something was lost and nobody knows under which keys.
    lost: bool,
    failed: Option<EngineError>,
    report: StoreReport,
}

impl<'a> Replay<'a> {
    fn begin(
        disk: &Arc<dyn Disk>,
        engine: &'a dyn Engine,
        options: &StoreOptions,
    ) -> Result<Self, OpenError> {
        let tables_persisted = engine.persisted_sequence();
        let mut replay = Self {
            engine,
            memory_bytes_max: options.memory_bytes_max,
            tables_persisted,
            checkpoint_found: false,
            checkpoint: Checkpoint {
                sequence: Sequence(0),
                tables: Sequence(0),
                lease: HybridTime::ZERO,
                era: Era(0),
                trusted_from: Era(0),
                digests: Digests::default(),
            },
            incomplete: BTreeMap::new(),
            lost: false,
            failed: None,
            report: StoreReport::default(),
        };
        match SmallFile::new(disk.clone(), CHECKPOINT_FILE).load() {
            Ok(Some(loaded)) => {
                replay.report.notes.extend(loaded.repaired);
                match Checkpoint::decode(&loaded.bytes) {
                    Some(checkpoint) => {
                        replay.checkpoint = checkpoint;
                        replay.checkpoint_found = true;
                    }
                    None => replay.checkpoint_is_gone("does not decode"),
                }
            }
            Ok(None) if tables_persisted > Sequence(0) => replay.checkpoint_is_gone("is missing"),
            Ok(None) => {}
            Err(SmallFileError::Damaged { .. }) => {
                replay.checkpoint_is_gone("is damaged in both copies")
            }
            Err(other) => return Err(other.into()),
        }
        Ok(replay)
    }

    /// Which keys were incomplete, and in which era, is not known any more.
    fn checkpoint_is_gone(&mut self, how: &str) {
        self.report.damage.push(format!(
            "the checkpoint {how}: every key is distrusted until its peers are merged in"
        ));
        self.lost = true;
        self.checkpoint.era = scan(self.engine, &Digests::default()).greatest_era;
    }

    fn take(&mut self, entry: RecoveredEntry) {
        match entry {
            RecoveredEntry::Intact { sequence, payload } => match Record::read(&payload) {
                Some(Record::Key { key, replication, delta, sealed }) => {
                    if sequence > self.checkpoint.sequence {
                        self.checkpoint.digests.apply(&key, replication, delta);
                    }
                    self.incomplete.remove(&key);
                    self.report.replayed += 1;
                    if sequence > self.tables_persisted {
                        self.insert(&key, sealed, sequence);
                    }
                }
                Some(Record::Lease(lease)) => {
                    self.checkpoint.lease = self.checkpoint.lease.max(lease);
                }
                None => self.note_unknown(sequence),
            },
            RecoveredEntry::Damaged { sequence, payload_as_found } => {
                match Record::read_key(&payload_as_found) {
                    Some((key, replication)) => {
                        self.report.damage.push(format!(
                            "record {} of the commit log is damaged: its key is rebuilt from peers",
                            sequence.0
                        ));
                        self.incomplete.insert(key, replication);
                    }
                    None => self.note_unknown(sequence),
                }
            }
        }
    }

    fn note_unknown(&mut self, sequence: Sequence) {
        self.report.damage.push(format!(
            "record {} of the commit log is damaged and its key cannot be told: every key is \
             distrusted until its peers are merged in",
            sequence.0
        ));
        self.lost = true;
    }

    fn insert(&mut self, key: &StoredKey, sealed: bytes::Bytes, sequence: Sequence) {
        if self.failed.is_some() {
            return;
        }
        let change = Change { key: key.bytes().clone(), value: Some(sealed) };
        let mut result = self.engine.insert(vec![change], sequence);
        if result.is_ok() && self.engine.memory_bytes() > self.memory_bytes_max {
            self.engine.rotate();
            result = self.engine.flush().map(|_| ());
        }
        self.failed = result.err();
    }

    fn report_recovery(&mut self, recovery: &Recovery) {
        for lost in &recovery.lost {
            self.lost = true;
            self.report.damage.push(format!(
                "{} is damaged at byte {} ({}): records after {} may be missing, so every key is \
                 distrusted until its peers are merged in",
                lost.segment, lost.from_offset, lost.reason, lost.after_sequence.0
            ));
        }
        for harmless in &recovery.harmless {
            self.report.notes.push(format!(
                "{} is damaged at byte {} ({}); nothing that is needed was there",
                harmless.segment, harmless.from_offset, harmless.reason
            ));
        }
        if let crate::log::Tail::Torn { segment, offset, bytes } = &recovery.tail {
            self.report.notes.push(format!(
                "{segment} ended in {bytes} bytes at {offset} of a write that was cut short and \
                 never acknowledged; they were cut off"
            ));
        }
    }
}

struct Scanned {
    digests: Digests,
    greatest_time: HybridTime,
    greatest_era: Era,
}

/// Reads everything, to know again what only damaged files told. Digests of keys that cannot be
/// read are left out.
///
/// A key's replication factor is not stored with it: the one of `known` whose leaf for the key was
/// not zero is taken.
fn scan(engine: &dyn Engine, known: &Digests) -> Scanned {
    let mut scanned = Scanned {
        digests: Digests::default(),
        greatest_time: HybridTime::ZERO,
        greatest_era: Era(0),
    };
    let mut from = bytes::Bytes::new();
    loop {
        let mut failed = false;
        engine.scan(&from.clone(), None, &mut |entry| {
            let Ok((bytes, sealed)) = entry else {
                failed = true;
                return false;
            };
            from = [&bytes[..], &[0]].concat().into();
            let Ok(key) = StoredKey::from_bytes(bytes) else { return true };
            let Ok(stored) = Stored::open(key.bytes(), &sealed) else { return true };
            let Ok(set) = codec::decode(&stored.set) else { return true };
            scanned.greatest_era = scanned.greatest_era.max(stored.era);
            scanned.greatest_time = scanned.greatest_time.max(set.vector().greatest());
            let replication = known.replication_of(&key).unwrap_or(3);
            let delta = digest::delta(&key, &SiblingSet::default(), &set);
            scanned.digests.apply(&key, replication, delta);
            true
        });
        // Past a damaged block the scan goes on a little further: one key of the 16-bit prefix on.
        match failed.then(|| after_damage(&from)).flatten() {
            Some(next) => from = next,
            None => return scanned,
        }
    }
}

/// Where to go on after damage near `from`: the next leaf's first key.
fn after_damage(from: &[u8]) -> Option<bytes::Bytes> {
    let mut leaf = [0; 2];
    leaf[..from.len().min(2)].copy_from_slice(&from[..from.len().min(2)]);
    let next = u16::from_be_bytes(leaf).checked_add(1)?;
    Some(bytes::Bytes::copy_from_slice(&next.to_be_bytes()))
}
