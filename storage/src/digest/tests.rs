use super::*;
use crate::version::{Actor, VersionVector};
use proptest::prelude::*;

fn pair(time: u64, content: Content, expires: Option<u64>) -> Version {
    let dot = Dot { time: HybridTime(time), actor: Actor(1) };
    Version { dot, content, expires: expires.map(HybridTime) }
}

fn value() -> Content {
    Content::Value { bytes: Bytes::from_static(b"value"), checksum: 0 }
}

fn set(time: u64) -> SiblingSet {
    SiblingSet::of(pair(time, value(), None))
}

fn tombstone(time: u64) -> SiblingSet {
    SiblingSet::of(pair(time, Content::Tombstone, None))
}

fn key(n: u64) -> StoredKey {
    StoredKey::new(Token(n << 50), TableId(1), &n.to_be_bytes(), b"").expect("short")
}

/// A time in the bucket of that number, and the bucket's end.
fn in_bucket(number: u64) -> (u64, HybridTime) {
    ((number << GRID_BITS_MIN) + 5, HybridTime((number + 1) << GRID_BITS_MIN))
}

fn step(digests: &mut Digests, key: &StoredKey, before: &SiblingSet, after: &SiblingSet) {
    digests.apply(key, 3, &delta(key, before, after));
}

#[test]
fn equal_stores_have_equal_digests_whatever_the_order_of_their_writes() {
    let empty = SiblingSet::default();
    let mut one = Digests::default();
    let mut two = Digests::default();
    for n in 0..100 {
        step(&mut one, &key(n), &empty, &set(n + 1));
        step(&mut one, &key(n), &set(n + 1), &set(n + 2));
        let m = 99 - n;
        step(&mut two, &key(m), &empty, &set(m + 2));
    }
    assert_eq!(one, two);
    assert_eq!(one.tables()[&TableId(1)].live, 100);
    assert_eq!(Digests::decode(&one.encode()), Some(one.clone()));
    step(&mut two, &key(5), &set(7), &set(8));
    let leaf = leaf_of(key(5).token());
    assert_ne!(one.leaf(3, leaf, HybridTime::ZERO), two.leaf(3, leaf, HybridTime::ZERO));
    assert_eq!(one.leaf(1, leaf, HybridTime::ZERO), 0);
    assert_eq!(one.leaves(3, 0..leaf, HybridTime::ZERO), two.leaves(3, 0..leaf, HybridTime::ZERO));
}

/// The property that lets replicas collect at moments of their own.
#[test]
fn under_a_floor_one_that_has_collected_and_one_that_has_not_are_equal() {
    let (key, empty) = (key(7), SiblingSet::default());
    let leaf = leaf_of(key.token());
    let (time, end) = in_bucket(4);
    let (mut holds, mut collected) = (Digests::default(), Digests::default());
    step(&mut holds, &key, &empty, &tombstone(time));
    step(&mut collected, &key, &empty, &tombstone(time));
    assert_eq!(holds.tables()[&TableId(1)].tombstones, 1);
    step(&mut collected, &key, &tombstone(time), &empty);
    assert_eq!(collected.tables()[&TableId(1)], TableFigures::default());
    let below = HybridTime(end.0 - 1);
    assert_ne!(holds.leaf(3, leaf, below), 0);
    assert_eq!(collected.leaf(3, leaf, below), 0);
    assert_eq!(holds.leaf(3, leaf, end), 0);
    assert_eq!(item_digest(&key, &tombstone(time), below), holds.leaf(3, leaf, below));
    assert_eq!(item_digest(&key, &tombstone(time), end), 0);
    assert!(holds.going(0..LEAVES, end).eq([(leaf, 1)]));
    assert!(holds.going(leaf..leaf + 1, end).eq([(leaf, 1)]));
    assert!(holds.going(leaf + 1..LEAVES, end).next().is_none());
    assert!(holds.going(0..leaf, end).next().is_none());
    assert!(holds.going(0..LEAVES, below).next().is_none());
    assert!(collected.going(0..LEAVES, end).next().is_none());
    assert_eq!(collected.bucket_count, 0);
}

#[test]
fn vectors_do_not_count() {
    let key = key(3);
    let more = VersionVector::new([(Actor(1), HybridTime(9)), (Actor(2), HybridTime(3))]);
    let knows_more = SiblingSet::new(more, set(9).versions().to_vec()).expect("it claims it");
    assert_eq!(delta(&key, &set(9), &knows_more), Delta::default());
    assert_eq!(item_digest(&key, &set(9), HybridTime::ZERO), {
        item_digest(&key, &knows_more, HybridTime::ZERO)
    });
}

