//! Opens the tree, or sets a damaged one aside and makes a new one.
//!
//! Beside the tree's directory, under its name with an ending, lie:
//!
//! - `.lock`: held while the tables are open;
//! - `.marker`: there was a tree here, and of which format;
//! - `.opening`: hard links of the tree's files while an open is not known to be good;
//! - `.condemned`: the tree must be rebuilt at the next open, and why;
//! - `.rebuilt`: the tree was rebuilt and its owner has not yet acted on it, so that a crash in
//!   between cannot turn lost data into absent data;
//! - `.damaged-1`, `.damaged-2`: what was set aside, the newest first.

use std::{
    ffi::OsString,
    fs::{self, File, TryLockError},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use lsm_tree::{
    AbstractTree, AnyTree, Cache, CompressionType, Config, DescriptorTable, SequenceNumberCounter,
    Tree,
    config::{CompressionPolicy, PinningPolicy},
};

use super::{
    Compression, OpenReport, Tables, TablesError, TablesOptions,
    guard::{self, CURRENT_FILE, Contents, Flaw, Inspection, TABLES_FOLDER},
    record::{self, Marker, Persisted},
};

/// The format that this code writes. Raise it when an older binary could not read the tables.
pub(super) const FORMAT: u32 = 1;
/// Damaged trees that are kept for someone to look at.
const ASIDE_COUNT_MAX: u32 = 2;
/// A reason in a note is for people; more than this is not read.
const NOTE_BYTES_MAX: usize = 4_096;

/// An open tree and what came with it.
pub(super) struct Opened {
    pub(super) tree: Tree,
    /// The counter that numbers the tree's own commits.
    pub(super) commits: SequenceNumberCounter,
    pub(super) report: OpenReport,
    /// Held until the tables are closed.
    pub(super) lock: File,
}

/// Where a tree lies, and the files beside it.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) directory: PathBuf,
}

impl Place {
    fn beside(&self, ending: &str) -> PathBuf {
        let mut name: OsString = self.directory.as_os_str().to_owned();
        name.push(ending);
        name.into()
    }

    fn aside(&self, number: u32) -> PathBuf {
        self.beside(&format!(".damaged-{number}"))
    }

    pub(super) fn condemned(&self) -> PathBuf {
        self.beside(".condemned")
    }

    pub(super) fn rebuilt(&self) -> PathBuf {
        self.beside(".rebuilt")
    }

    fn marker(&self) -> PathBuf {
        self.beside(".marker")
    }

    fn opening(&self) -> PathBuf {
        self.beside(".opening")
    }

    fn lock(&self) -> Result<File, TablesError> {
        if let Some(parent) = self.directory.parent() {
            fs::create_dir_all(parent).map_err(TablesError::io(parent))?;
        }
        let path = self.beside(".lock");
        let lock = File::create(&path).map_err(TablesError::io(&path))?;
        match lock.try_lock() {
            Ok(()) => Ok(lock),
            Err(TryLockError::WouldBlock) => Err(TablesError::Locked(self.directory.clone())),
            Err(TryLockError::Error(error)) => Err(TablesError::io(&path)(error)),
        }
    }
}

/// Opens, creates or rebuilds.
pub(super) fn open(place: &Place, options: &TablesOptions) -> Result<Opened, TablesError> {
    let lock = place.lock()?;
    let marker = Marker::read(&place.marker()).map_err(TablesError::io(&place.marker()))?;
    if let Marker::Format(found) = marker
        && found > FORMAT
    {
        return Err(TablesError::NewerVersion { found, known: FORMAT });
    }
    let commits = SequenceNumberCounter::default();
    let existed = options.expect_existing || marker != Marker::Missing;
    let mut created = false;
    let opened = match attempt(place, options, &commits, existed)? {
        Attempt::Open(tree) => tree,
        Attempt::Create => {
            created = true;
            create(place, options, &commits)?
        }
        Attempt::Rebuild(reason) => {
            set_aside(place, &reason).map_err(TablesError::io(&place.directory))?;
            create(place, options, &commits)?
        }
    };
    settle(place, marker).map_err(TablesError::io(&place.directory))?;
    let report = report(place, created).map_err(TablesError::io(&place.rebuilt()))?;
    Ok(Opened { tree: opened, commits, report, lock })
}

