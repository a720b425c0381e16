use super::*;
use proptest::prelude::*;
use quoit_ring::WallTime;

/// A history of one key on a few replicas: writes under contexts, and merges between replicas.
#[derive(Debug, Clone)]
enum Step {
    /// Replica `at` writes under what replica `read` holds (or blindly).
    Write { at: usize, read: Option<usize>, delete: bool },
    /// Replica `to` merges what `from` holds.
    Merge { from: usize, to: usize },
}

const REPLICAS: usize = 4;

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..REPLICAS, prop::option::of(0..REPLICAS), any::<bool>())
            .prop_map(|(at, read, delete)| Step::Write { at, read, delete }),
        (0..REPLICAS, 0..REPLICAS).prop_map(|(from, to)| Step::Merge { from, to }),
    ]
}

fn version(time: u64, actor: u64, delete: bool) -> Version {
    let content = if delete {
        Content::Tombstone
    } else {
        let bytes = Bytes::from(time.to_be_bytes().to_vec());
        let checksum = xxh3_64_with_seed(&bytes, 0);
        Content::Value { bytes, checksum }
    };
    Version { dot: Dot { time: HybridTime(time), actor: Actor(actor) }, content, expires: None }
}

/// Plays a history; beside the sets, the model: every dot and the dots that its write covered.
fn play(steps: &[Step], policy: ConflictPolicy) -> (Vec<SiblingSet>, Vec<(Dot, Vec<Dot>)>) {
    let mut sets = vec![SiblingSet::default(); REPLICAS];
    let mut events = Vec::new();
    for (time, step) in (1u64..).zip(steps) {
        match *step {
            Step::Write { at, read, delete } => {
                let context = read.map(|from| sets[from].vector().clone()).unwrap_or_default();
                let covered: Vec<Dot> = read
                    .map(|from| sets[from].versions().iter().map(|version| version.dot).collect())
                    .unwrap_or_default();
                let new = version(time, at as u64, delete);
                events.push((new.dot, covered));
                sets[at] = sets[at].write(policy, &context, new).expect("times only grow");
            }
            Step::Merge { from, to } => sets[to] = sets[to].merge(&sets[from], policy),
        }
    }
    (sets, events)
}

fn policies() -> impl Strategy<Value = ConflictPolicy> {
    prop_oneof![Just(ConflictPolicy::Latest), Just(ConflictPolicy::Siblings)]
}

proptest! {
    #[test]
    fn merge_commutes_associates_and_is_idempotent(
        steps in prop::collection::vec(step(), 0..40), policy in policies(),
    ) {
        let (sets, _) = play(&steps, policy);
        for a in &sets {
            prop_assert_eq!(&a.merge(a, policy), a);
            for b in &sets {
                prop_assert_eq!(a.merge(b, policy), b.merge(a, policy));
                for c in &sets {
                    prop_assert_eq!(
                        a.merge(b, policy).merge(c, policy),
                        a.merge(&b.merge(c, policy), policy)
                    );
                }
            }
        }
    }

    /// A base is one more thing that was seen: in a `siblings` table the laws do not even ask whether
    /// a floor was right.
    #[test]
    fn merges_with_bases_commute_associate_and_are_idempotent(
        steps in prop::collection::vec(step(), 0..30),
        bases in prop::array::uniform4(0u64..30),
    ) {
        let policy = ConflictPolicy::Siblings;
        let (sets, _) = play(&steps, policy);
        let with_bases = sets.into_iter().zip(bases);
        let sets: Vec<SiblingSet> =
            with_bases.map(|(set, base)| set.with_base(HybridTime(base))).collect();
        for a in &sets {
            prop_assert_eq!(&a.merge(a, policy), a);
            for b in &sets {
                prop_assert_eq!(a.merge(b, policy), b.merge(a, policy));
                for c in &sets {
                    prop_assert_eq!(
                        a.merge(b, policy).merge(c, policy),
                        a.merge(&b.merge(c, policy), policy)
                    );
                }
            }
        }
    }

    #[test]
    fn the_merge_of_all_replicas_holds_exactly_what_no_write_covered(
        steps in prop::collection::vec(step(), 0..40),
    ) {
        let (sets, events) = play(&steps, ConflictPolicy::Siblings);
        let all = sets.iter().fold(SiblingSet::default(), |all, set| {
            all.merge(set, ConflictPolicy::Siblings)
        });
        let held: Vec<Dot> = all.versions().iter().map(|version| version.dot).collect();
        let mut expected: Vec<Dot> = events
            .iter()
            .map(|(dot, _)| *dot)
            .filter(|dot| !events.iter().any(|(_, covered)| covered.contains(dot)))
            .collect();
        expected.sort();
        prop_assert_eq!(held, expected);
    }

    #[test]
    fn in_a_latest_table_the_greatest_dot_stays(steps in prop::collection::vec(step(), 1..40)) {
        let (sets, events) = play(&steps, ConflictPolicy::Latest);
        let all = sets.iter().fold(SiblingSet::default(), |all, set| {
            all.merge(set, ConflictPolicy::Latest)
        });
        prop_assert_eq!(all.greatest_dot(), events.iter().map(|(dot, _)| *dot).max());
    }

    #[test]
    fn every_live_dot_is_claimed(steps in prop::collection::vec(step(), 0..40), policy in policies()) {
        let (sets, _) = play(&steps, policy);
        for set in sets {
            let again = SiblingSet::new(set.vector().clone(), set.versions().to_vec());
            prop_assert_eq!(again, Some(set));
        }
    }
}

