//! Snapshots of a node's tables: folders of hard links that no later write touches.
//!
//! ```text
//! snapshots/NAME/manifest.json   what it is of, and its files with their checksums; written last
//!                flushed         how whole virtual nodes stood (floors, losses) at that moment
//!                current, v12    which tables there were
//!                tables/17 ...   the tables: links to the node's own files, which never change
//! ```
//!
//! A snapshot is made under the name `.making-NAME` and renamed once all of it is durable, and renamed
//! to `.deleting-NAME` before anything of it is removed: so a folder with a plain name is whole, and
//! what a crash has left has a name that the next start removes. Linking costs no space at first; what
//! the node's own compactions replace later stays on the disk for the snapshot alone.

mod hand;
mod manifest;
mod read;

#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_128;

pub use manifest::{
    MANIFEST_FILE, Manifest, ManifestError, NameError, SnapshotFile, SnapshotName, TablePolicy,
};
pub use read::{FileDamage, ReadError, Snapshot};

use crate::tables::HeldTables;
use hand::{FileSystem, Hand};
use manifest::checksum_text;

/// At most so many snapshots are kept.
pub const SNAPSHOTS_MAX: usize = 64;
/// What is left free on the disk in any case: the node itself goes on writing.
const FREE_BYTES_MIN: u64 = 64 << 20;
const FLUSHED_FILE: &str = "flushed";
const MAKING: &str = ".making-";
const DELETING: &str = ".deleting-";

/// Why a snapshot was not made, listed or deleted. Nothing has changed but, on a failure of the disk,
/// what the next start removes.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// There is one of that name.
    #[error("there is a snapshot {0} already: choose another name, or delete it first")]
    Exists(SnapshotName),
    /// There is none of that name.
    #[error("there is no snapshot {0}; `quoit snapshot list` shows those that there are")]
    Unknown(SnapshotName),
    /// There are as many as there may be.
    #[error("there are {SNAPSHOTS_MAX} snapshots already: delete one first")]
    TooMany,
    /// The disk has too little space.
    #[error(
        "{directory} has {free_bytes} bytes free, and the snapshot needs {needed_bytes}: delete an \
         older one, or free some space"
    )]
    NoSpace {
        /// Where they lie.
        directory: PathBuf,
        /// What is free.
        free_bytes: u64,
        /// What is needed.
        needed_bytes: u64,
    },
    /// The disk failed.
    #[error("{path} cannot be {action}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl SnapshotError {
    fn io(action: &'static str, path: &Path) -> impl Fn(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { action, path: path.clone(), source }
    }
}

/// A snapshot that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: SnapshotName,
    /// What it is of; or why that cannot be told.
    pub manifest: Result<Manifest, String>,
    /// Bytes that are kept for it alone: what deleting it frees.
    pub own_bytes: u64,
}

/// The folder in which a node's snapshots lie.
pub struct Snapshots {
    root: PathBuf,
    hand: Arc<dyn Hand>,
}

