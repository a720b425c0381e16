//! What is common to the log's tests: a log on a twin disk, and the judge of what came back.

mod crashes;
mod damage;
mod layout;
mod running;

use std::collections::BTreeMap;

use super::*;
use crate::twin::disk::TwinDisk;

fn options(persisted: u64) -> LogOptions {
    let persisted = Sequence(persisted);
    LogOptions { segment_bytes: 1024, persisted, known: None, identity: 0x5eed }
}

/// What one opening yielded.
struct Opened {
    log: Log,
    recovery: Recovery,
    intact: BTreeMap<u64, Vec<u8>>,
    damaged: Vec<u64>,
}

fn try_open(disk: &TwinDisk, options: LogOptions) -> Result<Opened, LogError> {
    let mut intact = BTreeMap::new();
    let mut damaged = Vec::new();
    let mut last = options.persisted.0;
    let mut visit = |entry: RecoveredEntry| {
        let sequence = match entry {
            RecoveredEntry::Intact { sequence, payload } => {
                intact.insert(sequence.0, payload.to_vec());
                sequence.0
            }
            RecoveredEntry::Damaged { sequence, .. } => {
                damaged.push(sequence.0);
                sequence.0
            }
        };
        assert!(last < sequence, "{sequence} was delivered after {last}");
        last = sequence;
    };
    let (log, recovery) = Log::open(Arc::new(disk.clone()), options, &mut visit)?;
    assert!(recovery.next_sequence.0 > last);
    assert_eq!(recovery.intact_records, intact.len() as u64);
    assert_eq!(recovery.damaged_records, damaged.len() as u64);
    Ok(Opened { log, recovery, intact, damaged })
}

fn open(disk: &TwinDisk, persisted: u64) -> Opened {
    try_open(disk, options(persisted)).unwrap()
}

/// A payload that is its sequence's alone, without long runs of zeros.
fn payload(sequence: u64, bytes: usize) -> Vec<u8> {
    let mix = |at: usize| (sequence as usize * 31 + at * 7 + at * at) % 255 + 1;
    (0..bytes).map(|at| mix(at) as u8).collect()
}

/// A log of three segments whose records `1..=last` are all synced, and those records.
fn three_segments() -> (TwinDisk, BTreeMap<u64, Vec<u8>>) {
    let disk = TwinDisk::new(7);
    let mut log = open(&disk, 0).log;
    let mut written = BTreeMap::new();
    let mut next = 1;
    for round in 0_usize.. {
        let batch: Vec<Vec<u8>> = (0..1 + round as u64 % 3)
            .map(|index| payload(next + index, 20 + round * 13 % 90))
            .collect();
        let bytes: usize = batch.iter().map(|payload| payload.len() + 36).sum();
        if log.segment_count() == 3 && log.end + bytes as u64 + 300 > log.header.length {
            break;
        }
        log.append(&batch).unwrap();
        log.sync().unwrap();
        for payload in batch {
            written.insert(next, payload);
            next += 1;
        }
    }
    drop(log);
    assert_eq!(segment_paths(&disk).len(), 3);
    disk.kill();
    (disk, written)
}

fn segment_paths(disk: &TwinDisk) -> Vec<String> {
    let mut paths = disk.paths();
    paths.retain(|path| path.ends_with(".log"));
    paths
}

fn is_clean(recovery: &Recovery) -> bool {
    recovery.tail == Tail::Clean && recovery.lost.is_empty() && recovery.harmless.is_empty()
}

/// Opens a log that was tampered with, and checks that every record is delivered as it was
/// written, or reported; that a second opening says the same; and that the log can be used.
fn judge(disk: &TwinDisk, written: &BTreeMap<u64, Vec<u8>>, context: &str) -> Opened {
    let first = open(disk, 0);
    let accounted = |opened: &Opened| {
        for (sequence, payload) in &opened.intact {
            assert_eq!(written.get(sequence), Some(payload), "{context}: record {sequence}");
        }
        for sequence in written.keys() {
            let lost = opened.recovery.lost.iter().any(|lost| {
                lost.after_sequence.0 < *sequence
                    && lost.before_sequence.is_none_or(|before| *sequence < before.0)
            });
            assert!(
                lost || opened.intact.contains_key(sequence) || opened.damaged.contains(sequence),
                "{context}: record {sequence} is missing without a word: {:?}",
                opened.recovery
            );
        }
    };
    accounted(&first);
    disk.kill();
    let mut second = open(disk, 0);
    accounted(&second);
    assert_eq!(second.intact, first.intact, "{context}");
    assert_eq!(second.damaged, first.damaged, "{context}");
    assert_eq!(second.recovery.tail, Tail::Clean, "{context}");
    assert_eq!(second.recovery.next_sequence, first.recovery.next_sequence, "{context}");
    assert_eq!(second.recovery.lost.is_empty(), first.recovery.lost.is_empty(), "{context}");

    if !first.recovery.lost.is_empty() {
        let greatest = *written.keys().last().unwrap();
        assert!(first.recovery.next_sequence.0 > greatest, "{context}");
    }
    let sequence = second.log.append([b"after"]).unwrap();
    second.log.sync().unwrap();
    disk.crash();
    let third = open(disk, 0);
    assert_eq!(third.intact.len(), first.intact.len() + 1, "{context}");
    assert_eq!(third.intact[&sequence.0], b"after", "{context}");
    assert_eq!(third.recovery.tail, Tail::Clean, "{context}");
    first
}
