//! The sorted tables on disk: [`Engine`] over the lsm-tree crate.
//!
//! lsm-tree brings memtables, sorted files, bloom filters, a block cache and compaction. This
//! module brings what it leaves to its user (sequence numbers, published states, the persisted
//! point, limits) and what it lacks (an open that never trusts damaged files: see `guard` and
//! `open`).
//!
//! # Sequence numbers
//!
//! lsm-tree numbers its own commits (a flush, a compaction) from a counter that it is given, and a
//! read at a number sees the newest commit *below* that number. Its documented use therefore shares
//! one counter between commits and writes, which would put gaps into the log's numbering and make
//! a flush visible only after the next write. Here the two are kept apart: commits count from 0 in
//! a counter of their own, and the log's sequence `s` is written as `s + 2^32`. Every read number
//! is above every commit number, so every read sees the newest commit, and the log's numbering is
//! the caller's alone.
//!
//! What the shared counter bought was old snapshots: a flush or compaction keeps of each key's
//! versions only the newest, and lsm-tree would serve an older snapshot from an older commit. Here
//! that is not needed, because nobody holds a snapshot by number. A scan takes hold of memtables
//! and files when it begins, and what it holds stays as it is; a get is one read. What remains is
//! the moment between reading the published sequence and taking hold: a flush may fall into it and
//! throw away the very versions. So each rotation notes the sequence up to which versions may be
//! thrown away from now on, and a reader that finds its own sequence below that has perhaps missed
//! something and reads again (`Tables::settled`). No reader registers, none waits, and all old
//! versions go at the first flush or compaction that sees them.
//!
//! # What holds nobody up
//!
//! lsm-tree has one lock over its list of memtables and files, takes it for each insert and get, and keeps
//! it while a flush or a compaction makes its result durable, which is some five syncs. On a busy disk
//! inserts, and the node's loop with its gets, stood still for up to 310 ms so. Therefore gets look
//! through a `View` of the same memtables and files, which is put in place of the one before in a moment,
//! and inserts go to its memtable. Scans, which have threads of their own, and the closing of a memtable, once
//! in `memtable_mib` of writes, still ask lsm-tree.
//!
//! And lsm-tree syncs a file of up to 64 MiB when it is complete, which makes the log's syncs wait for the disk.
//! So a thread has the system begin to write each mebibyte as it comes (`write_behind`). With a program beside
//! them that did the same, puts to three nodes on one disk had a p99 of 18.7 to 22.6 ms, and without it, in turn
//! with it, of 21.3 to 27.8 ms (five runs each).
//!
//! # What is persisted
//!
//! A flush writes all closed memtables, so what the tree has on disk is always a prefix of the log.
//! The tree's own highest number is a lower bound of that prefix, but goes back when compaction
//! drops the newest removals; the log may be cut by then, so the point is also kept in a record of
//! our own, together with the number of the tree's version, which unmasks a tree that has gone back
//! in time. An insert from before the point is skipped: lsm-tree searches memory first and would
//! take an old record for the newest.
//!
//! # Damage
//!
//! Every block has a 128-bit checksum that is verified at each read from disk. Indexes and filters
//! are partitioned and not pinned, so that a damaged one costs its keys an error, and not the open.
//! What the open itself reads (a version file, tables of contents, metadata, the tops of indexes)
//! must be whole, else everything is rebuilt: a table left out would bring back the versions below
//! it. For the same reason nothing is salvaged. Panics of lsm-tree while it reads are caught and
//! count as damage: it `expect`s much of decoded blocks, and one bad key must not stop a node.
//! A damaged block also stops the compaction that meets it, again and again: the owner should then
//! [`condemn`](Tables::condemn) the tables before level 0 fills up.
//!
//! # Choices
//!
//! Key-value separation is off: it brings a second kind of file, with garbage collection and panics
//! of its own, and large values are rare. What it would save is rewriting them at each level.
//!
//! # Figures
//!
//! `cargo run --release -p quoit-storage-files --example tables_speed -- load DIRECTORY`, then
//! `read`, on two cores, with other work on them: a million random values of 1 KiB in batches of 64
//! load at 64,000 to 78,000 a second and 174 to 189 MiB resident at most; the slowest batch waits
//! 0.13 to 0.21 s with one thread for flushes and one for compactions, and 1.0 to 1.6 s where one
//! thread does both in turn (`THREADS=1`), because flushes then wait for compactions: **give each
//! its own thread.** An open takes 2 to 9 ms and is 3 MiB resident; 77 MiB after all reads (64 of
//! them the block cache). Gets 93,000 to 105,000 a second, of absent keys 520,000 to 630,000, scan
//! 670,000 to 760,000 keys a second. With lsm-tree's default of pinned, whole indexes and filters
//! it was 5 to 8 % more for gets, and about a million a second for absent keys.

