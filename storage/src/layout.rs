//! How keys lie in the sorted tables: token, table, partition key, sort key.
//!
//! ```text
//! u64 token | u32 table | u16 length | partition key | sort key      (numbers big endian)
//! ```
//!
//! A value that lies apart from its set is under the same bytes with the table's highest bit set,
//! followed by its dot: `u64 time | u64 actor`.
//!
//! A hint, which says that a node misses a write of a key, lies behind all keys and values, with those
//! for one node together and the oldest first:
//!
//! ```text
//! u64 2^64 - 1 | u32 2^32 - 1 | u16 16 | u64 node | u64 hybrid time | the key as it lies
//! ```
//!
//! Virtual nodes and digest leaves are contiguous ranges, and so are the items of one partition
//! key, ascending by sort key.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quoit_ring::{HybridTime, NodeId, TableId, Token, VnodeCount, VnodeIndex};

use crate::version::{Actor, Dot};

const FIXED_BYTES: usize = 14;
const DOT_BYTES: usize = 16;
/// The highest bit of the table's id.
const APART: u32 = 1 << 31;
/// Where a table's id would be. As with a value that lies apart the highest bit says that no set
/// lies here.
const HINT: u32 = u32::MAX;
/// A node and a time.
const HINT_BYTES: u16 = 16;
/// Partition key and sort key together never have more bytes than this: the log writes the length of
/// a laid out key with 16 bits.
pub const KEY_BYTES_MAX: usize =
    u16::MAX as usize - FIXED_BYTES - (FIXED_BYTES + HINT_BYTES as usize);

/// A key as the sorted tables hold it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoredKey {
    bytes: Bytes,
}

/// Bytes that are no stored key, or parts that make none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a stored key is damaged or too long")]
pub struct KeyError;

impl StoredKey {
    /// Lays out a key.
    ///
    /// # Errors
    /// If the key is too long, or the table's id 2^31 - 1 or more: ids count up from 1.
    pub fn new(
        token: Token,
        table: TableId,
        partition: &[u8],
        sort: &[u8],
    ) -> Result<Self, KeyError> {
        if partition.len() + sort.len() > KEY_BYTES_MAX || table.0 >= HINT & !APART {
            return Err(KeyError);
        }
        let mut bytes = BytesMut::with_capacity(FIXED_BYTES + partition.len() + sort.len());
        bytes.put_slice(&partition_prefix(token, table, partition));
        bytes.put_slice(sort);
        Ok(Self { bytes: bytes.freeze() })
    }

