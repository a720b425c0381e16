//! Hinted handoff: what a replica missed is brought to it once it is back, by those who coordinated it.

use quoit_core::{CoreConfig, HintCounters};
use quoit_protocol::{AskStatus, ChangeTables, ClientResponse, TableChange, status::NodeStatus};
use quoit_ring::{ConflictPolicy, Level, NodeId, TableId};

use crate::world::{Put, World, delete, node, options, put};

const POLICIES: [ConflictPolicy; 2] = [ConflictPolicy::Latest, ConflictPolicy::Siblings];

fn hints(config: &mut CoreConfig) {
    config.hint_bytes_max = 1 << 20;
}

fn world(seed: u64, policy: ConflictPolicy, configure: fn(&mut CoreConfig)) -> (World, TableId) {
    let mut world = World::with(seed, 3, configure);
    world.form();
    let table = world.table("t", options(policy));
    (world, table)
}

fn named(number: usize) -> &'static str {
    Box::leak(format!("key {number}").into_boxed_str())
}

fn write(world: &mut World, by: u64, table: TableId, key: &'static str, value: &str) {
    let quorum = Put { level: Some(Level::Quorum), ..put(key, value) };
    world.put(node(by), table, quorum).expect("two are up");
}

fn counters(world: &World, id: NodeId) -> HintCounters {
    world.core(id).counters().hints
}

fn status(world: &mut World, id: NodeId) -> NodeStatus {
    let request = world.send(id, AskStatus {});
    match world.wait(request) {
        ClientResponse::Status(status) => *status,
        other => panic!("{other:?}"),
    }
}

fn waiting(world: &mut World, id: NodeId) -> u64 {
    status(world, id).hints.iter().map(|hints| hints.number).sum()
}

/// Runs until the other two hold the same as one of them under all keys, and nothing waits.
fn expect_delivered(world: &mut World, table: TableId, keys: &[&str]) {
    for _ in 0..60 {
        let equal = keys.iter().all(|key| {
            let held = world.stored(node(1), table, key);
            [2, 3].iter().all(|other| world.stored(node(*other), table, key) == held)
        });
        if equal && (1..=3).all(|id| waiting(world, node(id)) == 0) {
            return;
        }
        world.run_ms(1_000);
    }
    let differ = keys.iter().filter(|key| {
        let held = world.stored(node(1), table, key);
        [2, 3].iter().any(|other| world.stored(node(*other), table, key) != held)
    });
    let differ = differ.count();
    let left = [1, 2, 3].map(|id| (status(world, node(id)).hints, counters(world, node(id))));
    panic!("what was missed is not brought over: {differ} keys differ, {left:?}");
}

#[test]
fn what_a_dead_node_missed_is_told_and_brought_to_it() {
    for policy in POLICIES {
        let (mut world, table) = world(1, policy, hints);
        let keys: Vec<_> = (0..200).map(named).collect();
        keys[..50].iter().for_each(|key| write(&mut world, 1, table, key, "before"));
        world.crash(node(3), true);
        for (at, key) in keys.iter().enumerate() {
            write(&mut world, 1 + at as u64 % 2, table, key, "meanwhile");
        }
        let gone = Put { level: Some(Level::Quorum), ..delete(keys[5]) };
        world.put(node(2), table, gone).expect("two are up");
        world.run_ms(1_000);
        // One hint waits for a key, however many of its writes were missed there.
        let told: Vec<_> =
            [1, 2].iter().flat_map(|id| status(&mut world, node(*id)).hints).collect();
        assert!(told.iter().all(|hints| hints.target == node(3)), "{told:?}");
        let number: u64 = told.iter().map(|hints| hints.number).sum();
        assert!((200..=201).contains(&number), "{told:?}");
        assert!(told.iter().all(|hints| hints.bytes > 0 && hints.oldest_ms >= 1_000), "{told:?}");
        world.heal();
        expect_delivered(&mut world, table, &keys);
        let counters = [1, 2].map(|id| counters(&world, node(id)));
        assert_eq!(counters.iter().map(|it| it.delivered).sum::<u64>(), number);
        assert_eq!(counters.iter().map(HintCounters::dropped).sum::<u64>(), 0);
        world.end();
    }
}

#[test]
fn hints_outlive_their_keeper_and_their_target_in_the_middle_of_it() {
    for seed in 10..30 {
        let (mut world, table) = world(seed, ConflictPolicy::Siblings, hints);
        let keys: Vec<_> = (0..150).map(named).collect();
        world.crash(node(3), false);
        keys.iter().for_each(|key| write(&mut world, 1, table, key, "meanwhile"));
        world.run_ms(1_000);
        world.crash(node(1), true);
        world.heal();
        // Now one side ends, now the other, at moments that the seed chooses.
        for step in 0..4 {
            world.run_us(1_000 + 700 * (seed % 10));
            let victim = node(if (seed + step) % 2 == 0 { 1 } else { 3 });
            world.crash(victim, step % 2 == 0);
            world.heal();
        }
        expect_delivered(&mut world, table, &keys);
        world.end();
    }
}

