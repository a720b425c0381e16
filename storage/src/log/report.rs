//! What opening a log has to say: the records, how it ended, and what is missing.

use bytes::Bytes;

use crate::engine::Sequence;

/// Reports beyond this number are folded into the last one.
const LOST_REPORTS_MAX: usize = 1024;

/// A record that was found, in ascending order of sequences.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecoveredEntry {
    /// What was appended, bit for bit as far as its checksum can tell.
    Intact {
        /// The record's number.
        sequence: Sequence,
        /// What was appended.
        payload: Bytes,
    },
    /// The record was there, and its payload is damaged. What it was about is unknown, though the
    /// bytes may still tell which keys it *may* have been about.
    Damaged {
        /// The record's number.
        sequence: Sequence,
        /// The bytes in the payload's place; not to be used as if they were the payload.
        payload_as_found: Bytes,
    },
}

/// What [`super::Log::open`] found, besides the records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// The sequence of the next record to be appended.
    pub next_sequence: Sequence,
    /// How the log ended.
    pub tail: Tail,
    /// Records that may be missing, so that the replica must be mended from its peers. The next
    /// opening reports them again until the caller's persisted sequence has passed them: note down
    /// the report before you flush.
    pub lost: Vec<Lost>,
    /// Damage that concerns no record which is needed: worth a line in the program's log.
    pub harmless: Vec<Lost>,
    /// How many entries were intact.
    pub intact_records: u64,
    /// How many entries were damaged.
    pub damaged_records: u64,
}

/// How the log ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tail {
    /// With a whole record (or where damage was reported instead).
    Clean,
    /// With a write that a crash cut short, none of which had been synced. It was cut off.
    Torn {
        /// The segment's file.
        segment: String,
        /// Where the torn part began.
        offset: u64,
        /// How long it was.
        bytes: u64,
    },
}

/// A place where records may be missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// The segment's file (or another file of the log).
    pub segment: String,
    /// Where in the file the damage begins.
    pub from_offset: u64,
    /// The last record before it.
    pub after_sequence: Sequence,
    /// The first record known after it; `None` if the damage goes on to the log's end, so that
    /// nobody knows how many records there were.
    pub before_sequence: Option<Sequence>,
    /// What is wrong.
    pub reason: LossReason,
}

/// What is wrong at a damaged place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LossReason {
    /// No record of this log begins where one should.
    #[error("the bytes are no record of this log")]
    NoRecord,
    /// A whole record, but of another place or of an older life of the file.
    #[error("a record stands where it does not belong")]
    ForeignRecord,
    /// A record's payload is damaged, and it was not needed any more.
    #[error("a record's payload is damaged")]
    Payload,
    /// The segment's header is damaged, or the file is no segment of this log.
    #[error("the file's header is not that of a segment of this log")]
    SegmentHeader,
    /// The file has another length than it was made with.
    #[error("the file has another length than it was made with")]
    FileLength,
    /// The segment does not follow on what was found before it: something between is missing.
    #[error("the segment does not follow on what was found before it")]
    Gap,
    /// The log ends before what is known to have been synced.
    #[error("the log ends before what was synced")]
    EndsEarly,
    /// The record at the watermark is not the one that was synced.
    #[error("the record at the watermark is not the one that was synced")]
    OtherHistory,
    /// An earlier opening found the end of the log before this segment damaged.
    #[error("an earlier start found the log before this segment damaged")]
    FoundEarlier,
    /// The watermark's own file is damaged.
    #[error("the watermark is damaged")]
    Watermark,
}

/// Adds a report; past the bound it is folded into the last one, which then reaches further.
pub(super) fn push_bounded(reports: &mut Vec<Lost>, report: Lost) {
    if reports.len() < LOST_REPORTS_MAX {
        reports.push(report);
    } else if let Some(last) = reports.last_mut() {
        last.before_sequence = report.before_sequence;
    }
}
