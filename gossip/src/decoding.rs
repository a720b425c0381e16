//! What holds for any bytes at all that a peer may send as gossip: called by a fuzz target of
//! `node/fuzz`, and by a test over the inputs that it has kept.
//!
//! Nothing here is called by the product. It panics where the guard breaks its word.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use chitchat::{ChitchatMessage, Deserializable};
use quoit_ring::NodeId;

use crate::guard::{Guard, MESSAGE_BYTES_MAX};
use crate::incarnation::Incarnation;
use crate::known::Known;

const CLUSTER: &str = "000000000000000000000000000000aa";

/// A message: what the guard lets through chitchat decodes, and nothing else reaches it.
pub fn messages(bytes: &[u8]) {
    let me = Incarnation { node: NodeId(1), generation: 3, address: ([10, 0, 0, 1], 7_000).into() };
    let known = Arc::new(Mutex::new(Known::new(me)));
    let mut guard = Guard::new(CLUSTER.to_owned(), me, known);
    let Ok(admitted) = guard.admit(Bytes::copy_from_slice(bytes)) else { return };
    assert!(bytes.len() <= MESSAGE_BYTES_MAX, "the bound is kept");
    assert!(admitted.cut || admitted.bytes == bytes, "a message is left as it came, or cut");
    let decoded = ChitchatMessage::deserialize(&mut &admitted.bytes[..]);
    assert!(decoded.is_ok(), "what the guard lets through is a message");
}
