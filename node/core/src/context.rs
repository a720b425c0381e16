//! Contexts: what a reader saw, sealed for its next write.
//!
//! The layout is [`Seen`]'s, the hash at its end a SipHash-1-3. It is keyed with the cluster's ring key and covers the cluster, the table, the key and the
//! entries: a context that was damaged, or is handed in for another key, is refused rather than
//! believed, since a context that claims too much would erase what its writer never saw.

use std::hash::Hasher;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quoit_protocol::seen::CONTEXT_HASH_BYTES;
use quoit_protocol::{Failure, FailureCode, Seen};
use quoit_ring::{ClusterId, RingKey};
use quoit_storage::codec;
use quoit_storage::layout::StoredKey;
use quoit_storage::planted::{PlantedBug, is_planted};
use quoit_storage::version::{Actor, VersionVector};
use siphasher::sip::SipHasher13;

use crate::operation::not_done;

/// A context that was not made for this key, or is damaged. Read the key and use what that gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the context is not one of this key: read the key and write with the context that the read gives"
)]
pub struct ContextError;

/// Seals what was seen under a key; empty where nothing was.
pub fn seal(cluster: ClusterId, ring_key: RingKey, key: &StoredKey, seen: &VersionVector) -> Bytes {
    if seen.is_empty() {
        return Bytes::new();
    }
    let mut out = BytesMut::with_capacity(19 + 16 * seen.entries().len());
    let entries = seen.entries().iter().map(|&(actor, time)| (actor.0, time));
    Seen::put(seen.base(), entries, &mut out);
    with_hash(cluster, ring_key, key, out)
}

/// What a context says, with the hash that seals it.
pub(crate) fn with_hash(
    cluster: ClusterId,
    ring_key: RingKey,
    key: &StoredKey,
    mut said: BytesMut,
) -> Bytes {
    let hash = hash(cluster, ring_key, key, &said);
    said.put_u64_le(hash);
    said.freeze()
}

/// Opens a context for a key; empty bytes are the context that has seen nothing.
pub fn open(
    cluster: ClusterId,
    ring_key: RingKey,
    key: &StoredKey,
    context: &Bytes,
) -> Result<VersionVector, ContextError> {
    if context.is_empty() {
        return Ok(VersionVector::default());
    }
    let end = context.len().checked_sub(CONTEXT_HASH_BYTES).ok_or(ContextError)?;
    let mut tail = &context[end..];
    if tail.get_u64_le() != hash(cluster, ring_key, key, &context[..end])
        && !is_planted(PlantedBug::ContextForAnyKey)
    {
        return Err(ContextError);
    }
    Seen::of_context(context).map(vector_of).ok_or(ContextError)
}

/// What a session says that it has seen. Nobody has sealed that, and it may be anything.
pub(crate) fn of_session(seen: Seen) -> Result<VersionVector, Failure> {
    let ascends = seen.entries.windows(2).all(|pair| pair[0].0 < pair[1].0);
    if !ascends || seen.entries.len() > codec::ENTRIES_MAX {
        let message =
            "what the session has seen is not as contexts speak of it: begin a new session";
        return Err(not_done(FailureCode::Invalid, message));
    }
    Ok(vector_of(seen))
}

/// What was seen, as replicas speak of it.
fn vector_of(seen: Seen) -> VersionVector {
    let entries = seen.entries.into_iter().map(|(actor, time)| (Actor(actor), time));
    let mut vector = VersionVector::new(entries);
    vector.raise_base(seen.base);
    vector
}

fn hash(cluster: ClusterId, ring_key: RingKey, key: &StoredKey, sealed: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(ring_key.0, ring_key.1);
    hasher.write(&cluster.0.to_le_bytes());
    hasher.write(&(key.bytes().len() as u64).to_le_bytes());
    hasher.write(key.bytes());
    hasher.write(sealed);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use quoit_ring::{HybridTime, TableId, Token};

    const CLUSTER: ClusterId = ClusterId(7);
    const RING_KEY: RingKey = RingKey(1, 2);

    fn key(table: u32, sort: &[u8]) -> StoredKey {
        StoredKey::new(Token(3), TableId(table), b"p", sort).expect("short")
    }

    fn seen() -> VersionVector {
        VersionVector::new([(Actor(1), HybridTime(10)), (Actor(9), HybridTime(4))])
    }

    fn seen_with_base() -> VersionVector {
        let mut seen = seen();
        seen.raise_base(HybridTime(5));
        seen
    }

    #[test]
    fn a_context_opens_for_its_own_key_only() {
        for seen in [seen(), seen_with_base()] {
            let context = seal(CLUSTER, RING_KEY, &key(1, b"s"), &seen);
            assert_eq!(open(CLUSTER, RING_KEY, &key(1, b"s"), &context), Ok(seen));
            assert_eq!(open(CLUSTER, RING_KEY, &key(1, b"t"), &context), Err(ContextError));
            assert_eq!(open(CLUSTER, RING_KEY, &key(2, b"s"), &context), Err(ContextError));
            assert_eq!(open(ClusterId(8), RING_KEY, &key(1, b"s"), &context), Err(ContextError));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_refused() {
        for seen in [seen(), seen_with_base()] {
            let context = seal(CLUSTER, RING_KEY, &key(1, b"s"), &seen);
            for bit in 0..context.len() * 8 {
                let mut damaged = context.to_vec();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(open(CLUSTER, RING_KEY, &key(1, b"s"), &damaged.into()).is_err());
            }
            for length in 1..context.len() {
                assert!(open(CLUSTER, RING_KEY, &key(1, b"s"), &context.slice(..length)).is_err());
            }
        }
    }

    #[test]
    fn having_seen_nothing_is_empty() {
        let context = seal(CLUSTER, RING_KEY, &key(1, b""), &VersionVector::default());
        assert!(context.is_empty());
        assert_eq!(open(CLUSTER, RING_KEY, &key(1, b""), &context), Ok(VersionVector::default()));
    }
}