impl Snapshots {
    /// Snapshots in a folder, which is made with the first of them.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), hand: Arc::new(FileSystem) }
    }

    /// Removes what was half made or half deleted. For the start: nothing may be under way.
    ///
    /// # Errors
    /// The disk failed.
    pub fn clean(&self) -> Result<(), SnapshotError> {
        for (name, path) in self.folders()? {
            if name.starts_with(MAKING) || name.starts_with(DELETING) {
                self.hand.remove(&path).map_err(SnapshotError::io("removed", &path))?;
            }
        }
        Ok(())
    }

    /// Where they lie.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Bytes that are free there, as far as the system tells.
    pub fn free_bytes(&self) -> u64 {
        let at = self.root.ancestors().find(|path| path.exists());
        let told = at.and_then(|at| rustix::fs::statvfs(at).ok());
        told.map_or(u64::MAX, |told| told.f_bavail.saturating_mul(told.f_frsize))
    }

    fn folders(&self) -> Result<Vec<(String, PathBuf)>, SnapshotError> {
        let failed = SnapshotError::io("read", &self.root);
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut folders = Vec::new();
        for entry in entries {
            let entry = entry.map_err(&failed)?;
            if let Ok(name) = entry.file_name().into_string()
                && entry.file_type().is_ok_and(|kind| kind.is_dir())
            {
                folders.push((name, entry.path()));
            }
        }
        folders.sort_unstable();
        Ok(folders)
    }

    fn names(&self) -> Result<Vec<SnapshotName>, SnapshotError> {
        let folders = self.folders()?.into_iter();
        Ok(folders.filter_map(|(name, _)| name.parse().ok()).collect())
    }

    /// Those that there are, ascending by name.
    ///
    /// # Errors
    /// The disk failed.
    pub fn list(&self) -> Result<Vec<Listed>, SnapshotError> {
        let listed = |name: SnapshotName| {
            let folder = self.folder(&name);
            let manifest = Manifest::read(&folder).map_err(|error| error.to_string());
            let files = manifest.iter().flat_map(|manifest| &manifest.files);
            let own = files.filter(|file| {
                fs::metadata(folder.join(&file.name)).is_ok_and(|found| found.nlink() == 1)
            });
            let own_bytes = own.map(|file| file.bytes).sum();
            Listed { name, manifest, own_bytes }
        };
        Ok(self.names()?.into_iter().map(listed).collect())
    }

    /// Where a snapshot's folder is.
    pub fn folder(&self, name: &SnapshotName) -> PathBuf {
        self.root.join(name.to_string())
    }

    /// Whether one of that name may be made.
    ///
    /// # Errors
    /// Why not.
    pub fn check_new(&self, name: &SnapshotName) -> Result<(), SnapshotError> {
        let names = self.names()?;
        if names.contains(name) || self.folder(name).exists() {
            return Err(SnapshotError::Exists(name.clone()));
        }
        if names.len() >= SNAPSHOTS_MAX { Err(SnapshotError::TooMany) } else { Ok(()) }
    }

    /// Makes a snapshot of what is held; `manifest` says of what, and gets the list of its files here.
    /// One call at a time.
    ///
    /// # Errors
    /// [`SnapshotError`]; what was made of it by then is removed.
    pub fn create(
        &self,
        mut manifest: Manifest,
        held: &HeldTables,
        flushed: &[u8],
    ) -> Result<Manifest, SnapshotError> {
        self.check_new(&manifest.name)?;
        let small = || held.small.iter().map(|(name, bytes)| (name.as_str(), &bytes[..]));
        let small = || small().chain([(FLUSHED_FILE, flushed)]);
        manifest.files = self.files(held, small())?;
        self.check_space(held, &manifest)?;
        let making = self.root.join(format!("{MAKING}{}", manifest.name));
        let made = self.fill(&making, &manifest, held, small());
        let made = made.and_then(|()| {
            let folder = self.folder(&manifest.name);
            self.hand
                .rename(&making, &folder)
                .and_then(|()| self.hand.sync_directory(&self.root))
                .map_err(SnapshotError::io("renamed", &folder))
        });
        if made.is_err() {
            // What cannot be removed now is removed by the next start.
            let _ = self.hand.remove(&making);
        }
        made.map(|()| manifest)
    }

    fn files<'a>(
        &self,
        held: &HeldTables,
        small: impl Iterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<Vec<SnapshotFile>, SnapshotError> {
        let of_small = |(name, bytes): (&str, &[u8])| SnapshotFile {
            name: name.to_owned(),
            bytes: bytes.len() as u64,
            checksum: checksum_text(xxh3_128(bytes)),
        };
        let mut files: Vec<_> = small.map(of_small).collect();
        for table in &held.tables {
            let path = held.directory.join(&table.name);
            let bytes = fs::metadata(&path).map_err(SnapshotError::io("read", &path))?.len();
            let checksum = checksum_text(table.checksum);
            files.push(SnapshotFile { name: table.name.clone(), bytes, checksum });
        }
        Ok(files)
    }

    /// Links take no space; copies to another file system do.
    fn check_space(&self, held: &HeldTables, manifest: &Manifest) -> Result<(), SnapshotError> {
        self.hand.make_directory(&self.root).map_err(SnapshotError::io("made", &self.root))?;
        let device = |path: &Path| fs::metadata(path).map(|found| found.dev()).ok();
        let copied_bytes = match device(&self.root) == device(&held.directory) {
            true => 0,
            false => manifest.bytes(),
        };
        let (free_bytes, needed_bytes) = (self.free_bytes(), copied_bytes + FREE_BYTES_MIN);
        match free_bytes < needed_bytes {
            true => {
                let directory = self.root.clone();
                Err(SnapshotError::NoSpace { directory, free_bytes, needed_bytes })
            }
            false => Ok(()),
        }
    }

    /// Fills a folder, durably, its manifest last.
    fn fill<'a>(
        &self,
        making: &Path,
        manifest: &Manifest,
        held: &HeldTables,
        small: impl Iterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<(), SnapshotError> {
        let (hand, tables) = (&self.hand, making.join("tables"));
        let failed = |action, path: &Path| SnapshotError::io(action, path);
        hand.remove(making).map_err(failed("removed", making))?;
        hand.make_directory(&tables).map_err(failed("made", &tables))?;
        for table in &held.tables {
            let to = making.join(&table.name);
            hand.link_or_copy(&held.directory.join(&table.name), &to)
                .map_err(failed("linked", &to))?;
        }
        hand.sync_directory(&tables).map_err(failed("synced", &tables))?;
        for (name, bytes) in small {
            let to = making.join(name);
            hand.write(&to, bytes).map_err(failed("written", &to))?;
        }
        let (partial, whole) = (making.join(".manifest"), making.join(MANIFEST_FILE));
        let written = manifest
            .seal()
            .and_then(|bytes| hand.write(&partial, &bytes))
            .and_then(|()| hand.sync_directory(making))
            .and_then(|()| hand.rename(&partial, &whole))
            .and_then(|()| hand.sync_directory(making));
        written.map_err(failed("written", &whole))
    }

    /// Deletes a snapshot.
    ///
    /// # Errors
    /// [`SnapshotError`]; what is left of it after a failure of the disk is removed by the next start.
    pub fn delete(&self, name: &SnapshotName) -> Result<(), SnapshotError> {
        let (folder, deleting) = (self.folder(name), self.root.join(format!("{DELETING}{name}")));
        if !folder.is_dir() {
            return Err(SnapshotError::Unknown(name.clone()));
        }
        self.hand
            .remove(&deleting)
            .and_then(|()| self.hand.rename(&folder, &deleting))
            .and_then(|()| self.hand.sync_directory(&self.root))
            .and_then(|()| self.hand.remove(&deleting))
            .map_err(SnapshotError::io("deleted", &folder))
    }
}
