//! Small records beside the tree: how far it persisted, and which format it has.
//!
//! Each is a few bytes with a checksum, written to a new file that is then renamed into place, so
//! that a crash leaves the old or the new one. The persisted record holds two copies, a page apart,
//! so that one damaged sector does not take it.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use quoit_storage::engine::Sequence;
use xxhash_rust::xxh3::xxh3_64;

const PERSISTED_FILE: &str = "persisted";
const PERSISTED_MAGIC: &[u8; 8] = b"QTPERS01";
const MARKER_MAGIC: &[u8; 8] = b"QTTABLES";
const COPY_DISTANCE: usize = 4_096;
const CHECKSUM_BYTES: usize = 8;
const PERSISTED_BYTES: usize = 8 + 8 + 8 + CHECKSUM_BYTES;

/// How far the tree had persisted when it was last flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Persisted {
    /// Everything up to here is durable in the tree.
    pub(super) sequence: Sequence,
    /// The number of a version of the tree that is durable. A tree that comes back with a lower
    /// one has gone back in time.
    pub(super) version: u64,
}

impl Persisted {
    /// The record in a tree's directory; what it says when missing or damaged is "nothing": the
    /// tree itself then tells the least that has persisted. And whether a copy is damaged.
    pub(super) fn read(directory: &Path) -> io::Result<(Persisted, bool)> {
        let bytes = match fs::read(directory.join(PERSISTED_FILE)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok((Self::default(), false));
            }
            Err(error) => return Err(error),
        };
        let copies = [0, COPY_DISTANCE].map(|start| Self::decode(bytes.get(start..)?));
        let is_damaged = copies.contains(&None);
        let newest = copies.into_iter().flatten().max_by_key(|copy| copy.sequence);
        Ok((newest.unwrap_or_default(), is_damaged))
    }

    /// Replaces the record; durable on return.
    pub(super) fn write(self, directory: &Path) -> io::Result<()> {
        let copy = self.encode();
        let mut bytes = copy.clone();
        bytes.resize(COPY_DISTANCE, 0);
        bytes.extend(copy);
        replace(&directory.join(PERSISTED_FILE), &bytes)
    }

    fn encode(self) -> Vec<u8> {
        let mut bytes = PERSISTED_MAGIC.to_vec();
        bytes.extend(self.sequence.0.to_le_bytes());
        bytes.extend(self.version.to_le_bytes());
        sealed(bytes)
    }

    fn decode(bytes: &[u8]) -> Option<Persisted> {
        let content = unsealed(bytes.get(..PERSISTED_BYTES)?)?.strip_prefix(PERSISTED_MAGIC)?;
        let (sequence, version) = content.split_at_checked(8)?;
        Some(Persisted {
            sequence: Sequence(u64::from_le_bytes(sequence.try_into().ok()?)),
            version: u64::from_le_bytes(version.try_into().ok()?),
        })
    }
}

/// What the marker beside the tree's directory says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Marker {
    /// There never was a tree here, as far as the marker knows.
    Missing,
    /// There was one, and the marker does not check.
    Damaged,
    /// There was one of this format.
    Format(u32),
}

impl Marker {
    pub(super) fn read(path: &Path) -> io::Result<Marker> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Marker::Missing),
            Err(error) => return Err(error),
        };
        let format = unsealed(&bytes)
            .and_then(|content| content.strip_prefix(MARKER_MAGIC)?.try_into().ok())
            .map(u32::from_le_bytes);
        Ok(format.map_or(Marker::Damaged, Marker::Format))
    }

    pub(super) fn write(path: &Path, format: u32) -> io::Result<()> {
        let mut bytes = MARKER_MAGIC.to_vec();
        bytes.extend(format.to_le_bytes());
        replace(path, &sealed(bytes))
    }
}

/// Writes a file beside, syncs it, renames it into place and syncs the directory.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let mut file = File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    sync_parent(path)
}

/// Removes a file, durably, if it is there.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync_parent(path),
    }
}

/// Makes the names beside `path` durable.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let checksum = xxh3_64(&bytes);
    bytes.extend(checksum.to_le_bytes());
    bytes
}

fn unsealed(bytes: &[u8]) -> Option<&[u8]> {
    let (content, checksum) = bytes.split_last_chunk::<CHECKSUM_BYTES>()?;
    (xxh3_64(content) == u64::from_le_bytes(*checksum)).then_some(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_persisted_record_survives_the_loss_of_either_copy() {
        let directory = tempfile::tempdir().unwrap();
        let record = Persisted { sequence: Sequence(70_000), version: 12 };
        record.write(directory.path()).unwrap();
        assert_eq!(Persisted::read(directory.path()).unwrap(), (record, false));
        let path = directory.path().join(PERSISTED_FILE);
        let whole = fs::read(&path).unwrap();
        for position in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[position] ^= 0x10;
            fs::write(&path, damaged).unwrap();
            // Between the copies lies nothing.
            let is_copy = position % COPY_DISTANCE < PERSISTED_BYTES;
            assert_eq!(Persisted::read(directory.path()).unwrap(), (record, is_copy));
        }
        for length in 0..PERSISTED_BYTES {
            fs::write(&path, &whole[..length]).unwrap();
            let found = Persisted::read(directory.path()).unwrap();
            assert_eq!(found, (Persisted::default(), true));
        }
    }

    #[test]
    fn a_marker_tells_missing_from_damaged() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("marker");
        assert_eq!(Marker::read(&path).unwrap(), Marker::Missing);
        Marker::write(&path, 3).unwrap();
        assert_eq!(Marker::read(&path).unwrap(), Marker::Format(3));
        let whole = fs::read(&path).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, damaged).unwrap();
            assert_eq!(Marker::read(&path).unwrap(), Marker::Damaged);
        }
    }

    #[test]
    fn the_persisted_record_has_not_changed_its_bytes() {
        let record = Persisted { sequence: Sequence(0x0102_0304), version: 5 };
        let mut golden = b"QTPERS01\x04\x03\x02\x01\0\0\0\0\x05\0\0\0\0\0\0\0".to_vec();
        golden.extend(xxh3_64(&golden).to_le_bytes());
        assert_eq!(record.encode(), golden);
    }
}
