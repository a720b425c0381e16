//! Counters by read-modify-write with contexts (FAILURES row 20): a value holds each client's part,
//! siblings are merged by the greatest of each part, and a client's part is the number of its last
//! increment. What was acknowledged is counted; what was refused is not.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut};
use quoit_core::random::Random;

use crate::plan::Action;

/// Draws what is done next.
pub fn action(random: &mut Random) -> Action {
    if random.below(3) == 0 { Action::Get } else { Action::Increment }
}

/// Each client's part.
pub(crate) type Parts = BTreeMap<u32, u32>;

/// Merges a value (without its number) into the parts.
pub(crate) fn merge(parts: &mut Parts, mut rest: &[u8]) {
    while rest.len() >= 8 {
        let (client, count) = (rest.get_u32_le(), rest.get_u32_le());
        let part = parts.entry(client).or_default();
        *part = count.max(*part);
    }
}

/// The bytes of a counter.
pub(crate) fn encode(parts: &Parts) -> Vec<u8> {
    let mut out = Vec::with_capacity(parts.len() * 8);
    for (client, count) in parts {
        out.put_u32_le(*client);
        out.put_u32_le(*count);
    }
    out
}
