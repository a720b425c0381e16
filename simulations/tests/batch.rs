//! A bounded batch of seeds, and what the swarm must bring about in it.

use std::collections::{BTreeMap, BTreeSet};

use quoit_simulations::plan::{self, Profile};
use quoit_simulations::run::run;

#[test]
fn a_batch_of_seeds_keeps_every_invariant() {
    let mut faults: BTreeSet<&'static str> = BTreeSet::new();
    let mut outcomes: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut checked: BTreeMap<u8, u64> = BTreeMap::new();
    for seed in 0..120 {
        let report = run(&plan::draw(seed, Profile::Swarm), false);
        assert_eq!(report.violation, None, "seed {seed}:\n{report}");
        faults.extend(report.tally.faults.keys());
        for (outcome, count) in &report.tally.outcomes {
            *outcomes.entry(outcome).or_default() += count;
        }
        for line in &report.lines {
            let checks = line.verdict.as_ref().map_or(0, |verdict| verdict.checks);
            *checked.entry(line.number).or_default() += checks;
        }
    }
    assert!(faults.len() >= 24, "the swarm makes faults of many kinds: {faults:?}");
    assert!(outcomes["written"] > 10_000 && outcomes["read"] > 10_000, "{outcomes:?}");
    assert!(outcomes["unknown"] > 100, "{outcomes:?}");
    for number in [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 15, 16, 17] {
        assert!(checked[&number] > 100, "invariant {number} is checked: {checked:?}");
    }
}
