//! Keys that the replica cannot vouch for: single ones, and all of them.

use super::*;

fn set(key: &StoredKey, time: u64, value: &str) -> SiblingSet {
    SiblingSet::of(version(key, time, 1, value))
}

/// A store whose tables were lost after one write was flushed and another was not.
fn without_tables() -> Rig {
    let mut rig = Rig::new(2);
    rig.apply(write(&key(0), 1, "flushed"));
    rig.apply(write(&key(1), 2, "flushed"));
    rig.writer.extend_lease(HybridTime(99));
    rig.flush();
    for time in 3..30 {
        rig.apply(write(&key(2), time, &"x".repeat(400)));
    }
    rig.flush();
    rig.apply(write(&key(4), 40, "unflushed"));
    rig.disk.kill();
    rig.tables.lose();
    try_open(&rig.disk, &rig.tables, &rig.options, Some("the tables are gone".to_owned())).unwrap()
}

#[test]
fn lost_tables_make_every_key_unreadable_the_absent_ones_too() {
    let rig = without_tables();
    assert!(rig.report.distrusted);
    assert_eq!(rig.report.damage[0], "the tables are gone");
    for number in 0..KEYS {
        assert_eq!(rig.read(&key(number)), Found::Unreadable);
    }
    assert_eq!(rig.reader.page(TableId(1), &[], None, 9, 1 << 20, false), None);
    assert!(rig.reader.figures().distrusted);
    assert_eq!(rig.reader.figures().unreadable, KEYS);
    assert_eq!(rig.writer.lease(), HybridTime(99));
}

#[test]
fn distrust_is_raised_once_and_ends_key_by_key() {
    let mut rig = without_tables();
    assert_eq!(rig.apply(write(&key(0), 50, "no")), Outcome::Incomplete);
    // A merge is kept, and the mark with it.
    assert_eq!(rig.apply(merge(&key(0), set(&key(0), 1, "flushed"))), Outcome::Incomplete);
    assert_eq!(rig.read(&key(0)), Found::Unreadable);
    // A rebuild ends it, for a key that is absent everywhere too.
    rig.apply(rebuild(&key(1), set(&key(1), 2, "flushed")));
    rig.apply(rebuild(&key(3), SiblingSet::default()));
    let check = |rig: &Rig| {
        assert!(rig.report.distrusted);
        assert_eq!(rig.read(&key(0)), Found::Unreadable);
        assert_eq!(rig.read(&key(1)), value("flushed", &key(1), 2));
        assert_eq!(rig.read(&key(3)), absent());
        assert_eq!(rig.read(&key(4)), Found::Unreadable);
        assert_eq!(rig.read(&key(5)), Found::Unreadable);
    };
    rig.report.distrusted = true;
    check(&rig);
    let mut rig = rig.crash();
    assert!(rig.report.damage.is_empty(), "{:?}", rig.report);
    check(&rig);
    rig.flush();
    let mut rig = rig.kill();
    assert!(rig.report.damage.is_empty(), "{:?}", rig.report);
    check(&rig);
    assert!(matches!(rig.apply(write(&key(3), 60, "yes")), Outcome::Merged(_)));
    rig.apply(rebuild(&key(0), set(&key(0), 1, "flushed")));
    assert_eq!(rig.crash().read(&key(0)), value("flushed", &key(0), 1));
}

#[test]
fn a_second_loss_distrusts_what_was_rebuilt_after_the_first() {
    for checkpoint_too in [false, true] {
        let mut rig = without_tables();
        rig.apply(rebuild(&key(1), set(&key(1), 2, "flushed")));
        rig.flush();
        rig.apply(rebuild(&key(3), set(&key(3), 5, "unflushed")));
        rig.disk.kill();
        if checkpoint_too {
            rig.disk.lose("checkpoint.a");
            rig.disk.lose("checkpoint.b");
        } else {
            for path in rig.disk.paths() {
                if path.starts_with("log/") {
                    rig.disk.lose(&path);
                }
            }
        }
        let mut rig = rig.open_again();
        assert!(rig.report.distrusted && !rig.report.damage.is_empty());
        for number in 0..KEYS {
            assert_eq!(rig.read(&key(number)), Found::Unreadable);
        }
        rig.apply(rebuild(&key(1), set(&key(1), 2, "flushed")));
        assert_eq!(rig.crash().read(&key(1)), value("flushed", &key(1), 2));
    }
}

