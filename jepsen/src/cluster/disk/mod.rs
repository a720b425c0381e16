//! A disk whose power can be cut: a file system in this process' memory, mounted with FUSE where a node
//! keeps its data.
//!
//! SIGKILL leaves all that a node has written to the kernel, which writes it to the disk in its own
//! time. A power cut does not: what was not synced may be gone, in any order. Here the file system knows
//! what was synced, because fsync, too, is a call that comes to it, and it loses the rest when it is told
//! to. The model is that of the simulator's disk (`quoit_storage::twin`), applied to the whole program with
//! its real tables:
//!
//! - a sector of 512 bytes is written whole or not at all; until a sync of its file a power cut may leave
//!   any of its contents since the last one, each sector for itself, and so for a file's length;
//! - names (of new files and directories, renames, links, removals) are durable after a sync of a directory
//!   that they changed; see `tree`. That a sync of a file brings its name along, as ext4 does it, is
//!   not promised by POSIX, and not here;
//! - a sync that fails leaves some sectors durable; the others look written, and no later sync brings
//!   them to the disk unless they are written again (so it is on Linux);
//! - a sync that waits when the power goes has synced nothing.

mod contents;
mod filesystem;
mod tree;

use std::fs::OpenOptions;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use fuser::{Config, MountOption, Session};

use self::filesystem::FileSystem;
use self::tree::Tree;
use super::{ClusterError, file};

pub(crate) use self::tree::CutReport;

/// The bytes of a disk of a node's own.
pub(super) const DISK_BYTES: usize = 256 << 20;

/// What nodes keep their data on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DiskKind {
    /// A directory.
    Plain,
    /// A small disk of each node's own, which can become full (a mount: root).
    Small,
    /// One whose power can be cut (FUSE: root).
    Volatile,
}

/// How much of what was not synced a power cut keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Everything, as if it had been written just in time.
    All,
    /// Each part or not, as it is drawn.
    Some,
    /// Nothing at all.
    Nothing,
}

impl Keep {
    /// Mostly some.
    pub(crate) fn any(random: &mut Rng) -> Self {
        match random.u8(..4) {
            0 => Self::All,
            1 => Self::Nothing,
            _ => Self::Some,
        }
    }

    fn draw(self, random: &mut Rng) -> bool {
        match self {
            Self::All => true,
            Self::Some => random.bool(),
            Self::Nothing => false,
        }
    }
}

/// What is wrong with a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DiskFaults {
    /// A sync takes up to so long.
    pub(crate) sync_delay_max: Option<Duration>,
    /// So many syncs fail.
    pub(crate) syncs_to_fail: u32,
    /// Of 1,000 reads, and of 1,000 writes, so many fail.
    pub(crate) per_mille_to_fail: u16,
}

#[derive(Debug)]
struct State {
    tree: Tree,
    faults: DiskFaults,
    random: Rng,
    /// Counts power cuts.
    cuts: u64,
    /// Syncs that wait.
    waiting: usize,
    has_failed: bool,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// The power went, or the faults were changed.
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A handle to a mounted disk. The mount goes with the world.
#[derive(Debug)]
pub(crate) struct Disk {
    shared: Arc<Shared>,
    bytes: usize,
}

impl Disk {
    /// Whether such a disk can be made here (by root).
    ///
    /// # Errors
    /// [`ClusterError::NoFuse`].
    pub(crate) fn check() -> Result<(), ClusterError> {
        let opened = OpenOptions::new().read(true).write(true).open("/dev/fuse");
        opened.map(drop).map_err(ClusterError::NoFuse)
    }

    /// Mounts an empty disk of so many bytes.
    ///
    /// # Errors
    /// [`ClusterError::File`].
    pub(super) fn mount(at: &Path, bytes: usize, seed: u64) -> Result<Self, ClusterError> {
        Self::check()?;
        let state = State {
            tree: Tree::new(bytes),
            faults: DiskFaults::default(),
            random: Rng::with_seed(seed),
            cuts: 0,
            waiting: 0,
            has_failed: false,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("jepsen".to_owned()), MountOption::NoAtime];
        let served = FileSystem::new(Arc::clone(&shared));
        let session = Session::new(served, at, &config).and_then(Session::spawn);
        // To unmount it would fail as long as a node runs.
        std::mem::forget(session.map_err(file("mounted", at))?);
        Ok(Self { shared, bytes })
    }

    /// Cuts the power. Nobody may use the disk, and faults end with it.
    pub(crate) fn cut(&self, keep: Keep, random: &mut Rng) -> CutReport {
        let mut state = self.shared.lock();
        state.cuts += 1;
        state.faults = DiskFaults::default();
        let report = state.tree.cut(keep, random);
        self.shared.changed.notify_all();
        report
    }

    /// Replaces the disk by an empty one.
    pub(crate) fn replace(&self) {
        let mut state = self.shared.lock();
        state.cuts += 1;
        state.tree.clear(self.bytes);
        self.shared.changed.notify_all();
    }

    /// Makes or takes away faults. What waits goes on as the new ones have it.
    pub(crate) fn set_faults(&self, faults: DiskFaults) {
        self.shared.lock().faults = faults;
        self.shared.changed.notify_all();
    }

    /// Whether any call was made to fail since the last time that this was asked.
    pub(crate) fn take_failed(&self) -> bool {
        std::mem::take(&mut self.shared.lock().has_failed)
    }
}
