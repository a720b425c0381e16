//! Random mutations, crashes and maintenance against a model of sets in a map.

use proptest::prelude::*;
use proptest::test_runner::Config;

use super::*;

/// The shortest bucket of what goes, as a hybrid time.
const BUCKET: u64 = 1 << 36;

/// What a batch is made of.
enum Given {
    /// Key, kind and detail of a mutation.
    Drawn(u64, u8, u16),
    Whole(Mutation),
}

/// The store as it should be.
struct Model {
    rig: Rig,
    committed: BTreeMap<StoredKey, SiblingSet>,
    lease: HybridTime,
    /// What another replica holds, for merges.
    remote: BTreeMap<StoredKey, SiblingSet>,
    time: u64,
    /// What the batch that failed would have made of the keys, record by record.
    in_doubt: Vec<(StoredKey, SiblingSet)>,
    lease_in_doubt: HybridTime,
    floor: HybridTime,
    floor_in_doubt: HybridTime,
    has_failed: bool,
}

#[derive(Debug, Clone)]
enum Step {
    Batch(Vec<(u64, u8, u16)>),
    Lease(u8),
    /// The floor is raised to what was written last.
    Floor,
    Collect,
    Rotate,
    Flush,
    Compact,
    Kill,
    Crash,
    /// The disk stops after so many calls.
    CrashSoon(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let batch = prop::collection::vec((0..KEYS, any::<u8>(), any::<u16>()), 0..6);
    let step = prop_oneof![
        12 => batch.prop_map(Step::Batch),
        2 => any::<u8>().prop_map(Step::Lease),
        2 => Just(Step::Floor),
        2 => Just(Step::Collect),
        2 => Just(Step::Rotate),
        3 => Just(Step::Flush),
        1 => Just(Step::Compact),
        1 => Just(Step::Kill),
        2 => Just(Step::Crash),
        2 => (0u16..60).prop_map(Step::CrashSoon),
    ];
    prop::collection::vec(step, 1..50)
}

impl Model {
    fn new(seed: u64, durability: Durability) -> Self {
        Self {
            rig: Rig::with(
                seed,
                StoreOptions { durability, vnodes: VnodeCount::new(1).unwrap(), ..options() },
            ),
            committed: BTreeMap::new(),
            lease: HybridTime::ZERO,
            remote: BTreeMap::new(),
            time: 0,
            in_doubt: Vec::new(),
            lease_in_doubt: HybridTime::ZERO,
            floor: HybridTime::ZERO,
            floor_in_doubt: HybridTime::ZERO,
            has_failed: false,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Batch(changes) => self.batch(&changes),
            Step::Lease(more) => {
                let lease = HybridTime(self.lease.0 + u64::from(more));
                self.rig.writer.extend_lease(lease);
                self.finish_batch(Vec::new(), lease, self.floor);
            }
            Step::Floor => {
                let floor = HybridTime(self.time);
                self.rig.writer.raise_floor(VnodeIndex(0), floor);
                self.finish_batch(Vec::new(), HybridTime::ZERO, floor);
            }
            Step::Collect => {
                let collect = |number| mutation(&key(number), Change::Collect);
                self.mutate((0..KEYS).map(|number| Given::Whole(collect(number))).collect());
            }
            Step::Rotate => self.rig.writer.rotate(),
            Step::Flush => {
                let flushed = self.rig.maintainer.flush();
                assert!(flushed.is_ok() || self.has_failed || self.is_stopping());
            }
            Step::Compact => self.rig.maintainer.compact().unwrap(),
            Step::Kill => self.reopen(Rig::kill),
            Step::Crash => self.reopen(Rig::crash),
            Step::CrashSoon(after) => self.rig.disk.crash_after_operations(after.into()),
        }
        self.check();
    }

    /// Whether the disk may have stopped.
    fn is_stopping(&self) -> bool {
        self.rig.disk.paths().is_empty() || crate::disk::Disk::list(&self.rig.disk, "").is_err()
    }

    fn batch(&mut self, changes: &[(u64, u8, u16)]) {
        let given = |&(number, kind, detail)| Given::Drawn(number, kind, detail);
        self.mutate(changes.iter().map(given).collect());
    }

