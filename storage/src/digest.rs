//! Leaf digests and figures of what is held, changed with each mutation and never rebuilt by a scan
//! (but where damage was found).
//!
//! For every replication factor N there is one array over the whole ring: [`LEAVES`] leaves, the
//! next bits of the token below the virtual node's. A leaf is the XOR of a 64-bit hash of each
//! (key, dot) of a live pair, so that it changes by the pairs that came and went. The changes are
//! logged with the mutation and the arrays are checkpointed when tables are flushed. (Anti-entropy
//! compares them: DeCandia et al., "Dynamo", section 4.7.)
//!
//! **What is collected does not disturb them.** Under a virtual node's floor each replica collects
//! tombstones, expired values and vector entries at a moment of its own. So pairs that will go are
//! counted apart, in buckets by the time at which they may ([`Version::goes_at`], a function of the
//! pair alone), and a comparison under a floor leaves those buckets out that end at or below it.
//!
//! **Vectors are left out.** Where two replicas hold the same pairs of a key, what their vectors
//! claim beyond is harmless:
//! - A dot that a vector claims and that is not live was covered: by a write whose context had seen
//!   it. That write's own pair is live, or was covered in turn by a later write; the chain is finite
//!   and ends in a live pair, since only a write takes a pair away and each adds one. (In a `latest`
//!   table a greater pair takes the place of the covering write, and the vector is the pair's dot.)
//! - Whoever holds the pair at the chain's end got it in a set, and a set travels whole: its vector
//!   claims what the write's context had seen, hence the chain down to the dot. So equal pairs come
//!   with equal claims of all dots that a replica may still hold or be sent.
//! - Claims that were collected under a floor are stood for by the vector's base, or where nothing is
//!   left of the key by the floor itself (see `version::floor`).
//!
//! Were a claim missing against all this, the dot that it should refuse would come in as a pair: the
//! replicas then differ in their pairs, are found to, and are merged, vectors and all. A claim only
//! ever spares work; no live pair rests on one.
//!
//! **Marks are counted.** A key that is incomplete by itself (see [`crate::stored`]) has one hash more,
//! so that its replica differs from those that hold it whole until it is rebuilt.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quoit_ring::{HybridTime, TableId, Token, VnodeCount, VnodeIndex};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::layout::StoredKey;
use crate::version::{BUCKET_MS_BITS, Content, Dot, SiblingSet, Version};

/// Leaves over the whole ring: 64 for each of 1,024 virtual nodes.
pub const LEAVES: usize = 1 << 16;
/// At most so many buckets are kept, so that a checkpoint never outgrows its file: above that their
/// ends are rounded up further, and what is in them is left out, and collected, later.
pub const BUCKETS_MAX: usize = 1 << 19;
/// Seeds what a mark counts as.
const MARK_SEED: u64 = 0x6d61_726b;
/// What a leaf takes in a checkpoint: its index and itself.
const LEAF_BYTES: usize = 10;
/// What a bucket takes in a checkpoint and its change in the log.
pub(crate) const BUCKET_BYTES: usize = 20;
/// The ends of all buckets are multiples of two to the power of this, as hybrid times.
const GRID_BITS_MIN: u32 = BUCKET_MS_BITS + 16;
const GRID_BITS_MAX: u32 = 63;

/// The change of one key, as it is logged.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Delta {
    /// XORed into what stays in the leaf.
    pub stays: u64,
    /// The changes of its buckets, ascending by their ends.
    pub going: Vec<BucketDelta>,
    /// Keys with a value, more or less.
    pub live: i8,
    /// Keys with nothing but tombstones, more or less.
    pub tombstones: i8,
    /// Bytes of keys and values, more or less.
    pub bytes: i64,
}

/// The change of one bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BucketDelta {
    /// Its pairs go under a floor at or above this.
    pub end: HybridTime,
    /// XORed into it.
    pub digest: u64,
    /// Pairs, more or less.
    pub pairs: i32,
}

/// Pairs of one leaf that will go together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bucket {
    end: HybridTime,
    digest: u64,
    pairs: u32,
}

/// What one table holds on this replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TableFigures {
    /// Keys with a value (expired ones included until they are collected).
    pub live: u64,
    /// Keys with nothing but tombstones.
    pub tombstones: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
}

