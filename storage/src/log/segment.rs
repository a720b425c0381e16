//! A segment's file: its name, its header, and how it is born.
//!
//! Every segment is made under another name, allocated, given its header, synced, and only then
//! renamed. So a file with a segment's name has a whole header and its full length, and one that
//! does not is damaged, whatever the moment of a crash.

use std::io;
use std::sync::Arc;

use super::record::{seed_of, u32_at, u64_at};
use crate::disk::{Disk, DiskFile};

/// Where all of the log's files are.
pub(super) const DIRECTORY: &str = "log";

/// An allocated file without records, kept so that the log can go on for one more segment when the
/// disk is full.
pub(super) const SPARE: &str = "log/spare";

/// A segment before it has its name; only the log's writer touches it.
const NEXT: &str = "log/next";

/// A spare in the making; only the [`SpareKeeper`] touches it.
const FILLING: &str = "log/filling";

/// A segment that is not needed any more; only the log's writer touches it. After a crash it may be a segment
/// again.
const DROPPED: &str = "log/dropped";

/// The same once it cannot be one again: of its space, which is written already, the [`SpareKeeper`] makes the
/// next spare.
const RETIRED: &str = "log/retired";

const FILL_BYTES: u64 = 1 << 20;

/// Bytes before a segment's first record.
pub(super) const SEGMENT_HEADER_BYTES: usize = 56;

const MAGIC: [u8; 8] = *b"QUOITLOG";
const VERSION: u16 = 1;
const FLAG_AFTER_LOSS: u32 = 1;

/// What a segment says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    /// The log that it belongs to.
    pub(super) identity: u64,
    /// The sequence of its first record, whether or not that was written yet.
    pub(super) first: u64,
    /// The last sequence of the segment before it. Sequences between the two never were.
    pub(super) previous: u64,
    /// The file's length.
    pub(super) length: u64,
    /// The last chain value of the segment before it.
    pub(super) previous_chain: u32,
    /// It was begun because the end of the log before it was damaged.
    pub(super) after_loss: bool,
    /// The header's checksum, to which the first record is chained.
    pub(super) chain: u32,
}

/// A segment's file, as the open log remembers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) first: u64,
    pub(super) length: u64,
}

/// Why a segment was not born.
#[derive(Debug)]
pub(super) enum BirthError {
    /// No space; nothing changed.
    Full(io::Error),
    /// The disk failed; what is durable is unknown.
    Failed(io::Error),
}

/// What the first bytes of a segment's file turn out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decoded {
    Valid(SegmentHeader),
    /// Written by a program that is newer than this one.
    Newer(u16),
    Bad,
}

impl SegmentHeader {
    pub(super) fn encode(&mut self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[10..12].copy_from_slice(&(!VERSION).to_le_bytes());
        let flags = if self.after_loss { FLAG_AFTER_LOSS } else { 0 };
        bytes[12..16].copy_from_slice(&flags.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.identity.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.first.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.previous.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.length.to_le_bytes());
        bytes[48..52].copy_from_slice(&self.previous_chain.to_le_bytes());
        self.chain = crc32c::crc32c_append(seed_of(self.identity), &bytes[..52]);
        bytes[52..56].copy_from_slice(&self.chain.to_le_bytes());
        bytes
    }

    /// The version stands there twice, the second time inverted, in every version of the format:
    /// a flipped bit is thus not taken for a newer program's work.
    pub(super) fn decode(bytes: &[u8; SEGMENT_HEADER_BYTES]) -> Decoded {
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        let inverted = u16::from_le_bytes([bytes[10], bytes[11]]);
        if bytes[..8] != MAGIC || version != !inverted {
            return Decoded::Bad;
        }
        if version > VERSION {
            return Decoded::Newer(version);
        }
        let flags = u32_at(bytes, 12);
        let header = SegmentHeader {
            identity: u64_at(bytes, 16),
            first: u64_at(bytes, 24),
            previous: u64_at(bytes, 32),
            length: u64_at(bytes, 40),
            previous_chain: u32_at(bytes, 48),
            after_loss: flags & FLAG_AFTER_LOSS != 0,
            chain: u32_at(bytes, 52),
        };
        let sound = crc32c::crc32c_append(seed_of(header.identity), &bytes[..52]) == header.chain
            && version == VERSION
            && flags & !FLAG_AFTER_LOSS == 0
            && header.previous < header.first;
        if sound { Decoded::Valid(header) } else { Decoded::Bad }
    }
}