    fn mutate(&mut self, changes: Vec<Given>) {
        let mut after = self.committed.clone();
        let mut records = Vec::new();
        for given in changes {
            let key = match &given {
                Given::Drawn(number, ..) => key(*number),
                Given::Whole(mutation) => mutation.key.clone(),
            };
            let held = after.get(&key).cloned().unwrap_or_default();
            let mutation = match given {
                Given::Drawn(_, kind, detail) => self.mutation(&key, &held, kind, detail),
                Given::Whole(mutation) => mutation,
            };
            let expected = expect(&held, &mutation, &self.rig.options, self.floor);
            let outcome = self.rig.writer.prepare(mutation);
            if self.has_failed {
                assert!(matches!(outcome, Outcome::Refused(_)));
                continue;
            }
            if matches!(outcome, Outcome::Refused(_)) {
                assert!(self.rig.writer.pressure() == crate::engine::Pressure::Halt);
                continue;
            }
            assert_eq!(
                outcome,
                expected
                    .clone()
                    .map_or_else(|outcome| outcome, |set| Outcome::Merged(codec::encode(&set)))
            );
            if let Ok(set) = expected
                && set != held
            {
                after.insert(key.clone(), set.clone());
                records.push((key, set));
            }
        }
        assert_eq!(self.rig.writer.has_prepared(), !records.is_empty());
        self.check_published();
        self.finish_batch(records, HybridTime::ZERO, self.floor);
    }

    fn finish_batch(
        &mut self,
        records: Vec<(StoredKey, SiblingSet)>,
        lease: HybridTime,
        floor: HybridTime,
    ) {
        match self.rig.writer.commit() {
            Ok(()) => {
                assert!(!self.has_failed, "nothing is acknowledged after a failure");
                self.committed.extend(records);
                self.lease = self.lease.max(lease);
                self.floor = floor;
            }
            Err(CommitError::Full) => panic!("there is space"),
            Err(CommitError::Poisoned(_)) if self.has_failed => {}
            Err(CommitError::Poisoned(_)) => {
                self.has_failed = true;
                self.in_doubt = records;
                self.lease_in_doubt = lease;
                self.floor_in_doubt = floor;
            }
        }
    }

    fn mutation(&mut self, key: &StoredKey, held: &SiblingSet, kind: u8, detail: u16) -> Mutation {
        self.time += 1 + u64::from(detail % 5) * (BUCKET / 8);
        let old = kind % 16 == 15;
        let time = if old { self.time / 2 + 1 } else { self.time };
        let mut version =
            version(key, time, u64::from(detail % 3), &"v".repeat(usize::from(detail % 300)));
        if kind.is_multiple_of(7) {
            version.content = Content::Tombstone;
        }
        if kind.is_multiple_of(5) {
            version.expires = Some(HybridTime(self.time + u64::from(detail) % 3 * BUCKET));
        }
        let remote = self.remote.entry(key.clone()).or_default();
        let context = match kind / 16 % 4 {
            0 => VersionVector::default(),
            1 => remote.vector().clone(),
            _ => held.vector().clone(),
        };
        match kind % 4 {
            0 | 1 => mutation(key, Change::Write { context, version }),
            2 => {
                if let Ok(set) = remote.write(policy(key), &context, version) {
                    *remote = set;
                }
                merge(key, remote.clone())
            }
            _ => {
                *remote = remote.merge(held, policy(key));
                merge(key, remote.clone())
            }
        }
    }

    fn reopen(&mut self, how: impl Fn(&Rig) -> Rig) {
        self.rig = how(&self.rig);
        assert!(self.rig.is_clean(), "{:?}", self.rig.report);
        self.has_failed = false;
        // Of the batch in doubt some first records may be there.
        let doubtful = std::mem::take(&mut self.in_doubt);
        let mut states = vec![self.committed.clone()];
        for (key, set) in doubtful {
            let mut next = states.last().unwrap().clone();
            next.insert(key, set);
            states.push(next);
        }
        let now: BTreeMap<StoredKey, Found> =
            (0..KEYS).map(|number| (key(number), self.rig.read(&key(number)))).collect();
        let is_now = |state: &&BTreeMap<StoredKey, SiblingSet>| {
            now.iter()
                .all(|(key, now)| *now == found(state.get(key).unwrap_or(&SiblingSet::default())))
        };
        self.committed = states.iter().find(is_now).expect("one of the states").clone();
        assert!(
            self.rig.writer.lease() == self.lease || self.rig.writer.lease() == self.lease_in_doubt
        );
        self.lease = self.lease.max(self.rig.writer.lease());
        assert_eq!(self.lease, self.rig.writer.lease(), "a lease never runs backwards");
        self.lease_in_doubt = HybridTime::ZERO;
        let floor = self.rig.reader.floor(VnodeIndex(0));
        assert!(floor == self.floor || floor == self.floor_in_doubt, "{floor}");
        assert!(floor >= self.floor, "a floor never goes down");
        self.floor = floor;
        self.floor_in_doubt = HybridTime::ZERO;
    }