/// The leaves of one replication factor.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Leaves {
    stays: Vec<u64>,
    /// Of the leaves that have any, ascending by their ends.
    going: BTreeMap<u16, Vec<Bucket>>,
}

/// The arrays and the figures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digests {
    leaves: BTreeMap<u8, Leaves>,
    bucket_count: usize,
    grid_bits: u32,
    tables: BTreeMap<TableId, TableFigures>,
}

/// What a pair adds to its key's leaf.
fn pair_digest(key: &StoredKey, dot: Dot) -> u64 {
    let mut name = [0; 16];
    name[..8].copy_from_slice(&dot.time.0.to_le_bytes());
    name[8..].copy_from_slice(&dot.actor.0.to_le_bytes());
    xxh3_64_with_seed(key.bytes(), xxh3_64(&name))
}

/// What the mark of an incomplete key adds to its leaf.
pub fn mark_digest(key: &StoredKey) -> u64 {
    xxh3_64_with_seed(key.bytes(), MARK_SEED)
}

/// What a key's pairs add to its leaf under a floor; 0 for one that holds nothing which stays.
pub fn item_digest(key: &StoredKey, set: &SiblingSet, floor: HybridTime) -> u64 {
    let counts = |version: &&Version| version.goes_at().is_none_or(|end| end > floor);
    let pairs = set.versions().iter().filter(counts);
    pairs.fold(0, |digest, version| digest ^ pair_digest(key, version.dot))
}

/// What changes when a key goes from one set to another.
pub fn delta(key: &StoredKey, before: &SiblingSet, after: &SiblingSet) -> Delta {
    // Whether a value has expired depends on the reader's clock, so it is not asked here.
    let is_live = |set: &SiblingSet| set.is_live(HybridTime::ZERO);
    let held = |set: &SiblingSet| !set.is_empty();
    let bytes = |set: &SiblingSet| {
        if held(set) {
            i64::try_from(key.bytes().len() + set.value_bytes()).unwrap_or(i64::MAX)
        } else {
            0
        }
    };
    let change = |condition: &dyn Fn(&SiblingSet) -> bool| {
        i8::from(condition(after)) - i8::from(condition(before))
    };
    let mut delta = Delta {
        live: change(&is_live),
        tombstones: change(&|set| {
            held(set)
                && !is_live(set)
                && set.versions().iter().any(|v| v.content == Content::Tombstone)
        }),
        bytes: bytes(after) - bytes(before),
        ..Delta::default()
    };
    let gone = before.versions().iter().filter(|version| !after.holds(version.dot));
    let new = after.versions().iter().filter(|version| !before.holds(version.dot));
    for (version, pairs) in gone.map(|version| (version, -1)).chain(new.map(|version| (version, 1)))
    {
        let digest = pair_digest(key, version.dot);
        match version.goes_at() {
            None => delta.stays ^= digest,
            Some(end) => delta.going.push(BucketDelta { end, digest, pairs }),
        }
    }
    delta.going.sort_by_key(|change| change.end);
    delta.going.dedup_by(|next, kept| {
        let is_same = next.end == kept.end;
        if is_same {
            kept.digest ^= next.digest;
            kept.pairs += next.pairs;
        }
        is_same
    });
    delta
}

/// The leaf of a token.
pub fn leaf_of(token: Token) -> usize {
    usize::try_from(token.0 >> (u64::BITS - LEAVES.trailing_zeros())).expect("16 bits")
}

/// The first token of a leaf.
pub fn first_token(leaf: usize) -> Token {
    Token((leaf as u64) << (u64::BITS - LEAVES.trailing_zeros()))
}

/// The leaves of a virtual node.
pub fn leaves_of(vnodes: VnodeCount, vnode: VnodeIndex) -> Range<usize> {
    let first = leaf_of(vnodes.first_token(vnode));
    first..first + LEAVES / vnodes.get() as usize
}

impl Leaves {
    fn new() -> Self {
        Self { stays: vec![0; LEAVES], going: BTreeMap::new() }
    }

