//! What the writer takes and what it refuses.

use super::*;

fn siblings_key() -> StoredKey {
    key(1)
}

/// A set of so many concurrent siblings, as other replicas may bring it.
fn siblings(key: &StoredKey, count: u64, bytes: usize) -> SiblingSet {
    let versions: Vec<_> =
        (1..=count).map(|actor| version(key, 10 + actor, actor, &"s".repeat(bytes))).collect();
    let vector = VersionVector::new(versions.iter().map(|v| (v.dot.actor, v.dot.time)));
    SiblingSet::new(vector, versions).unwrap()
}

fn write_under(key: &StoredKey, context: VersionVector, version: Version) -> Mutation {
    mutation(key, Change::Write { context, version })
}

#[test]
fn siblings_are_limited_for_writes_and_not_for_merges() {
    let mut rig = Rig::new(1);
    let key = siblings_key();
    let many = siblings(&key, 9, 5);
    assert!(matches!(rig.apply(merge(&key, many.clone())), Outcome::Merged(_)));
    let blind = version(&key, 100, 1, "blind");
    let blind = write_under(&key, VersionVector::default(), blind);
    assert_eq!(rig.apply(blind), Outcome::TooManySiblings);
    assert_eq!(rig.read(&key), found(&many));
    // What makes them fewer, or leaves as many, is taken though there are still too many.
    let first = VersionVector::new([(Actor(1), HybridTime(11))]);
    let one_less = write_under(&key, first, version(&key, 100, 2, "one for one"));
    assert!(matches!(rig.apply(one_less), Outcome::Merged(_)));
    let all = write_under(&key, many.vector().clone(), version(&key, 101, 3, "resolved"));
    assert!(matches!(rig.apply(all), Outcome::Merged(_)));
    let Found::Set(set) = rig.read(&key) else { panic!("it is readable") };
    assert_eq!(codec::decode(&set).unwrap().versions().len(), 2);
}

#[test]
fn a_set_s_bytes_are_limited_for_writes_and_not_for_merges() {
    let mut rig = Rig::new(1);
    let key = siblings_key();
    let large = "x".repeat(5 << 10);
    assert_eq!(rig.apply(write(&key, 1, &large)), Outcome::TooLarge);
    assert_eq!(rig.read(&key), absent());
    let set = SiblingSet::of(version(&key, 1, 1, &large));
    assert!(matches!(rig.apply(merge(&key, set.clone())), Outcome::Merged(_)));
    assert_eq!(rig.read(&key), found(&set));
    let smaller = version(&key, 2, 2, &"y".repeat((4 << 10) + 500));
    let smaller = write_under(&key, set.vector().clone(), smaller);
    assert!(matches!(rig.apply(smaller), Outcome::Merged(_)), "it makes the set smaller");
}

#[test]
fn more_actors_than_a_set_can_name_are_refused_without_a_panic() {
    let mut rig = Rig::new(1);
    let key = siblings_key();
    let claims = |first: u64| {
        let actors = first..first + 40_000;
        let vector = VersionVector::new(actors.map(|actor| (Actor(actor), HybridTime(1))));
        SiblingSet::new(vector, Vec::new()).unwrap()
    };
    assert!(matches!(rig.apply(merge(&key, claims(0))), Outcome::Merged(_)));
    assert_eq!(rig.apply(merge(&key, claims(40_000))), Outcome::TooLarge);
    let context = claims(40_000).vector().clone();
    let write = write_under(&key, context, version(&key, 2, 1, "value"));
    assert_eq!(rig.apply(write), Outcome::TooLarge);
    assert_eq!(rig.read(&key), found(&claims(0)));
}

#[test]
fn a_value_without_its_checksum_is_refused_wherever_it_comes_from() {
    let mut rig = Rig::new(1);
    for key in [key(0), siblings_key()] {
        let mut corrupt = version(&key, 1, 1, "value");
        if let Content::Value { checksum, .. } = &mut corrupt.content {
            *checksum ^= 1;
        }
        let set = SiblingSet::of(corrupt.clone());
        assert_eq!(rig.apply(merge(&key, set.clone())), Outcome::Corrupt);
        assert_eq!(rig.apply(rebuild(&key, set)), Outcome::Corrupt);
        let write = write_under(&key, VersionVector::default(), corrupt);
        assert_eq!(rig.apply(write), Outcome::Corrupt);
        assert_eq!(rig.read(&key), absent());
    }
}

#[test]
fn a_latest_table_answers_older_and_a_merge_of_the_same_writes_nothing() {
    let mut rig = Rig::new(1);
    rig.apply(write(&key(0), 5, "five"));
    assert_eq!(rig.apply(write(&key(0), 5, "again")), Outcome::Older(HybridTime(5)));
    let older = SiblingSet::of(version(&key(0), 4, 1, "four"));
    assert_eq!(rig.apply(merge(&key(0), older)), Outcome::Older(HybridTime(5)));
    let same = SiblingSet::of(version(&key(0), 5, 1, "five"));
    let sequence = rig.reader.figures().sequence;
    assert_eq!(
        rig.writer.prepare(merge(&key(0), same.clone())),
        Outcome::Merged(codec::encode(&same))
    );
    assert!(!rig.writer.has_prepared());
    rig.writer.commit().unwrap();
    assert_eq!(rig.reader.figures().sequence, sequence);
    assert!(matches!(rig.apply(merge(&key(0), SiblingSet::default())), Outcome::Merged(_)));
    assert_eq!(rig.read(&key(0)), value("five", &key(0), 5));
}

