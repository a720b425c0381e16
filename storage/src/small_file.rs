//! A small document that must outlive crashes and damage: two whole copies of it.
//!
//! It is for what a node cannot do without and cannot get from its peers: who it is, which vnodes
//! it owns, how far its clock was leased. Copies are replaced one after the other, each by a new
//! file that is synced before it takes the name, so that at any moment one is whole.
//!
//! A copy, `NAME.a` or `NAME.b`: magic `QUOITDOC`, version u16, the version inverted, length u32,
//! generation u64, CRC-32C of the header so far, the file's name and the bytes; then the bytes.
//! Numbers are little-endian.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::disk::{Disk, DiskFile};

/// A document's greatest length.
pub const DOCUMENT_BYTES_MAX: usize = 16 << 20;

const MAGIC: [u8; 8] = *b"QUOITDOC";
const VERSION: u16 = 1;
pub(crate) const HEADER_BYTES: usize = 28;
const COPIES: [&str; 2] = ["a", "b"];

/// What [`SmallFile::load`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The document as it was saved last.
    pub bytes: Bytes,
    /// Counts the saves, from 1.
    pub generation: u64,
    /// What was wrong with the other copy, which has been written anew (or could not be, as it
    /// then says): worth a line in the program's log.
    pub repaired: Option<String>,
}

/// Why a document was not loaded or saved.
#[derive(Debug, thiserror::Error)]
pub enum SmallFileError {
    /// No whole copy is left. Nothing changed. Bring the files back from a backup; or move them
    /// away, if this node's state may be given up.
    #[error(
        "{name} is damaged in every copy: {detail}; restore {name}.a or {name}.b from a backup, \
         and leave the other files as they are"
    )]
    Damaged {
        /// The document's name.
        name: String,
        /// What is wrong with each copy.
        detail: String,
    },
    /// A newer program wrote it. Nothing changed; start that program again, or a later one.
    #[error("{name} has format version {version}: use a newer program, as the one that wrote it")]
    NewerVersion {
        /// The document's name.
        name: String,
        /// The version found.
        version: u16,
    },
    /// It is longer than [`DOCUMENT_BYTES_MAX`]. Nothing changed.
    #[error("{name} would be {bytes} bytes long, and at most {DOCUMENT_BYTES_MAX} are allowed")]
    TooLarge {
        /// The document's name.
        name: String,
        /// Its length.
        bytes: usize,
    },
    /// The disk failed. After a load nothing changed. After a save it is unknown whether the old
    /// or the new document will be found at the next start: make sure that there is space, save
    /// again, or restart.
    #[error("cannot {action} {name}: see that its disk works and has space")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The document's name.
        name: String,
        /// What the disk said.
        source: io::Error,
    },
}

/// One document on a disk. Only one owner may save it.
pub struct SmallFile {
    disk: Arc<dyn Disk>,
    name: String,
}

/// A copy as it was found.
enum Copy {
    Missing,
    Valid { generation: u64, bytes: Bytes },
    Bad(String),
}

impl Copy {
    fn generation(&self) -> u64 {
        match self {
            Copy::Valid { generation, .. } => *generation,
            Copy::Missing | Copy::Bad(_) => 0,
        }
    }
}

impl SmallFile {
    /// The document called `name`, a path on the disk without the copies' endings.
    pub fn new(disk: Arc<dyn Disk>, name: &str) -> SmallFile {
        SmallFile { disk, name: name.to_owned() }
    }

    /// The newest whole copy; `None` if there never was one. Where the other copy is not as good,
    /// it is written anew before this returns, so that what was loaded once is not lost to the
    /// next damage.
    pub fn load(&self) -> Result<Option<Loaded>, SmallFileError> {
        let copies = [self.read(0)?, self.read(1)?];
        let newest = self.newest(&copies)?;
        let Some(newest) = newest else {
            return Ok(None);
        };
        let Copy::Valid { generation, bytes } = &copies[newest] else {
            return Ok(None);
        };
        let other = 1 - newest;
        let wrong = match &copies[other] {
            Copy::Valid { generation: same, .. } if same == generation => None,
            Copy::Valid { .. } => Some("is from an earlier save".to_owned()),
            Copy::Missing => Some("is missing".to_owned()),
            Copy::Bad(detail) => Some(detail.clone()),
        };
        let repaired = wrong.map(|wrong| {
            let path = self.path(other);
            match self.write(other, *generation, bytes) {
                Ok(()) => format!("{path} {wrong}; it was written anew"),
                Err(error) => format!("{path} {wrong}, and could not be written anew: {error}"),
            }
        });
        Ok(Some(Loaded { bytes: bytes.clone(), generation: *generation, repaired }))
    }

    /// Replaces the document; it is durable, twice, when this returns.
    pub fn save(&self, bytes: &[u8]) -> Result<(), SmallFileError> {
        if bytes.len() > DOCUMENT_BYTES_MAX {
            return Err(SmallFileError::TooLarge { name: self.name.clone(), bytes: bytes.len() });
        }
        let copies = [self.read(0)?, self.read(1)?];
        let older = usize::from(copies[0].generation() > copies[1].generation());
        // No document comes near the last one, unless its bytes were made up.
        let generation = copies[1 - older].generation().saturating_add(1);
        for index in [older, 1 - older] {
            self.write(index, generation, bytes).map_err(self.failed("write"))?;
        }
        Ok(())
    }

