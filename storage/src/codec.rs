//! How a sibling set lies in bytes, on the disk and between nodes.
//!
//! The encoding is canonical: equal sets have equal bytes, so that a coordinator tells equal
//! answers apart from different ones without decoding them, and values are slices of the message
//! that brought them. The set of a key that was never written is no bytes at all. Everything is
//! little endian:
//!
//! ```text
//! u8  format: 1, or 2 where a value lies apart; with a base 3, or 4 where a value lies apart
//! u64 the vector's base                      in formats 3 and 4
//! u16 number of vector entries, then for each, ascending: u64 actor, u64 time
//! u16 number of versions, then for each, ascending by dot:
//!     u64 time, u64 actor, u8 flags (1: has a value, 2: expires, 4: has a value that lies apart)
//!     u64 expiry             where flag 2 is set
//!     u64 checksum, u32 length               where flag 1 or 4 is set
//!     the value                              where flag 1 is set
//! ```
//!
//! A value lies apart exactly where it is longer than [`INLINE_BYTES_MAX`].

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quoit_ring::HybridTime;

use crate::version::{Actor, Content, Dot, INLINE_BYTES_MAX, SiblingSet, Version, VersionVector};

const FORMAT_INLINE: u8 = 1;
const FORMAT_APART: u8 = 2;
const FORMAT_BASE: u8 = 3;
const FORMAT_BASE_APART: u8 = 4;
const HAS_VALUE: u8 = 1;
const EXPIRES: u8 = 2;
const LIES_APART: u8 = 4;
/// At most so many actors in one vector and versions in one set.
pub const ENTRIES_MAX: usize = u16::MAX as usize;

/// Bytes that are no sibling set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Bytes are missing, left over or out of order.
    #[error("a sibling set is damaged")]
    Damaged,
    /// The format is of a newer program.
    #[error("a sibling set has format {0}, which this program does not know; use a newer one")]
    Format(u8),
}

/// The number of bytes of a set's encoding.
pub fn encoded_bytes(set: &SiblingSet) -> usize {
    let version_bytes = |version: &Version| {
        17 + if version.expires.is_some() { 8 } else { 0 }
            + match &version.content {
                Content::Value { bytes, .. } => 12 + bytes.len(),
                Content::Apart { .. } => 12,
                Content::Tombstone => 0,
            }
    };
    if set.is_empty() {
        return 0;
    }
    let base_bytes = if set.vector().base() > HybridTime::ZERO { 8 } else { 0 };
    let vector_bytes = 16 * set.vector().entries().len();
    5 + base_bytes + vector_bytes + set.versions().iter().map(version_bytes).sum::<usize>()
}

/// The number of bytes of a set's encoding and of the values that lie apart.
pub fn whole_bytes(set: &SiblingSet) -> usize {
    let apart = |version: &Version| match &version.content {
        Content::Apart { length, .. } => *length as usize,
        Content::Value { .. } | Content::Tombstone => 0,
    };
    encoded_bytes(set) + set.versions().iter().map(apart).sum::<usize>()
}

/// Whether values of an encoded set lie apart.
pub fn has_apart(encoded: &[u8]) -> bool {
    matches!(encoded.first(), Some(&(FORMAT_APART | FORMAT_BASE_APART)))
}

/// Whether the same is live in two encoded sets, whatever their vectors: values are compared too.
/// Bytes that are no set are the same as their equals only.
pub fn has_same_pairs(one: &[u8], two: &[u8]) -> bool {
    one == two || versions_part(one).is_some_and(|pairs| versions_part(two) == Some(pairs))
}

/// What comes after the vector of an encoded set.
fn versions_part(encoded: &[u8]) -> Option<&[u8]> {
    let before = match encoded.first() {
        None => return Some(&[0; 2]),
        Some(&(FORMAT_INLINE | FORMAT_APART)) => 1,
        Some(&(FORMAT_BASE | FORMAT_BASE_APART)) => 9,
        Some(_) => return None,
    };
    let mut rest = encoded.get(before..)?;
    let entries = usize::from(rest.try_get_u16_le().ok()?);
    rest.get(16 * entries..)
}