/// The file of the segment that begins with `first`.
pub(super) fn path_of(first: u64) -> String {
    format!("{DIRECTORY}/{first:020}.log")
}

/// The first sequences of all segments, by their names, in ascending order.
pub(super) fn list(disk: &dyn Disk) -> io::Result<Vec<u64>> {
    let names = disk.list(DIRECTORY)?;
    let firsts = names.iter().filter_map(|name| {
        let digits = name.strip_suffix(".log")?;
        let plain = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| digits.parse().ok()).flatten()
    });
    let mut firsts: Vec<u64> = firsts.collect();
    firsts.sort_unstable();
    Ok(firsts)
}

/// Whether an error says that there is no space left, which is no reason to distrust the disk.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Makes the segment that `header` describes, at least `length` bytes long, and fills in the
/// header's length and chain. On return its name and its header are durable.
pub(super) fn birth(
    disk: &dyn Disk,
    header: &mut SegmentHeader,
    length: u64,
) -> Result<Box<dyn DiskFile>, BirthError> {
    let full_or_failed = |error: io::Error| match is_full(&error) {
        true => BirthError::Full(error),
        false => BirthError::Failed(error),
    };
    let mut file = take_file(disk, length).map_err(full_or_failed)?;
    header.length = file.len().map_err(BirthError::Failed)?;
    let bytes = header.encode();
    file.write_all_at(&bytes, 0).map_err(BirthError::Failed)?;
    file.sync_data().map_err(BirthError::Failed)?;
    if let Err(error) = disk.rename(NEXT, &path_of(header.first)) {
        give_back(disk, &*file);
        return Err(full_or_failed(error));
    }
    let synced = disk.sync_directory(DIRECTORY);
    synced.map_err(BirthError::Failed)?;
    Ok(file)
}

/// Gives the new segment's file, at least `length` zero bytes long, under a name that is the
/// writer's alone: the spare, or a new one. On an error nothing changed.
fn take_file(disk: &dyn Disk, length: u64) -> io::Result<Box<dyn DiskFile>> {
    let made = match disk.rename(SPARE, NEXT) {
        Ok(()) => disk.open(NEXT),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            remove_if_there(disk, NEXT)?;
            disk.create(NEXT)
        }
        Err(error) => Err(error),
    };
    let mut file = made?;
    let allocated = match file.len() {
        Ok(at_hand) if at_hand >= length => Ok(()),
        Ok(_) => file.allocate(length),
        Err(error) => Err(error),
    };
    match allocated {
        Ok(()) => Ok(file),
        Err(error) => {
            give_back(disk, &*file);
            Err(error)
        }
    }
}

/// After a failure: a file that was the spare is the spare again, and a new one leaves its space.
fn give_back(disk: &dyn Disk, file: &dyn DiskFile) {
    // Whatever fails here leaves a file that the next attempt or the next start clears away.
    let _ = match file.len() {
        Ok(length) if length > 0 => disk.rename(NEXT, SPARE),
        Ok(_) | Err(_) => disk.remove(NEXT),
    };
}

/// Takes a segment's name away, for good once the directory is synced. Of those that are as long as a spare
/// the last one stays as [`DROPPED`].
pub(super) fn drop_name(
    disk: &dyn Disk,
    segment: Segment,
    spare_bytes: Option<u64>,
) -> io::Result<()> {
    let path = path_of(segment.first);
    // What a full disk may not let rename, it lets remove.
    if spare_bytes == Some(segment.length) && disk.rename(&path, DROPPED).is_ok() {
        return Ok(());
    }
    remove_if_there(disk, &path)
}

/// The directory is synced: what was dropped may be written over.
pub(super) fn retire_dropped(disk: &dyn Disk) {
    if disk.rename(DROPPED, RETIRED).is_err() {
        // Mostly there is none. One that stays is removed when the log is opened.
        let _ = disk.remove(DROPPED);
    }
}

