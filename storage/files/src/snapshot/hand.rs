//! What making and deleting a snapshot do to the file system: the seam at which tests stop them midway.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Every call may fail, and each is one step: after any of them the process may be gone.
pub(super) trait Hand: Send + Sync {
    /// Makes a directory and its parents.
    fn make_directory(&self, path: &Path) -> io::Result<()>;

    /// Gives a file a second name, or copies it, durably, where the file system cannot do that.
    fn link_or_copy(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Writes a new file, durably.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;

    /// Renames.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;

    /// Removes a directory and all in it; one that is not there is removed.
    fn remove(&self, path: &Path) -> io::Result<()>;
}

/// The real one.
pub(super) struct FileSystem;

impl Hand for FileSystem {
    fn make_directory(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn link_or_copy(&self, from: &Path, to: &Path) -> io::Result<()> {
        if fs::hard_link(from, to).is_ok() {
            return Ok(());
        }
        // Another file system, or one without hard links, or too many of them: whatever it is, a copy
        // meets it as well or tells why not.
        let _ = fs::remove_file(to);
        fs::copy(from, to)?;
        File::open(to)?.sync_all()
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }
}
