//! What a get looks through: lsm-tree's memtables and files as they were at one moment, without its lock.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use std::{mem, thread};

use lsm_tree::table::filter::standard_bloom::Builder;
use lsm_tree::{AbstractTree, InternalValue, Memtable, SeqNo, Slice, Tree};
use quoit_storage::engine::EngineSize;

/// Whoever replaces a view waits so long, and so often, for those who still look through it.
const LAST_LOOK_PAUSE: Duration = Duration::from_millis(1);
const LAST_LOOKS_MAX: u32 = 1_000;

/// Finds the newest that a key has in some files below a number. lsm-tree does not let its version, which
/// this holds, be named.
type Find = dyn Fn(&[u8], SeqNo) -> lsm_tree::Result<Option<InternalValue>> + Send + Sync;

/// The files of one version of the tree. While they are held, none of them is deleted.
#[derive(Clone)]
struct Files {
    /// lsm-tree's number for the version.
    version: u64,
    /// Files that come later have this number or a greater one.
    next_number: u64,
    /// Runs in level 0.
    runs: usize,
    find: Arc<Find>,
    size: EngineSize,
}

impl Files {
    /// As they are now. Takes lsm-tree's lock.
    fn of(tree: &Tree) -> Self {
        let version = tree.current_version();
        let size = EngineSize {
            disk_bytes: version.iter_levels().map(|level| level.size()).sum(),
            keys_estimate: version.iter_tables().map(|table| table.metadata.item_count).sum(),
        };
        let next_number = version.iter_tables().map(|table| table.id() + 1).max().unwrap_or(0);
        let runs = version.level(0).map_or(0, |level| level.run_count());
        let number = version.id();
        let find = Arc::new(move |key: &[u8], number| {
            let hash = Builder::get_hash(key);
            let runs = version.iter_levels().flat_map(|level| level.iter());
            for table in runs.filter_map(|run| run.get_for_key(key)) {
                let found = table.get(key, number, hash)?;
                if found.is_some() {
                    return Ok(found);
                }
            }
            Ok(None)
        });
        Self { version: number, next_number, runs, find, size }
    }
}

/// Memtables and files, which together hold all that was inserted.
#[derive(Clone)]
pub(super) struct View {
    /// What inserts go to.
    active: Arc<Memtable>,
    /// Those that are closed, the newest last. The files may have what some of them hold.
    closed: Vec<Arc<Memtable>>,
    files: Files,
}

impl View {
    /// What a key has, the newest below a number; `None` where that is a removal.
    pub(super) fn get(&self, key: &[u8], number: SeqNo) -> lsm_tree::Result<Option<Slice>> {
        let mut memtables = [&self.active].into_iter().chain(self.closed.iter().rev());
        let found = match memtables.find_map(|memtable| memtable.get(key, number)) {
            Some(found) => Some(found),
            None => (self.files.find)(key, number)?,
        };
        Ok(found.filter(|item| !item.key.is_tombstone()).map(|item| item.value))
    }

    pub(super) fn size(&self) -> EngineSize {
        let memtables = [&self.active].into_iter().chain(&self.closed);
        let in_memory: usize = memtables.map(|memtable| memtable.len()).sum();
        EngineSize {
            keys_estimate: self.files.size.keys_estimate + in_memory as u64,
            ..self.files.size
        }
    }
}

/// The view, and how it changes.
pub(super) struct Views {
    /// Held for a moment.
    current: RwLock<Arc<View>>,
    /// Held while the files are looked up, so that an older list never comes after a newer one.
    committing: Mutex<()>,
    /// That of the current files, to be read without waiting.
    runs_count: AtomicUsize,
}

impl Views {
    pub(super) fn new(tree: &Tree) -> Self {
        let (active, files) = (tree.active_memtable(), Files::of(tree));
        let runs_count = AtomicUsize::new(files.runs);
        let view = View { active, closed: Vec::new(), files };
        Self { current: RwLock::new(Arc::new(view)), committing: Mutex::default(), runs_count }
    }

    pub(super) fn current(&self) -> Arc<View> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What inserts go to. Whoever holds it holds no files.
    pub(super) fn active(&self) -> Arc<Memtable> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&current.active)
    }

    pub(super) fn closed_count(&self) -> usize {
        self.current().closed.len()
    }

    /// lsm-tree's number for the version that gets look through.
    pub(super) fn version(&self) -> u64 {
        self.current().files.version
    }

    /// Files that come later have this number or a greater one.
    pub(super) fn next_number(&self) -> u64 {
        self.current().files.next_number
    }

    /// How many of the files' runs overlap and wait for a compaction.
    pub(super) fn runs_count(&self) -> usize {
        self.runs_count.load(Ordering::Relaxed)
    }

    /// The tree closed the memtable that inserts went to, and has another one.
    pub(super) fn on_rotated(&self, active: Arc<Memtable>) {
        drop(self.change(|view| view.closed.push(mem::replace(&mut view.active, active))));
    }

    /// The tree's files may have changed, and have what the oldest `flushed` closed memtables hold. Frees
    /// those, and the files that are no more, which takes its time: for a maintenance thread.
    pub(super) fn on_commit(&self, flushed: usize, tree: &Tree) {
        let committing = self.committing.lock().unwrap_or_else(PoisonError::into_inner);
        if flushed == 0 && tree.current_version().id() == self.current().files.version {
            return;
        }
        let files = Files::of(tree);
        self.runs_count.store(files.runs, Ordering::Relaxed);
        let before = self.change(|view| {
            view.closed.drain(..flushed);
            view.files = files;
        });
        drop(committing);
        // Whoever lets go last frees it, and that should not be a get's thread.
        for _ in 0..LAST_LOOKS_MAX {
            if Arc::strong_count(&before) == 1 {
                break;
            }
            thread::sleep(LAST_LOOK_PAUSE);
        }
    }

    /// Puts a changed view in the place of the one that it gives back.
    fn change(&self, change: impl FnOnce(&mut View)) -> Arc<View> {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let mut view = View::clone(&current);
        change(&mut view);
        mem::replace(&mut *current, Arc::new(view))
    }
}
