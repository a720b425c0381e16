//! What keys hold, without their values: it stands in for the tables where only dots are asked for, and
//! never for what they hold.

use super::*;

/// A write whose writer has read all that the key holds.
fn write_over(key: &StoredKey, time: u64, text: &str, seen: u64) -> Mutation {
    let context = VersionVector::new([(Actor(1), HybridTime(seen))]);
    mutation(key, Change::Write { context, version: version(key, time, 1, text) })
}

/// A store whose tables cannot be read under the keys that it remembers.
fn rig_that_cannot_read() -> Rig {
    let mut rig = Rig::new(3);
    for number in [0, 1] {
        rig.apply(write(&key(number), 5, "value"));
    }
    rig.flush();
    for number in [0, 1] {
        rig.tables.damage(key(number).bytes());
    }
    rig
}

#[test]
fn what_replaces_all_that_a_key_holds_needs_no_tables() {
    let mut rig = rig_that_cannot_read();
    for number in [0, 1] {
        let key = key(number);
        let written = rig.apply(write_over(&key, 6, "written", 5));
        assert!(matches!(written, Outcome::Merged(_)), "{written:?}");
        let after = SiblingSet::of(version(&key, 6, 1, "written"));
        assert_eq!(rig.read(&key), found(&after));
        rig.flush();
        rig.tables.damage(key.bytes());
        let merged = rig.apply(merge(&key, set(&key, 7, "merged")));
        assert!(matches!(merged, Outcome::Merged(_)), "{merged:?}");
        assert_eq!(rig.read(&key), value("merged", &key, 7));
    }
    // What was written over is known, so that nothing is counted twice.
    let held = [0, 1].map(|number| (key(number), set(&key(number), 7, "merged")));
    rig.check_digests(&held.into());
    rig.crash().check_digests(&BTreeMap::from(
        [0, 1].map(|number| (key(number), set(&key(number), 7, "merged"))),
    ));
}

#[test]
fn what_is_too_old_is_so_without_the_tables_too() {
    let mut rig = rig_that_cannot_read();
    let latest = [key(0), key(1)].into_iter().find(|key| policy(key) == ConflictPolicy::Latest);
    let latest = latest.expect("one of the two is");
    assert_eq!(rig.apply(write(&latest, 4, "late")), Outcome::Older(HybridTime(5)));
    let merged = rig.apply(merge(&latest, set(&latest, 4, "late")));
    assert_eq!(merged, Outcome::Older(HybridTime(5)));
}

#[test]
fn a_sibling_that_stays_brings_its_value_from_the_tables() {
    let siblings = (0..KEYS).map(key).find(|key| policy(key) == ConflictPolicy::Siblings);
    let siblings = siblings.expect("there is one");
    for damaged in [false, true] {
        let mut rig = Rig::new(4);
        rig.apply(write(&siblings, 5, "first"));
        rig.flush();
        if damaged {
            rig.tables.damage(siblings.bytes());
            assert_eq!(rig.apply(write(&siblings, 6, "second")), Outcome::Incomplete);
            continue;
        }
        rig.apply(write(&siblings, 6, "second"));
        let both = ["first", "second"].into_iter().zip(5..);
        let both = both.map(|(text, time)| version(&siblings, time, 1, text)).collect();
        let vector = VersionVector::new([(Actor(1), HybridTime(6))]);
        let both = SiblingSet::new(vector, both).expect("it is one");
        assert_eq!(rig.read(&siblings), found(&both));
        // And what changes nothing answers with all of it.
        assert_eq!(
            rig.apply(merge(&siblings, set(&siblings, 5, "first"))),
            Outcome::Merged(codec::encode(&both))
        );
    }
}

#[test]
fn what_was_not_committed_is_not_remembered() {
    let mut rig = Rig::new(5);
    let key = key(0);
    rig.apply(write(&key, 1, "kept"));
    rig.disk.limit(Some(rig.disk.used_bytes()));
    let mut time = 10;
    loop {
        // As long as there is room in the segment.
        rig.writer.prepare(write_over(&key, time, &"x".repeat(900), time - 1));
        match rig.writer.commit() {
            Ok(()) => time += 1,
            Err(CommitError::Full) => break,
            Err(error) => panic!("{error}"),
        }
        assert!(time < 100, "the disk is never full");
    }
    let before = rig.read(&key);
    rig.disk.limit(None);
    // An actor makes no more dots once some of its were lost.
    let context = VersionVector::new([(Actor(1), HybridTime(time - 1))]);
    let change = Change::Write { context, version: version(&key, time, 2, "after") };
    let after = rig.apply(mutation(&key, change));
    assert!(matches!(after, Outcome::Merged(_)), "{after:?} over {before:?}");
    let held = match rig.read(&key) {
        Found::Set(encoded) => codec::decode(&encoded).expect("it is one"),
        other => panic!("{other:?}"),
    };
    assert_eq!(held.versions().len(), 1, "{held:?}");
}

#[test]
fn a_distrusted_virtual_node_has_no_use_for_them() {
    let mut rig = Rig::new(6);
    rig.apply(write(&key(0), 5, "value"));
    rig.writer.begin_era();
    rig.writer.commit().unwrap();
    assert_eq!(rig.apply(write_over(&key(0), 6, "no", 5)), Outcome::Incomplete);
}
