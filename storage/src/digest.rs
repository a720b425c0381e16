//! Leaf digests and figures of what is held, changed with each mutation and never rebuilt by a scan
//! (but where damage was found).
//!
//! For every replication factor N there is one array over the whole ring: [`LEAVES`] leaves, the
//! next bits of the token below the virtual node's. A leaf is the XOR of a 64-bit hash of each key
//! with its vector and dots, so that it changes by the XOR of what a key was and what it is. The
//! changes are logged with the mutation and the arrays are checkpointed when tables are flushed.
//! (Anti-entropy compares them: DeCandia et al., "Dynamo", section 4.7.)

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quoit_ring::{HybridTime, TableId, Token};
use xxhash_rust::xxh3::Xxh3;

use crate::layout::StoredKey;
use crate::version::{Content, SiblingSet};

/// Leaves over the whole ring: 64 for each of 1,024 virtual nodes.
pub const LEAVES: usize = 1 << 16;
/// What a leaf takes in a checkpoint: its index and itself.
const LEAF_BYTES: usize = 10;

/// The change of one key, as it is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Delta {
    /// XORed into the leaf.
    pub leaf: u64,
    /// Keys with a value, more or less.
    pub live: i8,
    /// Keys with nothing but tombstones, more or less.
    pub tombstones: i8,
    /// Bytes of keys and values, more or less.
    pub bytes: i64,
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

/// The arrays and the figures.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Digests {
    leaves: BTreeMap<u8, Vec<u64>>,
    tables: BTreeMap<TableId, TableFigures>,
}

/// The hash of one key's state that goes into its leaf; 0 for a key that was never written.
pub fn item_digest(key: &StoredKey, set: &SiblingSet) -> u64 {
    if set.is_empty() {
        return 0;
    }
    let mut hasher = Xxh3::new();
    let mut add = |number: u64| hasher.update(&number.to_le_bytes());
    add(set.vector().entries().len() as u64);
    for (actor, time) in set.vector().entries() {
        add(actor.0);
        add(time.0);
    }
    for version in set.versions() {
        add(version.dot.time.0);
        add(version.dot.actor.0);
    }
    hasher.update(key.bytes());
    hasher.digest()
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
    Delta {
        leaf: item_digest(key, before) ^ item_digest(key, after),
        live: change(&is_live),
        tombstones: change(&|set| {
            held(set)
                && !is_live(set)
                && set.versions().iter().any(|v| v.content == Content::Tombstone)
        }),
        bytes: bytes(after) - bytes(before),
    }
}

/// The leaf of a token.
pub fn leaf_of(token: Token) -> usize {
    usize::try_from(token.0 >> (u64::BITS - LEAVES.trailing_zeros())).expect("16 bits")
}

impl Digests {
    /// Takes in the change of one key of a table with replication factor `replication`.
    pub fn apply(&mut self, key: &StoredKey, replication: u8, delta: Delta) {
        let leaves = self.leaves.entry(replication).or_insert_with(|| vec![0; LEAVES]);
        leaves[leaf_of(key.token())] ^= delta.leaf;
        let figures = self.tables.entry(key.table()).or_default();
        figures.live = figures.live.saturating_add_signed(i64::from(delta.live));
        figures.tombstones = figures.tombstones.saturating_add_signed(i64::from(delta.tombstones));
        figures.bytes = figures.bytes.saturating_add_signed(delta.bytes);
    }

    /// The leaves for a replication factor, over the whole ring.
    pub fn leaves(&self, replication: u8) -> Option<&[u64]> {
        self.leaves.get(&replication).map(Vec::as_slice)
    }

    /// What each table holds.
    pub fn tables(&self) -> &BTreeMap<TableId, TableFigures> {
        &self.tables
    }

    /// The checkpoint's bytes: what is zero is left out, so that a small store has a small one.
    pub fn encode(&self) -> Bytes {
        let held: Vec<_> =
            self.leaves.iter().map(|(n, leaves)| (*n, held_leaves(leaves))).collect();
        let leaves_bytes = |(_, held): &(u8, Vec<_>)| 5 + held.len() * LEAF_BYTES;
        let bytes = held.iter().map(leaves_bytes).sum::<usize>() + self.tables.len() * 28 + 6;
        let mut out = BytesMut::with_capacity(bytes);
        out.put_u16_le(u16::try_from(held.len()).expect("at most 256 replication factors"));
        for (replication, held) in held {
            out.put_u8(replication);
            out.put_u32_le(u32::try_from(held.len()).expect("there are 2^16 leaves"));
            for (index, leaf) in held {
                out.put_u16_le(index);
                out.put_u64_le(leaf);
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
        let mut digests = Self::default();
        for _ in 0..input.try_get_u16_le().ok()? {
            let replication = input.try_get_u8().ok()?;
            let count = input.try_get_u32_le().ok()? as usize;
            if input.len() / LEAF_BYTES < count {
                return None;
            }
            let mut leaves = vec![0; LEAVES];
            for _ in 0..count {
                let index = usize::from(input.get_u16_le());
                leaves[index] = input.get_u64_le();
            }
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
}

/// The leaves that are not zero.
fn held_leaves(leaves: &[u64]) -> Vec<(u16, u64)> {
    let numbered = (0..=u16::MAX).zip(leaves.iter().copied());
    numbered.filter(|(_, leaf)| *leaf != 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::{Actor, Dot, Version};

    fn set(time: u64) -> SiblingSet {
        let dot = Dot { time: HybridTime(time), actor: Actor(1) };
        let content = Content::Value { bytes: Bytes::from_static(b"value"), checksum: 0 };
        SiblingSet::of(Version { dot, content, expires: None })
    }

    #[test]
    fn equal_stores_have_equal_digests_whatever_the_order_of_their_writes() {
        let key = |n: u64| {
            StoredKey::new(Token(n << 50), TableId(1), &n.to_be_bytes(), b"").expect("short")
        };
        let empty = SiblingSet::default();
        let mut one = Digests::default();
        let mut two = Digests::default();
        for n in 0..100 {
            one.apply(&key(n), 3, delta(&key(n), &empty, &set(n + 1)));
            one.apply(&key(n), 3, delta(&key(n), &set(n + 1), &set(n + 2)));
            let m = 99 - n;
            two.apply(&key(m), 3, delta(&key(m), &empty, &set(m + 2)));
        }
        assert_eq!(one, two);
        assert_eq!(one.tables()[&TableId(1)].live, 100);
        assert_eq!(Digests::decode(&one.encode()), Some(one.clone()));
        two.apply(&key(5), 3, delta(&key(5), &set(7), &set(8)));
        assert_ne!(one.leaves(3), two.leaves(3));
    }

    #[test]
    fn a_cut_checkpoint_is_refused() {
        let key = StoredKey::new(Token(u64::MAX), TableId(1), b"p", b"s").expect("short");
        let mut digests = Digests::default();
        digests.apply(&key, 3, delta(&key, &SiblingSet::default(), &set(1)));
        let bytes = digests.encode();
        assert_eq!(Digests::decode(&bytes), Some(digests));
        for length in 0..bytes.len() {
            assert!(Digests::decode(&bytes[..length]).is_none());
        }
    }
}