mod guard;
mod held;
mod open;
mod record;
#[cfg(test)]
mod tests;
mod view;
mod write_behind;

use std::{
    collections::VecDeque,
    fs::File,
    io,
    ops::Bound,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use lsm_tree::{
    AbstractTree, Guard as _, InternalValue, SeqNo, SequenceNumberCounter, Slice, Tree, ValueType,
    compaction::Leveled,
};
use quoit_storage::engine::{Change, Engine, EngineError, EngineSize, Pressure, Sequence};

use self::{
    guard::TABLES_FOLDER, open::Place, record::Persisted, view::Views, write_behind::WriteBehind,
};
pub use held::{HeldFile, HeldTables, SmallFiles};

/// Log sequences are written above this; the tree's own commits stay below.
const NUMBERS_START: SeqNo = 1 << 32;
/// Flushes and compactions keep only the newest version of each key.
const COLLECT_ALL: SeqNo = SeqNo::MAX;
/// Closed memory that waits for a flush, from which on the writer should slow down, and stop.
const SEALED_SLOW: usize = 3;
const SEALED_HALT: usize = 4;
/// Overlapping files in level 0. 256 make a tree that cannot be opened again.
const RUNS_SLOW: usize = 20;
const RUNS_HALT: usize = 30;
/// No version of the tree has this number.
const NO_VERSION: u64 = u64::MAX;
/// Values from this length on are handed out as they lie in memory. A shorter one is copied: it
/// would keep the block around it alive.
const SHARED_BYTES_MIN: usize = 4_096;

/// How to open [`Tables`].
#[derive(Debug, Clone)]
pub struct TablesOptions {
    /// Whether the caller knows that there were tables here. If there are none now, they are
    /// reported as [`OpenReport::Rebuilt`] and not as created.
    pub expect_existing: bool,
    /// Bytes of blocks (data, indexes, filters) kept in memory. Filled as blocks are read.
    pub block_cache_bytes: u64,
    /// Table files kept open.
    pub open_files_max: usize,
    /// How blocks are compressed from level 1 on. May change between opens.
    pub compression: Compression,
}

impl Default for TablesOptions {
    fn default() -> Self {
        Self {
            expect_existing: false,
            block_cache_bytes: 64 << 20,
            open_files_max: 512,
            compression: Compression::Lz4,
        }
    }
}

/// How blocks are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// As they are.
    None,
    /// With LZ4.
    Lz4,
}

/// What [`Tables::open`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpenReport {
    /// There were no tables, and there are now.
    Created,
    /// The tables that were there.
    Opened,
    /// The tables were lost or damaged and are empty now: **nothing can be said of any key** until
    /// it has been read from peers, not even that it is absent. Reported by every open until
    /// [`Tables::acknowledge_rebuild`].
    Rebuilt {
        /// What was wrong, for people.
        reason: String,
        /// Where the damaged files are, if there are any.
        aside: Option<PathBuf>,
    },
}

