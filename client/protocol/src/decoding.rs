//! What holds for any bytes at all that a client or a node may be sent: called by the fuzz targets of
//! `node/fuzz`, and by a test over the inputs that they have kept (`node/tests/corpus.rs`).
//!
//! Nothing here is called by the product. Each function panics where a decoder breaks its word.

use bytes::{Buf, Bytes, BytesMut};

use crate::frame::{BODY_BYTES_MAX, Frame, FrameError, HEADER_BYTES, put_frame, take_frame};
use crate::{ClientRequest, ClientResponse, Seen};

/// The limit that the stream of [`frames`] has.
const STREAM_BODY_BYTES_MAX: usize = 1 << 10;

/// A stream of frames, whose checksums are put right so that more than the first is looked at: what is
/// taken is what would be put, no more is held than a frame may have, and nothing is taken twice.
pub fn frames(bytes: &[u8]) {
    let mut untouched = BytesMut::from(bytes);
    while let Ok(Some(_)) = take_frame(&mut untouched, STREAM_BODY_BYTES_MAX) {}
    let mut stream = BytesMut::from(bytes);
    loop {
        mend_checksum(&mut stream);
        let before = stream.clone();
        match take_frame(&mut stream, STREAM_BODY_BYTES_MAX) {
            Ok(Some(frame)) => {
                let taken = before.len() - stream.len();
                assert_eq!(put(&frame)[..], before[..taken], "a frame is put as it was taken");
            }
            Ok(None) => {
                assert_eq!(stream, before, "a frame that is not whole is left alone");
                assert!(
                    stream.len() < HEADER_BYTES + STREAM_BODY_BYTES_MAX,
                    "what is waited for fits the limit"
                );
                return;
            }
            Err(FrameError::TooLong { length, limit }) => {
                assert!(length > limit && limit == STREAM_BODY_BYTES_MAX, "the limit is kept");
                return;
            }
            Err(FrameError::Version(_) | FrameError::Damaged) => return,
        }
    }
}

/// A message of a client or to one: the kind in the first byte, then the body.
pub fn client_messages(bytes: &[u8]) {
    let Some(frame) = frame_of(bytes) else { return };
    if let Ok(message) = ClientRequest::read(&frame) {
        let put = put_with(|buffer| message.put(frame.request, buffer));
        assert_eq!(ClientRequest::read(&put).as_ref(), Ok(&message), "what is put reads back");
        assert_eq!(put.kind, frame.kind, "a message keeps its kind");
    }
    if let Ok(message) = ClientResponse::read(&frame) {
        let put = put_with(|buffer| message.put(frame.request, buffer));
        assert_eq!(ClientResponse::read(&put).as_ref(), Ok(&message), "what is put reads back");
    }
}

/// What a session reads out of a context.
pub fn seen(bytes: &[u8]) {
    let Some(seen) = Seen::of_context(bytes) else { return };
    // Format 2 with a base of nothing is read, and is written as format 1.
    let mut out = BytesMut::new();
    Seen::put(seen.base, seen.entries.iter().copied(), &mut out);
    out.extend_from_slice(&[0; crate::seen::CONTEXT_HASH_BYTES]);
    assert_eq!(Seen::of_context(&out).as_ref(), Some(&seen), "what is put reads back");
    assert!(seen.entries.len() * 16 <= bytes.len(), "nothing is made up");
}

/// The frame that a fuzz target's input stands for: its kind, then its body.
pub fn frame_of(bytes: &[u8]) -> Option<Frame> {
    let (&kind, body) = bytes.split_first()?;
    let body = &body[..body.len().min(BODY_BYTES_MAX)];
    Some(Frame { kind, request: 1, body: Bytes::copy_from_slice(body) })
}

/// The frame that a message makes.
pub fn put_with(put: impl FnOnce(&mut BytesMut)) -> Frame {
    let mut buffer = BytesMut::new();
    put(&mut buffer);
    let frame = take_frame(&mut buffer, BODY_BYTES_MAX);
    assert!(buffer.is_empty(), "a message is one frame");
    frame.expect("what is put is a frame").expect("and a whole one")
}

fn put(frame: &Frame) -> BytesMut {
    let mut buffer = BytesMut::new();
    put_frame(&mut buffer, frame.kind, frame.request, |writer| {
        std::io::Write::write_all(writer, &frame.body)
    })
    .expect("memory takes it");
    buffer
}

/// Gives the first frame the checksum that its bytes have.
fn mend_checksum(stream: &mut BytesMut) {
    let Some(mut header) = stream.get(..HEADER_BYTES) else { return };
    let end = HEADER_BYTES.saturating_add(header.get_u32_le() as usize);
    let Some(body) = stream.get(HEADER_BYTES..end) else { return };
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&stream[..16]), body);
    stream[16..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
}