    /// Which copy to believe, if there is any.
    fn newest(&self, copies: &[Copy; 2]) -> Result<Option<usize>, SmallFileError> {
        let best = usize::from(copies[1].generation() > copies[0].generation());
        if copies[best].generation() > 0 {
            return Ok(Some(best));
        }
        let detail = |index: usize| match &copies[index] {
            Copy::Bad(detail) => format!("{} {detail}", self.path(index)),
            Copy::Missing | Copy::Valid { .. } => format!("{} is missing", self.path(index)),
        };
        if copies.iter().all(|copy| matches!(copy, Copy::Missing)) {
            return Ok(None);
        }
        Err(SmallFileError::Damaged {
            name: self.name.clone(),
            detail: format!("{}, {}", detail(0), detail(1)),
        })
    }

    fn read(&self, index: usize) -> Result<Copy, SmallFileError> {
        let path = self.path(index);
        let file = match self.disk.open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Copy::Missing),
            Err(error) => return Err(self.failed("open")(error)),
        };
        let length = file.len().map_err(self.failed("read"))?;
        if length < HEADER_BYTES as u64 || length > (HEADER_BYTES + DOCUMENT_BYTES_MAX) as u64 {
            return Ok(Copy::Bad(format!("has an impossible length of {length}")));
        }
        let content = match read_twice(&*file, length as usize) {
            Ok(content) => content,
            // One bad sector must not make the other copy useless; a disk that fails altogether
            // fails for the other copy too.
            Err(error) => return Ok(Copy::Bad(format!("cannot be read ({error})"))),
        };
        self.decode(&path, content)
    }

    fn decode(&self, path: &str, content: Vec<u8>) -> Result<Copy, SmallFileError> {
        let version = u16::from_le_bytes([content[8], content[9]]);
        let inverted = u16::from_le_bytes([content[10], content[11]]);
        if content[..8] != MAGIC || version != !inverted {
            return Ok(Copy::Bad("is no document of this store".to_owned()));
        }
        if version > VERSION {
            let name = self.name.clone();
            return Err(SmallFileError::NewerVersion { name, version });
        }
        let (header, bytes) = content.split_at(HEADER_BYTES);
        let (fields, checksum) = header.split_at(HEADER_BYTES - 4);
        let mut number = [0; 8];
        number.copy_from_slice(&fields[16..24]);
        let generation = u64::from_le_bytes(number);
        let sound = fields[12..16] == (bytes.len() as u32).to_le_bytes()
            && checksum == checksum_of(fields, path, bytes).to_le_bytes()
            && version == VERSION
            && generation > 0;
        if !sound {
            return Ok(Copy::Bad("fails its checksum".to_owned()));
        }
        Ok(Copy::Valid { generation, bytes: Bytes::from(content).slice(HEADER_BYTES..) })
    }

    fn write(&self, index: usize, generation: u64, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(index);
        let mut content = Vec::with_capacity(HEADER_BYTES + bytes.len());
        content.extend_from_slice(&MAGIC);
        content.extend_from_slice(&VERSION.to_le_bytes());
        content.extend_from_slice(&(!VERSION).to_le_bytes());
        content.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        content.extend_from_slice(&generation.to_le_bytes());
        let checksum = checksum_of(&content, &path, bytes);
        content.extend_from_slice(&checksum.to_le_bytes());
        content.extend_from_slice(bytes);

        let directory = self.name.rsplit_once('/').map_or("", |(parent, _)| parent);
        self.disk.create_directory(directory)?;
        let temporary = format!("{}.new", self.name);
        match self.disk.remove(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = self.disk.create(&temporary)?;
        file.write_all_at(&content, 0)?;
        file.sync_data()?;
        drop(file);
        self.disk.rename(&temporary, &path)?;
        self.disk.sync_directory(directory)
    }

    fn path(&self, index: usize) -> String {
        format!("{}.{}", self.name, COPIES[index])
    }

    fn failed(&self, action: &'static str) -> impl Fn(io::Error) -> SmallFileError {
        let name = self.name.clone();
        move |source| SmallFileError::Io { action, name: name.clone(), source }
    }
}

/// Reads a file's content, a second time if the first fails: a save would otherwise overwrite a
/// good copy for the sake of a passing error.
fn read_twice(file: &dyn DiskFile, length: usize) -> io::Result<Vec<u8>> {
    let mut content = vec![0; length];
    if file.read_exact_at(&mut content, 0).is_err() {
        file.read_exact_at(&mut content, 0)?;
    }
    Ok(content)
}

pub(crate) fn checksum_of(fields: &[u8], path: &str, bytes: &[u8]) -> u32 {
    let sum = crc32c::crc32c_append(crc32c::crc32c(fields), path.as_bytes());
    crc32c::crc32c_append(sum, bytes)
}

#[cfg(test)]
mod tests;
