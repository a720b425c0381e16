//! Reads: quorums, repair before the answer, replicas that are down, lost, slow.

use quoit_protocol::FailureCode;
use quoit_ring::{ConflictPolicy, Level};

use crate::world::{World, delete, node, options, put, values};

#[test]
fn what_was_put_is_read_at_every_node_until_it_is_deleted() {
    for policy in [ConflictPolicy::Latest, ConflictPolicy::Siblings] {
        let (mut world, table) = World::with_table(1, 3, options(policy));
        assert_eq!(world.read(node(1), table, "k"), [""; 0], "never written");
        world.put(node(1), table, put("k", "v")).expect("all replicas are up");
        for id in world.ids() {
            assert_eq!(world.read(id, table, "k"), ["v"]);
        }
        let context = world.get(node(3), table, "k").expect("read").context;
        let gone = crate::world::Put { context, ..delete("k") };
        world.put(node(2), table, gone).expect("all replicas are up");
        for id in world.ids() {
            assert_eq!(world.read(id, table, "k"), [""; 0]);
        }
        world.end();
    }
}

#[test]
fn a_read_needs_a_quorum_and_says_how_many_answered() {
    let (mut world, table) = World::with_table(2, 3, options(ConflictPolicy::Latest));
    world.put(node(1), table, put("k", "v")).expect("all replicas are up");
    world.crash(node(2), true);
    world.run_ms(10);
    assert_eq!(world.read(node(1), table, "k"), ["v"], "two of three are up");
    world.crash(node(3), true);
    world.run_ms(10);
    let failure = world.get(node(1), table, "k").expect_err("one of three");
    assert_eq!((failure.code, failure.unknown), (FailureCode::Unavailable, false));
    assert_eq!((failure.answered, failure.required), (1, 2));
    world.end();
}

#[test]
fn a_replica_lost_in_the_middle_of_a_read_is_replaced_by_another() {
    for seed in 0..30 {
        let (mut world, table) = World::with_table(seed, 3, options(ConflictPolicy::Latest));
        world.put(node(1), table, put("k", "v")).expect("all replicas are up");
        world.pause(node(2), 60_000);
        world.pause(node(3), if seed % 2 == 0 { 10 } else { 0 });
        let request = world.send_get(node(1), table, "k", Level::Quorum);
        world.run_ms(5);
        world.crash(node(2), true);
        assert_eq!(values(&world.got(request).expect("the third answers")), ["v"]);
        world.end();
    }
}

#[test]
fn patience_with_a_slow_replica_ends_long_before_the_deadline() {
    for seed in 0..10 {
        let (mut world, table) = World::with_table(seed, 3, options(ConflictPolicy::Latest));
        world.put(node(1), table, put("k", "v")).expect("all replicas are up");
        world.run_ms(100);
        world.pause(node(2), 60_000);
        let began = world.time_us();
        for _ in 0..4 {
            assert_eq!(world.read(node(1), table, "k"), ["v"]);
        }
        let took_ms = (world.time_us() - began) / 1_000;
        assert!(took_ms < 150, "four reads took {took_ms} ms: one waits, then others are asked");
    }
}

#[test]
fn patience_is_as_short_as_answers_were_of_late() {
    let (mut world, table) = World::with_table(4, 3, options(ConflictPolicy::Latest));
    world.put(node(1), table, put("k", "v")).expect("all replicas are up");
    for _ in 0..400 {
        assert_eq!(world.read(node(1), table, "k"), ["v"]);
        world.run_ms(4);
    }
    world.pause(node(2), 60_000);
    let began = world.time_us();
    for _ in 0..4 {
        assert_eq!(world.read(node(1), table, "k"), ["v"]);
    }
    let took_ms = (world.time_us() - began) / 1_000;
    assert!(took_ms < 20, "four reads took {took_ms} ms, where none waits for 50");
}

#[test]
fn a_stale_replica_is_repaired_before_a_quorum_read_returns() {
    for policy in [ConflictPolicy::Latest, ConflictPolicy::Siblings] {
        let (mut world, table) = World::with_table(3, 3, options(policy));
        world.isolate(node(3));
        world.run_ms(10);
        world.put(node(1), table, put("k", "v")).expect("a quorum is up");
        world.heal();
        world.run_ms(10);
        world.crash(node(1), true);
        world.run_ms(10);
        let got = world.get(node(3), table, "k").expect("a quorum is up");
        assert_eq!(values(&got), ["v"]);
        assert!(got.repaired);
        let [here, there] = [node(2), node(3)].map(|id| world.stored(id, table, "k"));
        assert_eq!(here, there, "before the answer both had it");
        world.end();
    }
}

#[test]
fn a_straggler_is_mended_behind_the_answer() {
    let (mut world, table) = World::with_table(4, 3, options(ConflictPolicy::Latest));
    world.isolate(node(3));
    world.run_ms(10);
    world.put(node(1), table, put("k", "v")).expect("a quorum is up");
    world.heal();
    world.run_ms(2_000);
    world.pause(node(2), 100);
    world.pause(node(3), 60);
    assert_eq!(world.read(node(1), table, "k"), ["v"]);
    world.run_ms(300);
    let stored = world.stored(node(3), table, "k").expect("readable");
    assert_eq!(Some(stored), world.stored(node(1), table, "k"));
    world.end();
}

#[test]
fn a_straggler_that_knows_more_mends_the_others() {
    let (mut world, table) = World::with_table(5, 3, options(ConflictPolicy::Latest));
    world.isolate(node(3));
    world.run_ms(10);
    let one = crate::world::Put { level: Some(Level::One), ..put("k", "v") };
    world.put(node(3), table, one).expect("one replica is enough");
    world.heal();
    world.run_ms(2_000);
    // All are asked, and this node and the second answer first.
    world.pause(node(2), 50);
    world.pause(node(3), 60);
    world.run_ms(1);
    let request = world.send_get(node(1), table, "k", Level::Quorum);
    let first = values(&world.got(request).expect("a quorum is up"));
    world.run_ms(1_000);
    for id in world.ids() {
        assert!(
            !world.stored(id, table, "k").expect("readable").is_empty(),
            "{id} after {first:?}"
        );
    }
    world.end();
}

#[test]
fn a_full_replica_does_not_make_reads_fail() {
    for policy in [ConflictPolicy::Latest, ConflictPolicy::Siblings] {
        for seed in 0..10 {
            let (mut world, table) = World::with_table(seed, 3, options(policy));
            world.isolate(node(3));
            world.run_ms(10);
            let big = "x".repeat(300_000);
            world.put(node(1), table, put("k", &big)).expect("a quorum is up");
            let disk = world.machines[&node(3)].disk.clone();
            disk.limit(Some(disk.used_bytes()));
            world.heal();
            world.run_ms(2_000);
            for id in world.ids() {
                assert_eq!(world.read(id, table, "k"), std::slice::from_ref(&big));
            }
            world.end();
        }
    }
}
