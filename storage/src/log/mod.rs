//! The commit log: what was appended and synced here survives a crash, and what was damaged since
//! is reported, never silently dropped nor changed.
//!
//! It is pure: it works on a [`Disk`], and the simulator tears, rots and fills the real thing.
//! DESIGN section 9 has its place; Dynamo (SOSP 2007, section 4.6) asks for the durability.
//!
//! # Files
//! All lie in `log/`. Numbers are little-endian; checksums are CRC-32C. `seed` is the checksum of
//! the log's identity, and every checksum of a record starts from it.
//! - `00000000000000000001.log`: a segment, named by its first sequence, allocated in full when it
//!   is made, zeros where nothing was written yet;
//! - `spare`: an allocated file without records, for the next segment; `next` and `filling` are
//!   a segment and a spare in the making; `dropped` and then `retired` is a segment that
//!   is not needed any more, whose space the next spare has;
//! - `watermark`: two slots, at 0 and 512: mark `QWATER\x01\0`, identity u64, synced sequence u64,
//!   chain value u32, zeros, checksum u32 of the 36 bytes before.
//!
//! | a segment's header | bytes |
//! |---|---|
//! | magic `QUOITLOG` | 8 |
//! | version, then the version inverted | 2 + 2 |
//! | flags (1: begun after damage at the log's end) | 4 |
//! | identity of the log | 8 |
//! | first sequence | 8 |
//! | last sequence of the segment before | 8 |
//! | length of the file | 8 |
//! | chain value of the segment before | 4 |
//! | checksum: the chain's first value here | 4 |
//!
//! | a record | bytes |
//! |---|---|
//! | mark `qr`, version 1, zero | 4 |
//! | payload length | 4 |
//! | sequence | 8 |
//! | last sequence that was synced when this was written | 8 |
//! | payload checksum | 4 |
//! | chain value of the record before | 4 |
//! | checksum of the header so far: this record's chain value | 4 |
//! | payload | |
//!
//! A header's checksum covers the payload's checksum, so the chain covers the payloads, and yet a
//! flip in a payload leaves length and sequence trustworthy. Records follow each other without
//! padding and without gaps in their sequences. How a torn tail is told from damage stands in
//! the module `recovery`.
//!
//! # Invariants
//! - A batch is one write; it never spans segments.
//! - A segment is only begun when all before it is synced, and only written over when its name is gone for
//!   good.
//! - After a failed write or sync nothing is acknowledged: [`LogError::Poisoned`].
//! - Records that recovery delivers are durable once [`Log::open`] has returned: those above the
//!   watermark are written again, as a sync that failed before a restart may have left them in
//!   the page cache alone, and marked clean.
//!
//! # Speed
//! `cargo run --release -p quoit-storage-files --example log_speed [directory]`, on ext4 and two
//! processors that other work kept busy (load 4 to 6), 3 s a run, records of 1 KiB: batches of 64
//! came to 25,000 to 72,000 records/s in five runs, and in the three better ones a batch was
//! durable in 0.29 to 0.33 ms at the median, which alone would be some 200,000 records/s; batches
//! of 256 came to 83,000 to 218,000. Without a [`SpareKeeper`], in two runs, the median of 64 was
//! 0.44 and 0.46 ms, though not the average worse. The load decided more than the log: to be measured
//! again on a quiet machine.
//!
//! By itself, 800 writes of 50,000 bytes, each with an `fdatasync`: 0.20 ms at the median into a file that was
//! written before, two writes of the disk each, and 0.36 ms into one that was only reserved, three: the third
//! notes that the blocks were written, in a block of the disk that other nodes' files may share. So the spare
//! that a log reserves for itself when it is opened is written by its keeper, once the first memory is flushed.
//! The very first segment is not.

use std::io;
use std::sync::Arc;

use crate::disk::{Disk, DiskFile};
use crate::engine::Sequence;

mod reader;
mod record;
mod recovery;
mod report;
mod segment;
mod settle;
mod watermark;

#[cfg(test)]
mod tests;

pub use report::{LossReason, Lost, RecoveredEntry, Recovery, Tail};
pub use segment::{SpareKeeper, free_retired};

use record::{PAYLOAD_BYTES_MAX, RECORD_HEADER_BYTES};
use segment::{BirthError, SEGMENT_HEADER_BYTES, Segment, SegmentHeader};
use watermark::Mark;

/// The batch buffer is kept from batch to batch up to this capacity.
const BUFFER_BYTES_KEPT: usize = 4 << 20;

/// How a log is kept.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// A segment's length. Recovery reads at most about this much that is already durable
    /// elsewhere. Beside the segments there is one spare of this length, and at times one of those that were
    /// dropped.
    pub segment_bytes: u64,
    /// What the sorted tables hold durably: records up to here are not delivered, and damage in
    /// them is only mentioned.
    pub persisted: Sequence,
    /// What is known from elsewhere: that there is a log, and that its records up to here were
    /// synced. If they cannot be found that is reported, and the next sequence is greater in any
    /// case. `None` where there may be no log yet.
    pub known: Option<Sequence>,
    /// A random number that tells this log's records from all other bytes. Used where the log is
    /// made; afterwards the log's files say it.
    pub identity: u64,
}