/// Opens a tree that is only read; whoever asks has seen to it that it is sound.
pub(super) fn open_frozen(place: Place, options: &TablesOptions) -> Result<Tables, TablesError> {
    let lock = place.lock()?;
    let commits = SequenceNumberCounter::default();
    let failed = TablesError::io(&place.directory);
    let tree = match open_contained(&place, options, &commits) {
        Ok(tree) => tree,
        Err(Refusal::Io(error)) => return Err(failed(error)),
        Err(Refusal::Damaged(reason)) => {
            return Err(failed(io::Error::new(io::ErrorKind::InvalidData, reason)));
        }
    };
    let report = OpenReport::Opened;
    Ok(Tables::new(place, Opened { tree, commits, report, lock }, Persisted::default()))
}

enum Attempt {
    Open(Tree),
    Create,
    Rebuild(String),
}

fn attempt(
    place: &Place,
    options: &TablesOptions,
    commits: &SequenceNumberCounter,
    existed: bool,
) -> Result<Attempt, TablesError> {
    if let Some(reason) =
        read_note(&place.condemned()).map_err(TablesError::io(&place.condemned()))?
    {
        return Ok(Attempt::Rebuild(reason));
    }
    match guard::inspect(&place.directory) {
        Ok(Inspection::Absent | Inspection::Empty) if existed => {
            Ok(Attempt::Rebuild("the tables are gone".into()))
        }
        Ok(Inspection::Absent | Inspection::Empty) => Ok(Attempt::Create),
        Ok(Inspection::Sound(contents)) => open_sound(place, options, commits, &contents),
        Err(Flaw::Damaged(reason)) => Ok(Attempt::Rebuild(reason)),
        Err(Flaw::Newer(found)) => {
            Err(TablesError::NewerVersion { found: found.into(), known: FORMAT })
        }
        Err(Flaw::Foreign(path)) => Err(TablesError::Foreign(path)),
        Err(Flaw::Io(path, error)) => Err(TablesError::io(&path)(error)),
    }
}

/// Opens a tree that the guard found sound. lsm-tree deletes what it thinks left over while it
/// opens, hence the links: what it should not have deleted is in them.
fn open_sound(
    place: &Place,
    options: &TablesOptions,
    commits: &SequenceNumberCounter,
    contents: &Contents,
) -> Result<Attempt, TablesError> {
    let opening = place.opening();
    remove_directory(&opening).map_err(TablesError::io(&opening))?;
    if let Err(error) = link_copies(&place.directory, &opening, contents) {
        tracing::warn!(%error, "opening the tables without a copy beside");
    }
    let tree = match open_contained(place, options, commits) {
        Ok(tree) => tree,
        Err(Refusal::Damaged(reason)) => return Ok(Attempt::Rebuild(reason)),
        Err(Refusal::Io(error)) => return Err(TablesError::io(&place.directory)(error)),
    };
    if tree.table_count() != contents.tables.len() {
        let reason = format!("{} tables opened of {}", tree.table_count(), contents.tables.len());
        return Ok(Attempt::Rebuild(reason));
    }
    remove_directory(&opening).map_err(TablesError::io(&opening))?;
    Ok(Attempt::Open(tree))
}

enum Refusal {
    Damaged(String),
    Io(io::Error),
}

/// lsm-tree asserts what it reads of a table's metadata, so an open may panic.
fn open_contained(
    place: &Place,
    options: &TablesOptions,
    commits: &SequenceNumberCounter,
) -> Result<Tree, Refusal> {
    let config = config(place, options, commits);
    // Nothing of the tree outlives a panic: the config is moved in and what was opened is dropped.
    let opened = catch_unwind(AssertUnwindSafe(|| config.open()));
    match opened {
        Ok(Ok(AnyTree::Standard(tree))) => Ok(tree),
        Ok(Ok(AnyTree::Blob(_))) => Err(Refusal::Damaged("the tree separates its values".into())),
        Ok(Err(lsm_tree::Error::Io(error))) if !says_damage(&error) => Err(Refusal::Io(error)),
        Ok(Err(error)) => Err(Refusal::Damaged(format!("{error:?}"))),
        Err(_) => Err(Refusal::Damaged("lsm-tree panicked".into())),
    }
}

