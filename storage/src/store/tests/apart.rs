//! Values that lie apart: they come and go with their dots, in one batch, and are never written
//! twice; one that is lost makes its key unreadable, and no more than that.

use super::*;
use crate::version::{ApartValue, INLINE_BYTES_MAX};

const LONG: usize = INLINE_BYTES_MAX + 1;

pub(super) fn long(key: &StoredKey, time: u64, actor: u64) -> (Version, ApartValue) {
    let bytes = Bytes::from(vec![u8::try_from(time % 251).unwrap(); LONG + actor as usize]);
    let checksum = xxh3_64_with_seed(&bytes, key.token().0);
    let dot = Dot { time: HybridTime(time), actor: Actor(actor) };
    let (content, apart) = Content::of_value(bytes, checksum);
    let bytes = apart.expect("it is long");
    (Version { dot, content, expires: None }, ApartValue { dot, bytes })
}

pub(super) fn write_long(
    key: &StoredKey,
    context: VersionVector,
    time: u64,
    actor: u64,
) -> Mutation {
    let (version, value) = long(key, time, actor);
    Mutation { values: vec![value], ..mutation(key, Change::Write { context, version }) }
}

pub(super) fn rig() -> Rig {
    let options = StoreOptions { set_bytes_max: 1 << 20, segment_bytes: 1 << 20, ..options() };
    Rig::with(5, options)
}

/// A key of the table with siblings.
fn siblings_key() -> StoredKey {
    StoredKey::new(Token(77), TableId(2), b"k", b"").unwrap()
}

/// The number of values that lie in the tables.
fn values_kept(rig: &Rig) -> usize {
    let mut count = 0;
    rig.reader.engine.scan(&[], None, &mut |entry| {
        let (key, _) = entry.unwrap();
        count += usize::from(StoredKey::from_bytes(key).unwrap().is_apart());
        true
    });
    count
}

fn check_whole(rig: &Rig, key: &StoredKey, expected: &[(u64, u64)]) {
    let whole = rig.reader.read_whole(key);
    let values: Vec<ApartValue> =
        expected.iter().map(|&(time, actor)| long(key, time, actor).1).collect();
    assert_eq!(whole.values, values);
    let Found::Set(set) = whole.found else { panic!("it is readable") };
    assert!(set.len() < 1_000, "the set holds no long value");
    let (rows, _) = rig.reader.page(key.table(), &[], None, 10, 1 << 20, true).unwrap();
    assert_eq!(rows.len(), 1, "a value is no row");
    assert_eq!(rows[0].whole, rig.reader.read_whole(key));
}

#[test]
fn long_values_come_and_go_with_their_dots_through_crashes_and_flushes() {
    let (key, mut rig) = (siblings_key(), rig());
    rig.apply(write_long(&key, VersionVector::default(), 1, 1));
    rig.apply(write_long(&key, VersionVector::default(), 2, 2));
    check_whole(&rig, &key, &[(1, 1), (2, 2)]);
    rig = rig.crash();
    check_whole(&rig, &key, &[(1, 1), (2, 2)]);
    rig.flush();
    rig = rig.crash();
    check_whole(&rig, &key, &[(1, 1), (2, 2)]);
    let seen = VersionVector::new([(Actor(1), HybridTime(1))]);
    rig.apply(write_long(&key, seen, 3, 1));
    check_whole(&rig, &key, &[(2, 2), (3, 1)]);
    let seen = VersionVector::new([(Actor(1), HybridTime(3)), (Actor(2), HybridTime(2))]);
    let short = version(&key, 4, 1, "short");
    rig.apply(mutation(&key, Change::Write { context: seen, version: short }));
    assert_eq!(values_kept(&rig), 0);
    for _ in 0..2 {
        rig = rig.crash();
        assert_eq!(values_kept(&rig), 0);
        assert!(rig.is_clean());
        check_whole(&rig, &key, &[]);
        rig.flush();
    }
}