/// Appends a set's encoding.
///
/// # Panics
/// If the set has more than [`ENTRIES_MAX`] entries or versions: limits are kept far below.
pub fn encode_into(set: &SiblingSet, out: &mut BytesMut) {
    if set.is_empty() {
        return;
    }
    let count = |length: usize| u16::try_from(length).expect("sets are bounded far below");
    out.reserve(encoded_bytes(set));
    let (has_apart, base) = (set.apart().next().is_some(), set.vector().base());
    out.put_u8(match (base > HybridTime::ZERO, has_apart) {
        (false, false) => FORMAT_INLINE,
        (false, true) => FORMAT_APART,
        (true, false) => FORMAT_BASE,
        (true, true) => FORMAT_BASE_APART,
    });
    if base > HybridTime::ZERO {
        out.put_u64_le(base.0);
    }
    out.put_u16_le(count(set.vector().entries().len()));
    for (actor, time) in set.vector().entries() {
        out.put_u64_le(actor.0);
        out.put_u64_le(time.0);
    }
    out.put_u16_le(count(set.versions().len()));
    for version in set.versions() {
        out.put_u64_le(version.dot.time.0);
        out.put_u64_le(version.dot.actor.0);
        let value_flag = match &version.content {
            Content::Value { .. } => HAS_VALUE,
            Content::Apart { .. } => LIES_APART,
            Content::Tombstone => 0,
        };
        out.put_u8(value_flag | if version.expires.is_some() { EXPIRES } else { 0 });
        if let Some(expires) = version.expires {
            out.put_u64_le(expires.0);
        }
        match &version.content {
            Content::Value { bytes, checksum } => {
                assert!(bytes.len() <= INLINE_BYTES_MAX, "a longer value lies apart");
                out.put_u64_le(*checksum);
                out.put_u32_le(u32::try_from(bytes.len()).expect("values are bounded far below"));
                out.put_slice(bytes);
            }
            Content::Apart { length, checksum } => {
                out.put_u64_le(*checksum);
                out.put_u32_le(*length);
            }
            Content::Tombstone => {}
        }
    }
}

/// A set's encoding.
pub fn encode(set: &SiblingSet) -> Bytes {
    let mut out = BytesMut::new();
    encode_into(set, &mut out);
    out.freeze()
}

/// Decodes a set; its values share the memory of `bytes`.
pub fn decode(bytes: &Bytes) -> Result<SiblingSet, CodecError> {
    if bytes.is_empty() {
        return Ok(SiblingSet::default());
    }
    let mut input = bytes.clone();
    let (has_base, has_apart) = match input.try_get_u8().map_err(|_| CodecError::Damaged)? {
        FORMAT_INLINE => (false, false),
        FORMAT_APART => (false, true),
        FORMAT_BASE => (true, false),
        FORMAT_BASE_APART => (true, true),
        newer => return Err(CodecError::Format(newer)),
    };
    let is_canonical = |set: &SiblingSet| set.apart().next().is_some() == has_apart;
    decode_parts(&mut input, has_base)
        .filter(|set| input.is_empty() && !set.is_empty() && is_canonical(set))
        .ok_or(CodecError::Damaged)
}

fn decode_parts(input: &mut Bytes, has_base: bool) -> Option<SiblingSet> {
    let base = HybridTime(if has_base { input.try_get_u64_le().ok()? } else { 0 });
    if has_base != (base > HybridTime::ZERO) {
        return None;
    }
    let entry_count = usize::from(input.try_get_u16_le().ok()?);
    if input.len() < entry_count * 16 {
        return None;
    }
    let mut entries = Vec::with_capacity(entry_count);
    for _ in 0..entry_count {
        entries.push((Actor(input.get_u64_le()), HybridTime(input.get_u64_le())));
    }
    if !entries.is_sorted_by(|a, b| a.0 < b.0) || entries.iter().any(|(_, time)| *time <= base) {
        return None;
    }
    let mut vector = VersionVector::new(entries);
    vector.raise_base(base);
    let version_count = usize::from(input.try_get_u16_le().ok()?);
    if input.len() < version_count * 17 {
        return None;
    }
    let mut versions = Vec::with_capacity(version_count);
    for _ in 0..version_count {
        versions.push(decode_version(input)?);
    }
    if !versions.is_sorted_by(|a, b| a.dot < b.dot) {
        return None;
    }
    SiblingSet::new(vector, versions)
}

