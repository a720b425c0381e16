//! Keys that the replica cannot vouch for: single ones, and all of them.

use super::*;

const VNODES: u32 = 8;

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
    assert_eq!(rig.report.distrusted, VNODES);
    assert_eq!(rig.report.damage[0], "the tables are gone");
    for number in 0..KEYS {
        assert_eq!(rig.read(&key(number)), Found::Unreadable);
    }
    assert_eq!(rig.reader.page(TableId(1), &[], None, 9, 1 << 20, false), None);
    assert_eq!(rig.reader.figures().distrusted, VNODES);
    assert_eq!(rig.reader.distrusted(), (0..VNODES).map(VnodeIndex).collect::<Vec<_>>());
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
        assert_eq!(rig.report.distrusted, VNODES);
        assert_eq!(rig.read(&key(0)), Found::Unreadable);
        assert_eq!(rig.read(&key(1)), value("flushed", &key(1), 2));
        assert_eq!(rig.read(&key(3)), absent());
        assert_eq!(rig.read(&key(4)), Found::Unreadable);
        assert_eq!(rig.read(&key(5)), Found::Unreadable);
    };
    rig.report.distrusted = VNODES;
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
fn merges_into_a_distrusted_virtual_node_are_taken_in_and_do_not_count() {
    let mut rig = Rig::new(2);
    rig.writer.begin_era();
    for number in 0..KEYS {
        let key = key(number);
        let merged = rig.apply(merge(&key, set(&key, 5, "new")));
        assert_eq!(merged, Outcome::Incomplete, "{:?}", policy(&key));
        assert_eq!(rig.read(&key), Found::Unreadable);
    }
    for number in 0..KEYS {
        let key = key(number);
        rig.writer.trust(VnodeCount::new(VNODES).unwrap().vnode_of(key.token()));
        rig.writer.commit().unwrap();
        assert_eq!(rig.read(&key), value("new", &key, 5));
    }
}