#[test]
fn what_changes_nothing_rests_on_its_batch_and_fails_with_it() {
    let mut rig = Rig::new(1);
    let set = SiblingSet::of(version(&key(0), 5, 1, "five"));
    assert!(matches!(rig.writer.prepare(merge(&key(0), set.clone())), Outcome::Merged(_)));
    assert!(matches!(rig.writer.prepare(merge(&key(0), set.clone())), Outcome::Merged(_)));
    assert_eq!(rig.read(&key(0)), absent());
    rig.disk.fail_syncs(1);
    assert!(rig.writer.commit().is_err());
    assert_eq!(rig.read(&key(0)), absent());
}

#[test]
fn mutations_of_one_batch_build_on_each_other() {
    let mut rig = Rig::new(1);
    let key = siblings_key();
    let Outcome::Merged(first) = rig.writer.prepare(write(&key, 1, "one")) else { panic!() };
    let context = codec::decode(&first).unwrap().vector().clone();
    let second = write_under(&key, context, version(&key, 2, 1, "two"));
    let Outcome::Merged(second) = rig.writer.prepare(second) else { panic!() };
    let set = codec::decode(&second).unwrap();
    assert_eq!(set.versions().len(), 1);
    rig.writer.commit().unwrap();
    assert_eq!(rig.read(&key), Found::Set(second));
    let held = BTreeMap::from([(key, set)]);
    rig.check_digests(&held);
    rig.crash().check_digests(&held);
}

#[test]
fn expired_values_stay_until_they_are_collected() {
    let mut rig = Rig::new(1);
    let mut expiring = version(&key(0), 5, 1, "gone soon");
    expiring.expires = Some(HybridTime(6));
    let set = SiblingSet::of(expiring.clone());
    rig.apply(write_under(&key(0), VersionVector::default(), expiring));
    rig.flush();
    let rig = rig.crash();
    assert_eq!(rig.read(&key(0)), found(&set));
    assert!(set.is_live(HybridTime(5)) && !set.is_live(HybridTime(6)));
    assert_eq!(rig.reader.figures().tables[0].1.live, 1);
    rig.check_digests(&BTreeMap::from([(key(0), set)]));
}

#[test]
fn a_page_ends_where_its_limits_say_and_the_next_begins_there() {
    let mut rig = Rig::new(1);
    let numbers = [0, 2, 4, 6];
    for number in numbers {
        rig.apply(write(&key(number), 1, &"x".repeat(100)));
        rig.apply(write(&siblings_key(), number + 1, "of another table"));
    }
    let page = |from: &[u8], to: Option<&[u8]>, rows: usize, bytes: usize| {
        let (rows, more) = rig.reader.page(TableId(1), from, to, rows, bytes, false).unwrap();
        (rows.into_iter().map(|row| row.key).collect::<Vec<_>>(), more)
    };
    let keys: Vec<_> = numbers.into_iter().map(key).collect();
    assert_eq!(page(&[], None, 10, 1 << 20), (keys.clone(), false));
    assert_eq!(page(&[], None, 4, 1 << 20), (keys.clone(), false));
    assert_eq!(page(&[], None, 3, 1 << 20), (keys[..3].to_vec(), true));
    assert_eq!(page(&[], None, 10, 1), (keys[..1].to_vec(), true));
    assert_eq!(
        page(keys[1].bytes(), Some(keys[3].bytes()), 9, 1 << 20),
        (keys[1..3].to_vec(), false)
    );
}

/// What was lost with a batch may be at peers: a later dot of its actor would claim it.
#[test]
fn an_actor_whose_write_was_not_committed_makes_no_more_dots() {
    let mut rig = Rig::new(1);
    let key = siblings_key();
    let by = |actor, time: u64, value: &str| {
        let seen = VersionVector::new([(Actor(1), HybridTime(time - 1))]);
        write_under(&key, seen, version(&key, time, actor, value))
    };
    rig.disk.limit(Some(rig.disk.used_bytes()));
    let mut time = 1;
    loop {
        time += 1;
        let merged = rig.writer.prepare(by(1, time, &"x".repeat(500)));
        assert!(matches!(merged, Outcome::Merged(_)));
        if rig.writer.commit().is_err() {
            break;
        }
    }
    rig.disk.limit(None);
    assert!(matches!(rig.apply(by(1, time + 1, "after")), Outcome::Refused(_)));
    assert!(matches!(rig.apply(by(2, time + 2, "after")), Outcome::Merged(_)));
}
