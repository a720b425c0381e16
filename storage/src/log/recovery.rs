//! Reads the log back: delivers what can be vouched for, tells a torn tail from damage, and says
//! what is missing.
//!
//! The judgement at the first bytes of the last segment that are no whole record:
//! - everything up to the *floor* was synced and must be there. The floor is the greatest of the
//!   watermark, what the caller knows, and what any later whole header says was synced
//!   when it was written;
//! - above the floor, bytes are a torn write if a sector of the bad record looks unwritten, as a
//!   disk writes sectors whole or not at all;
//! - anything else is damage. In doubt it is damage.

use std::io;

use bytes::Bytes;

use super::reader::Reader;
use super::record::{RECORD_HEADER_BYTES, RecordHeader, seed_of};
use super::report::{LossReason, Lost, RecoveredEntry, Recovery, Tail, push_bounded};
use super::segment::{Decoded, SEGMENT_HEADER_BYTES, Segment, SegmentHeader, list, path_of};
use super::watermark::{self, Mark};
use super::{LogError, LogOptions};
use crate::disk::Disk;
use crate::engine::Sequence;

/// What the log goes on from.
pub(super) struct Outcome {
    pub(super) recovery: Recovery,
    pub(super) identity: u64,
    pub(super) watermark: Option<Mark>,
    pub(super) segments: Vec<Segment>,
    pub(super) last: Option<LastSegment>,
    /// The last sequence found, and the chain value there.
    pub(super) sequence: u64,
    pub(super) chain: u32,
}

/// The last segment's state.
pub(super) struct LastSegment {
    pub(super) header: Option<SegmentHeader>,
    pub(super) length: u64,
    /// Where the good part ends.
    pub(super) end: u64,
    /// Where the first record begins that is not known to be durable.
    pub(super) unsynced_from: u64,
    /// Whether it holds a record.
    pub(super) has_records: bool,
    /// Whether some of it could not be read.
    pub(super) unreadable: bool,
    /// Whether records may be appended to it.
    pub(super) sound: bool,
    /// Whether an unknown number of records is missing at its end.
    pub(super) open_ended: bool,
}

struct Found {
    first: u64,
    path: String,
    length: u64,
    header: Option<SegmentHeader>,
}

/// Where the reading stands: the last sequence, and the chain value if it is known.
#[derive(Clone, Copy)]
struct Position {
    last: u64,
    chain: Option<u32>,
}

/// What begins at an offset.
enum At {
    Record { header: RecordHeader, intact: bool },
    End,
    Bad { reason: LossReason, to: u64 },
}

/// Reads everything.
pub(super) fn recover(
    disk: &dyn Disk,
    options: &LogOptions,
    visit: &mut dyn FnMut(RecoveredEntry),
) -> Result<Outcome, LogError> {
    let firsts = list(disk).map_err(LogError::io("list", super::segment::DIRECTORY))?;
    let (mark, mark_damaged) = watermark::load(disk);
    let mut segments = Vec::new();
    for &first in &firsts {
        segments.push(look_at(disk, first)?);
    }
    let newest = segments.iter().rev().find_map(|found| found.header);
    let identity = mark
        .map(|mark| mark.identity)
        .or(newest.map(|header| header.identity))
        .unwrap_or(options.identity);
    for found in &mut segments {
        found.header = found.header.filter(|header| header.identity == identity);
    }
    let persisted = options.persisted.0;
    let mut reading = Reading {
        disk,
        visit,
        seed: seed_of(identity),
        persisted,
        known: options.known,
        mark,
        position: None,
        delivered: persisted,
        evidence: None,
        last: None,
        recovery: Recovery {
            next_sequence: Sequence(0),
            tail: Tail::Clean,
            lost: Vec::new(),
            harmless: Vec::new(),
            intact_records: 0,
            damaged_records: 0,
        },
    };
    if mark_damaged {
        reading.mention(watermark::PATH, 0, LossReason::Watermark);
    }
    // Segments before one that begins at or below `persisted` + 1 hold nothing that is needed.
    let needed = |found: &Found| found.header.is_some_and(|header| header.first <= persisted + 1);
    let start = segments.iter().rposition(needed).unwrap_or(0);
    for index in start..segments.len() {
        let next = segments.get(index + 1);
        reading.segment(&segments[index], next)?;
    }
    let segments =
        segments.iter().map(|found| Segment { first: found.first, length: found.length });
    Ok(reading.finish(segments.collect(), identity))
}

