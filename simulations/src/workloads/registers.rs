//! Registers: blind writes, contextual writes, writes that may be sent again, reads. What a read
//! must and must not give is in [`crate::invariants`].

use quoit_core::random::Random;

use crate::plan::Action;

/// Draws what is done next.
pub fn action(random: &mut Random) -> Action {
    match random.below(20) {
        0..=6 => Action::Get,
        7..=9 => Action::Put,
        10..=15 => Action::Replace,
        16..=17 => Action::PutIdempotent,
        18 => Action::PutLarge(1 << random.below(18)),
        _ => Action::Delete,
    }
}
