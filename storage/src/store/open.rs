//! Opening a store: checkpoint, replay, and writing down what was found.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};

use super::heads::Heads;
use super::replay::Replay;
use super::writer::Batch;
use super::{CHECKPOINT_FILE, CommitError, Maintainer, Reader, Shared, StoreOptions, Writer};
use crate::disk::Disk;
use crate::engine::{Engine, EngineError};
use crate::log::{Log, LogError};
use crate::small_file::{SmallFile, SmallFileError};
use crate::trees::Trees;

/// Why a store cannot be opened. Nothing was lost by the try.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The commit log cannot be read at all, or a newer program wrote it.
    #[error("the commit log cannot be opened")]
    Log(#[from] LogError),
    /// The checkpoint's files cannot be read.
    #[error("the checkpoint cannot be read")]
    Checkpoint(#[from] SmallFileError),
    /// Another program wrote the checkpoint. Use that one.
    #[error(
        "the checkpoint has format {format}, and this program reads only format {known}: use a \
         {} program, as the one that wrote it",
        if format > known { "newer" } else { "older" }
    )]
    CheckpointFormat {
        /// Its format.
        format: u8,
        /// This program's.
        known: u8,
    },
    /// The store was written for a ring that was cut otherwise. A cluster never changes that: see
    /// that the data directory is this cluster's.
    #[error(
        "the store belongs to a cluster of {stored} virtual nodes, and this one has {given}: see \
         that the data directory is the right one"
    )]
    Vnodes {
        /// Their number then.
        stored: u32,
        /// And now.
        given: u32,
    },
    /// Another program wrote a record of the log. Use that program, or a later one.
    #[error(
        "record {sequence} of the commit log is whole but of no known kind: use the program that \
         wrote it, or a newer one"
    )]
    NewerRecord {
        /// Its number in the log.
        sequence: u64,
    },
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
    /// What is damaged, for people, one line each; empty where all is well. Each is told once: the
    /// next start has what came of it written down.
    pub damage: Vec<String>,
    /// Worth a line in the log, but nothing is lost by it.
    pub notes: Vec<String>,
    /// Records that were replayed.
    pub replayed: u64,
    /// Keys that lost writes and wait to be rebuilt from peers.
    pub incomplete_keys: u64,
    /// Virtual nodes that are distrusted until enough of their peers are merged in.
    pub distrusted: u32,
    /// The last record of the log as it was found: less than what was said to be durable, if that
    /// was lost.
    pub sequence: u64,
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
    let mut replay = Replay::begin(&disk, engine.as_ref(), &options, tables_lost)?;
    let log_options = replay.log_options(options.segment_bytes, identity);
    let (mut log, recovery) =
        Log::open(disk.clone(), log_options, &mut |entry| replay.take(entry))?;
    let mut found = replay.finish(&recovery)?;
    found.report.sequence = log.last_sequence().0;
    let checkpoint = found.checkpoint;
    let shared = Arc::new(Shared {
        has_distrusted: AtomicBool::new(checkpoint.vnodes.has_distrusted()),
        vnodes: Mutex::new(checkpoint.vnodes.clone()),
        unreadable: AtomicU64::new(0),
        damage: Mutex::new(None),
        flush_failure: Mutex::new(None),
        committed: AtomicU64::new(log.last_sequence().0),
        durable: AtomicU64::new(log.synced_sequence().0),
        cut: AtomicU64::new(0),
        tables: Mutex::new(checkpoint.digests.tables().clone()),
        flushing: Mutex::new(log.spare_keeper()),
        checkpoints: Mutex::new(Vec::new()),
        flushed: Mutex::new(None),
        taken_bytes: AtomicU64::new(0),
    });
    let heads = Heads::new(options.heads_bytes_max);
    let mut writer = Writer {
        log,
        engine: engine.clone(),
        disk: disk.clone(),
        shared: shared.clone(),
        options,
        lease: checkpoint.lease,
        vnodes: checkpoint.vnodes,
        digests: checkpoint.digests,
        trees: Trees::default(),
        recount_due: false,
        batch: Batch::default(),
        heads,
        poisoned: None,
        lost_actors: VecDeque::new(),
        taken_bytes: 0,
    };
    for (key, replication) in found.incomplete {
        writer.mark_incomplete(key, replication)?;
    }
    writer.count_taken();
    writer.commit()?;
    if found.is_news {
        settle(&mut writer)?;
    }
    let maintainer = Maintainer { engine: engine.clone(), disk, shared: shared.clone() };
    Ok(Opened { writer, reader: Reader { engine, shared }, maintainer, report: found.report })
}

/// Writes down what was found, so that the next start does not find it again: a new era must be
/// durable before the first record of it is.
fn settle(writer: &mut Writer) -> Result<(), OpenError> {
    writer.sync()?;
    let sequence = writer.log.last_sequence();
    writer.engine.rotate();
    if writer.engine.persisted_sequence() < sequence {
        writer.engine.flush()?;
    }
    let mut checkpoint = writer.checkpoint(sequence);
    checkpoint.tables = writer.engine.persisted_sequence();
    SmallFile::new(writer.disk.clone(), CHECKPOINT_FILE).save(&checkpoint.encode())?;
    writer.allow_cut(sequence);
    Ok(())
}
