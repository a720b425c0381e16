//! Hybrid time, its lease, and nodes whose wall clock is wrong.

use quoit_core::context;
use quoit_protocol::{ClientResponse, FailureCode, Get, Hello, PROTOCOL_VERSION, Seen, Write};
use quoit_ring::{ConflictPolicy, HybridTime, Level, TableOptions, WallTime};
use quoit_storage::layout::StoredKey;
use quoit_storage::version::{Actor, VersionVector};

use crate::world::{Put, World, node, options, put};

#[test]
fn without_a_durable_lease_no_write_is_coordinated() {
    let (mut world, table) = World::with_table(1, 3, options(ConflictPolicy::Latest));
    // Syncs of an hour: nothing becomes durable, the lease neither.
    world.machines.get_mut(&node(1)).expect("it is there").sync_us = 3_600_000_000;
    world.run_ms(15_000);
    let failure = world.put(node(1), table, put("k", "v")).expect_err("its lease is over");
    assert_eq!((failure.code, failure.unknown), (FailureCode::NotServing, false));
    world.put(node(2), table, put("k", "v")).expect("the others go on");
    world.end();
}

#[test]
fn a_lease_that_cannot_be_saved_is_tried_again_but_not_without_pause() {
    let (mut world, table) = World::with_table(2, 3, options(ConflictPolicy::Latest));
    let disk = world.machines[&node(1)].disk.clone();
    let big = "x".repeat(300_000);
    disk.limit(Some(disk.used_bytes()));
    let _ = world.put(node(1), table, put("k", &big));
    world.seen = Some(Vec::new());
    world.run_ms(20_000);
    let asked = world.seen.take().expect("asked for").into_iter().filter(|(id, effect)| {
        *id == node(1)
            && matches!(
                effect,
                quoit_core::Effect::ToStorage {
                    request: quoit_core::StorageRequest::ExtendLease { .. },
                    ..
                }
            )
    });
    let asked = asked.count();
    assert!(asked < 60, "{asked} times in 20 s");
    disk.limit(None);
    world.run_ms(2_000);
    world.put(node(1), table, put("k", "v")).expect("there is space again");
    world.end();
}

#[test]
fn hybrid_time_never_runs_backwards_over_restarts() {
    // Alone, and each time another key: nobody and nothing tells how late it was.
    let alone = TableOptions { replication: 1, ..options(ConflictPolicy::Latest) };
    let (mut world, table) = World::with_table(3, 1, alone);
    let mut last = HybridTime::ZERO;
    for (round, key) in (0_i64..).zip(["a", "b", "c", "d", "e", "f"]) {
        world.skew(node(1), -20_000 * round);
        world.run_ms(500);
        let one = Put { level: Some(Level::One), ..put(key, "v") };
        world.put(node(1), table, one).expect("one is enough");
        let stored = world.stored(node(1), table, key).expect("readable");
        let dot = stored.greatest_dot().expect("just written");
        assert!(dot.time > last, "round {round}");
        last = dot.time;
        world.crash(node(1), true);
        world.start(node(1));
    }
}

#[test]
fn each_start_makes_its_dots_as_another_actor() {
    let (mut world, table) = World::with_table(4, 3, options(ConflictPolicy::Siblings));
    for _ in 0..4 {
        world.put(node(1), table, put("k", "v")).expect("a quorum is up");
        world.crash(node(1), true);
        world.start(node(1));
        world.run_ms(100);
    }
    let stored = world.stored(node(1), table, "k").expect("readable");
    assert_eq!(stored.vector().entries().len(), 4);
}

#[test]
fn a_node_far_from_its_peers_clocks_coordinates_no_writes_but_takes_part_in_theirs() {
    for ahead in [1_i64, -1] {
        let (mut world, table) = World::with_table(5, 3, options(ConflictPolicy::Latest));
        world.skew(node(1), ahead * 86_400_000);
        world.run_ms(3_000);
        let failure = world.put(node(1), table, put("k", "v")).expect_err("its clock is wrong");
        assert_eq!((failure.code, failure.unknown), (FailureCode::NotServing, false));
        assert_eq!(world.core(node(1)).problems().len(), 1);
        world.crash(node(3), false);
        world.run_ms(10);
        world.put(node(2), table, put("k", "w")).expect("node 1 acknowledges");
        assert_eq!(world.read(node(2), table, "k"), ["w"]);
        world.start(node(3));
        world.skew(node(1), 0);
        world.run_ms(3_000);
        world.put(node(1), table, put("k", "x")).expect("its clock was set right");
        assert_eq!(world.read(node(3), table, "k"), ["x"]);
    }
}

