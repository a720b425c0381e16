//! Tables where the latest write stays: order by dots, and what clocks cannot do to it.

use quoit_ring::{ConflictPolicy, Level, TableOptions};

use crate::world::{Put, World, node, options, put, values};

#[test]
fn a_write_that_began_after_another_was_acknowledged_wins_whatever_the_clocks_say() {
    for seed in 0..20 {
        let (mut world, table) = World::with_table(seed, 3, options(ConflictPolicy::Latest));
        world.skew(node(1), 240_000);
        world.skew(node(2), -120_000);
        world.run_ms(3_000);
        for round in 0..12 {
            let writer = node(1 + world.random.below(3));
            let value = format!("v{round}");
            world.put(writer, table, put("k", &value)).expect("a quorum is up");
            let reader = node(1 + world.random.below(3));
            assert_eq!(world.read(reader, table, "k"), [value], "seed {seed}");
        }
        world.end();
    }
}

#[test]
fn a_write_behind_a_cut_off_fast_clock_is_sent_again_above_it() {
    let (mut world, table) = World::with_table(1, 3, options(ConflictPolicy::Latest));
    // So far that the others do not believe its time; but two alone cannot tell whose is wrong.
    world.cut(node(1), node(3));
    world.skew(node(1), 400_000);
    world.run_ms(3_000);
    world.put(node(1), table, put("k", "first")).expect("nodes 1 and 2 are a quorum");
    world.isolate(node(1));
    world.run_ms(10);
    world.put(node(3), table, put("k", "second")).expect("nodes 2 and 3 are a quorum");
    assert!(world.core(node(3)).counters().older > 0, "and waited for a longer lease");
    assert_eq!(world.read(node(2), table, "k"), ["second"]);
    world.heal();
    world.run_ms(3_000);
    assert_eq!(world.read(node(1), table, "k"), ["second"]);
    world.end();
}

#[test]
fn writers_that_outbid_each_other_come_to_an_end() {
    for seed in 0..100 {
        let (mut world, table) = World::with_table(seed, 3, options(ConflictPolicy::Latest));
        world.skew(node(1), 200_000);
        world.run_ms(3_000);
        let requests: Vec<u64> = (0..9)
            .map(|number| {
                let writer = node(1 + number % 3);
                world.send_put(writer, table, put("k", &format!("v{number}")))
            })
            .collect();
        let done = requests.into_iter().filter(|it| world.written(*it).is_ok()).count();
        assert_eq!(done, 9, "seed {seed}: nothing stands in their way for ever");
        let first = world.read(node(1), table, "k");
        assert_eq!(first.len(), 1);
        assert_eq!(world.read(node(2), table, "k"), first);
        world.end();
    }
}

#[test]
fn a_value_is_gone_for_all_readers_once_its_time_is_over() {
    for skew_ms in [0, 200_000] {
        let (mut world, table) = World::with_table(2, 3, options(ConflictPolicy::Latest));
        world.skew(node(2), skew_ms);
        world.run_ms(3_000);
        world.put(node(2), table, put("k", "before")).expect("a quorum is up");
        let short = Put { ttl_ms: Some(5_000), ..put("k", "v") };
        world.put(node(1), table, short).expect("a quorum is up");
        for id in world.ids() {
            assert_eq!(world.read(id, table, "k"), ["v"], "it lives, {skew_ms} ms apart");
        }
        world.run_ms(6_000);
        let expired = world.get(node(1), table, "k").expect("read");
        if skew_ms == 0 {
            assert_eq!(values(&expired), [""; 0]);
            for id in world.ids() {
                assert_eq!(world.read(id, table, "k"), [""; 0]);
            }
        }
        world.end();
    }
}

#[test]
fn a_tables_time_to_live_holds_where_a_write_brings_none() {
    let with_ttl = TableOptions { ttl_ms: Some(1_000), ..options(ConflictPolicy::Latest) };
    let (mut world, table) = World::with_table(3, 3, with_ttl);
    world.put(node(1), table, put("a", "v")).expect("a quorum is up");
    let longer = Put { ttl_ms: Some(60_000), ..put("b", "v") };
    world.put(node(1), table, longer).expect("a quorum is up");
    world.run_ms(1_500);
    assert_eq!(world.read(node(2), table, "a"), [""; 0]);
    assert_eq!(world.read(node(2), table, "b"), ["v"]);
}

#[test]
fn levels_are_taken_from_the_request_before_the_table() {
    let (mut world, table) = World::with_table(4, 3, options(ConflictPolicy::Latest));
    world.isolate(node(1));
    world.run_ms(10);
    let one = Put { level: Some(Level::One), ..put("k", "v") };
    let written = world.put(node(1), table, one).expect("one is enough");
    assert_eq!(written.acknowledged, 1);
    let request = world.send_get(node(1), table, "k", Level::One);
    assert_eq!(values(&world.got(request).expect("one is enough")), ["v"]);
    let all = Put { level: Some(Level::All), ..put("k", "v") };
    world.put(node(2), table, all).expect_err("one is missing");
}
