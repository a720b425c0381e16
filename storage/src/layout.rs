//! How keys lie in the sorted tables: token, table, partition key, sort key.
//!
//! ```text
//! u64 token | u32 table | u16 length | partition key | sort key      (numbers big endian)
//! ```
//!
//! A value that lies apart from its set is under the same bytes with the table's highest bit set,
//! followed by its dot: `u64 time | u64 actor`.
//!
//! Behind all keys and values lies what is kept for other nodes. What this node took in a primary's
//! place lies under that primary and the key; a hint, which says that a node misses a write of a key,
//! under its target, the oldest first: those of the first kind are about what this node holds itself,
//! those of the second about what it took in the target's place.
//!
//! ```text
//! u64 2^64 - 1 | u32 2^32 - 1 | u16  8 | u64 node | the key as it lies
//! u64 2^64 - 1 | u32 2^32 - 1 | u16 16 | u64 node | u64 hybrid time | the key as it lies
//! u64 2^64 - 1 | u32 2^32 - 1 | u16 17 | u64 node | u64 hybrid time | the key as it lies
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
const FOR_OTHERS: u32 = u32::MAX;
/// Where the length of a partition key would be: what a primary's stand-in took.
const TAKEN: u16 = 8;
/// A node and a time, before the key.
const HINT_BYTES: usize = 16;
/// Partition key and sort key together never have more bytes than this: the log writes the length of
/// a laid out key with 16 bits.
pub const KEY_BYTES_MAX: usize = u16::MAX as usize - FIXED_BYTES - (FIXED_BYTES + HINT_BYTES);

/// A key as the sorted tables hold it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoredKey {
    bytes: Bytes,
}

/// What a hint is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HintKind {
    /// What the holder has under the key, being one of its primaries: no copy, and never stale.
    Reference,
    /// What the holder took in the target's place, being none of them. It is the data itself.
    StandIn,
}

