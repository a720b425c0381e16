//! Invariant 4: merge is commutative, associative and idempotent (Shapiro et al., 2011), on the
//! sets that runs have really brought about. The storage crate proves it on drawn sets.

use quoit_ring::ConflictPolicy;
use quoit_storage::codec;
use quoit_storage::store::Found;
use quoit_storage::version::SiblingSet;

use super::Verdict;

/// Sets of so many keys back are combined with each other.
const KEPT: usize = 3;

#[derive(Default)]
pub(crate) struct Merges {
    pub(crate) verdict: Verdict,
    lately: Vec<(ConflictPolicy, SiblingSet)>,
}

impl Merges {
    /// What the replicas of a key hold.
    pub(crate) fn on_sets<'a>(
        &mut self,
        found: impl Iterator<Item = &'a Found>,
        policy: ConflictPolicy,
    ) {
        for found in found {
            let Found::Set(bytes) = found else { continue };
            let Ok(set) = codec::decode(bytes) else {
                self.verdict.expect(false, || "a stored set does not decode".to_owned());
                continue;
            };
            self.lately.push((policy, set));
        }
        while self.lately.len() > KEPT {
            self.lately.remove(0);
        }
        let sets: Vec<&SiblingSet> =
            self.lately.iter().filter(|(of, _)| *of == policy).map(|(_, set)| set).collect();
        for one in &sets {
            self.verdict.expect(one.merge(one, policy) == **one, || format!("{one:?} and itself"));
            for two in &sets {
                let both = one.merge(two, policy);
                let same = both.has_same_dots(&two.merge(one, policy));
                self.verdict.expect(same, || format!("{one:?} and {two:?} do not commute"));
                for three in &sets {
                    let left = both.merge(three, policy);
                    let same = left.has_same_dots(&one.merge(&two.merge(three, policy), policy));
                    self.verdict.expect(same, || format!("{one:?}, {two:?}, {three:?} differ"));
                }
            }
        }
    }
}
