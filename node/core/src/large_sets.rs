//! The keys with the most siblings among those that were coordinated here of late: a small list, in
//! which a key stands until it is met with one value again, or was not met for long.
//!
//! Where no key has siblings the list is empty, and looking a key up in it costs nothing.

use quoit_protocol::activity::LargeSet;
use quoit_ring::VnodeCount;
use quoit_storage::layout::StoredKey;
use quoit_storage::version::{Content, SiblingSet};

use crate::hot_keys::shown;
use crate::time::Instant;

/// So many keys are kept, and told.
const KEPT_MAX: usize = 20;
/// A key that was not met for so long leaves.
const AGE_MS_MAX: u64 = 60 * 60 * 1_000;

/// The list.
#[derive(Debug, Default)]
pub(crate) struct LargeSets {
    kept: Vec<Kept>,
}

#[derive(Debug)]
struct Kept {
    key: StoredKey,
    siblings: u32,
    bytes: u64,
    met: Instant,
}

impl LargeSets {
    /// A coordinator has met what a key holds.
    pub(crate) fn note(&mut self, key: &StoredKey, set: &SiblingSet, now: Instant) {
        if set.versions().len() < 2 && self.kept.is_empty() {
            return;
        }
        let mut kept = Kept { key: key.clone(), siblings: 0, bytes: 0, met: now };
        for version in set.versions() {
            kept.bytes += match &version.content {
                Content::Value { bytes, .. } => bytes.len() as u64,
                Content::Apart { length, .. } => u64::from(*length),
                Content::Tombstone => continue,
            };
            kept.siblings += 1;
        }
        self.kept.retain(|other| other.key != *key);
        if kept.siblings < 2 {
            return;
        }
        if self.kept.len() == KEPT_MAX {
            self.kept.retain(|other| now.ms_since(other.met) < AGE_MS_MAX);
        }
        if self.kept.len() == KEPT_MAX {
            let least = self.kept.iter().enumerate().min_by_key(|(_, kept)| kept.size());
            let (at, least) = least.expect("it is full");
            if least.size() >= kept.size() {
                return;
            }
            self.kept.swap_remove(at);
        }
        self.kept.push(kept);
    }

    /// The largest sets, the largest first.
    pub(crate) fn told(&mut self, vnodes: VnodeCount, now: Instant) -> Vec<LargeSet> {
        self.kept.retain(|kept| now.ms_since(kept.met) < AGE_MS_MAX);
        self.kept.sort_by_key(|kept| std::cmp::Reverse(kept.size()));
        let told = |kept: &Kept| LargeSet {
            key: shown(&kept.key, vnodes),
            siblings: kept.siblings,
            bytes: kept.bytes,
            age_ms: now.ms_since(kept.met),
        };
        self.kept.iter().map(told).collect()
    }
}

impl Kept {
    fn size(&self) -> (u32, u64) {
        (self.siblings, self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use quoit_ring::{ConflictPolicy, HybridTime, TableId, Token};
    use quoit_storage::version::{Actor, Dot, Version};

    use super::*;

    fn key(name: &str) -> StoredKey {
        StoredKey::new(Token(7), TableId(1), name.as_bytes(), b"").unwrap()
    }

    /// So many values beside each other, and a tombstone.
    fn set(siblings: u64) -> SiblingSet {
        let version = |actor| {
            let content = match actor {
                0 => Content::Tombstone,
                _ => Content::Value { bytes: vec![0; 10].into(), checksum: 0 },
            };
            Version {
                dot: Dot { time: HybridTime(5), actor: Actor(actor) },
                content,
                expires: None,
            }
        };
        (1..=siblings).fold(SiblingSet::of(version(0)), |set, actor| {
            set.merge(&SiblingSet::of(version(actor)), ConflictPolicy::Siblings)
        })
    }

    #[test]
    fn the_largest_come_first_and_leave_once_they_are_resolved() {
        let (mut sets, vnodes) = (LargeSets::default(), VnodeCount::new(4).unwrap());
        sets.note(&key("one"), &set(1), Instant(0));
        assert!(sets.kept.is_empty());
        sets.note(&key("a"), &set(3), Instant(0));
        sets.note(&key("b"), &set(5), Instant(0));
        sets.note(&key("a"), &set(4), Instant(1_000));
        let told = sets.told(vnodes, Instant(2_000));
        let sizes: Vec<_> = told.iter().map(|set| (set.siblings, set.bytes, set.age_ms)).collect();
        assert_eq!(sizes, [(5, 50, 2), (4, 40, 1)]);
        sets.note(&key("b"), &set(1), Instant(3_000));
        assert_eq!(sets.told(vnodes, Instant(3_000)).len(), 1);
        assert!(sets.told(vnodes, Instant(0).plus_ms(2 * AGE_MS_MAX)).is_empty());
    }

    #[test]
    fn it_keeps_its_bound_and_the_largest() {
        let mut sets = LargeSets::default();
        for number in 0..100 {
            sets.note(&key(&number.to_string()), &set(2 + number % 50), Instant(number));
        }
        assert_eq!(sets.kept.len(), KEPT_MAX);
        assert!(sets.kept.iter().all(|kept| kept.siblings > 40));
    }
}
