//! Floors: under one nothing comes back and nothing that is live is dropped, whenever each replica
//! collects.

use proptest::prelude::*;
use proptest::test_runner::Config;

use super::*;
use crate::digest::leaf_of;
use crate::version::BUCKET_MS_BITS;

/// The shortest bucket, as a hybrid time.
const BUCKET: u64 = 1 << (BUCKET_MS_BITS + 16);

fn tombstone(time: u64, actor: u64) -> Version {
    let dot = Dot { time: HybridTime(time), actor: Actor(actor) };
    Version { dot, content: Content::Tombstone, expires: None }
}

fn vnode_of(key: &StoredKey) -> VnodeIndex {
    options().vnodes.vnode_of(key.token())
}

fn latest_key() -> StoredKey {
    key(0)
}

fn siblings_key() -> StoredKey {
    key(1)
}

fn collect(key: &StoredKey) -> Mutation {
    mutation(key, Change::Collect)
}

fn merge_under(key: &StoredKey, set: SiblingSet, authority: u64) -> Mutation {
    let authority = Some(HybridTime(authority));
    mutation(key, Change::Merge { set, rebuild: false, authority })
}

impl Rig {
    fn raise_floor(&mut self, floor: u64) {
        for vnode in options().vnodes.all() {
            self.writer.raise_floor(vnode, HybridTime(floor));
        }
        self.writer.commit().unwrap();
    }

    fn set(&self, key: &StoredKey) -> SiblingSet {
        let Found::Set(set) = self.read(key) else { panic!("{key:?} is readable") };
        codec::decode(&set).unwrap()
    }

    /// The number of keys in the tables.
    fn entries(&self) -> usize {
        let mut count = 0;
        self.writer.engine.scan(&[], None, &mut |_| {
            count += 1;
            true
        });
        count
    }
}

fn older(floor: u64) -> Outcome {
    Outcome::Older(HybridTime(floor))
}

#[test]
fn a_floor_outlives_crashes_and_flushes_and_never_goes_down() {
    let mut rig = Rig::new(1);
    rig.writer.raise_floor(VnodeIndex(3), HybridTime(7));
    assert!(rig.writer.has_prepared());
    assert_eq!(rig.reader.floor(VnodeIndex(3)), HybridTime::ZERO);
    rig.writer.commit().unwrap();
    rig.writer.raise_floor(VnodeIndex(3), HybridTime(6));
    assert!(!rig.writer.has_prepared());
    for flush in [false, true, false] {
        if flush {
            rig.apply(write(&key(0), 1, "value"));
            rig.flush();
        }
        rig = rig.crash();
        assert_eq!(rig.reader.floor(VnodeIndex(3)), HybridTime(7));
        assert_eq!(rig.reader.floor(VnodeIndex(2)), HybridTime::ZERO);
    }
}

#[test]
fn a_damaged_floor_is_told_and_is_lower() {
    let mut rig = Rig::new(1);
    rig.writer.raise_floor(VnodeIndex(3), HybridTime(7));
    rig.writer.commit().unwrap();
    rig.apply(write(&key(0), 1, "value"));
    let (disk, tables) = rig.copy_killed();
    let log = disk.paths().into_iter().find(|path| path.ends_with(".log")).unwrap();
    let record = [8, 3, 0, 0, 0, 7, 0, 0, 0];
    let content = disk.content(&log).unwrap();
    let at = content.windows(9).position(|window| window == record).unwrap();
    disk.flip_bit(&log, at as u64 + 5, 1);
    let opened = try_open(&disk, &tables, &rig.options, None).unwrap();
    assert_eq!((opened.report.damage.len(), opened.report.distrusted), (1, 0));
    assert_eq!(opened.reader.floor(VnodeIndex(3)), HybridTime::ZERO);
}