    /// Changes a bucket; returns how many more there are.
    fn change(&mut self, leaf: u16, change: BucketDelta) -> isize {
        let BucketDelta { end, digest, pairs } = change;
        let buckets = self.going.entry(leaf).or_default();
        let before = buckets.len();
        match buckets.binary_search_by_key(&end, |bucket| bucket.end) {
            Ok(at) => {
                let bucket = &mut buckets[at];
                bucket.digest ^= digest;
                bucket.pairs = bucket.pairs.saturating_add_signed(pairs);
                // Of what was damaged and written over something may be left.
                if bucket.pairs == 0 && bucket.digest == 0 {
                    buckets.remove(at);
                }
            }
            Err(at) => {
                let pairs = 0u32.saturating_add_signed(pairs);
                buckets.insert(at, Bucket { end, digest, pairs });
            }
        }
        let more = buckets.len().cast_signed() - before.cast_signed();
        if buckets.is_empty() {
            self.going.remove(&leaf);
        }
        more
    }

    /// The buckets of a range of leaves.
    fn going_in(&self, range: Range<usize>) -> impl Iterator<Item = (usize, &Vec<Bucket>)> {
        let from = self.going.range(index_of(range.start)..);
        from.map(|(leaf, buckets)| (usize::from(*leaf), buckets))
            .take_while(move |(leaf, _)| *leaf < range.end)
    }

    fn effective(&self, leaf: u16, floor: HybridTime) -> u64 {
        let buckets = self.going.get(&leaf).map_or(&[][..], Vec::as_slice);
        let above = &buckets[buckets.partition_point(|bucket| bucket.end <= floor)..];
        above.iter().fold(self.stays[usize::from(leaf)], |digest, bucket| digest ^ bucket.digest)
    }
}

impl Default for Digests {
    /// Of a store that holds nothing.
    fn default() -> Self {
        let (leaves, tables) = (BTreeMap::new(), BTreeMap::new());
        Self { leaves, bucket_count: 0, grid_bits: GRID_BITS_MIN, tables }
    }
}

impl Digests {
    /// Takes in the change of one key of a table with replication factor `replication`.
    pub fn apply(&mut self, key: &StoredKey, replication: u8, delta: &Delta) {
        let index = index_of(leaf_of(key.token()));
        let leaves = self.leaves.entry(replication).or_insert_with(Leaves::new);
        leaves.stays[usize::from(index)] ^= delta.stays;
        for change in &delta.going {
            let end = on_grid(change.end, self.grid_bits);
            let more = leaves.change(index, BucketDelta { end, ..*change });
            self.bucket_count = self.bucket_count.saturating_add_signed(more);
        }
        let figures = self.tables.entry(key.table()).or_default();
        figures.live = figures.live.saturating_add_signed(i64::from(delta.live));
        figures.tombstones = figures.tombstones.saturating_add_signed(i64::from(delta.tombstones));
        figures.bytes = figures.bytes.saturating_add_signed(delta.bytes);
        self.bound_buckets();
    }

    /// Rounds the buckets' ends up further while there are too many of them.
    fn bound_buckets(&mut self) {
        if self.bucket_count == 0 {
            self.grid_bits = GRID_BITS_MIN;
        }
        while self.bucket_count > BUCKETS_MAX && self.grid_bits < GRID_BITS_MAX {
            self.grid_bits += 1;
            self.bucket_count = 0;
            for buckets in self.leaves.values_mut().flat_map(|leaves| leaves.going.values_mut()) {
                buckets.iter_mut().for_each(|it| it.end = on_grid(it.end, self.grid_bits));
                buckets.dedup_by(|next, kept| {
                    let is_same = next.end == kept.end;
                    if is_same {
                        kept.digest ^= next.digest;
                        kept.pairs = kept.pairs.saturating_add(next.pairs);
                    }
                    is_same
                });
                self.bucket_count += buckets.len();
            }
        }
    }

