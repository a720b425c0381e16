//! One file is damaged behind the store's back. Whatever it is, a key afterwards reads as what was
//! committed under it or as unreadable: never as an older value, never as absent. And the report
//! tells.

use super::*;
use crate::log::{Log, LogOptions};

/// A store with some of everything: flushed and unflushed records, keys written often and once,
/// several segments, a lease, a sibling set. And what it holds.
fn lived_in() -> (Rig, BTreeMap<StoredKey, SiblingSet>) {
    let mut rig = Rig::new(11);
    let mut held = BTreeMap::new();
    for time in 1..=60 {
        // The first and the last key are written only early and only late.
        let number = match time {
            1..=5 => 0,
            56..=60 => KEYS - 1,
            _ => 1 + time % (KEYS - 2),
        };
        let key = key(number);
        let seen = held.get(&key).map(|set: &SiblingSet| set.vector().clone());
        let context = seen.filter(|_| time % 3 > 0).unwrap_or_default();
        let version = version(&key, time, 1 + time % 2, &format!("{time} {}", "x".repeat(100)));
        let outcome = rig.apply(mutation(&key, Change::Write { context, version }));
        let Outcome::Merged(set) = outcome else { panic!("{outcome:?}") };
        held.insert(key, codec::decode(&set).unwrap());
        if time % 7 == 0 {
            rig.writer.extend_lease(HybridTime(time + 100));
            rig.writer.commit().unwrap();
        }
        if time == 40 {
            rig.flush();
        }
    }
    (rig, held)
}

fn greatest_time(held: &BTreeMap<StoredKey, SiblingSet>) -> u64 {
    held.values().map(|set| set.vector().greatest().0).max().unwrap()
}

/// Opens the damaged store and judges it. Returns whether the damage was told.
fn judge(
    disk: &TwinDisk,
    tables: &TwinTables,
    held: &BTreeMap<StoredKey, SiblingSet>,
    what: &str,
) -> bool {
    let mut rig = try_open(disk, tables, &options(), None)
        .unwrap_or_else(|error| panic!("{what}: {error:?}"));
    let told = rig.report.damage.len() + rig.report.notes.len() > 0;
    let check = |rig: &Rig| {
        for number in 0..KEYS {
            let now = rig.read(&key(number));
            let right = held.get(&key(number)).map_or_else(absent, found);
            assert!(
                now == right || now == Found::Unreadable && told,
                "{what}: key {number} reads {now:?}; {:?}",
                rig.report
            );
        }
        rig.check_digests_cover(what);
    };
    check(&rig);
    assert!(
        rig.writer.lease().0 >= greatest_time(held),
        "{what}: the lease is below what is stored"
    );

    // It goes on: what is rebuilt and written afterwards is there after a crash, and what was
    // told once is not told again.
    let late = key(KEYS - 1);
    let set = SiblingSet::of(version(&late, 1000, 9, "late"));
    let late_set = match rig.apply(rebuild(&late, set)) {
        Outcome::Merged(set) => Found::Set(set),
        other => panic!("{what}: {other:?}"),
    };
    assert_eq!(rig.read(&late), late_set, "{what}");
    let distrusted = rig.report.distrusted;
    let unreadable: Vec<bool> =
        (0..KEYS).map(|number| rig.read(&key(number)) == Found::Unreadable).collect();
    let mut again = rig.crash();
    assert!(again.report.damage.is_empty(), "{what}: told again: {:?}", again.report);
    assert_eq!(again.report.distrusted, distrusted, "{what}");
    assert_eq!(again.read(&late), late_set, "{what}: after a crash");
    let still: Vec<bool> =
        (0..KEYS).map(|number| again.read(&key(number)) == Found::Unreadable).collect();
    assert_eq!(still, unreadable, "{what}: marks survive a crash");
    again.check_digests_cover(what);
    again.flush();
    let last = again.kill();
    assert_eq!(last.read(&late), late_set, "{what}: after a flush");
    last.check_digests_cover(what);
    told
}

