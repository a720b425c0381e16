//! Damage to the files: whatever happens to them, a key reads as its right value, or as damaged, or
//! the open says that everything is lost.

use std::collections::BTreeMap;

use super::*;
use crate::tables::{open::Place, record::Marker};

/// Flips for each file. Files are small, so this covers every field of them.
const FLIPS_PER_FILE: u64 = 300;

struct Sample {
    directory: tempfile::TempDir,
    /// Every key that was ever inserted, with its last value.
    expected: BTreeMap<Bytes, Option<Bytes>>,
}

/// A tree with tables in several levels, replaced and removed keys, and large values.
fn sample() -> Sample {
    let directory = tempfile::tempdir().unwrap();
    let (tables, _) = open(directory.path());
    let mut expected = BTreeMap::new();
    for sequence in 1..=8u64 {
        let changes: Vec<Change> = (0..60u64)
            .map(|n| {
                let key = format!("key-{:04}", (n * 7 + sequence * 31) % 300);
                let length = if n == 5 { 9_000 } else { 40 + (n as usize * 13) % 400 };
                let value = format!("{sequence}-{n}-").repeat(length / 5);
                change(key, (n % 9 != 4).then_some(&value))
            })
            .collect();
        for change in &changes {
            expected.insert(change.key.clone(), change.value.clone());
        }
        tables.insert(changes, Sequence(sequence)).unwrap();
        flush_all(&tables);
        if sequence == 6 {
            tables.compact().unwrap();
        }
    }
    Sample { directory, expected }
}

/// The files of the tree, and the name by which to report them.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for folder in ["tables", "tables/tables"] {
        for entry in fs::read_dir(directory.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                files.push(path.strip_prefix(directory).unwrap().to_owned());
            }
        }
    }
    files.sort();
    files
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(&from, &to).unwrap();
        }
    }
}

#[derive(Debug, Default)]
struct Tally {
    whole: u32,
    some_damaged: u32,
    rebuilt: u32,
}

/// Damages one file of a copy, opens it, and looks at every key.
fn check(sample: &Sample, file: &Path, damage: impl FnOnce(&mut Vec<u8>), tally: &mut Tally) {
    let directory = tempfile::tempdir().unwrap();
    copy(sample.directory.path(), directory.path());
    let path = directory.path().join(file);
    let mut bytes = fs::read(&path).unwrap();
    damage(&mut bytes);
    fs::write(&path, bytes).unwrap();
    let (tables, report) = open(directory.path());
    match report {
        OpenReport::Rebuilt { aside, .. } => {
            assert!(aside.unwrap().is_dir());
            assert_eq!(tables.persisted_sequence(), Sequence(0));
            assert_eq!(read_all(&tables), []);
            tally.rebuilt += 1;
            return;
        }
        OpenReport::Opened => {}
        OpenReport::Created => panic!("{file:?}: damage was taken for absence"),
    }
    let mut damaged = 0;
    for (key, value) in &sample.expected {
        match tables.get(key) {
            Ok(found) => assert_eq!(found, *value, "{file:?} {key:?}"),
            Err(EngineError::Damaged(_)) => damaged += 1,
            Err(EngineError::Io(error)) => panic!("{file:?} {key:?}: {error}"),
        }
    }
    check_scan(sample, &tables, file);
    match damaged {
        0 => tally.whole += 1,
        _ => tally.some_damaged += 1,
    }
}

/// What a scan gives is right and complete up to its end or its error.
fn check_scan(sample: &Sample, tables: &Tables, file: &Path) {
    let mut expected =
        sample.expected.iter().filter_map(|(key, value)| Some((key, value.as_ref()?)));
    let mut whole = true;
    tables.scan(b"", None, &mut |item| {
        match item {
            Ok((key, value)) => assert_eq!(expected.next(), Some((&key, &value)), "{file:?}"),
            Err(EngineError::Damaged(_)) => whole = false,
            Err(EngineError::Io(error)) => panic!("{file:?}: {error}"),
        }
        true
    });
    if whole {
        assert_eq!(expected.next(), None, "{file:?}");
    }
}

