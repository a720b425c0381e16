//! Stores held at one moment, and what several of them knew together.

use super::*;
use crate::version::BUCKET_MS_BITS;

/// The shortest bucket of what is collected under a floor, as a hybrid time.
const BUCKET: u64 = 1 << (BUCKET_MS_BITS + 16);

impl Rig {
    fn freeze(&mut self) -> Frozen {
        let from = self.writer.begin_freeze().unwrap();
        let hold = || Ok(self.tables.copy());
        let (flushed, tables) = self.maintainer.freeze(from, hold).unwrap().unwrap();
        // Of the twin only what was flushed is left then.
        Frozen::open(Arc::new(tables.open()), &flushed).unwrap()
    }
}

/// What a replica knew, whether it has a row or not.
fn known(frozen: &Frozen, key: &StoredKey) -> Known {
    let row = frozen.row(Stream::Own, key).unwrap();
    row.map_or_else(|| frozen.absent(key.token()), |row| row.known)
}

fn tombstone(time: u64, actor: u64) -> Version {
    let dot = Dot { time: HybridTime(time), actor: Actor(actor) };
    Version { dot, content: Content::Tombstone, expires: None }
}

#[test]
fn all_that_was_committed_is_in_it_and_nothing_that_came_later() {
    let mut rig = Rig::new(1);
    for number in 0..KEYS {
        rig.apply(write(&key(number), 1, "before"));
    }
    let frozen = rig.freeze();
    for number in 0..KEYS {
        rig.apply(write(&key(number), 2, "after"));
    }
    rig.flush();
    let rows = frozen.rows(Stream::Own, None, usize::MAX, usize::MAX).unwrap();
    let expected: BTreeMap<_, _> = (0..KEYS)
        .map(|number| (key(number), SiblingSet::of(version(&key(number), 1, 1, "before"))))
        .collect();
    let found: BTreeMap<_, _> = rows.into_iter().map(|row| (row.key, row.known.set)).collect();
    assert_eq!(found, expected);
    // Nothing is in memory, and nothing was written since: it is held all the same.
    rig.freeze();
    let again = known(&rig.freeze(), &key(2));
    assert_eq!(again.set, SiblingSet::of(version(&key(2), 2, 1, "after")));
}

#[test]
fn what_one_replica_has_deleted_and_collected_does_not_come_back_from_another() {
    for key in [key(0), key(1)] {
        let policy = policy(&key);
        let old = SiblingSet::of(version(&key, 1, 1, "old"));
        let (mut behind, mut ahead) = (Rig::new(1), Rig::new(2));
        behind.apply(merge(&key, old.clone()));
        ahead.apply(merge(&key, old.clone()));
        let gone = old.write(policy, old.vector(), tombstone(2, 2)).unwrap();
        ahead.apply(merge(&key, gone));
        for vnode in options().vnodes.all() {
            ahead.writer.raise_floor(vnode, HybridTime(BUCKET));
        }
        ahead.writer.commit().unwrap();
        ahead.apply(mutation(&key, Change::Collect));
        let (behind, ahead) = (behind.freeze(), ahead.freeze());
        assert_eq!(known(&behind, &key), Known { set: old, until: HybridTime::ZERO });
        let nothing = Known { set: SiblingSet::default(), until: HybridTime(BUCKET) };
        assert_eq!(known(&ahead, &key), nothing);
        for (a, b) in [(&behind, &ahead), (&ahead, &behind)] {
            let both = known(a, &key).merge(&known(b, &key), policy);
            assert!(!both.set.is_live(HybridTime(3)), "{both:?}");
        }
    }
}

#[test]
fn a_replica_that_was_not_whole_says_nothing_of_what_it_lacks() {
    let key = key(0);
    let (mut whole, mut lost) = (Rig::new(1), Rig::new(2));
    whole.apply(write(&key, 1, "kept"));
    for vnode in options().vnodes.all() {
        lost.writer.raise_floor(vnode, HybridTime(BUCKET));
    }
    lost.writer.commit().unwrap();
    lost.writer.begin_era();
    lost.writer.commit().unwrap();
    let (whole, lost) = (whole.freeze(), lost.freeze());
    assert!(!lost.is_whole(options().vnodes.vnode_of(key.token())));
    let both = known(&lost, &key).merge(&known(&whole, &key), policy(&key));
    assert!(both.set.is_live(HybridTime(3)), "{both:?}");
}
