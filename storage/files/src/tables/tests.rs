use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use proptest::prelude::*;
use quoit_storage::{
    engine::{Change, Engine, EngineError, Pressure, Sequence},
    twin::contract::{self, Step},
};

use super::{Compression, OpenReport, Tables, TablesError, TablesOptions};

mod damage;

fn options() -> TablesOptions {
    TablesOptions { block_cache_bytes: 1 << 20, ..TablesOptions::default() }
}

fn open(directory: &Path) -> (Tables, OpenReport) {
    Tables::open(&directory.join("tables"), options()).unwrap()
}

/// Drops the engine as a kill would: nothing is written when tables are dropped.
fn reopen(directory: &Path) -> impl FnMut(Option<Box<dyn Engine>>) -> Box<dyn Engine> {
    let directory = directory.to_owned();
    move |before| {
        let expected = match before {
            Some(before) => {
                drop(before);
                OpenReport::Opened
            }
            None => OpenReport::Created,
        };
        let (tables, report) = open(&directory);
        assert_eq!(report, expected);
        Box::new(tables)
    }
}

fn change(key: impl Into<Bytes>, value: Option<&str>) -> Change {
    Change { key: key.into(), value: value.map(|value| Bytes::copy_from_slice(value.as_bytes())) }
}

fn put(tables: &Tables, key: &'static str, value: &str, sequence: u64) {
    tables.insert(vec![change(key, Some(value))], Sequence(sequence)).unwrap();
}

fn flush_all(tables: &Tables) -> Sequence {
    tables.rotate();
    tables.flush().unwrap()
}

fn read_all(tables: &Tables) -> Vec<(Bytes, Bytes)> {
    let mut read = Vec::new();
    tables.scan(b"", None, &mut |item| {
        read.push(item.unwrap());
        true
    });
    read
}

#[test]
fn the_tables_keep_the_contract() {
    let directory = tempfile::tempdir().unwrap();
    contract::check(&mut reopen(directory.path()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn random_steps_agree_with_the_model(
        codes in proptest::collection::vec(any::<(u8, u16, u16)>(), 1..100),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let steps: Vec<Step> = codes.into_iter().map(Step::from_code).collect();
        contract::run(&steps, &mut reopen(directory.path()));
    }
}

#[test]
fn a_scan_keeps_its_state_while_inserts_flushes_and_compactions_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let (tables, _) = open(directory.path());
    let keys: Vec<Bytes> = (0..500).map(|n| Bytes::from(format!("key-{n:04}"))).collect();
    let write = |round: u64| {
        let value = Some(round.to_string());
        let changes = keys.iter().map(|key| change(key.clone(), value.as_deref())).collect();
        tables.insert(changes, Sequence(round)).unwrap();
        flush_all(&tables);
        tables.compact().unwrap();
    };
    write(1);
    put(&tables, "key-0100", "in memory", 2);
    let mut round = 3;
    let mut seen = Vec::new();
    tables.scan(b"", None, &mut |item| {
        let (key, value) = item.unwrap();
        seen.push((key, value));
        if seen.len() % 20 == 0 {
            write(round);
            round += 1;
        }
        true
    });
    assert_eq!(seen.len(), keys.len());
    for (key, value) in &seen {
        let expected = if *key == "key-0100" { "in memory" } else { "1" };
        assert_eq!(value, expected);
    }
    let last = (round - 1).to_string();
    assert!(read_all(&tables).iter().all(|(_, value)| *value == last));
}

#[test]
fn readers_see_whole_batches_while_everything_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let tables = Arc::new(open(directory.path()).0);
    let done = Arc::new(AtomicBool::new(false));
    let batches = |sequence: u64| {
        let value = sequence.to_string();
        (0..8).map(|n| change(format!("key-{n}"), Some(&value))).collect::<Vec<_>>()
    };
    tables.insert(batches(1), Sequence(1)).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            for sequence in 2..30_000 {
                tables.insert(batches(sequence), Sequence(sequence)).unwrap();
                if sequence % 40 == 0 {
                    tables.rotate();
                }
                while tables.pressure() == Pressure::Halt {
                    thread::yield_now();
                }
            }
            done.store(true, Ordering::Release);
        });
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                tables.flush().unwrap();
                tables.compact().unwrap();
            }
        });
        for reverse in [false, true] {
            let (tables, done) = (tables.clone(), done.clone());
            scope.spawn(move || {
                let mut floor = 0;
                while !done.load(Ordering::Acquire) {
                    for n in 0..8 {
                        let n = if reverse { 7 - n } else { n };
                        let value = tables.get(format!("key-{n}").as_bytes()).unwrap().unwrap();
                        let read: u64 = std::str::from_utf8(&value).unwrap().parse().unwrap();
                        assert!(read >= floor, "{read} after {floor}");
                        floor = read;
                    }
                    let read = read_all(&tables);
                    assert_eq!(read.len(), 8);
                    assert!(read.windows(2).all(|pair| pair[0].1 == pair[1].1), "{read:?}");
                }
            });
        }
    });
}

