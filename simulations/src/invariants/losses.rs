//! Invariant 18: a replica that lost what it held counts for nothing until it is filled. What a read
//! takes in shows that (invariants 1 and 5); here each virtual node is looked at when it counts again:
//! an acknowledged write from before the loss that another replica holds is there.

use quoit_ring::{ConflictPolicy, HybridTime};
use quoit_storage::version::{SiblingSet, Version};

use super::Verdict;
use super::floors::unheard_of;

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
        let missed = unheard_of(own, other, policy, floor).find(|version| was_required(version));
        self.verdict.expect(missed.is_none(), || {
            format!("n{} counts again and has never heard of {missed:?}", node + 1)
        });
    }
}