#[test]
fn a_pair_under_the_floor_that_is_not_held_is_refused() {
    for key in [latest_key(), siblings_key()] {
        let mut rig = Rig::new(1);
        let early = SiblingSet::of(version(&key, 5, 1, "early"));
        rig.apply(merge(&key, early.clone()));
        rig.raise_floor(10);
        // What is held stays, and is merged as before.
        assert!(matches!(rig.apply(merge(&key, early.clone())), Outcome::Merged(_)));
        assert_eq!(rig.set(&key), early);
        let late = SiblingSet::of(version(&key, 9, 2, "late"));
        assert_eq!(rig.apply(merge(&key, late.clone())), older(10));
        assert_eq!(rig.apply(write(&key, 10, "late")), older(10));
        assert_eq!(rig.set(&key), early);
        // Nor is it taken in for a newer one's sake.
        let seen = VersionVector::new([(Actor(1), HybridTime(5))]);
        let newer = version(&key, 11, 3, "newer");
        rig.apply(mutation(&key, Change::Write { context: seen, version: newer }));
        let mut both = late.merge(&rig.set(&key), ConflictPolicy::Siblings);
        both = if policy(&key) == ConflictPolicy::Latest { rig.set(&key) } else { both };
        assert!(matches!(rig.apply(merge(&key, both)), Outcome::Merged(_)));
        assert_eq!(rig.set(&key).versions().len(), 1);
        // Nothing was ever held there: it was collected.
        let (never, policy_of) = (self::key(4), policy(&self::key(4)));
        assert_eq!(policy_of, ConflictPolicy::Latest);
        let late = SiblingSet::of(version(&never, 9, 2, "late"));
        assert_eq!(rig.apply(merge(&never, late)), older(10));
        assert_eq!(rig.read(&never), absent());
    }
}

#[test]
fn a_dot_that_was_superseded_is_merged_though_it_is_under_the_floor() {
    let (key, mut rig) = (siblings_key(), Rig::new(1));
    let first = SiblingSet::of(version(&key, 5, 1, "first"));
    rig.apply(merge(&key, first.clone()));
    let second = version(&key, 20, 1, "second");
    let context = first.vector().clone();
    rig.apply(mutation(&key, Change::Write { context, version: second }));
    rig.raise_floor(10);
    assert!(matches!(rig.apply(merge(&key, first)), Outcome::Merged(_)));
    assert_eq!(rig.set(&key).greatest_dot().unwrap().time, HybridTime(20));
}

#[test]
fn a_tombstone_goes_with_its_key_and_leaves_nothing_in_the_tables() {
    for key in [latest_key(), siblings_key()] {
        let mut rig = Rig::new(1);
        rig.apply(write(&key, 5, "value"));
        let seen = VersionVector::new([(Actor(1), HybridTime(5))]);
        let deletion = Change::Write { context: seen, version: tombstone(9, 2) };
        rig.apply(mutation(&key, deletion));
        let deleted = rig.set(&key);
        rig.flush();
        assert_eq!(rig.entries(), 1);
        // Its bucket does not end under this floor.
        rig.raise_floor(10);
        let sequence = rig.writer.log.last_sequence();
        assert!(matches!(rig.apply(collect(&key)), Outcome::Merged(_)));
        assert_eq!(rig.writer.log.last_sequence(), sequence, "nothing goes");
        rig.raise_floor(BUCKET);
        assert_eq!(rig.apply(collect(&key)), Outcome::Merged(Bytes::new()));
        let sequence = rig.writer.log.last_sequence();
        for _ in 0..3 {
            assert_eq!((rig.read(&key), rig.entries()), (absent(), 0));
            rig.check_digests(&BTreeMap::new());
            assert_eq!(rig.apply(collect(&key)), Outcome::Merged(Bytes::new()));
            assert_eq!(rig.writer.log.last_sequence(), sequence);
            // One that has not collected yet brings nothing back.
            assert_eq!(rig.apply(merge(&key, deleted.clone())), older(BUCKET));
            assert_eq!(rig.entries(), 0);
            rig = rig.crash();
        }
        // Deleted, collected and created again.
        assert!(matches!(rig.apply(write(&key, BUCKET + 1, "again")), Outcome::Merged(_)));
        assert_eq!(rig.set(&key).versions().len(), 1);
    }
}