    fn check(&self) {
        self.check_published();
        self.rig.check_digests(&self.committed);
        assert_eq!(self.rig.reader.floor(VnodeIndex(0)), self.floor);
        if !self.has_failed {
            assert_eq!(self.rig.writer.lease(), self.lease);
        }
    }

    /// Readers see what is committed and nothing else.
    fn check_published(&self) {
        for number in 0..KEYS {
            let key = key(number);
            let set = self.committed.get(&key).cloned().unwrap_or_default();
            assert_eq!(self.rig.read(&key), found(&set), "{key:?}");
        }
        for table in [TableId(1), TableId(2)] {
            let (rows, more) = self.rig.reader.page(table, &[], None, 100, 1 << 20, false).unwrap();
            assert!(!more);
            let rows: Vec<_> = rows.into_iter().map(|row| (row.key, row.whole.found)).collect();
            let expected: Vec<_> = self
                .committed
                .iter()
                .filter(|(key, set)| key.table() == table && !set.is_empty())
                .map(|(key, set)| (key.clone(), found(set)))
                .collect();
            assert_eq!(rows, expected);
        }
    }
}

/// What the writer should answer, or the set that it should come to.
fn expect(
    held: &SiblingSet,
    mutation: &Mutation,
    options: &StoreOptions,
    floor: HybridTime,
) -> Result<SiblingSet, Outcome> {
    let policy = mutation.policy;
    let set = match &mutation.change {
        Change::Write { version, .. } if version.dot.time <= floor => {
            return Err(Outcome::Older(floor));
        }
        Change::Write { context, version } => {
            let set = held
                .write(policy, context, version.clone())
                .map_err(|older| Outcome::Older(older.0))?
                .without_going(floor);
            let grown = set.versions().len() > held.versions().len();
            if grown && set.versions().len() > options.siblings_max {
                return Err(Outcome::TooManySiblings);
            }
            set
        }
        Change::Drop => SiblingSet::default(),
        Change::Merge { set, .. } => {
            let greater = held.greatest_dot() > set.greatest_dot() && set.greatest_dot().is_some();
            if policy == ConflictPolicy::Latest && greater {
                return Err(Outcome::Older(held.greatest_dot().unwrap().time.max(floor)));
            }
            let known = held.vector().base().max(floor);
            if let Some(new) = set.greatest_dot()
                && new.time <= known
                && !held.holds(new)
                && !held.vector().has_entry_for(new)
            {
                return Err(Outcome::Older(known));
            }
            held.merge_knowing(floor, set, HybridTime::ZERO, policy)
        }
        Change::Collect => held.clone(),
    };
    let set = set.without_going(floor).packed(floor);
    let known = held.clone().with_base(floor);
    let changes = !set.has_same_pairs(held) || !known.vector().covers(set.vector());
    Ok(if changes { set } else { held.clone() })
}

proptest! {
    #![proptest_config(Config { cases: 96, ..Config::default() })]

    #[test]
    fn what_was_committed_is_there_whatever_crashes(seed: u64, steps in steps()) {
        let mut model = Model::new(seed, Durability::Group);
        steps.into_iter().for_each(|step| model.step(step));
        model.step(Step::Crash);
    }

    #[test]
    fn periodic_durability_survives_a_kill(seed: u64, steps in steps()) {
        let mut model = Model::new(seed, Durability::Periodic);
        for step in steps {
            match step {
                Step::Crash | Step::CrashSoon(_) => model.step(Step::Kill),
                step => model.step(step),
            }
        }
        model.step(Step::Kill);
    }
}
