//! Invariant 18: a replica that lost what it held counts for nothing until it is filled. What a read
//! takes in shows that (invariants 1 and 5); here each virtual node is looked at when it counts again:
//! an acknowledged write from before the loss that another replica holds is there.

use quoit_ring::{ConflictPolicy, HybridTime};
use quoit_storage::version::{SiblingSet, Version};

use super::Verdict;

#[derive(Default)]
pub(crate) struct Losses {
    pub(crate) verdict: Verdict,
}

impl Losses {
    /// What a replica holds of a key when its virtual node is trusted again, and what another one does.
    pub(crate) fn on_trusted(
        &mut self,
        node: usize,
        policy: ConflictPolicy,
        floor: HybridTime,
        (own, other): (&SiblingSet, &SiblingSet),
        was_required: impl Fn(&Version) -> bool,
    ) {
        let is_missed = |version: &&Version| {
            version.goes_at().is_none_or(|end| end > floor)
                && !own.holds(version.dot)
                && !own.vector().has_seen(version.dot)
                && (policy == ConflictPolicy::Siblings || own.greatest_dot() < Some(version.dot))
        };
        let missed = other.versions().iter().filter(is_missed).find(|it| was_required(it));
        self.verdict.expect(missed.is_none(), || {
            format!("n{} counts again and has never heard of {missed:?}", node + 1)
        });
    }
}