    /// Takes a leaf over from other digests, for every replication factor.
    pub fn replace_leaf(&mut self, leaf: usize, other: &Self) {
        let index = index_of(leaf);
        let known = other.replications().chain(self.replications());
        for replication in known.collect::<std::collections::BTreeSet<_>>() {
            let theirs = other.leaves.get(&replication);
            let own = self.leaves.entry(replication).or_insert_with(Leaves::new);
            own.stays[usize::from(index)] = theirs.map_or(0, |it| it.stays[usize::from(index)]);
            let before = own.going.remove(&index).map_or(0, |buckets| buckets.len());
            self.bucket_count -= before;
            for bucket in theirs.and_then(|it| it.going.get(&index)).into_iter().flatten() {
                let Bucket { end, digest, pairs } = *bucket;
                let end = on_grid(end, self.grid_bits);
                let pairs = i32::try_from(pairs).unwrap_or(i32::MAX);
                let more = own.change(index, BucketDelta { end, digest, pairs });
                self.bucket_count = self.bucket_count.saturating_add_signed(more);
            }
        }
        self.bound_buckets();
    }

    /// The replication factors that there are leaves for, ascending.
    pub fn replications(&self) -> impl Iterator<Item = u8> {
        self.leaves.keys().copied()
    }

    /// A leaf under a floor: without what may be collected.
    pub fn leaf(&self, replication: u8, leaf: usize, floor: HybridTime) -> u64 {
        let leaves = self.leaves.get(&replication);
        leaves.map_or(0, |leaves| leaves.effective(index_of(leaf), floor))
    }

    /// The leaves of a range, which should be one virtual node's, under its floor.
    pub fn leaves(&self, replication: u8, range: Range<usize>, floor: HybridTime) -> Vec<u64> {
        let Some(leaves) = self.leaves.get(&replication) else { return vec![0; range.len()] };
        let first = range.start;
        let mut effective = leaves.stays[range.clone()].to_vec();
        for (leaf, buckets) in leaves.going_in(range) {
            let above = &buckets[buckets.partition_point(|bucket| bucket.end <= floor)..];
            above.iter().for_each(|bucket| effective[leaf - first] ^= bucket.digest);
        }
        effective
    }

    /// Floors should be multiples of this many milliseconds, or replicas that collect seem to differ
    /// for a while: the buckets' ends are.
    pub fn floor_step_ms(&self) -> u64 {
        1 << (self.grid_bits - 16)
    }

    /// Those leaves of a range that hold pairs which may go under a floor, ascending; and how many
    /// such pairs.
    pub fn going(
        &self,
        range: Range<usize>,
        floor: HybridTime,
    ) -> impl Iterator<Item = (usize, u64)> {
        let mut going: BTreeMap<usize, u64> = BTreeMap::new();
        for leaves in self.leaves.values() {
            for (leaf, buckets) in leaves.going_in(range.clone()) {
                let gone = buckets.iter().take_while(|bucket| bucket.end <= floor);
                let pairs: u64 = gone.map(|bucket| u64::from(bucket.pairs)).sum();
                if pairs > 0 {
                    *going.entry(leaf).or_default() += pairs;
                }
            }
        }
        going.into_iter()
    }

    /// What each table holds.
    pub fn tables(&self) -> &BTreeMap<TableId, TableFigures> {
        &self.tables
    }

    /// The checkpoint's bytes: what is zero is left out, so that a small store has a small one.
    ///
    /// ```text
    /// u8 the grid | u16 replication factors, for each:
    ///     u8 N | u32 leaves, for each: u16 index, u64 what stays
    ///     u32 leaves with buckets, for each: u16 index, u32 buckets, for each:
    ///         u64 end, u64 digest, u32 pairs
    /// u32 tables, for each: u32 id, u64 live, u64 tombstones, u64 bytes
    /// ```
    pub fn encode(&self) -> Bytes {
        let held: Vec<_> = self
            .leaves
            .iter()
            .map(|(n, leaves)| (*n, held_leaves(&leaves.stays), leaves))
            .collect();
        let leaves_bytes = |(_, held, leaves): &(u8, Vec<_>, &Leaves)| {
            9 + held.len() * LEAF_BYTES + leaves.going.len() * 6
        };
        let fixed = 7 + self.tables.len() * 28 + self.bucket_count * BUCKET_BYTES;
        let mut out = BytesMut::with_capacity(fixed + held.iter().map(leaves_bytes).sum::<usize>());
        out.put_u8(u8::try_from(self.grid_bits).expect("at most 63"));
        out.put_u16_le(u16::try_from(held.len()).expect("at most 256 replication factors"));
        for (replication, held, leaves) in held {
            out.put_u8(replication);
            out.put_u32_le(u32::try_from(held.len()).expect("there are 2^16 leaves"));
            for (index, leaf) in held {
                out.put_u16_le(index);
                out.put_u64_le(leaf);
            }
            out.put_u32_le(u32::try_from(leaves.going.len()).expect("there are 2^16 leaves"));
            for (index, buckets) in &leaves.going {
                out.put_u16_le(*index);
                out.put_u32_le(u32::try_from(buckets.len()).expect("buckets are bounded"));
                for bucket in buckets {
                    out.put_u64_le(bucket.end.0);
                    out.put_u64_le(bucket.digest);
                    out.put_u32_le(bucket.pairs);
                }
            }
        }
        out.put_u32_le(u32::try_from(self.tables.len()).expect("table ids have 32 bits"));
        for (table, figures) in &self.tables {
            out.put_u32_le(table.0);
            out.put_u64_le(figures.live);
            out.put_u64_le(figures.tombstones);
            out.put_u64_le(figures.bytes);
        }
        out.freeze()
    }

