//! What holds for any bytes at all that a peer may send or a small file may hold: called by the fuzz
//! targets of `node/fuzz`, and by a test over the inputs that they have kept.
//!
//! Nothing here is called by the product. Each function panics where a decoder breaks its word.

use bytes::Bytes;
use quoit_protocol::decoding::{frame_of, put_with};
use quoit_ring::{ClusterId, RingKey, TableId, Token};
use quoit_storage::layout::StoredKey;

use crate::context;
use crate::continuity::ContinuityState;
use crate::peer::PeerMessage;
use crate::record::{RecordState, write_file};
use crate::repair::scrub::ScrubState;

const CLUSTER: ClusterId = ClusterId(7);
const RING_KEY: RingKey = RingKey(1, 2);

/// A message between nodes: the kind in the first byte, then the body.
pub fn peer_messages(bytes: &[u8]) {
    let Some(frame) = frame_of(bytes) else { return };
    let Ok(message) = PeerMessage::read(&frame) else { return };
    let put = put_with(|buffer| message.put(frame.request, buffer));
    assert_eq!(PeerMessage::read(&put).as_ref(), Ok(&message), "what is put reads back");
    assert_eq!(put.kind, frame.kind, "a message keeps its kind");
    let (_, _) = (message.class(), message.is_answer());
}

/// A context that a client hands in: as it is, and with the hash that it would need. One opens only
/// if it was sealed for its key, and is sealed again as it was.
pub fn contexts(bytes: &[u8]) {
    let key = |table| {
        StoredKey::new(Token(3), TableId(table), b"p", b"s").expect("a short key can be laid out")
    };
    let bytes = Bytes::copy_from_slice(bytes);
    let opened = context::open(CLUSTER, RING_KEY, &key(1), &bytes);
    if let Ok(seen) = opened {
        let sealed = context::seal(CLUSTER, RING_KEY, &key(1), &seen);
        assert!(sealed.len() <= bytes.len(), "nothing is made up");
        let again = context::open(CLUSTER, RING_KEY, &key(1), &sealed);
        assert_eq!(again, Ok(seen), "what was opened is sealed again");
    }
    let sealed = context::with_hash(CLUSTER, RING_KEY, &key(1), bytes[..].into());
    if let Ok(seen) = context::open(CLUSTER, RING_KEY, &key(1), &sealed) {
        let again = context::seal(CLUSTER, RING_KEY, &key(1), &seen);
        let reopened = context::open(CLUSTER, RING_KEY, &key(1), &again);
        assert_eq!(reopened, Ok(seen), "what was opened is sealed again");
    }
    let elsewhere = context::open(CLUSTER, RING_KEY, &key(2), &sealed);
    assert!(elsewhere.is_err(), "a context is one key's");
}

/// The node's small documents: the cluster record, the vote, what is remembered of lives, the scrub's
/// place. The first byte says which.
pub fn documents(bytes: &[u8]) {
    let Some((&which, document)) = bytes.split_first() else { return };
    match which % 4 {
        0 => {
            let Ok(state) = RecordState::read(Some(document), None) else { return };
            let record = state.record.as_ref().expect("one was read");
            let again = RecordState::read(Some(&write_file(record)), None);
            assert_eq!(again.ok().as_ref(), Some(&state), "what is written reads back");
        }
        1 => {
            let Ok(state) = RecordState::read(None, Some(document)) else { return };
            let again = RecordState::read(None, Some(&write_file(&state.vote)));
            assert_eq!(again.ok().as_ref(), Some(&state), "what is written reads back");
        }
        2 => {
            let Ok(Some(state)) = ContinuityState::read(Some(document)) else { return };
            let again = ContinuityState::read(Some(&write_file(&state)));
            assert_eq!(again.ok().flatten().as_ref(), Some(&state), "what is written reads back");
        }
        _ => {
            let state = ScrubState::read(Some(document));
            assert_eq!(ScrubState::read(Some(&write_file(&state))), state, "and so does this");
        }
    }
}
