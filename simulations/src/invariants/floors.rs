//! Invariant 14: under a floor nothing comes back; above it nothing is collected. What comes back is
//! seen by every read (invariants 1 and 5). Here each floor is looked at when it is raised: no other
//! replica holds an acknowledged write at or before it that this one has not heard of; and after a
//! crash it is no lower.

use std::collections::BTreeMap;

use quoit_ring::{ConflictPolicy, HybridTime, VnodeIndex};
use quoit_storage::version::{SiblingSet, Version};

use super::Verdict;

/// Versions of another replica that stay under a floor and that this one has not heard of.
pub(super) fn unheard_of<'a>(
    own: &'a SiblingSet,
    other: &'a SiblingSet,
    policy: ConflictPolicy,
    floor: HybridTime,
) -> impl Iterator<Item = &'a Version> {
    other.versions().iter().filter(move |version| {
        version.goes_at().is_none_or(|end| end > floor)
            && !own.holds(version.dot)
            && !own.vector().has_seen(version.dot)
            && (policy == ConflictPolicy::Siblings || own.greatest_dot() < Some(version.dot))
    })
}

#[derive(Default)]
pub(crate) struct Floors {
    pub(crate) verdict: Verdict,
}

impl Floors {
    /// A node's floors after a start, and what they were before.
    pub(crate) fn on_start(
        &mut self,
        node: usize,
        before: &BTreeMap<VnodeIndex, HybridTime>,
        now: impl Fn(VnodeIndex) -> HybridTime,
    ) {
        for (vnode, floor) in before {
            self.verdict.expect(now(*vnode) >= *floor, || {
                format!("n{}: the floor of {vnode} went down from {floor}", node + 1)
            });
        }
    }

    /// What a replica holds of a key when its floor is raised, and what another one does.
    pub(crate) fn on_raised(
        &mut self,
        node: usize,
        floor: HybridTime,
        policy: ConflictPolicy,
        (own, other): (&SiblingSet, &SiblingSet),
        is_required: impl Fn(&Version) -> bool,
    ) {
        let mut news = unheard_of(own, other, policy, floor);
        let missed = news.find(|version| version.dot.time <= floor && is_required(version));
        self.verdict.expect(missed.is_none(), || {
            format!("n{} raises a floor to {floor} and has never heard of {missed:?}", node + 1)
        });
    }
}
