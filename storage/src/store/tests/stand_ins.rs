//! What is taken in the place of others: merged, durable with its hint, bounded, and forgotten without a
//! trace.

use super::apart::{long, rig, write_long};
use super::*;
use crate::layout::HintKind;
use crate::version::ApartValue;
use quoit_ring::NodeId;

const PRIMARY: NodeId = NodeId(2);

/// A key of the table with siblings.
fn siblings_key() -> StoredKey {
    StoredKey::new(Token(77), TableId(2), b"k", b"").unwrap()
}

fn take(rig: &mut Rig, time: u64, mutation: Mutation) -> (Outcome, Option<Hint>) {
    let time = HybridTime(time);
    let taken = rig.writer.stand_in(StandIn { primary: PRIMARY, time, mutation });
    rig.writer.commit().unwrap();
    taken
}

fn waiting(rig: &Rig) -> Vec<Hint> {
    rig.reader.hints(HintKind::StandIn, PRIMARY, HybridTime::ZERO, 100).hints
}

fn rows(rig: &Rig, key: &StoredKey) -> Vec<Row> {
    rig.reader.gather_taken(PRIMARY, std::slice::from_ref(key), 1 << 20).unwrap().1
}

fn forget(rig: &mut Rig, hint: &Hint) {
    rig.writer.change_hints(&[], [hint]).unwrap();
    rig.writer.commit().unwrap();
}

#[test]
fn all_that_is_taken_for_a_key_lies_together_under_one_hint_until_it_is_forgotten() {
    let (mut rig, key) = (rig(), siblings_key());
    let written = |time, actor| merge(&key, SiblingSet::of(version(&key, time, actor, "v")));
    let (outcome, hint) = take(&mut rig, 5, written(3, 1));
    let hint = hint.expect("it is the first");
    assert!(matches!(outcome, Outcome::Merged(_)));
    assert_eq!((hint.target, hint.time, &hint.key), (PRIMARY, HybridTime(5), &key));
    assert_eq!(take(&mut rig, 6, written(4, 2)).1, None);
    let mut rig = rig.crash();
    assert_eq!(waiting(&rig), std::slice::from_ref(&hint));
    assert_eq!(rig.reader.count_hints().waiting[&(HintKind::StandIn, PRIMARY)].number, 1);
    let [row] = &rows(&rig, &key)[..] else { panic!("it was taken") };
    let set = codec::decode(&row.set).unwrap();
    assert_eq!(set.versions().len(), 2);
    let Found::Set(read) = rig.reader.read_taken(&key, &[NodeId(1), PRIMARY], policy(&key)).found
    else {
        panic!("it is readable");
    };
    assert_eq!(read, row.set);
    // Nothing else knows of it.
    assert_eq!(rig.reader.read(&key), absent());
    assert!(rig.reader.figures().tables.iter().all(|(_, figures)| figures.live == 0));
    let bytes = rig.reader.figures().taken_bytes;
    assert!(bytes > 0);
    forget(&mut rig, &hint);
    assert_eq!(rig.reader.figures().taken_bytes, 0);
    let rig = rig.crash();
    assert_eq!((waiting(&rig), rows(&rig, &key)), (vec![], vec![]));
    assert_eq!(rig.reader.figures().taken_bytes, 0);
}

#[test]
fn a_coordinators_write_replaces_what_its_writer_saw_and_keeps_the_rest() {
    let (mut rig, key) = (rig(), siblings_key());
    let write = |context: &VersionVector, time, actor| {
        let version = version(&key, time, actor, "v");
        mutation(&key, Change::Write { context: context.clone(), version })
    };
    take(&mut rig, 1, write(&VersionVector::default(), 3, 1));
    take(&mut rig, 1, write(&VersionVector::default(), 4, 2));
    let seen = VersionVector::new([(Actor(1), HybridTime(3))]);
    let (outcome, _) = take(&mut rig, 1, write(&seen, 5, 3));
    let Outcome::Merged(set) = outcome else { panic!("{outcome:?}") };
    let set = codec::decode(&set).unwrap();
    let times: Vec<u64> = set.versions().iter().map(|version| version.dot.time.0).collect();
    assert_eq!(times, [4, 5]);
    assert!(set.vector().covers(&seen));
    let (outcome, _) = take(&mut rig, 1, write(&seen, 5, 4));
    assert_eq!(outcome, Outcome::Older(HybridTime(5)));
}

