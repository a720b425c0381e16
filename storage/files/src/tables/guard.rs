//! Looks at a tree's files before lsm-tree may touch them.
//!
//! lsm-tree trusts what it opens: it does not verify the version file (a flipped bit there opened
//! with rows missing, and then deleted tables), it takes a missing `current` for an empty tree, and
//! a wrong count in a table of contents makes it allocate until the process aborts. So everything
//! that steers an open is verified here first, byte by byte where there is a checksum:
//!
//! - `current`: a version's number, the xxh3-128 of that version's file, and the checksum's kind;
//! - the version file, whole, against that checksum; then the list of tables in it;
//! - each of those tables: present, and with a table of contents that checks.
//!
//! The blocks inside tables carry checksums that lsm-tree verifies at each read.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use xxhash_rust::xxh3::xxh3_128;

use super::record::Persisted;

pub(super) const CURRENT_FILE: &str = "current";
pub(super) const TABLES_FOLDER: &str = "tables";
/// lsm-tree's number for the format that its 3.x releases write.
const LSM_FORMAT: u8 = 3;
const CURRENT_BYTES: usize = 8 + 16 + 1;
const TRAILER_BYTES: u64 = 4 + 1 + 1 + 16 + 8 + 8;
/// Archives have about ten sections; anything near this is not one.
const CONTENTS_BYTES_MAX: u64 = 1 << 16;
/// A version file names a table in 33 bytes; this is room for eight million.
const VERSION_BYTES_MAX: u64 = 256 << 20;

/// What a tree's directory holds.
#[derive(Debug)]
pub(super) enum Inspection {
    /// No such directory.
    Absent,
    /// A directory in which no tree was ever finished.
    Empty,
    /// A tree, fit to be opened.
    Sound(Contents),
}

/// Which files make up a sound tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Contents {
    pub(super) version: u64,
    pub(super) tables: Vec<u64>,
    /// The xxh3-128 of each of these files, as it was when the file was written.
    pub(super) checksums: Vec<u128>,
}

/// Why a tree must not be opened as it is.
#[derive(Debug)]
pub(super) enum Flaw {
    /// Its bytes are not what was written.
    Damaged(String),
    /// A later lsm-tree wrote it.
    Newer(u8),
    /// A file that is not ours lies among the tables.
    Foreign(PathBuf),
    /// The disk did not answer.
    Io(PathBuf, io::Error),
}

impl Flaw {
    /// Missing and short files are damage: the caller asks only for files that must be there.
    pub(super) fn reading(path: &Path, error: io::Error) -> Flaw {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof => {
                Flaw::Damaged(format!("{}: {error}", file_name(path)))
            }
            _ => Flaw::Io(path.to_owned(), error),
        }
    }
}

/// Verifies everything that steers an open.
pub(super) fn inspect(directory: &Path) -> Result<Inspection, Flaw> {
    match fs::metadata(directory) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => return Err(Flaw::Foreign(directory.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Inspection::Absent),
        Err(error) => return Err(Flaw::Io(directory.to_owned(), error)),
    }
    let present = list_tables(&directory.join(TABLES_FOLDER))?;
    let current = directory.join(CURRENT_FILE);
    if !current.try_exists().map_err(|error| Flaw::Io(current.clone(), error))? {
        return match present.is_empty() {
            true => Ok(Inspection::Empty),
            false => Err(Flaw::Damaged("there are tables, but no `current`".into())),
        };
    }
    let contents = read_version(directory, &current)?;
    let read = Persisted::read(directory).map_err(|error| Flaw::Io(current, error));
    let (persisted, is_damaged) = read?;
    if is_damaged {
        tracing::warn!(
            directory = %directory.display(),
            "the record of how far the tables persisted is damaged; the tables tell it themselves, \
             and the next flush writes it anew"
        );
    }
    if persisted.version > contents.version {
        return Err(Flaw::Damaged(format!(
            "`current` names version {}, though {} was made durable",
            contents.version, persisted.version
        )));
    }
    for table in &contents.tables {
        let path = directory.join(TABLES_FOLDER).join(table.to_string());
        let archive = Archive::open(&path)?;
        for section in ["tli", "meta"] {
            archive.section(section)?;
        }
    }
    Ok(Inspection::Sound(contents))
}

/// The numbers of the files in the tables' folder; more than a version names is normal after a
/// crash, other names are not.
fn list_tables(folder: &Path) -> Result<Vec<u64>, Flaw> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Flaw::Io(folder.to_owned(), error)),
    };
    let mut tables = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| Flaw::Io(folder.to_owned(), error))?;
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        match number {
            Some(number) if is_file => tables.push(number),
            _ => return Err(Flaw::Foreign(entry.path())),
        }
    }
    Ok(tables)
}

