//! Mutations as they are asked for, and as they lie in the log.
//!
//! ```text
//! record: u8 kind
//!   8, a floor: u32 virtual node | u64 floor | u32 zero
//!   9, a key: u16 length | key | u8 N | u32 CRC-32C of all before
//!             | u8 flags (1: over damage, 2: gone) | u64 what stays in the leaf | i8 live | i8 tombstones | i64 bytes
//!             | u32 buckets, for each: u64 end, u64 digest, i32 pairs | envelope
//!   2, a lease: u64 hybrid time
//!   4, a value that lies apart: u16 length | where it lies | u8 N | u32 CRC-32C of all before
//!             | the value
//!   5, a value's end: u16 length | where it lay | u8 N | u32 CRC-32C of all before
//!   6, a new era: u32 era
//!   7, trust in a virtual node: u32 the era | u32 index | u32 zero
//! ```
//! A value that lies apart comes before the record of its key's set, an end after it, all in one
//! batch.
//!
//! The key has a checksum of its own, so that a record with damage elsewhere still tells which key
//! it was about. Of a damaged record without a key its length tells what it was: nine bytes are a
//! lease, five an era, thirteen trust, seventeen a floor; records with a key are longer. (Kinds 1 and
//! 3 were keys with digests of another kind.)
//!
//! A record over damage is of a key that could not be read when it was made: what it took out of the
//! digests is not known. One of a key that is gone takes it out of the tables: it says no more than
//! an absent key does.

mod check;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quoit_ring::{ConflictPolicy, HybridTime, VnodeIndex};

use crate::codec;
use crate::digest::{BUCKET_BYTES, BucketDelta, Delta};
use crate::layout::StoredKey;
use crate::stored::{ENVELOPE_BYTES, Era, Standing};
use crate::version::{ApartValue, SiblingSet, Version, VersionVector};

pub(crate) use check::check_record;

const KIND_LEASE: u8 = 2;
const KIND_VALUE: u8 = 4;
const KIND_VALUE_END: u8 = 5;
const KIND_ERA: u8 = 6;
const KIND_TRUST: u8 = 7;
const KIND_FLOOR: u8 = 8;
const KIND_KEY: u8 = 9;
const OVER_DAMAGE: u8 = 1;
const GONE: u8 = 2;
const LEASE_BYTES: usize = 9;
const ERA_BYTES: usize = 5;
const TRUST_BYTES: usize = 13;
const FLOOR_BYTES: usize = 17;
/// The flags, and a change in the digests without its buckets.
const DELTA_BYTES: usize = 23;

/// One atomic read-merge-write of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mutation {
    /// The key.
    pub key: StoredKey,
    /// N of the key's table: says which digests count the key. A table never changes it.
    pub replication: u8,
    /// The table's policy.
    pub policy: ConflictPolicy,
    /// What to do.
    pub change: Change,
    /// The bytes of values in it that lie apart, as far as they came with it.
    pub values: Vec<ApartValue>,
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
        /// The set comes from a whole peer with this floor. If it is above the receiver's own, what is
        /// held at or before it, and is not in the set, was deleted there and collected; if it is the
        /// same, that goes for an incomplete key only. A lower one says nothing.
        authority: Option<HybridTime>,
    },
    /// What may go under the virtual node's floor goes, if the key is complete.
    Collect,
    /// The key's table is no more: all of it goes.
    Drop,
}

/// A record of the log.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Record {
    Key {
        key: StoredKey,
        replication: u8,
        change: Counted,
        /// What the tables get; `None` where the key is gone.
        sealed: Option<Bytes>,
    },
    Lease(HybridTime),
    /// Every virtual node is distrusted.
    Era(Era),
    /// One is trusted again, in that era.
    Trust(Era, VnodeIndex),
    /// Its floor is raised.
    Floor(VnodeIndex, HybridTime),
    /// A value lies there from now on, or (`None`) no more.
    Value {
        at: StoredKey,
        bytes: Option<Bytes>,
    },
}

/// What a record changes in the digests.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Counted {
    pub(super) delta: Delta,
    /// What the key held before could not be read, so `delta` leaves it in.
    pub(super) over_damage: bool,
}

/// What a damaged record was about.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum About {
    /// A set, or a value that lies apart.
    Key {
        key: StoredKey,
        replication: u8,
    },
    Lease,
    Trust,
    Floor,
    /// It may have been anything, the beginning of an era too.
    Unknown,
}