fn look_at(disk: &dyn Disk, first: u64) -> Result<Found, LogError> {
    let path = path_of(first);
    let failed = LogError::io("open", &path);
    let file = disk.open(&path).map_err(&failed)?;
    let mut reader = Reader::new(file).map_err(&failed)?;
    let size = SEGMENT_HEADER_BYTES as u64;
    let mut header = None;
    if reader.length() >= size {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        let read = reader.bytes(0, size).map_err(LogError::io("read", &path))?;
        bytes.copy_from_slice(read);
        header = match SegmentHeader::decode(&bytes) {
            Decoded::Valid(header) if header.first == first => Some(header),
            Decoded::Valid(_) | Decoded::Bad => None,
            Decoded::Newer(version) => {
                return Err(LogError::NewerVersion { file: path, version });
            }
        };
    }
    Ok(Found { first, length: reader.length(), path, header })
}

struct Reading<'a> {
    disk: &'a dyn Disk,
    visit: &'a mut dyn FnMut(RecoveredEntry),
    seed: u32,
    persisted: u64,
    known: Option<Sequence>,
    mark: Option<Mark>,
    position: Option<Position>,
    delivered: u64,
    /// The greatest synced sequence that a header after the first bad place tells of.
    evidence: Option<u64>,
    last: Option<LastSegment>,
    recovery: Recovery,
}