/// Lets go of the space that a log keeps for its next spare, and says whether there was any. For whoever finds
/// the disk full; the log does it by itself.
pub fn free_retired(disk: &dyn Disk) -> bool {
    disk.remove(RETIRED).is_ok()
}

/// Removes what a crash left of files in the making, and a spare of another length.
pub(super) fn clear_unfit(disk: &dyn Disk, segment_bytes: u64) -> io::Result<()> {
    remove_if_there(disk, NEXT)?;
    remove_if_there(disk, FILLING)?;
    remove_if_there(disk, DROPPED)?;
    remove_if_there(disk, RETIRED)?;
    if spare_length(disk)?.is_some_and(|length| length != segment_bytes) {
        disk.remove(SPARE)?;
    }
    Ok(())
}

/// Reserves a spare where there is none, without filling it. On an error nothing is left behind.
pub(super) fn reserve_spare(disk: &dyn Disk, segment_bytes: u64) -> io::Result<()> {
    if spare_length(disk)?.is_some() {
        return Ok(());
    }
    let allocated = disk.create(SPARE)?.allocate(segment_bytes);
    if allocated.is_err() {
        disk.remove(SPARE)?;
    }
    allocated
}

fn spare_length(disk: &dyn Disk) -> io::Result<Option<u64>> {
    match disk.open(SPARE) {
        Ok(file) => Ok(Some(file.len()?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn remove_if_there(disk: &dyn Disk, path: &str) -> io::Result<()> {
    match disk.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Keeps the spare ready, written full with zeros, from a maintenance thread. A file system has
/// to note of every reserved block that it was written for the first time, which doubles the time
/// that a sync takes; blocks that hold zeros already spare the writer that. Once the log has dropped a segment
/// its space is written over, which spares the same to the keeper, and the file system all of the giving and
/// taking of space.
pub struct SpareKeeper {
    disk: Arc<dyn Disk>,
    segment_bytes: u64,
    /// The spare, if there is one, is of this keeper's making.
    is_filled: bool,
}

impl SpareKeeper {
    pub(super) fn new(disk: Arc<dyn Disk>, segment_bytes: u64) -> Self {
        Self { disk, segment_bytes, is_filled: false }
    }

    /// Makes a spare if there is none, and says whether it did. Slow (it writes a segment's length
    /// of zeros); may run beside the log's own calls. An error, a full disk for instance, is no reason to
    /// stop: the log reserves its next segment by itself.
    pub fn keep(&mut self) -> io::Result<bool> {
        if spare_length(&*self.disk)?.is_some() {
            return Ok(false);
        }
        self.make().map(|()| true)
    }

    /// Puts a written spare in the place of one that may only be reserved, as the log does when it is
    /// opened. As slow as [`SpareKeeper::keep`], and takes the space of both meanwhile: for a log that is really
    /// written to. On an error the one that was there stays.
    pub fn fill_reserved(&mut self) -> io::Result<()> {
        if self.is_filled || spare_length(&*self.disk)?.is_none() {
            return Ok(());
        }
        self.make()
    }

    fn make(&mut self) -> io::Result<()> {
        let filled = self.fill();
        if filled.is_err() {
            remove_if_there(&*self.disk, FILLING)?;
        }
        self.is_filled |= filled.is_ok();
        filled
    }

    /// A file to be filled: a retired segment, or a new one.
    fn take_file(&self) -> io::Result<Box<dyn DiskFile>> {
        match self.disk.rename(RETIRED, FILLING) {
            Ok(()) => self.disk.open(FILLING),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                remove_if_there(&*self.disk, FILLING)?;
                self.disk.create(FILLING)
            }
            Err(error) => Err(error),
        }
    }

    /// The spare's name appears only when all is done, since the log may take it at any moment.
    fn fill(&self) -> io::Result<()> {
        let mut file = self.take_file()?;
        file.allocate(self.segment_bytes)?;
        let zeros = vec![0; FILL_BYTES.min(self.segment_bytes) as usize];
        let mut at = 0;
        while at < self.segment_bytes {
            let size = FILL_BYTES.min(self.segment_bytes - at);
            file.write_all_at(&zeros[..size as usize], at)?;
            // In small portions, so that the log's syncs need not wait for one large one.
            file.sync_data()?;
            at += size;
        }
        self.disk.rename(FILLING, SPARE)
    }
}
