//! The real disk: a directory of the file system, and nobody else's.
//!
//! [`FileDisk`] is what `quoit_storage::disk::Disk` means on Linux: space is reserved by
//! `fallocate`, bytes are made durable by `fdatasync`, names by a sync of their directory. A lock
//! on the file `LOCK` keeps a second process out: two of them would overwrite each other's log.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use quoit_storage::disk::{Disk, DiskFile};
use rustix::fs::{FallocateFlags, FlockOperation};

/// The lock's file; no file of the store may have this name.
const LOCK: &str = "LOCK";

/// A directory as a [`Disk`]. A clone shares the lock, which the last one releases; so does the
/// process's end, however it comes.
#[derive(Debug, Clone)]
pub struct FileDisk {
    root: PathBuf,
    _lock: Arc<File>,
}

impl FileDisk {
    /// Takes possession of the directory `root`, making it where it is missing. Fails with
    /// `WouldBlock` where another process (or another part of this one) has it.
    pub fn open(root: impl Into<PathBuf>) -> io::Result<FileDisk> {
        let root = root.into();
        make_directories(&root)?;
        let lock =
            OpenOptions::new().create(true).truncate(false).write(true).open(root.join(LOCK))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(FileDisk { root, _lock: Arc::new(lock) }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(io::Error::new(
                io::ErrorKind::WouldBlock,
                format!(
                    "another process uses the directory {}: stop it first, or choose another one",
                    root.display()
                ),
            )),
            Err(error) => Err(error.into()),
        }
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path inside the root; one that would leave it, or touch the lock, is refused.
    fn inside(&self, path: &str) -> io::Result<PathBuf> {
        let relative = Path::new(path);
        let mut components = relative.components();
        let plain = components.all(|component| matches!(component, Component::Normal(_)));
        if !plain || path == LOCK || path.contains('\0') {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{path:?} is no path inside the store's directory"),
            ));
        }
        Ok(self.root.join(relative))
    }

    /// As [`FileDisk::inside`], for a file, which cannot be the root.
    fn file(&self, path: &str) -> io::Result<PathBuf> {
        if path.is_empty() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.inside(path)
    }
}

