//! Sets under a floor: what goes, and what stands for it.
//!
//! A virtual node's floor T says: every replica has applied all dots at or before T, their live
//! pairs were equal everywhere, and no more such dots are made. So a replica with a complete key knows, for each dot up to T that it does not hold, that it was
//! covered: its vector may as well claim all of them, by its base. This is plain knowledge in the
//! sense of version vectors, and merges with it are as sound as any:
//! - a pair up to T that comes from a late write-back, a paused coordinator or a restored copy is
//!   claimed and not held: it is dropped;
//! - a replica that has not heard yet of the write which covered a pair up to T drops the pair when
//!   that write's set arrives, though the set names the pair's actor no more: its base claims it.
//!
//! The second is why what was collected must leave a trace in the set. Entries alone can not just be
//! dropped: a set that came without them would leave the old pair beside the new one.

use quoit_ring::{ConflictPolicy, HybridTime};

use super::{SiblingSet, VersionVector};

impl SiblingSet {
    /// The same pairs, known by one who has seen every dot up to `base`.
    pub fn with_base(mut self, base: HybridTime) -> Self {
        self.vector.raise_base(base);
        self
    }

    /// Merges as [`SiblingSet::merge`] does, where this side has seen every dot up to `known_here`,
    /// and the other up to `known_there`. The merged vector claims no more for that than the two did.
    pub fn merge_knowing(
        &self,
        known_here: HybridTime,
        other: &Self,
        known_there: HybridTime,
        policy: ConflictPolicy,
    ) -> Self {
        if known_here.max(known_there) == HybridTime::ZERO {
            return self.merge(other, policy);
        }
        let (here, there) =
            (self.clone().with_base(known_here), other.clone().with_base(known_there));
        let merged = here.merge(&there, policy);
        let vector = match policy {
            ConflictPolicy::Latest => {
                let dots = merged.versions.iter().map(|version| version.dot);
                VersionVector::new(dots.map(|dot| (dot.actor, dot.time)))
            }
            ConflictPolicy::Siblings => {
                let mut vector = self.vector.clone();
                vector.join(&other.vector);
                vector
            }
        };
        Self { vector, ..merged }
    }

    /// The number of pairs that may be collected under a floor.
    pub fn count_going(&self, floor: HybridTime) -> u64 {
        let going = |end: HybridTime| end <= floor;
        self.versions.iter().filter(|version| version.goes_at().is_some_and(going)).count() as u64
    }

    /// Without the pairs that may be collected under a floor.
    pub fn without_going(mut self, floor: HybridTime) -> Self {
        self.versions.retain(|version| version.goes_at().is_none_or(|end| end > floor));
        self
    }

    /// Without the entries at or before `floor` whose actors have no pair left: the base stands for
    /// them. A set that then tells of nothing but that is empty: the virtual node's floor tells the
    /// same of an absent key.
    pub fn packed(mut self, floor: HybridTime) -> Self {
        let has_pair = |actor| self.versions.iter().any(|version| version.dot.actor == actor);
        let mut entries = self.vector.entries().iter();
        if entries.any(|(actor, time)| *time <= floor && !has_pair(*actor)) {
            self.vector.raise_base(floor);
        }
        if self.versions.is_empty() && self.vector.entries().is_empty() {
            self.vector = VersionVector::default();
        }
        self
    }
}