/// Spreads `count` positions over a length, the same ones each time.
fn positions(count: u64, length: u64) -> impl Iterator<Item = u64> {
    (0..count).map(move |n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15) % length.max(1))
}

#[test]
fn a_flipped_bit_anywhere_is_never_a_wrong_value_nor_an_absence() {
    let sample = sample();
    for file in files(sample.directory.path()) {
        let bits = fs::metadata(sample.directory.path().join(&file)).unwrap().len() * 8;
        let mut tally = Tally::default();
        for bit in positions(FLIPS_PER_FILE.min(bits), bits) {
            let flip = |bytes: &mut Vec<u8>| bytes[bit as usize / 8] ^= 1 << (bit % 8);
            check(&sample, &file, flip, &mut tally);
        }
        println!("{}: {tally:?}", file.display());
    }
}

#[test]
fn no_bit_that_steers_an_open_can_end_the_process() {
    // Without the guard a flip in a count makes lsm-tree allocate until the process aborts.
    let sample = sample();
    for file in ["tables/v9", "tables/tables/8"].map(Path::new) {
        let bytes = fs::read(sample.directory.path().join(file)).unwrap();
        let (_, contents_at) = bytes[..bytes.len() - 8].split_last_chunk().unwrap();
        let contents_at = u64::from_le_bytes(*contents_at) as usize;
        let trailer_at = bytes.len() - 38;
        let mut tally = Tally::default();
        for byte in (contents_at..contents_at + 26).chain(trailer_at..bytes.len()) {
            for bit in [0, 5, 7] {
                check(&sample, file, |bytes| bytes[byte] ^= 1 << bit, &mut tally);
            }
        }
        println!("{}: {tally:?}", file.display());
    }
}

#[test]
fn a_compaction_that_meets_damage_says_so_and_leaves_the_rest_readable() {
    let sample = sample();
    let path = sample.directory.path().join("tables/tables/6");
    let mut bytes = fs::read(&path).unwrap();
    bytes[100] ^= 1;
    fs::write(&path, bytes).unwrap();
    let (tables, _) = open(sample.directory.path());
    for sequence in 9..=12 {
        let changes = vec![change("key", Some("1")), change("kez", Some("1"))];
        tables.insert(changes, Sequence(sequence)).unwrap();
        flush_all(&tables);
    }
    for _ in 0..2 {
        assert!(matches!(tables.compact(), Err(EngineError::Damaged(_))));
    }
    assert_eq!(tables.get(b"kez").unwrap().unwrap(), "1");
    let readable = sample.expected.keys().filter(|key| tables.get(key).is_ok()).count();
    assert!(readable * 2 > sample.expected.len());
    put(&tables, "later", "1", 13);
    assert_eq!(flush_all(&tables), Sequence(13));
}

#[test]
fn zeroed_cut_and_lost_bytes_are_never_a_wrong_value_nor_an_absence() {
    let sample = sample();
    for file in files(sample.directory.path()) {
        let length = fs::metadata(sample.directory.path().join(&file)).unwrap().len();
        let mut tally = Tally::default();
        for start in positions(25, length) {
            let (start, end) = (start as usize, (start + 512).min(length) as usize);
            check(&sample, &file, |bytes| bytes[start..end].fill(0), &mut tally);
            check(&sample, &file, |bytes| bytes.truncate(start), &mut tally);
            check(&sample, &file, |bytes| bytes.extend(vec![7; start + 1]), &mut tally);
        }
        check(&sample, &file, |bytes| bytes.fill(0), &mut tally);
        check(&sample, &file, Vec::clear, &mut tally);
        println!("{}: {tally:?}", file.display());
    }
}

