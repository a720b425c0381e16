//! Keys that a replica cannot vouch for: never taken for absent, rebuilt from the others.

use quoit_protocol::FailureCode;
use quoit_ring::{ConflictPolicy, Level, TableOptions};

use crate::world::{Put, World, key, node, options, put, values};

const POLICIES: [ConflictPolicy; 2] = [ConflictPolicy::Latest, ConflictPolicy::Siblings];

#[test]
fn a_damaged_key_is_read_from_the_others_and_rebuilt() {
    for policy in POLICIES {
        for damaged in [node(1), node(2)] {
            let (mut world, table) = World::with_table(1, 3, options(policy));
            let all = Put { level: Some(Level::All), ..put("k", "v") };
            world.put(node(1), table, all).expect("all are up");
            let before = world.stored(damaged, table, "k");
            world.damage(damaged, table, "k");
            assert_eq!(world.stored(damaged, table, "k"), None);
            for _ in 0..3 {
                assert_eq!(world.read(node(1), table, "k"), ["v"]);
            }
            world.run_ms(1_000);
            assert_eq!(world.stored(damaged, table, "k"), before, "{damaged} is mended");
            world.end();
        }
    }
}

#[test]
fn a_read_of_one_replica_leads_to_the_rebuilding_too() {
    for policy in POLICIES {
        let weak = TableOptions { read_level: Level::One, ..options(policy) };
        let (mut world, table) = World::with_table(2, 3, weak);
        let all = Put { level: Some(Level::All), ..put("k", "v") };
        world.put(node(1), table, all).expect("all are up");
        world.damage(node(1), table, "k");
        let request = world.send_get(node(1), table, "k", Level::One);
        assert_eq!(values(&world.got(request).expect("another one answers")), ["v"]);
        world.run_ms(1_000);
        assert!(world.stored(node(1), table, "k").is_some(), "{policy}");
        world.end();
    }
}

#[test]
fn a_read_at_all_fails_but_has_the_key_rebuilt() {
    let (mut world, table) = World::with_table(3, 3, options(ConflictPolicy::Latest));
    let all = Put { level: Some(Level::All), ..put("k", "v") };
    world.put(node(1), table, all).expect("all are up");
    world.damage(node(3), table, "k");
    let request = world.send_get(node(1), table, "k", Level::All);
    world.got(request).expect_err("one cannot vouch for it");
    world.run_ms(1_000);
    let request = world.send_get(node(1), table, "k", Level::All);
    assert_eq!(values(&world.got(request).expect("it was rebuilt")), ["v"]);
    world.end();
}

#[test]
fn a_scan_has_the_damaged_key_of_any_replica_rebuilt() {
    for damaged in [1, 2, 3].map(node) {
        let (mut world, table) = World::with_table(4, 3, options(ConflictPolicy::Latest));
        let all = Put { level: Some(Level::All), ..put("k", "v") };
        world.put(node(1), table, all).expect("all are up");
        world.damage(damaged, table, "k");
        // The twin's damage hides which key it was, as a damaged block does: it is found again by
        // a merge, which leaves the key there with its mark.
        for _ in 0..6 {
            let _ = world.put(node(2), table, put("k", "w"));
            let page = world.scan(node(1), table, "k", b"", 10).expect("two can vouch");
            assert_eq!(page.items.len(), 1);
            world.run_ms(200);
        }
        assert!(world.stored(damaged, table, "k").is_some(), "{damaged}");
        assert_eq!(world.export(node(2), table, 10), [key("k")]);
        world.end();
    }
}

#[test]
fn a_replica_that_lost_a_key_does_not_coordinate_it_before_it_is_rebuilt() {
    let (mut world, table) = World::with_table(5, 3, options(ConflictPolicy::Siblings));
    let all = Put { level: Some(Level::All), ..put("k", "v") };
    world.put(node(1), table, all).expect("all are up");
    world.damage(node(1), table, "k");
    let failure = world.put(node(1), table, put("k", "w")).expect_err("it does not know the key");
    assert_eq!((failure.code, failure.unknown), (FailureCode::NotServing, false));
    world.run_ms(500);
    world.put(node(1), table, put("k", "w")).expect("rebuilt meanwhile");
    assert_eq!(world.read(node(2), table, "k"), ["v", "w"]);
    world.end();
}

