//! Disks that are full or fail under the core.

use std::collections::BTreeMap;

use quoit_core::{Effect, StorageRequest};
use quoit_protocol::{AskStatus, ClientResponse, FailureCode};
use quoit_ring::ConflictPolicy;
use quoit_storage::store::Change;
use quoit_storage::version::Actor;

use crate::world::{World, node, options, put};

#[test]
fn a_full_disk_stops_a_coordinator_until_there_is_space() {
    for policy in [ConflictPolicy::Latest, ConflictPolicy::Siblings] {
        let (mut world, table) = World::with_table(1, 3, options(policy));
        let disk = world.machines[&node(1)].disk.clone();
        disk.limit(Some(disk.used_bytes()));
        let big = "x".repeat(300_000);
        let written = world.put(node(1), table, put("k", &big)).expect("the two others are enough");
        assert_eq!(written.acknowledged, 2);
        let failure = world.put(node(1), table, put("k", "v")).expect_err("its disk is full");
        assert_eq!((failure.code, failure.unknown), (FailureCode::NotServing, false));
        assert_eq!(world.read(node(1), table, "k"), [big], "reads go on");
        disk.limit(None);
        world.run_ms(12_000);
        world.put(node(1), table, put("j", "v")).expect("there is space again");
        world.end();
    }
}

#[test]
fn a_node_says_that_its_tables_cannot_be_flushed_until_they_can() {
    let (mut world, table) = World::with_table(1, 3, options(ConflictPolicy::Latest));
    let problems = |world: &mut World| {
        let request = world.send(node(1), AskStatus {});
        let ClientResponse::Status(status) = world.wait(request) else { panic!("no status") };
        (status.state, status.problems.join("; "))
    };
    assert_eq!(problems(&mut world), ("serving".to_owned(), String::new()));
    world.machines[&node(1)].tables.fail_flushes(1);
    world.put(node(1), table, put("k", "v")).expect("all are up");
    world.flush(node(1));
    let (state, told) = problems(&mut world);
    assert_eq!(state, "degraded");
    assert!(told.contains("cannot be written to the tables"), "{told}");
    world.flush(node(1));
    assert_eq!(problems(&mut world), ("serving".to_owned(), String::new()));
    world.end();
}

/// The dots of a batch that was not committed are at peers, and forgotten here. A write that was
/// handed over before the core knew must not claim them.
#[test]
fn what_follows_a_lost_batch_does_not_erase_it_elsewhere() {
    for seed in 0..60 {
        let (mut world, table) = World::with_table(seed, 3, options(ConflictPolicy::Siblings));
        world.run_ms(6_000);
        let disk = world.machines[&node(1)].disk.clone();
        disk.limit(Some(disk.used_bytes()));
        let lost = world.send_put(node(1), table, put("k", &"x".repeat(300_000)));
        world.run_us(100);
        let more: Vec<u64> =
            (0..5).map(|_| world.send_put(node(1), table, put("k", "small"))).collect();
        // In some of these worlds the first batch fails, and the next, merged at once, does not.
        world.run_us(200 + seed * 15);
        disk.limit(None);
        let first = world.written(lost);
        more.into_iter().for_each(|request| drop(world.written(request)));
        world.run_ms(1_000);
        let read = world.read(node(2), table, "k");
        if first.is_ok() {
            assert!(read.iter().any(|value| value.len() > 5), "seed {seed}: it was acknowledged");
        }
        world.end();
    }
}

#[test]
fn a_core_takes_new_actors_once_a_batch_was_lost() {
    let (mut world, table) = World::with_table(2, 3, options(ConflictPolicy::Siblings));
    world.seen = Some(Vec::new());
    world.put(node(1), table, put("k", "a")).expect("a quorum is up");
    let disk = world.machines[&node(1)].disk.clone();
    disk.limit(Some(disk.used_bytes()));
    world.put(node(1), table, put("k", &"x".repeat(300_000))).expect("the others are enough");
    disk.limit(None);
    world.run_ms(12_000);
    world.put(node(1), table, put("k", "b")).expect("there is space again");
    let mut dots: BTreeMap<Actor, u32> = BTreeMap::new();
    for (_, effect) in world.seen.take().expect("asked for") {
        if let Effect::ToStorage { request: StorageRequest::Apply { mutation, .. }, .. } = effect
            && let Change::Write { version, .. } = mutation.change
        {
            *dots.entry(version.dot.actor).or_default() += 1;
        }
    }
    assert_eq!(dots.into_values().sum::<u32>(), 3);
    let read = world.read(node(2), table, "k");
    assert_eq!(read.len(), 3, "nothing was erased");
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged_until_the_restart() {
    for policy in [ConflictPolicy::Latest, ConflictPolicy::Siblings] {
        let (mut world, table) = World::with_table(3, 3, options(policy));
        world.machines[&node(1)].disk.fail_syncs(1);
        let written = world.put(node(1), table, put("k", "a")).expect("the two others are enough");
        assert_eq!(written.acknowledged, 2);
        for _ in 0..3 {
            world.put(node(1), table, put("k", "b")).expect_err("its disk failed");
            world.run_ms(2_000);
        }
        world.crash(node(1), true);
        world.start(node(1));
        world.run_ms(1_000);
        assert_eq!(world.read(node(1), table, "k"), ["a"]);
        world.put(node(1), table, put("j", "b")).expect("it was restarted");
        world.end();
    }
}
