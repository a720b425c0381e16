//! What holds for any bytes at all that a disk may give back: called by the fuzz targets of `node/fuzz`,
//! and by a test over the inputs that they have kept.
//!
//! Nothing here is called by the product. Each function panics where a decoder breaks its word.

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use quoit_ring::ConflictPolicy;

use crate::codec;
use crate::disk::Disk;
use crate::engine::Sequence;
use crate::layout::StoredKey;
use crate::log::{Log, LogError, LogOptions, RecoveredEntry};
use crate::small_file::{self, SmallFile, SmallFileError};
use crate::store::check_record;
use crate::stored::{CHECKSUM_AT, ENVELOPE_BYTES, Stored, checksum};
use crate::twin::disk::TwinDisk;

/// Two segments, of which either may be the damaged one.
const SEGMENT_BYTES: u64 = 1 << 10;
/// No file of these targets is longer.
const FILE_BYTES_MAX: usize = 64 << 10;

/// A sibling set: canonical, and of the length that was counted. Two sets, one after the other behind
/// the length of the first, merge to the same whatever their order.
pub fn sets(bytes: &[u8]) {
    check_set(&Bytes::copy_from_slice(bytes));
    let Some((length, pair)) = bytes.split_first() else { return };
    let Some((one, two)) = pair.split_at_checked(usize::from(*length)) else { return };
    let _ = codec::has_same_pairs(one, two);
    let decode = |bytes| codec::decode(&Bytes::copy_from_slice(bytes));
    let (Ok(one), Ok(two)) = (decode(one), decode(two)) else { return };
    // Two replicas hold the same pair under one dot, or a bug made it.
    let clash = one.versions().iter().any(|version| {
        let same_dot = |other: &&crate::version::Version| other.dot == version.dot;
        two.versions().iter().find(same_dot).is_some_and(|other| other != version)
    });
    for policy in [ConflictPolicy::Latest, ConflictPolicy::Siblings] {
        let merged = one.merge(&two, policy);
        check_set(&codec::encode(&merged));
        if !clash {
            assert_eq!(merged, two.merge(&one, policy), "merges commute");
            assert_eq!(merged, merged.merge(&one, policy), "what is merged is merged");
        }
    }
}

fn check_set(bytes: &Bytes) {
    let _ = codec::has_apart(bytes);
    let Ok(set) = codec::decode(bytes) else { return };
    assert_eq!(codec::encode(&set), *bytes, "the encoding is canonical");
    assert_eq!(codec::encoded_bytes(&set), bytes.len(), "its length is known");
}

/// A key as it lies in the tables.
pub fn stored_keys(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    let Ok(key) = StoredKey::from_bytes(bytes.clone()) else { return };
    assert_eq!(*key.bytes(), bytes, "a key is its bytes");
    if let Some((kind, target, time, of)) = key.hinted() {
        assert_eq!(of.hint(kind, target, time), key, "a hint lies where it is looked for");
    } else if let Some((primary, of)) = key.taken() {
        assert_eq!(of.taken_for(primary), key, "and so does what was taken for another");
    } else if let Some((of, dot)) = key.owner() {
        assert_eq!(of.apart(dot), key, "and so does a value that lies apart");
        check_plain(&of);
    } else if !key.is_apart() {
        check_plain(&key);
    }
}

fn check_plain(key: &StoredKey) {
    let made = StoredKey::new(key.token(), key.table(), &key.partition(), &key.sort());
    // One that is too long for a client cannot be made, but is read.
    assert!(made.is_err() || made.as_ref() == Ok(key), "a key is its parts");
}

/// A record of the log, with the checksum of its key put right.
pub fn log_records(bytes: &[u8]) {
    let payload = Bytes::copy_from_slice(bytes);
    check_record(&payload);
    let mut mended = BytesMut::from(bytes);
    let Some(mut length) = mended.get(1..3) else { return };
    let end = 4 + usize::from(length.get_u16_le());
    let Some(head) = mended.get(..end) else { return };
    let checksum = crc32c::crc32c(head).to_le_bytes();
    if let Some(place) = mended.get_mut(end..end + checksum.len()) {
        place.copy_from_slice(&checksum);
        check_record(&mended.freeze());
    }
}

