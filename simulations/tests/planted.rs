//! The simulator must be trusted: each bug that is planted on purpose breaks an invariant, soon.

use std::num::NonZero;
use std::sync::Mutex;

use quoit_simulations::plan::{self, Profile};
use quoit_simulations::run::run;
use quoit_storage::planted::{PlantedBug, plant};

/// Each is caught within so many seeds.
const SEEDS_MAX: usize = 2_000;

/// The seeds that are played. Some bugs need what only one seed in 16 has (see `plan::swarm`).
fn seeds(bug: PlantedBug) -> impl Iterator<Item = u64> {
    let (from, step) = match bug {
        PlantedBug::TakeUnderFloor => (9, 16),
        PlantedBug::CountAtOnce | PlantedBug::RefillFromOne => (7, 16),
        PlantedBug::AcceptAnyBallot => (11, 16),
        PlantedBug::SettleOverStandIns => (5, 16),
        PlantedBug::ForgetSession => (13, 16),
        _ => (0, 1),
    };
    (from..).step_by(step).take(SEEDS_MAX)
}

/// The first seed that shows the bug, and the invariant that it breaks (0: an assertion of the
/// product itself).
fn caught(bug: PlantedBug) -> Option<(u64, u8)> {
    plant(Some(bug));
    let found = seeds(bug).find_map(|seed| {
        let violation = run(&plan::draw(seed, Profile::Swarm), false).violation?;
        Some((seed, violation.number))
    });
    plant(None);
    found
}

#[test]
fn every_planted_bug_is_caught() {
    // What an assertion says in a run is not news here.
    std::panic::set_hook(Box::new(|_| {}));
    let left = Mutex::new(PlantedBug::ALL.into_iter());
    let missed = Mutex::new(Vec::new());
    let work = || {
        loop {
            let bug = left.lock().expect("no one panics with it").next();
            let Some(bug) = bug else { return };
            match caught(bug) {
                Some((seed, 0)) => println!("{bug:?}: an assertion fails at seed {seed}"),
                Some((seed, number)) => {
                    println!("{bug:?}: breaks invariant {number} at seed {seed}")
                }
                None => missed.lock().expect("no one panics with it").push(bug),
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, NonZero::get) {
            scope.spawn(work);
        }
    });
    let _ = std::panic::take_hook();
    let missed = missed.into_inner().expect("no one panics with it");
    assert!(missed.is_empty(), "not caught within {SEEDS_MAX} seeds: {missed:?}");
}
