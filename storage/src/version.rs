//! Versions: dots, version vectors, and the sibling set that every key holds.
//!
//! A sibling set is a version vector plus the live (dot, value or tombstone) pairs: dotted version
//! vectors (Preguiça et al., "Dotted Version Vectors", 2010; Almeida et al., 2014), with hybrid
//! times in place of counters. The vector claims, for each actor, every dot of that actor for this
//! key up to a time. That claim is what makes erasing safe, and it rests on one rule: **an actor
//! makes a dot for a key only while it has kept every dot that it ever made for that key.** So an
//! actor is drawn anew for each tenure and never stored.
//!
//! A vector may have a **base**: every dot at or before it was seen, whoever made it. It stands for
//! the entries that were collected under a virtual node's floor, when no replica can make or bring a
//! dot that old any more (`floor` says more).
//!
//! In a `latest` table a set is one pair, the one with the greatest dot, and a vector that holds
//! just that dot.

use bytes::Bytes;
use quoit_ring::{ConflictPolicy, HybridTime, Token, WallTime};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::planted::{PlantedBug, is_planted};

/// Who makes dots: 64 random bits, drawn for each tenure of a virtual node by a running core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Actor(pub u64);

/// The name of one write event. The order of dots decides in `latest` tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dot {
    /// Greater than all that the coordinator had seen.
    pub time: HybridTime,
    /// Who made it.
    pub actor: Actor,
}

/// For each actor the greatest time seen: all its earlier dots for the key are claimed too.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VersionVector {
    /// Every dot up to here is claimed, whoever made it.
    base: HybridTime,
    /// Ascending by actor, each once, all above the base.
    entries: Vec<(Actor, HybridTime)>,
}

impl VersionVector {
    /// A vector of entries in any order; of an actor named twice the greater time stays.
    pub fn new(entries: impl IntoIterator<Item = (Actor, HybridTime)>) -> Self {
        let mut vector = Self::default();
        for (actor, time) in entries {
            vector.add(Dot { time, actor });
        }
        vector
    }

    /// Every dot at or before this is claimed, whoever made it.
    pub fn base(&self) -> HybridTime {
        self.base
    }

    /// Claims every dot at or before `base`; a lower one than before changes nothing.
    pub fn raise_base(&mut self, base: HybridTime) {
        if base > self.base {
            self.base = base;
            self.entries.retain(|(_, time)| *time > base);
        }
    }

    /// Whether all that the other claims is claimed.
    pub fn covers(&self, other: &Self) -> bool {
        let mut entries = other.entries.iter();
        other.base <= self.base && entries.all(|&(actor, time)| self.has_seen(Dot { time, actor }))
    }

    /// The entries, ascending by actor.
    pub fn entries(&self) -> &[(Actor, HybridTime)] {
        &self.entries
    }

    /// Whether nothing was ever seen.
    pub fn is_empty(&self) -> bool {
        self.base == HybridTime::ZERO && self.entries.is_empty()
    }

    /// Whether the dot is claimed.
    pub fn has_seen(&self, dot: Dot) -> bool {
        dot.time <= self.base || self.has_entry_for(dot)
    }

    /// Whether the dot is claimed by an entry of its actor.
    pub fn has_entry_for(&self, dot: Dot) -> bool {
        self.entries
            .binary_search_by_key(&dot.actor, |&(actor, _)| actor)
            .is_ok_and(|at| self.entries[at].1 >= dot.time)
    }

    /// Claims a dot.
    pub fn add(&mut self, dot: Dot) {
        if dot.time <= self.base {
            return;
        }
        match self.entries.binary_search_by_key(&dot.actor, |&(actor, _)| actor) {
            Ok(at) => self.entries[at].1 = self.entries[at].1.max(dot.time),
            Err(at) => self.entries.insert(at, (dot.actor, dot.time)),
        }
    }

    /// Claims all that another vector claims.
    pub fn join(&mut self, other: &Self) {
        self.raise_base(other.base);
        for &(actor, time) in &other.entries {
            self.add(Dot { time, actor });
        }
    }

    /// The greatest dot of the entries, as `latest` tables order them.
    pub fn greatest_dot(&self) -> Option<Dot> {
        self.entries.iter().map(|&(actor, time)| Dot { time, actor }).max()
    }

    /// The greatest time of any actor; zero where nothing was seen.
    pub fn greatest(&self) -> HybridTime {
        self.entries.iter().map(|&(_, time)| time).max().unwrap_or_default().max(self.base)
    }
}

/// A longer value lies apart from its set, under (key, dot).
pub const INLINE_BYTES_MAX: usize = 64 << 10;

/// The shortest bucket of [`Version::goes_at`] has two to the power of this many milliseconds.
pub const BUCKET_MS_BITS: u32 = 20;

