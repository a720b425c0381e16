//! Mutations as they are asked for, and as they lie in the log.
//!
//! ```text
//! record: u8 kind
//!   1, a key: u16 length | key | u32 CRC-32C of all before
//!             | u8 replication | u64 leaf | i8 live | i8 tombstones | i64 bytes | envelope
//!   2, a lease: u64 hybrid time
//! ```
//! The key has a checksum of its own, so that a record with damage elsewhere still tells which key
//! it was about.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quoit_ring::{ConflictPolicy, HybridTime};

use crate::digest::Delta;
use crate::layout::StoredKey;
use crate::version::{SiblingSet, Version, VersionVector};

const KIND_KEY: u8 = 1;
const KIND_LEASE: u8 = 2;

/// One atomic read-merge-write of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mutation {
    /// The key.
    pub key: StoredKey,
    /// N of the key's table: says which digests change.
    pub replication: u8,
    /// The table's policy.
    pub policy: ConflictPolicy,
    /// What to do.
    pub change: Change,
}

/// What a mutation does to the set under its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A coordinator's write: what `context` covers is replaced by `version`.
    Write {
        /// What the writer read.
        context: VersionVector,
        /// The new pair.
        version: Version,
    },
    /// Another replica's set (or a repair) is merged in.
    Merge {
        /// The set.
        set: SiblingSet,
        /// The set holds all that a read quorum of the other replicas knew: the key is complete
        /// again after this.
        rebuild: bool,
    },
}

/// A record of the log.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Record {
    Key { key: StoredKey, replication: u8, delta: Delta, sealed: Bytes },
    Lease(HybridTime),
}

/// Lays out a key's record; `sealed` is its envelope. Returns the record and where the envelope
/// lies in it.
pub(super) fn key_record(
    key: &StoredKey,
    replication: u8,
    delta: Delta,
    sealed: &Bytes,
) -> (Bytes, usize) {
    let bytes = key.bytes();
    let mut out = BytesMut::with_capacity(bytes.len() + 26 + sealed.len());
    out.put_u8(KIND_KEY);
    out.put_u16_le(u16::try_from(bytes.len()).expect("keys are bounded by their layout"));
    out.put_slice(bytes);
    out.put_u32_le(crc32c::crc32c(&out));
    out.put_u8(replication);
    out.put_u64_le(delta.leaf);
    out.put_i8(delta.live);
    out.put_i8(delta.tombstones);
    out.put_i64_le(delta.bytes);
    let at = out.len();
    out.put_slice(sealed);
    (out.freeze(), at)
}

/// Lays out a lease's record.
pub(super) fn lease_record(lease: HybridTime) -> Bytes {
    let mut out = BytesMut::with_capacity(9);
    out.put_u8(KIND_LEASE);
    out.put_u64_le(lease.0);
    out.freeze()
}

impl Record {
    /// Reads an intact record; `None` if a newer program or a bug wrote it.
    pub(super) fn read(payload: &Bytes) -> Option<Self> {
        let mut input = payload.clone();
        match input.try_get_u8().ok()? {
            KIND_LEASE => {
                let lease = HybridTime(input.try_get_u64_le().ok()?);
                input.is_empty().then_some(Self::Lease(lease))
            }
            KIND_KEY => {
                let (key, length) = record_key(payload)?;
                let mut input = payload.slice(length..);
                if input.len() < 19 {
                    return None;
                }
                let replication = input.get_u8();
                let delta = Delta {
                    leaf: input.get_u64_le(),
                    live: input.get_i8(),
                    tombstones: input.get_i8(),
                    bytes: input.get_i64_le(),
                };
                Some(Self::Key { key, replication, delta, sealed: input })
            }
            _ => None,
        }
    }

    /// The key, replication factor of a damaged record, if that much of it is intact. The factor
    /// is outside the key's checksum, so it is only a guess.
    pub(super) fn read_key(payload: &Bytes) -> Option<(StoredKey, u8)> {
        if payload.first() != Some(&KIND_KEY) {
            return None;
        }
        let (key, length) = record_key(payload)?;
        Some((key, payload.get(length).copied()?))
    }
}

/// The key of a key record and the bytes up to the end of its checksum.
fn record_key(payload: &Bytes) -> Option<(StoredKey, usize)> {
    let length = usize::from(u16::from_le_bytes([*payload.get(1)?, *payload.get(2)?]));
    let end = 3 + length;
    let checksum = payload.get(end..end + 4)?;
    if crc32c::crc32c(&payload[..end]).to_le_bytes() != checksum {
        return None;
    }
    Some((StoredKey::from_bytes(payload.slice(3..end)).ok()?, end + 4))
}

#[cfg(test)]
mod tests {
    use super::*;
    use quoit_ring::{TableId, Token};

    fn key() -> StoredKey {
        StoredKey::new(Token(9), TableId(1), b"p", b"s").expect("short")
    }

    #[test]
    fn a_record_reads_back_as_it_was_laid_out() {
        let delta = Delta { leaf: 5, live: 1, tombstones: -1, bytes: -70 };
        let sealed = Bytes::from_static(b"sealed");
        let (record, at) = key_record(&key(), 3, delta, &sealed);
        assert_eq!(record.slice(at..), sealed);
        assert_eq!(
            Record::read(&record),
            Some(Record::Key { key: key(), replication: 3, delta, sealed })
        );
        assert_eq!(Record::read(&lease_record(HybridTime(4))), Some(Record::Lease(HybridTime(4))));
    }

    #[test]
    fn the_key_of_a_record_damaged_elsewhere_is_still_told() {
        let (record, at) = key_record(&key(), 3, Delta::default(), &Bytes::from_static(b"sealed"));
        for byte in 0..record.len() {
            let mut damaged = record.to_vec();
            damaged[byte] ^= 4;
            let told = Record::read_key(&damaged.into()).map(|(key, _)| key);
            let head = at - 19;
            assert_eq!(told, (byte >= head).then(key), "byte {byte}");
        }
    }

    #[test]
    fn cut_records_are_refused_without_a_panic() {
        let (record, _) = key_record(&key(), 3, Delta::default(), &Bytes::new());
        for length in 0..record.len() {
            assert_eq!(Record::read(&record.slice(..length)), None);
        }
    }
}
