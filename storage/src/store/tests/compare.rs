//! Comparing two stores: what differs is found, step by step, and nothing else.

use super::*;
use crate::layout::vnode_range;

const N: u8 = 3;

/// Keys of the first table that lie in the first virtual node, ascending.
fn near(number: u64) -> StoredKey {
    StoredKey::new(Token(number << 40), TableId(1), format!("key {number}").as_bytes(), b"")
        .unwrap()
}

fn whole_vnode(vnode: u32) -> Range {
    let (from, to) = vnode_range(options().vnodes, VnodeIndex(vnode));
    Range { vnode: VnodeIndex(vnode), replication: N, floor: HybridTime::ZERO, from, to }
}

fn items_of(survey: &Survey) -> Vec<u64> {
    survey.items.iter().map(|(_, digest)| *digest).collect()
}

fn keys_of(rows: &[Row]) -> Vec<StoredKey> {
    rows.iter().map(|row| row.key.clone()).collect()
}

/// Two stores that differ in four ways.
fn two() -> (Rig, Rig) {
    let (mut a, mut b) = (Rig::new(1), Rig::new(2));
    for number in 0..50 {
        a.apply(write(&near(number), number + 1, "same"));
        b.apply(write(&near(number), number + 1, "same"));
    }
    a.apply(write(&near(60), 100, "only here"));
    b.apply(write(&near(61), 101, "only there"));
    a.apply(write(&near(7), 102, "later here"));
    b.apply(write(&near(8), 103, "later there"));
    // Of another N: none of its business.
    let other = StoredKey::new(Token(5), TableId(2), b"other", b"").unwrap();
    a.apply(write(&other, 104, "not counted"));
    (a, b)
}

#[test]
fn roots_differ_where_the_pairs_do_and_nowhere_else() {
    let (mut a, mut b) = two();
    let all: Vec<_> = options().vnodes.all().collect();
    let theirs = a.writer.roots(N, &all);
    let compared = b.writer.compare_roots(N, &all, &theirs);
    assert_eq!(compared.differ, [(0, HybridTime::ZERO)]);
    assert!(compared.distrusted.is_empty());
    // Under another floor roots say nothing.
    a.writer.raise_floor(VnodeIndex(3), HybridTime(9));
    a.writer.begin_era();
    a.writer.commit().unwrap();
    let compared = a.writer.compare_roots(N, &all, &b.writer.roots(N, &all));
    assert_eq!(compared.differ, [(0, HybridTime::ZERO), (3, HybridTime(9))]);
    assert_eq!(compared.distrusted.len(), 8);
}

#[test]
fn only_what_differs_is_told_in_a_range() {
    let (a, b) = two();
    let range = whole_vnode(0);
    let survey = a.reader.survey(&range, 1_000);
    assert_eq!((survey.items.len(), &survey.until), (51, &None));
    let told = b.reader.reconcile(&range, &items_of(&survey), 1_000, 1 << 20);
    assert_eq!(keys_of(&told.rows), [near(7), near(8), near(61)]);
    let unmatched = |at: &u32| survey.items[*at as usize].0.clone();
    let unmatched: Vec<_> = told.unmatched.iter().map(unmatched).collect();
    assert_eq!(unmatched, [near(7), near(8), near(60)]);
    assert!(told.is_trusted && told.until.is_none() && told.unknown == Unknown::default());
}

#[test]
fn bounded_steps_come_to_the_same_as_one() {
    let (a, b) = two();
    let whole = whole_vnode(0);
    for (items_max, rows_max, bytes_max) in [(1, 1, 1), (3, 2, 50), (7, 100, 1 << 20)] {
        let (mut rows, mut unmatched, mut from) = (Vec::new(), Vec::new(), whole.from.clone());
        loop {
            let range = Range { from: from.clone(), ..whole.clone() };
            let survey = a.reader.survey(&range, items_max);
            let to = survey.until.clone().or(whole.to.clone());
            let range = Range { to: to.clone(), ..range };
            let told = b.reader.reconcile(&range, &items_of(&survey), rows_max, bytes_max);
            rows.extend(keys_of(&told.rows));
            let is_told = |key: &StoredKey| told.until.as_ref().is_none_or(|at| key.bytes() < at);
            let keys = told.unmatched.iter().map(|at| survey.items[*at as usize].0.clone());
            unmatched.extend(keys.filter(is_told));
            match told.until.or(survey.until) {
                Some(until) => {
                    assert!(until > from, "each step gets on");
                    from = until;
                }
                None => break,
            }
        }
        assert_eq!(rows, [near(7), near(8), near(61)]);
        assert_eq!(unmatched, [near(7), near(8), near(60)]);
    }
}

