//! What lies under a key in the sorted tables: a sibling set in an envelope that tells damage, and
//! whether the replica may vouch for it.
//!
//! ```text
//! u8 format, 1 | u8 flags (1: incomplete) | u32 era | u64 XXH3-64 | the encoded set
//! ```
//! The checksum covers the key, the flags, the era and the set, so that a value that turns up under
//! another key is told.
//!
//! **Incomplete** means that writes may have been lost under this key: the replica keeps merging
//! what comes, but neither coordinates the key nor counts for it in a read, until a read quorum of
//! its peers has been merged in. The mark survives merges. The **era** counts the losses whose
//! extent could not be told: a record of an era before the last such loss is incomplete too, and so
//! is every absent key.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use xxhash_rust::xxh3::Xxh3;

const FORMAT: u8 = 1;
const INCOMPLETE: u8 = 1;
/// Bytes before the encoded set.
pub const ENVELOPE_BYTES: usize = 14;

/// A loss that makes all records of earlier eras untrustworthy begins a new one; 0 is the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Era(pub u32);

/// An opened envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Whether writes may have been lost under the key.
    pub incomplete: bool,
    /// When it was written.
    pub era: Era,
    /// The encoded sibling set (see [`crate::codec`]); a slice of the envelope.
    pub set: Bytes,
}

/// An envelope that cannot be opened: what the key holds is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a stored value is damaged")]
pub struct EnvelopeError;

impl Stored {
    /// Puts the set into an envelope for `key`.
    pub fn seal(&self, key: &[u8]) -> Bytes {
        let mut out = BytesMut::with_capacity(ENVELOPE_BYTES + self.set.len());
        let flags = if self.incomplete { INCOMPLETE } else { 0 };
        out.put_u8(FORMAT);
        out.put_u8(flags);
        out.put_u32_le(self.era.0);
        out.put_u64_le(checksum(key, flags, self.era, &self.set));
        out.put_slice(&self.set);
        out.freeze()
    }

    /// Opens the envelope that was sealed for `key`.
    pub fn open(key: &[u8], sealed: &Bytes) -> Result<Self, EnvelopeError> {
        if sealed.len() < ENVELOPE_BYTES || sealed[0] != FORMAT || sealed[1] & !INCOMPLETE != 0 {
            return Err(EnvelopeError);
        }
        let mut header = &sealed[2..ENVELOPE_BYTES];
        let era = Era(header.get_u32_le());
        let set = sealed.slice(ENVELOPE_BYTES..);
        if header.get_u64_le() != checksum(key, sealed[1], era, &set) {
            return Err(EnvelopeError);
        }
        Ok(Self { incomplete: sealed[1] & INCOMPLETE != 0, era, set })
    }
}

fn checksum(key: &[u8], flags: u8, era: Era, set: &[u8]) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(&[flags]);
    hasher.update(&era.0.to_le_bytes());
    hasher.update(key);
    hasher.update(set);
    hasher.digest()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored() -> Stored {
        Stored { incomplete: true, era: Era(7), set: Bytes::from_static(b"a set") }
    }

    #[test]
    fn an_envelope_opens_only_under_its_own_key() {
        let sealed = stored().seal(b"key");
        assert_eq!(Stored::open(b"key", &sealed), Ok(stored()));
        assert_eq!(Stored::open(b"kez", &sealed), Err(EnvelopeError));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_told() {
        let sealed = stored().seal(b"key");
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