/// Why the tables were not opened. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum TablesError {
    /// A later version wrote these tables. Use that version.
    #[error("the tables have format {found}, and this version knows {known}")]
    NewerVersion {
        /// The format on disk.
        found: u32,
        /// The latest format that this version reads.
        known: u32,
    },
    /// Someone else has them open.
    #[error("{0} is open in another process")]
    Locked(PathBuf),
    /// A file that does not belong there lies among the tables. Move it away.
    #[error("{0} does not belong there")]
    Foreign(PathBuf),
    /// The disk failed in a way that says nothing of the tables. Trying again may help.
    #[error("{path} cannot be reached")]
    Io {
        /// What was asked for.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl TablesError {
    fn io(path: &Path) -> impl Fn(io::Error) -> TablesError + Copy + use<'_> {
        move |source| TablesError::Io { path: path.to_owned(), source }
    }
}

/// Sorted tables in a directory. Flush and compact from maintenance threads; see [`Engine`] for
/// who may call what.
pub struct Tables {
    tree: Tree,
    commits: SequenceNumberCounter,
    place: Place,
    /// The last sequence that readers may see; set after all of its changes are in.
    published: AtomicU64,
    /// Versions of keys that were replaced up to this sequence may be gone.
    collected: AtomicU64,
    /// What [`Engine::persisted_sequence`] says.
    persisted: AtomicU64,
    /// What inserts before which had persisted when the tables were opened.
    opened_at: Sequence,
    writer: Mutex<Writer>,
    /// What gets look through, and inserts go to.
    views: Views,
    /// Copies of what `writer` knows, to be read without waiting.
    active_bytes: AtomicU64,
    sealed_count: AtomicUsize,
    /// The durable record, held throughout a flush: flushes come one after the other.
    record: Mutex<Persisted>,
    /// The version in which there was nothing to compact.
    compacted: AtomicU64,
    behind: WriteBehind,
    _lock: File,
}

/// What inserting and rotating share.
#[derive(Default)]
struct Writer {
    active_bytes: u64,
    /// The last sequence of each closed memtable that may not have persisted yet.
    sealed: VecDeque<Sequence>,
}

impl Tables {
    /// Opens the tables in `directory`, creates them where there are none, and makes new ones where
    /// they cannot be trusted. Takes a few milliseconds for a million keys. Files beside the
    /// directory, under its name with an ending, belong to it.
    pub fn open(
        directory: &Path,
        options: TablesOptions,
    ) -> Result<(Tables, OpenReport), TablesError> {
        let place = Place { directory: directory.to_owned() };
        let opened = open::open(&place, &options)?;
        let (record, _) = Persisted::read(directory).map_err(TablesError::io(directory))?;
        let report = opened.report.clone();
        Ok((Self::new(place, opened, record), report))
    }

    fn new(place: Place, opened: open::Opened, mut record: Persisted) -> Tables {
        let highest = opened.tree.get_highest_persisted_seqno().unwrap_or(0);
        let in_tree = Sequence(highest.saturating_sub(NUMBERS_START));
        record.sequence = record.sequence.max(in_tree);
        Tables {
            views: Views::new(&opened.tree),
            tree: opened.tree,
            commits: opened.commits,
            behind: WriteBehind::new(place.directory.join(TABLES_FOLDER)),
            place,
            published: AtomicU64::new(record.sequence.0),
            collected: AtomicU64::new(0),
            persisted: AtomicU64::new(record.sequence.0),
            opened_at: record.sequence,
            writer: Mutex::default(),
            active_bytes: AtomicU64::new(0),
            sealed_count: AtomicUsize::new(0),
            record: Mutex::new(record),
            compacted: AtomicU64::new(NO_VERSION),
            _lock: opened.lock,
        }
    }

    /// The caller has durably noted that nothing is known of any key, so that later opens need not
    /// report [`OpenReport::Rebuilt`] again.
    pub fn acknowledge_rebuild(&self) -> Result<(), TablesError> {
        let path = self.place.rebuilt();
        record::remove(&path).map_err(TablesError::io(&path))
    }

    /// Has the next open set these tables aside and report [`OpenReport::Rebuilt`]. For damage that
    /// an open does not see, such as a block that stops every compaction.
    pub fn condemn(&self, reason: &str) -> Result<(), TablesError> {
        let path = self.place.condemned();
        record::replace(&path, reason.as_bytes()).map_err(TablesError::io(&path))
    }