#[test]
fn merging_what_was_told_makes_two_stores_equal() {
    let (mut a, mut b) = two();
    let range = whole_vnode(0);
    let survey = a.reader.survey(&range, 1_000);
    let told = b.reader.reconcile(&range, &items_of(&survey), 1_000, 1 << 20);
    let mut back: Vec<_> =
        told.unmatched.iter().map(|at| survey.items[*at as usize].0.clone()).collect();
    for Row { key, set, .. } in told.rows {
        a.apply(merge(&key, codec::decode(&set).unwrap()));
        back.push(key);
    }
    let (count, rows) = a.reader.gather_keys(&back, usize::MAX);
    assert_eq!((count, rows.len()), (6, 6));
    for Row { key, set, .. } in rows {
        b.apply(merge(&key, codec::decode(&set).unwrap()));
    }
    let all: Vec<_> = options().vnodes.all().collect();
    let compared = b.writer.compare_roots(N, &all, &a.writer.roots(N, &all));
    assert_eq!(compared, RootsCompared::default());
}

#[test]
fn a_key_under_a_mark_differs_from_one_that_is_whole_and_is_told() {
    let (mut a, mut b) = (Rig::new(1), Rig::new(2));
    for rig in [&mut a, &mut b] {
        rig.apply(write(&near(1), 1, "same"));
    }
    b.writer.mark_incomplete(near(1), N).unwrap();
    b.writer.commit().unwrap();
    let vnodes = [VnodeIndex(0)];
    let theirs = a.writer.roots(N, &vnodes);
    assert_eq!(b.writer.compare_roots(N, &vnodes, &theirs).differ.len(), 1);
    let survey = a.reader.survey(&whole_vnode(0), 10);
    let told = b.reader.reconcile(&whole_vnode(0), &items_of(&survey), 10, 1 << 10);
    assert_eq!(told.unknown.keys, [near(1)]);
    // After a restart the digests count it still, and after a rebuild no more.
    let mut b = b.kill();
    assert_eq!(b.writer.compare_roots(N, &vnodes, &theirs).differ.len(), 1);
    b.apply(rebuild(&near(1), SiblingSet::of(version(&near(1), 1, 1, "same"))));
    assert_eq!(b.writer.compare_roots(N, &vnodes, &theirs).differ, []);
}

#[test]
fn distrust_is_told_of_the_virtual_node_and_not_of_its_keys() {
    let (a, mut b) = two();
    b.writer.begin_era();
    b.writer.commit().unwrap();
    let survey = a.reader.survey(&whole_vnode(0), 100);
    let told = b.reader.reconcile(&whole_vnode(0), &items_of(&survey), 100, 1 << 20);
    assert!(!told.is_trusted);
    assert_eq!(told.unknown, Unknown::default());
    assert_eq!(told.rows.len(), 3);
}

#[test]
fn damage_is_passed_over_and_told() {
    let (a, mut b) = two();
    b.flush();
    b.tables.damage(near(8).bytes());
    let range = whole_vnode(0);
    let survey = a.reader.survey(&range, 1_000);
    let told = b.reader.reconcile(&range, &items_of(&survey), 1_000, 1 << 20);
    assert!(
        told.unknown == Unknown { keys: vec![near(8)], hides_keys: false }
            || told.unknown.hides_keys
    );
    assert!(keys_of(&told.rows).iter().all(|key| [near(7), near(61)].contains(key)));
}

#[test]
fn rows_bring_the_values_that_lie_apart() {
    let (mut rig, key) = (apart::rig(), near(1));
    rig.apply(apart::write_long(&key, VersionVector::default(), 1, 1));
    let told = rig.reader.reconcile(&whole_vnode(0), &[], 10, 1);
    assert_eq!(told.rows.len(), 1);
    assert_eq!(told.rows[0].values, [apart::long(&key, 1, 1).1]);
}