/// Whether an error of reading a file that must be there tells of the file and not of the disk.
pub(super) fn says_damage(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, NotFound, UnexpectedEof};
    matches!(error.kind(), NotFound | UnexpectedEof | InvalidData)
}

fn create(
    place: &Place,
    options: &TablesOptions,
    commits: &SequenceNumberCounter,
) -> Result<Tree, TablesError> {
    let failed = TablesError::io(&place.directory);
    let tree = match open_contained(place, options, commits) {
        Ok(tree) => tree,
        Err(Refusal::Io(error)) => return Err(failed(error)),
        Err(Refusal::Damaged(reason)) => return Err(failed(io::Error::other(reason))),
    };
    record::sync_parent(&place.directory).map_err(failed)?;
    Ok(tree)
}

fn config(place: &Place, options: &TablesOptions, commits: &SequenceNumberCounter) -> Config {
    let compression = match options.compression {
        Compression::None => CompressionPolicy::disabled(),
        // What is freshly flushed is soon compacted: it is not worth the time there.
        Compression::Lz4 => CompressionPolicy::new([CompressionType::None, CompressionType::Lz4]),
    };
    Config::new(&place.directory, commits.clone(), SequenceNumberCounter::default())
        .use_cache(Arc::new(Cache::with_capacity_bytes(options.block_cache_bytes)))
        .use_descriptor_table(Some(Arc::new(DescriptorTable::new(options.open_files_max))))
        .data_block_compression_policy(compression)
        .index_block_partitioning_policy(PinningPolicy::all(true))
        .filter_block_partitioning_policy(PinningPolicy::all(true))
        .index_block_pinning_policy(PinningPolicy::disabled())
        .filter_block_pinning_policy(PinningPolicy::disabled())
}

/// Moves a damaged tree out of the way. The note comes first: from here on the owner hears of it.
fn set_aside(place: &Place, reason: &str) -> io::Result<()> {
    tracing::error!(reason, "the sorted tables are rebuilt empty");
    record::replace(&place.rebuilt(), reason.as_bytes())?;
    if place.directory.try_exists()? {
        for number in (1..=ASIDE_COUNT_MAX).rev() {
            if number == ASIDE_COUNT_MAX {
                remove_directory(&place.aside(number))?;
            } else if place.aside(number).try_exists()? {
                fs::rename(place.aside(number), place.aside(number + 1))?;
            }
        }
        fs::rename(&place.directory, place.aside(1))?;
        if place.opening().try_exists()? {
            fs::rename(place.opening(), place.aside(1).join("before-open"))?;
        }
    }
    remove_directory(&place.opening())?;
    record::sync_parent(&place.directory)
}

/// Once a tree is open: the marker says so, and what the way here left over goes.
fn settle(place: &Place, marker: Marker) -> io::Result<()> {
    if marker == Marker::Damaged {
        tracing::warn!(file = %place.marker().display(), "damaged; it is written anew");
    }
    if marker != Marker::Format(FORMAT) {
        Marker::write(&place.marker(), FORMAT)?;
    }
    record::remove(&place.condemned())?;
    for entry in fs::read_dir(&place.directory)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(".tmp") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn report(place: &Place, created: bool) -> io::Result<OpenReport> {
    Ok(match read_note(&place.rebuilt())? {
        Some(reason) => {
            let aside = place.aside(1);
            OpenReport::Rebuilt { reason, aside: aside.try_exists()?.then_some(aside) }
        }
        None if created => OpenReport::Created,
        None => OpenReport::Opened,
    })
}

fn read_note(path: &Path) -> io::Result<Option<String>> {
    match fs::read(path) {
        Ok(mut bytes) => {
            bytes.truncate(NOTE_BYTES_MAX);
            Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn link_copies(directory: &Path, copies: &Path, contents: &Contents) -> io::Result<()> {
    fs::create_dir_all(copies.join(TABLES_FOLDER))?;
    let link = |name: &str| fs::hard_link(directory.join(name), copies.join(name));
    link(CURRENT_FILE)?;
    link(&format!("v{}", contents.version))?;
    contents.tables.iter().try_for_each(|table| link(&format!("{TABLES_FOLDER}/{table}")))
}

fn remove_directory(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
