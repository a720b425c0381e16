//! Sets that only grow, by read-modify-write with contexts (FAILURES row 1; Jepsen's set test): the
//! union of a key's siblings holds every element whose write was acknowledged.

use std::collections::BTreeSet;

use bytes::{Buf, BufMut};
use quoit_core::random::Random;

use crate::plan::Action;

/// Draws what is done next.
pub fn action(random: &mut Random) -> Action {
    if random.below(3) == 0 { Action::Get } else { Action::Add }
}

/// The elements of a value (without its number).
pub(crate) fn elements(mut rest: &[u8]) -> BTreeSet<u32> {
    let mut elements = BTreeSet::new();
    while rest.len() >= 4 {
        elements.insert(rest.get_u32_le());
    }
    elements
}

/// The bytes of a set.
pub(crate) fn encode(elements: &BTreeSet<u32>) -> Vec<u8> {
    let mut out = Vec::with_capacity(elements.len() * 4);
    elements.iter().for_each(|element| out.put_u32_le(*element));
    out
}
