//! What lies under a key in the sorted tables: a sibling set in an envelope that tells damage, and
//! whether the replica may vouch for it.
//!
//! ```text
//! u8 format, 1 | u8 flags (1: incomplete) | u8 N | u32 era | u64 checksum | the encoded set
//! ```
//! The checksum covers everything else and the key, so that a value that turns up under another key
//! is told. N is the replication factor of the key's table: it says which digests count the key, so
//! that they can be made anew from the tables alone.
//!
//! **Incomplete** means that writes may have been lost under this key: the replica keeps merging
//! what comes, but neither coordinates the key nor counts for it in a read, until a read quorum of
//! its peers has been merged in. The mark survives merges. The **era** counts the losses whose
//! extent could not be told: a record of an era before the last such loss is incomplete too, and so
//! is every absent key.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::codec;
use crate::version::SiblingSet;

const FORMAT: u8 = 1;
const INCOMPLETE: u8 = 1;
pub(crate) const CHECKSUM_AT: usize = 7;
/// Bytes before the encoded set.
pub const ENVELOPE_BYTES: usize = 15;

/// A loss that makes all records of earlier eras untrustworthy begins a new one; 0 is the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Era(pub u32);

/// What the replica says of a set that it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Whether writes may have been lost under the key.
    pub incomplete: bool,
    /// N of the key's table.
    pub replication: u8,
    /// When it was written.
    pub era: Era,
}

/// An opened envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// What the replica says of the set.
    pub standing: Standing,
    /// The encoded sibling set (see [`crate::codec`]); a slice of the envelope.
    pub set: Bytes,
}

/// An envelope that cannot be opened: what the key holds is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a stored value is damaged")]
pub struct EnvelopeError;

impl Standing {
    /// Appends an envelope for `key` that holds the set.
    pub fn seal_into(self, key: &[u8], set: &SiblingSet, out: &mut BytesMut) {
        let start = out.len();
        out.put_u8(FORMAT);
        out.put_u8(if self.incomplete { INCOMPLETE } else { 0 });
        out.put_u8(self.replication);
        out.put_u32_le(self.era.0);
        out.put_u64_le(0);
        codec::encode_into(set, out);
        let (header, set) = out[start..].split_at_mut(ENVELOPE_BYTES);
        let checksum = checksum(key, &header[..CHECKSUM_AT], set);
        header[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
    }
}

impl Stored {
    /// Opens the envelope that was sealed for `key`.
    pub fn open(key: &[u8], sealed: &Bytes) -> Result<Self, EnvelopeError> {
        if sealed.len() < ENVELOPE_BYTES || sealed[0] != FORMAT || sealed[1] & !INCOMPLETE != 0 {
            return Err(EnvelopeError);
        }
        let set = sealed.slice(ENVELOPE_BYTES..);
        let mut header = &sealed[2..ENVELOPE_BYTES];
        let standing = Standing {
            incomplete: sealed[1] & INCOMPLETE != 0,
            replication: header.get_u8(),
            era: Era(header.get_u32_le()),
        };
        if header.get_u64_le() != checksum(key, &sealed[..CHECKSUM_AT], &set) {
            return Err(EnvelopeError);
        }
        Ok(Self { standing, set })
    }
}

/// Each part seeds the hash of the next one.
pub(crate) fn checksum(key: &[u8], header: &[u8], set: &[u8]) -> u64 {
    xxh3_64_with_seed(set, xxh3_64_with_seed(key, xxh3_64_with_seed(header, 0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::{Actor, Content, Dot, Version};
    use quoit_ring::HybridTime;

    fn sealed() -> (Stored, Bytes) {
        let standing = Standing { incomplete: true, replication: 3, era: Era(7) };
        let dot = Dot { time: HybridTime(1), actor: Actor(2) };
        let content = Content::Value { bytes: Bytes::from_static(b"a value"), checksum: 3 };
        let set = SiblingSet::of(Version { dot, content, expires: None });
        let mut out = BytesMut::new();
        standing.seal_into(b"key", &set, &mut out);
        (Stored { standing, set: codec::encode(&set) }, out.freeze())
    }

    #[test]
    fn an_envelope_opens_only_under_its_own_key() {
        let (stored, sealed) = sealed();
        assert_eq!(Stored::open(b"key", &sealed), Ok(stored));
        assert_eq!(Stored::open(b"kez", &sealed), Err(EnvelopeError));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_told() {
        let (_, sealed) = sealed();
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Stored::open(b"key", &damaged.into()), Err(EnvelopeError), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert!(Stored::open(b"key", &sealed.slice(..length)).is_err());
        }
    }
}