#[test]
fn closing_without_a_flush_keeps_what_was_flushed_and_no_more() {
    let directory = tempfile::tempdir().unwrap();
    let (tables, _) = open(directory.path());
    put(&tables, "a", "1", 5);
    assert_eq!(flush_all(&tables), Sequence(5));
    put(&tables, "b", "1", 6);
    tables.rotate();
    put(&tables, "c", "1", 7);
    drop(tables);
    let (tables, report) = open(directory.path());
    assert_eq!(report, OpenReport::Opened);
    assert_eq!(tables.persisted_sequence(), Sequence(5));
    assert_eq!(tables.highest_sequence(), Sequence(5));
    assert_eq!(read_all(&tables), [("a".into(), "1".into())]);
}

#[test]
fn inserts_and_gets_do_not_wait_while_the_tree_makes_a_commit_durable() {
    let directory = tempfile::tempdir().unwrap();
    let (tables, _) = open(directory.path());
    put(&tables, "in a file", "1", 1);
    put(&tables, "removed", "1", 2);
    flush_all(&tables);
    put(&tables, "closed", "3", 3);
    tables.rotate();
    let tables = Arc::new(tables);
    // As a flush and a compaction hold it.
    let lock = lsm_tree::AbstractTree::get_version_history_lock(&tables.tree);
    let (found, finds) = mpsc::channel();
    let worker = thread::spawn({
        let tables = Arc::clone(&tables);
        move || {
            put(&tables, "in memory", "4", 4);
            tables.insert(vec![change("removed", None)], Sequence(5)).unwrap();
            assert!(tables.size().keys_estimate >= 4);
            let keys = ["in a file", "removed", "closed", "in memory", "nowhere"];
            let values = keys.map(|key| tables.get(key.as_bytes()).unwrap());
            found.send(values).unwrap();
        }
    });
    let values = finds.recv_timeout(Duration::from_secs(20));
    drop(lock);
    worker.join().unwrap();
    let expected = [Some("1"), None, Some("3"), Some("4"), None];
    assert_eq!(values.unwrap(), expected.map(|value| value.map(Bytes::from)));
    // And all of that is in the files in the end.
    flush_all(&tables);
    assert_eq!(tables.views.closed_count(), 0);
    assert_eq!(tables.get(b"closed").unwrap().unwrap(), "3");
    assert_eq!(tables.get(b"removed").unwrap(), None);
}

#[test]
fn the_persisted_sequence_stays_when_the_newest_removals_are_compacted_away() {
    let directory = tempfile::tempdir().unwrap();
    let (tables, _) = open(directory.path());
    put(&tables, "a", "1", 1);
    flush_all(&tables);
    tables.insert(vec![change("a", None)], Sequence(2)).unwrap();
    flush_all(&tables);
    lsm_tree::AbstractTree::major_compact(&tables.tree, 64 << 20, super::COLLECT_ALL).unwrap();
    assert_eq!(lsm_tree::AbstractTree::get_highest_persisted_seqno(&tables.tree), None);
    drop(tables);
    let (tables, _) = open(directory.path());
    assert_eq!(tables.persisted_sequence(), Sequence(2));
    assert_eq!(tables.get(b"a").unwrap(), None);
    tables.insert(vec![change("a", Some("1"))], Sequence(1)).unwrap();
    assert_eq!(tables.get(b"a").unwrap(), None, "a removal outlives its tombstone in a replay");
}

#[test]
fn a_lost_record_costs_a_longer_replay_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let (tables, _) = open(directory.path());
    put(&tables, "a", "1", 4);
    flush_all(&tables);
    drop(tables);
    fs::remove_file(directory.path().join("tables/persisted")).unwrap();
    let (tables, report) = open(directory.path());
    assert_eq!(report, OpenReport::Opened);
    assert_eq!(tables.persisted_sequence(), Sequence(4));
    assert_eq!(tables.get(b"a").unwrap().unwrap(), "1");
}

