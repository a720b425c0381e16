//! A disk that fails or fills up while the store runs.

use super::*;
use crate::engine::Pressure;

fn is_refused(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Refused(_))
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged_and_reads_go_on() {
    let mut rig = Rig::new(1);
    rig.apply(write(&key(0), 1, "one"));
    assert!(matches!(rig.writer.prepare(write(&key(0), 2, "two")), Outcome::Merged(_)));
    rig.disk.fail_syncs(1);
    assert!(matches!(rig.writer.commit(), Err(CommitError::Poisoned(_))));
    assert_eq!(rig.read(&key(0)), value("one", &key(0), 1));
    // Not even what would change nothing, nor another kind of write.
    let same = SiblingSet::of(version(&key(0), 1, 1, "one"));
    assert!(is_refused(&rig.writer.prepare(merge(&key(0), same))));
    assert!(matches!(rig.writer.commit(), Err(CommitError::Poisoned(_))));
    rig.writer.extend_lease(HybridTime(9));
    assert!(matches!(rig.writer.commit(), Err(CommitError::Poisoned(_))));
    assert!(matches!(rig.writer.sync(), Err(CommitError::Poisoned(_))));
    assert!(matches!(rig.writer.save("vote", b"yes"), Err(CommitError::Poisoned(_))));
    assert_eq!(rig.read(&key(0)), value("one", &key(0), 1));
    let after = rig.crash();
    let found = after.read(&key(0));
    assert!(found == value("one", &key(0), 1) || found == value("two", &key(0), 2));
    assert_eq!(after.writer.lease(), HybridTime::ZERO);
}

#[test]
fn a_failed_write_poisons_and_its_batch_may_or_may_not_be_there() {
    for seed in 0..20 {
        let mut rig = Rig::new(seed);
        rig.apply(write(&key(0), 1, "one"));
        rig.disk.fail_writes(1);
        rig.writer.prepare(write(&key(0), 2, "two"));
        rig.writer.prepare(write(&key(1), 2, "two"));
        assert!(matches!(rig.writer.commit(), Err(CommitError::Poisoned(_))));
        assert_eq!(rig.read(&key(1)), absent());
        let after = rig.crash();
        // A write that ended in the middle of a sector looks like damage, and is taken for it.
        let doubt = |found: &Found| *found == Found::Unreadable && !after.report.damage.is_empty();
        let (zero, one) = (after.read(&key(0)), after.read(&key(1)));
        let (old, new) = (value("one", &key(0), 1), value("two", &key(0), 2));
        assert!(zero == old || zero == new || doubt(&zero));
        assert!(one == absent() || zero != old && one == value("two", &key(1), 2) || doubt(&one));
    }
}

#[test]
fn a_batch_that_did_not_fit_the_disk_is_not_kept_and_writes_go_on_when_there_is_space() {
    let mut rig = Rig::new(1);
    rig.apply(write(&key(0), 1, "before"));
    rig.disk.limit(Some(rig.disk.used_bytes()));
    let mut time = 1;
    let mut last = (1, "before".to_owned());
    let refused = loop {
        time += 1;
        let text = format!("{time} {}", "x".repeat(500));
        rig.writer.extend_lease(HybridTime(time));
        assert!(matches!(rig.writer.prepare(write(&key(0), time, &text)), Outcome::Merged(_)));
        match rig.writer.commit() {
            Ok(()) => last = (time, text),
            Err(error) => break error,
        }
    };
    assert_eq!(refused, CommitError::Full);
    let now = |rig: &Rig| {
        assert_eq!(rig.read(&key(0)), value(&last.1, &key(0), last.0));
        assert_eq!(rig.writer.lease(), HybridTime(if last.0 == 1 { 0 } else { last.0 }));
    };
    now(&rig);
    // Refused again, and a restart finds nothing of it.
    rig.writer.prepare(write(&key(1), time + 1, &"y".repeat(3000)));
    assert_eq!(rig.writer.commit(), Err(CommitError::Full));
    assert_eq!(rig.read(&key(1)), absent());
    let (disk, tables) = rig.copy_killed();
    let again = try_open(&disk, &tables, &options(), None).unwrap();
    assert!(again.is_clean(), "{:?}", again.report);
    now(&again);
    assert_eq!(again.read(&key(1)), absent());

    rig.disk.limit(None);
    rig.apply(write(&key(0), time + 2, "after"));
    assert_eq!(rig.read(&key(0)), value("after", &key(0), time + 2));
    assert_eq!(rig.crash().read(&key(0)), value("after", &key(0), time + 2));
}

