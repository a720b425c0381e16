//! What lies under a large value's key, and under its parts'.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::PART_BYTES;
use crate::Key;

/// What a manifest begins with; a value that does not is none.
const MAGIC: &[u8; 4] = b"QLV1";
/// A part's key: the upload's id and the part's number.
const PART_KEY_BYTES: usize = 20;

/// Names an upload: 128 random bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) struct UploadId(u64, u64);

impl UploadId {
    /// A new one.
    pub(super) fn draw() -> Result<Self, getrandom::Error> {
        Ok(Self(getrandom::u64()?, getrandom::u64()?))
    }

    /// The key of one of its parts.
    pub(super) fn part(self, number: u32) -> Key {
        let mut partition = BytesMut::with_capacity(PART_KEY_BYTES);
        partition.put_u64(self.0);
        partition.put_u64(self.1);
        partition.put_u32(number);
        Key { partition: partition.freeze(), sort: Bytes::new() }
    }

    /// The upload that a part's key names; `None` for other keys.
    pub(super) fn of_part(key: &Key) -> Option<Self> {
        let bytes: &[u8; PART_KEY_BYTES] = key.partition[..].try_into().ok()?;
        let half = |at: usize| {
            let half: [u8; 8] = bytes[at..at + 8].try_into().expect("eight of twenty");
            u64::from_be_bytes(half)
        };
        key.sort.is_empty().then(|| Self(half(0), half(8)))
    }
}

/// What a value is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) length: u64,
    /// Where its parts are; `None` for a value that is not longer than one, which is [`Self::inline`].
    pub(super) upload: Option<UploadId>,
    pub(super) inline: Bytes,
}

impl Manifest {
    pub(super) fn parts(&self) -> u32 {
        match self.upload {
            Some(_) => u32::try_from(self.length.div_ceil(PART_BYTES as u64)).unwrap_or(u32::MAX),
            None => 0,
        }
    }

    /// How long a part must be.
    pub(super) fn part_bytes(&self, number: u32) -> usize {
        let before = u64::from(number) * PART_BYTES as u64;
        usize::try_from(self.length.saturating_sub(before))
            .map_or(PART_BYTES, |left| left.min(PART_BYTES))
    }

    pub(super) fn encode(&self) -> Bytes {
        let mut bytes = MAGIC.to_vec();
        rmp_serde::encode::write(&mut bytes, self).expect("plain data encodes into memory");
        bytes.into()
    }

    /// `None` for a value that is no manifest.
    pub(super) fn decode(value: &Bytes) -> Option<Self> {
        let manifest: Self = rmp_serde::from_slice(value.strip_prefix(MAGIC)?).ok()?;
        let is_inline =
            manifest.upload.is_none() && manifest.inline.len() as u64 == manifest.length;
        let is_cut = manifest.upload.is_some() && manifest.inline.is_empty();
        (is_inline || is_cut).then_some(manifest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_read_as_it_was_written_and_nothing_else_is_one() {
        let upload = UploadId(1, u64::MAX);
        let length = 2 * PART_BYTES as u64 + 7;
        let manifest = Manifest { length, upload: Some(upload), inline: Bytes::new() };
        let bytes = manifest.encode();
        assert_eq!(Manifest::decode(&bytes), Some(manifest.clone()));
        assert_eq!(manifest.parts(), 3);
        assert_eq!([0, 2, 3].map(|number| manifest.part_bytes(number)), [PART_BYTES, 7, 0]);
        assert_eq!(UploadId::of_part(&upload.part(9)), Some(upload));
        assert_eq!(UploadId::of_part(&Key { partition: "k".into(), sort: Bytes::new() }), None);
        for wrong in [&b""[..], b"QLV1", b"QLV2x", b"some value"] {
            assert_eq!(Manifest::decode(&Bytes::copy_from_slice(wrong)), None);
        }
        let torn = Manifest { length: 5, upload: None, inline: Bytes::from_static(b"abc") };
        assert_eq!(Manifest::decode(&torn.encode()), None);
    }
}