impl Rig {
    /// The digests are those of what the tables hold, whatever the readers may see of it.
    pub(super) fn check_digests_cover(&self, what: &str) {
        let mut held = BTreeMap::new();
        self.writer.engine.scan(&[], None, &mut |entry| {
            let (key, sealed) = entry.unwrap();
            let stored = crate::stored::Stored::open(&key, &sealed).unwrap();
            let key = StoredKey::from_bytes(key).unwrap();
            held.insert(key, codec::decode(&stored.set).unwrap());
            true
        });
        let (digests, fold) = (self.writer.digests(), self.with_marks(fold(&held)));
        assert_eq!(figures_and_leaves(digests), figures_and_leaves(&fold), "{what}");
    }
}

fn log_paths(disk: &TwinDisk) -> Vec<String> {
    disk.paths().into_iter().filter(|path| path.ends_with(".log")).collect()
}

fn is_log(path: &str) -> bool {
    path.ends_with(".log")
}

#[test]
fn the_store_that_is_damaged_here_reopens_clean_without_damage() {
    let (rig, held) = lived_in();
    let (disk, tables) = rig.copy_killed();
    assert!(log_paths(&disk).len() >= 3, "{:?}", disk.paths());
    let again = try_open(&disk, &tables, &options(), None).unwrap();
    assert_eq!(again.report.damage, Vec::<String>::new());
    assert!(again.report.replayed > 10);
    again.check_digests(&held);
    assert!(!judge(&disk, &tables, &held, "no damage"));
}

#[test]
fn a_flipped_bit_anywhere_is_told_and_hides_no_loss() {
    let (rig, held) = lived_in();
    for path in rig.disk.paths() {
        let length = rig.disk.content(&path).unwrap().len() as u64;
        for offset in (0..length).step_by(5) {
            let (disk, tables) = rig.copy_killed();
            let bit = (offset / 5 % 8) as u8;
            assert!(disk.flip_bit(&path, offset, bit));
            judge(&disk, &tables, &held, &format!("{path}: bit {bit} of {offset} flipped"));
        }
    }
}

#[test]
fn a_zeroed_range_is_told_and_hides_no_loss() {
    let (rig, held) = lived_in();
    for path in rig.disk.paths() {
        let content = rig.disk.content(&path).unwrap();
        for bytes in [16, 100, 512, 2048, 1 << 20] {
            for offset in (0..content.len()).step_by(97) {
                let zeroed = &content[offset..content.len().min(offset + bytes)];
                let (disk, tables) = rig.copy_killed();
                disk.zero(&path, offset as u64, bytes as u64);
                let what = format!("{path}: {bytes} bytes from {offset} zeroed");
                let told = judge(&disk, &tables, &held, &what);
                let matters = zeroed.iter().any(|byte| *byte != 0) && !path.ends_with("watermark");
                assert!(told || !matters || is_cut_off(&rig, &path), "{what}: not told");
            }
        }
    }
}

/// Segments before the one that the checkpoint begins in are not even read, nor is one that was dropped.
fn is_cut_off(rig: &Rig, path: &str) -> bool {
    let paths = log_paths(&rig.disk);
    path == "log/retired" || is_log(path) && Some(path) != paths.last().map(String::as_str)
}

#[test]
fn a_file_cut_short_or_removed_is_told_and_hides_no_loss() {
    let (rig, held) = lived_in();
    for path in rig.disk.paths() {
        let length = rig.disk.content(&path).unwrap().len() as u64;
        for length in (0..length).step_by(61) {
            let (disk, tables) = rig.copy_killed();
            disk.truncate(&path, length);
            judge(&disk, &tables, &held, &format!("{path}: cut to {length}"));
        }
        let (disk, tables) = rig.copy_killed();
        disk.lose(&path);
        judge(&disk, &tables, &held, &format!("{path}: removed"));
    }
}

