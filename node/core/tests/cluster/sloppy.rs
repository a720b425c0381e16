//! Sloppy quorums: others take a write in the place of primaries that cannot be reached, answer reads of
//! it, and hand it over.

use quoit_core::CoreConfig;
use quoit_protocol::FailureCode;
use quoit_ring::{ConflictPolicy, Level, NodeId, TableId, TableOptions};

use crate::world::{Put, World, options, put};

const POLICIES: [ConflictPolicy; 2] = [ConflictPolicy::Latest, ConflictPolicy::Siblings];

fn hints(config: &mut CoreConfig) {
    config.hint_bytes_max = 1 << 20;
}

/// Five nodes, N=2, and the primaries of `k`.
fn world(seed: u64, policy: ConflictPolicy, sloppy: bool) -> (World, TableId, Vec<NodeId>) {
    let mut world = World::with(seed, 5, hints);
    world.form();
    let table = TableOptions { replication: 2, sloppy, ..options(policy) };
    let table = world.table("t", table);
    let primaries = world.primaries(table, "k");
    (world, table, primaries)
}

fn stranger(world: &World, primaries: &[NodeId]) -> NodeId {
    let ids = world.ids();
    ids.into_iter().find(|id| !primaries.contains(id)).expect("five nodes")
}

fn run_until_delivered(world: &mut World) {
    world.run_until("all is handed over", |world| {
        world.ids().iter().all(|id| world.core(*id).hints_waiting() == 0)
    });
}

#[test]
fn a_strict_table_refuses_what_a_sloppy_one_takes_and_hands_over() {
    for policy in POLICIES {
        let (mut world, table, primaries) = world(1, policy, false);
        world.crash(primaries[1], false);
        let failure = world.put(primaries[0], table, put("k", "v")).expect_err("one is down");
        assert_eq!((failure.code, failure.unknown), (FailureCode::Unavailable, false));
        let (mut world, table, primaries) = self::world(1, policy, true);
        world.crash(primaries[1], false);
        let written = world.put(primaries[0], table, put("k", "v")).expect("another stands in");
        assert_eq!(written.acknowledged, 2);
        assert_eq!(world.read(primaries[0], table, "k"), ["v"]);
        let waiting: u64 = world
            .ids()
            .iter()
            .filter(|id| **id != primaries[1])
            .map(|id| world.core(*id).hints_waiting())
            .sum();
        assert_eq!(waiting, 1, "a stand-in keeps it, and its coordinator notes nothing");
        world.heal();
        run_until_delivered(&mut world);
        let [one, two] = [0, 1].map(|at| world.stored(primaries[at], table, "k"));
        assert!(one.is_some() && one == two, "{one:?} {two:?}");
        world.end();
    }
}

#[test]
fn without_any_primary_a_fallback_coordinates_and_no_sibling_is_lost() {
    let (mut world, table, primaries) = world(2, ConflictPolicy::Siblings, true);
    let by = stranger(&world, &primaries);
    world.put(by, table, put("k", "before")).expect("all are up");
    primaries.iter().for_each(|id| world.crash(*id, true));
    world.run_ms(2_000);
    for value in ["one", "two"] {
        world.put(by, table, put("k", value)).expect("others stand in");
    }
    assert_eq!(world.read(by, table, "k"), ["one", "two"]);
    world.heal();
    run_until_delivered(&mut world);
    primaries.iter().for_each(|id| world.crash(*id, true));
    world.run_ms(2_000);
    // What was written before by this node is forgotten here: that must not look as if it were seen.
    world.put(by, table, put("k", "three")).expect("others stand in");
    world.heal();
    run_until_delivered(&mut world);
    assert_eq!(world.read(primaries[0], table, "k"), ["before", "one", "three", "two"]);
    world.end();
}

#[test]
fn what_was_taken_outlives_its_keeper_and_never_expires() {
    let (mut world, table, primaries) = world(3, ConflictPolicy::Latest, true);
    let by = stranger(&world, &primaries);
    primaries.iter().for_each(|id| world.crash(*id, true));
    world.run_ms(2_000);
    world.put(by, table, put("k", "v")).expect("others stand in");
    world.ids().into_iter().filter(|id| !primaries.contains(id)).for_each(|id| {
        world.crash(id, true);
    });
    world.heal();
    run_until_delivered(&mut world);
    let all = Put { level: Some(Level::All), ..put("other", "v") };
    world.put(by, table, all).expect("all are up");
    assert_eq!(world.read(primaries[1], table, "k"), ["v"]);
    world.end();
}

#[test]
fn a_slow_primary_and_who_stands_in_for_it_do_not_make_two() {
    let (mut world, table, primaries) = world(4, ConflictPolicy::Latest, true);
    world.isolate(primaries[1]);
    let others: Vec<NodeId> =
        world.ids().into_iter().filter(|id| !primaries.contains(id)).collect();
    // Nobody is left to stand in for the one that cannot be reached, but for the other's own.
    others.iter().for_each(|id| world.crash(*id, false));
    world.run_ms(2_000);
    let failure = world.put(primaries[0], table, put("k", "v")).expect_err("one copy is not two");
    assert_eq!(failure.code, FailureCode::Unavailable);
    world.heal();
    run_until_delivered(&mut world);
    world.end();
}
