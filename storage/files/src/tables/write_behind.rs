//! Begins to write what flushes and compactions leave in the page cache, while they go on.
//!
//! lsm-tree syncs a file when it is complete: up to 64 MiB go to the disk at once then, and the commit log's
//! syncs wait behind them. Here a thread looks at the files that grow, and has the system begin to write each
//! mebibyte that came (`posix_fadvise`, which begins to write what is not clean, and marks it as what the cache
//! lets go of first). Nothing rests on it: what is durable, and when, is lsm-tree's affair alone.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::Advice;

/// At least so much is written at once.
const PORTION_BYTES: u64 = 1 << 20;
/// A part of a page would be written twice.
const PAGE_BYTES: u64 = 4_096;
/// How often the files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// A file that brought no portion in so many looks is complete, or grows too slowly to matter.
const IDLE_LOOKS_MAX: u32 = 100;
/// lsm-tree numbers its files in ascending order, but leaves out a number where it could not make one.
const NUMBERS_LOOKED_AHEAD: u64 = 8;
/// So many are looked at; a compaction's files come one after the other.
const FILES_MAX: usize = 64;

/// The thread, and how it is told to look. It ends with this.
pub(super) struct WriteBehind {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    work: Mutex<Work>,
    changed: Condvar,
}

#[derive(Default)]
struct Work {
    /// Flushes and compactions under way.
    running: u32,
    /// Files below this number were there before.
    next_number: u64,
    is_over: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A flush or a compaction that goes on until this is dropped.
pub(super) struct Running<'a>(&'a Shared);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.lock().running -= 1;
    }
}

impl WriteBehind {
    /// For the files in `folder`, whose names are their numbers. The thread is as nice as the caller's.
    pub(super) fn new(folder: PathBuf) -> Self {
        let shared = Arc::new(Shared::default());
        let seen = shared.clone();
        let thread = thread::Builder::new().name("quoit-behind".to_owned());
        let thread = match thread.spawn(move || run(&seen, &folder)) {
            Ok(thread) => Some(thread),
            Err(error) => {
                tracing::warn!(%error, "flushed files are written all at once");
                None
            }
        };
        Self { shared, thread }
    }

    /// A flush or compaction begins; all files below `next_number` were there before.
    pub(super) fn watch(&self, next_number: u64) -> Running<'_> {
        let mut work = self.shared.lock();
        work.running += 1;
        work.next_number = work.next_number.max(next_number);
        self.shared.changed.notify_one();
        Running(&self.shared)
    }
}

impl Drop for WriteBehind {
    fn drop(&mut self) {
        self.shared.lock().is_over = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // It has nothing to say.
            let _ = thread.join();
        }
    }
}

fn run(shared: &Shared, folder: &Path) {
    let mut growing = Growing { folder: folder.to_owned(), files: Vec::new(), next_number: 0 };
    loop {
        let mut work = shared.lock();
        while work.running == 0 && !work.is_over {
            growing.files.clear();
            work = shared.changed.wait(work).unwrap_or_else(PoisonError::into_inner);
        }
        if work.is_over {
            return;
        }
        growing.next_number = growing.next_number.max(work.next_number);
        drop(work);
        growing.look();
        thread::sleep(LOOK_INTERVAL);
    }
}

/// The files that were begun of late.
struct Growing {
    folder: PathBuf,
    files: Vec<GrowingFile>,
    /// The next file has this number, or one soon after it.
    next_number: u64,
}

struct GrowingFile {
    file: File,
    /// Up to here it is being written.
    begun: u64,
    idle_looks: u32,
}

impl Growing {
    fn look(&mut self) {
        while self.files.len() < FILES_MAX
            && let Some(found) = self.find_next()
        {
            self.files.push(found);
        }
        self.files.retain_mut(GrowingFile::look);
    }

    fn find_next(&mut self) -> Option<GrowingFile> {
        let numbers = self.next_number..self.next_number + NUMBERS_LOOKED_AHEAD;
        let mut opened = numbers.filter_map(|number| {
            let file = File::open(self.folder.join(number.to_string())).ok()?;
            Some((number, file))
        });
        let (number, file) = opened.next()?;
        self.next_number = number + 1;
        Some(GrowingFile { file, begun: 0, idle_looks: 0 })
    }
}

impl GrowingFile {
    /// Has begun what has come to be written; `false` if it need not be looked at any more.
    fn look(&mut self) -> bool {
        let Ok(length) = self.file.metadata().map(|metadata| metadata.len()) else {
            return false;
        };
        let came = length.saturating_sub(self.begun);
        if came < PORTION_BYTES {
            self.idle_looks += 1;
            return self.idle_looks < IDLE_LOOKS_MAX;
        }
        let portion = std::num::NonZeroU64::new(came);
        let advised = rustix::fs::fadvise(&self.file, self.begun, portion, Advice::DontNeed);
        self.begun = length - length % PAGE_BYTES;
        self.idle_looks = 0;
        advised.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn growing(folder: &Path, next_number: u64) -> Growing {
        Growing { folder: folder.to_owned(), files: Vec::new(), next_number }
    }

    #[test]
    fn files_are_found_as_they_come_and_left_when_they_stop_growing() {
        let folder = tempfile::tempdir().unwrap();
        let make = |number: u64| File::create_new(folder.path().join(number.to_string())).unwrap();
        let (_old, mut first) = (make(4), make(5));
        let mut growing = growing(folder.path(), 5);
        growing.look();
        assert_eq!(growing.files.len(), 1);
        first.write_all(&vec![1; PORTION_BYTES as usize - 1]).unwrap();
        growing.look();
        assert_eq!(growing.files[0].begun, 0);
        first.write_all(&[1; 2]).unwrap();
        // One number was left out.
        let mut second = make(7);
        second.write_all(&vec![1; 3 * PORTION_BYTES as usize]).unwrap();
        growing.look();
        let begun: Vec<u64> = growing.files.iter().map(|file| file.begun).collect();
        assert_eq!(begun, [PORTION_BYTES, 3 * PORTION_BYTES]);
        for _ in 0..IDLE_LOOKS_MAX {
            growing.look();
        }
        assert!(growing.files.is_empty());
        assert_eq!(growing.next_number, 8);
    }

    #[test]
    fn what_grows_is_looked_at_while_it_is_watched() {
        let folder = tempfile::tempdir().unwrap();
        let behind = WriteBehind::new(folder.path().to_owned());
        let flush = behind.watch(1);
        let compaction = behind.watch(1);
        drop(flush);
        assert_eq!(behind.shared.lock().running, 1);
        drop(compaction);
        assert_eq!(behind.shared.lock().running, 0);
        drop(behind.watch(9));
        assert_eq!(behind.shared.lock().next_number, 9);
    }
}