    /// Reads a checkpoint; `None` if it is damaged.
    pub fn decode(mut input: &[u8]) -> Option<Self> {
        let mut digests = Self { grid_bits: input.try_get_u8().ok()?.into(), ..Self::default() };
        if !(GRID_BITS_MIN..=GRID_BITS_MAX).contains(&digests.grid_bits) {
            return None;
        }
        for _ in 0..input.try_get_u16_le().ok()? {
            let replication = input.try_get_u8().ok()?;
            let leaves = digests.decode_leaves(&mut input)?;
            digests.leaves.insert(replication, leaves);
        }
        for _ in 0..input.try_get_u32_le().ok()? {
            let table = TableId(input.try_get_u32_le().ok()?);
            let figures = TableFigures {
                live: input.try_get_u64_le().ok()?,
                tombstones: input.try_get_u64_le().ok()?,
                bytes: input.try_get_u64_le().ok()?,
            };
            digests.tables.insert(table, figures);
        }
        input.is_empty().then_some(digests)
    }

    fn decode_leaves(&mut self, input: &mut &[u8]) -> Option<Leaves> {
        let mut leaves = Leaves::new();
        let count = input.try_get_u32_le().ok()? as usize;
        if input.len() / LEAF_BYTES < count {
            return None;
        }
        for _ in 0..count {
            let index = usize::from(input.get_u16_le());
            leaves.stays[index] = input.get_u64_le();
        }
        for _ in 0..input.try_get_u32_le().ok()? {
            let index = input.try_get_u16_le().ok()?;
            let count = input.try_get_u32_le().ok()? as usize;
            if count == 0 || input.len() / BUCKET_BYTES < count {
                return None;
            }
            let buckets: Vec<Bucket> = (0..count)
                .map(|_| Bucket {
                    end: HybridTime(input.get_u64_le()),
                    digest: input.get_u64_le(),
                    pairs: input.get_u32_le(),
                })
                .collect();
            let is_right = |bucket: &Bucket| bucket.end == on_grid(bucket.end, self.grid_bits);
            if !buckets.is_sorted_by(|a, b| a.end < b.end) || !buckets.iter().all(is_right) {
                return None;
            }
            self.bucket_count += count;
            leaves.going.insert(index, buckets).is_none().then_some(())?;
        }
        Some(leaves)
    }
}

fn index_of(leaf: usize) -> u16 {
    u16::try_from(leaf).expect("there are 2^16 leaves")
}

/// The first multiple of two to the power of `bits` at or after `end`; the end of time where there
/// is none.
fn on_grid(end: HybridTime, bits: u32) -> HybridTime {
    let step = 1u64 << bits;
    HybridTime(end.0.checked_next_multiple_of(step).unwrap_or(u64::MAX))
}

/// The leaves that are not zero.
fn held_leaves(leaves: &[u64]) -> Vec<(u16, u64)> {
    let numbered = (0..=u16::MAX).zip(leaves.iter().copied());
    numbered.filter(|(_, leaf)| *leaf != 0).collect()
}

#[cfg(test)]
mod tests;