#[test]
fn what_is_written_while_it_is_brought_over_is_brought_over_too() {
    let (mut world, table) = world(3, ConflictPolicy::Latest, hints);
    let keys: Vec<_> = (0..100).map(named).collect();
    world.isolate(node(3));
    keys.iter().for_each(|key| write(&mut world, 1, table, key, "first"));
    for round in 0..10 {
        world.heal();
        world.run_us(1_500);
        world.isolate(node(3));
        for key in keys.iter().skip(round).step_by(7) {
            write(&mut world, 1 + round as u64 % 2, table, key, "second");
        }
    }
    world.heal();
    expect_delivered(&mut world, table, &keys);
    world.end();
}

#[test]
fn one_that_does_not_answer_in_time_has_missed_the_write() {
    let (mut world, table) = world(4, ConflictPolicy::Latest, hints);
    // Its connection stays, and what it was sent is lost with it later.
    world.pause(node(3), 20_000);
    write(&mut world, 1, table, "k", "v");
    assert_eq!(counters(&world, node(1)).noted, 0);
    world.run_ms(12_000);
    assert_eq!(counters(&world, node(1)).noted, 1);
    world.run_ms(10_000);
    expect_delivered(&mut world, table, &["k"]);
    world.end();
}

#[test]
fn nobody_is_noted_whose_answer_comes_after_the_clients() {
    let (mut world, table) = world(5, ConflictPolicy::Siblings, hints);
    (0..100).map(named).for_each(|key| write(&mut world, 1, table, key, "v"));
    world.run_ms(20_000);
    for id in 1..=3 {
        assert_eq!(counters(&world, node(id)), HintCounters::default());
    }
    world.end();
}

#[test]
fn hints_that_are_too_old_or_too_many_are_dropped_and_counted() {
    fn few(config: &mut CoreConfig) {
        config.hint_bytes_max = 1_000;
        config.hint_age_ms_max = 5_000;
    }
    let (mut world, table) = world(6, ConflictPolicy::Latest, few);
    world.crash(node(3), false);
    (0..50).map(named).for_each(|key| write(&mut world, 1, table, key, "v"));
    world.run_ms(1_000);
    let counted = counters(&world, node(1));
    let kept = waiting(&mut world, node(1));
    assert!(kept > 0 && counted.full > 0, "{counted:?}");
    assert_eq!((counted.noted, counted.dropped()), (50, 50 - kept));
    world.run_ms(10_000);
    assert_eq!(waiting(&mut world, node(1)), 0);
    assert_eq!(counters(&world, node(1)).expired, kept);
    world.end();
}

#[test]
fn hints_of_a_table_that_was_dropped_go_with_it() {
    let (mut world, table) = world(7, ConflictPolicy::Latest, hints);
    world.crash(node(3), false);
    (0..20).map(named).for_each(|key| write(&mut world, 1, table, key, "v"));
    world.run_ms(1_000);
    let change = TableChange::Drop { name: "t".to_owned() };
    let request = world.send(node(1), ChangeTables { change, deadline_ms: 20_000 });
    world.wait(request);
    world.heal();
    world.run_ms(5_000);
    assert_eq!(waiting(&mut world, node(1)), 0);
    assert_eq!(counters(&world, node(1)).table_dropped, 20);
    world.end();
}

#[test]
fn a_node_that_is_about_to_stop_hands_over_what_it_holds_however_busy_they_are() {
    let slow: fn(&mut CoreConfig) = |config| {
        hints(config);
        config.repair_busy_bytes_per_second = 1;
    };
    let (mut world, table) = world(9, ConflictPolicy::Latest, slow);
    let keys: Vec<_> = (0..100).map(named).collect();
    world.isolate(node(3));
    let missed = "x".repeat(4_000);
    keys.iter().for_each(|key| write(&mut world, 1, table, key, &missed));
    let are_busy = |world: &mut World| {
        for _ in 0..10 {
            for id in 1..=3 {
                world.send_get(node(id), table, "other", Level::One);
            }
        }
        world.run_ms(100);
    };
    are_busy(&mut world);
    world.heal();
    (0..20).for_each(|_| are_busy(&mut world));
    assert!(world.core(node(1)).deliverable_hints() > 50, "there is hardly any room for them");
    world.core_mut(node(1)).drain();
    (0..5).for_each(|_| are_busy(&mut world));
    assert_eq!(world.core(node(1)).deliverable_hints(), 0);
    for key in keys {
        let held = world.stored(node(1), table, key);
        assert_eq!(world.stored(node(3), table, key), held, "{key}");
    }
    world.end();
}
