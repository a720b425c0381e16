//! The tables' files as they are at one moment, held for a snapshot.
//!
//! Table files never change once they are written. While a version of the tree is held, lsm-tree
//! deletes none of its files, whatever compactions come to; what is linked elsewhere by then stays for
//! good. The two small files that name a version are read at once: the next compaction replaces them.

use std::any::Any;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io, thread};

use lsm_tree::AbstractTree;
use quoit_storage::engine::EngineError;

use super::guard::{self, CURRENT_FILE, Contents, Flaw, TABLES_FOLDER};
use super::open::{self, Place};
use super::{Tables, TablesError, TablesOptions};

/// A compaction writes down its result a moment before it counts; so often it is looked again.
const TRIES_MAX: u32 = 400;
const TRY_PAUSE: Duration = Duration::from_millis(5);
/// `current` and the version file that it names change between the two reads at most so often.
const CURRENT_READS_MAX: u32 = 3;

/// Names and bytes.
pub type SmallFiles = Vec<(String, Vec<u8>)>;

/// One file of the tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldFile {
    /// Its path, relative to the tables' directory.
    pub name: String,
    /// Its xxh3-128 as it was when the file was written.
    pub checksum: u128,
}

/// The tables' files of one moment. They stay until this is dropped.
pub struct HeldTables {
    /// Where they lie.
    pub directory: PathBuf,
    /// Those that never change.
    pub tables: Vec<HeldFile>,
    /// Small ones, by name, that are gone with the next compaction: their bytes.
    pub small: SmallFiles,
    _version: Box<dyn Any + Send + Sync>,
}

impl Tables {
    /// Takes hold of the files that make up the tables now; of what is in memory they know nothing.
    ///
    /// # Errors
    /// The files cannot be read.
    pub fn hold(&self) -> Result<HeldTables, EngineError> {
        let directory = self.place.directory.clone();
        let mut failure = String::new();
        for _ in 0..TRIES_MAX {
            let version = self.tree.current_version();
            match read_current(&directory) {
                Ok((contents, small)) if contents.version == version.id() => {
                    let tables = held_files(&contents);
                    return Ok(HeldTables {
                        directory,
                        tables,
                        small,
                        _version: Box::new(version),
                    });
                }
                Ok(_) => failure = "compactions do not come to rest".to_owned(),
                Err(Flaw::Damaged(reason)) => failure = reason,
                Err(flaw) => return Err(EngineError::Io(format!("{flaw:?}"))),
            }
            thread::sleep(TRY_PAUSE);
        }
        Err(EngineError::Damaged(failure))
    }

    /// Opens tables that nothing is ever written to, as a snapshot holds them, without touching their
    /// directory: in `scratch`, which is the caller's, links to the files are made.
    ///
    /// # Errors
    /// [`TablesError`]; damage is an [`io::ErrorKind::InvalidData`].
    pub fn open_frozen(
        directory: &Path,
        scratch: &Path,
        options: &TablesOptions,
    ) -> Result<Tables, TablesError> {
        let failed = TablesError::io(directory);
        let damaged = |reason: String| io::Error::new(io::ErrorKind::InvalidData, reason);
        let contents = match guard::read_version(directory, &directory.join(CURRENT_FILE)) {
            Ok(contents) => contents,
            Err(Flaw::Damaged(reason)) => return Err(failed(damaged(reason))),
            Err(Flaw::Newer(found)) => {
                return Err(TablesError::NewerVersion { found: found.into(), known: open::FORMAT });
            }
            Err(Flaw::Foreign(path)) => return Err(TablesError::Foreign(path)),
            Err(Flaw::Io(path, error)) => return Err(TablesError::io(&path)(error)),
        };
        link_beside(directory, scratch, &contents).map_err(failed)?;
        let place = Place { directory: scratch.to_owned() };
        open::open_frozen(place, options)
    }
}

fn held_files(contents: &Contents) -> Vec<HeldFile> {
    let named = contents.tables.iter().zip(&contents.checksums);
    named
        .map(|(number, checksum)| HeldFile {
            name: format!("{TABLES_FOLDER}/{number}"),
            checksum: *checksum,
        })
        .collect()
}

/// What `current` names, and the bytes of it and of the version's file.
fn read_current(directory: &Path) -> Result<(Contents, SmallFiles), Flaw> {
    let path = directory.join(CURRENT_FILE);
    let read = |path: &Path| fs::read(path).map_err(|error| Flaw::reading(path, error));
    let mut flaw = None;
    for _ in 0..CURRENT_READS_MAX {
        let current = read(&path)?;
        let found = guard::read_version(directory, &path).and_then(|contents| {
            let name = format!("v{}", contents.version);
            let version = read(&directory.join(&name))?;
            Ok((contents, vec![(name, version)]))
        });
        match found {
            Ok((contents, mut small)) if read(&path)? == current => {
                small.push((CURRENT_FILE.to_owned(), current));
                return Ok((contents, small));
            }
            Ok(_) => {}
            Err(found) => flaw = Some(found),
        }
    }
    Err(flaw.unwrap_or_else(|| Flaw::Damaged("`current` changes all the time".to_owned())))
}

/// lsm-tree deletes what it thinks left over: of links it deletes the links alone.
fn link_beside(directory: &Path, scratch: &Path, contents: &Contents) -> io::Result<()> {
    let directory = fs::canonicalize(directory)?;
    fs::create_dir_all(scratch.join(TABLES_FOLDER))?;
    for name in [CURRENT_FILE.to_owned(), format!("v{}", contents.version)] {
        fs::copy(directory.join(&name), scratch.join(&name))?;
    }
    contents.tables.iter().try_for_each(|number| {
        let name = format!("{TABLES_FOLDER}/{number}");
        std::os::unix::fs::symlink(directory.join(&name), scratch.join(&name))
    })
}