#[test]
fn a_set_without_a_value_that_is_lacked_changes_nothing() {
    let (key, mut rig) = (siblings_key(), rig());
    let (version, value) = long(&key, 1, 1);
    let set = SiblingSet::of(version.clone());
    assert_eq!(rig.apply(merge(&key, set.clone())), Outcome::Lacks);
    assert_eq!(rig.read(&key), absent());
    let corrupt = ApartValue { bytes: Bytes::from(vec![9; LONG + 1]), ..value.clone() };
    let with = |value| Mutation { values: vec![value], ..merge(&key, set.clone()) };
    assert_eq!(rig.apply(with(corrupt)), Outcome::Corrupt);
    assert_eq!(rig.read(&key), absent());
    assert!(matches!(rig.apply(with(value.clone())), Outcome::Merged(_)));
    // What is held is not asked for again, nor written again.
    let before = rig.writer.log.last_sequence();
    assert!(matches!(rig.apply(merge(&key, set.clone())), Outcome::Merged(_)));
    assert!(matches!(rig.apply(with(value)), Outcome::Merged(_)));
    assert_eq!(rig.writer.log.last_sequence(), before);
    check_whole(&rig, &key, &[(1, 1)]);
    // A set that has replaced it needs none of it.
    let vector = VersionVector::new([(Actor(1), HybridTime(1)), (Actor(2), HybridTime(5))]);
    let later = self::version(&key, 5, 2, "later");
    let set = SiblingSet::new(vector, vec![later]).unwrap();
    assert!(matches!(rig.apply(merge(&key, set)), Outcome::Merged(_)));
    assert_eq!(values_kept(&rig), 0);
}

#[test]
fn a_value_that_is_damaged_or_lost_makes_its_key_unreadable_until_it_is_rebuilt() {
    let (key, mut rig) = (siblings_key(), rig());
    let (version, value) = long(&key, 1, 1);
    rig.apply(write_long(&key, VersionVector::default(), 1, 1));
    rig.flush();
    rig.tables.damage(key.apart(version.dot).bytes());
    assert_eq!(rig.reader.read_whole(&key), Whole::bare(Found::Unreadable));
    assert_eq!(rig.reader.page(TableId(2), &[], None, 9, 1 << 20, true), None);
    let set = SiblingSet::of(version);
    let whole = Mutation { values: vec![value], ..rebuild(&key, set) };
    assert!(matches!(rig.apply(whole), Outcome::Merged(_)));
    check_whole(&rig, &key, &[(1, 1)]);
}

/// What is left of a key is what the others know, and nothing is claimed that they may still get.
#[test]
fn a_value_that_was_lost_and_that_nobody_has_is_forgotten_in_a_rebuild() {
    let (key, mut rig) = (siblings_key(), rig());
    for marked in [false, true] {
        let (version, _) = long(&key, 1, 1);
        rig.apply(write_long(&key, VersionVector::default(), 1, 1));
        rig.flush();
        rig.tables.damage(key.apart(version.dot).bytes());
        if marked {
            rig.writer.mark_incomplete(key.clone(), replication(&key)).unwrap();
            rig.writer.commit().unwrap();
        }
        let others = SiblingSet::of(self::version(&key, 2, 2, "theirs"));
        assert!(matches!(rig.apply(rebuild(&key, others.clone())), Outcome::Merged(_)));
        assert_eq!(rig.reader.read_whole(&key), Whole::bare(found(&others)));
        rig = self::rig();
    }
}

/// Each byte of the log in turn (every 499th, within the values): the key reads as it was or is
/// unreadable, and never gives a wrong value.
#[test]
fn a_damaged_log_loses_no_value_silently() {
    let (key, mut rig) = (siblings_key(), rig());
    rig.apply(write_long(&key, VersionVector::default(), 1, 1));
    rig.apply(write_long(&key, VersionVector::default(), 2, 2));
    rig.apply(write(&self::key(0), 3, "after"));
    let right = rig.reader.read_whole(&key);
    let is_log = |path: &String| rig.disk.content(path).is_some_and(|it| it.len() >= 2 * LONG);
    let log = rig.disk.paths().into_iter().find(is_log).unwrap();
    let used = 2 * LONG + 1_000;
    for at in (0..used).filter(|at| at % LONG < 600 || at % 499 == 0) {
        let (disk, tables) = rig.copy_killed();
        disk.flip_bit(&log, at as u64, 3);
        let opened = try_open(&disk, &tables, &rig.options, None).unwrap();
        let read = opened.reader.read_whole(&key);
        let told = !opened.report.damage.is_empty();
        assert!(
            read == right || read.found == Found::Unreadable && told,
            "byte {at}: {:?}",
            opened.report
        );
    }
}
