//! Sort-key scans beside writes: every item of a page is judged as a read of its key.

use quoit_core::random::Random;

use crate::plan::Action;

/// Draws what is done next.
pub fn action(random: &mut Random) -> Action {
    match random.below(10) {
        0..=3 => Action::Scan,
        4 => Action::Get,
        5..=7 => Action::Replace,
        8 => Action::Put,
        _ => Action::Delete,
    }
}