/// A dot that came on its way to a peer while this replica lost it must not be claimed by the next.
#[test]
fn after_a_key_was_rebuilt_its_dots_are_another_actors() {
    let (mut world, table) = World::with_table(6, 3, options(ConflictPolicy::Siblings));
    world.put(node(1), table, put("k", "a")).expect("all are up");
    world.run_ms(100);
    world.damage(node(1), table, "k");
    world.read(node(1), table, "k");
    world.run_ms(500);
    world.put(node(1), table, put("k", "b")).expect("rebuilt meanwhile");
    let stored = world.stored(node(1), table, "k").expect("readable");
    assert_eq!(stored.vector().entries().len(), 2);
}

/// A replica that forgot a later write says that an earlier dot is the greatest: it must not count.
#[test]
fn a_replica_that_lost_a_key_does_not_vouch_for_the_order_of_writes() {
    let (mut world, table) = World::with_table(7, 3, options(ConflictPolicy::Latest));
    world.cut(node(1), node(3));
    world.skew(node(1), 400_000);
    world.run_ms(3_000);
    world.put(node(1), table, put("k", "first")).expect("nodes 1 and 2 are a quorum");
    world.isolate(node(1));
    world.damage(node(2), table, "k");
    world.run_ms(100);
    // Nodes 2 and 3 know nothing of the first write, whose dot is minutes later.
    let second = world.put(node(3), table, put("k", "second"));
    assert!(second.is_err_and(|failure| failure.unknown), "nobody knows whether it is the latest");
    world.skew(node(1), 0);
    world.heal();
    world.run_ms(3_000);
    world.put(node(3), table, put("k", "third")).expect("all are up");
    assert_eq!(world.read(node(1), table, "k"), ["third"]);
    world.end();
}

#[test]
fn with_one_acknowledgement_a_write_the_key_is_rebuilt_from_all_that_are_left() {
    let weak = TableOptions { write_level: Level::One, ..options(ConflictPolicy::Latest) };
    let (mut world, table) = World::with_table(8, 3, weak);
    let all = Put { level: Some(Level::All), ..put("k", "v") };
    world.put(node(1), table, all).expect("all are up");
    world.damage(node(1), table, "k");
    assert_eq!(world.read(node(1), table, "k"), ["v"]);
    world.run_ms(500);
    assert!(world.stored(node(1), table, "k").is_some());
}

#[test]
fn heals_that_cannot_succeed_end_and_do_not_pile_up() {
    let (mut world, table) = World::with_table(9, 3, options(ConflictPolicy::Siblings));
    let all = Put { level: Some(Level::All), ..put("k", "v") };
    world.put(node(1), table, all).expect("all are up");
    world.damage(node(1), table, "k");
    world.crash(node(2), false);
    world.run_ms(10);
    for _ in 0..200 {
        let _ = world.get(node(1), table, "k").expect_err("one of three can vouch");
    }
    assert!(world.core(node(1)).operation_count() <= 64);
    world.end();
}

/// Rebuilt from too few, a replica would vouch for the absence of what was acknowledged.
#[test]
fn a_key_is_not_rebuilt_from_fewer_than_know_all_that_was_acknowledged() {
    let weak = TableOptions { read_level: Level::One, ..options(ConflictPolicy::Latest) };
    let (mut world, table) = World::with_table(10, 3, weak);
    world.isolate(node(3));
    world.run_ms(10);
    world.put(node(1), table, put("k", "v")).expect("nodes 1 and 2 are a quorum");
    world.heal();
    world.run_ms(10);
    world.damage(node(1), table, "k");
    world.crash(node(2), false);
    world.run_ms(10);
    let request = world.send_get(node(1), table, "k", Level::One);
    assert_eq!(values(&world.got(request).expect("node 3 answers")), [""; 0]);
    world.run_ms(1_000);
    world.get(node(1), table, "k").expect_err("node 3 alone can vouch for the key");
    world.start(node(2));
    world.run_ms(1_000);
    assert_eq!(world.read(node(1), table, "k"), ["v"]);
    world.end();
}