#[test]
fn an_unreadable_sector_is_told_and_hides_no_loss() {
    let (rig, held) = lived_in();
    for path in rig.disk.paths() {
        let length = rig.disk.content(&path).unwrap().len() as u64;
        for offset in (0..length).step_by(512) {
            let (disk, tables) = rig.copy_killed();
            disk.spoil_sector(&path, offset);
            judge(&disk, &tables, &held, &format!("{path}: {offset} spoilt"));
        }
    }
}

#[test]
fn a_log_that_vanished_is_told_even_if_nothing_was_ever_flushed() {
    for flush in [false, true] {
        let mut rig = Rig::new(3);
        rig.apply(write(&key(0), 1, "one"));
        if flush {
            rig.flush();
            rig.apply(write(&key(0), 2, "two"));
        }
        let (disk, tables) = rig.copy_killed();
        for path in disk.paths() {
            if path.starts_with("log/") {
                disk.lose(&path);
            }
        }
        let mut rig = try_open(&disk, &tables, &options(), None).unwrap();
        assert!(rig.report.distrusted > 0, "{:?}", rig.report);
        assert_eq!(rig.read(&key(0)), Found::Unreadable);
        assert_eq!(rig.read(&key(1)), Found::Unreadable);
        rig.apply(rebuild(&key(0), SiblingSet::of(version(&key(0), 3, 1, "three"))));
        let mut rig = rig.crash();
        assert_eq!(rig.read(&key(0)), value("three", &key(0), 3));
        rig.flush();
        assert_eq!(rig.kill().read(&key(0)), value("three", &key(0), 3));
    }
}

#[test]
fn a_crash_at_any_moment_of_a_start_with_damage_forgets_none_of_it() {
    let (rig, held) = lived_in();
    let logs = log_paths(&rig.disk);
    let middle = logs[logs.len() - 2].as_str();
    let payload = rig.disk.content(middle).unwrap().windows(9).position(|w| w == b"xxxxxxxxx");
    type Damage<'a> = (&'a str, &'a dyn Fn(&TwinDisk));
    let damages: [Damage<'_>; 6] = [
        ("a record", &|disk| assert!(disk.flip_bit(middle, payload.unwrap() as u64, 1))),
        ("a header", &|disk| assert!(disk.zero(middle, 0, 512))),
        ("a segment", &|disk| assert!(disk.lose(middle))),
        ("the checkpoint", &|disk| {
            assert!(disk.zero("checkpoint.a", 0, 99) && disk.zero("checkpoint.b", 0, 99));
        }),
        ("the log", &|disk| {
            for path in disk.paths().iter().filter(|path| path.starts_with("log/")) {
                disk.lose(path);
            }
        }),
        ("the tables", &|_| {}),
    ];
    for (what, damage) in damages {
        for operations in 0.. {
            let (disk, tables) = rig.copy_killed();
            damage(&disk);
            let tables = if what == "the tables" { TwinTables::new() } else { tables };
            disk.crash_after_operations(operations);
            let done = try_open(&disk, &tables, &options(), None).is_ok();
            disk.crash();
            let after = try_open(&disk, &tables, &options(), None).unwrap();
            for number in 0..KEYS {
                let right = held.get(&key(number)).map_or_else(absent, found);
                let now = after.read(&key(number));
                assert!(
                    now == right || now == Found::Unreadable,
                    "{what}, {operations}: key {number} reads {now:?}, {:?}",
                    after.report
                );
            }
            after.check_digests_cover(what);
            if done {
                break;
            }
        }
    }
}

#[test]
fn all_that_the_checkpoint_knew_is_known_again_from_the_tables() {
    let (rig, held) = lived_in();
    let (disk, tables) = rig.copy_killed();
    disk.zero("checkpoint.a", 0, 1 << 20);
    disk.zero("checkpoint.b", 0, 1 << 20);
    let rig = try_open(&disk, &tables, &options(), None).unwrap();
    assert!(rig.report.distrusted > 0);
    rig.check_digests(&held);
}