/// The envelope of a set, with its checksum put right.
pub fn envelopes(bytes: &[u8]) {
    const KEY: &[u8] = b"key";
    let check = |sealed: &Bytes| {
        let Ok(stored) = Stored::open(KEY, sealed) else { return };
        assert!(Stored::open(b"kez", sealed).is_err(), "an envelope is one key's");
        let Ok(set) = codec::decode(&stored.set) else { return };
        let mut again = BytesMut::new();
        stored.standing.seal_into(KEY, &set, &mut again);
        assert_eq!(again, *sealed, "what was opened is sealed again");
    };
    check(&Bytes::copy_from_slice(bytes));
    if bytes.len() >= ENVELOPE_BYTES {
        let mut mended = bytes.to_vec();
        let (header, set) = mended.split_at_mut(ENVELOPE_BYTES);
        let checksum = checksum(KEY, &header[..CHECKSUM_AT], set);
        header[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
        check(&mended.into());
    }
}

/// A log of which bytes of a file are overwritten. The first two bytes say where, the third which file;
/// the rest is written there. Nothing is delivered as intact that was not written, what is missing before
/// the end is told, and the log takes new records and has them at the next opening.
pub fn logs(bytes: &[u8]) {
    let Some((place, damage)) = bytes.split_at_checked(3) else { return };
    let disk = TwinDisk::new(1);
    let written = write_log(&disk);
    let paths = disk.paths();
    let path = &paths[usize::from(place[2]) % paths.len()];
    let at = u64::from(u16::from_le_bytes([place[0], place[1]]));
    overwrite(&disk, path, at, damage);
    let mut delivered = Vec::new();
    let opened = Log::open(Arc::new(disk.clone()), options(), &mut |entry| delivered.push(entry));
    let (mut log, recovery) = match opened {
        Ok(opened) => opened,
        Err(LogError::NewerVersion { .. }) => return,
        Err(error) => panic!("a damaged log opens: {error}"),
    };
    for entry in &delivered {
        if let RecoveredEntry::Intact { sequence, payload } = entry {
            let right = usize::try_from(sequence.0).ok();
            let right = right.and_then(|at| at.checked_sub(1)).and_then(|at| written.get(at));
            assert_eq!(right, Some(payload), "what is delivered as intact was written");
        }
    }
    let told = !recovery.lost.is_empty() || recovery.damaged_records > 0;
    // A log that is cut between two records, or within the last one, looks like one that lost its power.
    let sequences = delivered.iter().map(|entry| match entry {
        RecoveredEntry::Intact { sequence, .. } | RecoveredEntry::Damaged { sequence, .. } => {
            sequence.0
        }
    });
    assert!(told || sequences.eq(1..=delivered.len() as u64), "a gap is told");
    assert!(recovery.next_sequence.0 > delivered.len() as u64, "no sequence is used twice");
    log.append([b"new"]).expect("a log that was opened takes records");
    log.sync().expect("and makes them durable");
    let last = log.last_sequence();
    drop(log);
    let mut found = false;
    let mut new = |entry: RecoveredEntry| {
        found |= matches!(entry, RecoveredEntry::Intact { sequence, payload }
            if sequence == last && payload == b"new"[..]);
    };
    let reopened = Log::open(Arc::new(disk), options(), &mut new);
    assert!(reopened.is_ok() && found, "what was written after the damage is there");
}

fn options() -> LogOptions {
    LogOptions { segment_bytes: SEGMENT_BYTES, identity: 5, ..LogOptions::default() }
}

/// A log of two segments; its records.
fn write_log(disk: &TwinDisk) -> Vec<Bytes> {
    let mut none = |_| {};
    let (mut log, _) =
        Log::open(Arc::new(disk.clone()), options(), &mut none).expect("an empty disk takes a log");
    let records: Vec<Bytes> =
        (0..8_u8).map(|number| vec![number; 100 + usize::from(number)].into()).collect();
    for record in &records {
        log.append([record]).expect("the disk has room");
        log.sync().expect("the disk is whole");
    }
    assert_eq!(log.last_sequence(), Sequence(records.len() as u64), "one sequence a record");
    records
}

fn overwrite(disk: &TwinDisk, path: &str, at: u64, damage: &[u8]) {
    let mut content = disk.content(path).expect("the path was listed");
    let at = usize::try_from(at).unwrap_or(usize::MAX).min(content.len());
    for (byte, damaged) in content[at..].iter_mut().zip(damage) {
        *byte = *damaged;
    }
    disk.plant(path, &content);
}

/// A copy of a small document, as it is and with its checksum put right: a whole one is loaded, the
/// other where this is none, and another is saved over either.
pub fn small_files(bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(FILE_BYTES_MAX)];
    check_small_file(bytes);
    let mut mended = bytes.to_vec();
    if let Some((header, document)) = mended.split_at_mut_checked(small_file::HEADER_BYTES) {
        let (fields, place) = header.split_at_mut(small_file::HEADER_BYTES - 4);
        let checksum = small_file::checksum_of(fields, "document.a", document);
        place.copy_from_slice(&checksum.to_le_bytes());
        check_small_file(&mended);
    }
}

fn check_small_file(bytes: &[u8]) {
    const SAVED: &[u8] = b"a document";
    let disk = TwinDisk::new(1);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let file = SmallFile::new(Arc::clone(&shared), "document");
    file.save(SAVED).expect("the disk is whole");
    disk.plant("document.a", bytes);
    match file.load() {
        Ok(loaded) => {
            let loaded = loaded.expect("one was saved");
            assert!(loaded.bytes == SAVED || bytes.ends_with(&loaded.bytes), "nothing is made up");
        }
        Err(SmallFileError::NewerVersion { .. }) => return,
        Err(error) => panic!("the other copy is whole: {error}"),
    }
    file.save(b"another").expect("the disk is whole");
    let loaded = file.load().ok().flatten().map(|loaded| loaded.bytes);
    assert_eq!(loaded.as_deref(), Some(&b"another"[..]), "what is saved is loaded");
}