#[test]
fn older_tables_that_were_put_back_are_told() {
    let mut rig = Rig::new(2);
    rig.apply(write(&key(0), 1, "old"));
    rig.flush();
    let older = rig.tables.copy();
    for time in 2..40 {
        rig.apply(write(&key(0), time, &"x".repeat(400)));
        rig.apply(write(&key(2), time, "new"));
    }
    rig.flush();
    rig.apply(write(&key(2), 40, "after"));
    let (disk, _) = rig.copy_killed();
    let mut rig = try_open(&disk, &older, &options(), None).unwrap();
    assert!(rig.report.distrusted);
    assert_eq!(rig.read(&key(0)), Found::Unreadable);
    assert_eq!(rig.read(&key(2)), Found::Unreadable);
    assert_eq!(rig.read(&key(4)), Found::Unreadable);
    rig.apply(rebuild(&key(0), set(&key(0), 39, "mended")));
    let rig = rig.crash();
    assert!(rig.report.damage.is_empty(), "{:?}", rig.report);
    assert_eq!(rig.read(&key(0)), value("mended", &key(0), 39));
}

#[test]
fn a_damaged_entry_is_unreadable_until_it_is_rebuilt() {
    let mut rig = Rig::new(2);
    for number in [0, 1, 2] {
        rig.apply(write(&key(number), 1, "value"));
    }
    rig.flush();
    rig.tables.damage(key(0).bytes());
    rig.tables.damage(key(1).bytes());
    for number in [0, 1] {
        assert_eq!(rig.read(&key(number)), Found::Unreadable);
        assert_eq!(rig.apply(write(&key(number), 9, "no")), Outcome::Incomplete);
        // Even an older set is merged: nobody knows what is held.
        let merged = rig.apply(merge(&key(number), set(&key(number), 1, "value")));
        match policy(&key(number)) {
            ConflictPolicy::Latest => assert_eq!(merged, Outcome::Incomplete),
            ConflictPolicy::Siblings => assert!(matches!(merged, Outcome::Merged(_))),
        }
        assert_eq!(rig.read(&key(number)), Found::Unreadable);
    }
    assert_eq!(rig.read(&key(2)), value("value", &key(2), 1));
    assert_eq!(
        rig.reader.page(TableId(1), &[], None, 9, 1 << 20, false).unwrap().0[0].whole.found,
        Found::Unreadable
    );
    rig.flush();
    let mut rig = rig.crash();
    assert_eq!(rig.read(&key(0)), Found::Unreadable);
    rig.apply(rebuild(&key(0), set(&key(0), 4, "mended")));
    assert_eq!(rig.read(&key(0)), value("mended", &key(0), 4));
    let rig = rig.crash();
    assert_eq!(rig.read(&key(0)), value("mended", &key(0), 4));
    assert_eq!(rig.read(&key(1)), Found::Unreadable);
}

#[test]
fn digests_do_not_count_for_ever_what_was_damaged_and_written_over() {
    for flush in [false, true] {
        let mut rig = Rig::new(2);
        rig.apply(write(&key(0), 1, "value"));
        rig.flush();
        rig.tables.damage(key(0).bytes());
        let mended = set(&key(0), 4, "mended");
        rig.apply(rebuild(&key(0), mended.clone()));
        if flush {
            rig.flush();
        }
        let held = BTreeMap::from([(key(0), mended)]);
        rig.kill().check_digests(&held);
        rig.crash().check_digests(&held);
    }
}

#[test]
fn a_page_over_a_damaged_entry_is_no_page() {
    let mut rig = Rig::new(2);
    rig.apply(write(&key(0), 1, "value"));
    rig.flush();
    rig.tables.damage(key(2).bytes());
    assert_eq!(rig.reader.page(TableId(1), &[], None, 9, 1 << 20, false), None);
}
