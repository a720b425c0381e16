//! Brings the log that recovery found into a state that can be appended to.

use std::sync::Arc;

use super::reader::Reader;
use super::record::{RECORD_HEADER_BYTES, seed_of};
use super::recovery::{LastSegment, Outcome, recover};
use super::report::{RecoveredEntry, Recovery, Tail};
use super::segment::{
    self, BirthError, DIRECTORY, SEGMENT_HEADER_BYTES, SPARE, Segment, SegmentHeader,
};
use super::watermark::{Mark, Writer};
use super::{Log, LogError, LogOptions};
use crate::disk::{Disk, DiskFile};
use crate::engine::Sequence;

const COPY_BYTES: u64 = 1 << 20;

pub(super) fn open(
    disk: Arc<dyn Disk>,
    options: LogOptions,
    visit: &mut dyn FnMut(RecoveredEntry),
) -> Result<(Log, Recovery), LogError> {
    let made = disk.create_directory(DIRECTORY);
    made.map_err(LogError::io("make", DIRECTORY))?;
    let cleared = segment::clear_unfit(&*disk, options.segment_bytes);
    cleared.map_err(LogError::io("clear", SPARE))?;
    let mut outcome = recover(&*disk, &options, visit)?;
    let mut file = None;
    if let (Some(segment), Some(last)) = (outcome.segments.last(), &outcome.last) {
        let path = segment::path_of(segment.first);
        file = Some(make_durable(&*disk, &path, last, &outcome.recovery.tail)?);
    }
    let mut watermark = Writer::open(&*disk, outcome.watermark);
    if outcome.last.as_ref().is_some_and(|last| last.has_records) {
        watermark.write(Mark {
            identity: outcome.identity,
            sequence: outcome.sequence,
            chain: outcome.chain,
        });
    }
    let usable = outcome.last.as_ref().filter(|last| last.sound);
    let going_on = usable.and_then(|last| Some((file.take()?, last.header?, last.end)));
    let (file, header, end) = match going_on {
        Some(going_on) => going_on,
        None => begin_afresh(&*disk, &options, &mut outcome)?,
    };
    let last = outcome.sequence;
    outcome.recovery.next_sequence = Sequence(last + 1);
    let log = Log {
        disk,
        segment_bytes: options.segment_bytes,
        seed: seed_of(outcome.identity),
        header,
        segments: outcome.segments,
        file,
        end,
        last,
        chain: outcome.chain,
        synced: last,
        watermark,
        buffer: Vec::new(),
        poisoned: false,
        reserves_spare: true,
    };
    log.reserve_spare();
    Ok((log, outcome.recovery))
}

/// Cuts the torn tail off, and writes again what was not known to be durable: the page cache may
/// hold records that no sync will bring to the disk any more.
fn make_durable(
    disk: &dyn Disk,
    path: &str,
    last: &LastSegment,
    tail: &Tail,
) -> Result<Box<dyn DiskFile>, LogError> {
    let read = LogError::io("read", path);
    let write = LogError::io("write", path);
    let mut file = disk.open(path).map_err(LogError::io("open", path))?;
    if let Tail::Torn { offset, bytes, .. } = tail {
        // Zeros up to the sector's end: what follows was zeros already.
        let zeros = vec![0; COPY_BYTES.min(*bytes) as usize];
        let (mut at, end) = (*offset, offset + bytes);
        while at < end {
            let size = (end - at).min(COPY_BYTES);
            let written = file.write_all_at(&zeros[..size as usize], at);
            written.map_err(&write)?;
            at += size;
        }
    }
    if !last.unreadable {
        let source = disk.open(path).map_err(LogError::io("open", path))?;
        let mut reader = Reader::new(source).map_err(&read)?;
        let mut at = last.unsynced_from;
        while at < last.end {
            let size = (last.end - at).min(COPY_BYTES);
            let bytes = reader.bytes(at, size).map_err(&read)?;
            file.write_all_at(bytes, at).map_err(&write)?;
            at += size;
        }
    }
    file.sync_data().map_err(LogError::io("sync", path))?;
    let synced = disk.sync_directory(DIRECTORY);
    synced.map_err(LogError::io("sync the names of", DIRECTORY))?;
    Ok(file)
}

/// Begins a segment after nothing, or after damage: with sequences above all that was seen, and
/// above all that the damaged place can have held.
fn begin_afresh(
    disk: &dyn Disk,
    options: &LogOptions,
    outcome: &mut Outcome,
) -> Result<(Box<dyn DiskFile>, SegmentHeader, u64), LogError> {
    let watermark = outcome.watermark.map_or(0, |mark| mark.sequence);
    let newest = outcome.segments.last().map_or(0, |segment| segment.first);
    let known = options.known.map_or(0, |known| known.0).max(options.persisted.0);
    let seen = outcome.sequence.max(watermark).max(newest).max(known);
    let lost_bytes = match &outcome.last {
        Some(last) if last.open_ended => Some(
            last.length
                .max(last.header.map_or(options.segment_bytes, |header| header.length))
                .saturating_sub(last.end),
        ),
        None if outcome.watermark.is_some() || options.known.is_some() => {
            Some(options.segment_bytes)
        }
        _ => None,
    };
    let lost_records = lost_bytes.map_or(0, |bytes| bytes / RECORD_HEADER_BYTES as u64 + 1);
    let mut header = SegmentHeader {
        identity: outcome.identity,
        first: seen + lost_records + 1,
        previous: outcome.sequence,
        length: 0,
        previous_chain: outcome.chain,
        after_loss: lost_bytes.is_some(),
        chain: 0,
    };
    let file = match segment::birth(disk, &mut header, options.segment_bytes) {
        Ok(file) => file,
        Err(BirthError::Full(error)) => return Err(LogError::Full(error)),
        Err(BirthError::Failed(error)) => {
            return Err(LogError::io("begin", &segment::path_of(header.first))(error));
        }
    };
    outcome.segments.push(Segment { first: header.first, length: header.length });
    outcome.sequence = header.first - 1;
    outcome.chain = header.chain;
    Ok((file, header, SEGMENT_HEADER_BYTES as u64))
}