impl HintKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Reference, Self::StandIn];

    fn code(self) -> u16 {
        match self {
            Self::Reference => 16,
            Self::StandIn => 17,
        }
    }

    fn of_code(code: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }
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
        if partition.len() + sort.len() > KEY_BYTES_MAX || table.0 >= FOR_OTHERS & !APART {
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
        if key.is_for_others() {
            let is_right = key.hinted().is_some() || key.taken().is_some();
            return if is_right { Ok(key) } else { Err(KeyError) };
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
    pub fn hint(&self, kind: HintKind, target: NodeId, time: HybridTime) -> Self {
        assert!(!self.is_apart(), "only of a key writes are missed");
        let mut bytes = BytesMut::with_capacity(FOR_NODE_BYTES + 8 + self.bytes.len());
        bytes.put_slice(&hints_prefix(kind, target));
        bytes.put_u64(time.0);
        bytes.put_slice(&self.bytes);
        Self { bytes: bytes.freeze() }
    }

    /// Where that lies which this node took for the key in the place of `primary`.
    pub fn taken_for(&self, primary: NodeId) -> Self {
        assert!(!self.is_apart(), "only for a key something is taken");
        let mut bytes = BytesMut::with_capacity(FOR_NODE_BYTES + self.bytes.len());
        put_for_node(TAKEN, primary, &mut bytes);
        bytes.put_slice(&self.bytes);
        Self { bytes: bytes.freeze() }
    }

    /// Whether something lies here that is kept for another node.
    pub fn is_for_others(&self) -> bool {
        self.table().0 == FOR_OTHERS
    }

    /// What the hint that lies here is about, its node, time and key; `None` where no hint lies.
    pub fn hinted(&self) -> Option<(HintKind, NodeId, HybridTime, Self)> {
        let (code, target, mut rest) = self.for_node()?;
        let kind = HintKind::of_code(code)?;
        let time = HybridTime(rest.try_get_u64().ok()?);
        Some((kind, target, time, Self::from_plain_bytes(rest)?))
    }

    /// The primary and the key that something lies here for which this node took in its place.
    pub fn taken(&self) -> Option<(NodeId, Self)> {
        let (code, primary, rest) = self.for_node()?;
        let key = Self::from_plain_bytes(rest).filter(|_| code == TAKEN)?;
        Some((primary, key))
    }

    fn for_node(&self) -> Option<(u16, NodeId, Bytes)> {
        let mut rest = self.bytes.clone();
        let is_there =
            rest.try_get_u64().ok()? == u64::MAX && rest.try_get_u32().ok()? == FOR_OTHERS;
        let (code, node) = (rest.try_get_u16().ok()?, rest.try_get_u64().ok()?);
        is_there.then_some((code, NodeId(node), rest))
    }

    fn from_plain_bytes(bytes: Bytes) -> Option<Self> {
        let key = (bytes.len() >= FIXED_BYTES).then_some(Self { bytes })?;
        let is_whole = FIXED_BYTES + key.partition_bytes() <= key.bytes.len();
        (is_whole && !key.is_apart()).then_some(key)
    }

    /// Whether a value lies here, or what is kept for another node, and no set.
    pub fn is_apart(&self) -> bool {
        self.table().0 & APART != 0
    }

    /// The key and the write that a value lies here for; `None` where anything else lies.
    pub fn owner(&self) -> Option<(Self, Dot)> {
        if !self.is_apart() || self.is_for_others() {
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

/// Up to the node.
const FOR_NODE_BYTES: usize = FIXED_BYTES + 8;

fn put_for_node(code: u16, node: NodeId, bytes: &mut BytesMut) {
    put_for_others(code, bytes);
    bytes.put_u64(node.0);
}

fn put_for_others(code: u16, bytes: &mut BytesMut) {
    bytes.put_u64(u64::MAX);
    bytes.put_u32(FOR_OTHERS);
    bytes.put_u16(code);
}

/// What all hints of a kind begin with.
pub fn all_hints_prefix(kind: HintKind) -> Bytes {
    let mut bytes = BytesMut::with_capacity(FIXED_BYTES);
    put_for_others(kind.code(), &mut bytes);
    bytes.freeze()
}

/// What the hints of a kind for one node begin with; then comes the hybrid time.
pub fn hints_prefix(kind: HintKind, target: NodeId) -> Bytes {
    let mut bytes = BytesMut::with_capacity(FOR_NODE_BYTES);
    put_for_node(kind.code(), target, &mut bytes);
    bytes.freeze()
}

/// What all begins with that this node took in the place of others.
pub fn all_taken_prefix() -> Bytes {
    let mut bytes = BytesMut::with_capacity(FIXED_BYTES);
    put_for_others(TAKEN, &mut bytes);
    bytes.freeze()
}

/// What all begins with that this node took in the place of one primary.
pub fn taken_prefix(primary: NodeId) -> Bytes {
    let mut bytes = BytesMut::with_capacity(FOR_NODE_BYTES);
    put_for_node(TAKEN, primary, &mut bytes);
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
            let read = |key: StoredKey| StoredKey::from_bytes(key.bytes().clone()).expect("laid out");
            for kind in HintKind::ALL {
                let hint = read(key.hint(kind, target, time));
                prop_assert!(hint.is_for_others() && hint.is_apart() && hint.owner().is_none());
                prop_assert!(hint > key && hint > key.apart(dot) && hint.taken().is_none());
                prop_assert_eq!(hint.hinted(), Some((kind, target, time, key.clone())));
            }
            let taken = read(key.taken_for(target));
            prop_assert!(taken.is_for_others() && taken.is_apart() && taken.owner().is_none());
            prop_assert!(taken > key && taken > key.apart(dot) && taken.hinted().is_none());
            prop_assert_eq!(taken.taken(), Some((target, key)));
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
                if let Some((kind, target, time, of)) = key.hinted() {
                    prop_assert_eq!(of.hint(kind, target, time), key);
                    return Ok(());
                }
                if let Some((primary, of)) = key.taken() {
                    prop_assert_eq!(of.taken_for(primary), key);
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