/// The set of a write that covered an old value names that value's actor no more, and still takes
/// the value away where the write had not been heard of.
#[test]
fn what_was_packed_away_is_still_covered_elsewhere() {
    let key = siblings_key();
    let (mut one, mut other) = (Rig::new(1), Rig::new(2));
    let old = SiblingSet::of(version(&key, 5, 1, "old"));
    for rig in [&mut one, &mut other] {
        rig.apply(merge(&key, old.clone()));
        rig.raise_floor(10);
    }
    let context = old.vector().clone();
    let new = version(&key, 20, 2, "new");
    one.apply(mutation(&key, Change::Write { context, version: new.clone() }));
    let set = one.set(&key);
    assert_eq!(set.vector().base(), HybridTime(10));
    assert_eq!(set.vector().entries(), [(Actor(2), HybridTime(20))]);
    other.apply(merge(&key, set.clone()));
    assert_eq!(other.set(&key), set);
    assert_eq!(other.set(&key).versions(), [new]);
}

#[test]
fn an_incomplete_key_takes_in_what_the_floor_would_refuse_and_does_not_count_for_it() {
    for key in [latest_key(), siblings_key()] {
        let mut rig = Rig::new(1);
        rig.raise_floor(10);
        rig.writer.mark_incomplete(key.clone(), replication(&key)).unwrap();
        let late = SiblingSet::of(version(&key, 9, 1, "late"));
        assert_eq!(rig.apply(merge(&key, late.clone())), Outcome::Incomplete);
        // Tombstones stay while nobody knows what they cover.
        let deleted = SiblingSet::of(tombstone(8, 3));
        rig.raise_floor(BUCKET);
        rig.apply(merge(&key, deleted));
        assert_eq!(rig.apply(collect(&key)), Outcome::Incomplete);
        assert_eq!(rig.read(&key), Found::Unreadable);
        // A rebuild tells what of it was live, and what was deleted and collected.
        let kept = if policy(&key) == ConflictPolicy::Latest {
            late
        } else {
            SiblingSet::of(version(&key, 7, 4, "kept"))
        };
        assert!(matches!(rig.apply(rebuild(&key, kept.clone())), Outcome::Merged(_)));
        assert_eq!(rig.set(&key).versions(), kept.versions());
        rig.writer.mark_incomplete(key.clone(), replication(&key)).unwrap();
        assert!(matches!(rig.apply(rebuild(&key, SiblingSet::default())), Outcome::Merged(_)));
        assert_eq!((rig.read(&key), rig.entries()), (absent(), 0));
    }
}

#[test]
fn a_distrusted_virtual_node_takes_in_what_the_floor_would_refuse() {
    let (key, mut rig) = (siblings_key(), Rig::new(1));
    rig.raise_floor(10);
    rig.writer.begin_era();
    let whole = SiblingSet::of(version(&key, 9, 1, "live elsewhere"));
    assert_eq!(rig.apply(merge_under(&key, whole.clone(), 10)), Outcome::Incomplete, "taken in");
    let gone = self::key(0);
    let stale = SiblingSet::of(version(&gone, 8, 1, "deleted elsewhere"));
    assert_eq!(rig.apply(merge(&gone, stale)), Outcome::Incomplete);
    rig.apply(merge_under(&gone, SiblingSet::default(), 10));
    assert_eq!(rig.entries(), 1, "it is as unknown as any absent key");
    rig.writer.trust(vnode_of(&key));
    rig.writer.commit().unwrap();
    assert_eq!(rig.read(&key), found(&whole));
    assert_eq!(rig.read(&gone), absent());
}