/// What a write left: a value, or the mark that the key was deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A value of at most [`INLINE_BYTES_MAX`] bytes, with its end-to-end checksum.
    Value {
        /// The bytes.
        bytes: Bytes,
        /// XXH3-64 of the bytes, seeded with the token of the partition key; made by the client.
        checksum: u64,
    },
    /// A longer value: its bytes lie apart, and travel only to those who lack them.
    Apart {
        /// The number of bytes.
        length: u32,
        /// As a short value's.
        checksum: u64,
    },
    /// The key was deleted.
    Tombstone,
}

impl Content {
    /// The content of a write, and its bytes where they lie apart.
    ///
    /// # Panics
    /// If the value has 4 GiB or more: limits are kept far below.
    pub fn of_value(bytes: Bytes, checksum: u64) -> (Self, Option<Bytes>) {
        if bytes.len() <= INLINE_BYTES_MAX {
            return (Self::Value { bytes, checksum }, None);
        }
        let length = u32::try_from(bytes.len()).expect("values are bounded far below");
        (Self::Apart { length, checksum }, Some(bytes))
    }
}

/// The bytes of a value that lies apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApartValue {
    /// Which write's.
    pub dot: Dot,
    /// The value.
    pub bytes: Bytes,
}

/// One live pair of a sibling set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Its name.
    pub dot: Dot,
    /// What was written.
    pub content: Content,
    /// From this time on the value is gone for every reader.
    pub expires: Option<HybridTime>,
}

impl Version {
    /// Whether a reader at that time gets a value.
    pub fn is_live(&self, at: HybridTime) -> bool {
        self.content != Content::Tombstone && self.expires.is_none_or(|end| at < end)
    }

    /// When the pair may be collected: under a floor at or above this time. `None` for a value that
    /// does not expire.
    ///
    /// It is a function of the pair alone, so that all replicas agree, and times are rounded up to
    /// the ends of buckets, so that digests need to keep few of them apart: 2^20 ms (17 minutes) for
    /// a tombstone, and for a value about a sixteenth of its time to live, if that is more.
    pub fn goes_at(&self) -> Option<HybridTime> {
        let written = self.dot.time;
        let (last, lives_ms) = match (&self.content, self.expires) {
            (Content::Tombstone, _) => (written, 0),
            (Content::Value { .. } | Content::Apart { .. }, None) => return None,
            (Content::Value { .. } | Content::Apart { .. }, Some(expires)) => {
                (written.max(expires), expires.wall().0.saturating_sub(written.wall().0))
            }
        };
        let width_ms = lives_ms.div_ceil(16).next_power_of_two().max(1 << BUCKET_MS_BITS);
        let last_ms = last.wall().0 | (width_ms - 1);
        // The last bucket of time has no end: what is in it stays.
        Some(HybridTime::at(WallTime(last_ms)).plus_ms(1).max(last))
    }

    /// Whether the value is what its writer sent, so far as it lies here.
    pub fn is_intact(&self, token: Token) -> bool {
        match &self.content {
            Content::Value { bytes, checksum } => xxh3_64_with_seed(bytes, token.0) == *checksum,
            Content::Apart { .. } | Content::Tombstone => true,
        }
    }

    /// Whether its value lies apart.
    pub fn is_apart(&self) -> bool {
        matches!(self.content, Content::Apart { .. })
    }

    /// Whether these bytes are the value that lies apart.
    pub fn is_value(&self, apart: &[u8], token: Token) -> bool {
        match &self.content {
            Content::Apart { length, checksum } => {
                apart.len() == *length as usize && xxh3_64_with_seed(apart, token.0) == *checksum
            }
            Content::Value { .. } | Content::Tombstone => false,
        }
    }
}

/// All that a replica knows of a key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SiblingSet {
    /// What was seen.
    vector: VersionVector,
    /// What is live, ascending by dot. Each dot is claimed by the vector.
    versions: Vec<Version>,
}

/// In a `latest` table this replica holds a greater dot: the write has no effect here and does not
/// count. The coordinator makes a dot above this time and sends again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Older(pub HybridTime);

impl SiblingSet {
    /// A set of its parts.
    ///
    /// Returns `None` if a version's dot is not claimed by the vector or stands twice.
    pub fn new(vector: VersionVector, mut versions: Vec<Version>) -> Option<Self> {
        versions.sort_by_key(|version| version.dot);
        let distinct = versions.windows(2).all(|pair| pair[0].dot != pair[1].dot);
        let is_claimed = |dot: Dot| dot.time > HybridTime::ZERO && vector.has_seen(dot);
        let claimed = versions.iter().all(|version| is_claimed(version.dot));
        (distinct && claimed).then_some(Self { vector, versions })
    }

    /// The set of a first write that has seen nothing, as `latest` tables hold it.
    pub fn of(version: Version) -> Self {
        let vector = VersionVector::new([(version.dot.actor, version.dot.time)]);
        Self { vector, versions: vec![version] }
    }