impl LogOptions {
    /// The default segment length.
    pub const SEGMENT_BYTES: u64 = 64 << 20;
}

impl Default for LogOptions {
    fn default() -> LogOptions {
        LogOptions {
            segment_bytes: LogOptions::SEGMENT_BYTES,
            persisted: Sequence(0),
            known: None,
            identity: 0,
        }
    }
}

/// Why the log did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A write or a sync failed before, so nobody knows what of the last batches is durable.
    /// Nothing was done. Stop acknowledging and restart the process: opening the log again finds
    /// out what is there.
    #[error("the log is poisoned by an earlier disk error: restart the process")]
    Poisoned,
    /// There is no space for another segment. Nothing changed: the same batch may be appended
    /// again once space was freed, for instance by [`Log::truncate_before`].
    #[error("there is no space left for the commit log: free some on its disk")]
    Full(#[source] io::Error),
    /// The disk failed. From [`Log::append`] and [`Log::sync`]: it is unknown whether the batch
    /// will be there after a restart, and the log is poisoned. From [`Log::open`]: nothing that
    /// was delivered may be used; try again when the disk answers.
    #[error("cannot {action} {file}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file, relative to the disk's root.
        file: String,
        /// What the disk said.
        source: io::Error,
    },
    /// A newer program wrote this log. Nothing changed; start that program again, or a later one.
    #[error("{file} has format version {version}: use a newer program, as the one that wrote it")]
    NewerVersion {
        /// The file.
        file: String,
        /// Its version.
        version: u16,
    },
    /// A payload is longer than a record may be. Nothing changed.
    #[error("a record of {bytes} bytes is too large for the commit log")]
    TooLarge {
        /// The payload's length.
        bytes: usize,
    },
}

impl LogError {
    fn io(action: &'static str, file: &str) -> impl Fn(io::Error) -> LogError + use<> {
        let file = file.to_owned();
        move |source| LogError::Io { action, file: file.clone(), source }
    }
}

/// An open commit log. One owner appends; there are no readers but recovery.
pub struct Log {
    disk: Arc<dyn Disk>,
    segment_bytes: u64,
    seed: u32,
    /// Of the segment that is appended to.
    header: SegmentHeader,
    segments: Vec<Segment>,
    file: Box<dyn DiskFile>,
    /// Where the next record goes.
    end: u64,
    last: u64,
    chain: u32,
    synced: u64,
    watermark: watermark::Writer,
    buffer: Vec<u8>,
    poisoned: bool,
    /// Whether the spare is this log's own affair, and not a keeper's.
    reserves_spare: bool,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Log")
            .field("last", &self.last)
            .field("synced", &self.synced)
            .field("segments", &self.segments)
            .field("poisoned", &self.poisoned)
            .finish_non_exhaustive()
    }
}

impl Log {
    /// Opens the log, making it where there is none, and delivers its records above
    /// [`LogOptions::persisted`] in ascending order. What was delivered may be relied on only
    /// when this returns `Ok`. Damage does not make it fail: see [`Recovery`].
    pub fn open(
        disk: Arc<dyn Disk>,
        options: LogOptions,
        visit: &mut dyn FnMut(RecoveredEntry),
    ) -> Result<(Log, Recovery), LogError> {
        settle::open(disk, options, visit)
    }