#[test]
fn a_restored_copy_drops_what_a_whole_peer_has_collected() {
    for key in [latest_key(), siblings_key()] {
        let mut rig = Rig::new(1);
        rig.raise_floor(3);
        let old = SiblingSet::of(version(&key, 5, 1, "deleted since"));
        rig.apply(merge(&key, old));
        let empty = rig.apply(merge_under(&key, SiblingSet::default(), 10));
        assert_eq!(empty, Outcome::Merged(Bytes::new()));
        assert_eq!((rig.read(&key), rig.entries()), (absent(), 0));
        // What is later than the peer's floor stays, and what it holds comes.
        let later = version(&key, 12, 1, "later");
        rig.apply(merge(&key, SiblingSet::of(later.clone())));
        let theirs = version(&key, 4, 2, "theirs");
        rig.apply(merge_under(&key, SiblingSet::of(theirs.clone()), 10));
        let expected = match policy(&key) {
            ConflictPolicy::Latest => vec![later],
            ConflictPolicy::Siblings => vec![theirs, later],
        };
        assert_eq!(rig.set(&key).versions(), expected);
        // An older pair of a `latest` table comes too, once the newer one is known to be gone.
        let theirs = SiblingSet::of(version(&key, 4, 2, "theirs"));
        rig.apply(merge_under(&key, theirs.clone(), 20));
        assert_eq!(rig.set(&key).versions(), theirs.versions());
        let rig = rig.crash();
        assert_eq!(rig.set(&key).versions(), theirs.versions());
    }
}

#[test]
fn an_expired_value_goes_with_its_bytes_that_lie_apart() {
    let key = siblings_key();
    let options = StoreOptions { set_bytes_max: 1 << 20, segment_bytes: 1 << 20, ..options() };
    let mut rig = Rig::with(1, options);
    let bytes = Bytes::from(vec![3; crate::version::INLINE_BYTES_MAX + 1]);
    let checksum = xxh3_64_with_seed(&bytes, key.token().0);
    let (content, apart) = Content::of_value(bytes, checksum);
    let dot = Dot { time: HybridTime(5), actor: Actor(1) };
    let long = Version { dot, content, expires: Some(HybridTime(BUCKET + 1)) };
    let values = vec![crate::version::ApartValue { dot, bytes: apart.unwrap() }];
    let change = Change::Write { context: VersionVector::default(), version: long };
    rig.apply(Mutation { values, ..mutation(&key, change) });
    assert_eq!(rig.entries(), 2);
    rig.raise_floor(2 * BUCKET - 1);
    rig.apply(collect(&key));
    assert_eq!(rig.entries(), 2);
    rig.raise_floor(2 * BUCKET);
    rig.apply(collect(&key));
    assert_eq!((rig.read(&key), rig.entries()), (absent(), 0));
    let rig = rig.crash();
    assert_eq!((rig.read(&key), rig.entries()), (absent(), 0));
}

/// All keys that a virtual node's steps list, and the number of steps.
fn list(rig: &Rig, vnode: VnodeIndex, keys_max: usize) -> (Vec<StoredKey>, usize) {
    let (mut keys, mut steps, mut from) = (Vec::new(), 0, Bytes::new());
    loop {
        let found = rig.writer.collectible(vnode, &from, keys_max).unwrap();
        assert!(found.keys.len() <= keys_max);
        keys.extend(found.keys.into_iter().map(|(key, replication)| {
            assert_eq!(replication, self::replication(&key));
            key
        }));
        steps += 1;
        match found.next {
            Some(next) => from = next,
            None => return (keys, steps),
        }
    }
}

fn many_options() -> StoreOptions {
    StoreOptions { memory_bytes_max: 1 << 20, segment_bytes: 1 << 20, ..options() }
}

fn leaf_key(leaf: u64, number: u64) -> StoredKey {
    let token = Token(leaf << 48 | number);
    StoredKey::new(token, TableId(1), &number.to_be_bytes(), b"").unwrap()
}