fn decode_version(input: &mut Bytes) -> Option<Version> {
    let time = HybridTime(input.try_get_u64_le().ok()?);
    let actor = Actor(input.try_get_u64_le().ok()?);
    let flags = input.try_get_u8().ok()?;
    if flags & !(HAS_VALUE | EXPIRES | LIES_APART) != 0 {
        return None;
    }
    let expires =
        if flags & EXPIRES != 0 { Some(HybridTime(input.try_get_u64_le().ok()?)) } else { None };
    let mut described = || Some((input.try_get_u64_le().ok()?, input.try_get_u32_le().ok()?));
    let content = match flags & (HAS_VALUE | LIES_APART) {
        0 => Content::Tombstone,
        LIES_APART => {
            let (checksum, length) = described()?;
            if length as usize <= INLINE_BYTES_MAX {
                return None;
            }
            Content::Apart { length, checksum }
        }
        HAS_VALUE => {
            let (checksum, length) = described()?;
            let length = length as usize;
            if input.len() < length || length > INLINE_BYTES_MAX {
                return None;
            }
            Content::Value { bytes: input.split_to(length), checksum }
        }
        _ => return None,
    };
    Some(Version { dot: Dot { time, actor }, content, expires })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set() -> impl Strategy<Value = SiblingSet> {
        let version = (
            1u64..50,
            1u64..5,
            prop::option::of(prop::collection::vec(any::<u8>(), 0..40)),
            prop::option::of(any::<u64>()),
        );
        (
            prop::collection::btree_map(1u64..8, 50u64..90, 0..6),
            prop::collection::vec(version, 0..5),
            prop_oneof![Just(0u64), 1u64..70],
        )
            .prop_map(|(vector, versions, base)| {
                let mut vector = VersionVector::new(
                    vector.into_iter().map(|(actor, time)| (Actor(actor), HybridTime(time))),
                );
                let mut distinct = std::collections::BTreeMap::new();
                for (time, actor, value, expires) in versions {
                    let dot = Dot { time: HybridTime(time), actor: Actor(actor) };
                    vector.add(dot);
                    let content = match value {
                        Some(bytes) if bytes.len() == 7 => {
                            Content::Apart { length: 1 << 17, checksum: 7 }
                        }
                        Some(bytes) => Content::Value { bytes: bytes.into(), checksum: 7 },
                        None => Content::Tombstone,
                    };
                    distinct
                        .insert(dot, Version { dot, content, expires: expires.map(HybridTime) });
                }
                vector.raise_base(HybridTime(base));
                SiblingSet::new(vector, distinct.into_values().collect()).expect("made to fit")
            })
    }

    #[test]
    fn the_encoding_is_golden() {
        let dot = Dot { time: HybridTime(0x0102), actor: Actor(0x0a) };
        let content = Content::Value { bytes: Bytes::from_static(b"v"), checksum: 0x0b };
        let set = SiblingSet::of(Version { dot, content, expires: Some(HybridTime(0x0c)) });
        #[rustfmt::skip]
        let golden = [
            1, 1, 0,
            0x0a, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0,
            1, 0,
            2, 1, 0, 0, 0, 0, 0, 0, 0x0a, 0, 0, 0, 0, 0, 0, 0, 3,
            0x0c, 0, 0, 0, 0, 0, 0, 0,
            0x0b, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, b'v',
        ];
        assert_eq!(&encode(&set)[..], golden);
        let with_base = set.with_base(HybridTime(0x0101));
        #[rustfmt::skip]
        let head = [3, 1, 1, 0, 0, 0, 0, 0, 0];
        assert_eq!(encode(&with_base)[..], [&head[..], &golden[1..]].concat());
    }

    #[test]
    fn a_base_above_an_entry_or_of_nothing_is_not_canonical() {
        let dot = Dot { time: HybridTime(9), actor: Actor(1) };
        let set = SiblingSet::of(Version { dot, content: Content::Tombstone, expires: None });
        let mut vector = set.vector().clone();
        vector.raise_base(HybridTime(8));
        let bytes = encode(&SiblingSet::new(vector, set.versions().to_vec()).expect("claimed"));
        assert!(decode(&bytes).is_ok());
        for base in [0, 9] {
            let mut other = bytes.to_vec();
            other[1] = base;
            assert_eq!(decode(&other.into()), Err(CodecError::Damaged));
        }
    }

    proptest! {
        #[test]
        fn pairs_are_compared_without_vectors(one in set(), two in set(), base in 0u64..90) {
            let same = |one: &SiblingSet, two: &SiblingSet| has_same_pairs(&encode(one), &encode(two));
            prop_assert!(same(&one, &one.clone().with_base(HybridTime(base))));
            prop_assert_eq!(same(&one, &two), one.versions() == two.versions());
        }

        #[test]
        fn comparing_any_bytes_does_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = has_same_pairs(&bytes, &[1, 0, 0, 0, 0]);
        }

        #[test]
        fn decoding_undoes_encoding(set in set()) {
            let bytes = encode(&set);
            prop_assert_eq!(bytes.len(), encoded_bytes(&set));
            prop_assert_eq!(decode(&bytes), Ok(set));
        }

        #[test]
        fn a_truncated_encoding_is_refused(set in set(), at in any::<prop::sample::Index>()) {
            let bytes = encode(&set);
            prop_assume!(bytes.len() > 1);
            prop_assert!(decode(&bytes.slice(..1 + at.index(bytes.len() - 1))).is_err());
        }

        #[test]
        fn what_decodes_is_canonical(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            let bytes = Bytes::from(bytes);
            if let Ok(set) = decode(&bytes) {
                prop_assert_eq!(encode(&set), bytes);
            }
        }
    }
}