/// A key's record, and where in it the envelope lies.
#[derive(Debug, Clone)]
pub(super) struct KeyRecord {
    pub(super) bytes: Bytes,
    envelope_at: usize,
    is_gone: bool,
}

impl KeyRecord {
    /// Lays out the record in one buffer.
    pub(super) fn new(
        key: &StoredKey,
        change: &Counted,
        standing: Standing,
        set: &SiblingSet,
        is_gone: bool,
    ) -> Self {
        let key = key.bytes();
        let Counted { delta, over_damage } = change;
        let delta_bytes = DELTA_BYTES + delta.going.len() * BUCKET_BYTES;
        let envelope_at = 3 + key.len() + 1 + 4 + delta_bytes;
        let bytes = envelope_at + ENVELOPE_BYTES + codec::encoded_bytes(set);
        let mut out = BytesMut::with_capacity(bytes);
        put_head(KIND_KEY, key, standing.replication, &mut out);
        out.put_u8(if *over_damage { OVER_DAMAGE } else { 0 } | if is_gone { GONE } else { 0 });
        put_delta(delta, &mut out);
        assert_eq!(out.len(), envelope_at, "the record is laid out as it was counted");
        standing.seal_into(key, set, &mut out);
        Self { bytes: out.freeze(), envelope_at, is_gone }
    }

    /// The envelope, which goes to the tables; `None` where the key is gone.
    pub(super) fn sealed(&self) -> Option<Bytes> {
        (!self.is_gone).then(|| self.bytes.slice(self.envelope_at..))
    }

    /// The encoded set.
    pub(super) fn set(&self) -> Bytes {
        self.bytes.slice(self.envelope_at + ENVELOPE_BYTES..)
    }
}

fn put_delta(delta: &Delta, out: &mut BytesMut) {
    out.put_u64_le(delta.stays);
    out.put_i8(delta.live);
    out.put_i8(delta.tombstones);
    out.put_i64_le(delta.bytes);
    out.put_u32_le(u32::try_from(delta.going.len()).expect("sets are bounded"));
    for change in &delta.going {
        out.put_u64_le(change.end.0);
        out.put_u64_le(change.digest);
        out.put_i32_le(change.pairs);
    }
}

fn take_delta(input: &mut Bytes) -> Option<Delta> {
    let mut delta = Delta {
        stays: input.try_get_u64_le().ok()?,
        live: input.try_get_i8().ok()?,
        tombstones: input.try_get_i8().ok()?,
        bytes: input.try_get_i64_le().ok()?,
        going: Vec::new(),
    };
    let count = input.try_get_u32_le().ok()? as usize;
    if input.len() / BUCKET_BYTES < count {
        return None;
    }
    let change = |_| BucketDelta {
        end: HybridTime(input.get_u64_le()),
        digest: input.get_u64_le(),
        pairs: input.get_i32_le(),
    };
    delta.going = (0..count).map(change).collect();
    Some(delta)
}

/// What records about a key begin with.
fn put_head(kind: u8, key: &[u8], replication: u8, out: &mut BytesMut) {
    out.put_u8(kind);
    out.put_u16_le(u16::try_from(key.len()).expect("keys are bounded by their layout"));
    out.put_slice(key);
    out.put_u8(replication);
    out.put_u32_le(crc32c::crc32c(out));
}

/// Lays out the record of a value that lies apart, or (`None`) of its end.
pub(super) fn value_record(at: &StoredKey, replication: u8, value: Option<&Bytes>) -> Bytes {
    let mut out = BytesMut::with_capacity(16 + at.bytes().len() + value.map_or(0, Bytes::len));
    match value {
        Some(value) => {
            put_head(KIND_VALUE, at.bytes(), replication, &mut out);
            out.put_slice(value);
        }
        None => put_head(KIND_VALUE_END, at.bytes(), replication, &mut out),
    }
    out.freeze()
}

/// Lays out a lease's record.
pub(super) fn lease_record(lease: HybridTime) -> Bytes {
    let mut out = BytesMut::with_capacity(LEASE_BYTES);
    out.put_u8(KIND_LEASE);
    out.put_u64_le(lease.0);
    out.freeze()
}

/// Lays out the record of a new era.
pub(super) fn era_record(era: Era) -> Bytes {
    let mut out = BytesMut::with_capacity(ERA_BYTES);
    out.put_u8(KIND_ERA);
    out.put_u32_le(era.0);
    out.freeze()
}