#[test]
fn what_may_be_collected_is_listed_in_steps_without_the_other_leaves() {
    let mut rig = Rig::with(1, many_options());
    for (leaf, number) in (0..40).flat_map(|leaf| (0..20).map(move |number| (leaf, number))) {
        let key = leaf_key(leaf, number);
        let deletes = leaf % 10 == 3 && number % 4 == 1;
        let version = match deletes {
            true => tombstone(5, 1),
            false => version(&key, 5, 1, "value"),
        };
        rig.writer.prepare(merge(&key, SiblingSet::of(version)));
    }
    rig.writer.commit().unwrap();
    let expected: Vec<StoredKey> = [3, 13, 23, 33]
        .into_iter()
        .flat_map(|leaf| [1, 5, 9, 13, 17].map(|number| leaf_key(leaf, number)))
        .collect();
    let vnode = VnodeIndex(0);
    assert_eq!(list(&rig, vnode, 100), (Vec::new(), 1), "there is no floor");
    rig.raise_floor(BUCKET - 1);
    assert_eq!(list(&rig, vnode, 100), (Vec::new(), 1), "they may not go yet");
    rig.raise_floor(BUCKET);
    assert_eq!(list(&rig, vnode, 100), (expected.clone(), 1));
    // A step that is full tells where the next one begins, even if nothing comes there.
    let (keys, steps) = list(&rig, vnode, 3);
    assert_eq!((keys, steps), (expected.clone(), 7));
    assert_eq!(list(&rig, VnodeIndex(1), 3), (Vec::new(), 1));
    assert_eq!(list(&rig, VnodeIndex(999), 3), (Vec::new(), 1));
    // What has gone is listed no more, and the figures tell.
    assert_eq!(rig.reader.figures().tables[0].1.tombstones, 20);
    for key in &expected[..18] {
        assert!(matches!(rig.apply(collect(key)), Outcome::Merged(_)));
    }
    assert_eq!(list(&rig, vnode, 100).0, expected[18..]);
    assert_eq!(rig.reader.figures().tables[0].1.tombstones, 2);
    assert_eq!(rig.reader.figures().tables[0].1.live, 780);
    rig.check_digests_cover("collected");
    let mut rig = rig.crash();
    assert_eq!(list(&rig, vnode, 100).0, expected[18..]);
    // Incomplete keys are not collected, nor anything where all is distrusted.
    rig.writer.mark_incomplete(expected[18].clone(), 3).unwrap();
    rig.writer.commit().unwrap();
    assert_eq!(list(&rig, vnode, 100).0, expected[19..]);
    rig.writer.begin_era();
    rig.writer.commit().unwrap();
    assert_eq!(list(&rig, vnode, 100), (Vec::new(), 1));
}

#[test]
fn a_step_through_a_full_leaf_is_bounded() {
    let mut rig = Rig::with(1, many_options());
    for number in 0..1_300 {
        let key = leaf_key(3, number);
        let version = match number {
            0 | 1_299 => tombstone(5, 1),
            _ => version(&key, 5, 1, "value"),
        };
        rig.writer.prepare(merge(&key, SiblingSet::of(version)));
    }
    rig.writer.commit().unwrap();
    rig.raise_floor(BUCKET);
    let expected = vec![leaf_key(3, 0), leaf_key(3, 1_299)];
    assert_eq!(list(&rig, VnodeIndex(0), 100), (expected, 3));
}

const REPLICAS: usize = 3;