    /// Reads a key back from its bytes.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, KeyError> {
        if bytes.len() < FIXED_BYTES {
            return Err(KeyError);
        }
        let key = Self { bytes };
        if key.is_hint() {
            return key.hinted().map(|_| key).ok_or(KeyError);
        }
        let apart_bytes = if key.is_apart() { DOT_BYTES } else { 0 };
        let least = FIXED_BYTES + key.partition_bytes() + apart_bytes;
        if least > key.bytes.len() { Err(KeyError) } else { Ok(key) }
    }

    /// Where the value of a write lies apart from the key's set.
    pub fn apart(&self, dot: Dot) -> Self {
        assert!(!self.is_apart(), "only a key has values");
        let mut bytes = BytesMut::with_capacity(self.bytes.len() + DOT_BYTES);
        bytes.put_u64(self.token().0);
        bytes.put_u32(self.table().0 | APART);
        bytes.put_slice(&self.bytes[12..]);
        bytes.put_u64(dot.time.0);
        bytes.put_u64(dot.actor.0);
        Self { bytes: bytes.freeze() }
    }

    /// Where the hint lies that `target` misses a write of this key.
    pub fn hint(&self, target: NodeId, time: HybridTime) -> Self {
        assert!(!self.is_apart(), "only of a key writes are missed");
        let mut bytes = BytesMut::with_capacity(HINTS_PREFIX_BYTES + 8 + self.bytes.len());
        bytes.put_slice(&hints_prefix(target));
        bytes.put_u64(time.0);
        bytes.put_slice(&self.bytes);
        Self { bytes: bytes.freeze() }
    }

    /// Whether a hint lies here.
    pub fn is_hint(&self) -> bool {
        self.table().0 == HINT
    }

    /// The node, the time and the key of the hint that lies here; `None` where no hint lies.
    pub fn hinted(&self) -> Option<(NodeId, HybridTime, Self)> {
        let prefix = self.bytes.get(..HINTS_PREFIX_BYTES)?;
        let target = NodeId((&prefix[FIXED_BYTES..]).get_u64());
        let time =
            HybridTime((self.bytes.get(HINTS_PREFIX_BYTES..HINTS_PREFIX_BYTES + 8)?).get_u64());
        let key = self.bytes.slice(HINTS_PREFIX_BYTES + 8..);
        let is_key = |key: &Self| !key.is_apart();
        let key = Self::from_plain_bytes(key).filter(is_key)?;
        (prefix == &hints_prefix(target)[..]).then_some((target, time, key))
    }

    fn from_plain_bytes(bytes: Bytes) -> Option<Self> {
        let key = (bytes.len() >= FIXED_BYTES).then_some(Self { bytes })?;
        (FIXED_BYTES + key.partition_bytes() <= key.bytes.len()).then_some(key)
    }

    /// Whether a value or a hint lies here, and no set.
    pub fn is_apart(&self) -> bool {
        self.table().0 & APART != 0
    }

    /// The key and the write that a value lies here for; `None` where a set or a hint lies.
    pub fn owner(&self) -> Option<(Self, Dot)> {
        if !self.is_apart() || self.is_hint() {
            return None;
        }
        let end = self.bytes.len() - DOT_BYTES;
        let mut bytes = BytesMut::from(&self.bytes[..end]);
        bytes[8..12].copy_from_slice(&(self.table().0 & !APART).to_be_bytes());
        let mut dot = &self.bytes[end..];
        let (time, actor) = (HybridTime(dot.get_u64()), Actor(dot.get_u64()));
        Some((Self { bytes: bytes.freeze() }, Dot { time, actor }))
    }

    /// The bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The token of the partition key.
    pub fn token(&self) -> Token {
        Token((&self.bytes[..]).get_u64())
    }

    /// The table.
    pub fn table(&self) -> TableId {
        TableId((&self.bytes[8..]).get_u32())
    }

    fn partition_bytes(&self) -> usize {
        usize::from((&self.bytes[12..]).get_u16())
    }

    /// The partition key.
    pub fn partition(&self) -> Bytes {
        self.bytes.slice(FIXED_BYTES..FIXED_BYTES + self.partition_bytes())
    }

    /// The sort key.
    pub fn sort(&self) -> Bytes {
        self.bytes.slice(FIXED_BYTES + self.partition_bytes()..)
    }
}

const HINTS_PREFIX_BYTES: usize = FIXED_BYTES + 8;

/// What all hints begin with.
pub fn all_hints_prefix() -> Bytes {
    let mut bytes = BytesMut::with_capacity(HINTS_PREFIX_BYTES);
    bytes.put_u64(u64::MAX);
    bytes.put_u32(HINT);
    bytes.put_u16(HINT_BYTES);
    bytes.freeze()
}

/// What the hints for one node begin with; then comes the hybrid time.
pub fn hints_prefix(target: NodeId) -> Bytes {
    let mut bytes = BytesMut::from(&all_hints_prefix()[..]);
    bytes.put_u64(target.0);
    bytes.freeze()
}

/// What the keys of one partition key begin with.
pub fn partition_prefix(token: Token, table: TableId, partition: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(FIXED_BYTES + partition.len());
    bytes.put_u64(token.0);
    bytes.put_u32(table.0);
    bytes.put_u16(u16::try_from(partition.len()).expect("checked when the key came in"));
    bytes.put_slice(partition);
    bytes.freeze()
}