    /// Appends a batch in one write and returns the sequence of its last record (of the last one
    /// before, for an empty batch). Not durable before [`Log::sync`].
    pub fn append<P: AsRef<[u8]>>(
        &mut self,
        payloads: impl IntoIterator<Item = P>,
    ) -> Result<Sequence, LogError> {
        if self.poisoned {
            return Err(LogError::Poisoned);
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let appended = self.append_through(&mut buffer, payloads);
        if buffer.capacity() <= BUFFER_BYTES_KEPT {
            self.buffer = buffer;
        }
        appended
    }

    fn append_through<P: AsRef<[u8]>>(
        &mut self,
        buffer: &mut Vec<u8>,
        payloads: impl IntoIterator<Item = P>,
    ) -> Result<Sequence, LogError> {
        for payload in payloads {
            let payload = payload.as_ref();
            if payload.len() > PAYLOAD_BYTES_MAX {
                let bytes = payload.len();
                return Err(LogError::TooLarge { bytes });
            }
            record::push_unsealed(buffer, payload, self.seed);
        }
        if buffer.is_empty() {
            return Ok(Sequence(self.last));
        }
        if buffer.len() as u64 > self.header.length - self.end {
            self.roll(buffer.len() as u64)?;
        }
        let (last, chain) = record::seal(buffer, self.last, self.synced, self.chain, self.seed);
        let written = self.file.write_all_at(buffer, self.end);
        self.poison_on_error("write", written)?;
        self.end += buffer.len() as u64;
        self.last = last;
        self.chain = chain;
        Ok(Sequence(last))
    }

    /// Makes everything that was appended durable: see [`Log::synced_sequence`].
    pub fn sync(&mut self) -> Result<(), LogError> {
        if self.poisoned {
            return Err(LogError::Poisoned);
        }
        if self.synced < self.last {
            let synced = self.file.sync_data();
            self.poison_on_error("sync", synced)?;
            self.synced = self.last;
            self.watermark.write(Mark {
                identity: self.header.identity,
                sequence: self.last,
                chain: self.chain,
            });
        }
        Ok(())
    }

    /// Removes the segments whose records all come before `sequence`; the segment that is appended
    /// to stays. The caller must hold those records durably elsewhere, as from then on it must
    /// open the log with a persisted sequence of at least `sequence` - 1. On an error some of them
    /// may be left, for the next call. Where there is a [`SpareKeeper`], the last one's space stays
    /// for the next spare.
    pub fn truncate_before(&mut self, sequence: Sequence) -> Result<(), LogError> {
        if self.poisoned {
            return Err(LogError::Poisoned);
        }
        let mut removed = false;
        let spare_bytes = (!self.reserves_spare).then_some(self.segment_bytes);
        while let [oldest, next, ..] = self.segments[..]
            && next.first <= sequence.0
        {
            segment::drop_name(&*self.disk, oldest, spare_bytes)
                .map_err(LogError::io("remove", &segment::path_of(oldest.first)))?;
            self.segments.remove(0);
            removed = true;
        }
        if removed {
            let synced = self.disk.sync_directory(segment::DIRECTORY);
            self.poison_on_error("sync the names of", synced)?;
            segment::retire_dropped(&*self.disk);
            self.reserve_spare();
        }
        Ok(())
    }

    /// Hands the spare over to a keeper, for a maintenance thread. From here on the log takes the
    /// spare when it needs one, and makes none itself.
    pub fn spare_keeper(&mut self) -> SpareKeeper {
        self.reserves_spare = false;
        SpareKeeper::new(self.disk.clone(), self.segment_bytes)
    }

    /// The last appended sequence.
    pub fn last_sequence(&self) -> Sequence {
        Sequence(self.last)
    }

    /// Everything up to this sequence is durable.
    pub fn synced_sequence(&self) -> Sequence {
        Sequence(self.synced)
    }

    /// The space that the segments take.
    pub fn size_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.length).sum()
    }

    /// The number of segments.
    pub fn segment_count(&self) -> usize {
        self.segments.len()
    }

    /// How often the watermark could not be written. Nothing is lost by that, but later damage to
    /// the log's end may then pass for a torn write.
    pub fn watermark_failures(&self) -> u64 {
        self.watermark.failures
    }

    /// Goes on to a new segment with room for a batch.
    fn roll(&mut self, batch_bytes: u64) -> Result<(), LogError> {
        self.sync()?;
        let needed = SEGMENT_HEADER_BYTES as u64 + batch_bytes;
        let unused = self.end == SEGMENT_HEADER_BYTES as u64;
        let mut header = if unused {
            // It is replaced by a larger one, with the same name and the same past.
            self.header
        } else {
            SegmentHeader {
                first: self.last + 1,
                previous: self.last,
                previous_chain: self.chain,
                after_loss: false,
                ..self.header
            }
        };
        let length = needed.max(self.segment_bytes);
        let mut born = segment::birth(&*self.disk, &mut header, length);
        if matches!(born, Err(BirthError::Full(_))) && segment::free_retired(&*self.disk) {
            born = segment::birth(&*self.disk, &mut header, length);
        }
        match born {
            Ok(file) => self.file = file,
            Err(BirthError::Full(error)) => return Err(LogError::Full(error)),
            Err(BirthError::Failed(error)) => {
                self.poison_on_error("begin a segment after", Err(error))?;
            }
        }
        if unused {
            self.segments.pop();
        }
        self.segments.push(Segment { first: header.first, length: header.length });
        self.end = SEGMENT_HEADER_BYTES as u64;
        self.chain = header.chain;
        self.header = header;
        self.reserve_spare();
        Ok(())
    }

    /// Tries to have a spare. Where there is no space, the next segment has to look for its own.
    fn reserve_spare(&self) {
        if self.reserves_spare {
            let _ = segment::reserve_spare(&*self.disk, self.segment_bytes);
        }
    }

    fn poison_on_error(
        &mut self,
        action: &'static str,
        result: io::Result<()>,
    ) -> Result<(), LogError> {
        result.map_err(|source| {
            self.poisoned = true;
            LogError::io(action, &segment::path_of(self.header.first))(source)
        })
    }
}

// The buffer's walk in `record::seal` relies on it.
const _: () = assert!(PAYLOAD_BYTES_MAX + RECORD_HEADER_BYTES < u32::MAX as usize);
