//! Invariant 17: every queue, buffer and table has a bound, and keeps it. What is watched: the
//! operations that a node coordinates at once. Reads of its own accord, to heal a replica, come on
//! top, within their own bound.

use super::Verdict;
use crate::plan::Rarities;

/// `HEAL_MAX` of the core, and one that is on its way.
const HEALING_MAX: usize = 65;

#[derive(Default)]
pub(crate) struct Bounds {
    pub(crate) verdict: Verdict,
}

impl Bounds {
    pub(crate) fn on_turn(&mut self, operations: usize, rarities: &Rarities) {
        let bound = rarities.operations_max as usize + HEALING_MAX;
        self.verdict.expect(operations <= bound, || {
            format!("{operations} operations at once; the bound is {bound}")
        });
    }
}