#[test]
fn tables_can_be_open_only_once() {
    let directory = tempfile::tempdir().unwrap();
    let (tables, _) = open(directory.path());
    let again = Tables::open(&directory.path().join("tables"), options());
    assert!(matches!(again, Err(TablesError::Locked(_))));
    drop(tables);
    open(directory.path());
}

#[test]
fn compression_may_change_between_opens() {
    let directory = tempfile::tempdir().unwrap();
    let mut sequence = 0;
    for compression in [Compression::Lz4, Compression::None, Compression::Lz4] {
        let options = TablesOptions { compression, ..options() };
        let (tables, _) = Tables::open(&directory.path().join("tables"), options).unwrap();
        for _ in 0..5 {
            sequence += 1;
            let key = format!("key-{}", sequence % 7);
            let value = sequence.to_string().repeat(100);
            tables.insert(vec![change(key, Some(&value))], Sequence(sequence)).unwrap();
            flush_all(&tables);
            tables.compact().unwrap();
        }
        for n in sequence - 4..=sequence {
            let value = tables.get(format!("key-{}", n % 7).as_bytes()).unwrap().unwrap();
            assert_eq!(value, n.to_string().repeat(100));
        }
    }
}

#[test]
fn runs_that_wait_for_compaction_slow_the_writer_and_then_stop_it() {
    let directory = tempfile::tempdir().unwrap();
    let (tables, _) = open(directory.path());
    let mut pressures = Vec::new();
    for sequence in 1..=30 {
        // Overlapping ranges, else the runs are joined into one.
        let changes = vec![change("a", Some("1")), change("z", Some("1"))];
        tables.insert(changes, Sequence(sequence)).unwrap();
        flush_all(&tables);
        pressures.push(tables.pressure());
    }
    assert_eq!(pressures[18..20], [Pressure::None, Pressure::Slow]);
    assert_eq!(pressures[28..30], [Pressure::Slow, Pressure::Halt]);
    drop(tables);
    let (tables, _) = open(directory.path());
    assert_eq!(tables.pressure(), Pressure::Halt);
    tables.compact().unwrap();
    assert_eq!(tables.pressure(), Pressure::None);
}

#[test]
fn the_next_files_number_is_known_before_it_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let files = || fs::read_dir(directory.path().join("tables/tables")).unwrap();
    let newest = || files().map(|file| file.unwrap().file_name().into_string().unwrap());
    let newest = || newest().map(|name| name.parse::<u64>().unwrap()).max().unwrap();
    let (mut tables, _) = open(directory.path());
    for sequence in 1..=9 {
        let expected = tables.views.next_number();
        put(&tables, "a", "1", sequence);
        flush_all(&tables);
        assert!((expected..expected + 8).contains(&newest()), "{expected} and {}", newest());
        if sequence % 3 == 0 {
            tables.compact().unwrap();
            drop(tables);
            tables = open(directory.path()).0;
        }
    }
}

#[test]
fn a_round_that_found_nothing_to_compact_is_made_again_only_after_a_flush() {
    let directory = tempfile::tempdir().unwrap();
    let (tables, _) = open(directory.path());
    let mut sequence = 0;
    for _ in 0..3 {
        for _ in 0..4 {
            sequence += 1;
            put(&tables, "a", "1", sequence);
            put(&tables, "z", "1", sequence + 1);
            sequence += 1;
            flush_all(&tables);
        }
        assert_eq!(tables.views.runs_count(), 4);
        while tables.compacted.load(Ordering::Relaxed) != tables.views.version() {
            tables.compact().unwrap();
        }
        assert_eq!(tables.views.runs_count(), 0);
    }
}

#[test]
fn a_flush_that_the_disk_refuses_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (tables, _) = open(directory.path());
    put(&tables, "a", "1", 1);
    tables.rotate();
    // Without its folder no table can be written, whoever asks.
    let folder = directory.path().join("tables/tables");
    let away = directory.path().join("away");
    fs::rename(&folder, &away).unwrap();
    assert!(tables.flush().is_err());
    assert_eq!(tables.persisted_sequence(), Sequence(0));
    assert_eq!(tables.get(b"a").unwrap().unwrap(), "1");
    fs::rename(&away, &folder).unwrap();
    assert_eq!(tables.flush().unwrap(), Sequence(1));
    drop(tables);
    assert_eq!(read_all(&open(directory.path()).0).len(), 1);
}
