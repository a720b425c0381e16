//! The store over the real disk and the real tables: what the twins promise holds here too.

#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use quoit_ring::{ConflictPolicy, HybridTime, TableId, Token};
use quoit_storage::codec;
use quoit_storage::layout::StoredKey;
use quoit_storage::store::{self, Change, Found, Mutation, Opened, Outcome, StoreOptions};
use quoit_storage::version::{Actor, Content, Dot, SiblingSet, Version};
use quoit_storage_files::disk::FileDisk;
use quoit_storage_files::tables::{OpenReport, Tables, TablesOptions};
use xxhash_rust::xxh3::xxh3_64_with_seed;

const KEYS: u64 = 50;

fn open(directory: &Path) -> Opened {
    let disk = Arc::new(FileDisk::open(directory).unwrap());
    let options = TablesOptions {
        expect_existing: directory.join("log").exists(),
        ..TablesOptions::default()
    };
    let (tables, report) = Tables::open(&directory.join("tables"), options).unwrap();
    let tables = Arc::new(tables);
    let lost = match report {
        OpenReport::Created | OpenReport::Opened => None,
        OpenReport::Rebuilt { reason, .. } => Some(reason),
    };
    let options = StoreOptions {
        memory_bytes_max: 64 << 10,
        segment_bytes: 64 << 10,
        ..StoreOptions::default()
    };
    let opened = store::open(disk, tables.clone(), options, lost, 5).unwrap();
    tables.acknowledge_rebuild().unwrap();
    opened
}

fn key(number: u64) -> StoredKey {
    let token = Token(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    StoredKey::new(token, TableId(1), &number.to_be_bytes(), b"").unwrap()
}

fn set(number: u64, time: u64) -> SiblingSet {
    let bytes = Bytes::from(vec![time as u8; 500]);
    let checksum = xxh3_64_with_seed(&bytes, key(number).token().0);
    let dot = Dot { time: HybridTime(time), actor: Actor(1) };
    SiblingSet::of(Version { dot, content: Content::Value { bytes, checksum }, expires: None })
}

fn merge(opened: &mut Opened, number: u64, time: u64, rebuild: bool) {
    let change = Change::Merge { set: set(number, time), rebuild, authority: None };
    let policy = ConflictPolicy::Latest;
    let mutation =
        Mutation { key: key(number), replication: 3, policy, change, values: Vec::new() };
    let outcome = opened.writer.prepare(mutation);
    assert!(matches!(outcome, Outcome::Merged(_)), "{outcome:?}");
}

/// Writes all keys again and again, flushing and compacting now and then.
fn fill(opened: &mut Opened, times: std::ops::Range<u64>) {
    for time in times {
        for number in 0..KEYS {
            merge(opened, number, time, false);
        }
        opened.writer.commit().unwrap();
        if time % 3 == 0 {
            opened.maintainer.flush().unwrap();
            opened.maintainer.compact().unwrap();
        }
    }
}

fn check(opened: &Opened, time: u64) {
    for number in 0..KEYS {
        let expected = Found::Set(codec::encode(&set(number, time)));
        assert_eq!(opened.reader.read(&key(number)), expected);
    }
    assert_eq!(opened.reader.read(&key(KEYS)), Found::Set(Bytes::new()));
    let (rows, more) = opened.reader.page(TableId(1), &[], None, 1_000, 1 << 30, false).unwrap();
    assert_eq!((rows.len() as u64, more), (KEYS, false));
    assert_eq!(opened.reader.figures().tables[0].1.live, KEYS);
}

#[test]
fn what_was_committed_is_there_after_every_restart() {
    let directory = tempfile::tempdir().unwrap();
    for round in 0..4 {
        let mut opened = open(directory.path());
        assert_eq!(opened.report.damage, Vec::<String>::new());
        if round > 0 {
            check(&opened, round * 10);
        }
        fill(&mut opened, round * 10 + 1..round * 10 + 11);
        check(&opened, (round + 1) * 10);
        let before = opened.writer.digests().clone();
        drop(opened);
        let again = open(directory.path());
        assert_eq!(*again.writer.digests(), before);
    }
}

#[test]
fn lost_tables_are_told_once_and_mended_key_by_key() {
    let directory = tempfile::tempdir().unwrap();
    fill(&mut open(directory.path()), 1..10);
    std::fs::remove_dir_all(directory.path().join("tables")).unwrap();
    let mut opened = open(directory.path());
    assert!(opened.report.distrusted > 0 && !opened.report.damage.is_empty());
    assert_eq!(opened.reader.read(&key(0)), Found::Unreadable);
    assert_eq!(opened.reader.read(&key(KEYS)), Found::Unreadable);
    merge(&mut opened, 0, 9, true);
    opened.writer.commit().unwrap();
    drop(opened);
    let opened = open(directory.path());
    assert_eq!(opened.report.damage, Vec::<String>::new());
    assert_eq!(opened.reader.read(&key(0)), Found::Set(codec::encode(&set(0, 9))));
    assert_eq!(opened.reader.read(&key(1)), Found::Unreadable);
}

#[test]
fn a_log_directory_that_was_emptied_is_told_and_new_writes_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    fill(&mut open(directory.path()), 1..10);
    std::fs::remove_dir_all(directory.path().join("log")).unwrap();
    std::fs::create_dir(directory.path().join("log")).unwrap();
    let mut opened = open(directory.path());
    assert!(opened.report.distrusted > 0);
    merge(&mut opened, 0, 20, true);
    opened.writer.commit().unwrap();
    assert_eq!(opened.reader.read(&key(0)), Found::Set(codec::encode(&set(0, 20))));
    drop(opened);
    let opened = open(directory.path());
    assert_eq!(opened.reader.read(&key(0)), Found::Set(codec::encode(&set(0, 20))));
}