impl Reading<'_> {
    fn segment(&mut self, found: &Found, next: Option<&Found>) -> Result<(), LogError> {
        let file = self.disk.open(&found.path);
        let file = file.map_err(LogError::io("open", &found.path))?;
        let mut reader = Reader::new(file).map_err(LogError::io("open", &found.path))?;
        let mut offset = SEGMENT_HEADER_BYTES as u64;
        let mut last = LastSegment {
            header: found.header,
            length: reader.length(),
            end: offset,
            unsynced_from: u64::MAX,
            has_records: false,
            unreadable: false,
            sound: found.header.is_some_and(|header| header.length == reader.length()),
            open_ended: false,
        };
        if let Some(header) = &found.header {
            self.enter(&found.path, header);
        }
        let read = self.records(found, next, &mut reader, &mut offset, &mut last);
        read.map_err(LogError::io("read", &found.path))?;
        last.unreadable = reader.met_unreadable();
        last.sound &= !last.unreadable;
        if last.unsynced_from == u64::MAX {
            last.unsynced_from = last.end;
        }
        if let Some(header) = &found.header
            && header.length != reader.length()
        {
            let cut = next.is_none() && reader.length() < header.length;
            if cut && !last.open_ended {
                last.open_ended = true;
                self.lose(&found.path, reader.length(), None, LossReason::FileLength);
            } else {
                self.mention(&found.path, reader.length(), LossReason::FileLength);
            }
        }
        last.sound &= !last.open_ended;
        self.last = Some(last);
        Ok(())
    }

    /// Goes over to a segment whose header is good: does it follow on what was read so far?
    fn enter(&mut self, path: &str, header: &SegmentHeader) {
        let before = Some(header.previous + 1);
        match self.position {
            None if header.previous > self.persisted => {
                self.lose(path, 0, before, LossReason::Gap);
            }
            None => {}
            Some(position) => {
                let other_chain =
                    position.chain.is_some_and(|chain| chain != header.previous_chain);
                if position.last != header.previous || other_chain {
                    self.lose(path, 0, before, LossReason::Gap);
                }
            }
        }
        self.position = Some(Position { last: header.previous, chain: Some(header.chain) });
        if header.after_loss {
            self.lose(path, 0, Some(header.first), LossReason::FoundEarlier);
        }
        self.position = Some(Position { last: header.first - 1, chain: Some(header.chain) });
    }

    fn records(
        &mut self,
        found: &Found,
        next: Option<&Found>,
        reader: &mut Reader,
        offset: &mut u64,
        last: &mut LastSegment,
    ) -> io::Result<()> {
        let follower = next.and_then(|next| next.header);
        let mut trusted = found.header.is_some();
        loop {
            if follower.is_some_and(|header| self.is_followed_by(&header)) {
                return Ok(());
            }
            let at = if trusted {
                self.look(reader, *offset)?
            } else {
                At::Bad { reason: LossReason::SegmentHeader, to: *offset }
            };
            trusted = true;
            match at {
                At::End => {
                    if next.is_none() && self.last_sequence() < self.floor() {
                        last.open_ended = true;
                        self.lose(&found.path, *offset, None, LossReason::EndsEarly);
                    }
                    return Ok(());
                }
                At::Record { header, intact } => {
                    let torn = !intact
                        && next.is_none()
                        && self.is_torn(reader, *offset, record_end(*offset, &header))?;
                    if torn {
                        return self.cut(&found.path, reader, *offset);
                    }
                    last.sound &= intact;
                    last.has_records = true;
                    if header.sequence > self.synced_before() {
                        last.unsynced_from = last.unsynced_from.min(*offset);
                    }
                    self.deliver(&found.path, reader, *offset, &header, intact)?;
                    *offset = record_end(*offset, &header);
                    last.end = *offset;
                }
                At::Bad { reason, to } => {
                    if next.is_none() && self.is_torn(reader, *offset, to)? {
                        return self.cut(&found.path, reader, *offset);
                    }
                    last.sound = false;
                    if !self.resynchronise(found, next, reader, offset, reason)? {
                        last.open_ended = next.is_none();
                        return Ok(());
                    }
                }
            }
        }
    }

    /// What begins at `offset`?
    fn look(&mut self, reader: &mut Reader, offset: u64) -> io::Result<At> {
        let header_end = offset + RECORD_HEADER_BYTES as u64;
        let Some(header) = reader.header(offset, self.seed)? else {
            // The first bytes decide cheaply in most cases whether the rest can be zeros at all.
            let end = reader.is_zero_from(offset)?;
            return Ok(if end {
                At::End
            } else {
                At::Bad { reason: LossReason::NoRecord, to: header_end }
            });
        };
        let end = record_end(offset, &header);
        let expected = self.position.is_some_and(|position| {
            header.sequence == position.last + 1
                && position.chain.is_none_or(|chain| chain == header.previous_chain)
        });
        if !expected || end > reader.length() {
            let reason = if expected { LossReason::FileLength } else { LossReason::ForeignRecord };
            return Ok(At::Bad { reason, to: offset });
        }
        let payload = reader.bytes(header_end, u64::from(header.length))?;
        let intact = header.vouches_for(payload, self.seed);
        Ok(At::Record { header, intact })
    }

    fn is_torn(&mut self, reader: &mut Reader, from: u64, to: u64) -> io::Result<bool> {
        if reader.met_unreadable() || !reader.has_unwritten_sector(from, to)? {
            return Ok(false);
        }
        let evidence = match self.evidence {
            Some(evidence) => evidence,
            None => {
                let mut synced = 0;
                reader.headers_from(from + 1, self.seed, &mut |_, _, header| {
                    synced = synced.max(header.synced);
                    Ok(true)
                })?;
                synced
            }
        };
        self.evidence = Some(evidence);
        Ok(self.last_sequence() >= self.floor().max(evidence))
    }

    fn cut(&mut self, path: &str, reader: &mut Reader, offset: u64) -> io::Result<()> {
        let end = reader.content_end(offset)?.unwrap_or(offset);
        self.recovery.tail = Tail::Torn { segment: path.to_owned(), offset, bytes: end - offset };
        Ok(())
    }

    /// Looks for the next whole record after a bad place and goes on there; `false` if there is
    /// none in this segment.
    fn resynchronise(
        &mut self,
        found: &Found,
        next: Option<&Found>,
        reader: &mut Reader,
        offset: &mut u64,
        reason: LossReason,
    ) -> io::Result<bool> {
        let last = self.last_sequence();
        let fresh = reason == LossReason::SegmentHeader;
        let from = if fresh { *offset } else { *offset + 1 };
        let follower = next.and_then(|next| next.header);
        let last_possible = follower.map_or(u64::MAX, |header| header.previous);
        let seed = self.seed;
        let mut candidate = None;
        reader.headers_from(from, seed, &mut |reader, at, header| {
            let room = (at - *offset) / RECORD_HEADER_BYTES as u64;
            let nearest = if fresh { u64::MAX } else { last + 1 + room };
            let plausible = header.sequence > last
                && header.sequence <= nearest.min(last_possible)
                && record_end(at, &header) <= reader.length();
            if plausible {
                let start = at + RECORD_HEADER_BYTES as u64;
                let payload = reader.bytes(start, u64::from(header.length))?;
                if header.vouches_for(payload, seed) {
                    candidate = Some((at, header));
                }
            }
            Ok(candidate.is_none())
        })?;
        let Some((at, header)) = candidate else {
            // In the middle of the log the next segment's header tells whether anything is missing.
            if next.is_none() {
                self.lose(&found.path, *offset, None, reason);
            } else {
                self.mention(&found.path, *offset, reason);
            }
            return Ok(false);
        };
        if fresh && header.sequence == last + 1 {
            self.mention(&found.path, *offset, reason);
        } else {
            self.lose(&found.path, *offset, Some(header.sequence), reason);
        }
        self.position =
            Some(Position { last: header.sequence - 1, chain: Some(header.previous_chain) });
        *offset = at;
        Ok(true)
    }

    fn deliver(
        &mut self,
        path: &str,
        reader: &mut Reader,
        offset: u64,
        header: &RecordHeader,
        intact: bool,
    ) -> io::Result<()> {
        self.position = Some(Position { last: header.sequence, chain: Some(header.chain) });
        let at_mark =
            self.mark.filter(|mark| mark.sequence == header.sequence && mark.chain != header.chain);
        if at_mark.is_some() {
            self.lose(path, offset, Some(header.sequence + 1), LossReason::OtherHistory);
        }
        if header.sequence <= self.delivered {
            if !intact {
                self.mention(path, offset, LossReason::Payload);
            }
            return Ok(());
        }
        self.delivered = header.sequence;
        let start = offset + RECORD_HEADER_BYTES as u64;
        let payload = Bytes::copy_from_slice(reader.bytes(start, u64::from(header.length))?);
        let sequence = Sequence(header.sequence);
        (self.visit)(if intact {
            self.recovery.intact_records += 1;
            RecoveredEntry::Intact { sequence, payload }
        } else {
            self.recovery.damaged_records += 1;
            RecoveredEntry::Damaged { sequence, payload_as_found: payload }
        });
        Ok(())
    }

    fn is_followed_by(&self, next: &SegmentHeader) -> bool {
        self.position.is_some_and(|position| {
            position.last == next.previous && position.chain == Some(next.previous_chain)
        })
    }

    fn last_sequence(&self) -> u64 {
        self.position.map_or(self.persisted, |position| position.last)
    }

    fn synced_before(&self) -> u64 {
        self.mark.map_or(0, |mark| mark.sequence)
    }

    /// Everything up to here must be in the log, or have been there.
    fn floor(&self) -> u64 {
        let known = self.known.map_or(0, |known| known.0);
        self.synced_before().max(self.persisted).max(known)
    }

    /// Reports that records after the present position may be missing. If all that can be missing
    /// is persisted elsewhere it is only mentioned.
    fn lose(&mut self, path: &str, offset: u64, before: Option<u64>, reason: LossReason) {
        let after = self.last_sequence();
        let lost = Lost {
            segment: path.to_owned(),
            from_offset: offset,
            after_sequence: Sequence(after),
            before_sequence: before.map(Sequence),
            reason,
        };
        let needed = before.is_none_or(|before| before > self.persisted + 1);
        if !needed {
            push_bounded(&mut self.recovery.harmless, lost);
        } else {
            push_bounded(&mut self.recovery.lost, lost);
        }
    }

    fn mention(&mut self, path: &str, offset: u64, reason: LossReason) {
        let after_sequence = Sequence(self.last_sequence());
        let lost = Lost {
            segment: path.to_owned(),
            from_offset: offset,
            after_sequence,
            before_sequence: Some(Sequence(after_sequence.0 + 1)),
            reason,
        };
        push_bounded(&mut self.recovery.harmless, lost);
    }

    fn finish(mut self, segments: Vec<Segment>, identity: u64) -> Outcome {
        if segments.is_empty() && (self.mark.is_some() || self.known.is_some()) {
            self.lose(super::segment::DIRECTORY, 0, None, LossReason::EndsEarly);
        }
        let position = self.position.unwrap_or(Position { last: self.persisted, chain: None });
        Outcome {
            identity,
            watermark: self.mark,
            segments,
            sequence: position.last,
            chain: position.chain.unwrap_or(0),
            last: self.last,
            recovery: self.recovery,
        }
    }
}

fn record_end(offset: u64, header: &RecordHeader) -> u64 {
    offset + RECORD_HEADER_BYTES as u64 + u64::from(header.length)
}
