//! A replica that has lost writes counts again once enough of the others were merged in, and not before.

use quoit_core::CoreConfig;
use quoit_ring::{ConflictPolicy, Level, TableId, TableOptions};

use crate::world::{World, node, options, put};

const POLICIES: [ConflictPolicy; 2] = [ConflictPolicy::Latest, ConflictPolicy::Siblings];

fn often(config: &mut CoreConfig) {
    config.repair_interval_ms = 2_000;
}

fn world(seed: u64, options: TableOptions) -> (World, TableId) {
    let mut world = World::with(seed, 3, often);
    world.form();
    let table = world.table("t", options);
    (world, table)
}

/// A node finds at its start that it has lost it does not know what.
fn lose(world: &mut World, id: u64) {
    world.distrust(node(id));
    world.crash(node(id), true);
    world.start(node(id));
    assert_eq!(world.distrusted(node(id)), 8);
}

#[test]
fn a_replica_that_has_lost_writes_is_filled_and_counts_again() {
    for policy in POLICIES {
        let (mut world, table) = world(1, options(policy));
        for key in ["a", "b", "c"] {
            world.put(node(1), table, put(key, "v")).expect("all are up");
        }
        world.run_ms(100);
        lose(&mut world, 3);
        // Until then it vouches for nothing, not even for what is absent; the others answer.
        assert_eq!(world.stored(node(3), table, "a"), None);
        assert_eq!(world.stored(node(3), table, "never written"), None);
        assert_eq!(world.read(node(3), table, "a"), ["v"]);
        world.run_ms(15_000);
        assert_eq!(world.distrusted(node(3)), 0);
        for key in ["a", "b", "c"] {
            assert_eq!(world.stored(node(3), table, key), world.stored(node(1), table, key));
        }
        assert!(world.stored(node(3), table, "never written").is_some_and(|set| set.is_empty()));
        // And that outlives a restart.
        world.crash(node(3), true);
        world.heal();
        assert_eq!(world.distrusted(node(3)), 0);
        world.end();
    }
}

#[test]
fn one_other_is_not_enough_where_two_must_acknowledge() {
    for policy in POLICIES {
        let (mut world, table) = world(2, options(policy));
        // What only the lost one and node 2 hold.
        world.isolate(node(1));
        world.put(node(3), table, put("k", "v")).expect("two are up");
        world.heal();
        world.crash(node(2), true);
        lose(&mut world, 3);
        world.run_ms(30_000);
        assert_eq!(world.distrusted(node(3)), 8, "node 1 alone does not know what was lost");
        let request = world.send_get(node(3), table, "k", Level::One);
        let got = world.got(request);
        assert!(got.is_err() || got.is_ok_and(|got| got.answered == 1));
        world.heal();
        world.run_ms(20_000);
        assert_eq!(world.distrusted(node(3)), 0);
        assert_eq!(world.read(node(3), table, "k"), ["v"]);
        world.end();
    }
}

#[test]
fn where_all_must_acknowledge_one_other_is_enough() {
    let all = TableOptions { write_level: Level::All, ..options(ConflictPolicy::Latest) };
    let (mut world, table) = world(3, all);
    world.put(node(1), table, put("k", "v")).expect("all are up");
    world.crash(node(2), true);
    lose(&mut world, 3);
    world.run_ms(20_000);
    assert_eq!(world.distrusted(node(3)), 0);
    assert_eq!(world.stored(node(3), table, "k"), world.stored(node(1), table, "k"));
    world.heal();
    world.end();
}

#[test]
fn two_that_have_lost_writes_do_not_vouch_for_each_other() {
    let (mut world, table) = world(4, options(ConflictPolicy::Siblings));
    world.put(node(1), table, put("k", "v")).expect("all are up");
    world.run_ms(100);
    for id in [2, 3] {
        world.distrust(node(id));
        world.crash(node(id), true);
    }
    world.start(node(2));
    world.start(node(3));
    world.run_ms(30_000);
    assert_eq!((world.distrusted(node(2)), world.distrusted(node(3))), (8, 8));
    world.end();
}
