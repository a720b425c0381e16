//! Tokens and virtual nodes: where on the ring a partition key lies.
//!
//! The ring is the range of 64-bit tokens, cut into Q equal arcs, the virtual nodes (Dynamo,
//! section 6.2, strategy 3: equal partitions, fixed when the cluster is made). A token is the first
//! half of a keyed SipHash-1-3-128 of the partition key: keyed, so that nobody who does not know
//! the cluster's ring key can aim many keys at one arc.

use std::fmt;
use std::hash::Hasher;

use serde::{Deserialize, Serialize};
use siphasher::sip128::{Hasher128, SipHasher13};

/// A place on the ring.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(pub u64);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The cluster's own 128-bit key of the token hash; drawn when the first record is made.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingKey(pub u64, pub u64);

impl fmt::Debug for RingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RingKey(..)")
    }
}

impl RingKey {
    /// The token of a partition key: the first 64 bits of its SipHash-1-3-128 under this key.
    pub fn token(&self, partition_key: &[u8]) -> Token {
        Token(self.digest(partition_key).h1)
    }

    /// All 128 bits of SipHash-1-3-128 under this key.
    fn digest(&self, bytes: &[u8]) -> siphasher::sip128::Hash128 {
        let mut hasher = SipHasher13::new_with_keys(self.0, self.1);
        hasher.write(bytes);
        hasher.finish128()
    }
}

/// The index of a virtual node, from 0 to Q - 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VnodeIndex(pub u32);

impl fmt::Display for VnodeIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for VnodeIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

/// Q, the number of virtual nodes: a power of two from 1 to 65,536, fixed for a cluster's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct VnodeCount(u32);

/// A number of virtual nodes that the ring cannot be cut into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} virtual nodes: choose a power of two from 1 to {max}", max = VnodeCount::MAX)]
pub struct VnodeCountError(pub u32);

impl VnodeCount {
    /// The largest Q.
    pub const MAX: u32 = 65_536;
    /// What a cluster gets when nobody says otherwise.
    pub const DEFAULT: Self = Self(1_024);

    /// Checks that the count is a power of two in range.
    pub fn new(count: u32) -> Result<Self, VnodeCountError> {
        if count.is_power_of_two() && count <= Self::MAX {
            Ok(Self(count))
        } else {
            Err(VnodeCountError(count))
        }
    }

    /// The count as a number.
    pub fn get(self) -> u32 {
        self.0
    }

    /// The virtual node whose arc holds a token: the token's leading bits.
    pub fn vnode_of(self, token: Token) -> VnodeIndex {
        let bits = self.0.trailing_zeros();
        if bits == 0 {
            return VnodeIndex(0);
        }
        let index = token.0 >> (u64::BITS - bits);
        VnodeIndex(u32::try_from(index).expect("at most 16 bits are left"))
    }

    /// The first token of a virtual node's arc.
    pub fn first_token(self, vnode: VnodeIndex) -> Token {
        let bits = self.0.trailing_zeros();
        if bits == 0 {
            return Token(0);
        }
        Token(u64::from(vnode.0) << (u64::BITS - bits))
    }

    /// All virtual nodes, clockwise from token 0.
    pub fn all(self) -> impl Iterator<Item = VnodeIndex> {
        (0..self.0).map(VnodeIndex)
    }
}

impl TryFrom<u32> for VnodeCount {
    type Error = VnodeCountError;

    fn try_from(count: u32) -> Result<Self, Self::Error> {
        Self::new(count)
    }
}

impl From<VnodeCount> for u32 {
    fn from(count: VnodeCount) -> Self {
        count.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_token_is_the_same_for_ever() {
        let key = RingKey(0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908);
        // A change here moves every key of every cluster.
        assert_eq!(key.token(b""), Token(key.digest(b"").h1));
        assert_eq!(format!("{}", key.token(b"quoit")), GOLDEN_QUOIT);
    }

    const GOLDEN_QUOIT: &str = "0b98d88b8a0fb88e";

    proptest! {
        #[test]
        fn an_arc_holds_the_tokens_between_its_first_and_the_next(token: u64, bits in 0u32..=16) {
            let count = VnodeCount::new(1 << bits).expect("a power of two");
            let vnode = count.vnode_of(Token(token));
            prop_assert!(count.first_token(vnode) <= Token(token));
            if vnode.0 + 1 < count.get() {
                prop_assert!(Token(token) < count.first_token(VnodeIndex(vnode.0 + 1)));
            }
        }
    }
}
