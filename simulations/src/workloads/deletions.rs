//! Delete and create again (FAILURES rows 6 and 18): a late tombstone must not take a key that was
//! created again, and what was deleted must not come back.

use quoit_core::random::Random;

use crate::plan::Action;

/// Draws what is done next.
pub fn action(random: &mut Random) -> Action {
    match random.below(10) {
        0..=3 => Action::Get,
        4..=5 => Action::Replace,
        6 => Action::Put,
        7..=8 => Action::Delete,
        _ => Action::DeleteBlind,
    }
}
