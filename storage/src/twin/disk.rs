//! A disk in memory that crashes, tears, rots, fails and fills up: everything from one seed.
//!
//! What it models, so that the log's and the small files' promises can be tried against it:
//! - a sector of 512 bytes is written whole or not at all. Until a sync, a crash may leave any of
//!   the sector's contents since the last one;
//! - a new length, a new name, a rename and a removal survive a crash for certain only after the
//!   sync; before that each is kept or dropped, though none without those it builds upon;
//! - after a failed sync some sectors are durable, and the others only *look* written: no later
//!   sync makes them durable unless they are written again (as Linux does it);
//! - directories themselves are durable at once.
//!
//! Paths and their faults are the caller's; handles share one disk, and a handle from before a
//! crash is dead.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::sectors::{FileState, SECTOR_BYTES};
use super::state::{NameChange, Random, State, parent, take_fault};
use crate::disk::{Disk, DiskFile};

/// A simulated disk; a clone is another handle to the same one.
#[derive(Debug, Clone)]
pub struct TwinDisk {
    state: Arc<Mutex<State>>,
}

impl TwinDisk {
    /// An empty disk whose whims come from `seed`.
    pub fn new(seed: u64) -> TwinDisk {
        TwinDisk {
            state: Arc::new(Mutex::new(State {
                random: Random(seed),
                directories: BTreeSet::from([String::new()]),
                names: BTreeMap::new(),
                durable_names: BTreeMap::new(),
                pending: Vec::new(),
                files: BTreeMap::new(),
                next_file: 0,
                epoch: 0,
                operations: 0,
                crash_at: None,
                crashed: false,
                reads_to_fail: 0,
                writes_to_fail: 0,
                syncs_to_fail: 0,
                limit_bytes: None,
            })),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere fails its own test; the state is whole between calls.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cuts the power: what was not synced stays or goes by the seed, and all handles are dead.
    /// The disk works again afterwards, without the faults that were set, but for the limit.
    pub fn crash(&self) {
        self.lock().crash();
    }

    /// Kills the process: handles die, and everything written stays (in the page cache).
    pub fn kill(&self) {
        self.lock().wake();
    }

    /// After `operations` more calls all calls fail, until [`TwinDisk::crash`].
    pub fn crash_after_operations(&self, operations: u64) {
        let mut state = self.lock();
        state.crash_at = Some(state.operations + operations);
    }

    /// Whether the power is gone, as [`TwinDisk::crash_after_operations`] wanted it: every call
    /// fails.
    pub fn has_crashed(&self) -> bool {
        self.lock().crashed
    }

    /// How many calls there were so far.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// The next `count` reads fail.
    pub fn fail_reads(&self, count: u64) {
        self.lock().reads_to_fail = count;
    }

    /// The next `count` writes fail, each after writing a part that the seed chooses.
    pub fn fail_writes(&self, count: u64) {
        self.lock().writes_to_fail = count;
    }

    /// The next `count` syncs (of files or directories) fail.
    pub fn fail_syncs(&self, count: u64) {
        self.lock().syncs_to_fail = count;
    }

    /// The files together may not grow beyond `bytes`; `None` takes the limit away.
    pub fn limit(&self, bytes: Option<u64>) {
        self.lock().limit_bytes = bytes;
    }

    /// The sum of all files' lengths.
    pub fn used_bytes(&self) -> u64 {
        self.lock().used_bytes()
    }

    /// All files' paths, in ascending order.
    pub fn paths(&self) -> Vec<String> {
        self.lock().names.keys().cloned().collect()
    }

    /// A file's content; `None` where there is no such file.
    pub fn content(&self, path: &str) -> Option<Vec<u8>> {
        let state = self.lock();
        let file = state.files.get(state.names.get(path)?)?;
        let mut bytes = vec![0; usize::try_from(file.length()).ok()?];
        file.read(&mut bytes, 0);
        Some(bytes)
    }

    /// Rots one bit, durably. Says whether it lies inside a file.
    pub fn flip_bit(&self, path: &str, offset: u64, bit: u8) -> bool {
        self.rot(path, |file| {
            offset < file.length() && {
                file.alter(offset, 1, |byte| *byte ^= 1 << (bit % 8));
                true
            }
        })
    }

    /// Zeroes a range, durably, as far as it lies inside the file.
    pub fn zero(&self, path: &str, offset: u64, bytes: u64) -> bool {
        self.rot(path, |file| {
            file.alter(offset, bytes, |byte| *byte = 0);
            true
        })
    }

    /// Cuts a file to `length`, durably; a greater length is left alone.
    pub fn truncate(&self, path: &str, length: u64) -> bool {
        self.rot(path, |file| {
            file.cut(length);
            true
        })
    }

    /// Makes a sector unreadable until it is written again.
    pub fn spoil_sector(&self, path: &str, offset: u64) -> bool {
        self.rot(path, |file| {
            file.spoil(offset / SECTOR_BYTES);
            true
        })
    }

    /// Replaces a file's content, or makes the file, durably.
    pub fn plant(&self, path: &str, content: &[u8]) {
        let mut state = self.lock();
        let id = state.next_file;
        state.next_file += 1;
        let mut file = FileState::default();
        file.write(content, 0);
        file.sync();
        state.files.insert(id, file);
        state.directories.insert(parent(path).to_owned());
        state.names.insert(path.to_owned(), id);
        state.durable_names.insert(path.to_owned(), id);
    }

    /// Takes a file away, durably. Says whether there was one.
    pub fn lose(&self, path: &str) -> bool {
        let mut state = self.lock();
        state.durable_names.remove(path);
        state.names.remove(path).is_some()
    }

    /// An independent disk in the same state, the seed's too.
    pub fn copy(&self) -> TwinDisk {
        TwinDisk { state: Arc::new(Mutex::new(self.lock().clone())) }
    }

    /// Goes back to the state that `snapshot` is in; handles die.
    pub fn restore(&self, snapshot: &TwinDisk) {
        let saved = snapshot.lock().clone();
        let mut state = self.lock();
        let epoch = state.epoch.max(saved.epoch) + 1;
        *state = State { epoch, ..saved };
    }

    fn rot(&self, path: &str, alter: impl FnOnce(&mut FileState) -> bool) -> bool {
        let mut state = self.lock();
        let Some(&id) = state.names.get(path) else {
            return false;
        };
        state.files.get_mut(&id).is_some_and(alter)
    }
}

impl Disk for TwinDisk {
    fn open(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.lock();
        state.begin()?;
        let id = *state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(TwinFile { disk: self.clone(), id, epoch: state.epoch }))
    }

    fn create(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.lock();
        state.begin()?;
        if !state.directories.contains(parent(path)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let id = state.next_file;
        state.next_file += 1;
        state.files.insert(id, FileState::default());
        state.change_names(NameChange { to: Some((path.to_owned(), id)), from: None });
        Ok(Box::new(TwinFile { disk: self.clone(), id, epoch: state.epoch }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.lock();
        state.begin()?;
        let id = *state.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        if !state.directories.contains(parent(to)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change_names(NameChange {
            to: Some((to.to_owned(), id)),
            from: Some(from.to_owned()),
        });
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut state = self.lock();
        state.begin()?;
        if !state.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change_names(NameChange { to: None, from: Some(path.to_owned()) });
        Ok(())
    }

    fn create_directory(&self, path: &str) -> io::Result<()> {
        let mut state = self.lock();
        state.begin()?;
        let mut directory = path;
        while !directory.is_empty() {
            state.directories.insert(directory.to_owned());
            directory = parent(directory);
        }
        Ok(())
    }

    fn list(&self, directory: &str) -> io::Result<Vec<String>> {
        let mut state = self.lock();
        state.begin()?;
        let inside = state.names.keys().filter(|path| parent(path) == directory);
        let names = inside.map(|path| path.rsplit('/').next().unwrap_or(path).to_owned());
        Ok(names.collect())
    }

    fn sync_directory(&self, directory: &str) -> io::Result<()> {
        let mut state = self.lock();
        state.begin()?;
        if !state.directories.contains(directory) {
            return Err(io::ErrorKind::NotFound.into());
        }
        take_fault(&mut state.syncs_to_fail, "sync")?;
        state.sync_names(directory);
        Ok(())
    }
}

struct TwinFile {
    disk: TwinDisk,
    id: u64,
    epoch: u64,
}

impl TwinFile {
    /// Runs one call on the file. One that was removed or replaced reads as empty.
    fn with<T>(
        &self,
        call: impl FnOnce(&mut State, &mut FileState) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.disk.lock();
        state.begin()?;
        if self.epoch != state.epoch {
            return Err(io::Error::other("a handle from before the crash"));
        }
        let mut file = state.files.remove(&self.id).unwrap_or_default();
        let result = call(&mut state, &mut file);
        state.files.insert(self.id, file);
        result
    }
}

impl DiskFile for TwinFile {
    fn len(&self) -> io::Result<u64> {
        self.with(|_, file| Ok(file.length()))
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.with(|state, file| {
            take_fault(&mut state.reads_to_fail, "read")?;
            let end = offset.checked_add(buffer.len() as u64);
            if end.is_none_or(|end| end > file.length()) {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if file.is_spoiled(offset, buffer.len() as u64) {
                return Err(io::Error::other("a simulated fault: an unreadable sector"));
            }
            file.read(buffer, offset);
            Ok(())
        })
    }

    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.with(|state, file| {
            let end = offset + bytes.len() as u64;
            // The file is out of the map during the call, so its own length counts in full.
            let growth = if end > file.length() { end } else { 0 };
            state.check_space(growth)?;
            if let Err(error) = take_fault(&mut state.writes_to_fail, "write") {
                let written = state.random.below(bytes.len() as u64 + 1) as usize;
                file.write(&bytes[..written], offset);
                return Err(error);
            }
            file.write(bytes, offset);
            Ok(())
        })
    }

    fn allocate(&mut self, length: u64) -> io::Result<()> {
        self.with(|state, file| {
            if length > file.length() {
                state.check_space(length)?;
                file.grow(length);
            }
            Ok(())
        })
    }

    fn sync_data(&mut self) -> io::Result<()> {
        self.with(|state, file| {
            if let Err(error) = take_fault(&mut state.syncs_to_fail, "sync") {
                file.fail_sync(&mut state.random);
                return Err(error);
            }
            file.sync();
            Ok(())
        })
    }
}