/// The version that `current` names.
pub(super) fn read_version(directory: &Path, current: &Path) -> Result<Contents, Flaw> {
    let bytes = read_bounded(current, CURRENT_BYTES as u64)?;
    let bytes: [u8; CURRENT_BYTES] =
        bytes.try_into().map_err(|_| Flaw::Damaged("`current` is too short".into()))?;
    let mut fields = Fields(&bytes);
    let (version, checksum, kind) = (fields.u64()?, fields.u128()?, fields.u8()?);
    if kind != 0 {
        return Err(Flaw::Damaged(format!("`current` has a checksum of kind {kind}")));
    }
    let path = directory.join(format!("v{version}"));
    let bytes = read_bounded(&path, VERSION_BYTES_MAX)?;
    if xxh3_128(&bytes) != checksum {
        return Err(Flaw::Damaged(format!("{} does not check", file_name(&path))));
    }
    let archive = Archive::open(&path)?;
    let section = |name| {
        let (start, length) = archive.section(name)?;
        let range = start as usize..(start + length) as usize;
        bytes.get(range).map(Fields).ok_or_else(|| archive.flaw("is cut short"))
    };
    match section("format_version")?.u8()? {
        LSM_FORMAT => {}
        newer if newer > LSM_FORMAT => return Err(Flaw::Newer(newer)),
        older => return Err(archive.flaw(&format!("has format {older}"))),
    }
    let (tables, checksums) = read_tables(section("tables")?)?;
    Ok(Contents { version, tables, checksums })
}

/// The tables' numbers and checksums.
fn read_tables(mut fields: Fields<'_>) -> Result<(Vec<u64>, Vec<u128>), Flaw> {
    let (mut tables, mut checksums) = (Vec::new(), Vec::new());
    for _level in 0..fields.u8()? {
        for _run in 0..fields.u8()? {
            for _table in 0..fields.u32()? {
                tables.push(fields.u64()?);
                let (_kind, checksum, _first) = (fields.u8()?, fields.u128()?, fields.u64()?);
                checksums.push(checksum);
            }
        }
    }
    Ok((tables, checksums))
}

/// A file of named sections with a checked table of contents at its end, as lsm-tree writes its
/// version files and its tables.
struct Archive {
    name: String,
    sections: Vec<(Vec<u8>, u64, u64)>,
}

impl Archive {
    fn open(path: &Path) -> Result<Archive, Flaw> {
        let mut archive = Archive { name: file_name(path), sections: Vec::new() };
        let reading = |error| Flaw::reading(path, error);
        let file = File::open(path).map_err(reading)?;
        let length = file.metadata().map_err(reading)?.len();
        let trailer_at =
            length.checked_sub(TRAILER_BYTES).ok_or_else(|| archive.flaw("is cut short"))?;
        let mut trailer = [0; TRAILER_BYTES as usize];
        file.read_exact_at(&mut trailer, trailer_at).map_err(reading)?;
        let Some(trailer) = trailer.strip_prefix(b"SFA!\x01\x00") else {
            return Err(archive.flaw("does not end as it should"));
        };
        let mut fields = Fields(trailer);
        let (checksum, contents_at) = (fields.u128()?, fields.u64()?);
        let contents_bytes = trailer_at
            .checked_sub(contents_at)
            .filter(|bytes| *bytes <= CONTENTS_BYTES_MAX)
            .ok_or_else(|| archive.flaw("points to no table of contents"))?;
        let mut contents = vec![0; contents_bytes as usize];
        file.read_exact_at(&mut contents, contents_at).map_err(reading)?;
        if xxh3_128(&contents) != checksum {
            return Err(archive.flaw("has a table of contents that does not check"));
        }
        archive.parse(&contents, contents_at)?;
        Ok(archive)
    }

    fn parse(&mut self, contents: &[u8], end: u64) -> Result<(), Flaw> {
        let Some(contents) = contents.strip_prefix(b"TOC!") else {
            return Err(self.flaw("has no table of contents"));
        };
        let mut fields = Fields(contents);
        for _section in 0..fields.u32()? {
            let (start, length) = (fields.u64()?, fields.u64()?);
            let name_bytes = fields.u16()?;
            let name = fields.take(name_bytes.into())?.to_vec();
            if start.checked_add(length).is_none_or(|section_end| section_end > end) {
                return Err(self.flaw("has a section beyond its end"));
            }
            self.sections.push((name, start, length));
        }
        Ok(())
    }

    /// Where a section that must exist starts, and its length.
    fn section(&self, name: &str) -> Result<(u64, u64), Flaw> {
        let found = self.sections.iter().find(|(found, ..)| found == name.as_bytes());
        found
            .map(|&(_, start, length)| (start, length))
            .ok_or_else(|| self.flaw(&format!("has no section {name}")))
    }

    fn flaw(&self, what: &str) -> Flaw {
        Flaw::Damaged(format!("{} {what}", self.name))
    }
}

/// Little-endian fields off the front of bytes.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Flaw> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or_else(|| Flaw::Damaged("a record ends within a field".into()))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Flaw> {
        let taken = self.take(N)?;
        Ok(taken.try_into().expect("take gives the length that it was asked for"))
    }

    fn u8(&mut self) -> Result<u8, Flaw> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Result<u16, Flaw> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, Flaw> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Flaw> {
        self.array().map(u64::from_le_bytes)
    }

    fn u128(&mut self) -> Result<u128, Flaw> {
        self.array().map(u128::from_le_bytes)
    }
}

fn read_bounded(path: &Path, bytes_max: u64) -> Result<Vec<u8>, Flaw> {
    let reading = |error| Flaw::reading(path, error);
    let length = fs::metadata(path).map_err(reading)?.len();
    if length > bytes_max {
        return Err(Flaw::Damaged(format!("{} has {length} bytes", file_name(path))));
    }
    fs::read(path).map_err(reading)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