#[derive(Debug, Clone)]
enum Step {
    /// Replica `at` writes under what replica `read` holds, or blindly.
    Write {
        at: usize,
        sibling: bool,
        read: Option<usize>,
        kind: u8,
        pause: u64,
    },
    /// Replica `to` merges what `from` holds.
    Send {
        from: usize,
        to: usize,
    },
    /// Something that was read long ago arrives only now.
    SendOld {
        which: prop::sample::Index,
        to: usize,
    },
    /// All replicas have applied all that was ever written.
    Settle,
    /// One of them hears of it.
    Raise {
        at: usize,
    },
    Collect {
        at: usize,
    },
    /// All of that, after a while in which nobody wrote.
    Rest,
    Crash {
        at: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let at = 0..REPLICAS;
    let read = prop::option::weighted(0.8, 0..REPLICAS);
    prop_oneof![
        8 => (at.clone(), any::<bool>(), read, 0u8..6, 0..BUCKET).prop_map(
            |(at, sibling, read, kind, pause)| Step::Write { at, sibling, read, kind, pause }
        ),
        5 => (at.clone(), at.clone()).prop_map(|(from, to)| Step::Send { from, to }),
        5 => (any::<prop::sample::Index>(), at.clone())
            .prop_map(|(which, to)| Step::SendOld { which, to }),
        2 => Just(Step::Settle),
        2 => Just(Step::Rest),
        3 => at.clone().prop_map(|at| Step::Raise { at }),
        3 => at.clone().prop_map(|at| Step::Collect { at }),
        1 => at.prop_map(|at| Step::Crash { at }),
    ]
}

/// Three replicas of two keys, and what became of every write.
struct Cluster {
    rigs: Vec<Rig>,
    time: u64,
    settled: u64,
    /// What was read at some time, and may still be on its way.
    old: Vec<(StoredKey, SiblingSet)>,
    /// Every write that was taken, and the dots that it covered.
    writes: Vec<(StoredKey, Version, Vec<Dot>)>,
}

impl Cluster {
    fn new() -> Self {
        let rigs = (0..REPLICAS as u64).map(Rig::new).collect();
        Self { rigs, time: 0, settled: 0, old: Vec::new(), writes: Vec::new() }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Write { at, sibling, read, kind, pause } => {
                let key = if sibling { siblings_key() } else { latest_key() };
                self.write(at, &key, read, kind, pause);
            }
            Step::Send { from, to } => self.send(from, to),
            Step::SendOld { which, to } if !self.old.is_empty() => {
                let (key, set) = which.get(&self.old).clone();
                self.rigs[to].apply(merge(&key, set));
            }
            Step::SendOld { .. } => {}
            Step::Settle => {
                self.gather_and_scatter();
                self.settled = self.time;
                self.time += 1;
            }
            Step::Raise { at } => self.rigs[at].raise_floor(self.settled),
            Step::Collect { at } => {
                let rig = &mut self.rigs[at];
                let (keys, _) = list(rig, VnodeIndex(0), 1);
                for key in &keys {
                    rig.apply(collect(key));
                }
                let floor = rig.reader.floor(VnodeIndex(0));
                for key in [latest_key(), siblings_key()] {
                    assert_eq!(rig.set(&key).count_going(floor), 0, "all of {keys:?} have gone");
                }
            }
            Step::Rest => {
                self.time += 2 * BUCKET;
                self.step(Step::Settle);
                (0..REPLICAS).for_each(|at| self.step(Step::Raise { at }));
                (0..REPLICAS).for_each(|at| self.step(Step::Collect { at }));
            }
            Step::Crash { at } => self.rigs[at] = self.rigs[at].crash(),
        }
    }

    fn write(&mut self, at: usize, key: &StoredKey, read: Option<usize>, kind: u8, pause: u64) {
        self.time += 1 + pause;
        let mut version = version(key, self.time, at as u64, "value");
        match kind {
            0 | 1 => version.content = Content::Tombstone,
            2 => version.expires = Some(HybridTime(self.time + BUCKET / 2)),
            _ => {}
        }
        let seen = read.map(|from| self.rigs[from].set(key)).unwrap_or_default();
        let change = match policy(key) {
            ConflictPolicy::Latest => {
                let set = SiblingSet::of(version.clone());
                Change::Merge { set, rebuild: false, authority: None }
            }
            ConflictPolicy::Siblings => {
                Change::Write { context: seen.vector().clone(), version: version.clone() }
            }
        };
        match self.rigs[at].apply(mutation(key, change)) {
            Outcome::Merged(_) => {
                let covered = seen.versions().iter().map(|version| version.dot).collect();
                self.writes.push((key.clone(), version, covered));
            }
            Outcome::TooManySiblings => {}
            other => panic!("{other:?}"),
        }
        self.old.push((key.clone(), self.rigs[at].set(key)));
    }