#[test]
fn long_values_lie_with_their_set_and_one_that_is_lacked_or_damaged_is_refused() {
    let (mut rig, key) = (rig(), siblings_key());
    let (version, value) = long(&key, 3, 1);
    let set = SiblingSet::of(version);
    assert_eq!(take(&mut rig, 1, merge(&key, set.clone())), (Outcome::Lacks, None));
    let damaged = ApartValue { dot: value.dot, bytes: Bytes::from_static(b"other") };
    let with = |value: ApartValue| Mutation { values: vec![value], ..merge(&key, set.clone()) };
    assert_eq!(take(&mut rig, 1, with(damaged)), (Outcome::Corrupt, None));
    assert!(matches!(take(&mut rig, 1, with(value.clone())).0, Outcome::Merged(_)));
    // What is there need not come again.
    assert!(matches!(take(&mut rig, 1, merge(&key, set.clone())).0, Outcome::Merged(_)));
    let seen = VersionVector::new([(value.dot.actor, value.dot.time)]);
    assert!(matches!(take(&mut rig, 1, write_long(&key, seen, 9, 2)).0, Outcome::Merged(_)));
    let rig = rig.crash();
    let [row] = &rows(&rig, &key)[..] else { panic!("it was taken") };
    assert_eq!(row.values, [long(&key, 9, 2).1], "what was replaced is gone");
}

#[test]
fn at_the_bound_no_more_is_taken_and_what_is_forgotten_makes_room() {
    let options = StoreOptions { taken_bytes_max: 2_000, ..options() };
    let mut rig = Rig::with(9, options);
    let text = "v".repeat(400);
    let written = |of: u64| {
        let key = key(2 * of);
        merge(&key, SiblingSet::of(version(&key, 3, 1, &text)))
    };
    let mut hints = Vec::new();
    let refused = (0..7).find(|of| match take(&mut rig, 1, written(*of)) {
        (Outcome::Merged(_), hint) => {
            hints.extend(hint);
            false
        }
        (outcome, _) => matches!(outcome, Outcome::Refused(_)),
    });
    let refused = refused.expect("the bound is reached");
    assert!(hints.len() > 2 && rig.reader.figures().taken_bytes <= 2_000);
    let mut rig = rig.crash();
    assert!(matches!(take(&mut rig, 1, written(refused)).0, Outcome::Refused(_)));
    forget(&mut rig, &hints[0]);
    assert!(matches!(take(&mut rig, 1, written(refused)).0, Outcome::Merged(_)));
}

#[test]
fn a_latest_table_takes_no_older_pair() {
    let (mut rig, key) = (Rig::new(1), key(2));
    let written = |time| merge(&key, SiblingSet::of(version(&key, time, 1, "v")));
    take(&mut rig, 1, written(7));
    assert_eq!(take(&mut rig, 1, written(6)).0, Outcome::Older(HybridTime(7)));
}

#[test]
fn what_has_lost_its_hint_is_given_another_at_the_next_start() {
    let (mut rig, key) = (rig(), siblings_key());
    let written = |time| merge(&key, SiblingSet::of(version(&key, time, 1, "v")));
    let hint = take(&mut rig, 5, written(3)).1.expect("it is the first");
    let at = key.hint(HintKind::StandIn, PRIMARY, hint.time);
    rig.writer.put_value(at, 0, None);
    rig.writer.commit().unwrap();
    assert_eq!(waiting(&rig), []);
    let rig = rig.crash();
    let anew = Hint { time: HybridTime(3), ..hint };
    assert_eq!(waiting(&rig), [anew]);
    assert_eq!(rows(&rig, &key).len(), 1);
}
