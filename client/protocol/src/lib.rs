//! The wire between clients and nodes: frames and messages, nothing else.

pub mod activity;
pub mod decoding;
pub mod frame;
pub mod message;
mod record;
pub mod seen;
pub mod snapshot;
pub mod status;
pub mod trace;

pub use frame::{Frame, FrameError};
pub use message::*;
pub use record::SharedRecord;
pub use seen::Seen;
pub use trace::{Stage, StageKind, TraceId, TraceIdError, Traced};

use quoit_ring::Token;

/// The end-to-end checksum of a value: XXH3-64 seeded with the key's token, so that a value that
/// turns up under another partition key is told too. Made by the client, checked by the
/// coordinator, by each replica before it stores and before it answers, and by the reading client.
pub fn value_checksum(token: Token, value: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(value, token.0)
}