#[test]
fn a_missing_file_is_never_an_absence() {
    let sample = sample();
    for file in files(sample.directory.path()) {
        let directory = tempfile::tempdir().unwrap();
        copy(sample.directory.path(), directory.path());
        fs::remove_file(directory.path().join(&file)).unwrap();
        let (tables, report) = open(directory.path());
        if file.ends_with("persisted") {
            assert_eq!(report, OpenReport::Opened);
            check_scan(&sample, &tables, &file);
        } else {
            assert!(matches!(report, OpenReport::Rebuilt { .. }), "{file:?}: {report:?}");
        }
    }
}

#[test]
fn an_exchanged_table_is_never_a_wrong_value() {
    let sample = sample();
    let tables: Vec<PathBuf> = files(sample.directory.path())
        .into_iter()
        .filter(|file| file.starts_with("tables/tables"))
        .collect();
    assert!(tables.len() >= 2);
    let other = fs::read(sample.directory.path().join(&tables[0])).unwrap();
    let mut tally = Tally::default();
    check(&sample, &tables[1], |bytes| *bytes = other, &mut tally);
    assert_eq!(tally.rebuilt, 1);
}

#[test]
fn a_tree_that_went_back_in_time_is_rebuilt() {
    let directory = tempfile::tempdir().unwrap();
    let (tables, _) = open(directory.path());
    put(&tables, "a", "1", 1);
    flush_all(&tables);
    let tree = directory.path().join("tables");
    let saved: Vec<(PathBuf, Vec<u8>)> = files(directory.path())
        .into_iter()
        .filter(|file| !file.ends_with("persisted"))
        .map(|file| directory.path().join(file))
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    put(&tables, "b", "1", 2);
    flush_all(&tables);
    drop(tables);
    for (path, bytes) in saved {
        fs::write(path, bytes).unwrap();
    }
    assert!(tree.is_dir());
    let (_, report) = open(directory.path());
    assert!(matches!(report, OpenReport::Rebuilt { .. }), "{report:?}");
}

#[test]
fn lost_tables_are_reported_until_that_is_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    put(&open(directory.path()).0, "a", "1", 1);
    fs::remove_dir_all(directory.path().join("tables")).unwrap();
    for _ in 0..2 {
        let (tables, report) = open(directory.path());
        assert!(matches!(report, OpenReport::Rebuilt { aside: None, .. }), "{report:?}");
        assert_eq!(read_all(&tables), []);
    }
    let (tables, _) = open(directory.path());
    tables.acknowledge_rebuild().unwrap();
    drop(tables);
    assert_eq!(open(directory.path()).1, OpenReport::Opened);
}

#[test]
fn tables_that_were_expected_are_not_created_in_silence() {
    let directory = tempfile::tempdir().unwrap();
    let options = TablesOptions { expect_existing: true, ..options() };
    let (_, report) = Tables::open(&directory.path().join("tables"), options).unwrap();
    assert!(matches!(report, OpenReport::Rebuilt { .. }), "{report:?}");
}

#[test]
fn a_creation_that_was_cut_short_is_finished() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir_all(directory.path().join("tables/tables")).unwrap();
    fs::write(directory.path().join("tables/v0"), "half").unwrap();
    assert_eq!(open(directory.path()).1, OpenReport::Created);
    assert_eq!(open(directory.path()).1, OpenReport::Opened);
}

#[test]
fn condemned_tables_are_rebuilt_at_the_next_open_and_once() {
    let directory = tempfile::tempdir().unwrap();
    let (tables, _) = open(directory.path());
    put(&tables, "a", "1", 1);
    flush_all(&tables);
    tables.condemn("a test says so").unwrap();
    drop(tables);
    let (tables, report) = open(directory.path());
    let aside = directory.path().join("tables.damaged-1");
    let reason = "a test says so".to_owned();
    assert_eq!(report, OpenReport::Rebuilt { reason, aside: Some(aside.clone()) });
    assert!(aside.join("current").is_file());
    tables.acknowledge_rebuild().unwrap();
    put(&tables, "b", "1", 1);
    flush_all(&tables);
    drop(tables);
    let (tables, report) = open(directory.path());
    assert_eq!(report, OpenReport::Opened);
    assert_eq!(read_all(&tables), [("b".into(), "1".into())]);
}