/// A time that is hours ahead, once it is in a dot, is in every context of that key, and no node whose
/// clock is right takes such a context: the key could not be written over for hours.
#[test]
fn a_clock_that_jumps_ahead_for_a_while_leaves_nothing_behind() {
    let (mut world, table) = World::with_table(10, 3, options(ConflictPolicy::Siblings));
    world.run_ms(3_000);
    world.skew(node(1), 7_200_000);
    let failure = world.put(node(1), table, put("k", "v")).expect_err("it has jumped just now");
    assert_eq!((failure.code, failure.unknown), (FailureCode::NotServing, false));
    // What it tells its sessions they tell it again.
    for _ in 0..20 {
        let Write { mut head, key, .. } = world.write(node(1), table, put("k", "v"));
        head.time = HybridTime::at(WallTime(1_700_000_000_000 + 7_200_000));
        let request = world.send(node(1), Get { head, key, at_least: Seen::default() });
        world.wait(request);
        world.run_ms(1_000);
    }
    for is_restarted in [false, true] {
        world.skew(node(1), 0);
        if is_restarted {
            world.crash(node(1), false);
            world.start(node(1));
        }
        world.run_ms(3_000);
        world.put(node(1), table, put("k", "v")).expect("its clock is right again");
        let context = world.get(node(2), table, "k").expect("read").context;
        let over = Put { context, ..put("k", "w") };
        world.put(node(2), table, over).expect("the context is of the present");
        assert_eq!(world.read(node(3), table, "k"), ["w"]);
    }
    world.end();
}

/// One wrong clock must not make all that may expire expire everywhere.
#[test]
fn a_wrong_clock_does_not_drag_the_others_along() {
    let (mut world, table) = World::with_table(6, 3, options(ConflictPolicy::Latest));
    let day = Put { ttl_ms: Some(86_400_000), ..put("k", "v") };
    world.put(node(2), table, day).expect("a quorum is up");
    world.skew(node(1), 400 * 86_400_000);
    world.crash(node(1), false);
    world.start(node(1));
    world.run_ms(3_000);
    for id in [node(2), node(3)] {
        assert_eq!(world.read(id, table, "k"), ["v"]);
        let request = world.send(
            id,
            Hello {
                version_min: PROTOCOL_VERSION,
                version_max: PROTOCOL_VERSION,
                cluster: None,
                client: "test".to_owned(),
            },
        );
        let ClientResponse::Welcome(welcome) = world.wait(request) else { panic!("no welcome") };
        let year = HybridTime::at(WallTime(1_700_000_000_000 + 365 * 86_400_000));
        assert!(welcome.time < year);
    }
}

#[test]
fn sessions_cannot_push_hybrid_time_on_step_by_step() {
    let (mut world, table) = World::with_table(7, 3, options(ConflictPolicy::Latest));
    let mut refused = 0;
    for step in 1..10 {
        let mut write = world.write(node(1), table, put("k", "v"));
        write.head.time = HybridTime::at(WallTime(1_700_000_000_000 + step * 240_000));
        let request = world.send(node(1), write);
        if world.written(request).is_err_and(|failure| failure.code == FailureCode::TimeAhead) {
            refused += 1;
        }
        world.run_ms(100);
    }
    assert_eq!(refused, 8, "five minutes ahead of the wall clock is the end");
}

#[test]
fn a_session_ahead_of_the_lease_is_served_once_the_lease_is_longer() {
    let (mut world, table) = World::with_table(8, 3, options(ConflictPolicy::Latest));
    let mut write = world.write(node(1), table, put("k", "v"));
    write.head.time = HybridTime::at(WallTime(1_700_000_000_000 + 240_000));
    let request = world.send(node(1), write);
    let failure = world.written(request).expect_err("the lease must grow first");
    assert_eq!((failure.code, failure.unknown), (FailureCode::NotServing, false));
    world.run_ms(100);
    world.put(node(1), table, put("k", "v")).expect("it has grown");
}

#[test]
fn a_forged_context_cannot_push_hybrid_time_into_the_far_future() {
    let (mut world, table) = World::with_table(9, 3, options(ConflictPolicy::Siblings));
    // Whoever has the record has the ring key, and can seal what was never read.
    let record = world.record(node(1)).clone();
    let key = StoredKey::new(record.token(b"k"), table, b"k", b"").expect("short");
    let seen = VersionVector::new([(Actor(1), HybridTime(u64::MAX))]);
    let mut write = world.write(node(1), table, put("k", "v"));
    write.context = context::seal(record.cluster, record.ring_key, &key, &seen);
    let request = world.send(node(1), write);
    let failure = world.written(request).expect_err("it is refused");
    assert_eq!((failure.code, failure.unknown), (FailureCode::Invalid, false));
    world.put(node(1), table, put("k", "v")).expect("the clock goes on");
}