    fn send(&mut self, from: usize, to: usize) {
        for key in [latest_key(), siblings_key()] {
            let set = self.rigs[from].set(&key);
            self.old.push((key.clone(), set.clone()));
            self.rigs[to].apply(merge(&key, set));
        }
    }

    fn gather_and_scatter(&mut self) {
        for other in 1..REPLICAS {
            self.send(other, 0);
        }
        for other in 1..REPLICAS {
            self.send(0, other);
        }
    }

    /// The pairs of a key that no write has covered.
    fn live(&self, key: &StoredKey) -> Vec<Version> {
        let of_key = || self.writes.iter().filter(|(of, ..)| of == key);
        let live = of_key().filter(|(_, version, _)| match policy(key) {
            ConflictPolicy::Latest => of_key().all(|(_, other, _)| other.dot <= version.dot),
            ConflictPolicy::Siblings => {
                of_key().all(|(.., covered)| !covered.contains(&version.dot))
            }
        });
        live.map(|(_, version, _)| version.clone()).collect()
    }

    /// Every replica holds what is live, but for what may go, and nothing else.
    fn check(&self) {
        let floors: Vec<_> = self.rigs.iter().map(|rig| rig.reader.floor(VnodeIndex(0))).collect();
        for key in [latest_key(), siblings_key()] {
            let live = self.live(&key);
            for (rig, floor) in self.rigs.iter().zip(&floors) {
                let set = rig.set(&key);
                let is_live = |version: &Version| live.contains(version);
                assert!(set.versions().iter().all(is_live), "{set:?} of {live:?}");
                let stays =
                    |version: &&Version| version.goes_at().is_none_or(|end| end.0 > self.settled);
                let missing = live.iter().filter(stays).find(|version| !set.holds(version.dot));
                assert_eq!(missing, None, "{set:?} under {floor}");
            }
        }
        let settled = HybridTime(self.settled);
        let leaves = |rig: &Rig, key: &StoredKey| {
            rig.writer.digests().leaf(replication(key), leaf_of(key.token()), settled)
        };
        for rig in &self.rigs {
            rig.check_digests_cover("floors");
            for key in [latest_key(), siblings_key()] {
                assert_eq!(leaves(rig, &key), leaves(&self.rigs[0], &key), "under {settled}");
            }
        }
    }
}

proptest! {
    #![proptest_config(Config { cases: 256, ..Config::default() })]

    #[test]
    fn nothing_comes_back_and_nothing_live_is_dropped(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut cluster = Cluster::new();
        steps.into_iter().for_each(|step| cluster.step(step));
        cluster.gather_and_scatter();
        cluster.check();
        for at in 0..REPLICAS {
            cluster.step(Step::Crash { at });
        }
        cluster.check();
    }
}

#[test]
fn of_two_under_one_floor_a_straggler_that_one_has_met_comes_to_both() {
    for key in [latest_key(), siblings_key()] {
        let (mut a, mut b) = (Rig::new(1), Rig::new(2));
        let held = |rig: &Rig| rig.set(&key).versions().to_vec();
        a.apply(merge(&key, SiblingSet::of(version(&key, 5, 1, "late"))));
        for rig in [&mut a, &mut b] {
            rig.raise_floor(10);
        }
        // From anybody it counts as seen, from a whole peer under the same floor it does not.
        let set = a.set(&key);
        assert_eq!(b.apply(merge(&key, set.clone())), Outcome::Older(HybridTime(10)));
        assert!(matches!(b.apply(merge_under(&key, set, 10)), Outcome::Merged(_)));
        assert_eq!(held(&a), held(&b));
        // And nothing goes because the other has not met it.
        let nothing = SiblingSet::default();
        assert!(matches!(a.apply(merge_under(&key, nothing.clone(), 10)), Outcome::Merged(_)));
        assert_eq!(held(&a), held(&b));
        // Under a higher floor it does.
        assert!(matches!(a.apply(merge_under(&key, nothing, 11)), Outcome::Merged(_)));
        assert_eq!(held(&a), []);
    }
}