impl Disk for FileDisk {
    fn open(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.file(path)?)?;
        Ok(Box::new(OpenFile { file }))
    }

    fn create(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        let file =
            OpenOptions::new().read(true).write(true).create_new(true).open(self.file(path)?)?;
        Ok(Box::new(OpenFile { file }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.file(from)?, self.file(to)?)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        std::fs::remove_file(self.file(path)?)
    }

    /// Unlike names of files, a new directory is durable when this returns.
    fn create_directory(&self, path: &str) -> io::Result<()> {
        make_directories(&self.inside(path)?)
    }

    fn list(&self, directory: &str) -> io::Result<Vec<String>> {
        let entries = match std::fs::read_dir(self.inside(directory)?) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            // The store gives no names that are not Unicode: such a file is not ours.
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let is_lock = directory.is_empty() && name == LOCK;
            if entry.file_type()?.is_file() && !is_lock {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn sync_directory(&self, directory: &str) -> io::Result<()> {
        File::open(self.inside(directory)?)?.sync_all()
    }
}

/// Makes a directory and its missing parents, all durable.
fn make_directories(path: &Path) -> io::Result<()> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    make_directories(parent)?;
    match std::fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    File::open(parent)?.sync_all()
}

#[derive(Debug)]
struct OpenFile {
    file: File,
}

impl DiskFile for OpenFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    /// Where the file system cannot reserve space, the file only gets its length: a full disk may
    /// then show in a later write, which the log takes for a failure of the disk.
    fn allocate(&mut self, length: u64) -> io::Result<()> {
        if self.len()? >= length {
            return Ok(());
        }
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, length) {
            Err(rustix::io::Errno::OPNOTSUPP) => self.file.set_len(length),
            result => Ok(result?),
        }
    }

    fn sync_data(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use quoit_storage::engine::Sequence;
    use quoit_storage::log::{Log, LogOptions, RecoveredEntry, Tail};
    use quoit_storage::small_file::SmallFile;

    use super::*;

    #[test]
    fn a_directory_is_used_by_one_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let first = FileDisk::open(directory.path()).unwrap();
        let second = FileDisk::open(directory.path()).unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::WouldBlock);
        assert!(second.to_string().contains("another process"));
        drop(first);
        FileDisk::open(directory.path()).unwrap();
    }

    #[test]
    fn paths_that_leave_the_root_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let disk = FileDisk::open(directory.path()).unwrap();
        for path in ["../up", "/etc/passwd", "log/../../up", "", ".", "LOCK", "./LOCK", "a\0b"] {
            let refused = disk.create(path).err().map(|error| error.kind());
            assert_eq!(refused, Some(io::ErrorKind::InvalidInput), "{path:?}");
        }
    }

    #[test]
    fn files_are_made_listed_renamed_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let disk = FileDisk::open(directory.path()).unwrap();
        assert!(disk.list("log").unwrap().is_empty());
        disk.create_directory("log/deep").unwrap();
        let mut file = disk.create("log/b").unwrap();
        disk.create("log/a").unwrap();
        assert_eq!(disk.create("log/a").err().unwrap().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(disk.list("log").unwrap(), ["a", "b"]);
        assert!(disk.list("").unwrap().is_empty());
        file.allocate(8192).unwrap();
        file.write_all_at(b"hello", 4090).unwrap();
        file.sync_data().unwrap();
        disk.rename("log/b", "log/a").unwrap();
        disk.sync_directory("log").unwrap();
        let file = disk.open("log/a").unwrap();
        assert_eq!(file.len().unwrap(), 8192);
        let mut bytes = [1; 7];
        file.read_exact_at(&mut bytes, 4089).unwrap();
        assert_eq!(&bytes, b"\0hello\0");
        let past = file.read_exact_at(&mut bytes, 8190).unwrap_err();
        assert_eq!(past.kind(), io::ErrorKind::UnexpectedEof);
        disk.remove("log/a").unwrap();
        assert!(disk.list("log").unwrap().is_empty());
    }

    #[test]
    fn a_log_and_a_small_file_live_on_it() {
        let directory = tempfile::tempdir().unwrap();
        let options = LogOptions { segment_bytes: 64 << 10, ..LogOptions::default() };
        {
            let disk = Arc::new(FileDisk::open(directory.path()).unwrap());
            SmallFile::new(disk.clone(), "identity").save(b"me").unwrap();
            let (mut log, _) = Log::open(disk, options.clone(), &mut |_| {}).unwrap();
            for round in 0..100_u64 {
                log.append([vec![7; 1000], round.to_le_bytes().to_vec()]).unwrap();
                log.sync().unwrap();
            }
            assert!(log.segment_count() > 1);
        }
        let disk = Arc::new(FileDisk::open(directory.path()).unwrap());
        let document = SmallFile::new(disk.clone(), "identity").load().unwrap().unwrap();
        assert_eq!(&document.bytes[..], b"me");
        let mut rounds = Vec::new();
        let (_, recovery) = Log::open(disk, options, &mut |entry| match entry {
            RecoveredEntry::Intact { payload, .. } if payload.len() == 8 => {
                rounds.push(u64::from_le_bytes(payload[..].try_into().unwrap()));
            }
            RecoveredEntry::Intact { .. } => {}
            RecoveredEntry::Damaged { sequence, .. } => panic!("{sequence:?} is damaged"),
        })
        .unwrap();
        assert_eq!(rounds, (0..100).collect::<Vec<_>>());
        assert_eq!(recovery.next_sequence, Sequence(201));
        assert_eq!(recovery.tail, Tail::Clean);
        assert!(recovery.lost.is_empty() && recovery.harmless.is_empty());
    }
}
