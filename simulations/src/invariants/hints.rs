//! Invariant 11: every hint is delivered or counted as dropped. When one leaves as delivered, its target
//! has what was sent to it; and in the end the counters and what waits add up.

use quoit_core::HintCounters;
use quoit_ring::{ConflictPolicy, HybridTime};
use quoit_storage::version::SiblingSet;

use super::Verdict;

/// A hint leaves as delivered: what its target was sent, if anything, and what it holds.
pub(crate) fn check_delivered(
    verdict: &mut Verdict,
    sent: Option<&SiblingSet>,
    held: Option<(&SiblingSet, HybridTime)>,
    policy: ConflictPolicy,
    text: impl Fn() -> String,
) {
    let Some(sent) = sent else {
        return verdict.expect(false, || format!("nothing was sent for {}", text()));
    };
    let Some((held, floor)) = held else { return };
    let is_there = sent.versions().iter().all(|version| {
        held.holds(version.dot)
            || held.vector().has_seen(version.dot)
            || version.dot.time <= floor
            || (policy == ConflictPolicy::Latest && held.greatest_dot() > Some(version.dot))
    });
    verdict.expect(is_there, || format!("{} was sent {sent:?} and holds {held:?}", text()));
}

/// At the end of a process' life, while nothing goes on.
pub(crate) fn check_balance(
    verdict: &mut Verdict,
    node: usize,
    recovered: u64,
    counters: HintCounters,
    waiting: u64,
) {
    let came = recovered + counters.noted;
    let went = counters.delivered + counters.dropped();
    verdict.expect(came == went + waiting, || {
        format!("n{} found {recovered} hints, {waiting} wait, and: {counters:?}", node + 1)
    });
}
