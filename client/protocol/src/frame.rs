//! Frames: how messages lie on a stream, for clients and for peers alike.
//!
//! ```text
//! offset size
//!      0    4  length of the body, little endian
//!      4    1  frame version, 1
//!      5    1  kind: what the body is (see `message` and the node's peer messages)
//!      6    2  zero
//!      8    8  request id, chosen by the asker, repeated by the answer
//!     16    4  CRC-32C of bytes 0..16 and the body
//!     20       the body, MessagePack
//! ```
//!
//! A header is judged before its body is awaited: a length over the limit ends the connection
//! before anything is allocated for it. QUIC's own encryption already keeps third parties out; the
//! checksum is there for the memory and the code between the two ends.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The header's length in bytes.
pub const HEADER_BYTES: usize = 20;
/// The version of this layout.
pub const FRAME_VERSION: u8 = 1;
/// The largest body that is ever accepted: a full sibling set (16 MiB) and what surrounds it.
pub const BODY_BYTES_MAX: usize = 17 << 20;
/// A frame with a longer body travels on a stream of its own, so that it holds up no other.
pub const SHARED_STREAM_BODY_BYTES_MAX: usize = 64 << 10;

/// One message as it came off a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What the body is.
    pub kind: u8,
    /// Which request it belongs to.
    pub request: u64,
    /// The MessagePack body.
    pub body: Bytes,
}

/// Bytes that are no frame. The stream cannot be used any further: close the connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The other side speaks another layout.
    #[error("frame version {0} is not spoken here (this program speaks {FRAME_VERSION})")]
    Version(u8),
    /// The length is over the limit.
    #[error("a frame of {length} bytes is over the limit of {limit}")]
    TooLong {
        /// What the header says.
        length: usize,
        /// What is accepted.
        limit: usize,
    },
    /// Reserved bytes are not zero, or the checksum is wrong.
    #[error("a frame is damaged")]
    Damaged,
}

/// Takes the next whole frame out of `buffer`; `None` until enough bytes have come. The body shares
/// the buffer's memory.
pub fn take_frame(
    buffer: &mut BytesMut,
    body_bytes_max: usize,
) -> Result<Option<Frame>, FrameError> {
    if buffer.len() < HEADER_BYTES {
        return Ok(None);
    }
    let mut header = &buffer[..HEADER_BYTES];
    let length = header.get_u32_le() as usize;
    let version = header.get_u8();
    let kind = header.get_u8();
    let reserved = header.get_u16_le();
    let request = header.get_u64_le();
    let checksum = header.get_u32_le();
    if version != FRAME_VERSION {
        return Err(FrameError::Version(version));
    }
    if reserved != 0 {
        return Err(FrameError::Damaged);
    }
    if length > body_bytes_max {
        return Err(FrameError::TooLong { length, limit: body_bytes_max });
    }
    if buffer.len() < HEADER_BYTES + length {
        return Ok(None);
    }
    let mut bytes = buffer.split_to(HEADER_BYTES + length);
    if frame_checksum(&bytes[..16], &bytes[HEADER_BYTES..]) != checksum {
        return Err(FrameError::Damaged);
    }
    bytes.advance(HEADER_BYTES);
    Ok(Some(Frame { kind, request, body: bytes.freeze() }))
}

/// Appends a frame to `buffer`, its body written by `write_body` straight into it.
///
/// # Panics
/// If the body is longer than [`BODY_BYTES_MAX`]: what is sent was checked when it came in.
pub fn put_frame<E>(
    buffer: &mut BytesMut,
    kind: u8,
    request: u64,
    write_body: impl FnOnce(&mut bytes::buf::Writer<&mut BytesMut>) -> Result<(), E>,
) -> Result<(), E> {
    let start = buffer.len();
    buffer.put_bytes(0, HEADER_BYTES);
    let mut writer = buffer.writer();
    if let Err(error) = write_body(&mut writer) {
        buffer.truncate(start);
        return Err(error);
    }
    let length = buffer.len() - start - HEADER_BYTES;
    assert!(length <= BODY_BYTES_MAX, "a body of {length} bytes was made");
    let mut header = [0; 16];
    let mut fields = &mut header[..];
    fields.put_u32_le(u32::try_from(length).expect("the bound fits 32 bits"));
    fields.put_u8(FRAME_VERSION);
    fields.put_u8(kind);
    fields.put_u16_le(0);
    fields.put_u64_le(request);
    let checksum = frame_checksum(&header, &buffer[start + HEADER_BYTES..]);
    buffer[start..start + 16].copy_from_slice(&header);
    buffer[start + 16..start + HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
    Ok(())
}

fn frame_checksum(header: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(header), body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: u8, request: u64, body: &[u8]) -> BytesMut {
        let mut buffer = BytesMut::new();
        put_frame(&mut buffer, kind, request, |writer| std::io::Write::write_all(writer, body))
            .expect("memory takes it");
        buffer
    }

    #[test]
    fn the_layout_is_golden() {
        let bytes = frame(3, 0x0102, b"quoit");
        assert_eq!(&bytes[..16], [5, 0, 0, 0, 1, 3, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&bytes[HEADER_BYTES..], b"quoit");
        assert_eq!(bytes[16..20], frame_checksum(&bytes[..16], b"quoit").to_le_bytes());
    }

    #[test]
    fn a_huge_length_is_refused_from_the_header_alone() {
        let mut bytes = frame(3, 1, b"");
        bytes[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(
            take_frame(&mut bytes, BODY_BYTES_MAX),
            Err(FrameError::TooLong { length: u32::MAX as usize, limit: BODY_BYTES_MAX })
        );
    }

    proptest! {
        #[test]
        fn what_is_put_is_taken_whatever_the_pieces(
            frames in prop::collection::vec((any::<u8>(), any::<u64>(), prop::collection::vec(any::<u8>(), 0..200)), 0..20),
            piece in 1usize..50,
        ) {
            let mut wire = BytesMut::new();
            for (kind, request, body) in &frames {
                wire.extend_from_slice(&frame(*kind, *request, body));
            }
            let mut buffer = BytesMut::new();
            let mut taken = Vec::new();
            for chunk in wire.chunks(piece) {
                buffer.extend_from_slice(chunk);
                while let Some(frame) = take_frame(&mut buffer, BODY_BYTES_MAX).expect("intact") {
                    taken.push((frame.kind, frame.request, frame.body.to_vec()));
                }
            }
            prop_assert_eq!(taken, frames);
        }

        #[test]
        fn a_flipped_bit_never_yields_another_frame(
            body in prop::collection::vec(any::<u8>(), 0..60), at in any::<prop::sample::Index>(), bit in 0u8..8,
        ) {
            let mut bytes = frame(1, 7, &body);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            // Either an error, or a wait for bytes that will never come.
            prop_assert!(!matches!(take_frame(&mut bytes, BODY_BYTES_MAX), Ok(Some(_))));
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = take_frame(&mut buffer, BODY_BYTES_MAX) {}
        }
    }
}