    /// The greatest sequence that was ever inserted, as far as the tables know. The log's next must
    /// be greater.
    pub fn highest_sequence(&self) -> Sequence {
        Sequence(self.published.load(Ordering::Acquire))
    }

    /// Whether a read that began at `published` saw everything up to there: no memtable with later
    /// versions was closed in between, so no flush threw away what the read was looking for.
    fn settled(&self, published: u64) -> bool {
        self.collected.load(Ordering::Acquire) <= published
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().expect("an insert panics only on a caller's bug")
    }

    /// After what may have been a commit of the tree, which brought so many of the oldest closed memtables into
    /// the files.
    fn note_commit(&self, flushed: usize) {
        assert!(self.commits.get() < NUMBERS_START, "commits reached the log's numbers");
        self.views.on_commit(flushed, &self.tree);
    }

    fn flush_closed(&self) -> Result<(), EngineError> {
        // One that is closed in the meantime may be flushed too: it stays in the view until the next flush.
        let closed = self.views.closed_count();
        let _running = self.behind.watch(self.views.next_number());
        contained(|| {
            let lock = self.tree.get_flush_lock();
            self.tree.flush(&lock, COLLECT_ALL)
        })?;
        self.note_commit(closed);
        Ok(())
    }
}

impl Engine for Tables {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        // Each further round needs a rotation within the last one.
        loop {
            let published = self.published.load(Ordering::Acquire);
            let view = self.views.current();
            let found = contained(|| view.get(key, read_number(published)))?;
            if self.settled(published) {
                return Ok(found.map(into_bytes));
            }
        }
    }

    fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(Result<(Bytes, Bytes), EngineError>) -> bool,
    ) {
        if to.is_some_and(|to| to <= from) {
            return;
        }
        let range = (Bound::Included(from), to.map_or(Bound::Unbounded, Bound::Excluded));
        let opened = loop {
            let published = self.published.load(Ordering::Acquire);
            let number = read_number(published);
            let opened = contained(|| Ok(self.tree.range::<&[u8], _>(range, number, None)));
            if self.settled(published) {
                break opened;
            }
        };
        let mut items = match opened {
            Ok(items) => items,
            Err(error) => {
                visit(Err(error));
                return;
            }
        };
        loop {
            let item = contained(|| items.next().map(|item| item.into_inner()).transpose());
            let goes_on = match item {
                Ok(Some((key, value))) => visit(Ok((into_bytes(key), into_bytes(value)))),
                Ok(None) => false,
                Err(error) => {
                    visit(Err(error));
                    false
                }
            };
            if !goes_on {
                return;
            }
        }
    }

    fn insert(&self, changes: Vec<Change>, sequence: Sequence) -> Result<(), EngineError> {
        let mut writer = self.writer();
        let published = self.published.load(Ordering::Relaxed);
        if sequence <= self.opened_at {
            assert_eq!(published, self.opened_at.0, "a replay comes before new inserts");
            return Ok(());
        }
        assert!(sequence.0 > published, "inserts come in the log's order");
        let number = NUMBERS_START + sequence.0;
        let active = self.views.active();
        for change in changes {
            let key = Slice::from(&change.key[..]);
            let item = match change.value {
                Some(value) => {
                    let value = Slice::from(&value[..]);
                    InternalValue::from_components(key, value, number, ValueType::Value)
                }
                None => InternalValue::new_tombstone(key, number),
            };
            // The same key again, under the same number: lsm-tree puts the later in its place.
            let (bytes, _) = active.insert(item);
            writer.active_bytes += bytes;
        }
        self.active_bytes.store(writer.active_bytes, Ordering::Relaxed);
        self.published.store(sequence.0, Ordering::Release);
        Ok(())
    }

    /// Bytes that later inserts add to; what is closed and waits for a flush is not in it, so that
    /// comparing it with a limit tells when to rotate.
    fn memory_bytes(&self) -> u64 {
        self.active_bytes.load(Ordering::Relaxed)
    }

    fn rotate(&self) -> Option<Sequence> {
        let mut writer = self.writer();
        if writer.active_bytes == 0 {
            return None;
        }
        let published = self.published.load(Ordering::Relaxed);
        // Before the flush can: a reader that saw its result must see this.
        self.collected.store(published, Ordering::Release);
        self.tree.rotate_memtable();
        self.views.on_rotated(self.tree.active_memtable());
        writer.active_bytes = 0;
        self.active_bytes.store(0, Ordering::Relaxed);
        writer.sealed.push_back(Sequence(published));
        self.sealed_count.store(writer.sealed.len(), Ordering::Relaxed);
        Some(Sequence(published))
    }

    fn flush(&self) -> Result<Sequence, EngineError> {
        let mut record = self.record.lock().expect("a flush does not panic");
        let closed = self.writer().sealed.back().copied();
        if closed.is_some() {
            self.flush_closed()?;
        }
        let mut next = *record;
        {
            let writer = self.writer();
            if writer.active_bytes == 0 && writer.sealed.back().copied() == closed {
                // Records that changed nothing here need no flush, but the log may go past them.
                next.sequence = Sequence(self.published.load(Ordering::Relaxed));
            } else if let Some(closed) = closed {
                next.sequence = closed;
            }
        }
        if next.sequence > record.sequence || closed.is_some() {
            next.version = self.tree.current_version().id();
            next.write(&self.place.directory)
                .map_err(|error| EngineError::Io(error.to_string()))?;
            *record = next;
        }
        let mut writer = self.writer();
        writer.sealed.retain(|sequence| Some(*sequence) > closed);
        self.sealed_count.store(writer.sealed.len(), Ordering::Relaxed);
        self.persisted.store(record.sequence.0, Ordering::Release);
        Ok(record.sequence)
    }

    fn compact(&self) -> Result<(), EngineError> {
        let version = self.views.version();
        if self.compacted.load(Ordering::Relaxed) == version {
            return Ok(());
        }
        let running = self.behind.watch(self.views.next_number());
        let compacted = contained(|| self.tree.compact(Arc::new(Leveled::default()), COLLECT_ALL));
        drop(running);
        if !matches!(compacted, Err(EngineError::Damaged(_))) {
            // After a failed one, too: it may have failed in what comes after its commit.
            self.note_commit(0);
        }
        if compacted.is_ok() && self.views.version() == version {
            self.compacted.store(version, Ordering::Relaxed);
        }
        compacted
    }

    fn persisted_sequence(&self) -> Sequence {
        Sequence(self.persisted.load(Ordering::Acquire))
    }

    fn pressure(&self) -> Pressure {
        let sealed = self.sealed_count.load(Ordering::Relaxed);
        let runs = self.views.runs_count();
        if sealed >= SEALED_HALT || runs >= RUNS_HALT {
            Pressure::Halt
        } else if sealed >= SEALED_SLOW || runs >= RUNS_SLOW {
            Pressure::Slow
        } else {
            Pressure::None
        }
    }

    fn size(&self) -> EngineSize {
        self.views.current().size()
    }
}

/// A read at a number sees what was written below it.
fn read_number(published: u64) -> SeqNo {
    NUMBERS_START + published + 1
}

fn into_bytes(slice: Slice) -> Bytes {
    if slice.len() < SHARED_BYTES_MIN {
        Bytes::copy_from_slice(&slice)
    } else {
        Bytes::from_owner(slice)
    }
}

/// Runs a call into lsm-tree that reads the disk; a panic in there counts as damage. The tree stays
/// usable: reads hold no lock while they decode, and a lock that a panic poisoned makes later calls
/// panic, which ends here too.
fn contained<T>(call: impl FnOnce() -> lsm_tree::Result<T>) -> Result<T, EngineError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(lsm_tree::Error::Io(error))) if !open::says_damage(&error) => {
            Err(EngineError::Io(error.to_string()))
        }
        Ok(Err(error)) => Err(EngineError::Damaged(format!("{error:?}"))),
        Err(_) => Err(EngineError::Damaged("lsm-tree panicked".into())),
    }
}
