//! The watermark: what was synced, written down beside the log without a sync of its own.
//!
//! After a process is killed it is exact, since the page cache lives on; after a power cut it is a
//! lower bound. Either way, a log that ends before it has lost something, however much the end
//! looks like a torn write.

use std::io;

use super::record::{u32_at, u64_at};
use crate::disk::{Disk, DiskFile};

pub(super) const PATH: &str = "log/watermark";

const SLOT_BYTES: usize = 40;
/// Each slot has a sector of its own, so that a torn write leaves the other one whole.
const SLOT_OFFSETS: [u64; 2] = [0, 512];
const MARK: [u8; 8] = *b"QWATER\x01\0";

/// One slot's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) identity: u64,
    /// Everything up to here was synced.
    pub(super) sequence: u64,
    /// The chain value of the record with that sequence.
    pub(super) chain: u32,
}

impl Mark {
    fn encode(self) -> [u8; SLOT_BYTES] {
        let mut bytes = [0; SLOT_BYTES];
        bytes[..8].copy_from_slice(&MARK);
        bytes[8..16].copy_from_slice(&self.identity.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.chain.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..36]);
        bytes[36..40].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; SLOT_BYTES]) -> Option<Mark> {
        let sound = bytes[..8] == MARK && u32_at(bytes, 36) == crc32c::crc32c(&bytes[..36]);
        sound.then(|| Mark {
            identity: u64_at(bytes, 8),
            sequence: u64_at(bytes, 16),
            chain: u32_at(bytes, 24),
        })
    }
}

/// Reads the slots: the greater of the valid ones, and whether any was damaged.
pub(super) fn load(disk: &dyn Disk) -> (Option<Mark>, bool) {
    let Ok(file) = disk.open(PATH) else {
        return (None, false);
    };
    let mut best: Option<Mark> = None;
    let mut damaged = false;
    for offset in SLOT_OFFSETS {
        let mut bytes = [0; SLOT_BYTES];
        if file.read_exact_at(&mut bytes, offset).is_err() || bytes == [0; SLOT_BYTES] {
            continue;
        }
        match Mark::decode(&bytes) {
            Some(mark) if best.is_none_or(|best| best.sequence < mark.sequence) => {
                best = Some(mark);
            }
            Some(_) => {}
            None => damaged = true,
        }
    }
    (best, damaged)
}

/// Writes the slots by turns. Losing one is no loss of data, so errors are only counted.
pub(super) struct Writer {
    file: Option<Box<dyn DiskFile>>,
    next_slot: usize,
    pub(super) failures: u64,
}

impl Writer {
    /// `newest` is the greatest mark that was found: its slot is not the first to be overwritten.
    pub(super) fn open(disk: &dyn Disk, newest: Option<Mark>) -> Writer {
        let opened = match disk.open(PATH) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => disk.create(PATH),
            opened => opened,
        };
        let mut writer =
            Writer { failures: u64::from(opened.is_err()), file: opened.ok(), next_slot: 0 };
        let mut bytes = [0; SLOT_BYTES];
        if let Some(file) = &writer.file
            && file.read_exact_at(&mut bytes, SLOT_OFFSETS[0]).is_ok()
            && newest.is_some()
            && Mark::decode(&bytes) == newest
        {
            writer.next_slot = 1;
        }
        writer
    }

    pub(super) fn write(&mut self, mark: Mark) {
        let Some(file) = &mut self.file else {
            self.failures += 1;
            return;
        };
        match file.write_all_at(&mark.encode(), SLOT_OFFSETS[self.next_slot]) {
            Ok(()) => self.next_slot = 1 - self.next_slot,
            Err(_) => self.failures += 1,
        }
    }
}