#[test]
fn a_write_below_what_was_seen_is_refused() {
    let set = SiblingSet::of(version(10, 1, false));
    for policy in [ConflictPolicy::Latest, ConflictPolicy::Siblings] {
        let result = set.write(policy, &VersionVector::default(), version(10, 2, false));
        assert_eq!(result, Err(Older(HybridTime(10))));
    }
}

#[test]
fn a_blind_write_makes_a_sibling_and_a_write_with_the_context_replaces_both() {
    let policy = ConflictPolicy::Siblings;
    let one = SiblingSet::of(version(1, 1, false));
    let two = one.write(policy, &VersionVector::default(), version(2, 2, false)).expect("greater");
    assert_eq!(two.versions().len(), 2);
    let three = two.write(policy, two.vector(), version(3, 1, false)).expect("greater");
    assert_eq!(three.versions().len(), 1);
    // The old values do not come back from a replica that missed the last write.
    assert_eq!(three.merge(&two, policy), three);
}

#[test]
fn an_expired_value_is_gone_for_readers_from_its_end_on() {
    let mut expiring = version(1, 1, false);
    expiring.expires = Some(HybridTime(100));
    assert!(expiring.is_live(HybridTime(99)));
    assert!(!expiring.is_live(HybridTime(100)));
}

#[test]
fn what_does_not_expire_stays_and_tombstones_go_with_their_bucket() {
    assert_eq!(version(1, 1, false).goes_at(), None);
    let at_ms = |ms: u64| HybridTime::at(WallTime(ms));
    let tombstone = |ms: u64, counter: u64| version(at_ms(ms).0 + counter, 1, true).goes_at();
    assert_eq!(tombstone(0, 0), Some(at_ms(1 << 20)));
    assert_eq!(tombstone((1 << 20) - 1, 65_535), Some(at_ms(1 << 20)));
    assert_eq!(tombstone(1 << 20, 0), Some(at_ms(2 << 20)));
}

#[test]
fn an_expiring_value_goes_after_its_end_with_a_bucket_of_its_time_to_live() {
    let at_ms = |ms: u64| HybridTime::at(WallTime(ms));
    let value = |written_ms: u64, expires_ms: u64| {
        let mut value = version(at_ms(written_ms).0, 1, false);
        value.expires = Some(at_ms(expires_ms));
        value.goes_at()
    };
    assert_eq!(value(5, 3), Some(at_ms(1 << 20)), "it had expired when it was written");
    assert_eq!(value(0, 16 << 20), Some(at_ms(17 << 20)));
    assert_eq!(value(0, (16 << 20) + 1), Some(at_ms(18 << 20)), "buckets of 2^21 ms");
    // A year: the next power of two above a sixteenth of it is 2^31 ms.
    let year_ms = 365 * 86_400_000;
    assert_eq!(value(0, year_ms), Some(at_ms((year_ms >> 31 << 31) + (1 << 31))));
}

proptest! {
    #[test]
    fn a_pair_goes_after_it_was_written_and_has_expired(
        time: u64, expires in prop::option::of(any::<u64>()), delete: bool,
    ) {
        let mut pair = version(time, 1, delete);
        pair.expires = expires.map(HybridTime);
        let Some(end) = pair.goes_at() else {
            prop_assert!(!delete && expires.is_none());
            return Ok(());
        };
        prop_assert!(end > pair.dot.time || end.wall().0 == u64::MAX >> 16);
        prop_assert!(delete || end > pair.expires.unwrap() || end.wall().0 == u64::MAX >> 16);
    }
}