#[test]
fn tables_that_are_ahead_of_a_log_that_lost_its_end_take_new_records() {
    let mut rig = Rig::new(5);
    for time in 1..=20 {
        rig.apply(write(&key(0), time, "value"));
    }
    // The tables have it all, the checkpoint does not: a crash between the two.
    let (disk, _) = rig.copy_killed();
    rig.writer.rotate();
    rig.writer.engine.flush().unwrap();
    let tables = rig.tables.copy();
    for path in disk.paths() {
        if path.starts_with("log/") {
            disk.zero(&path, 56, 1 << 20);
        }
    }
    let mut rig = try_open(&disk, &tables, &options(), None).unwrap();
    assert!(!rig.report.damage.is_empty());
    rig.apply(rebuild(&key(0), SiblingSet::of(version(&key(0), 30, 1, "new"))));
    assert_eq!(rig.read(&key(0)), value("new", &key(0), 30));
    assert_eq!(rig.crash().read(&key(0)), value("new", &key(0), 30));
}

#[test]
fn a_damaged_record_marks_its_key_alone_unless_a_later_one_is_whole() {
    let mut rig = Rig::new(5);
    rig.apply(write(&key(0), 1, "zero"));
    rig.apply(write(&key(2), 2, &"a".repeat(50)));
    rig.apply(write(&key(4), 3, &"b".repeat(50)));
    rig.apply(write(&key(2), 4, "newer"));
    let (disk, tables) = rig.copy_killed();
    for pattern in [[b'a'; 50], [b'b'; 50]] {
        let path = log_paths(&disk).pop().unwrap();
        let content = disk.content(&path).unwrap();
        let at = content.windows(50).position(|window| window == pattern).unwrap();
        disk.flip_bit(&path, at as u64, 3);
    }
    let mut rig = try_open(&disk, &tables, &options(), None).unwrap();
    assert_eq!(rig.report.damage.len(), 2, "{:?}", rig.report);
    assert_eq!((rig.report.incomplete_keys, rig.report.distrusted), (1, 0));
    assert_eq!(rig.read(&key(0)), value("zero", &key(0), 1));
    assert_eq!(rig.read(&key(2)), value("newer", &key(2), 4));
    assert_eq!(rig.read(&key(4)), Found::Unreadable);
    assert_eq!(rig.read(&key(6)), absent());
    assert_eq!(rig.apply(write(&key(4), 9, "no")), Outcome::Incomplete);
    let mut rig = rig.crash();
    assert_eq!(rig.read(&key(4)), Found::Unreadable);
    rig.apply(rebuild(&key(4), SiblingSet::of(version(&key(4), 3, 1, "mended"))));
    assert_eq!(rig.crash().read(&key(4)), value("mended", &key(4), 3));
}

#[test]
fn what_another_program_wrote_is_refused_and_not_distrusted() {
    let rig = Rig::new(5);
    let (disk, tables) = rig.copy_killed();
    {
        let log_disk = Arc::new(disk.clone());
        let log_options =
            LogOptions { segment_bytes: options().segment_bytes, ..LogOptions::default() };
        let (mut log, _) = Log::open(log_disk, log_options, &mut |_| {}).unwrap();
        log.append([b"\x09 of a later kind"]).unwrap();
        log.sync().unwrap();
    }
    let refused = try_open(&disk, &tables, &options(), None).err();
    assert!(matches!(refused, Some(OpenError::NewerRecord { sequence: 1 })), "{refused:?}");

    let (disk, tables) = rig.copy_killed();
    let other_format = crate::small_file::SmallFile::new(Arc::new(disk.clone()), CHECKPOINT_FILE);
    for other in [CHECKPOINT_FORMAT - 1, CHECKPOINT_FORMAT + 1] {
        other_format.save(&[other; 50]).unwrap();
        let refused = try_open(&disk, &tables, &options(), None).err();
        let known = CHECKPOINT_FORMAT;
        assert!(
            matches!(refused, Some(OpenError::CheckpointFormat { format, known: own })
                if format == other && own == known),
            "{refused:?}"
        );
    }
}
