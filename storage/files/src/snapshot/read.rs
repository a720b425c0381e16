//! A snapshot's folder, wherever it was carried: verified, then read.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quoit_storage::store::{FlushedError, Frozen};
use xxhash_rust::xxh3::Xxh3Default;

use super::manifest::checksum_text;
use super::{FLUSHED_FILE, Manifest, ManifestError, SnapshotFile};
use crate::tables::{Tables, TablesError, TablesOptions};

/// Files are read in pieces of this length.
const PIECE_BYTES: usize = 1 << 20;

/// A file that is not what the manifest says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct FileDamage {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// Why a snapshot that was verified cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Its tables cannot be opened.
    #[error("the tables of {} cannot be opened", folder.display())]
    Tables {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: TablesError,
    },
    /// What held for whole virtual nodes cannot be read.
    #[error("{} cannot be read", path.display())]
    Flushed {
        /// The file.
        path: PathBuf,
        /// Why.
        source: FlushedError,
    },
    /// A file cannot be read.
    #[error("{} cannot be read", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A snapshot's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Where it is.
    pub folder: PathBuf,
    /// What it is of.
    pub manifest: Manifest,
}

impl Snapshot {
    /// Reads the folder's manifest.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub fn open(folder: &Path) -> Result<Self, ManifestError> {
        Ok(Self { folder: folder.to_owned(), manifest: Manifest::read(folder)? })
    }

    /// Reads every file and compares it with the manifest; `on_bytes` hears of each piece. Yields what
    /// is damaged.
    pub fn verify(&self, on_bytes: &mut dyn FnMut(u64)) -> Vec<FileDamage> {
        let mut damaged = Vec::new();
        for file in &self.manifest.files {
            let path = self.folder.join(&file.name);
            let reason = match verify_file(&path, file, on_bytes) {
                Ok(None) => continue,
                Ok(Some(reason)) => reason,
                Err(error) => error.to_string(),
            };
            damaged.push(FileDamage { path, reason });
        }
        damaged
    }

    /// Opens the store that the snapshot is of; nothing in its folder changes. Links are made in
    /// `scratch`, a directory of the caller's own, which must stay until the store is dropped.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read(&self, scratch: &Path, options: &TablesOptions) -> Result<Frozen, ReadError> {
        let folder = self.folder.clone();
        let tables = Tables::open_frozen(&folder, scratch, options)
            .map_err(|source| ReadError::Tables { folder, source })?;
        let path = self.folder.join(FLUSHED_FILE);
        let flushed = match std::fs::read(&path) {
            Ok(flushed) => flushed,
            Err(source) => return Err(ReadError::Io { path, source }),
        };
        Frozen::open(Arc::new(tables), &flushed)
            .map_err(|source| ReadError::Flushed { path, source })
    }
}

/// What is wrong with a file; `None` where all is well.
fn verify_file(
    path: &Path,
    said: &SnapshotFile,
    on_bytes: &mut dyn FnMut(u64),
) -> io::Result<Option<String>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    if length != said.bytes {
        return Ok(Some(format!("it has {length} bytes, and had {}", said.bytes)));
    }
    let (mut hasher, mut piece) = (Xxh3Default::new(), vec![0; PIECE_BYTES]);
    loop {
        match file.read(&mut piece)? {
            0 => break,
            read => {
                hasher.update(&piece[..read]);
                on_bytes(read as u64);
            }
        }
    }
    let is_right = checksum_text(hasher.digest128()) == said.checksum;
    Ok((!is_right).then(|| "its checksum is another: its bytes have changed".to_owned()))
}
