//! The seam between the commit log, the small files, and whatever keeps bytes.
//!
//! `quoit-storage-files` has the real disk; [`crate::twin`] has one in memory that crashes, tears,
//! rots and fills up on a seed. Paths are relative to the disk's root, with `/` between names.

use std::io;

/// A directory tree that holds files. Cheap to share; every call may fail.
pub trait Disk: Send + Sync {
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &str) -> io::Result<Box<dyn DiskFile>>;

    /// Makes a new empty file; fails with `AlreadyExists` where there is one. The new name is
    /// durable only after [`Disk::sync_directory`].
    fn create(&self, path: &str) -> io::Result<Box<dyn DiskFile>>;

    /// Renames a file, replacing what was there. Durable after [`Disk::sync_directory`].
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file. Durable after [`Disk::sync_directory`].
    fn remove(&self, path: &str) -> io::Result<()>;

    /// Makes a directory and its parents where they are missing.
    fn create_directory(&self, path: &str) -> io::Result<()>;

    /// The names of the files (not the directories) in a directory, in ascending order; empty for
    /// a directory that does not exist.
    fn list(&self, directory: &str) -> io::Result<Vec<String>>;

    /// Makes the names in a directory durable.
    fn sync_directory(&self, directory: &str) -> io::Result<()>;
}

/// An open file. Offsets and lengths are in bytes.
pub trait DiskFile: Send {
    /// The file's length.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Reads exactly `buffer.len()` bytes at `offset`; `UnexpectedEof` past the end.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`, growing the file where needed. Not durable before
    /// [`DiskFile::sync_data`].
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Grows the file to `length` zero bytes' end and reserves the space, so that later writes
    /// inside it neither fail for want of space nor change metadata.
    fn allocate(&mut self, length: u64) -> io::Result<()>;

    /// Makes all written bytes (and the length) durable. After an error the state of the file's
    /// unsynced bytes is unknown for ever: the caller must not acknowledge anything that rests on
    /// them, nor try again.
    fn sync_data(&mut self) -> io::Result<()>;
}
