//! Short schedules that once failed, as `shrink` printed them: each holds from then on. Those that
//! came from a bug that was planted to try the simulator say so.

use quoit_core::random::Random;
use quoit_ring::ConflictPolicy::{Latest, Siblings};
use quoit_simulations::plan::Action::*;
use quoit_simulations::plan::Fault::*;
use quoit_simulations::plan::{
    self, Machine, Network, Operation, PlannedFault, Profile, Rarities, Schedule, Table,
};
use quoit_simulations::run::run;

/// Seeds of the swarm that once failed, and what was wrong.
const SEEDS: [(u64, &str); 13] = [
    (
        20_261_125_503_365,
        "a fallback that had been given nothing answered a read for a primary that was only slow",
    ),
    (
        20_261_125_400_433,
        "a key of which two hints waited was handed over twice in one pass, the second time in vain, and \
         the simulator took what was sent last for what was delivered",
    ),
    (
        113_528,
        "what mends a replica was dropped as late after half a second: one with a slow disk that \
         had lost everything was never whole again",
    ),
    (
        1_000_574,
        "a replica that lacked an earlier long value was sent the set that its coordinator had, \
         which lacked the write itself, for the disk there was full; its yes counted all the same",
    ),
    (
        2_017_894,
        "each start took the clock further from the wall by a whole lease, until a node whose clock \
         was behind refused the others' sessions",
    ),
    (
        75,
        "nodes far from each other never formed a cluster: each try ended before its answers came, and all \
         tried again at once",
    ),
    (
        305,
        "a replica that crashed when floors were raised stayed behind, and reads at All repaired it for \
         ever",
    ),
    (
        504_712,
        "a replica with a full disk answered that it held a later value: one of the same batch, which \
         was not committed then; a read counted it, and a later read went back",
    ),
    (
        12_583,
        "an old copy of a disk held tombstones under its floor: nothing was collected while the replica \
         did not count, and nothing told it to begin when it did",
    ),
    (
        28_519,
        "a peer that had no room for one step ended the whole exchange: a replica that had lost its disk \
         was never filled",
    ),
    (
        202_611_261_571,
        "a node whose disk failed under a small document, not a commit, was never started again by \
         whoever watches it: the simulator's mistake",
    ),
    (
        3_000_348,
        "a wiped disk that alone had held a table of N = 1 waits for its operator: the run's end \
         waited for it",
    ),
    (
        4_002_431,
        "a long value that was lost, and that no other replica had, left its key unreadable for ever",
    ),
];

#[test]
fn seeds_that_failed_once_hold() {
    for (seed, why) in SEEDS {
        let report = run(&plan::draw(seed, Profile::Swarm), false);
        assert_eq!(report.violation, None, "seed {seed} again: {why}\n{report}");
    }
}

fn check(schedule: &Schedule) {
    let report = run(schedule, false);
    assert_eq!(report.violation, None, "{report}");
}

/// Planted: a quorum was taken to be reached with one answer less (invariant 5, seed 2).
#[test]
fn a_read_takes_in_a_write_that_was_just_acknowledged() {
    check(&Schedule {
        seed: 2,
        vnodes: 256,
        zones: 1,
        machines: vec![
            Machine { offset_ms: 73307, drift_ppm: 40, sync_us: 2343, read_us: 0 },
            Machine { offset_ms: -25635, drift_ppm: 39, sync_us: 737, read_us: 0 },
            Machine { offset_ms: -15, drift_ppm: 31578, sync_us: 1744, read_us: 420 },
            Machine { offset_ms: -6, drift_ppm: -29121, sync_us: 20000, read_us: 0 },
            Machine { offset_ms: 13, drift_ppm: -30, sync_us: 351, read_us: 279 },
            Machine { offset_ms: 1918, drift_ppm: -9, sync_us: 1681, read_us: 181 },
            Machine { offset_ms: -1211, drift_ppm: 16, sync_us: 1316, read_us: 0 },
        ],
        network: Network { delay_us_min: 87, delay_us_mean: 3000, loss_ppm: 0 },
        tables: vec![Table {
            policy: Siblings,
            replication: 3,
            read: 2,
            write: 2,
            ttl_ms: None,
            sloppy: false,
        }],
        clients: 5,
        rarities: Rarities {
            operations_max: 31,
            storage_requests_max: 32768,
            read_patience_ms: 40,
            lease_ms: 598,
            write_ids_max: 10,
            memory_bytes_max: 4194304,
            segment_bytes: 1048576,
            siblings_max: 2,
            batch_requests_max: 4096,
            repair_interval_ms: 0,
            settle_behind_ms: 0,
            scrub_period_ms: 0,
            hint_bytes_max: 0,
            hint_age_ms_max: 0,
        },
        operations: vec![
            Operation { at_ms: 7002, id: 239, client: 1, table: 0, key: 0, action: Put },
            Operation { at_ms: 7133, id: 243, client: 3, table: 0, key: 0, action: Get },
            Operation { at_ms: 7409, id: 255, client: 1, table: 0, key: 0, action: Get },
        ],
        faults: vec![PlannedFault {
            at_ms: 6998,
            fault: FailSyncs { node: 2, count: 1, for_ms: 4057 },
        }],
        forms_slowly: false,
        expects_loss: false,
    });
}

/// A node is away for two hours, and another for one of them, while few keys are deleted and made again
/// all the time, in a strict and in a sloppy table: what waits for them is hours old when it is brought,
/// and nothing comes back by it. Time is settled several times before, and once they are back.
#[test]
fn hints_that_are_hours_old_bring_nothing_back() {
    const MINUTE_MS: u64 = 60_000;
    let minutes = 200;
    let mut schedule = plan::draw(17, Profile::Endurance { minutes });
    let table =
        |policy, sloppy| Table { policy, replication: 3, read: 2, write: 2, ttl_ms: None, sloppy };
    schedule.tables = vec![table(Latest, false), table(Siblings, true)];
    let mut random = Random::new(17);
    schedule.operations.retain(|operation| operation.id % 128 == 0);
    for operation in &mut schedule.operations {
        operation.key = u32::try_from(random.below(12)).expect("small");
        operation.action = [Get, Get, Replace, Replace, Put, Delete, Delete, DeleteBlind]
            [usize::try_from(random.below(8)).expect("small")];
    }
    let away = |node, from_minutes: u64, for_minutes: u64| PlannedFault {
        at_ms: from_minutes * MINUTE_MS,
        fault: Crash { node, power: true, for_ms: for_minutes * MINUTE_MS },
    };
    schedule.faults = vec![away(1, 20, 120), away(3, 60, 60), away(1, 160, 10)];
    let report = run(&schedule, false);
    assert_eq!(report.violation, None, "{report}");
}