#[test]
fn a_full_disk_that_takes_neither_flush_nor_checkpoint_stops_writes_and_not_reads() {
    for tables_full in [false, true] {
        let mut rig = Rig::new(1);
        rig.apply(write(&key(0), 1, "before"));
        rig.disk.limit(Some(rig.disk.used_bytes()));
        if tables_full {
            rig.tables.fail_flushes(u32::MAX);
        }
        let (mut time, mut last) = (1, (1, "before".to_owned()));
        let mut refused = 0;
        while refused < 20 {
            time += 1;
            let text = format!("{time} {}", "x".repeat(700));
            let merged = rig.writer.prepare(write(&key(0), time, &text));
            let committed = rig.writer.commit();
            match (&merged, &committed) {
                (Outcome::Merged(_), Ok(())) => last = (time, text),
                (Outcome::Merged(_), Err(CommitError::Full)) => refused += 1,
                (Outcome::Refused(_), Ok(())) => refused += 1,
                other => panic!("{other:?}"),
            }
            if time % 5 == 0 {
                rig.writer.rotate();
            }
            let _ = rig.maintainer.flush();
            assert_eq!(rig.read(&key(0)), value(&last.1, &key(0), last.0));
        }
        let failure = rig.maintainer.flush().unwrap_err();
        assert_eq!(rig.reader.figures().flush_failure, Some(failure));
        let (disk, tables) = rig.copy_killed();
        let again = try_open(&disk, &tables, &options(), None).unwrap();
        assert!(again.is_clean(), "{:?}", again.report);
        assert_eq!(again.read(&key(0)), value(&last.1, &key(0), last.0));

        rig.disk.limit(None);
        rig.tables.fail_flushes(0);
        rig.maintainer.flush().unwrap();
        assert_eq!(rig.reader.figures().flush_failure, None);
        assert_eq!(rig.writer.pressure(), Pressure::None);
        rig.apply(write(&key(0), time + 1, "after"));
        rig.flush();
        let rig = rig.crash();
        assert!(rig.is_clean(), "{:?}", rig.report);
        assert_eq!(rig.read(&key(0)), value("after", &key(0), time + 1));
    }
}

#[test]
fn the_log_is_cut_once_the_checkpoint_is_durable_and_a_failure_to_cut_is_no_failure_to_commit() {
    let mut rig = Rig::new(1);
    let logs = |rig: &Rig| rig.disk.paths().iter().filter(|path| path.ends_with(".log")).count();
    for time in 1..=30 {
        rig.apply(write(&key(0), time, &"x".repeat(500)));
    }
    let before = logs(&rig);
    assert!(before > 3);
    rig.flush();
    rig.disk.fail_syncs(0);
    rig.apply(write(&key(0), 31, "last"));
    assert!(logs(&rig) < before);
    assert_eq!(rig.crash().read(&key(0)), value("last", &key(0), 31));
}

#[test]
fn tables_that_cannot_be_read_are_no_reason_to_forget_what_they_hold() {
    let mut rig = Rig::with(1, without_heads());
    rig.apply(write(&key(0), 1, "one"));
    rig.flush();
    let held = rig.read(&key(0));
    let _other = rig.tables.open();
    // The engine of this rig is dead: everything fails with an I/O error.
    assert!(is_refused(&rig.writer.prepare(write(&key(0), 2, "two"))));
    assert_eq!(rig.read(&key(0)), Found::Unreadable);
    assert_eq!(rig.open_again().read(&key(0)), held);
}

#[test]
fn a_document_that_does_not_fit_the_disk_leaves_the_store_alive() {
    let mut rig = Rig::new(1);
    rig.writer.save("vote", b"first").unwrap();
    rig.disk.limit(Some(rig.disk.used_bytes()));
    assert_eq!(rig.writer.save("vote", &[1; 5000]), Err(CommitError::Full));
    rig.disk.limit(None);
    rig.writer.save("vote", b"second").unwrap();
    rig.apply(write(&key(0), 1, "one"));
}

#[test]
fn a_periodic_commit_is_synced_before_the_tables_hold_it() {
    for seed in 0..30 {
        let mut rig =
            Rig::with(seed, StoreOptions { durability: Durability::Periodic, ..options() });
        for time in 1..=6 {
            rig.apply(write(&key(time % 3), time, &"x".repeat(300)));
        }
        rig.flush();
        rig.apply(write(&key(0), 7, "unsynced"));
        rig.writer.extend_lease(HybridTime(50));
        rig.apply(write(&key(2), 8, "with a lease"));
        rig.apply(write(&key(4), 9, "unsynced"));
        rig.writer.engine.flush().unwrap();
        let rig = rig.crash();
        assert!(rig.is_clean(), "{:?}", rig.report);
        assert_eq!(rig.writer.lease(), HybridTime(50));
        assert_eq!(rig.read(&key(2)), value("with a lease", &key(2), 8));
        let last = rig.read(&key(4));
        assert!(last == absent() || last == value("unsynced", &key(4), 9));
    }
}