/// The first bytes after all that begin with `prefix`; `None` where there are none.
pub fn after_prefix(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|&byte| byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end.into())
}

/// The range of a virtual node's keys: the first bytes, and the end (excluded) where there is one.
pub fn vnode_range(vnodes: VnodeCount, vnode: VnodeIndex) -> (Bytes, Option<Bytes>) {
    let bound = |vnode| Bytes::copy_from_slice(&vnodes.first_token(vnode).0.to_be_bytes());
    let next = VnodeIndex(vnode.0 + 1);
    (bound(vnode), (next.0 < vnodes.get()).then(|| bound(next)))
}

/// The range of a digest leaf's keys: the first bytes, and the end (excluded) where there is one.
pub fn leaf_range(leaf: usize) -> (Bytes, Option<Bytes>) {
    let bound = |leaf: u16| Bytes::copy_from_slice(&(u64::from(leaf) << 48).to_be_bytes());
    let index = u16::try_from(leaf).expect("there are 2^16 leaves");
    (bound(index), index.checked_add(1).map(bound))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_key_reads_back_as_it_was_laid_out(
            token: u64, table in 0..APART - 1,
            partition in prop::collection::vec(any::<u8>(), 0..30), sort in prop::collection::vec(any::<u8>(), 0..30),
        ) {
            let key = StoredKey::new(Token(token), TableId(table), &partition, &sort).expect("short");
            let again = StoredKey::from_bytes(key.bytes().clone()).expect("laid out");
            prop_assert_eq!(again.token(), Token(token));
            prop_assert_eq!(again.table(), TableId(table));
            prop_assert_eq!(&again.partition()[..], &partition[..]);
            prop_assert_eq!(&again.sort()[..], &sort[..]);
            let dot = Dot { time: HybridTime(token ^ 1), actor: Actor(u64::from(table)) };
            let apart = StoredKey::from_bytes(key.apart(dot).bytes().clone()).expect("laid out");
            prop_assert!(apart.is_apart() && !key.is_apart());
            prop_assert_eq!(apart.token(), key.token());
            prop_assert_eq!(apart.owner(), Some((key.clone(), dot)));
            let (target, time) = (NodeId(token ^ 2), HybridTime(token ^ 3));
            let hint = StoredKey::from_bytes(key.hint(target, time).bytes().clone());
            let hint = hint.expect("laid out");
            prop_assert!(hint.is_hint() && hint.is_apart() && hint.owner().is_none());
            prop_assert!(hint > key && hint > key.apart(dot));
            prop_assert_eq!(hint.hinted(), Some((target, time, key)));
        }

        #[test]
        fn items_of_one_partition_key_are_ordered_by_sort_key(
            a in prop::collection::vec(any::<u8>(), 0..10), b in prop::collection::vec(any::<u8>(), 0..10),
        ) {
            let key = |sort: &[u8]| StoredKey::new(Token(1), TableId(1), b"p", sort).expect("short");
            prop_assert_eq!(key(&a).cmp(&key(&b)), a.cmp(&b));
        }

        #[test]
        fn any_bytes_are_a_key_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(key) = StoredKey::from_bytes(bytes.into()) {
                if let Some((target, time, of)) = key.hinted() {
                    prop_assert_eq!(of.hint(target, time), key);
                    return Ok(());
                }
                if let Some((owner, dot)) = key.owner() {
                    prop_assert_eq!(owner.apart(dot), key);
                    return Ok(());
                }
                let again = StoredKey::new(key.token(), key.table(), &key.partition(), &key.sort());
                prop_assert_eq!(again, Ok(key));
            }
        }
    }

    #[test]
    fn what_comes_after_a_prefix_skips_trailing_ones() {
        assert_eq!(after_prefix(&[1, 255, 255]).as_deref(), Some(&[2][..]));
        assert_eq!(after_prefix(&[255]), None);
    }
}
