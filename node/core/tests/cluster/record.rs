//! The cluster record is decided once a version, whatever happens to the deciders.

use std::collections::BTreeMap;

use crate::world::{World, node, options};
use quoit_core::handshake::record_hash;
use quoit_core::{Effect, Event};
use quoit_protocol::{ChangeTables, ClientResponse, FailureCode, TableChange};
use quoit_ring::{ConflictPolicy, NodeId};

/// Which content each version had, at whatever node.
#[derive(Default)]
pub struct Decided(BTreeMap<u64, u64>);

impl Decided {
    pub fn look(&mut self, world: &mut World) {
        for (id, effect) in world.seen.replace(Vec::new()).unwrap_or_default() {
            if let Effect::FollowRecord(record) = effect {
                let hash = record_hash(&record);
                let before = *self.0.entry(record.epoch.0).or_insert(hash);
                assert_eq!(before, hash, "{id} follows another record {}", record.epoch);
            }
        }
    }
}

pub fn create(name: &str) -> ChangeTables {
    let change =
        TableChange::Create { name: name.to_owned(), options: options(ConflictPolicy::Latest) };
    ChangeTables { change, deadline_ms: 20_000 }
}

pub fn drop_table(name: &str) -> ChangeTables {
    ChangeTables { change: TableChange::Drop { name: name.to_owned() }, deadline_ms: 20_000 }
}

#[test]
fn three_nodes_decide_the_first_record_and_no_other() {
    let mut world = World::new(1, 3);
    world.seen = Some(Vec::new());
    world.form();
    let mut decided = Decided::default();
    decided.look(&mut world);
    assert_eq!(decided.0.len(), 1);
}

/// Crashes, breaks and cuts while records are decided.
fn attack(world: &mut World) {
    let count = world.ids().len() as u64;
    let one = node(1 + world.random.below(count));
    let two = node(1 + world.random.below(count));
    match world.random.below(8) {
        0 | 1 if world.is_running(one) => {
            let power = world.random.below(2) == 0;
            world.crash(one, power);
        }
        2 | 3 if !world.is_running(one) => world.start(one),
        4 if one != two => world.shake(one, two),
        5 if one != two => world.cut(one, two),
        6 => world.heal(),
        _ => {}
    }
}

#[test]
fn one_version_never_has_two_contents_whatever_fails() {
    for seed in 0..300 {
        let mut world = World::new(seed, if seed % 3 == 0 { 5 } else { 3 });
        world.delay_us = if seed % 2 == 0 { 2_000 } else { 150_000 };
        world.seen = Some(Vec::new());
        let mut decided = Decided::default();
        for round in 0..40 {
            let step_ms = world.random.below(200);
            world.run_ms(step_ms);
            attack(&mut world);
            let id = node(1 + world.random.below(3));
            if world.is_running(id) && round % 5 == 0 {
                world.send(id, create(&format!("t{}", round % 3)));
                world.send(id, drop_table(&format!("t{}", round % 2)));
            }
            decided.look(&mut world);
        }
        world.heal();
        world.form();
        world.run_ms(25_000);
        decided.look(&mut world);
        let records: Vec<_> = world.ids().iter().map(|id| world.record(*id).clone()).collect();
        assert!(records.windows(2).all(|pair| pair[0] == pair[1]), "seed {seed}: all agree");
    }
}

#[test]
fn tables_created_at_once_on_cut_off_nodes_end_the_same_everywhere() {
    for seed in 0..20 {
        let mut world = World::new(seed, 3);
        world.form();
        world.isolate(node(3));
        let here = world.send(node(1), create("a"));
        let there = world.send(node(3), create("b"));
        world.run_ms(3_000);
        assert!(matches!(world.answer(here), Some(ClientResponse::Record(_))));
        assert_eq!(world.answer(there), None, "a minority decides nothing");
        world.heal();
        assert!(matches!(world.wait(there), ClientResponse::Record(_)));
        world.run_ms(3_000);
        let records: Vec<_> = world.ids().iter().map(|id| world.record(*id).clone()).collect();
        assert!(records.windows(2).all(|pair| pair[0] == pair[1]));
        let names: Vec<_> = records[0].tables.iter().map(|table| table.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
    }
}

#[test]
fn a_change_that_no_majority_hears_of_is_unknown_at_its_deadline() {
    let mut world = World::new(1, 3);
    world.form();
    world.isolate(node(1));
    let mut change = create("a");
    change.deadline_ms = 1_000;
    let request = world.send(node(1), change);
    let ClientResponse::Failure(failure) = world.wait(request) else { panic!("it cannot be") };
    assert!(failure.unknown);
    assert_eq!(failure.code, FailureCode::Unavailable);
}

#[test]
fn a_table_is_made_once_and_dropped_once() {
    let mut world = World::new(1, 3);
    world.form();
    let ask = |world: &mut World, change| {
        let request = world.send(node(2), change);
        world.wait(request)
    };
    assert!(matches!(ask(&mut world, create("a")), ClientResponse::Record(_)));
    let epoch = world.core(node(2)).epoch();
    assert!(matches!(ask(&mut world, create("a")), ClientResponse::Record(_)));
    assert_eq!(world.core(node(2)).epoch(), epoch, "it was there already");
    let other =
        TableChange::Create { name: "a".into(), options: options(ConflictPolicy::Siblings) };
    let other = ChangeTables { change: other, deadline_ms: 1_000 };
    let ClientResponse::Failure(failure) = ask(&mut world, other) else { panic!("it differs") };
    assert_eq!(failure.code, FailureCode::Invalid);
    let id = world.record(node(2)).table("a").expect("it is there").id;
    assert!(matches!(ask(&mut world, drop_table("a")), ClientResponse::Record(_)));
    let ClientResponse::Failure(failure) = ask(&mut world, drop_table("a")) else {
        panic!("it is gone")
    };
    assert_eq!(failure.code, FailureCode::UnknownTable);
    assert!(matches!(ask(&mut world, create("a")), ClientResponse::Record(_)));
    assert_ne!(world.record(node(2)).table("a").expect("a new one").id, id, "ids are used once");
}

#[test]
fn a_voter_whose_disk_was_full_votes_again_when_there_is_space() {
    let mut world = World::new(3, 3);
    world.form();
    world.crash(node(3), false);
    let disk = world.machines[&node(2)].disk.clone();
    disk.limit(Some(disk.used_bytes()));
    let request = world.send(node(1), create("a"));
    world.run_ms(3_000);
    assert_eq!(world.answer(request), None, "one vote of three is no majority");
    disk.limit(None);
    assert!(matches!(world.wait(request), ClientResponse::Record(_)));
}

#[test]
fn a_node_that_was_away_learns_the_record_when_it_is_back() {
    let mut world = World::new(3, 3);
    world.form();
    world.crash(node(3), true);
    world.table("a", options(ConflictPolicy::Latest));
    world.start(node(3));
    world.run_until("the record arrives", |world| world.record(node(3)).table("a").is_some());
}

#[test]
fn gossip_may_say_what_it_likes() {
    let mut world = World::new(9, 3);
    for other in [1, 2, 3].map(NodeId) {
        world.tell(node(1), Event::SeemsDead { node: other });
        world.tell(node(2), Event::SeemsAlive { node: NodeId(99) });
    }
    world.form();
}
