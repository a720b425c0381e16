//! What a get looks through: lsm-tree's memtables and files as they were at one moment, without its lock.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use lsm_tree::table::filter::standard_bloom::Builder;
use lsm_tree::{AbstractTree, InternalValue, Memtable, SeqNo, Slice, Tree};

/// The files of one version of the tree; while it is held, none of them is deleted. What a key has in them
/// below a number, the newest. lsm-tree does not let its version be named.
type Files = Arc<dyn Fn(&[u8], SeqNo) -> lsm_tree::Result<Option<InternalValue>> + Send + Sync>;

/// The files as they are now. Takes lsm-tree's lock.
pub(super) fn files_of(tree: &Tree) -> Files {
    let version = tree.current_version();
    Arc::new(move |key, number| {
        let hash = Builder::get_hash(key);
        let runs = version.iter_levels().flat_map(|level| level.iter());
        for table in runs.filter_map(|run| run.get_for_key(key)) {
            let found = table.get(key, number, hash)?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    })
}

/// Memtables and files, which together hold all that was inserted.
#[derive(Clone)]
pub(super) struct View {
    /// What inserts go to.
    pub(super) active: Arc<Memtable>,
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
            None => (self.files)(key, number)?,
        };
        Ok(found.filter(|item| !item.key.is_tombstone()).map(|item| item.value))
    }
}

/// The view, and how it changes.
pub(super) struct Views {
    /// Held for a moment.
    current: RwLock<Arc<View>>,
    /// Held while the files are looked up, so that an older list never comes after a newer one.
    committing: Mutex<()>,
}

impl Views {
    pub(super) fn new(active: Arc<Memtable>, files: Files) -> Self {
        let view = View { active, closed: Vec::new(), files };
        Self { current: RwLock::new(Arc::new(view)), committing: Mutex::default() }
    }

    pub(super) fn current(&self) -> Arc<View> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn closed_count(&self) -> usize {
        self.current().closed.len()
    }

    /// The memtable that inserts went to was closed, and is among those that the tree will flush next.
    pub(super) fn on_rotated(&self, active: Arc<Memtable>) {
        self.change(|view| view.closed.push(mem::replace(&mut view.active, active)));
    }

    /// The tree's files changed, and have what the oldest `flushed` closed memtables hold.
    pub(super) fn on_commit(&self, flushed: usize, files: impl FnOnce() -> Files) {
        let _committing = self.committing();
        let files = files();
        self.change(|view| {
            view.closed.drain(..flushed);
            view.files = files;
        });
    }

    fn change(&self, change: impl FnOnce(&mut View)) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let mut view = View::clone(&current);
        change(&mut view);
        let before = mem::replace(&mut *current, Arc::new(view));
        drop(current);
        // Frees a whole memtable, perhaps: nobody waits for that.
        drop(before);
    }

    fn committing(&self) -> MutexGuard<'_, ()> {
        self.committing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