/// Lays out the record of a virtual node that is trusted again.
pub(super) fn trust_record(era: Era, vnode: VnodeIndex) -> Bytes {
    let mut out = BytesMut::with_capacity(TRUST_BYTES);
    out.put_u8(KIND_TRUST);
    out.put_u32_le(era.0);
    out.put_u32_le(vnode.0);
    out.put_u32_le(0);
    out.freeze()
}

/// Lays out the record of a floor.
pub(super) fn floor_record(vnode: VnodeIndex, floor: HybridTime) -> Bytes {
    let mut out = BytesMut::with_capacity(FLOOR_BYTES);
    out.put_u8(KIND_FLOOR);
    out.put_u32_le(vnode.0);
    out.put_u64_le(floor.0);
    out.put_u32_le(0);
    out.freeze()
}

impl Record {
    /// Reads an intact record; `None` if a newer program wrote it.
    pub(super) fn read(payload: &Bytes) -> Option<Self> {
        let mut input = payload.clone();
        match input.try_get_u8().ok()? {
            KIND_LEASE => {
                let lease = HybridTime(input.try_get_u64_le().ok()?);
                input.is_empty().then_some(Self::Lease(lease))
            }
            KIND_ERA => {
                let era = Era(input.try_get_u32_le().ok()?);
                input.is_empty().then_some(Self::Era(era))
            }
            KIND_TRUST => {
                let era = Era(input.try_get_u32_le().ok()?);
                let vnode = VnodeIndex(input.try_get_u32_le().ok()?);
                let is_known = input.try_get_u32_le().ok()? == 0 && input.is_empty();
                is_known.then_some(Self::Trust(era, vnode))
            }
            KIND_FLOOR => {
                let vnode = VnodeIndex(input.try_get_u32_le().ok()?);
                let floor = HybridTime(input.try_get_u64_le().ok()?);
                let is_known = input.try_get_u32_le().ok()? == 0 && input.is_empty();
                is_known.then_some(Self::Floor(vnode, floor))
            }
            KIND_KEY => {
                let (key, replication, length) = record_key(payload)?;
                let mut input = payload.slice(length..);
                let flags = input.try_get_u8().ok()?;
                if flags & !(OVER_DAMAGE | GONE) != 0 {
                    return None;
                }
                let delta = take_delta(&mut input)?;
                let change = Counted { delta, over_damage: flags & OVER_DAMAGE != 0 };
                let sealed = (flags & GONE == 0).then_some(input);
                Some(Self::Key { key, replication, change, sealed })
            }
            kind @ (KIND_VALUE | KIND_VALUE_END) => {
                let (at, _, length) = record_key(payload).filter(|(at, ..)| at.is_apart())?;
                let rest = payload.slice(length..);
                let is_end = kind == KIND_VALUE_END;
                (!is_end || rest.is_empty())
                    .then_some(Self::Value { at, bytes: (!is_end).then_some(rest) })
            }
            _ => None,
        }
    }
}

impl About {
    /// What can be told from a damaged record, the length of which is right.
    pub(super) fn read(payload: &Bytes) -> Self {
        match payload.len() {
            LEASE_BYTES => Self::Lease,
            TRUST_BYTES => Self::Trust,
            FLOOR_BYTES => Self::Floor,
            _ => match record_key(payload) {
                Some((key, replication, _)) => Self::Key { key, replication },
                None => Self::Unknown,
            },
        }
    }
}