    /// What was seen.
    pub fn vector(&self) -> &VersionVector {
        &self.vector
    }

    /// What is live, ascending by dot.
    pub fn versions(&self) -> &[Version] {
        &self.versions
    }

    /// Whether nothing was ever written.
    pub fn is_empty(&self) -> bool {
        self.vector.is_empty()
    }

    /// Whether the same is live for both. Then they differ, if at all, in what they have collected
    /// under a floor.
    pub fn has_same_pairs(&self, other: &Self) -> bool {
        let dots = self.versions.iter().map(|version| version.dot);
        dots.eq(other.versions.iter().map(|version| version.dot))
    }

    /// Whether both know the same: one dot never names two values.
    pub fn has_same_dots(&self, other: &Self) -> bool {
        self.vector == other.vector && self.has_same_pairs(other)
    }

    /// The greatest dot; `None` where nothing is live.
    pub fn greatest_dot(&self) -> Option<Dot> {
        self.versions.last().map(|version| version.dot)
    }

    /// Whether a value is there for a reader at that time.
    pub fn is_live(&self, at: HybridTime) -> bool {
        self.versions.iter().any(|version| version.is_live(at))
    }

    /// The bytes of all values.
    pub fn value_bytes(&self) -> usize {
        let bytes = |version: &Version| match &version.content {
            Content::Value { bytes, .. } => bytes.len(),
            Content::Apart { length, .. } => *length as usize,
            Content::Tombstone => 0,
        };
        self.versions.iter().map(bytes).sum()
    }

    /// The pairs whose values lie apart, ascending by dot.
    pub fn apart(&self) -> impl Iterator<Item = &Version> {
        self.versions.iter().filter(|version| version.is_apart())
    }

    /// Whether the dot is live.
    pub fn holds(&self, dot: Dot) -> bool {
        self.versions.binary_search_by_key(&dot, |version| version.dot).is_ok()
    }

    /// Merges two replicas' knowledge of one key: commutative, associative, idempotent.
    ///
    /// A pair of one side stays if the other side holds it too or has not seen its dot.
    pub fn merge(&self, other: &Self, policy: ConflictPolicy) -> Self {
        match policy {
            ConflictPolicy::Latest => self.merge_latest(other),
            ConflictPolicy::Siblings => self.merge_siblings(other),
        }
    }

    /// The greater pair of those that the other side does not know to be gone.
    fn merge_latest(&self, other: &Self) -> Self {
        let stays = |version: &&Version, other: &Self| {
            version.dot.time > other.vector.base || other.holds(version.dot)
        };
        let own = self.versions.last().filter(|version| stays(version, other));
        let theirs = other.versions.last().filter(|version| stays(version, self));
        let greater = match (own, theirs) {
            (Some(own), Some(theirs)) if theirs.dot > own.dot => Some(theirs),
            (own, theirs) => own.or(theirs),
        };
        let mut merged = greater.map_or_else(Self::default, |version| Self::of(version.clone()));
        merged.vector.raise_base(self.vector.base.max(other.vector.base));
        merged
    }

    fn merge_siblings(&self, other: &Self) -> Self {
        let mut versions: Vec<Version> = Vec::with_capacity(self.versions.len());
        for version in &self.versions {
            if other.holds(version.dot) || !other.vector.has_seen(version.dot) {
                versions.push(version.clone());
            }
        }
        for version in &other.versions {
            if !self.holds(version.dot) && !self.vector.has_seen(version.dot) {
                versions.push(version.clone());
            }
        }
        versions.sort_by_key(|version| version.dot);
        if versions.len() > 2 && is_planted(PlantedBug::DropSibling) {
            versions.pop();
        }
        let mut vector = self.vector.clone();
        vector.join(&other.vector);
        Self { vector, versions }
    }

    /// The set after a write that its writer made under `context`: what the context covers is
    /// replaced, what it does not cover stays (in a `siblings` table).
    ///
    /// # Errors
    /// [`Older`] if the set has seen a time at or above the new dot's. Nothing is changed; the
    /// coordinator makes a greater dot. In a `siblings` table only a clock that lost its lease
    /// could come to this.
    pub fn write(
        &self,
        policy: ConflictPolicy,
        context: &VersionVector,
        version: Version,
    ) -> Result<Self, Older> {
        let greatest = self.vector.greatest().max(context.greatest());
        if greatest >= version.dot.time {
            return Err(Older(greatest));
        }
        if policy == ConflictPolicy::Latest {
            return Ok(Self::of(version));
        }
        let mut versions: Vec<Version> =
            self.versions.iter().filter(|stored| !context.has_seen(stored.dot)).cloned().collect();
        let mut vector = self.vector.clone();
        if !is_planted(PlantedBug::ForgetContext) {
            vector.join(context);
        }
        vector.add(version.dot);
        versions.push(version);
        Ok(Self { vector, versions })
    }
}

mod floor;

#[cfg(test)]
mod tests;