#[test]
fn at_most_two_damaged_trees_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    for round in 1..=4u64 {
        let (tables, _) = open(directory.path());
        for sequence in 1..=round {
            put(&tables, "a", "1", sequence);
            flush_all(&tables);
        }
        drop(tables);
        fs::remove_file(directory.path().join("tables/current")).unwrap();
    }
    open(directory.path());
    let tables_aside =
        |number| fs::read_dir(directory.path().join(format!("tables.damaged-{number}/tables")));
    assert_eq!(tables_aside(1).unwrap().count(), 4);
    assert_eq!(tables_aside(2).unwrap().count(), 3);
    assert!(tables_aside(3).is_err());
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let (tables, _) = open(directory.path());
    put(&tables, "a", "1", 1);
    flush_all(&tables);
    drop(tables);
    let marker = directory.path().join("tables.marker");
    assert_eq!(Marker::read(&marker).unwrap(), Marker::Format(1));
    Marker::write(&marker, 2).unwrap();
    let refused = Tables::open(&directory.path().join("tables"), options());
    assert!(matches!(refused, Err(TablesError::NewerVersion { found: 2, known: 1 })));
    Marker::write(&marker, 1).unwrap();
    assert_eq!(read_all(&open(directory.path()).0).len(), 1);
}

#[test]
fn a_damaged_marker_is_written_anew() {
    let directory = tempfile::tempdir().unwrap();
    open(directory.path());
    let marker = directory.path().join("tables.marker");
    fs::write(&marker, "?").unwrap();
    assert_eq!(open(directory.path()).1, OpenReport::Opened);
    assert_eq!(Marker::read(&marker).unwrap(), Marker::Format(1));
}

#[test]
fn a_strange_file_among_the_tables_is_refused_and_left_alone() {
    let sample = sample();
    let stranger = sample.directory.path().join("tables/tables/lost+found");
    fs::write(&stranger, "").unwrap();
    let refused = Tables::open(&sample.directory.path().join("tables"), options());
    assert!(matches!(refused, Err(TablesError::Foreign(path)) if path == stranger));
    fs::remove_file(stranger).unwrap();
    let (tables, report) = open(sample.directory.path());
    assert_eq!(report, OpenReport::Opened);
    check_scan(&sample, &tables, Path::new("all"));
}

#[test]
fn what_a_crash_left_over_is_swept() {
    let sample = sample();
    let tree = sample.directory.path().join("tables");
    for left_over in [".tmpAb12", "v99999", "tables/99999"] {
        fs::write(tree.join(left_over), "half").unwrap();
    }
    let place = Place { directory: tree.clone() };
    fs::create_dir_all(place.directory.with_extension("opening")).unwrap();
    let (tables, report) = open(sample.directory.path());
    assert_eq!(report, OpenReport::Opened);
    check_scan(&sample, &tables, Path::new("all"));
    for gone in [".tmpAb12", "v99999", "tables/99999"] {
        assert!(!tree.join(gone).exists(), "{gone}");
    }
    assert!(!place.directory.with_extension("opening").exists());
}

#[test]
fn a_damaged_block_while_open_costs_its_keys_and_no_others() {
    let sample = sample();
    let (tables, _) = open(sample.directory.path());
    let compacted = files(sample.directory.path())
        .into_iter()
        .filter(|file| file.starts_with("tables/tables"))
        .max_by_key(|file| fs::metadata(sample.directory.path().join(file)).unwrap().len())
        .unwrap();
    let path = sample.directory.path().join(compacted);
    let mut bytes = fs::read(&path).unwrap();
    bytes[100] ^= 1;
    fs::write(&path, bytes).unwrap();
    let (mut right, mut damaged) = (0, 0);
    for (key, value) in &sample.expected {
        match tables.get(key) {
            Ok(found) => {
                assert_eq!(found, *value);
                right += 1;
            }
            Err(_) => damaged += 1,
        }
    }
    assert!(damaged > 0 && right > damaged, "{damaged} of {}", right + damaged);
    check_scan(&sample, &tables, &path);
}