/// The key of a key record, its replication factor, and the bytes up to the end of their checksum.
fn record_key(payload: &Bytes) -> Option<(StoredKey, u8, usize)> {
    let length = usize::from(u16::from_le_bytes([*payload.get(1)?, *payload.get(2)?]));
    let end = 3 + length + 1;
    let checksum = payload.get(end..end + 4)?;
    if crc32c::crc32c(&payload[..end]).to_le_bytes() != checksum {
        return None;
    }
    let key = StoredKey::from_bytes(payload.slice(3..end - 1)).ok()?;
    Some((key, payload[end - 1], end + 4))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::{Actor, Dot};
    use quoit_ring::{TableId, Token};

    fn key() -> StoredKey {
        StoredKey::new(Token(9), TableId(1), b"p", b"s").expect("short")
    }

    fn record(change: &Counted) -> KeyRecord {
        record_of(change, false)
    }

    fn record_of(change: &Counted, is_gone: bool) -> KeyRecord {
        let standing = Standing { incomplete: false, replication: 3, era: Era(1) };
        KeyRecord::new(&key(), change, standing, &SiblingSet::default(), is_gone)
    }

    #[test]
    fn a_record_reads_back_as_it_was_laid_out() {
        let bucket = |end, digest, pairs| BucketDelta { end: HybridTime(end), digest, pairs };
        let going = vec![bucket(1 << 36, 6, -2), bucket(2 << 36, 7, 1)];
        let delta = Delta { stays: 5, going, live: 1, tombstones: -1, bytes: -70 };
        for (over_damage, is_gone) in [(false, false), (true, false), (false, true), (true, true)] {
            let change = Counted { delta: delta.clone(), over_damage };
            let record = record_of(&change, is_gone);
            let sealed = record.sealed();
            assert_eq!(sealed.is_none(), is_gone);
            assert_eq!(
                Record::read(&record.bytes),
                Some(Record::Key { key: key(), replication: 3, change, sealed })
            );
        }
    }

    #[test]
    fn records_without_a_key_read_back_are_golden_and_are_told_by_their_length() {
        let trust = Record::Trust(Era(5), VnodeIndex(6));
        let floor = Record::Floor(VnodeIndex(6), HybridTime(5));
        let cases: [(Bytes, Record, About, &[u8]); 4] = [
            (
                floor_record(VnodeIndex(6), HybridTime(5)),
                floor,
                About::Floor,
                &[8, 6, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            ),
            (
                lease_record(HybridTime(4)),
                Record::Lease(HybridTime(4)),
                About::Lease,
                &[2, 4, 0, 0, 0, 0, 0, 0, 0],
            ),
            (era_record(Era(5)), Record::Era(Era(5)), About::Unknown, &[6, 5, 0, 0, 0]),
            (
                trust_record(Era(5), VnodeIndex(6)),
                trust,
                About::Trust,
                &[7, 5, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0],
            ),
        ];
        for (bytes, record, about, golden) in cases {
            assert_eq!(&bytes[..], golden);
            for length in 0..bytes.len() {
                assert_eq!(Record::read(&bytes.slice(..length)), None);
            }
            assert_eq!(Record::read(&[golden, &[0]].concat().into()), None);
            for byte in 0..bytes.len() {
                let mut damaged = golden.to_vec();
                damaged[byte] ^= 64;
                assert_eq!(About::read(&damaged.into()), about);
            }
            assert_eq!(Record::read(&bytes), Some(record));
        }
    }

    #[test]
    fn a_values_record_reads_back_and_tells_whose_it_is_when_damaged() {
        let dot = Dot { time: HybridTime(3), actor: Actor(4) };
        let at = key().apart(dot);
        for bytes in [None, Some(Bytes::from_static(b"long"))] {
            let record = value_record(&at, 3, bytes.as_ref());
            let head = record.len() - bytes.as_ref().map_or(0, Bytes::len);
            let mut damaged = record.to_vec();
            if let Some(byte) = damaged.get_mut(head) {
                *byte ^= 1;
            }
            let about = About::Key { key: at.clone(), replication: 3 };
            assert_eq!(About::read(&damaged.into()), about);
            for length in 0..head {
                assert_eq!(Record::read(&record.slice(..length)), None);
            }
            assert_eq!(Record::read(&record), Some(Record::Value { at: at.clone(), bytes }));
        }
    }

    #[test]
    fn the_key_of_a_record_damaged_elsewhere_is_still_told() {
        let record = record(&Counted::default());
        let head = record.envelope_at - DELTA_BYTES;
        for byte in 0..record.bytes.len() {
            let mut damaged = record.bytes.to_vec();
            damaged[byte] ^= 4;
            let expected = match byte >= head {
                true => About::Key { key: key(), replication: 3 },
                false => About::Unknown,
            };
            assert_eq!(About::read(&damaged.into()), expected, "byte {byte}");
        }
        assert_eq!(About::read(&Bytes::from_static(&[0; LEASE_BYTES])), About::Lease);
    }

    #[test]
    fn cut_records_are_refused_without_a_panic() {
        let record = record(&Counted::default()).bytes;
        let head = record.len() - ENVELOPE_BYTES;
        for length in 0..head {
            assert_eq!(Record::read(&record.slice(..length)), None);
        }
        for length in 0..record.len() {
            let _ = About::read(&record.slice(..length));
        }
    }
}