#[test]
fn too_many_buckets_are_rounded_up_and_still_add_up() {
    let mut digests = Digests::default();
    let key = |leaf: u64| StoredKey::new(Token(leaf << 48), TableId(1), b"k", b"").expect("short");
    let change = |leaf: u64, number: u64, pairs: i32| {
        let bucket = BucketDelta { end: in_bucket(number).1, digest: leaf * 1_000 + number, pairs };
        Delta { going: vec![bucket], ..Delta::default() }
    };
    let fill = |digests: &mut Digests, pairs: i32| {
        for number in 0..9 {
            for leaf in 0..LEAVES as u64 {
                digests.apply(&key(leaf), 3, &change(leaf, number, pairs));
            }
        }
    };
    fill(&mut digests, 1);
    assert!(digests.bucket_count <= BUCKETS_MAX);
    assert_eq!(digests.floor_step_ms(), 2 << BUCKET_MS_BITS);
    let bytes = digests.encode();
    assert!(bytes.len() < crate::small_file::DOCUMENT_BYTES_MAX - (4 << 20));
    assert_eq!(Digests::decode(&bytes), Some(digests.clone()));
    let all = (0..9).fold(0, |all, number| all ^ (5_000 + number));
    assert_eq!(digests.leaf(3, 5, HybridTime::ZERO), all);
    // The first two go together.
    assert_eq!(digests.leaf(3, 5, in_bucket(0).1), all);
    assert_eq!(digests.leaf(3, 5, in_bucket(1).1), all ^ 5_000 ^ 5_001);
    assert!(digests.going(5..6, in_bucket(0).1).next().is_none());
    assert!(digests.going(5..6, in_bucket(1).1).eq([(5, 2)]));
    fill(&mut digests, -1);
    assert_eq!(digests.bucket_count, 0);
    assert_eq!(digests.leaf(3, 5, HybridTime::ZERO), 0);
    assert_eq!(digests.floor_step_ms(), 1 << BUCKET_MS_BITS);
}

#[test]
fn a_checkpoint_is_golden_and_a_cut_or_senseless_one_is_refused() {
    let key = StoredKey::new(Token(u64::MAX), TableId(1), b"p", b"s").expect("short");
    let mut digests = Digests::default();
    let going = vec![BucketDelta { end: HybridTime(3 << 36), digest: 0x0b, pairs: 2 }];
    let delta = Delta { stays: 0x0a, going, live: 1, tombstones: 1, bytes: 7 };
    digests.apply(&key, 3, &delta);
    let bytes = digests.encode();
    #[rustfmt::skip]
    let golden = [
        36, 1, 0,
        3, 1, 0, 0, 0, 0xff, 0xff, 0x0a, 0, 0, 0, 0, 0, 0, 0,
        1, 0, 0, 0, 0xff, 0xff, 1, 0, 0, 0,
        0, 0, 0, 0, 48, 0, 0, 0, 0x0b, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0,
        1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0,
        7, 0, 0, 0, 0, 0, 0, 0,
    ];
    assert_eq!(&bytes[..], golden);
    assert_eq!(Digests::decode(&bytes), Some(digests));
    for length in 0..bytes.len() {
        assert!(Digests::decode(&bytes[..length]).is_none());
    }
    for (at, senseless) in [(0, 35), (0, 64), (0, 38), (24, 0), (31, 1), (18, 200)] {
        let mut bytes = golden;
        bytes[at] = senseless;
        assert!(Digests::decode(&bytes).is_none(), "byte {at}: {senseless}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_digests_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..90)) {
        let _ = Digests::decode(&bytes);
    }

    /// Whatever keys went through, the leaves are the fold of what they hold, under every floor.
    #[test]
    fn leaves_are_the_fold_of_the_pairs_under_every_floor(
        steps in prop::collection::vec((0u64..6, 0u64..5, 0u64..5, 0u8..4), 0..40), floor in 0u64..12,
    ) {
        let mut digests = Digests::default();
        let mut held: BTreeMap<StoredKey, SiblingSet> = BTreeMap::new();
        for (serial, (n, bucket, lives, kind)) in (1..).zip(steps) {
            let time = in_bucket(bucket).0 + serial;
            let after = match kind {
                0 => SiblingSet::default(),
                1 => tombstone(time),
                2 => SiblingSet::of(pair(time, value(), Some(in_bucket(bucket + lives).0))),
                _ => {
                    let before = held.get(&key(n)).cloned().unwrap_or_default();
                    let mut pairs = before.versions().to_vec();
                    pairs.push(pair(time, value(), None));
                    let greatest = pairs.iter().map(|pair| pair.dot.time).max();
                    let vector = VersionVector::new(greatest.map(|time| (Actor(1), time)));
                    SiblingSet::new(vector, pairs).expect("distinct")
                }
            };
            let before = held.insert(key(n), after.clone()).unwrap_or_default();
            step(&mut digests, &key(n), &before, &after);
        }
        let floor = HybridTime(floor << GRID_BITS_MIN);
        let mut folded = vec![0; LEAVES];
        for (key, set) in &held {
            folded[leaf_of(key.token())] ^= item_digest(key, set, floor);
        }
        prop_assert_eq!(digests.leaves(3, 0..LEAVES, floor), folded);
        prop_assert_eq!(Digests::decode(&digests.encode()), Some(digests));
    }
}