#[test]
fn what_is_said_to_be_durable_is_found_again() {
    for seed in 0..20 {
        let mut rig = Rig::new(seed);
        for time in 1..20 {
            rig.apply(write(&key(time % KEYS), time, "value"));
            assert_eq!(rig.reader.durable_sequence(), rig.writer.log.last_sequence().0);
        }
        let told = rig.reader.durable_sequence();
        let rig = rig.crash();
        assert!(rig.report.sequence >= told && rig.report.damage.is_empty());
    }
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
        assert!(rig.report.distrusted == VNODES && !rig.report.damage.is_empty());
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
    assert_eq!(rig.report.distrusted, VNODES);
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
    let mut rig = Rig::with(2, without_heads());
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

fn vnode_of(key: &StoredKey) -> VnodeIndex {
    options().vnodes.vnode_of(key.token())
}

/// Whether each key is readable.
fn readable(rig: &Rig) -> Vec<bool> {
    (0..KEYS).map(|number| rig.read(&key(number)) != Found::Unreadable).collect()
}

/// Keys 0 and 1 lie in virtual node 0, 2 to 5 in 1, and 6 in 2.
#[test]
fn a_virtual_node_is_trusted_again_as_a_whole_through_crashes_and_flushes() {
    for flush in [false, true] {
        let mut rig = Rig::new(2);
        for number in [0, 2, 3] {
            rig.apply(write(&key(number), 1, "old"));
        }
        rig.writer.begin_era();
        assert!(rig.writer.has_prepared());
        assert_eq!(readable(&rig), [true; KEYS as usize], "it is not committed");
        rig.writer.commit().unwrap();
        assert_eq!(readable(&rig), [false; KEYS as usize]);
        assert_eq!(rig.apply(write(&key(2), 9, "no")), Outcome::Incomplete);
        // What is merged while it is distrusted counts with the whole, and a mark stands.
        let into_latest = merge(&key(4), set(&key(4), 5, "merged"));
        assert_eq!(rig.apply(into_latest), Outcome::Incomplete);
        rig.apply(merge(&key(3), SiblingSet::of(version(&key(3), 6, 2, "merged"))));
        rig.writer.mark_incomplete(key(5), replication(&key(5))).unwrap();
        rig.writer.commit().unwrap();
        assert_eq!(readable(&rig), [false; KEYS as usize]);
        rig.writer.trust(vnode_of(&key(2)));
        rig.writer.commit().unwrap();
        let expected = [false, false, true, true, true, false, false];
        for _ in 0..2 {
            assert_eq!(readable(&rig), expected);
            assert_eq!(rig.read(&key(2)), value("old", &key(2), 1));
            assert_eq!(rig.read(&key(4)), value("merged", &key(4), 5));
            assert_eq!(rig.reader.figures().distrusted, VNODES - 1);
            if flush {
                rig.flush();
            }
            rig = rig.crash();
            assert!(rig.report.damage.is_empty(), "{:?}", rig.report);
            assert_eq!(rig.report.distrusted, VNODES - 1);
        }
        assert!(matches!(rig.apply(write(&key(2), 10, "yes")), Outcome::Merged(_)));
        let table = key(2).table();
        let page = |rig: &Rig, from: u64, to: Option<u64>| {
            let to = to.map(u64::to_be_bytes);
            let to = to.as_ref().map(|to| &to[..]);
            rig.reader.page(table, &from.to_be_bytes(), to, 9, 1 << 20, false).is_some()
        };
        assert!(page(&rig, 1 << 61, Some(2 << 61)));
        assert!(!page(&rig, 1 << 61, Some((2 << 61) + 1)) && !page(&rig, 1 << 61, None));
        assert!(!page(&rig, (1 << 61) - 1, Some(2 << 61)));
        for vnode in 0..VNODES {
            rig.writer.trust(VnodeIndex(vnode));
        }
        rig.writer.commit().unwrap();
        assert_eq!(readable(&rig), [true, true, true, true, true, false, true]);
        assert!(rig.crash().reader.distrusted().is_empty());
    }
}

#[test]
fn a_new_era_ends_the_trust_of_all_and_of_what_was_rebuilt() {
    let mut rig = Rig::new(2);
    rig.writer.begin_era();
    rig.apply(rebuild(&key(0), set(&key(0), 1, "rebuilt")));
    rig.writer.trust(vnode_of(&key(2)));
    rig.apply(write(&key(2), 2, "written"));
    // Later mutations of a batch see what earlier ones made of the virtual nodes.
    assert_eq!(readable(&rig), [true, false, true, true, true, true, false]);
    rig.writer.begin_era();
    assert_eq!(rig.writer.prepare(write(&key(2), 3, "no")), Outcome::Incomplete);
    rig.apply(rebuild(&key(6), set(&key(6), 4, "rebuilt")));
    let expected = [false, false, false, false, false, false, true];
    assert_eq!(readable(&rig), expected);
    let rig = rig.crash();
    assert_eq!(readable(&rig), expected);
    assert_eq!(rig.report.distrusted, VNODES);
}

#[test]
fn an_era_whose_batch_was_not_committed_has_not_begun() {
    let mut rig = Rig::new(2);
    rig.apply(write(&key(0), 1, "old"));
    rig.disk.limit(Some(rig.disk.used_bytes()));
    while rig.writer.commit() != Err(CommitError::Full) {
        rig.writer.begin_era();
        rig.writer.prepare(merge(&key(1), set(&key(1), 1, &"x".repeat(3_000))));
        rig.writer.trust(VnodeIndex(0));
    }
    rig.disk.limit(None);
    let distrusted = rig.reader.distrusted();
    let mut rig = rig.crash();
    assert_eq!(rig.reader.distrusted(), distrusted);
    rig.writer.trust(VnodeIndex(1));
    rig.writer.commit().unwrap();
    assert!(!rig.crash().reader.distrusted().contains(&VnodeIndex(1)));
}

#[test]
fn damage_that_a_later_start_finds_distrusts_what_was_trusted_again() {
    let mut rig = without_tables();
    for vnode in 0..VNODES {
        rig.writer.trust(VnodeIndex(vnode));
    }
    rig.writer.commit().unwrap();
    rig.apply(write(&key(2), 50, "new"));
    rig.flush();
    rig = rig.crash();
    assert_eq!(readable(&rig), [true; KEYS as usize]);
    rig.disk.kill();
    for path in rig.disk.paths().iter().filter(|path| path.starts_with("log/")) {
        rig.disk.lose(path);
    }
    let mut rig = rig.open_again();
    assert_eq!(readable(&rig), [false; KEYS as usize]);
    rig.apply(rebuild(&key(2), set(&key(2), 51, "mended")));
    let rig = rig.crash();
    assert_eq!(readable(&rig), [false, false, true, false, false, false, false]);
}

/// A start found other tables in place of its own, noted it down, and went no further; the log has
/// an era after the checkpoint's, in which all was trusted.
#[test]
fn the_log_s_eras_do_not_undo_what_the_tables_loss_began() {
    let mut rig = Rig::new(2);
    rig.apply(write(&key(0), 1, "old"));
    rig.flush();
    rig.apply(write(&key(0), 2, "checkpointed"));
    rig.flush();
    rig.writer.begin_era();
    for vnode in 0..VNODES {
        rig.writer.trust(VnodeIndex(vnode));
    }
    rig.writer.commit().unwrap();
    rig.apply(write(&key(0), 3, "new"));
    for operations in 0.. {
        let (disk, _) = rig.copy_killed();
        let tables = TwinTables::new();
        disk.crash_after_operations(operations);
        let done = try_open(&disk, &tables, &rig.options, None).is_ok();
        disk.crash();
        let after = try_open(&disk, &tables, &rig.options, None).unwrap();
        assert_eq!(after.report.distrusted, VNODES, "{operations}");
        assert_eq!(readable(&after), [false; KEYS as usize], "{operations}");
        if done {
            break;
        }
    }
}

#[test]
fn a_damaged_end_of_distrust_leaves_the_virtual_node_distrusted() {
    let mut rig = Rig::new(2);
    rig.writer.begin_era();
    rig.writer.commit().unwrap();
    for vnode in [1, 2] {
        rig.writer.trust(VnodeIndex(vnode));
    }
    rig.writer.commit().unwrap();
    rig.apply(write(&key(2), 5, "new"));
    let (disk, tables) = rig.copy_killed();
    let log = disk.paths().into_iter().find(|path| path.ends_with(".log")).unwrap();
    let record = [7, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
    let content = disk.content(&log).unwrap();
    let at = content.windows(13).position(|window| window == record).unwrap();
    disk.flip_bit(&log, at as u64 + 5, 1);
    let opened = try_open(&disk, &tables, &rig.options, None).unwrap();
    assert_eq!(opened.report.damage.len(), 1, "{:?}", opened.report);
    assert_eq!(opened.report.distrusted, VNODES - 1);
    assert_eq!(readable(&opened), [false, false, true, false, false, false, true]);
}

#[test]
fn a_store_of_another_ring_is_refused_where_its_virtual_nodes_differ() {
    let mut rig = Rig::new(2);
    rig.apply(write(&key(0), 1, "value"));
    rig.writer.begin_era();
    rig.writer.trust(VnodeIndex(0));
    rig.writer.commit().unwrap();
    rig.flush();
    let other = StoreOptions { vnodes: VnodeCount::new(16).unwrap(), ..options() };
    let (disk, tables) = rig.copy_killed();
    let refused = try_open(&disk, &tables, &other, None).err();
    assert!(matches!(refused, Some(OpenError::Vnodes { stored: 8, given: 16 })), "{refused:?}");
}
